//! A replicated idempotency store: each request takes effect once, and its repetitions are told the
//! first result.

use bytes::Bytes;
use palisade_replication::LogTime;

use crate::batch::{BatchDone, Guard};
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::group::Group;
use crate::handle::Handle;
use crate::outcome::Completion;
use crate::projections::idempotency::{
    Fingerprint, Idempotency, Request, RequestGuard, RequestOp, RequestWindow, Window, find,
};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{FailureDomain, FenceEpoch, LogicalResourceName, ResourceSpec, SchemaId};

/// A handle to an idempotency store, opened by one writer generation.
///
/// ```
/// use palisade::sim::SimFabric;
/// use palisade::*;
///
/// # fn main() -> Result<(), Error> {
/// let mut fabric = SimFabric::new(1);
/// let engine = fabric.engine(fabric.node(1));
/// fabric.block_on(async {
///     let spec = ResourceSpec::new("requests", "request.v1")?;
///     let owner = spec.epoch;
///     let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
///     let print = Fingerprint::of(b"send a report to bob");
///     for attempt in 0..2 {
///         match requests.reserve_or_result("r-17", print, owner, None).await? {
///             Reservation::Reserved(_) => {
///                 assert_eq!(attempt, 0);
///                 requests.complete("r-17", owner, "sent".into()).await?;
///             }
///             Reservation::Completed { result, .. } => assert_eq!(&result[..], b"sent"),
///         }
///     }
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct ReplicatedIdempotencyStore {
    pub(crate) handle: Handle<Idempotency>,
}

/// How a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// It is not known.
    Unknown {
        /// One that was issued after this log time was never reserved; one that was issued before may
        /// have been, and be forgotten.
        floor: LogTime,
    },
    /// An owner has reserved it and not completed it.
    InProgress {
        /// The owner's epoch; a higher one may take over.
        owner: FenceEpoch,
        /// When it was reserved.
        since: LogTime,
        /// How long ago that was, by the log time of the state that was read.
        age_ms: u64,
    },
    /// It is done.
    Completed(Completion),
}

/// What becomes of a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// The owner has it, and is to do the work and complete it.
    Reserved(Receipt),
    /// The work was done.
    Completed {
        /// Of the completion, as it was the first time but for `duplicate`.
        receipt: Receipt,
        /// What it was completed with.
        result: Bytes,
    },
}

impl ReplicatedIdempotencyStore {
    /// Opens the store for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// As [`crate::ReplicatedLog::open`].
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(engine, spec).await? })
    }

    /// Opens a store that is there for reading: nothing is written to the log, and no writer is fenced.
    ///
    /// # Errors
    /// As [`crate::Handle::open_reader`].
    pub async fn open_reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open_reader(engine, name, schema).await? })
    }

    /// Opens a store that is there for writing with an epoch that it has: see
    /// [`crate::Handle::open_existing`].
    ///
    /// A program that was told the epoch writes with it; one that only looks needs none:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// let (name, schema, epoch) = (spec.name.clone(), spec.schema.clone(), spec.epoch);
    /// ReplicatedIdempotencyStore::open(&engine, spec).await?;
    ///
    /// let worker = ReplicatedIdempotencyStore::open_existing(&engine, &name, &schema, epoch).await?;
    /// let receipt = worker.reserve("r-17", Fingerprint::of(b"a report"), epoch).await?;
    ///
    /// let reader = ReplicatedIdempotencyStore::open_reader(&engine, &name, &schema).await?;
    /// let status = reader.status("r-17", receipt.freshness()).await?.value;
    /// assert!(matches!(status, RequestStatus::InProgress { owner, .. } if owner == epoch));
    /// assert_eq!(reader.group().id(), worker.group().id());
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
        Ok(Self { handle })
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
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let (here, elsewhere) = (engine.domain().clone(), FailureDomain::new("elsewhere", "r", "z"));
    /// let (print, owner) = (Fingerprint::of(b"a report"), FenceEpoch::new(1));
    /// requests.admit(&here).await?;
    /// requests.for_caller(here).reserve("r-17", print, owner).await?;
    ///
    /// let refused = requests.for_caller(elsewhere.clone()).reserve("r-18", print, owner).await;
    /// assert!(matches!(refused, Err(Error::DomainUnavailable { .. })));
    /// assert!(requests.admit(&elsewhere).await.is_err());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn for_caller(&self, domain: FailureDomain) -> Self {
        Self { handle: self.handle.for_caller(domain) }
    }

    /// The same handle as a part of a trace: see [`crate::Handle::traced`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// let print = Fingerprint::of(b"a report");
    /// requests.traced(trace).reserve("r-17", print, FenceEpoch::new(1)).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn traced(&self, trace: crate::TraceContext) -> Self {
        Self { handle: self.handle.traced(trace) }
    }

    /// Whether a worker in this domain may work on it: see [`crate::Handle::admit`].
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] if not, and as any read.
    pub async fn admit(&self, worker: &FailureDomain) -> Result<(), Error> {
        self.handle.admit(worker).await
    }

    /// Demands of a batch that a request was completed.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// # let log = ResourceSpec::new("letters", "letter.v1")?;
    /// # let letters = ReplicatedLog::<String>::open(&engine, log).await?;
    /// let send = || {
    ///     let letter = "your report is done".to_owned();
    ///     engine.batch().require(requests.completed("r-17")).append(&letters, &letter)
    /// };
    /// let owner = FenceEpoch::new(1);
    /// requests.reserve("r-17", Fingerprint::of(b"a report"), owner).await?;
    /// assert!(matches!(send().commit().await, Err(Error::GuardFailed { guard: 0 })));
    /// requests.complete("r-17", owner, "42 pages".into()).await?;
    /// send().commit().await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn completed(&self, key: &str) -> Guard {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.handle.guard(&RequestGuard::Completed { key })
    }

    /// Says how long requests are known; a day and a million of them if never said.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let hour = RequestWindow { retention_ms: 3_600_000, requests_max: 10_000 };
    /// requests.keep(hour).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn keep(&self, window: RequestWindow) -> Result<Receipt, Error> {
        Ok(self.handle.submit(&RequestOp::Keep { window }).await?.receipt)
    }

    /// Reserves a request that says when it was issued: see [`crate::Batch::reserve_issued`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// # let (print, owner) = (Fingerprint::of(b"a report"), FenceEpoch::new(1));
    /// // Had from the engine before the request is sent for the first time; it stays with it.
    /// let issued = requests.status("r-17", ReadConsistency::Linearizable).await?.log_time;
    /// requests.reserve_issued("r-17", print, owner, issued).await?;
    /// # requests.keep(RequestWindow { retention_ms: 3_600_000, requests_max: 1 }).await?;
    /// # requests.reserve("r-18", print, owner).await?;
    /// # requests.reserve("r-19", print, owner).await?;
    ///
    /// // Much later: the store has forgotten it, and does not take it for a new one.
    /// let late = requests.reserve_issued("r-17", print, owner, issued).await;
    /// assert!(matches!(late, Err(Error::WindowExpired { floor }) if floor >= issued));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::WindowExpired`] if it may have been forgotten, and as
    /// [`ReplicatedIdempotencyStore::reserve`].
    pub async fn reserve_issued(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
        issued: LogTime,
    ) -> Result<Receipt, Error> {
        let batch = self.handle.batch();
        let batch = batch.reserve_issued(self, key, fingerprint, owner, issued);
        Ok(batch.commit().await?.receipt)
    }

    /// Reserves a request for an owner. A receipt with `duplicate` says that it was completed
    /// before; one without that the owner is to do the work and complete it.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let (print, owner) = (Fingerprint::of(b"a report"), FenceEpoch::new(1));
    /// let first = requests.reserve("r-17", print, owner).await?;
    /// assert!(!first.duplicate);
    /// let done = requests.complete("r-17", owner, "42 pages".into()).await?;
    /// // Asked once more, it has been done: there is nothing to do.
    /// let again = requests.reserve("r-17", print, owner).await?;
    /// assert!(again.duplicate);
    /// assert_eq!(again.offset, done.offset);
    /// // The id is that of another request.
    /// let other = requests.reserve("r-17", Fingerprint::of(b"a letter"), owner).await;
    /// assert!(matches!(other, Err(Error::IdempotencyConflict { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::IdempotencyConflict`] if the id was used for another request,
    /// [`Error::InProgress`] if an owner of a higher epoch has it.
    pub async fn reserve(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
    ) -> Result<Receipt, Error> {
        let batch = self.handle.batch();
        Ok(batch.reserve(self, key, fingerprint, owner).commit().await?.receipt)
    }

    /// Reserves a request for an owner, or gives the result that it was completed with. `issued` is as with
    /// [`ReplicatedIdempotencyStore::reserve_issued`].
    ///
    /// # Errors
    /// As [`ReplicatedIdempotencyStore::reserve_issued`]; [`Error::WindowExpired`] also if the result was
    /// forgotten between the two steps.
    pub async fn reserve_or_result(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
        issued: Option<LogTime>,
    ) -> Result<Reservation, Error> {
        let batch = self.handle.batch();
        let batch = match issued {
            Some(issued) => batch.reserve_issued(self, key, fingerprint, owner, issued),
            None => batch.reserve(self, key, fingerprint, owner),
        };
        let BatchDone { receipt, branch, .. } = batch.commit().await?;
        // A command that a session repeats is a duplicate as well, of a reservation that stands.
        if branch.is_some() {
            return Ok(Reservation::Reserved(receipt));
        }
        // Its record was applied here before the answer came.
        let (wanted, at) = (key.to_owned(), receipt.freshness());
        let read = self.handle.read_own(at, move |rows| {
            Ok((find(rows, wanted.as_bytes())?, Window::load(rows)?.floor))
        });
        let (found, floor) = read.await?.value;
        let completion = found.and_then(|request| request.completion);
        match completion.filter(|completion| completion.offset == receipt.offset) {
            Some(Completion { result, .. }) => Ok(Reservation::Completed { receipt, result }),
            // Somebody else may have the id for a new request by now.
            None => Err(Error::WindowExpired { floor }),
        }
    }

    /// Completes a request that this owner has reserved.
    ///
    /// # Errors
    /// [`Error::Fenced`] if an owner of a higher epoch has taken over.
    pub async fn complete(
        &self,
        key: &str,
        owner: FenceEpoch,
        result: Bytes,
    ) -> Result<Receipt, Error> {
        let batch = self.handle.batch();
        Ok(batch.complete(self, key, owner, result).commit().await?.receipt)
    }

    /// How a request stands.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("requests", "request.v1")?;
    /// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
    /// let owner = FenceEpoch::new(1);
    /// requests.reserve("r-17", Fingerprint::of(b"a report"), owner).await?;
    /// let receipt = requests.complete("r-17", owner, "42 pages".into()).await?;
    /// match requests.status("r-17", receipt.freshness()).await?.value {
    ///     RequestStatus::Unknown { floor } => println!("none that was issued after {floor}"),
    ///     RequestStatus::InProgress { owner, age_ms, .. } => println!("{owner} since {age_ms} ms"),
    ///     RequestStatus::Completed(Completion { offset, result, .. }) => {
    ///         assert_eq!((offset, &result[..]), (receipt.offset, &b"42 pages"[..]));
    ///     }
    /// }
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn status(
        &self,
        key: &str,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<RequestStatus>, Error> {
        let key = key.to_owned();
        let read = self.handle.read_own(options, move |rows| {
            let floor = Window::load(rows)?.floor;
            Ok((find(rows, key.as_bytes())?, floor))
        });
        let read = read.await?;
        let now = read.log_time.get();
        Ok(read.map(|(request, floor)| match request {
            None => RequestStatus::Unknown { floor },
            Some(Request { completion: Some(completion), .. }) => {
                RequestStatus::Completed(completion)
            }
            Some(request) => RequestStatus::InProgress {
                owner: request.owner,
                since: request.since,
                age_ms: now.saturating_sub(request.since.get()),
            },
        }))
    }
}
