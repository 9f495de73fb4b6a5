//! A disk with a seed: loses, tears and breaks what real ones do, the same way every time.
//!
//! What is written is seen at once by reads, as with a page cache, but a crash keeps of the unsynced
//! writes only what the seed says: none, all, or some of their sectors, each write on its own. Names
//! are kept in the order they were changed, up to a point that the seed picks. A file is one buffer;
//! beside it lies what a crash would bring back, for the sectors that are not synced.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::Disk;

/// What is written or lost as a whole.
const SECTOR: usize = 512;
/// What is misdirected or swapped as a whole.
const BLOCK: usize = 4096;
/// The error number of a failing medium.
const EIO: i32 = 5;

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

/// What goes wrong, beside crashes. Every operation is counted from 1 over the disk's life.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimFaults {
    /// This sync fails, and what it covered is lost.
    pub failing_sync: Option<u64>,
    /// This write fails, and nothing of it is stored.
    pub failing_write: Option<u64>,
    /// This write fails after a part of it was stored.
    pub short_write: Option<u64>,
    /// This write says that it is done, and nothing of it is stored.
    pub lost_write: Option<u64>,
    /// This write says that it is done, and is stored elsewhere in the file.
    pub misdirected_write: Option<u64>,
    /// This creation of a file fails.
    pub failing_create: Option<u64>,
    /// This renaming fails.
    pub failing_rename: Option<u64>,
    /// This sync of the directory fails.
    pub failing_sync_dir: Option<u64>,
    /// Files may take so many bytes together.
    pub capacity_bytes: Option<u64>,
}

struct Inner {
    random: u64,
    faults: SimFaults,
    files: BTreeMap<u64, Data>,
    names: BTreeMap<String, u64>,
    /// The names as a crash would find them, before the pending changes.
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    next_file: u64,
    counts: SimCounts,
}

/// Operations so far, failed ones counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Syncs of a file.
    pub syncs: u64,
    /// Writes.
    pub writes: u64,
    /// Files made.
    pub creates: u64,
    /// Names changed.
    pub renames: u64,
    /// Syncs of the directory.
    pub dir_syncs: u64,
}

#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    durable_len: usize,
    /// What a crash brings back of sectors that were written and not synced, by sector.
    durable: BTreeMap<usize, Vec<u8>>,
    /// Where unsynced writes went.
    pending: Vec<(usize, usize)>,
    unreadable: Vec<Range<usize>>,
}

impl Data {
    fn write(&mut self, pos: usize, bytes: &[u8]) {
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
        self.pending.push((pos, bytes.len()));
        // A drive gives a bad place another sector when it is written as a whole.
        self.unreadable.retain(|place| place.start < pos || end < place.end);
    }

    /// A part of a sector reaches the medium, as it is in the cache.
    fn keep(&mut self, range: Range<usize>, cache: &[u8]) {
        let sector = range.start / SECTOR;
        let start = sector * SECTOR;
        self.durable_len = self.durable_len.max(range.end);
        if let Some(held) = self.durable.get_mut(&sector) {
            let length = held.len().max(range.end - start);
            held.resize(length, 0);
            let kept = &cache[range.start - start..range.end - start];
            held[range.start - start..range.end - start].copy_from_slice(kept);
        }
    }

    fn cached(&self, sector: usize) -> Vec<u8> {
        let start = (sector * SECTOR).min(self.bytes.len());
        self.bytes[start..(start + SECTOR).min(self.bytes.len())].to_vec()
    }

    fn sync(&mut self) {
        for (pos, len) in std::mem::take(&mut self.pending) {
            for sector in pos / SECTOR..(pos + len).div_ceil(SECTOR) {
                let start = sector * SECTOR;
                let range = start.max(pos)..(start + SECTOR).min(pos + len);
                let cache = self.cached(sector);
                self.keep(range, &cache);
                if self.durable.get(&sector) == Some(&cache) {
                    self.durable.remove(&sector);
                }
            }
        }
    }

    fn crash(&mut self, random: &mut u64) {
        for (pos, len) in std::mem::take(&mut self.pending) {
            let mode = next(random) % 4;
            for sector in pos / SECTOR..(pos + len).div_ceil(SECTOR) {
                let is_kept = match mode {
                    0 => false,
                    1 => true,
                    _ => next(random).is_multiple_of(2),
                };
                if is_kept {
                    let start = sector * SECTOR;
                    let range = start.max(pos)..(start + SECTOR).min(pos + len);
                    let cache = self.cached(sector);
                    self.keep(range, &cache);
                }
            }
        }
        self.bytes.resize(self.durable_len, 0);
        for (sector, held) in std::mem::take(&mut self.durable) {
            let start = sector * SECTOR;
            let end = (start + held.len()).min(self.bytes.len());
            if start < end {
                self.bytes[start..end].copy_from_slice(&held[..end - start]);
            }
        }
    }

    /// Changes what is stored, synced or not.
    fn damage(&mut self, range: Range<usize>, change: impl Fn(usize, u8) -> u8) {
        let end = range.end.min(self.bytes.len());
        for pos in range.start..end {
            self.bytes[pos] = change(pos, self.bytes[pos]);
            if let Some(held) = self.durable.get_mut(&(pos / SECTOR))
                && let Some(byte) = held.get_mut(pos % SECTOR)
            {
                *byte = change(pos, *byte);
            }
        }
    }
}

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Remove(String),
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let inner = Inner {
            random: seed,
            faults: SimFaults::default(),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            next_file: 0,
            counts: SimCounts::default(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Chooses what goes wrong from now on.
    pub fn set_faults(&self, faults: SimFaults) {
        self.inner().faults = faults;
    }

    /// Power fails. What was not synced is lost, kept or torn as the seed says.
    pub fn crash(&self) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        for data in inner.files.values_mut() {
            data.crash(&mut inner.random);
        }
        let kept = match inner.pending_names.len() {
            0 => 0,
            count => next(&mut inner.random) as usize % (count + 1),
        };
        for change in inner.pending_names.drain(..).take(kept) {
            apply(&mut inner.durable_names, change);
        }
        inner.names = inner.durable_names.clone();
    }

    /// Flips one bit of what is stored, synced or not.
    pub fn flip_bit(&self, name: &str, pos: usize, bit: u8) {
        self.data(name, |data| data.damage(pos..pos + 1, |_, byte| byte ^ 1 << (bit % 8)));
    }

    /// Fills one sector with zeros, synced or not.
    pub fn zero_sector(&self, name: &str, sector: usize) {
        self.data(name, |data| data.damage(sector * SECTOR..(sector + 1) * SECTOR, |_, _| 0));
    }

    /// Puts other bytes in place of what is stored, synced or not: old ones, as if the write that
    /// replaced them had been lost.
    pub fn overwrite(&self, name: &str, pos: usize, bytes: &[u8]) {
        self.data(name, |data| data.damage(pos..pos + bytes.len(), |at, _| bytes[at - pos]));
    }

    /// Exchanges two pieces of 4 KiB of a file.
    pub fn swap_blocks(&self, name: &str, one: usize, other: usize) {
        let bytes = self.contents(name);
        let block = |number: usize| {
            let start = (number * BLOCK).min(bytes.len());
            &bytes[start..(start + BLOCK).min(bytes.len())]
        };
        let length = block(one).len().min(block(other).len());
        self.overwrite(name, one * BLOCK, &block(other)[..length]);
        self.overwrite(name, other * BLOCK, &block(one)[..length]);
    }

    /// Reads that touch this place fail from now on.
    pub fn fail_reads(&self, name: &str, place: Range<usize>) {
        self.data(name, |data| data.unreadable.push(place));
    }

    /// The file loses its end.
    pub fn truncate(&self, name: &str, bytes: usize) {
        self.data(name, |data| {
            data.bytes.truncate(bytes);
            data.durable_len = data.durable_len.min(bytes);
            data.durable.retain(|sector, _| sector * SECTOR < bytes);
            data.pending.retain(|(pos, len)| pos + len <= bytes);
        });
    }

    /// The directory forgets the file for good.
    pub fn lose_file(&self, name: &str) {
        let mut inner = self.inner();
        inner.names.remove(name);
        inner.durable_names.remove(name);
        inner
            .pending_names
            .retain(|change| !matches!(change, NameChange::Set(set, _) if set == name));
    }

    /// What a file holds, without faults.
    #[must_use]
    pub fn contents(&self, name: &str) -> Vec<u8> {
        self.data(name, |data| data.bytes.clone())
    }

    fn data<T>(&self, name: &str, change: impl FnOnce(&mut Data) -> T) -> T {
        let mut inner = self.inner();
        change(inner.data(name).expect("the file exists"))
    }

    /// Syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.counts().syncs
    }

    /// Operations so far.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.inner().counts
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the disk")
    }
}

impl Inner {
    fn data(&mut self, name: &str) -> io::Result<&mut Data> {
        let file = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.get_mut(file).expect("a name has a file"))
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[file].bytes.len() as u64).sum()
    }

    fn change_name(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.pending_names.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: NameChange) {
    match change {
        NameChange::Set(name, file) => {
            names.retain(|_, named| *named != file);
            names.insert(name, file);
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
    }
}

/// Counts one more operation, and fails it if it is the chosen one.
fn count(count: &mut u64, failing: Option<u64>, what: &str) -> io::Result<()> {
    *count += 1;
    match failing {
        Some(failing) if failing == *count => {
            Err(io::Error::other(format!("simulated {what} error")))
        }
        _ => Ok(()),
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut inner = self.inner();
        let failing = inner.faults.failing_create;
        count(&mut inner.counts.creates, failing, "create")?;
        let capacity = inner.faults.capacity_bytes;
        if capacity.is_some_and(|capacity| inner.used_bytes() + bytes > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = inner.next_file;
        inner.next_file += 1;
        let durable_len = bytes as usize;
        let data = Data { bytes: vec![0; durable_len], durable_len, ..Data::default() };
        inner.files.insert(file, data);
        inner.change_name(NameChange::Set(name.to_owned(), file));
        Ok(())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.inner().data(name)?.bytes.len() as u64)
    }

    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let data = inner.data(name)?;
        let pos = pos as usize;
        let end = pos + buffer.len();
        if data.unreadable.iter().any(|place| place.start < end && pos < place.end) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let from = data.bytes.get(pos..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let SimFaults { failing_write, short_write, lost_write, misdirected_write, .. } =
            inner.faults;
        count(&mut inner.counts.writes, failing_write, "write")?;
        let number = Some(inner.counts.writes);
        let random = if number == short_write || number == misdirected_write {
            next(&mut inner.random) as usize
        } else {
            0
        };
        let data = inner.data(name)?;
        let mut pos = pos as usize;
        if number == short_write {
            data.write(pos, &bytes[..random % bytes.len().max(1)]);
            return Err(io::Error::other("simulated short write"));
        }
        if number == lost_write {
            return Ok(());
        }
        if number == misdirected_write {
            let places = (data.bytes.len().saturating_sub(bytes.len()) / BLOCK).max(1);
            let elsewhere = random % places * BLOCK + pos % BLOCK;
            pos = if elsewhere == pos { pos + BLOCK } else { elsewhere };
        }
        data.write(pos, bytes);
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let failing = inner.faults.failing_sync;
        let counted = count(&mut inner.counts.syncs, failing, "sync");
        let data = inner.data(name)?;
        if counted.is_err() {
            // The page cache forgets that these pages were dirty, as Linux does.
            data.pending.clear();
            return counted;
        }
        data.sync();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let failing = inner.faults.failing_rename;
        count(&mut inner.counts.renames, failing, "rename")?;
        let file = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.change_name(NameChange::Set(to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.inner();
        let failing = inner.faults.failing_sync_dir;
        count(&mut inner.counts.dir_syncs, failing, "sync of the directory")?;
        inner.durable_names = inner.names.clone();
        inner.pending_names.clear();
        Ok(())
    }
}
