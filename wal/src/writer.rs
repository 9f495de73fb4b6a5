//! The thread that owns a wal's disk in production.
//!
//! It sleeps while nothing is queued, and otherwise writes and syncs everything that is. Batches
//! submitted meanwhile are encoded by their submitters and wait for the next round, so the depth
//! of a round follows from the load and the speed of the disk.

use std::sync::Arc;
use std::time::Instant;

use crate::bell::{Bell, Call};
use crate::commit::WalStats;
use crate::error::WalError;
use crate::frame::Write;
use crate::panic::guarded;
use crate::position::BatchSeq;
use crate::reader::WalReader;
use crate::room::Need;
use crate::scrub::WalScrubber;
use crate::sync::thread::{Builder, JoinHandle};
use crate::wal::{Shared, Wal};

/// Told of every sync, on the writer's thread and in order: the last durable batch, or once and
/// finally why there will be no more.
pub type OnDurable = Box<dyn FnMut(Result<BatchSeq, Arc<WalError>>) + Send>;

/// A wal with its thread.
pub struct WalWriter {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<Result<(), WalError>>>,
}

impl WalWriter {
    /// Gives the wal a thread of its own.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(wal: Wal, on_durable: OnDurable) -> Result<Self, WalError> {
        let shared = Arc::clone(&wal.shared);
        let bell = Arc::new(Bell::new());
        let rings = Arc::clone(&bell);
        let thread = Builder::new()
            .name("palisade-wal".to_owned())
            .spawn(move || run(wal, &rings, on_durable))
            .map_err(WalError::io("spawn", "the wal's thread"))?;
        Ok(Self { shared, bell, thread: Some(thread) })
    }

    /// Checks a batch and takes it in. Does not wait for the disk.
    ///
    /// # Errors
    /// When the queue or the disk is full (nothing happened), when the batch breaks a rule, or
    /// when the wal failed before. On a full disk, what adds no entries still finds room in a reserve.
    pub fn submit(&self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        self.submit_for(batch, Need::Ordinary)
    }

    /// The same for a batch that the caller can no longer refuse: its entries may take the reserve,
    /// too. Who uses it stops taking in more while [`WalWriter::is_short`].
    ///
    /// # Errors
    /// As [`WalWriter::submit`].
    pub fn submit_owed(&self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        self.submit_for(batch, Need::Urgent)
    }

    fn submit_for(&self, batch: &[Write], need: Need) -> Result<BatchSeq, WalError> {
        let submitted = self.shared.commit().submit(batch, need);
        self.bell.ring();
        submitted
    }

    /// The disk had no space when some was wanted: entries should be refused until this is false.
    /// Asking makes the writer look again.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let is_short = self.shared.commit().room.is_short();
        if is_short {
            self.bell.ring();
        }
        is_short
    }

    /// Reads what is written.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.shared))
    }

    /// Reads all that is written, round after round.
    #[must_use]
    pub fn scrubber(&self) -> WalScrubber {
        WalScrubber::new(Arc::clone(&self.shared), Some(Arc::clone(&self.bell)))
    }

    /// Says that every group that may have been lost without a trace has been written to since: what
    /// is not listed from now on is new. It counts for the segments that are begun from here on.
    pub fn forget_unlisted(&self) {
        self.shared.commit().index.unlisted = None;
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.commit().stats()
    }

    /// Writes and syncs what was taken in, and ends the thread.
    ///
    /// # Errors
    /// The failure that stopped the thread, if one did, or [`WalError::NoSpace`] if the disk had none
    /// for the last of it.
    pub fn close(mut self) -> Result<(), WalError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), WalError> {
        self.bell.close();
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => thread.join().unwrap_or(Err(WalError::Closed)),
        }
    }
}

impl Drop for WalWriter {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `close`.
        let _ = self.stop();
    }
}

/// However it ends, callers are told, and nothing more is taken in.
fn run(mut wal: Wal, bell: &Bell, mut on_durable: OnDurable) -> Result<(), WalError> {
    let ended = guarded(|| rounds(&mut wal, bell, &mut on_durable))
        .unwrap_or_else(|what| Err(WalError::Panicked { what }));
    if let Err(error) = &ended {
        // What it said itself comes before what is found of it.
        wal.shared.commit_as_left().poison(error);
        // The panic may have been its own.
        let _ = guarded(|| on_durable(Err(Arc::new(error.clone()))));
    }
    ended
}

fn rounds(wal: &mut Wal, bell: &Bell, on_durable: &mut OnDurable) -> Result<(), WalError> {
    loop {
        if let Some(durable) = round(wal)? {
            on_durable(Ok(durable));
        }
        // Callers have been told; now there is time for the rest.
        wal.maintain()?;
        if !wal.has_queued() && bell.wait() == Call::Close {
            return if wal.is_stalled() { Err(WalError::NoSpace) } else { Ok(()) };
        }
    }
}

fn round(wal: &mut Wal) -> Result<Option<BatchSeq>, WalError> {
    match wal.write_queued() {
        // It goes on when there is space.
        Ok(None) | Err(WalError::NoSpace) => Ok(None),
        Ok(Some(_)) => measured_sync(wal).map(Some),
        Err(error) => Err(error),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the writer owns the disk, and tells how long it takes"
)]
fn measured_sync(wal: &mut Wal) -> Result<BatchSeq, WalError> {
    let (before, begun) = (wal.durable(), Instant::now());
    let durable = wal.sync()?;
    // A mark waits for the next sync, and is none.
    if before < durable {
        wal.shared.sync_clock.note(begun.elapsed());
    }
    Ok(durable)
}

#[cfg(all(test, palisade_loom))]
mod models {
    use std::sync::Mutex;

    use bytes::Bytes;
    use loom::thread;

    use super::*;
    use crate::options::WalOptions;
    use crate::position::{GroupId, LogIndex};
    use crate::segment::WalIdentity;
    use crate::sim::{SimDisk, SimFaults};

    /// Every order of up to three switches away from a thread that could have gone on.
    fn check(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    type Told = Arc<Mutex<Vec<Result<BatchSeq, Arc<WalError>>>>>;

    const IDENTITY: WalIdentity = WalIdentity { cluster: 1, node: 2, incarnation: 3 };

    /// As small as a wal can be.
    fn options() -> WalOptions {
        WalOptions {
            segment_bytes: 5 << 10,
            batch_bytes_max: 4500,
            queued_bytes_max: 9000,
            ..WalOptions::default()
        }
    }

    /// The writer itself.
    fn spawn(disk: &SimDisk, faults: SimFaults) -> (WalWriter, Told) {
        let (wal, _) = Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap();
        disk.set_faults(faults);
        let told = Told::default();
        let tell = Arc::clone(&told);
        let on_durable = Box::new(move |up_to| tell.lock().unwrap().push(up_to));
        (WalWriter::spawn(wal, on_durable).unwrap(), told)
    }

    fn append(group: u64) -> [Write; 1] {
        let (group, payload) = (GroupId::new(group), Bytes::from_static(b"x"));
        [Write::Append { group, index: LogIndex::new(1), payload }]
    }

    fn last_told(told: &Told) -> BatchSeq {
        let told = told.lock().unwrap();
        let told: Vec<_> = told.iter().map(|up_to| *up_to.as_ref().unwrap()).collect();
        assert!(told.is_sorted(), "{told:?}");
        *told.last().expect("something was written")
    }

    /// Without another batch or a close to help.
    #[test]
    fn every_batch_wakes_the_writer() {
        check(|| {
            let disk = Arc::new(SimDisk::from_seed(1));
            let (wal, _) = Wal::open(disk, IDENTITY, options()).unwrap();
            let (tell, told) = loom::sync::mpsc::channel();
            let on_durable = Box::new(move |up_to| tell.send(up_to).unwrap());
            let writer = WalWriter::spawn(wal, on_durable).unwrap();
            for index in 1..=2 {
                let seq = writer.submit(&append(index)).unwrap();
                assert_eq!(told.recv().unwrap().unwrap(), seq);
            }
            writer.close().unwrap();
        });
    }

    #[test]
    fn close_ends_the_writer_after_everything_submitted_was_written() {
        check(|| {
            let (writer, told) = spawn(&SimDisk::from_seed(1), SimFaults::default());
            writer.submit(&append(1)).unwrap();
            let last = writer.submit(&append(2)).unwrap();
            writer.close().unwrap();
            assert_eq!(last_told(&told), last);
        });
    }

    #[test]
    fn submitters_beside_each_other_are_all_written() {
        check(|| {
            let (writer, told) = spawn(&SimDisk::from_seed(1), SimFaults::default());
            let writer = Arc::new(writer);
            let beside = Arc::clone(&writer);
            let other = thread::spawn(move || beside.submit(&append(2)).unwrap());
            let one = writer.submit(&append(1)).unwrap();
            let last = one.max(other.join().unwrap());
            Arc::into_inner(writer).expect("the other has ended").close().unwrap();
            assert_eq!(last_told(&told), last);
        });
    }

    /// W3, whatever the order: one failure is told, last, and nothing is taken after it.
    #[test]
    fn a_failed_sync_is_told_once_and_ends_the_writer() {
        check(|| {
            let disk = SimDisk::from_seed(1);
            let failing_sync = Some(disk.syncs() + 2);
            let (writer, told) = spawn(&disk, SimFaults { failing_sync, ..SimFaults::default() });
            writer.submit(&append(1)).unwrap();
            let second = writer.submit(&append(2));
            let ended = writer.close();
            let told = told.lock().unwrap();
            let failures = told.iter().filter(|up_to| up_to.is_err()).count();
            assert_eq!((failures, told.last().map(Result::is_err)), (1, Some(true)));
            assert!(matches!(ended, Err(WalError::SyncFailed { .. })));
            assert!(matches!(second, Ok(_) | Err(WalError::Poisoned { .. })), "{second:?}");
        });
    }
}
