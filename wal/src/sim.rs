//! A disk with a seed: loses, tears and breaks what real ones do, the same way every time.
//!
//! What is written is seen at once by reads, as with a page cache, but a crash keeps of the unsynced
//! writes only what the seed says: none, all, or some of their sectors, each write on its own. Names
//! are kept in the order they were changed, up to a point that the seed picks.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::Disk;

/// What is written or lost as a whole.
const SECTOR: usize = 512;

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

/// What goes wrong, beside crashes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimFaults {
    /// This sync fails, counted from 1, and what it covered is lost.
    pub failing_sync: Option<u64>,
    /// This write fails, counted from 1.
    pub failing_write: Option<u64>,
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
    syncs: u64,
    writes: u64,
}

#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Where unsynced writes went.
    pending: Vec<(usize, usize)>,
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
            syncs: 0,
            writes: 0,
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
            for (pos, len) in std::mem::take(&mut data.pending) {
                let mode = next(&mut inner.random) % 4;
                for start in (pos / SECTOR * SECTOR..pos + len).step_by(SECTOR) {
                    let keep = match mode {
                        0 => false,
                        1 => true,
                        _ => next(&mut inner.random).is_multiple_of(2),
                    };
                    if keep {
                        let range = start.max(pos)..(start + SECTOR).min(pos + len);
                        if data.durable.len() < range.end {
                            data.durable.resize(range.end, 0);
                        }
                        data.durable[range.clone()].copy_from_slice(&data.bytes[range]);
                    }
                }
            }
            data.bytes = data.durable.clone();
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
        self.damage(name, |bytes| bytes[pos] ^= 1 << (bit % 8));
    }

    /// Fills one sector with zeros, synced or not.
    pub fn zero_sector(&self, name: &str, sector: usize) {
        self.damage(name, |bytes| {
            let end = bytes.len().min((sector + 1) * SECTOR);
            bytes[sector * SECTOR..end].fill(0);
        });
    }

    fn damage(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut inner = self.inner();
        let file = inner.names[name];
        let data = inner.files.get_mut(&file).expect("a name has a file");
        change(&mut data.bytes);
        change(&mut data.durable);
    }

    /// Syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.inner().syncs
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
        let capacity = inner.faults.capacity_bytes;
        if capacity.is_some_and(|capacity| inner.used_bytes() + bytes > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = inner.next_file;
        inner.next_file += 1;
        let zeros = vec![0; bytes as usize];
        let data = Data { bytes: zeros.clone(), durable: zeros, pending: Vec::new() };
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
        let from = data.bytes.get(pos..pos + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.writes += 1;
        if inner.faults.failing_write == Some(inner.writes) {
            return Err(io::Error::other("simulated write error"));
        }
        let data = inner.data(name)?;
        let pos = pos as usize;
        let end = pos + bytes.len();
        if data.bytes.len() < end {
            data.bytes.resize(end, 0);
        }
        data.bytes[pos..end].copy_from_slice(bytes);
        data.pending.push((pos, bytes.len()));
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.syncs += 1;
        let fails = inner.faults.failing_sync == Some(inner.syncs);
        let data = inner.data(name)?;
        if fails {
            // The page cache forgets that these pages were dirty, as Linux does.
            data.pending.clear();
            return Err(io::Error::other("simulated sync error"));
        }
        for (pos, len) in std::mem::take(&mut data.pending) {
            if data.durable.len() < pos + len {
                data.durable.resize(pos + len, 0);
            }
            data.durable[pos..pos + len].copy_from_slice(&data.bytes[pos..pos + len]);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
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
        inner.durable_names = inner.names.clone();
        inner.pending_names.clear();
        Ok(())
    }
}
