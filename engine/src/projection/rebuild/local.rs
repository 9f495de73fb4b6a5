//! How far this replica is. Other replicas may be elsewhere, so these rows are no part of the state: neither
//! digests nor snapshots have them.
//!
//! ```text
//! rebuild  's' name              the second family of the projection is served, and not its first
//! rebuild  'b' name              offset of the rebuild's beginning; how far it is: 1 the rows of one moment
//!                                are there, 2 all that was done since as well, 3 and why not
//! rebuild  'q' name 0 offset 8 index 2
//!                                what is to be done later: log time; resource; 1 and an operation, 2 for what
//!                                time asks for, or 3 for its removal
//! ```
//! Keys begin with the group. Numbers as in `codec`, those in keys big-endian.

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, Offset};

use super::state::RebuildFailure;
use crate::codec::{DecodeError, Reader, put_number};
use crate::keys;
use crate::resource::ResourceId;
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};

fn key(group: GroupId, tag: u8, name: &str, rest: &[u8]) -> Vec<u8> {
    [&group.get().to_be_bytes()[..], &[tag], name.as_bytes(), rest].concat()
}

/// Says that the second family is served.
pub(super) fn moved(group: GroupId, name: &str) -> Vec<u8> {
    key(group, b's', name, &[])
}

/// Which family has the rows that are served, by the first of the two.
pub(crate) fn held(
    read: &dyn StateRead,
    group: GroupId,
    first: FamilyId,
) -> Result<FamilyId, StoreError> {
    let families = read.families();
    match families.other(first) {
        Some(second) if !families.is_second(first) => {
            let moved = read.get(FamilyId::REBUILD, &moved(group, families.name(first)))?;
            Ok(if moved.is_some() { second } else { first })
        }
        _ => Ok(first),
    }
}

/// The families whose rows are the state of a group: the one that names them, and the one that has them.
pub(crate) fn served(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<Vec<(FamilyId, FamilyId)>, StoreError> {
    let families = read.families();
    // Where a replica stands is its own affair: entries without records move it too.
    let is_state = |family: &FamilyId| {
        let is_group = keys::of_group(*family, group).is_some();
        is_group && *family != FamilyId::REBUILD && !families.is_second(*family)
    };
    let ids = families.ids().filter(is_state);
    ids.map(|family| Ok((family, held(read, group, family)?))).collect()
}

/// How far this replica is with a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The rows of one moment are there.
    Imported,
    /// All that was done since is done too: each record is now applied to both.
    CaughtUp,
    /// It cannot be finished here.
    Void(RebuildFailure),
}

pub(super) fn progress_key(group: GroupId, name: &str) -> Vec<u8> {
    key(group, b'b', name, &[])
}

impl Progress {
    pub(super) fn encode(&self, begun: Offset) -> Bytes {
        let mut out = Vec::new();
        put_number(&mut out, begun.get());
        match self {
            Self::Imported => out.push(1),
            Self::CaughtUp => out.push(2),
            Self::Void(failure) => {
                out.push(3);
                failure.put(&mut out);
            }
        }
        out.into()
    }

    fn decode(raw: Bytes) -> Result<(Offset, Self), DecodeError> {
        const WHAT: &str = "progress of a rebuild";
        let mut reader = Reader::new(raw);
        let begun = Offset::new(reader.number(WHAT)?);
        let progress = match reader.byte(WHAT)? {
            1 => Self::Imported,
            2 => Self::CaughtUp,
            3 => Self::Void(RebuildFailure::take(&mut reader)?),
            _ => return Err(DecodeError { what: WHAT }),
        };
        reader.end(WHAT)?;
        Ok((begun, progress))
    }

    /// How far the rebuild is that began there, if it has come to anything.
    pub(crate) fn stored(
        read: &dyn StateRead,
        group: GroupId,
        name: &str,
        begun: Offset,
    ) -> Result<Option<Self>, StoreError> {
        let Some(raw) = read.get(FamilyId::REBUILD, &progress_key(group, name))? else {
            return Ok(None);
        };
        let found = Self::decode(raw).map_err(|error| StoreError::new(error.to_string()))?;
        Ok((found.0 == begun).then_some(found.1))
    }
}

/// What is to be done later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// An operation, by its bytes.
    Op(Bytes),
    /// What time asks for.
    Tidy,
    /// The resource is gone.
    Bury,
}

/// Something to be done later, and where it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) offset: Offset,
    /// Its place in the record.
    pub(super) index: u16,
    pub(super) log_time: LogTime,
    pub(super) resource: ResourceId,
    pub(super) deed: Deed,
}

/// All of the queue: from, end.
pub(super) fn queue(group: GroupId, name: &str) -> (Vec<u8>, Vec<u8>) {
    let from = key(group, b'q', name, &[0]);
    let end = keys::after(&from);
    (from, end)
}

impl Queued {
    pub(super) fn key(&self, group: GroupId, name: &str) -> Vec<u8> {
        let rest = [&[0][..], &self.offset.get().to_be_bytes(), &self.index.to_be_bytes()].concat();
        key(group, b'q', name, &rest)
    }

    pub(super) fn value(&self) -> Bytes {
        let mut out = Vec::new();
        put_number(&mut out, self.log_time.get());
        put_number(&mut out, self.resource.0.into());
        match &self.deed {
            Deed::Op(body) => {
                out.push(1);
                out.extend_from_slice(body);
            }
            Deed::Tidy => out.push(2),
            Deed::Bury => out.push(3),
        }
        out.into()
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "queue of a rebuild";
        let malformed = DecodeError { what: WHAT };
        let place: [u8; 10] = *key.last_chunk().ok_or(malformed)?;
        let (offset, index) = place.split_at(8);
        let mut reader = Reader::new(Bytes::copy_from_slice(value));
        let log_time = LogTime::new(reader.number(WHAT)?);
        let resource = u32::try_from(reader.number(WHAT)?).map_err(|_| malformed)?;
        let tag = reader.byte(WHAT)?;
        let body = reader.rest();
        let deed = match tag {
            1 => Deed::Op(body),
            2 if body.is_empty() => Deed::Tidy,
            3 if body.is_empty() => Deed::Bury,
            _ => return Err(malformed),
        };
        Ok(Self {
            offset: Offset::new(u64::from_be_bytes(offset.try_into().map_err(|_| malformed)?)),
            index: u16::from_be_bytes(index.try_into().map_err(|_| malformed)?),
            log_time,
            resource: ResourceId(resource),
            deed,
        })
    }

    /// The next that are in the queue after an operation or a record.
    pub(super) fn after(
        read: &dyn StateRead,
        group: GroupId,
        name: &str,
        (offset, index): (Offset, u16),
        most: usize,
    ) -> Result<Vec<Self>, StoreError> {
        let (_, end) = queue(group, name);
        let rest = [&[0][..], &offset.get().to_be_bytes(), &index.to_be_bytes(), &[0]].concat();
        let from = key(group, b'q', name, &rest);
        let (mut found, mut broken) = (Vec::new(), Ok(()));
        read.walk(FamilyId::REBUILD, &from, &end, Direction::Forward, &mut |key, value| {
            match Self::decode(key, value) {
                Ok(queued) => found.push(queued),
                Err(error) => broken = Err(StoreError::new(error.to_string())),
            }
            if broken.is_ok() && found.len() < most { Walk::Next } else { Walk::Stop }
        })?;
        broken.map(|()| found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Families, MemoryStore, StateStore, WriteSet};

    const GROUP: GroupId = GroupId::new(1);

    #[test]
    fn a_queue_is_read_in_the_order_of_the_log() {
        let store = MemoryStore::new(Families::new(&["a", "ab"]).unwrap());
        let queued = |offset, index, deed| Queued {
            offset: Offset::new(offset),
            index,
            log_time: LogTime::new(7),
            resource: ResourceId(3),
            deed,
        };
        let all = [
            queued(1, 0, Deed::Op(Bytes::from_static(b"op"))),
            queued(1, 1, Deed::Op(Bytes::new())),
            queued(256, 0, Deed::Tidy),
            queued(257, 9, Deed::Bury),
        ];
        let row = |name: &'static str| {
            move |each: &Queued| (FamilyId::REBUILD, each.key(GROUP, name), Some(each.value()))
        };
        let rows = all.iter().rev().map(row("a")).chain(all[..1].iter().map(row("ab")));
        store.commit(WriteSet::rows(rows.collect())).unwrap();
        let after = |offset, index, most| {
            Queued::after(&store, GROUP, "a", (Offset::new(offset), index), most).unwrap()
        };
        assert_eq!(after(0, u16::MAX, 9), all);
        assert_eq!(after(0, u16::MAX, 2), all[..2]);
        assert_eq!(after(1, 0, 9), all[1..]);
        assert_eq!(after(1, u16::MAX, 9), all[2..]);
        assert_eq!(after(257, 9, 9), []);
    }

    #[test]
    fn a_rebuild_that_began_elsewhere_has_come_to_nothing() {
        let store = MemoryStore::new(Families::new(&["a"]).unwrap());
        let failure = RebuildFailure::QueueFull { bytes_max: 300 };
        for progress in [Progress::Imported, Progress::CaughtUp, Progress::Void(failure)] {
            let raw = Some(progress.encode(Offset::new(300)));
            let row = (FamilyId::REBUILD, progress_key(GROUP, "a"), raw);
            store.commit(WriteSet::rows(vec![row])).unwrap();
            let stored = |begun| Progress::stored(&store, GROUP, "a", Offset::new(begun)).unwrap();
            assert_eq!(stored(300), Some(progress));
            assert_eq!(stored(299), None);
        }
    }
}
