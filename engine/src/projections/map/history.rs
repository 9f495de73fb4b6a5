//! What a map keeps of its past, and the rows that hold it: every version that was visible at or after the
//! floor, and every change behind it.

use bytes::Bytes;
use palisade_replication::Offset;

use super::row::{CHANGE, Change, FEED_END, HEADER_ROW, Held, Version, key_row, version_row};
use crate::codec::{DecodeError, Reader, put_number};
use crate::keys;
use crate::projection::{At, ProjectionFault, Rows, RowsRead};
use crate::projections::place::Place;

/// How many old changes a new one pushes out at most. More than one, so that a backlog shrinks.
const EVICTIONS_PER_CHANGE: usize = 4;

/// How much a map keeps of its past: changes that are younger than `keep_ms` by log time and no more than
/// `changes_max` of them. It can be read as it was since then, and watched from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// How long a change is kept at most, in milliseconds of log time.
    pub keep_ms: u64,
    /// How many changes are kept at most.
    pub changes_max: u64,
}

impl History {
    /// Nothing but the newest version of each key: it is not watched, and not read as it was.
    pub const NEWEST_ONLY: Self = Self { keep_ms: 0, changes_max: 0 };

    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.keep_ms);
        put_number(out, self.changes_max);
    }

    pub(super) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let keep_ms = reader.number("history time")?;
        Ok(Self { keep_ms, changes_max: reader.number("history changes")? })
    }
}

/// An hour, and 100,000 changes.
impl Default for History {
    fn default() -> Self {
        Self { keep_ms: 60 * 60 * 1000, changes_max: 100_000 }
    }
}

/// What is known of a map as a whole.
///
/// ```text
/// floor, first change: offset, index, changes, keys, history: milliseconds, changes
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The map can be read as it was at any offset from here on, and watched from there.
    pub(crate) floor: Offset,
    /// No change before this is in the feed: it spares the walk over those that are gone.
    first: Place,
    /// How many changes are in the feed.
    changes: u64,
    /// How many keys there are.
    pub(crate) keys: u64,
    pub(crate) history: History,
}

impl Header {
    pub(crate) fn load(rows: &RowsRead<'_>) -> Result<Self, ProjectionFault> {
        let Some(raw) = rows.get(HEADER_ROW)? else {
            let (floor, history) = (Offset::ZERO, History::default());
            return Ok(Self { floor, first: Place::START, changes: 0, keys: 0, history });
        };
        Ok(Self::decode(raw)?)
    }

    fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let floor = Offset::new(reader.number("floor")?);
        let header = Self {
            floor,
            first: Place::take(&mut reader)?,
            changes: reader.number("changes")?,
            keys: reader.number("keys")?,
            history: History::take(&mut reader)?,
        };
        reader.end("map header")?;
        Ok(header)
    }

    pub(super) fn store(&self, rows: &mut Rows<'_, '_>) -> Result<(), ProjectionFault> {
        let mut out = Vec::with_capacity(32);
        put_number(&mut out, self.floor.get());
        self.first.put(&mut out);
        put_number(&mut out, self.changes);
        put_number(&mut out, self.keys);
        self.history.put(&mut out);
        rows.put(HEADER_ROW, out)
    }

    /// Takes in a change that is in the rows already, over the version that it replaced.
    pub(super) fn note(
        &mut self,
        at: At,
        rows: &mut Rows<'_, '_>,
        key: &Bytes,
        removed: bool,
        ended: bool,
        replaced: Option<Version>,
    ) -> Result<(), ProjectionFault> {
        if self.history.changes_max == 0 && self.changes == 0 && !removed {
            // As if it were kept and pushed out at once, without the row. A removal stays for the rest of
            // its record: it tells that the key was changed.
            self.floor = at.offset;
            return forget(rows, key, Version(at.offset), replaced);
        }
        let change = Change { log_time: at.log_time, ended, key: key.clone() };
        rows.put(&Place::of(at).row(CHANGE), change.encode())?;
        self.changes += 1;
        self.evict(at, rows, EVICTIONS_PER_CHANGE)
    }

    /// Pushes out changes that are too old, or too many: the oldest first, up to so many, and none of the
    /// record that is applied.
    pub(super) fn evict(
        &mut self,
        at: At,
        rows: &mut Rows<'_, '_>,
        most: usize,
    ) -> Result<(), ProjectionFault> {
        for _ in 0..most {
            let found = rows.read().first(&self.first.row(CHANGE), Some(FEED_END))?;
            let Some((row, raw)) = found else { break };
            let (place, change) = (Place::of_row(CHANGE, &row)?, Change::decode(&raw)?);
            let age_ms = at.log_time.get().saturating_sub(change.log_time.get());
            let is_kept =
                self.changes <= self.history.changes_max && age_ms <= self.history.keep_ms;
            if is_kept || place.offset == at.offset {
                self.first = place;
                break;
            }
            let version = Version(place.offset);
            let older = before(&rows.read(), &change.key, version)?.map(|(version, _)| version);
            forget(rows, &change.key, version, older)?;
            rows.remove(&row);
            self.first = place.after();
            self.changes -= 1;
            self.floor = place.offset;
        }
        Ok(())
    }

    /// Whether the oldest change is there for longer than it is kept, and since when.
    pub(super) fn oldest(&self, rows: &RowsRead<'_>) -> Result<Option<Change>, ProjectionFault> {
        let found = rows.first(&self.first.row(CHANGE), Some(FEED_END))?;
        Ok(found.map(|(_, raw)| Change::decode(&raw)).transpose()?)
    }
}

/// The version of a key before this one, if it is kept.
pub(crate) fn before(
    rows: &RowsRead<'_>,
    key: &[u8],
    version: Version,
) -> Result<Option<(Version, Held)>, ProjectionFault> {
    let Some(older) = version.offset().get().checked_sub(1) else { return Ok(None) };
    let from = version_row(key, Version(Offset::new(older)));
    let found = rows.first(&from, Some(&keys::after(&key_row(key))))?;
    found
        .map(|(row, raw)| Ok((super::row::split_version_row(&row)?.1, Held::decode(&raw)?)))
        .transpose()
}

/// A change is not kept any more: what it replaced is visible nowhere, and a removal says no more than no
/// version at all.
fn forget(
    rows: &mut Rows<'_, '_>,
    key: &[u8],
    version: Version,
    replaced: Option<Version>,
) -> Result<(), ProjectionFault> {
    if let Some(replaced) = replaced {
        rows.remove(&version_row(key, replaced));
    }
    let row = version_row(key, version);
    let held = rows.get(&row)?.map(|raw| Held::decode(&raw)).transpose()?;
    if held.is_some_and(|held| held.value.is_none()) {
        rows.remove(&row);
    }
    Ok(())
}
