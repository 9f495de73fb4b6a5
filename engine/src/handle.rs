//! A handle to a resource of any kind: what it proposes, and how it reads.

use std::any::{TypeId, type_name};
use std::marker::PhantomData;
use std::sync::Arc;

use palisade_replication::{GroupId, Offset};

use crate::batch::{Batch, Guard, Unproposable};
use crate::command::Op;
use crate::degradation::Call;
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::group::Group;
use crate::observation::Observation;
use crate::projection::{Projection, ProjectionFault, RowsRead, fault, rebuild};
use crate::read::{ReadConsistency, ReadOptions};
use crate::receipt::Receipt;
use crate::resource::{
    FailureDomain, FenceEpoch, LogicalResourceName, ResourceId, ResourceKind, ResourceSpec,
    SchemaId,
};
use crate::resource_row::{self, Resource};
use crate::schemas::Schemas;
use crate::store::{FamilyId, StateRead};
use crate::stored::Stored;
use crate::trace::TraceContext;

/// A handle to a resource of the kind `P`, opened by one writer generation or for reading alone. The engine must have been
/// opened with [`crate::EngineBuilder::projection`].
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # mod counter {
/// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
/// # }
/// # use counter::Counter;
/// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("visits", "count.v1")?;
/// # let visits = Handle::<Counter>::open(&engine, spec).await?;
/// // `Counter` is the projection that the page of `Projection` shows: it counts to a hundred.
/// let Done { receipt, outcome } = visits.submit(&97).await?;
/// assert_eq!(outcome, 97);
///
/// let refused = visits.submit(&4).await.unwrap_err();
/// assert_eq!(visits.refusal(&refused), Some(97));
///
/// let count = |rows: &RowsRead<'_>| {
///     Ok(rows.get(b"count")?.map(|raw| u64::from_bytes(&raw)).transpose()?.unwrap_or(0))
/// };
/// assert_eq!(visits.read(receipt.freshness(), count).await?.value, 97);
/// assert_eq!(visits.group().id(), receipt.group);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
pub struct Handle<P> {
    pub(crate) group: Group,
    family: FamilyId,
    resource: ResourceId,
    /// Nothing: it was opened for reading.
    epoch: Option<FenceEpoch>,
    /// On whose behalf, beside this node's own.
    caller: Option<FailureDomain>,
    schemas: Arc<Schemas>,
    kind: PhantomData<fn() -> P>,
}

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        let (group, caller) = (self.group.clone(), self.caller.clone());
        Self { group, caller, schemas: Arc::clone(&self.schemas), ..*self }
    }
}

/// What an operation has done, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<O> {
    /// Where it took effect.
    pub receipt: Receipt,
    /// What its projection says.
    pub outcome: O,
}

impl<P: Projection> Handle<P> {
    /// Opens the resource for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an epoch below the current, [`Error::Incompatible`] if it is something
    /// else than asked for or the engine was opened without its projection,
    /// [`Error::DomainUnavailable`] outside its placement.
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        let family = Self::family(engine)?;
        let epoch = Some(spec.epoch);
        let kind = ResourceKind::of(P::NAME);
        let (group, resource, schemas) = engine.open_resource(kind, spec, false).await?;
        let (schemas, caller) = (Arc::new(schemas), None);
        Ok(Self { group, family, resource, epoch, caller, schemas, kind: PhantomData })
    }

    /// Opens a resource that is there for reading: nothing is written to the log, and no writer is
    /// fenced. What it is asked to write it refuses.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such resource, [`Error::Incompatible`] if it is something else
    /// than asked for, [`Error::DomainUnavailable`] on a node outside its placement.
    pub async fn open_reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> Result<Self, Error> {
        Self::find(engine, name, schema, None).await
    }

    /// Opens a resource that is there for writing with an epoch that it has: nothing is made, nothing is
    /// written to the log, and no writer is fenced. Each write is judged at its place in the log as any other
    /// is: with another epoch than the current one none takes effect.
    ///
    /// A program that was told the epoch writes with it; one that only looks needs none:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// # let visits = Handle::<Counter>::open(&engine, spec).await?;
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// let worker =
    ///     Handle::<Counter>::open_existing(&engine, &spec.name, &spec.schema, spec.epoch).await?;
    /// worker.submit(&3).await?;
    ///
    /// let reader = Handle::<Counter>::open_reader(&engine, &spec.name, &spec.schema).await?;
    /// let refused = reader.submit(&3).await;
    /// assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Handle::open_reader`], and [`Error::Incompatible`] for a schema that was retired.
    pub async fn open_existing(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
        epoch: FenceEpoch,
    ) -> Result<Self, Error> {
        Self::find(engine, name, schema, Some(epoch)).await
    }

    async fn find(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
        epoch: Option<FenceEpoch>,
    ) -> Result<Self, Error> {
        let family = Self::family(engine)?;
        let kind = ResourceKind::of(P::NAME);
        let group = engine.locate(name, ReadConsistency::Linearizable).await?;
        let (resource, schemas) = group.find_resource(&kind, name, schema, epoch.is_some()).await?;
        let (schemas, caller) = (Arc::new(schemas), None);
        Ok(Self { group, family, resource, epoch, caller, schemas, kind: PhantomData })
    }

    /// The group that the resource lies in.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The same handle on behalf of somebody: placement is judged by his domain too, for writes of its
    /// own and for reads (G9). In a batch say so with [`crate::Batch::caller`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// # let visits = Handle::<Counter>::open(&engine, spec).await?;
    /// let (here, elsewhere) = (engine.domain().clone(), FailureDomain::new("elsewhere", "r", "z"));
    /// visits.admit(&here).await?;
    /// visits.for_caller(here).submit(&3).await?;
    ///
    /// let refused = visits.for_caller(elsewhere.clone()).submit(&3).await;
    /// assert!(matches!(refused, Err(Error::DomainUnavailable { .. })));
    /// assert!(visits.admit(&elsewhere).await.is_err());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn for_caller(&self, domain: FailureDomain) -> Self {
        Self { caller: Some(domain), ..self.clone() }
    }

    /// The same handle as a part of a trace, which is stored with what it writes: see [`Engine::traced`]. In a batch
    /// say so with [`crate::Batch::traced`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// # let visits = Handle::<Counter>::open(&engine, spec).await?;
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// visits.traced(trace).submit(&3).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn traced(&self, trace: TraceContext) -> Self {
        Self { group: self.group.traced(trace), ..self.clone() }
    }

    /// Whether a worker in this domain may work on the resource (G9): what it is placed on, as this
    /// replica has it.
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] if not, and as any read.
    pub async fn admit(&self, worker: &FailureDomain) -> Result<(), Error> {
        worker.check()?;
        self.for_caller(worker.clone()).read(ReadConsistency::Local, |_| Ok(())).await?;
        Ok(())
    }

    /// A batch on behalf of whom the handle is for.
    pub(crate) fn batch(&self) -> Batch {
        let batch = self.group.engine.batch();
        match &self.caller {
            Some(caller) => batch.caller(caller.clone()),
            None => batch,
        }
    }

    fn family(engine: &Engine) -> Result<FamilyId, Error> {
        // One of the same name is not enough: what another type writes, or another version of it, would
        // halt every replica.
        let kind = engine.registry().find(P::NAME);
        let kind = kind.filter(|kind| kind.projection.of() == TypeId::of::<P>());
        kind.map(|kind| kind.family).ok_or_else(|| Error::Incompatible {
            expected: format!(
                "an engine that was opened with projection={} version={}, of type {}",
                P::NAME,
                P::VERSION,
                type_name::<P>()
            ),
            found: format!("{:?}", engine.registry()),
        })
    }

    /// Does one operation.
    ///
    /// # Errors
    /// [`Error::Refused`] if the projection refuses it: [`Handle::refusal`] reads why. Others as
    /// [`crate::Batch::commit`].
    pub async fn submit(&self, op: &P::Op) -> Result<Done<P::Outcome>, Error> {
        let mut done = self.batch().with(self, op).commit().await?;
        let outcome = done.outcomes.pop().map(|outcome| outcome.of::<P>());
        let outcome = outcome.ok_or_else(|| Error::InternalError {
            what: "an operation was done without an outcome".to_owned(),
        })??;
        Ok(Done { receipt: done.receipt, outcome })
    }

    /// Why the projection has refused an operation.
    #[must_use]
    pub fn refusal(&self, error: &Error) -> Option<P::Refusal> {
        match error {
            Error::Refused { projection, detail, .. } if *projection == P::NAME => {
                P::Refusal::from_bytes(detail).ok()
            }
            _ => None,
        }
    }

    /// What a batch may demand of this resource: see [`crate::Batch::require`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// # let visits = Handle::<Counter>::open(&engine, spec).await?;
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// // What a guard of this kind says is for the projection to know: here, a count of ten at least.
    /// let cake = || engine.batch().require(visits.guard(&10)).append(&orders, &"a cake".to_owned());
    /// assert!(matches!(cake().commit().await, Err(Error::GuardFailed { .. })));
    /// visits.submit(&10).await?;
    /// cake().commit().await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn guard(&self, guard: &P::Guard) -> Guard {
        let (cluster, group) = (self.group.engine.cluster(), self.group.id());
        Guard { cluster, group, part: self.part(guard, true) }
    }

    /// Reads the rows of one moment, as fresh as asked. `read` runs on a thread for reads: it may look at
    /// as much as it likes, and nobody's writes wait for it.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say; [`Error::InvalidArgument`] for a fault of `read`
    /// itself or a panic in it, which harms nobody else; [`Error::InternalError`] for rows that cannot be read,
    /// which halts the group on this node; and, while something has failed, what the resource's contract refuses
    /// reads with.
    pub async fn read<T: Send + 'static>(
        &self,
        options: impl Into<ReadOptions>,
        read: impl FnOnce(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        let read = move |rows: &RowsRead<'_>| {
            fault::guarded(|| read(rows)).map_err(ProjectionFault::of_caller)
        };
        self.read_own(options, read).await
    }

    /// Reads again and again on this replica, and tells what `read` comes to whenever that is another: first of
    /// a state at or after `from`, which may be of another replica, and then as records are applied.
    ///
    /// ```
    /// use palisade::sim::SimFabric;
    /// use palisade::*;
    /// # use std::convert::Infallible;
    /// # struct Counter;
    /// # impl Projection for Counter {
    /// #     const NAME: &'static str = "counter";
    /// #     const VERSION: u32 = 1;
    /// #     type Op = u64;
    /// #     type Outcome = u64;
    /// #     type Refusal = Infallible;
    /// #     type Guard = Infallible;
    /// #     fn apply(&self, _: At, by: u64, rows: &mut Rows<'_, '_>)
    /// #         -> Result<Applied<u64, Infallible>, ProjectionFault> {
    /// #         let sum = sum(&rows.read())?.saturating_add(by);
    /// #         rows.put(b"sum", sum.to_bytes())?;
    /// #         Ok(Applied::Done(sum))
    /// #     }
    /// # }
    /// fn sum(rows: &RowsRead<'_>) -> Result<u64, ProjectionFault> {
    ///     Ok(rows.get(b"sum")?.map(|raw| u64::from_bytes(&raw)).transpose()?.unwrap_or(0))
    /// }
    ///
    /// # fn main() -> Result<(), Error> {
    /// let mut fabric = SimFabric::builder(1).projection(Counter).build()?;
    /// let engine = fabric.engine(fabric.node(1));
    /// fabric.block_on(async {
    ///     let counter = Handle::<Counter>::open(&engine, ResourceSpec::new("visits", "v1")?).await?;
    ///     let mut visits = counter.observe(Offset::ZERO, sum);
    ///     assert_eq!(visits.next().await?.value, 0);
    ///     counter.submit(&3).await?;
    ///     assert_eq!(visits.next().await?.value, 3);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn observe<T: Clone + PartialEq + Send + 'static>(
        &self,
        from: Offset,
        read: impl Fn(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + Sync + 'static,
    ) -> Observation<P, T> {
        Observation::new(self.clone(), from, Arc::new(read))
    }

    /// [`Handle::read`] for a projection of the engine's own: where that one cannot go on, the rows are not what
    /// it has written.
    pub(crate) async fn read_own<T: Send + 'static>(
        &self,
        options: impl Into<ReadOptions>,
        read: impl FnOnce(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        let (options, family, resource) = (options.into(), self.family, self.resource);
        let own = self.group.engine.domain().clone();
        let domains: Vec<FailureDomain> = self.caller.iter().cloned().chain([own]).collect();
        let ReadOptions { consistency, refuse_stale, .. } = options;
        let call = Call::Read { consistency, refuse_stale };
        let gate = self.group.gate([(resource, self.epoch)], call, &domains).await?;
        let read = self.group.read_through(&gate, options, move |state, group| {
            // As the state that is read has it: a placement that was narrowed binds at once.
            Ok(match readable(state, group, resource, &domains)? {
                Ok(found) => {
                    let (held, version) = rebuild::rows_of(state, group, family, &found)?;
                    Ok(read(&RowsRead::new(state, held, group, resource).of_version(version))?)
                }
                Err(refused) => Err(refused),
            })
        });
        read.await?.try_map(|found| found)
    }

    /// The schemas that it knows.
    pub(crate) fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// The writer generation that it was opened by, if it was not opened for reading alone.
    pub(crate) fn epoch(&self) -> Option<FenceEpoch> {
        self.epoch
    }

    /// An operation on this resource, or a guard.
    pub(crate) fn part<T: Stored>(&self, what: &T, is_guard: bool) -> Result<Op, Unproposable> {
        let Some(epoch) = self.epoch else {
            let what = format!("a handle of kind={} was opened for reading alone", P::NAME);
            return Err(Unproposable { what });
        };
        let body = what.to_bytes();
        // Where the older version decides, it would have to be read by it.
        if let Some(old) =
            self.group.engine.registry().older(P::NAME).find(|old| !old.reads(&body, is_guard))
        {
            let (name, version) = (P::NAME, old.version());
            let what = format!(
                "projection={name}: version={version} cannot read it, and may still decide: leave \
                 EngineBuilder::superseding of it out once the newer one does"
            );
            return Err(Unproposable { what });
        }
        match T::from_bytes(&body) {
            Ok(_) => Ok(Op { resource: self.resource, epoch, body }),
            Err(error) => Err(Unproposable {
                what: format!("projection={}: what it writes it cannot read, {error}", P::NAME),
            }),
        }
    }
}

/// The resource, or why it may not be read from one of these domains.
fn readable(
    state: &dyn StateRead,
    group: GroupId,
    resource: ResourceId,
    domains: &[FailureDomain],
) -> Result<Result<Resource, Error>, ProjectionFault> {
    let Some(found) = resource_row::stored(state, group, resource)? else {
        return Ok(Err(Error::NotFound { what: format!("resource number {}", resource.0) }));
    };
    if found.deleted.is_some() {
        return Ok(Err(found.refusal().into()));
    }
    match found.spec.misplaced(domains) {
        Some(refused) => Ok(Err(refused)),
        None => Ok(Ok(found)),
    }
}
