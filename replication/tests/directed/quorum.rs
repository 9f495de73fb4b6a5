//! Who may lead: a node that was away deposes nobody, and a leader without a quorum does not go on.

use palisade_replication::sim::{Completion, GROUP, SimOptions};
use palisade_replication::{NodeError, Role};

use crate::scene::{Scene, calm, each_seed};

/// Longer than many elections.
const LONG_US: u64 = 20_000_000;

/// Liveness: a node that hears nobody asks for votes that it does not get, and raises no term with that. When
/// it is back, it follows. The same where it is only not heard, or only hears nothing.
#[test]
fn a_node_that_was_away_deposes_nobody() {
    each_seed(12, |seed| {
        let mut scene = Scene::begun(seed, calm());
        let leader = scene.led();
        assert!(scene.record(leader, 3) == 3);
        let others = scene.others(leader);
        let others = scene.shuffled(others);
        let (away, stays) = (others[0], others[1]);
        let term = scene.status(leader, GROUP).unwrap().term;
        let leaderships = scene.leaderships();
        for node in [leader, stays] {
            scene.set_blocked(node, away, seed % 3 != 1);
            scene.set_blocked(away, node, seed % 3 != 2);
        }
        for _ in 0..20 {
            scene.record(leader, 1);
            scene.pass(LONG_US / 20);
            if seed % 3 != 1 {
                let found = scene.status(away, GROUP).unwrap().term;
                assert_eq!(found, term, "pre-vote: whom nobody hears raises no term");
            }
        }
        for node in [leader, stays] {
            scene.set_blocked(node, away, false);
            scene.set_blocked(away, node, false);
        }
        let waiting = scene.acked_count();
        assert_eq!(
            scene.record(leader, 5),
            5,
            "nothing is in the way of writes while it comes back"
        );
        assert_eq!(waiting + 5, scene.acked_count());
        scene.pass(LONG_US);
        assert_eq!(scene.led(), leader, "it deposed the leader");
        assert_eq!(scene.status(leader, GROUP).unwrap().term, term);
        assert_eq!(scene.status(away, GROUP).unwrap().leader, Some(leader));
        assert_eq!(scene.leaderships(), leaderships, "nobody else was elected meanwhile");
        scene.finish();
    });
}

/// G5: a leader that a quorum does not hear steps down by itself, serves no linearizable read and acknowledges
/// nothing. Nobody tells it that there is another: where there is none, too.
#[test]
fn a_leader_without_a_quorum_steps_down_and_serves_no_read() {
    each_seed(12, |seed| {
        let slow = SimOptions { delay_us_max: 20_000, ..calm() };
        let mut scene = Scene::begun(seed, slow);
        let leader = scene.led();
        assert_eq!(scene.record(leader, 3), 3);
        let others = scene.others(leader);
        let none_is_left = seed % 2 == 0;
        if none_is_left {
            others.iter().for_each(|node| scene.power_off(*node));
        } else {
            scene.cut(&[leader], true);
        }
        // From the first moment: what it does not know yet does not make it right.
        let mut reads = Vec::new();
        let mut proposals = Vec::new();
        for _ in 0..10 {
            reads.push(scene.read(leader, GROUP));
            proposals.push(scene.give(leader));
            scene.pass(100_000);
        }
        let down = scene.wait(LONG_US, |scene| {
            scene.status(leader, GROUP).is_some_and(|status| status.role != Role::Leader)
        });
        assert!(down, "check-quorum: it leads nobody, and does not notice");
        reads.push(scene.read(leader, GROUP));
        scene.pass(LONG_US / 2);
        for read in reads {
            let answer = scene.answer(read);
            assert!(
                matches!(answer, None | Some(Completion::Refused(NodeError::Unavailable))),
                "G5: it was served without a quorum: {answer:?}"
            );
        }
        for proposal in &proposals {
            let answer = scene.answer(*proposal);
            assert!(!matches!(answer, Some(Completion::Committed(_))), "G1: {answer:?}");
        }
        if none_is_left {
            assert_eq!(scene.leader(GROUP), None);
            others.iter().for_each(|node| scene.start(*node));
        } else {
            assert!(others.contains(&scene.led()), "the others have elected one of them");
        }
        scene.finish();
    });
}
