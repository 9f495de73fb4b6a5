//! What every projection must keep to, tried on operations that its author chooses.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::sim::SimRandom;
use palisade_replication::{
    ClusterId, CommittedEntry, GroupId, LogIndex, LogTime, NodeId, Offset, ProposalId, Record,
    StateMachine, Term,
};

use crate::command::{BatchCommand, Command, Op, OpenCommand};
use crate::digest::digest;
use crate::error::Error;
use crate::machine::EngineMachine;
use crate::outcome::Outcome;
use crate::profile::PolicyHash;
use crate::projection::{Erased, Projection, Registry};
use crate::resource::{FailureDomain, FenceEpoch, ResourceId, ResourceKind, ResourceSpec};
use crate::store::MemoryStore;
use crate::stored::Stored;

const GROUP: GroupId = GroupId::new(1);
/// Ways of cutting and crashing that are tried.
const RUNS: u64 = 20;
/// Operations of one record, at most.
const OPS_OF_RECORD_MAX: u64 = 3;

/// A law that a projection does not keep, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misconduct {
    what: String,
}

impl fmt::Display for Misconduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Misconduct {}

/// Tries a projection on these operations, as records in this order. `new` makes it, as an engine that
/// starts does.
///
/// - Each operation is read as it was written, and written again as it was read.
/// - The log alone decides (G8): replicas that cut it into other commits, or crash and apply some of it
///   again, give the same outcomes and come to the same rows, byte for byte.
/// - A record that is refused leaves nothing, whichever of its operations is refused (G7).
///
/// What it does with the clock, with threads or with the network cannot be seen from here, but what comes
/// of it often can: runs are made one after the other, with new instances.
///
/// ```
/// # use palisade::{Applied, At, DecodeError, Projection, ProjectionFault, Rows, Stored};
/// # use std::convert::Infallible;
/// use palisade::sim::check_projection;
/// # struct Counter;
/// # impl Projection for Counter {
/// #     const NAME: &'static str = "counter";
/// #     const VERSION: u32 = 1;
/// #     type Op = u64;
/// #     type Outcome = u64;
/// #     type Refusal = u64;
/// #     type Guard = Infallible;
/// #     fn apply(&self, _: At, add: u64, rows: &mut Rows<'_, '_>)
/// #         -> Result<Applied<u64, u64>, ProjectionFault>
/// #     {
/// #         let held = rows.get(b"count")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
/// #         rows.put(b"count", (held + add).to_bytes())?;
/// #         Ok(Applied::Done(held + add))
/// #     }
/// # }
/// check_projection(|| Counter, &[1, 2, 3])?;
/// # Ok::<(), palisade::sim::Misconduct>(())
/// ```
///
/// # Errors
/// The first law that it does not keep.
pub fn check_projection<P: Projection>(
    new: impl Fn() -> P,
    ops: &[P::Op],
) -> Result<(), Misconduct> {
    for (number, op) in ops.iter().enumerate() {
        let raw = op.to_bytes();
        let again = P::Op::from_bytes(&raw).map(|op| op.to_bytes());
        if again.as_ref() != Ok(&raw) {
            return broken(format!("operation {number} is written as {raw:?}, read as {again:?}"));
        }
    }
    let bodies: Vec<Bytes> = ops.iter().map(Stored::to_bytes).collect();
    for run in 0..RUNS {
        let mut random = SimRandom::from_seed(run);
        let entries = entries::<P>(&bodies, &mut random);
        let mut plain = Replica::open(&new)?;
        let mut outcomes = Vec::new();
        for entry in &entries {
            let before = plain.digest();
            let found = plain.apply(std::slice::from_ref(entry))?;
            if let [Outcome::Refused(refusal)] = &found[..]
                && plain.digest().1 != before.1
            {
                let offset = entry.first_offset;
                return broken(format!(
                    "the record at {offset} is refused, and leaves something: {refusal:?}"
                ));
            }
            outcomes.extend(found);
        }
        let rough = Replica::open(&new)?.rough(&new, &entries, &outcomes, &mut random)?;
        if rough.digest() != plain.digest() {
            return broken(format!(
                "run {run}: replicas of one log differ: {:?} and {:?}",
                plain.digest(),
                rough.digest()
            ));
        }
    }
    Ok(())
}

impl Misconduct {
    pub(super) fn new(what: String) -> Self {
        Self { what }
    }
}

pub(super) fn broken<T>(what: String) -> Result<T, Misconduct> {
    Err(Misconduct::new(what))
}

/// A replica with one resource.
struct Replica {
    store: MemoryStore,
    machine: EngineMachine,
}

impl Replica {
    fn open<P: Projection>(new: &impl Fn() -> P) -> Result<Self, Misconduct> {
        let registry = registry(new).or_else(|error| broken(error.to_string()))?;
        Self::over(MemoryStore::new(registry.families().clone()), registry)
    }

    fn over(store: MemoryStore, registry: Registry) -> Result<Self, Misconduct> {
        let (shared, node) = (Arc::new(store.clone()), NodeId::new(1));
        let machine =
            EngineMachine::open(shared, registry, true, ClusterId::new(1), node, &[GROUP])
                .or_else(|error| broken(error.to_string()))?;
        Ok(Self { store, machine })
    }

    fn apply(&mut self, entries: &[CommittedEntry]) -> Result<Vec<Outcome>, Misconduct> {
        let outcomes = self.machine.apply(GROUP, entries);
        let outcomes = outcomes.or_else(|fault| broken(format!("it halts its group: {fault}")))?;
        Ok(outcomes.into_iter().map(|outcome| outcome.0).collect())
    }

    /// Head, and everything that is stored.
    fn digest(&self) -> (String, String) {
        let digest = digest(&self.store, GROUP).expect("memory can be read");
        (digest.head.to_string(), format!("{:?}", digest.projections))
    }

    /// Applies the entries in other commits, and crashes on the way.
    fn rough<P: Projection>(
        mut self,
        new: &impl Fn() -> P,
        entries: &[CommittedEntry],
        outcomes: &[Outcome],
        random: &mut SimRandom,
    ) -> Result<Self, Misconduct> {
        loop {
            let applied = self.machine.applied(GROUP).index.get() as usize;
            if applied == entries.len() {
                return Ok(self);
            }
            let count = 1 + random.below((entries.len() - applied) as u64) as usize;
            let found = self.apply(&entries[applied..applied + count])?;
            let wanted = &outcomes[applied..applied + count];
            if let Some(at) = found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
                return broken(format!(
                    "the record at {} is answered with {:?} and, in another commit or after a \
                     crash, with {:?}",
                    applied + at + 1,
                    wanted[at],
                    found[at]
                ));
            }
            match random.below(4) {
                0 => self.machine.flush().or_else(|error| broken(error.to_string()))?,
                1 => {
                    self.store.crash();
                    let registry = registry(new).or_else(|error| broken(error.to_string()))?;
                    self = Self::over(self.store, registry)?;
                }
                _ => {}
            }
        }
    }
}

fn registry<P: Projection>(new: &impl Fn() -> P) -> Result<Registry, Error> {
    Registry::new(&[Arc::new(Erased(new()))])
}

/// One entry for each record: the resource is made, then the operations, a few in each.
fn entries<P: Projection>(bodies: &[Bytes], random: &mut SimRandom) -> Vec<CommittedEntry> {
    let caller = FailureDomain::new("local", "local", "local");
    let spec = ResourceSpec::new("tried", "tried").expect("it is a name");
    let kind = ResourceKind::of(P::NAME);
    let (claim, policy, caller_of) = (Offset::ZERO, PolicyHash::of_spec(&spec), caller.clone());
    let (anew, version) = (false, P::VERSION);
    let open = OpenCommand { anew, claim, kind, version, spec, policy, caller: caller_of };
    let mut commands = vec![Command::Open(open)];
    let mut rest = bodies;
    while !rest.is_empty() {
        let count = (1 + random.below(OPS_OF_RECORD_MAX) as usize).min(rest.len());
        let (now, later) = rest.split_at(count);
        let epoch = FenceEpoch::new(1);
        let op = |body: &Bytes| Op { resource: ResourceId(1), epoch, body: body.clone() };
        commands.push(Command::Batch(BatchCommand {
            number: None,
            caller: caller.clone(),
            guards: Vec::new(),
            then: now.iter().map(op).collect(),
            otherwise: Vec::new(),
        }));
        rest = later;
    }
    let entry = |(number, command): (u64, Command)| CommittedEntry {
        members_index: LogIndex::new(1),
        index: LogIndex::new(number),
        term: Term::new(1),
        log_time: LogTime::new(1_000 * number),
        first_offset: Offset::new(number),
        records: vec![Record {
            id: ProposalId { session: 1, seq: number },
            payload: command.encode(),
        }],
    };
    (1..).zip(commands).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use super::*;
    use crate::codec::DecodeError;
    use crate::projection::{Applied, At, ProjectionFault, Rows};

    /// Says how often it was asked. A projection that keeps anything itself is no projection.
    #[derive(Default)]
    struct Remembers {
        asked: Mutex<Cell<u64>>,
    }

    impl Projection for Remembers {
        const NAME: &'static str = "remembers";
        const VERSION: u32 = 1;
        type Op = u64;
        type Outcome = u64;
        type Refusal = Infallible;
        type Guard = Infallible;

        fn apply(
            &self,
            _: At,
            _: u64,
            rows: &mut Rows<'_, '_>,
        ) -> Result<Applied<u64, Infallible>, ProjectionFault> {
            let asked = self.asked.lock().unwrap();
            asked.set(asked.get() + 1);
            rows.put(b"asked", asked.get().to_bytes())?;
            Ok(Applied::Done(asked.get()))
        }
    }

    #[test]
    fn a_projection_that_keeps_something_itself_is_caught() {
        let found = check_projection(Remembers::default, &[1; 12]).unwrap_err();
        assert!(found.to_string().contains("after a crash"), "{found}");
    }

    /// Depends on the order of a hash map.
    struct Unordered;

    impl Projection for Unordered {
        const NAME: &'static str = "unordered";
        const VERSION: u32 = 1;
        type Op = u64;
        type Outcome = ();
        type Refusal = Infallible;
        type Guard = Infallible;

        fn apply(
            &self,
            _: At,
            op: u64,
            rows: &mut Rows<'_, '_>,
        ) -> Result<Applied<(), Infallible>, ProjectionFault> {
            #[expect(clippy::disallowed_types, reason = "it is what is to be caught")]
            let known: std::collections::HashMap<u64, u64> = (0..9).map(|n| (n, n)).collect();
            let first = known.into_values().next().unwrap_or_default();
            rows.put(&op.to_be_bytes(), first.to_bytes())?;
            Ok(Applied::Done(()))
        }
    }

    #[test]
    fn a_projection_without_an_order_is_caught() {
        let found = check_projection(|| Unordered, &[1, 2, 3]).unwrap_err();
        assert!(found.to_string().contains("differ"), "{found}");
    }

    /// A number that is written in two forms.
    struct TwoForms;

    struct Padded(u64);

    impl Stored for Padded {
        fn to_bytes(&self) -> Bytes {
            format!("{:03}", self.0).into()
        }

        fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
            let number = String::from_utf8_lossy(bytes).parse::<u64>();
            number.map(|number| Self(number % 100)).map_err(|_| DecodeError { what: "padded" })
        }
    }

    impl Projection for TwoForms {
        const NAME: &'static str = "two-forms";
        const VERSION: u32 = 1;
        type Op = Padded;
        type Outcome = ();
        type Refusal = Infallible;
        type Guard = Infallible;

        fn apply(
            &self,
            _: At,
            _: Padded,
            _: &mut Rows<'_, '_>,
        ) -> Result<Applied<(), Infallible>, ProjectionFault> {
            Ok(Applied::Done(()))
        }
    }

    #[test]
    fn an_operation_that_is_read_as_another_is_caught() {
        check_projection(|| TwoForms, &[Padded(7)]).unwrap();
        let found = check_projection(|| TwoForms, &[Padded(7), Padded(107)]).unwrap_err();
        assert!(found.to_string().contains("operation 1"), "{found}");
    }

    /// Panics at one operation.
    struct Panics;

    impl Projection for Panics {
        const NAME: &'static str = "panics";
        const VERSION: u32 = 1;
        type Op = u64;
        type Outcome = ();
        type Refusal = Infallible;
        type Guard = Infallible;

        fn apply(
            &self,
            _: At,
            op: u64,
            _: &mut Rows<'_, '_>,
        ) -> Result<Applied<(), Infallible>, ProjectionFault> {
            assert_ne!(op, 13, "no such floor");
            Ok(Applied::Done(()))
        }
    }

    #[test]
    fn a_panic_is_a_fault_that_says_whose_it_is() {
        let found = check_projection(|| Panics, &[12, 13]).unwrap_err();
        let found = found.to_string();
        assert!(found.contains("projection=panics: it panicked"), "{found}");
        assert!(found.contains("no such floor"), "{found}");
    }
}
