//! The rules of this engine once more, written to be obvious, and random histories that hold the
//! state machine to them: whatever the grouping into entries and commits, wherever it crashes, over
//! whichever store (G3, G6, G7, G8, G9).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{
    AppliedPosition, ClusterId, CommittedEntry, GroupId, LogIndex, LogTime, NodeId, Offset,
    ProposalId, Record, StateMachine, Term,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::command::{Action, Command, Completion, Fingerprint, Op, Outcome, Refusal, Version};
use crate::digest::{StateDigest, digest};
use crate::machine::EngineMachine;
use crate::projections::idempotency::{REQUESTS_MAX, RETENTION_MS};
use crate::resource::{
    FailureDomain, FenceEpoch, LogicalResourceName, Placement, ReplicaPolicy, ResourceId,
    ResourceKind, ResourceSpec, SchemaId,
};
use crate::store::{Direction, FamilyId, MemoryStore, StateRead, StateStore, Walk, WriteSet};
use crate::{keys, projections};

const GROUP: GroupId = GroupId::new(1);
const KINDS: [ResourceKind; 3] = [ResourceKind::Log, ResourceKind::Map, ResourceKind::Idempotency];

/// A record, and how much later than the one before it is stamped.
#[derive(Clone, Debug)]
struct Step {
    later_ms: u64,
    command: Command,
}

// The naive engine.

#[derive(Clone, Debug)]
struct Request {
    fingerprint: Fingerprint,
    owner: FenceEpoch,
    since: u64,
    done: Option<Completion>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    resources: Vec<(ResourceKind, ResourceSpec)>,
    logs: BTreeMap<(u32, u64), Bytes>,
    maps: BTreeMap<(u32, Bytes), (Bytes, u64)>,
    requests: BTreeMap<(u32, Bytes), Request>,
}

/// Why a batch ends early.
enum End {
    Duplicate(Completion),
    Refused(Refusal),
}

impl Model {
    fn apply(&mut self, offset: u64, now: u64, command: &Command) -> Outcome {
        let before = self.clone();
        let outcome = match command {
            Command::Open { kind, spec, caller } => self.open(*kind, spec, caller),
            Command::Batch { caller, ops } => match self.batch(offset, now, caller, ops) {
                Ok(()) => Outcome::Applied,
                Err(End::Duplicate(first)) => Outcome::Duplicate(first),
                Err(End::Refused(refusal)) => Outcome::Refused(refusal),
            },
        };
        if !matches!(outcome, Outcome::Applied | Outcome::Opened { .. }) {
            *self = before;
        }
        outcome
    }

    fn open(&mut self, kind: ResourceKind, spec: &ResourceSpec, caller: &FailureDomain) -> Outcome {
        let at = self.resources.iter().position(|(_, found)| found.name == spec.name);
        let placement = at.map_or(&spec.placement, |at| &self.resources[at].1.placement);
        if !placement.allows(caller) {
            return Outcome::Refused(Refusal::DomainUnavailable {
                domain: caller.clone(),
                resource: spec.name.clone(),
            });
        }
        let Some(at) = at else {
            self.resources.push((kind, spec.clone()));
            return Outcome::Opened { resource: ResourceId(self.resources.len() as u32) };
        };
        let (found_kind, found) = &mut self.resources[at];
        if *found_kind != kind {
            return Outcome::Refused(Refusal::Incompatible {
                expected: format!("kind={kind}"),
                found: format!("kind={found_kind}"),
            });
        }
        if found.schema != spec.schema {
            return Outcome::Refused(Refusal::Incompatible {
                expected: format!("schema={}", spec.schema),
                found: format!("schema={}", found.schema),
            });
        }
        if spec.epoch < found.epoch {
            return Outcome::Refused(Refusal::Fenced { current: found.epoch });
        }
        found.epoch = spec.epoch;
        Outcome::Opened { resource: ResourceId(at as u32 + 1) }
    }

    fn batch(
        &mut self,
        offset: u64,
        now: u64,
        caller: &FailureDomain,
        ops: &[Op],
    ) -> Result<(), End> {
        let mut appended = Vec::new();
        for op in ops {
            self.admit(op, caller).map_err(End::Refused)?;
        }
        for op in ops {
            if matches!(op.action, Action::Append { .. }) {
                if appended.contains(&op.resource) {
                    return Err(End::Refused(Refusal::AppendedTwice));
                }
                appended.push(op.resource);
            }
        }
        let (requests, others): (Vec<&Op>, Vec<&Op>) =
            ops.iter().partition(|op| op.action.kind() == ResourceKind::Idempotency);
        for op in requests.into_iter().chain(others) {
            self.op(offset, now, op)?;
        }
        Ok(())
    }

    fn admit(&self, op: &Op, caller: &FailureDomain) -> Result<(), Refusal> {
        let at = (op.resource.0 as usize).checked_sub(1);
        let Some((kind, spec)) = at.and_then(|at| self.resources.get(at)) else {
            return Err(Refusal::UnknownResource { resource: op.resource });
        };
        if *kind != op.action.kind() {
            let (expected, found) = (op.action.kind().to_string(), kind.to_string());
            return Err(Refusal::Incompatible { expected, found });
        }
        if op.epoch < spec.epoch {
            return Err(Refusal::Fenced { current: spec.epoch });
        }
        if op.epoch > spec.epoch {
            return Err(Refusal::NotOpened { epoch: op.epoch, current: spec.epoch });
        }
        if !spec.placement.allows(caller) {
            return Err(Refusal::DomainUnavailable {
                domain: caller.clone(),
                resource: spec.name.clone(),
            });
        }
        Ok(())
    }

    fn op(&mut self, offset: u64, now: u64, op: &Op) -> Result<(), End> {
        let id = op.resource.0;
        match &op.action {
            Action::Append { payload } => {
                self.logs.insert((id, offset), payload.clone());
            }
            Action::Put { guard, key, value } => {
                self.guard(id, key, *guard)?;
                self.maps.insert((id, key.clone()), (value.clone(), offset));
            }
            Action::Delete { guard, key } => {
                self.guard(id, key, *guard)?;
                self.maps.remove(&(id, key.clone()));
            }
            Action::Reserve { owner, fingerprint, key } => {
                let at = (id, key.clone());
                if let Some(found) = self.requests.get(&at) {
                    if found.fingerprint != *fingerprint {
                        return Err(End::Refused(Refusal::IdempotencyConflict));
                    }
                    if let Some(done) = &found.done {
                        return Err(End::Duplicate(done.clone()));
                    }
                    if *owner < found.owner {
                        let (owner, since) = (found.owner, LogTime::new(found.since));
                        return Err(End::Refused(Refusal::InProgress { owner, since }));
                    }
                } else {
                    self.evict(id, now);
                }
                let request =
                    Request { fingerprint: *fingerprint, owner: *owner, since: now, done: None };
                self.requests.insert(at, request);
            }
            Action::Complete { owner, key, result } => {
                let Some(found) = self.requests.get_mut(&(id, key.clone())) else {
                    return Err(End::Refused(Refusal::NotReserved));
                };
                if *owner < found.owner {
                    return Err(End::Refused(Refusal::Fenced { current: found.owner }));
                }
                if *owner > found.owner {
                    return Err(End::Refused(Refusal::NotReserved));
                }
                match &found.done {
                    Some(done) if done.result == *result => {
                        return Err(End::Duplicate(done.clone()));
                    }
                    Some(done) => {
                        let at = done.offset;
                        return Err(End::Refused(Refusal::CompletedOtherwise { at }));
                    }
                    None => {}
                }
                found.done = Some(Completion {
                    offset: Offset::new(offset),
                    log_time: LogTime::new(now),
                    result: result.clone(),
                });
            }
        }
        Ok(())
    }

    fn guard(&self, id: u32, key: &Bytes, guard: Option<Version>) -> Result<(), End> {
        let found = self.maps.get(&(id, key.clone()));
        let found = found.map_or(Version::ABSENT, |(_, offset)| Version(Offset::new(*offset)));
        match guard {
            Some(expected) if expected != found => {
                Err(End::Refused(Refusal::VersionMismatch { expected, found }))
            }
            _ => Ok(()),
        }
    }

    /// The four oldest that are too old make room for a new request.
    fn evict(&mut self, id: u32, now: u64) {
        for _ in 0..4 {
            let oldest = self
                .requests
                .iter()
                .filter(|((store, _), _)| *store == id)
                .min_by_key(|((_, key), request)| (request.since, key.clone()))
                .map(|(at, request)| (at.clone(), request.since));
            match oldest {
                Some((at, since)) if now - since > RETENTION_MS => self.requests.remove(&at),
                _ => return,
            };
        }
    }
}

// The machine under test.

struct Replica<S> {
    store: Arc<S>,
    machine: EngineMachine,
}

impl<S: StateStore> Replica<S> {
    fn open(store: Arc<S>) -> Self {
        let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
        let shared = Arc::<S>::clone(&store);
        let machine = EngineMachine::open(shared, true, cluster, node, &[GROUP]).unwrap();
        Self { store, machine }
    }

    fn digest(&self) -> StateDigest {
        digest(&*self.store, GROUP).unwrap()
    }
}

/// The history as entries; `joins` says which records share an entry.
fn entries(history: &[Step], joins: &[bool]) -> Vec<CommittedEntry> {
    let mut entries: Vec<CommittedEntry> = Vec::new();
    let mut now = 1_000;
    for (at, step) in history.iter().enumerate() {
        let offset = at as u64 + 1;
        let record =
            Record { id: ProposalId { session: 1, seq: offset }, payload: step.command.encode() };
        match entries.last_mut() {
            // Records of one entry have one stamp.
            Some(last) if step.later_ms == 0 && joins[at % joins.len()] => {
                last.records.push(record);
            }
            _ => {
                now += step.later_ms;
                entries.push(CommittedEntry {
                    members_index: LogIndex::new(1),
                    index: LogIndex::new(entries.len() as u64 + 1),
                    term: Term::new(1),
                    log_time: LogTime::new(now),
                    first_offset: Offset::new(offset),
                    records: vec![record],
                });
            }
        }
    }
    entries
}

fn expected(history: &[Step]) -> (Model, Vec<Outcome>) {
    let mut model = Model::default();
    let mut now = 1_000;
    let outcomes = history.iter().enumerate().map(|(at, step)| {
        now += step.later_ms;
        model.apply(at as u64 + 1, now, &step.command)
    });
    let outcomes = outcomes.collect();
    (model, outcomes)
}

/// Everything that the model knows is stored, and nothing else.
fn assert_state(read: &dyn StateRead, model: &Model) {
    let mut logged = BTreeMap::new();
    let mut mapped = BTreeMap::new();
    let mut requests = 0;
    for at in 0..model.resources.len() {
        let id = at as u32 + 1;
        let (resource, kind) = (ResourceId(id), model.resources[at].0);
        let from = keys::log(GROUP, resource, Offset::ZERO);
        let mut each = |key: &[u8], value: &[u8]| {
            let offset = keys::log_offset(key).unwrap();
            logged.insert((id, offset.get()), Bytes::copy_from_slice(value));
            Walk::Next
        };
        let (end, forward) = (keys::resource_end(GROUP, resource), Direction::Forward);
        read.walk(FamilyId::LOG, &from, &end, forward, &mut each).unwrap();
        let page = projections::map::range(read, GROUP, resource, b"", None, usize::MAX).unwrap();
        assert_eq!(page.next, None);
        for (key, value, version) in page.rows {
            mapped.insert((id, Bytes::from(key)), (value, version.offset().get()));
        }
        if kind == ResourceKind::Idempotency {
            let (from, end) = keys::request_ages(GROUP, resource, LogTime::new(0));
            let mut each = |key: &[u8], _: &[u8]| {
                let (since, key) = keys::split_request_age(key).unwrap();
                assert_eq!(model.requests[&(id, key.into())].since, since.get());
                requests += 1;
                Walk::Next
            };
            read.walk(FamilyId::IDEMPOTENCY, &from, &end, forward, &mut each).unwrap();
        }
    }
    assert_eq!(logged, model.logs);
    assert_eq!(mapped, model.maps);
    assert_eq!(requests, model.requests.len());
    for ((id, key), request) in &model.requests {
        let row = keys::request(GROUP, ResourceId(*id), key);
        let raw = read.get(FamilyId::IDEMPOTENCY, &row).unwrap().unwrap();
        let found = projections::idempotency::Request::decode(raw).unwrap();
        assert_eq!(found.fingerprint, request.fingerprint);
        assert_eq!((found.owner, found.since.get()), (request.owner, request.since));
        assert_eq!(found.completion, request.done);
    }
}

// Histories: few names, keys, owners and epochs, so that they meet often.

fn domain(allowed: bool) -> FailureDomain {
    FailureDomain::new(if allowed { "aws" } else { "gcp" }, "r", "z")
}

fn spec(kind: ResourceKind, epoch: u64) -> ResourceSpec {
    ResourceSpec {
        name: LogicalResourceName::new(&kind.to_string()).unwrap(),
        schema: SchemaId::new("model.v1").unwrap(),
        epoch: FenceEpoch::new(epoch),
        replicas: ReplicaPolicy::majority(1),
        placement: Placement::providers(["aws"]).unwrap(),
    }
}

fn batch(ops: Vec<Op>) -> Command {
    Command::Batch { caller: domain(true), ops }
}

fn op(resource: u32, action: Action) -> Op {
    Op { resource: ResourceId(resource), epoch: FenceEpoch::new(1), action }
}

fn reserve(key: &'static str, owner: u64, fingerprint: u8) -> Op {
    let (owner, fingerprint) = (FenceEpoch::new(owner), Fingerprint([fingerprint; 32]));
    op(3, Action::Reserve { owner, fingerprint, key: Bytes::from(key) })
}

fn complete(key: &'static str, owner: u64, result: &'static str) -> Op {
    let (owner, result) = (FenceEpoch::new(owner), Bytes::from(result));
    op(3, Action::Complete { owner, key: Bytes::from(key), result })
}

fn append(payload: &'static str) -> Op {
    op(1, Action::Append { payload: Bytes::from(payload) })
}

fn put_if(key: &'static str, value: &'static str, version: Version) -> Op {
    let (key, value) = (Bytes::from(key), Bytes::from(value));
    op(2, Action::Put { guard: Some(version), key, value })
}

fn any_op() -> impl Strategy<Value = Op> {
    let key = || proptest::sample::select(vec!["", "a", "a\0", "a\0b", "ab", "b"]);
    let value = || proptest::sample::select(vec!["", "x", "y"]).prop_map(Bytes::from);
    let owner = || (1_u64..4).prop_map(FenceEpoch::new);
    let guard = || {
        proptest::option::weighted(0.4, prop_oneof![Just(0_u64), 0_u64..40])
            .prop_map(|raw| raw.map(|raw| Version(Offset::new(raw))))
    };
    let action = prop_oneof![
        2 => value().prop_map(|payload| Action::Append { payload }),
        4 => (guard(), key(), value()).prop_map(|(guard, key, value)| Action::Put {
            guard, key: key.into(), value
        }),
        1 => (guard(), key()).prop_map(|(guard, key)| Action::Delete { guard, key: key.into() }),
        4 => (owner(), key(), 0_u8..2).prop_map(|(owner, key, raw)| Action::Reserve {
            owner, fingerprint: Fingerprint([raw; 32]), key: key.into()
        }),
        4 => (owner(), key(), value()).prop_map(|(owner, key, result)| Action::Complete {
            owner, key: key.into(), result
        }),
    ];
    // Mostly the resource that the action is for, and mostly the first epoch.
    let epoch = prop_oneof![8 => Just(1_u64), 2 => 0_u64..4].prop_map(FenceEpoch::new);
    (action, proptest::option::weighted(0.05, 0_u32..6), epoch).prop_map(
        |(action, other, epoch)| {
            let usual = KINDS.iter().position(|kind| *kind == action.kind()).unwrap() as u32 + 1;
            Op { resource: ResourceId(other.unwrap_or(usual)), epoch, action }
        },
    )
}

fn any_command() -> impl Strategy<Value = Command> {
    let allowed = || prop::bool::weighted(0.95).prop_map(domain);
    prop_oneof![
        20 => (allowed(), vec(any_op(), 1..6))
            .prop_map(|(caller, ops)| Command::Batch { caller, ops }),
        1 => (allowed(), 0_usize..3, 0_usize..3, 1_u64..4).prop_map(|(caller, kind, name, epoch)| {
            let spec = spec(KINDS[name], epoch);
            Command::Open { kind: KINDS[kind], spec, caller }
        }),
    ]
}

fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let later = prop_oneof![6 => Just(0), 3 => 1..1_000_u64, 1 => Just(RETENTION_MS / 2 + 1)];
    let step = (later, any_command()).prop_map(|(later_ms, command)| Step { later_ms, command });
    vec(step, 0..60).prop_map(|steps| opened().into_iter().chain(steps).collect())
}

/// The three resources, numbers 1 to 3, epoch 1.
fn opened() -> Vec<Step> {
    let open = |kind| Command::Open { kind, spec: spec(kind, 1), caller: domain(true) };
    KINDS.map(|kind| Step { later_ms: 0, command: open(kind) }).into()
}

fn apply_all(replica: &mut Replica<MemoryStore>, commands: Vec<Command>) -> Vec<Outcome> {
    let history: Vec<Step> = opened()
        .into_iter()
        .chain(commands.into_iter().map(|command| Step { later_ms: 1, command }))
        .collect();
    let outcomes = replica.machine.apply(GROUP, &entries(&history, &[false])).unwrap();
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|outcome| outcome.0).skip(3).collect();
    let (model, wanted) = expected(&history);
    assert_eq!(outcomes, wanted[3..]);
    assert_state(&*replica.store, &model);
    outcomes
}

proptest! {
    /// G8: outcomes and state are those of the model, however the history is cut into entries and
    /// commits, and after a crash at any point the log replays to the same state.
    #[test]
    fn any_history_gives_the_outcomes_and_the_state_of_the_model(
        history in any_history(),
        joins in vec(any::<bool>(), 1..8),
        events in vec((1_usize..6, 0_u8..6), 0..20),
        cut in any::<Index>(),
    ) {
        let (model, wanted) = expected(&history);
        let entries = entries(&history, &joins);

        let mut plain = Replica::open(Arc::new(MemoryStore::default()));
        let outcomes: Vec<Outcome> = entries
            .iter()
            .flat_map(|entry| plain.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap())
            .map(|outcome| outcome.0)
            .collect();
        prop_assert_eq!(&outcomes, &wanted);
        assert_state(&*plain.store, &model);

        // Commits of several entries, with flushes and crashes between them.
        let mut rough = Replica::open(Arc::new(MemoryStore::default()));
        let mut events = events.into_iter();
        loop {
            let applied = rough.machine.applied(GROUP).index.get() as usize;
            if applied == entries.len() {
                break;
            }
            let (count, then) = events.next().unwrap_or((entries.len(), 9));
            let up_to = (applied + count).min(entries.len());
            let found = rough.machine.apply(GROUP, &entries[applied..up_to]).unwrap();
            let first = entries[applied].first_offset.get() as usize - 1;
            for (found, wanted) in found.iter().zip(&outcomes[first..]) {
                prop_assert_eq!(&found.0, wanted, "a replay answers as the first time");
            }
            match then {
                0 | 1 => rough.machine.flush().unwrap(),
                2 => {
                    rough.store.crash();
                    rough = Replica::open(rough.store);
                }
                _ => {}
            }
        }
        prop_assert_eq!(rough.digest(), plain.digest());

        // A shorter prefix has another digest: the chain alone tells.
        let cut = cut.index(entries.len());
        let mut shorter = Replica::open(Arc::new(MemoryStore::default()));
        shorter.machine.apply(GROUP, &entries[..cut]).unwrap();
        prop_assert_ne!(shorter.digest().head, plain.digest().head);
    }
}

/// The same history over RocksDB, closed and opened on the way, has the same digest.
#[cfg(feature = "rocksdb")]
mod rocks {
    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::store::{Families, RocksStore};

    #[test]
    fn both_stores_come_to_the_same_digest() {
        let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
        let strategy = (any_history(), vec(any::<bool>(), 1..8), any::<Index>());
        let held = runner.run(&strategy, |(history, joins, cut)| {
            let entries = entries(&history, &joins);
            let mut memory = Replica::open(Arc::new(MemoryStore::default()));
            memory.machine.apply(GROUP, &entries).unwrap();

            let dir = tempfile::tempdir().unwrap();
            let (before, after) = entries.split_at(cut.index(entries.len()));
            let open = || {
                let families = Families::new(&[]).unwrap();
                Replica::open(Arc::new(
                    RocksStore::open(&dir.path().join("state"), families).unwrap(),
                ))
            };
            let mut rocks = open();
            for entry in before {
                rocks.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap();
            }
            rocks.machine.flush().unwrap();
            drop(rocks);
            let mut rocks = open();
            prop_assert_eq!(rocks.machine.applied(GROUP).index.get(), before.len() as u64);
            rocks.machine.apply(GROUP, after).unwrap();
            prop_assert_eq!(rocks.digest(), memory.digest());
            Ok(())
        });
        held.unwrap();
    }
}

/// G6: a repetition is answered as one, even when the guards of its batch hold no longer.
#[test]
fn a_repetition_is_told_before_its_guards_are_judged() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let submit = || {
        batch(vec![
            put_if("k", "accepted", Version::ABSENT),
            append("command"),
            reserve("r", 1, 7),
            complete("r", 1, "done"),
        ])
    };
    let outcomes = apply_all(&mut replica, vec![submit(), submit()]);
    assert_eq!(outcomes[0], Outcome::Applied);
    let Outcome::Duplicate(first) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!(first.offset, Offset::new(4));
}

#[test]
fn only_a_higher_owner_takes_over_and_only_the_holder_completes() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let outcomes = apply_all(
        &mut replica,
        [
            vec![reserve("r", 2, 7)],
            vec![reserve("r", 1, 7)],
            vec![reserve("r", 2, 7)],
            vec![reserve("r", 3, 7)],
            vec![complete("r", 2, "late")],
            vec![complete("r", 4, "never reserved")],
            vec![complete("r", 3, "done")],
            vec![complete("r", 3, "done")],
            vec![complete("r", 3, "something else")],
            vec![complete("r", 2, "late")],
            vec![reserve("r", 9, 7)],
            vec![reserve("r", 9, 8)],
        ]
        .map(batch)
        .into(),
    );
    let current = FenceEpoch::new(3);
    let completed = Completion {
        offset: Offset::new(10),
        log_time: LogTime::new(1_007),
        result: Bytes::from("done"),
    };
    let in_progress = Refusal::InProgress { owner: FenceEpoch::new(2), since: LogTime::new(1_001) };
    let wanted = [
        Outcome::Applied,
        Outcome::Refused(in_progress),
        Outcome::Applied,
        Outcome::Applied,
        Outcome::Refused(Refusal::Fenced { current }),
        Outcome::Refused(Refusal::NotReserved),
        Outcome::Applied,
        Outcome::Duplicate(completed.clone()),
        Outcome::Refused(Refusal::CompletedOtherwise { at: completed.offset }),
        Outcome::Refused(Refusal::Fenced { current }),
        Outcome::Duplicate(completed),
        Outcome::Refused(Refusal::IdempotencyConflict),
    ];
    assert_eq!(outcomes, wanted);
}

/// G12: beyond its bound a store forgets the oldest requests, and says that it holds no more.
#[test]
fn a_full_store_of_requests_forgets_the_oldest() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let store = Arc::clone(&replica.store);
    apply_all(&mut replica, vec![batch(vec![reserve("a", 1, 1)]), batch(vec![reserve("b", 1, 1)])]);
    // As if there were as many as there may be.
    let row = keys::request_window(GROUP, ResourceId(3));
    let mut full = Vec::new();
    crate::codec::put_number(&mut full, REQUESTS_MAX);
    crate::codec::put_number(&mut full, 1_001);
    let writes = vec![(FamilyId::IDEMPOTENCY, row, Some(full.into()))];
    store.commit(WriteSet::rows(writes)).unwrap();
    let next = |offset: u64, op| CommittedEntry {
        members_index: LogIndex::new(1),
        index: LogIndex::new(offset),
        term: Term::new(1),
        log_time: LogTime::new(2_000),
        first_offset: Offset::new(offset),
        records: vec![Record {
            id: ProposalId { session: 1, seq: offset },
            payload: batch(vec![op]).encode(),
        }],
    };
    replica.machine.apply(GROUP, &[next(6, reserve("c", 1, 1))]).unwrap();
    let known = |key: &str| {
        let row = keys::request(GROUP, ResourceId(3), key.as_bytes());
        store.get(FamilyId::IDEMPOTENCY, &row).unwrap().is_some()
    };
    assert_eq!((known("a"), known("b"), known("c")), (false, true, true));
}

/// G6: a request is known for a day of log time from its reservation, and not longer.
#[test]
fn a_request_is_forgotten_after_a_day_and_not_before() {
    const DAY_MS: u64 = 86_400_000;
    let known_after = |later_ms: u64| {
        let mut replica = Replica::open(Arc::new(MemoryStore::default()));
        let steps = [(0, "a"), (later_ms, "b")]
            .map(|(later_ms, key)| Step { later_ms, command: batch(vec![reserve(key, 1, 1)]) });
        let history: Vec<Step> = opened().into_iter().chain(steps).collect();
        replica.machine.apply(GROUP, &entries(&history, &[false])).unwrap();
        let row = keys::request(GROUP, ResourceId(3), b"a");
        replica.store.get(FamilyId::IDEMPOTENCY, &row).unwrap().is_some()
    };
    assert!(known_after(DAY_MS));
    assert!(!known_after(DAY_MS + 1));
}

/// The log is trimmed up to what is said to be flushed: it must be there after a crash.
#[test]
fn only_what_is_flushed_survives_a_crash_and_is_said_to() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let all = entries(&opened(), &[false]);
    replica.machine.apply(GROUP, &all[..2]).unwrap();
    assert_eq!(replica.machine.flushed(GROUP), AppliedPosition::ZERO);
    replica.machine.flush().unwrap();
    let flushed = replica.machine.applied(GROUP);
    assert_eq!(replica.machine.flushed(GROUP), flushed);
    replica.machine.apply(GROUP, &all[2..]).unwrap();
    assert_eq!(replica.machine.flushed(GROUP), flushed);
    replica.store.crash();
    let replica = Replica::open(replica.store);
    assert_eq!(replica.machine.applied(GROUP), flushed);
    assert_eq!(replica.machine.flushed(GROUP), flushed, "it kept nothing else");
}

/// G10: a gap in the offsets, or a record that cannot be read, stops the replica.
#[test]
fn what_does_not_fit_is_an_error_and_leaves_nothing() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let mut all = entries(&opened(), &[false]);
    replica.machine.apply(GROUP, &all[..1]).unwrap();
    let before = replica.digest();
    let gap = replica.machine.apply(GROUP, &all[2..]).unwrap_err();
    assert!(gap.to_string().contains("expected=2 found=3"), "{gap}");
    all[1].records[0].payload = Bytes::from_static(b"\xff");
    let unreadable = replica.machine.apply(GROUP, &all[1..]).unwrap_err();
    assert!(unreadable.to_string().contains("offset=2"), "{unreadable}");
    assert_eq!(replica.digest(), before);
}
