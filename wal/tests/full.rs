//! A disk without space: what is refused, what still finds room in the reserve, how the wal makes
//! room of its own, and that power may fail anywhere in between. `docs/space.md` tells why.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use palisade_wal::sim::{SimDisk, SimFaults};
use palisade_wal::{
    BatchSeq, Disk, FileDisk, GroupId, LogIndex, Recovered, Wal, WalError, WalIdentity, WalOptions,
    WalWriter, Write,
};

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const SEGMENT: u64 = 16 << 10;
const CAPACITY: u64 = 8 * SEGMENT;
const HOT: GroupId = GroupId::new(1);
const COLD: GroupId = GroupId::new(2);
const VOTER: GroupId = GroupId::new(3);
/// Calls of `maintain` until a wal has surely looked for space again, and used it.
const PATIENCE: usize = 80;

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: SEGMENT,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        ..WalOptions::default()
    }
}

fn append(group: GroupId, index: u64, bytes: usize) -> Write {
    Write::Append { group, index: LogIndex::new(index), payload: vec![index as u8; bytes].into() }
}

fn vote(number: u64) -> Write {
    Write::SetState { group: VOTER, payload: number.to_le_bytes().to_vec().into() }
}

fn trim(up_to: u64) -> Write {
    Write::Trim { group: HOT, up_to: LogIndex::new(up_to) }
}

/// A real directory with a bound on its bytes, as a quota sets it: what goes over is stored as far as
/// it fits.
struct Quota {
    disk: FileDisk,
    bytes_max: AtomicU64,
}

impl Quota {
    fn free(&self) -> io::Result<u64> {
        let lengths = self.disk.list()?.into_iter().map(|name| self.disk.len(&name));
        let used = lengths.sum::<io::Result<u64>>()?;
        Ok(self.bytes_max.load(Ordering::Relaxed).saturating_sub(used))
    }
}

impl Disk for Quota {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        let fits = bytes.min(self.free()?);
        self.disk.create(name, fits)?;
        if fits < bytes { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.disk.len(name)
    }
    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(name, pos, buffer)
    }
    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_medium(name, pos, buffer)
    }
    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        let longer = (pos + bytes.len() as u64).saturating_sub(self.disk.len(name)?);
        assert!(longer <= self.free()?, "a wal writes within files that have their space");
        self.disk.write_at(name, pos, bytes)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.disk.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

/// What was reported durable.
#[derive(Clone, Copy, Debug, Default)]
struct Acked {
    cold: u64,
    hot: u64,
    trimmed: u64,
    vote: u64,
}

struct Node {
    wal: Wal,
    acked: Acked,
}

impl Node {
    fn open(disk: Arc<dyn Disk>, acked: Acked) -> Result<(Self, Recovered), WalError> {
        let (wal, recovered) = Wal::open(disk, IDENTITY, options())?;
        Ok((Self { wal, acked }, recovered))
    }

    fn flush(&mut self) -> Result<(), WalError> {
        self.wal.write_queued()?;
        self.wal.sync()?;
        self.wal.maintain()
    }

    fn cold(&mut self, bytes: usize) -> Result<(), WalError> {
        self.wal.submit(&[append(COLD, self.acked.cold + 1, bytes)])?;
        self.flush()?;
        self.acked.cold += 1;
        Ok(())
    }

    fn hot(&mut self) -> Result<(), WalError> {
        self.wal.submit(&[append(HOT, self.acked.hot + 1, 700)])?;
        self.flush()?;
        self.acked.hot += 1;
        Ok(())
    }

    fn vote(&mut self) -> Result<(), WalError> {
        self.wal.submit(&[vote(self.acked.vote + 1)])?;
        self.flush()?;
        self.acked.vote += 1;
        Ok(())
    }

    fn trim(&mut self) -> Result<(), WalError> {
        self.wal.submit(&[trim(self.acked.hot)])?;
        self.flush()?;
        self.acked.trimmed = self.acked.hot;
        Ok(())
    }

    /// Until entries are refused.
    fn fill(&mut self) -> Result<(), WalError> {
        for _ in 0..1_000 {
            match self.hot() {
                Ok(()) => {}
                Err(WalError::NoSpace) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        panic!("a disk of a few segments takes no thousand entries");
    }

    /// As somebody who waits for space.
    fn wait(&mut self) -> Result<(), WalError> {
        (0..PATIENCE).try_for_each(|_| self.flush())
    }

    fn check(&self, recovered: &Recovered) {
        let Acked { cold, hot, trimmed, vote } = self.acked;
        assert!(!recovered.verdict.is_damaged(), "{:?}", recovered.verdict);
        let end = |group| recovered.groups.get(&group).map_or(0, |found| found.last.get());
        let first = recovered.groups.get(&HOT).map_or(1, |found| found.first.get());
        assert!(cold <= end(COLD), "{recovered:?}");
        assert!(hot <= end(HOT), "{recovered:?}");
        assert!(trimmed < first, "{recovered:?}");
        if vote > 0 {
            let state = recovered.groups[&VOTER].state.as_ref().expect("a vote was stored");
            assert!(vote <= u64::from_le_bytes(state[..].try_into().unwrap()));
        }
        for (group, first) in [(COLD, 1), (HOT, first)] {
            let (from, end) = (LogIndex::new(first), LogIndex::new(end(group) + 1));
            if from < end {
                let read = self.wal.reader().read(group, from, end, usize::MAX).unwrap();
                assert_eq!(read.len() as u64, end.get() - first);
            }
        }
    }
}

/// A full disk, from the first write to the way back. `cold` is what an idle group holds at the front.
fn story(node: &mut Node, cold: usize) -> Result<(), WalError> {
    while node.acked.cold * 1_000 < cold as u64 {
        node.cold(1_000)?;
    }
    node.fill()?;
    assert!(node.wal.is_short());
    for _ in 0..30 {
        node.vote()?;
    }
    assert!(matches!(node.hot(), Err(WalError::NoSpace | WalError::Poisoned { .. })));
    node.trim()?;
    back(node)
}

/// Space was freed, by the wal itself or by others.
fn back(node: &mut Node) -> Result<(), WalError> {
    node.wait()?;
    assert!(!node.wal.is_short());
    (0..20).try_for_each(|_| node.hot())?;
    node.vote()
}

fn full_sim(seed: u64) -> SimDisk {
    let disk = SimDisk::from_seed(seed);
    let capacity_bytes = Some(CAPACITY);
    disk.set_faults(SimFaults { capacity_bytes, ..SimFaults::default() });
    disk
}

/// Nobody frees anything: what was trimmed is room enough, also with an idle group in the way.
#[test]
fn a_full_disk_still_takes_votes_and_trims_and_makes_room_of_them() {
    for cold in [0, 2_000, 6_000, 11_000] {
        let disk = Arc::new(full_sim(1));
        let (mut node, _) = Node::open(disk.clone(), Acked::default()).unwrap();
        story(&mut node, cold).unwrap();
        let acked = node.acked;
        drop(node);
        disk.crash();
        let (node, recovered) = Node::open(disk, acked).unwrap();
        node.check(&recovered);
    }
}

#[test]
fn the_same_in_a_real_directory_with_a_quota() {
    for cold in [0, 6_000] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path()).unwrap();
        let disk = Arc::new(Quota { disk, bytes_max: AtomicU64::new(CAPACITY) });
        let (mut node, _) = Node::open(disk.clone(), Acked::default()).unwrap();
        story(&mut node, cold).unwrap();
        node.fill().unwrap();
        let acked = node.acked;
        drop(node);
        // Full, and less than nothing left.
        disk.bytes_max.store(0, Ordering::Relaxed);
        let (mut node, recovered) = Node::open(disk, acked).unwrap();
        node.check(&recovered);
        node.vote().unwrap();
        node.trim().unwrap();
        back(&mut node).unwrap();
    }
}

/// Power fails in the middle of every single operation of the story. The node starts again on the
/// disk that is still full, holds what it had promised, and goes on to the end.
#[test]
fn power_may_fail_at_every_operation_of_it() {
    for cold in [0, 6_000] {
        let mut changes = 0;
        loop {
            let disk = Arc::new(full_sim(changes));
            disk.fail_power_after(changes);
            let mut acked = Acked::default();
            if let Ok((mut node, _)) = Node::open(disk.clone(), acked) {
                let ended = story(&mut node, cold);
                acked = node.acked;
                if ended.is_ok() {
                    break;
                }
            }
            assert!(!disk.has_power(), "nothing but power fails");
            disk.crash();
            let (mut node, recovered) = Node::open(disk, acked).unwrap();
            node.check(&recovered);
            let end = |group| recovered.groups.get(&group).map_or(0, |found| found.last.get());
            node.acked.hot = end(HOT);
            node.acked.cold = end(COLD);
            node.vote().unwrap();
            node.trim().unwrap();
            back(&mut node).unwrap();
            changes += 1;
        }
        assert!(changes > 500, "the story is long: changes={changes}");
    }
}

/// A file could be made again long before the disk was full: it is asked for seldom.
#[test]
fn a_full_disk_is_not_filled_again_and_again() {
    let disk = Arc::new(full_sim(1));
    let (mut node, _) = Node::open(disk.clone(), Acked::default()).unwrap();
    node.fill().unwrap();
    let before = disk.counts().creates;
    (0..1_000).for_each(|_| node.wal.maintain().unwrap());
    let tries = disk.counts().creates - before;
    assert!((10..=24).contains(&tries), "tries={tries}");
    disk.set_faults(SimFaults::default());
    back(&mut node).unwrap();
}

/// Entries that were promised to be taken may have the last of it, and then it is gone.
#[test]
fn what_is_owed_takes_the_reserve() {
    let disk = Arc::new(full_sim(1));
    let (mut node, _) = Node::open(disk.clone(), Acked::default()).unwrap();
    node.fill().unwrap();
    let mut owed = 0;
    let refused = loop {
        match node.wal.submit_owed(&[append(HOT, node.acked.hot + 1, 700)]) {
            Ok(_) => node.flush().unwrap(),
            Err(error) => break error,
        }
        node.acked.hot += 1;
        owed += 1;
    };
    assert!(matches!(refused, WalError::NoSpace), "{refused}");
    assert!(owed >= SEGMENT / 1_000, "owed={owed}");
    while node.vote().is_ok() {}
    // Nothing is left, and it still starts.
    let acked = node.acked;
    drop(node);
    disk.crash();
    let (mut node, recovered) = Node::open(disk.clone(), acked).unwrap();
    node.check(&recovered);
    assert!(node.wal.is_short());
    disk.set_faults(SimFaults::default());
    back(&mut node).unwrap();
}

fn copying_full(disk: &SimDisk) {
    let capacity_bytes = Some(0);
    disk.set_faults(SimFaults { capacity_bytes, copies_on_write: true, ..SimFaults::default() });
}

/// On a file system that copies on write, any write may find no space. It waits, nothing is reported,
/// and it is done when there is space.
#[test]
fn a_write_without_space_is_done_later() {
    // The first write of all begins a segment, others do not, and some begin one in the middle.
    for before in [0, 1, 13, 20] {
        let disk = Arc::new(SimDisk::from_seed(before));
        let (mut node, _) = Node::open(disk.clone(), Acked::default()).unwrap();
        (0..before).for_each(|_| node.hot().unwrap());
        let durable = node.wal.durable();
        let mut last = BatchSeq::ZERO;
        for index in before + 1..=before + 12 {
            last = node.wal.submit(&[append(HOT, index, 700)]).unwrap();
        }
        copying_full(&disk);
        for _ in 0..10 {
            assert!(matches!(node.wal.write_queued(), Err(WalError::NoSpace)));
            assert_eq!(node.wal.sync().unwrap(), durable);
            node.wal.maintain().unwrap();
            assert!(node.wal.is_short());
            let next = append(HOT, before + 13, 700);
            assert!(matches!(node.wal.submit(&[next]), Err(WalError::NoSpace)));
        }
        disk.set_faults(SimFaults::default());
        assert_eq!(node.wal.write_queued().unwrap(), Some(last));
        assert_eq!(node.wal.sync().unwrap(), last);
        node.acked.hot = before + 12;
        back(&mut node).unwrap();
        let acked = node.acked;
        drop(node);
        disk.crash();
        let (node, recovered) = Node::open(disk, acked).unwrap();
        node.check(&recovered);
    }
}

/// The same, and power fails while it waits.
#[test]
fn a_write_without_space_may_be_lost_to_power_and_nothing_else() {
    for seed in 0..100 {
        let disk = Arc::new(SimDisk::from_seed(seed));
        let (mut node, _) = Node::open(disk.clone(), Acked::default()).unwrap();
        (0..10).for_each(|_| node.hot().unwrap());
        (11..=40).for_each(|index| {
            node.wal.submit(&[append(HOT, index, 700)]).unwrap();
        });
        let used: u64 = disk.list().unwrap().iter().map(|name| disk.len(name).unwrap()).sum();
        let capacity_bytes = Some(used + seed * 300);
        disk.set_faults(SimFaults {
            capacity_bytes,
            copies_on_write: true,
            ..SimFaults::default()
        });
        let durable = node.wal.durable();
        let written = node.wal.write_queued();
        let synced = node.wal.sync().unwrap();
        // Some of it may be written, in the segment before.
        assert_eq!(written.is_ok(), durable < synced, "seed={seed} {written:?}");
        if written.is_ok() {
            node.acked.hot = 40;
        }
        let acked = node.acked;
        drop(node);
        disk.crash();
        disk.set_faults(SimFaults::default());
        let (node, recovered) = Node::open(disk, acked).unwrap();
        node.check(&recovered);
    }
}

/// The writer's thread waits without spinning, and goes on when it is asked to look.
#[test]
fn the_writer_waits_for_space_and_goes_on() {
    let disk = SimDisk::from_seed(1);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap();
    copying_full(&disk);
    let (sender, durable) = mpsc::channel();
    let writer = WalWriter::spawn(wal, Box::new(move |up_to| sender.send(up_to).unwrap())).unwrap();
    let last = writer.submit(&[append(HOT, 1, 100)]).unwrap();
    while !writer.is_short() {
        std::thread::yield_now();
    }
    assert!(matches!(writer.submit(&[append(HOT, 2, 100)]), Err(WalError::NoSpace)));
    assert!(durable.try_recv().is_err());
    disk.set_faults(SimFaults::default());
    while writer.is_short() {
        std::thread::yield_now();
    }
    assert_eq!(durable.recv().unwrap().unwrap(), last);
    writer.close().unwrap();

    let disk = SimDisk::from_seed(1);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap();
    copying_full(&disk);
    let writer = WalWriter::spawn(wal, Box::new(|_| {})).unwrap();
    writer.submit(&[append(HOT, 1, 100)]).unwrap();
    assert!(matches!(writer.close(), Err(WalError::NoSpace)), "it could not be written");
}
