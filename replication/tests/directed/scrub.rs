//! What rots while nobody reads it.

use palisade_replication::sim::SimOptions;

use crate::scene::{Scene, calm, each_seed};

/// More than a round of the scrub takes here, and a repair.
const ROUNDS_US: u64 = 30_000_000;

/// W5, G1: nearly all of every log rots, one replica after the other, while they run. Each finds out by itself while
/// the others still have it; in the end no start finds anything amiss, and nothing is lost. Nobody does anything.
#[test]
fn what_rots_at_one_replica_after_the_other_is_repaired_in_between() {
    each_seed(30, |seed| {
        // The news may arrive together with other things.
        let mut options = SimOptions { gather_per_mille: 450 * (seed % 3), ..calm() };
        options.replica.message_bytes_max = 1;
        // What a state holds for good, the log does without.
        options.flush_per_mille = 200 * (seed % 4 / 2);
        let mut scene = Scene::begun(seed, options);
        let leader = scene.led();
        assert_eq!(scene.record(leader, 12), 12);
        scene.pass(ROUNDS_US);
        let nodes = scene.node_ids();
        let nodes = scene.shuffled(nodes);
        for node in &nodes {
            let (_, frames) = scene.frames(*node);
            let few = seed % 2 == 0;
            let first = if few { scene.below(frames.len() as u64) as usize } else { 0 };
            let end = if few { first + 1 } else { frames.len() };
            scene.rot(*node, first..end);
            scene.pass(ROUNDS_US);
            let leader = scene.led();
            assert_eq!(scene.record(leader, 2), 2, "liveness: the group goes on");
            scene.pass(ROUNDS_US);
        }
        for node in &nodes {
            scene.kill(*node);
        }
        for node in &nodes {
            scene.start(*node);
            assert!(scene.is_whole(*node), "node={node} has something to repair when it starts");
        }
        scene.finish();
        let leader = scene.led();
        assert_eq!(scene.record(leader, 3), 3, "liveness: the group goes on");
    });
}
