//! What a read has to wait for, as raft tells: see `reads`.
//!
//! raft takes an answer to a heartbeat for a confirmation of whatever bears the same context, and of all
//! that was asked before it. A follower's question that the network doubles, or brings again after long,
//! would so be confirmed by answers to the first, and with it a read that came in between: a leader that
//! was paused meanwhile would serve it although it leads no more. So the leader puts a stamp of its own
//! before each question that it takes, and no context is ever used twice.

use palisade_wal::LogIndex;
use raft::ReadState;
use raft::eraftpb::Message;

use super::Replica;
use crate::effects::Effects;
use crate::error::NodeError;
use crate::reads::CONTEXT_BYTES;

impl Replica {
    pub(super) fn dispatch_reads(&mut self) {
        if self.reads.count() == 0 {
            return;
        }
        // A leader does not know what is committed before it has committed in its own term, and drops
        // questions until then.
        let ready = self.leader().is_some() && self.raw.raft.commit_to_current_term();
        if ready && let Some(context) = self.reads.start(self.tick) {
            self.raw.read_index(context);
        }
    }

    /// A follower asks. One that leads no more does not hand the question on, which would be a message
    /// in another's name: whoever asked asks again.
    pub(super) fn on_read_index(&mut self, mut message: Message) -> Result<(), NodeError> {
        if !self.leads() {
            return Ok(());
        }
        self.stamps += 1;
        let question = &mut message.mut_entries()[0].data;
        let mut stamped = Vec::with_capacity(CONTEXT_BYTES + question.len());
        stamped.extend_from_slice(&self.stand.to_le_bytes());
        stamped.extend_from_slice(&self.stamps.to_le_bytes());
        stamped.extend_from_slice(question);
        *question = stamped.into();
        self.step_raft(message)
    }

    pub(super) fn on_read_state(&mut self, state: &ReadState, effects: &mut Effects) {
        // Behind the leader's stamp, if there is one.
        let stamp_bytes = state.request_ctx.len().saturating_sub(CONTEXT_BYTES);
        let context = &state.request_ctx[stamp_bytes..];
        if let Some((tokens, index)) = self.reads.confirmed(context, LogIndex::new(state.index)) {
            effects.reads.extend(tokens.into_iter().map(|token| (token, index)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use palisade_wal::LogIndex;

    use super::super::Replica;
    use super::super::scenarios::{Replicas, life, options};
    use crate::effects::{Effects, Input, WallTime};
    use crate::identity::NodeId;
    use crate::wire::{Body, Envelope};

    fn step(three: &mut Replicas, id: NodeId, input: Input) -> Effects {
        let (effects, ended) = three.replica(id).step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        effects
    }

    fn deliver(three: &mut Replicas, envelope: &Envelope) -> Effects {
        let input = Input::Peer { envelope: envelope.clone(), life: life(envelope.from) };
        step(three, envelope.to, input)
    }

    /// G5: a question is doubled on its way, and so comes again; so does an answer to a heartbeat that
    /// was sent for the first of the two. In between, the leader is asked for a read: nobody has confirmed
    /// since that it leads.
    #[test]
    fn a_question_that_comes_again_confirms_nothing() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        let ids = three.ids();
        let [asks, other] =
            [0, 1].map(|at| *ids.iter().filter(|id| **id != leader).nth(at).unwrap());
        let raft = |effects: &Effects| -> Vec<Envelope> {
            effects.send.iter().filter(|e| matches!(e.body, Body::Raft(_))).cloned().collect()
        };
        let question = raft(&step(&mut three, asks, Input::Read { token: 1 }));
        let [question] = &question[..] else { panic!("one question: {question:?}") };
        let beats = raft(&deliver(&mut three, question));
        let answer = |three: &mut Replicas, id| {
            let beat = beats.iter().find(|beat| beat.to == id).expect("a heartbeat to each");
            raft(&deliver(three, beat)).remove(0)
        };
        let late = answer(&mut three, asks);
        let first = answer(&mut three, other);
        let answered = raft(&deliver(&mut three, &first));
        assert_eq!(deliver(&mut three, &answered[0]).reads.len(), 1, "the first is answered");

        // From here on the leader hears only what is old.
        assert!(step(&mut three, leader, Input::Read { token: 2 }).reads.is_empty());
        assert!(deliver(&mut three, question).reads.is_empty());
        let confirmed = deliver(&mut three, &late);
        assert!(confirmed.reads.is_empty(), "G5: nobody said that it still leads");
        assert!(raft(&confirmed).is_empty(), "G5: {:?}", confirmed.send);
    }

    /// A replica that was under repair begins to number its reads anew: answers to those of before are no
    /// answers to these.
    #[test]
    fn reads_after_a_repair_have_other_names() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let id = three.leader();
        let replica = three.replica(id);
        let name = |replica: &mut Replica| {
            replica.reads.accept(1);
            replica.reads.start(0).expect("none is under way")
        };
        let before = name(replica);
        replica.after_repair(7, LogIndex::ZERO, &BTreeMap::new());
        assert_ne!(before, name(replica));
    }

    /// Whoever is asked and leads no more says nothing: handed on, the question would come from another
    /// than it names.
    #[test]
    fn a_question_is_not_handed_on() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        let others: Vec<NodeId> = three.ids().into_iter().filter(|id| *id != leader).collect();
        let asked = step(&mut three, others[0], Input::Read { token: 1 });
        let question = Envelope { to: others[1], ..asked.send[0].clone() };
        assert!(deliver(&mut three, &question).send.is_empty());
    }
}
