//! A map once more: every change there ever was, and how many of the oldest are not kept any more.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::Offset;

use super::naive::Here;
use crate::projections::map::{History, MapOp, MapRefusal, Version};

/// A change: where, when, of which key, to what.
#[derive(Clone, Debug)]
struct Change {
    offset: u64,
    now: u64,
    key: Bytes,
    held: Option<Held>,
    ended: bool,
}

/// A value, and when it ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) value: Bytes,
    pub(super) version: u64,
    pub(super) ends_at: Option<u64>,
}

/// Of a change as it is told: where, key, what it is now and was before, whether it ended by itself.
pub(super) type Told = (u64, Bytes, Option<Held>, Option<Held>, bool);

#[derive(Clone, Debug, Default)]
pub(super) struct NaiveMap {
    changes: Vec<Change>,
    /// So many of the oldest changes are not kept.
    gone: usize,
    history: History,
}

impl NaiveMap {
    /// Every key there is once this offset was applied.
    pub(super) fn at(&self, offset: u64) -> BTreeMap<Bytes, Held> {
        let mut map = BTreeMap::new();
        for change in self.changes.iter().take_while(|change| change.offset <= offset) {
            match &change.held {
                Some(held) => map.insert(change.key.clone(), held.clone()),
                None => map.remove(&change.key),
            };
        }
        map
    }

    pub(super) fn floor(&self) -> u64 {
        self.gone.checked_sub(1).map_or(0, |last| self.changes[last].offset)
    }

    /// How many versions must be kept: those that are visible at the floor, and one of each change that is
    /// kept.
    pub(super) fn versions(&self) -> usize {
        let kept = &self.changes[self.gone..];
        let visible = self.changes[..self.gone].iter().fold(BTreeMap::new(), |mut map, change| {
            match &change.held {
                Some(held) => map.insert(change.key.clone(), held.clone()),
                None => map.remove(&change.key),
            };
            map
        });
        visible.len() + kept.len()
    }

    /// The changes behind an offset that are kept.
    pub(super) fn told(&self, from: u64) -> Vec<Told> {
        let behind = self.changes.iter().filter(|change| change.offset > from);
        let tell = |change: &Change| {
            let before = self.at(change.offset - 1).remove(&change.key);
            (change.offset, change.key.clone(), change.held.clone(), before, change.ended)
        };
        behind.map(tell).collect()
    }

    pub(super) fn version(&self, key: &Bytes) -> Version {
        let held = self.at(u64::MAX).remove(key);
        held.map_or(Version::ABSENT, |held| Version(Offset::new(held.version)))
    }

    pub(super) fn apply(&mut self, here: Here, op: &MapOp) -> Result<Version, MapRefusal> {
        let (guard, key, held) = match op {
            MapOp::Keep { history } => {
                self.history = *history;
                return Ok(Version::ABSENT);
            }
            MapOp::Delete { guard, key } => (guard, key, None),
            MapOp::Put { guard, ttl_ms, key, value } => {
                let ends_at = ttl_ms.map(|ttl| here.now + ttl);
                (guard, key, Some(Held { value: value.clone(), version: here.offset, ends_at }))
            }
        };
        if self.changes.iter().any(|old| old.offset == here.offset && old.key == *key) {
            return Err(MapRefusal::KeyTwice);
        }
        let found = self.version(key);
        if let Some(expected) = *guard
            && expected != found
        {
            return Err(MapRefusal::VersionMismatch { expected, found });
        }
        if held.is_some() || found != Version::ABSENT {
            self.change(here, key.clone(), held, false);
        }
        Ok(found)
    }

    fn change(&mut self, here: Here, key: Bytes, held: Option<Held>, ended: bool) {
        let Here { offset, now } = here;
        let passes = self.history.changes_max == 0 && self.gone == self.changes.len();
        let was_put = held.is_some();
        self.changes.push(Change { offset, now, key, held, ended });
        if passes && was_put {
            self.gone += 1;
        } else {
            self.forget(here, 4);
        }
    }

    fn forget(&mut self, here: Here, most: usize) {
        for _ in 0..most {
            let Some(oldest) = self.changes.get(self.gone) else { return };
            let kept = (self.changes.len() - self.gone) as u64;
            let is_kept =
                kept <= self.history.changes_max && here.now - oldest.now <= self.history.keep_ms;
            if is_kept || oldest.offset == here.offset {
                return;
            }
            self.gone += 1;
        }
    }

    pub(super) fn tidy(&mut self, here: Here) {
        let mut due: Vec<(u64, Bytes)> = self
            .at(u64::MAX)
            .into_iter()
            .filter_map(|(key, held)| Some((held.ends_at.filter(|at| *at <= here.now)?, key)))
            .collect();
        due.sort();
        for (_, key) in due {
            self.change(here, key, None, true);
        }
        self.forget(here, 256);
    }
}
