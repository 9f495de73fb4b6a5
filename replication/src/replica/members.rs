//! Changes of membership and leadership, as this replica carries them out.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::LogIndex;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

use super::{Replica, invariant};
use crate::effects::Effects;
use crate::error::NodeError;
use crate::identity::NodeId;
use crate::membership::{
    ChangeRefusal, ChangeStep, Member, MemberChange, Membership, Standing, decode_member,
    encode_member,
};

/// A change that was asked for here and is not through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changing {
    pub(super) token: u64,
    /// Its entry.
    index: LogIndex,
    /// The entry by which it was through.
    through: Option<LogIndex>,
}

impl Replica {
    pub(super) fn on_change(&mut self, token: u64, change: &MemberChange, effects: &mut Effects) {
        if *change == MemberChange::AcrossDomains
            && let Some(answer) = self.answer_demand(effects)
        {
            effects.changes.push((token, answer.map_err(NodeError::from)));
            return;
        }
        match self.propose_change(change) {
            Ok(index) => self.changing = Some(Changing { token, index, through: None }),
            Err(refusal) => effects.changes.push((token, Err(refusal))),
        }
    }

    pub(super) fn propose_change(&mut self, change: &MemberChange) -> Result<LogIndex, NodeError> {
        let raft = &self.raw.raft;
        if !self.leads() {
            return Err(ChangeRefusal::NotLeader { leader: self.leader() }.into());
        }
        if !raft.commit_to_current_term() {
            return Err(ChangeRefusal::NotReady.into());
        }
        if self.changing.is_some() || raft.has_pending_conf() || raft.lead_transferee.is_some() {
            return Err(ChangeRefusal::InProgress.into());
        }
        let steps = self.members.judge(self.config.node, change, |node| self.standing(node))?;
        let mut proposal = ConfChangeV2::default();
        // Two majorities are only to be feared where voters change.
        let voters = &self.members.voters;
        if steps.iter().any(|step| match step {
            ChangeStep::Voter(node) => !voters.contains(node),
            ChangeStep::Learner(node) | ChangeStep::Remove(node) => voters.contains(node),
        }) {
            proposal.set_transition(ConfChangeTransition::Implicit);
        }
        let singles = steps.iter().map(|step| {
            let (kind, node) = match step {
                ChangeStep::Voter(node) => (ConfChangeType::AddNode, node),
                ChangeStep::Learner(node) => (ConfChangeType::AddLearnerNode, node),
                ChangeStep::Remove(node) => (ConfChangeType::RemoveNode, node),
            };
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = node.get();
            single
        });
        proposal.set_changes(singles.collect::<Vec<_>>().into());
        proposal.context = self.describe_change(change);
        match self.raw.propose_conf_change(Vec::new(), proposal) {
            Ok(()) => Ok(LogIndex::new(self.raw.raft.raft_log.last_index())),
            Err(raft::Error::ProposalDropped) => Err(NodeError::Backpressure {
                queue: "uncommitted_bytes_max",
                retry_after_ms: self.config.options.tick_ms,
            }),
            Err(error) => Err(invariant(format!("raft refused a change: {error}"))),
        }
    }

    /// Who the added node is, and which life of the other members the leader has met: a member that
    /// joins later would take any life of a first voter for the one. With a demand, who everyone is:
    /// where the leader takes a voter to be, all others must too.
    fn describe_change(&self, change: &MemberChange) -> Bytes {
        let mut described = Described {
            two_domains: *change == MemberChange::AcrossDomains,
            ..Described::default()
        };
        for (node, member) in &self.members.members {
            let met = self.met.get(node).filter(|_| member.incarnation.is_none());
            if met.is_some() || described.two_domains {
                let incarnation = met.copied().or(member.incarnation);
                described.known.push((*node, Member { incarnation, ..member.clone() }));
            }
        }
        if let MemberChange::AddLearner { node, member } = change {
            described.known.push((*node, member.clone()));
        }
        described.encode()
    }

    fn standing(&self, node: NodeId) -> Standing {
        let last = self.raw.raft.raft_log.last_index();
        let matched = self.raw.raft.prs().get(node.get()).map_or(0, |progress| progress.matched);
        // Who has confirmed nothing may have nothing, however short the log is.
        let lag = if matched == 0 { u64::MAX } else { last.saturating_sub(matched) };
        Standing { active: self.hears(node), lag }
    }

    /// True if the member has said anything within an election timeout.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        let patience = u64::from(self.config.options.election_ticks);
        self.heard.get(&node).is_some_and(|tick| self.tick - tick <= patience)
    }

    /// A change is committed, and durable here.
    pub(super) fn apply_change(
        &mut self,
        index: LogIndex,
        change: &ConfChangeV2,
    ) -> Result<(), NodeError> {
        let described = Described::decode(&change.context).ok_or_else(|| NodeError::Damaged {
            what: format!("entry index={index} names a member that cannot be read"),
        })?;
        let state = self
            .raw
            .apply_conf_change(change)
            .map_err(|error| invariant(format!("change index={index}: {error}")))?;
        let before = self.members.members.clone();
        take_state(&mut self.members, &state);
        if described.two_domains {
            self.members.two_domains = true;
            for (node, known) in &described.known {
                if let Some(member) = self.members.members.get_mut(node) {
                    member.domain.clone_from(&known.domain);
                }
            }
        }
        self.members.describe(described.known);
        if self.members.members.iter().any(|(node, member)| before.get(node) != Some(member)) {
            // A snapshot of before does not name who is new, or names another life of it.
            self.raw.mut_store().set_offer(None);
        }
        self.members_index = index;
        self.register_dirty = true;
        self.forget_demand(index);
        if self.leads()
            && !self.members.voters.contains(&self.config.node)
            && !self.members.is_joint()
        {
            // A leader that is taken out by what its predecessor proposed: raft would go on with a
            // leader that it does not know. The next one is told to start at once.
            if let Some(next) = self.best_successor() {
                self.raw.raft.send_timeout_now(next.get());
            }
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
        // After that: domains make a leader look at once whether more is committed, which needs its own progress.
        self.members_changed();
        Ok(())
    }

    /// Drops what was kept of those who are gone.
    pub(super) fn members_changed(&mut self) {
        let members = &self.members.members;
        self.flushed.retain(|node, _| members.contains_key(node));
        self.heard.retain(|node, _| members.contains_key(node));
        self.outgoing.retain(|node| members.contains_key(&node));
        self.assign_domains();
    }

    /// An entry that changed the members was handed to apply.
    pub(super) fn settle_change(&mut self, index: LogIndex, effects: &mut Effects) {
        effects.members_changed = true;
        if !self.members.is_joint()
            && let Some(changing) =
                self.changing.as_mut().filter(|changing| changing.index <= index)
        {
            changing.through.get_or_insert(index);
        }
    }

    /// Answers who asked for a change that is through, once a majority of the voters knows that it is:
    /// a voter that does not would still need the ones of before for a majority, and whoever has the
    /// answer may throw those away.
    pub(super) fn answer_change(&mut self, effects: &mut Effects) {
        let Some(through) = self.changing.and_then(|changing| changing.through) else { return };
        let progress = self.raw.raft.prs();
        let knows = |node: NodeId| {
            node == self.config.node
                || progress.get(node.get()).is_some_and(|p| through.get() <= p.committed_index)
        };
        if self.members.is_majority(knows)
            && let Some(changing) = self.changing.take()
        {
            effects.changes.push((changing.token, Ok(())));
        }
    }

    /// The next leader may yet commit a change that was asked for here.
    pub(super) fn stop_leading(&mut self, effects: &mut Effects) {
        if let Some(changing) = self.changing.take() {
            effects.changes.push((changing.token, Err(NodeError::Indeterminate)));
        }
    }

    pub(super) fn on_transfer(&mut self, to: NodeId) {
        // Who is to lead may ask for it himself, of whoever leads.
        let asks = self.leads() || to == self.config.node;
        if asks && self.members.voters.contains(&to) {
            self.raw.transfer_leader(to.get());
        }
    }

    /// The voter that answers and lacks least.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        self.members
            .voters
            .iter()
            .copied()
            .filter(|voter| *voter != self.config.node && self.hears(*voter))
            .min_by_key(|voter| self.standing(*voter).lag)
    }
}

/// raft's view of a membership.
pub(crate) fn conf_state(members: &Membership) -> ConfState {
    let ids = |set: &BTreeSet<NodeId>| set.iter().map(|node| node.get()).collect::<Vec<_>>();
    let mut state = ConfState::from((ids(&members.voters), ids(&members.learners)));
    state.voters_outgoing = ids(&members.outgoing);
    state.learners_next = ids(&members.learners_next);
    state.auto_leave = members.auto_leave;
    state
}

fn take_state(members: &mut Membership, state: &ConfState) {
    let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId::new(*id)).collect();
    members.voters = nodes(&state.voters);
    members.learners = nodes(&state.learners);
    members.outgoing = nodes(&state.voters_outgoing);
    members.learners_next = nodes(&state.learners_next);
    members.auto_leave = state.auto_leave;
}

/// What a change says beside raft's part: who exactly nodes are, and whether a commit must reach two
/// failure domains.
///
/// ```text
/// any number of times   node 8 and member, see `membership`; or 0 in 8 for the demand
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) known: Vec<(NodeId, Member)>,
    pub(super) two_domains: bool,
}

impl Described {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        if self.two_domains {
            out.put_u64_le(0);
        }
        for (node, member) in &self.known {
            out.put_u64_le(node.get());
            encode_member(member, &mut out);
        }
        out.freeze()
    }

    pub(super) fn decode(mut raw: &[u8]) -> Option<Self> {
        let mut described = Self::default();
        while !raw.is_empty() {
            match raw.try_get_u64_le().ok()? {
                0 => described.two_domains = true,
                node => described.known.push((NodeId::new(node), decode_member(&mut raw)?)),
            }
        }
        Some(described)
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;
    use raft::eraftpb::{Message, MessageType};

    use super::super::scenarios::{Replicas, life, options};
    use super::*;
    use crate::effects::{Input, Ticket, WallTime};
    use crate::options::Options;
    use crate::wire::{Body, Envelope};

    /// Whom a majority has elected is the leader, also for who knows an earlier life of it and has not heard of
    /// the change yet that named this one. What it says beside that does not count.
    #[test]
    fn a_leader_is_followed_in_a_life_that_is_not_known_yet() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let follower = three.ids().into_iter().find(|id| *id != three.leader()).unwrap();
        let (leader, former, today) = (NodeId::new(4), life(NodeId::new(4)), life(NodeId::new(5)));
        let replica = three.replica(follower);
        replica.meet(leader, former);
        let term = replica.raw.raft.term + 5;
        let mut says = |kind| {
            let (from, to) = (leader.get(), follower.get());
            let mut message = Message { from, to, term, ..Message::default() };
            message.set_msg_type(kind);
            let body = Body::Raft(message.write_to_bytes().unwrap().into());
            let envelope =
                Envelope { group: replica.config.group, from: leader, to: follower, body };
            let input = Input::Peer { envelope, life: today };
            let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
            ended.unwrap();
            (effects.refused.len(), replica.leader())
        };
        let (refused, led_by) = says(MessageType::MsgRequestVote);
        assert_eq!(refused, 1);
        assert_ne!(led_by, Some(leader));
        assert_eq!(says(MessageType::MsgHeartbeat), (0, Some(leader)));
    }

    /// A leader that its predecessor takes out, while more is committed without it than with it: of four voters
    /// three make a majority, of those who are left two.
    #[test]
    fn a_leader_that_is_taken_out_steps_down_before_more_is_committed() {
        let options = Options { appends_in_flight_max: 8, ..options() };
        let mut four = Replicas::new(4, &options);
        four.tick(40);
        let before = four.leader();
        let demand = MemberChange::AcrossDomains;
        four.input(before, Input::Change { token: 1, change: demand });
        let taken_out = four.ids().into_iter().find(|id| *id != before).unwrap();
        // The change reaches whom it takes out and nobody else, nor the answer its leader.
        let step = |four: &mut Replicas, id, input| {
            let (effects, ended) = four.replica(id).step(WallTime::from_ms(1), [input]);
            ended.unwrap();
            four.perform(id, effects)
        };
        let change = MemberChange::Remove { node: taken_out };
        for (to, input) in step(&mut four, before, Input::Change { token: 2, change }) {
            if to == taken_out {
                for (id, durable) in step(&mut four, to, input) {
                    if id == to {
                        step(&mut four, id, durable);
                    }
                }
            }
        }
        four.cut_off = Some(before);
        four.writing = Some(Vec::new());
        for _ in 0..200 {
            four.tick(1);
            if four.replica(taken_out).leads() {
                break;
            }
        }
        assert!(four.replica(taken_out).leads());
        // With its own disk the first half of the change is committed, and it proposes the second.
        let durable = |four: &mut Replicas, tickets: Vec<Ticket>| {
            tickets.into_iter().for_each(|ticket| four.input(taken_out, Input::Durable { ticket }));
        };
        let begun = four.writing.replace(Vec::new()).unwrap();
        durable(&mut four, begun);
        assert!(four.replica(taken_out).members.is_joint());
        // All others have more than its disk has by the time the second is committed.
        four.propose(taken_out, 1, 3);
        four.tick(3);
        for ticket in four.writing.take().unwrap() {
            if four.replica(taken_out).leads() {
                assert!(four.replica(taken_out).members.is_joint());
                durable(&mut four, vec![ticket]);
            }
        }
        let replica = four.replica(taken_out);
        assert!(!replica.leads());
        assert!(!replica.members.voters.contains(&taken_out), "{:?}", replica.members);
    }

    #[test]
    fn what_a_change_says_comes_back() {
        let member = Member { domain: "aws/us-east-1/a".to_owned(), ..Member::default() };
        for two_domains in [false, true] {
            let known = vec![(NodeId::new(1), member.clone()), (NodeId::new(2), Member::default())];
            let described = Described { known, two_domains };
            assert_eq!(Described::decode(&described.encode()), Some(described));
        }
        assert_eq!(Described::decode(&[1, 2, 3]), None);
    }
}
