//! Places in a log.

use std::fmt;

use bytes::Bytes;
use palisade_replication::Offset;

use crate::codec::{DecodeError, Reader, put_number};
use crate::projection::ProjectionFault;
use crate::stored::Stored;

/// The rows of entries begin with this.
pub(super) const ENTRY: u8 = b'e';
/// What is above every row of an entry.
pub(super) const ENTRIES_END: &[u8] = &[ENTRY + 1];

/// A place in a log: a record, and which of the entries that it adds to this log. It stands for the entry
/// there, and for the place right before it. Places rise, with gaps where records of other resources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition {
    /// The record.
    pub offset: Offset,
    /// Which of the record's entries, from 0.
    pub index: u16,
}

impl LogPosition {
    /// Before every entry.
    pub const START: Self = Self { offset: Offset::ZERO, index: 0 };
    /// After every entry: where a scan backward begins.
    pub const END: Self = Self { offset: Offset::new(u64::MAX), index: u16::MAX };

    /// The place right after the entry at this one.
    ///
    /// # Panics
    /// For [`LogPosition::END`], which nothing is after.
    #[must_use]
    pub fn after(self) -> Self {
        match self.index.checked_add(1) {
            Some(index) => Self { index, ..self },
            None => self.offset.next().into(),
        }
    }

    pub(super) fn row(self) -> Vec<u8> {
        let mut key = vec![ENTRY];
        key.extend_from_slice(&self.offset.get().to_be_bytes());
        key.extend_from_slice(&self.index.to_be_bytes());
        key
    }

    pub(super) fn of_row(key: &[u8]) -> Result<Self, ProjectionFault> {
        let split = key.strip_prefix(&[ENTRY]).and_then(|key| key.split_first_chunk::<8>());
        let parsed = split.and_then(|(offset, index)| {
            let offset = Offset::new(u64::from_be_bytes(*offset));
            Some(Self { offset, index: u16::from_be_bytes(index.try_into().ok()?) })
        });
        parsed.ok_or_else(|| ProjectionFault::new("malformed log key"))
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.offset.get());
        put_number(out, self.index.into());
    }

    pub(super) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let offset = Offset::new(reader.number("offset")?);
        let index = u16::try_from(reader.number("index")?);
        Ok(Self { offset, index: index.map_err(|_| DecodeError { what: "index" })? })
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
        self.put(&mut out);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let position = Self::take(&mut reader)?;
        reader.end("log position")?;
        Ok(position)
    }
}
