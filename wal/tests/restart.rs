//! A process that ends and starts again while its machine goes on: what it finds may be in the page cache
//! alone. What it reports then must outlive power as if it had been synced all along (W1).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use palisade_wal::sim::{SimDisk, SimFaults};
use palisade_wal::{
    Disk, GroupId, LogIndex, Recovered, Wal, WalError, WalIdentity, WalOptions, Write,
};

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const GROUP: GroupId = GroupId::new(1);

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        ..WalOptions::default()
    }
}

/// A process that is killed before so many more changes: its disk does nothing more, and keeps all.
struct Process {
    disk: SimDisk,
    changes_left: AtomicU64,
}

impl Process {
    fn change(&self) -> io::Result<()> {
        let take = |left: u64| left.checked_sub(1);
        let taken = self.changes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(|_| ()).map_err(|_| io::Error::other("killed"))
    }
}

impl Disk for Process {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.change()?;
        self.disk.create(name, bytes)
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
        self.change()?;
        self.disk.write_at(name, pos, bytes)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.change()?;
        self.disk.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.change()?;
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.change()?;
        self.disk.sync_dir()
    }
}

fn open(disk: Arc<dyn Disk>) -> Result<(Wal, Recovered), WalError> {
    Wal::open(disk, IDENTITY, options())
}

/// First entry held, and last.
fn range(recovered: &Recovered) -> (u64, u64) {
    assert!(!recovered.verdict.is_damaged(), "{:?}", recovered.verdict);
    recovered.groups.get(&GROUP).map_or((1, 0), |found| (found.first.get(), found.last.get()))
}

/// Appends from here on, some with a trim; ends with the first failure. Returns the last durable one.
fn work(wal: &mut Wal, last: u64, count: u64) -> (u64, Result<(), WalError>) {
    let mut durable = last;
    for index in last + 1..=last + count {
        let append = Write::Append {
            group: GROUP,
            index: LogIndex::new(index),
            payload: vec![index as u8; 1000].into(),
        };
        let mut batch = vec![append];
        if index.is_multiple_of(8) {
            batch.push(Write::Trim { group: GROUP, up_to: LogIndex::new(index - 4) });
        }
        let mut step = || {
            wal.submit(&batch)?;
            wal.write_queued()?;
            wal.sync()?;
            durable = index;
            wal.maintain()
        };
        if let Err(error) = step() {
            return (durable, Err(error));
        }
    }
    (durable, Ok(()))
}

/// It starts again, goes on for a while, and then power fails. Whatever it had reported is there.
fn starts_again_and_loses_power(disk: &SimDisk, durable: u64, more: u64) {
    let (mut wal, recovered) = open(Arc::new(disk.clone())).unwrap();
    let (first, last) = range(&recovered);
    assert!(durable <= last, "durable={durable} last={last}");
    let (last, worked) = work(&mut wal, last, more);
    worked.unwrap();
    drop(wal);
    disk.crash();
    let (wal, recovered) = open(Arc::new(disk.clone())).unwrap();
    let (_, found) = range(&recovered);
    assert!(last <= found, "reported up to {last}, left up to {found}");
    let reader = wal.reader();
    let from = recovered.groups.get(&GROUP).map_or(LogIndex::new(first), |group| group.first);
    if from.get() <= found {
        let read = reader.read(GROUP, from, LogIndex::new(found + 1), usize::MAX).unwrap();
        assert!(read.iter().all(|(index, payload)| payload[0] == index.get() as u8));
    }
}

#[test]
fn a_killed_process_reports_what_outlives_power() {
    for more in [0, 1, 20] {
        for changes in 0.. {
            let disk = SimDisk::from_seed(changes);
            let process = Process { disk: disk.clone(), changes_left: AtomicU64::new(changes) };
            let (durable, worked) = match open(Arc::new(process)) {
                Ok((mut wal, _)) => work(&mut wal, 0, 60),
                Err(error) => (0, Err(error)),
            };
            starts_again_and_loses_power(&disk, durable, more);
            if worked.is_ok() {
                assert!(changes > 150, "it does a lot: changes={changes}");
                break;
            }
        }
    }
}

/// After a sync that failed, the page cache shows what the medium does not hold, and a further sync
/// says that all is well: as on Linux.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again() {
    for more in [0, 1, 20] {
        for failing in 1.. {
            let disk = SimDisk::from_seed(failing);
            let failing_sync = Some(failing);
            disk.set_faults(SimFaults { failing_sync, ..SimFaults::default() });
            let (durable, worked) = match open(Arc::new(disk.clone())) {
                Ok((mut wal, _)) => work(&mut wal, 0, 60),
                Err(error) => (0, Err(error)),
            };
            disk.set_faults(SimFaults::default());
            starts_again_and_loses_power(&disk, durable, more);
            if worked.is_ok() {
                assert!(failing > 50, "it syncs a lot: failing={failing}");
                break;
            }
        }
    }
}

/// What was durable as the next segment lies under the name of a spare again: used as one, its frames would come
/// back behind the first that is written there.
#[test]
fn a_spare_that_was_the_next_segment_is_not_used() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(Arc::new(disk.clone())).unwrap();
    for index in 1..=20 {
        let payload = vec![index as u8; 1000].into();
        wal.submit(&[Write::Append { group: GROUP, index: LogIndex::new(index), payload }])
            .unwrap();
        wal.write_queued().unwrap();
        wal.sync().unwrap();
        wal.maintain().unwrap();
    }
    drop(wal);
    let names = disk.list().unwrap();
    let segment = names.iter().filter(|name| name.ends_with(".seg")).max().unwrap();
    for spare in names.iter().filter(|name| name.ends_with(".spare")) {
        disk.remove(spare).unwrap();
    }
    let spare = "0000000000000000.spare".to_owned();
    disk.rename(segment, &spare).unwrap();
    disk.sync_dir().unwrap();
    let (_, recovered) = open(Arc::new(disk.clone())).unwrap();
    assert!(recovered.groups[&GROUP].last.get() < 20, "the end of the log is gone");
    let kept = disk.contents(&spare);
    assert!(kept.iter().all(|byte| *byte == 0), "its frames name the next segment");
}
