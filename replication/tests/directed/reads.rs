//! Linearizable reads whose answers come late.

use palisade_replication::NodeId;
use palisade_replication::sim::{Completion, GROUP, SimOptions};

use crate::scene::{Scene, calm, each_seed};

/// G5: an answer to a read of a former life of the process arrives when its next life asks. It says
/// where the group stood then, and not what was acknowledged since.
#[test]
fn an_answer_to_a_former_life_answers_nothing() {
    each_seed(10, |seed| {
        let doubling = SimOptions { duplicate_per_mille: 700, delay_us_max: 20_000, ..calm() };
        let mut scene = Scene::begun(seed, doubling);
        for _ in 0..60 {
            let Some(leader) = scene.leader(GROUP) else {
                scene.pass(500_000);
                continue;
            };
            let others = scene.others(leader);
            let reader: NodeId = *scene.random().pick(&others);
            // Asked, and perhaps answered: a copy of the answer is on its way.
            scene.read(reader, GROUP);
            let us = scene.below(40_000);
            scene.pass(us);
            scene.kill(reader);
            scene.start(reader);
            let us = 20_000 + scene.below(60_000);
            scene.pass(us);
            scene.give(leader);
            let before = scene.acked_count();
            scene.wait(300_000, |scene| before < scene.acked_count());
            let acked = scene.acked_count() as u64;
            let read = scene.read(reader, GROUP);
            scene.pass(400_000);
            if let Some(Completion::Readable(at)) = scene.answer(read) {
                assert!(acked <= at.get(), "G5: read at {at}, acknowledged {acked}");
            }
        }
        scene.finish();
    });
}

/// Liveness: a read that waits for a leader is answered soon after there is one. Asked of a leader that
/// knows nothing of its own term yet, it would be dropped, and asked again when patience ends.
#[test]
fn a_read_is_answered_soon_after_an_election() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, calm());
        let first = scene.led();
        scene.record(first, 3);
        scene.power_off(first);
        let reads: Vec<_> =
            scene.others(first).into_iter().map(|node| scene.read(node, GROUP)).collect();
        let led = |scene: &Scene| scene.leader(GROUP).is_some();
        assert!(scene.wait(10_000_000, led), "liveness: a leader");
        scene.pass(100_000);
        for read in reads {
            let answer = scene.answer(read);
            assert!(matches!(answer, Some(Completion::Readable(_))), "liveness: {answer:?}");
        }
    });
}
