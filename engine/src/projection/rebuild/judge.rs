//! What the records of a rebuild do: the same at every replica, wherever it is with its own part of it.

use bytes::Bytes;
#[cfg(all(feature = "backup", any(feature = "rocksdb", test)))]
use palisade_replication::GroupId;
use palisade_replication::{NodeId, Offset};

use super::build::Builds;
use super::job::{Mode, import_kind};
use super::local::moved;
use super::record::RebuildCommand;
use super::state::{Failed, KindState, MEMBERS_MAX, Target, announced, put_newest};
use crate::comparing::spans;
use crate::keys;
use crate::outcome::{Branch, Outcome};
use crate::projection::{At, ProjectionFault, Registry, Stop};
use crate::refusal::Refusal;
use crate::resource::ResourceKind;
use crate::resource_table::ResourceTable;
use crate::store::{FamilyId, StateStore, WriteSet};
use crate::view::View;

/// Forgets what the members of a group have said about rebuilds, and what was made of it here: they are other
/// members now.
#[cfg(all(feature = "backup", any(feature = "rocksdb", test)))]
pub(crate) fn forget(
    writes: &mut WriteSet,
    registry: &Registry,
    group: GroupId,
    kinds: &super::state::Kinds,
) {
    let (from, end) = keys::announced(group);
    writes.cleared.push((FamilyId::RESOURCES, from, end));
    for (kind, state) in &kinds.states {
        let name = kind.as_str();
        let state = KindState { target: None, failed: None, ..state.clone() };
        writes.writes.push((FamilyId::RESOURCES, keys::kind(group, name), Some(state.encode())));
        writes.writes.push((FamilyId::REBUILD, super::local::progress_key(group, name), None));
        let (from, end) = super::local::queue(group, name);
        writes.cleared.push((FamilyId::REBUILD, from, end));
        let first = registry.find(name).map(|kind| kind.family);
        let unserved =
            first.and_then(|first| registry.families().other(kinds.held(registry, first)));
        let rows = unserved.and_then(|family| Some((family, keys::of_group(family, group)?)));
        writes.cleared.extend(rows.map(|(family, (from, end))| (family, from, end)));
    }
}

/// What a record is applied to.
pub(crate) struct Scene<'a, 'v> {
    pub(crate) resources: &'a mut ResourceTable,
    pub(crate) builds: &'a mut Builds,
    pub(crate) registry: &'a Registry,
    pub(crate) store: &'a dyn StateStore,
    pub(crate) view: &'a mut View<'v>,
    pub(crate) at: At,
}

/// Does what a record says. It has no effect if what it says is over.
pub(crate) fn apply(
    mut scene: Scene<'_, '_>,
    command: RebuildCommand,
) -> Result<Outcome, ProjectionFault> {
    let done = match command {
        RebuildCommand::Announce { node, newest } => {
            let mut raw = Vec::new();
            put_newest(&mut raw, &newest);
            scene.announce(node, (!newest.is_empty()).then(|| raw.into()))?;
            Ok(())
        }
        RebuildCommand::Begin { kind, version, members } => {
            scene.begin(&kind, version, &members)?
        }
        RebuildCommand::Ready { kind, begun, node } => scene.ready(&kind, begun, node),
        RebuildCommand::Activate { kind, begun, voters } => {
            scene.activate(&kind, begun, &voters)?
        }
        RebuildCommand::Fail { kind, begun, node, failure } => {
            scene.under_way(&kind, begun).map(|(mut state, Target { version, .. })| {
                let offset = scene.at.offset;
                state.failed = Some(Failed { version, offset, node, failure });
                scene.end(&kind);
                scene.keep(kind, state);
            })
        }
        RebuildCommand::Again { kind } => scene.again(kind),
    };
    Ok(match done {
        Ok(()) => Outcome::Applied { branch: Branch::Then, outcomes: Vec::new() },
        Err(what) => Outcome::Refused(Refusal::Unalterable { what: what.to_owned() }),
    })
}

/// Why a record has no effect.
type Judged<T> = Result<T, &'static str>;

const OVER: &str = "the rebuild that it speaks of is not under way";

impl Scene<'_, '_> {
    fn announce(&mut self, node: NodeId, row: Option<Bytes>) -> Result<(), ProjectionFault> {
        let known = announced(self.view, self.at.group)?;
        let key = |node| keys::member(self.at.group, node);
        match row {
            None => self.view.remove(FamilyId::RESOURCES, key(node)),
            Some(raw) => {
                // Those who are gone do not say so; the next one that says anything has their place.
                let is_full = known.len() >= MEMBERS_MAX && !known.contains_key(&node);
                if let Some(first) = known.keys().next().filter(|_| is_full) {
                    self.view.remove(FamilyId::RESOURCES, key(*first));
                }
                self.view.put(FamilyId::RESOURCES, key(node), raw);
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        kind: &ResourceKind,
        version: u32,
        members: &[NodeId],
    ) -> Result<Judged<()>, ProjectionFault> {
        let Some(active) = self.resources.in_use(kind) else {
            return Ok(Err("there is no resource of that kind"));
        };
        let before = self.resources.kinds.states.get(kind).cloned();
        let before =
            before.unwrap_or(KindState { active, since: Offset::ZERO, target: None, failed: None });
        if version <= active {
            return Ok(Err("a version that is no newer decides already"));
        }
        if before.target.is_some() {
            return Ok(Err("a rebuild is under way"));
        }
        if before.failed.as_ref().is_some_and(|failed| failed.stops(version)) {
            return Ok(Err("that version has failed: it is tried again when somebody asks for it"));
        }
        let known = announced(self.view, self.at.group)?;
        let has =
            |node| known.get(node).is_some_and(|newest| newest.contains(&(kind.clone(), version)));
        if members.is_empty() || !members.iter().all(has) {
            return Ok(Err("a member has not said that it has that version"));
        }
        for gone in known.keys().filter(|node| !members.contains(node)) {
            self.view.remove(FamilyId::RESOURCES, keys::member(self.at.group, *gone));
        }
        let begun = self.at.offset;
        let target = Target { version, begun, ready: Default::default() };
        let kinds = &self.resources.kinds;
        let what = (active, &target);
        self.builds.begin(self.registry, self.at.group, kinds, kind, what, Mode::Queue);
        self.keep(kind.clone(), KindState { target: Some(target), failed: None, ..before });
        Ok(Ok(()))
    }

    fn ready(&mut self, kind: &ResourceKind, begun: Offset, node: NodeId) -> Judged<()> {
        let (state, mut target) = self.under_way(kind, begun)?;
        if target.ready.len() >= MEMBERS_MAX {
            return Err("too many members are ready");
        }
        target.ready.insert(node);
        self.keep(kind.clone(), KindState { target: Some(target), ..state });
        Ok(())
    }

    fn activate(
        &mut self,
        kind: &ResourceKind,
        begun: Offset,
        voters: &[NodeId],
    ) -> Result<Judged<()>, ProjectionFault> {
        let (state, target) = match self.under_way(kind, begun) {
            Ok(found) => found,
            Err(refused) => return Ok(Err(refused)),
        };
        if voters.is_empty() || !voters.iter().all(|voter| target.ready.contains(voter)) {
            return Ok(Err("a voter has not said that it is ready"));
        }
        let version = target.version;
        let missing = || {
            let what = format!(
                "projection={kind} version={version} decides from here on, and the engine was opened \
                 without it: open it with EngineBuilder::projection of that version"
            );
            ProjectionFault::new(what)
        };
        let newer = self.registry.find_version(kind.as_str(), version).ok_or_else(missing)?;
        let build = self.builds.end(kind).ok_or_else(missing)?;
        if build.mode != Mode::Both {
            self.import_now(kind, (state.active, version), &build.job.cleared(), build.job.family)?;
        }
        let group = self.at.group;
        let old = self.resources.kinds.held(self.registry, newer.family);
        if let Some((from, end)) = keys::of_group(old, group) {
            self.view.clear(old, &from, &end);
        }
        self.forget_progress(kind);
        let row = moved(group, kind.as_str());
        if old == newer.family {
            self.view.put(FamilyId::REBUILD, row, Bytes::new());
            self.resources.kinds.moved.insert(newer.family);
        } else {
            self.view.remove(FamilyId::REBUILD, row);
            self.resources.kinds.moved.remove(&newer.family);
        }
        let since = self.at.offset;
        self.keep(kind.clone(), KindState { active: version, since, target: None, failed: None });
        Ok(Ok(()))
    }

    /// This replica has no rows of the version that decides from here on: it makes them before it goes on.
    /// They lie where nothing is served from before this record is committed.
    fn import_now(
        &mut self,
        kind: &ResourceKind,
        versions: (u32, u32),
        cleared: &[(FamilyId, Vec<u8>, Vec<u8>)],
        family: crate::store::FamilyId,
    ) -> Result<(), ProjectionFault> {
        self.view.forget(family);
        let (store, group) = (self.store, self.at.group);
        let gone = WriteSet { cleared: cleared.to_vec(), writes: Vec::new() };
        spans::commit(store, group, gone)?;
        let mut commit = |writes| Ok(spans::commit(store, group, WriteSet::rows(writes))?);
        let view: &View<'_> = self.view;
        let done = import_kind(view, self.registry, group, kind, versions, family, &mut commit);
        done.map_err(|stop| match stop {
            Stop::Fault(fault) => fault,
            Stop::Store(error) => error.into(),
            other => ProjectionFault::new(format!("projection={kind}: no rows, {other:?}")),
        })
    }

    fn again(&mut self, kind: ResourceKind) -> Judged<()> {
        let state = self.resources.kinds.states.get(&kind).cloned();
        match state.filter(|state| state.failed.is_some()) {
            None => Err("nothing has failed"),
            Some(state) => {
                self.keep(kind, KindState { failed: None, ..state });
                Ok(())
            }
        }
    }

    fn under_way(&self, kind: &ResourceKind, begun: Offset) -> Judged<(KindState, Target)> {
        let mut state = self.resources.kinds.states.get(kind).cloned().ok_or(OVER)?;
        let target = state.target.take().filter(|target| target.begun == begun);
        target.map(|target| (state, target)).ok_or(OVER)
    }

    /// What was built here goes.
    fn end(&mut self, kind: &ResourceKind) {
        if let Some(build) = self.builds.end(kind) {
            self.view.forget(build.job.family);
            for (family, from, end) in build.job.cleared() {
                self.view.clear(family, &from, &end);
            }
            self.forget_progress(kind);
        }
    }

    fn forget_progress(&mut self, kind: &ResourceKind) {
        let (group, name) = (self.at.group, kind.as_str());
        self.view.remove(FamilyId::REBUILD, super::local::progress_key(group, name));
        let (from, end) = super::local::queue(group, name);
        self.view.clear(FamilyId::REBUILD, &from, &end);
    }

    fn keep(&mut self, kind: ResourceKind, state: KindState) {
        let key = keys::kind(self.at.group, kind.as_str());
        self.view.put(FamilyId::RESOURCES, key, state.encode());
        self.resources.kinds.states.insert(kind, state);
    }
}
