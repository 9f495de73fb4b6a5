//! Threads that read the store, so that no caller's runtime ever waits for it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use palisade_replication::{QueueLoad, guarded};
use tokio::sync::oneshot;

use crate::backend::ReadJob;
use crate::error::Error;
use crate::machine::stopped;
use crate::store::{StateStore, StoreError};

/// Reads that may wait for a thread.
const QUEUE_MAX: usize = 8192;
/// When to come back if too many wait.
const RETRY_AFTER_MS: u64 = 10;

thread_local! {
    static READS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one that reads: what it waits for may wait for it.
pub(crate) fn is_reader() -> bool {
    READS.with(Cell::get)
}

struct Job {
    read: ReadJob,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// A few threads that read. They end when this is closed or dropped.
pub(crate) struct Readers {
    running: Mutex<Option<Running>>,
    /// Reads that wait for a thread.
    waiting: Arc<AtomicUsize>,
}

struct Running {
    jobs: SyncSender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start(store: &Arc<dyn StateStore>, threads: usize) -> Result<Self, Error> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let waiting = Arc::<AtomicUsize>::default();
        let start = |number: usize| {
            let (store, queue) = (Arc::clone(store), Arc::clone(&queue));
            let waiting = Arc::clone(&waiting);
            std::thread::Builder::new()
                .name(format!("palisade-read-{number}"))
                .spawn(move || serve(&*store, &queue, &waiting))
                .map_err(|error| Error::InternalError {
                    what: format!("could not start a reader thread: {error}"),
                })
        };
        let threads = (0..threads).map(start).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { running: Mutex::new(Some(Running { jobs, threads })), waiting })
    }

    /// What waits for a thread, against the bound.
    pub(crate) fn load(&self) -> QueueLoad {
        let (held, held_max) = (self.waiting.load(Relaxed) as u64, QUEUE_MAX as u64);
        QueueLoad { queue: "state_reads", held, held_max }
    }

    /// Ends the threads; they have let go of the store when this returns.
    pub(crate) async fn close(&self) {
        let running = self.running().take();
        if let Some(Running { jobs, threads }) = running {
            drop(jobs);
            // Reads do not unwind into their thread, so there is nothing to learn from a join.
            let joined = move || threads.into_iter().for_each(|thread| drop(thread.join()));
            let _ = tokio::task::spawn_blocking(joined).await;
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a read on one moment's state.
    pub(crate) async fn read(&self, read: ReadJob) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let job = Job { read, answer };
        // Before it is there: whoever takes it counts it out.
        self.waiting.fetch_add(1, Relaxed);
        let refused = match self.running().as_ref().map(|running| running.jobs.try_send(job)) {
            Some(Ok(())) => None,
            Some(Err(TrySendError::Full(_))) => {
                Some(Error::RateLimited { retry_after_ms: RETRY_AFTER_MS })
            }
            Some(Err(TrySendError::Disconnected(_))) | None => Some(ended()),
        };
        if let Some(refused) = refused {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(refused);
        }
        answered.await.map_err(|_| ended())?.map_err(|error| stopped(&error))
    }
}

impl Drop for Readers {
    /// As the node's threads: they must not outlive the handle. One that is dropped by a read, with the
    /// last handle, ends after it.
    fn drop(&mut self) {
        if let Some(Running { jobs, threads }) = self.running().take() {
            drop(jobs);
            let own = std::thread::current().id();
            let others = threads.into_iter().filter(|thread| thread.thread().id() != own);
            others.for_each(|thread| drop(thread.join()));
        }
    }
}

fn ended() -> Error {
    Error::InternalError { what: "it was closed".to_owned() }
}

fn serve(store: &dyn StateStore, queue: &Mutex<Receiver<Job>>, waiting: &AtomicUsize) {
    READS.set(true);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(Job { read, answer }) => {
                waiting.fetch_sub(1, Relaxed);
                let done = guarded(|| read(&*store.snapshot())).unwrap_or_else(|what| {
                    Err(StoreError::new(format!("a read panicked: {what}")))
                });
                // A caller that gave up is no loss.
                let _ = answer.send(done);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    /// A bug in a read is its caller's error: the threads go on, and so does the host.
    #[tokio::test]
    async fn a_read_that_panics_takes_no_thread_with_it() {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
        let readers = Readers::start(&store, 1).unwrap();
        for _ in 0..2 {
            let failed = readers.read(Box::new(|_| panic!("a bug"))).await;
            assert!(matches!(failed, Err(Error::InternalError { .. })), "{failed:?}");
        }
        readers.read(Box::new(|_| Ok(()))).await.unwrap();
        readers.close().await;
        assert!(readers.read(Box::new(|_| Ok(()))).await.is_err());
    }

    /// A thread that waits for itself would wait for ever, or panic.
    #[tokio::test]
    async fn a_read_that_drops_the_readers_waits_for_others_only() {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
        let readers = Arc::new(Readers::start(&store, 2).unwrap());
        let (owned, last) = std::sync::mpsc::channel::<Arc<Readers>>();
        let (dropped, ended) = oneshot::channel();
        let read = Box::new(move |_: &dyn crate::store::StateRead| {
            drop(last.recv());
            let _ = dropped.send(is_reader());
            Ok(())
        });
        // Polled once, it is on its way; given up, it holds nothing.
        assert!(crate::backend::race(readers.read(read), Box::pin(async {})).await.is_none());
        owned.send(readers).unwrap();
        assert!(ended.await.unwrap());
    }
}
