//! The thread that owns a wal's disk in production.
//!
//! It sleeps while nothing is queued, and otherwise writes and syncs everything that is. Batches
//! submitted meanwhile are encoded by their submitters and wait for the next round, so the depth
//! of a round follows from the load and the speed of the disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use crate::commit::WalStats;
use crate::error::WalError;
use crate::frame::Write;
use crate::position::BatchSeq;
use crate::reader::WalReader;
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

/// Wakes the writer.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    condvar: Condvar,
    closing: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        let mut rung = self.rung.lock().expect("no code panics while it holds the bell");
        if !*rung {
            *rung = true;
            self.condvar.notify_one();
        }
    }

    fn wait(&self) {
        let rung = self.rung.lock().expect("no code panics while it holds the bell");
        let mut rung = self
            .condvar
            .wait_while(rung, |rung| !*rung)
            .expect("no code panics while it holds the bell");
        *rung = false;
    }
}

impl WalWriter {
    /// Gives the wal a thread of its own.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(wal: Wal, on_durable: OnDurable) -> Result<Self, WalError> {
        let shared = Arc::clone(&wal.shared);
        let bell = Arc::new(Bell::default());
        let rings = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name("palisade-wal".to_owned())
            .spawn(move || run(wal, &rings, on_durable))
            .map_err(WalError::io("spawn", "the wal's thread"))?;
        Ok(Self { shared, bell, thread: Some(thread) })
    }

    /// Checks a batch and takes it in. Does not wait for the disk.
    ///
    /// # Errors
    /// When the queue or the disk is full (nothing happened), when the batch breaks a rule, or
    /// when the wal failed before.
    pub fn submit(&self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        let submitted = self.shared.commit().submit(batch);
        // Also when it is full: the writer looks whether the disk has space again.
        self.bell.ring();
        submitted
    }

    /// Reads what is written.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.shared))
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.commit().stats()
    }

    /// Writes and syncs what was taken in, and ends the thread.
    ///
    /// # Errors
    /// The failure that stopped the thread, if one did.
    pub fn close(mut self) -> Result<(), WalError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), WalError> {
        self.bell.closing.store(true, Ordering::Release);
        self.bell.ring();
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

fn run(mut wal: Wal, bell: &Bell, mut on_durable: OnDurable) -> Result<(), WalError> {
    loop {
        let closing = bell.closing.load(Ordering::Acquire);
        match round(&mut wal) {
            Ok(Some(durable)) => on_durable(Ok(durable)),
            Ok(None) => {}
            Err(error) => {
                on_durable(Err(Arc::new(error.clone())));
                return Err(error);
            }
        }
        // Callers have been told; now there is time for the rest.
        if let Err(error) = wal.maintain() {
            on_durable(Err(Arc::new(error.clone())));
            return Err(error);
        }
        if !wal.has_queued() {
            if closing {
                return Ok(());
            }
            bell.wait();
        }
    }
}

fn round(wal: &mut Wal) -> Result<Option<BatchSeq>, WalError> {
    match wal.write_queued()? {
        None => Ok(None),
        Some(_) => wal.sync().map(Some),
    }
}
