//! A disk with a seed: loses, tears and breaks what real ones do, the same way every time.
//!
//! What is written is seen at once by reads, as with a page cache, but a crash keeps of the unsynced
//! writes only what the seed says: none, all, or some of their sectors, each write on its own. Of the
//! names that were changed and not synced it keeps those up to some point, or any of them, each whole:
//! a renamed file has one of its two names, and a name that was taken over has one of its two files.
//!
//! Power can also fail in the middle of an operation, see [`SimDisk::fail_power_after`].

mod evidence;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::Disk;
use file::{SECTOR, SimFile};

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
    /// This removal fails.
    pub failing_remove: Option<u64>,
    /// This read fails, and the next of the same place may not.
    pub failing_read: Option<u64>,
    /// What this read gives is altered on its way, and what is stored is not: one bit, where damage of the
    /// place can be told (see [`SimDisk::shows_synced`]).
    pub altered_read: Option<u64>,
    /// This sync of the directory fails.
    pub failing_sync_dir: Option<u64>,
    /// Files may take so many bytes together. What goes over it is stored as far as it fits, and
    /// fails.
    pub capacity_bytes: Option<u64>,
    /// A write needs room beside what it replaces, as with file systems that copy on write.
    pub copies_on_write: bool,
}

struct Inner {
    random: u64,
    faults: SimFaults,
    files: BTreeMap<u64, SimFile>,
    names: BTreeMap<String, u64>,
    /// The names as a crash would find them, before the pending changes.
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    next_file: u64,
    counts: SimCounts,
    strikes: BTreeMap<&'static str, u64>,
    /// The last write that was lost or went astray, while nothing shows it.
    hidden: Option<Hidden>,
    power: Power,
}

/// A write that nobody can miss yet.
struct Hidden {
    file: u64,
    /// The file was synced since.
    is_covered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// It fails in the middle of the operation after so many more.
    FailsAfter(u64),
    Off,
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
    /// Files removed.
    pub removes: u64,
    /// Syncs of the directory.
    pub dir_syncs: u64,
    /// Reads.
    pub reads: u64,
}

impl SimCounts {
    /// All that may change what a crash leaves: reads do not.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let Self { syncs, writes, creates, renames, removes, dir_syncs, reads: _ } = self;
        syncs + writes + creates + renames + removes + dir_syncs
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
            strikes: BTreeMap::new(),
            hidden: None,
            power: Power::On,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Chooses what goes wrong from now on.
    pub fn set_faults(&self, faults: SimFaults) {
        self.inner().faults = faults;
    }

    /// Changes what goes wrong from now on: what else was chosen still will.
    pub fn change_faults(&self, change: impl FnOnce(&mut SimFaults)) {
        change(&mut self.inner().faults);
    }

    /// How often each chosen fault has come about.
    #[must_use]
    pub fn strikes(&self) -> BTreeMap<&'static str, u64> {
        self.inner().strikes.clone()
    }

    /// Power fails in the middle of the changing operation (see [`SimCounts::changes`]) after this
    /// many more. It may have been done, in part or not at all, and the caller is told nothing but an
    /// error; so is every later operation, reads too, until [`SimDisk::crash`]. Who drives a node looks
    /// at [`SimDisk::has_power`] whenever it fails, and takes that for the machine being gone.
    pub fn fail_power_after(&self, changes: u64) {
        self.inner().power = Power::FailsAfter(changes);
    }

    /// False once power failed in the middle of an operation, until [`SimDisk::crash`].
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.inner().power != Power::Off
    }

    /// Power fails, if it has not yet, and comes back. What was not synced is lost, kept or torn as
    /// the seed says.
    pub fn crash(&self) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.power = Power::On;
        inner.hidden = None;
        for file in inner.files.values_mut() {
            file.crash(&mut inner.random);
        }
        let changes = std::mem::take(&mut inner.pending_names);
        if !changes.is_empty() {
            let mut draw = next(&mut inner.random);
            let in_order = draw >> 63 == 0;
            let kept = draw as usize % (changes.len() + 1);
            for (number, change) in changes.into_iter().enumerate() {
                let is_kept =
                    if in_order { number < kept } else { next(&mut draw).is_multiple_of(2) };
                if is_kept {
                    apply(&mut inner.durable_names, change);
                }
            }
        }
        inner.names = inner.durable_names.clone();
        inner.forget_nameless();
    }

    /// A crash that happens to keep all that was written to files.
    pub fn crash_late(&self) {
        self.inner().files.values_mut().for_each(SimFile::sync);
        self.crash();
    }

    /// A write was lost or went astray, and what has been synced since does not show it: power that fails
    /// now would leave a log that nobody can tell from one that was never longer.
    #[must_use]
    pub fn hides_a_loss(&self) -> bool {
        self.inner().hidden.is_some()
    }

    /// Whether the segment's synced bytes outside of this place show that the batches in it were synced.
    /// Where nothing does, nobody can tell damage of the place, and power that fails, from a write that
    /// power cut.
    #[must_use]
    pub fn shows_synced(&self, name: &str, place: Range<usize>) -> bool {
        self.data(name, |data| evidence::shows(&data.synced(), &place))
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

    /// What could not be read can be read again, if it is still there.
    pub fn mend_reads(&self) {
        self.inner().files.values_mut().for_each(|file| file.unreadable.clear());
    }

    /// The file loses its end.
    pub fn truncate(&self, name: &str, bytes: usize) {
        self.data(name, |file| file.truncate(bytes));
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

    fn data<T>(&self, name: &str, change: impl FnOnce(&mut SimFile) -> T) -> T {
        let mut inner = self.inner();
        change(inner.data(name).expect("the file exists"))
    }

    /// Bytes that the files take together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.inner().used_bytes()
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
    fn data(&mut self, name: &str) -> io::Result<&mut SimFile> {
        let file = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.get_mut(file).expect("a name has a file"))
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[file].bytes.len() as u64).sum()
    }

    fn free_bytes(&self) -> Option<u64> {
        let capacity = self.faults.capacity_bytes?;
        Some(capacity.saturating_sub(self.used_bytes()))
    }

    fn change_name(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.pending_names.push(change);
    }

    /// A chosen fault comes about.
    fn strike(&mut self, what: &'static str) {
        *self.strikes.entry(what).or_default() += 1;
    }

    fn no_space(&mut self) -> io::Error {
        self.strike("no space");
        io::ErrorKind::StorageFull.into()
    }

    /// The operation that has just been counted fails, if it is the chosen one.
    fn fail(&mut self, count: u64, failing: Option<u64>, what: &'static str) -> io::Result<()> {
        if failing != Some(count) {
            return Ok(());
        }
        self.strike(what);
        Err(io::Error::other(format!("simulated {what}")))
    }

    /// What no crash can bring back is gone.
    fn forget_nameless(&mut self) {
        assert!(self.pending_names.is_empty());
        let named: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        self.files.retain(|file, _| named.contains(file));
    }

    /// One sync of the file covers the loss, and the next what was written behind that.
    fn show_in(&mut self, name: &str) {
        let file = self.names[name];
        if let Some(hidden) = self.hidden.as_mut().filter(|hidden| hidden.file == file) {
            if hidden.is_covered {
                self.hidden = None;
            } else {
                hidden.is_covered = true;
            }
        }
    }

    fn need_power(&self) -> io::Result<()> {
        if self.power == Power::Off { Err(power_failure()) } else { Ok(()) }
    }

    /// A changing operation begins. Returns whether power fails in the middle of it.
    fn is_cut(&mut self) -> io::Result<bool> {
        self.need_power()?;
        if let Power::FailsAfter(left) = self.power {
            self.power = left.checked_sub(1).map_or(Power::Off, Power::FailsAfter);
        }
        Ok(self.power == Power::Off)
    }
}

fn power_failure() -> io::Error {
    io::Error::other("simulated power failure")
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
        let inner = self.inner();
        inner.need_power()?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut inner = self.inner();
        let is_cut = inner.is_cut()?;
        inner.counts.creates += 1;
        let (count, failing) = (inner.counts.creates, inner.faults.failing_create);
        inner.fail(count, failing, "failing create")?;
        let fits = inner.free_bytes().map_or(bytes, |free| bytes.min(free));
        let made = if is_cut { next(&mut inner.random) % (fits + 1) } else { fits };
        let file = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(file, SimFile::zeros(made as usize));
        inner.change_name(NameChange::Set(name.to_owned(), file));
        if is_cut {
            return Err(power_failure());
        }
        if made < bytes { Err(inner.no_space()) } else { Ok(()) }
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let mut inner = self.inner();
        inner.need_power()?;
        Ok(inner.data(name)?.bytes.len() as u64)
    }

    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.need_power()?;
        inner.counts.reads += 1;
        if inner.faults.failing_read == Some(inner.counts.reads) {
            inner.strike("failing read");
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let is_altered = inner.faults.altered_read == Some(inner.counts.reads);
        let random = if is_altered { next(&mut inner.random) } else { 0 };
        let file = inner.data(name)?;
        let pos = pos as usize;
        let end = pos + buffer.len();
        if file.unreadable.iter().any(|place| place.start < end && pos < place.end) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let from = file.bytes.get(pos..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(from);
        if is_altered && !buffer.is_empty() {
            let at = random as usize % buffer.len();
            let sector = (pos + at) / SECTOR * SECTOR;
            if evidence::shows(&file.synced(), &(sector..sector + SECTOR)) {
                buffer[at] ^= 1 << (random >> 61);
                inner.strike("altered read");
            }
        }
        Ok(())
    }

    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(name, pos, buffer)
    }

    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let is_cut = inner.is_cut()?;
        let SimFaults { failing_write, short_write, lost_write, misdirected_write, .. } =
            inner.faults;
        inner.counts.writes += 1;
        let count = inner.counts.writes;
        inner.fail(count, failing_write, "failing write")?;
        let number = Some(count);
        if number == lost_write || number == misdirected_write {
            let file = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            inner.hidden = Some(Hidden { file, is_covered: false });
        }
        let random = if number == short_write || number == misdirected_write {
            next(&mut inner.random) as usize
        } else {
            0
        };
        let free = inner.free_bytes();
        let copies_on_write = inner.faults.copies_on_write;
        let file = inner.data(name)?;
        let mut pos = pos as usize;
        if is_cut {
            file.write(pos, bytes);
            return Err(power_failure());
        }
        if number == short_write {
            file.write(pos, &bytes[..random % bytes.len().max(1)]);
            inner.strike("short write");
            return Err(io::Error::other("simulated short write"));
        }
        if number == lost_write {
            inner.strike("lost write");
            return Ok(());
        }
        if number == misdirected_write {
            let places = (file.bytes.len().saturating_sub(bytes.len()) / BLOCK).max(1);
            let elsewhere = random % places * BLOCK + pos % BLOCK;
            pos = if elsewhere == pos { pos + BLOCK } else { elsewhere };
        }
        // What lies in the file has its room already.
        let held = if copies_on_write { 0 } else { file.bytes.len().saturating_sub(pos) };
        let fits = free.map_or(bytes.len(), |free| bytes.len().min(held + free as usize));
        file.write(pos, &bytes[..fits]);
        if number == misdirected_write {
            inner.strike("misdirected write");
        }
        if fits < bytes.len() { Err(inner.no_space()) } else { Ok(()) }
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let is_cut = inner.is_cut()?;
        inner.counts.syncs += 1;
        let (count, failing) = (inner.counts.syncs, inner.faults.failing_sync);
        let counted = inner.fail(count, failing, "failing sync");
        let file = inner.data(name)?;
        if is_cut {
            // The crash decides what of it was done.
            return Err(power_failure());
        }
        if counted.is_err() {
            file.fail_sync();
            return counted;
        }
        file.sync();
        inner.show_in(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let is_cut = inner.is_cut()?;
        inner.counts.renames += 1;
        let (count, failing) = (inner.counts.renames, inner.faults.failing_rename);
        inner.fail(count, failing, "failing rename")?;
        let file = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.change_name(NameChange::Set(to.to_owned(), file));
        if is_cut { Err(power_failure()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let is_cut = inner.is_cut()?;
        inner.counts.removes += 1;
        let (count, failing) = (inner.counts.removes, inner.faults.failing_remove);
        inner.fail(count, failing, "failing remove")?;
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_name(NameChange::Remove(name.to_owned()));
        if is_cut { Err(power_failure()) } else { Ok(()) }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.inner();
        let is_cut = inner.is_cut()?;
        inner.counts.dir_syncs += 1;
        let (count, failing) = (inner.counts.dir_syncs, inner.faults.failing_sync_dir);
        inner.fail(count, failing, "failing sync of a directory")?;
        if is_cut {
            return Err(power_failure());
        }
        inner.durable_names = inner.names.clone();
        inner.pending_names.clear();
        // A file that is begun behind another says that all of that one was synced.
        inner.hidden = inner.hidden.take().filter(|hidden| !hidden.is_covered);
        inner.forget_nameless();
        Ok(())
    }
}
