//! The service itself: what a caller may ask of it on any node.

use std::time::Duration;

use bytes::Bytes;
use palisade::{
    BatchDone, Direction, Disposition, Engine, Error, FailureDomain, FenceEpoch, Fingerprint,
    Group, LogPage, MapRange, Offset, PlacementProfile, ReadConsistency, ReadOptions, Receipt,
    ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, ResourceSpec, Stored, Version,
    Versioned,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::flights::{AirportState, Flight, IndexedFlight, flight_key, month_bounds};
use super::model::{
    ApiCommand, Effect, Report, ReportSubmission, RequestRecord, RequestState, SubmissionReceipt,
};

/// The writer generation of this release. All nodes of a deployment share it; the next deployment
/// that must not run beside this one takes a higher one.
const WRITER: FenceEpoch = FenceEpoch::new(1);
/// A request whose outcome is unknown is repeated for so long, with the same id.
const REPEAT_FOR: Duration = Duration::from_secs(15);
const REPEAT_PAUSE: Duration = Duration::from_millis(20);
/// An airport's state that changes under a flight is read again so many times.
const RACES_MAX: usize = 64;

/// The report service on one node; cheap to clone.
#[derive(Clone)]
pub struct ReportService {
    engine: Engine,
    profile: PlacementProfile,
    pub(super) commands: ReplicatedLog<ApiCommand>,
    pub(super) requests: ReplicatedMap<String, RequestRecord>,
    request_ids: ReplicatedIdempotencyStore,
    pub(super) effects: ReplicatedIdempotencyStore,
    pub(super) effect_log: ReplicatedLog<Effect>,
    pub(super) workers: ReplicatedMap<String, String>,
    flights: ReplicatedLog<Flight>,
    airports: ReplicatedMap<String, AirportState>,
    index: ReplicatedMap<String, IndexedFlight>,
    flight_ids: ReplicatedIdempotencyStore,
}

/// The answer to a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlightReceipt {
    /// Which flight.
    pub id: u64,
    /// Where it stands in the log.
    pub offset: u64,
    /// It had been taken before.
    pub duplicate: bool,
}

impl ReportService {
    /// Opens the service's resources on this node, making them if they are not there.
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] if the profile does not allow this node's domain.
    pub async fn open(engine: &Engine, profile: PlacementProfile) -> Result<Self, Error> {
        let spec = |name: &str, schema: &str| -> Result<ResourceSpec, Error> {
            Ok(ResourceSpec::new(name, schema)?.epoch(WRITER).profile(&profile))
        };
        let ids = |name| ReplicatedIdempotencyStore::open(engine, name);
        Ok(Self {
            commands: ReplicatedLog::open(engine, spec("report-requests", "report-command.v1")?)
                .await?,
            requests: ReplicatedMap::open(
                engine,
                spec("report-request-status", "report-status.v1")?,
            )
            .await?,
            request_ids: ids(spec("report-request-ids", "report-request-id.v1")?).await?,
            effects: ids(spec("report-effects", "report-effect.v1")?).await?,
            effect_log: ReplicatedLog::open(
                engine,
                spec("report-effect-log", "report-effect-entry.v1")?,
            )
            .await?,
            workers: ReplicatedMap::open(engine, spec("report-workers", "report-worker.v1")?)
                .await?,
            flights: ReplicatedLog::open(engine, spec("flights", "flight.v1")?).await?,
            airports: ReplicatedMap::open(engine, spec("airports", "airport-state.v1")?).await?,
            index: ReplicatedMap::open(engine, spec("flights-by-month", "indexed-flight.v1")?)
                .await?,
            flight_ids: ids(spec("flight-ids", "flight-id.v1")?).await?,
            engine: engine.clone(),
            profile,
        })
    }

    /// The engine below.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The group that its resources lie in: they are used together.
    #[must_use]
    pub fn group(&self) -> &Group {
        self.index.group()
    }

    /// Where the service may run.
    #[must_use]
    pub fn profile(&self) -> &PlacementProfile {
        &self.profile
    }

    /// Accepts a report request: reserve, append, status and complete in one batch, at one offset.
    /// The same request again gets the first receipt again.
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] from outside the profile, [`Error::IdempotencyConflict`] for
    /// another request under the same id, [`Error::Disconnected`] without a quorum.
    pub async fn submit(
        &self,
        caller: &FailureDomain,
        submission: &ReportSubmission,
    ) -> Result<SubmissionReceipt, Error> {
        submission.check()?;
        let id = &submission.request_id;
        let command = ApiCommand { submission: submission.clone() };
        let accepted =
            RequestRecord { submission: submission.clone(), state: RequestState::Accepted };
        let receipt = repeat(|| {
            self.engine
                .batch()
                .caller(caller.clone())
                .reserve(&self.request_ids, id, submission.fingerprint(), WRITER)
                .append(&self.commands, &command)
                .put(&self.requests, id, &accepted)
                .complete(&self.request_ids, id, WRITER, Bytes::new())
                .commit()
        })
        .await?;
        Ok(SubmissionReceipt {
            request_id: id.clone(),
            accepted_offset: receipt.offset.get(),
            duplicate: receipt.duplicate,
            status_path: format!("/reports/{id}"),
        })
    }

    /// How a request stands, as freshly as asked.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] if this replica is behind; [`Error::DomainUnavailable`] from
    /// outside the profile.
    pub async fn read_status(
        &self,
        caller: &FailureDomain,
        request_id: &str,
        options: impl Into<ReadOptions>,
    ) -> Result<Option<RequestRecord>, Error> {
        self.admit(caller)?;
        let row = self.requests.get(&request_id.to_owned(), options).await?;
        Ok(row.value.map(|row| row.value))
    }

    /// Takes a flight in: the log, the running state of its airport and the index by month, in one
    /// batch. The same flight again gets the first receipt again.
    ///
    /// # Errors
    /// As [`ReportService::submit`].
    pub async fn take_flight(
        &self,
        caller: &FailureDomain,
        id: u64,
        flight: &Flight,
    ) -> Result<FlightReceipt, Error> {
        flight.check()?;
        let key = format!("flight-{id}");
        let fingerprint = Fingerprint::of(&flight.to_bytes());
        let indexed =
            IndexedFlight { delay: flight.delay, destination: flight.destination.clone() };
        let index_key = flight_key(flight, id);
        let mut consistency = ReadConsistency::Local;
        for _ in 0..RACES_MAX {
            let found = self.airports.get(&flight.origin, consistency).await?.value;
            let version = found.as_ref().map_or(Version::ABSENT, |found| found.version);
            let state = found.map(|found| found.value).unwrap_or_default().with(flight);
            let committed = repeat(|| {
                self.engine
                    .batch()
                    .caller(caller.clone())
                    .reserve(&self.flight_ids, &key, fingerprint, WRITER)
                    .append(&self.flights, flight)
                    .put_if(&self.airports, &flight.origin, &state, version)
                    .put(&self.index, &index_key, &indexed)
                    .complete(&self.flight_ids, &key, WRITER, Bytes::new())
                    .commit()
            })
            .await;
            match committed {
                Ok(Receipt { offset, duplicate, .. }) => {
                    return Ok(FlightReceipt { id, offset: offset.get(), duplicate });
                }
                // Another flight of this airport came first, or this replica was behind.
                Err(Error::VersionMismatch { .. }) => {
                    consistency = ReadConsistency::Linearizable;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::RateLimited { retry_after_ms: 100 })
    }

    /// The running state of an airport.
    ///
    /// # Errors
    /// As for any read.
    pub async fn airport(&self, code: &str) -> Result<Option<Versioned<AirportState>>, Error> {
        Ok(self.airports.get(&code.to_owned(), ReadConsistency::Local).await?.value)
    }

    /// Flights in the order of the log, from an offset on.
    ///
    /// # Errors
    /// As for any read.
    pub async fn flights(&self, from: Offset, limit: usize) -> Result<LogPage<Flight>, Error> {
        Ok(self.flights.scan(from, Direction::Forward, limit, ReadConsistency::Local).await?.value)
    }

    /// Reports that were handed out, from an offset on.
    ///
    /// # Errors
    /// As for any read.
    pub async fn effects(&self, from: Offset, limit: usize) -> Result<LogPage<Effect>, Error> {
        Ok(self
            .effect_log
            .scan(from, Direction::Forward, limit, ReadConsistency::Local)
            .await?
            .value)
    }

    /// Computes a report from what this replica has, which is at least everything up to `at_least`.
    pub(super) async fn compute(
        &self,
        submission: &ReportSubmission,
        at_least: Offset,
    ) -> Result<Report, Error> {
        let (from, end) = month_bounds(&submission.airport, &submission.month);
        let mut range = MapRange::from(&from).before(&end);
        let computed_at = self.group().applied()?.max(at_least);
        let mut flights = Vec::new();
        loop {
            let fresh = ReadConsistency::AtLeastOffset(computed_at);
            let page = self.index.range(range, fresh).await?;
            flights.extend(page.value.rows.into_iter().map(|(_, row)| row.value));
            match page.value.next {
                Some(next) => range = next,
                None => return Ok(Report::of(&flights, computed_at.get())),
            }
        }
    }

    /// G9 for reads and workers; writes are judged again where they are applied.
    pub(super) fn admit(&self, caller: &FailureDomain) -> Result<(), Error> {
        if self.profile.placement.allows(caller) {
            return Ok(());
        }
        Err(Error::DomainUnavailable {
            domain: caller.to_string(),
            resource: "report-requests".to_owned(),
        })
    }
}

/// Repeats a request whose outcome is unknown, until it is known or too much time has passed. The
/// request must carry its own id, so that repeating it is safe.
pub(super) async fn repeat<F>(mut request: impl FnMut() -> F) -> Result<Receipt, Error>
where
    F: Future<Output = Result<BatchDone, Error>>,
{
    let deadline = Instant::now() + REPEAT_FOR;
    loop {
        match request().await {
            Err(error)
                if error.disposition() == Disposition::Indeterminate
                    && Instant::now() < deadline =>
            {
                sleep(REPEAT_PAUSE).await;
            }
            other => return other.map(|done| done.receipt),
        }
    }
}
