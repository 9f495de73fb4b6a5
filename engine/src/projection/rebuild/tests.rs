//! Replicas that are at different points of a rebuild, step by step: whatever each of them has done of it by
//! itself when a record comes, they come to the same.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::sim::SimRandom;
use palisade_replication::{
    CommittedEntry, GroupId, HaltScope, LogIndex, LogTime, NodeId, Offset, ProposalId, Record,
    StateMachine, Term,
};

use super::local::{Progress, queue};
use super::state::{KindState, RebuildFailure};
use super::{RebuildCommand, Run};
use crate::command::{BatchCommand, Chore, Command, Op, OpenCommand};
use crate::comparing::spans::check::assert_sums;
use crate::digest::digest;
use crate::keys;
use crate::machine::EngineMachine;
use crate::outcome::Outcome;
use crate::profile::PolicyHash;
use crate::projection::{
    Applied, At, Erased, Imported, NewRows, Projection, ProjectionFault, Registry, Rows, RowsRead,
};
use crate::resource::{FailureDomain, FenceEpoch, ResourceId, ResourceKind, ResourceSpec};
use crate::store::{Direction, FamilyId, FaultyStore, MemoryStore, StateRead, StoreCause, Walk};
use crate::stored::Stored;

const GROUP: GroupId = GroupId::new(1);
const BEGUN_BY: [NodeId; 2] = [NodeId::new(1), NodeId::new(2)];

/// Adds up by name. The second version writes its sums under other keys, ten times as large; the third as the
/// first.
struct Sums<const VERSION: u32>;

impl<const VERSION: u32> Sums<VERSION> {
    const FACTOR: u64 = if VERSION == 2 { 10 } else { 1 };

    fn key(name: u64) -> Vec<u8> {
        format!("{VERSION} {name}").into_bytes()
    }
}

fn number(raw: &[u8]) -> Result<u64, ProjectionFault> {
    Ok(u64::from_bytes(&Bytes::copy_from_slice(raw))?)
}

impl<const VERSION: u32> Projection for Sums<VERSION> {
    const NAME: &'static str = "sums";
    const VERSION: u32 = VERSION;
    /// A name, and what is added to it; 13 is refused.
    type Op = u64;
    type Outcome = u64;
    type Refusal = u64;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, u64>, ProjectionFault> {
        let (name, add) = (op % 5, op / 5);
        let key = Self::key(name);
        let held = rows.get(&key)?.map_or(Ok(0), |raw| number(&raw))?;
        let sum = held / Self::FACTOR + add;
        rows.put(&key, (sum * Self::FACTOR).to_bytes())?;
        Ok(if add == 13 { Applied::Refused(sum) } else { Applied::Done(sum) })
    }

    /// Takes one from the first name.
    fn tidy(&self, _: At, rows: &mut Rows<'_, '_>, _: usize) -> Result<(), ProjectionFault> {
        let key = Self::key(0);
        if let Some(raw) = rows.get(&key)? {
            rows.put(&key, number(&raw)?.saturating_sub(Self::FACTOR).to_bytes())?;
        }
        Ok(())
    }

    fn import(
        &self,
        from: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        assert_eq!(old.version(), from);
        let factor = if from == 2 { 10 } else { 1 };
        let mut done = Ok(());
        old.walk(b"", None, Direction::Forward, &mut |key, value| {
            let name = u64::from(key[key.len() - 1] - b'0');
            done = number(value).and_then(|sum| {
                new.put(&Self::key(name), (sum / factor * Self::FACTOR).to_bytes())
            });
            if done.is_ok() { Walk::Next } else { Walk::Stop }
        })?;
        done.map(|()| Imported::All)
    }
}

fn kind() -> ResourceKind {
    ResourceKind::of("sums")
}

fn release(number: u32) -> Registry {
    let [one, two, three]: [Arc<dyn super::super::AnyProjection>; 3] =
        [Arc::new(Erased(Sums::<1>)), Arc::new(Erased(Sums::<2>)), Arc::new(Erased(Sums::<3>))];
    let (newest, older): (_, &[_]) = match number {
        1 => (one, &[]),
        2 => (two, &[one]),
        _ => (three, &[one, two]),
    };
    Registry::new(&[newest]).unwrap().superseding(older).unwrap()
}

struct Replica {
    store: FaultyStore,
    machine: EngineMachine,
    runs: Vec<Run>,
}

impl Replica {
    fn new(release: &Registry) -> Self {
        let store = MemoryStore::new(release.families().clone());
        Self::over(FaultyStore::new(store), release)
    }

    fn over(store: FaultyStore, release: &Registry) -> Self {
        let shared = Arc::new(store.clone());
        let machine = EngineMachine::unclaimed(shared, release.clone(), true, &[GROUP]).unwrap();
        Self { store, machine, runs: Vec::new() }
    }

    fn applied(&self) -> usize {
        self.machine.applied(GROUP).index.get() as usize
    }

    fn apply(&mut self, entries: &[CommittedEntry]) -> Vec<Outcome> {
        let done = self.machine.apply(GROUP, entries).unwrap();
        done.into_iter().map(|outcome| outcome.0).collect()
    }

    /// The same on a disk that is full now and then.
    fn apply_in_the_end(&mut self, entries: &[CommittedEntry]) -> Vec<Outcome> {
        let (first, mut outcomes) = (self.applied(), Vec::new());
        while self.applied() < first + entries.len() {
            let stood = self.applied();
            match self.machine.apply(GROUP, &entries[stood - first..]) {
                Ok(done) => outcomes.extend(done.into_iter().map(|outcome| outcome.0)),
                Err(error) => {
                    assert_eq!(error.scope, HaltScope::Nothing, "{error}");
                    assert_eq!(self.applied(), stood);
                }
            }
        }
        outcomes
    }

    /// One step of what is to be built. Says whether there was one.
    fn build(&mut self) -> bool {
        self.runs.extend(self.machine.jobs().take().into_iter().map(Run::new));
        self.runs.retain_mut(|run| run.step(&self.store));
        !self.runs.is_empty()
    }

    fn crash(self, release: &Registry) -> Self {
        self.store.crash();
        Self::over(self.store, release)
    }

    /// Another replica with this one's state.
    fn copied(&self, release: &Registry) -> Self {
        let mut chunks = Vec::new();
        let mut take = |_, chunk| {
            chunks.push(Ok(chunk));
            Ok(())
        };
        self.machine.exporter()(GROUP).run(&mut take).unwrap();
        let mut copy = Self::new(release);
        let position = self.machine.applied(GROUP);
        copy.machine.install(GROUP, position, &mut chunks.into_iter()).unwrap();
        copy
    }

    fn digest(&self) -> String {
        format!("{:?}", digest(&self.store, GROUP).unwrap())
    }

    /// Rows that are no part of the state.
    fn local_rows(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for family in self.store.families().ids() {
            let served = super::served(&self.store, GROUP).unwrap();
            if served.iter().any(|(_, held)| *held == family) {
                continue;
            }
            let Some((from, end)) = keys::of_group(family, GROUP) else { continue };
            self.store
                .walk(family, &from, &end, Direction::Forward, &mut |key, _| {
                    found.push(key.to_vec());
                    Walk::Next
                })
                .unwrap();
        }
        found
    }

    fn state(&self) -> Option<KindState> {
        let raw = self.store.get(FamilyId::RESOURCES, &keys::kind(GROUP, "sums")).unwrap();
        raw.map(|raw| KindState::decode(raw).unwrap())
    }

    fn progress(&self, begun: u64) -> Option<Progress> {
        Progress::stored(&self.store, GROUP, "sums", Offset::new(begun)).unwrap()
    }

    fn queued(&self) -> usize {
        let (from, end) = queue(GROUP, "sums");
        let mut count = 0;
        let mut each = |_: &[u8], _: &[u8]| {
            count += 1;
            Walk::Next
        };
        self.store.walk(FamilyId::REBUILD, &from, &end, Direction::Forward, &mut each).unwrap();
        count
    }
}

fn entries(commands: &[Command], from: u64) -> Vec<CommittedEntry> {
    let entry = |(number, command): (u64, &Command)| CommittedEntry {
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
    (from..).zip(commands).map(entry).collect()
}

fn caller() -> FailureDomain {
    FailureDomain::new("local", "local", "local")
}

fn open(name: &str, version: u32) -> Command {
    let spec = ResourceSpec::new(name, "tried").unwrap();
    let (anew, claim, policy) = (false, Offset::ZERO, PolicyHash::of_spec(&spec));
    let (kind, caller) = (kind(), caller());
    Command::Open(OpenCommand { anew, claim, kind, version, spec, policy, caller })
}

fn batch(ops: &[(u32, u64)]) -> Command {
    let op = |(resource, add): &(u32, u64)| Op {
        resource: ResourceId(*resource),
        epoch: FenceEpoch::new(1),
        body: add.to_bytes(),
    };
    Command::Batch(BatchCommand {
        number: None,
        caller: caller(),
        guards: Vec::new(),
        then: ops.iter().map(op).collect(),
        otherwise: Vec::new(),
    })
}

fn announce(version: u32) -> [Command; 2] {
    let newest = vec![(kind(), version)];
    BEGUN_BY.map(|node| Command::Rebuild(RebuildCommand::Announce { node, newest: newest.clone() }))
}

fn begin(version: u32) -> Command {
    let members = BEGUN_BY.to_vec();
    Command::Rebuild(RebuildCommand::Begin { kind: kind(), version, members })
}

fn ready(begun: u64) -> [Command; 2] {
    let begun = Offset::new(begun);
    BEGUN_BY.map(|node| Command::Rebuild(RebuildCommand::Ready { kind: kind(), begun, node }))
}

fn activate(begun: u64) -> Command {
    let (begun, voters) = (Offset::new(begun), BEGUN_BY.to_vec());
    Command::Rebuild(RebuildCommand::Activate { kind: kind(), begun, voters })
}

fn fail(begun: u64) -> Command {
    let (begun, node) = (Offset::new(begun), BEGUN_BY[0]);
    let failure = RebuildFailure::NotImportable;
    Command::Rebuild(RebuildCommand::Fail { kind: kind(), begun, node, failure })
}

/// Some records that are none of a rebuild's.
fn traffic(random: &mut SimRandom, most: u64) -> Vec<Command> {
    let count = random.below(most + 1);
    let one = |_| match random.below(10) {
        0 => {
            Command::Housekeep(vec![Chore::Resource(ResourceId(1)), Chore::Resource(ResourceId(2))])
        }
        _ => {
            let ops = 1 + random.below(3);
            let op = |_| (1 + random.below(2) as u32, random.below(80));
            batch(&(0..ops).map(op).collect::<Vec<_>>())
        }
    };
    (0..count).map(one).collect()
}

/// Two rebuilds, and one in between that is given up: what members say of themselves is said at any time,
/// whether it is so with a replica or not.
fn history(random: &mut SimRandom) -> Vec<Command> {
    let mut log = vec![open("a", 1), open("b", 1)];
    log.extend(traffic(random, 12));
    log.extend(announce(2));
    for is_given_up in [random.below(2) == 0, false] {
        log.extend(traffic(random, 6));
        log.push(begin(2));
        let begun = log.len() as u64;
        log.extend(traffic(random, 12));
        log.extend(ready(begun));
        log.extend(traffic(random, 12));
        log.push(if is_given_up { fail(begun) } else { activate(begun) });
        if is_given_up {
            log.extend(traffic(random, 4));
            log.push(Command::Rebuild(RebuildCommand::Again { kind: kind() }));
        } else {
            break;
        }
    }
    log.extend(traffic(random, 12));
    log.extend(announce(3));
    log.push(begin(3));
    let begun = log.len() as u64;
    log.extend(traffic(random, 12));
    log.extend(ready(begun));
    log.extend(traffic(random, 6));
    log.push(activate(begun));
    log.extend(traffic(random, 12));
    log
}

/// Replicas that cut the log into other commits, build more or less of a newer version before the next record
/// comes, crash at any step, find their disk full, or come by a snapshot, have equal digests at equal offsets, and so do those
/// that never build anything but when they must.
#[test]
fn replicas_at_different_points_of_a_rebuild_come_to_the_same() {
    let release = release(3);
    for seed in 0..300 {
        let mut random = SimRandom::from_seed(seed);
        let log = entries(&history(&mut random), 1);
        let mut plain = Replica::new(&release);
        let (mut digests, mut outcomes) = (vec![plain.digest()], Vec::new());
        for entry in &log {
            outcomes.extend(plain.apply(std::slice::from_ref(entry)));
            digests.push(plain.digest());
        }
        assert_eq!(plain.state().unwrap().active, 3, "seed={seed}");
        assert_eq!(plain.local_rows(), Vec::<Vec<u8>>::new(), "seed={seed}: two moves lead back");

        let mut rough = Replica::new(&release);
        while rough.applied() < log.len() {
            let at = rough.applied();
            let count = 1 + random.below((log.len() - at).min(5) as u64) as usize;
            let mut full = SimRandom::from_seed(random.below(1 << 32));
            let every = 2 + random.below(6);
            rough.store.fail(move || (full.below(every) == 0).then_some(StoreCause::Full));
            let found = rough.apply_in_the_end(&log[at..at + count]);
            assert_eq!(found, outcomes[at..at + count], "seed={seed} at={at}");
            assert_eq!(rough.digest(), digests[at + count], "seed={seed} at={}", at + count);
            for _ in 0..random.below(8) {
                rough.build();
            }
            rough.store.fail(|| None);
            match random.below(12) {
                0..=3 => rough.machine.flush().unwrap(),
                4 => rough = rough.crash(&release),
                5 => rough = rough.copied(&release),
                _ => {}
            }
            let at = rough.applied();
            assert_eq!(rough.digest(), digests[at], "seed={seed} at={at}, after a crash or a copy");
            assert_sums(&rough.store, GROUP);
        }
    }
}

/// What a record's operations come to is the same whether the newer version has imported before or after it.
#[test]
fn a_record_that_is_refused_is_in_no_queue() {
    let release = release(2);
    let mut replica = Replica::new(&release);
    let mut log = vec![open("a", 1), batch(&[(1, 5 * 7)])];
    log.extend(announce(2));
    log.push(begin(2));
    let begun = log.len() as u64;
    log.push(batch(&[(1, 5), (1, 5 * 13)]));
    log.push(batch(&[(1, 10)]));
    let outcomes = replica.apply(&entries(&log, 1));
    assert!(matches!(outcomes[5], Outcome::Refused(_)), "{:?}", outcomes[5]);
    assert_eq!(replica.queued(), 1);
    while replica.build() {}
    assert_eq!(replica.progress(begun), Some(Progress::CaughtUp));
    assert_eq!(replica.queued(), 0);
}

/// Who is not ready is not asked, who has another rebuild in mind is not heard.
#[test]
fn a_record_about_a_rebuild_that_is_over_has_no_effect() {
    let release = release(2);
    let mut replica = Replica::new(&release);
    let mut next = 1;
    let mut says = |replica: &mut Replica, command: &Command| {
        let outcomes = replica.apply(&entries(std::slice::from_ref(command), next));
        next += 1;
        match &outcomes[0] {
            Outcome::Refused(refusal) => {
                Some(crate::error::Error::from(refusal.clone()).to_string())
            }
            _ => None,
        }
    };
    let refused = |said: Option<String>, why: &str| {
        let said = said.unwrap_or_else(|| panic!("it is not refused: {why}"));
        assert!(said.contains(why), "{said}");
    };
    let [one, two] = announce(2);
    refused(says(&mut replica, &begin(2)), "no resource of that kind");
    assert_eq!(says(&mut replica, &open("a", 1)), None);
    assert_eq!(says(&mut replica, &one), None);
    refused(says(&mut replica, &begin(2)), "a member has not said");
    assert_eq!(says(&mut replica, &two), None);
    refused(says(&mut replica, &begin(1)), "decides already");
    refused(says(&mut replica, &begin(3)), "a member has not said");
    assert_eq!(says(&mut replica, &begin(2)), None);
    let begun = replica.state().unwrap().target.unwrap().begun.get();
    refused(says(&mut replica, &begin(2)), "under way");
    refused(says(&mut replica, &activate(begun)), "a voter has not said");
    let [one, two] = ready(begun);
    assert_eq!(says(&mut replica, &one), None);
    refused(says(&mut replica, &activate(begun)), "a voter has not said");
    refused(says(&mut replica, &ready(begun - 1)[1]), "not under way");
    assert_eq!(says(&mut replica, &two), None);
    refused(says(&mut replica, &activate(begun + 1)), "not under way");
    assert_eq!(says(&mut replica, &fail(begun)), None);
    refused(says(&mut replica, &activate(begun)), "not under way");
    refused(says(&mut replica, &begin(2)), "has failed");
    let again = Command::Rebuild(RebuildCommand::Again { kind: kind() });
    assert_eq!(says(&mut replica, &again), None);
    assert_eq!(says(&mut replica, &begin(2)), None);
    let begun = replica.state().unwrap().target.unwrap().begun.get();
    for said in ready(begun) {
        assert_eq!(says(&mut replica, &said), None);
    }
    assert_eq!(says(&mut replica, &activate(begun)), None);
    // A writer that has not heard of it is told which version decides, and nobody halts.
    refused(says(&mut replica, &open("b", 1)), "version=2");
    assert_eq!(says(&mut replica, &open("b", 2)), None);
}

/// E4: a replica that does not know the version halts where it takes over, and says what it needs.
#[test]
fn who_does_not_know_the_newer_version_halts_where_it_decides() {
    let mut log = vec![open("a", 1), batch(&[(1, 5 * 7)])];
    log.extend(announce(2));
    log.push(begin(2));
    let begun = log.len() as u64;
    log.extend(ready(begun));
    log.push(activate(begun));
    let log = entries(&log, 1);
    let (upto, last) = log.split_at(log.len() - 1);
    let mut old = Replica::new(&release(1));
    old.apply(upto);
    let halted = old.machine.apply(GROUP, last).unwrap_err().to_string();
    assert!(halted.contains("projection=sums version=2"), "{halted}");
    assert!(halted.contains("opened without it"), "{halted}");

    // A state of the older version wants the older version, one of the newer the newer alone.
    let newest = Registry::new(&[Arc::new(Erased(Sums::<2>))]).unwrap();
    let mut both = Replica::new(&release(2));
    both.apply(upto);
    let refused = |store: &FaultyStore, release: &Registry| {
        let shared = Arc::new(store.clone());
        EngineMachine::unclaimed(shared, release.clone(), true, &[GROUP])
            .err()
            .map(|e| e.to_string())
    };
    let said = refused(&both.store, &newest).unwrap();
    assert!(said.contains("superseding of version=1"), "{said}");
    both.apply(last);
    let said = refused(&both.store, &release(1)).unwrap();
    assert!(said.contains("the release that has version=2"), "{said}");
    let taken_up = both.copied(&newest);
    assert_eq!(taken_up.digest(), both.digest());
    let over = Replica::over(both.store.clone(), &newest);
    assert_eq!(over.digest(), both.digest());
}

/// What is built is in no snapshot, and in no digest.
#[test]
fn a_half_built_version_is_no_part_of_the_state() {
    let release = release(2);
    let mut replica = Replica::new(&release);
    let mut log = vec![open("a", 1), batch(&[(1, 5), (1, 6), (1, 7)])];
    log.extend(announce(2));
    log.push(begin(2));
    replica.apply(&entries(&log, 1));
    let before = replica.digest();
    for _ in 0..3 {
        assert!(replica.build());
    }
    replica.apply(&entries(&[batch(&[(1, 5)])], log.len() as u64 + 1));
    assert!(replica.local_rows().len() >= 3, "{:?}", replica.local_rows());
    let copy = replica.copied(&release);
    assert_eq!(copy.digest(), replica.digest());
    assert_ne!(copy.digest(), before);
    assert_eq!(copy.local_rows(), Vec::<Vec<u8>>::new());
    // A crash finds it half built, and clears it.
    replica.machine.flush().unwrap();
    let replica = replica.crash(&release);
    assert_eq!(replica.local_rows(), Vec::<Vec<u8>>::new());
}
