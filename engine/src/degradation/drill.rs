//! Drills: what would still be served if some members were gone.
//!
//! The loss decides what each group can still do; then every node that is left is asked what a handle
//! there would ask itself: what is observed, and what the contract makes of it.

use std::collections::BTreeSet;
use std::fmt;

use palisade_replication::NodeId;

use super::gate::{Call, Gate, gate};
use super::health::{GroupHealth, HealthLimits, VoterHealth};
use super::map::{ClusterMap, GroupMap, MemberMap, ResourceMap};
use super::report::{Answer, DrillReport, GroupVerdict, NodeAnswers, ResourceVerdict};
use crate::error::Error;
use crate::failure::Failure;
use crate::read::ReadConsistency;
use crate::resource::FailureDomain;

/// What is taken away in a drill.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureDrill {
    /// Every node of one zone.
    AvailabilityZoneLoss {
        /// The zone.
        zone: FailureDomain,
    },
    /// Every node of one region of a provider.
    RegionLoss {
        /// Who runs the machines.
        provider: String,
        /// Which region.
        region: String,
    },
    /// Every node of a provider.
    ProviderLoss {
        /// Who runs the machines.
        provider: String,
    },
    /// One node.
    NodeLoss {
        /// Which one.
        node: NodeId,
    },
    /// The disk of one node, and with it all that the node had. It must be replaced; it does not come
    /// back as the member that it was.
    DiskLoss {
        /// Which node.
        node: NodeId,
    },
}

impl fmt::Display for FailureDrill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailabilityZoneLoss { zone } => write!(f, "loss of zone {zone}"),
            Self::RegionLoss { provider, region } => {
                write!(f, "loss of region {provider}/{region}")
            }
            Self::ProviderLoss { provider } => write!(f, "loss of provider {provider}"),
            Self::NodeLoss { node } => write!(f, "loss of node {node}"),
            Self::DiskLoss { node } => write!(f, "loss of the disk of node {node}"),
        }
    }
}

impl FailureDrill {
    /// What would still be served. The map is taken to be in use: writes are waiting, and what had to be
    /// noticed has been.
    ///
    /// ```
    /// use palisade::degradation::*;
    /// use palisade::*;
    ///
    /// let zone = |zone: &str| FailureDomain::new("aws", "us-east-1", zone);
    /// let voter = |node, at: &str| MemberMap {
    ///     node: NodeId::new(node),
    ///     domain: zone(at),
    ///     role: MemberRole::Voter,
    /// };
    /// let profile = PlacementProfile::multi_az("aws", "us-east-1")?;
    /// let name = LogicalResourceName::new("reports")?;
    /// let map = ClusterMap {
    ///     groups: vec![GroupMap {
    ///         group: GroupId::new(1),
    ///         leader: Some(NodeId::new(1)),
    ///         domains_demanded: 1,
    ///         members: vec![voter(1, "a"), voter(2, "a"), voter(3, "b")],
    ///     }],
    ///     resources: vec![ResourceMap {
    ///         name: name.clone(),
    ///         group: GroupId::new(1),
    ///         placement: profile.placement,
    ///         replicas: profile.replicas,
    ///         contract: Some(
    ///             DegradationContract::builder()
    ///                 .rule(DegradationRule::new(
    ///                     [Failure::Disconnected],
    ///                     DegradationMode::StaleReadsOk,
    ///                 ))
    ///                 .build()?,
    ///         ),
    ///     }],
    /// };
    ///
    /// let report = FailureDrill::AvailabilityZoneLoss { zone: zone("a") }.judge(&map)?;
    /// assert!(!report.groups[0].commits, "two of three voters were in one zone");
    /// let left = &report.resource(&name).unwrap();
    /// assert!(left.served_from(|node| node.writes).is_empty());
    /// assert_eq!(left.served_from(|node| node.local_reads), [&zone("b")].into());
    /// assert_eq!(left.nodes[2].linearizable_reads, Answer::Stale);
    ///
    /// let report = FailureDrill::AvailabilityZoneLoss { zone: zone("b") }.judge(&map)?;
    /// assert_eq!(report.resource(&name).unwrap().nodes[0].writes, Answer::Served);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a drill that takes nobody away: it would show nothing and look like
    /// a success. And as [`ClusterMap::check`].
    pub fn judge(&self, map: &ClusterMap) -> Result<DrillReport, Error> {
        map.check()?;
        let members = map.groups.iter().flat_map(|group| &group.members);
        let lost = members.filter(|member| self.takes(member)).map(|member| member.node);
        let lost: BTreeSet<NodeId> = lost.collect();
        if lost.is_empty() {
            return Err(self.takes_nobody(map));
        }
        let groups: Vec<_> = map.groups.iter().map(|group| self.judge_group(map, group)).collect();
        let resources = map.resources.iter().map(|resource| {
            let at = map.groups.iter().position(|group| group.group == resource.group);
            let at = at.expect("the map was checked: a resource's group is in it");
            let demanded = map.domains_demanded(&map.groups[at]);
            self.judge_resource(resource, &map.groups[at], demanded, &groups[at])
        });
        let resources = resources.collect();
        Ok(DrillReport { drill: self.clone(), lost, groups, resources })
    }

    /// True if the member serves nothing afterwards.
    fn takes(&self, member: &MemberMap) -> bool {
        let at = &member.domain;
        match self {
            Self::AvailabilityZoneLoss { zone } => at == zone,
            Self::RegionLoss { provider, region } => {
                at.provider == *provider && at.region == *region
            }
            Self::ProviderLoss { provider } => at.provider == *provider,
            Self::NodeLoss { node } | Self::DiskLoss { node } => member.node == *node,
        }
    }

    fn takes_nobody(&self, map: &ClusterMap) -> Error {
        let members = map.groups.iter().flat_map(|group| &group.members);
        let known: BTreeSet<String> =
            members.map(|member| format!("{} in {}", member.node, member.domain)).collect();
        Error::InvalidArgument {
            what: format!(
                "the {self} takes nobody away and would show nothing: choose one of the members, nodes \
                 {}",
                known.into_iter().collect::<Vec<_>>().join(", ")
            ),
        }
    }

    fn judge_group(&self, map: &ClusterMap, group: &GroupMap) -> GroupVerdict {
        let voters = group.voters().count();
        let left: Vec<_> = group.voters().filter(|voter| !self.takes(voter)).collect();
        let domains: BTreeSet<_> = left.iter().map(|voter| &voter.domain).collect();
        let leader_left = left.iter().any(|voter| Some(voter.node) == group.leader);
        let voters_missing = (voters / 2 + 1).saturating_sub(left.len());
        let demanded = map.domains_demanded(group) as usize;
        // The one domain that is always demanded is there with the first voter.
        let domains_missing = if demanded > 1 { demanded.saturating_sub(domains.len()) } else { 0 };
        let elects = voters_missing == 0;
        let commits = elects && domains_missing == 0;
        GroupVerdict {
            group: group.group,
            voters,
            voters_left: left.len(),
            leader_left,
            voters_missing,
            domains_missing,
            commits,
            // A new leader must commit before it knows what is committed; the old one knows.
            confirms_reads: elects && (leader_left || commits),
        }
    }

    fn judge_resource(
        &self,
        resource: &ResourceMap,
        group: &GroupMap,
        demanded: u32,
        verdict: &GroupVerdict,
    ) -> ResourceVerdict {
        let left = u32::try_from(verdict.voters_left).unwrap_or(u32::MAX);
        ResourceVerdict {
            name: resource.name.clone(),
            group: group.group,
            replicas_missing: resource.replicas.replicas().saturating_sub(left),
            nodes: group
                .members
                .iter()
                .map(|member| {
                    let observed = self.what_is_seen(resource, member, group, demanded, verdict);
                    self.judge_node(resource, member, observed.as_ref(), verdict)
                })
                .collect(),
        }
    }

    fn judge_node(
        &self,
        resource: &ResourceMap,
        member: &MemberMap,
        observed: Option<&Error>,
        group: &GroupVerdict,
    ) -> NodeAnswers {
        let all = |answer| NodeAnswers {
            node: member.node,
            domain: member.domain.clone(),
            writes: answer,
            linearizable_reads: answer,
            local_reads: answer,
        };
        if self.takes(member) {
            // Who has lost its disk is there to say so.
            let lost_disk = matches!(self, Self::DiskLoss { .. });
            let why = if lost_disk { Failure::InternalError } else { Failure::Disconnected };
            return all(Answer::Refused(why));
        }
        if !resource.placement.allows(&member.domain) {
            return all(Answer::Refused(Failure::DomainUnavailable));
        }
        let answer = |call, works| {
            let gate = gate(resource.contract.as_ref(), observed, call);
            let failed = Error::Disconnected { outcome_unknown: false };
            match &gate {
                Gate::Refuse(error) => Answer::Refused(error.failure()),
                Gate::Stale => Answer::Stale,
                Gate::Try | Gate::TryElseStale if works => Answer::Served,
                _ if gate.stands_in_for(&failed) => Answer::Stale,
                _ => Answer::Refused(failed.failure()),
            }
        };
        let read = |consistency, works| answer(Call::read(consistency), works);
        NodeAnswers {
            writes: answer(Call::Write, group.commits),
            linearizable_reads: read(ReadConsistency::Linearizable, group.confirms_reads),
            local_reads: read(ReadConsistency::Local, true),
            ..all(Answer::Served)
        }
    }

    /// What is observed by a node that is left, once it has waited as long as it takes.
    fn what_is_seen(
        &self,
        resource: &ResourceMap,
        member: &MemberMap,
        group: &GroupMap,
        demanded: u32,
        verdict: &GroupVerdict,
    ) -> Option<Error> {
        if verdict.commits {
            return None;
        }
        let (well, limits) = (GroupHealth::well(member.node), HealthLimits::default());
        // A record waits in any group that is in use.
        let waits = GroupHealth { uncommitted_ms: u64::MAX, ..well.clone() }.observe(&limits);
        if group.leader != Some(member.node) || verdict.voters_missing > 0 {
            return waits;
        }
        // The leader that stays knows who is away, before any record waits.
        let voter = |voter: &MemberMap| VoterHealth {
            node: voter.node,
            domain: voter.domain.to_string(),
            answers: !self.takes(voter),
            records_behind: 0,
        };
        let voters = group.voters().map(voter).collect();
        let seen = GroupHealth { leads: true, voters, domains_demanded: demanded, ..well };
        let seen = seen.observe(&limits);
        let mode = seen.as_ref().zip(resource.contract.as_ref());
        let refused =
            mode.is_some_and(|(seen, contract)| !contract.mode(&seen.failure()).takes_writes());
        if refused { seen } else { waits }
    }
}

#[cfg(test)]
mod tests;
