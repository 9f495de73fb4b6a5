//! Who takes part in a group and as what, and which changes of that are safe.
//!
//! Changes are entries of the log and take effect when they are committed. Those that touch voters
//! go through joint consensus: while one is under way, a commit and an election need a majority of
//! the old voters **and** of the new ones, so there are never two majorities. Learners receive
//! everything and count for nothing.
//!
//! A member is a node in one life of its data directory. Whoever comes back with another directory
//! is someone else, until the old one is removed and the new one added.
//!
//! ```text
//! encoding: flags 1 (1 leaves the joint stage by itself, 2 a commit must reach two failure domains),
//!           count 1, then for each member
//!           node 8, roles 1 (1 voter, 2 learner, 4 outgoing voter, 8 learner after the joint stage),
//!           incarnation 16 (0 for one that was never met), address length 1 and text,
//!           domain length 1 and text
//! ```
//! Little-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::{Buf, BufMut};
use palisade_wal::Disposition;

use crate::identity::{Incarnation, NodeId};

/// A group is a handful of replicas.
pub const MEMBERS_MAX: usize = 15;
/// Longest name of a failure domain.
pub const DOMAIN_BYTES_MAX: usize = 128;
/// A learner that lacks more entries than this is not promoted.
pub const PROMOTION_LAG_MAX: u64 = 128;

const AUTO_LEAVE: u8 = 1;
const TWO_DOMAINS: u8 = 2;
const VOTER: u8 = 1;
const LEARNER: u8 = 2;
const OUTGOING: u8 = 4;
const LEARNER_NEXT: u8 = 8;

/// One node of a group, in one life of its data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Which life. A first voter's is not known before it is met.
    pub incarnation: Option<Incarnation>,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// What fails together with it: a zone, a region, a provider. Empty if nobody said.
    pub domain: String,
}

/// What a member does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Counts for commits and elections.
    Voter,
    /// Receives the log and counts for nothing.
    Learner,
    /// A voter until the change under way is through.
    Leaving,
}

/// A change of membership, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new node begins to receive the log.
    AddLearner {
        /// Its name, not in the group yet.
        node: NodeId,
        /// Who exactly; its incarnation must be known.
        member: Member,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// A voter becomes a learner.
    Demote {
        /// The voter.
        node: NodeId,
    },
    /// A node leaves.
    Remove {
        /// Voter or learner.
        node: NodeId,
    },
    /// A learner that has caught up takes the place of a voter, in one step.
    Replace {
        /// The voter that goes.
        old: NodeId,
        /// The learner that becomes a voter.
        new: NodeId,
    },
    /// From now on a commit of the group must reach voters in two failure domains, whoever leads. Not
    /// taken back. Asked of another than the leader, it is passed on and answered with
    /// [`ChangeRefusal::InProgress`]: ask again, until it holds.
    AcrossDomains,
}

/// Why a change of membership is not made. Nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefusal {
    /// Only the leader changes the membership.
    #[error("ask the leader, leader={leader:?}")]
    NotLeader {
        /// As far as this node knows.
        leader: Option<NodeId>,
    },
    /// One change at a time.
    #[error("another change is under way, wait for it")]
    InProgress,
    /// The leader has not committed in its term yet, so it cannot know what is under way.
    #[error("the leader is new, try again")]
    NotReady,
    /// The node is there already.
    #[error("node={node} is a member already")]
    AlreadyMember {
        /// Which.
        node: NodeId,
    },
    /// The node does not have the role that the change needs.
    #[error("node={node} is not a {needed}")]
    WrongRole {
        /// Which.
        node: NodeId,
        /// What it would have to be.
        needed: &'static str,
    },
    /// The member's description cannot be stored.
    #[error("{what}")]
    InvalidMember {
        /// The rule.
        what: &'static str,
    },
    /// The leader would remove or demote itself.
    #[error("node={node} leads: transfer the leadership first")]
    IsLeader {
        /// The leader.
        node: NodeId,
    },
    /// A single voter would remain, and with it the only copy.
    #[error("one voter would remain: add another first")]
    LastVoters,
    /// The learner does not answer, or lacks too much of the log.
    #[error("node={node} must answer and lack at most {PROMOTION_LAG_MAX} entries, lag={lag}")]
    NotCaughtUp {
        /// The learner.
        node: NodeId,
        /// What it lacks.
        lag: u64,
    },
    /// After the change, those who answer would not be a majority.
    #[error("quorum would be lost: {active} of {voters} voters answer")]
    QuorumAtRisk {
        /// How many of them answer now.
        active: usize,
        /// The voters after the change.
        voters: usize,
    },
    /// A commit must reach two failure domains, and the voters would not be in two that are known.
    #[error(
        "a commit must reach two failure domains and the voters would be in {domains:?}: name the \
         domain of each voter, and have voters in two"
    )]
    OneDomain {
        /// Those that the voters are known to be in.
        domains: Vec<String>,
    },
    /// A commit must reach two failure domains, and those who answer are in one: the change itself
    /// could not be committed.
    #[error("a commit must reach two failure domains and those who answer are in {domains:?}")]
    DomainsAtRisk {
        /// Those that somebody answers from.
        domains: Vec<String>,
    },
}

impl ChangeRefusal {
    /// What the caller should do: some reasons pass by themselves.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NotLeader { .. }
            | Self::InProgress
            | Self::NotReady
            | Self::NotCaughtUp { .. }
            | Self::QuorumAtRisk { .. }
            | Self::DomainsAtRisk { .. } => Disposition::Retry,
            Self::AlreadyMember { .. }
            | Self::WrongRole { .. }
            | Self::InvalidMember { .. }
            | Self::IsLeader { .. }
            | Self::LastVoters
            | Self::OneDomain { .. } => Disposition::Reject,
        }
    }
}

/// What a leader knows of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// It has answered recently.
    pub(crate) active: bool,
    /// Entries of the leader's log that it has not confirmed.
    pub(crate) lag: u64,
}

/// One step of a change, in the consensus library's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeStep {
    Voter(NodeId),
    Learner(NodeId),
    Remove(NodeId),
}

/// Who takes part in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
    /// The voters before the change under way, if one is.
    pub(crate) outgoing: BTreeSet<NodeId>,
    /// Outgoing voters that will be learners.
    pub(crate) learners_next: BTreeSet<NodeId>,
    pub(crate) auto_leave: bool,
    pub(crate) two_domains: bool,
    pub(crate) members: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// The first voters of a group.
    #[must_use]
    pub fn of_voters(members: BTreeMap<NodeId, Member>) -> Self {
        Self { voters: members.keys().copied().collect(), members, ..Self::default() }
    }

    /// Every member and what it does.
    pub fn roles(&self) -> impl Iterator<Item = (NodeId, MemberRole)> {
        self.members.keys().filter_map(|node| Some((*node, self.role(*node)?)))
    }

    /// Where its members are, as far as anybody said.
    pub fn member_domains(&self) -> impl Iterator<Item = &str> {
        self.members.values().map(|m| m.domain.as_str()).filter(|domain| !domain.is_empty())
    }

    /// What the node does in the group, or `None` if it is not in it.
    #[must_use]
    pub fn role(&self, node: NodeId) -> Option<MemberRole> {
        if self.voters.contains(&node) {
            Some(MemberRole::Voter)
        } else if self.outgoing.contains(&node) {
            Some(MemberRole::Leaving)
        } else if self.learners.contains(&node) {
            Some(MemberRole::Learner)
        } else {
            None
        }
    }

    /// Who exactly the node is.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// True while a change goes through joint consensus.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// True if a commit must reach two failure domains: see [`MemberChange::AcrossDomains`].
    #[must_use]
    pub fn commits_across_domains(&self) -> bool {
        self.two_domains
    }

    /// The failure domains that voters are known to be in.
    #[must_use]
    pub fn voter_domains(&self) -> BTreeSet<&str> {
        self.domains(self.voters.iter())
    }

    pub(crate) fn domains<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> BTreeSet<&str> {
        let named = nodes.filter_map(|node| self.members.get(node)).map(|m| m.domain.as_str());
        // Nobody knows what an unnamed one has in common with the others.
        named.filter(|domain| !domain.is_empty()).collect()
    }

    /// The other voters, of both sides of a change under way.
    pub(crate) fn other_voters(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        self.voters.union(&self.outgoing).copied().filter(move |voter| *voter != node)
    }

    /// True if these nodes can elect a leader, on both sides of a change under way.
    pub(crate) fn is_majority(&self, has: impl Fn(NodeId) -> bool) -> bool {
        [&self.voters, &self.outgoing].into_iter().filter(|side| !side.is_empty()).all(|side| {
            let count = side.iter().filter(|voter| has(**voter)).count();
            side.len() / 2 < count
        })
    }

    /// Takes in who exactly nodes are, and forgets who is in none of the roles. Which life a member
    /// is in never changes while it is one.
    pub(crate) fn describe(&mut self, known: Vec<(NodeId, Member)>) {
        for (node, member) in known {
            let found = self.members.entry(node).or_insert_with(|| member.clone());
            found.incarnation = found.incarnation.or(member.incarnation);
        }
        let roles = [&self.voters, &self.learners, &self.outgoing, &self.learners_next];
        let named: BTreeSet<NodeId> = roles.into_iter().flatten().copied().collect();
        self.members.retain(|node, _| named.contains(node));
        for node in named {
            self.members.entry(node).or_default();
        }
    }

    /// The steps of a change, or why it is not made. `leader` is who is asked.
    pub(crate) fn judge(
        &self,
        leader: NodeId,
        change: &MemberChange,
        standing: impl Fn(NodeId) -> Standing,
    ) -> Result<Vec<ChangeStep>, ChangeRefusal> {
        if self.is_joint() {
            return Err(ChangeRefusal::InProgress);
        }
        let needs = |set: &BTreeSet<NodeId>, node: NodeId, needed| {
            if set.contains(&node) {
                Ok(())
            } else {
                Err(ChangeRefusal::WrongRole { node, needed })
            }
        };
        let caught_up = |node: NodeId| {
            let Standing { active, lag } = standing(node);
            if active && lag <= PROMOTION_LAG_MAX {
                Ok(())
            } else {
                Err(ChangeRefusal::NotCaughtUp { node, lag })
            }
        };
        let steps = match change {
            MemberChange::AddLearner { node, member } => {
                if self.members.contains_key(node) {
                    return Err(ChangeRefusal::AlreadyMember { node: *node });
                }
                check_member(*node, member, self.members.len())?;
                return Ok(vec![ChangeStep::Learner(*node)]);
            }
            MemberChange::Promote { node } => {
                needs(&self.learners, *node, "learner")?;
                caught_up(*node)?;
                vec![ChangeStep::Voter(*node)]
            }
            MemberChange::Demote { node } => {
                needs(&self.voters, *node, "voter")?;
                vec![ChangeStep::Learner(*node)]
            }
            MemberChange::Remove { node } if self.learners.contains(node) => {
                return Ok(vec![ChangeStep::Remove(*node)]);
            }
            MemberChange::Remove { node } => {
                needs(&self.voters, *node, "member")?;
                vec![ChangeStep::Remove(*node)]
            }
            MemberChange::Replace { old, new } => {
                needs(&self.voters, *old, "voter")?;
                needs(&self.learners, *new, "learner")?;
                caught_up(*new)?;
                vec![ChangeStep::Remove(*old), ChangeStep::Voter(*new)]
            }
            // An entry that changes no role: what it says lies beside that.
            MemberChange::AcrossDomains => vec![ChangeStep::Voter(leader)],
        };
        let mut after = self.voters.clone();
        for step in &steps {
            match step {
                ChangeStep::Voter(node) => after.insert(*node),
                ChangeStep::Learner(node) | ChangeStep::Remove(node) => after.remove(node),
            };
        }
        if !after.contains(&leader) {
            return Err(ChangeRefusal::IsLeader { node: leader });
        }
        if after.len() == 1 && self.voters.len() > 1 {
            return Err(ChangeRefusal::LastVoters);
        }
        for voters in [&self.voters, &after] {
            let active = voters.iter().filter(|v| **v == leader || standing(**v).active).count();
            if active <= voters.len() / 2 {
                return Err(ChangeRefusal::QuorumAtRisk { active, voters: voters.len() });
            }
        }
        if self.two_domains || *change == MemberChange::AcrossDomains {
            self.judge_domains(&after, |v| v == leader || standing(v).active)?;
        }
        Ok(steps)
    }

    /// Both majorities of a change must reach two domains.
    fn judge_domains(
        &self,
        after: &BTreeSet<NodeId>,
        active: impl Fn(NodeId) -> bool,
    ) -> Result<(), ChangeRefusal> {
        let texts = |found: BTreeSet<&str>| found.into_iter().map(str::to_owned).collect();
        for voters in [&self.voters, after] {
            let found = self.domains(voters.iter());
            if found.len() < 2 {
                return Err(ChangeRefusal::OneDomain { domains: texts(found) });
            }
            let found = self.domains(voters.iter().filter(|voter| active(**voter)));
            if found.len() < 2 {
                return Err(ChangeRefusal::DomainsAtRisk { domains: texts(found) });
            }
        }
        Ok(())
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        assert!(self.members.len() <= MEMBERS_MAX);
        let flag = |set, bit| if set { bit } else { 0 };
        out.put_u8(flag(self.auto_leave, AUTO_LEAVE) | flag(self.two_domains, TWO_DOMAINS));
        out.put_u8(self.members.len() as u8);
        for (node, member) in &self.members {
            let role = |set: &BTreeSet<NodeId>, bit| if set.contains(node) { bit } else { 0 };
            out.put_u64_le(node.get());
            out.put_u8(
                role(&self.voters, VOTER)
                    | role(&self.learners, LEARNER)
                    | role(&self.outgoing, OUTGOING)
                    | role(&self.learners_next, LEARNER_NEXT),
            );
            encode_member(member, out);
        }
    }

    pub(crate) fn decode(raw: &mut impl Buf) -> Option<Self> {
        let flags = raw.try_get_u8().ok()?;
        let mut membership = Self {
            auto_leave: flags & AUTO_LEAVE != 0,
            two_domains: flags & TWO_DOMAINS != 0,
            ..Self::default()
        };
        if flags & !(AUTO_LEAVE | TWO_DOMAINS) != 0 {
            return None;
        }
        let count = raw.try_get_u8().ok()?;
        if usize::from(count) > MEMBERS_MAX {
            return None;
        }
        for _ in 0..count {
            let node = NodeId::new(raw.try_get_u64_le().ok()?);
            let roles = raw.try_get_u8().ok()?;
            let sets = [
                (VOTER, &mut membership.voters),
                (LEARNER, &mut membership.learners),
                (OUTGOING, &mut membership.outgoing),
                (LEARNER_NEXT, &mut membership.learners_next),
            ];
            for (bit, set) in sets {
                if roles & bit != 0 {
                    set.insert(node);
                }
            }
            membership.members.insert(node, decode_member(raw)?);
        }
        Some(membership)
    }
}

/// What can be stored of a member.
pub(crate) fn check_member(
    node: NodeId,
    member: &Member,
    others: usize,
) -> Result<(), ChangeRefusal> {
    let rules = [
        (node.get() != 0, "no node is 0"),
        (others < MEMBERS_MAX, "a group has at most MEMBERS_MAX members"),
        (member.domain.len() <= DOMAIN_BYTES_MAX, "a domain is at most DOMAIN_BYTES_MAX long"),
        (member.incarnation.is_some(), "a new member's incarnation must be said"),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(ChangeRefusal::InvalidMember { what }),
        None => Ok(()),
    }
}

pub(crate) fn encode_member(member: &Member, out: &mut impl BufMut) {
    out.put_u128_le(member.incarnation.map_or(0, Incarnation::get));
    let address = member.address.map(|address| address.to_string()).unwrap_or_default();
    for text in [&address, &member.domain] {
        out.put_u8(text.len() as u8);
        out.put_slice(text.as_bytes());
    }
}

pub(crate) fn decode_member(raw: &mut impl Buf) -> Option<Member> {
    let incarnation = match raw.try_get_u128_le().ok()? {
        0 => None,
        known => Some(Incarnation::new(known)),
    };
    let address = match decode_text(raw)? {
        text if text.is_empty() => None,
        text => Some(text.parse().ok()?),
    };
    Some(Member { incarnation, address, domain: decode_text(raw)? })
}

fn decode_text(raw: &mut impl Buf) -> Option<String> {
    let length = usize::from(raw.try_get_u8().ok()?);
    if raw.remaining() < length {
        return None;
    }
    String::from_utf8(raw.copy_to_bytes(length).to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id)
    }

    fn member(id: u64) -> Member {
        Member {
            incarnation: Some(Incarnation::new(u128::from(id) + 100)),
            address: Some(SocketAddr::from(([127, 0, 0, 1], 4000 + id as u16))),
            domain: format!("aws/us-east-1/{id}"),
        }
    }

    fn voters(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|id| (node(*id), member(*id))).collect())
    }

    fn with_learner(ids: &[u64], learner: u64) -> Membership {
        let mut membership = voters(ids);
        membership.learners.insert(node(learner));
        membership.describe(vec![(node(learner), member(learner))]);
        membership
    }

    const FINE: Standing = Standing { active: true, lag: 0 };

    #[test]
    fn membership_round_trips_and_every_cut_is_refused() {
        let mut membership = with_learner(&[1, 2, 3], 4);
        membership.outgoing = [node(1), node(5)].into();
        membership.learners_next = [node(5)].into();
        membership.auto_leave = true;
        membership.two_domains = true;
        membership.describe(Vec::new());
        let mut raw = Vec::new();
        membership.encode(&mut raw);
        assert_eq!(Membership::decode(&mut &raw[..]), Some(membership));
        for cut in 0..raw.len() {
            assert_eq!(Membership::decode(&mut &raw[..cut]), None, "cut={cut}");
        }
    }

    #[test]
    fn a_full_membership_fits_into_a_register() {
        let all = (1..=MEMBERS_MAX as u64).map(|id| {
            let address = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
            let domain = "d".repeat(DOMAIN_BYTES_MAX);
            (node(id), Member { address: Some(address), domain, ..member(id) })
        });
        let mut raw = Vec::new();
        Membership::of_voters(all.collect()).encode(&mut raw);
        assert!(raw.len() + 128 <= palisade_wal::STATE_BYTES_MAX, "{}", raw.len());
    }

    #[test]
    fn unsafe_changes_are_refused_with_their_reason() {
        let three = voters(&[1, 2, 3]);
        let judge = |membership: &Membership, change| membership.judge(node(1), &change, |_| FINE);
        let remove = |id| MemberChange::Remove { node: node(id) };
        assert_eq!(judge(&three, remove(1)), Err(ChangeRefusal::IsLeader { node: node(1) }));
        assert_eq!(
            judge(&three, MemberChange::Demote { node: node(1) }),
            Err(ChangeRefusal::IsLeader { node: node(1) })
        );
        assert_eq!(judge(&voters(&[1, 2]), remove(2)), Err(ChangeRefusal::LastVoters));
        assert_eq!(
            judge(&three, remove(9)),
            Err(ChangeRefusal::WrongRole { node: node(9), needed: "member" })
        );
        assert_eq!(
            judge(&three, MemberChange::AddLearner { node: node(3), member: member(3) }),
            Err(ChangeRefusal::AlreadyMember { node: node(3) })
        );
        let unknown = Member { incarnation: None, ..member(4) };
        assert!(matches!(
            judge(&three, MemberChange::AddLearner { node: node(4), member: unknown }),
            Err(ChangeRefusal::InvalidMember { .. })
        ));
        let mut joint = three.clone();
        joint.outgoing = [node(1), node(2)].into();
        assert_eq!(judge(&joint, remove(3)), Err(ChangeRefusal::InProgress));
    }

    #[test]
    fn quorum_must_answer_before_and_after() {
        let three = voters(&[1, 2, 3]);
        let only = |up: &'static [u64]| {
            move |id: NodeId| Standing { active: up.contains(&id.get()), lag: 0 }
        };
        let remove = |id| MemberChange::Remove { node: node(id) };
        // One of three is dead: removing it is safe, removing the other living one is not.
        assert_eq!(
            three.judge(node(1), &remove(3), only(&[1, 2])),
            Ok(vec![ChangeStep::Remove(node(3))])
        );
        assert_eq!(
            three.judge(node(1), &remove(2), only(&[1, 2])),
            Err(ChangeRefusal::QuorumAtRisk { active: 1, voters: 2 })
        );
        let lagging = |_| Standing { active: true, lag: PROMOTION_LAG_MAX + 1 };
        let four = with_learner(&[1, 2, 3], 4);
        assert!(matches!(
            four.judge(node(1), &MemberChange::Promote { node: node(4) }, lagging),
            Err(ChangeRefusal::NotCaughtUp { .. })
        ));
        assert_eq!(
            four.judge(
                node(1),
                &MemberChange::Replace { old: node(3), new: node(4) },
                only(&[1, 2, 4])
            ),
            Ok(vec![ChangeStep::Remove(node(3)), ChangeStep::Voter(node(4))])
        );
    }

    /// 1 and 3 in one domain, 2 in another, a learner 4 in the first.
    fn across(two_domains: bool) -> Membership {
        let mut membership = with_learner(&[1, 2, 3], 4);
        membership.two_domains = two_domains;
        for (id, domain) in [(1, "a"), (2, "b"), (3, "a"), (4, "a")] {
            membership.members.get_mut(&node(id)).unwrap().domain = domain.to_owned();
        }
        membership
    }

    #[test]
    fn a_change_that_leaves_one_domain_is_refused() {
        let judge = |membership: &Membership, change| membership.judge(node(1), &change, |_| FINE);
        let one = || ChangeRefusal::OneDomain { domains: vec!["a".to_owned()] };
        let changes = [
            MemberChange::Remove { node: node(2) },
            MemberChange::Demote { node: node(2) },
            MemberChange::Replace { old: node(2), new: node(4) },
        ];
        for change in changes {
            assert!(judge(&across(false), change.clone()).is_ok(), "{change:?}");
            assert_eq!(judge(&across(true), change.clone()), Err(one()), "{change:?}");
        }
        assert!(judge(&across(true), MemberChange::Remove { node: node(3) }).is_ok());

        // The demand itself: not where it could not be met, nor where nobody knows.
        let mut alone = across(false);
        alone.members.get_mut(&node(2)).unwrap().domain = String::new();
        assert_eq!(judge(&alone, MemberChange::AcrossDomains), Err(one()));
        assert_eq!(
            judge(&across(false), MemberChange::AcrossDomains),
            Ok(vec![ChangeStep::Voter(node(1))])
        );
    }

    #[test]
    fn a_change_waits_for_two_domains_that_answer() {
        let up = |id: NodeId| Standing { active: id.get() != 2, lag: 0 };
        let change = MemberChange::Promote { node: node(4) };
        assert!(across(false).judge(node(1), &change, up).is_ok());
        let at_risk = Err(ChangeRefusal::DomainsAtRisk { domains: vec!["a".to_owned()] });
        assert_eq!(across(true).judge(node(1), &change, up), at_risk);
        assert_eq!(across(false).judge(node(1), &MemberChange::AcrossDomains, up), at_risk);
    }
}
