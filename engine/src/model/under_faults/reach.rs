//! What has happened in a run, by name: one in which little happens proves little.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::super::naive::{Action, Demand, Said};
use crate::command::Chore;
use crate::outcome::{Branch, Outcome};
use crate::projections::idempotency::{self, RequestRefusal};
use crate::projections::log::{self, LogOp, LogRefusal};
use crate::projections::map::{MapOp, MapRefusal};
use crate::refusal::Refusal;
use crate::stored::Stored;

/// How often each thing has happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach(BTreeMap<String, u64>);

/// What must happen somewhere in a full run over all seeds: every kind of record and operation, every answer that
/// they can lead to here, and what brings a replica to its state otherwise than by the log.
const WANTED: [&str; 73] = [
    "Open: Opened",
    "Open: Fenced",
    "Open: Incompatible",
    "Open: Deleted",
    "Open: AlreadyThere",
    "Open: DomainUnavailable",
    "AddSchema: Altered",
    "RetireSchema: Altered",
    "Place: Altered",
    "Declare: Altered",
    "Delete: Altered",
    "Undelete: Altered",
    "AddSchema: RevisionDiffers",
    "RetireSchema: Unalterable",
    "Housekeep: Applied",
    "Register: Registered",
    "chore of clients",
    "chore of a resource",
    "Batch: Then",
    "Batch: Otherwise",
    "Batch: Duplicate",
    "Batch: Fenced",
    "Batch: NotOpened",
    "Batch: UnknownResource",
    "Batch: DomainUnavailable",
    "Batch: Deleted",
    "Batch: GuardFailed",
    "Batch: log TailMismatch",
    "Batch: log Fenced",
    "Batch: log Falls",
    "Batch: log BeyondTail",
    "Batch: map VersionMismatch",
    "Batch: map KeyTwice",
    "Batch: idempotency Conflict",
    "Batch: idempotency InProgress",
    "Batch: idempotency NotReserved",
    "Batch: idempotency CompletedOtherwise",
    "Batch: idempotency Fenced",
    "Batch: idempotency TwiceInOneBatch",
    "Batch: idempotency Forgotten",
    "Batch: idempotency IssuedLater",
    "numbered: Applied",
    "numbered: Refused",
    "numbered: Repeated",
    "numbered: Evicted",
    "numbered: OfAnother",
    "numbered: OtherCommand",
    "numbered: OutOfWindow",
    "done: Append",
    "done: Append where expected",
    "done: Trim",
    "done: Retain",
    "done: Commit",
    "done: Reset",
    "done: Forget",
    "done: Put",
    "done: Put for a time",
    "done: Delete",
    "done: Keep",
    "done: Reserve",
    "done: Complete",
    "held: TailIs",
    "held: VersionIs",
    "held: Completed",
    "committed",
    "refused",
    "unknown",
    "read as it was",
    "read below the floor",
    "a receipt is not yet applied",
    "a reader is told of a gap",
    "a reader waits for a node",
    "snapshot installed",
];

impl Reach {
    pub(super) fn tell(&mut self, what: impl Into<String>) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: impl Into<String>, count: u64) {
        *self.0.entry(what.into()).or_default() += count;
    }

    pub(super) fn take(&mut self, other: Self) {
        other.0.into_iter().for_each(|(what, count)| self.add(what, count));
    }

    /// A record, and what became of it.
    pub(super) fn record(&mut self, said: &Said, outcome: &Outcome) {
        let told = answer(outcome);
        match said {
            Said::Open(_) => self.tell(format!("Open: {told}")),
            Said::Alter(command) => {
                self.tell(format!("{}: {told}", word(&command.alteration)));
            }
            Said::Housekeep(chores) => {
                for chore in chores {
                    self.tell(match chore {
                        Chore::Clients => "chore of clients",
                        Chore::Resource(_) => "chore of a resource",
                    });
                }
                self.tell("Housekeep: Applied");
            }
            Said::Register { .. } => self.tell(format!("Register: {told}")),
            Said::Batch(batch) => {
                if batch.number.is_some() {
                    let told = match outcome {
                        Outcome::Unnumbered(refusal) => word(refusal),
                        other => word(other),
                    };
                    self.tell(format!("numbered: {told}"));
                }
                match outcome {
                    Outcome::Applied { branch: Branch::Then, .. } => {
                        self.tell("Batch: Then");
                        batch.then.iter().for_each(|on| self.tell(done(&on.what)));
                        batch.guards.iter().for_each(|on| self.tell(held(&on.what)));
                    }
                    Outcome::Applied { branch: Branch::Otherwise, .. } => {
                        self.tell("Batch: Otherwise");
                        batch.otherwise.iter().for_each(|on| self.tell(done(&on.what)));
                    }
                    _ => self.tell(format!("Batch: {told}")),
                }
            }
        }
    }

    /// What was wanted and has not happened.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        WANTED.into_iter().filter(|wanted| !self.0.contains_key(*wanted)).collect()
    }
}

/// The name of what it is.
fn word(what: &impl Debug) -> String {
    let text = format!("{what:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

fn answer(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(Refusal::ByProjection { projection, detail, .. }) => {
            let why = match *projection {
                log::NAME => word(&LogRefusal::from_bytes(detail).unwrap()),
                idempotency::NAME => word(&RequestRefusal::from_bytes(detail).unwrap()),
                _ => word(&MapRefusal::from_bytes(detail).unwrap()),
            };
            format!("{projection} {why}")
        }
        Outcome::Refused(refusal) => word(refusal),
        other => word(other),
    }
}

fn done(action: &Action) -> String {
    let what = match action {
        Action::Log(LogOp::Append { expected: Some(_), .. }) => "Append where expected".to_owned(),
        Action::Log(LogOp::Consumer { change, .. }) => word(change),
        Action::Map(MapOp::Put { ttl_ms: Some(_), .. }) => "Put for a time".to_owned(),
        Action::Log(op) => word(op),
        Action::Map(op) => word(op),
        Action::Request(op) => word(op),
    };
    format!("done: {what}")
}

fn held(demand: &Demand) -> String {
    let what = match demand {
        Demand::Log(guard) => word(guard),
        Demand::Map(guard) => word(guard),
        Demand::Request(guard) => word(guard),
    };
    format!("held: {what}")
}
