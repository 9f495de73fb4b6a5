//! Log: payloads by their place.
//!
//! ```text
//! operation  1 append     payload
//! outcome    the place: offset, index
//! row        offset 8, index 2, big-endian     payload
//! ```
//! Numbers and byte strings as in `codec`.

use std::convert::Infallible;
use std::fmt;

use bytes::Bytes;
use palisade_replication::Offset;

use crate::bounds::VALUE_BYTES_MAX;
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::page::Page;
use crate::projection::{Applied, At, Projection, ProjectionFault, Rows, RowsRead};
use crate::store::{Direction, Walk};
use crate::stored::Stored;

/// A place in a log: a record, and which of its operations. Places rise, with gaps where records of
/// other resources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition {
    /// The record.
    pub offset: Offset,
    /// Which of the record's operations, from 0.
    pub index: u16,
}

impl LogPosition {
    /// Before every entry.
    pub const START: Self = Self { offset: Offset::ZERO, index: 0 };

    fn row(self) -> Vec<u8> {
        let mut key = self.offset.get().to_be_bytes().to_vec();
        key.extend_from_slice(&self.index.to_be_bytes());
        key
    }

    fn of_row(key: &[u8]) -> Result<Self, ProjectionFault> {
        let split = key.split_first_chunk::<8>();
        let parsed = split.and_then(|(offset, index)| {
            let offset = Offset::new(u64::from_be_bytes(*offset));
            Some(Self { offset, index: u16::from_be_bytes(index.try_into().ok()?) })
        });
        parsed.ok_or_else(|| ProjectionFault::new("malformed log key"))
    }
}

/// The first place of a record.
impl From<Offset> for LogPosition {
    fn from(offset: Offset) -> Self {
        Self { offset, index: 0 }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset, self.index)
    }
}

impl Stored for LogPosition {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(12);
        put_number(&mut out, self.offset.get());
        put_number(&mut out, self.index.into());
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let offset = Offset::new(reader.number("offset")?);
        let index = u16::try_from(reader.number("index")?);
        reader.end("log position")?;
        Ok(Self { offset, index: index.map_err(|_| DecodeError { what: "index" })? })
    }
}

/// What can be done to a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogOp {
    Append { payload: Bytes },
}

const APPEND: u8 = 1;

impl Stored for LogOp {
    fn to_bytes(&self) -> Bytes {
        let Self::Append { payload } = self;
        let mut out = vec![APPEND];
        put_bytes(&mut out, payload);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let op = match reader.byte("log operation")? {
            APPEND => Self::Append { payload: reader.bytes(VALUE_BYTES_MAX, "payload")? },
            _ => return Err(DecodeError { what: "log operation" }),
        };
        reader.end("log operation")?;
        Ok(op)
    }
}

pub(crate) const NAME: &str = "log";

/// The projection.
pub(crate) struct Log;

impl Projection for Log {
    const NAME: &'static str = NAME;
    const VERSION: u32 = 1;
    type Op = LogOp;
    type Outcome = LogPosition;
    type Refusal = Infallible;
    type Guard = Infallible;

    fn apply(
        &self,
        at: At,
        op: LogOp,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<LogPosition, Infallible>, ProjectionFault> {
        let LogOp::Append { payload } = op;
        let place = LogPosition { offset: at.offset, index: at.index };
        rows.put(&place.row(), payload)?;
        Ok(Applied::Done(place))
    }
}

/// Payloads by their places, at or after `from`, at most `limit` of them and what a page holds.
pub(crate) fn scan(
    rows: &RowsRead<'_>,
    from: LogPosition,
    limit: usize,
) -> Result<Page<(LogPosition, Bytes), LogPosition>, ProjectionFault> {
    let mut page = Page::new(limit);
    let mut malformed = Ok(());
    rows.walk(&from.row(), None, Direction::Forward, &mut |key, payload| {
        match LogPosition::of_row(key) {
            Ok(place) if page.has_room(payload.len()) => {
                page.push((place, Bytes::copy_from_slice(payload)), payload.len());
                return Walk::Next;
            }
            Ok(place) => page.next = Some(place),
            Err(fault) => malformed = Err(fault),
        }
        Walk::Stop
    })?;
    malformed.map(|()| page)
}

#[cfg(test)]
mod tests {
    use palisade_replication::GroupId;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::keys;
    use crate::page::SCAN_BYTES_MAX;
    use crate::resource::ResourceId;
    use crate::store::{FamilyId, MemoryStore, StateStore, WriteSet};

    const GROUP: GroupId = GroupId::new(1);
    const LOG: ResourceId = ResourceId(1);

    /// G12: a page ends at its bounds, and says where to go on.
    #[test]
    fn a_page_is_bounded_by_entries_and_by_bytes() {
        let store = MemoryStore::default();
        let half = SCAN_BYTES_MAX / 2;
        let lengths = [
            ((2, 0), half),
            ((2, 5), half),
            ((5, 0), 1),
            ((7, 0), SCAN_BYTES_MAX + 1),
            ((9, 0), 0),
        ];
        let place = |(offset, index)| LogPosition { offset: Offset::new(offset), index };
        let row = |(at, length): ((u64, u16), usize)| {
            let key = [&keys::of_resource(GROUP, LOG)[..], &place(at).row()].concat();
            (FamilyId::LOG, key, Some(Bytes::from(vec![0; length])))
        };
        store.commit(WriteSet::rows(lengths.map(row).into())).unwrap();
        let rows = RowsRead::new(&store, FamilyId::LOG, GROUP, LOG);
        let page = |from, limit| {
            let page = scan(&rows, place(from), limit).unwrap();
            let places: Vec<String> = page.rows.iter().map(|(at, _)| at.to_string()).collect();
            (places.join(" "), page.next.map(|at| at.to_string()).unwrap_or_default())
        };
        let found = |places: &str, next: &str| (places.to_owned(), next.to_owned());
        assert_eq!(page((0, 0), 9), found("2.0 2.5", "5.0"), "as much as it holds, and no more");
        assert_eq!(page((2, 1), 9), found("2.5 5.0", "7.0"));
        assert_eq!(page((6, 0), 9), found("7.0", "9.0"), "one is returned whatever its size");
        assert_eq!(page((9, 0), 9), found("9.0", ""));
        assert_eq!(page((9, 0), 1), found("9.0", ""), "there is nothing after it");
        assert_eq!(page((10, 0), 9), found("", ""));
        assert_eq!(page((0, 0), 1), found("2.0", "2.5"));
        assert_eq!(page((0, 0), 0), found("", "2.0"));
    }

    proptest! {
        #[test]
        fn encodings_have_one_form(payload in vec(any::<u8>(), 0..9), offset: u64, index: u16, raw in vec(any::<u8>(), 0..9)) {
            let op = LogOp::Append { payload: payload.into() };
            prop_assert_eq!(LogOp::from_bytes(&op.to_bytes()), Ok(op));
            let place = LogPosition { offset: Offset::new(offset), index };
            prop_assert_eq!(LogPosition::from_bytes(&place.to_bytes()), Ok(place));
            prop_assert_eq!(LogPosition::of_row(&place.row()).unwrap(), place);
            let raw = Bytes::from(raw);
            if let Ok(place) = LogPosition::from_bytes(&raw) {
                prop_assert_eq!(place.to_bytes(), raw.clone());
            }
            if let Ok(op) = LogOp::from_bytes(&raw) {
                prop_assert_eq!(op.to_bytes(), raw);
            }
        }
    }
}
