//! Map: values by key and version. A version is the offset of the change that made it.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use super::{At, Step};
use crate::command::{Refusal, Version};
use crate::keys;
use crate::page::Page;
use crate::resource::ResourceId;
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};
use crate::view::View;

/// Sets a key, or removes it with `None`, if its version is the expected one.
pub(crate) fn change(
    view: &mut View<'_>,
    at: At,
    resource: ResourceId,
    guard: Option<Version>,
    key: &[u8],
    value: Option<Bytes>,
) -> Result<Step, StoreError> {
    let map_key = keys::map_key(at.group, resource, key);
    let newest = view.first(FamilyId::MAP, &map_key, &keys::after(&map_key))?;
    let found = match &newest {
        None => Version::ABSENT,
        Some((row, _)) => Version(version_of(row)?),
    };
    if let Some(expected) = guard
        && expected != found
    {
        return Ok(Step::Refused(Refusal::VersionMismatch { expected, found }));
    }
    if let Some((row, _)) = newest {
        retain(view, row);
    }
    if let Some(value) = value {
        view.put(FamilyId::MAP, keys::map_version(map_key, at.offset), value);
    }
    Ok(Step::Done)
}

/// What becomes of a version that a newer one replaces. Only the newest of each key is kept.
fn retain(view: &mut View<'_>, replaced: Vec<u8>) {
    view.remove(FamilyId::MAP, replaced);
}

fn version_of(row: &[u8]) -> Result<Offset, StoreError> {
    let split = keys::split_map_version(row);
    split.map(|(_, offset)| offset).ok_or_else(|| StoreError { what: "malformed map key".into() })
}

/// A row of a map as it is stored: key, value, version.
pub(crate) type MapRow = (Vec<u8>, Bytes, Version);

/// The newest version of a key.
pub(crate) fn get(
    read: &dyn StateRead,
    group: GroupId,
    resource: ResourceId,
    key: &[u8],
) -> Result<Option<(Bytes, Version)>, StoreError> {
    let from = keys::map_key(group, resource, key);
    let mut found = None;
    read.walk(FamilyId::MAP, &from, &keys::after(&from), Direction::Forward, &mut |row, value| {
        found = Some((row.to_vec(), Bytes::copy_from_slice(value)));
        Walk::Stop
    })?;
    found.map(|(row, value)| Ok((value, Version(version_of(&row)?)))).transpose()
}

/// The newest versions of the keys from `from` up to before `end`, at most `limit` of them and what
/// a page holds.
pub(crate) fn range(
    read: &dyn StateRead,
    group: GroupId,
    resource: ResourceId,
    from: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Result<Page<MapRow, Vec<u8>>, StoreError> {
    let from = keys::map_from(group, resource, from);
    let end = end.map_or_else(
        || keys::resource_end(group, resource),
        |end| keys::map_from(group, resource, end),
    );
    let mut page: Page<MapRow, _> = Page::new(limit);
    let mut malformed = false;
    read.walk(FamilyId::MAP, &from, &end, Direction::Forward, &mut |row, value| {
        match keys::split_map_version(row) {
            // Versions of one key follow each other, the newest first.
            Some((key, _)) if page.rows.last().is_some_and(|(last, ..)| *last == key) => {
                return Walk::Seek(keys::after(&keys::map_key(group, resource, &key)));
            }
            Some((key, offset)) if page.has_room(key.len() + value.len()) => {
                let bytes = key.len() + value.len();
                page.push((key, Bytes::copy_from_slice(value), Version(offset)), bytes);
                return Walk::Next;
            }
            Some((key, _)) => page.next = Some(key),
            None => malformed = true,
        }
        Walk::Stop
    })?;
    if malformed {
        return Err(StoreError { what: "malformed map key".into() });
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::SCAN_BYTES_MAX;
    use crate::store::{MemoryStore, StateStore, WriteSet};

    const GROUP: GroupId = GroupId::new(1);
    const MAP: ResourceId = ResourceId(1);

    /// Whatever is kept of the past, a read gives one row for each key: the newest.
    #[test]
    fn the_newest_of_several_versions_is_read() {
        let store = MemoryStore::default();
        let row = |key: &str, offset, value: &'static str| {
            let key = keys::map_key(GROUP, MAP, key.as_bytes());
            let row = keys::map_version(key, Offset::new(offset));
            (FamilyId::MAP, row, Some(Bytes::from(value)))
        };
        let writes = vec![row("a", 3, "old"), row("a", 5, "new"), row("b", 4, "only")];
        store.commit(WriteSet::rows(writes)).unwrap();
        let page = range(&store, GROUP, MAP, b"", None, 10).unwrap();
        assert_eq!(page.next, None);
        let version = |offset| Version(Offset::new(offset));
        let expected = [
            (b"a".to_vec(), Bytes::from("new"), version(5)),
            (b"b".to_vec(), Bytes::from("only"), version(4)),
        ];
        assert_eq!(page.rows, expected);
        let found = get(&store, GROUP, MAP, b"a").unwrap();
        assert_eq!(found, Some((Bytes::from("new"), version(5))));
    }

    /// G12: a page ends at its bounds, and says where to go on.
    #[test]
    fn a_page_is_bounded_by_rows_and_by_bytes() {
        let store = MemoryStore::default();
        // A key of one byte belongs to each.
        let half = SCAN_BYTES_MAX / 2 - 1;
        let lengths =
            [("a", 2, half), ("a", 1, 7), ("b", 3, half), ("c", 4, SCAN_BYTES_MAX), ("d", 5, 0)];
        let row = |(key, offset, length): (&str, u64, usize)| {
            let key = keys::map_key(GROUP, MAP, key.as_bytes());
            let row = keys::map_version(key, Offset::new(offset));
            (FamilyId::MAP, row, Some(Bytes::from(vec![0; length])))
        };
        store.commit(WriteSet::rows(lengths.map(row).into())).unwrap();
        let text = |key: Vec<u8>| String::from_utf8(key).unwrap();
        let page = |from: &str, end: Option<&str>, limit| {
            let end = end.map(str::as_bytes);
            let found = range(&store, GROUP, MAP, from.as_bytes(), end, limit).unwrap();
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
}
