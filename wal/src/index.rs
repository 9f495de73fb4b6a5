//! Where everything live lies: entries, registers and trim marks of every group, by segment.
//!
//! A segment without live items can be freed, once the batch that took the last of them away is
//! durable. Only the oldest segment is ever freed, so what remains is one unbroken run of batches.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{Item, ItemKind};
use crate::position::{BatchSeq, GroupId, LogIndex, SegmentId};

/// Where a payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: SegmentId,
    /// Of the payload, from the start of the file.
    pub(crate) pos: u32,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

/// One group's part of the index.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    /// Entries up to here are gone.
    pub(crate) trimmed: LogIndex,
    /// Where the mark that says so lies. A group that was never trimmed has none.
    pub(crate) mark: Option<Location>,
    /// Entries after `trimmed`, without gaps.
    pub(crate) entries: VecDeque<Location>,
    pub(crate) state: Option<Location>,
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
        self.entries.get(usize::try_from(at).ok()?)
    }
}

#[derive(Debug, Default)]
struct Live {
    items: u64,
    bytes: u64,
    /// The batch that took away the last item.
    emptied_by: BatchSeq,
}

/// The whole index. Changes enter when a batch is submitted, before it is written.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) groups: BTreeMap<GroupId, GroupIndex>,
    live: BTreeMap<SegmentId, Live>,
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
    /// Takes in one item of batch `seq`, whose frame begins at `frame_pos`.
    pub(crate) fn apply(&mut self, item: &Item, segment: SegmentId, frame_pos: u64, seq: BatchSeq) {
        let pos = u32::try_from(frame_pos + u64::from(item.payload_pos))
            .expect("segments are shorter than 4 GiB");
        let location = Location { segment, pos, len: item.payload_len, crc: item.payload_crc };
        let group = self.groups.entry(item.group).or_default();
        let mut gone: Vec<Location> = Vec::new();
        match item.kind {
            ItemKind::Append => {
                assert!(group.trimmed < item.index);
                assert!(item.index <= group.last().next());
                let keep = (item.index.get() - group.first().get()) as usize;
                gone.extend(group.entries.drain(keep..));
                group.entries.push_back(location);
            }
            ItemKind::Moved => {
                let at = (item.index.get() - group.first().get()) as usize;
                gone.push(std::mem::replace(&mut group.entries[at], location));
            }
            ItemKind::State => gone.extend(group.state.replace(location)),
            ItemKind::Trim => {
                assert!(item.index <= group.last());
                let count = item.index.get().saturating_sub(group.trimmed.get());
                gone.extend(group.entries.drain(..count as usize));
                group.trimmed = group.trimmed.max(item.index);
                gone.extend(group.mark.replace(location));
            }
            ItemKind::Reset => {
                gone.extend(group.entries.drain(..));
                group.trimmed = item.index;
                gone.extend(group.mark.replace(location));
            }
        }
        self.add(location);
        for location in gone {
            self.remove(location, seq);
        }
    }

    /// Takes over what recovery found.
    pub(crate) fn insert(&mut self, group: GroupId, found: GroupIndex) {
        let all = found.entries.iter().chain(&found.mark).chain(&found.state);
        for location in all.copied().collect::<Vec<_>>() {
            self.add(location);
        }
        self.groups.insert(group, found);
    }

    fn add(&mut self, location: Location) {
        let live = self.live.entry(location.segment).or_default();
        live.items += 1;
        live.bytes += u64::from(location.len);
    }

    fn remove(&mut self, location: Location, seq: BatchSeq) {
        let live = self.live.get_mut(&location.segment).expect("a live item's segment is known");
        live.items -= 1;
        live.bytes -= u64::from(location.len);
        if live.items == 0 {
            live.emptied_by = seq;
        }
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
                take(ItemKind::Moved, index, location);
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
