//! A replicated log: values in one order, each at its position for ever.

mod consumer;
mod tail;

use std::marker::PhantomData;

use palisade_replication::LogTime;

pub use self::consumer::Consumer;
pub use self::tail::{LogTail, TAIL_BYTES_MAX, TAIL_ENTRIES_MAX};
use crate::batch::{Batch, BatchDone, Guard};
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::group::Group;
use crate::handle::{Done, Handle};
use crate::page::{Page, SCAN_BYTES_MAX};
use crate::projections::log::{
    self, ConsumerPosition, Log, LogGuard, LogOp, LogOutcome, LogPosition, LogRetention, LogTrim,
    RawEntry, Scanned,
};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{FailureDomain, FenceEpoch, LogicalResourceName, ResourceSpec, SchemaId};
use crate::store::Direction;
use crate::stored::Stored;

/// Most entries that one scan returns.
pub const SCAN_ENTRIES_MAX: usize = 4096;

/// A handle to a log of `T`, opened by one writer generation. `docs/log.md` says what its positions, its
/// retention and its consumers are.
///
/// ```
/// use palisade::sim::SimFabric;
/// use palisade::*;
///
/// # fn main() -> Result<(), Error> {
/// let mut fabric = SimFabric::new(1);
/// let engine = fabric.engine(fabric.node(1));
/// fabric.block_on(async {
///     let spec = ResourceSpec::new("orders", "order.v1")?;
///     let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
///     let first = orders.append(&"an apple".to_owned()).await?;
///     orders.append(&"a pear".to_owned()).await?;
///     let now = ReadConsistency::Linearizable;
///     let page = orders.scan(first.outcome, Direction::Forward, 10, now).await?.value;
///     assert_eq!(page.entries[1].value, "a pear");
///     Ok(())
/// })
/// # }
/// ```
pub struct ReplicatedLog<T> {
    pub(crate) handle: Handle<Log>,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for ReplicatedLog<T> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), values: self.values }
    }
}

/// A value in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry<T> {
    /// Its place.
    pub position: LogPosition,
    /// The stamp on its record.
    pub log_time: LogTime,
    /// The value.
    pub value: T,
}

/// A part of a log.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
/// orders.append_all(&["an apple".to_owned(), "a pear".to_owned(), "a plum".to_owned()]).await?;
/// let (mut from, mut found) = (Some(LogPosition::START), Vec::new());
/// while let Some(place) = from {
///     let page = orders.scan(place, Direction::Forward, 2, ReadConsistency::Local).await?.value;
///     let LogPage { entries, next, .. } = page;
///     found.extend(entries.into_iter().map(|LogEntry { value, .. }| value));
///     from = next;
/// }
/// assert_eq!(found, ["an apple", "a pear", "a plum"]);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage<T> {
    /// The values, in the order of the scan.
    pub entries: Vec<LogEntry<T>>,
    /// Where to go on in the same direction, or `None` if there was nothing more.
    pub next: Option<LogPosition>,
    /// The place after the last entry that was removed: all that was appended from here on was there.
    pub first: LogPosition,
    /// The place after the last entry that was appended.
    pub tail: LogPosition,
}

/// How far a log goes, and how long it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogBounds {
    /// The place after the last entry that was removed.
    pub first: LogPosition,
    /// The place after the last entry that was appended.
    pub tail: LogPosition,
    /// How many entries there are.
    pub entries: u64,
    /// What they count with in [`LogRetention::keep_bytes`].
    pub bytes: u64,
    /// How long they are kept.
    pub retention: LogRetention,
}

impl<T: Stored> ReplicatedLog<T> {
    /// Opens the log for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an epoch below the current, [`Error::Incompatible`] if it is something
    /// else than asked for, [`Error::DomainUnavailable`] outside its placement.
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(engine, spec).await?, values: PhantomData })
    }

    /// Opens a log that is there for reading: nothing is written to the log, and no writer is fenced.
    ///
    /// # Errors
    /// As [`crate::Handle::open_reader`].
    pub async fn open_reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open_reader(engine, name, schema).await?, values: PhantomData })
    }

    /// Opens a log that is there for writing with an epoch that it has: see
    /// [`crate::Handle::open_existing`].
    ///
    /// A program that was told the epoch writes with it; one that only looks needs none:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// let (name, schema, epoch) = (spec.name.clone(), spec.schema.clone(), spec.epoch);
    /// ReplicatedLog::<String>::open(&engine, spec).await?;
    ///
    /// let worker = ReplicatedLog::open_existing(&engine, &name, &schema, epoch).await?;
    /// let order = worker.append(&"an apple".to_owned()).await?;
    ///
    /// let reader = ReplicatedLog::<String>::open_reader(&engine, &name, &schema).await?;
    /// let page = reader.scan(order.outcome, Direction::Forward, 1, order.receipt.freshness()).await?;
    /// assert_eq!(page.value.entries[0].value, "an apple");
    /// let refused = reader.append(&"a pear".to_owned()).await;
    /// assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// The same.
    pub async fn open_existing(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
        epoch: FenceEpoch,
    ) -> Result<Self, Error> {
        let handle = Handle::open_existing(engine, name, schema, epoch).await?;
        Ok(Self { handle, values: PhantomData })
    }

    /// The group that it lies in.
    #[must_use]
    pub fn group(&self) -> &Group {
        self.handle.group()
    }

    /// The same handle on behalf of somebody: see [`crate::Handle::for_caller`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let (here, elsewhere) = (engine.domain().clone(), FailureDomain::new("elsewhere", "r", "z"));
    /// orders.admit(&here).await?;
    /// orders.for_caller(here).append(&"an apple".to_owned()).await?;
    ///
    /// let refused = orders.for_caller(elsewhere.clone()).append(&"a pear".to_owned()).await;
    /// assert!(matches!(refused, Err(Error::DomainUnavailable { .. })));
    /// assert!(orders.admit(&elsewhere).await.is_err());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn for_caller(&self, domain: FailureDomain) -> Self {
        Self { handle: self.handle.for_caller(domain), values: self.values }
    }

    /// The same handle as a part of a trace: see [`crate::Handle::traced`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// orders.traced(trace).append(&"an apple".to_owned()).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn traced(&self, trace: crate::TraceContext) -> Self {
        Self { handle: self.handle.traced(trace), values: self.values }
    }

    /// Whether a worker in this domain may work on it: see [`crate::Handle::admit`].
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] if not, and as any read.
    pub async fn admit(&self, worker: &FailureDomain) -> Result<(), Error> {
        self.handle.admit(worker).await
    }

    /// Appends a value, and says at which position.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn append(&self, value: &T) -> Result<Done<LogPosition>, Error> {
        let (receipt, first, _) = appended(&self.batch().append(self, value).commit().await?)?;
        Ok(Done { receipt, outcome: first })
    }

    /// Appends values in one record: all of them or none, one right after the other. At most
    /// [`crate::APPEND_ENTRIES_MAX`], and together as many bytes as a value may have, where each counts
    /// with up to three more.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let orders_of_bob = ["an apple".to_owned(), "a pear".to_owned()];
    /// let placed = orders.append_all(&orders_of_bob).await?.outcome;
    /// assert_eq!(placed[1], placed[0].after());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for none, or for more than fit; others as [`crate::Batch::commit`].
    pub async fn append_all(&self, values: &[T]) -> Result<Done<Vec<LogPosition>>, Error> {
        let done = self.batch().append_all(self, values).commit().await?;
        let (receipt, first, count) = appended(&done)?;
        let next = |place: &LogPosition| Some(place.after());
        let outcome = std::iter::successors(Some(first), next).take(count.into()).collect();
        Ok(Done { receipt, outcome })
    }

    /// Appends a value if the tail is this: nobody has appended what its writer has not seen.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let seen = orders.bounds(ReadConsistency::Linearizable).await?.value.tail;
    /// orders.append(&"an apple".to_owned()).await?; // by somebody who was faster
    ///
    /// let late = orders.append_if(&"a pear".to_owned(), seen).await;
    /// let Err(Error::TailMismatch { found, .. }) = late else { panic!("the tail has moved") };
    /// // Read what is new, and decide again.
    /// orders.append_if(&"a pear".to_owned(), found).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::TailMismatch`] if it is another, and as [`crate::Batch::commit`].
    pub async fn append_if(
        &self,
        value: &T,
        expected_tail: LogPosition,
    ) -> Result<Done<LogPosition>, Error> {
        let done = self.batch().append_if(self, value, expected_tail).commit().await?;
        let (receipt, first, _) = appended(&done)?;
        Ok(Done { receipt, outcome: first })
    }

    fn batch(&self) -> Batch {
        self.handle.batch()
    }

    /// Demands of a batch that the tail is this, before any of its operations.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let tail = orders.append(&"an apple".to_owned()).await?.outcome.after();
    /// let next = || engine.batch().require(orders.tail_is(tail)).append(&orders, &"a pear".to_owned());
    /// next().commit().await?;
    /// assert!(matches!(next().commit().await, Err(Error::GuardFailed { guard: 0 })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn tail_is(&self, position: LogPosition) -> Guard {
        self.handle.guard(&LogGuard::TailIs { position })
    }

    /// Sets how long entries are kept. What is beyond is removed by the appends that follow.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let week = LogRetention { keep_ms: Some(7 * 86_400_000), ..LogRetention::default() };
    /// orders.retain(week).await?;
    /// assert_eq!(orders.bounds(ReadConsistency::Linearizable).await?.value.retention, week);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn retain(&self, retention: LogRetention) -> Result<Receipt, Error> {
        Ok(self.handle.submit(&LogOp::Retain { retention }).await?.receipt)
    }

    /// Removes the entries before a position, at most [`crate::TRIM_ENTRIES_MAX`] of them at once: call it
    /// again until it says that it is complete.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// orders.append(&"an apple".to_owned()).await?;
    /// let kept = orders.append(&"a pear".to_owned()).await?.outcome;
    /// loop {
    ///     let LogTrim { complete, removed, .. } = orders.trim_before(kept).await?.outcome;
    ///     println!("removed={removed}");
    ///     if complete {
    ///         break;
    ///     }
    /// }
    /// let now = ReadConsistency::Linearizable;
    /// let gone = orders.scan(LogPosition::START, Direction::Forward, 10, now).await;
    /// assert!(matches!(gone, Err(Error::Trimmed { first }) if first <= kept));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn trim_before(&self, before: LogPosition) -> Result<Done<LogTrim>, Error> {
        let Done { receipt, outcome } = self.handle.submit(&LogOp::Trim { before }).await?;
        match outcome {
            LogOutcome::Trimmed(outcome) => Ok(Done { receipt, outcome }),
            other => Err(unexpected(other)),
        }
    }

    /// How far the log goes.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// orders.append(&"an apple".to_owned()).await?;
    /// let LogBounds { first, tail, entries, bytes, .. } =
    ///     orders.bounds(ReadConsistency::Linearizable).await?.value;
    /// assert!(first < tail);
    /// assert_eq!((entries, bytes), (1, 8 + 17));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn bounds(&self, options: impl Into<ReadOptions>) -> Result<Read<LogBounds>, Error> {
        let read = self.handle.read_own(options, log::header).await?;
        Ok(read.map(|header| LogBounds {
            first: header.first,
            tail: header.tail,
            entries: header.entries,
            bytes: header.bytes,
            retention: header.retention,
        }))
    }

    /// A part of the log: forward, the entries at `from` and after it; backward, those before it, the
    /// newest first. At most `limit`, [`SCAN_ENTRIES_MAX`] and [`crate::SCAN_BYTES_MAX`]. Places of other
    /// resources' records are not there.
    ///
    /// # Errors
    /// [`Error::Trimmed`] if some of it was removed: forward from below `first`; backward from `first` or
    /// below it, once anything was. [`Error::NotYetApplied`] and others, as the options say;
    /// [`Error::Incompatible`] if the first value is no `T`; before a later one the page ends.
    pub async fn scan(
        &self,
        from: impl Into<LogPosition>,
        direction: Direction,
        limit: usize,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<LogPage<T>>, Error> {
        let page = (limit.min(SCAN_ENTRIES_MAX), SCAN_BYTES_MAX);
        self.page(from.into(), direction, page, options.into()).await
    }

    /// A part of at most so many entries and bytes.
    async fn page(
        &self,
        from: LogPosition,
        direction: Direction,
        (entries_max, bytes_max): (usize, usize),
        options: ReadOptions,
    ) -> Result<Read<LogPage<T>>, Error> {
        let read = self.handle.read_own(options, move |rows| {
            log::scan(rows, from, direction, Page::within(entries_max, bytes_max))
        });
        let read = read.await?;
        let schemas = self.handle.schemas();
        read.try_map(|found| {
            let Scanned { page, header } = found?;
            let mut entries: Vec<LogEntry<T>> = Vec::with_capacity(page.rows.len());
            let mut next = page.next;
            for RawEntry { position, log_time, payload } in page.rows {
                match (schemas.value(&payload), entries.last()) {
                    (Ok(value), _) => entries.push(LogEntry { position, log_time, value }),
                    (Err(error), None) => return Err(error),
                    // What can be read is told first, and the other to whoever goes on.
                    (Err(_), Some(last)) => {
                        let forward = direction == Direction::Forward;
                        next = Some(if forward { position } else { last.position });
                        break;
                    }
                }
            }
            Ok(LogPage { entries, next, first: header.first, tail: header.tail })
        })
    }

    /// Follows the log on this replica from a position on.
    pub fn tail(&self, from: impl Into<LogPosition>) -> LogTail<T> {
        LogTail::new(self.clone(), from.into())
    }

    /// A consumer of this log by its name, owned by this handle's epoch: see [`Consumer`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is empty or longer than
    /// [`crate::CONSUMER_NAME_BYTES_MAX`].
    pub fn consumer(&self, name: &str) -> Result<Consumer, Error> {
        Consumer::new(self.handle.clone(), name)
    }

    /// All consumers that have committed something and were not forgotten, by name: who they are, and how far
    /// each has come. There are at most [`crate::CONSUMERS_MAX`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let order = orders.append(&"an apple".to_owned()).await?;
    /// orders.consumer("billing")?.commit(order.outcome.after()).await?;
    ///
    /// let found = orders.consumers(order.receipt.freshness()).await?.value;
    /// for ConsumerPosition { name, position, log_time, .. } in &found {
    ///     println!("{name} has come to {position} at {log_time}");
    /// }
    /// assert_eq!(found[0].name, "billing");
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn consumers(
        &self,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Vec<ConsumerPosition>>, Error> {
        self.handle.read_own(options, log::consumers).await
    }
}

/// Where what a batch of one append has added begins, and how many entries that are.
fn appended(done: &BatchDone) -> Result<(Receipt, LogPosition, u16), Error> {
    match done.outcomes.first().map(|outcome| outcome.of::<Log>()).transpose()? {
        Some(LogOutcome::Appended { first, count }) => Ok((done.receipt, first, count)),
        other => Err(unexpected(other)),
    }
}

/// Each operation is answered in its own way; another is a bug.
fn unexpected(outcome: impl std::fmt::Debug) -> Error {
    Error::InternalError { what: format!("an operation on a log was answered with {outcome:?}") }
}
