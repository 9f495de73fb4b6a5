//! What a node sees of its group, and the failure that this is.

use std::collections::BTreeSet;

use palisade_replication::{GroupStatus, NodeId, Offset, Role, VoterStatus};

use crate::error::Error;
use crate::resource::FenceEpoch;

/// From when on something is a failure.
///
/// ```
/// use palisade::degradation::HealthLimits;
///
/// let limits = HealthLimits { disconnected_after_ms: 1_000, ..HealthLimits::default() };
/// assert!(limits.check().is_ok());
/// assert!(HealthLimits { sync_ms_max: 0, ..limits }.check().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthLimits {
    /// Without a leader, or with a record that waits for its commit, for so long: disconnected. Longer
    /// than an election, or every change of leader is a failure.
    pub disconnected_after_ms: u64,
    /// A sync that takes so long is degraded.
    pub sync_ms_max: u64,
    /// More records than that to be applied is degraded.
    pub records_behind_max: u64,
    /// When a caller may come back that was refused for want of room.
    pub retry_after_ms: u64,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self {
            disconnected_after_ms: 3_000,
            sync_ms_max: 500,
            records_behind_max: 65_536,
            retry_after_ms: 1_000,
        }
    }
}

impl HealthLimits {
    /// Refuses limits under which nothing is ever well.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a duration of zero.
    pub fn check(&self) -> Result<(), Error> {
        let durations = [
            ("disconnected_after_ms", self.disconnected_after_ms),
            ("sync_ms_max", self.sync_ms_max),
            ("retry_after_ms", self.retry_after_ms),
        ];
        match durations.iter().find(|(_, duration)| *duration == 0) {
            Some((name, _)) => {
                Err(Error::InvalidArgument { what: format!("{name} must be at least 1") })
            }
            None => Ok(()),
        }
    }
}

/// A voter, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterHealth {
    /// Which one.
    pub node: NodeId,
    /// Its failure domain, as members name it; empty if nobody said.
    pub domain: String,
    /// It answered lately. The leader itself does.
    pub answers: bool,
    /// How many records it lacks.
    pub records_behind: u64,
}

/// What a node sees of a group, for one of its handles. Durations, not times: whoever has a clock fills
/// them in.
///
/// ```
/// use palisade::degradation::{GroupHealth, HealthLimits};
/// use palisade::{Failure, NodeId};
///
/// let limits = HealthLimits::default();
/// let mut health = GroupHealth::well(NodeId::new(1));
/// assert!(health.observe(&limits).is_none());
/// health.leaderless_ms = limits.disconnected_after_ms;
/// assert_eq!(health.observe(&limits).unwrap().failure(), Failure::Disconnected);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupHealth {
    /// The node that looks.
    pub node: NodeId,
    /// It leads the group.
    pub leads: bool,
    /// Why the group, or the whole node, has stopped here.
    pub halted: Option<String>,
    /// The epoch of a newer writer than the handle.
    pub fenced_by: Option<FenceEpoch>,
    /// For how long no leader has been known.
    pub leaderless_ms: u64,
    /// For how long the oldest record proposed here has been waiting for its commit.
    pub uncommitted_ms: u64,
    /// The disk has no room for records.
    pub disk_full: bool,
    /// How long the last sync took, or the one under way has been taking.
    pub sync_ms: u64,
    /// Committed records that are not applied here yet.
    pub records_behind: u64,
    /// In how many failure domains a commit must be.
    pub domains_demanded: u32,
    /// The voters, as far as this node knows how they are: a leader knows, another node leaves it empty.
    pub voters: Vec<VoterHealth>,
}

impl GroupHealth {
    /// A follower that has nothing to complain of.
    #[must_use]
    pub fn well(node: NodeId) -> Self {
        Self {
            node,
            leads: false,
            halted: None,
            fenced_by: None,
            leaderless_ms: 0,
            uncommitted_ms: 0,
            disk_full: false,
            sync_ms: 0,
            records_behind: 0,
            domains_demanded: 1,
            voters: Vec::new(),
        }
    }

    /// What a node sees that has applied so much of its group.
    pub(crate) fn seen(node: NodeId, status: &GroupStatus, applied: Offset) -> Self {
        let domain = |node| status.members.member(node).map(|member| member.domain.clone());
        let voter = |voter: &VoterStatus| VoterHealth {
            node: voter.node,
            domain: domain(voter.node).unwrap_or_default(),
            answers: voter.answers,
            records_behind: voter.entries_behind,
        };
        Self {
            leads: status.role == Role::Leader,
            leaderless_ms: status.leaderless_ms,
            uncommitted_ms: status.uncommitted_ms,
            disk_full: status.disk_full,
            sync_ms: status.sync_ms,
            records_behind: status.offset.get().saturating_sub(applied.get()),
            domains_demanded: if status.members.commits_across_domains() { 2 } else { 1 },
            voters: status.voters.iter().map(voter).collect(),
            ..Self::well(node)
        }
    }

    /// The failure that this is, if it is one, as the error that says so; [`Error::failure`] is its name.
    /// Of several the gravest: what is final before what may pass, what stops everything before what
    /// slows it down. The error is never [`Indeterminate`](crate::Disposition::Indeterminate): it is
    /// about a call that was not made.
    #[must_use]
    pub fn observe(&self, limits: &HealthLimits) -> Option<Error> {
        if let Some(cause) = &self.halted {
            return Some(Error::InternalError { what: cause.clone() });
        }
        if let Some(current) = self.fenced_by {
            return Some(Error::Fenced { current });
        }
        if self.leaderless_ms.max(self.uncommitted_ms) >= limits.disconnected_after_ms {
            return Some(Error::Disconnected { outcome_unknown: false });
        }
        if self.disk_full {
            return Some(Error::RateLimited { retry_after_ms: limits.retry_after_ms });
        }
        self.lacking(limits).map(|what| Error::Degraded { what })
    }

    /// The failure domains that answer, if they are fewer than demanded.
    pub(super) fn lacking_domains(&self) -> Option<BTreeSet<&String>> {
        let answering = self.voters.iter().filter(|voter| voter.answers);
        let named = answering.map(|voter| &voter.domain).filter(|domain| !domain.is_empty());
        let domains: BTreeSet<&String> = named.collect();
        let demanded = self.domains_demanded as usize;
        // One domain is no demand, and who does not lead does not know who answers.
        (demanded > 1 && !self.voters.is_empty() && domains.len() < demanded).then_some(domains)
    }

    /// What there is less of than there should be.
    fn lacking(&self, limits: &HealthLimits) -> Option<String> {
        if let Some(domains) = self.lacking_domains() {
            let demanded = self.domains_demanded;
            return Some(format!(
                "too few failure domains answer, demanded={demanded} answering={domains:?}"
            ));
        }
        if self.sync_ms >= limits.sync_ms_max {
            return Some(format!("the disk is slow, sync_ms={}", self.sync_ms));
        }
        let behind = self.records_behind;
        (behind > limits.records_behind_max)
            .then(|| format!("this replica is behind, records_behind={behind}"))
    }
}

#[cfg(test)]
mod tests {
    use palisade_replication::Disposition;
    use proptest::prelude::*;

    use super::*;
    use crate::degradation::page;
    use crate::failure::Failure;

    fn voter(node: u64, domain: &str, answers: bool) -> VoterHealth {
        VoterHealth {
            node: NodeId::new(node),
            domain: domain.to_owned(),
            answers,
            records_behind: 0,
        }
    }

    fn observed(change: impl FnOnce(&mut GroupHealth)) -> Option<Failure> {
        let mut health = GroupHealth::well(NodeId::new(1));
        change(&mut health);
        health.observe(&HealthLimits::default()).map(|error| error.failure())
    }

    #[test]
    fn each_sign_is_its_failure_from_its_limit_on() {
        let limits = HealthLimits::default();
        let HealthLimits { disconnected_after_ms: after, sync_ms_max, records_behind_max, .. } =
            limits;
        assert_eq!(observed(|_| ()), None);
        assert_eq!(observed(|h| h.halted = Some("damage".into())), Some(Failure::InternalError));
        assert_eq!(observed(|h| h.fenced_by = Some(FenceEpoch::new(2))), Some(Failure::Fenced));
        assert_eq!(observed(|h| h.leaderless_ms = after), Some(Failure::Disconnected));
        assert_eq!(observed(|h| h.leaderless_ms = after - 1), None);
        assert_eq!(observed(|h| h.uncommitted_ms = after), Some(Failure::Disconnected));
        assert_eq!(observed(|h| h.uncommitted_ms = after - 1), None);
        assert_eq!(observed(|h| h.disk_full = true), Some(Failure::RateLimited));
        assert_eq!(observed(|h| h.sync_ms = sync_ms_max), Some(Failure::Degraded));
        assert_eq!(observed(|h| h.sync_ms = sync_ms_max - 1), None);
        assert_eq!(
            observed(|h| h.records_behind = records_behind_max + 1),
            Some(Failure::Degraded)
        );
        assert_eq!(observed(|h| h.records_behind = records_behind_max), None);
    }

    #[test]
    fn a_demand_is_met_by_named_domains_that_answer() {
        let with = |demanded, voters: &[VoterHealth]| {
            observed(|health| {
                health.domains_demanded = demanded;
                health.voters = voters.to_vec();
            })
        };
        let met = [voter(1, "a", true), voter(2, "b", true), voter(3, "b", false)];
        assert_eq!(with(2, &met), None);
        let away = [voter(1, "a", true), voter(2, "a", true), voter(3, "b", false)];
        assert_eq!(with(2, &away), Some(Failure::Degraded));
        assert_eq!(with(1, &away), None, "the loss of a voter is none of the resource");
        let unnamed = [voter(1, "a", true), voter(2, "", true), voter(3, "", true)];
        assert_eq!(with(2, &unnamed), Some(Failure::Degraded));
        assert_eq!(with(1, &unnamed[1..]), None, "without a demand nobody needs a name");
        assert_eq!(with(2, &[]), None, "who does not lead does not know");
    }

    /// Rows of the page, in their order: what counts of several at once.
    #[test]
    fn the_gravest_counts() {
        let worsen: [fn(&mut GroupHealth); 5] = [
            |health| health.halted = Some("damage".into()),
            |health| health.fenced_by = Some(FenceEpoch::new(2)),
            |health| health.leaderless_ms = u64::MAX,
            |health| health.disk_full = true,
            |health| health.sync_ms = u64::MAX,
        ];
        let rows = page::table("| order | observed | failure |");
        assert_eq!(rows.len(), worsen.len());
        for (first, row) in rows.iter().enumerate() {
            let failure =
                observed(|health| worsen[first..].iter().for_each(|worsen| worsen(health)));
            assert_eq!(failure.unwrap().as_str(), row[2], "from row {first} on");
        }
    }

    #[test]
    fn what_is_observed_carries_the_facts() {
        let limits = HealthLimits { retry_after_ms: 77, ..HealthLimits::default() };
        let well = || GroupHealth::well(NodeId::new(1));
        let halted = GroupHealth { halted: Some("a bit flipped".into()), ..well() };
        assert!(halted.observe(&limits).unwrap().to_string().contains("a bit flipped"));
        let full = GroupHealth { disk_full: true, ..well() };
        assert!(matches!(full.observe(&limits), Some(Error::RateLimited { retry_after_ms: 77 })));
        let fenced = GroupHealth { fenced_by: Some(FenceEpoch::new(9)), ..well() };
        let current =
            |error| matches!(error, Some(Error::Fenced { current }) if current.get() == 9);
        assert!(current(fenced.observe(&limits)));
    }

    #[test]
    fn limits_are_checked() {
        let limits = HealthLimits::default();
        limits.check().unwrap();
        for broken in [
            HealthLimits { disconnected_after_ms: 0, ..limits },
            HealthLimits { sync_ms_max: 0, ..limits },
            HealthLimits { retry_after_ms: 0, ..limits },
        ] {
            assert_eq!(broken.check().unwrap_err().failure(), Failure::InvalidArgument);
        }
        HealthLimits { records_behind_max: 0, ..limits }.check().unwrap();
    }

    proptest! {
        /// Nothing was tried, so the outcome is never unknown; and rules can name what is observed.
        #[test]
        fn what_is_observed_happened_to_no_call(
            halted: bool, fenced: bool, ms: [u64; 3], disk_full: bool, behind: u64, demanded in 0_u32..4,
        ) {
            let health = GroupHealth {
                halted: halted.then(|| "cause".to_owned()),
                fenced_by: fenced.then_some(FenceEpoch::new(3)),
                leaderless_ms: ms[0],
                uncommitted_ms: ms[1],
                sync_ms: ms[2],
                disk_full,
                records_behind: behind,
                domains_demanded: demanded,
                voters: vec![voter(1, "a", true)],
                ..GroupHealth::well(NodeId::new(1))
            };
            if let Some(error) = health.observe(&HealthLimits::default()) {
                prop_assert_ne!(error.disposition(), Disposition::Indeterminate);
                prop_assert!(!error.failure().is_of_the_caller());
            }
        }
    }
}
