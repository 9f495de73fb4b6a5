//! Rows that become others by themselves, as disks and mistakes make them.

use bytes::Bytes;

use super::GROUP;
use crate::comparing::spans;
use crate::keys;
use crate::store::{Direction, MemoryStore, StateRead, StateStore, Walk, WriteSet};

/// Flips a bit of the value of a row, or gives a row without a value one. See `SimFabric::flip_bit`.
pub(super) fn flip_bit(
    store: &MemoryStore,
    projection: &str,
    nth: usize,
    unnoticed: bool,
) -> Bytes {
    let family = store.families().find(projection.as_bytes()).expect("a known projection");
    let (from, end) = keys::of_group(family, GROUP).expect("a projection has rows of groups");
    let mut rows = Vec::new();
    let mut note = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        Walk::Next
    };
    store.walk(family, &from, &end, Direction::Forward, &mut note).expect("memory can be read");
    let (key, mut value) = rows.swap_remove(nth % rows.len());
    match value.last_mut() {
        Some(last) => *last ^= 1,
        None => value.push(1),
    }
    let row = WriteSet::rows(vec![(family, key.clone(), Some(value.into()))]);
    let done = if unnoticed { spans::commit(store, GROUP, row) } else { store.commit(row) };
    done.and_then(|()| store.flush()).expect("memory can be written");
    Bytes::copy_from_slice(&key[from.len()..])
}
