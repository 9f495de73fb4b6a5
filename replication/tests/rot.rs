//! G10: entries that rot between the start of a replica, which read them, and their use.

mod journal;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::MemberChange;
use palisade_replication::sim::{GROUP, SimCluster, SimOptions};
use palisade_wal::Disk;
use palisade_wal::sim::SimFaults;

/// Nothing goes wrong by itself, and no state is flushed: what was applied is applied again.
fn calm() -> SimOptions {
    SimOptions { flush_per_mille: 0, ..SimOptions::calm() }
}

/// It applies its log again, and what it needs next is gone: it fetches it from the others.
#[test]
fn what_rots_before_it_is_applied_again_is_fetched() {
    let mut repaired = 0;
    for seed in 0..60 {
        let mut options = calm();
        options.replica.entry_cache_bytes_max = 0;
        let mut cluster = SimCluster::new(seed, options, |_| Journal::default());
        cluster.run_for(5_000_000);
        let leader = cluster.leader(GROUP).expect("a calm cluster has a leader");
        let nodes = cluster.node_ids();
        let victim = nodes[seed as usize % 3];
        for number in 0..40_u64 {
            cluster.propose(leader, GROUP, Bytes::copy_from_slice(&number.to_le_bytes()));
            cluster.run_for(20_000);
        }
        cluster.kill(victim);
        cluster.start(victim);
        let disk = cluster.disk(victim).clone();
        let name = disk.list().unwrap().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
        let written = disk.contents(&name).iter().rposition(|byte| *byte != 0).unwrap();
        cluster.expect_damage(victim);
        let at = written / 4 + cluster.random().below(written as u64 / 2) as usize;
        disk.flip_bit(&name, at, 3);
        for _ in 0..50 {
            cluster.run_for(100_000);
            repaired += u64::from(!cluster.is_whole(victim));
        }
        cluster.run_for(10_000_000);
        assert!(!cluster.is_beyond_repair(victim), "seed={seed}");
        assert!(cluster.halted(victim).is_none(), "seed={seed}: {:?}", cluster.halted(victim));
        assert!(cluster.is_whole(victim), "seed={seed}: still under repair");
        assert_eq!(cluster.machine(victim).records(GROUP).len(), 40, "seed={seed}");
        cluster.assert_converged();
    }
    assert!(repaired > 0, "nothing that rotted was needed");
}

/// Recovery has read all of the log, and a place of it fails when the replica is taken up, whichever it
/// is: what was there is fetched, and the node does not halt.
#[test]
fn what_cannot_be_read_when_a_replica_is_taken_up_is_fetched() {
    let mut repaired = 0;
    for seed in 0..3 {
        let mut options = calm();
        options.replica.message_bytes_max = 1;
        let mut cluster = SimCluster::new(seed, options, |_| Journal::default());
        cluster.run_for(5_000_000);
        let leader = cluster.leader(GROUP).expect("a calm cluster has a leader");
        let victim = cluster.node_ids()[seed as usize % 3];
        for number in 0..20_u64 {
            cluster.propose(leader, GROUP, Bytes::copy_from_slice(&number.to_le_bytes()));
            cluster.run_for(20_000);
        }
        cluster.expect_damage(victim);
        let disk = cluster.disk(victim).clone();
        for back in 0..20 {
            let starts = |cluster: &mut SimCluster<Journal>| {
                cluster.kill(victim);
                let before = disk.counts().reads;
                cluster.start(victim);
                disk.counts().reads - before
            };
            // The last of them are those of the entries.
            let reads = starts(&mut cluster);
            let failing_read = Some(disk.counts().reads + reads - back);
            disk.set_faults(SimFaults { failing_read, ..SimFaults::default() });
            starts(&mut cluster);
            repaired += u64::from(!cluster.is_whole(victim));
            cluster.run_for(5_000_000);
            let halted = cluster.halted(victim);
            assert!(halted.is_none(), "seed={seed} back={back}: {halted:?}");
            assert!(cluster.is_whole(victim), "seed={seed} back={back}: still under repair");
        }
        cluster.run_for(5_000_000);
        cluster.assert_converged();
    }
    assert!(repaired > 20, "nothing was under repair: {repaired}");
}

/// G1: two neighbours rot, as they do that share a sector, and the second is found when the first is
/// repaired. The state has applied what lies before them, and would lose it with the process: the log is
/// all that has it.
#[test]
fn what_only_the_log_has_outlives_a_second_repair() {
    let mut repaired = 0;
    for seed in 0..40 {
        let mut options = calm();
        options.replica.entry_cache_bytes_max = 0;
        options.replica.message_bytes_max = 1;
        let mut cluster = SimCluster::new(seed, options, |_| Journal::default());
        cluster.run_for(5_000_000);
        let leader = cluster.leader(GROUP).expect("a calm cluster has a leader");
        let victim = cluster.node_ids()[seed as usize % 3];
        for number in 0..40_u64 {
            cluster.propose(leader, GROUP, Bytes::copy_from_slice(&number.to_le_bytes()));
            cluster.run_for(20_000);
        }
        cluster.kill(victim);
        cluster.start(victim);
        // Some of it is applied again, and the rest still to come.
        let us = cluster.random().below(30_000);
        cluster.run_for(us);
        let disk = cluster.disk(victim).clone();
        let name = disk.list().unwrap().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
        let written = disk.contents(&name).iter().rposition(|byte| *byte != 0).unwrap();
        cluster.expect_damage(victim);
        let at = written / 3 + cluster.random().below(written as u64 / 2) as usize;
        for bytes in 0..300 {
            disk.flip_bit(&name, at + bytes, 3);
        }
        for _ in 0..50 {
            cluster.run_for(100_000);
            repaired += u64::from(!cluster.is_whole(victim));
        }
        cluster.run_for(10_000_000);
        for _ in 0..2 {
            let halted = cluster.halted(victim);
            assert!(halted.is_none(), "seed={seed}: {halted:?}");
            assert!(cluster.is_whole(victim), "seed={seed}: still under repair");
            assert_eq!(cluster.machine(victim).records(GROUP).len(), 40, "seed={seed}");
            cluster.kill(victim);
            cluster.start(victim);
            cluster.run_for(10_000_000);
        }
        cluster.assert_converged();
    }
    assert!(repaired > 0, "nothing that rotted was needed");
}

/// G10: the only voter has a learner beside it that lacks most of the log. What the voter cannot read now
/// is not cut because the learner has never had it: the node halts, and another start may read it.
#[test]
fn a_single_voter_cuts_nothing_on_the_word_of_a_learner() {
    let mut halted = 0;
    for seed in 0..10 {
        let mut options = SimOptions { nodes: 1, ..calm() };
        options.replica.message_bytes_max = 1;
        let mut cluster = SimCluster::new(seed, options, |_| Journal::default());
        cluster.run_for(5_000_000);
        let voter = cluster.leader(GROUP).expect("a single voter leads");
        let (node, member) = cluster.add_node();
        cluster.change(voter, GROUP, MemberChange::AddLearner { node, member });
        cluster.run_for(5_000_000);
        cluster.set_blocked(voter, node, true);
        cluster.set_blocked(node, voter, true);
        for number in 0..30_u64 {
            cluster.propose(voter, GROUP, Bytes::copy_from_slice(&number.to_le_bytes()));
            cluster.run_for(20_000);
        }
        let disk = cluster.disk(voter).clone();
        let name = disk.list().unwrap().into_iter().rfind(|name| name.ends_with(".seg")).unwrap();
        let written = disk.contents(&name).iter().rposition(|byte| *byte != 0).unwrap();
        let at = written / 2 + cluster.random().below(written as u64 / 4) as usize;
        cluster.kill(voter);
        cluster.expect_damage(voter);
        disk.fail_reads(&name, at..at + 1);
        cluster.start(voter);
        cluster.set_blocked(voter, node, false);
        cluster.set_blocked(node, voter, false);
        cluster.run_for(10_000_000);
        halted += u64::from(cluster.is_beyond_repair(voter));
        disk.mend_reads();
        cluster.mend_node(voter);
        cluster.run_for(10_000_000);
        assert!(!cluster.is_beyond_repair(voter), "seed={seed}");
        assert!(cluster.halted(voter).is_none(), "seed={seed}: {:?}", cluster.halted(voter));
        assert_eq!(cluster.machine(voter).records(GROUP).len(), 30, "G1: seed={seed}");
        cluster.assert_converged();
    }
    assert!(halted > 0, "nothing that could not be read was needed");
}
