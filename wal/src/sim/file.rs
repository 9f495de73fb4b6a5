//! One file of a simulated disk: what reads see, and what a crash would leave of it.
//!
//! The file is one buffer. Beside it lie, for the sectors that are not synced, what the medium holds
//! of them, and the writes that have not reached it, each with its own bytes: so a crash can also
//! bring back what a later write had replaced in the cache already.

use std::collections::BTreeMap;
use std::ops::Range;

use super::next;

/// What is written or lost as a whole.
pub(super) const SECTOR: usize = 512;

#[derive(Default)]
pub(super) struct SimFile {
    /// As reads see it.
    pub(super) bytes: Vec<u8>,
    pub(super) unreadable: Vec<Range<usize>>,
    durable_len: usize,
    /// What a crash brings back of sectors that were written and not synced, by sector.
    durable: BTreeMap<usize, Vec<u8>>,
    /// Unsynced writes, in order.
    pending: Vec<(usize, Vec<u8>)>,
}

impl SimFile {
    /// Zeros that are on the medium.
    pub(super) fn zeros(length: usize) -> Self {
        Self { bytes: vec![0; length], durable_len: length, ..Self::default() }
    }

    pub(super) fn write(&mut self, pos: usize, bytes: &[u8]) {
        let end = pos + bytes.len();
        for sector in pos / SECTOR..end.div_ceil(SECTOR) {
            let held = &self.bytes;
            self.durable.entry(sector).or_insert_with(|| {
                let start = (sector * SECTOR).min(held.len());
                held[start..(start + SECTOR).min(held.len())].to_vec()
            });
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[pos..end].copy_from_slice(bytes);
        self.pending.push((pos, bytes.to_vec()));
        // A drive gives a bad place another sector when it is written. The page cache has the rest of it.
        self.unreadable.retain(|place| end <= place.start || place.end <= pos);
    }

    /// What a write put into a sector reaches the medium.
    fn keep(&mut self, sector: usize, pos: usize, bytes: &[u8]) {
        let start = sector * SECTOR;
        let range = start.max(pos)..(start + SECTOR).min(pos + bytes.len());
        self.durable_len = self.durable_len.max(range.end);
        if let Some(held) = self.durable.get_mut(&sector) {
            held.resize(held.len().max(range.end - start), 0);
            held[range.start - start..range.end - start]
                .copy_from_slice(&bytes[range.start - pos..range.end - pos]);
        }
    }

    pub(super) fn sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for (pos, bytes) in &pending {
            for sector in sectors(*pos, bytes.len()) {
                self.keep(sector, *pos, bytes);
            }
        }
        for (pos, bytes) in &pending {
            for sector in sectors(*pos, bytes.len()) {
                let start = (sector * SECTOR).min(self.bytes.len());
                let cached = &self.bytes[start..(start + SECTOR).min(self.bytes.len())];
                // Another part of it may have been lost by a sync that failed.
                if self.durable.get(&sector).is_some_and(|held| held == cached) {
                    self.durable.remove(&sector);
                }
            }
        }
    }

    /// The page cache forgets that these pages were dirty, as Linux does when a sync fails: reads go
    /// on seeing them, and no later sync writes them.
    pub(super) fn fail_sync(&mut self) {
        self.pending.clear();
    }

    /// Of each unsynced write, none, all, or some sectors had reached the medium.
    pub(super) fn crash(&mut self, random: &mut u64) {
        for (pos, bytes) in std::mem::take(&mut self.pending) {
            let mode = next(random) % 4;
            for sector in sectors(pos, bytes.len()) {
                let is_kept = match mode {
                    0 => false,
                    1 => true,
                    _ => next(random).is_multiple_of(2),
                };
                if is_kept {
                    self.keep(sector, pos, &bytes);
                }
            }
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        self.lose_cached(&mut bytes);
        self.bytes = bytes;
        self.durable.clear();
    }

    /// What is on the medium, whatever else may be.
    pub(super) fn synced(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        self.lose_cached(&mut bytes);
        bytes
    }

    fn lose_cached(&self, bytes: &mut Vec<u8>) {
        bytes.resize(self.durable_len, 0);
        for (sector, held) in &self.durable {
            let start = sector * SECTOR;
            let end = (start + held.len()).min(bytes.len());
            if start < end {
                bytes[start..end].copy_from_slice(&held[..end - start]);
            }
        }
    }

    /// Changes what is stored, synced or not.
    pub(super) fn damage(&mut self, range: Range<usize>, change: impl Fn(usize, u8) -> u8) {
        let end = range.end.min(self.bytes.len());
        for at in range.start..end {
            self.bytes[at] = change(at, self.bytes[at]);
            if let Some(held) = self.durable.get_mut(&(at / SECTOR))
                && let Some(byte) = held.get_mut(at % SECTOR)
            {
                *byte = change(at, *byte);
            }
            for (pos, bytes) in &mut self.pending {
                if let Some(byte) = at.checked_sub(*pos).and_then(|at| bytes.get_mut(at)) {
                    *byte = change(at, *byte);
                }
            }
        }
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.durable_len = self.durable_len.min(length);
        self.durable.retain(|sector, _| sector * SECTOR < length);
        self.pending.retain(|(pos, bytes)| pos + bytes.len() <= length);
    }
}

fn sectors(pos: usize, length: usize) -> Range<usize> {
    pos / SECTOR..(pos + length).div_ceil(SECTOR)
}
