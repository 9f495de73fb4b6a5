//! Log: payloads by offset.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use super::{At, Step};
use crate::keys;
use crate::page::Page;
use crate::resource::ResourceId;
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};
use crate::view::View;

/// A record holds at most one payload of a log: the offset is its place.
pub(crate) fn append(
    view: &mut View<'_>,
    at: At,
    resource: ResourceId,
    payload: Bytes,
) -> Result<Step, StoreError> {
    view.put(FamilyId::LOG, keys::log(at.group, resource, at.offset), payload);
    Ok(Step::Done)
}

/// Payloads by their offsets, at or after `from`, at most `limit` of them and what a page holds.
pub(crate) fn scan(
    read: &dyn StateRead,
    group: GroupId,
    resource: ResourceId,
    from: Offset,
    limit: usize,
) -> Result<Page<(Offset, Bytes), Offset>, StoreError> {
    let from = keys::log(group, resource, from);
    let end = keys::resource_end(group, resource);
    let mut page = Page::new(limit);
    let mut malformed = false;
    read.walk(FamilyId::LOG, &from, &end, Direction::Forward, &mut |key, payload| {
        match keys::log_offset(key) {
            Some(offset) if page.has_room(payload.len()) => {
                page.push((offset, Bytes::copy_from_slice(payload)), payload.len());
                return Walk::Next;
            }
            Some(offset) => page.next = Some(offset),
            None => malformed = true,
        }
        Walk::Stop
    })?;
    if malformed {
        return Err(StoreError { what: "malformed log key".into() });
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::SCAN_BYTES_MAX;
    use crate::store::{MemoryStore, StateStore, WriteSet};

    const GROUP: GroupId = GroupId::new(1);
    const LOG: ResourceId = ResourceId(1);

    /// G12: a page ends at its bounds, and says where to go on.
    #[test]
    fn a_page_is_bounded_by_entries_and_by_bytes() {
        let store = MemoryStore::default();
        let half = SCAN_BYTES_MAX / 2;
        let lengths = [(2, half), (3, half), (5, 1), (7, SCAN_BYTES_MAX + 1), (9, 1)];
        let row = |(offset, length): (u64, usize)| {
            let payload = Bytes::from(vec![offset as u8; length]);
            (FamilyId::LOG, keys::log(GROUP, LOG, Offset::new(offset)), Some(payload))
        };
        store.commit(WriteSet::rows(lengths.map(row).into())).unwrap();
        let page = |from, limit| {
            let page = scan(&store, GROUP, LOG, Offset::new(from), limit).unwrap();
            let offsets: Vec<u64> = page.rows.iter().map(|(offset, _)| offset.get()).collect();
            (offsets, page.next.map(Offset::get))
        };
        assert_eq!(page(0, 9), (vec![2, 3], Some(5)), "as much as it holds, and no byte more");
        assert_eq!(page(3, 9), (vec![3, 5], Some(7)));
        assert_eq!(page(6, 9), (vec![7], Some(9)), "one is returned whatever its size");
        assert_eq!(page(9, 9), (vec![9], None));
        assert_eq!(page(9, 1), (vec![9], None), "there is nothing after it");
        assert_eq!(page(10, 9), (vec![], None));
        assert_eq!(page(0, 1), (vec![2], Some(3)));
        assert_eq!(page(0, 0), (vec![], Some(2)));
    }
}
