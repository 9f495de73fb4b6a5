//! The directory: which resources there are, what they are, and how that is changed.

use std::collections::BTreeMap;
use std::fmt;

use palisade_replication::{GroupId, LogTime, Offset};

use crate::alteration::{Alteration, Altered, Reason, Revision};
use crate::command::{AlterCommand, Command};
use crate::degradation::DegradationContract;
use crate::engine::{Engine, unexpected};
use crate::error::Error;
use crate::freshness::{Freshness, Read};
use crate::group::Group;
use crate::keys;
use crate::outcome::Outcome;
use crate::profile::PolicyHash;
use crate::projection::ProjectionFault;
use crate::read::{ReadConsistency, ReadOptions};
use crate::receipt::Receipt;
use crate::resource::{
    Affinity, FailureDomain, FenceEpoch, LogicalResourceName, Placement, ReplicaPolicy, ResourceId,
    ResourceKind, ResourceSpec, SchemaId,
};
use crate::resource_row::{self, Resource, find, named};
use crate::store::{Direction, FamilyId, StateRead, Walk};

/// Most resources that are listed at once.
pub const LISTED_MAX: usize = 1_000;

/// The resources of a cluster: `docs/directory.md`. Cheap to clone.
///
/// ```
/// use palisade::sim::SimFabric;
/// use palisade::*;
///
/// # fn main() -> Result<(), Error> {
/// let mut fabric = SimFabric::new(1);
/// let engine = fabric.engine(fabric.node(1));
/// fabric.block_on(async {
///     let directory: Directory = engine.directory();
///     let states = ResourceSpec::new("states", "state.v1")?;
///     let made = directory.create(&ResourceKind::MAP, states).await?;
///     let change = Alteration::AddSchema(SchemaId::new("state.v2")?);
///     directory.alter(&made.name, made.revision, change, "state.v2 has a region").await?;
///     for found in directory.list("", None, 100, ReadConsistency::Local).await?.resources {
///         println!("{found}");
///     }
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Directory {
    engine: Engine,
    caller: FailureDomain,
}

/// A resource, as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Described {
    /// Its name.
    pub name: LogicalResourceName,
    /// The group that it lies in.
    pub group: GroupId,
    /// Which others it is used together with.
    pub affinity: Affinity,
    /// What it is.
    pub kind: ResourceKind,
    /// How often it was altered: what [`Directory::alter`] is to be told.
    pub revision: Revision,
    /// What its values may be.
    pub schemas: Vec<DescribedSchema>,
    /// The current writer generation.
    pub epoch: FenceEpoch,
    /// Its replicas.
    pub replicas: ReplicaPolicy,
    /// From where it may be used.
    pub placement: Placement,
    /// Of both, as the record says that made or placed it: each replica has found the same.
    pub policy: PolicyHash,
    /// What it does when something has failed.
    pub contract: Option<DegradationContract>,
    /// The record that made it.
    pub made: Offset,
    /// When that was.
    pub made_at: LogTime,
    /// Whether it can be used.
    pub state: ResourceState,
}

/// Resources of all groups, and how fresh what is said of each group is.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
/// # let (apples, apple) = ("apples".to_owned(), "an apple".to_owned());
/// let listed: Listed = engine.directory().list("", None, 100, ReadConsistency::Local).await?;
/// let names: Vec<&str> = listed.resources.iter().map(|found| found.name.as_str()).collect();
/// assert_eq!(names, ["orders", "stock"]);
/// // What is told of each group, and of when.
/// for freshness in &listed.freshness {
///     println!("group={} at {}", freshness.group, freshness.offset);
/// }
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// In the order of their names.
    pub resources: Vec<Described>,
    /// Of each group that holds resources, in the order of their numbers: with one of them a later read of that
    /// group, on any replica, shows what is listed here or what became of it.
    pub freshness: Vec<Freshness>,
}

/// A schema of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribedSchema {
    /// Its name.
    pub id: SchemaId,
    /// Nobody opens the resource for writing with it any more.
    pub retired: bool,
}

/// Whether a resource can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResourceState {
    /// It can.
    Active,
    /// It cannot, and can be taken back.
    Deleted {
        /// By which record.
        offset: Offset,
        /// When this log time has come, it is removed for good.
        until: LogTime,
    },
}

impl Described {
    fn of(group: GroupId, resource: Resource) -> Self {
        let Resource { kind, spec, policy, made, revision, schemas, deleted, .. } = resource;
        let (made, made_at) = made;
        let schemas = schemas.into_iter();
        let state = deleted.map_or(ResourceState::Active, |deleted| ResourceState::Deleted {
            offset: deleted.offset,
            until: deleted.until,
        });
        Self {
            policy,
            name: spec.name,
            group,
            affinity: spec.affinity,
            kind,
            revision,
            schemas: schemas
                .map(|kept| DescribedSchema { id: kept.id, retired: kept.retired })
                .collect(),
            epoch: spec.epoch,
            replicas: spec.replicas,
            placement: spec.placement,
            contract: spec.contract,
            made,
            made_at,
            state,
        }
    }
}

/// One line.
impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, group, revision, epoch, .. } = self;
        write!(f, "{name} kind={kind} group={group} revision={revision} epoch={epoch} schemas=")?;
        for (at, schema) in self.schemas.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let retired = if schema.retired { "(retired)" } else { "" };
            write!(f, "{comma}{}{retired}", schema.id)?;
        }
        match self.state {
            ResourceState::Active => Ok(()),
            ResourceState::Deleted { until, .. } => write!(f, " deleted, until log_time={until}"),
        }
    }
}

impl Engine {
    /// The resources that there are, and how they are changed.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let stock = LogicalResourceName::new("stock")?;
    /// let found = engine.directory().describe(&stock, ReadConsistency::Linearizable).await?.value;
    /// println!("{found}");
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn directory(&self) -> Directory {
        Directory { engine: self.clone(), caller: self.domain().clone() }
    }
}

impl Directory {
    /// On whose behalf resources are altered: the domain that their placement is judged by. This node's own if
    /// never said.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let elsewhere = FailureDomain::new("elsewhere", "r", "z");
    /// let directory = engine.directory().caller(elsewhere);
    /// let name = LogicalResourceName::new("stock")?;
    /// let refused = directory.delete(&name, Revision::MADE, 60_000, "not sold any more").await;
    /// assert!(matches!(refused, Err(Error::DomainUnavailable { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn caller(self, domain: FailureDomain) -> Self {
        Self { caller: domain, ..self }
    }

    /// Makes a resource. A handle that opens it makes it too, if it is not there.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if there is one of this name; [`Error::NotFound`] if there is one that is
    /// deleted and can be taken back; [`Error::Incompatible`] for a kind that the engine was opened without;
    /// others as [`crate::Handle::open`].
    pub async fn create(
        &self,
        kind: &ResourceKind,
        spec: ResourceSpec,
    ) -> Result<Described, Error> {
        let registry = self.engine.registry();
        if registry.find(kind.as_str()).is_none() {
            return Err(Error::Incompatible {
                expected: format!("an engine that was opened with projection={kind}"),
                found: format!("{registry:?}"),
            });
        }
        let name = spec.name.clone();
        self.engine.open_resource(kind.clone(), spec, true).await?;
        // It was applied here. To ask others as well could fail, and say that nothing had happened.
        Ok(self.describe(&name, ReadConsistency::Local).await?.value)
    }

    /// Says what a resource is. One that is deleted is described as long as it can be taken back.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let name = LogicalResourceName::new("stock")?;
    /// let found: Described = engine.directory().describe(&name, ReadConsistency::Local).await?.value;
    /// assert_eq!((found.kind.as_str(), found.revision), ("map", Revision::MADE));
    /// assert_eq!(found.epoch, FenceEpoch::new(1));
    /// let [DescribedSchema { id, retired, .. }] = &found.schemas[..] else { panic!("it has one") };
    /// assert_eq!((id.as_str(), *retired), ("count.v1", false));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, and as any read.
    pub async fn describe(
        &self,
        name: &LogicalResourceName,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Described>, Error> {
        let (wanted, options) = (name.clone(), options.into());
        let group = self.engine.locate(name, options.consistency).await?;
        let read = group.read(options, move |read, group| {
            let found = find(read, group, &wanted)?;
            Ok(found.map(|(_, resource)| Described::of(group, resource)))
        });
        read.await?.try_map(|found| found.ok_or_else(|| unknown(name)))
    }

    /// Lists resources whose names begin with `prefix`, in the order of names, those that are deleted among
    /// them: at most `limit`, and those behind `after`. Who wants all of them goes on behind the last, until
    /// there are fewer. It is of all groups, each as it is applied here, or as the options ask; between what
    /// different groups have there is no order.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of none or of more than [`LISTED_MAX`], and for an offset, which
    /// is of one group; and as any read.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&LogicalResourceName>,
        limit: usize,
        options: impl Into<ReadOptions>,
    ) -> Result<Listed, Error> {
        if !(1..=LISTED_MAX).contains(&limit) {
            let what = format!("limit={limit}: 1 to {LISTED_MAX} resources are listed at once");
            return Err(Error::InvalidArgument { what });
        }
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let none = BTreeMap::new();
        let listed = self.engine.read_all(options.into(), none, move |listed, read, group| {
            for id in named(read, group, &prefix, after.as_ref(), limit)? {
                if let Some(resource) = resource_row::stored(read, group, id)? {
                    listed.insert(resource.spec.name.clone(), (group, resource));
                }
            }
            // However many groups there are, no more of them are held.
            while listed.len() > limit {
                listed.pop_last();
            }
            Ok(())
        });
        let (listed, freshness) = listed.await?;
        let listed = listed.into_values();
        let resources = listed.map(|(group, resource)| Described::of(group, resource)).collect();
        Ok(Listed { resources, freshness })
    }

    /// The last alterations of a resource, the oldest of them first: 64 at most.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let (directory, name) = (engine.directory(), LogicalResourceName::new("stock")?);
    /// let second = Alteration::AddSchema(SchemaId::new("count.v2")?);
    /// directory.alter(&name, Revision::MADE, second.clone(), "counts have a unit").await?;
    ///
    /// let made: Vec<Altered> = directory.alterations(&name, ReadConsistency::Linearizable).await?.value;
    /// assert_eq!((made[0].revision, &made[0].alteration), (Revision::new(1), &second));
    /// assert_eq!(made[0].reason.as_str(), "counts have a unit");
    /// println!("through node {}, from {}, at {}", made[0].node, made[0].domain, made[0].log_time);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Directory::describe`].
    pub async fn alterations(
        &self,
        name: &LogicalResourceName,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Vec<Altered>>, Error> {
        let (wanted, options) = (name.clone(), options.into());
        let group = self.engine.locate(name, options.consistency).await?;
        let read = group.read(options, move |read, group| {
            let Some((id, _)) = find(read, group, &wanted)? else { return Ok(None) };
            Ok(Some(trail(read, group, id)?))
        });
        read.await?.try_map(|found| found.ok_or_else(|| unknown(name)))
    }

    /// Alters a resource that stands at the expected revision, for a reason of 1 to [`Reason::BYTES_MAX`]
    /// bytes. The caller's domain ([`Directory::caller`]) must be in the placement that it had.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, or if it is deleted; [`Error::PreconditionFailed`] if it stands at
    /// another revision, or for an alteration that cannot be done to it as it is;
    /// [`Error::DomainUnavailable`] for a placement outside which there is a replica; [`Error::InvalidArgument`]
    /// for a retention or a reason that is too long or empty; and as any write.
    pub async fn alter(
        &self,
        name: &LogicalResourceName,
        expected: Revision,
        alteration: Alteration,
        reason: &str,
    ) -> Result<Receipt, Error> {
        let most = Reason::BYTES_MAX;
        let reason = Reason::new(reason).ok_or_else(|| Error::InvalidArgument {
            what: format!("a reason has 1 to {most} bytes"),
        })?;
        let group = self.engine.locate(name, ReadConsistency::Linearizable).await?;
        match &alteration {
            Alteration::Delete { retain_ms } if *retain_ms > Alteration::RETAIN_MS_MAX => {
                let most = Alteration::RETAIN_MS_MAX;
                let what = format!("retain_ms={retain_ms}: a resource is kept for at most {most}");
                return Err(Error::InvalidArgument { what });
            }
            Alteration::Place(placement) => group.check_placed(name, placement).await?,
            _ => {}
        }
        let (resource, replicas) = altered(&group, name).await?;
        let policy = AlterCommand::policy(&alteration, replicas);
        let (node, caller) = (self.engine.node(), self.caller.clone());
        let command = AlterCommand { resource, expected, node, caller, reason, alteration, policy };
        match group.propose(&Command::Alter(command)).await? {
            (receipt, Outcome::Altered { .. }) => Ok(receipt),
            (_, Outcome::Refused(refusal)) => Err(refusal.into()),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Deletes a resource: nothing can be done with it from then on. It can be taken back for so many
    /// milliseconds of log time, at most [`Alteration::RETAIN_MS_MAX`]; then everything it has is removed.
    ///
    /// It is told the revision that whoever decides has seen, so that two who decide do not both take effect:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let (directory, name, now) =
    ///     (engine.directory(), LogicalResourceName::new("stock")?, ReadConsistency::Linearizable);
    /// let seen = directory.describe(&name, now).await?.value.revision;
    /// directory.delete(&name, seen, 7 * 86_400_000, "not sold any more").await?;
    ///
    /// let deleted = directory.describe(&name, now).await?.value;
    /// assert!(matches!(deleted.state, ResourceState::Deleted { .. }));
    /// let gone = stock.get(&"apples".to_owned(), now).await;
    /// assert!(matches!(gone, Err(Error::NotFound { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Directory::alter`].
    pub async fn delete(
        &self,
        name: &LogicalResourceName,
        expected: Revision,
        retain_ms: u64,
        reason: &str,
    ) -> Result<Receipt, Error> {
        self.alter(name, expected, Alteration::Delete { retain_ms }, reason).await
    }

    /// Takes a deleted resource back, as it was.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let (directory, name) = (engine.directory(), LogicalResourceName::new("stock")?);
    /// directory.delete(&name, Revision::MADE, 60_000, "not sold any more").await?;
    /// let late = directory.undelete(&name, Revision::MADE, "it is").await;
    /// assert!(matches!(late, Err(Error::PreconditionFailed { .. })));
    ///
    /// directory.undelete(&name, Revision::MADE.next(), "it is").await?;
    /// stock.put(&"apples".to_owned(), &7).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Directory::alter`].
    pub async fn undelete(
        &self,
        name: &LogicalResourceName,
        expected: Revision,
        reason: &str,
    ) -> Result<Receipt, Error> {
        self.alter(name, expected, Alteration::Undelete, reason).await
    }
}

/// The number of the resource that has the name, and its replicas, which nothing alters.
async fn altered(
    group: &Group,
    name: &LogicalResourceName,
) -> Result<(ResourceId, ReplicaPolicy), Error> {
    let wanted = name.clone();
    let look = move |read: &dyn StateRead, group| {
        Ok(find(read, group, &wanted)?.map(|(id, found)| (id, found.spec.replicas)))
    };
    let found = group.read(ReadConsistency::Linearizable.into(), look).await?;
    found.value.ok_or_else(|| unknown(name))
}

fn unknown(name: &LogicalResourceName) -> Error {
    Error::NotFound { what: format!("resource={name}") }
}

/// What is kept of a resource's alterations, in their order.
pub(crate) fn trail(
    read: &dyn StateRead,
    group: GroupId,
    id: ResourceId,
) -> Result<Vec<Altered>, ProjectionFault> {
    let (from, end) = keys::alterations(group, id);
    let mut trail = Vec::new();
    let mut broken = Ok(());
    read.walk(FamilyId::RESOURCES, &from, &end, Direction::Forward, &mut |key, raw| {
        let revision = key.last_chunk().map_or(0, |raw| u64::from_be_bytes(*raw));
        match Altered::decode(Revision::new(revision), raw) {
            Ok(altered) => {
                trail.push(altered);
                Walk::Next
            }
            Err(error) => {
                broken = Err(error);
                Walk::Stop
            }
        }
    })?;
    broken?;
    Ok(trail)
}
