//! The part of a rebuild that is done beside the log: the rows of one moment, then what was queued since,
//! until there is nothing left and the applier takes over.
//!
//! Two write to the newer version's rows: this, and later the applier. A gate between them says whose turn
//! it is. The applier is within it from when it looks whose turn it is until it has committed; this is within
//! it for each commit, so it is never cancelled in the middle of one, and nothing is queued behind its back
//! when it finds the queue empty.

#[cfg(feature = "sim")]
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_replication::{GroupId, Offset};

use super::local::{Deed, Progress, Queued, held, progress_key, queue};
use super::state::RebuildFailure;
use crate::comparing::spans;
use crate::keys;
use crate::machine::read_position;
use crate::projection::{At, NewRows, Registry, RowWrites, Rows, RowsRead, Step, Stop};
use crate::resource::{ResourceId, ResourceKind};
use crate::resource_row::each_resource;
use crate::store::{FamilyId, StateRead, StateStore, StoreCause, WriteSet};
use crate::view::View;

/// Most operations that are done later in one commit.
const DEEDS_MAX: usize = 256;
/// How long a full disk is left alone before the next try.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Most things that are done for one resource by one record of housekeeping.
pub(super) use crate::batch_apply::TIDIED_MAX;

/// What the applier does for the newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is queued.
    Queue,
    /// It is done at once.
    Both,
    /// Nothing: it has come to nothing here.
    Void,
}

/// What is built, out of what.
pub(crate) struct Job {
    pub(super) group: GroupId,
    pub(super) kind: ResourceKind,
    pub(super) begun: Offset,
    /// Version of the rows that there are.
    pub(super) from: u32,
    pub(super) to: u32,
    /// Where the newer version's rows go.
    pub(super) family: FamilyId,
    registry: Registry,
    gate: Mutex<Mode>,
    cancelled: AtomicBool,
}

impl Job {
    pub(super) fn new(
        registry: &Registry,
        group: GroupId,
        kind: &ResourceKind,
        begun: Offset,
        (from, to): (u32, u32),
        family: FamilyId,
        mode: Mode,
    ) -> Self {
        let (registry, kind) = (registry.clone(), kind.clone());
        let (gate, cancelled) = (Mutex::new(mode), AtomicBool::new(false));
        Self { group, kind, begun, from, to, family, registry, gate, cancelled }
    }

    /// Nobody else commits to the newer version's rows meanwhile.
    pub(super) fn enter(&self) -> MutexGuard<'_, Mode> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is committed by it, once whoever says so has left the gate.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// True if it is of no use any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn commit(&self, store: &dyn StateStore, writes: WriteSet) -> Result<(), Stop> {
        let _turn = self.enter();
        if self.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        Ok(spans::commit(store, self.group, writes)?)
    }

    fn progress(&self, progress: &Progress) -> (FamilyId, Vec<u8>, Option<bytes::Bytes>) {
        let key = progress_key(self.group, self.kind.as_str());
        (FamilyId::REBUILD, key, Some(progress.encode(self.begun)))
    }

    /// Imports the rows of one moment. Says which moment it was.
    fn import(
        &self,
        read: &dyn StateRead,
        commit: &mut dyn FnMut(WriteSet) -> Result<(), Stop>,
    ) -> Result<Offset, Stop> {
        let (position, _) = read_position(read, self.group)?;
        let mut rows = |writes: RowWrites| commit(WriteSet::rows(writes));
        let (registry, versions) = (&self.registry, (self.from, self.to));
        import_kind(read, registry, self.group, &self.kind, versions, self.family, &mut rows)?;
        commit(WriteSet::rows(vec![self.progress(&Progress::Imported)]))?;
        Ok(position.offset)
    }

    /// Does some of what was queued after that. Says up to where, or nothing if the applier has taken over.
    fn catch_up(
        &self,
        store: &dyn StateStore,
        after: (Offset, u16),
    ) -> Result<Option<(Offset, u16)>, Stop> {
        let (group, name) = (self.group, self.kind.as_str());
        let next = || Queued::after(store, group, name, after, DEEDS_MAX);
        let mut deeds = next()?;
        if deeds.is_empty() {
            let mut mode = self.enter();
            if self.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            // Whoever applies is outside the gate: what it has queued is there.
            deeds = next()?;
            if deeds.is_empty() {
                let (from, end) = queue(group, name);
                store.commit(WriteSet {
                    cleared: vec![(FamilyId::REBUILD, from, end)],
                    writes: vec![self.progress(&Progress::CaughtUp)],
                })?;
                *mode = Mode::Both;
                return Ok(None);
            }
        }
        let mut view = View::new(store);
        let mut last = after;
        for deed in deeds {
            last = (deed.offset, deed.index);
            if !self.redo(&mut view, &deed)? {
                return Err(Stop::Disagrees(deed.offset));
            }
            view.keep_record();
        }
        self.commit(store, view.into_writes())?;
        Ok(Some(last))
    }

    /// Does with the newer version what the older one has done. Says whether it does it too.
    pub(super) fn redo(&self, view: &mut View<'_>, queued: &Queued) -> Result<bool, Stop> {
        let Queued { offset, index, log_time, resource, deed } = queued;
        let kind = self.registry.find_version(self.kind.as_str(), self.to).ok_or(Stop::Unable)?;
        let at = At { group: self.group, offset: *offset, log_time: *log_time, index: *index };
        let mut rows = Rows::new(view, self.family, self.group, *resource);
        match deed {
            Deed::Op(body) => {
                let step = kind.projection.apply(at, body.clone(), &mut rows);
                return Ok(matches!(step?, Step::Done(_)));
            }
            Deed::Tidy => {
                let at = At { index: 0, ..at };
                kind.projection.tidy(at, &mut rows, TIDIED_MAX)?;
            }
            Deed::Bury => {
                let rows = keys::of_resource(self.group, *resource);
                view.clear(self.family, &rows, &keys::after(&rows));
            }
        }
        Ok(true)
    }

    /// It has come to nothing, unless nobody wants it any more.
    fn give_up(&self, store: &dyn StateStore, why: &Stop) {
        let failure = match why {
            Stop::Cancelled => return,
            Stop::Store(error) => {
                // The node will find out by itself.
                tracing::warn!(group = %self.group, kind = %self.kind, %error, "a rebuild has stopped");
                return;
            }
            Stop::Fault(fault) => RebuildFailure::fault(&fault.to_string()),
            Stop::Unable => RebuildFailure::NotImportable,
            Stop::Disagrees(offset) => RebuildFailure::Disagrees { offset: *offset },
        };
        let mut mode = self.enter();
        if self.is_cancelled() {
            return;
        }
        let void = self.progress(&Progress::Void(failure));
        if let Err(error) = store.commit(WriteSet::rows(vec![void])) {
            tracing::warn!(group = %self.group, kind = %self.kind, %error, "a rebuild has stopped");
        }
        *mode = Mode::Void;
    }

    /// Does it again until there is space for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own, and nobody rings when there is space"
    )]
    fn patiently<T>(&self, mut work: impl FnMut() -> Result<T, Stop>) -> Result<T, Stop> {
        loop {
            match work() {
                Err(Stop::Store(error))
                    if error.cause() == StoreCause::Full && !self.is_cancelled() =>
                {
                    std::thread::sleep(FULL_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// All of it, on a thread that has nothing else to do.
    pub(super) fn run(&self, store: &dyn StateStore) {
        let mut commit = |writes: WriteSet| self.patiently(|| self.commit(store, writes.clone()));
        let done = self.import(&*store.snapshot(), &mut commit);
        let done = done.and_then(|moment| {
            let mut after = (moment, u16::MAX);
            while let Some(next) = self.patiently(|| self.catch_up(store, after))? {
                after = next;
            }
            Ok(())
        });
        if let Err(stop) = done {
            self.give_up(store, &stop);
        }
    }
}

/// Makes all rows of a kind anew, as a newer version has them.
pub(crate) fn import_kind(
    read: &dyn StateRead,
    registry: &Registry,
    group: GroupId,
    kind: &ResourceKind,
    (from, to): (u32, u32),
    family: FamilyId,
    commit: &mut dyn FnMut(RowWrites) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let newer = registry.find_version(kind.as_str(), to).ok_or(Stop::Unable)?;
    let old = held(read, group, newer.family)?;
    let mut resources: Vec<ResourceId> = Vec::new();
    each_resource(read, group, |id, resource| {
        if resource.kind == *kind {
            resources.push(id);
        }
        ControlFlow::Continue(())
    })?;
    for id in resources {
        let rows = RowsRead::new(read, old, group, id).of_version(from);
        let mut new = NewRows::new(family, group, id, commit);
        let imported = newer.projection.import(from, &rows, &mut new);
        new.end(imported)?;
    }
    Ok(())
}

/// Jobs that wait for somebody to do them; clones share them.
#[derive(Clone, Default)]
pub(crate) struct JobDesk {
    waiting: Arc<Mutex<Vec<Arc<Job>>>>,
}

impl JobDesk {
    pub(super) fn lay(&self, job: Arc<Job>) {
        self.lock().push(job);
    }

    /// Those that wait, first the first.
    pub(crate) fn take(&self) -> Vec<Arc<Job>> {
        let mut jobs = std::mem::take(&mut *self.lock());
        jobs.retain(|job| !job.is_cancelled());
        jobs
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that is done a step at a time, without a thread. What a thread would read of one moment it reads at
/// once, and it writes it as slowly.
#[cfg(feature = "sim")]
pub(crate) struct Run {
    job: Arc<Job>,
    /// What is still to be written of that moment; nothing before it was read.
    left: Option<VecDeque<WriteSet>>,
    after: (Offset, u16),
}

#[cfg(feature = "sim")]
impl Run {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self { job, left: None, after: (Offset::ZERO, u16::MAX) }
    }

    /// Does the next step. Says whether there is one more.
    pub(crate) fn step(&mut self, store: &dyn StateStore) -> bool {
        match self.try_step(store) {
            Ok(goes_on) => goes_on,
            // As a thread does it: the same again.
            Err(Stop::Store(error)) if error.cause() == StoreCause::Full => true,
            Err(stop) => {
                self.job.give_up(store, &stop);
                false
            }
        }
    }

    fn try_step(&mut self, store: &dyn StateStore) -> Result<bool, Stop> {
        let Some(left) = &mut self.left else {
            let mut read = VecDeque::new();
            let moment = self.job.import(&*store.snapshot(), &mut |writes| {
                // Row by row, so that there is something between any two.
                let WriteSet { cleared, writes } = writes;
                read.extend(writes.into_iter().map(|row| WriteSet::rows(vec![row])));
                debug_assert!(cleared.is_empty(), "an import clears nothing");
                Ok(())
            })?;
            (self.left, self.after) = (Some(read), (moment, u16::MAX));
            return Ok(true);
        };
        if let Some(writes) = left.front().cloned() {
            self.job.commit(store, writes)?;
            left.pop_front();
            return Ok(true);
        }
        match self.job.catch_up(store, self.after)? {
            Some(after) => {
                self.after = after;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}
