//! Our wal alone: the thread that writes and syncs, and callers that wait for it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use palisade_benches::{Course, Payloads, Tally};
use palisade_wal::{
    BatchSeq, Disk, FileDisk, GroupId, LogIndex, Wal, WalIdentity, WalOptions, WalWriter, Write,
};
use tokio::time::Instant;

use super::Engine;
use crate::disk::Syncs;
use crate::load::{Load, Told, Work};
use crate::party::not_offered;
use crate::server::text;

const GROUP: GroupId = GroupId::new(1);
/// Entries that are kept; the older ones are let go of, as a log does behind a snapshot.
const KEPT: u64 = 4096;
/// Between two times that older ones are let go of.
const TRIM_EVERY: u64 = 1024;

pub(super) struct PalisadeWal {
    writer: WalWriter,
    /// Of the last entry that was submitted.
    last: Mutex<LogIndex>,
    durable: Arc<Durable>,
    syncs: Syncs,
}

/// How far it is synced, and whoever waits for more.
struct Durable {
    up_to: Mutex<Result<BatchSeq, String>>,
    more: Condvar,
}

impl Durable {
    fn now(&self) -> MutexGuard<'_, Result<BatchSeq, String>> {
        self.up_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, up_to: Result<BatchSeq, String>) {
        *self.now() = up_to;
        self.more.notify_all();
    }

    /// Returns how far it is once it is that far.
    fn wait_for(&self, seq: BatchSeq) -> Result<BatchSeq, String> {
        let mut now = self.now();
        loop {
            match &*now {
                Ok(up_to) if *up_to >= seq => return Ok(*up_to),
                Ok(_) => {}
                Err(error) => return Err(error.clone()),
            }
            now = self.more.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl PalisadeWal {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let syncs = Syncs::default();
        let disk: Arc<dyn Disk> = syncs.counted(Arc::new(FileDisk::open(dir).map_err(text)?));
        let identity = WalIdentity { cluster: 1, node: 1, incarnation: 1 };
        let (wal, _) = Wal::open(disk, identity, WalOptions::default()).map_err(text)?;
        let durable = Durable { up_to: Mutex::new(Ok(wal.durable())), more: Condvar::new() };
        let durable = Arc::new(durable);
        let told = Arc::clone(&durable);
        let on_durable = Box::new(move |up_to: Result<BatchSeq, Arc<_>>| {
            told.is(up_to.map_err(text));
        });
        let writer = WalWriter::spawn(wal, on_durable).map_err(text)?;
        Ok(Self { writer, last: Mutex::new(LogIndex::new(0)), durable, syncs })
    }

    fn submit(&self, entry: Bytes) -> Result<BatchSeq, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let index = last.next();
        let mut batch = vec![Write::Append { group: GROUP, index, payload: entry }];
        if index.get() > KEPT && index.get().is_multiple_of(TRIM_EVERY) {
            let up_to = LogIndex::new(index.get() - KEPT);
            batch.push(Write::Trim { group: GROUP, up_to });
        }
        let seq = self.writer.submit(&batch).map_err(text)?;
        *last = index;
        Ok(seq)
    }
}

impl Engine for PalisadeWal {
    fn append(&self, _: u64, entry: &[u8]) -> Result<(), String> {
        let seq = self.submit(Bytes::copy_from_slice(entry))?;
        self.durable.wait_for(seq).map(|_| ())
    }

    /// One thread with so many entries under way.
    fn load(&self, load: &Load) -> Result<Told, String> {
        if load.work != Work::WalInFlight {
            return Err(not_offered(load));
        }
        let (course, payloads) = (Course::new(load.length.into()), Payloads::of(load.bytes));
        let (mut tally, mut under_way) = (Tally::default(), VecDeque::new());
        let mut is_over = false;
        loop {
            while !is_over && (under_way.len() as u64) < load.in_flight {
                let begun = Instant::now();
                match course.next(begun) {
                    Some(number) => {
                        under_way.push_back((self.submit(payloads.get(number))?, begun));
                    }
                    None => is_over = true,
                }
            }
            let Some((oldest, _)) = under_way.front() else { break };
            let up_to = self.durable.wait_for(*oldest)?;
            let now = Instant::now();
            while let Some((_, begun)) = under_way.pop_front_if(|(seq, _)| *seq <= up_to) {
                course.count(&mut tally, begun, now);
            }
        }
        Ok(course.ended(&tally, 1).into())
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.syncs.count())
    }
}
