//! What users are told of rebuilds.

use palisade_replication::{GroupId, Membership, NodeId, Offset};

use super::due::{in_use, missing};
use super::local::Progress;
use super::record::RebuildCommand;
use super::state::{Kinds, RebuildFailure, announced};
use crate::command::Command;
use crate::engine::unexpected;
use crate::error::Error;
use crate::freshness::Read;
use crate::group::Group;
use crate::outcome::Outcome;
use crate::projection::{ProjectionFault, Registry};
use crate::read::ReadConsistency;
use crate::resource::ResourceKind;
use crate::store::StateRead;

/// How far a group is with a kind of resource whose version rises, as one node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildStatus {
    /// The kind.
    pub kind: ResourceKind,
    /// The version that decides and serves.
    pub active: u32,
    /// What becomes of it.
    pub stage: RebuildStage,
}

/// What becomes of a kind of resource whose version rises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebuildStage {
    /// Nothing is to be done.
    Idle,
    /// It begins when these members, too, were opened with the newer version.
    Waiting {
        /// The newer version.
        version: u32,
        /// Who is still to be opened with it.
        missing: Vec<NodeId>,
    },
    /// Every member makes rows of the newer version.
    Building {
        /// The newer version.
        version: u32,
        /// The record that began it.
        begun: Offset,
        /// Who has them, and keeps them up. When all voters do, the newer version decides.
        ready: Vec<NodeId>,
        /// How far this node is.
        here: RebuildHere,
    },
    /// It came to nothing, and the older version stays. It is tried again for a still newer version, or when
    /// [`Group::rebuild_again`] is called.
    Failed {
        /// The newer version.
        version: u32,
        /// The record that ended it.
        offset: Offset,
        /// The member that said so.
        node: NodeId,
        /// Why.
        failure: RebuildFailure,
    },
}

/// How far one node is with rows of a newer version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebuildHere {
    /// It imports the rows of one moment.
    Importing,
    /// It does what was done since.
    CatchingUp,
    /// It has them: each record is applied to both versions.
    Ready,
    /// It cannot, and will say so to the others.
    Void(RebuildFailure),
}

fn status(
    read: &dyn StateRead,
    registry: &Registry,
    group: GroupId,
    members: &Membership,
) -> Result<Vec<RebuildStatus>, ProjectionFault> {
    let kinds = Kinds::load(read, group)?;
    let newest = registry.superseders();
    let names = newest.keys().map(|name| ResourceKind::of(*name));
    let mut all: Vec<ResourceKind> = names.chain(kinds.states.keys().cloned()).collect();
    all.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    all.dedup();
    let mut found = Vec::new();
    for kind in all {
        let Some(active) = in_use(read, group, &kinds, &kind)? else { continue };
        let state = kinds.states.get(&kind);
        let wanted = newest.get(kind.as_str()).copied().filter(|version| active < *version);
        let failed = state.and_then(|state| state.failed.clone());
        let stage = if let Some(target) = state.and_then(|state| state.target.clone()) {
            let here = match Progress::stored(read, group, kind.as_str(), target.begun)? {
                None => RebuildHere::Importing,
                Some(Progress::Imported) => RebuildHere::CatchingUp,
                Some(Progress::CaughtUp) => RebuildHere::Ready,
                Some(Progress::Void(failure)) => RebuildHere::Void(failure),
            };
            let ready = target.ready.into_iter().collect();
            RebuildStage::Building { version: target.version, begun: target.begun, ready, here }
        } else if let Some(failed) =
            failed.filter(|failed| wanted.is_none_or(|wanted| failed.stops(wanted)))
        {
            let (version, offset, node) = (failed.version, failed.offset, failed.node);
            RebuildStage::Failed { version, offset, node, failure: failed.failure }
        } else if let Some(version) = wanted {
            let nodes = members.roles().map(|(node, _)| node);
            let missing = missing(&announced(read, group)?, nodes, &(kind.clone(), version));
            RebuildStage::Waiting { version, missing }
        } else {
            RebuildStage::Idle
        };
        found.push(RebuildStatus { kind, active, stage });
    }
    Ok(found)
}

impl Group {
    /// How far the group is with each kind of resource whose version rises, or has risen, as this node has
    /// applied it: see [`crate::EngineBuilder::superseding`].
    ///
    /// ```
    /// # use palisade::{sim::{SimFabric, SimRelease}, *};
    /// # mod versions {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/versions.rs"));
    /// # }
    /// # use versions::{First, Second};
    /// # let second = SimRelease::default().projection(Second).superseding(First);
    /// # let mut fabric = SimFabric::builder(1).projection(First).build().unwrap();
    /// # let node = fabric.node(1);
    /// # let engine = fabric.engine(node);
    /// # let spec = ResourceSpec::new("visits", "v1").unwrap();
    /// # fabric.block_on(Handle::<First>::open(&engine, spec)).unwrap();
    /// # fabric.shut_down(node);
    /// # fabric.restart_from(node, &second).unwrap();
    /// # fabric.run_for(std::time::Duration::from_secs(20));
    /// # let group = fabric.engine(node).group(GroupId::new(1)).unwrap();
    /// # fabric.block_on(async {
    /// // A while after each member was opened with the newer version.
    /// for RebuildStatus { kind, active, stage, .. } in group.rebuilds().await?.value {
    ///     match stage {
    ///         RebuildStage::Idle => assert_eq!(active, 2, "the newer version of {kind} decides"),
    ///         RebuildStage::Waiting { missing, .. } => println!("{missing:?} are to be opened with it"),
    ///         RebuildStage::Building { here: RebuildHere::Ready, .. } => println!("ready here"),
    ///         RebuildStage::Building { ready, .. } => println!("ready at {ready:?}"),
    ///         RebuildStage::Failed { failure: RebuildFailure::QueueFull { bytes_max }, .. } => {
    ///             println!("it needs more than {bytes_max} bytes");
    ///         }
    ///         RebuildStage::Failed { failure, node, .. } => println!("node {node}: {failure}"),
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As any read.
    pub async fn rebuilds(&self) -> Result<Read<Vec<RebuildStatus>>, Error> {
        let members = self.status().await?.members;
        let registry = self.engine.registry().clone();
        let look = move |read: &dyn StateRead, group| status(read, &registry, group, &members);
        self.read(ReadConsistency::Local.into(), look).await
    }

    /// Lets a rebuild that has failed be tried again, with the same version.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let group = fabric.engine(fabric.node(1)).group(GroupId::new(1)).unwrap();
    /// # fabric.block_on(async {
    /// for status in group.rebuilds().await?.value {
    ///     if let RebuildStage::Failed { .. } = status.stage {
    ///         group.rebuild_again(&status.kind).await?;
    ///     }
    /// }
    /// # let none = group.rebuild_again(&ResourceKind::MAP).await;
    /// # assert!(matches!(none, Err(Error::PreconditionFailed { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if none has failed, and as any write.
    pub async fn rebuild_again(&self, kind: &ResourceKind) -> Result<(), Error> {
        let command = Command::Rebuild(RebuildCommand::Again { kind: kind.clone() });
        match self.propose(&command).await? {
            (_, Outcome::Applied { .. }) => Ok(()),
            (_, Outcome::Refused(refusal)) => Err(refusal.into()),
            (_, other) => Err(unexpected(&other)),
        }
    }
}
