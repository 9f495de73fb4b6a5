//! How much disk a wal takes beside what is live, and what it writes for that: the numbers of
//! `docs/space.md`, under a busy group beside idle ones.

use std::sync::Arc;

use palisade_wal::sim::SimDisk;
use palisade_wal::{
    Disk, FileDisk, GroupId, LogIndex, Wal, WalError, WalIdentity, WalOptions, Write,
};

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const HOT: u64 = 1;
const SEGMENT: u64 = 16 << 10;

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: SEGMENT,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        ..WalOptions::default()
    }
}

fn append(group: u64, index: u64, bytes: usize) -> Write {
    Write::Append {
        group: GroupId::new(group),
        index: LogIndex::new(index),
        payload: vec![index as u8; bytes].into(),
    }
}

fn trim(group: u64, up_to: u64) -> Write {
    Write::Trim { group: GroupId::new(group), up_to: LogIndex::new(up_to) }
}

fn state(group: u64, bytes: usize) -> Write {
    Write::SetState { group: GroupId::new(group), payload: vec![group as u8; bytes].into() }
}

/// The multiple of the live bytes, and the segments beside it, that `docs/space.md` states.
fn bound(options: &WalOptions, live_bytes: u64) -> u64 {
    let queue = (options.queued_bytes_max as u64).div_ceil(options.segment_bytes);
    let beside = options.live_multiple_max + 4 + 2 * queue;
    options.live_multiple_max * live_bytes + beside * options.segment_bytes
}

struct Busy {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    wal: Wal,
    next: u64,
    /// The highest share of the bound that was ever taken.
    used_max: f64,
}

impl Busy {
    fn new(disk: Arc<dyn Disk>, options: WalOptions) -> Self {
        let (wal, _) = Wal::open(Arc::clone(&disk), IDENTITY, options.clone()).unwrap();
        Self { disk, options, wal, next: 1, used_max: 0.0 }
    }

    fn flush(&mut self) {
        self.wal.write_queued().unwrap();
        self.wal.sync().unwrap();
        self.wal.maintain().unwrap();
        let files = self.disk.list().unwrap();
        let bytes: u64 = files.iter().map(|name| self.disk.len(name).unwrap()).sum();
        let stats = self.wal.stats();
        let bound = bound(&self.options, stats.live_bytes);
        assert!(bytes <= bound, "bytes={bytes} bound={bound} {stats:?}");
        self.used_max = self.used_max.max(bytes as f64 / bound as f64);
    }

    /// Flushes when the queue is full, or at once if asked to.
    fn submit(&mut self, batch: &[Write], at_once: bool) {
        while let Err(error) = self.wal.submit(batch) {
            assert!(matches!(error, WalError::Backpressure { .. }), "{error}");
            self.flush();
        }
        if at_once {
            self.flush();
        }
    }

    /// The busy group goes on: it keeps its last entries.
    fn hot(&mut self, bytes: usize, at_once: bool) {
        let mut batch = vec![append(HOT, self.next, bytes)];
        if self.next.is_multiple_of(10) {
            batch.push(trim(HOT, self.next - 5));
        }
        self.next += 1;
        self.submit(&batch, at_once);
    }

    /// What was written for each byte that callers wrote.
    fn amplification(&self) -> f64 {
        let stats = self.wal.stats();
        stats.bytes_written as f64 / (stats.bytes_written - stats.bytes_moved) as f64
    }

    fn close(mut self, what: &str, amplification_max: f64) -> Wal {
        self.flush();
        let amplification = self.amplification();
        println!(
            "{what}: live {:.2} segments, used up to {:.0} % of the bound, wrote {amplification:.2} times",
            self.wal.stats().live_bytes as f64 / self.options.segment_bytes as f64,
            100.0 * self.used_max
        );
        assert!(amplification <= amplification_max, "{what}: wrote {amplification} times");
        self.wal
    }
}

fn check_idle(wal: &Wal, group: u64, count: u64, bytes: usize) {
    let (first, end) = (LogIndex::new(1), LogIndex::new(count + 1));
    let read = wal.reader().read(GroupId::new(group), first, end, usize::MAX).unwrap();
    assert_eq!(read.len() as u64, count);
    assert!(read.iter().all(|(index, payload)| payload[..] == vec![index.get() as u8; bytes][..]));
}

/// An idle group of this many eighths of a segment, written before the busy one begins.
fn beside_an_idle_group(disk: Arc<dyn Disk>, eighths: u64, hot: u64, at_once: bool) {
    let mut busy = Busy::new(disk, options());
    let count = eighths * SEGMENT / 8 / 1024;
    (1..=count).for_each(|index| busy.submit(&[append(2, index, 1000)], true));
    (0..hot).for_each(|_| busy.hot(700, at_once));
    let what = format!("idle of {eighths}/8 at the front, at_once={at_once}");
    let wal = busy.close(&what, 1.6);
    check_idle(&wal, 2, count, 1000);
}

#[test]
fn a_busy_group_beside_an_idle_one_of_any_size() {
    for eighths in [1, 2, 3, 5, 7, 8, 12, 30, 80] {
        for at_once in [true, false] {
            let disk = Arc::new(SimDisk::from_seed(eighths));
            beside_an_idle_group(disk, eighths, 3_000, at_once);
        }
    }
    beside_an_idle_group(Arc::new(SimDisk::from_seed(1)), 320, 12_000, false);
}

#[test]
fn the_same_on_a_real_disk() {
    for (eighths, at_once) in [(1, false), (3, true), (12, false), (30, false)] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FileDisk::open(dir.path()).unwrap());
        beside_an_idle_group(disk, eighths, 600, at_once);
    }
}

/// The idle group's entries lie scattered over what the busy one wrote.
#[test]
fn an_idle_group_in_between() {
    for every in [2, 5, 20] {
        let mut busy = Busy::new(Arc::new(SimDisk::from_seed(1)), options());
        let mut idle = 0;
        for round in 0..3_000 {
            if round % every == 0 && idle < 100 {
                idle += 1;
                busy.submit(&[append(2, idle, 500)], true);
            }
            busy.hot(700, true);
        }
        let wal = busy.close(&format!("idle in between, one of {every}"), 1.6);
        check_idle(&wal, 2, idle, 500);
    }
}

/// Thousands of groups with a register, a trim mark and a small entry each, and one that works.
#[test]
fn many_idle_groups() {
    for (groups, bytes) in [(200, 0), (200, 300), (2_000, 10)] {
        let mut busy = Busy::new(Arc::new(SimDisk::from_seed(1)), options());
        for group in 2..groups + 2 {
            let writes = [append(group, 1, 1), trim(group, 1), append(group, 2, bytes)];
            busy.submit(&[&writes[..], &[state(group, 60)]].concat(), true);
        }
        (0..3_000).for_each(|_| busy.hot(700, false));
        let wal = busy.close(&format!("{groups} idle groups of {bytes} bytes"), 1.6);
        for group in 2..groups + 2 {
            assert_eq!(wal.reader().range(GroupId::new(group)).unwrap().0, LogIndex::new(2));
        }
    }
}

/// What was live goes at once: disk use follows, also when nobody writes.
#[test]
fn a_group_that_trims_everything_gives_its_space_back() {
    let mut busy = Busy::new(Arc::new(SimDisk::from_seed(1)), options());
    busy.submit(&[append(2, 1, 4_000)], true);
    (1..=400).for_each(|index| busy.submit(&[append(3, index, 1_000)], true));
    busy.wal.submit(&[trim(3, 400)]).unwrap();
    // Two segments a call.
    for _ in 0..20 {
        busy.wal.write_queued().unwrap();
        busy.wal.sync().unwrap();
        busy.wal.maintain().unwrap();
    }
    let stats = busy.wal.stats();
    let allowed = (options().live_multiple_max - 1) * stats.live_bytes.div_ceil(SEGMENT) + 2;
    assert!(stats.segments <= allowed, "{stats:?}");
}

/// A copy that is not written yet is no reason not to find what it is a copy of.
#[test]
fn what_is_being_moved_can_be_read_all_the_time() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = Wal::open(Arc::new(disk), IDENTITY, options()).unwrap();
    wal.submit(&[append(2, 1, 1_000), append(2, 2, 1_000)]).unwrap();
    let flush = |wal: &mut Wal| {
        check_idle(wal, 2, 2, 1_000);
        wal.sync().unwrap();
        check_idle(wal, 2, 2, 1_000);
        wal.maintain().unwrap();
        check_idle(wal, 2, 2, 1_000);
    };
    wal.write_queued().unwrap();
    for index in 1..=1_000 {
        wal.submit(&[append(HOT, index, 900), trim(HOT, index)]).unwrap();
        wal.write_queued().unwrap();
        flush(&mut wal);
    }
    assert!(wal.stats().bytes_moved > 0);
}
