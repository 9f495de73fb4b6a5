//! The clients of a run: they submit, set, swap, read and open anew, at any node, in every group,
//! while the nemesis does what it does, and compare every answer with what is known.

use std::collections::{BTreeMap, BTreeSet};

use palisade::FenceEpoch;
use palisade::sim::{
    Nemesis, SimCluster, SimCompletion, SimEngine, SimFault, SimOutcome, SimRandom, Submission,
    Swap, open,
};
use palisade_replication::{GroupId, NodeError, NodeId, StateMachine};

use super::book::{Book, Changed, KINDS, Submitted, domain, spec};
use super::failure::enter;
use super::registers::{self, Registers};
use super::shape::RUN_US_MIN;
use super::{Run, Shape};
use crate::linear::Action;

type Cluster = SimCluster<SimEngine>;

/// What a seed must cover at least.
const OPS_MIN: u64 = 500;
/// How long the resources may take to be opened, before anything goes wrong.
const START_US_MAX: u64 = 120_000_000;
/// After everything is mended: how long until every group has a leader, and until every question is
/// answered.
const LEADER_US_MAX: u64 = 15_000_000;
const ANSWER_US_MAX: u64 = 30_000_000;

#[derive(Clone, Debug)]
enum Asked {
    Submission(Submitted),
    Change(Changed),
    Read(registers::Asked),
    Open { epoch: u64 },
}

struct Waiting {
    node: NodeId,
    group: GroupId,
    asked: Asked,
}

pub(super) struct Workload {
    shape: Shape,
    cluster: Cluster,
    nemesis: Nemesis,
    books: BTreeMap<GroupId, Book>,
    waiting: BTreeMap<u64, Waiting>,
    /// Counts questions and answers.
    clock: u64,
    /// Values of registers, each given once.
    values: u64,
    ops: u64,
    told: BTreeMap<&'static str, u64>,
}

impl Workload {
    /// A cluster whose groups have their resources, before anything has gone wrong.
    pub(super) fn start(shape: Shape) -> Self {
        let groups: Vec<GroupId> = (1..=shape.options.groups).map(GroupId::new).collect();
        let of_groups = groups.clone();
        let machine = move |node| SimEngine::of_groups(node, &of_groups);
        let mut cluster = Cluster::new(shape.seed, shape.options.clone(), machine);
        let mut opened = BTreeMap::new();
        let mut asked = BTreeMap::new();
        while opened.len() < groups.len() * KINDS.len() {
            assert!(cluster.now_us() < START_US_MAX, "liveness: nothing to start with");
            for (group, at) in groups.iter().flat_map(|group| [0, 1, 2].map(|at| (*group, at))) {
                let waits = asked.values().any(|waiting| *waiting == (group, at));
                if !opened.contains_key(&(group, at)) && !waits {
                    let (kind, name) = &KINDS[at];
                    let node = cluster.node_ids()[0];
                    let op =
                        cluster.propose(node, group, open(kind.clone(), spec(name, 1), domain()));
                    asked.insert(op, (group, at));
                }
            }
            cluster.run_for(200_000);
            while let Some((op, completion)) = cluster.completion() {
                let place = asked.remove(&op).expect("only these are asked for");
                if let SimCompletion::Committed(committed) = completion {
                    match SimOutcome::from(&committed.outcome) {
                        SimOutcome::Opened(resource) => opened.insert(place, resource),
                        other => panic!("a new resource is opened: {other:?}"),
                    };
                }
            }
        }
        let books = groups.into_iter().map(|group| {
            let resources = [0, 1, 2].map(|at| opened[&(group, at)]);
            (group, Book::new(group, resources))
        });
        let mut nemesis = shape.nemesis.clone();
        nemesis.leave_out(shape.without.iter().copied());
        Self {
            books: books.collect(),
            cluster,
            nemesis,
            shape,
            waiting: BTreeMap::new(),
            clock: 0,
            values: 0,
            ops: 0,
            told: BTreeMap::new(),
        }
    }

    pub(super) fn run(mut self) -> Run {
        for round in 0..self.shape.rounds {
            enter(round);
            self.round(round);
        }
        enter(self.shape.rounds);
        self.finish()
    }

    fn round(&mut self, round: u64) {
        let mut random = SimRandom::from_seed(self.shape.round_seed(round));
        let us = random.below(self.shape.round_us_max);
        let acts = random.per_mille(self.shape.act_per_mille);
        if !self.shape.quiet.contains(&round) {
            self.nemesis.reseed(random.draw());
            if acts {
                self.nemesis.act(&mut self.cluster);
            }
            // Whatever was drawn: a seed in which nobody but the first led shows little.
            if round == self.shape.rounds / 2 && !self.shape.without.contains(&SimFault::KillLeader)
            {
                self.nemesis.carry_out(SimFault::KillLeader, &mut self.cluster);
            }
            self.ask_all(&mut random);
        }
        let end = self.cluster.now_us() + us;
        self.settle_until(end);
    }

    fn ask_all(&mut self, random: &mut SimRandom) {
        for _ in 0..random.below(self.shape.round_ops_max + 1) {
            let (node, group) = self.pick(random);
            match random.below(20) {
                0..8 => self.submit(node, group, random),
                8..11 => self.put(node, group, random),
                11..14 => self.swap(node, group, random),
                14..19 => self.read(node, group, random),
                _ => self.read_at_receipt(node, group, random),
            }
        }
        let (node, group) = self.pick(random);
        let book = self.books.get_mut(&group).expect("a group of the run");
        if !book.is_open() {
            // Whoever opens for writing goes on until it has an answer.
            self.open(group, random);
        } else if random.below(40) == 0 {
            book.epoch += 1;
            self.open(group, random);
        }
        if random.below(100) == 0 {
            // More than a node takes at a time: what is over its bounds is refused (G12).
            for _ in 0..64 {
                self.submit(node, group, random);
            }
        }
    }

    fn pick(&mut self, random: &mut SimRandom) -> (NodeId, GroupId) {
        let nodes = self.cluster.node_ids();
        let groups: Vec<GroupId> = self.books.keys().copied().collect();
        (*random.pick(&nodes), *random.pick(&groups))
    }

    /// Few keys, so that repetitions and conflicts are common; stale writers now and then.
    fn submit(&mut self, node: NodeId, group: GroupId, random: &mut SimRandom) {
        let key = random.below(self.shape.keys);
        let variant = u8::from(random.below(10) == 0);
        let epoch = self.epoch(group, random);
        let payload = format!("report {key} {variant}").into_bytes();
        self.propose_submission(node, group, Submitted { key, payload, epoch });
    }

    fn propose_submission(&mut self, node: NodeId, group: GroupId, submitted: Submitted) {
        let submission = Submission {
            resources: self.books[&group].resources,
            epoch: FenceEpoch::new(submitted.epoch),
            key: submitted.key.to_be_bytes().to_vec(),
            payload: submitted.payload.clone(),
            caller: domain(),
        };
        let op = self.cluster.propose(node, group, submission.encode());
        self.wait(op, node, group, Asked::Submission(submitted));
    }

    fn epoch(&self, group: GroupId, random: &mut SimRandom) -> u64 {
        let epoch = self.books[&group].epoch;
        if epoch > 1 && random.below(8) == 0 { epoch - 1 } else { epoch }
    }

    fn put(&mut self, node: NodeId, group: GroupId, random: &mut SimRandom) {
        self.values += 1;
        let value = self.values;
        let epoch = self.epoch(group, random);
        let book = self.books.get_mut(&group).expect("a group of the run");
        let register = book.registers.pick(random);
        let asked = book.registers.ask(register, Action::Write(value), self.clock);
        let payload = format!("put {value} {register}").into_bytes();
        self.change(node, group, None, Changed { asked, payload, epoch });
    }

    /// Changes a register if it is what a node says, which may be behind, or see another change
    /// come first.
    fn swap(&mut self, node: NodeId, group: GroupId, random: &mut SimRandom) {
        self.values += 1;
        let value = self.values;
        let epoch = self.epoch(group, random);
        let book = self.books.get_mut(&group).expect("a group of the run");
        let register = book.registers.pick(random);
        let row =
            self.cluster.machine(node).map(group, book.resources[1], &Registers::key(register));
        let expected = Registers::value(row.as_ref().map(|(value, _)| value.as_slice()));
        let version = row.map_or(0, |(_, version)| version);
        let action = Action::Swap { expected, to: value, took: false };
        let asked = book.registers.ask(register, action, self.clock);
        let payload = format!("swap {value} {register} {version}").into_bytes();
        self.change(node, group, Some(version), Changed { asked, payload, epoch });
    }

    fn change(&mut self, node: NodeId, group: GroupId, expected: Option<u64>, changed: Changed) {
        let [log, map, _] = self.books[&group].resources;
        let swap = Swap {
            log,
            map,
            epoch: FenceEpoch::new(changed.epoch),
            key: Registers::key(changed.asked.register),
            expected,
            payload: changed.payload.clone(),
            caller: domain(),
        };
        let op = self.cluster.propose(node, group, swap.encode());
        self.wait(op, node, group, Asked::Change(changed));
    }

    fn read(&mut self, node: NodeId, group: GroupId, random: &mut SimRandom) {
        let book = self.books.get_mut(&group).expect("a group of the run");
        let register = book.registers.pick(random);
        let asked = book.registers.ask(register, Action::Read(0), self.clock);
        let op = self.cluster.read(node, group);
        self.wait(op, node, group, Asked::Read(asked));
    }

    /// G4, with deadline 0: what a receipt stands for, or that the node is not there yet.
    fn read_at_receipt(&mut self, node: NodeId, group: GroupId, random: &mut SimRandom) {
        let book = &self.books[&group];
        let Some((offset, key)) = book.receipt(random.draw()) else { return };
        let machine = self.cluster.machine(node);
        let fresh = machine.applied(group).offset.get() >= offset;
        if fresh {
            book.check_fresh(machine, offset, key, None);
        }
        self.ops += 1;
        self.tell(if fresh { "read at a receipt" } else { "not yet applied" });
    }

    /// A new generation of writers, while records of the old one are on their way.
    fn open(&mut self, group: GroupId, random: &mut SimRandom) {
        let epoch = self.books[&group].epoch;
        for (kind, name) in KINDS {
            let (node, _) = self.pick(random);
            let op = self.cluster.propose(node, group, open(kind, spec(name, epoch), domain()));
            self.wait(op, node, group, Asked::Open { epoch });
        }
    }

    fn wait(&mut self, op: u64, node: NodeId, group: GroupId, asked: Asked) {
        self.clock += 1;
        self.ops += 1;
        self.waiting.insert(op, Waiting { node, group, asked });
    }

    fn tell(&mut self, what: &'static str) {
        *self.told.entry(what).or_default() += 1;
    }

    /// Lets time pass, and takes every answer in the moment it is given: what a node says later is
    /// another answer.
    fn settle_until(&mut self, end: u64) {
        while self.cluster.run_to_completion(end) {
            while let Some((op, completion)) = self.cluster.completion() {
                if self.nemesis.asked(op) {
                    continue;
                }
                self.clock += 1;
                let waiting = self.waiting.remove(&op).expect("every question is answered once");
                self.settle(waiting, completion);
            }
        }
    }

    fn settle(
        &mut self,
        waiting: Waiting,
        completion: SimCompletion<palisade::sim::RecordOutcome>,
    ) {
        let Waiting { node, group, asked } = waiting;
        let book = self.books.get_mut(&group).expect("a group of the run");
        let machine = self.cluster.machine(node);
        let told = match (completion, asked) {
            (SimCompletion::Refused(refusal), asked) => {
                // Nothing has happened, and nothing will.
                match asked {
                    Asked::Change(changed) => {
                        book.registers.retract(changed.asked);
                        book.register_refused(changed);
                    }
                    Asked::Read(asked) => book.registers.retract(asked),
                    Asked::Submission(_) | Asked::Open { .. } => {}
                }
                match refusal {
                    NodeError::Backpressure { .. } => "refused: rate limited",
                    NodeError::Closed => "refused: down",
                    _ => "refused: no leader, or no member",
                }
            }
            (SimCompletion::Unknown, _) => "unknown",
            (SimCompletion::Changed, asked) => panic!("no change of membership: {asked:?}"),
            (SimCompletion::Readable(at), Asked::Read(asked)) => {
                let applied = machine.applied(group).offset;
                assert!(at <= applied, "G4: node={node} serves a read at {applied}, before {at}");
                let key = Registers::key(asked.register);
                let row = machine.map(group, book.resources[1], &key);
                let value = Registers::value(row.as_ref().map(|(value, _)| value.as_slice()));
                book.registers.answer(asked, Action::Read(value), self.clock);
                "read"
            }
            (SimCompletion::Readable(_), asked) => panic!("no read: {asked:?}"),
            (SimCompletion::Committed(committed), asked) => {
                let offset = committed.offset.get();
                let outcome = SimOutcome::from(&committed.outcome);
                settle_record(book, machine, asked, outcome, offset, self.clock)
            }
        };
        self.tell(told);
    }

    /// How long members take to get what they lack, if each entry needs a message and an answer.
    fn catch_up_us(&self) -> u64 {
        let last = |node, group| self.cluster.status(node, group).map(|s| s.last_index.get());
        let lag = |group| {
            let ends = self.cluster.members(group).into_iter().filter_map(|node| last(node, group));
            let ends: Vec<u64> = ends.collect();
            ends.iter().max().unwrap_or(&0) - ends.iter().min().unwrap_or(&0)
        };
        let options = &self.shape.options;
        let entry_us = 2 * options.delay_us_max + 2 * options.sync_us_max;
        self.books.keys().map(|group| lag(*group)).max().unwrap_or(0) * entry_us
    }

    /// Everything is mended: what is waited for is settled within a bounded time, and all that was
    /// told holds.
    fn finish(mut self) -> Run {
        let acted_us = self.cluster.now_us();
        self.cluster.heal();
        self.cluster.calm();
        for node in self.cluster.node_ids() {
            self.cluster.mend_node(node);
        }
        self.settle_until(self.cluster.now_us() + LEADER_US_MAX);
        let groups: Vec<GroupId> = self.books.keys().copied().collect();
        for group in &groups {
            let Some(leader) = self.cluster.leader(*group) else {
                self.cluster.tell_group(*group);
                panic!("liveness: group={group} has no leader");
            };
            self.cluster.tell(|| format!("mended: group {group} is led by node {leader}"));
            for node in self.cluster.members(*group) {
                let key = self.shape.keys + node.get();
                let payload = format!("last {node}").into_bytes();
                let epoch = self.books[group].epoch;
                self.propose_submission(node, *group, Submitted { key, payload, epoch });
            }
        }
        let answered = self.cluster.now_us() + ANSWER_US_MAX + self.catch_up_us();
        self.settle_until(answered.max(self.shape.ends_us_min()));
        // Who is no member any more may wait for ever.
        let members: BTreeMap<GroupId, BTreeSet<NodeId>> =
            groups.iter().map(|group| (*group, self.cluster.members(*group))).collect();
        let mut waiting = self.waiting.values().filter(|w| members[&w.group].contains(&w.node));
        if let Some(Waiting { node, group, asked }) = waiting.next() {
            self.cluster.tell_group(*group);
            panic!("liveness: node={node} of group={group} does not answer {asked:?}");
        }
        self.cluster.assert_converged();
        for (group, book) in &self.books {
            let node = self.cluster.leader(*group).expect("a group has a leader by now");
            book.check_log(self.cluster.machine(node));
            let (answered, undecided) = book.registers.check(group.get());
            *self.told.entry("checked for linearizability").or_default() += answered as u64;
            *self.told.entry("histories undecided").or_default() += undecided as u64;
        }
        let run = Run {
            trace: self.cluster.trace(),
            simulated_us: self.cluster.now_us(),
            ops: self.ops,
            leader_changes: (self.cluster.leaderships() - groups.len()) as u64,
            happened: self.cluster.coverage(),
            told: self.told,
        };
        self.shape.check_reach(&run, acted_us);
        run
    }
}

impl Shape {
    /// Whether all of its rounds are done.
    fn is_whole(&self) -> bool {
        self.rounds == Self::of_seed(self.seed).rounds && self.quiet.is_empty()
    }

    /// When it may end: rounds can be drawn short, one after the other.
    fn ends_us_min(&self) -> u64 {
        if self.is_whole() { RUN_US_MIN } else { 0 }
    }

    /// A run that covers less than it should proves less than it seems. One that is shortened may.
    fn check_reach(&self, run: &Run, acted_us: u64) {
        if self.is_whole() {
            assert!(acted_us >= RUN_US_MIN * 9 / 10, "reach: {acted_us} us with faults");
            assert!(run.simulated_us >= RUN_US_MIN, "reach: {} simulated us", run.simulated_us);
            assert!(run.ops >= OPS_MIN, "reach: {} operations", run.ops);
            let changes = run.leader_changes;
            assert!(changes > 0 || !self.without.is_empty(), "reach: no leader ever changed");
        }
    }
}

/// What the log says to a record.
fn settle_record(
    book: &mut Book,
    machine: &SimEngine,
    asked: Asked,
    outcome: SimOutcome,
    offset: u64,
    clock: u64,
) -> &'static str {
    match (asked, outcome) {
        (Asked::Submission(submitted), SimOutcome::Applied) => {
            book.submission_applied(submitted, offset, machine);
            "submission applied"
        }
        (Asked::Submission(submitted), SimOutcome::Duplicate(at)) => {
            book.submission_repeated(submitted, at);
            "submission repeated"
        }
        (Asked::Submission(_), SimOutcome::Conflict) => "submission in conflict",
        (Asked::Change(changed), SimOutcome::Applied) => {
            let action = match book.registers.action(changed.asked) {
                Action::Swap { expected, to, .. } => Action::Swap { expected, to, took: true },
                action => action,
            };
            book.registers.answer(changed.asked, action, clock);
            book.register_changed(changed, offset);
            "register changed"
        }
        (Asked::Change(changed), SimOutcome::VersionMismatch) => {
            let action = book.registers.action(changed.asked);
            book.registers.answer(changed.asked, action, clock);
            book.register_refused(changed);
            "swap refused"
        }
        (Asked::Open { epoch }, SimOutcome::Opened(resource)) => {
            book.opened(resource, epoch, offset);
            "opened"
        }
        (asked, SimOutcome::Fenced(current)) => {
            let epoch = match asked {
                Asked::Submission(Submitted { epoch, .. }) | Asked::Open { epoch } => epoch,
                Asked::Change(changed) => {
                    let epoch = changed.epoch;
                    book.registers.retract(changed.asked);
                    book.register_refused(changed);
                    epoch
                }
                Asked::Read(_) => panic!("a read is no record"),
            };
            assert!(epoch < current.get(), "G3: epoch={epoch} fenced by an older {current:?}");
            "fenced"
        }
        // A generation that was never opened on this resource, as its open was lost.
        (Asked::Submission(_), SimOutcome::Refused(_)) => "refused by the log",
        (Asked::Change(changed), SimOutcome::Refused(_)) => {
            book.registers.retract(changed.asked);
            book.register_refused(changed);
            "refused by the log"
        }
        (asked, outcome) => panic!("{asked:?} is no question for {outcome:?}"),
    }
}
