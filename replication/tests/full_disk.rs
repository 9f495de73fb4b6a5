//! Nodes whose disk is full: callers are told, the others go on, votes are still stored, and nobody has
//! to start anything again when there is space.

mod journal;

use std::collections::BTreeMap;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::sim::{Completion, GROUP, SimCluster, SimOptions};
use palisade_replication::{NodeError, NodeId, Offset, Role, Term};

const SEEDS: u64 = 10;

fn each_seed(run: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|raw| raw.parse::<u64>().expect("a number"));
    let seeds = match number("PALISADE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PALISADE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        // Printed if the seed fails.
        println!("seed={seed}");
        run(seed);
    }
}

struct Records {
    cluster: SimCluster<Journal>,
    number: u64,
    waiting: BTreeMap<u64, Bytes>,
    acked: BTreeMap<Offset, Bytes>,
    refused: Vec<NodeError>,
}

impl Records {
    /// If states are never flushed, no log is trimmed: only somebody else can free space.
    fn new(seed: u64, options: SimOptions, never_flushes: bool) -> Self {
        let machine = move |_| {
            let mut journal = Journal::default();
            journal.never_flushes = never_flushes;
            journal
        };
        let cluster = SimCluster::new(seed, options, machine);
        let (waiting, acked) = (BTreeMap::new(), BTreeMap::new());
        Self { cluster, number: 0, waiting, acked, refused: Vec::new() }
    }

    fn propose(&mut self, node: NodeId) {
        self.number += 1;
        let mut payload = self.number.to_le_bytes().to_vec();
        payload.resize(1000, self.number as u8);
        let payload = Bytes::from(payload);
        self.waiting.insert(self.cluster.propose(node, GROUP, payload.clone()), payload);
        self.run_for(5_000);
    }

    fn run_for(&mut self, us: u64) {
        self.cluster.run_for(us);
        while let Some((op, completion)) = self.cluster.completion() {
            let Some(payload) = self.waiting.remove(&op) else { continue };
            match completion {
                Completion::Committed(committed) => {
                    self.acked.insert(committed.offset, payload);
                }
                Completion::Refused(refusal) => self.refused.push(refusal),
                Completion::Unknown => {}
                other => panic!("no answer to a record: {other:?}"),
            }
        }
    }

    /// How many of some records at a node are acknowledged in the end.
    fn acked_of(&mut self, node: NodeId, count: u64) -> usize {
        let before = self.acked.len();
        (0..count).for_each(|_| self.propose(node));
        self.run_for(2_000_000);
        self.acked.len() - before
    }

    fn leader(&mut self) -> NodeId {
        self.run_for(3_000_000);
        self.cluster.leader(GROUP).expect("liveness: a leader within 3 s")
    }

    fn term(&self, node: NodeId) -> Term {
        self.cluster.status(node, GROUP).expect("it is up").term
    }

    /// Until the node has no room for entries. Others have.
    fn fill(&mut self, node: NodeId) {
        self.cluster.fill_disk(node);
        for _ in 0..400 {
            self.propose(node);
            if self.refused.pop().is_some_and(|refusal| is_rate_limit(&refusal)) {
                return;
            }
        }
        panic!("a disk of some segments takes no 400 records");
    }

    /// G1, once everybody is well: what was acknowledged is there.
    fn check(&mut self) {
        self.cluster.heal();
        self.cluster.calm();
        self.run_for(10_000_000);
        self.cluster.assert_converged();
        for node in self.cluster.node_ids() {
            assert!(self.cluster.halted(node).is_none(), "node={node} halted");
            let records = self.cluster.machine(node).records(GROUP);
            for (offset, payload) in &self.acked {
                assert_eq!(records.get(offset.get() as usize - 1), Some(payload), "G1: {offset}");
            }
        }
    }
}

/// What the engine gives to callers as `RateLimited`: nothing happened, try again.
fn is_rate_limit(refusal: &NodeError) -> bool {
    matches!(refusal, NodeError::Backpressure { queue: "wal", .. })
}

/// Entries that fit into the small batches of a simulated log.
fn options() -> SimOptions {
    let mut options = SimOptions::default();
    options.replica.entry_bytes_target = 8 << 10;
    options.replica.message_bytes_max = 8 << 10;
    options
}

/// Nobody flushes of its own accord.
fn lazy() -> SimOptions {
    SimOptions { flush_per_mille: 0, ..options() }
}

#[test]
fn a_leader_with_a_full_disk_refuses_steps_aside_and_comes_back() {
    each_seed(|seed| {
        let mut records = Records::new(seed, options(), true);
        let full = records.leader();
        assert!(records.acked_of(full, 10) >= 10);
        records.fill(full);
        let leader = records.leader();
        assert_ne!(leader, full, "a leader that takes nothing stands in everyone's way");
        assert!(records.acked_of(leader, 20) >= 20, "two of three go on");
        records.refused.clear();
        let acked = records.acked_of(full, 5);
        assert_eq!(acked, 0);
        assert_eq!(records.refused.len(), 5);
        assert!(records.refused.iter().all(is_rate_limit), "{:?}", records.refused);

        // Nobody starts it again.
        records.cluster.mend_disk(full);
        records.run_for(5_000_000);
        assert!(records.acked_of(full, 5) >= 5, "there is space, and it takes none");
        records.check();
    });
}

/// It votes, and remembers it: with its own disk full and the leader gone, the third is elected by it.
#[test]
fn a_node_with_a_full_disk_votes_and_starts_again() {
    each_seed(|seed| {
        let mut records = Records::new(seed, options(), true);
        let first = records.leader();
        records.fill(first);
        let leader = records.leader();
        let nodes = records.cluster.node_ids();
        let third = *nodes.iter().find(|node| ![first, leader].contains(node)).unwrap();
        for round in 0..6 {
            // Each of the two with space falls away in turn.
            let away = if round % 2 == 0 { leader } else { third };
            let other = if round % 2 == 0 { third } else { leader };
            let before = records.term(first);
            records.cluster.power_off(away);
            let elected = records.leader();
            assert_eq!(elected, other, "round={round}");
            if records.term(other) > before {
                assert_eq!(records.term(first), records.term(other), "its vote was needed");
            }
            // What it has promised outlives power, on the disk that is full.
            let voted = records.term(first);
            records.cluster.power_off(first);
            records.cluster.start(first);
            assert!(records.cluster.halted(first).is_none(), "round={round}");
            assert_eq!(records.term(first), voted);
            records.run_for(1_000_000);
            assert_eq!(records.cluster.status(first, GROUP).unwrap().role, Role::Follower);
            records.cluster.start(away);
            records.run_for(3_000_000);
        }
        records.check();
    });
}

/// What disks did is counted once: also when a disk is gone, and another's still counts.
#[test]
fn what_a_disk_did_is_counted_once() {
    let mut records = Records::new(1, options(), true);
    let leader = records.leader();
    let nodes = records.cluster.node_ids();
    let full = *nodes.iter().find(|node| **node != leader).unwrap();
    records.cluster.fill_disk(full);
    assert!(records.acked_of(leader, 600) >= 400, "the other two go on");
    let strikes = |records: &Records| records.cluster.coverage()["no space"];
    let before = strikes(&records);
    assert!(0 < before);
    for node in nodes.iter().filter(|node| **node != full).chain([&full]) {
        records.cluster.wipe(*node);
        assert_eq!(strikes(&records), before, "node={node}");
    }
}

/// However much there would be for it to take: its reserve is for votes.
#[test]
fn a_follower_with_a_full_disk_takes_no_more_and_votes() {
    each_seed(|seed| {
        let mut records = Records::new(seed, options(), true);
        let leader = records.leader();
        let nodes = records.cluster.node_ids();
        let followers: Vec<NodeId> = nodes.into_iter().filter(|node| *node != leader).collect();
        let (full, third) = (followers[0], followers[1]);
        records.cluster.fill_disk(full);
        assert!(records.acked_of(leader, 600) >= 400, "the other two go on");
        let last =
            |records: &Records, node| records.cluster.status(node, GROUP).unwrap().last_index;
        assert!(last(&records, full) < last(&records, third), "it has room for none of them");
        records.cluster.power_off(leader);
        assert_eq!(records.leader(), third);
        assert_eq!(records.term(full), records.term(third), "its vote was needed");
        records.cluster.start(leader);
        records.check();
    });
}

/// Every disk is full, and nobody frees anything: what the replicas trim is room enough to go on.
#[test]
fn full_disks_everywhere_go_on_with_what_is_trimmed() {
    each_seed(|seed| {
        let mut records = Records::new(seed, options(), false);
        let leader = records.leader();
        assert!(records.acked_of(leader, 200) >= 150);
        let nodes = records.cluster.node_ids();
        nodes.iter().for_each(|node| records.cluster.fill_disk(*node));
        let mut acked = 0;
        for round in 0..20 {
            let node = nodes[round % 3];
            acked += records.acked_of(node, 100);
        }
        assert!(acked >= 500, "acked={acked}");
        records.check();
    });
}

/// Nothing was flushed before, so nothing could be trimmed: a full disk is reason enough to do it.
#[test]
fn a_full_disk_makes_replicas_flush_and_trim() {
    each_seed(|seed| {
        let mut records = Records::new(seed, lazy(), false);
        let leader = records.leader();
        assert!(records.acked_of(leader, 300) >= 200);
        let nodes = records.cluster.node_ids();
        let bases = |records: &Records| {
            let first = |node: &NodeId| records.cluster.status(*node, GROUP).unwrap().first_index;
            nodes.iter().map(first).max().unwrap()
        };
        assert!(bases(&records).get() < 3, "nothing was trimmed: {:?}", bases(&records));
        nodes.iter().for_each(|node| records.cluster.fill_disk(*node));
        let mut acked = 0;
        for round in 0..20 {
            acked += records.acked_of(nodes[round % 3], 100);
        }
        assert!(acked >= 500, "acked={acked}");
        assert!(bases(&records).get() > 100, "it went on by trimming");
        records.check();
    });
}

/// The same without trimming: all are full, all refuse, nothing is lost, and all come back.
#[test]
fn full_disks_everywhere_refuse_and_come_back() {
    each_seed(|seed| {
        let mut records = Records::new(seed, options(), true);
        let leader = records.leader();
        assert!(records.acked_of(leader, 50) >= 50);
        let nodes = records.cluster.node_ids();
        nodes.iter().for_each(|node| records.cluster.fill_disk(*node));
        for round in 0..900 {
            records.propose(nodes[round % 3]);
        }
        records.run_for(5_000_000);
        for node in &nodes {
            records.refused.clear();
            assert_eq!(records.acked_of(*node, 3), 0);
            assert!(records.refused.iter().all(is_rate_limit), "{:?}", records.refused);
        }
        nodes.iter().for_each(|node| records.cluster.mend_disk(*node));
        records.run_for(5_000_000);
        for node in &nodes {
            assert!(records.acked_of(*node, 5) >= 5, "there is space, and it takes none");
        }
        records.check();
    });
}
