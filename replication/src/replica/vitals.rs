//! How long things have been taking, for people and for the layers above: nothing is decided by it here.

use super::Replica;
use crate::effects::VoterStatus;
use crate::identity::NodeId;

/// What a replica notes from tick to tick.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    /// Since this tick it has known no leader, or not heard of it: who could not lead waits for ever.
    leaderless_since: Option<u64>,
    /// Since this tick the disk has not come back from the oldest write.
    writing_since: Option<u64>,
    /// When the disk came back last from a write that took a tick or more, and how many it took.
    written: Option<(u64, u64)>,
}

impl Vitals {
    pub(super) fn tick(&mut self, tick: u64, is_led: bool, writes: bool) {
        match is_led {
            true => self.leaderless_since = None,
            false => _ = self.leaderless_since.get_or_insert(tick),
        }
        match writes {
            true => _ = self.writing_since.get_or_insert(tick),
            false => self.writing_since = None,
        }
    }

    /// The disk has come back from a write.
    pub(super) fn written(&mut self, tick: u64) {
        self.written = self.writing_since.take().map(|since| (tick, tick - since));
    }

    pub(super) fn leaderless(&self, tick: u64) -> u64 {
        self.leaderless_since.map_or(0, |since| tick - since)
    }

    pub(super) fn writing(&self, tick: u64) -> u64 {
        let under_way = self.writing_since.map_or(0, |since| tick - since);
        // What one write took is told for as long again: who asks now and then hears of it, and who
        // writes nothing because of it does not hear of it for ever.
        let last = self.written.filter(|(end, took)| tick - end <= *took);
        under_way.max(last.map_or(0, |(_, took)| took))
    }
}

impl Replica {
    /// The voters, if it leads them.
    pub(super) fn voters(&self) -> Vec<VoterStatus> {
        let Some(leading) = &self.leading else { return Vec::new() };
        let patience = u64::from(self.config.options.election_ticks);
        let is_new = self.tick - leading.since <= patience;
        let last = self.raw.raft.raft_log.last_index();
        let voter = |node: NodeId| {
            let is_self = node == self.config.node;
            let matched =
                self.raw.raft.prs().get(node.get()).map_or(0, |progress| progress.matched);
            VoterStatus {
                node,
                answers: is_self || is_new || self.hears(node),
                entries_behind: if is_self { 0 } else { last.saturating_sub(matched) },
            }
        };
        self.members.voters.iter().copied().map(voter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::{GroupStatus, Input, WallTime};
    use crate::replica::scenarios::{Three, options};

    const TICK_MS: u64 = 20;

    fn status(three: &mut Three, id: NodeId) -> GroupStatus {
        three.replica(id).status(0)
    }

    #[test]
    fn who_is_cut_off_counts_the_time_without_a_leader_and_without_a_commit() {
        let mut three = Three::new(&options());
        three.tick(40);
        let leader = three.leader();
        let other = *three.nodes.keys().find(|id| **id != leader).unwrap();
        three.cut_off = Some(other);
        three.propose(other, 1, 1);
        three.tick(5);
        let early = status(&mut three, other);
        assert_eq!((early.leaderless_ms, early.uncommitted_ms), (0, 5 * TICK_MS));
        three.tick(95);
        let late = status(&mut three, other);
        assert_eq!(late.uncommitted_ms, 100 * TICK_MS);
        // It waited for a leader for an election timeout, and went to look for another.
        assert!((80..=95).contains(&(late.leaderless_ms / TICK_MS)), "{late:?}");
        assert_eq!(late.voters, []);
        let held = three.replica(other).status(7);
        assert_eq!(held.leaderless_ms, late.leaderless_ms + 7 * TICK_MS);

        three.cut_off = None;
        three.tick(40);
        let healed = status(&mut three, other);
        assert_eq!((healed.leaderless_ms, healed.uncommitted_ms), (0, 0));
    }

    #[test]
    fn a_leader_tells_which_voters_answer_and_how_far_they_are() {
        let mut three = Three::new(&options());
        three.tick(40);
        let leader = three.leader();
        three.propose(leader, 1, 3);
        let told = |three: &mut Three| {
            let voters = status(three, leader).voters;
            let away: Vec<NodeId> = voters.iter().filter(|v| !v.answers).map(|v| v.node).collect();
            let behind: Vec<u64> = voters.iter().map(|voter| voter.entries_behind).collect();
            assert_eq!(voters.len(), 3);
            (away, behind.iter().copied().max().unwrap())
        };
        assert_eq!(told(&mut three), (vec![], 0));
        let other = *three.nodes.keys().find(|id| **id != leader).unwrap();
        three.cut_off = Some(other);
        three.propose(leader, 4, 2);
        three.tick(5);
        assert_eq!(told(&mut three), (vec![], 2), "it was heard a moment ago");
        three.tick(10);
        assert_eq!(told(&mut three), (vec![other], 2));
    }

    /// It has heard of nobody who did not vote for it, and has asked nobody yet.
    #[test]
    fn a_new_leader_calls_nobody_away() {
        let mut three = Three::new(&options());
        three.tick(40);
        let leader = three.leader();
        let others: Vec<NodeId> = three.ids().into_iter().filter(|id| *id != leader).collect();
        three.cut_off = Some(leader);
        while !others.iter().any(|id| three.replica(*id).leads()) {
            three.tick(1);
        }
        let new = *others.iter().find(|id| three.nodes[id].replica.leads()).unwrap();
        assert!(status(&mut three, new).voters.iter().all(|voter| voter.answers));
        three.tick(11);
        let away = |voter: &&VoterStatus| !voter.answers;
        let voters = status(&mut three, new).voters;
        assert_eq!(voters.iter().filter(away).map(|v| v.node).collect::<Vec<_>>(), [leader]);
    }

    #[test]
    fn a_slow_write_is_told_while_it_lasts_and_as_long_again() {
        let mut three = Three::new(&options());
        three.tick(40);
        let leader = three.leader();
        let replica = three.replica(leader);
        let mut step = |input| {
            let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
            ended.unwrap();
            (effects, replica.status(0).sync_ms / TICK_MS)
        };
        let (effects, waits) = step(Input::Propose { seq: 1, payload: "record".into() });
        let ticket = effects.writes.last().unwrap().ticket;
        assert_eq!(waits, 0);
        let told: Vec<u64> = (0..6).map(|_| step(Input::Tick).1).collect();
        assert_eq!(told, [0, 1, 2, 3, 4, 5]);
        assert_eq!(step(Input::Durable { ticket }).1, 5);
        let told: Vec<u64> = (0..7).map(|_| step(Input::Tick).1).collect();
        assert_eq!(told, [5, 5, 5, 5, 5, 0, 0]);
    }
}
