//! The engine: the handle of an open node. It proposes, reads, and says how it is doing.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{ClusterId, GroupId, Incarnation, Keys, NodeId, NodeLoad, PeerFault};

use crate::backend::{Backend, all, race};
use crate::batch::Batch;
use crate::builder::EngineBuilder;
use crate::clients::Clients;
use crate::comparing::{Comparisons, Scrub};
use crate::degradation::{ClusterMap, DrillReport, FailureDrill, GroupMap, ResourceMap};
use crate::error::Error;
use crate::gatekeeper::Gatekeeper;
use crate::group::Group;
use crate::outcome::Outcome;
use crate::projection::Registry;
use crate::read::ReadConsistency;
use crate::resource::FailureDomain;
use crate::resource_row::each_resource;
use crate::session::{Seen, Session};
use crate::trace::{TraceContext, TraceListeners, TracedRecords};

/// How long a request waits for its quorum if nothing else is said.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A running engine; cheap to clone. Closing it, or dropping the last clone, stops the node.
///
/// ```
/// use palisade::*;
///
/// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
/// let engine = Engine::builder(dir).open().await?;
/// let spec = ResourceSpec::new("greetings", "greeting.v1")?;
/// let map = ReplicatedMap::<String, String>::open(&engine, spec).await?;
/// map.put(&"hello".to_owned(), &"world".to_owned()).await?;
/// engine.close().await
/// # }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// The session that its handles carry, if they carry one.
    seen: Option<Seen>,
    /// Who numbers what is written through its handles, if somebody does.
    clients: Option<Arc<Clients>>,
    /// Which trace what is written through its handles is part of.
    trace: Option<TraceContext>,
}

/// An engine that is not kept open by this.
pub(crate) struct WeakEngine {
    inner: Weak<Inner>,
}

impl WeakEngine {
    pub(crate) fn upgrade(&self) -> Option<Engine> {
        Some(Engine { inner: self.inner.upgrade()?, seen: None, clients: None, trace: None })
    }
}

struct Inner {
    backend: Box<dyn Backend>,
    gatekeeper: Gatekeeper,
    setup: Setup,
}

/// What an engine is, beside the node that it speaks for.
pub(crate) struct Setup {
    pub(crate) registry: Registry,
    pub(crate) cluster: ClusterId,
    pub(crate) id: NodeId,
    pub(crate) data_groups: u64,
    pub(crate) domain: FailureDomain,
    pub(crate) keys: Keys,
    pub(crate) request_timeout: Duration,
    pub(crate) scrub: Scrub,
    pub(crate) comparisons: Comparisons,
    pub(crate) traces: TraceListeners,
    /// Whether trace contexts are stored.
    pub(crate) stores_traces: bool,
}

impl Engine {
    /// Begins to open an engine whose data is in this directory.
    pub fn builder(dir: impl AsRef<Path>) -> EngineBuilder {
        EngineBuilder::new(dir.as_ref())
    }

    /// An engine that speaks for a node.
    pub(crate) fn new(
        backend: impl Backend + 'static,
        gatekeeper: Gatekeeper,
        setup: Setup,
    ) -> Self {
        let inner = Inner { backend: Box::new(backend), gatekeeper, setup };
        Self { inner: Arc::new(inner), seen: None, clients: None, trace: None }
    }

    pub(crate) fn downgrade(&self) -> WeakEngine {
        WeakEngine { inner: Arc::downgrade(&self.inner) }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    pub(crate) fn gatekeeper(&self) -> &Gatekeeper {
        &self.inner.gatekeeper
    }

    /// What its log, its snapshots and its backups are sealed with: a ring, or none.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.inner.setup.keys
    }

    /// The projections that it was opened with.
    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.setup.registry
    }

    /// How far it has looked whether rows are what they were.
    pub(crate) fn scrub(&self) -> &Scrub {
        &self.inner.setup.scrub
    }

    /// What its replicas were found to be when they were compared.
    pub(crate) fn comparisons(&self) -> &Comparisons {
        &self.inner.setup.comparisons
    }

    /// Gives up the wait for some work, though not the work, after the time a request has.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
        outcome_unknown: bool,
    ) -> Result<T, Error> {
        let done = race(work, self.backend().sleep(self.inner.setup.request_timeout)).await;
        done.unwrap_or(Err(Error::Disconnected { outcome_unknown }))
    }

    /// The same engine, whose handles carry a session.
    pub(crate) fn with_session(&self, seen: Seen, clients: Option<Arc<Clients>>) -> Self {
        Self { seen: Some(seen), clients, ..self.clone() }
    }

    /// What the session has seen that its handles carry.
    pub(crate) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// The same engine, whose handles carry none.
    pub(crate) fn without_session(&self) -> Self {
        Self { seen: None, clients: None, ..self.clone() }
    }

    /// The same engine as a part of a trace: what is written through handles that are opened through it, and in its
    /// batches, is stored with the context, and told at each replica that applies it. So it is only if this engine
    /// was opened with [`EngineBuilder::stores_traces`] and the caller keeps his part
    /// ([`TraceContext::is_sampled`]).
    #[must_use]
    pub fn traced(&self, trace: TraceContext) -> Self {
        Self { trace: Some(trace), ..self.clone() }
    }

    /// Records with a trace context as they are applied here, from now on, whoever has written them and through
    /// whichever replica. After a crash, records since the state was last made durable are applied, and told,
    /// again. Who listens holds up nobody.
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// let engine = Engine::builder(dir).stores_traces().open().await?;
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let mut records: TracedRecords = engine.traced_records();
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// let order = engine.traced(trace).batch().append(&orders, &"an apple".to_owned());
    /// let receipt = order.commit().await?.receipt;
    ///
    /// let told = records.next().await.expect("the engine runs");
    /// let TracedRecord { trace: of, offset, outcome, .. } = told;
    /// assert_eq!((of, offset, outcome), (trace, receipt.offset, "done"));
    /// engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn traced_records(&self) -> TracedRecords {
        self.inner.setup.traces.listen()
    }

    /// Which trace is stored with what is written.
    pub(crate) fn stored_trace(&self) -> Option<TraceContext> {
        let trace = self.trace.or_else(|| self.backend().draw_trace());
        trace.filter(|_| self.inner.setup.stores_traces)
    }

    /// Who numbers what is written.
    pub(crate) fn clients(&self) -> Option<&Clients> {
        self.clients.as_deref()
    }

    /// How long a request waits.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.inner.setup.request_timeout
    }

    /// Begins a session: handles that are opened through it read what they have written and seen.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self, None)
    }

    /// Begins a session that also numbers what is written through its handles and in its engine's batches,
    /// so that each write takes effect at most once (G6): it repeats by itself what may have been lost, and
    /// one that comes back with its [`Session::token`] can repeat its last write, as the example there does.
    /// It is registered in each group that holds resources, as a client of its own there; at most 64 writes to a group
    /// are under way, more of them wait. A group knows it for `ttl` without a write: see
    /// [`Group::register_client`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// let session = engine.client_session(std::time::Duration::from_secs(3600)).await?;
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// let orders = ReplicatedLog::<String>::open(session.engine(), spec).await?;
    /// // A leader that dies meanwhile is no concern of the caller's: it is appended once.
    /// orders.append(&"an apple".to_owned()).await?;
    /// assert!(session.client(orders.group().id()).is_some());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Group::register_client`], of each group: a session whose token lacked one could not repeat what it
    /// wrote there.
    pub async fn client_session(&self, ttl: Duration) -> Result<Session, Error> {
        let clients = Clients::new(ttl, []);
        let groups = self.data_group_handles();
        let registered = all(groups.iter().map(|group| clients.register(group))).await;
        registered.into_iter().collect::<Result<(), Error>>()?;
        Ok(Session::new(self, Some(Arc::new(clients))))
    }

    /// Goes on with a session where [`Session::token`] was taken, on whichever replica that was.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes that are no token, [`Error::Incompatible`] for one of
    /// another cluster.
    pub fn resume(&self, token: &Bytes) -> Result<Session, Error> {
        Session::resume(self, token)
    }

    /// The cluster that this node belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.setup.cluster
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.setup.id
    }

    /// Where this node is.
    #[must_use]
    pub fn domain(&self) -> &FailureDomain {
        &self.inner.setup.domain
    }

    /// A group that it hosts.
    ///
    /// # Errors
    /// [`Error::NotFound`] for another.
    pub fn group(&self, group: GroupId) -> Result<Group, Error> {
        let found = self.groups().into_iter().find(|found| found.id() == group);
        found.ok_or_else(|| Error::NotFound { what: format!("group={group} of this engine") })
    }

    /// The groups that it hosts, in the order of their numbers: the system group, then those that hold resources.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::builder(1).data_groups(2).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// let ids: Vec<GroupId> = engine.groups().iter().map(Group::id).collect();
    /// assert_eq!(ids, [0, 1, 2].map(GroupId::new));
    /// assert_eq!(ids[0], SYSTEM_GROUP);
    /// ```
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        (0..=self.data_groups()).map(|id| Group::of(self, GroupId::new(id))).collect()
    }

    /// Those that hold resources.
    pub(crate) fn data_group_handles(&self) -> Vec<Group> {
        (1..=self.data_groups()).map(|id| Group::of(self, GroupId::new(id))).collect()
    }

    /// How many hold resources.
    pub(crate) fn data_groups(&self) -> u64 {
        self.inner.setup.data_groups
    }

    /// Begins a batch: operations on several resources that take effect together, at one offset.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// What peers sent that was refused since this engine was opened, and how often: another cluster's
    /// node, a damaged or oversized message, an unknown version, a life that the group does not know.
    /// The connection was closed each time. Each cause is logged once for each peer.
    #[must_use]
    pub fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        self.backend().peer_faults()
    }

    /// What waits in this node and may wait at most, and how long its log takes.
    ///
    /// What a page about the health of a node can show:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// # stock.put(&"apples".to_owned(), &7).await?;
    /// let NodeLoad { queues, .. } = engine.load();
    /// for QueueLoad { queue, held, held_max } in &queues {
    ///     println!("{queue}: {held} of {held_max}");
    /// }
    /// for (fault, count) in engine.peer_faults() {
    ///     println!("{count} times a peer was refused: {fault:?}");
    /// }
    /// assert!(!engine.state_is_damaged());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn load(&self) -> NodeLoad {
        self.backend().load()
    }

    /// Whether a part of the stored state could not be read, now or in an earlier life of this directory. Its files
    /// stay as they are from then on, and grow: the node is to be replaced. Groups whose rows can be read go on.
    #[must_use]
    pub fn state_is_damaged(&self) -> bool {
        self.backend().state_is_damaged()
    }

    /// A copy of the placement as this node has it: the groups, their members, and the resources with what they
    /// declare. What might be can be judged on it as well, with [`FailureDrill::judge`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let (node, zone) = (NodeId::new(1), FailureDomain::new("local", "local", "a"));
    /// # let mut fabric = SimFabric::builder(1).place(node, zone).build().unwrap();
    /// # let engine = fabric.engine(node);
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let map = engine.cluster_map().await?;
    /// map.check()?;
    /// let names: Vec<&str> = map.resources.iter().map(|resource| resource.name.as_str()).collect();
    /// assert_eq!(names, ["stock"]);
    ///
    /// // What if the node that is lost were the only one?
    /// let drill = degradation::FailureDrill::NodeLoss { node: engine.node() };
    /// let report = drill.judge(&map)?;
    /// assert!(!report.groups[0].commits);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a member of whom nobody said where it is,
    /// [`Error::PreconditionFailed`] while voters are being replaced, and as any read.
    pub async fn cluster_map(&self) -> Result<ClusterMap, Error> {
        let of = async |group: Group| {
            let status = group.status().await?;
            GroupMap::of(group.id(), status.leader, &status.members)
        };
        let groups = all(self.groups().into_iter().map(of)).await;
        let (local, none) = (ReadConsistency::Local.into(), Vec::new());
        let resources = self.read_all(local, none, |resources, read, group| {
            Ok(each_resource(read, group, |_, resource| {
                if resource.deleted.is_none() {
                    resources.push(ResourceMap::of(group, resource.spec));
                }
                ControlFlow::Continue(())
            })?)
        });
        Ok(ClusterMap {
            groups: groups.into_iter().collect::<Result<_, _>>()?,
            resources: resources.await?.0,
        })
    }

    /// What would still be served, of each resource and by each node, if some were gone: nothing is taken
    /// away, and nobody is asked but this node.
    ///
    /// ```
    /// # use palisade::{degradation::FailureDrill, sim::SimFabric, *};
    /// # let zone = |node| FailureDomain::new("local", "local", ["a", "b", "c"][node as usize - 1]);
    /// # let builder = (1..=3).fold(SimFabric::builder(3), |b, n| b.place(NodeId::new(n), zone(n)));
    /// # let mut fabric = builder.build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// let zone = engine.domain().clone();
    /// let report = engine.drill(&FailureDrill::AvailabilityZoneLoss { zone }).await?;
    /// println!("{report}");
    /// assert!(report.groups.iter().all(|group| group.commits));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Engine::cluster_map`] and [`FailureDrill::judge`].
    pub async fn drill(&self, drill: &FailureDrill) -> Result<DrillReport, Error> {
        drill.judge(&self.cluster_map().await?)
    }

    /// Which life of its data directory this node is in: part of who it is when it is added.
    ///
    /// What those who are members are told of a node that is to be one:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// let member = Member {
    ///     incarnation: Some(engine.incarnation()),
    ///     address: Some(([10, 0, 0, 4], 7400).into()),
    ///     domain: engine.domain().to_string(),
    /// };
    /// let change = MemberChange::AddLearner { node: engine.node(), member };
    /// # let _ = change;
    /// ```
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.backend().incarnation()
    }

    /// Stops the node; everything is on stable storage when this returns.
    ///
    /// # Errors
    /// [`Error::InternalError`] with the cause, if it had stopped by itself before.
    pub async fn close(&self) -> Result<(), Error> {
        self.backend().close().await
    }
}

/// The machine answers each kind of record in its own way; another is a bug.
pub(crate) fn unexpected(outcome: &Outcome) -> Error {
    Error::InternalError { what: format!("a record was answered with {outcome:?}") }
}
