//! A whole cluster inside a test: what a service that links Palisade can try its own code against.
//!
//! The same engine runs as in production, over simulated disks, ways and clocks, in one thread and
//! from one seed: a run that fails can be repeated. [`SimFabric::engine`] gives the engine of a node, and
//! with it the handles of production; [`SimFabric::block_on`] awaits what they return. Time only passes
//! there and in [`SimFabric::run_for`], so deadlines and waits are over in simulated time.
//!
//! ```
//! use palisade::sim::SimFabric;
//! use palisade::*;
//!
//! let mut fabric = SimFabric::new(3);
//! let [one, three] = [1, 3].map(|number| fabric.engine(fabric.node(number)));
//! let spec = ResourceSpec::new("states", "state.v1")?
//!     .replicas(ReplicaPolicy::majority(3));
//! let (job, accepted) = ("job 7".to_owned(), "accepted".to_owned());
//! let on_one = fabric.block_on(ReplicatedMap::<String, String>::open(&one, spec.clone()))?;
//! let on_three = fabric.block_on(ReplicatedMap::<String, String>::open(&three, spec))?;
//! let receipt = fabric.block_on(on_one.put(&job, &accepted))?;
//!
//! let fresh = ReadOptions::from(ReadConsistency::AtLeastOffset(receipt.offset));
//! let wait = fresh.wait(std::time::Duration::from_secs(1));
//! assert_eq!(fabric.block_on(on_three.get(&job, wait))?.value.unwrap().value, "accepted");
//!
//! fabric.partition(&[one.node()]);
//! let lost = fabric.block_on(on_one.put(&job, &accepted)).unwrap_err();
//! assert!(matches!(lost, Error::Disconnected { outcome_unknown: true }));
//! fabric.block_on(on_three.put(&job, &accepted))?;
//! fabric.heal();
//! # Ok::<(), Error>(())
//! ```

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{GroupId, Keys, NodeId, WalOptions};

use super::backend::SimBackend;
use super::desk::{Desk, End};
use super::exchange::Exchange;
use super::release::{SimRelease, Sites};
use super::{CLUSTER, GROUP, SimCluster, SimEngine, SimOptions, rot};
use crate::backend::BoxFuture;
use crate::bounds::{DATA_GROUPS_MAX, SYSTEM_GROUP};
use crate::caretaker::{self, ROUND};
use crate::comparing::{SCRUB_BYTES_PER_SECOND, Scrub};
use crate::degradation::HealthLimits;
use crate::engine::{Engine, REQUEST_TIMEOUT, Setup};
use crate::error::Error;
use crate::gatekeeper::Gatekeeper;
use crate::projection::{Projection, Registry};
use crate::resource::FailureDomain;

/// Time passes in steps of this while something is awaited.
const STEP_US: u64 = 1_000;

/// A simulated cluster that behaves, until it is told not to.
pub struct SimFabric {
    cluster: SimCluster<SimEngine>,
    desk: Desk,
    exchange: Exchange,
    /// What each node was opened with, and is built of it.
    sites: Sites,
    limits: HealthLimits,
    /// What nodes do by themselves, as their processes would.
    chores: Vec<BoxFuture<'static, ()>>,
    next_chores_us: u64,
    /// Where nodes are, if it was said.
    placed: BTreeMap<NodeId, FailureDomain>,
    data_groups: u64,
    /// How far each has looked at its rows.
    scrubs: BTreeMap<NodeId, Scrub>,
}

/// A cluster in the making: see [`SimFabric::builder`].
///
/// ```
/// use palisade::degradation::HealthLimits;
/// use palisade::sim::{SimFabric, SimFabricBuilder, SimRelease};
/// use palisade::*;
///
/// let zone = |node| FailureDomain::new("aws", "us-east-1", ["a", "b", "c"][node as usize - 1]);
/// let builder: SimFabricBuilder = SimFabric::builder(3)
///     .seed(7)
///     .data_groups(2)
///     .release(SimRelease::default()) // or what a service opens its engine with
///     .health_limits(HealthLimits::default());
/// let builder = (1..=3).fold(builder, |builder, node| builder.place(NodeId::new(node), zone(node)));
/// let fabric = builder.build()?;
/// assert_eq!(fabric.engine(fabric.node(2)).domain(), &zone(2));
/// assert!(fabric.leader_of(GroupId::new(2)).is_some());
/// # Ok::<(), Error>(())
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct SimFabricBuilder {
    seed: u64,
    nodes: u64,
    release: SimRelease,
    limits: HealthLimits,
    placed: BTreeMap<NodeId, FailureDomain>,
    data_groups: u64,
}

impl SimFabricBuilder {
    /// Another order of things; 1 if never said.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Over how many groups resources are spread: see [`crate::EngineBuilder::data_groups`].
    pub fn data_groups(mut self, data_groups: u64) -> Self {
        self.data_groups = data_groups;
        self
    }

    /// Adds a kind of resource.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// let mut fabric = SimFabric::builder(3).projection(Counter).build()?;
    /// let engine = fabric.engine(fabric.node(1));
    /// let spec = ResourceSpec::new("visits", "count.v1")?.replicas(ReplicaPolicy::majority(3));
    /// let visits = fabric.block_on(Handle::<Counter>::open(&engine, spec))?;
    /// assert_eq!(fabric.block_on(visits.submit(&3))?.outcome, 3);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn projection(mut self, projection: impl Projection) -> Self {
        self.release = self.release.projection(projection);
        self
    }

    /// What all nodes are opened with at first, instead of what was added to it before.
    pub fn release(mut self, release: SimRelease) -> Self {
        self.release = release;
        self
    }

    /// Where a node is, as a member too: see [`crate::EngineBuilder::voter_in`].
    pub fn place(mut self, node: NodeId, domain: FailureDomain) -> Self {
        self.placed.insert(node, domain);
        self
    }

    /// From when on its nodes call something a failure: see [`crate::EngineBuilder::health_limits`].
    pub fn health_limits(mut self, limits: HealthLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts the cluster, and waits for its first leader.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for projections with names that are not plain or there twice, and for
    /// limits under which nothing is ever well; for a domain with an empty name, and a number of groups that
    /// cannot be.
    pub fn build(self) -> Result<SimFabric, Error> {
        self.limits.check()?;
        if !(1..=DATA_GROUPS_MAX).contains(&self.data_groups) {
            let what = format!("data_groups={}: choose 1 to {DATA_GROUPS_MAX}", self.data_groups);
            return Err(Error::InvalidArgument { what });
        }
        self.placed.values().try_for_each(FailureDomain::check)?;
        let registry = self.release.registry()?;
        Ok(SimFabric::open(self, registry))
    }
}

impl SimFabric {
    /// So many nodes that are all voters, with nothing going wrong by itself.
    #[must_use]
    pub fn new(nodes: u64) -> Self {
        Self::from_seed(1, nodes)
    }

    /// The same with another order of things.
    ///
    /// A run that fails is repeated by its seed:
    ///
    /// ```
    /// use palisade::sim::SimFabric;
    /// use std::time::Duration;
    ///
    /// let run = |seed| {
    ///     let mut fabric = SimFabric::from_seed(seed, 3);
    ///     fabric.run_for(Duration::from_secs(1));
    ///     (fabric.now(), fabric.trace())
    /// };
    /// assert_eq!(run(17), run(17));
    /// assert_ne!(run(17).1, run(18).1);
    /// ```
    #[must_use]
    pub fn from_seed(seed: u64, nodes: u64) -> Self {
        let registry = Registry::new(&[]).expect("no name is wrong");
        Self::open(Self::builder(nodes).seed(seed), registry)
    }

    /// The same with kinds of resources of one's own, as [`crate::EngineBuilder::projection`] adds them.
    pub fn builder(nodes: u64) -> SimFabricBuilder {
        SimFabricBuilder {
            seed: 1,
            nodes,
            release: SimRelease::default(),
            limits: HealthLimits::default(),
            placed: BTreeMap::new(),
            data_groups: 1,
        }
    }

    fn open(builder: SimFabricBuilder, registry: Registry) -> Self {
        let SimFabricBuilder { seed, nodes, limits, placed, data_groups, .. } = builder;
        let domains = placed.iter().map(|(node, domain)| (*node, domain.to_string())).collect();
        let options = SimOptions {
            nodes,
            domains,
            groups: data_groups + 1,
            first_group: SYSTEM_GROUP.get(),
            // Room for the largest records that production takes.
            wal: WalOptions::default(),
            ..SimOptions::calm()
        };
        let desk = Desk::default();
        let sites = Sites::default();
        let (seats, placed_at, registered) = (desk.clone(), sites.clone(), registry);
        let groups: Vec<GroupId> = (0..=data_groups).map(GroupId::new).collect();
        let hosted = groups.clone();
        let cluster = SimCluster::new(seed, options, move |node| {
            let engine = SimEngine::with_registry(node, &hosted, registered.clone());
            seats.seat(node, engine.store(), engine.contracts());
            placed_at.add(node, &engine, registered.clone());
            engine
        });
        let exchange = Exchange::new(desk.clone());
        let scrub = |node| (node, Scrub::new(SCRUB_BYTES_PER_SECOND));
        let scrubs = cluster.node_ids().into_iter().map(scrub).collect();
        let mut fabric = Self {
            cluster,
            desk,
            exchange,
            sites,
            limits,
            chores: Vec::new(),
            next_chores_us: 0,
            placed,
            data_groups,
            scrubs,
        };
        while groups.iter().any(|group| fabric.leader_of(*group).is_none()) {
            fabric.pass(10 * STEP_US);
        }
        fabric
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn node(&self, number: u64) -> NodeId {
        let node = NodeId::new(number);
        assert!(self.cluster.node_ids().contains(&node), "there is no node {number}");
        node
    }

    /// The node that leads the first group that holds resources, if one does.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader_of(GROUP)
    }

    /// The node that leads a group, if one does.
    #[must_use]
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.cluster.leader(group)
    }

    /// The engine of a node: the handle that a service holds there, with the deadline of 10 seconds that
    /// [`crate::EngineBuilder::request_timeout_ms`] begins with. It belongs to the life that the node is in,
    /// as a handle belongs to its process: after [`SimFabric::crash`] it says that it has stopped, for
    /// ever, and [`SimFabric::restart`] is followed by another call of this. Of a node that is down, it
    /// says so at once. Dropping it stops nothing.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn engine(&self, node: NodeId) -> Engine {
        let backend = SimBackend {
            desk: self.desk.clone(),
            life: self.desk.life(node),
            incarnation: self.cluster.incarnation(node),
        };
        let setup = Setup {
            registry: self.sites.registry(node),
            cluster: CLUSTER,
            id: node,
            data_groups: self.data_groups,
            domain: self.domain(node),
            keys: Keys::none(),
            request_timeout: REQUEST_TIMEOUT,
            scrub: self.scrubs[&node].clone(),
            comparisons: self.sites.comparisons(node),
            traces: self.sites.traces(node),
            stores_traces: true,
        };
        Engine::new(backend, Gatekeeper::new(self.desk.contracts(node), self.limits), setup)
    }

    /// Where a node is: what placement judges for engines that are taken from now on. As a member, whose
    /// commits may have to reach two zones, a node is in `zone-0` or `zone-1` by its number, also after
    /// this.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// // Before the engine of the node is taken.
    /// let elsewhere = FailureDomain::new("gcp", "europe-west4", "a");
    /// fabric.place(fabric.node(2), elsewhere.clone());
    /// assert_eq!(fabric.engine(fabric.node(2)).domain(), &elsewhere);
    /// ```
    pub fn place(&mut self, node: NodeId, domain: FailureDomain) {
        self.placed.insert(node, domain);
    }

    fn domain(&self, node: NodeId) -> FailureDomain {
        let zone = || self.cluster.describe(node).1.domain;
        let placed = self.placed.get(&node).cloned();
        placed.unwrap_or_else(|| FailureDomain::new("local", "local", zone()))
    }

    /// Awaits a future while simulated time passes. It may await whatever engines of this fabric return,
    /// alone or together, and whatever such futures wake; not timers, sockets or tasks of a runtime.
    ///
    /// For a run that a seed repeats, its code must be repeatable, too: `tokio::select!` is with `biased;`.
    ///
    /// # Panics
    /// When it waits for something that will never come about in here.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.drive(future, u64::MAX).expect("the end of time is not reached")
    }

    /// The same for at most so long: `None` if the future is not done then. Give it `&mut` of a pinned
    /// future to go on with it later, when something has gone wrong meanwhile.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec))?;
    /// use std::{pin::pin, time::Duration};
    ///
    /// // The leader is cut off while a write is under way.
    /// let apples = "apples".to_owned();
    /// fabric.partition(&[engine.node()]);
    /// let mut put = pin!(stock.put(&apples, &7));
    /// assert!(fabric.block_on_for(Duration::from_millis(50), &mut put).is_none());
    /// fabric.heal();
    /// let put = fabric.block_on(put);
    /// // Done or not, and the caller is told which.
    /// assert!(put.is_ok() || put.is_err_and(|error| error.disposition() == Disposition::Indeterminate));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn block_on_for<F: Future>(&mut self, length: Duration, future: F) -> Option<F::Output> {
        let end_us = self.cluster.now_us().saturating_add(micros(length));
        self.drive(future, end_us)
    }

    fn drive<F: Future>(&mut self, future: F, end_us: u64) -> Option<F::Output> {
        let mut future = pin!(future);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
                return Some(done);
            }
            let left_us = end_us - self.cluster.now_us();
            if left_us == 0 {
                return None;
            }
            let goes_on = woken.take() || self.exchange.is_waited_for() || end_us < u64::MAX;
            assert!(goes_on, "it waits for something that never comes about in a simulation");
            self.pass(STEP_US.min(left_us));
        }
    }

    /// Hands over what handles have asked, lets time pass, and answers.
    fn pass(&mut self, us: u64) {
        self.exchange.take_up(&mut self.cluster);
        self.cluster.run_for(us);
        self.exchange.answer(&mut self.cluster);
        self.sites.build(&self.cluster.up());
        self.do_chores();
    }

    /// Each node looks after itself once a second, as `node_backend.rs` has it.
    fn do_chores(&mut self) {
        let now_us = self.cluster.now_us();
        if self.chores.is_empty() && self.next_chores_us <= now_us {
            self.next_chores_us = now_us + micros(ROUND);
            for node in self.cluster.node_ids() {
                let engine = self.engine(node);
                self.chores.push(Box::pin(async move {
                    caretaker::look_after(&engine).await;
                }));
            }
        }
        let mut context = Context::from_waker(Waker::noop());
        self.chores.retain_mut(|chore| chore.as_mut().poll(&mut context).is_pending());
    }

    /// Simulated time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.cluster.now_us())
    }

    /// One number for everything that happened so far: equal for equal runs.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.cluster.trace()
    }

    /// Cuts these nodes off from all others, both ways.
    pub fn partition(&mut self, side: &[NodeId]) {
        for from in side {
            for to in self.cluster.node_ids().into_iter().filter(|to| !side.contains(to)) {
                self.cluster.set_blocked(*from, to, true);
                self.cluster.set_blocked(to, *from, true);
            }
        }
    }

    /// The disk of a node takes so many times as long from now on, up to three seconds for a sync.
    ///
    /// Disks of three kinds, of which the others make up for one each:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec))?;
    /// # let apples = "apples".to_owned();
    /// # let bad = fabric.node(1 + engine.node().get() % 3);
    /// fabric.slow_disk(bad, 100);
    /// fabric.block_on(stock.put(&apples, &7))?;
    /// fabric.hold_disk(bad);
    /// fabric.block_on(stock.put(&apples, &6))?;
    /// fabric.fill_disk(bad);
    /// fabric.block_on(stock.put(&apples, &5))?;
    /// fabric.heal();
    /// # Ok::<(), Error>(())
    /// ```
    pub fn slow_disk(&mut self, node: NodeId, times: u64) {
        self.cluster.slow_disk(node, times);
    }

    /// The disk of a node does not come back from syncs.
    pub fn hold_disk(&mut self, node: NodeId) {
        self.cluster.hold_syncs(node);
    }

    /// The disk of a node has no room left.
    pub fn fill_disk(&mut self, node: NodeId) {
        self.cluster.fill_disk(node);
    }

    /// Mends all ways and disks, and lets stopped processes go on.
    pub fn heal(&mut self) {
        self.cluster.heal();
    }

    /// A node loses power: what it had not synced is gone, and so are the engines that were taken of it.
    pub fn crash(&mut self, node: NodeId) {
        self.cluster.power_off(node);
        self.desk.end(node, End::PowerLost);
        self.exchange.answer(&mut self.cluster);
    }

    /// Starts a node that is down on what its disk holds.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # use std::time::Duration;
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec.clone()))?;
    /// # fabric.block_on(stock.put(&"apples".to_owned(), &7))?;
    /// let node = engine.node();
    /// fabric.crash(node);
    /// fabric.restart(node);
    /// fabric.run_for(Duration::from_secs(2));
    ///
    /// // Handles are those of a life: the node has another engine now.
    /// assert!(stock.group().applied().is_err());
    /// let engine = fabric.engine(node);
    /// let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec))?;
    /// let found = fabric.block_on(stock.get(&"apples".to_owned(), ReadConsistency::Linearizable))?;
    /// assert_eq!(found.value.map(|row| row.value), Some(7));
    /// fabric.run_for(Duration::from_secs(2));
    /// fabric.assert_converged();
    /// # Ok::<(), Error>(())
    /// ```
    pub fn restart(&mut self, node: NodeId) {
        self.cluster.start(node);
        self.desk.begin(node);
        self.exchange.answer(&mut self.cluster);
    }

    /// A node is closed as a service closes its engine: what it has applied is on disk.
    pub fn shut_down(&mut self, node: NodeId) {
        self.sites.flush(node);
        self.cluster.kill(node);
        self.desk.end(node, End::Closed);
        self.exchange.answer(&mut self.cluster);
    }

    /// Starts a node that is down from another release, on what its disk holds.
    ///
    /// A rolling upgrade, node after node:
    ///
    /// ```
    /// # use palisade::{sim::{SimFabric, SimRelease}, *};
    /// # use std::time::Duration;
    /// # mod versions {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/versions.rs"));
    /// # }
    /// # use versions::{First, Second};
    /// let next = SimRelease::default().projection(Second).superseding(First);
    /// # let mut fabric = SimFabric::builder(3).projection(First).build()?;
    /// # let engine = fabric.engine(fabric.node(1));
    /// # let spec = ResourceSpec::new("visits", "v1")?.replicas(ReplicaPolicy::majority(3));
    /// # let visits = fabric.block_on(Handle::<First>::open(&engine, spec))?;
    /// # fabric.block_on(visits.submit(&3))?;
    /// for node in [1, 2, 3].map(|number| fabric.node(number)) {
    ///     fabric.shut_down(node);
    ///     fabric.restart_from(node, &next)?;
    ///     fabric.run_for(Duration::from_secs(5));
    /// }
    /// # fabric.run_for(Duration::from_secs(20));
    /// let group = fabric.engine(fabric.node(1)).group(GroupId::new(1))?;
    /// let status = fabric.block_on(group.rebuilds())?.value;
    /// assert_eq!(status[0].active, 2);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// What [`crate::EngineBuilder::open`] of that release would say to what the disk holds; the node stays
    /// down then, and can be started from the one before.
    ///
    /// # Panics
    /// When the node is up.
    pub fn restart_from(&mut self, node: NodeId, release: &SimRelease) -> Result<(), Error> {
        assert!(!self.cluster.up().contains(&node), "node {node} is up: crash it first");
        self.sites.upgrade(node, release.registry()?)?;
        // What is down loses nothing more, and looks at what it is opened with.
        self.cluster.power_off(node);
        self.restart(node);
        Ok(())
    }

    /// The process of a node stands still for so long, and then goes on.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # use std::time::Duration;
    /// let before = fabric.leader().expect("somebody leads");
    /// fabric.pause(before, Duration::from_secs(5));
    /// fabric.run_for(Duration::from_secs(4));
    /// assert_ne!(fabric.leader(), Some(before));
    /// ```
    pub fn pause(&mut self, node: NodeId, length: Duration) {
        self.cluster.pause(node, micros(length));
    }

    /// One bit of a stored row of a node is another from now on, for good. With `unnoticed` the node takes it for
    /// what it wrote itself, as if it had applied a record otherwise than the others. Gives the key of the row,
    /// without its group; the row is the `nth` of its projection, or another if there are not so many.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # use std::time::Duration;
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec))?;
    /// # fabric.block_on(stock.put(&"apples".to_owned(), &7))?;
    /// # fabric.run_for(Duration::from_secs(65));
    /// let bad = fabric.node(1 + engine.node().get() % 3);
    /// let key = fabric.flip_bit(bad, "map", 0, false);
    /// println!("the row at {key:?} is another now");
    /// // Enough for the node to have read all of its rows again.
    /// fabric.run_for(Duration::from_secs(65));
    /// let group = fabric.engine(bad).group(stock.group().id())?;
    /// assert!(group.applied().is_err(), "it has halted");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Panics
    /// When there is no such projection or node, or no row.
    pub fn flip_bit(
        &mut self,
        node: NodeId,
        projection: &str,
        nth: usize,
        unnoticed: bool,
    ) -> Bytes {
        rot::flip_bit(
            &self.desk.store(self.desk.life(node)).expect("it is up"),
            projection,
            nth,
            unnoticed,
        )
    }

    /// The wall clock of a node jumps.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec))?;
    /// # let apples = "apples".to_owned();
    /// let before = fabric.block_on(stock.put(&apples, &7))?.log_time;
    /// fabric.jump_clock(engine.node(), -3_600_000);
    /// // Log time never falls, whatever clocks do.
    /// assert!(before <= fabric.block_on(stock.put(&apples, &6))?.log_time);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn jump_clock(&mut self, node: NodeId, ms: i64) {
        self.cluster.jump_clock(node, ms);
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, length: Duration) {
        // In steps, so that what nodes do by themselves is answered on the way.
        let until_us = self.cluster.now_us() + micros(length);
        while self.cluster.now_us() < until_us {
            self.pass((until_us - self.cluster.now_us()).min(10 * STEP_US));
        }
    }

    /// All replicas have come to the same state.
    ///
    /// # Panics
    /// When they have not: heal first, and give them time.
    pub fn assert_converged(&self) {
        self.cluster.assert_converged();
    }
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

/// Says whether a future has woken itself.
#[derive(Default)]
struct Woken(AtomicBool);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use palisade_wal::sim::SimFaults;

    use palisade_replication::Offset;

    use super::*;
    use crate::degradation::{DegradationContract, DegradationMode, DegradationRule};
    use crate::error::Error;
    use crate::failure::Failure;
    use crate::log::ReplicatedLog;
    use crate::read::ReadConsistency;
    use crate::resource::{ReplicaPolicy, ResourceSpec};
    use crate::session::Seen;

    /// G10: whoever is still asked says why it has halted, and serves nothing, however stale.
    #[test]
    fn a_node_that_halts_by_itself_ends_its_handles_with_the_cause() {
        let mut fabric = SimFabric::new(3);
        let node = fabric.node(1);
        let spec =
            ResourceSpec::new("log", "test.v1").unwrap().replicas(ReplicaPolicy::majority(3));
        let open = |fabric: &mut SimFabric| {
            let engine = fabric.engine(node);
            fabric.block_on(ReplicatedLog::<String>::open(&engine, spec.clone())).unwrap()
        };
        let log = open(&mut fabric);
        let disk = fabric.cluster.disk(node);
        let failing_sync = Some(disk.syncs() + 1);
        disk.set_faults(SimFaults { failing_sync, ..SimFaults::default() });
        let lost = fabric.block_on(log.append(&"lost".to_owned())).unwrap_err();
        assert!(matches!(lost, Error::Disconnected { outcome_unknown: true }), "{lost}");
        let read = fabric.block_on(log.scan(
            crate::Offset::ZERO,
            crate::Direction::Forward,
            1,
            ReadConsistency::Local,
        ));
        let Error::InternalError { what } = read.unwrap_err() else { panic!("it has halted") };
        assert!(what.contains("halted") && what.contains("sync failed"), "{what}");

        fabric.restart(node);
        let log = open(&mut fabric);
        fabric.block_on(log.append(&"kept".to_owned())).unwrap();
    }

    /// A stale answer may lack what its own call asks for, and nothing that the session has seen.
    #[test]
    fn a_stale_answer_takes_nothing_back_from_a_session() {
        let rule = DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk);
        let contract = DegradationContract::builder().rule(rule).build().unwrap();
        let spec = ResourceSpec::new("log", "test.v1").unwrap().contract(contract);
        let mut fabric = SimFabric::new(3);
        let (node, seen) = (fabric.node(3), Seen::default());
        let engine = fabric.engine(node).with_session(seen.clone(), None);
        let log = fabric.block_on(ReplicatedLog::<String>::open(&engine, spec)).unwrap();
        fabric.partition(&[node]);
        fabric.run_for(Duration::from_secs(5));
        let read = |fabric: &mut SimFabric| {
            fabric.block_on(log.bounds(ReadConsistency::Local)).map(|read| read.stale)
        };
        assert!(read(&mut fabric).unwrap());
        seen.note(GROUP, Offset::new(engine.group(GROUP).unwrap().applied().unwrap().get() + 1));
        let refused = read(&mut fabric).unwrap_err();
        assert!(matches!(refused, Error::NotYetApplied { .. }), "{refused}");
    }
}
