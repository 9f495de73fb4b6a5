//! One group's log, rebuilt from its items, and what a loss of batches means for it.
//!
//! ```text
//!   batch   5      6     [7 ... 9 lost]     10            11
//!   group   a      b          ?             b, prev 6     a, prev 8
//! ```
//! Every item names the batch before that changed its group. The first item of **b** behind the lost
//! run names the last one that was read: nothing of b was lost. That of **a** does not: a is damaged.
//! A group that no later batch changes may have lost something: it is damaged too.
//!
//! Damage is remembered. What is written to a damaged group says so, until the group is repaired; and
//! the repair names the lost runs that it knew of, so that it never covers a later loss.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::frame::{Item, ItemKind};
use crate::index::{GroupDamage, GroupIndex, Location, Lost};
use crate::position::{BatchSeq, BytePos, GroupId, LogIndex, SegmentId};
use crate::verdict::{Damage, RecoveredGroup, Verdict};

/// More missing entries than this, of all groups together, are not kept room for: a log then begins
/// behind them.
pub(crate) const HOLE_ENTRIES_MAX: u64 = 1 << 21;

/// A run of batches that were promised and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) first: BatchSeq,
    pub(crate) last: BatchSeq,
    /// Where the first of them should be.
    pub(crate) at: (SegmentId, u64),
    /// It is one frame, and the next one was read and repeats its registers.
    pub(crate) copied: bool,
}

/// Before which batches something is known to be gone rather than lost, and what is lost.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Batches before this one lay in segments that were freed.
    pub(crate) oldest: BatchSeq,
    /// In order.
    pub(crate) gaps: Vec<Gap>,
}

impl Losses {
    /// The gaps behind a batch.
    fn behind(&self, seq: BatchSeq) -> &[Gap] {
        &self.gaps[self.gaps.partition_point(|gap| gap.first <= seq)..]
    }

    pub(crate) fn runs(&self) -> Vec<Lost> {
        self.gaps.iter().map(|gap| (gap.first, gap.last)).collect()
    }
}

/// Where an item was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) segment: SegmentId,
    pub(crate) frame_pos: u64,
    pub(crate) seq: BatchSeq,
}

struct Entry {
    location: Location,
    /// The batch that brought it; zero for a copy whose original was not read.
    written: BatchSeq,
}

struct Suspicion {
    /// What was written in this batch or later is behind the last loss.
    since: BatchSeq,
    state_known: bool,
    lost: Vec<Lost>,
    at: (SegmentId, u64),
}

/// One group's log so far.
#[derive(Default)]
pub(crate) struct Chain {
    trimmed: LogIndex,
    mark: Option<Location>,
    /// The mark says that the group is damaged.
    noted: bool,
    entries: BTreeMap<LogIndex, Entry>,
    last: LogIndex,
    /// The batch that last said where the log ends.
    end_said: BatchSeq,
    state: Option<(Location, Bytes)>,
    /// The last batch that changed it.
    changed: BatchSeq,
    /// Nothing of the group is missing right before that one.
    is_unbroken: bool,
    suspicion: Option<Suspicion>,
}

impl Chain {
    /// Takes the next item of the group.
    pub(crate) fn item(&mut self, item: &Item, payload: &[u8], place: Place, losses: &Losses) {
        let Some(location) = Location::of(item, place.segment, place.frame_pos) else { return };
        // All items of a batch name the same batch before.
        if self.changed != place.seq {
            self.judge(item, place, losses);
            self.changed = place.seq;
        }
        let entry = Entry { location, written: place.seq };
        match item.kind {
            ItemKind::Append => {
                self.entries.split_off(&item.index);
                self.entries.insert(item.index, entry);
                self.end(item.index, place);
                if item.index <= self.trimmed {
                    // A reset to an earlier place is lost.
                    self.trimmed = LogIndex::new(item.index.get() - 1);
                }
            }
            ItemKind::Restore => {
                self.entries.insert(item.index, entry);
                self.last = self.last.max(item.index);
            }
            ItemKind::Moved => {
                // A copy is as old as its original.
                let written = self.entries.get(&item.index).map_or(BatchSeq::ZERO, |it| it.written);
                self.entries.insert(item.index, Entry { location, written });
                self.last = self.last.max(item.index);
            }
            ItemKind::State => self.set_state(item, payload, location),
            ItemKind::Trim => {
                self.trimmed = self.trimmed.max(item.index);
                self.last = self.last.max(item.index);
                self.mark = Some(location);
                self.noted = item.link.damaged;
            }
            ItemKind::Reset => {
                self.entries.clear();
                self.trimmed = item.index;
                self.end(item.index, place);
                self.mark = Some(location);
                self.noted = item.link.damaged;
            }
            ItemKind::Truncate => self.truncate(item.index, place),
            ItemKind::Repaired => {
                self.truncate(item.index, place);
                self.repaired(payload);
                // What it told has ended; a loss that is found later needs a mark of its own.
                self.noted = false;
            }
            ItemKind::Mark => {}
        }
        let first = self.trimmed.next();
        if self.entries.first_key_value().is_some_and(|(index, _)| *index < first) {
            self.entries = self.entries.split_off(&first);
        }
    }

    fn set_state(&mut self, item: &Item, payload: &[u8], location: Location) {
        // A repeated register stays where it was first written: the copy lies behind it, and so is
        // there for as long. A sealed one never looks the same, and says that it is a copy: of what is held, if
        // nothing of the group is missing in between.
        let repeats =
            |(_, held): &(Location, Bytes)| held == payload || item.link.copied && self.is_unbroken;
        if !self.state.as_ref().is_some_and(repeats) {
            self.state = Some((location, Bytes::copy_from_slice(payload)));
        }
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.state_known = !item.link.stale;
        }
    }

    fn end(&mut self, last: LogIndex, place: Place) {
        self.last = last;
        self.end_said = place.seq;
    }

    fn truncate(&mut self, after: LogIndex, place: Place) {
        self.entries.split_off(&after.next());
        self.end(after.max(self.trimmed), place);
    }

    /// Whether something of the group lies in what was lost before this item's batch.
    fn judge(&mut self, item: &Item, place: Place, losses: &Losses) {
        let passed = losses.behind(self.changed);
        let prev = item.link.prev;
        let unbroken = if self.changed == BatchSeq::ZERO {
            prev == BatchSeq::ZERO || prev < losses.oldest
        } else {
            prev == self.changed
        };
        // The one who wrote to a damaged group did not know what was lost, and so named the last
        // batch that it had read. That proves nothing.
        self.is_unbroken = unbroken;
        let said = item.link.damaged && (self.suspicion.is_none() || !passed.is_empty());
        if !unbroken || said {
            self.suspect(place.seq, passed, (place.segment, place.frame_pos));
        }
    }

    fn suspect(&mut self, since: BatchSeq, passed: &[Gap], here: (SegmentId, u64)) {
        let held = self.suspicion.take();
        let known_before = held.as_ref().is_none_or(|held| held.state_known);
        let copied = !passed.is_empty() && passed.iter().all(|gap| gap.copied);
        let mut lost = held.map_or_else(Vec::new, |held| held.lost);
        lost.extend(passed.iter().map(|gap| (gap.first, gap.last)));
        let at = passed.last().map_or(here, |gap| gap.at);
        self.suspicion = Some(Suspicion { since, state_known: known_before && copied, lost, at });
    }

    /// Lifts the suspicion, but for losses that the repair does not name: they came later.
    fn repaired(&mut self, payload: &[u8]) {
        let Some(suspicion) = &mut self.suspicion else { return };
        let named: Vec<(u64, u64)> = payload
            .chunks_exact(16)
            .map(|raw| {
                let seq = |at: usize| {
                    u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
                };
                (seq(0), seq(8))
            })
            .collect();
        suspicion.lost.retain(|(first, last)| {
            !named.iter().any(|named| named.0 <= first.get() && last.get() <= named.1)
        });
        if suspicion.lost.is_empty() {
            self.suspicion = None;
        }
    }

    /// What it comes to, when everything is read. `room` is how many missing entries may be kept
    /// room for, of this group and those after it.
    pub(crate) fn finish(
        mut self,
        losses: &Losses,
        room: &mut u64,
    ) -> (RecoveredGroup, GroupIndex) {
        let passed = losses.behind(self.changed);
        if !passed.is_empty() {
            self.suspect(BatchSeq::new(u64::MAX), passed, (SegmentId::new(0), 0));
        }
        self.bound_holes(room);
        let mut holes = self.holes();
        if self.suspicion.is_none() && !holes.is_empty() {
            // An unbroken run of batches holds unbroken logs. If one is not, an oldest segment is
            // gone, and with it any register that was not set since.
            let at = self.entries.values().next().map(|entry| entry.location);
            self.suspicion = Some(Suspicion {
                since: BatchSeq::new(u64::MAX),
                state_known: self.state.is_some(),
                lost: Vec::new(),
                at: at.map_or((SegmentId::new(0), 0), |at| (at.segment, 0)),
            });
        }
        let whole_from = self.whole_from();
        let last = self.last;
        let verdict = self.suspicion.as_ref().map_or(Verdict::Clean, |suspicion| {
            let (segment, pos) = suspicion.at;
            Verdict::Damaged { segment, byte_pos: BytePos::new(pos) }
        });
        let damage = self.suspicion.as_ref().map(|suspicion| Damage {
            state_known: suspicion.state_known,
            holes: std::mem::take(&mut holes),
            whole_from,
        });
        let noted = self.noted;
        let index_damage = self.suspicion.map(|suspicion| {
            Box::new(GroupDamage {
                state_known: suspicion.state_known,
                lost: suspicion.lost,
                noted,
            })
        });
        let (state_location, state) = self.state.unzip();
        let mut entries = std::collections::VecDeque::new();
        for (index, entry) in self.entries {
            let at = index.get() - self.trimmed.get() - 1;
            entries.resize(at as usize, None);
            entries.push_back(Some(entry.location));
        }
        entries.resize((last.get() - self.trimmed.get()) as usize, None);
        let index = GroupIndex {
            trimmed: self.trimmed,
            mark: self.mark,
            entries,
            state: state_location,
            changed: self.changed,
            changed_before: BatchSeq::ZERO,
            damage: index_damage,
        };
        assert_eq!(index.last(), last);
        let first = index.first();
        (RecoveredGroup { verdict, state, first, last, damage }, index)
    }

    /// Lets go of what lies before a hole that there is no room for.
    fn bound_holes(&mut self, room: &mut u64) {
        let mut begin = self.trimmed.get();
        let mut next = self.last.get() + 1;
        for index in self.entries.keys().rev().map(|index| index.get()).chain([begin]) {
            let missing = next - index - 1;
            if *room < missing {
                begin = next - 1;
                break;
            }
            *room -= missing;
            next = index;
        }
        if self.trimmed.get() < begin {
            self.trimmed = LogIndex::new(begin);
            self.entries = self.entries.split_off(&self.trimmed.next());
            if self.suspicion.is_none() {
                self.suspect(BatchSeq::new(u64::MAX), &[], (SegmentId::new(0), 0));
            }
        }
    }

    fn holes(&self) -> Vec<(LogIndex, LogIndex)> {
        let mut holes = Vec::new();
        let mut next = self.trimmed.next();
        let end = LogIndex::new(self.last.get() + 1);
        for index in self.entries.keys().copied().chain([end]) {
            if next < index {
                holes.push((next, LogIndex::new(index.get() - 1)));
            }
            next = LogIndex::new(index.get().saturating_add(1));
        }
        holes
    }

    fn whole_from(&self) -> Option<LogIndex> {
        let since = self.suspicion.as_ref()?.since;
        if self.end_said < since {
            return None;
        }
        let mut from = LogIndex::new(self.last.get() + 1);
        for (index, entry) in self.entries.iter().rev() {
            if index.get() + 1 != from.get() || entry.written < since {
                break;
            }
            from = *index;
        }
        Some(from)
    }
}

/// The logs of all groups.
pub(crate) type Chains = BTreeMap<GroupId, Chain>;

#[cfg(test)]
mod tests {
    use crate::frame::Link;

    use super::*;

    fn index(raw: u64) -> LogIndex {
        LogIndex::new(raw)
    }

    /// A group whose batches were all read, item by item.
    fn chain(items: &[(ItemKind, u64)]) -> Chain {
        let mut chain = Chain::default();
        for (at, (kind, index)) in items.iter().enumerate() {
            let seq = BatchSeq::new(at as u64 + 1);
            let item = Item {
                kind: *kind,
                group: GroupId::new(1),
                index: LogIndex::new(*index),
                link: Link { prev: chain.changed, ..Link::default() },
                payload_pos: 0,
                payload_len: 0,
                payload_crc: 0,
                sealed: false,
            };
            let place = Place { segment: SegmentId::new(1), frame_pos: 0, seq };
            chain.item(&item, &[], place, &Losses::default());
        }
        chain
    }

    fn finish(chain: Chain, room: &mut u64) -> (RecoveredGroup, GroupIndex) {
        chain.finish(&Losses::default(), room)
    }

    /// Entries 1, 2, 6 and 9: three are missing, and then two.
    fn with_holes() -> Chain {
        chain(&[1, 2, 6, 9].map(|index| (ItemKind::Append, index)))
    }

    #[test]
    fn holes_are_kept_as_long_as_there_is_room() {
        let mut room = 5;
        let (group, found) = finish(with_holes(), &mut room);
        assert_eq!((group.first, group.last), (index(1), index(9)));
        assert_eq!(group.damage.unwrap().holes, [(index(3), index(5)), (index(7), index(8))]);
        assert_eq!(found.holes().count(), 5);
        assert_eq!(room, 0, "what is left is for the groups after it");
    }

    #[test]
    fn a_log_begins_behind_the_hole_that_there_is_no_room_for() {
        let mut room = 4;
        let (group, found) = finish(with_holes(), &mut room);
        assert_eq!((group.first, group.last), (index(6), index(9)));
        assert_eq!(group.damage.unwrap().holes, [(index(7), index(8))]);
        assert!(found.entry(index(6)).is_some());
        assert_eq!(room, 2);

        let mut room = 1;
        let (group, _) = finish(with_holes(), &mut room);
        assert_eq!((group.first, group.last), (index(9), index(9)));
        assert!(group.verdict.is_damaged(), "what was let go of is missing, hole or not");
        assert_eq!(group.damage.unwrap().holes, []);
    }

    #[test]
    fn missing_entries_before_the_first_need_room_too() {
        let front = || chain(&[(ItemKind::Append, 4)]);
        let (group, _) = finish(front(), &mut 3);
        assert_eq!(group.damage.unwrap().holes, [(index(1), index(3))]);
        let (group, _) = finish(front(), &mut 2);
        assert_eq!((group.first, group.damage.unwrap().holes), (index(4), Vec::new()));
    }

    #[test]
    fn a_log_without_holes_needs_no_room() {
        let (group, _) = finish(chain(&[(ItemKind::Append, 1), (ItemKind::Append, 2)]), &mut 0);
        assert_eq!((group.verdict, group.first, group.last), (Verdict::Clean, index(1), index(2)));
    }

    /// Only a reset to an earlier place could have made way for it.
    #[test]
    fn an_append_below_what_is_trimmed_begins_the_log_anew() {
        let anew = chain(&[(ItemKind::Reset, 10), (ItemKind::Append, 3)]);
        let (group, found) = finish(anew, &mut 0);
        assert_eq!((group.first, group.last), (index(3), index(3)));
        assert!(found.entry(index(3)).is_some());
    }
}
