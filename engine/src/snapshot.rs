//! One group's state as a run of chunks, for replicas that the log can help no more.
//!
//! ```text
//! chunk   version 1, then of one sort or the other:
//!           'f', length 1, name                         the rows that follow are of this family
//!           'r', key length 4, value length 4, key, value
//!           's', length 4, sums                         what all of it comes to: `comparing/folds.rs`
//! ```
//! Little-endian. Rows come in the order of families and keys, then what the sender has always taken them to
//! come to, the position last: whoever has it has all of the state. Rows that come to something else rotted
//! where they come from: they are refused. While a state is being replaced it has no position, and is not served.
//!
//! Families are named, because their numbers are only those of a store that is open: its replicas
//! may know others. A state with a family that is not known here is refused.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_replication::{
    AppliedPosition, ApplyError, CHUNK_BYTES_TARGET, Export, GroupId, TakeChunk,
};

use crate::codec::Reader;
use crate::comparing::latch::{self, Latch};
use crate::comparing::{StateSums, spans};
use crate::keys;
use crate::machine::read_position;
use crate::projection::rebuild::served;
use crate::store::{Direction, Families, FamilyId, StateRead, StateStore, Walk, WriteSet};

/// 1 had numbers for families, 2 no sums.
const VERSION: u8 = 3;
const FAMILY_TAG: u8 = b'f';
const ROW_TAG: u8 = b'r';
const SUMS_TAG: u8 = b's';
const ROW_LENGTHS_BYTES: usize = 4 + 4;

/// Writes out a group's state as it stands when it is run.
pub(crate) struct StateExport {
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) group: GroupId,
}

impl Export for StateExport {
    fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
        export(&*self.store.snapshot(), self.group, take)
    }
}

fn export(
    read: &dyn StateRead,
    group: GroupId,
    take: &mut TakeChunk<'_>,
) -> Result<(), ApplyError> {
    let (position, _) = read_position(read, group)?;
    let mut chunk = Chunk::new(read.families());
    for (family, held) in served(read, group)? {
        if let Some((from, end)) = keys::of_group(family, group) {
            let mut taken = Ok(());
            read.walk(held, &from, &end, Direction::Forward, &mut |key, value| {
                chunk.put(family, key, value);
                if chunk.is_full() {
                    taken = take(position, chunk.close());
                }
                if taken.is_ok() { Walk::Next } else { Walk::Stop }
            })?;
            taken?;
        }
    }
    chunk.put_sums(&StateSums::of(read, group)?);
    let key = keys::position(group);
    if let Some(value) = read.get(FamilyId::META, &key)? {
        chunk.put(FamilyId::META, &key, &value);
    }
    take(position, chunk.close())
}

struct Chunk<'a> {
    families: &'a Families,
    raw: BytesMut,
    /// The family of the last row.
    family: Option<FamilyId>,
}

impl<'a> Chunk<'a> {
    fn new(families: &'a Families) -> Self {
        let mut raw = BytesMut::new();
        raw.put_u8(VERSION);
        Self { families, raw, family: None }
    }

    fn put(&mut self, family: FamilyId, key: &[u8], value: &[u8]) {
        if self.family != Some(family) {
            let name = self.families.name(family).as_bytes();
            self.raw.put_u8(FAMILY_TAG);
            self.raw.put_u8(name.len() as u8);
            self.raw.put_slice(name);
            self.family = Some(family);
        }
        self.raw.put_u8(ROW_TAG);
        self.raw.put_u32_le(key.len() as u32);
        self.raw.put_u32_le(value.len() as u32);
        self.raw.put_slice(key);
        self.raw.put_slice(value);
    }

    fn put_sums(&mut self, sums: &StateSums) {
        let mut raw = Vec::new();
        sums.put(&mut raw);
        self.raw.put_u8(SUMS_TAG);
        self.raw.put_u32_le(raw.len() as u32);
        self.raw.put_slice(&raw);
    }

    fn is_full(&self) -> bool {
        self.raw.len() >= CHUNK_BYTES_TARGET
    }

    fn close(&mut self) -> Bytes {
        std::mem::replace(self, Self::new(self.families)).raw.freeze()
    }
}

/// Puts an exported state in place of a group's. A crash inside leaves the group without a position.
pub(crate) fn install(
    store: &dyn StateStore,
    group: GroupId,
    position: AppliedPosition,
    chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
) -> Result<(), ApplyError> {
    let mark = keys::position(group);
    // What this replica came to before is of another state.
    let own =
        vec![(FamilyId::META, mark.clone(), None), (FamilyId::META, keys::own_sums(group), None)];
    let mut gone = WriteSet::rows(own);
    let (from, end) = keys::spans(group);
    gone.cleared.push((FamilyId::SPANS, from, end));
    for family in store.families().ids() {
        let range = keys::of_group(family, group);
        gone.cleared.extend(range.map(|(from, end)| (family, from, end)));
    }
    store.commit(gone)?;
    let (mut last, mut sums) = (None, None);
    for chunk in chunks {
        let end = put_chunk(store, group, chunk?)?;
        (last, sums) = (end.position.or(last), end.sums.or(sums));
    }
    let last = last.ok_or_else(|| broken("it has no position"))?;
    if sums != Some(StateSums::of(store, group)?) {
        return Err(ApplyError::of_group(
            "a snapshot has other rows than its sender took them for: the sender's state is damaged",
        ));
    }
    let mut writes = vec![(FamilyId::META, mark, Some(last))];
    if Latch::load(store, group)?.is_some_and(|latch| latch.ends_at(position.offset)) {
        writes.push(latch::removal(group));
    }
    store.commit(WriteSet::rows(writes))?;
    let (found, _) = read_position(store, group)?;
    if found != position {
        return Err(broken("it stands somewhere else than it says"));
    }
    Ok(store.flush()?)
}

/// What the last chunk has beside rows.
#[derive(Default)]
pub(crate) struct End {
    /// The row that says where the state stands.
    pub(crate) position: Option<Bytes>,
    /// What the sender takes the rows for.
    pub(crate) sums: Option<StateSums>,
}

/// Commits the rows of a chunk, and returns what else it has.
pub(crate) fn put_chunk(
    store: &dyn StateStore,
    group: GroupId,
    chunk: Bytes,
) -> Result<End, ApplyError> {
    let mark = keys::position(group);
    let (mut position, mut writes) = (None, Vec::new());
    let (rows, sums) = rows(store.families(), chunk)?;
    for (family, key, value) in rows {
        let range = keys::of_group(family, group);
        if family == FamilyId::META && key == mark {
            position = Some(value);
        } else if family != FamilyId::REBUILD
            && range.is_some_and(|(from, end)| from <= key && key < end)
        {
            writes.push((family, key, Some(value)));
        } else {
            return Err(broken("a row is not of this group"));
        }
    }
    spans::commit(store, group, WriteSet::rows(writes))?;
    Ok(End { position, sums })
}

type Row = (FamilyId, Vec<u8>, Bytes);

fn rows(families: &Families, chunk: Bytes) -> Result<(Vec<Row>, Option<StateSums>), ApplyError> {
    let (mut rows, mut family, mut sums) = (Vec::new(), None, None);
    read_chunk(chunk, |part| {
        match part {
            Part::Family(name) => {
                let known = families.find(&name).ok_or_else(|| {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    broken(&format!("it has rows of projection={name}, which is not registered"))
                });
                family = Some(known?);
            }
            Part::Row(key, value) => {
                let family = family.ok_or_else(|| broken("a row is of no family"))?;
                rows.push((family, key.to_vec(), value));
            }
            Part::Sums(raw) => {
                let mut reader = Reader::new(raw);
                let read = StateSums::take(&mut reader).and_then(|sums| {
                    reader.end("sums of a state")?;
                    Ok(sums)
                });
                sums = Some(read.map_err(|error| broken(&error.to_string()))?);
            }
        }
        Ok(())
    })?;
    Ok((rows, sums))
}

/// What a chunk is made of.
pub(crate) enum Part {
    /// The rows that follow are of the family with this name.
    Family(Bytes),
    /// Key and value.
    Row(Bytes, Bytes),
    /// What the rows come to, as the sender has it.
    Sums(Bytes),
}

/// Takes a chunk apart.
pub(crate) fn read_chunk(
    mut chunk: Bytes,
    mut each: impl FnMut(Part) -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    let short = || broken("a chunk ends early");
    let version = chunk.try_get_u8().map_err(|_| short())?;
    if version != VERSION {
        return Err(broken(&format!("a chunk has version={version}, known={VERSION}")));
    }
    while chunk.has_remaining() {
        match chunk.get_u8() {
            FAMILY_TAG => {
                let length = usize::from(chunk.try_get_u8().map_err(|_| short())?);
                if chunk.remaining() < length {
                    return Err(short());
                }
                each(Part::Family(chunk.split_to(length)))?;
            }
            ROW_TAG => {
                if chunk.remaining() < ROW_LENGTHS_BYTES {
                    return Err(short());
                }
                let (key, value) = (chunk.get_u32_le() as usize, chunk.get_u32_le() as usize);
                if key.checked_add(value).is_none_or(|both| chunk.remaining() < both) {
                    return Err(short());
                }
                let key = chunk.split_to(key);
                each(Part::Row(key, chunk.split_to(value)))?;
            }
            SUMS_TAG => {
                let length = chunk.try_get_u32_le().map_err(|_| short())? as usize;
                if chunk.remaining() < length {
                    return Err(short());
                }
                each(Part::Sums(chunk.split_to(length)))?;
            }
            tag => return Err(broken(&format!("a chunk has an unknown tag={tag}"))),
        }
    }
    Ok(())
}

fn broken(what: &str) -> ApplyError {
    ApplyError::of_node(format!("a snapshot is not what it should be: {what}"))
}

#[cfg(all(test, feature = "sim"))]
mod crashes;

#[cfg(test)]
mod tests {
    use palisade_replication::Offset;
    use proptest::prelude::*;

    use super::*;
    use crate::chain::ChainHead;
    use crate::machine::encode_position;
    use crate::store::MemoryStore;

    const GROUP: GroupId = GroupId::new(1);

    fn store(projections: &[&'static str]) -> MemoryStore {
        MemoryStore::new(Families::new(projections).unwrap())
    }

    fn exported(store: &MemoryStore) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        let mut take = |_, chunk| {
            chunks.push(chunk);
            Ok(())
        };
        export(store, GROUP, &mut take).unwrap();
        chunks
    }

    fn put(store: &MemoryStore, family: &str, key: &[u8], value: &'static str) {
        let family = store.families().find(family.as_bytes()).unwrap();
        let row = (family, key.to_vec(), Some(Bytes::from(value)));
        spans::commit(store, GROUP, WriteSet::rows(vec![row])).unwrap();
    }

    fn key(last: u8) -> Vec<u8> {
        [&GROUP.get().to_be_bytes()[..], &[last]].concat()
    }

    /// Format 3, byte by byte. A change that is meant gets another version.
    #[test]
    fn a_chunk_names_its_families() {
        let store = store(&["stock"]);
        put(&store, "stock", &key(8), "s");
        put(&store, "log", &key(7), "l");
        put(&store, "stock", &key(9), "");
        let wanted = [
            &b"\x03f\x03log"[..],
            b"r\x09\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x01\x07l",
            b"f\x05stock",
            b"r\x09\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x01\x08s",
            b"r\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x09",
        ];
        let [found] = &exported(&store)[..] else { panic!("it is small") };
        let rows = wanted.concat();
        assert_eq!(found[..rows.len()], rows);
        let mut sums = Vec::new();
        StateSums::of(&store, GROUP).unwrap().put(&mut sums);
        let length = (sums.len() as u32).to_le_bytes();
        assert_eq!(found[rows.len()..], [&b"s"[..], &length, &sums].concat());
    }

    /// The numbers of families differ, their names do not.
    #[test]
    fn a_state_is_taken_by_whoever_knows_its_families() {
        let from = store(&["orders", "stock"]);
        put(&from, "stock", &key(1), "s");
        put(&from, "map", &key(2), "m");
        let position = AppliedPosition { offset: Offset::new(5), ..AppliedPosition::ZERO };
        let row = encode_position(position, ChainHead::ZERO);
        let at = (FamilyId::META, keys::position(GROUP), Some(row));
        from.commit(WriteSet::rows(vec![at])).unwrap();
        let take = |store: &MemoryStore| {
            install(store, GROUP, position, &mut exported(&from).into_iter().map(Ok))
        };

        let to = store(&["stock"]);
        put(&to, "stock", &key(9), "old");
        take(&to).unwrap();
        let stock = to.families().find(b"stock").unwrap();
        assert_eq!(to.get(stock, &key(1)).unwrap().as_deref(), Some(&b"s"[..]));
        assert_eq!(to.get(stock, &key(9)).unwrap(), None);
        assert_eq!(to.get(FamilyId::MAP, &key(2)).unwrap().as_deref(), Some(&b"m"[..]));

        let stranger = store(&["orders"]);
        let refused = take(&stranger).unwrap_err().to_string();
        assert!(refused.contains("projection=stock, which is not registered"), "{refused}");
        let (found, _) = read_position(&stranger, GROUP).unwrap();
        assert_eq!(found, AppliedPosition::ZERO, "it stands nowhere");
    }

    /// A chunk is read by itself: each says anew whose rows it has.
    #[test]
    fn a_large_state_comes_in_several_chunks() {
        let from = store(&["stock"]);
        let position = AppliedPosition { offset: Offset::new(5), ..AppliedPosition::ZERO };
        let row = encode_position(position, ChainHead::ZERO);
        let mut writes = vec![(FamilyId::META, keys::position(GROUP), Some(row))];
        let stock = from.families().find(b"stock").unwrap();
        let value = |n| Bytes::from(vec![n; CHUNK_BYTES_TARGET / 3]);
        writes.extend((0..10).map(|n| (stock, key(n), Some(value(n)))));
        spans::commit(&from, GROUP, WriteSet::rows(writes)).unwrap();
        let chunks = exported(&from);
        assert_eq!(chunks.len(), 4);
        let to = store(&["stock"]);
        install(&to, GROUP, position, &mut chunks.into_iter().map(Ok)).unwrap();
        assert!((0..10).all(|n| to.get(stock, &key(n)).unwrap() == Some(value(n))));
    }

    #[test]
    fn what_is_no_chunk_of_this_version_is_refused() {
        let families = Families::new(&[]).unwrap();
        let refused =
            |raw: &[u8]| rows(&families, Bytes::copy_from_slice(raw)).unwrap_err().to_string();
        assert!(refused(b"").contains("ends early"));
        assert!(refused(b"\x01\x02").contains("version=1, known=3"));
        let row = b"\x03r\x01\0\0\0\0\0\0\0k";
        assert!(refused(row).contains("of no family"));
        assert!(refused(&row[..2]).contains("ends early"));
        assert!(refused(b"\x03f\x03lo").contains("ends early"));
        assert!(refused(b"\x03x").contains("unknown tag=120"));
        assert!(refused(b"\x03f\x03logr\x01\0\0\0").contains("ends early"));
        assert!(refused(b"\x03f\x03logr\x01\0\0\0\x01\0\0\0k").contains("ends early"));
        assert!(refused(b"\x03s\x01\0\0").contains("ends early"));
        assert!(refused(b"\x03s\x01\0\0\0").contains("ends early"));
        assert!(refused(b"\x03s\x01\0\0\0\0").contains("malformed"));
    }

    /// A row that rotted at the sender is given to nobody.
    #[test]
    fn rows_that_do_not_come_to_their_sums_are_refused() {
        let from = store(&[]);
        put(&from, "map", &key(1), "v");
        let position = AppliedPosition { offset: Offset::new(5), ..AppliedPosition::ZERO };
        let at = |value: &'static str| {
            let row = encode_position(position, ChainHead::ZERO);
            let rotten = (FamilyId::MAP, key(1), Some(Bytes::from(value)));
            vec![(FamilyId::META, keys::position(GROUP), Some(row)), rotten]
        };
        from.commit(WriteSet::rows(at("w"))).unwrap();
        let to = store(&[]);
        let take = || install(&to, GROUP, position, &mut exported(&from).into_iter().map(Ok));
        let refused = take().unwrap_err();
        assert!(refused.to_string().contains("the sender's state is damaged"), "{refused}");
        assert_eq!(read_position(&to, GROUP).unwrap().0, AppliedPosition::ZERO);
        from.commit(WriteSet::rows(at("v"))).unwrap();
        take().unwrap();
    }

    proptest! {
        #[test]
        fn rows_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let families = Families::new(&[]).unwrap();
            let _ = rows(&families, Bytes::from(raw.clone()));
            for start in [&[VERSION][..], b"\x03f\x03log"] {
                let mut versioned = start.to_vec();
                versioned.extend(&raw);
                let _ = rows(&families, Bytes::from(versioned));
            }
        }
    }
}
