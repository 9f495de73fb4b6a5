//! Map: values by key and version. A version is the offset of the change that made it.
//!
//! A change puts a new version in front of those before it, and itself into the feed of changes. What is
//! older than the history that is kept goes in the order of the feed: with a change goes the version that
//! it replaced. So a map can be read as it was at any offset from its floor on, and every change behind
//! the floor can be told, with what the key was before.

mod feed;
mod history;
mod op;
mod read;
mod row;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

pub(crate) use self::feed::{Changed, ChangedAt, changes};
use self::history::Header;
pub use self::history::History;
pub(crate) use self::op::{MapGuard, MapOp, MapRefusal};
pub(crate) use self::read::{BelowFloor, Found, KeyRange, When, check_floor, get, range};
pub use self::row::Version;
use self::row::{ENDS_END, ENDS_FROM, Held, end_row, split_end_row, version_row};
use crate::projection::{Applied, At, Projection, ProjectionFault, Rows, RowsRead};

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
        let (guard, key, value, ttl_ms) = match op {
            MapOp::Put { guard, ttl_ms, key, value } => (guard, key, Some(value), ttl_ms),
            MapOp::Delete { guard, key } => (guard, key, None, None),
            MapOp::Keep { history } => {
                let mut header = Header::load(&rows.read())?;
                header.history = history;
                header.store(rows)?;
                return Ok(Applied::Done(Version::ABSENT));
            }
        };
        let newest = read::visible(&rows.read(), &key, When::Now)?;
        if newest.as_ref().is_some_and(|(version, _)| version.offset() == at.offset) {
            return Ok(Applied::Refused(MapRefusal::KeyTwice));
        }
        let found = version_of(newest.as_ref());
        if let Some(expected) = guard
            && expected != found
        {
            return Ok(Applied::Refused(MapRefusal::VersionMismatch { expected, found }));
        }
        if value.is_some() || found != Version::ABSENT {
            let ends_at = ttl_ms.map(|ttl| LogTime::new(at.log_time.get().saturating_add(ttl)));
            let mut header = Header::load(&rows.read())?;
            change(at, rows, &mut header, &key, newest, Held { value, ends_at }, false)?;
            header.store(rows)?;
        }
        Ok(Applied::Done(found))
    }

    fn holds(&self, guard: &MapGuard, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        let MapGuard::VersionIs { key, version } = guard;
        Ok(version_of(read::visible(rows, key, When::Now)?.as_ref()) == *version)
    }

    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        let ends = rows.first(ENDS_FROM, Some(ENDS_END))?;
        let ends =
            ends.map(|(row, _)| Ok::<_, ProjectionFault>(split_end_row(&row)?.0)).transpose()?;
        let header = Header::load(rows)?;
        let old = header.oldest(rows)?.map(|change| {
            let kept_until = change.log_time.get().saturating_add(header.history.keep_ms);
            LogTime::new(kept_until.saturating_add(1))
        });
        Ok(ends.into_iter().chain(old).min())
    }

    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
        let mut header = Header::load(&rows.read())?;
        for index in 0..most {
            let Some((row, _)) = rows.read().first(ENDS_FROM, Some(ENDS_END))? else { break };
            let (ends_at, key) = split_end_row(&row)?;
            if ends_at > at.log_time {
                break;
            }
            let newest = read::visible(&rows.read(), &key, When::Now)?;
            let at = At { index: index as u16, ..at };
            let gone = Held { value: None, ends_at: None };
            change(at, rows, &mut header, &key.into(), newest, gone, true)?;
        }
        header.evict(at, rows, most)?;
        header.store(rows)
    }
}

/// The floor and the number of keys.
pub(crate) fn bounds(rows: &RowsRead<'_>) -> Result<MapBounds, ProjectionFault> {
    let Header { floor, keys, .. } = Header::load(rows)?;
    Ok(MapBounds { floor, keys })
}

/// What is known of a map as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapBounds {
    /// The map can be read as it was at any offset from here on, and watched from any.
    pub floor: Offset,
    /// How many keys there are.
    pub keys: u64,
}

/// The version that a key is at, for whoever compares: a removal is none.
fn version_of(newest: Option<&(Version, Held)>) -> Version {
    match newest {
        Some((version, Held { value: Some(_), .. })) => *version,
        _ => Version::ABSENT,
    }
}

/// Puts a version in front of the newest.
fn change(
    at: At,
    rows: &mut Rows<'_, '_>,
    header: &mut Header,
    key: &Bytes,
    newest: Option<(Version, Held)>,
    held: Held,
    ended: bool,
) -> Result<(), ProjectionFault> {
    let was_there = newest.as_ref().is_some_and(|(_, held)| held.value.is_some());
    match (was_there, held.value.is_some()) {
        (false, true) => header.keys += 1,
        (true, false) => header.keys -= 1,
        _ => {}
    }
    if let Some((_, Held { ends_at: Some(ends_at), .. })) = newest {
        rows.remove(&end_row(ends_at, key));
    }
    if let Some(ends_at) = held.ends_at {
        rows.put(&end_row(ends_at, key), Bytes::new())?;
    }
    rows.put(&version_row(key, Version(at.offset)), held.encode())?;
    let (removed, replaced) = (held.value.is_none(), newest.map(|(version, _)| version));
    header.note(at, rows, key, removed, ended, replaced)
}
