use bytes::Bytes;
use palisade_wal::sim::SimDisk;
use palisade_wal::{Keys, WalIdentity};

use super::*;
use crate::entry::{ProposalId, Record};
use crate::identity::Term;
use crate::inbox::{self, Outbox};
use crate::state_machine::{ApplyError, Exporter};

const GROUP: GroupId = GroupId::new(1);
const SESSION: u64 = 9;

/// Counts records. Each write takes an answer from the plan first: whether there is space.
struct Counter {
    position: AppliedPosition,
    plan: VecDeque<bool>,
    /// Entries of one apply, at most.
    at_once: usize,
    flushes: Arc<Mutex<u32>>,
}

impl Counter {
    fn may_write(&mut self) -> Result<(), ApplyError> {
        match self.plan.pop_front().unwrap_or(true) {
            true => Ok(()),
            false => Err(ApplyError::full("planned")),
        }
    }
}

impl StateMachine for Counter {
    type Outcome = u64;

    fn applied(&self, _: GroupId) -> AppliedPosition {
        self.position
    }

    fn apply(&mut self, _: GroupId, entries: &[CommittedEntry]) -> Result<Vec<u64>, ApplyError> {
        self.may_write()?;
        let entries = &entries[..entries.len().min(self.at_once)];
        let mut outcomes = Vec::new();
        for entry in entries {
            assert_eq!(entry.first_offset, self.position.offset.next(), "nothing twice");
            self.position = entry.end();
            outcomes.push(100 * entry.first_offset.get());
        }
        Ok(outcomes)
    }

    fn flushed(&self, _: GroupId) -> AppliedPosition {
        self.position
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.may_write()?;
        *self.flushes.lock().unwrap() += 1;
        Ok(())
    }

    fn exporter(&self) -> Exporter {
        unreachable!("nobody asks for a snapshot")
    }

    fn install(
        &mut self,
        _: GroupId,
        _: AppliedPosition,
        _: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        unreachable!("nobody gives a snapshot")
    }
}

fn entry(number: u64) -> Apply {
    let id = ProposalId { session: SESSION, seq: number };
    Apply::Entry(CommittedEntry {
        members_index: LogIndex::new(1),
        index: LogIndex::new(number),
        term: Term::new(1),
        log_time: LogTime::new(number),
        first_offset: Offset::new(number),
        records: vec![Record { id, payload: Bytes::from_static(b"record") }],
    })
}

struct Bench {
    applier: Applier<Counter>,
    jobs: mpsc::Sender<ApplyJob>,
    outbox: Outbox<Event<u64>>,
    shared: Arc<GroupShared<u64>>,
    flushes: Arc<Mutex<u32>>,
}

/// An applier that finds space or not, as said, and always if nothing more is said.
fn bench(plan: &[bool], at_once: usize) -> Bench {
    let (inbox, outbox) = inbox::channel(1 << 20);
    let (sender, jobs) = mpsc::channel();
    let shared = Arc::new(GroupShared::new(Tracker::new(AppliedPosition::ZERO)));
    let flushes = Arc::<Mutex<u32>>::default();
    let plan = plan.iter().copied().collect();
    let position = AppliedPosition::ZERO;
    let machine = Counter { position, plan, at_once, flushes: Arc::clone(&flushes) };
    let owner = WalIdentity { cluster: 1, node: 1, incarnation: 1 };
    let shelf = Shelf::open(Arc::new(SimDisk::from_seed(1)), Keys::none(), owner).unwrap();
    let applier = Applier {
        machine,
        shelf: Arc::new(shelf),
        session: SESSION,
        jobs,
        groups: BTreeMap::from([(GROUP, Arc::clone(&shared))]),
        inbox,
        flush_bytes_target: 1 << 20,
        halted: BTreeSet::new(),
        rebuilding: BTreeSet::new(),
        held: VecDeque::new(),
        is_full: false,
        room_retry: Duration::from_millis(1),
    };
    Bench { applier, jobs: sender, outbox, shared, flushes }
}

fn job(steps: Vec<Apply>) -> ApplyJob {
    ApplyJob { group: GROUP, steps, gives_up: false }
}

fn wait(
    shared: &GroupShared<u64>,
    seq: u64,
) -> oneshot::Receiver<Result<Committed<u64>, NodeError>> {
    let (reply, receiver) = oneshot::channel();
    shared.wait(seq, reply);
    receiver
}

/// What the replica thread is told until it has heard of so many applied entries and flushes.
fn told(outbox: &Outbox<Event<u64>>, until_flushed: u64) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        match outbox.wait(Duration::from_secs(60)).expect("it goes on by itself") {
            Event::StateFull(is_full) => told.push(format!("full={is_full}")),
            Event::Applied { position, .. } => told.push(format!("applied={}", position.offset)),
            Event::Flushed { index, .. } => {
                told.push(format!("flushed={index}"));
                if index.get() == until_flushed {
                    return told;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// G10: what finds no space is done again, in order and once, the node is told of it, and callers get the
/// outcomes.
#[test]
fn a_state_without_space_waits_and_goes_on_by_itself() {
    // The first entry finds space at the third try, the flush at the second.
    let plan = [false, false, true, true, true, false, true];
    let Bench { applier, jobs, outbox, shared, flushes } = bench(&plan, 1);
    let mut answers: Vec<_> = (1..=3).map(|seq| wait(&shared, seq)).collect();
    jobs.send(job(vec![entry(1), entry(2), entry(3), Apply::Flush])).unwrap();
    let thread = std::thread::Builder::new().spawn(move || applier.run()).unwrap();
    assert_eq!(
        told(&outbox, 3),
        [
            "full=true",
            "applied=1",
            "full=false",
            "applied=2",
            "applied=3",
            "full=true",
            "flushed=3"
        ]
    );
    drop(jobs);
    thread.join().unwrap().unwrap();
    for (at, answer) in answers.iter_mut().enumerate() {
        let committed = answer.try_recv().unwrap().unwrap();
        assert_eq!(committed.outcome, 100 * (at as u64 + 1));
    }
    assert_eq!(*flushes.lock().unwrap(), 2, "once in between and once at the end");
}

/// What comes while it waits is done behind what waits.
#[test]
fn what_comes_meanwhile_is_applied_in_order() {
    let Bench { applier, jobs, outbox, .. } = bench(&[false; 40], 8);
    jobs.send(job(vec![entry(1)])).unwrap();
    let thread = std::thread::Builder::new().spawn(move || applier.run()).unwrap();
    for number in 2..=20 {
        jobs.send(job(vec![entry(number)])).unwrap();
    }
    jobs.send(job(vec![Apply::Flush])).unwrap();
    let told = told(&outbox, 20);
    assert_eq!(told.iter().filter(|told| told.starts_with("full")).count(), 2, "{told:?}");
    drop(jobs);
    thread.join().unwrap().unwrap();
}

/// A node can be closed whose state has no space: what is missing is in the log.
#[test]
fn closing_does_not_wait_for_space() {
    let Bench { applier, jobs, outbox, shared, flushes } = bench(&[false; 100_000], 8);
    let mut answer = wait(&shared, 1);
    jobs.send(job(vec![entry(1)])).unwrap();
    let thread = std::thread::Builder::new().spawn(move || applier.run()).unwrap();
    let event = outbox.wait(Duration::from_secs(60)).unwrap();
    assert!(matches!(event, Event::StateFull(true)), "{event:?}");
    drop(jobs);
    thread.join().unwrap().unwrap();
    assert!(answer.try_recv().is_err(), "nobody knows what becomes of it");
    assert_eq!(*flushes.lock().unwrap(), 0);
    // The same where nothing but the last flush finds no space.
    let Bench { applier, jobs, .. } = bench(&[true, false], 8);
    jobs.send(job(vec![entry(1)])).unwrap();
    drop(jobs);
    applier.run().unwrap();
}

/// While there is no space, replicas ask for flushes again and again: those that wait do not grow in number.
#[test]
fn flushes_that_wait_are_one() {
    let Bench { mut applier, .. } = bench(&[], 8);
    for _ in 0..5 {
        applier.hold(job(vec![Apply::Flush]));
    }
    applier.hold(job(vec![entry(1)]));
    for _ in 0..5 {
        applier.hold(job(vec![Apply::Flush]));
    }
    assert_eq!(applier.held.len(), 3, "one before the entry, and one behind");
}
