//! G10: entries that rot between the start of a replica, which read them, and their use.

mod journal;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::sim::{GROUP, SimCluster, SimOptions};
use palisade_wal::Disk;

/// It applies its log again, and what it needs next is gone: it fetches it from the others.
#[test]
fn what_rots_before_it_is_applied_again_is_fetched() {
    let mut repaired = 0;
    for seed in 0..60 {
        let mut options = SimOptions {
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            corrupt_per_mille: 0,
            flush_per_mille: 0,
            ..SimOptions::default()
        };
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
        assert!(cluster.halted(victim).is_none(), "seed={seed}: {:?}", cluster.halted(victim));
        assert!(cluster.is_whole(victim), "seed={seed}: still under repair");
        assert_eq!(cluster.machine(victim).records(GROUP).len(), 40, "seed={seed}");
        cluster.assert_converged();
    }
    assert!(repaired > 0, "nothing that rotted was needed");
}
