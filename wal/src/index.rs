//! Where everything live lies: entries, registers and trim marks of every group, by segment.
//!
//! A segment without live items can be freed, once the batch that took the last of them away is
//! durable. Only the oldest segment is ever freed, so what remains is one unbroken run of batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::frame::{ITEM_HEADER_BYTES, Item, ItemKind, Link};
use crate::keys::SEAL_BYTES;
use crate::position::{BatchSeq, GroupId, LogIndex, SegmentId};

/// Where a payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: SegmentId,
    /// Of the payload, from the start of the file.
    pub(crate) pos: u32,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    /// What lies there is sealed bytes.
    pub(crate) sealed: bool,
}

/// As `engine/docs/bounds.md` says: one for each entry that is kept.
const _: () = assert!(size_of::<Option<Location>>() == 24);

impl Location {
    /// Length of what its caller handed in.
    pub(crate) fn content_len(&self) -> usize {
        self.len as usize - if self.sealed { SEAL_BYTES } else { 0 }
    }

    /// Of an item whose frame begins at `frame_pos`; none beyond what a segment can be.
    pub(crate) fn of(item: &Item, segment: SegmentId, frame_pos: u64) -> Option<Self> {
        let pos = u32::try_from(frame_pos + u64::from(item.payload_pos)).ok()?;
        let Item { payload_len: len, payload_crc: crc, sealed, .. } = *item;
        Some(Self { segment, pos, len, crc, sealed })
    }
}

/// Batches that are lost: the first and the last of a run.
pub(crate) type Lost = (BatchSeq, BatchSeq);

/// What is known to be wrong with a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupDamage {
    /// The register is what was last set.
    pub(crate) state_known: bool,
    /// The lost runs that may have held something of it.
    pub(crate) lost: Vec<Lost>,
    /// Its trim mark was written since, and so tells of the damage when the place itself is freed.
    pub(crate) noted: bool,
}

/// One group's part of the index.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    /// Entries up to here are gone.
    pub(crate) trimmed: LogIndex,
    /// Where the mark that says so lies. A group that was never trimmed has none.
    pub(crate) mark: Option<Location>,
    /// Entries after `trimmed`. What is missing of a damaged group is `None`.
    pub(crate) entries: VecDeque<Option<Location>>,
    pub(crate) state: Option<Location>,
    /// The last batch that changed the group, and the one before that.
    pub(crate) changed: BatchSeq,
    pub(crate) changed_before: BatchSeq,
    /// Until it is repaired.
    pub(crate) damage: Option<Box<GroupDamage>>,
}

impl GroupIndex {
    pub(crate) fn first(&self) -> LogIndex {
        self.trimmed.next()
    }

    pub(crate) fn last(&self) -> LogIndex {
        LogIndex::new(self.trimmed.get() + self.entries.len() as u64)
    }

    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Location> {
        let at = index.get().checked_sub(self.first().get())?;
        self.entries.get(usize::try_from(at).ok()?)?.as_ref()
    }

    /// Entries between the first and the last of which no copy is known.
    pub(crate) fn holes(&self) -> impl Iterator<Item = LogIndex> {
        let indexes = self.first().get()..;
        let holes = self.entries.iter().zip(indexes).filter(|(entry, _)| entry.is_none());
        holes.map(|(_, index)| LogIndex::new(index))
    }

    fn touch(&mut self, seq: BatchSeq) {
        if self.changed != seq {
            self.changed_before = std::mem::replace(&mut self.changed, seq);
        }
    }
}

#[derive(Debug, Default)]
struct Live {
    items: u64,
    bytes: u64,
    /// The batch that took away an item last.
    emptied_by: BatchSeq,
}

/// The whole index. Changes enter when a batch is submitted, before it is written.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) groups: BTreeMap<GroupId, GroupIndex>,
    live: BTreeMap<SegmentId, Live>,
    /// Batches that nobody can tell the groups of: a group that is not known may have lost all.
    pub(crate) unlisted: Option<Vec<Lost>>,
    /// Damaged groups that no mark tells of yet.
    pub(crate) not_noted: BTreeSet<GroupId>,
    /// The last batch that told of one, or repaired it.
    pub(crate) noted_up_to: BatchSeq,
}

fn stored_bytes(location: Location) -> u64 {
    ITEM_HEADER_BYTES as u64 + u64::from(location.len)
}

/// A live item in a segment that is to be freed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveItem {
    pub(crate) kind: ItemKind,
    pub(crate) group: GroupId,
    pub(crate) index: LogIndex,
    pub(crate) location: Location,
}

impl Index {
    /// Where an item of batch `seq` stands among the changes of its group.
    pub(crate) fn link(&self, group: GroupId, seq: BatchSeq) -> Link {
        let Some(found) = self.groups.get(&group) else {
            let damaged = self.unlisted.is_some();
            return Link { damaged, ..Link::default() };
        };
        let prev = if found.changed == seq { found.changed_before } else { found.changed };
        Link { prev, damaged: found.damage.is_some(), ..Link::default() }
    }

    /// The same for a copy of the group's register.
    pub(crate) fn copy_link(&self, group: GroupId, seq: BatchSeq) -> Link {
        let damage = self.groups.get(&group).and_then(|found| found.damage.as_ref());
        let stale = damage.is_some_and(|damage| !damage.state_known);
        Link { stale, ..self.link(group, seq) }
    }

    /// The lost runs that may have held something of a group that is not repaired.
    pub(crate) fn lost_of(&self, group: GroupId) -> &[Lost] {
        match self.groups.get(&group) {
            None => self.unlisted.as_deref().unwrap_or_default(),
            Some(found) => found.damage.as_ref().map_or(&[], |damage| &damage.lost),
        }
    }

    /// Takes note of a batch that repeats the group's register.
    pub(crate) fn copied(&mut self, group: GroupId, seq: BatchSeq) {
        self.groups.get_mut(&group).expect("a register's group is known").touch(seq);
    }

    /// Takes in one item of batch `seq`, whose frame begins at `frame_pos`.
    pub(crate) fn apply(&mut self, item: &Item, segment: SegmentId, frame_pos: u64, seq: BatchSeq) {
        let location =
            Location::of(item, segment, frame_pos).expect("segments are shorter than 4 GiB");
        let unlisted = &self.unlisted;
        let group = self.groups.entry(item.group).or_insert_with(|| {
            let damage = unlisted
                .clone()
                .map(|lost| Box::new(GroupDamage { lost, ..GroupDamage::default() }));
            GroupIndex { damage, ..GroupIndex::default() }
        });
        group.touch(seq);
        let mut gone: Vec<Location> = Vec::new();
        let mut is_live = true;
        match item.kind {
            ItemKind::Append => {
                assert!(group.trimmed < item.index);
                assert!(item.index <= group.last().next());
                let keep = (item.index.get() - group.first().get()) as usize;
                gone.extend(group.entries.drain(keep..).flatten());
                group.entries.push_back(Some(location));
            }
            ItemKind::Moved | ItemKind::Restore => {
                assert!(group.trimmed < item.index);
                assert!(item.index <= group.last());
                let at = (item.index.get() - group.first().get()) as usize;
                gone.extend(group.entries[at].replace(location));
            }
            ItemKind::State => {
                gone.extend(group.state.replace(location));
                if let Some(damage) = &mut group.damage {
                    damage.state_known = !item.link.stale;
                }
            }
            ItemKind::Trim => {
                assert!(item.index <= group.last());
                let count = item.index.get().saturating_sub(group.trimmed.get());
                gone.extend(group.entries.drain(..count as usize).flatten());
                group.trimmed = group.trimmed.max(item.index);
                gone.extend(group.mark.replace(location));
            }
            ItemKind::Reset => {
                gone.extend(group.entries.drain(..).flatten());
                group.trimmed = item.index;
                gone.extend(group.mark.replace(location));
            }
            ItemKind::Truncate => {
                assert!(group.trimmed <= item.index);
                assert!(item.index <= group.last());
                let keep = (item.index.get() - group.trimmed.get()) as usize;
                gone.extend(group.entries.drain(keep..).flatten());
                is_live = false;
            }
            ItemKind::Repaired => {
                debug_assert!(group.holes().next().is_none());
                group.damage = None;
                is_live = false;
            }
            ItemKind::Mark => unreachable!("a mark changes no group"),
        }
        if let (Some(damage), ItemKind::Trim | ItemKind::Reset) = (&mut group.damage, item.kind) {
            damage.noted = true;
        }
        if group.damage.as_ref().is_some_and(|damage| !damage.noted) {
            self.not_noted.insert(item.group);
        } else if self.not_noted.remove(&item.group) {
            self.noted_up_to = seq;
        }
        if is_live {
            self.add(location);
        }
        for location in gone {
            self.remove(location, seq);
        }
    }

    /// Takes over what recovery found.
    pub(crate) fn insert(&mut self, group: GroupId, found: GroupIndex) {
        let all = found.entries.iter().flatten().chain(&found.mark).chain(&found.state);
        for location in all.copied().collect::<Vec<_>>() {
            self.add(location);
        }
        if found.damage.as_ref().is_some_and(|damage| !damage.noted) {
            self.not_noted.insert(group);
        }
        self.groups.insert(group, found);
    }

    fn add(&mut self, location: Location) {
        let live = self.live.entry(location.segment).or_default();
        live.items += 1;
        live.bytes += stored_bytes(location);
    }

    fn remove(&mut self, location: Location, seq: BatchSeq) {
        let live = self.live.get_mut(&location.segment).expect("a live item's segment is known");
        live.items -= 1;
        live.bytes -= stored_bytes(location);
        live.emptied_by = seq;
    }

    /// True if nothing in the segment is needed, and that is durable.
    pub(crate) fn is_free(&self, segment: SegmentId, durable: BatchSeq) -> bool {
        self.live.get(&segment).is_none_or(|live| live.items == 0 && live.emptied_by <= durable)
    }

    pub(crate) fn forget(&mut self, segment: SegmentId) {
        let live = self.live.remove(&segment);
        assert!(live.is_none_or(|live| live.items == 0), "freed a segment that is needed");
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.values().map(|live| live.bytes).sum()
    }

    pub(crate) fn live_bytes_in(&self, segment: SegmentId) -> u64 {
        self.live.get(&segment).map_or(0, |live| live.bytes)
    }

    pub(crate) fn live_count_in(&self, segment: SegmentId) -> u64 {
        self.live.get(&segment).map_or(0, |live| live.items)
    }

    /// What is still needed of a segment.
    pub(crate) fn live_items(&self, segment: SegmentId) -> Vec<LiveItem> {
        let mut items = Vec::new();
        for (group, found) in &self.groups {
            let mut take = |kind, index, location: &Location| {
                if location.segment == segment {
                    items.push(LiveItem { kind, group: *group, index, location: *location });
                }
            };
            if let Some(location) = &found.mark {
                take(ItemKind::Trim, found.trimmed, location);
            }
            if let Some(location) = &found.state {
                take(ItemKind::State, LogIndex::ZERO, location);
            }
            let mut index = found.trimmed;
            for location in &found.entries {
                index = index.next();
                if let Some(location) = location {
                    take(ItemKind::Moved, index, location);
                }
            }
        }
        items
    }

    /// True if the item still lies where it was found.
    pub(crate) fn is_current(&self, item: &LiveItem) -> bool {
        let Some(group) = self.groups.get(&item.group) else { return false };
        let current = match item.kind {
            ItemKind::State => group.state.as_ref(),
            ItemKind::Trim => group.mark.as_ref(),
            _ => group.entry(item.index),
        };
        current == Some(&item.location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId::new(1);
    const FIRST: SegmentId = SegmentId::new(1);
    const SECOND: SegmentId = SegmentId::new(2);

    fn item(kind: ItemKind, index: u64, payload_len: u32) -> Item {
        let (link, index) = (Link::default(), LogIndex::new(index));
        Item {
            kind,
            group: GROUP,
            index,
            link,
            payload_pos: 69,
            payload_len,
            payload_crc: 0,
            sealed: false,
        }
    }

    /// Takes in one item a batch, the first of them in batch 1.
    fn index(items: &[(SegmentId, Item)]) -> Index {
        let mut index = Index::default();
        for (at, (segment, item)) in items.iter().enumerate() {
            index.apply(item, *segment, 96 * (at as u64 + 1), BatchSeq::new(at as u64 + 1));
        }
        index
    }

    /// Two entries and a register; then the trim mark of the first, elsewhere.
    fn trimmed() -> Index {
        index(&[
            (FIRST, item(ItemKind::Append, 1, 10)),
            (FIRST, item(ItemKind::Append, 2, 20)),
            (FIRST, item(ItemKind::State, 0, 5)),
            (SECOND, item(ItemKind::Trim, 1, 0)),
        ])
    }

    #[test]
    fn live_bytes_are_those_of_what_is_needed() {
        let index = trimmed();
        let header = ITEM_HEADER_BYTES as u64;
        assert_eq!(index.live_bytes_in(FIRST), 25 + 2 * header);
        assert_eq!(index.live_bytes_in(SECOND), header);
        assert_eq!([FIRST, SECOND].map(|segment| index.live_count_in(segment)), [2, 1]);
        assert_eq!(index.live_bytes_in(SECOND.next()), 0);
        assert_eq!(index.live_bytes(), 25 + 3 * header);
    }

    #[test]
    fn a_segment_is_free_when_what_emptied_it_is_durable() {
        let mut index = index(&[
            (FIRST, item(ItemKind::Append, 1, 10)),
            (FIRST, item(ItemKind::Append, 2, 10)),
            (SECOND, item(ItemKind::Append, 1, 10)),
        ]);
        assert!(!index.is_free(FIRST, BatchSeq::new(2)), "batch 3 replaced both of them");
        assert!(index.is_free(FIRST, BatchSeq::new(3)));
        assert!(!index.is_free(SECOND, BatchSeq::new(3)));
        index.forget(FIRST);
        assert!(!index.live.contains_key(&FIRST));
    }

    #[test]
    #[should_panic(expected = "freed a segment that is needed")]
    fn a_segment_that_is_needed_is_not_freed() {
        trimmed().forget(FIRST);
    }

    #[test]
    fn what_moved_or_went_since_is_not_current() {
        let mut index = trimmed();
        let items: Vec<LiveItem> =
            [FIRST, SECOND].iter().flat_map(|segment| index.live_items(*segment)).collect();
        let kinds: Vec<ItemKind> = items.iter().map(|item| item.kind).collect();
        assert_eq!(kinds, [ItemKind::State, ItemKind::Moved, ItemKind::Trim]);
        assert!(items.iter().all(|item| index.is_current(item)));
        let seq = BatchSeq::new(9);
        for (pos, kind) in [(900, ItemKind::State), (990, ItemKind::Moved), (1080, ItemKind::Trim)]
        {
            let place = if kind == ItemKind::Moved { 2 } else { u64::from(kind == ItemKind::Trim) };
            index.apply(&item(kind, place, 1), SECOND, pos, seq);
        }
        assert!(!items.iter().any(|item| index.is_current(item)));
        let unknown = LiveItem { group: GroupId::new(2), ..items[0] };
        assert!(!index.is_current(&unknown));
    }

    /// W5: a damaged group is told of by a mark before the place where it was damaged is freed.
    #[test]
    fn a_damaged_group_waits_for_its_note() {
        let damaged = || {
            let mut index = Index::default();
            let damage = Some(Box::default());
            index.insert(GROUP, GroupIndex { damage, ..GroupIndex::default() });
            assert!(index.not_noted.contains(&GROUP));
            index
        };
        let mut index = damaged();
        index.apply(&item(ItemKind::State, 0, 1), FIRST, 96, BatchSeq::new(5));
        assert!(index.not_noted.contains(&GROUP), "a register tells of nothing for long");
        assert_eq!(index.noted_up_to, BatchSeq::ZERO);
        index.apply(&item(ItemKind::Trim, 0, 0), FIRST, 192, BatchSeq::new(6));
        assert!(index.not_noted.is_empty());
        assert_eq!(index.noted_up_to, BatchSeq::new(6));
        index.apply(&item(ItemKind::State, 0, 1), FIRST, 288, BatchSeq::new(7));
        assert_eq!(index.noted_up_to, BatchSeq::new(6), "it was told of");

        let mut repaired = damaged();
        repaired.apply(&item(ItemKind::Repaired, 0, 0), FIRST, 96, BatchSeq::new(5));
        assert!(repaired.not_noted.is_empty());
        assert_eq!(repaired.noted_up_to, BatchSeq::new(5));

        let mut other = damaged();
        let group = GroupId::new(2);
        other.apply(&Item { group, ..item(ItemKind::State, 0, 1) }, FIRST, 96, BatchSeq::new(5));
        assert!(!other.not_noted.contains(&group), "it is not damaged");
        assert_eq!(other.noted_up_to, BatchSeq::ZERO);
    }
}
