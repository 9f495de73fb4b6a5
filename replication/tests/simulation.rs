//! Whole clusters under everything that the nemesis knows, seed by seed.
//!
//! Replay one seed with `PALISADE_SIM_SEED=<seed> cargo test -p palisade-replication --test
//! simulation`; run more of them with `PALISADE_SIM_SEEDS=<count>`.

mod journal;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use journal::Journal;
use palisade_replication::sim::{
    Completion, GROUP, Nemesis, SimCluster, SimMachine, SimOptions, SimRandom,
};
use palisade_replication::{GroupId, NodeId, Offset, StateMachine};

type Cluster = SimCluster<Journal>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    trace: u64,
    acked: usize,
    leaderships: usize,
    reads: usize,
    simulated_us: u64,
    coverage: BTreeMap<&'static str, u64>,
}

/// A workload of numbered records and linearizable reads.
struct Workload {
    cluster: Cluster,
    nemesis: Nemesis,
    next: u64,
    waiting: BTreeMap<u64, (NodeId, GroupId, u64)>,
    acked: BTreeMap<(GroupId, u64), Offset>,
    reading: BTreeMap<u64, (NodeId, GroupId, usize)>,
    reads: usize,
}

impl Workload {
    fn new(seed: u64) -> Self {
        let mut random = SimRandom::from_seed(seed ^ 0x5eed);
        let nodes = 3 + random.below(3);
        let groups = [1, 1, 2, 4][random.below(4) as usize];
        let defaults = SimOptions::default();
        let options = SimOptions {
            nodes,
            groups,
            loss_per_mille: [0, 20, 200][random.below(3) as usize],
            delay_us_max: [1_000, 5_000, 60_000][random.below(3) as usize],
            seals: seed % 3 == 2,
            ..defaults
        };
        Self {
            cluster: Cluster::new(seed, options, |_| Journal::default()),
            nemesis: Nemesis::swarm(&mut random),
            next: 0,
            waiting: BTreeMap::new(),
            acked: BTreeMap::new(),
            reading: BTreeMap::new(),
            reads: 0,
        }
    }

    fn pick(&mut self) -> (NodeId, GroupId) {
        let nodes = self.cluster.node_ids();
        let groups: Vec<GroupId> = self.cluster.groups().collect();
        (*self.cluster.random().pick(&nodes), *self.cluster.random().pick(&groups))
    }

    fn propose(&mut self, node: NodeId, group: GroupId) {
        self.next += 1;
        let payload = Bytes::copy_from_slice(&self.next.to_le_bytes());
        let op = self.cluster.propose(node, group, payload);
        self.waiting.insert(op, (node, group, self.next));
    }

    fn acked_in(&self, group: GroupId) -> usize {
        self.acked.keys().filter(|(of, _)| *of == group).count()
    }

    fn round(&mut self) {
        self.nemesis.act(&mut self.cluster);
        for _ in 0..self.cluster.random().below(12) {
            let (node, group) = self.pick();
            self.propose(node, group);
        }
        let (node, group) = self.pick();
        let acked_before = self.acked_in(group);
        let op = self.cluster.read(node, group);
        self.reading.insert(op, (node, group, acked_before));
        let us = 20_000 + self.cluster.random().below(400_000);
        self.cluster.run_for(us);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((op, completion)) = self.cluster.completion() {
            if self.nemesis.asked(op) {
                continue;
            }
            let proposed = self.waiting.remove(&op);
            let read = self.reading.remove(&op);
            match completion {
                Completion::Committed(committed) => {
                    let (_, group, number) = proposed.expect("only records are committed");
                    assert!(self.acked.insert((group, number), committed.offset).is_none());
                }
                Completion::Readable(at) => {
                    // G5: it reflects at least what was acknowledged before it was asked.
                    let (_, group, acked_before) = read.expect("only reads are readable");
                    assert!(
                        acked_before as u64 <= at.get(),
                        "G5: group={group} {at} < {acked_before}"
                    );
                    self.reads += 1;
                }
                Completion::Refused(_) | Completion::Unknown | Completion::Changed => {}
            }
        }
    }

    /// Everything is mended: what is waited for is settled within a bounded time.
    fn finish(mut self) -> Run {
        self.cluster.heal();
        self.cluster.calm();
        for node in self.cluster.node_ids() {
            self.cluster.start(node);
        }
        self.cluster.run_for(10_000_000);
        let groups: Vec<GroupId> = self.cluster.groups().collect();
        for group in &groups {
            let Some(leader) = self.cluster.leader(*group) else {
                self.cluster.tell_group(*group);
                panic!("liveness: no leader of group={group} within 10 s");
            };
            self.propose(leader, *group);
        }
        self.cluster.run_for(20_000_000);
        self.settle();
        // Who is no member any more may wait for ever.
        let members = |cluster: &Cluster, group: GroupId| cluster.members(group);
        self.reading.retain(|_, (node, group, _)| members(&self.cluster, *group).contains(node));
        assert!(self.reading.is_empty(), "liveness: reads without an answer: {:?}", self.reading);
        self.waiting.retain(|_, (node, group, _)| members(&self.cluster, *group).contains(node));
        assert!(self.waiting.is_empty(), "liveness: records without an answer: {:?}", self.waiting);

        self.cluster.assert_converged();
        for group in &groups {
            for node in self.cluster.members(*group) {
                let machine = self.cluster.machine(node);
                let records = machine.records(*group);
                // G1 and exactly once: what was acknowledged is there, where the receipt says, once.
                for ((_, number), offset) in self.acked.iter().filter(|((g, _), _)| g == group) {
                    let record = records.get(offset.get() as usize - 1);
                    let expected = Bytes::copy_from_slice(&number.to_le_bytes());
                    assert_eq!(record, Some(&expected), "G1: group={group} offset={offset}");
                }
                let distinct: BTreeSet<&Bytes> = records.iter().collect();
                assert_eq!(distinct.len(), records.len(), "a record was committed twice");
                assert_eq!(machine.applied(*group).offset.get(), records.len() as u64);
                assert_eq!(machine.digest(*group), machine.head(*group));
            }
        }
        Run {
            trace: self.cluster.trace(),
            acked: self.acked.len(),
            leaderships: self.cluster.leaderships(),
            reads: self.reads,
            simulated_us: self.cluster.now_us(),
            coverage: self.cluster.coverage(),
        }
    }
}

fn run(seed: u64) -> Run {
    let mut workload = Workload::new(seed);
    for _ in 0..120 {
        workload.round();
    }
    workload.finish()
}

/// Seeds that have failed once (`jepsen/docs/track-record.md`).
const FAILED: [u64; 8] = [197, 256, 339, 437, 458, 462, 552, 3863];

/// So many from zero on, and those that have failed once.
fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|raw| raw.parse::<u64>().expect("a number"));
    match number("PALISADE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PALISADE_SIM_SEEDS").unwrap_or(count)).chain(FAILED).collect(),
    }
}

/// Runs it for each seed, and says which one failed.
fn each_seed<T>(seeds: &[u64], run: impl Fn(u64) -> T) -> Vec<T> {
    let run = std::panic::AssertUnwindSafe(run);
    let each = |seed: &u64| {
        std::panic::catch_unwind(|| run(*seed)).unwrap_or_else(|panic| {
            eprintln!(
                "seed {seed} failed; replay it with PALISADE_SIM_SEED={seed} \
                 cargo test -p palisade-replication --test simulation"
            );
            std::panic::resume_unwind(panic)
        })
    };
    seeds.iter().map(each).collect()
}

#[test]
fn acknowledged_records_survive_everything() {
    let mut total = Run::default();
    let seeds = seeds(100);
    for run in each_seed(&seeds, run) {
        total.acked += run.acked;
        total.leaderships += run.leaderships;
        total.reads += run.reads;
        total.simulated_us += run.simulated_us;
        for (what, count) in run.coverage {
            *total.coverage.entry(what).or_default() += count;
        }
    }
    println!("{} seeds, {} simulated s: {total:#?}", seeds.len(), total.simulated_us / 1_000_000);
    if seeds.len() >= 100 {
        // Something happened: a run in which nothing is acknowledged proves nothing.
        assert!(total.acked >= 50 * seeds.len(), "acked={}", total.acked);
        assert!(total.leaderships >= 2 * seeds.len(), "leaderships={}", total.leaderships);
        assert!(total.reads >= 5 * seeds.len(), "reads={}", total.reads);
        for what in [
            "snapshot installed",
            "membership change asked",
            "wipe",
            "pause",
            "disk hangs",
            "keys rotated",
        ] {
            assert!(total.coverage.get(what).is_some_and(|count| *count > 0), "no {what}");
        }
    }
}

/// G1: in the moment of a receipt, with as few copies as there may be, power fails everywhere.
#[test]
fn receipts_outlive_power_loss_everywhere() {
    each_seed(&seeds(30), |seed| {
        let options = SimOptions { sync_us_max: 20_000, ..SimOptions::default() };
        let mut cluster = Cluster::new(seed, options, |_| Journal::default());
        let nodes = cluster.node_ids();
        let mut waiting = BTreeMap::new();
        let mut acked: BTreeMap<Offset, Bytes> = BTreeMap::new();
        for number in 0..25_u64 {
            cluster.run_for(1_500_000);
            let slow = *cluster.random().pick(&nodes);
            cluster.hold_syncs(slow);
            let mut last = None;
            // A stream of records, so that some wait behind the sync of others.
            for step in 0..200 {
                let node = *cluster.random().pick(&nodes);
                let payload = Bytes::copy_from_slice(&(number << 32 | step).to_le_bytes());
                waiting.insert(cluster.propose(node, GROUP, payload.clone()), payload);
                let us = cluster.random().below(4_000);
                cluster.run_for(us);
                while let Some((op, completion)) = cluster.completion() {
                    let payload = waiting.remove(&op).expect("every operation is answered once");
                    if let Completion::Committed(committed) = completion {
                        last = Some(committed.offset);
                        acked.insert(committed.offset, payload);
                    }
                }
                if last.is_some() && cluster.random().below(4) == 0 {
                    break;
                }
            }
            nodes.iter().for_each(|node| cluster.power_off(*node));
            nodes.iter().for_each(|node| cluster.start(*node));
        }
        cluster.run_for(10_000_000);
        cluster.assert_converged();
        let records = cluster.machine(nodes[0]).records(GROUP);
        for (offset, payload) in &acked {
            let record = records.get(offset.get() as usize - 1);
            assert_eq!(record, Some(payload), "G1: seed={seed} offset={offset}");
        }
        assert!(acked.len() >= 20, "nothing was acknowledged, seed={seed}");
    });
}

/// Where the frames of a segment lie, as `wal/docs/format.md` has it.
fn frames(raw: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut frames = Vec::new();
    let mut at = 96;
    while let Some(length) = raw.get(at + 4..at + 8) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if length == 0 {
            break;
        }
        frames.push(at..at + (36 + length).next_multiple_of(8));
        at += (36 + length).next_multiple_of(8);
    }
    frames
}

/// One of the two who confirmed a record loses it, and meets the third, who never had it: they are a
/// majority that must not go on as if it had not been.
#[test]
fn what_damage_took_is_not_voted_away() {
    let damaged = each_seed(&seeds(40), |seed| {
        let mut damaged = 0;
        let mut calm = SimOptions::calm();
        if seed % 2 == 1 {
            // An entry a message: there are many moments between nothing and everything.
            calm.replica.message_bytes_max = 1;
        }
        let mut cluster = Cluster::new(seed, calm, |_| Journal::default());
        let nodes = cluster.node_ids();
        let mut waiting = BTreeMap::new();
        let mut acked: BTreeMap<Offset, Bytes> = BTreeMap::new();
        let mut number = 0_u64;
        let mut propose = |cluster: &mut Cluster, node| {
            number += 1;
            let payload = Bytes::copy_from_slice(&number.to_le_bytes());
            waiting.insert(cluster.propose(node, GROUP, payload.clone()), payload);
            let us = cluster.random().below(100_000);
            cluster.run_for(us);
            while let Some((op, completion)) = cluster.completion() {
                let payload = waiting.remove(&op).expect("every operation is answered once");
                if let Completion::Committed(committed) = completion {
                    acked.insert(committed.offset, payload);
                }
            }
        };
        let cut = |cluster: &mut Cluster, node: NodeId, blocked| {
            for other in nodes.iter().filter(|other| **other != node) {
                cluster.set_blocked(node, *other, blocked);
                cluster.set_blocked(*other, node, blocked);
            }
        };
        for _ in 0..4 {
            cluster.run_for(6_000_000);
            // Rarely the only register is too old for what is left: the group has no copy to spare then.
            if nodes.iter().any(|node| cluster.is_beyond_repair(*node)) {
                break;
            }
            for node in &nodes {
                assert!(cluster.is_whole(*node), "liveness: seed={seed} node={node} is not whole");
            }
            let mut leader = cluster.leader(GROUP).expect("liveness: everything is mended");
            let mut others = nodes.clone();
            others.retain(|node| *node != leader);
            let mut third = others.swap_remove(cluster.random().below(2) as usize);
            let mut victim = others[0];
            if cluster.random().below(2) == 0 {
                // The third led, and holds other records at the same places.
                (leader, third) = (third, leader);
            }
            cut(&mut cluster, third, true);
            if Some(third) == cluster.leader(GROUP) {
                for _ in 0..1 + cluster.random().below(8) {
                    propose(&mut cluster, third);
                }
                cluster.run_for(2_000_000);
                let now = cluster.leader(GROUP).expect("two of three elect a leader");
                (leader, victim) = if now == victim { (victim, leader) } else { (leader, victim) };
            }
            for _ in 0..2 + cluster.random().below(6) {
                propose(&mut cluster, leader);
            }
            // Until the mark is written: what the disk then loses, it is known to have had.
            cluster.run_for(200_000);
            cluster.kill(victim);
            let disk = cluster.disk(victim).clone();
            let names = palisade_wal::Disk::list(&disk).unwrap();
            let last = names.into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
            let mut held = frames(&disk.contents(&last));
            let mark = held.pop();
            let count = 1 + cluster.random().below(4) as usize;
            let whole = (cluster.random().below(4) * cluster.random().below(2)) as usize;
            // As long as a register is left, nothing is beyond repair.
            let enough = mark.is_some() && whole + count + 8 < held.len();
            for frame in held.iter().rev().skip(whole).take(count).filter(|_| enough) {
                damaged += 1;
                disk.flip_bit(&last, frame.start + frame.len() / 2, 1);
            }
            cluster.expect_damage(victim);
            cluster.start(victim);
            let us_max = *cluster.random().pick(&[1, 30_000, 200_000]);
            let us = cluster.random().below(us_max);
            cluster.run_for(us);
            cut(&mut cluster, third, false);
            // Now and then the leader stays, and must bring the victim up by itself.
            let stays = cluster.random().below(4) == 0;
            cut(&mut cluster, leader, !stays);
            if stays {
                cluster.run_for(5_000_000);
                let settled = cluster.is_whole(victim) || cluster.is_beyond_repair(victim);
                assert!(settled, "liveness: seed={seed}, a group at rest");
            }
            for _ in 0..10 {
                let node = *cluster.random().pick(&[victim, third]);
                propose(&mut cluster, node);
                cluster.run_for(200_000);
            }
            cluster.heal();
        }
        cluster.run_for(10_000_000);
        cluster.assert_converged();
        let member = *cluster.members(GROUP).first().expect("liveness: a leader");
        let records = cluster.machine(member).records(GROUP);
        for (offset, payload) in &acked {
            let record = records.get(offset.get() as usize - 1);
            assert_eq!(record, Some(payload), "G1: seed={seed} offset={offset}");
        }
        let beyond = nodes.iter().filter(|node| cluster.is_beyond_repair(**node)).count();
        (damaged, beyond)
    });
    assert!(damaged.iter().any(|(count, _)| *count > 0), "nothing was damaged");
    let beyond: usize = damaged.iter().map(|(_, beyond)| beyond).sum();
    assert!(beyond <= 1 + damaged.len() / 50, "beyond repair: {beyond} of {}", damaged.len());
}

/// Nodes are started again in the middle of elections, over and over: who forgets its vote or its
/// term votes twice, and there are two leaders.
#[test]
fn votes_outlive_restarts() {
    each_seed(&seeds(50), |seed| {
        let slow = SimOptions {
            nodes: 3 + 2 * (seed % 2),
            loss_per_mille: 0,
            delay_us_max: 150_000,
            ..SimOptions::default()
        };
        let mut cluster = Cluster::new(seed, slow, |_| Journal::default());
        cluster.run_for(1_000_000);
        for number in 0..300_u64 {
            let node = {
                let nodes = cluster.node_ids();
                *cluster.random().pick(&nodes)
            };
            if number % 3 == 0 {
                let payload = Bytes::copy_from_slice(&number.to_le_bytes());
                let _ = cluster.propose(node, GROUP, payload);
            }
            if cluster.random().below(2) == 0 {
                cluster.power_off(node);
            } else {
                cluster.kill(node);
            }
            cluster.start(node);
            let us = cluster.random().below(150_000);
            cluster.run_for(us);
        }
        cluster.run_for(10_000_000);
        assert!(cluster.leader(GROUP).is_some(), "liveness: no leader, seed={seed}");
        cluster.assert_converged();
    });
}

/// G1: a receipt needs a returned sync on two of three nodes, whichever they are.
#[test]
fn no_receipt_before_two_of_three_disks_have_synced() {
    for seed in 0..30 {
        let calm = SimOptions::calm();
        let mut cluster = Cluster::new(seed, calm, |_| Journal::default());
        cluster.run_for(5_000_000);
        let leader = cluster.leader(GROUP).expect("a calm cluster has a leader");
        let mut others = cluster.node_ids();
        others.retain(|node| *node != leader);
        for held in [[leader, others[0]], [others[0], others[1]]] {
            for node in held {
                cluster.hold_syncs(node);
            }
            let caller = others[1];
            let op = cluster.propose(caller, GROUP, Bytes::from_static(b"record"));
            // Long enough for many round trips, too short for an election.
            cluster.run_for(200_000);
            assert!(cluster.completion().is_none(), "seed={seed}: a receipt with one sync");
            cluster.release_syncs(held[0]);
            cluster.run_for(200_000);
            let unheld_caller = held[1] != caller;
            let receipt = cluster.completion();
            // The caller answers once it has the record durable itself.
            assert_eq!(receipt.is_some(), unheld_caller, "seed={seed}: {receipt:?}");
            cluster.release_syncs(held[1]);
            cluster.run_for(200_000);
            let (done, completion) = receipt.or_else(|| cluster.completion()).expect("a receipt");
            assert_eq!(done, op);
            assert!(matches!(completion, Completion::Committed(_)), "seed={seed}: {completion:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1000..1005 {
        assert_eq!(run(seed), run(seed), "seed={seed}");
    }
}

/// A cluster in which nothing goes wrong by itself and no state is flushed.
fn calm(seed: u64, nodes: u64) -> Cluster {
    let calm = SimOptions { nodes, flush_per_mille: 0, ..SimOptions::calm() };
    let mut cluster = Cluster::new(seed, calm, |_| Journal::default());
    cluster.run_for(5_000_000);
    cluster
}

/// Proposes so many records one after the other, and says how many have a receipt.
fn record(cluster: &mut Cluster, node: NodeId, count: u64) -> usize {
    let mut acked = 0;
    for number in 0..count {
        cluster.propose(node, GROUP, Bytes::copy_from_slice(&number.to_le_bytes()));
        cluster.run_for(50_000);
        while let Some((_, completion)) = cluster.completion() {
            acked += usize::from(matches!(completion, Completion::Committed(_)));
        }
    }
    acked
}

/// The last segment of a node's log, and how much of it is written.
fn last_segment(cluster: &Cluster, node: NodeId) -> (String, usize) {
    let disk = cluster.disk(node);
    let names = palisade_wal::Disk::list(disk).unwrap();
    let name = names.into_iter().rfind(|name| name.ends_with(".seg")).expect("a segment");
    let written = disk.contents(&name).iter().rposition(|byte| *byte != 0).unwrap_or(0);
    (name, written)
}

/// G10: nobody else has what a single voter has lost, so it must not go on without it.
#[test]
fn a_single_voter_never_goes_on_without_what_it_acknowledged() {
    let (mut halted, mut whole) = (0, 0);
    for back in (64..2048).step_by(96) {
        let mut cluster = calm(7, 1);
        let node = NodeId::new(1);
        let acked = record(&mut cluster, node, 20);
        assert_eq!(acked, 20);
        cluster.power_off(node);
        let (name, written) = last_segment(&cluster, node);
        cluster.expect_damage(node);
        cluster.disk(node).flip_bit(&name, written - back, 3);
        cluster.start(node);
        cluster.run_for(5_000_000);
        if cluster.halted(node).is_some() {
            halted += 1;
            continue;
        }
        let leads = cluster.leader(GROUP).is_some();
        let kept = cluster.machine(node).records(GROUP).len();
        assert!(!leads || kept == acked, "back={back}: it leads with {kept} of {acked}");
        whole += usize::from(leads);
    }
    println!("halted={halted} whole={whole}");
    assert!(halted > 0);
}

/// An entry rots under a leader that has others to apply at the moment it looks: it repairs the
/// entry, and nothing that it owed is forgotten over that.
#[test]
fn a_busy_leader_repairs_an_entry_and_forgets_nothing() {
    let mut repaired = 0;
    for seed in 0..60 {
        let mut options = SimOptions { flush_per_mille: 0, ..SimOptions::calm() };
        options.replica.entry_cache_bytes_max = 0;
        options.gather_per_mille = 800;
        let mut cluster = Cluster::new(seed, options, |_| Journal::default());
        cluster.run_for(5_000_000);
        let leader = cluster.leader(GROUP).expect("a calm cluster has a leader");
        let others: Vec<NodeId> =
            cluster.node_ids().into_iter().filter(|node| *node != leader).collect();
        cluster.power_off(others[0]);
        assert_eq!(record(&mut cluster, leader, 30), 30);
        let (name, written) = last_segment(&cluster, leader);
        let at = written / 2 + cluster.random().below(written as u64 / 4) as usize;
        cluster.expect_damage(leader);
        cluster.disk(leader).flip_bit(&name, at, 3);
        cluster.start(others[0]);
        let mut asked = BTreeSet::new();
        for number in 100..400_u64 {
            let payload = Bytes::copy_from_slice(&number.to_le_bytes());
            asked.insert(cluster.propose(leader, GROUP, payload));
            asked.insert(cluster.read(leader, GROUP));
            let us = cluster.random().below(1_000);
            cluster.run_for(us);
            let status = cluster.status(leader, GROUP);
            repaired += usize::from(
                status.is_some_and(|s| s.role == palisade_replication::Role::Repairing),
            );
        }
        cluster.run_for(20_000_000);
        while let Some((op, _)) = cluster.completion() {
            asked.remove(&op);
        }
        assert!(cluster.halted(leader).is_none(), "seed={seed}: {:?}", cluster.halted(leader));
        assert!(cluster.is_whole(leader), "seed={seed}: still under repair");
        assert!(asked.is_empty(), "seed={seed}: no answer to {}", asked.len());
        cluster.assert_converged();
    }
    assert!(repaired > 0);
}
