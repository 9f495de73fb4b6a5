//! The newer version beside each record that is applied: what the older one does is queued for it, or done
//! by it too. The older one decides, whatever comes of this.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use palisade_replication::GroupId;

use super::job::{Job, JobDesk, Mode};
use super::local::{Deed, Progress, Queued, progress_key, queue};
use super::state::{Kinds, RebuildFailure, Target};
use crate::comparing::spans;
use crate::keys;
use crate::projection::{At, ProjectionFault, Registry, Stop};
use crate::resource::{ResourceId, ResourceKind};
use crate::store::{FamilyId, StateStore, StoreError, WriteSet};
use crate::view::View;

/// What a replica builds of one group.
#[derive(Default)]
pub(crate) struct Builds {
    by_kind: BTreeMap<String, Build>,
    queue_bytes_max: u64,
}

pub(super) struct Build {
    pub(super) job: Arc<Job>,
    pub(super) mode: Mode,
    /// It waits for the commit of what it begins with.
    is_new: bool,
    queued_bytes: u64,
    /// What has just been found against it.
    found: Option<RebuildFailure>,
}

impl Builds {
    /// Takes up what is under way: what was half done is begun anew.
    pub(crate) fn load(
        store: &dyn StateStore,
        registry: &Registry,
        group: GroupId,
        kinds: &Kinds,
    ) -> Result<Self, StoreError> {
        let queue_bytes_max = registry.queue_bytes_max();
        let mut builds = Self { queue_bytes_max, ..Self::default() };
        for (kind, active, target) in kinds.targets() {
            let progress = Progress::stored(store, group, kind.as_str(), target.begun)?;
            let mode = match progress {
                Some(Progress::CaughtUp) => Mode::Both,
                Some(Progress::Void(_)) => Mode::Void,
                None | Some(Progress::Imported) => Mode::Queue,
            };
            builds.begin(registry, group, kinds, kind, (active, target), mode);
            if mode == Mode::Queue {
                let Some(build) = builds.by_kind.get(kind.as_str()) else { continue };
                let cleared = build.job.cleared();
                let writes = vec![build.job.without_progress()];
                spans::commit(store, group, WriteSet { cleared, writes })?;
            }
        }
        Ok(builds)
    }

    /// Begins one, if the version is registered here.
    pub(super) fn begin(
        &mut self,
        registry: &Registry,
        group: GroupId,
        kinds: &Kinds,
        kind: &ResourceKind,
        (active, target): (u32, &Target),
        mode: Mode,
    ) {
        let Some(newer) = registry.find_version(kind.as_str(), target.version) else { return };
        let served = kinds.held(registry, newer.family);
        let Some(family) = registry.families().other(served) else { return };
        let versions = (active, target.version);
        let job = Job::new(registry, group, kind, target.begun, versions, family, mode);
        let is_new = mode == Mode::Queue;
        let build = Build { job: Arc::new(job), mode, is_new, queued_bytes: 0, found: None };
        self.by_kind.insert(kind.as_str().to_owned(), build);
    }

    /// Ends one. The applier is within its gate, or nobody else knows of it.
    pub(super) fn end(&mut self, kind: &ResourceKind) -> Option<Build> {
        let build = self.by_kind.remove(kind.as_str())?;
        build.job.cancel();
        Some(build)
    }

    /// Ends all of them: the state is to be another one.
    pub(crate) fn end_all(&mut self) {
        for build in std::mem::take(&mut self.by_kind).into_values() {
            let _turn = build.job.enter();
            build.job.cancel();
        }
    }

    /// All jobs, to enter their gates.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        self.by_kind.values().map(|build| Arc::clone(&build.job)).collect()
    }

    /// Whose turn it is with each.
    pub(crate) fn look(&mut self, turns: &[Turn<'_>]) {
        for (build, turn) in self.by_kind.values_mut().zip(turns) {
            build.mode = *turn.mode;
        }
    }

    /// Whose turn it is from now on.
    pub(crate) fn leave(&self, turns: Vec<Turn<'_>>) {
        for mut turn in turns {
            let build = self.by_kind.get(turn.job.kind.as_str());
            if let Some(build) = build.filter(|build| Arc::ptr_eq(&build.job, turn.job)) {
                *turn.mode = build.mode;
            }
        }
    }

    /// What was begun is committed: whoever has time may go on with it.
    pub(crate) fn publish(&mut self, desk: &JobDesk) {
        for build in self.by_kind.values_mut() {
            if std::mem::take(&mut build.is_new) {
                desk.lay(Arc::clone(&build.job));
            }
        }
    }

    /// An operation was done, or refused.
    pub(crate) fn op(
        &mut self,
        view: &mut View<'_>,
        kind: &str,
        at: At,
        resource: ResourceId,
        (body, done): (bytes::Bytes, bool),
    ) -> Result<(), ProjectionFault> {
        self.beside(view, kind, at, resource, Deed::Op(body), done)
    }

    /// What time asks for was done.
    pub(crate) fn tidied(
        &mut self,
        view: &mut View<'_>,
        kind: &str,
        at: At,
        resource: ResourceId,
    ) -> Result<(), ProjectionFault> {
        self.beside(view, kind, at, resource, Deed::Tidy, true)
    }

    /// The resource has no rows any more.
    pub(crate) fn buried(
        &mut self,
        view: &mut View<'_>,
        kind: &str,
        at: At,
        resource: ResourceId,
    ) -> Result<(), ProjectionFault> {
        self.beside(view, kind, at, resource, Deed::Bury, true)
    }

    fn beside(
        &mut self,
        view: &mut View<'_>,
        kind: &str,
        at: At,
        resource: ResourceId,
        deed: Deed,
        done: bool,
    ) -> Result<(), ProjectionFault> {
        let Some(build) = self.by_kind.get_mut(kind) else { return Ok(()) };
        let At { offset, log_time, index, .. } = at;
        let queued = Queued { offset, index, log_time, resource, deed };
        let found = match build.mode {
            Mode::Void => return Ok(()),
            // A record without effect takes its rows of the queue back with the others.
            Mode::Queue if !done => return Ok(()),
            Mode::Queue => {
                let (key, value) = (queued.key(at.group, kind), queued.value());
                build.queued_bytes += (key.len() + value.len()) as u64;
                view.put(FamilyId::REBUILD, key, value);
                let bytes_max = self.queue_bytes_max;
                if build.queued_bytes <= bytes_max {
                    return Ok(());
                }
                RebuildFailure::QueueFull { bytes_max }
            }
            Mode::Both => match build.job.redo(view, &queued) {
                Ok(same) if same == done => return Ok(()),
                Ok(_) => RebuildFailure::Disagrees { offset },
                Err(Stop::Store(error)) => return Err(error.into()),
                Err(Stop::Fault(fault)) => RebuildFailure::fault(&fault.to_string()),
                Err(_) => RebuildFailure::Unregistered,
            },
        };
        build.mode = Mode::Void;
        build.found = Some(found);
        build.job.cancel();
        Ok(())
    }

    /// Keeps what was found against them while the last record was applied, be that one of effect or not.
    pub(crate) fn settle(&mut self, view: &mut View<'_>) {
        for build in self.by_kind.values_mut() {
            if let Some(failure) = build.found.take() {
                let job = &build.job;
                let raw = Progress::Void(failure).encode(job.begun);
                view.put(FamilyId::REBUILD, progress_key(job.group, job.kind.as_str()), raw);
                view.keep_record();
            }
        }
    }
}

/// The applier's turn with a job.
pub(crate) struct Turn<'a> {
    job: &'a Arc<Job>,
    mode: MutexGuard<'a, Mode>,
}

impl<'a> Turn<'a> {
    pub(crate) fn of(job: &'a Arc<Job>) -> Self {
        Self { job, mode: job.enter() }
    }
}

impl Job {
    /// All that it has written or was to be given: family, from, end.
    pub(super) fn cleared(&self) -> Vec<(FamilyId, Vec<u8>, Vec<u8>)> {
        let rows = keys::of_group(self.family, self.group);
        let rows = rows.map(|(from, end)| (self.family, from, end));
        let (from, end) = queue(self.group, self.kind.as_str());
        rows.into_iter().chain([(FamilyId::REBUILD, from, end)]).collect()
    }

    pub(super) fn without_progress(&self) -> (FamilyId, Vec<u8>, Option<bytes::Bytes>) {
        (FamilyId::REBUILD, progress_key(self.group, self.kind.as_str()), None)
    }
}
