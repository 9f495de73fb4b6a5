//! One group's state as a run of chunks, for replicas that the log can help no more.
//!
//! ```text
//! chunk   version 1, then rows: family 1, key length 4, value length 4, key, value
//! ```
//! Little-endian. Rows come in the order of families and keys, the position last: whoever has it has
//! all of the state. While a state is being replaced it has no position, and is not served.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_replication::{
    AppliedPosition, ApplyError, CHUNK_BYTES_TARGET, Export, GroupId, TakeChunk,
};

use crate::keys;
use crate::machine::read_position;
use crate::store::{Family, StateRead, StateStore, StoreError, WriteSet};

const VERSION: u8 = 1;
const ROW_HEADER_BYTES: usize = 1 + 4 + 4;

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
    let (position, _) = read_position(read, group).map_err(failed)?;
    let mut chunk = Chunk::new();
    for family in Family::ALL {
        for (from, end) in keys::of_group(family, group) {
            let mut taken = Ok(());
            read.scan(family, &from, &end, &mut |key, value| {
                chunk.put(family, key, value);
                if chunk.is_full() {
                    taken = take(position, chunk.close());
                }
                taken.is_ok()
            })
            .map_err(failed)?;
            taken?;
        }
    }
    let key = keys::position(group);
    if let Some(value) = read.get(Family::Meta, &key).map_err(failed)? {
        chunk.put(Family::Meta, &key, &value);
    }
    take(position, chunk.close())
}

struct Chunk(BytesMut);

impl Chunk {
    fn new() -> Self {
        let mut raw = BytesMut::new();
        raw.put_u8(VERSION);
        Self(raw)
    }

    fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.0.put_u8(family as u8);
        self.0.put_u32_le(key.len() as u32);
        self.0.put_u32_le(value.len() as u32);
        self.0.put_slice(key);
        self.0.put_slice(value);
    }

    fn is_full(&self) -> bool {
        self.0.len() >= CHUNK_BYTES_TARGET
    }

    fn close(&mut self) -> Bytes {
        std::mem::replace(self, Self::new()).0.freeze()
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
    let gone = (Family::Meta, mark.clone(), None);
    store.commit(WriteSet { writes: vec![gone] }).map_err(failed)?;
    for family in Family::ALL {
        for (from, end) in keys::of_group(family, group) {
            store.clear(family, &from, &end).map_err(failed)?;
        }
    }
    let mut last = None;
    for chunk in chunks {
        let mut writes = Vec::new();
        for (family, key, value) in rows(chunk?)? {
            let ranges = keys::of_group(family, group);
            if family == Family::Meta && key == mark {
                last = Some(value);
            } else if ranges.iter().any(|(from, end)| from <= &key && &key < end) {
                writes.push((family, key, Some(value)));
            } else {
                return Err(broken("a row is not of this group"));
            }
        }
        store.commit(WriteSet { writes }).map_err(failed)?;
    }
    let last = last.ok_or_else(|| broken("it has no position"))?;
    let writes = vec![(Family::Meta, mark, Some(last))];
    store.commit(WriteSet { writes }).map_err(failed)?;
    let (found, _) = read_position(store, group).map_err(failed)?;
    if found != position {
        return Err(broken("it stands somewhere else than it says"));
    }
    store.flush().map_err(failed)
}

type Row = (Family, Vec<u8>, Bytes);

fn rows(mut chunk: Bytes) -> Result<Vec<Row>, ApplyError> {
    if !chunk.has_remaining() || chunk.get_u8() != VERSION {
        return Err(broken("a chunk has an unknown version"));
    }
    let mut rows = Vec::new();
    while chunk.has_remaining() {
        if chunk.remaining() < ROW_HEADER_BYTES {
            return Err(broken("a chunk ends early"));
        }
        let family = chunk.get_u8();
        let family = Family::ALL
            .into_iter()
            .find(|known| *known as u8 == family)
            .ok_or_else(|| broken("a row is of an unknown family"))?;
        let (key, value) = (chunk.get_u32_le() as usize, chunk.get_u32_le() as usize);
        if key.checked_add(value).is_none_or(|both| chunk.remaining() < both) {
            return Err(broken("a chunk ends early"));
        }
        let key = chunk.split_to(key).to_vec();
        rows.push((family, key, chunk.split_to(value)));
    }
    Ok(rows)
}

fn broken(what: &str) -> ApplyError {
    ApplyError::of_node(format!("a snapshot is not what it should be: {what}"))
}

fn failed(error: StoreError) -> ApplyError {
    ApplyError::of_node(error.to_string()).with_source(error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rows(Bytes::from(raw.clone()));
            let mut versioned = vec![VERSION];
            versioned.extend(raw);
            let _ = rows(Bytes::from(versioned));
        }
    }
}
