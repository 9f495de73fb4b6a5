//! G12: what comes at once is taken in parts that fit.

mod journal;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::sim::{Completion, GROUP, SimCluster, SimOptions};

/// A follower sleeps while appends arrive, and finds more of them than one batch of its log takes.
#[test]
fn a_follower_that_slept_writes_what_waits_for_it_in_parts() {
    for seed in 0..20 {
        let mut options =
            SimOptions { delay_us_max: 1, gather_per_mille: 1000, ..SimOptions::calm() };
        options.replica.messages_in_flight_max = 100;
        let batch_bytes_max = options.wal.batch_bytes_max;
        let mut cluster = SimCluster::new(seed, options, |_| Journal::default());
        cluster.run_for(5_000_000);
        let leader = cluster.leader(GROUP).expect("a calm cluster has a leader");
        let nodes = cluster.node_ids();
        let sleeper = *nodes.iter().find(|node| **node != leader).expect("three nodes");
        cluster.pause(sleeper, 200_000);
        let count = 3 * batch_bytes_max / 1000;
        for number in 0..count {
            let mut payload = vec![0; 1000];
            payload[..8].copy_from_slice(&number.to_le_bytes());
            cluster.propose(leader, GROUP, Bytes::from(payload));
            if number % 4 == 0 {
                cluster.run_for(2_000);
            }
        }
        cluster.run_for(5_000_000);
        for node in nodes {
            assert!(cluster.halted(node).is_none(), "seed={seed}: {:?}", cluster.halted(node));
        }
        let mut committed = 0;
        while let Some((_, completion)) = cluster.completion() {
            committed += usize::from(matches!(completion, Completion::Committed(_)));
        }
        assert_eq!(committed, count, "seed={seed}");
        assert_eq!(cluster.machine(sleeper).records(GROUP).len(), count, "seed={seed}");
        cluster.assert_converged();
    }
}
