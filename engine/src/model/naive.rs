//! The rules of this engine once more, written to be obvious.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use crate::clients::Registrant;
use crate::command::{AlterCommand, Chore, Number, Op, OpenCommand};
use crate::outcome::{Branch, Completion, Outcome, Stamp};
use crate::projections::idempotency::{
    Fingerprint, RequestGuard, RequestOp, RequestOutcome, RequestWindow,
};
use crate::projections::idempotency::{NAME as REQUESTS, RequestRefusal};
use crate::projections::log::{LogGuard, LogOp, NAME as LOG};
use crate::projections::map::{MapGuard, MapOp, NAME as MAP, Version};
use crate::refusal::Refusal;
use crate::resource::{FailureDomain, FenceEpoch, ResourceId};
use crate::stored::Stored;

use super::Step;
use super::naive_clients::NaiveClients;
use super::naive_log::NaiveLog;
use super::naive_map::NaiveMap;
use super::naive_table::NaiveTable;

/// An operation, as whoever makes it has it.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Log(LogOp),
    Map(MapOp),
    Request(RequestOp),
}

/// A demand.
#[derive(Clone, Debug)]
pub(super) enum Demand {
    Log(LogGuard),
    Map(MapGuard),
    Request(RequestGuard),
}

/// What a record says.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Open(OpenCommand),
    Alter(AlterCommand),
    Batch(Batch),
    Housekeep(Vec<Chore>),
    Register { ttl_ms: u64, registrant: Option<Registrant> },
}

#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) number: Option<Number>,
    pub(super) caller: FailureDomain,
    pub(super) guards: Vec<On<Demand>>,
    pub(super) then: Vec<On<Action>>,
    pub(super) otherwise: Vec<On<Action>>,
}

/// Something for the resource of its kind, by a writer.
#[derive(Clone, Debug)]
pub(super) struct On<T> {
    pub(super) resource: ResourceId,
    pub(super) epoch: FenceEpoch,
    pub(super) what: T,
}

impl<T> On<T> {
    pub(super) fn op(&self, body: Bytes) -> Op {
        Op { resource: self.resource, epoch: self.epoch, body }
    }
}

impl Action {
    pub(super) fn body(&self) -> Bytes {
        match self {
            Self::Log(op) => op.to_bytes(),
            Self::Map(op) => op.to_bytes(),
            Self::Request(op) => op.to_bytes(),
        }
    }
}

impl Demand {
    pub(super) fn body(&self) -> Bytes {
        match self {
            Self::Log(guard) => guard.to_bytes(),
            Self::Map(guard) => guard.to_bytes(),
            Self::Request(guard) => guard.to_bytes(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) fingerprint: Fingerprint,
    pub(super) owner: FenceEpoch,
    pub(super) since: u64,
    pub(super) done: Option<Completion>,
}

/// The naive engine.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) table: NaiveTable,
    /// Those that were ever changed.
    pub(super) logs: BTreeMap<u32, NaiveLog>,
    pub(super) maps: BTreeMap<u32, NaiveMap>,
    pub(super) requests: BTreeMap<(u32, Bytes), Request>,
    /// How long requests are kept, and when the youngest was reserved that is gone.
    pub(super) windows: BTreeMap<u32, (RequestWindow, u64)>,
    pub(super) clients: NaiveClients,
}

/// Where a record stands.
#[derive(Clone, Copy)]
pub(super) struct Here {
    pub(super) offset: u64,
    pub(super) now: u64,
}

impl Here {
    /// Before the first record.
    pub(super) const BEGIN: Self = Self { offset: 0, now: super::BEGIN_MS };

    /// Where the next one stands.
    pub(super) fn next(self, later_ms: u64) -> Self {
        Self { offset: self.offset + 1, now: self.now + later_ms }
    }
}

/// Why a batch ends early.
enum End {
    Duplicate(Stamp),
    Refused(Refusal),
}

impl Model {
    pub(super) fn of(history: &[Step]) -> (Self, Vec<Outcome>) {
        let mut model = Self::default();
        let mut here = Here::BEGIN;
        let outcomes = history.iter().map(|step| {
            here = here.next(step.later_ms);
            model.apply(here, &step.said)
        });
        let outcomes = outcomes.collect();
        (model, outcomes)
    }

    pub(super) fn apply(&mut self, here: Here, said: &Said) -> Outcome {
        let before = self.clone();
        let outcome = match said {
            Said::Open(command) => self.table.open(here, command),
            Said::Alter(command) => self.table.alter(here, command),
            Said::Housekeep(chores) => {
                for chore in chores {
                    let Chore::Resource(id) = chore else {
                        self.clients.tidy(here.now);
                        continue;
                    };
                    let (deleted, gone) = self.table.tidy(here, *id);
                    if gone {
                        self.bury(id.0);
                    }
                    if deleted {
                        continue;
                    }
                    if let Some(map) = self.maps.get_mut(&id.0) {
                        map.tidy(here);
                    }
                    if let Some(log) = self.logs.get_mut(&id.0) {
                        log.tidy(here.now);
                    }
                    self.evict(id.0, here.now, 0, 256);
                }
                Outcome::Applied { branch: Branch::Then, outcomes: Vec::new() }
            }
            Said::Register { ttl_ms, registrant } => {
                self.clients.register(here, *ttl_ms, *registrant)
            }
            Said::Batch(batch) => match batch.number.and_then(|n| self.clients.told(n, batch)) {
                Some(told) => told,
                None => match self.batch(here, batch) {
                    Ok((branch, outcomes)) => Outcome::Applied { branch, outcomes },
                    Err(End::Duplicate(first)) => Outcome::Duplicate(first),
                    Err(End::Refused(refusal)) => Outcome::Refused(refusal),
                },
            },
        };
        if matches!(outcome, Outcome::Duplicate(_) | Outcome::Refused(_)) {
            *self = before;
        }
        let told = matches!(outcome, Outcome::Repeated { .. } | Outcome::Unnumbered(_));
        if let Said::Batch(batch @ Batch { number: Some(number), .. }) = said
            && !told
        {
            self.clients.answered(here, *number, batch, &outcome);
        }
        outcome
    }

    fn bury(&mut self, id: u32) {
        self.logs.remove(&id);
        self.maps.remove(&id);
        self.requests.retain(|(store, _), _| *store != id);
        self.windows.remove(&id);
    }

    fn batch(&mut self, here: Here, batch: &Batch) -> Result<(Branch, Vec<Bytes>), End> {
        let Batch { caller, guards, then, otherwise, .. } = batch;
        for guard in guards {
            self.admit(guard, caller)?;
        }
        for op in then.iter().chain(otherwise) {
            self.admit(op, caller)?;
        }
        let told = |branch: &Vec<On<Action>>| {
            let told = branch.iter().enumerate().map(|(number, op)| self.repeated(number, op));
            told.collect::<Result<(), End>>().err()
        };
        let told = [told(then), told(otherwise)].into_iter().flatten();
        if let Some(end) = told.min_by_key(|end| !matches!(end, End::Duplicate(_))) {
            return Err(end);
        }
        let failed = guards.iter().position(|guard| !self.holds(guard));
        let (branch, ops) = match failed {
            None => (Branch::Then, then),
            Some(guard) if otherwise.is_empty() => {
                return Err(End::Refused(Refusal::GuardFailed { guard }));
            }
            Some(_) => (Branch::Otherwise, otherwise),
        };
        let done = ops.iter().enumerate().map(|(number, op)| self.op(here, number, op));
        Ok((branch, done.collect::<Result<_, End>>()?))
    }

    fn admit<T>(&self, part: &On<T>, caller: &FailureDomain) -> Result<(), End> {
        self.table.admit(part.resource, part.epoch, caller).map_err(End::Refused)
    }

    fn repeated(&self, number: usize, op: &On<Action>) -> Result<(), End> {
        let known = |key: &Bytes| self.requests.get(&(op.resource.0, key.clone()));
        match &op.what {
            Action::Request(RequestOp::Reserve { fingerprint, key, .. }) => match known(key) {
                Some(found) if found.fingerprint != *fingerprint => {
                    Err(request_refused(number, RequestRefusal::Conflict))
                }
                Some(Request { done: Some(done), .. }) => Err(End::Duplicate(done.stamp())),
                _ => Ok(()),
            },
            Action::Request(RequestOp::Complete { owner, key, result }) => match known(key) {
                Some(Request { owner: holder, done: Some(done), .. })
                    if holder == owner && done.result == *result =>
                {
                    Err(End::Duplicate(done.stamp()))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn holds(&self, guard: &On<Demand>) -> bool {
        let id = guard.resource.0;
        match &guard.what {
            Demand::Log(LogGuard::TailIs { position }) => {
                let log = self.logs.get(&id).cloned().unwrap_or_default();
                log.tail == *position
            }
            Demand::Map(MapGuard::VersionIs { key, version }) => self.version(id, key) == *version,
            Demand::Request(RequestGuard::Completed { key }) => {
                self.requests.get(&(id, key.clone())).is_some_and(|request| request.done.is_some())
            }
        }
    }

    fn version(&self, id: u32, key: &Bytes) -> Version {
        self.maps.get(&id).map_or(Version::ABSENT, |map| map.version(key))
    }

    fn op(&mut self, here: Here, number: usize, op: &On<Action>) -> Result<Bytes, End> {
        let id = op.resource.0;
        match &op.what {
            Action::Log(op) => {
                let log = self.logs.entry(id).or_default();
                let done = log.apply(here.offset, here.now, op);
                done.map(|outcome| outcome.to_bytes()).map_err(|refusal| {
                    let detail = refusal.to_bytes();
                    End::Refused(Refusal::ByProjection { projection: LOG, op: number, detail })
                })
            }
            Action::Map(op) => {
                let done = self.maps.entry(id).or_default().apply(here, op);
                done.map(|found| found.to_bytes()).map_err(|refusal| {
                    let detail = refusal.to_bytes();
                    End::Refused(Refusal::ByProjection { projection: MAP, op: number, detail })
                })
            }
            Action::Request(RequestOp::Keep { window }) => {
                self.windows.entry(id).or_default().0 = *window;
                Ok(RequestOutcome::Kept.to_bytes())
            }
            Action::Request(RequestOp::Reserve { owner, issued, fingerprint, key }) => {
                let done = self.reserve(here, id, *owner, *issued, *fingerprint, key);
                done.map(|outcome| outcome.to_bytes())
                    .map_err(|refusal| request_refused(number, refusal))
            }
            Action::Request(RequestOp::Complete { owner, key, result }) => {
                self.complete(here, id, *owner, key, result)
                    .map_err(|refusal| request_refused(number, refusal))?;
                Ok(RequestOutcome::Completed.to_bytes())
            }
        }
    }

    fn reserve(
        &mut self,
        here: Here,
        id: u32,
        owner: FenceEpoch,
        issued: Option<LogTime>,
        fingerprint: Fingerprint,
        key: &Bytes,
    ) -> Result<RequestOutcome, RequestRefusal> {
        let mut outcome = RequestOutcome::Reserved;
        let at = (id, key.clone());
        if let Some(found) = self.requests.get(&at) {
            if found.fingerprint != fingerprint {
                return Err(RequestRefusal::Conflict);
            }
            if found.done.is_some() {
                return Err(RequestRefusal::TwiceInOneBatch);
            }
            if owner < found.owner {
                let (owner, age_ms) = (found.owner, here.now - found.since);
                return Err(RequestRefusal::InProgress { owner, age_ms });
            }
            outcome = match found.owner {
                from if from < owner => RequestOutcome::TakenOver { from },
                _ => RequestOutcome::ReservedAgain,
            };
        } else {
            let floor = LogTime::new(self.windows.entry(id).or_default().1);
            if floor.get() > 0 && issued.is_some_and(|issued| issued <= floor) {
                return Err(RequestRefusal::Forgotten { floor });
            }
            let now = LogTime::new(here.now);
            if issued.is_some_and(|issued| issued > now) {
                return Err(RequestRefusal::IssuedLater { now });
            }
            self.evict(id, here.now, 1, 4);
        }
        self.requests.insert(at, Request { fingerprint, owner, since: here.now, done: None });
        Ok(outcome)
    }

    fn complete(
        &mut self,
        here: Here,
        id: u32,
        owner: FenceEpoch,
        key: &Bytes,
        result: &Bytes,
    ) -> Result<(), RequestRefusal> {
        let Some(found) = self.requests.get_mut(&(id, key.clone())) else {
            return Err(RequestRefusal::NotReserved);
        };
        if owner < found.owner {
            return Err(RequestRefusal::Fenced { current: found.owner });
        }
        if owner > found.owner {
            return Err(RequestRefusal::NotReserved);
        }
        match &found.done {
            Some(done) if done.offset.get() == here.offset => {
                return Err(RequestRefusal::TwiceInOneBatch);
            }
            Some(done) => return Err(RequestRefusal::CompletedOtherwise { at: done.offset }),
            None => {}
        }
        found.done = Some(Completion {
            offset: Offset::new(here.offset),
            log_time: LogTime::new(here.now),
            result: result.clone(),
        });
        Ok(())
    }

    /// The oldest that are too old or too many make room, up to so many; `more` are to come.
    fn evict(&mut self, id: u32, now: u64, more: usize, most: usize) {
        let (keeps, _) = self.windows.get(&id).copied().unwrap_or_default();
        for _ in 0..most {
            let mine = self.requests.iter().filter(|((store, _), _)| *store == id);
            let count = mine.clone().count() + more;
            let oldest = mine
                .min_by_key(|((_, key), request)| (request.since, key.clone()))
                .map(|(at, request)| (at.clone(), request.since));
            let Some((at, since)) = oldest else { return };
            if count as u64 <= keeps.requests_max.max(1) && now - since <= keeps.retention_ms {
                return;
            }
            self.requests.remove(&at);
            self.windows.entry(id).or_default().1 = since;
        }
    }
}

fn request_refused(number: usize, refusal: RequestRefusal) -> End {
    let detail = refusal.to_bytes();
    End::Refused(Refusal::ByProjection { projection: REQUESTS, op: number, detail })
}
