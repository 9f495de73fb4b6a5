//! A whole cluster in one thread, from one seed: the same hosts, replicas, wals and shelves as in
//! production, over simulated disks, a simulated network and simulated clocks.
//!
//! Everything that happens is an event at a time; ties are broken by the order of scheduling, and
//! whatever is random is drawn from one generator. So a seed gives one run, and [`SimCluster::trace`]
//! gives one number for it.
//!
//! The cluster itself checks what every use of it must keep: one leader a term, no offset ever holds
//! two different records (G2), and state digests agree at equal offsets (G8). The workload checks
//! the rest.

mod checks;
mod damage;
mod nemesis;
mod network;
mod node;
mod random;
mod sealing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use palisade_wal::sim::SimDisk;
use palisade_wal::{GroupId, LogIndex, WalOptions};

use crate::applier::Committed;
use crate::effects::{GroupStatus, Input};
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Offset, Term};
use crate::membership::{Member, MemberChange, Membership};
use crate::options::Options;
use crate::state_machine::StateMachine;

pub use nemesis::{Nemesis, SimFault};
use network::Network;
use node::{Running, SimNode};
pub use random::SimRandom;
use sealing::Sealing;

/// The first group of a simulated cluster.
pub const GROUP: GroupId = GroupId::new(1);
/// Simulated time starts here, so that stamps look like times.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A state machine that can lose power.
pub trait SimMachine: StateMachine {
    /// Falls back to what was flushed.
    fn crash(&mut self);
    /// Something cheap that is equal for equal histories.
    fn head(&self, group: GroupId) -> [u8; 32];
    /// A digest of the whole state, equal for equal state.
    fn digest(&self, group: GroupId) -> [u8; 32];
}

/// How the simulated world is made, and how unkind it is all the time.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// How many nodes are voters of every group at first. They are numbered from 1.
    pub nodes: u64,
    /// How many groups.
    pub groups: u64,
    /// The number of the first of them; 1 if nothing else is said.
    pub first_group: u64,
    /// The failure domains of nodes as members; of others zone-0 or zone-1, by their numbers.
    pub domains: BTreeMap<NodeId, String>,
    /// Of a thousand messages, how many are lost.
    pub loss_per_mille: u64,
    /// Of a thousand messages, how many arrive twice.
    pub duplicate_per_mille: u64,
    /// Of a thousand messages, how many arrive altered, and of a thousand chunks of snapshots, how many
    /// are altered before they leave.
    pub corrupt_per_mille: u64,
    /// Longest way of a message, in microseconds.
    pub delay_us_max: u64,
    /// Of a thousand inputs, how many are taken in together with the next.
    pub gather_per_mille: u64,
    /// Longest sync, in microseconds.
    pub sync_us_max: u64,
    /// Of a thousand applies, how many are followed by a flush of the state.
    pub flush_per_mille: u64,
    /// Whether to say what happens, for people who replay a seed.
    pub tells: bool,
    /// A node's clock may run so much faster or slower, in thousandths.
    pub drift_per_mille: u64,
    /// Bounds of the replicas.
    pub replica: Options,
    /// Bounds of their logs.
    pub wal: WalOptions,
    /// Whether logs and snapshots are sealed, with keys that change while nodes run and over starts.
    pub seals: bool,
}

impl SimOptions {
    /// No message is lost, doubled or altered by itself.
    #[must_use]
    pub fn calm() -> Self {
        Self { loss_per_mille: 0, duplicate_per_mille: 0, corrupt_per_mille: 0, ..Self::default() }
    }
}

impl Default for SimOptions {
    fn default() -> Self {
        let replica = Options {
            tick_ms: 10,
            trim_entries_min: 16,
            lag_entries_max: 200,
            record_bytes_max: 4 << 10,
            message_bytes_max: 4 << 10,
            entry_bytes_target: 4 << 10,
            snapshot_patience_ticks: 100,
            resend_ticks: 20,
            report_ticks: 40,
            ..Options::default()
        };
        Self {
            nodes: 3,
            groups: 1,
            first_group: 1,
            domains: BTreeMap::new(),
            loss_per_mille: 20,
            duplicate_per_mille: 20,
            corrupt_per_mille: 2,
            delay_us_max: 5_000,
            gather_per_mille: 300,
            sync_us_max: 3_000,
            flush_per_mille: 100,
            tells: std::env::var_os("PALISADE_SIM_TELL").is_some(),
            drift_per_mille: 50,
            replica,
            wal: WalOptions {
                segment_bytes: 64 << 10,
                batch_bytes_max: 32 << 10,
                queued_bytes_max: 1 << 20,
                ..WalOptions::default()
            },
            seals: false,
        }
    }
}

/// Names an operation of the workload.
pub type OpId = u64;

/// What became of an operation.
#[derive(Debug)]
pub enum Completion<O> {
    /// The record is committed and applied where it was proposed.
    Committed(Committed<O>),
    /// The read was served from the state of its node, which stood here.
    Readable(Offset),
    /// The membership is what was asked for.
    Changed,
    /// It was refused: nothing happened.
    Refused(NodeError),
    /// The node it was given to went down, or will never see it: it may have happened.
    Unknown,
}

enum Event {
    Tick {
        node: NodeId,
        life: u64,
    },
    Deliver(network::Parcel),
    Synced {
        node: NodeId,
        life: u64,
    },
    Apply {
        node: NodeId,
        life: u64,
    },
    /// Something for a replica that took its time.
    Later {
        node: NodeId,
        life: u64,
        group: GroupId,
        input: Input,
    },
}

impl Event {
    /// Where it happens.
    fn node(&self) -> NodeId {
        match self {
            Self::Deliver(parcel) => parcel.envelope.to,
            Self::Tick { node, .. }
            | Self::Synced { node, .. }
            | Self::Apply { node, .. }
            | Self::Later { node, .. } => *node,
        }
    }

    /// The life of the node that it belongs to, if it does not outlive that.
    fn life(&self) -> Option<u64> {
        match self {
            Self::Deliver(_) => None,
            Self::Tick { life, .. }
            | Self::Synced { life, .. }
            | Self::Apply { life, .. }
            | Self::Later { life, .. } => Some(*life),
        }
    }
}

/// A cluster of simulated nodes.
pub struct SimCluster<M: SimMachine> {
    options: SimOptions,
    machine: Box<dyn Fn(NodeId) -> M>,
    random: SimRandom,
    /// For what came later: drawn from the other, it would make every seed another run.
    rot: SimRandom,
    now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_count: u64,
    nodes: BTreeMap<NodeId, SimNode<M>>,
    network: Network,
    next_op: OpId,
    completions: VecDeque<(OpId, Completion<M::Outcome>)>,
    /// What every offset holds, as first applied anywhere.
    agreed: BTreeMap<(GroupId, Offset), Bytes>,
    heads: BTreeMap<(GroupId, Offset), [u8; 32]>,
    trace: u64,
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    /// The term of every entry, as first applied anywhere.
    terms: BTreeMap<(GroupId, LogIndex), Term>,
    /// How far each group is applied, wherever it is furthest.
    applied: BTreeMap<GroupId, LogIndex>,
    coverage: BTreeMap<&'static str, u64>,
}

impl<M: SimMachine> SimCluster<M> {
    /// Starts all nodes on empty disks.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions, machine: impl Fn(NodeId) -> M + 'static) -> Self {
        let mut cluster = Self {
            random: SimRandom::from_seed(seed),
            rot: SimRandom::from_seed(seed ^ 0x00c4_a27e),
            machine: Box::new(machine),
            now_us: 0,
            events: BTreeMap::new(),
            event_count: 0,
            nodes: BTreeMap::new(),
            network: Network::default(),
            next_op: 0,
            completions: VecDeque::new(),
            agreed: BTreeMap::new(),
            heads: BTreeMap::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            applied: BTreeMap::new(),
            coverage: BTreeMap::new(),
            options,
        };
        let first: BTreeMap<NodeId, Member> = (1..=cluster.options.nodes)
            .map(|id| {
                let id = NodeId::new(id);
                (id, Member { domain: cluster.domain(id), ..Member::default() })
            })
            .collect();
        let first = Membership::of_voters(first);
        for id in 1..=cluster.options.nodes {
            cluster.make_node(NodeId::new(id), Some(first.clone()));
        }
        for id in cluster.node_ids() {
            cluster.start(id);
        }
        cluster
    }

    /// The groups that every node hosts.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<M> {
        let first = self.options.first_group;
        (first..first + self.options.groups).map(GroupId::new)
    }

    fn make_node(&mut self, id: NodeId, first: Option<Membership>) {
        let drift = self.options.drift_per_mille;
        let node = SimNode {
            disk: SimDisk::from_seed(self.random.draw()),
            shelf_disk: SimDisk::from_seed(self.random.draw()),
            machine: (self.machine)(id),
            incarnation: Incarnation::new(u128::from(self.random.draw()) + 1),
            first,
            wiped: false,
            acquaintances: BTreeMap::new(),
            life: 0,
            ceiling: Term::ZERO,
            tick_us: self.options.replica.tick_ms
                * (1000 - drift + self.random.below(2 * drift + 1)),
            clock_ms: 0,
            stopped_until: 0,
            held: None,
            running: None,
            halted: None,
            halted_groups: BTreeMap::new(),
            rebuilding: BTreeSet::new(),
            harmed: false,
            slowness: 1,
            fuse: None,
            cuts: false,
            kept: BTreeMap::new(),
            sealing: Sealing::default(),
        };
        self.nodes.insert(id, node);
    }

    /// Which life of its data directory a node is in.
    #[must_use]
    pub fn incarnation(&self, id: NodeId) -> Incarnation {
        self.nodes[&id].incarnation
    }

    /// Who a node is now.
    #[must_use]
    pub fn describe(&self, id: NodeId) -> (NodeId, Member) {
        let (incarnation, domain) = (Some(self.incarnation(id)), self.domain(id));
        (id, Member { incarnation, domain, address: None })
    }

    fn domain(&self, id: NodeId) -> String {
        let named = self.options.domains.get(&id).cloned();
        named.unwrap_or_else(|| format!("zone-{}", id.get() % 2))
    }

    /// Makes a node that waits to be made a member, and starts it. Says who it is.
    pub fn add_node(&mut self) -> (NodeId, Member) {
        let id = NodeId::new(self.nodes.keys().last().map_or(1, |last| last.get() + 1));
        self.make_node(id, None);
        self.start(id);
        self.describe(id)
    }

    /// The node loses its data directory and comes back under its name with an empty one, as
    /// somebody who does not know better would start it: as a first voter if it was one.
    pub fn wipe(&mut self, id: NodeId) {
        self.count("wipe");
        self.power_off(id);
        let first = self.nodes[&id].first.clone();
        let life = self.nodes[&id].life;
        self.nodes[&id].strikes(&mut self.coverage);
        self.make_node(id, first);
        let node = self.nodes.get_mut(&id).expect("just made");
        (node.life, node.wiped) = (life + 1, true);
        self.start(id);
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

    /// A node that is up and believes it leads the group.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |node: &SimNode<M>| {
            let replica = node.running.as_ref().and_then(|r| r.host.replica(group));
            replica.is_some_and(|replica| replica.leads()).then(|| replica.map(|r| r.term()))
        };
        let led = self.nodes.iter().filter_map(|(id, node)| Some((leads(node)?, *id)));
        led.max().map(|(_, id)| id)
    }

    /// How a node that is up sees a group.
    #[must_use]
    pub fn status(&self, node: NodeId, group: GroupId) -> Option<GroupStatus> {
        let running = self.nodes.get(&node)?.running.as_ref()?;
        running.host.status(group)
    }

    /// What a node's clock says, in milliseconds.
    #[must_use]
    pub fn clock_ms(&self, node: NodeId) -> u64 {
        (EPOCH_MS + self.now_us / 1000).saturating_add_signed(self.nodes[&node].clock_ms)
    }

    /// Why a node halted by itself, if it did since it was last started.
    #[must_use]
    pub fn halted(&self, node: NodeId) -> Option<&NodeError> {
        self.nodes.get(&node)?.halted.as_ref()
    }

    /// Why a group halted on a node, if it did since the node was last started.
    #[must_use]
    pub fn halted_group(&self, node: NodeId, group: GroupId) -> Option<&NodeError> {
        self.nodes.get(&node)?.halted_groups.get(&group)
    }

    /// Whether the state of a group is being made anew there.
    #[must_use]
    pub fn is_rebuilding(&self, node: NodeId, group: GroupId) -> bool {
        self.nodes[&node].rebuilding.contains(&group)
    }

    /// The state machine of a node, also while it is down.
    #[must_use]
    pub fn machine(&self, node: NodeId) -> &M {
        &self.nodes[&node].machine
    }

    /// The disk of a node's log.
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

    /// How many different (group, term) have had a leader so far.
    #[must_use]
    pub fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    /// How often each kind of fault, and each rare step of the protocol, has happened.
    #[must_use]
    pub fn coverage(&self) -> BTreeMap<&'static str, u64> {
        let mut all = self.coverage.clone();
        self.nodes.values().for_each(|node| node.strikes(&mut all));
        all
    }

    /// Says what happens, if the options ask for it.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.options.tells {
            let (s, us) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
            eprintln!("{s:5}.{us:06} {}", what());
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    /// The disk and the process of a node lose power. What was asked of it becomes unknown.
    pub fn power_off(&mut self, id: NodeId) {
        self.count("power off");
        self.stop(id);
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.cuts = false;
        // A disk that loses its last write and then power has told a lie that nobody can find out.
        if node.disk.hides_a_loss() {
            node.disk.crash_late();
        } else {
            node.disk.crash();
        }
        node.shelf_disk.crash();
        node.machine.crash();
    }

    /// The node loses power in the middle of what it does: when it has done so many further things,
    /// of which sending one message is one, and applying one entry.
    pub fn power_off_within(&mut self, id: NodeId, deeds: u64) {
        self.nodes.get_mut(&id).expect("a known node").fuse = Some(deeds);
    }

    /// The node loses power in the middle of what it does to a disk, after so many changes of it: to that
    /// of its log, or that of its snapshots.
    pub fn power_off_within_disk(&mut self, id: NodeId, changes: u64, snapshots: bool) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.cuts = true;
        let disk = if snapshots { &node.shelf_disk } else { &node.disk };
        disk.fail_power_after(changes);
    }

    /// Power has failed in the middle of something: it fails for the whole node.
    fn notice_cut(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get(&id).filter(|node| node.cuts) else { return false };
        let is_cut = !node.disk.has_power() || !node.shelf_disk.has_power();
        if is_cut {
            self.count("power off in a disk operation");
            self.power_off(id);
        }
        is_cut
    }

    /// One thing more is done. True if that was the last: the node is down.
    fn burns(&mut self, id: NodeId) -> bool {
        let node = self.nodes.get_mut(&id).expect("a known node");
        match &mut node.fuse {
            Some(0) => {
                self.count("power off in the middle");
                self.power_off(id);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// The process of a node is killed; its operating system goes on and keeps what was written.
    pub fn kill(&mut self, id: NodeId) {
        self.count("kill");
        self.stop(id);
        self.nodes.get_mut(&id).expect("a known node").machine.crash();
    }

    fn stop(&mut self, id: NodeId) {
        self.note(b"stop", id.get());
        self.tell(|| format!("node {id} stops"));
        self.note_kept(id);
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.life += 1;
        node.stopped_until = 0;
        node.fuse = None;
        node.held = None;
        if let Some(running) = node.running.take() {
            let lost = running.into_waiting();
            self.completions.extend(lost.map(|op| (op, Completion::Unknown)));
        }
    }

    /// The process of a node is stopped for so long and then goes on, as after SIGSTOP.
    pub fn pause(&mut self, id: NodeId, us: u64) {
        self.count("pause");
        let until = self.now_us + us;
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.stopped_until = node.stopped_until.max(until);
    }

    /// A node's wall clock jumps.
    pub fn jump_clock(&mut self, id: NodeId, ms: i64) {
        self.count("clock jump");
        self.nodes.get_mut(&id).expect("a known node").clock_ms += ms;
    }

    /// Cuts or mends the way from one node to another.
    pub fn set_blocked(&mut self, from: NodeId, to: NodeId, blocked: bool) {
        if blocked {
            self.count("blocked way");
        }
        self.network.set_blocked(from, to, blocked);
    }

    /// From now on the disk of a node takes so many times as long.
    pub fn slow_disk(&mut self, id: NodeId, times: u64) {
        self.count("disk slow");
        self.nodes.get_mut(&id).expect("a known node").slowness = times;
    }

    /// From now on the disk of a node does not come back from a sync.
    pub fn hold_syncs(&mut self, id: NodeId) {
        self.count("disk hangs");
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.held.get_or_insert(false);
    }

    /// The disk of a node comes back, from the sync it was held in too.
    pub fn release_syncs(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        if node.held.take() == Some(true) {
            let life = node.life;
            self.schedule(0, Event::Synced { node: id, life });
        }
    }

    /// Mends every way and every disk, and lets stopped processes go on.
    pub fn heal(&mut self) {
        self.network.heal();
        for id in self.node_ids() {
            self.mend_disk(id);
            self.release_syncs(id);
            let now = self.now_us;
            let node = self.nodes.get_mut(&id).expect("a known node");
            node.stopped_until = node.stopped_until.min(now);
            node.slowness = 1;
            node.fuse = None;
            if std::mem::take(&mut node.cuts) {
                node.disk.fail_power_after(u64::MAX);
                node.shelf_disk.fail_power_after(u64::MAX);
            }
        }
    }

    /// Messages are no longer lost, doubled or altered.
    pub fn calm(&mut self) {
        let SimOptions { loss_per_mille, duplicate_per_mille, corrupt_per_mille, .. } =
            SimOptions::calm();
        self.options.loss_per_mille = loss_per_mille;
        self.options.duplicate_per_mille = duplicate_per_mille;
        self.options.corrupt_per_mille = corrupt_per_mille;
    }

    /// Gives a record to a node. Its completion comes later.
    pub fn propose(&mut self, id: NodeId, group: GroupId, payload: Bytes) -> OpId {
        let op = self.take_op();
        let refusal = match self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) {
            None => Some(NodeError::Closed),
            Some(running) => match running.propose(group, op, &payload) {
                Ok(seq) => {
                    self.input(id, group, Input::Propose { seq, payload });
                    None
                }
                Err(refusal) => Some(refusal),
            },
        };
        self.completions.extend(refusal.map(|refusal| (op, Completion::Refused(refusal))));
        op
    }

    /// Whoever gave the record to the node waits for it no longer. It may be committed all the same.
    pub fn abandon(&mut self, id: NodeId, op: OpId) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
            return;
        };
        if let Some((group, seq)) = running.give_up(op) {
            self.input(id, group, Input::Abandon { seq });
        }
    }

    /// Asks a node for a linearizable read. Its completion comes later.
    pub fn read(&mut self, id: NodeId, group: GroupId) -> OpId {
        let takes = self.nodes[&id].running.as_ref().is_none_or(|running| {
            running.host.replica(group).is_none_or(|replica| replica.takes_reads())
        });
        if !takes {
            let op = self.take_op();
            let refusal = NodeError::Backpressure { queue: "reads_max", retry_after_ms: 10 };
            self.completions.push_back((op, Completion::Refused(refusal)));
            return op;
        }
        self.ask(id, group, |token| Input::Read { token })
    }

    /// Asks a node to change the membership. Its completion comes later.
    pub fn change(&mut self, id: NodeId, group: GroupId, change: MemberChange) -> OpId {
        self.ask(id, group, |token| Input::Change { token, change })
    }

    /// Asks a node to hand its leadership over, if it has it.
    pub fn transfer(&mut self, id: NodeId, group: GroupId, to: NodeId) {
        self.count("leadership transfer asked");
        self.input(id, group, Input::Transfer { to });
    }

    fn ask(&mut self, id: NodeId, group: GroupId, input: impl FnOnce(u64) -> Input) -> OpId {
        let op = self.take_op();
        match self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) {
            None => self.completions.push_back((op, Completion::Refused(NodeError::Closed))),
            Some(running) => {
                running.asked.insert(op);
                self.input(id, group, input(op));
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
        while self.happen_until(end) {}
        self.now_us = end;
    }

    /// Lets time pass until something is completed, at most until then. Says whether something is.
    pub fn run_to_completion(&mut self, end_us: u64) -> bool {
        while self.completions.is_empty() && self.happen_until(end_us) {}
        if self.completions.is_empty() {
            self.now_us = self.now_us.max(end_us);
        }
        !self.completions.is_empty()
    }

    /// The next thing happens, if it is due until then.
    fn happen_until(&mut self, end_us: u64) -> bool {
        let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end_us) else {
            return false;
        };
        let ((at, _), event) = entry.remove_entry();
        self.now_us = at;
        let id = event.node();
        self.handle(event);
        self.notice_cut(id);
        true
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
        let (id, life) = (event.node(), event.life());
        let node = &self.nodes[&id];
        if node.running.is_none() || life.is_some_and(|life| life != node.life) {
            return;
        }
        if let Some(wait) = node.stopped_until.checked_sub(self.now_us).filter(|wait| *wait > 0) {
            // What arrives at a stopped process waits for it.
            self.schedule(wait, event);
            return;
        }
        match event {
            Event::Tick { node: id, life } => {
                self.note(b"tick", id.get());
                let next = self.nodes[&id].tick_us;
                self.schedule(next, Event::Tick { node: id, life });
                if self.nodes.get_mut(&id).is_some_and(|node| node.sealing.tick(id)) {
                    self.count("keys rotated");
                }
                self.greet(id);
                self.scrub(id);
                self.running(id).host.tick();
                self.step(id);
                self.check_loads(id);
            }
            Event::Deliver(parcel) => self.deliver(parcel),
            Event::Synced { .. } => {
                if let Some(waits) = &mut self.nodes.get_mut(&id).expect("a known node").held {
                    *waits = true;
                    return;
                }
                self.note(b"synced", id.get());
                self.synced(id);
            }
            Event::Apply { .. } => self.apply(id),
            Event::Later { group, input, .. } if self.gathers() => {
                self.running(id).host.input(group, input);
            }
            Event::Later { group, input, .. } => self.input(id, group, input),
        }
    }

    /// True if what has just arrived waits for what comes next, to be taken in with it in one step.
    fn gathers(&mut self) -> bool {
        let per_mille = self.options.gather_per_mille;
        self.random.per_mille(per_mille)
    }

    fn running(&mut self, id: NodeId) -> &mut Running {
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.running.as_mut().expect("it is up")
    }

    fn input(&mut self, id: NodeId, group: GroupId, input: Input) {
        if let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) {
            running.host.input(group, input);
            self.step(id);
        }
    }

    /// Folds what happens into the trace (FNV-1a).
    fn note(&mut self, what: &[u8], who: u64) {
        let stamp = self.now_us.to_le_bytes();
        for byte in stamp.iter().chain(&who.to_le_bytes()).chain(what) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// The nodes that are members of a group, as its leader sees it, or nobody without one. One that
    /// lost its data directory is none, whatever its name, before it is added again.
    #[must_use]
    pub fn members(&self, group: GroupId) -> BTreeSet<NodeId> {
        let status = self.leader(group).and_then(|leader| self.status(leader, group));
        let members = status.map(|status| status.members.members).unwrap_or_default();
        let is_it = |(id, member): (NodeId, Member)| {
            let node = &self.nodes[&id];
            let is_it = !node.wiped || member.incarnation == Some(node.incarnation);
            (is_it && !self.is_beyond_repair(id)).then_some(id)
        };
        members.into_iter().filter_map(is_it).collect()
    }
}
