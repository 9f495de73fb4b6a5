//! Reads of a map, as it is and as it was.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::history::Header;
use super::row::{Held, KEYS_END, Version, bound_row, key_row, split_version_row, version_row};
use crate::keys;
use crate::page::Page;
use crate::projection::{ProjectionFault, RowsRead};
use crate::store::{Direction, Walk};

/// A key's value as it is found: with its version, and when it ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: Bytes,
    pub(crate) version: Version,
    pub(crate) ends_at: Option<LogTime>,
}

/// Of when a read is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// As it is.
    Now,
    /// As it was once every record up to there was applied.
    At(Offset),
}

impl When {
    fn newest(self) -> Version {
        match self {
            Self::Now => Version(Offset::new(u64::MAX)),
            Self::At(offset) => Version(offset),
        }
    }
}

/// The map is not known any more as it was before this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BelowFloor(pub(crate) Offset);

/// Refuses what is below the floor of the state that is read.
pub(crate) fn check_floor(
    rows: &RowsRead<'_>,
    when: When,
) -> Result<Result<(), BelowFloor>, ProjectionFault> {
    let When::At(offset) = when else { return Ok(Ok(())) };
    let floor = Header::load(rows)?.floor;
    Ok(if offset < floor { Err(BelowFloor(floor)) } else { Ok(()) })
}

/// The version of a key that is visible, and what it says.
pub(super) fn visible(
    rows: &RowsRead<'_>,
    key: &[u8],
    when: When,
) -> Result<Option<(Version, Held)>, ProjectionFault> {
    let from = version_row(key, when.newest());
    let found = rows.first(&from, Some(&keys::after(&key_row(key))))?;
    found.map(|(row, raw)| Ok((split_version_row(&row)?.1, Held::decode(&raw)?))).transpose()
}

/// The value of a key.
pub(crate) fn get(
    rows: &RowsRead<'_>,
    key: &[u8],
    when: When,
) -> Result<Option<Found>, ProjectionFault> {
    Ok(visible(rows, key, when)?.and_then(|(version, held)| found(version, held)))
}

fn found(version: Version, held: Held) -> Option<Found> {
    Some(Found { value: held.value?, version, ends_at: held.ends_at })
}

/// Which keys, and in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: Bytes,
    /// Nothing: to the last.
    pub(crate) end: Option<Bytes>,
    pub(crate) direction: Direction,
    pub(crate) limit: usize,
}

/// Keys and what is found of them, and the key to go on with.
pub(crate) type KeyPage = Page<(Vec<u8>, Found), Vec<u8>>;

/// The visible keys of a range, at most so many and what a page holds; the key to go on with, if there are
/// more.
pub(crate) fn range(
    rows: &RowsRead<'_>,
    range: &KeyRange,
    when: When,
) -> Result<KeyPage, ProjectionFault> {
    match range.direction {
        Direction::Forward => forward(rows, range, when),
        Direction::Backward => backward(rows, range, when),
    }
}

fn forward(rows: &RowsRead<'_>, range: &KeyRange, when: When) -> Result<KeyPage, ProjectionFault> {
    let mut page = Page::new(range.limit);
    let mut seen: Option<Vec<u8>> = None;
    let mut broken = Ok(());
    let newest = when.newest();
    let mut each = |row: &[u8], raw: &[u8]| -> Result<Walk, ProjectionFault> {
        let (key, version) = split_version_row(row)?;
        if seen.as_ref() == Some(&key) {
            return Ok(Walk::Seek(keys::after(&key_row(&key))));
        }
        if version > newest {
            return Ok(Walk::Seek(version_row(&key, newest)));
        }
        seen = Some(key.clone());
        let Some(found) = found(version, Held::decode(raw)?) else { return Ok(Walk::Next) };
        let bytes = key.len() + found.value.len();
        if page.has_room(bytes) {
            page.push((key, found), bytes);
            Ok(Walk::Next)
        } else {
            page.next = Some(key);
            Ok(Walk::Stop)
        }
    };
    let end = range.end.as_ref().map_or_else(|| KEYS_END.to_vec(), |end| bound_row(end));
    rows.walk(&bound_row(&range.from), Some(&end), Direction::Forward, &mut |row, raw| {
        each(row, raw).unwrap_or_else(|fault| {
            broken = Err(fault);
            Walk::Stop
        })
    })?;
    broken.map(|()| page)
}

/// Keys backward; the versions of each lie the other way round, so each is looked up.
fn backward(rows: &RowsRead<'_>, range: &KeyRange, when: When) -> Result<KeyPage, ProjectionFault> {
    let mut page = Page::new(range.limit);
    let end = range.end.as_ref().map_or_else(|| KEYS_END.to_vec(), |end| bound_row(end));
    let mut broken = Ok(());
    let mut each = |row: &[u8]| -> Result<Walk, ProjectionFault> {
        let (key, _) = split_version_row(row)?;
        if let Some(found) = get(rows, &key, when)? {
            let bytes = key.len() + found.value.len();
            if !page.has_room(bytes) {
                page.next = Some(key);
                return Ok(Walk::Stop);
            }
            let first = key_row(&key);
            page.push((key, found), bytes);
            return Ok(Walk::Seek(first));
        }
        Ok(Walk::Seek(key_row(&key)))
    };
    rows.walk(&bound_row(&range.from), Some(&end), Direction::Backward, &mut |row, _| {
        each(row).unwrap_or_else(|fault| {
            broken = Err(fault);
            Walk::Stop
        })
    })?;
    broken.map(|()| page)
}
