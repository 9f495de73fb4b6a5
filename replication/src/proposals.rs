//! Proposals of this node from acceptance to commit, and the leader's guard against copies.
//!
//! A record is proposed **at most once per term**, and in a newer term only when it can no longer
//! be committed in the older one. Both halves rest on two facts:
//!
//! - A forwarded record names the term it is meant for; only the leader of that term proposes it,
//!   and that leader remembers what it has proposed ([`ProposedInTerm`]).
//! - Terms never fall along the log. So once an entry of term `t` is committed, a record sent in
//!   an older term that has not shown up never will, and may be sent again ([`Pending::lost`]).
//!
//! So the origin repeats itself freely within a term, and a change of leader neither loses nor
//! doubles a record while the origin lives. When the origin dies its caller has to repeat the
//! request, which is what the idempotency store is for.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::identity::Term;

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not sent, or certainly lost.
    Waiting,
    /// With the leader of this term since this tick.
    Sent { term: Term, tick: u64 },
}

#[derive(Debug)]
struct Proposal {
    payload: Bytes,
    /// Taken in at this tick.
    accepted: u64,
    stage: Stage,
}

/// This node's own proposals that have not been seen in the committed log.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    by_seq: BTreeMap<u64, Proposal>,
    waiting_count: usize,
    bytes: usize,
    /// Highest sequence number ever accepted.
    seq_max: u64,
}

impl Pending {
    /// Takes a proposal in. Sequence numbers only rise.
    pub(crate) fn accept(&mut self, seq: u64, payload: Bytes, tick: u64) {
        assert!(seq > self.seq_max, "proposal numbers must rise");
        self.seq_max = seq;
        self.bytes += payload.len();
        self.waiting_count += 1;
        self.by_seq.insert(seq, Proposal { payload, accepted: tick, stage: Stage::Waiting });
    }

    /// The tick at which the oldest of them was taken in.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.by_seq.first_key_value().map(|(_, proposal)| proposal.accepted)
    }

    pub(crate) fn count(&self) -> usize {
        self.by_seq.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The proposal was seen in the committed log, or its caller gave up. False if it is unknown.
    pub(crate) fn resolve(&mut self, seq: u64) -> bool {
        let Some(proposal) = self.by_seq.remove(&seq) else { return false };
        self.bytes -= proposal.payload.len();
        if proposal.stage == Stage::Waiting {
            self.waiting_count -= 1;
        }
        true
    }

    /// Every proposal up to here is resolved.
    pub(crate) fn resolved_up_to(&self) -> u64 {
        self.by_seq.first_key_value().map_or(self.seq_max, |(seq, _)| seq - 1)
    }

    /// Hands out what waits, oldest first, marking it as sent in `term`.
    pub(crate) fn send(&mut self, term: Term, tick: u64) -> Vec<(u64, Bytes)> {
        if self.waiting_count == 0 {
            return Vec::new();
        }
        let mut sent = Vec::with_capacity(self.waiting_count);
        for (seq, proposal) in &mut self.by_seq {
            if proposal.stage == Stage::Waiting {
                proposal.stage = Stage::Sent { term, tick };
                sent.push((*seq, proposal.payload.clone()));
            }
        }
        self.waiting_count = 0;
        sent
    }

    /// What was sent in `term` before `tick_end` and has not been seen, to be sent to the leader of
    /// that same term again: the way to it may have lost it, and the leader ignores a copy. It must
    /// not go to the leader of another term, who could not tell.
    pub(crate) fn resend(&mut self, term: Term, tick_end: u64, tick: u64) -> Vec<(u64, Bytes)> {
        let mut again = Vec::new();
        for (seq, proposal) in &mut self.by_seq {
            if let Stage::Sent { term: sent_term, tick: sent_tick } = &mut proposal.stage
                && *sent_term == term
                && *sent_tick < tick_end
            {
                *sent_tick = tick;
                again.push((*seq, proposal.payload.clone()));
            }
        }
        again
    }

    /// An entry of `term` is committed: what was sent in an older term and has not been seen is
    /// lost for certain, and waits again.
    pub(crate) fn lost(&mut self, term: Term) {
        for proposal in self.by_seq.values_mut() {
            if let Stage::Sent { term: sent_term, .. } = proposal.stage
                && sent_term < term
            {
                proposal.stage = Stage::Waiting;
                self.waiting_count += 1;
            }
        }
    }

    /// Forgets whatever was sent: a part of the log that may hold it will never be seen here.
    pub(crate) fn give_up_sent(&mut self) -> Vec<u64> {
        let sent = |proposal: &Proposal| proposal.stage != Stage::Waiting;
        let gone: Vec<u64> =
            self.by_seq.iter().filter(|(_, p)| sent(p)).map(|(seq, _)| *seq).collect();
        for seq in &gone {
            self.resolve(*seq);
        }
        gone
    }

    /// Forgets everything.
    pub(crate) fn give_up_all(&mut self) -> Vec<u64> {
        let gone: Vec<u64> = self.by_seq.keys().copied().collect();
        for seq in &gone {
            self.resolve(*seq);
        }
        gone
    }

    /// These were taken back before they were proposed.
    pub(crate) fn unsend(&mut self, seqs: impl Iterator<Item = u64>) {
        for seq in seqs {
            if let Some(proposal) = self.by_seq.get_mut(&seq)
                && proposal.stage != Stage::Waiting
            {
                proposal.stage = Stage::Waiting;
                self.waiting_count += 1;
            }
        }
    }
}

/// What the leader of one term has taken in, by origin, so that a copy is known as one.
///
/// Bounded by what origins may have pending: what an origin calls resolved is forgotten.
#[derive(Debug, Default)]
pub(crate) struct ProposedInTerm {
    by_session: BTreeMap<u64, Origin>,
}

#[derive(Debug, Default)]
struct Origin {
    resolved_up_to: u64,
    proposed: BTreeSet<u64>,
}

impl ProposedInTerm {
    /// True the first time in this term that the session offers this sequence number.
    pub(crate) fn first_time(&mut self, session: u64, seq: u64) -> bool {
        let origin = self.by_session.entry(session).or_default();
        seq > origin.resolved_up_to && origin.proposed.insert(seq)
    }

    /// Everything of the session up to `seq` is resolved: copies of it are ignored for good.
    pub(crate) fn resolved(&mut self, session: u64, seq: u64) {
        let origin = self.by_session.entry(session).or_default();
        if origin.resolved_up_to < seq {
            origin.resolved_up_to = seq;
            origin.proposed = origin.proposed.split_off(&(seq + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Bytes {
        Bytes::from_static(b"payload")
    }

    #[test]
    fn a_record_is_sent_once_a_term_until_a_newer_term_commits() {
        let mut pending = Pending::default();
        pending.accept(1, payload(), 0);
        pending.accept(2, payload(), 0);
        assert_eq!(pending.send(Term::new(3), 10).len(), 2);
        assert!(pending.send(Term::new(3), 11).is_empty());

        pending.lost(Term::new(3));
        assert!(pending.send(Term::new(3), 12).is_empty(), "same term proves nothing");

        assert!(pending.resolve(1));
        pending.lost(Term::new(4));
        let again = pending.send(Term::new(4), 13);
        assert_eq!(again.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [2]);
        assert_eq!(pending.resolved_up_to(), 1);
    }

    #[test]
    fn a_copy_goes_to_the_leader_of_the_same_term_only() {
        let mut pending = Pending::default();
        pending.accept(1, payload(), 0);
        assert_eq!(pending.send(Term::new(3), 10).len(), 1);
        assert!(pending.resend(Term::new(4), 100, 100).is_empty());
        assert!(pending.send(Term::new(4), 100).is_empty(), "it may yet commit in term 3");
        assert_eq!(pending.resend(Term::new(3), 11, 100).len(), 1);
        assert!(pending.resend(Term::new(3), 11, 101).is_empty(), "not again so soon");
    }

    #[test]
    fn a_leader_takes_a_copy_once_and_forgets_what_is_resolved() {
        let mut proposed = ProposedInTerm::default();
        assert!(proposed.first_time(7, 1));
        assert!(!proposed.first_time(7, 1));
        assert!(proposed.first_time(8, 1), "sessions are apart");
        proposed.resolved(7, 5);
        assert!(!proposed.first_time(7, 4), "a late copy of a resolved one");
        assert!(proposed.first_time(7, 6));
    }

    fn numbers(records: &[(u64, Bytes)]) -> Vec<u64> {
        records.iter().map(|(seq, _)| *seq).collect()
    }

    /// Three proposals, of which the first two are sent in term 3 at tick 10.
    fn two_sent() -> Pending {
        let mut pending = Pending::default();
        pending.accept(1, payload(), 0);
        pending.accept(2, payload(), 0);
        assert_eq!(numbers(&pending.send(Term::new(3), 10)), [1, 2]);
        pending.accept(3, payload(), 0);
        pending
    }

    /// G12: what is pending is bounded by these, and what is resolved makes room again.
    #[test]
    fn what_is_pending_is_counted() {
        let pending = Pending::default();
        assert!(pending.is_empty());
        assert_eq!((pending.count(), pending.bytes(), pending.resolved_up_to()), (0, 0, 0));
        let mut pending = two_sent();
        assert!(!pending.is_empty());
        assert_eq!((pending.count(), pending.bytes(), pending.resolved_up_to()), (3, 21, 0));
        assert!(pending.resolve(2));
        assert!(!pending.resolve(2), "it is not known any more");
        assert!(!pending.resolve(9), "nor was this one ever");
        assert_eq!((pending.count(), pending.bytes(), pending.resolved_up_to()), (2, 14, 0));
        assert!(pending.resolve(1));
        assert_eq!(pending.resolved_up_to(), 2, "up to before the first that is pending");
        assert_eq!(pending.waiting_count, 1);
        assert!(pending.resolve(3));
        assert_eq!(pending.waiting_count, 0, "or every look would be at all that is sent");
        assert!(pending.is_empty());
        assert_eq!((pending.count(), pending.bytes(), pending.resolved_up_to()), (0, 0, 3));
    }

    #[test]
    fn what_was_sent_is_sent_again_only_after_its_time() {
        let mut pending = two_sent();
        assert_eq!(numbers(&pending.send(Term::new(3), 20)), [3]);
        assert_eq!(numbers(&pending.resend(Term::new(3), 10, 30)), [0; 0], "not before its time");
        assert_eq!(numbers(&pending.resend(Term::new(3), 11, 30)), [1, 2], "not the later one");
        assert_eq!(numbers(&pending.resend(Term::new(3), 21, 31)), [3]);
        assert_eq!(numbers(&pending.resend(Term::new(3), 31, 32)), [1, 2], "counted from the copy");
        assert_eq!(numbers(&pending.resend(Term::new(2), 99, 99)), [0; 0]);
    }

    #[test]
    fn only_what_an_older_term_was_sent_is_lost() {
        let mut pending = two_sent();
        assert_eq!(numbers(&pending.send(Term::new(4), 20)), [3]);
        pending.lost(Term::new(4));
        pending.lost(Term::new(4));
        assert_eq!(numbers(&pending.send(Term::new(4), 21)), [1, 2], "the third may yet commit");
        assert!(pending.send(Term::new(4), 22).is_empty());
        pending.lost(Term::new(5));
        assert!(pending.resolve(2), "also while it waits");
        assert_eq!(numbers(&pending.send(Term::new(5), 23)), [1, 3]);
    }

    #[test]
    fn what_was_taken_back_waits_again() {
        let mut pending = two_sent();
        pending.unsend([2, 3, 9].into_iter());
        assert_eq!(numbers(&pending.send(Term::new(4), 20)), [2, 3], "the first is still sent");
        assert!(pending.send(Term::new(4), 21).is_empty());
        pending.unsend([3].into_iter());
        assert_eq!(numbers(&pending.send(Term::new(4), 22)), [3], "though nothing else waits");
    }

    /// What was never sent is in no part of the log.
    #[test]
    fn what_was_sent_can_be_given_up_without_what_waits() {
        let mut pending = two_sent();
        assert_eq!(pending.give_up_sent(), [1, 2]);
        assert_eq!((pending.count(), pending.bytes()), (1, 7));
        assert_eq!(numbers(&pending.send(Term::new(4), 20)), [3]);

        let mut pending = two_sent();
        assert_eq!(pending.give_up_all(), [1, 2, 3]);
        assert!(pending.is_empty());
        assert!(pending.send(Term::new(4), 20).is_empty());
    }

    #[test]
    fn what_an_origin_calls_resolved_stays_so() {
        let mut proposed = ProposedInTerm::default();
        for seq in 1..=7 {
            assert!(proposed.first_time(7, seq));
        }
        proposed.resolved(7, 5);
        assert!(!proposed.first_time(7, 5));
        assert!(!proposed.first_time(7, 6), "it is pending");
        assert_eq!(proposed.by_session[&7].proposed, BTreeSet::from([6, 7]), "no more is kept");
        proposed.resolved(7, 3);
        assert!(!proposed.first_time(7, 4), "an older word changes nothing");
        assert!(proposed.first_time(7, 8));
    }
}
