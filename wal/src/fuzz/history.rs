//! Any run of calls, with crashes and damage between them: what the public API takes, it can read
//! back, and opening never panics on what the wal itself wrote.
//!
//! Each call is a byte, low nibble what, high nibble which group, and then its arguments. Bytes that
//! are missing at the end count as zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{IDENTITY, options};
use crate::disk::Disk;
use crate::keys::{KeyRing, KeyState, Keys, SeededRandomness};
use crate::note::{self, NOTE_NAME};
use crate::position::{BatchSeq, GroupId, LogIndex};
use crate::sim::SimDisk;
use crate::verdict::{Recovered, RecoveredGroup};
use crate::wal::Wal;
use crate::{WalError, Write};

const CALLS_MAX: usize = 200;

/// A group as far as the run keeps track of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    trimmed: u64,
    last: u64,
    state: Option<Bytes>,
}

type Groups = BTreeMap<GroupId, Held>;

struct Run {
    disk: SimDisk,
    /// What it is sealed with, if it is: another key after each start, and none before the first call.
    keys: Keys,
    ring: KeyRing,
    wal: Wal,
    /// Not yet submitted.
    batch: Vec<Write>,
    /// What each group has after everything submitted.
    groups: Groups,
    /// The same after each batch, for those that may still be cut and the last that may not.
    after: BTreeMap<BatchSeq, Groups>,
    /// Everything that each group ever was.
    ever: BTreeSet<(GroupId, Held)>,
    durable: BatchSeq,
    flipped: BTreeSet<(String, usize, u8)>,
    /// Groups with damage when it was opened, and those repaired since.
    damaged: BTreeSet<GroupId>,
    repaired: BTreeSet<GroupId>,
    unlisted_damaged: bool,
}

/// Well-formed is what was never refused and never damaged.
pub(super) fn run(raw: &[u8]) -> bool {
    run_with(raw, Keys::none())
}

/// The same, sealed, with a new key whenever the wal is maintained or opened.
pub(super) fn run_sealed(raw: &[u8]) -> bool {
    run_with(raw, Keys::with_randomness(KeyRing::default(), SeededRandomness::new(1)))
}

fn run_with(raw: &[u8], keys: Keys) -> bool {
    let disk = SimDisk::from_seed(raw.len() as u64);
    let (wal, _) = open(&disk, &keys);
    let mut run = Run {
        disk,
        keys,
        ring: KeyRing::default(),
        wal,
        batch: Vec::new(),
        groups: Groups::new(),
        after: BTreeMap::from([(BatchSeq::ZERO, Groups::new())]),
        ever: BTreeSet::new(),
        durable: BatchSeq::ZERO,
        flipped: BTreeSet::new(),
        damaged: BTreeSet::new(),
        repaired: BTreeSet::new(),
        unlisted_damaged: false,
    };
    let mut rest = raw.iter().copied();
    let mut is_fine = true;
    for _ in 0..CALLS_MAX {
        let Some(call) = rest.next() else { break };
        if let Err(error) = run.call(call, &mut rest) {
            let refused =
                matches!(error, WalError::InvalidArgument { .. } | WalError::Backpressure { .. });
            assert!(refused, "only a bad or an untimely batch is refused: {error}");
            is_fine = false;
        }
    }
    run.sync().expect("nothing fails");
    run.reopen(false);
    is_fine && run.flipped.is_empty()
}

fn open(disk: &SimDisk, keys: &Keys) -> (Wal, Recovered) {
    let disk = Arc::new(disk.clone());
    let mut options = options();
    if keys.are_given() {
        // As small as the rules allow for these.
        options.segment_bytes = 11 << 10;
    }
    let opened = Wal::open_with_keys(disk, IDENTITY, options, keys.clone());
    opened.expect("a wal opens what it wrote")
}

impl Run {
    /// Keys that nothing needs are let go of.
    fn rotate(&mut self) {
        if !self.keys.are_given() {
            return;
        }
        let seed = self.ring.epochs().count() as u64;
        self.ring.rotate(&SeededRandomness::new(seed)).expect("a seed gives randomness");
        let held = self.keys.held();
        let unused =
            |(epoch, state): &(_, _)| *state == KeyState::Readable && !held.contains_key(epoch);
        for (epoch, _) in self.ring.epochs().filter(unused).collect::<Vec<_>>() {
            self.ring.retire(epoch).expect("it is readable");
        }
        self.keys.replace(self.ring.clone()).expect("it opens all that is needed");
    }

    fn call(&mut self, call: u8, rest: &mut impl Iterator<Item = u8>) -> Result<(), WalError> {
        let mut byte = || rest.next().unwrap_or(0);
        let group = GroupId::new(u64::from(call >> 4) % 4);
        match call & 15 {
            0..4 => {
                let index = self.index(group, byte());
                let payload = Bytes::from(vec![call; usize::from(byte()) * 16]);
                self.batch.push(Write::Append { group, index, payload });
            }
            4 => {
                let payload = Bytes::from(vec![call; usize::from(byte()) * 32]);
                self.batch.push(Write::SetState { group, payload });
            }
            5 => self.batch.push(Write::Trim { group, up_to: self.index(group, byte()) }),
            6 => self.batch.push(Write::Reset { group, up_to: self.index(group, byte()) }),
            7 => self.submit()?,
            8 => {
                let index = self.index(group, byte());
                let payload = Bytes::from(vec![call; usize::from(byte()) * 16]);
                self.batch.push(Write::Restore { group, index, payload });
            }
            9 => drop(self.wal.write_queued()?),
            10 => self.sync()?,
            11 => {
                self.rotate();
                self.wal.maintain()?;
            }
            12 => {
                self.disk.crash();
                self.reopen(false);
            }
            13 => {
                self.sync()?;
                self.reopen(false);
            }
            14 => {
                let at = usize::from(byte()) << 8 | usize::from(byte());
                let names = self.disk.list().expect("nothing fails");
                let name = &names[usize::from(byte()) % names.len()];
                let at = at % self.disk.len(name).expect("it is listed") as usize;
                let bit = call >> 4 & 7;
                // What comes back is another matter.
                if self.flipped.insert((name.clone(), at, bit)) {
                    self.disk.flip_bit(name, at, bit);
                }
                // In memory nothing is wrong yet: only the next opening tells.
                self.disk.crash();
                self.reopen(true);
            }
            _ => match byte() % 3 {
                0 => self.batch.push(Write::Truncate { group, after: self.index(group, byte()) }),
                1 => self.batch.push(Write::Repaired { group }),
                _ => self.wal.forget_unlisted(),
            },
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), WalError> {
        let batch = std::mem::take(&mut self.batch);
        let seq = self.wal.submit(&batch)?;
        for write in batch {
            let group = write.group();
            let held = self.groups.entry(group).or_default();
            match write {
                Write::Append { index, .. } => held.last = index.get(),
                Write::SetState { payload, .. } => held.state = Some(payload),
                Write::Trim { up_to, .. } => held.trimmed = held.trimmed.max(up_to.get()),
                Write::Reset { up_to, .. } => {
                    (held.trimmed, held.last) = (up_to.get(), up_to.get());
                }
                Write::Truncate { after, .. } => held.last = after.get(),
                Write::Restore { .. } => {}
                Write::Repaired { group } => drop(self.repaired.insert(group)),
            }
        }
        self.ever.extend(self.groups.clone());
        self.after.insert(seq, self.groups.clone());
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.wal.write_queued()?;
        self.durable = self.wal.sync()?;
        Ok(())
    }

    /// Near the end of the group's log, or near one of the ends of all numbers.
    fn index(&self, group: GroupId, choice: u8) -> LogIndex {
        let last = self.groups.get(&group).map_or(0, |held| held.last);
        LogIndex::new(match choice {
            0..128 => last.saturating_add(1),
            128..240 => last.saturating_sub(u64::from(choice - 128)),
            240..248 => u64::from(choice - 240),
            248..252 => u64::from(u32::MAX) + u64::from(choice - 248),
            _ => u64::MAX - u64::from(255 - choice),
        })
    }

    fn reopen(&mut self, flipped: bool) {
        self.batch.clear();
        let written = self.wal.shared.commit().taken;
        self.rotate();
        let note_holds = self.note_holds();
        let (wal, recovered) = open(&self.disk, &self.keys);
        self.wal = wal;
        let found: Groups =
            recovered.groups.iter().map(|(id, group)| (*id, Held::from(group))).collect();
        if flipped {
            if note_holds {
                self.check_damaged(&recovered, &found);
            }
        } else {
            assert!(self.durable <= self.wal.durable(), "a durable batch is gone");
            assert!(self.wal.durable() <= written, "a batch came from nowhere");
            let (_, held) = self.after.range(..=self.wal.durable()).next_back().expect("a first");
            assert_eq!(self.known(held), self.known(&found));
            self.check_verdicts(&recovered);
        }
        self.check_entries(&recovered);
        self.durable = self.wal.durable();
        self.damaged =
            found.keys().filter(|group| recovered.is_damaged(**group)).copied().collect();
        self.repaired.clear();
        self.unlisted_damaged = recovered.unlisted_damaged;
        self.ever.extend(found.clone());
        self.after = BTreeMap::from([(self.durable, found.clone())]);
        self.groups = found;
    }

    /// Groups that have something, or are damaged. Another one is forgotten with the segment that said so.
    fn known<'a>(&self, groups: &'a Groups) -> Vec<(&'a GroupId, &'a Held)> {
        let is_known = |(id, held): &(&GroupId, &Held)| {
            let is_damaged = self.damaged.contains(id) && !self.repaired.contains(id);
            **held != Held::default() || is_damaged
        };
        groups.iter().filter(is_known).collect()
    }

    /// Nothing went bad since it was opened last.
    fn check_verdicts(&self, recovered: &Recovered) {
        if self.flipped.is_empty() {
            assert!(!recovered.verdict.is_damaged(), "damage that was not done: {recovered:?}");
            assert!(!recovered.unlisted_damaged);
        }
        for group in recovered.groups.keys() {
            let before = self.damaged.contains(group);
            if recovered.is_damaged(*group) {
                let may = before || self.unlisted_damaged;
                assert!(may, "group={group} is damaged and nothing was done to it");
            } else {
                let may = !before || self.repaired.contains(group);
                assert!(may, "group={group} was damaged and nobody repaired it");
            }
        }
    }

    /// What is not said to be damaged is what the group was once, if not at last: damage at the end
    /// can look like a torn tail. Where the note does not hold either, that may be a batch that others were
    /// moved into from a place that is gone, and nothing is asked.
    fn check_damaged(&self, recovered: &Recovered, found: &Groups) {
        for (group, held) in found {
            if !recovered.is_damaged(*group) {
                let known = self.ever.contains(&(*group, held.clone()));
                assert!(known, "group={group} never was {held:?}");
            }
        }
    }

    fn note_holds(&self) -> bool {
        let raw = self.disk.contents(NOTE_NAME);
        note::decode(&IDENTITY.domain(), &raw) != BatchSeq::ZERO
    }

    fn check_entries(&self, recovered: &Recovered) {
        let reader = self.wal.reader();
        for (id, group) in &recovered.groups {
            if let Some((first, last)) = reader.range(*id) {
                assert_eq!((first, last), (group.first, group.last));
                let read = reader.read(*id, first, last.next(), usize::MAX);
                let whole = read
                    .as_ref()
                    .is_ok_and(|read| read.len() as u64 == last.get() - first.get() + 1);
                assert!(whole || group.verdict.is_damaged(), "{read:?}");
            }
        }
    }
}

impl From<&RecoveredGroup> for Held {
    fn from(group: &RecoveredGroup) -> Self {
        let trimmed = group.first.get() - 1;
        Self { trimmed, last: group.last.get(), state: group.state.clone() }
    }
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let append = [0x10, 0, 8];
    let sync = [0x07, 0x0a];
    let busy: Vec<u8> =
        (0..30).flat_map(|_| [&append[..], &[0x20, 0, 99], &sync, &[0x0b]].concat()).collect();
    // Two batches on their way when power fails, then others in their place.
    let big = [0x10, 0, 60, 0x07, 0x09];
    let crashes: Vec<u8> = (0..8)
        .flat_map(|_| [&big[..], &big, &big, &[0x0c], &big, &[0x0a, 0x0c, 0x0d, 0x0b]].concat())
        .collect();
    // An entry takes the place of the last three.
    let one = [0x10, 0, 8, 0x07];
    let replaced = [&one[..], &one, &one, &one, &[0x10, 130, 1], &sync, &[0x0d]].concat();
    // The second batch goes bad; its entry is restored and the group repaired.
    let frame = 0x7e;
    let again = [0x18, 129, 8, 0x1f, 1, 0x07, 0x0a, 0x0b, 0x0d];
    let repaired =
        [&one[..], &[0x0a], &one, &[0x0a], &one, &[0x0a, 0x0b, frame, 1, 120, 2], &again].concat();
    vec![
        ("good-crashes".to_owned(), crashes),
        ("good-replaced".to_owned(), replaced),
        ("good-append".to_owned(), [&append[..], &sync].concat()),
        ("good-crash".to_owned(), [&append[..], &[0x07, 0x09, 0x0c], &append, &sync].concat()),
        ("good-many-segments".to_owned(), busy.clone()),
        (
            "good-trim-and-reset".to_owned(),
            [&append[..], &append, &[0x07, 0x15, 128, 0x26, 240, 0x14, 9], &sync, &[0x0d]].concat(),
        ),
        ("refused-gap".to_owned(), [0x10, 250, 1, 0x07].to_vec()),
        ("good-empty-entry-last".to_owned(), [&[0; 24], &sync[..]].concat()),
        ("refused-last-index".to_owned(), [&[0x26, 255, 0x20, 0, 1], &sync[..]].concat()),
        ("damaged".to_owned(), [&busy[..], &[0x1e, 0, 200, 0]].concat()),
        ("damaged-and-repaired".to_owned(), repaired),
    ]
}
