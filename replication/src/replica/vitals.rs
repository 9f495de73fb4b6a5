//! How long things have been taking, for people and for the layers above: nothing is decided by it here.

use super::Replica;
use crate::effects::VoterStatus;
use crate::identity::{NodeId, Term};
use crate::node_load::QueueLoad;

/// What a replica notes from tick to tick.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    /// Since this tick it has known no leader, or not heard of it: who could not lead waits for ever.
    leaderless_since: Option<u64>,
    /// Since this tick the disk has not come back from the oldest write.
    writing_since: Option<u64>,
    /// When the disk came back last from a write that took a tick or more, and how many it took.
    written: Option<(u64, u64)>,
    /// The last term in which it asked for votes, or that was over when it was opened.
    stood: Option<Term>,
    elections: u64,
    /// The last term whose leader it came to know.
    led: Option<Term>,
    leaders: u64,
}

impl Vitals {
    /// Of a replica that is opened in this term.
    pub(super) fn since(term: Term) -> Self {
        Self { stood: Some(term), ..Self::default() }
    }

    /// Its leader and its term are these from now on.
    pub(super) fn led(&mut self, (leader, term): (Option<NodeId>, Term)) {
        if leader.is_some() && self.led < Some(term) {
            self.led = Some(term);
            self.leaders += 1;
        }
    }

    fn stood(&mut self, term: Term) {
        if self.stood < Some(term) {
            self.stood = Some(term);
            self.elections += 1;
        }
    }

    pub(super) fn elections(&self) -> u64 {
        self.elections
    }

    pub(super) fn leaders(&self) -> u64 {
        self.leaders
    }

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
    /// Whoever asks for votes has given itself its own. One that does not get beyond asking who would vote for
    /// it begins no term.
    pub(super) fn note_election(&mut self) {
        let raft = &self.raw.raft;
        if raft.vote == raft.id {
            self.vitals.stood(Term::new(raft.term));
        }
    }

    /// What waits in it, how much, and what may at most (G12).
    pub(crate) fn loads(&self) -> [QueueLoad; 5] {
        let options = &self.config.options;
        // What was taken while there was room may still be committed when there is none.
        let window = options.messages_in_flight_max * options.message_bytes_max;
        let taken = window + options.uncommitted_bytes_max + 2 * options.entry_bytes_target;
        let backlog_max = options.apply_backlog_bytes_max + taken;
        let cache_max = options.entry_cache_bytes_max + backlog_max;
        [
            ("proposals", self.pending.count(), options.proposals_max),
            ("proposal_bytes", self.pending.bytes(), options.proposals_bytes_max),
            ("reads", self.reads.count(), options.reads_max),
            ("apply_bytes", self.backlog_bytes, backlog_max),
            ("cached_bytes", self.raw.store().cache_bytes(), cache_max),
        ]
        .map(|(queue, held, held_max)| QueueLoad {
            queue,
            held: held as u64,
            held_max: held_max as u64,
        })
    }

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
    use crate::replica::scenarios::{Replicas, options};

    const TICK_MS: u64 = 20;

    fn status(three: &mut Replicas, id: NodeId) -> GroupStatus {
        three.replica(id).status(0)
    }

    #[test]
    fn who_is_cut_off_counts_the_time_without_a_leader_and_without_a_commit() {
        let mut three = Replicas::new(3, &options());
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
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        three.propose(leader, 1, 3);
        let told = |three: &mut Replicas| {
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

    #[test]
    fn an_election_counts_where_it_was_begun_and_a_leader_where_it_is_known() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let counts = |three: &mut Replicas, id| {
            let status = status(three, id);
            (status.elections, status.leaders)
        };
        let leader = three.leader();
        let others: Vec<NodeId> = three.ids().into_iter().filter(|id| *id != leader).collect();
        let begun: u64 = three.ids().into_iter().map(|id| counts(&mut three, id).0).sum();
        assert_eq!(begun, 1);
        let before =
            others.clone().into_iter().map(|id| counts(&mut three, id)).collect::<Vec<_>>();
        assert!(before.iter().all(|(_, leaders)| 1 <= *leaders));
        three.cut_off = Some(leader);
        while !others.iter().any(|id| three.replica(*id).leads()) {
            three.tick(1);
        }
        three.tick(5);
        let now = others.iter().map(|id| counts(&mut three, *id)).collect::<Vec<_>>();
        let grown = |of: fn((u64, u64)) -> u64| {
            now.iter().zip(&before).map(|(now, before)| of(*now) - of(*before)).collect::<Vec<_>>()
        };
        assert_eq!(grown(|(elections, _)| elections).iter().sum::<u64>(), 1);
        assert_eq!(grown(|(_, leaders)| leaders), [1, 1]);
        // Who is cut off asks who would vote for it, and nobody does.
        let cut_off = counts(&mut three, leader);
        three.tick(100);
        assert_eq!(counts(&mut three, leader), cut_off);
    }

    #[test]
    fn what_a_replica_has_is_told_stage_by_stage() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        three.propose(leader, 1, 3);
        three.tick(2);
        let stages = |status: GroupStatus| {
            [status.last_index, status.durable_index, status.committed_index, status.applied_index]
                .map(palisade_wal::LogIndex::get)
        };
        let [last, durable, committed, applied] = stages(status(&mut three, leader));
        assert_eq!([durable, committed, applied], [last; 3]);
        // A record that is with the disk.
        let replica = three.replica(leader);
        let input = Input::Propose { seq: 9, payload: "record".into() };
        let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        assert_eq!(stages(replica.status(0)), [last + 1, last, last, last]);
        let loads = replica.status(0).queues;
        assert_eq!((loads[0].queue, loads[0].held), ("proposals", 1));
        assert_eq!((loads[1].queue, loads[1].held), ("proposal_bytes", 6));
        let ticket = effects.writes.last().unwrap().ticket;
        let (_, ended) = replica.step(WallTime::from_ms(1), [Input::Durable { ticket }]);
        ended.unwrap();
        assert_eq!(stages(replica.status(0)), [last + 1, last + 1, last, last]);
    }

    /// It has heard of nobody who did not vote for it, and has asked nobody yet.
    #[test]
    fn a_new_leader_calls_nobody_away() {
        let mut three = Replicas::new(3, &options());
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
        let mut three = Replicas::new(3, &options());
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
