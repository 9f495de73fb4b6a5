//! Readers that hop from node to node: each is told what the model says where its node stands, and no less.

use palisade_replication::sim::SimRandom;

use super::super::*;
use super::journal::Journal;
use super::node::Watched;
use crate::page::Page;
use crate::projections::log::LogPosition;

/// A page of a tail.
const PAGE: usize = 3;

/// Who watches a map from some offset on, and keeps a copy of it.
pub(super) struct Watcher {
    map: u32,
    /// Everything is told up to there.
    told: u64,
    copy: BTreeMap<Bytes, Held>,
}

/// Who follows a log.
pub(super) struct Tail {
    log: u32,
    next: LogPosition,
    /// What it was read from stood there.
    seen: u64,
}

/// What a poll came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// The node is behind what the reader has seen: it waits, or asks another.
    NotYet,
    /// So many further changes or entries.
    Told(usize),
    /// What comes next is not kept any more, and the reader was told so.
    Gap,
}

fn held(found: &map::Found) -> Held {
    Held {
        value: found.value.clone(),
        version: found.version.offset().get(),
        ends_at: found.ends_at.map(LogTime::get),
    }
}

/// A map as it was at an offset, or now.
fn whole(rows: &RowsRead<'_>, when: When) -> BTreeMap<Bytes, Held> {
    let all = KeyRange {
        from: Bytes::new(),
        end: None,
        direction: Direction::Forward,
        limit: usize::MAX,
    };
    let page = map::range(rows, &all, when).unwrap();
    assert!(page.next.is_none(), "few keys fit on a page");
    page.rows.iter().map(|(key, found)| (Bytes::copy_from_slice(key), held(found))).collect()
}

fn rows(node: &Watched, family: FamilyId, id: u32) -> RowsRead<'_> {
    RowsRead::new(node.store(), family, GROUP, ResourceId(id))
}

/// The map as the model has it there, whatever it keeps of its past.
fn map_at(journal: &Journal, id: u32, offset: u64) -> BTreeMap<Bytes, Held> {
    journal.model(offset).maps.get(&id).map(|map| map.at(u64::MAX)).unwrap_or_default()
}

impl Watcher {
    /// Reads the newest map there, and watches it from then on.
    pub(super) fn open(node: &Watched, journal: &Journal) -> Option<Self> {
        let told = node.offset();
        let map = journal.model(told).table.newest(&ResourceKind::MAP)?;
        let copy = whole(&rows(node, FamilyId::MAP, map), When::Now);
        assert_eq!(copy, map_at(journal, map, told), "offset={told}");
        Some(Self { map, told, copy })
    }

    /// Takes what a node has to tell. Its copy is the map then.
    pub(super) fn poll(&mut self, node: &Watched, journal: &Journal) -> Polled {
        let stands = node.offset();
        if stands < self.told {
            return Polled::NotYet;
        }
        let rows = rows(node, FamilyId::MAP, self.map);
        let page = match map::changes(&rows, Offset::new(self.told), |_| true).unwrap() {
            Ok(page) => page,
            Err(BelowFloor(floor)) => {
                let naive = journal.model(stands).maps.get(&self.map).map(NaiveMap::floor);
                assert_eq!(Some(floor.get()), naive, "offset={stands}");
                (self.told, self.copy) = (stands, whole(&rows, When::Now));
                return Polled::Gap;
            }
        };
        let mut count = 0;
        let up_to = page.next.map_or(stands, Offset::get);
        for record in page.records {
            let offset = record.offset.get();
            assert!(self.told < offset && offset <= up_to, "told of {offset} behind {}", self.told);
            for change in record.changes {
                let key = Bytes::from(change.key);
                let before = match &change.now {
                    Some(found) => self.copy.insert(key, held(found)),
                    None => self.copy.remove(&key),
                };
                assert_eq!(change.before.as_ref().map(held), before, "offset={offset}");
                count += 1;
            }
            assert_eq!(self.copy, map_at(journal, self.map, offset), "told at offset={offset}");
        }
        self.told = up_to;
        assert_eq!(self.copy, map_at(journal, self.map, up_to), "told up to offset={up_to}");
        Polled::Told(count)
    }

    /// The map is there as far as the node knows, which is further than the watcher.
    pub(super) fn is_there(&self, node: &Watched, journal: &Journal) -> bool {
        node.offset() < self.told
            || journal.model(node.offset()).table.resources.contains_key(&self.map)
    }
}

impl Tail {
    /// Follows the newest log there from its first entry on.
    pub(super) fn open(node: &Watched, journal: &Journal) -> Option<Self> {
        let seen = node.offset();
        let log = journal.model(seen).table.newest(&ResourceKind::LOG)?;
        let header = log::header(&rows(node, FamilyId::LOG, log)).unwrap();
        Some(Self { log, next: header.first, seen })
    }

    /// Takes a page of what a node has.
    pub(super) fn poll(&mut self, node: &Watched, journal: &Journal) -> Polled {
        let stands = node.offset();
        if stands < self.seen {
            return Polled::NotYet;
        }
        self.seen = stands;
        let naive = journal.model(stands).logs.get(&self.log).cloned().unwrap_or_default();
        let rows = rows(node, FamilyId::LOG, self.log);
        match log::scan(&rows, self.next, Direction::Forward, Page::new(PAGE)).unwrap() {
            Ok(found) => {
                let wanted = naive.entries.range(self.next..).take(PAGE);
                let wanted = wanted.map(|(at, (time, payload))| (*at, *time, payload.clone()));
                let page = found.page;
                let entry = |entry: &log::RawEntry| {
                    (entry.position, entry.log_time.get(), entry.payload.clone())
                };
                let told: Vec<_> = page.rows.iter().map(entry).collect();
                assert_eq!(told, wanted.collect::<Vec<_>>(), "offset={stands}");
                let end = page.rows.last().map_or(self.next, |entry| entry.position.after());
                self.next = page.next.unwrap_or(end);
                Polled::Told(told.len())
            }
            Err(trimmed) => {
                assert_eq!(trimmed.first, naive.first, "offset={stands}");
                assert!(self.next < trimmed.first, "it is told of a gap, and there is none");
                self.next = trimmed.first;
                Polled::Gap
            }
        }
    }

    /// As [`Watcher::is_there`].
    pub(super) fn is_there(&self, node: &Watched, journal: &Journal) -> bool {
        node.offset() < self.seen
            || journal.model(node.offset()).table.resources.contains_key(&self.log)
    }
}

/// Reads something of each resource where the node stands, and of maps also as they were at the offset of some
/// receipt. Says whether that is still known there.
pub(super) fn read(node: &Watched, journal: &Journal, at: u64, random: &mut SimRandom) -> bool {
    let stands = node.offset();
    assert!(at <= stands, "G4: it is asked for at {at} and stands at {stands}");
    let model = journal.model(stands);
    let mut is_known = true;
    if let Some(id) = model.table.newest(&ResourceKind::MAP) {
        let rows = rows(node, FamilyId::MAP, id);
        assert_eq!(whole(&rows, When::Now), map_at(journal, id, stands), "offset={stands}");
        let key = random.pick(&["", "a", "a\0", "a\0b", "ab", "b"]).as_bytes();
        let found = map::get(&rows, key, When::Now).unwrap();
        let wanted = map_at(journal, id, stands).remove(key);
        assert_eq!(found.as_ref().map(held), wanted, "offset={stands} {key:?}");
        let floor = model.maps.get(&id).map_or(0, NaiveMap::floor);
        let when = When::At(Offset::new(at));
        match map::check_floor(&rows, when).unwrap() {
            Ok(()) => {
                assert!(floor <= at, "offset={stands} at={at}: its past is not kept");
                assert_eq!(whole(&rows, when), map_at(journal, id, at), "offset={stands} at={at}");
            }
            Err(BelowFloor(found)) => {
                assert_eq!(found.get(), floor, "offset={stands} at={at}");
                assert!(at < floor, "offset={stands} at={at}: its past is kept");
                is_known = false;
            }
        }
    }
    if let Some(id) = model.table.newest(&ResourceKind::LOG) {
        let rows = rows(node, FamilyId::LOG, id);
        let naive = model.logs.get(&id).cloned().unwrap_or_default();
        for name in CONSUMERS {
            let wanted = naive.consumers.get(name).map(|(position, _)| *position);
            assert_eq!(log::committed(&rows, name).unwrap(), wanted, "offset={stands} {name}");
        }
    }
    if let Some(id) = model.table.newest(&ResourceKind::IDEMPOTENCY) {
        let rows = rows(node, FamilyId::IDEMPOTENCY, id);
        for ((_, key), request) in model.requests.iter().filter(|((of, _), _)| *of == id) {
            let found = find(&rows, key).unwrap().expect("the model knows it");
            assert_eq!(found.completion, request.done, "offset={stands} {key:?}");
        }
    }
    is_known
}
