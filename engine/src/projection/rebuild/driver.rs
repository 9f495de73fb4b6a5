//! The thread that builds, while there is something to be built.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use super::job::{Job, JobDesk};
use crate::store::StateStore;

/// Does the jobs of a node, one after the other.
pub(crate) struct Driver {
    desk: JobDesk,
    /// The node and the readers keep it open.
    store: Weak<dyn StateStore>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    jobs: Vec<Arc<Job>>,
    thread: Option<JoinHandle<()>>,
    is_closed: bool,
}

impl Driver {
    pub(crate) fn new(desk: JobDesk, store: &Arc<dyn StateStore>) -> Self {
        Self { desk, store: Arc::downgrade(store), running: Mutex::default() }
    }

    /// Begins what waits, if nothing is being done.
    pub(crate) fn build(&self) {
        let mut running = self.running();
        let is_busy = running.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if is_busy || running.is_closed {
            return;
        }
        let (jobs, Some(store)) = (self.desk.take(), self.store.upgrade()) else { return };
        if jobs.is_empty() {
            return;
        }
        running.jobs.clone_from(&jobs);
        let work = move || jobs.iter().for_each(|job| job.run(&*store));
        let thread = std::thread::Builder::new().name("palisade-rebuild".to_owned()).spawn(work);
        match thread {
            Ok(thread) => running.thread = Some(thread),
            Err(error) => {
                tracing::warn!(%error, "no thread for a rebuild: it is tried again");
                running.jobs.drain(..).for_each(|job| self.desk.lay(job));
            }
        }
    }

    /// Ends the thread: it has let go of the store when the returned handle is joined.
    pub(crate) fn end(&self) -> Option<JoinHandle<()>> {
        let mut running = self.running();
        running.is_closed = true;
        running.jobs.drain(..).for_each(|job| job.cancel());
        running.thread.take()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Driver {
    /// As the node's threads: it must not outlive the handle.
    fn drop(&mut self) {
        let own = std::thread::current().id();
        let thread = self.end().filter(|thread| thread.thread().id() != own);
        // A fault of a projection does not unwind into the thread, so there is nothing to learn from it.
        thread.map(JoinHandle::join);
    }
}
