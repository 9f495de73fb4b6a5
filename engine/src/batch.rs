//! Batches: operations on several resources that take effect at one offset, or not at all (G7).

mod done;

use bytes::Bytes;
use palisade_replication::{ClusterId, GroupId, LogTime};

pub use self::done::{BatchDone, OpOutcome};
use crate::bounds::{BATCH_OPS_MAX, KEY_BYTES_MAX, SCHEMA_BYTES, VALUE_BYTES_MAX};
use crate::clients::{CommandNumber, Registrant};
use crate::command::{BatchCommand, Op};
use crate::degradation::Call;
use crate::engine::{Engine, unexpected};
use crate::error::Error;
use crate::group::Group;
use crate::handle::Handle;
use crate::idempotency::ReplicatedIdempotencyStore;
use crate::log::{Consumer, ReplicatedLog};
use crate::map::ReplicatedMap;
use crate::outcome::{Branch, Outcome};
use crate::projection::Projection;
use crate::projections::idempotency::{Fingerprint, RequestOp, RequestWindow};
use crate::projections::log::{
    APPEND_ENTRIES_MAX, ConsumerChange, LogOp, LogPosition, LogRetention,
};
use crate::projections::map::{History, MapOp, Version};
use crate::receipt::Receipt;
use crate::resource::{FailureDomain, FenceEpoch};
use crate::stored::{Key, Stored};
use crate::trace::TraceContext;

/// Something that must be so for a batch to be done: see [`Batch::require`].
#[derive(Clone, Debug)]
#[must_use = "a guard demands nothing until a batch requires it"]
pub struct Guard {
    pub(crate) cluster: ClusterId,
    pub(crate) group: GroupId,
    pub(crate) part: Result<Op, Unproposable>,
}

/// An operation or guard that must not be in the log: its own type cannot read it, which would halt every
/// replica, or its handle may not write.
#[derive(Clone, Debug)]
pub(crate) struct Unproposable {
    pub(crate) what: String,
}

/// A batch in the making. Operations are done in the order they were added; the first that cannot
/// be done leaves the whole batch without effect.
///
/// With [`Batch::require`] and [`Batch::otherwise`] it is a transaction of the form *if, then, else*,
/// judged at its place in the log:
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
/// let seen = stock.get(&apples, ReadConsistency::Local).await?.value;
/// let (left, version) = seen.map_or((7, Version::ABSENT), |row| (row.value, row.version));
/// let done = engine
///     .batch()
///     .require(stock.version_is(&apples, version))
///     .put(&stock, &apples, &(left - 1))
///     .append(&orders, &"an apple".to_owned())
///     .otherwise()
///     .append(&orders, &"somebody was faster".to_owned())
///     .commit()
///     .await?;
/// assert_eq!(done.branch, Some(Branch::Then));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    engine: Engine,
    /// The group of all that it names.
    group: Option<GroupId>,
    /// Which command of which client it is.
    number: Option<CommandNumber>,
    registrant: Option<Registrant>,
    command: BatchCommand,
    /// Of each operation of either branch, the name of its projection.
    kinds: [Vec<&'static str>; 2],
    branch: Branch,
    /// Keys and values, of both branches and the guards.
    bytes: usize,
    /// What no batch could contain.
    broken: Option<String>,
}

impl Batch {
    pub(crate) fn new(engine: Engine) -> Self {
        let command = BatchCommand {
            number: None,
            caller: engine.domain().clone(),
            guards: Vec::new(),
            then: Vec::new(),
            otherwise: Vec::new(),
        };
        let kinds = [Vec::new(), Vec::new()];
        let branch = Branch::Then;
        Self {
            engine,
            group: None,
            number: None,
            registrant: None,
            command,
            kinds,
            branch,
            bytes: 0,
            broken: None,
        }
    }

    /// On whose behalf: the domain that placement is judged by. This node's own if never said.
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
    /// let elsewhere = FailureDomain::new("elsewhere", "r", "z");
    /// let refused = engine.batch().caller(elsewhere).append(&orders, &apple).commit().await;
    /// assert!(matches!(refused, Err(Error::DomainUnavailable { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn caller(mut self, domain: FailureDomain) -> Self {
        self.command.caller = domain;
        self
    }

    /// As a part of a trace, which is stored with the batch: see [`Engine::traced`]. It is no part of what a command
    /// is known by: one that is sent again may be part of another.
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
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// engine.batch().traced(trace).put(&stock, &apples, &7).append(&orders, &apple).commit().await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn traced(mut self, trace: TraceContext) -> Self {
        self.engine = self.engine.traced(trace);
        self
    }

    /// Says which command of which client this is: sent again, it has no further effect, and is answered as
    /// the first time, be it done or refused. See [`crate::Group::register_client`], and `docs/sessions.md` for the
    /// order in which it is judged.
    ///
    /// [`Batch::commit`] then has further errors: [`Error::ClientEvicted`] if the client is not known any
    /// more, [`Error::IdempotencyConflict`] if the number is that of another command,
    /// [`Error::InvalidArgument`] if it is not in the client's window or the answer is longer than
    /// [`crate::REPLY_BYTES_MAX`], [`Error::Incompatible`] for a client of another cluster.
    pub fn numbered(mut self, number: CommandNumber) -> Self {
        self.number = Some(number);
        self
    }

    /// Says who makes a numbered command: whoever registered the client, with
    /// [`crate::Group::register_client_as`]. For any other [`Batch::commit`] is [`Error::ClientOfAnother`].
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
    /// let (alice, bob) = (Registrant::of("alice"), Registrant::of("bob"));
    /// let hour = std::time::Duration::from_secs(3600);
    /// let client = orders.group().register_client_as(alice, hour).await?;
    /// let number = CommandNumber { client, seq: 1, acked_up_to: 0 };
    /// let order = engine.batch().numbered(number).append(&orders, &apple);
    ///
    /// let refused = order.clone().registrant(bob).commit().await;
    /// assert!(matches!(refused, Err(Error::ClientOfAnother { client: of }) if of == client.offset));
    /// order.registrant(alice).commit().await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn registrant(mut self, registrant: Registrant) -> Self {
        self.registrant = Some(registrant);
        self
    }

    /// Demands that something is so, at the place of the batch in the log and before any of its
    /// operations. If it is not, the batch is refused, or what follows [`Batch::otherwise`] is done.
    pub fn require(mut self, guard: Guard) -> Self {
        self.check_log(guard.cluster, guard.group);
        match guard.part {
            Ok(part) => {
                self.bytes += part.body.len();
                self.command.guards.push(part);
            }
            Err(unproposable) => self.broken = Some(unproposable.what),
        }
        self
    }

    /// Operations that are added from here on are done if any demand does not hold, in place of those
    /// before. A batch that may be committed again needs its reservation in both branches: one that was
    /// done without it is not known.
    pub fn otherwise(mut self) -> Self {
        self.branch = Branch::Otherwise;
        self
    }

    /// Adds an operation on a resource of any kind.
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
    /// // `visits` is a `Handle<Counter>`: a kind of resource of the service's own.
    /// let batch = engine.batch().with(&visits, &3).append(&orders, &"an apple".to_owned());
    /// let done = batch.commit().await?;
    /// let outcome: &OpOutcome = &done.outcomes[0];
    /// assert_eq!(outcome.of::<Counter>()?, 3);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn with<P: Projection>(self, handle: &Handle<P>, op: &P::Op) -> Self {
        self.op(handle, 0, None, op)
    }

    /// Adds a value to a log.
    pub fn append<T: Stored>(self, log: &ReplicatedLog<T>, value: &T) -> Self {
        self.append_one(log, value, None)
    }

    /// Adds a value to a log if its tail is this once the operations before are done; otherwise the whole
    /// batch is refused.
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
    /// let tail = orders.append(&apple).await?.outcome.after();
    /// let next = || engine.batch().put(&stock, &apples, &7).append_if(&orders, &apple, tail);
    /// next().commit().await?;
    /// // The tail has moved: nothing of the batch is done, the put as little as the append.
    /// assert!(matches!(next().commit().await, Err(Error::TailMismatch { op: 1, .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn append_if<T: Stored>(
        self,
        log: &ReplicatedLog<T>,
        value: &T,
        expected_tail: LogPosition,
    ) -> Self {
        self.append_one(log, value, Some(expected_tail))
    }

    fn append_one<T: Stored>(
        self,
        log: &ReplicatedLog<T>,
        value: &T,
        expected: Option<LogPosition>,
    ) -> Self {
        let payload = log.handle.schemas().payload(value);
        let bytes = payload.len() - SCHEMA_BYTES;
        self.op(&log.handle, 0, Some(bytes), &LogOp::Append { expected, payloads: vec![payload] })
    }

    /// Adds values to a log, one right after the other: see [`ReplicatedLog::append_all`].
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
    /// let pair = [apple, "a pear".to_owned()];
    /// let done = engine.batch().put(&stock, &apples, &7).append_all(&orders, &pair).commit().await?;
    /// let first = done.outcomes[1].appended().expect("it is an append");
    /// assert_eq!(first.after().index, 1);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn append_all<T: Stored>(mut self, log: &ReplicatedLog<T>, values: &[T]) -> Self {
        if !(1..=APPEND_ENTRIES_MAX).contains(&values.len()) {
            self.broken = Some(format!("1 to {APPEND_ENTRIES_MAX} values are appended at once"));
            return self;
        }
        let payloads: Vec<Bytes> =
            values.iter().map(|value| log.handle.schemas().payload(value)).collect();
        let bytes = payloads.iter().map(|payload| payload.len() - SCHEMA_BYTES).sum();
        self.op(&log.handle, 0, Some(bytes), &LogOp::Append { expected: None, payloads })
    }

    /// Says how long the entries of a log are kept: see [`ReplicatedLog::retain`].
    pub fn retain<T: Stored>(self, log: &ReplicatedLog<T>, retention: LogRetention) -> Self {
        self.op(&log.handle, 0, None, &LogOp::Retain { retention })
    }

    /// Removes the entries of a log before a position: see [`ReplicatedLog::trim_before`].
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
    /// # let spec = ResourceSpec::new("archive", "order.v1")?;
    /// # let archive = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let order = orders.append(&apple).await?.outcome;
    /// // From one log to another, so that at no offset it is in both, or in none.
    /// let moved = engine.batch().append(&archive, &apple).trim_before(&orders, order.after());
    /// let done = moved.commit().await?;
    /// assert_eq!(done.outcomes[1].trimmed().map(|trim| trim.complete), Some(true));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn trim_before<T: Stored>(self, log: &ReplicatedLog<T>, before: LogPosition) -> Self {
        self.op(&log.handle, 0, None, &LogOp::Trim { before })
    }

    /// Says that a consumer is done with everything before a position of its log: see [`Consumer::commit`].
    /// With what was made of the entries in the same batch, each of them counts once: there is no moment at
    /// which one is there without the other.
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
    /// let order = orders.append(&apple).await?.outcome;
    /// let billing = orders.consumer("billing")?;
    /// // What was made of the entry, and that it is done with: a crash leaves both or neither.
    /// let billed = engine.batch().put(&stock, &apples, &6).commit_consumer(&billing, order.after());
    /// let receipt = billed.commit().await?.receipt;
    /// assert_eq!(billing.position(receipt.freshness()).await?.value, order.after());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn commit_consumer(self, consumer: &Consumer, position: LogPosition) -> Self {
        self.op(&consumer.handle, 0, None, &consumer.op(ConsumerChange::Commit(position)))
    }

    /// Says how much of its past a map keeps: see [`ReplicatedMap::keep`].
    ///
    /// How long each of several resources keeps what it has can be said at one offset:
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
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// engine
    ///     .batch()
    ///     .retain(&orders, LogRetention { keep_bytes: Some(1 << 30), ..LogRetention::default() })
    ///     .keep(&stock, History { keep_ms: 60_000, changes_max: 1_000 })
    ///     .keep_requests(&requests, RequestWindow { retention_ms: 60_000, requests_max: 1_000 })
    ///     .commit()
    ///     .await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn keep<K: Key, V: Stored>(self, map: &ReplicatedMap<K, V>, history: History) -> Self {
        self.op(&map.handle, 0, None, &MapOp::Keep { history })
    }

    /// Sets a key of a map.
    pub fn put<K: Key, V: Stored>(self, map: &ReplicatedMap<K, V>, key: &K, value: &V) -> Self {
        self.change(map, key, Some(value), None, None)
    }

    /// Sets a key of a map if its version is this one; otherwise the whole batch is refused.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// # let [apples, pears] = ["apples", "pears"].map(str::to_owned);
    /// # stock.put(&apples, &7).await?;
    /// # stock.put(&pears, &0).await?;
    /// let keys = [apples, pears];
    /// let seen = stock.get_many(&keys, ReadConsistency::Linearizable).await?.value;
    /// let [Some(from), Some(to)] = &seen[..] else { panic!("both are there") };
    /// // From one key to the other, unless somebody has changed either since they were read.
    /// let moved = engine
    ///     .batch()
    ///     .put_if(&stock, &keys[0], &(from.value - 1), from.version)
    ///     .put_if(&stock, &keys[1], &(to.value + 1), to.version);
    /// moved.clone().commit().await?;
    /// assert!(matches!(moved.commit().await, Err(Error::VersionMismatch { op: 0, .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn put_if<K: Key, V: Stored>(
        self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        value: &V,
        version: Version,
    ) -> Self {
        self.change(map, key, Some(value), None, Some(version))
    }

    /// Sets a key of a map that is removed by itself so many milliseconds of log time later: see
    /// [`ReplicatedMap::put_with_ttl_ms`].
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
    /// // An offer that is withdrawn by itself, and the entry that announces it.
    /// let offer = engine.batch().put_with_ttl_ms(&stock, &apples, &7, 60_000).append(&orders, &apple);
    /// let receipt = offer.commit().await?.receipt;
    /// let row = stock.get(&apples, receipt.freshness()).await?.value.expect("it was put");
    /// assert_eq!(row.ends_at.map(|end| end.get()), Some(receipt.log_time.get() + 60_000));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn put_with_ttl_ms<K: Key, V: Stored>(
        self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        value: &V,
        ttl_ms: u64,
    ) -> Self {
        self.change(map, key, Some(value), Some(ttl_ms), None)
    }

    /// The same if the key's version is this one; otherwise the whole batch is refused.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// # let seat = "seat 12".to_owned();
    /// // Held by passenger 7 for a minute, unless somebody holds it.
    /// let hold = engine.batch().put_if_with_ttl_ms(&stock, &seat, &7, Version::ABSENT, 60_000);
    /// hold.clone().commit().await?;
    /// assert!(matches!(hold.commit().await, Err(Error::VersionMismatch { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn put_if_with_ttl_ms<K: Key, V: Stored>(
        self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        value: &V,
        version: Version,
        ttl_ms: u64,
    ) -> Self {
        self.change(map, key, Some(value), Some(ttl_ms), Some(version))
    }

    /// Removes a key from a map.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// # let [apples, pears] = ["apples", "pears"].map(str::to_owned);
    /// stock.put(&apples, &7).await?;
    /// // Renamed: there is no offset at which both are there.
    /// let receipt = engine.batch().delete(&stock, &apples).put(&stock, &pears, &7).commit().await?.receipt;
    /// let rows = stock.get_many(&[apples, pears], receipt.freshness()).await?.value;
    /// assert!(rows[0].is_none() && rows[1].is_some());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn delete<K: Key, V: Stored>(self, map: &ReplicatedMap<K, V>, key: &K) -> Self {
        self.change(map, key, None, None, None)
    }

    /// Removes a key from a map if its version is this one; otherwise the whole batch is refused.
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
    /// let version = Version::at(stock.put(&apples, &0).await?.offset);
    /// let done = engine
    ///     .batch()
    ///     .delete_if(&stock, &apples, version)
    ///     .append(&orders, &"apples are sold out".to_owned())
    ///     .commit()
    ///     .await?;
    /// assert_eq!(done.outcomes[0].replaced(), Some(version));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn delete_if<K: Key, V: Stored>(
        self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        version: Version,
    ) -> Self {
        self.change(map, key, None, None, Some(version))
    }

    fn change<K: Key, V: Stored>(
        mut self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        value: Option<&V>,
        ttl_ms: Option<u64>,
        guard: Option<Version>,
    ) -> Self {
        if ttl_ms == Some(0) {
            self.broken = Some("a time to live is at least a millisecond".to_owned());
        }
        let value = value.map(|value| map.handle.schemas().payload(value));
        let value_bytes = value.as_ref().map_or(0, |value| value.len() - SCHEMA_BYTES);
        let key = key.to_bytes();
        let key_bytes = key.len();
        let op = match value {
            Some(value) => MapOp::Put { guard, ttl_ms, key, value },
            None => MapOp::Delete { guard, key },
        };
        self.op(&map.handle, key_bytes, Some(value_bytes), &op)
    }

    /// Reserves a request. If it was completed before, the whole batch is a duplicate: it has no
    /// effect, and the receipt is the first one again.
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
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let owner = FenceEpoch::new(1);
    /// let print = Fingerprint::of(b"bob buys an apple");
    /// // The request, what it does, and its answer: all at one offset.
    /// let buy = engine
    ///     .batch()
    ///     .reserve(&requests, "r-17", print, owner)
    ///     .put(&stock, &apples, &6)
    ///     .append(&orders, &apple)
    ///     .complete(&requests, "r-17", owner, "bought".into());
    /// let first = buy.clone().commit().await?.receipt;
    /// let again = buy.commit().await?.receipt;
    /// assert!(again.duplicate);
    /// assert_eq!(again.offset, first.offset);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn reserve(
        self,
        store: &ReplicatedIdempotencyStore,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
    ) -> Self {
        self.reserve_at(store, key, fingerprint, owner, None)
    }

    /// Reserves a request that says when it was issued: a log time that its maker had from the engine
    /// before he sent it for the first time, and that stays with it. One that may have been forgotten
    /// meanwhile is refused ([`Error::WindowExpired`]) and never takes effect twice.
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
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let (owner, print) = (FenceEpoch::new(1), Fingerprint::of(b"bob buys an apple"));
    /// // Had from the engine before the request is sent for the first time; it stays with it.
    /// let issued = requests.status("r-17", ReadConsistency::Linearizable).await?.log_time;
    /// let buy = engine
    ///     .batch()
    ///     .reserve_issued(&requests, "r-17", print, owner, issued)
    ///     .append(&orders, &apple)
    ///     .complete(&requests, "r-17", owner, "bought".into());
    /// assert!(!buy.clone().commit().await?.receipt.duplicate);
    /// assert!(buy.commit().await?.receipt.duplicate);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn reserve_issued(
        self,
        store: &ReplicatedIdempotencyStore,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
        issued: LogTime,
    ) -> Self {
        self.reserve_at(store, key, fingerprint, owner, Some(issued))
    }

    fn reserve_at(
        self,
        store: &ReplicatedIdempotencyStore,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
        issued: Option<LogTime>,
    ) -> Self {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let bytes = key.len();
        self.op(
            &store.handle,
            bytes,
            Some(0),
            &RequestOp::Reserve { owner, issued, fingerprint, key },
        )
    }

    /// Completes a request with its result.
    pub fn complete(
        self,
        store: &ReplicatedIdempotencyStore,
        key: &str,
        owner: FenceEpoch,
        result: Bytes,
    ) -> Self {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let (key_bytes, result_bytes) = (key.len(), result.len());
        let op = RequestOp::Complete { owner, key, result };
        self.op(&store.handle, key_bytes, Some(result_bytes), &op)
    }

    /// Says how long requests are known: see [`ReplicatedIdempotencyStore::keep`].
    pub fn keep_requests(self, store: &ReplicatedIdempotencyStore, window: RequestWindow) -> Self {
        self.op(&store.handle, 0, None, &RequestOp::Keep { window })
    }

    /// Adds an operation, which counts with its key and its value, or else as it is encoded.
    fn op<P: Projection>(
        mut self,
        handle: &Handle<P>,
        key_bytes: usize,
        value_bytes: Option<usize>,
        op: &P::Op,
    ) -> Self {
        self.check_log(handle.group.engine.cluster(), handle.group.id());
        if key_bytes > KEY_BYTES_MAX {
            self.broken = Some(format!("a key has at most {KEY_BYTES_MAX} bytes"));
        }
        let (ops, kinds) = match self.branch {
            Branch::Then => (&mut self.command.then, &mut self.kinds[0]),
            Branch::Otherwise => (&mut self.command.otherwise, &mut self.kinds[1]),
        };
        match handle.part(op, false) {
            Ok(part) => {
                self.bytes += key_bytes + value_bytes.unwrap_or(part.body.len());
                ops.push(part);
                kinds.push(P::NAME);
            }
            Err(unproposable) => self.broken = Some(unproposable.what),
        }
        self
    }

    /// The number of a resource is another one's in another log, which could not even read what is for it.
    fn check_log(&mut self, of: ClusterId, in_group: GroupId) {
        let own = self.engine.cluster();
        let group = *self.group.get_or_insert(in_group);
        if of != own {
            let what =
                format!("a batch of cluster={own} takes nothing from a handle of cluster={of}");
            self.broken = Some(what);
        } else if in_group != group {
            let what = format!(
                "a batch is of one group: it names resources of group={group} and group={in_group}, and \
                 those that are used together need one affinity"
            );
            self.broken = Some(what);
        }
    }

    /// Commits the batch. The receipt comes once a quorum has it on stable storage and this node
    /// has applied it.
    ///
    /// # Errors
    /// Any refusal leaves the batch without effect: [`Error::GuardFailed`] for a demand that does not
    /// hold, [`Error::VersionMismatch`], [`Error::InProgress`], [`Error::Refused`] and others for an
    /// operation. While something has failed, what the contract of a resource that it names refuses writes
    /// with: nothing was tried then. With [`Error::Disconnected`] and an unknown outcome it may have taken effect: commit
    /// the same batch again, with the same reservation.
    pub async fn commit(mut self) -> Result<BatchDone, Error> {
        let group = self.check()?;
        // Nothing is moved out of it over an await, where it would be there twice: a batch is waited for in crowds.
        let command = &mut self.command;
        command.number =
            self.number.map(|number| number.of(&group, self.registrant)).transpose()?;
        let handles = command.parts().map(|part| (part.resource, Some(part.epoch)));
        group.gate(handles, Call::Write, std::slice::from_ref(&command.caller)).await?;
        let (receipt, outcome) = group.submit(self.command).await?;
        match outcome {
            Outcome::Applied { branch, outcomes } => {
                let [then, otherwise] = self.kinds;
                let kinds = if branch == Branch::Then { then } else { otherwise };
                let of = |(projection, raw)| OpOutcome { projection, raw };
                let outcomes = kinds.into_iter().zip(outcomes).map(of).collect();
                Ok(BatchDone { receipt, branch: Some(branch), outcomes })
            }
            Outcome::Duplicate(first) => {
                let (offset, log_time) = (first.offset, first.log_time);
                let receipt = Receipt { offset, log_time, duplicate: true, ..receipt };
                Ok(BatchDone { receipt, branch: None, outcomes: Vec::new() })
            }
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => Err(unexpected(&other)),
        }
    }

    /// Refuses what no batch can be. Gives the group that it is for.
    fn check(&self) -> Result<Group, Error> {
        let BatchCommand { caller, guards, then, otherwise, .. } = &self.command;
        caller.check()?;
        let most = guards.len().max(then.len()).max(otherwise.len());
        let broken = if self.broken.is_some() {
            self.broken.clone()
        } else if then.is_empty() && otherwise.is_empty() {
            Some("a batch has at least one operation".to_owned())
        } else if guards.is_empty() && !otherwise.is_empty() {
            Some("a batch that demands nothing has nothing to be done otherwise".to_owned())
        } else if most > BATCH_OPS_MAX {
            Some(format!("a batch has at most {BATCH_OPS_MAX} operations, and as many guards"))
        } else if self.bytes > VALUE_BYTES_MAX {
            Some(format!("a value, and a batch as a whole, has at most {VALUE_BYTES_MAX} bytes"))
        } else {
            None
        };
        if let Some(what) = broken {
            return Err(Error::InvalidArgument { what });
        }
        let group = self.group.expect("each of its operations names one");
        self.engine.group(group)
    }
}
