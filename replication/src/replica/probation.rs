//! After a repair that could not bring back all that was confirmed: the replica follows, but neither
//! votes nor campaigns, until it holds all that was counted on its word. See `docs/repair.md`.

use std::collections::BTreeMap;

use palisade_wal::{LogIndex, WalReader};
use raft::eraftpb::{Message, MessageType};

use super::{Replica, ReplicaConfig};
use crate::effects::Effects;
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Term};
use crate::reads::Reads;
use crate::register::Register;
use crate::repair::give;
use crate::wire::{Body, NotGiven, Want};

/// So many election timeouts without a leader, and without the hope of one, are enough.
const HOPELESS_ELECTIONS_MAX: u64 = 20;
/// Who is on probation is believed to be for so many times the interval at which it says so.
const FELLOW_PATIENCES: u64 = 4;

/// How far a probation is.
#[derive(Debug, Default)]
pub(super) struct Probation {
    asked: Option<u64>,
    /// The leader of this term counts anew; this much is to be confirmed to it.
    target: Option<(Term, LogIndex)>,
    /// The most that was confirmed since the repair, to the leader of which term.
    confirmed: Option<(Term, LogIndex)>,
    /// Who else is on probation and looks for a leader, and when it last said so.
    fellows: BTreeMap<NodeId, u64>,
    /// Since when there has been no leader.
    leaderless: Option<u64>,
}

impl Probation {
    /// What was confirmed before the leader said how much is needed counts too: in a group at rest
    /// nothing more may come.
    fn is_over(&self) -> bool {
        self.target
            .zip(self.confirmed)
            .is_some_and(|((of, last), (term, confirmed))| of == term && last <= confirmed)
    }
}

/// Whom a leader counts anew, in its term. What a follower confirmed before it lost something may still be
/// on its way: only what bears its new stand counts, until it has confirmed all that was there when it
/// asked. After that nothing late can say more than is so.
#[derive(Debug, Default)]
pub(super) struct Recounts(BTreeMap<NodeId, (u64, LogIndex)>);

/// What a repair needs of the replica whose place it takes.
pub(crate) struct Parts {
    pub(crate) config: ReplicaConfig,
    pub(crate) reader: WalReader,
    pub(crate) register: Register,
    pub(crate) last: LogIndex,
    pub(crate) applied: AppliedPosition,
    pub(crate) flushed: LogIndex,
    pub(crate) emitted: LogIndex,
    pub(crate) met: BTreeMap<NodeId, Incarnation>,
    pub(crate) last_ticket: u64,
    pub(crate) pending: Vec<u64>,
    pub(crate) reads: Vec<u64>,
    pub(crate) changing: Option<u64>,
}

impl Parts {
    /// What its callers are owed.
    pub(crate) fn unanswered(&self) -> Effects {
        let changes = self.changing.map(|token| (token, Err(NodeError::Indeterminate)));
        Effects {
            unknown: self.pending.clone(),
            refused_reads: self.reads.clone(),
            changes: changes.into_iter().collect(),
            ..Effects::default()
        }
    }
}

impl Replica {
    /// Lets go of everything but what a repair needs. The register is the one last given to the wal.
    pub(crate) fn into_parts(mut self) -> Parts {
        let flushed = self.flushed.get(&self.config.node).copied().unwrap_or_default();
        Parts {
            reader: self.raw.store().reader(),
            last: self.raw.store().last(),
            register: self.written.clone(),
            applied: self.applied,
            flushed,
            emitted: self.emitted.index,
            met: std::mem::take(&mut self.met),
            last_ticket: self.last_ticket,
            pending: self.pending.give_up_all(),
            reads: self.reads.give_up(),
            changing: self.changing.take().map(|changing| changing.token),
            config: self.config,
        }
    }

    /// Goes on where a repair ended.
    pub(crate) fn after_repair(
        &mut self,
        tickets: u64,
        flushed: LogIndex,
        met: &BTreeMap<NodeId, Incarnation>,
    ) {
        (self.tickets_before, self.last_ticket) = (tickets, tickets);
        self.stand = stand(self.config.session, tickets);
        // Answers to reads of before are on their way.
        self.reads = Reads::new(self.stand);
        self.flushed.insert(self.config.node, flushed);
        self.met.clone_from(met);
    }

    /// True while it neither votes nor campaigns.
    #[cfg(feature = "sim")]
    pub(crate) fn is_on_probation(&self) -> bool {
        self.probation.is_some()
    }

    /// True if its log holds nothing, and never has.
    pub(crate) fn is_empty(&self) -> bool {
        self.raw.store().last() == LogIndex::ZERO
    }

    /// The snapshot that is still to be installed, for the state to be no more behind the log.
    pub(crate) fn installs(&self) -> Option<LogIndex> {
        self.installing
    }

    /// The term of an entry that cannot be read, if the log knows it.
    pub(crate) fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.raw.store().term_of(index)
    }

    pub(super) fn on_want(&mut self, from: NodeId, want: Want, effects: &mut Effects) {
        let store = self.raw.store();
        let base = store.base().index;
        let reader = store.reader();
        let entries = give(&reader, &self.config, base, want, |index| store.term_of(index));
        let entries = entries.map_err(|why| match why {
            // It may have had them.
            NotGiven::Unknown if self.probation.is_some() => NotGiven::Doubtful,
            why => why,
        });
        effects.send.push(self.envelope(from, Body::Given { want, entries }));
    }

    /// A follower lost what it had confirmed.
    pub(super) fn on_recount(&mut self, from: NodeId, stand: u64, effects: &mut Effects) {
        if let Some(probation) = &mut self.probation {
            probation.fellows.insert(from, self.tick);
        }
        let last = self.raw.raft.raft_log.last_index();
        let Some(leading) = self.leading.as_mut() else { return };
        let Some(progress) = self.raw.raft.mut_prs().get_mut(from.get()) else { return };
        progress.become_probe();
        progress.matched = 0;
        progress.next_idx = last + 1;
        leading.recounts.0.insert(from, (stand, LogIndex::new(last)));
        self.answer_recount(from, effects);
    }

    fn answer_recount(&self, to: NodeId, effects: &mut Effects) {
        let recount = self.leading.as_ref().and_then(|leading| leading.recounts.0.get(&to));
        let Some((stand, last)) = recount.copied() else { return };
        let body = Body::Recounted { stand, term: self.term(), last };
        effects.send.push(self.envelope(to, body));
    }

    /// True if what this message confirms was not lost since.
    pub(super) fn stands(
        &mut self,
        message: &Message,
        stand: Option<u64>,
        effects: &mut Effects,
    ) -> bool {
        let from = NodeId::new(message.from);
        let now = message.term == self.raw.raft.term;
        let Some(leading) = self.leading.as_mut().filter(|_| now && confirms(message)) else {
            return true;
        };
        let Some((recounted, last)) = leading.recounts.0.get(&from).copied() else { return true };
        if stand != Some(recounted) {
            // Late, or its sender has started again since: it says which.
            self.answer_recount(from, effects);
            return false;
        }
        if last.get() <= message.index {
            leading.recounts.0.remove(&from);
        }
        true
    }

    pub(super) fn on_recounted(
        &mut self,
        from: NodeId,
        stand: u64,
        (term, last): (Term, LogIndex),
        effects: &mut Effects,
    ) {
        let now = self.term();
        if term != now {
            return;
        }
        if stand != self.stand {
            // The leader waits for confirmations of a life of this log that is over.
            effects.send.push(self.envelope(from, Body::Recount { stand: self.stand }));
            return;
        }
        if let Some(probation) = self.probation.as_mut()
            && probation.target.is_none_or(|(of, _)| of != term)
        {
            probation.target = Some((term, last));
        }
        self.end_probation();
    }

    fn end_probation(&mut self) {
        if self.probation.take_if(|probation| probation.is_over()).is_some() {
            tracing::info!(group = %self.config.group, "the probation ends");
            self.register_dirty = true;
        }
    }

    /// Asks the leader of each term once, and again if the answer is lost. Without a leader it asks
    /// all voters, so that those on probation hear of each other.
    ///
    /// # Errors
    /// When they are so many that there will never be a leader again.
    pub(super) fn mind_probation(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        let (now, tick) = (self.term(), self.tick);
        // raft's clock stands still on probation: it does not notice that a leader is gone.
        let leader = self.leader().filter(|leader| self.hears(*leader));
        let options = &self.config.options;
        let patience = u64::from(options.resend_ticks);
        let hopeless_ticks = HOPELESS_ELECTIONS_MAX * u64::from(options.election_ticks);
        let Some(probation) = &mut self.probation else { return Ok(()) };
        probation.target = probation.target.filter(|(term, _)| *term == now);
        if leader.is_some() {
            probation.leaderless = None;
        } else {
            let since = *probation.leaderless.get_or_insert(tick);
            // One that has found a leader says nothing any more.
            probation.fellows.retain(|_, said| tick <= *said + FELLOW_PATIENCES * patience);
            let lost_nothing =
                |node| node != self.config.node && !probation.fellows.contains_key(&node);
            if since + hopeless_ticks < tick && !self.members.is_majority(lost_nothing) {
                return Err(NodeError::Damaged {
                    what: format!(
                        "so many replicas of group={} lost the end of their log that the others \
                         are no majority: restore one of them",
                        self.config.group
                    ),
                });
            }
        }
        let due = probation.asked.is_none_or(|asked| asked + patience < tick);
        if due && (probation.target.is_none() || leader.is_none()) {
            probation.asked = Some(tick);
            let stand = self.stand;
            let voters = || self.members.other_voters(self.config.node).collect();
            let asked: Vec<NodeId> = leader.map_or_else(voters, |leader| vec![leader]);
            effects
                .send
                .extend(asked.into_iter().map(|to| self.envelope(to, Body::Recount { stand })));
        }
        Ok(())
    }

    /// A confirmation leaves, so it is durable: it may be the one that ends the probation.
    pub(super) fn note_confirmed(&mut self, message: &Message) {
        if let Some(probation) = self.probation.as_mut().filter(|_| confirms(message)) {
            let confirmed = (Term::new(message.term), LogIndex::new(message.index));
            probation.confirmed = probation.confirmed.max(Some(confirmed));
            self.end_probation();
        }
    }
}

/// True for a follower's word that it holds entries.
pub(super) fn confirms(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject
}

/// Names a life of a replica's log: another in each process, and after each repair.
pub(super) fn stand(session: u64, tickets: u64) -> u64 {
    super::mix(session ^ super::mix(tickets))
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Message;

    use super::super::Replica;
    use super::super::scenarios::{Replicas, life, options};
    use super::*;
    use crate::effects::{Input, WallTime};
    use crate::wire::Envelope;

    const STAND: u64 = 77;

    fn step(replica: &mut Replica, from: NodeId, body: Body) -> Effects {
        let (group, to) = (replica.config.group, replica.config.node);
        let envelope = Envelope { group, from, to, body };
        let input = Input::Peer { envelope, life: life(from) };
        let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        effects
    }

    fn recounted(effects: &Effects) -> bool {
        effects.send.iter().any(|e| matches!(e.body, Body::Recounted { stand: STAND, .. }))
    }

    /// G1: what a follower confirmed before it lost it arrives after it said so. Counted, it would stand
    /// for entries that are gone, and raft never takes back what it has counted.
    #[test]
    fn a_late_confirmation_of_what_was_lost_does_not_count() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        three.propose(leader, 1, 5);
        let follower = *three.nodes.keys().find(|id| **id != leader).unwrap();
        let replica = &mut three.nodes.get_mut(&leader).unwrap().replica;
        let matched = |replica: &Replica| {
            replica.raw.raft.prs().get(follower.get()).expect("a follower").matched
        };
        let last = replica.raw.raft.raft_log.last_index();
        assert_eq!(matched(replica), last);
        let term = replica.raw.raft.term;
        let confirm = |index| {
            let mut message = Message { term, index, ..Message::default() };
            message.set_msg_type(MessageType::MsgAppendResponse);
            (message.from, message.to) = (follower.get(), leader.get());
            protobuf::Message::write_to_bytes(&message).unwrap().into()
        };

        let effects = step(replica, follower, Body::Recount { stand: STAND });
        assert!(recounted(&effects));
        assert_eq!(matched(replica), 0);
        let old = 5;
        for late in [
            Body::Confirm { stand: old, message: confirm(last) },
            Body::Raft(confirm(last)),
            Body::Confirm { stand: old, message: confirm(last - 1) },
        ] {
            let effects = step(replica, follower, late);
            assert_eq!(matched(replica), 0, "late");
            assert!(recounted(&effects), "who has started again must hear of it");
        }
        // Not all of it yet: what is late could still say more than is so.
        let _ = step(replica, follower, Body::Confirm { stand: STAND, message: confirm(last - 1) });
        assert_eq!(matched(replica), last - 1);
        let _ = step(replica, follower, Body::Confirm { stand: old, message: confirm(last) });
        assert_eq!(matched(replica), last - 1);
        let _ = step(replica, follower, Body::Confirm { stand: STAND, message: confirm(last) });
        assert_eq!(matched(replica), last);
        // From here on it cannot.
        let effects = step(replica, follower, Body::Confirm { stand: old, message: confirm(last) });
        assert!(!recounted(&effects));
    }

    /// A leader that waits for confirmations of a life that is over is told of the one that is.
    #[test]
    fn who_started_again_says_so() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        let follower = *three.nodes.keys().find(|id| **id != leader).unwrap();
        let replica = &mut three.nodes.get_mut(&follower).unwrap().replica;
        let (own, term) = (replica.stand, replica.term());
        let asks = |effects: &Effects| {
            effects.send.iter().filter(|e| e.body == Body::Recount { stand: own }).count()
        };
        let last = LogIndex::new(1);
        let foreign = Body::Recounted { stand: own ^ 1, term, last };
        assert_eq!(asks(&step(replica, leader, foreign)), 1);
        assert_eq!(asks(&step(replica, leader, Body::Recounted { stand: own, term, last })), 0);
    }
}
