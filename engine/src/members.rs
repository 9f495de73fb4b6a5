//! Changes of membership: in every group, each led from here for as long as that takes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use palisade_replication::{
    ChangeRefusal, GroupId, GroupStatus, MemberChange, MemberRole, Membership, NodeError, NodeId,
    Role,
};

use crate::engine::Engine;
use crate::error::Error;
use crate::group::Group;
use crate::read::ReadConsistency;
use crate::resource::FailureDomain;
use crate::resource_row::each_resource;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a leadership that was taken is handed back, at most.
const HAND_BACKS_MAX: usize = 25;

/// What became of a change of membership in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersChanged {
    /// It was made.
    Now,
    /// The members were so before.
    Before,
}

impl Engine {
    /// Changes who takes part, in one group after the other, the system group first. Asked of a voter, which
    /// takes the leadership of a group that it does not lead, makes the change, and hands it back.
    ///
    /// A new node is opened with [`crate::EngineBuilder::joins`], added as a learner, and promoted once it has
    /// caught up. A dead one gives its place to a learner with [`MemberChange::Replace`].
    ///
    /// After an error the groups before the one that failed are changed, and those behind it are not: call it
    /// again, on any voter. Where the members are so already nothing is done.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # let [one, three] = [1, 3].map(|number| fabric.engine(fabric.node(number)));
    /// # fabric.block_on(async {
    /// let gone = MemberChange::Remove { node: three.node() };
    /// let made = one.change_members(gone.clone()).await?;
    /// assert!(made.values().all(|changed| *changed == MembersChanged::Now));
    /// // Who is not sure asks again.
    /// let made = one.change_members(gone).await?;
    /// assert!(made.values().all(|changed| *changed == MembersChanged::Before));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] for a new node outside the placement of a resource;
    /// [`Error::PreconditionFailed`] with the reason if the change is not made in a group, for one that would not
    /// be safe, for a node that has not caught up, and for being asked of a node that does not vote or that is to
    /// leave itself; [`Error::Disconnected`] if its outcome is not known.
    pub async fn change_members(
        &self,
        change: MemberChange,
    ) -> Result<BTreeMap<GroupId, MembersChanged>, Error> {
        if let MemberChange::AddLearner { member, .. } = &change
            && let Some(domain) = FailureDomain::parse(&member.domain)
        {
            self.admit_replica(&domain).await?;
        }
        let mut made = BTreeMap::new();
        for group in self.groups() {
            made.insert(group.id(), self.within(group.change_members(&change), true).await?);
        }
        Ok(made)
    }

    /// G9: a node is given no state that is not to be where it is.
    async fn admit_replica(&self, domain: &FailureDomain) -> Result<(), Error> {
        let wanted = domain.clone();
        let local = ReadConsistency::Local.into();
        let outside = self.read_all(local, None, move |outside, read, group| {
            Ok(each_resource(read, group, |_, resource| {
                if resource.spec.placement.allows(&wanted) {
                    return ControlFlow::Continue(());
                }
                *outside = Some(resource.spec.name);
                ControlFlow::Break(())
            })?)
        });
        match outside.await?.0 {
            None => Ok(()),
            Some(resource) => Err(Error::DomainUnavailable {
                domain: domain.to_string(),
                resource: resource.to_string(),
            }),
        }
    }
}

impl Group {
    /// Changes who takes part in this group.
    pub(crate) async fn change_members(
        &self,
        change: &MemberChange,
    ) -> Result<MembersChanged, Error> {
        let leader = self.status().await?.leader;
        let made = self.change_as_leader(change).await;
        if let Some(leader) = leader.filter(|leader| *leader != self.engine.node()) {
            self.hand_back(leader).await;
        }
        made
    }

    /// Groups are led where they were, as far as that can be: nobody takes over who has not heard of the end of
    /// a change.
    async fn hand_back(&self, leader: NodeId) {
        for _ in 0..HAND_BACKS_MAX {
            let leads = |status: GroupStatus| status.role == Role::Leader;
            if !self.status().await.is_ok_and(leads) || self.transfer_leadership(leader).is_err() {
                return;
            }
            self.engine.backend().sleep(PAUSE).await;
        }
    }

    async fn change_as_leader(&self, change: &MemberChange) -> Result<MembersChanged, Error> {
        let node = self.engine.node();
        loop {
            match self.engine.backend().change(self.id(), change.clone()).await? {
                Ok(()) => return Ok(MembersChanged::Now),
                Err(ChangeRefusal::NotReady | ChangeRefusal::InProgress) => {}
                Err(ChangeRefusal::NotLeader { .. })
                    if role(&self.status().await?.members, node) == Some(MemberRole::Voter) =>
                {
                    self.transfer_leadership(node)?;
                }
                Err(refusal) => {
                    // Whoever leads knows the members as they are.
                    let is_so = is_so(&self.status().await?.members, change);
                    let leads = !matches!(refusal, ChangeRefusal::NotLeader { .. });
                    return if is_so && leads {
                        Ok(MembersChanged::Before)
                    } else {
                        Err(NodeError::Change(refusal).into())
                    };
                }
            }
            self.engine.backend().sleep(PAUSE).await;
        }
    }
}

fn role(members: &Membership, node: NodeId) -> Option<MemberRole> {
    members.roles().find(|(found, _)| *found == node).map(|(_, role)| role)
}

/// Whether there is nothing left to be done.
fn is_so(members: &Membership, change: &MemberChange) -> bool {
    let role = |node: NodeId| role(members, node);
    match change {
        MemberChange::AddLearner { node, member } => {
            members.member(*node).is_some_and(|found| found.incarnation == member.incarnation)
        }
        MemberChange::Promote { node } => role(*node) == Some(MemberRole::Voter),
        MemberChange::Demote { node } => role(*node) == Some(MemberRole::Learner),
        MemberChange::Remove { node } => role(*node).is_none(),
        MemberChange::Replace { old, new } => {
            role(*old).is_none() && role(*new) == Some(MemberRole::Voter)
        }
        MemberChange::AcrossDomains => members.commits_across_domains(),
    }
}
