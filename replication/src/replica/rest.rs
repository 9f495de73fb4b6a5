//! Ticks in which nothing happens, and which a node with many groups at rest need not step through
//! one by one.
//!
//! ```text
//!   ticks     .  .  .  .  .  .  .  .  .        of a leader with a heartbeat every third
//!   answers    aa       aa       aa
//!   steps           *        *        *        each with what was held back before it
//! ```
//! After a step a replica says how many ticks it can do without. They are held back, and given to it
//! before its next input or the tick it waits for, whichever comes first: so every input finds it as
//! if each tick had been its own step. What makes a tick more than a count is either an interval,
//! which is looked ahead to here, or something that waits, and then there is no rest.
//!
//! Answers to a leader's heartbeats are held back as well. They are late then, by less than the time
//! between two heartbeats, as a slow network makes them; all they tell a leader whose log is
//! committed is that its follower is there.
//!
//! A follower says how a heartbeat can be answered for it, as long as nothing else comes: one of the
//! leader and the term that it knows, which commits nothing that it does not know to be committed.
//! Such heartbeats are answered at once and held back, in their order among the ticks, so that its
//! patience with the leader is what it would be. It steps once in the time of an election then, and
//! not at every heartbeat.

use palisade_wal::LogIndex;
use raft::StateRole;

use super::Replica;
use crate::effects::Effects;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Term};
use crate::wire::Beat;

/// What a replica can do without until its next step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rest {
    /// So many ticks owe nothing, unless an input comes between.
    pub(crate) ticks: u64,
    /// The term whose answers to heartbeats can wait for the tick after them.
    pub(crate) answers: Option<Term>,
    /// Whose heartbeats can be answered for it.
    pub(crate) follows: Option<Followed>,
}

/// The leader of a replica that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    leader: NodeId,
    term: Term,
    /// What is known to be committed.
    commit: LogIndex,
}

impl Followed {
    /// What the replica would answer, if the heartbeat were all that it heard.
    pub(crate) fn answer(&self, from: NodeId, beat: &Beat) -> Option<Beat> {
        let is_known = !beat.answer
            && (from, beat.term) == (self.leader, self.term)
            && beat.commit <= self.commit;
        is_known.then_some(Beat { commit: self.commit, answer: true, ..*beat })
    }
}

impl Replica {
    pub(crate) fn rest(&self) -> Rest {
        let raft = &self.raw.raft;
        let waits = !self.pending.is_empty()
            || self.reads.count() > 0
            || self.leading.as_ref().is_some_and(super::Leading::has_batch)
            || !self.outstanding.is_empty()
            || self.installing.is_some()
            || self.incoming.is_some()
            || !self.outgoing.is_idle()
            || self.probation.is_some()
            || self.disk_is_full
            || !self.may_tick();
        if waits {
            return Rest::default();
        }
        let options = &self.config.options;
        let report = u64::from(options.report_ticks) - self.tick % u64::from(options.report_ticks);
        if !self.leads() {
            let election = raft.randomized_election_timeout().saturating_sub(raft.election_elapsed);
            let ticks = report.min(election as u64).saturating_sub(1);
            return Rest { ticks, answers: None, follows: self.follows() };
        }
        // Whether a quorum still answers.
        let quorum = (options.election_ticks as usize).saturating_sub(raft.election_elapsed);
        let beat = (options.heartbeat_ticks as usize).saturating_sub(raft.heartbeat_elapsed());
        let ticks = report.min(quorum.min(beat) as u64).saturating_sub(1);
        let is_committed = raft.raft_log.committed == raft.raft_log.last_index();
        let answers = is_committed.then_some(Term::new(raft.term));
        Rest { ticks, answers, follows: None }
    }

    fn follows(&self) -> Option<Followed> {
        let raft = &self.raw.raft;
        let leader = self.leader().filter(|_| raft.state == StateRole::Follower)?;
        let commit = LogIndex::new(raft.raft_log.committed);
        Some(Followed { leader, term: Term::new(raft.term), commit })
    }

    /// This heartbeat came while it rested, and was answered.
    pub(super) fn on_answered(
        &mut self,
        from: NodeId,
        life: Incarnation,
        beat: Beat,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let raft_sent = self.raw.raft.msgs.len();
        self.on_beat(from, life, beat, effects)?;
        let raft = &mut self.raw.raft;
        let said: Vec<_> =
            raft.msgs.drain(raft_sent..).map(|said| (said.term, said.commit)).collect();
        assert_eq!(said, [(beat.term.get(), raft.raft_log.committed)], "it was answered like this");
        Ok(())
    }

    /// These ticks passed while it rested.
    pub(super) fn on_rested(&mut self, ticks: u64, effects: &mut Effects) -> Result<(), NodeError> {
        let (sent, raft_sent) = (effects.send.len(), self.raw.raft.msgs.len());
        // A disk that is full by now was not then: it would have had no rest.
        let is_full = std::mem::take(&mut self.disk_is_full);
        for _ in 0..ticks {
            self.on_tick(effects)?;
        }
        self.disk_is_full = is_full;
        assert_eq!(effects.send.len(), sent, "a replica at rest has nothing to say");
        assert_eq!(self.raw.raft.msgs.len(), raft_sent, "raft at rest has nothing to say");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::effects::{Input, WallTime};
    use crate::options::Options;
    use crate::replica::scenarios::Replicas;

    fn tick(replica: &mut Replica) -> Effects {
        let (effects, ended) = replica.step(WallTime::from_ms(1), [Input::Tick]);
        ended.unwrap();
        effects
    }

    #[test]
    fn a_rest_is_as_long_as_nothing_happens() {
        let options = Options {
            election_ticks: 30,
            heartbeat_ticks: 5,
            // Nothing was flushed that could be reported.
            report_ticks: u32::MAX,
            ..Options::default()
        };
        let mut three = Replicas::new(3, &options);
        three.tick(150);
        let leader = three.leader();
        for id in three.ids() {
            // On its own from here on: nobody hears it.
            let replica = three.replica(id);
            let mut rested = 0;
            for _ in 0..if id == leader { 3 } else { 1 } {
                let rest = replica.rest();
                assert_eq!(rest.answers, (id == leader).then(|| replica.term()));
                rested += rest.ticks;
                for _ in 0..rest.ticks {
                    let effects = tick(replica);
                    assert!(effects.send.is_empty());
                    assert!(effects.writes.is_empty());
                }
                // A heartbeat, or the question whether one could be elected.
                assert!(!tick(replica).send.is_empty());
            }
            assert!(rested >= 8, "{rested}");
        }
    }

    #[test]
    fn a_report_ends_a_rest_and_what_waits_allows_none() {
        let options = Options { report_ticks: 7, ..Options::default() };
        let mut three = Replicas::new(3, &options);
        three.tick(70);
        let leader = three.leader();
        let replica = three.replica(leader);
        let (_, ended) = replica.step(WallTime::from_ms(1), []);
        ended.unwrap();
        assert_eq!(replica.tick % 7, 0);
        for _ in 0..20 {
            let rest = replica.rest().ticks;
            assert!(replica.tick % 7 + rest < 7);
            let _ = tick(replica);
        }
        let proposal = Input::Propose { seq: 1, payload: Bytes::from_static(b"record") };
        let (effects, ended) = replica.step(WallTime::from_ms(1), [proposal]);
        ended.unwrap();
        assert!(!effects.writes.is_empty());
        let rest = replica.rest();
        assert_eq!((rest.ticks, rest.answers), (0, None));
    }

    /// A step that hears of a full disk first hears of the ticks before it.
    #[test]
    fn a_disk_that_is_full_after_a_rest_was_not_full_all_the_while() {
        let options = Options {
            election_ticks: 30,
            heartbeat_ticks: 6,
            slow_disk_ticks: 2,
            report_ticks: u32::MAX,
            ..Options::default()
        };
        let mut three = Replicas::new(3, &options);
        three.tick(150);
        let leader = three.leader();
        let replica = three.replica(leader);
        while replica.rest().ticks < 4 {
            let _ = tick(replica);
        }
        replica.note_disk(true);
        let (_, ended) = replica.step(WallTime::from_ms(1), [Input::Rested { ticks: 4 }]);
        ended.unwrap();
        assert!(replica.raw.raft.lead_transferee.is_none());
        // From here on it is.
        for _ in 0..4 {
            let _ = tick(replica);
        }
        assert!(replica.raw.raft.lead_transferee.is_some());
    }
}
