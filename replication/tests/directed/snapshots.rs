//! Snapshots, and what comes in between.

use palisade_replication::sim::{GROUP, SimOptions};
use palisade_replication::{MemberChange, MemberRole, NodeId};

use crate::scene::{Scene, calm, each_seed};

/// The log is trimmed soon: who was away needs a snapshot.
fn forgetful() -> SimOptions {
    let mut options = SimOptions { flush_per_mille: 1000, ..calm() };
    options.replica.trim_entries_min = 4;
    options.replica.lag_entries_max = 8;
    options
}

/// A follower is away for so long that the others have trimmed what it lacks.
fn leave_behind(scene: &mut Scene, who: NodeId) {
    scene.cut(&[who], true);
    scene.pass(500_000);
    let leader = scene.led();
    assert_ne!(leader, who);
    assert_eq!(scene.record(leader, 24), 24);
}

fn count(scene: &Scene, what: &str) -> u64 {
    scene.coverage().get(what).copied().unwrap_or_default()
}

/// G1, G10: the log begins anew once the snapshot that takes its place is on disk, every part of it by
/// name. Power may fail at any moment after.
#[test]
fn power_fails_between_the_log_and_the_state() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, forgetful());
        for _ in 0..6 {
            let leader = scene.led();
            let others = scene.others(leader);
            let victim = *scene.random().pick(&others);
            leave_behind(&mut scene, victim);
            let first =
                |scene: &Scene| scene.status(victim, GROUP).map(|status| status.first_index);
            let before = first(&scene);
            scene.cut(&[victim], false);
            // The log that begins after the snapshot is on its way to the disk.
            let begins_anew = |scene: &Scene| before < first(scene);
            assert!(scene.wait(5_000_000, begins_anew), "liveness: it gets a snapshot");
            let us = scene.below(5_000);
            scene.pass(us);
            scene.power_off(victim);
            scene.start(victim);
            scene.pass(3_000_000);
            assert!(scene.halted(victim).is_none(), "G10: {:?}", scene.halted(victim));
        }
        scene.finish();
    });
}

/// I4: a change of membership is applied while a snapshot of before is made. The snapshot is not offered
/// with members that its state does not have: the change follows it in the log.
#[test]
fn a_snapshot_names_the_members_of_its_state() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, forgetful());
        let (learner, member) = scene.add_node();
        scene.changed(MemberChange::AddLearner { node: learner, member }).expect("a newcomer");
        scene.pass(5_000_000);
        for _ in 0..6 {
            let leader = scene.led();
            let mut others = scene.others(leader);
            others.retain(|node| *node != learner);
            let away = *scene.random().pick(&others);
            leave_behind(&mut scene, away);
            let leader = scene.led();
            let role = scene.status(leader, GROUP).and_then(|s| s.members.role(learner));
            let change = match role {
                Some(MemberRole::Voter) => MemberChange::Demote { node: learner },
                _ => MemberChange::Promote { node: learner },
            };
            let exported = count(&scene, "snapshot exported");
            scene.cut(&[away], false);
            let us = scene.below(60_000);
            scene.pass(us);
            scene.change(leader, GROUP, change);
            scene.wait(1_000_000, |scene| exported < count(scene, "snapshot exported"));
            scene.pass(3_000_000);
        }
        scene.finish();
    });
}

/// Liveness: a snapshot takes longer than the log is kept for those who are behind. What follows it is
/// kept for whom it is sent to, or that one would need the next, and so for ever.
#[test]
fn who_gets_a_snapshot_gets_what_follows_it() {
    each_seed(10, |seed| {
        let mut options = forgetful();
        options.replica.snapshot_bytes_per_second = 2_000;
        options.replica.snapshot_patience_ticks = 200;
        let mut scene = Scene::begun(seed, options);
        let leader = scene.led();
        let away = scene.others(leader)[0];
        leave_behind(&mut scene, away);
        scene.record(leader, 60);
        let leader = scene.led();
        scene.cut(&[away], false);
        let installed = count(&scene, "snapshot installed");
        let mut caught_up = false;
        for _ in 0..400 {
            scene.give(leader);
            scene.pass(40_000);
            let applied = |node| scene.machine(node).records(GROUP).len();
            caught_up = caught_up || applied(leader) < applied(away) + 4;
        }
        let installs = count(&scene, "snapshot installed") - installed;
        assert!(caught_up, "liveness: {installs} snapshots, and still behind");
        scene.finish();
    });
}

/// G10: what was received rots, all of it was there, and the log counts on it already. Its group halts alone, and is
/// made anew when it is told to. Where the node loses power meanwhile, it goes on with that once its log is gone.
#[test]
fn what_rots_before_it_is_installed_halts_its_group_and_is_made_anew() {
    let counts = each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, forgetful());
        for round in 0..6 {
            let leader = scene.led();
            let others = scene.others(leader);
            let victim = *scene.random().pick(&others);
            leave_behind(&mut scene, victim);
            scene.cut(&[victim], false);
            let soon = scene.below(4);
            scene.lose_received(victim, soon);
            let lost = count(&scene, "received snapshot lost");
            scene.wait(5_000_000, |scene| lost < count(scene, "received snapshot lost"));
            if round % 2 == 0 {
                let us = scene.below(200_000);
                scene.pass(us);
                scene.power_off(victim);
                scene.start(victim);
            }
            assert!(scene.halted(victim).is_none(), "{:?}", scene.halted(victim));
            // Where its log was still there, it has to be told again.
            scene.mend_node(victim);
            scene.pass(5_000_000);
            let halted = scene.halted_group(victim, GROUP);
            assert!(halted.is_none(), "round={round}: {halted:?}");
        }
        let counts = ["received snapshot lost", "rebuild resumed"].map(|what| count(&scene, what));
        scene.finish();
        counts
    });
    let [lost, resumed] = [0, 1].map(|at| counts.iter().map(|counts| counts[at]).sum::<u64>());
    assert!(20 <= lost && 5 <= resumed, "lost={lost} resumed={resumed}");
}
