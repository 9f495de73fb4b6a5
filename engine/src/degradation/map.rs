//! A copy of the placement: who is where, who votes, and what was asked for. Plain data, so that what
//! might be can be judged as well as what is.

use std::collections::{BTreeMap, BTreeSet};

use palisade_replication::{GroupId, MemberRole, Membership, NodeId};

use super::contract::DegradationContract;
use crate::error::Error;
use crate::resource::{FailureDomain, LogicalResourceName, Placement, ReplicaPolicy, ResourceSpec};

/// Groups, their members, and the resources in them.
///
/// ```
/// use palisade::degradation::{ClusterMap, ResourceMap};
/// use palisade::{Failure, GroupId, ResourceSpec};
///
/// let spec = ResourceSpec::new("orders", "order.v1")?;
/// let lost = ClusterMap {
///     groups: Vec::new(),
///     resources: vec![ResourceMap::of(GroupId::new(1), spec)],
/// };
/// let refused = lost.check().unwrap_err();
/// assert_eq!(refused.failure(), Failure::InvalidArgument);
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// The groups.
    pub groups: Vec<GroupMap>,
    /// The resources in them.
    pub resources: Vec<ResourceMap>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMap {
    /// Which one.
    pub group: GroupId,
    /// Who leads it, if that is known.
    pub leader: Option<NodeId>,
    /// In how many failure domains a commit must be. What a resource of the group demands counts as
    /// well, since a demand is of the whole group.
    pub domains_demanded: u32,
    /// Who takes part.
    pub members: Vec<MemberMap>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMap {
    /// Which node.
    pub node: NodeId,
    /// Where it is.
    pub domain: FailureDomain,
    /// What it does in the group.
    pub role: MemberRole,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMap {
    /// What it is called.
    pub name: LogicalResourceName,
    /// The group it is in.
    pub group: GroupId,
    /// From where it may be used.
    pub placement: Placement,
    /// Its replicas.
    pub replicas: ReplicaPolicy,
    /// What was declared for failures.
    pub contract: Option<DegradationContract>,
}

impl ResourceMap {
    /// The resource of this spec, in this group.
    ///
    /// ```
    /// use palisade::degradation::ResourceMap;
    /// use palisade::{GroupId, ResourceSpec};
    ///
    /// let spec = ResourceSpec::new("orders", "order.v1")?;
    /// let map = ResourceMap::of(GroupId::new(1), spec.clone());
    /// assert_eq!((map.name, map.contract), (spec.name, None));
    /// # Ok::<(), palisade::Error>(())
    /// ```
    #[must_use]
    pub fn of(group: GroupId, spec: ResourceSpec) -> Self {
        let ResourceSpec { name, placement, replicas, contract, .. } = spec;
        Self { name, group, placement, replicas, contract }
    }
}

impl GroupMap {
    /// The map of a group as a node knows it.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// use palisade::degradation::GroupMap;
    /// use palisade::{FailureDomain, Failure, GroupId, Member, Membership, NodeId};
    ///
    /// let zone = FailureDomain::new("aws", "us-east-1", "us-east-1a");
    /// let member = Member { domain: zone.to_string(), ..Member::default() };
    /// let members = Membership::of_voters(BTreeMap::from([(NodeId::new(1), member)]));
    /// let map = GroupMap::of(GroupId::new(1), Some(NodeId::new(1)), &members)?;
    /// assert_eq!(map.members[0].domain, zone);
    ///
    /// let unnamed = Membership::of_voters(BTreeMap::from([(NodeId::new(1), Member::default())]));
    /// let refused = GroupMap::of(GroupId::new(1), None, &unnamed).unwrap_err();
    /// assert_eq!(refused.failure(), Failure::InvalidArgument);
    /// # Ok::<(), palisade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a member whose domain is unknown, or is not a provider, a region
    /// and a zone: nobody could say with what it fails; and for a leader that is no voter.
    /// [`Error::PreconditionFailed`] while voters are being replaced.
    pub fn of(group: GroupId, leader: Option<NodeId>, members: &Membership) -> Result<Self, Error> {
        let described = members.roles().map(|(node, role)| {
            let text = members.member(node).map_or("", |member| member.domain.as_str());
            let domain = domain_of(text).ok_or_else(|| {
                invalid(format!(
                    "node={node} of group={group} is in domain={text:?}, and nobody can say with what \
                     it fails: name its provider, region and zone with EngineBuilder::voter_in, or in \
                     the Member of the change that adds it"
                ))
            })?;
            Ok(MemberMap { node, domain, role })
        });
        let map = Self {
            group,
            leader,
            domains_demanded: if members.commits_across_domains() { 2 } else { 1 },
            members: described.collect::<Result<_, Error>>()?,
        };
        map.check()?;
        Ok(map)
    }

    /// Those whose majority decides.
    pub(super) fn voters(&self) -> impl Iterator<Item = &MemberMap> {
        self.members.iter().filter(|member| member.role == MemberRole::Voter)
    }

    fn check(&self) -> Result<(), Error> {
        let group = self.group;
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.members.iter().find(|member| !seen.insert(member.node)) {
            return Err(invalid(format!("node={} is in group={group} twice", twice.node)));
        }
        if self.members.iter().any(|member| member.role == MemberRole::Leaving) {
            return Err(under_change(group));
        }
        if self.voters().next().is_none() {
            return Err(invalid(format!("group={group} has no voter")));
        }
        match self.leader {
            Some(leader) if !self.voters().any(|voter| voter.node == leader) => {
                Err(invalid(format!("node={leader} leads group={group} and is no voter of it")))
            }
            _ => Ok(()),
        }
    }
}

impl ClusterMap {
    /// Refuses a map that contradicts itself.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a group, or a member, or a resource of a group that is there twice,
    /// a node in two places, a group without a voter, a leader that is none, and a resource of an
    /// unknown group. [`Error::PreconditionFailed`] while voters of a group are being replaced.
    pub fn check(&self) -> Result<(), Error> {
        let mut groups = BTreeSet::new();
        let mut places: BTreeMap<NodeId, &FailureDomain> = BTreeMap::new();
        for group in &self.groups {
            if !groups.insert(group.group) {
                return Err(invalid(format!("group={} is there twice", group.group)));
            }
            group.check()?;
            for MemberMap { node, domain, .. } in &group.members {
                let place = *places.entry(*node).or_insert(domain);
                if place != domain {
                    let what = format!("node={node} is in two places, {place} and {domain}");
                    return Err(invalid(what));
                }
            }
        }
        let mut names = BTreeSet::new();
        for ResourceMap { name, group, .. } in &self.resources {
            if !groups.contains(group) {
                let what = format!("resource={name} is in group={group}, which is not in the map");
                return Err(invalid(what));
            }
            if !names.insert((group, name)) {
                return Err(invalid(format!("resource={name} is in group={group} twice")));
            }
        }
        Ok(())
    }

    /// In how many failure domains a commit of the group must be.
    pub(super) fn domains_demanded(&self, group: &GroupMap) -> u32 {
        let here = self.resources.iter().filter(|resource| resource.group == group.group);
        let demands = here.map(|resource| resource.replicas.domains());
        demands.max().unwrap_or(0).max(group.domains_demanded)
    }
}

fn invalid(what: String) -> Error {
    Error::InvalidArgument { what }
}

fn under_change(group: GroupId) -> Error {
    let what = format!(
        "voters of group={group} are being replaced, and which majorities count is about to change: ask \
         again when that is through"
    );
    Error::PreconditionFailed { what }
}

/// The domain that this is the text of, if it is one without a doubt.
fn domain_of(text: &str) -> Option<FailureDomain> {
    let parts: Vec<&str> = text.split('/').collect();
    let [provider, region, zone] = parts[..] else { return None };
    let domain = FailureDomain::new(provider, region, zone);
    domain.check().is_ok().then_some(domain)
}

#[cfg(test)]
mod tests {
    use palisade_replication::Member;

    use super::*;
    use crate::failure::Failure;

    fn member(node: u64, zone: &str, role: MemberRole) -> MemberMap {
        let domain = FailureDomain::new("aws", "r1", zone);
        MemberMap { node: NodeId::new(node), domain, role }
    }

    fn group(number: u64) -> GroupMap {
        GroupMap {
            group: GroupId::new(number),
            leader: Some(NodeId::new(1)),
            domains_demanded: 1,
            members: vec![
                member(1, "a", MemberRole::Voter),
                member(2, "b", MemberRole::Voter),
                member(3, "c", MemberRole::Learner),
            ],
        }
    }

    fn resource(name: &str, group: u64, domains: u32) -> ResourceMap {
        ResourceMap {
            name: LogicalResourceName::new(name).unwrap(),
            group: GroupId::new(group),
            placement: Placement::providers(["aws"]).unwrap(),
            replicas: ReplicaPolicy::majority(2).across_domains(domains),
            contract: None,
        }
    }

    fn map() -> ClusterMap {
        ClusterMap {
            groups: vec![group(1), group(2)],
            resources: vec![resource("x", 1, 1), resource("x", 2, 1), resource("y", 2, 2)],
        }
    }

    #[test]
    fn a_map_does_not_contradict_itself() {
        map().check().unwrap();
        ClusterMap::default().check().unwrap();
        let broken = |change: fn(&mut ClusterMap), says: &str, failure| {
            let mut map = map();
            change(&mut map);
            let error = map.check().unwrap_err();
            assert_eq!(error.failure(), failure, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        };
        let invalid = Failure::InvalidArgument;
        broken(|map| map.groups[1].group = GroupId::new(1), "is there twice", invalid);
        broken(|map| map.groups[0].members[1].node = NodeId::new(1), "group=1 twice", invalid);
        broken(|map| map.groups[1].members[0].domain.zone = "b".into(), "two places", invalid);
        broken(|map| map.groups[0].leader = Some(NodeId::new(3)), "is no voter", invalid);
        broken(|map| map.groups[0].leader = Some(NodeId::new(9)), "is no voter", invalid);
        broken(|map| map.resources[0].group = GroupId::new(3), "not in the map", invalid);
        broken(|map| map.resources[1].group = GroupId::new(1), "group=1 twice", invalid);
        broken(
            |map| {
                map.groups[0].leader = None;
                map.groups[0].members.truncate(0);
            },
            "no voter",
            invalid,
        );
        broken(
            |map| map.groups[0].members[1].role = MemberRole::Leaving,
            "are being replaced",
            Failure::PreconditionFailed,
        );
    }

    #[test]
    fn a_demand_is_of_the_whole_group() {
        let mut map = map();
        let demanded = |map: &ClusterMap| [0, 1].map(|at| map.domains_demanded(&map.groups[at]));
        assert_eq!(demanded(&map), [1, 2]);
        map.groups[0].domains_demanded = 2;
        assert_eq!(demanded(&map), [2, 2], "also when the resource that made it is gone");
    }

    #[test]
    fn a_group_is_mapped_as_it_is_known() {
        let members = |domains: &[&str]| {
            let named = domains.iter().zip(1..).map(|(domain, node)| {
                (NodeId::new(node), Member { domain: (*domain).to_owned(), ..Member::default() })
            });
            Membership::of_voters(named.collect())
        };
        let of = |domains: &[&str]| GroupMap::of(GroupId::new(1), None, &members(domains));
        let found = of(&["aws/r1/a", "gcp/r2/b"]).unwrap();
        let expected = [(1, "aws", "r1", "a"), (2, "gcp", "r2", "b")].map(|(node, p, r, z)| {
            let domain = FailureDomain::new(p, r, z);
            MemberMap { node: NodeId::new(node), domain, role: MemberRole::Voter }
        });
        assert_eq!(found.members, expected);
        assert_eq!((found.leader, found.domains_demanded), (None, 1));
        let foreign = GroupMap::of(GroupId::new(1), Some(NodeId::new(3)), &members(&["aws/r1/a"]));
        assert_eq!(foreign.unwrap_err().failure(), Failure::InvalidArgument);
        for unclear in ["", "aws", "aws/r1", "aws//a", "aws/r1/a/b"] {
            let error = of(&["aws/r1/a", unclear]).unwrap_err();
            assert_eq!(error.failure(), Failure::InvalidArgument);
            assert!(error.to_string().contains("node=2 of group=1"), "{error}");
        }
    }
}
