//! A cluster in which nothing goes wrong by itself, and what was acknowledged in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut, Range};

use bytes::Bytes;
use palisade_replication::sim::{Completion, GROUP, OpId, SimCluster, SimOptions};
use palisade_replication::{MemberChange, NodeError, NodeId, Offset};

use crate::journal::Journal;

/// Frames begin behind the header of a segment, as `wal/docs/format.md` has it.
const SEGMENT_HEADER_BYTES: usize = 96;
const FRAME_HEADER_BYTES: usize = 36;

/// Nothing is lost, doubled or altered, and no state is flushed.
pub(crate) fn calm() -> SimOptions {
    SimOptions { flush_per_mille: 0, ..SimOptions::calm() }
}

/// Runs it for each seed, and says which one failed.
pub(crate) fn each_seed<T>(count: u64, run: impl Fn(u64) -> T) -> Vec<T> {
    let number = |name| std::env::var(name).ok().map(|raw| raw.parse::<u64>().expect("a number"));
    let seeds = match number("PALISADE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PALISADE_SIM_SEEDS").unwrap_or(count),
    };
    let run = std::panic::AssertUnwindSafe(run);
    let each = |seed: u64| {
        std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
            eprintln!(
                "seed {seed} failed; replay it with PALISADE_SIM_SEED={seed} \
                 cargo test -p palisade-replication --test directed"
            );
            std::panic::resume_unwind(panic)
        })
    };
    seeds.map(each).collect()
}

/// The cluster itself asserts that no offset ever holds two records (G2), that equal offsets mean
/// equal histories (G8), and that a term has one leader.
pub(crate) struct Scene {
    cluster: SimCluster<Journal>,
    waiting: BTreeMap<OpId, Bytes>,
    acked: BTreeMap<Offset, Bytes>,
    answers: BTreeMap<OpId, Completion<usize>>,
    number: u64,
}

impl Deref for Scene {
    type Target = SimCluster<Journal>;
    fn deref(&self) -> &Self::Target {
        &self.cluster
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.cluster
    }
}

impl Scene {
    pub(crate) fn new(seed: u64, options: SimOptions) -> Self {
        Self {
            cluster: SimCluster::new(seed, options, |_| Journal::default()),
            waiting: BTreeMap::new(),
            acked: BTreeMap::new(),
            answers: BTreeMap::new(),
            number: 0,
        }
    }

    /// With a leader, and some time after it was elected.
    pub(crate) fn begun(seed: u64, options: SimOptions) -> Self {
        let mut scene = Self::new(seed, options);
        scene.pass(5_000_000);
        scene.led();
        scene
    }

    pub(crate) fn led(&self) -> NodeId {
        self.leader(GROUP).expect("liveness: a leader")
    }

    pub(crate) fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.node_ids().into_iter().filter(|other| *other != node).collect()
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.random().below(end)
    }

    /// In any order.
    pub(crate) fn shuffled(&mut self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        let count = nodes.len();
        for at in 1..count {
            let with = self.below(at as u64 + 1) as usize;
            nodes.swap(at, with);
        }
        nodes
    }

    /// Lets so much time pass, and notes what is acknowledged in it.
    pub(crate) fn pass(&mut self, us: u64) {
        self.run_for(us);
        while let Some((op, completion)) = self.completion() {
            let payload = self.waiting.remove(&op);
            if let (Completion::Committed(committed), Some(payload)) = (&completion, payload) {
                let before = self.acked.insert(committed.offset, payload);
                assert!(before.is_none(), "G2: two records have the receipt {}", committed.offset);
            }
            self.answers.insert(op, completion);
        }
    }

    /// Lets time pass until it is so, and at most so much. Whether it is.
    pub(crate) fn wait(&mut self, us_max: u64, so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now_us() + us_max;
        while !so(self) {
            if end <= self.now_us() {
                return false;
            }
            self.pass(50);
        }
        true
    }

    /// Gives a new record to a node.
    pub(crate) fn give(&mut self, node: NodeId) -> OpId {
        self.number += 1;
        let payload = Bytes::copy_from_slice(&self.number.to_le_bytes());
        let op = self.propose(node, GROUP, payload.clone());
        self.waiting.insert(op, payload);
        op
    }

    /// Gives so many records to a node, one after the other, and says how many were acknowledged.
    pub(crate) fn record(&mut self, node: NodeId, count: u64) -> usize {
        let before = self.acked.len();
        for _ in 0..count {
            self.give(node);
            self.pass(50_000);
        }
        self.acked.len() - before
    }

    pub(crate) fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// What was answered to a read or a change, if anything was.
    pub(crate) fn answer(&self, op: OpId) -> Option<&Completion<usize>> {
        self.answers.get(&op)
    }

    /// Asks the leader for a change, and gives it time. What it answered.
    pub(crate) fn changed(&mut self, change: MemberChange) -> Result<(), NodeError> {
        let leader = self.led();
        let op = self.change(leader, GROUP, change);
        self.pass(1_000_000);
        match self.answers.remove(&op) {
            Some(Completion::Changed) => Ok(()),
            Some(Completion::Refused(refusal)) => Err(refusal),
            other => panic!("liveness: a change is neither made nor refused: {other:?}"),
        }
    }

    /// The ways between these and all others are cut, or mended.
    pub(crate) fn cut(&mut self, side: &[NodeId], blocked: bool) {
        for other in self.node_ids() {
            for node in side.iter().filter(|_| !side.contains(&other)) {
                self.set_blocked(*node, other, blocked);
                self.set_blocked(other, *node, blocked);
            }
        }
    }

    /// The last segment of a node's log and where its frames lie. The last of them is the mark that
    /// says what was synced, if the log is at rest.
    pub(crate) fn frames(&self, node: NodeId) -> (String, Vec<Range<usize>>) {
        let disk = self.disk(node);
        let names = palisade_wal::Disk::list(disk).expect("a simulated disk lists its files");
        let name = names.into_iter().rfind(|name| name.ends_with(".seg")).expect("a segment");
        let raw = disk.contents(&name);
        let mut frames = Vec::new();
        let mut at = SEGMENT_HEADER_BYTES;
        while let Some(length) = raw.get(at + 4..at + 8) {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            if length == 0 {
                break;
            }
            let end = at + (FRAME_HEADER_BYTES + length).next_multiple_of(8);
            frames.push(at..end);
            at = end;
        }
        (name, frames)
    }

    /// These frames of the last segment rot.
    pub(crate) fn rot(&mut self, node: NodeId, which: Range<usize>) {
        self.expect_damage(node);
        let (name, frames) = self.frames(node);
        for frame in &frames[which] {
            self.disk(node).flip_bit(&name, frame.start + frame.len() / 2, 1);
        }
    }

    /// Everything is mended and given time: the members agree, and what was acknowledged is there (G1).
    pub(crate) fn finish(&mut self) {
        self.heal();
        for node in self.node_ids() {
            self.start(node);
        }
        self.pass(10_000_000);
        self.led();
        self.assert_converged();
        self.assert_kept();
    }

    /// G1: what was acknowledged is where its receipt says, at every member.
    pub(crate) fn assert_kept(&self) {
        for node in self.members(GROUP) {
            let records = self.machine(node).records(GROUP);
            for (offset, payload) in &self.acked {
                let record = records.get(offset.get() as usize - 1);
                assert_eq!(record, Some(payload), "G1: node={node} offset={offset}");
            }
            let distinct: BTreeSet<&Bytes> = records.iter().collect();
            assert_eq!(distinct.len(), records.len(), "a record was committed twice");
        }
    }
}
