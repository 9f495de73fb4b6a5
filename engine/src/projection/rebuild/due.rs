//! What this node ought to say about rebuilds: a function of one moment's state, of what it was opened with,
//! and of who takes part. What it says is a record; what is done then is decided where that is applied.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use palisade_replication::{GroupId, GroupStatus, MemberRole, Membership, NodeId, Role};

use super::local::Progress;
use super::record::RebuildCommand;
use super::state::{Kinds, Newest, RebuildFailure, announced};
use crate::backend::race;
use crate::command::Command;
use crate::error::Error;
use crate::group::Group;
use crate::projection::{ProjectionFault, Registry};
use crate::read::ReadConsistency;
use crate::resource::ResourceKind;
use crate::resource_row::each_resource;
use crate::store::StateRead;

/// How long a round waits for each of its records. What is due then is due again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who speaks, and among whom.
pub(super) struct Seat<'a> {
    pub(super) node: NodeId,
    pub(super) leads: bool,
    pub(super) members: &'a Membership,
}

impl Seat<'_> {
    fn all(&self) -> Vec<NodeId> {
        self.members.roles().map(|(node, _)| node).collect()
    }

    fn voters(&self) -> Vec<NodeId> {
        let votes = |(_, role): &(NodeId, MemberRole)| *role != MemberRole::Learner;
        self.members.roles().filter(votes).map(|(node, _)| node).collect()
    }
}

/// The version that decides for a kind, where there are resources of it.
pub(crate) fn in_use(
    read: &dyn StateRead,
    group: GroupId,
    kinds: &Kinds,
    kind: &ResourceKind,
) -> Result<Option<u32>, ProjectionFault> {
    let mut found = kinds.active(kind);
    if found.is_none() {
        each_resource(read, group, |_, resource| {
            if resource.kind != *kind {
                return ControlFlow::Continue(());
            }
            found = Some(resource.version);
            ControlFlow::Break(())
        })?;
    }
    Ok(found)
}

/// Who has not said that it has the version.
pub(super) fn missing(
    known: &BTreeMap<NodeId, Newest>,
    members: impl IntoIterator<Item = NodeId>,
    what: &(ResourceKind, u32),
) -> Vec<NodeId> {
    let has = |node: &NodeId| known.get(node).is_some_and(|newest| newest.contains(what));
    members.into_iter().filter(|node| !has(node)).collect()
}

/// What ought to be said now.
pub(super) fn due(
    read: &dyn StateRead,
    registry: &Registry,
    group: GroupId,
    seat: &Seat<'_>,
) -> Result<Vec<RebuildCommand>, ProjectionFault> {
    let mut said = Vec::new();
    let node = seat.node;
    if seat.members.role(node).is_none() {
        return Ok(said);
    }
    let newest: Newest = registry
        .superseders()
        .into_iter()
        .map(|(name, version)| (ResourceKind::of(name), version))
        .collect();
    let known = announced(read, group)?;
    let own = known.get(&node).map_or(&[][..], |newest| newest);
    if own != newest {
        said.push(RebuildCommand::Announce { node, newest: newest.clone() });
    }
    let kinds = Kinds::load(read, group)?;
    for (kind, _, target) in kinds.targets() {
        let (kind, begun) = (kind.clone(), target.begun);
        if registry.find_version(kind.as_str(), target.version).is_none() {
            let failure = RebuildFailure::Unregistered;
            said.push(RebuildCommand::Fail { kind, begun, node, failure });
            continue;
        }
        match Progress::stored(read, group, kind.as_str(), begun)? {
            None | Some(Progress::Imported) => {}
            Some(Progress::Void(failure)) => {
                said.push(RebuildCommand::Fail { kind, begun, node, failure });
            }
            Some(Progress::CaughtUp) if !target.ready.contains(&node) => {
                said.push(RebuildCommand::Ready { kind, begun, node });
            }
            Some(Progress::CaughtUp) if seat.leads => {
                let voters = seat.voters();
                if voters.iter().all(|voter| target.ready.contains(voter)) {
                    said.push(RebuildCommand::Activate { kind, begun, voters });
                }
            }
            Some(Progress::CaughtUp) => {}
        }
    }
    if !seat.leads {
        return Ok(said);
    }
    for (kind, version) in newest {
        let state = kinds.states.get(&kind);
        let is_over = state.is_some_and(|state| {
            let failed = state.failed.as_ref().is_some_and(|failed| failed.stops(version));
            state.target.is_some() || failed
        });
        let active = in_use(read, group, &kinds, &kind)?;
        if is_over || active.is_none_or(|active| version <= active) {
            continue;
        }
        let what = (kind, version);
        let members = seat.all();
        if missing(&known, members.iter().copied(), &what).is_empty() {
            let (kind, version) = what;
            said.push(RebuildCommand::Begin { kind, version, members });
        }
    }
    Ok(said)
}

/// One round on this node in one of its groups: says what ought to be said.
///
/// # Errors
/// As any write; the next round tries again.
pub(crate) async fn round(group: &Group, status: &GroupStatus) -> Result<(), Error> {
    let engine = &group.engine;
    if !engine.registry().has_added() {
        return Ok(());
    }
    let (registry, node) = (engine.registry().clone(), engine.node());
    let (leads, members) = (status.role == Role::Leader, status.members.clone());
    let look = move |read: &dyn StateRead, group| {
        due(read, &registry, group, &Seat { node, leads, members: &members })
    };
    let due = group.read(ReadConsistency::Local.into(), look).await?.value;
    for command in due {
        let command = Command::Rebuild(command);
        let wait = engine.backend().sleep(PATIENCE);
        let Some(done) = race(group.propose(&command), wait).await else { return Ok(()) };
        done?;
    }
    Ok(())
}
