//! Map: values by key and version. A version is the offset of the change that made it.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use super::{At, Step};
use crate::command::{Refusal, Version};
use crate::keys;
use crate::resource::ResourceId;
use crate::store::{Family, StateRead, StoreError};
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
    let newest = view.first(Family::Map, &map_key, &keys::after(&map_key))?;
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
        view.put(Family::Map, keys::map_version(map_key, at.offset), value);
    }
    Ok(Step::Done)
}

/// What becomes of a version that a newer one replaces. Only the newest of each key is kept.
fn retain(view: &mut View<'_>, replaced: Vec<u8>) {
    view.remove(Family::Map, replaced);
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
    read.scan(Family::Map, &from, &keys::after(&from), &mut |row, value| {
        found = Some((row.to_vec(), Bytes::copy_from_slice(value)));
        false
    })?;
    found.map(|(row, value)| Ok((value, Version(version_of(&row)?)))).transpose()
}

/// The newest versions of the keys from `from` up to before `end`, at most `limit` of them.
pub(crate) fn range(
    read: &dyn StateRead,
    group: GroupId,
    resource: ResourceId,
    from: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<MapRow>, StoreError> {
    let from = keys::map_from(group, resource, from);
    let end = end.map_or_else(
        || keys::resource_end(group, resource),
        |end| keys::map_from(group, resource, end),
    );
    let mut rows: Vec<MapRow> = Vec::new();
    let mut malformed = false;
    read.scan(Family::Map, &from, &end, &mut |row, value| {
        if rows.len() == limit {
            return false;
        }
        match keys::split_map_version(row) {
            // Versions of one key follow each other, the newest first.
            Some((key, _)) if rows.last().is_some_and(|(last, ..)| *last == key) => {}
            Some((key, offset)) => {
                rows.push((key, Bytes::copy_from_slice(value), Version(offset)));
            }
            None => malformed = true,
        }
        !malformed
    })?;
    if malformed { Err(StoreError { what: "malformed map key".into() }) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (Family::Map, row, Some(Bytes::from(value)))
        };
        let writes = vec![row("a", 3, "old"), row("a", 5, "new"), row("b", 4, "only")];
        store.commit(WriteSet { writes }).unwrap();
        let rows = range(&store, GROUP, MAP, b"", None, 10).unwrap();
        let version = |offset| Version(Offset::new(offset));
        let expected = [
            (b"a".to_vec(), Bytes::from("new"), version(5)),
            (b"b".to_vec(), Bytes::from("only"), version(4)),
        ];
        assert_eq!(rows, expected);
        let found = get(&store, GROUP, MAP, b"a").unwrap();
        assert_eq!(found, Some((Bytes::from("new"), version(5))));
    }
}
