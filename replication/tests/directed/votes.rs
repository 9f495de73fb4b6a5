//! Votes, and power that fails right after they are given.

use palisade_replication::sim::SimOptions;

use crate::scene::{Scene, calm, each_seed};

/// I4: two who do not hear each other ask the third for its vote, over and over, and the third loses
/// power over and over: what it forgot to have voted for, it votes for again, and a term has two leaders.
#[test]
fn a_vote_is_durable_before_it_leaves() {
    let leaderships = each_seed(10, |seed| {
        let slow = SimOptions {
            duplicate_per_mille: 300,
            delay_us_max: 60_000,
            sync_us_max: 60_000,
            ..calm()
        };
        let mut scene = Scene::new(seed, slow);
        scene.pass(3_000_000);
        let nodes = scene.node_ids();
        let nodes = scene.shuffled(nodes);
        let (voter, one, other) = (nodes[0], nodes[1], nodes[2]);
        scene.set_blocked(one, other, true);
        scene.set_blocked(other, one, true);
        for _ in 0..100 {
            scene.power_off(voter);
            let us = scene.below(1_200_000);
            scene.pass(us);
            scene.start(voter);
            let us = scene.below(600_000);
            scene.pass(us);
        }
        scene.finish();
        scene.leaderships()
    });
    let count = leaderships.len();
    assert!(leaderships.into_iter().sum::<usize>() >= 4 * count, "hardly an election");
}
