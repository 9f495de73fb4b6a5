//! A whole cluster in one thread, from one seed: the same replicas and wals as in production, over
//! simulated disks, a simulated network and a simulated clock.
//!
//! Everything that happens is an event at a time; ties are broken by the order of scheduling, and
//! whatever is random is drawn from one generator. So a seed gives one run, and [`SimCluster::trace`]
//! gives one number for it.
//!
//! The cluster itself checks what every use of it must keep: no offset ever holds two different
//! records (G2), and state digests agree at equal offsets (G8). The workload checks the rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use palisade_wal::sim::SimDisk;
use palisade_wal::{BatchSeq, GroupId, LogIndex, Wal, WalIdentity, WalOptions};

use crate::applier::Committed;
use crate::effects::{Effects, Input, Role, Ticket, WallTime};
use crate::entry::CommittedEntry;
use crate::error::NodeError;
use crate::identity::{NodeId, Offset};
use crate::options::Options;
use crate::replica::{Replica, ReplicaConfig};
use crate::state_machine::StateMachine;
use crate::wire::Envelope;

/// The one group of a simulated cluster.
pub const GROUP: GroupId = GroupId::new(1);
/// Simulated time starts here, so that stamps look like times.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A state machine that can lose power.
pub trait SimMachine: StateMachine {
    /// Falls back to what was flushed.
    fn crash(&mut self);
    /// A digest of the state, equal for equal state.
    fn digest(&self) -> [u8; 32];
}

/// How unkind the simulated world is.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// How many nodes.
    pub nodes: u64,
    /// Of a thousand messages, how many are lost.
    pub loss_per_mille: u64,
    /// Of a thousand messages, how many arrive twice.
    pub duplicate_per_mille: u64,
    /// Longest way of a message, in microseconds.
    pub delay_us_max: u64,
    /// Longest sync, in microseconds.
    pub sync_us_max: u64,
    /// Of a thousand applies, how many are followed by a flush of the state.
    pub flush_per_mille: u64,
    /// Bounds of the replicas.
    pub replica: Options,
}

impl Default for SimOptions {
    fn default() -> Self {
        let replica = Options { tick_ms: 10, trim_entries_min: 16, ..Options::default() };
        Self {
            nodes: 3,
            loss_per_mille: 20,
            duplicate_per_mille: 20,
            delay_us_max: 5_000,
            sync_us_max: 3_000,
            flush_per_mille: 100,
            replica,
        }
    }
}

/// A small generator: SplitMix64.
#[derive(Clone, Debug)]
pub struct SimRandom(u64);

impl SimRandom {
    /// A generator of its own for this seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// True so many times of a thousand.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }
}

/// Names an operation of the workload.
pub type OpId = u64;

/// What became of an operation.
#[derive(Debug)]
pub enum Completion<O> {
    /// The record is committed and applied where it was proposed.
    Committed(Committed<O>),
    /// The read may be served from the state of its node now.
    Readable,
    /// It was refused: nothing happened.
    Refused(NodeError),
    /// The node it was given to went down: it may have happened.
    Unknown,
}

enum Event {
    Tick { node: NodeId, life: u64 },
    Deliver(Envelope),
    Synced { node: NodeId, life: u64 },
    Apply { node: NodeId, life: u64 },
}

struct Running {
    wal: Wal,
    replica: Replica,
    session: u64,
    next_seq: u64,
    syncing: bool,
    submitted: VecDeque<(BatchSeq, Ticket)>,
    to_apply: VecDeque<CommittedEntry>,
    proposals: BTreeMap<u64, OpId>,
    reads: BTreeMap<u64, OpId>,
    barriers: Vec<(LogIndex, OpId)>,
}

struct SimNode<M> {
    disk: SimDisk,
    machine: M,
    /// Counts starts, so that events of a former life are ignored.
    life: u64,
    running: Option<Running>,
}

/// A cluster of simulated nodes.
pub struct SimCluster<M: SimMachine> {
    options: SimOptions,
    random: SimRandom,
    now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_count: u64,
    nodes: BTreeMap<NodeId, SimNode<M>>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose disk does not come back from a sync, and whether one is under way.
    held: BTreeMap<NodeId, bool>,
    next_op: OpId,
    completions: VecDeque<(OpId, Completion<M::Outcome>)>,
    /// What every offset holds, as first applied anywhere.
    agreed: BTreeMap<Offset, Bytes>,
    digests: BTreeMap<Offset, [u8; 32]>,
    trace: u64,
    leaders: BTreeSet<(u64, NodeId)>,
}

impl<M: SimMachine> SimCluster<M> {
    /// Starts all nodes on empty disks.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions, machine: impl Fn(NodeId) -> M) -> Self {
        let mut random = SimRandom::from_seed(seed);
        let nodes = (1..=options.nodes)
            .map(|id| {
                let node = SimNode {
                    disk: SimDisk::from_seed(random.draw()),
                    machine: machine(NodeId::new(id)),
                    life: 0,
                    running: None,
                };
                (NodeId::new(id), node)
            })
            .collect();
        let mut cluster = Self {
            options,
            random,
            now_us: 0,
            events: BTreeMap::new(),
            event_count: 0,
            nodes,
            blocked: BTreeSet::new(),
            held: BTreeMap::new(),
            next_op: 0,
            completions: VecDeque::new(),
            agreed: BTreeMap::new(),
            digests: BTreeMap::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            leaders: BTreeSet::new(),
        };
        for id in cluster.node_ids() {
            cluster.start(id);
        }
        cluster
    }

    /// All nodes, up or not.
    #[must_use]
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The nodes that are up.
    #[must_use]
    pub fn up(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, n)| n.running.is_some()).map(|(id, _)| *id).collect()
    }

    /// A node that is up and believes it leads.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &SimNode<M>| {
            node.running.as_ref().is_some_and(|r| r.replica.status().role == Role::Leader)
        };
        self.nodes.iter().find(|(_, node)| leads(node)).map(|(id, _)| *id)
    }

    /// The state machine of a node, also while it is down.
    #[must_use]
    pub fn machine(&self, node: NodeId) -> &M {
        &self.nodes[&node].machine
    }

    /// The disk of a node.
    #[must_use]
    pub fn disk(&self, node: NodeId) -> &SimDisk {
        &self.nodes[&node].disk
    }

    /// The cluster's generator, for a workload that wants to be part of the same seed.
    pub fn random(&mut self) -> &mut SimRandom {
        &mut self.random
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// One number for everything that happened so far.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// How many different (term, node) have led so far.
    #[must_use]
    pub fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    /// The disk and the process of a node lose power. What was asked of it becomes unknown.
    pub fn power_off(&mut self, node: NodeId) {
        self.stop(node);
        let stopped = self.nodes.get_mut(&node).expect("a known node");
        stopped.disk.crash();
        stopped.machine.crash();
    }

    /// The process of a node is killed; its operating system goes on and keeps what was written.
    pub fn kill(&mut self, node: NodeId) {
        self.stop(node);
        self.nodes.get_mut(&node).expect("a known node").machine.crash();
    }

    fn stop(&mut self, node: NodeId) {
        self.note(b"stop", node.get());
        let stopped = self.nodes.get_mut(&node).expect("a known node");
        stopped.life += 1;
        if let Some(running) = stopped.running.take() {
            let barriers = running.barriers.into_iter().map(|(_, op)| op);
            let lost = running.proposals.into_values().chain(running.reads.into_values());
            for op in lost.chain(barriers) {
                self.completions.push_back((op, Completion::Unknown));
            }
        }
    }

    /// Starts a node on what its disk holds.
    pub fn start(&mut self, id: NodeId) {
        self.note(b"start", id.get());
        let (session, seed) = (self.random.draw(), self.random.draw());
        let voters = self.node_ids();
        let node = self.nodes.get_mut(&id).expect("a known node");
        if node.running.is_some() {
            return;
        }
        let identity = WalIdentity { cluster: 1, node: id.get(), incarnation: 1 };
        let wal_options = WalOptions {
            segment_bytes: 64 << 10,
            batch_bytes_max: 32 << 10,
            queued_bytes_max: 1 << 20,
            ..WalOptions::default()
        };
        let (wal, recovered) = Wal::open(Arc::new(node.disk.clone()), identity, wal_options)
            .expect("a crash leaves a log that opens");
        let config = ReplicaConfig {
            group: GROUP,
            node: id,
            voters,
            session,
            seed,
            options: self.options.replica.clone(),
        };
        let replica = Replica::open(
            config,
            recovered.groups.get(&GROUP),
            wal.reader(),
            node.machine.applied(GROUP),
        )
        .expect("a crash leaves a replica that opens");
        node.running = Some(Running {
            wal,
            replica,
            session,
            next_seq: 0,
            syncing: false,
            submitted: VecDeque::new(),
            to_apply: VecDeque::new(),
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            barriers: Vec::new(),
        });
        let life = node.life;
        let index = node.machine.flushed(GROUP).index;
        self.schedule(self.options.replica.tick_ms * 1000, Event::Tick { node: id, life });
        self.input(id, Input::Flushed { index });
    }

    /// Cuts or mends the way from one node to another.
    pub fn set_blocked(&mut self, from: NodeId, to: NodeId, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// From now on the disk of a node does not come back from a sync.
    pub fn hold_syncs(&mut self, node: NodeId) {
        self.held.entry(node).or_insert(false);
    }

    /// The disk of a node comes back, from the sync it was held in too.
    pub fn release_syncs(&mut self, node: NodeId) {
        if self.held.remove(&node) == Some(true) {
            let life = self.nodes[&node].life;
            self.schedule(0, Event::Synced { node, life });
        }
    }

    /// Mends every way.
    pub fn heal(&mut self) {
        self.blocked.clear();
    }

    /// Messages are no longer lost or doubled.
    pub fn calm(&mut self) {
        self.options.loss_per_mille = 0;
        self.options.duplicate_per_mille = 0;
    }

    /// Gives a record to a node. Its completion comes later.
    pub fn propose(&mut self, id: NodeId, payload: Bytes) -> OpId {
        let op = self.take_op();
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
            self.completions.push_back((op, Completion::Refused(NodeError::Closed)));
            return op;
        };
        if let Some(refusal) = running.replica.refusal(payload.len()) {
            self.completions.push_back((op, Completion::Refused(refusal)));
            return op;
        }
        running.next_seq += 1;
        let seq = running.next_seq;
        running.proposals.insert(seq, op);
        self.input(id, Input::Propose { seq, payload });
        op
    }

    /// Asks a node for a linearizable read. Its completion comes later.
    pub fn read(&mut self, id: NodeId) -> OpId {
        let op = self.take_op();
        match self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) {
            None => self.completions.push_back((op, Completion::Refused(NodeError::Closed))),
            Some(running) => {
                running.reads.insert(op, op);
                self.input(id, Input::Read { token: op });
            }
        }
        op
    }

    /// What has been completed since the last call, oldest first.
    pub fn completion(&mut self) -> Option<(OpId, Completion<M::Outcome>)> {
        self.completions.pop_front()
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, us: u64) {
        let end = self.now_us + us;
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now_us = at;
            self.handle(event);
        }
        self.now_us = end;
    }

    fn take_op(&mut self) -> OpId {
        self.next_op += 1;
        self.next_op
    }

    fn schedule(&mut self, after_us: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((self.now_us + after_us, self.event_count), event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => {
                if self.lives(node, life) {
                    self.note(b"tick", node.get());
                    let next = self.options.replica.tick_ms * 1000;
                    self.schedule(next, Event::Tick { node, life });
                    self.input(node, Input::Tick);
                }
            }
            Event::Deliver(envelope) => {
                let to = envelope.to;
                let blocked = self.blocked.contains(&(envelope.from, to));
                if !blocked && self.nodes[&to].running.is_some() {
                    let mut raw = BytesMut::new();
                    envelope.encode(&mut raw);
                    self.note(&raw, to.get());
                    let envelope = Envelope::decode(raw.freeze()).expect("just encoded");
                    self.input(to, Input::Peer(envelope));
                }
            }
            Event::Synced { node, life } => {
                if !self.lives(node, life) {
                    return;
                }
                if let Some(waits) = self.held.get_mut(&node) {
                    *waits = true;
                    return;
                }
                self.note(b"synced", node.get());
                self.synced(node);
            }
            Event::Apply { node, life } => {
                if self.lives(node, life) {
                    self.apply(node);
                }
            }
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        let node = &self.nodes[&node];
        node.life == life && node.running.is_some()
    }

    fn input(&mut self, id: NodeId, input: Input) {
        let now = WallTime::from_ms(EPOCH_MS + self.now_us / 1000);
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
            return;
        };
        let effects = running.replica.step(now, [input]).expect("no simulated fault halts a node");
        let status = running.replica.status();
        if status.role == Role::Leader && self.leaders.insert((status.term.get(), id)) {
            let sharing = self.leaders.iter().filter(|(term, _)| *term == status.term.get());
            assert_eq!(sharing.count(), 1, "two leaders in term={}", status.term);
        }
        self.perform(id, effects);
    }

    fn perform(&mut self, id: NodeId, effects: Effects) {
        for envelope in effects.send {
            self.send(envelope);
        }
        let node = self.nodes.get_mut(&id).expect("a known node");
        let life = node.life;
        let running = node.running.as_mut().expect("it has just stepped");
        for write in effects.writes {
            let seq = running.wal.submit(&write.writes).expect("a simulated wal has room");
            running.submitted.push_back((seq, write.ticket));
        }
        for (token, index) in effects.reads {
            let op = running.reads.remove(&token).expect("a read is answered once");
            running.barriers.push((index, op));
        }
        let applies = !effects.apply.is_empty() || !running.barriers.is_empty();
        running.to_apply.extend(effects.apply);
        self.write(id);
        if applies {
            let after = self.random.below(2_000);
            self.schedule(after, Event::Apply { node: id, life });
        }
    }

    fn send(&mut self, envelope: Envelope) {
        if self.random.per_mille(self.options.loss_per_mille) {
            return;
        }
        if self.random.per_mille(self.options.duplicate_per_mille) {
            let delay = self.random.below(10 * self.options.delay_us_max);
            self.schedule(delay, Event::Deliver(envelope.clone()));
        }
        let delay = 20 + self.random.below(self.options.delay_us_max);
        self.schedule(delay, Event::Deliver(envelope));
    }

    /// Writes what is queued, unless a sync is under way.
    fn write(&mut self, id: NodeId) {
        let after = 50 + self.random.below(self.options.sync_us_max);
        let node = self.nodes.get_mut(&id).expect("a known node");
        let life = node.life;
        let Some(running) = node.running.as_mut() else { return };
        if !running.syncing
            && running.wal.write_queued().expect("a simulated disk takes writes").is_some()
        {
            running.syncing = true;
            self.schedule(after, Event::Synced { node: id, life });
        }
    }

    fn synced(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("checked to live");
        running.syncing = false;
        let durable = running.wal.sync().expect("a simulated disk syncs");
        running.wal.maintain().expect("a simulated disk can be maintained");
        let mut tickets = Vec::new();
        while running.submitted.front().is_some_and(|(seq, _)| *seq <= durable) {
            tickets.extend(running.submitted.pop_front().map(|(_, ticket)| ticket));
        }
        for ticket in tickets {
            self.input(id, Input::Durable { ticket });
        }
        self.write(id);
    }

    fn apply(&mut self, id: NodeId) {
        let flush = self.random.per_mille(self.options.flush_per_mille);
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("checked to live");
        let entries: Vec<CommittedEntry> = running.to_apply.drain(..).collect();
        if !entries.is_empty() {
            let outcomes = node.machine.apply(GROUP, &entries).expect("apply does not fail");
            let mut outcomes = outcomes.into_iter();
            for entry in &entries {
                let mut offset = entry.first_offset;
                for record in &entry.records {
                    let outcome = outcomes.next().expect("one outcome for each record");
                    let agreed =
                        self.agreed.entry(offset).or_insert_with(|| record.payload.clone());
                    assert_eq!(*agreed, record.payload, "G2: offset={offset} holds two records");
                    if record.id.session == running.session
                        && let Some(op) = running.proposals.remove(&record.id.seq)
                    {
                        let log_time = entry.log_time;
                        let committed = Committed { offset, log_time, outcome };
                        self.completions.push_back((op, Completion::Committed(committed)));
                    }
                    offset = offset.next();
                }
            }
            let position = node.machine.applied(GROUP);
            let digest = node.machine.digest();
            let agreed = self.digests.entry(position.offset).or_insert(digest);
            assert_eq!(*agreed, digest, "G8: digests differ at offset={}", position.offset);
        }
        let position = node.machine.applied(GROUP);
        running.barriers.retain(|(index, op)| {
            let served = *index <= position.index;
            if served {
                self.completions.push_back((*op, Completion::Readable));
            }
            !served
        });
        if flush {
            node.machine.flush().expect("a simulated state flushes");
        }
        let index = node.machine.flushed(GROUP).index;
        self.note(b"apply", id.get() ^ position.offset.get() << 8);
        if !entries.is_empty() {
            self.input(id, Input::Applied { position });
        }
        if flush {
            self.input(id, Input::Flushed { index });
        }
    }

    /// Folds what happens into the trace (FNV-1a).
    fn note(&mut self, what: &[u8], who: u64) {
        let stamp = self.now_us.to_le_bytes();
        for byte in stamp.iter().chain(&who.to_le_bytes()).chain(what) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
