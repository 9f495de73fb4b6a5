//! The writer thread over disks that wait, fail, and are real.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use palisade_wal::sim::{SimDisk, SimFaults};
use palisade_wal::{
    Disk, FileDisk, GroupId, LogIndex, Verdict, Wal, WalError, WalIdentity, WalOptions, WalWriter,
    Write,
};

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 64 << 10,
        batch_bytes_max: 32 << 10,
        queued_bytes_max: 64 << 10,
        ..WalOptions::default()
    }
}

fn append(index: u64) -> Write {
    Write::Append {
        group: GroupId::new(1),
        index: LogIndex::new(index),
        payload: Bytes::from(vec![index as u8; 100]),
    }
}

/// Says when a sync begins, and lets it end when it is told to.
struct Gate {
    disk: SimDisk,
    begun: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Disk for Gate {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
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
        self.disk.write_at(name, pos, bytes)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        // Once the test has let go of its ends, syncs are free.
        let _ = self.begun.lock().unwrap().send(());
        let _ = self.go_on.lock().unwrap().recv();
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

/// G1's lowest stone: no batch is reported durable before the sync that covers it has returned,
/// and what arrives during a sync shares the next one.
#[test]
fn nothing_is_reported_before_its_sync_returns() {
    let (begun_sender, begun) = mpsc::channel();
    let (go_on, go_on_receiver) = mpsc::channel();
    let gate = Gate {
        disk: SimDisk::from_seed(1),
        begun: Mutex::new(begun_sender),
        go_on: Mutex::new(go_on_receiver),
    };
    let (wal, _) = Wal::open(Arc::new(gate), IDENTITY, options()).unwrap();
    let (sender, durable) = mpsc::channel();
    let writer = WalWriter::spawn(wal, Box::new(move |up_to| sender.send(up_to).unwrap())).unwrap();
    let wait = Duration::from_secs(20);

    let first = writer.submit(&[append(1)]).unwrap();
    // The first batch begins a segment, whose header is synced before.
    begun.recv_timeout(wait).unwrap();
    go_on.send(()).unwrap();
    begun.recv_timeout(wait).unwrap();
    assert!(durable.try_recv().is_err(), "reported before the sync returned");
    assert_eq!(writer.stats().queued_batches, 0, "it is with the disk");
    let second = writer.submit(&[append(2)]).unwrap();
    let third = writer.submit(&[append(3)]).unwrap();
    let waits = writer.stats();
    assert_eq!(waits.queued_batches, 2);
    assert!(200 < waits.queued_bytes && waits.queued_bytes < waits.queued_bytes_max);
    go_on.send(()).unwrap();
    assert_eq!(durable.recv_timeout(wait).unwrap().unwrap(), first);

    begun.recv_timeout(wait).unwrap();
    assert!(durable.try_recv().is_err(), "reported before the sync returned");
    assert!(second < third);
    go_on.send(()).unwrap();
    assert_eq!(durable.recv_timeout(wait).unwrap().unwrap(), third, "one sync serves both");
    // Syncs that batches waited for are counted, and no others.
    let (reader, stats) = (writer.reader(), writer.stats());
    assert_eq!((reader.sync_times().counts.iter().sum::<u64>(), stats.syncs), (2, 2));
    drop(go_on);
    writer.close().unwrap();
}

#[test]
fn a_failed_sync_is_told_once_and_ends_the_writer() {
    let disk = SimDisk::from_seed(1);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap();
    disk.set_faults(SimFaults { failing_sync: Some(disk.syncs() + 2), ..SimFaults::default() });
    let (sender, durable) = mpsc::channel();
    let writer = WalWriter::spawn(wal, Box::new(move |up_to| sender.send(up_to).unwrap())).unwrap();
    writer.submit(&[append(1)]).unwrap();
    let told = durable.recv().unwrap().unwrap_err();
    assert!(matches!(*told, WalError::SyncFailed { .. }), "{told}");
    assert!(durable.recv().is_err(), "nothing after the failure");
    assert!(matches!(writer.submit(&[append(2)]), Err(WalError::Poisoned { .. })));
    assert!(writer.close().is_err());
}

/// A bug on the writer's thread, here of its owner's: callers are told, and nothing waits for ever.
#[test]
fn a_panic_is_told_once_and_ends_the_writer() {
    let disk = SimDisk::from_seed(1);
    let (wal, _) = Wal::open(Arc::new(disk), IDENTITY, options()).unwrap();
    let (sender, durable) = mpsc::channel();
    let tell = move |up_to: Result<_, _>| {
        assert!(up_to.is_err(), "a bug of the owner");
        sender.send(up_to).unwrap();
    };
    let writer = WalWriter::spawn(wal, Box::new(tell)).unwrap();
    writer.submit(&[append(1)]).unwrap();
    let told = durable.recv().unwrap().unwrap_err();
    assert!(
        matches!(&*told, WalError::Panicked { what } if what == "a bug of the owner"),
        "{told}"
    );
    assert!(durable.recv().is_err(), "nothing after it");
    let refused = writer.submit(&[append(2)]).unwrap_err();
    assert!(refused.to_string().contains("a bug of the owner"), "{refused}");
    assert!(matches!(writer.close(), Err(WalError::Panicked { .. })));
}

#[test]
fn a_real_directory_keeps_what_was_reported_and_is_held_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let disk = FileDisk::open(dir.path().join("wal"))?;
        Wal::open(Arc::new(disk), IDENTITY, options())
    };
    let (wal, _) = open().unwrap();
    assert!(matches!(open().map(|_| ()), Err(WalError::AlreadyOpen { .. })));
    let (sender, durable) = mpsc::channel();
    let writer = WalWriter::spawn(wal, Box::new(move |up_to| sender.send(up_to).unwrap())).unwrap();
    let mut last = None;
    for index in 1..=2_000 {
        loop {
            match writer.submit(&[append(index)]) {
                Ok(seq) => break last = Some(seq),
                // Full, or the next segment is not ready: neither lasts.
                Err(WalError::Backpressure { .. }) => {
                    let _ = durable.recv_timeout(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    writer.close().unwrap();
    assert_eq!(durable.iter().last().unwrap().unwrap(), last.unwrap());

    let (wal, recovered) = open().unwrap();
    assert_eq!(recovered.verdict, Verdict::Clean);
    let reader = wal.reader();
    let group = GroupId::new(1);
    assert_eq!(reader.range(group), Some((LogIndex::new(1), LogIndex::new(2_000))));
    let entries = reader.read(group, LogIndex::new(1), LogIndex::new(2_001), usize::MAX).unwrap();
    assert_eq!(entries.len(), 2_000);
    assert!(entries.iter().all(|(index, payload)| payload[..] == vec![index.get() as u8; 100][..]));

    drop((wal, reader));
    let other = WalIdentity { node: 2, ..IDENTITY };
    let disk = FileDisk::open(dir.path().join("wal")).unwrap();
    assert!(matches!(
        Wal::open(Arc::new(disk), other, options()).map(|_| ()),
        Err(WalError::Foreign { .. })
    ));
}
