//! Replicas that lost what they had confirmed or promised, and whom they meet next.

use palisade_replication::Role;
use palisade_replication::sim::GROUP;

use crate::scene::{Scene, calm, each_seed};

/// Until the mark is written: what the disk then loses, it is known to have had.
const REST_US: u64 = 300_000;

/// G1: one of the two who confirmed records loses them, and the other falls silent while it brings them
/// back. What is back by then is not all: with the third, who never had them, it must not go on.
#[test]
fn a_part_of_what_was_lost_is_not_enough() {
    let met = each_seed(30, |seed| {
        let mut options = calm();
        // One entry at a time, and each waits for the one before to be confirmed.
        options.replica.message_bytes_max = 1;
        options.replica.messages_in_flight_max = 1;
        let mut scene = Scene::begun(seed, options);
        let leader = scene.led();
        let others = scene.others(leader);
        let others = scene.shuffled(others);
        let (victim, third) = (others[0], others[1]);
        scene.cut(&[third], true);
        let count = 6 + scene.below(8);
        assert_eq!(scene.record(leader, count), count as usize);
        scene.pass(REST_US);
        scene.kill(victim);
        let (_, frames) = scene.frames(victim);
        // All from some entry on, but for the mark that says that they were there.
        let lost = 6 + 2 * scene.below(count / 2) as usize;
        scene.rot(victim, frames.len() - 1 - lost..frames.len() - 1);
        scene.start(victim);
        // It takes a new term, above all that the victim may have promised, and so the third's vote.
        let term = scene.status(leader, GROUP).expect("it is up").term;
        scene.cut(&[third], false);
        let leads_anew = |scene: &Scene| {
            let status = scene.status(leader, GROUP).expect("it is up");
            status.role == Role::Leader && term < status.term
        };
        assert!(scene.wait(5_000_000, leads_anew), "liveness: whoever has all is elected");
        scene.cut(&[third], true);
        let last = |scene: &Scene, node| scene.status(node, GROUP).expect("it is up").last_index;
        let left = last(&scene, victim);
        let more_is_back = |scene: &Scene| left < last(scene, victim);
        assert!(scene.wait(2_000_000, more_is_back), "liveness: it is brought up");
        let us = scene.below(20_000);
        scene.pass(us);
        let partly = last(&scene, victim) < last(&scene, leader);
        scene.cut(&[leader], true);
        scene.set_blocked(third, victim, false);
        scene.set_blocked(victim, third, false);
        for _ in 0..5 {
            scene.give(victim);
            scene.give(third);
            scene.pass(600_000);
        }
        scene.finish();
        partly
    });
    assert!(met.len() < 20 || met.iter().any(|partly| *partly), "it never fell silent in between");
}

/// G1, G2: a replica confirms in a new term, and loses its register with all that came in that term. It
/// must not confirm to the leader of the old term, who has slept since and does not know.
#[test]
fn what_was_promised_holds_though_it_is_forgotten() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, calm());
        let sleeper = scene.led();
        scene.record(sleeper, 3);
        scene.pass(REST_US);
        let others = scene.others(sleeper);
        let others = scene.shuffled(others);
        let (_, before) = scene.frames(others[0]);
        let known = [before.len(), scene.frames(others[1]).1.len()];
        scene.pause(sleeper, 3_000_000);
        scene.pass(2_000_000);
        let now = scene.led();
        assert_ne!(now, sleeper, "liveness: two of three elect a leader");
        let (at, victim) = if others[0] == now { (1, others[1]) } else { (0, others[0]) };
        assert_eq!(scene.record(now, 4), 4);
        scene.pass(REST_US);
        scene.kill(victim);
        let (_, frames) = scene.frames(victim);
        assert!(known[at] < frames.len() - 1);
        scene.rot(victim, known[at]..frames.len() - 1);
        scene.start(victim);
        scene.cut(&[now], true);
        // The sleeper wakes, and leads as far as it knows.
        scene.pass(400_000);
        for _ in 0..8 {
            scene.give(sleeper);
            scene.pass(100_000);
        }
        scene.finish();
    });
}
