//! Random histories that hold the state machine to a model of it: whatever the grouping into entries and
//! commits, wherever it crashes, over whichever store (G3, G6, G7, G8, G9).

mod comparing;
mod full;
mod histories;
mod naive;
mod naive_clients;
mod naive_log;
mod naive_map;
mod naive_table;
mod under_faults;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{
    AppliedPosition, ClusterId, CommittedEntry, GroupId, LogIndex, LogTime, NodeId, Offset,
    ProposalId, Record, StateMachine, Term,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use self::histories::{CONSUMERS, any_history, append, batch, complete, opened, put_if, reserve};
use self::naive::{Model, Said};
use self::naive_clients::{BOUNDS, NaiveClients};
use self::naive_log::NaiveLog;
use self::naive_map::{Held, NaiveMap};
use self::naive_table::NaiveTable;
use crate::alteration::{Alteration, Reason, Revision};
use crate::clients::check::clients;
use crate::command::{AlterCommand, BatchCommand, Command, OpenCommand};
use crate::comparing::spans::check::assert_sums;
use crate::digest::{StateDigest, digest};
use crate::directory;
use crate::keys;
use crate::machine::{EngineMachine, read_position};
use crate::outcome::{Branch, Completion, Outcome};
use crate::page::Page;
use crate::profile::PolicyHash;
use crate::projection::{Registry, RowsRead};
use crate::projections::idempotency::{self, RequestOutcome, RequestRefusal, Window, find};
use crate::projections::map::{BelowFloor, KeyRange, Version, When};
use crate::projections::{log, map};
use crate::refusal::Refusal;
use crate::resource::{FailureDomain, FenceEpoch, Placement, ResourceId, ResourceKind};
use crate::resource_row::{self, Resource};
use crate::store::{Direction, FamilyId, MemoryStore, StateRead, StateStore, Walk, WriteSet};
use crate::stored::Stored;

const GROUP: GroupId = GroupId::new(1);
const KINDS: [ResourceKind; 3] = [ResourceKind::LOG, ResourceKind::MAP, ResourceKind::IDEMPOTENCY];
/// When the first record of a history is stamped at the earliest.
const BEGIN_MS: u64 = 1_000;

/// A record, and how much later than the one before it is stamped.
#[derive(Clone, Debug)]
struct Step {
    later_ms: u64,
    said: Said,
}

impl Said {
    fn command(&self) -> Command {
        match self {
            Self::Open(command) => Command::Open(command.clone()),
            Self::Alter(command) => Command::Alter(command.clone()),
            Self::Housekeep(chores) => Command::Housekeep(chores.clone()),
            Self::Register { ttl_ms, registrant } => {
                Command::Register { ttl_ms: *ttl_ms, registrant: *registrant }
            }
            Self::Batch(batch) => Command::Batch(BatchCommand {
                number: batch.number,
                caller: batch.caller.clone(),
                guards: batch.guards.iter().map(|on| on.op(on.what.body())).collect(),
                then: batch.then.iter().map(|on| on.op(on.what.body())).collect(),
                otherwise: batch.otherwise.iter().map(|on| on.op(on.what.body())).collect(),
            }),
        }
    }
}

/// The machine under test.
struct Replica<S> {
    store: Arc<S>,
    machine: EngineMachine,
}

impl<S: StateStore> Replica<S> {
    fn open(store: Arc<S>) -> Self {
        let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
        let shared = Arc::<S>::clone(&store);
        let registry = Registry::new(&[]).unwrap();
        let machine = EngineMachine::open(shared, registry, true, cluster, node, &[GROUP]).unwrap();
        Self { store, machine: machine.with_clients(BOUNDS) }
    }

    fn digest(&self) -> StateDigest {
        digest(&*self.store, GROUP).unwrap()
    }
}

/// The history as entries; `joins` says which records share an entry.
fn entries(history: &[Step], joins: &[bool]) -> Vec<CommittedEntry> {
    let mut entries: Vec<CommittedEntry> = Vec::new();
    let mut now = BEGIN_MS;
    for (at, step) in history.iter().enumerate() {
        let offset = at as u64 + 1;
        let record = Record {
            id: ProposalId { session: 1, seq: offset },
            payload: step.said.command().encode(),
        };
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

/// Handles find the contracts of the resources that can be used, as they were declared last.
fn assert_contracts(machine: &EngineMachine, model: &Model) {
    let found = machine.contracts().all(GROUP).into_iter().map(|(id, spec)| (id.0, spec));
    let wanted = model.table.resources.iter();
    let wanted = wanted.filter(|(_, kept)| kept.deleted.is_none() && kept.spec.contract.is_some());
    let wanted = wanted.map(|(id, kept)| (*id, Arc::new(kept.spec.clone())));
    assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

/// Everything that the model knows is stored, and nothing else.
fn assert_state(read: &dyn StateRead, model: &Model) {
    let applied = read_position(read, GROUP).unwrap().0.offset;
    assert_table(read, &model.table);
    let mut requests = 0;
    for (id, resource) in &model.table.resources {
        let (id, kind) = (*id, &resource.kind);
        let rows = |family| RowsRead::new(read, family, GROUP, ResourceId(id));
        match kind.as_str() {
            log::NAME => {
                let wanted = model.logs.get(&id).cloned().unwrap_or_default();
                assert_log(&rows(FamilyId::LOG), &wanted);
            }
            map::NAME => {
                let naive = model.maps.get(&id).cloned().unwrap_or_default();
                assert_map(&rows(FamilyId::MAP), &naive, applied);
            }
            _ => requests += requests_by_age(&rows(FamilyId::IDEMPOTENCY), id, model),
        }
    }
    for (id, (_, floor)) in &model.windows {
        let rows = RowsRead::new(read, FamilyId::IDEMPOTENCY, GROUP, ResourceId(*id));
        assert_eq!(Window::load(&rows).unwrap().floor.get(), *floor);
    }
    assert_clients(read, &model.clients);
    assert_sums(read, GROUP);
    assert_eq!(requests, model.requests.len());
    for ((id, key), request) in &model.requests {
        let rows = RowsRead::new(read, FamilyId::IDEMPOTENCY, GROUP, ResourceId(*id));
        let found = find(&rows, key).unwrap().unwrap();
        assert_eq!(found.fingerprint, request.fingerprint);
        assert_eq!((found.owner, found.since.get()), (request.owner, request.since));
        assert_eq!(found.completion, request.done);
    }
}

/// All clients with their answers, in rows that are as they must be.
fn assert_clients(read: &dyn StateRead, wanted: &NaiveClients) {
    let found = clients(read, &Registry::new(&[]).unwrap(), GROUP);
    let found = found.into_iter().map(|(id, (client, answers))| {
        (id.get(), (client.acked_up_to, answers.into_iter().collect::<Vec<_>>()))
    });
    let wanted = wanted.0.iter().map(|(id, client)| {
        let answers = client.answers.iter();
        let answers = answers.map(|(seq, (_, stamp, outcome))| (*seq, (*stamp, outcome.clone())));
        (*id, (client.acked_up_to, answers.collect::<Vec<_>>()))
    });
    assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

/// Every resource that is not gone, and nothing of those that are.
fn assert_table(read: &dyn StateRead, table: &NaiveTable) {
    let mut found = BTreeMap::new();
    let note = |id: ResourceId, resource: Resource| {
        found.insert(id.0, resource);
        ControlFlow::Continue(())
    };
    resource_row::each_resource(read, GROUP, note).unwrap();
    assert!(found.keys().eq(table.resources.keys()));
    assert_eq!(resource_row::last_made(read, GROUP).unwrap(), ResourceId(table.made));
    for (id, wanted) in &table.resources {
        let found = &found[id];
        assert_eq!((&found.kind, &found.spec), (&wanted.kind, &wanted.spec));
        assert_eq!(found.policy, wanted.policy);
        assert_eq!((found.made.0.get(), found.made.1.get()), wanted.made);
        assert_eq!(found.revision, wanted.revision());
        let schemas = found.schemas.iter().map(|kept| (kept.id.clone(), kept.retired));
        assert!(schemas.eq(wanted.schemas.iter().cloned()));
        let deleted = found.deleted.map(|deleted| (deleted.offset.get(), deleted.until.get()));
        assert_eq!(deleted, wanted.deleted);
        let named = resource_row::find(read, GROUP, &wanted.spec.name).unwrap();
        assert_eq!(named, Some((ResourceId(*id), found.clone())));
        assert_eq!(directory::trail(read, GROUP, ResourceId(*id)).unwrap(), wanted.trail);
    }
    let (trails, names) =
        (table.resources.values().map(|resource| resource.trail.len()), found.len());
    let rows = count(read, FamilyId::RESOURCES, |_| true);
    assert_eq!(rows, 2 * names + trails.sum::<usize>() + usize::from(table.made > 0));
    for family in [FamilyId::LOG, FamilyId::MAP, FamilyId::IDEMPOTENCY] {
        let of_none = |key: &[u8]| {
            let id = u32::from_be_bytes(key[8..12].try_into().unwrap());
            !table.resources.contains_key(&id)
        };
        assert_eq!(count(read, family, of_none), 0);
    }
}

/// How many rows of a family have such a key.
fn count(read: &dyn StateRead, family: FamilyId, is_one: impl Fn(&[u8]) -> bool) -> usize {
    let mut count = 0;
    let (from, end) = keys::of_group(family, GROUP).unwrap();
    let mut each = |key: &[u8], _: &[u8]| {
        count += usize::from(is_one(key));
        Walk::Next
    };
    read.walk(family, &from, &end, Direction::Forward, &mut each).unwrap();
    count
}

/// Its header, entries and consumers.
fn assert_log(rows: &RowsRead<'_>, wanted: &NaiveLog) {
    let header = log::header(rows).unwrap();
    assert_eq!((header.first, header.tail), (wanted.first, wanted.tail));
    assert_eq!((header.entries, header.bytes), (wanted.entries.len() as u64, wanted.bytes()));
    assert_eq!(header.retention, wanted.retention);
    let found =
        log::scan(rows, header.first, Direction::Forward, Page::new(usize::MAX)).unwrap().unwrap();
    let entry = |entry: log::RawEntry| (entry.position, (entry.log_time.get(), entry.payload));
    let entries: BTreeMap<_, _> = found.page.rows.into_iter().map(entry).collect();
    assert_eq!(entries, wanted.entries);
    for name in CONSUMERS {
        let position = wanted.consumers.get(name).map(|(position, _)| *position);
        assert_eq!(log::committed(rows, name).unwrap(), position);
    }
    // Nothing else: not an entry below `first`, not a consumer that is forgotten.
    let mut rows_count = 0;
    let mut each = |_: &[u8], _: &[u8]| {
        rows_count += 1;
        Walk::Next
    };
    rows.walk(&[], None, Direction::Forward, &mut each).unwrap();
    let headers = usize::from(rows.get(b"h").unwrap().is_some());
    assert_eq!(rows_count, headers + wanted.entries.len() + wanted.consumers.len());
}

/// A map is what the model says, at every offset that it keeps, and so are its changes; there is no row
/// that none of it needs.
fn assert_map(rows: &RowsRead<'_>, model: &NaiveMap, applied: Offset) {
    let held = |found: &map::Found| Held {
        value: found.value.clone(),
        version: found.version.offset().get(),
        ends_at: found.ends_at.map(LogTime::get),
    };
    let bounds = map::bounds(rows).unwrap();
    assert_eq!(bounds.floor.get(), model.floor());
    assert_eq!(bounds.keys, model.at(u64::MAX).len() as u64);
    let range = |direction| KeyRange { from: Bytes::new(), end: None, direction, limit: 9_999 };
    for offset in model.floor()..=applied.get() {
        let when = When::At(Offset::new(offset));
        assert_eq!(map::check_floor(rows, when).unwrap(), Ok(()));
        let wanted: Vec<_> = model.at(offset).into_iter().collect();
        for direction in [Direction::Forward, Direction::Backward] {
            let page = map::range(rows, &range(direction), when).unwrap();
            let found =
                page.rows.iter().map(|(key, found)| (Bytes::copy_from_slice(key), held(found)));
            let mut found: Vec<_> = found.collect();
            if direction == Direction::Backward {
                found.reverse();
            }
            assert_eq!(found, wanted, "at={offset} {direction:?}");
        }
        let told = map::changes(rows, Offset::new(offset), |_| true).unwrap().unwrap();
        let told = told.records.iter().flat_map(|record| {
            let told = |change: &map::Changed| {
                let (now, before) =
                    (change.now.as_ref().map(held), change.before.as_ref().map(held));
                let key = Bytes::copy_from_slice(&change.key);
                (record.offset.get(), key, now, before, change.ended)
            };
            record.changes.iter().map(told).collect::<Vec<_>>()
        });
        assert_eq!(told.collect::<Vec<_>>(), model.told(offset), "behind={offset}");
    }
    if let Some(below) = model.floor().checked_sub(1) {
        let floor = BelowFloor(bounds.floor);
        assert_eq!(map::check_floor(rows, When::At(Offset::new(below))).unwrap(), Err(floor));
        assert_eq!(map::changes(rows, Offset::new(below), |_| true).unwrap(), Err(floor));
    }
    // Versions: those that are visible at the floor, and one for each change behind it.
    let (mut versions, mut ends) = (0, 0);
    let mut count = |key: &[u8], _: &[u8]| {
        versions += usize::from(key[0] == b'v');
        ends += usize::from(key[0] == b'x');
        Walk::Next
    };
    rows.walk(b"", None, Direction::Forward, &mut count).unwrap();
    assert_eq!(versions, model.versions());
    let end = model.at(u64::MAX).into_values().filter(|held| held.ends_at.is_some());
    assert_eq!(ends, end.count());
}

/// How many requests there are by age, each of the age that the model knows.
fn requests_by_age(rows: &RowsRead<'_>, id: u32, model: &Model) -> usize {
    let ages = idempotency::ages(rows).unwrap();
    for (since, key) in &ages {
        assert_eq!(model.requests[&(id, Bytes::copy_from_slice(key))].since, since.get());
    }
    ages.len()
}

fn apply_all(replica: &mut Replica<MemoryStore>, commands: Vec<Said>) -> Vec<Outcome> {
    let history: Vec<Step> = opened()
        .into_iter()
        .chain(commands.into_iter().map(|said| Step { later_ms: 1, said }))
        .collect();
    let outcomes = replica.machine.apply(GROUP, &entries(&history, &[false])).unwrap();
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|outcome| outcome.0).skip(3).collect();
    let (model, wanted) = Model::of(&history);
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
        let (model, wanted) = Model::of(&history);
        let entries = entries(&history, &joins);

        let mut plain = Replica::open(Arc::new(MemoryStore::default()));
        let outcomes: Vec<Outcome> = entries
            .iter()
            .flat_map(|entry| plain.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap())
            .map(|outcome| outcome.0)
            .collect();
        prop_assert_eq!(&outcomes, &wanted);
        assert_state(&*plain.store, &model);
        assert_contracts(&plain.machine, &model);

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
        assert_sums(&*rough.store, GROUP);
        assert_contracts(&rough.machine, &model);
        rough = Replica::open(rough.store);
        assert_contracts(&rough.machine, &model);

        // A shorter prefix has another digest: the chain alone tells.
        let cut = cut.index(entries.len());
        let mut shorter = Replica::open(Arc::new(MemoryStore::default()));
        shorter.machine.apply(GROUP, &entries[..cut]).unwrap();
        prop_assert_ne!(shorter.digest().head, plain.digest().head);
    }
}

/// The same history over RocksDB has the same digest, also where that loses what it had not flushed.
#[cfg(feature = "rocksdb")]
mod rocks {
    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::store::{Families, RocksStore, StateMemory};

    #[test]
    fn both_stores_come_to_the_same_digest() {
        let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
        let strategy = (any_history(), vec(any::<bool>(), 1..8), any::<Index>(), any::<Index>());
        let held = runner.run(&strategy, |(history, joins, cut, lost)| {
            let entries = entries(&history, &joins);
            let mut memory = Replica::open(Arc::new(MemoryStore::default()));
            memory.machine.apply(GROUP, &entries).unwrap();

            let dir = tempfile::tempdir().unwrap();
            let (before, after) = entries.split_at(cut.index(entries.len()));
            let open = |name: &str| {
                let families = Families::new(&[]).unwrap();
                let path = dir.path().join(name);
                Replica::open(Arc::new(
                    RocksStore::open(&path, families, StateMemory::default()).unwrap(),
                ))
            };
            let mut rocks = open("state");
            for entry in before {
                rocks.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap();
            }
            rocks.machine.flush().unwrap();
            // A crash leaves what was flushed: the files as they were then, whatever came after them.
            std::fs::create_dir(dir.path().join("crashed")).unwrap();
            for entry in std::fs::read_dir(dir.path().join("state")).unwrap() {
                let entry = entry.unwrap();
                let copy = dir.path().join("crashed").join(entry.file_name());
                std::fs::copy(entry.path(), copy).unwrap();
            }
            for entry in &after[..lost.index(after.len() + 1)] {
                rocks.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap();
            }
            drop(rocks);
            let mut rocks = open("crashed");
            prop_assert_eq!(rocks.machine.applied(GROUP).index.get(), before.len() as u64);
            rocks.machine.apply(GROUP, after).unwrap();
            prop_assert_eq!(rocks.digest(), memory.digest());
            assert_sums(&*rocks.store, GROUP);
            Ok(())
        });
        held.unwrap();
    }
}

/// G9: a record that takes its policy for another than it is here, as one of another release might, has no
/// effect: nobody is placed by what not all replicas understand in the same way.
#[test]
fn a_record_that_takes_its_policy_for_another_has_no_effect() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let [first, ..] = &opened()[..] else { panic!("three are opened") };
    let Said::Open(open) = &first.said else { panic!("they are opened") };
    let right = open.policy;
    let wrong = PolicyHash::from_bytes([7; 32]);
    let placement = Placement::providers(["aws", "gcp"]).unwrap();
    let replicas = open.spec.replicas;
    let placed = PolicyHash::of_policy(&placement, replicas);
    let open = |policy| Said::Open(OpenCommand { policy, ..open.clone() });
    let place = |expected, policy| {
        Said::Alter(AlterCommand {
            resource: ResourceId(1),
            expected: Revision::new(expected),
            node: NodeId::new(1),
            caller: FailureDomain::new("aws", "r", "z"),
            reason: Reason::new("because").unwrap(),
            alteration: Alteration::Place(placement.clone()),
            policy: Some(policy),
        })
    };
    let said =
        [open(wrong), open(right), open(wrong), place(0, wrong), place(0, right), place(0, placed)];
    let history: Vec<Step> = said.into_iter().map(|said| Step { later_ms: 1, said }).collect();
    let outcomes: Vec<Outcome> = entries(&history, &[false])
        .iter()
        .flat_map(|entry| replica.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap())
        .map(|outcome| outcome.0)
        .collect();
    let refused = |said: PolicyHash, here: PolicyHash| {
        let (expected, found) = (format!("policy={said}"), format!("policy={here}"));
        Outcome::Refused(Refusal::Incompatible { expected, found })
    };
    assert_eq!(outcomes[0], refused(wrong, right));
    assert!(matches!(outcomes[1], Outcome::Opened { .. }));
    assert_eq!(outcomes[2], refused(wrong, right));
    assert_eq!(outcomes[3], refused(wrong, placed));
    assert_eq!(outcomes[4], refused(right, placed));
    assert_eq!(outcomes[5], Outcome::Altered { revision: Revision::new(1) });
    let stored = resource_row::stored(&*replica.store, GROUP, ResourceId(1)).unwrap().unwrap();
    assert_eq!(stored.policy, placed);
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
    assert!(matches!(outcomes[0], Outcome::Applied { branch: Branch::Then, .. }));
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
    let applied = |outcome: RequestOutcome| Outcome::Applied {
        branch: Branch::Then,
        outcomes: vec![outcome.to_bytes()],
    };
    let taken = RequestOutcome::TakenOver { from: FenceEpoch::new(2) };
    let refused = |refusal: RequestRefusal| {
        let (projection, detail) = (idempotency::NAME, refusal.to_bytes());
        Outcome::Refused(Refusal::ByProjection { projection, op: 0, detail })
    };
    let wanted = [
        applied(RequestOutcome::Reserved),
        refused(RequestRefusal::InProgress { owner: FenceEpoch::new(2), age_ms: 1 }),
        applied(RequestOutcome::ReservedAgain),
        applied(taken),
        refused(RequestRefusal::Fenced { current }),
        refused(RequestRefusal::NotReserved),
        applied(RequestOutcome::Completed),
        Outcome::Duplicate(completed.stamp()),
        refused(RequestRefusal::CompletedOtherwise { at: completed.offset }),
        refused(RequestRefusal::Fenced { current }),
        Outcome::Duplicate(completed.stamp()),
        refused(RequestRefusal::Conflict),
    ];
    assert_eq!(outcomes, wanted);
}

/// A batch that completes its request twice has no first time that it could repeat: it is refused, and
/// not told as a duplicate of itself.
#[test]
fn a_batch_is_no_repetition_of_itself() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let twice = vec![reserve("r", 1, 7), complete("r", 1, "done"), complete("r", 1, "done")];
    let again = vec![reserve("r", 1, 7), complete("r", 1, "done"), reserve("r", 1, 7)];
    let outcomes = apply_all(&mut replica, vec![batch(twice), batch(again)]);
    let detail = RequestRefusal::TwiceInOneBatch.to_bytes();
    for outcome in outcomes {
        let Outcome::Refused(Refusal::ByProjection { op, detail: found, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((op, found), (2, detail.clone()));
    }
}

/// G12: beyond its bound a store forgets the oldest requests, and says that it holds no more.
#[test]
fn a_full_store_of_requests_forgets_the_oldest() {
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let store = Arc::clone(&replica.store);
    apply_all(&mut replica, vec![batch(vec![reserve("a", 1, 1)]), batch(vec![reserve("b", 1, 1)])]);
    // As if there were as many as there may be.
    let row = [&keys::of_resource(GROUP, ResourceId(3))[..], b"c"].concat();
    let mut full = Vec::new();
    for number in [1_000_000, 1_001, 0, 86_400_000, 1_000_000] {
        crate::codec::put_number(&mut full, number);
    }
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
            payload: batch(vec![op]).command().encode(),
        }],
    };
    replica.machine.apply(GROUP, &[next(6, reserve("c", 1, 1))]).unwrap();
    let known = |key: &str| {
        let rows = RowsRead::new(&*store, FamilyId::IDEMPOTENCY, GROUP, ResourceId(3));
        find(&rows, key.as_bytes()).unwrap().is_some()
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
            .map(|(later_ms, key)| Step { later_ms, said: batch(vec![reserve(key, 1, 1)]) });
        let history: Vec<Step> = opened().into_iter().chain(steps).collect();
        replica.machine.apply(GROUP, &entries(&history, &[false])).unwrap();
        let rows = RowsRead::new(&*replica.store, FamilyId::IDEMPOTENCY, GROUP, ResourceId(3));
        find(&rows, b"a").unwrap().is_some()
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
