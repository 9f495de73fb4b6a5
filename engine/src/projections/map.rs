//! Map: values by key and version. A version is the offset of the change that made it.
//!
//! ```text
//! operation  1 put        guard, key, value
//!            2 delete     guard, key
//! guard      0 for none, otherwise the version plus one
//! demand     1 version    version, key
//! outcome    version before, 0 if the key was not there
//! refusal    1 version    expected, found
//! row        key*, !offset 8                     value
//! ```
//! Numbers and byte strings as in `codec`, `key*` as in `keys`. `!offset` is the offset's complement,
//! big-endian: the newest version of a key comes first.

use bytes::Bytes;
use palisade_replication::Offset;

use crate::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::error::Error;
use crate::keys;
use crate::page::Page;
use crate::projection::{Applied, At, Projection, ProjectionFault, Rows, RowsRead};
use crate::store::{Direction, Walk};
use crate::stored::Stored;

/// Offset of the last change of a key, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(crate) Offset);

impl Version {
    /// The key is not there.
    pub const ABSENT: Self = Self(Offset::ZERO);

    /// The offset at which the key was last changed.
    #[must_use]
    pub const fn offset(self) -> Offset {
        self.0
    }

    fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.0.get());
    }

    fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self(Offset::new(reader.number("version")?)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::ABSENT => f.write_str("absent"),
            Self(offset) => offset.fmt(f),
        }
    }
}

/// What can be done to a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MapOp {
    Put { guard: Option<Version>, key: Bytes, value: Bytes },
    Delete { guard: Option<Version>, key: Bytes },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

fn put_guard(out: &mut Vec<u8>, guard: Option<Version>) {
    put_number(out, guard.map_or(0, |version| version.0.get() + 1));
}

fn take_guard(reader: &mut Reader) -> Result<Option<Version>, DecodeError> {
    Ok(reader.number("guard")?.checked_sub(1).map(|raw| Version(Offset::new(raw))))
}

impl Stored for MapOp {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Put { guard, key, value } => {
                out.push(PUT);
                put_guard(&mut out, *guard);
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
            }
            Self::Delete { guard, key } => {
                out.push(DELETE);
                put_guard(&mut out, *guard);
                put_bytes(&mut out, key);
            }
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let kind = reader.byte("map operation")?;
        let guard = take_guard(&mut reader)?;
        let key = reader.bytes(KEY_BYTES_MAX, "key")?;
        let op = match kind {
            PUT => Self::Put { guard, key, value: reader.bytes(VALUE_BYTES_MAX, "value")? },
            DELETE => Self::Delete { guard, key },
            _ => return Err(DecodeError { what: "map operation" }),
        };
        reader.end("map operation")?;
        Ok(op)
    }
}

/// What a batch can demand of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MapGuard {
    /// The key stands at this version.
    VersionIs { key: Bytes, version: Version },
}

const VERSION_IS: u8 = 1;

impl Stored for MapGuard {
    fn to_bytes(&self) -> Bytes {
        let Self::VersionIs { key, version } = self;
        let mut out = vec![VERSION_IS];
        version.put(&mut out);
        put_bytes(&mut out, key);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("map guard")? != VERSION_IS {
            return Err(DecodeError { what: "map guard" });
        }
        let version = Version::take(&mut reader)?;
        let key = reader.bytes(KEY_BYTES_MAX, "key")?;
        reader.end("map guard")?;
        Ok(Self::VersionIs { key, version })
    }
}

/// What a change of a map says: the version that the key was at before.
impl Stored for Version {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(8);
        self.put(&mut out);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let version = Self::take(&mut reader)?;
        reader.end("version")?;
        Ok(version)
    }
}

/// Why a change of a map cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapRefusal {
    VersionMismatch { expected: Version, found: Version },
}

const VERSION_MISMATCH: u8 = 1;

impl Stored for MapRefusal {
    fn to_bytes(&self) -> Bytes {
        let Self::VersionMismatch { expected, found } = self;
        let mut out = vec![VERSION_MISMATCH];
        expected.put(&mut out);
        found.put(&mut out);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("map refusal")? != VERSION_MISMATCH {
            return Err(DecodeError { what: "map refusal" });
        }
        let (expected, found) = (Version::take(&mut reader)?, Version::take(&mut reader)?);
        reader.end("map refusal")?;
        Ok(Self::VersionMismatch { expected, found })
    }
}

impl From<MapRefusal> for Error {
    fn from(refusal: MapRefusal) -> Self {
        let MapRefusal::VersionMismatch { expected, found } = refusal;
        Self::VersionMismatch { expected, found }
    }
}

pub(crate) const NAME: &str = "map";

/// The projection.
pub(crate) struct Map;

impl Projection for Map {
    const NAME: &'static str = NAME;
    const VERSION: u32 = 1;
    type Op = MapOp;
    type Outcome = Version;
    type Refusal = MapRefusal;
    type Guard = MapGuard;

    fn apply(
        &self,
        at: At,
        op: MapOp,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<Version, MapRefusal>, ProjectionFault> {
        let (guard, key, value) = match op {
            MapOp::Put { guard, key, value } => (guard, key, Some(value)),
            MapOp::Delete { guard, key } => (guard, key, None),
        };
        let newest = newest(&rows.read(), &key)?;
        let found = newest.as_ref().map_or(Version::ABSENT, |(_, version)| *version);
        if let Some(expected) = guard
            && expected != found
        {
            return Ok(Applied::Refused(MapRefusal::VersionMismatch { expected, found }));
        }
        if newest.is_some() {
            // Only the newest version of each key is kept.
            rows.remove(&version_row(&key, found));
        }
        if let Some(value) = value {
            rows.put(&version_row(&key, Version(at.offset)), value)?;
        }
        Ok(Applied::Done(found))
    }

    fn holds(&self, guard: &MapGuard, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        let MapGuard::VersionIs { key, version } = guard;
        let found = newest(rows, key)?.map_or(Version::ABSENT, |(_, version)| version);
        Ok(found == *version)
    }
}

/// All versions of a key begin with this.
fn key_row(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 16);
    keys::escape(&mut row, key);
    row
}

/// Where the keys that are not below this one begin.
fn bound_row(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 16);
    keys::escape_bytes(&mut row, key);
    row
}

fn version_row(key: &[u8], version: Version) -> Vec<u8> {
    let mut row = key_row(key);
    row.extend_from_slice(&(!version.0.get()).to_be_bytes());
    row
}

fn split_row(row: &[u8]) -> Result<(Vec<u8>, Version), ProjectionFault> {
    let split = row.split_last_chunk::<8>().and_then(|(key, version)| {
        let version = Version(Offset::new(!u64::from_be_bytes(*version)));
        Some((keys::unescape(key)?, version))
    });
    split.ok_or_else(|| ProjectionFault::new("malformed map key"))
}

/// The newest value of a key, and its version.
pub(crate) fn newest(
    rows: &RowsRead<'_>,
    key: &[u8],
) -> Result<Option<(Bytes, Version)>, ProjectionFault> {
    let from = key_row(key);
    let found = rows.first(&from, Some(&keys::after(&from)))?;
    found.map(|(row, value)| Ok((value, split_row(&row)?.1))).transpose()
}

/// A row of a map as it is stored: key, value, version.
pub(crate) type MapRow = (Vec<u8>, Bytes, Version);

/// The newest versions of the keys from `from` up to before `end`, at most `limit` of them and what
/// a page holds.
pub(crate) fn range(
    rows: &RowsRead<'_>,
    from: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Result<Page<MapRow, Vec<u8>>, ProjectionFault> {
    let end = end.map(bound_row);
    let mut page: Page<MapRow, _> = Page::new(limit);
    let mut malformed = Ok(());
    rows.walk(&bound_row(from), end.as_deref(), Direction::Forward, &mut |row, value| {
        match split_row(row) {
            // Versions of one key follow each other, the newest first.
            Ok((key, _)) if page.rows.last().is_some_and(|(last, ..)| *last == key) => {
                return Walk::Seek(keys::after(&key_row(&key)));
            }
            Ok((key, version)) if page.has_room(key.len() + value.len()) => {
                let bytes = key.len() + value.len();
                page.push((key, Bytes::copy_from_slice(value), version), bytes);
                return Walk::Next;
            }
            Ok((key, _)) => page.next = Some(key),
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
    use crate::page::SCAN_BYTES_MAX;
    use crate::resource::ResourceId;
    use crate::store::{FamilyId, MemoryStore, StateStore, WriteSet};

    const GROUP: GroupId = GroupId::new(1);
    const MAP: ResourceId = ResourceId(1);

    fn version(offset: u64) -> Version {
        Version(Offset::new(offset))
    }

    fn stored(values: &[(&str, u64, &[u8])]) -> MemoryStore {
        let store = MemoryStore::default();
        let row = |(key, offset, value): &(&str, u64, &[u8])| {
            let row = version_row(key.as_bytes(), version(*offset));
            let row = [&keys::of_resource(GROUP, MAP)[..], &row].concat();
            (FamilyId::MAP, row, Some(Bytes::copy_from_slice(value)))
        };
        store.commit(WriteSet::rows(values.iter().map(row).collect())).unwrap();
        store
    }

    /// Whatever is kept of the past, a read gives one row for each key: the newest.
    #[test]
    fn the_newest_of_several_versions_is_read() {
        let store = stored(&[("a", 3, b"old"), ("a", 5, b"new"), ("b", 4, b"only")]);
        let rows = RowsRead::new(&store, FamilyId::MAP, GROUP, MAP);
        let page = range(&rows, b"", None, 10).unwrap();
        assert_eq!(page.next, None);
        let expected = [
            (b"a".to_vec(), Bytes::from("new"), version(5)),
            (b"b".to_vec(), Bytes::from("only"), version(4)),
        ];
        assert_eq!(page.rows, expected);
        assert_eq!(newest(&rows, b"a").unwrap(), Some((Bytes::from("new"), version(5))));
    }

    /// G12: a page ends at its bounds, and says where to go on.
    #[test]
    fn a_page_is_bounded_by_rows_and_by_bytes() {
        // A key of one byte belongs to each.
        let (half, whole) = (vec![0; SCAN_BYTES_MAX / 2 - 1], vec![0; SCAN_BYTES_MAX]);
        let store = stored(&[
            ("a", 2, &half),
            ("a", 1, b"1234567"),
            ("b", 3, &half),
            ("c", 4, &whole),
            ("d", 5, b""),
        ]);
        let rows = RowsRead::new(&store, FamilyId::MAP, GROUP, MAP);
        let text = |key: Vec<u8>| String::from_utf8(key).unwrap();
        let page = |from: &str, end: Option<&str>, limit| {
            let found = range(&rows, from.as_bytes(), end.map(str::as_bytes), limit).unwrap();
            let keys: Vec<String> = found.rows.into_iter().map(|(key, ..)| text(key)).collect();
            (keys.concat(), found.next.map(text))
        };
        let next = |key: &str| Some(key.to_owned());
        assert_eq!(page("", None, 9), ("ab".into(), next("c")), "all that it holds");
        assert_eq!(page("b", None, 9), ("b".into(), next("c")));
        assert_eq!(page("c", None, 9), ("c".into(), next("d")), "one, whatever its size");
        assert_eq!(page("d", None, 9), ("d".into(), None));
        assert_eq!(page("", Some("c"), 9), ("ab".into(), None), "its range is at its end");
        assert_eq!(page("", None, 1), ("a".into(), next("b")), "not an older version");
        assert_eq!(page("", None, 0), (String::new(), next("a")));
        assert_eq!(page("e", None, 9), (String::new(), None));
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    fn op() -> impl Strategy<Value = MapOp> {
        let guard = || proptest::option::of((0..u64::MAX).prop_map(version));
        prop_oneof![
            (guard(), key(), key()).prop_map(|(guard, key, value)| MapOp::Put {
                guard,
                key: key.into(),
                value: value.into()
            }),
            (guard(), key()).prop_map(|(guard, key)| MapOp::Delete { guard, key: key.into() }),
        ]
    }

    proptest! {
        #[test]
        fn rows_keep_the_order_of_keys_newest_first(a in key(), b in key(), x: u64, y: u64) {
            let order = version_row(&a, version(x)).cmp(&version_row(&b, version(y)));
            prop_assert_eq!(order, a.cmp(&b).then(y.cmp(&x)));
            let split = split_row(&version_row(&a, version(x))).unwrap();
            prop_assert_eq!(split, (a, version(x)));
        }

        #[test]
        fn encodings_have_one_form(op in op(), x: u64, y: u64, raw in vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(MapOp::from_bytes(&op.to_bytes()), Ok(op));
            let refusal = MapRefusal::VersionMismatch { expected: version(x), found: version(y) };
            prop_assert_eq!(MapRefusal::from_bytes(&refusal.to_bytes()), Ok(refusal));
            let guard = MapGuard::VersionIs { key: raw.clone().into(), version: version(x) };
            prop_assert_eq!(MapGuard::from_bytes(&guard.to_bytes()), Ok(guard));
            prop_assert_eq!(Version::from_bytes(&version(x).to_bytes()), Ok(version(x)));
            let _ = split_row(&raw);
        }

        /// E8: what is read is written the same again.
        #[test]
        fn what_is_read_has_one_form(op in op(), at: usize, byte: u8) {
            let mut raw = op.to_bytes().to_vec();
            let at = at % raw.len();
            raw[at] = byte;
            let raw = Bytes::from(raw);
            if let Ok(op) = MapOp::from_bytes(&raw) {
                prop_assert_eq!(op.to_bytes(), raw.clone());
            }
            if let Ok(guard) = MapGuard::from_bytes(&raw) {
                prop_assert_eq!(guard.to_bytes(), raw.clone());
            }
            if let Ok(refusal) = MapRefusal::from_bytes(&raw) {
                prop_assert_eq!(refusal.to_bytes(), raw);
            }
        }
    }
}
