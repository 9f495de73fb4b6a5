//! What is due besides operating in a mode: only what was declared, and only where it can be done.

use std::collections::BTreeSet;

use palisade_replication::NodeId;

use super::contract::DegradationContract;
use super::health::{GroupHealth, VoterHealth};
use super::rule::{DegradationMode, RecoveryAction};
use crate::failure::Failure;

/// What is due under a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyAction {
    /// Hand the leadership over.
    Failover {
        /// To this voter.
        to: NodeId,
    },
    /// Let only so many calls through; the others are `RateLimited`.
    Throttle {
        /// In a second.
        per_second: u32,
    },
    /// A right is gone: this handle writes no more until it is opened anew.
    Fence {
        /// How it went.
        reason: Failure,
    },
    /// Refuse everything.
    FailClosed {
        /// Under which failure.
        reason: Failure,
    },
    /// Something that the engine does not do by itself.
    Plan(RewritePlan),
}

/// A change that an operator, or a program, is asked to make.
///
/// ```
/// use palisade::degradation::*;
/// use palisade::{Failure, NodeId};
///
/// let rule = DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk);
/// let contract = DegradationContract::builder()
///     .rule(rule.action(RecoveryAction::ReplicaAdd))
///     .build()?;
/// let voter = |node, zone: &str, answers| VoterHealth {
///     node: NodeId::new(node),
///     domain: format!("aws/us-east-1/{zone}"),
///     answers,
///     records_behind: 0,
/// };
/// let mut health = GroupHealth::well(NodeId::new(1));
/// health.voters = vec![voter(1, "a", true), voter(2, "b", false), voter(3, "c", true)];
///
/// let due = contract.evaluate(&Failure::Degraded, &health);
/// let Some(PolicyAction::Plan(RewritePlan::ReplicaAdd { domains })) = due else { panic!("{due:?}") };
/// assert!(domains.contains("aws/us-east-1/b"));
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RewritePlan {
    /// Add replicas.
    ReplicaAdd {
        /// In these failure domains, whose voters do not answer.
        domains: BTreeSet<String>,
    },
    /// Remove replicas.
    ReplicaRemove {
        /// These, which do not answer; a majority does.
        nodes: BTreeSet<NodeId>,
    },
    /// Move bulk to the colder tier.
    TierDown,
    /// Move bulk to the hotter tier.
    TierUp,
}

impl DegradationContract {
    /// What is due under a failure, in a group of this health; nothing if the mode is all there is to it.
    /// An action that was declared and cannot be done now, such as a failover by a node that does not
    /// lead, is not due.
    ///
    /// ```
    /// use palisade::degradation::*;
    /// use palisade::{Failure, NodeId};
    ///
    /// let contract = DegradationContract::builder()
    ///     .rule(DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk)
    ///         .action(RecoveryAction::Failover))
    ///     .build()?;
    /// let voter = |node, answers| VoterHealth {
    ///     node: NodeId::new(node),
    ///     domain: String::new(),
    ///     answers,
    ///     records_behind: 0,
    /// };
    /// let mut health = GroupHealth::well(NodeId::new(1));
    /// assert_eq!(contract.evaluate(&Failure::Degraded, &health), None);
    /// health.leads = true;
    /// health.voters = vec![voter(1, true), voter(2, false), voter(3, true)];
    /// let due = contract.evaluate(&Failure::Degraded, &health);
    /// assert_eq!(due, Some(PolicyAction::Failover { to: NodeId::new(3) }));
    /// # Ok::<(), palisade::Error>(())
    /// ```
    #[must_use]
    pub fn evaluate(&self, failure: &Failure, health: &GroupHealth) -> Option<PolicyAction> {
        let declared = self.lookup_rule(failure).and_then(|rule| rule.action);
        let due = declared.and_then(|action| due(action, health));
        due.or_else(|| match (self.mode(failure), *failure) {
            (DegradationMode::FailClosed, reason) => Some(PolicyAction::FailClosed { reason }),
            (_, reason @ (Failure::LeaseExpired | Failure::Revoked | Failure::Fenced)) => {
                Some(PolicyAction::Fence { reason })
            }
            _ => None,
        })
    }
}

/// The action as it can be done now.
fn due(action: RecoveryAction, health: &GroupHealth) -> Option<PolicyAction> {
    let (up, away): (Vec<&VoterHealth>, Vec<&VoterHealth>) =
        health.voters.iter().partition(|voter| voter.answers);
    let majority = health.voters.len() / 2 < up.len();
    match action {
        RecoveryAction::Failover => {
            let others = up.into_iter().filter(|voter| voter.node != health.node);
            let best = others.min_by_key(|voter| (voter.records_behind, voter.node))?;
            // A new leader must commit before it can do anything: where it could not, the old one stays.
            let can = health.leads && majority && health.lacking_domains().is_none();
            can.then_some(PolicyAction::Failover { to: best.node })
        }
        RecoveryAction::Throttle { per_second } => Some(PolicyAction::Throttle { per_second }),
        RecoveryAction::ReplicaAdd => {
            let domains = away.iter().map(|voter| voter.domain.clone()).collect();
            let plan = RewritePlan::ReplicaAdd { domains };
            (!away.is_empty()).then_some(PolicyAction::Plan(plan))
        }
        RecoveryAction::ReplicaRemove => {
            let nodes = away.iter().map(|voter| voter.node).collect();
            let plan = RewritePlan::ReplicaRemove { nodes };
            (majority && !away.is_empty()).then_some(PolicyAction::Plan(plan))
        }
        RecoveryAction::TierDown => Some(PolicyAction::Plan(RewritePlan::TierDown)),
        RecoveryAction::TierUp => Some(PolicyAction::Plan(RewritePlan::TierUp)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::contract::tests::contract;
    use super::super::rule::DegradationRule;
    use super::*;

    /// Voters 1, 2, .. in domains a, b, ..: how far each is behind, or nothing if it does not answer.
    fn health(voters: &[Option<u64>]) -> GroupHealth {
        let seen = |(at, behind): (usize, &Option<u64>)| VoterHealth {
            node: NodeId::new(at as u64 + 1),
            domain: char::from(b'a' + at as u8).to_string(),
            answers: behind.is_some(),
            records_behind: behind.unwrap_or(0),
        };
        GroupHealth {
            leads: true,
            voters: voters.iter().enumerate().map(seen).collect(),
            ..GroupHealth::well(NodeId::new(1))
        }
    }

    fn evaluate(action: RecoveryAction, health: &GroupHealth) -> Option<PolicyAction> {
        let rule =
            DegradationRule::new([Failure::Degraded], DegradationMode::Normal).action(action);
        let contract = DegradationContract::builder().rule(rule).build().unwrap();
        contract.evaluate(&Failure::Degraded, health)
    }

    #[test]
    fn leadership_goes_to_who_is_least_behind() {
        let to = |node| Some(PolicyAction::Failover { to: NodeId::new(node) });
        let failover = |health: &GroupHealth| evaluate(RecoveryAction::Failover, health);
        assert_eq!(failover(&health(&[Some(0), Some(9), Some(3)])), to(3));
        assert_eq!(failover(&health(&[Some(0), Some(3), Some(3)])), to(2), "the first of equals");
        assert_eq!(failover(&health(&[Some(0), Some(9), None])), to(2));
        assert_eq!(failover(&health(&[Some(0), None, None])), None, "not to itself");
        let follower = GroupHealth { leads: false, ..health(&[Some(0), Some(0)]) };
        assert_eq!(failover(&follower), None);
    }

    /// Whoever is elected must commit first. The old leader at least confirms reads.
    #[test]
    fn leadership_goes_to_nobody_who_could_not_commit() {
        let failover = |health: &GroupHealth| evaluate(RecoveryAction::Failover, health);
        let few = health(&[Some(0), Some(0), None, None]);
        assert_eq!(failover(&few), None);
        let mut zones = health(&[Some(0), Some(0), None]);
        zones.voters[1].domain = "a".to_owned();
        assert!(failover(&zones).is_some());
        zones.domains_demanded = 2;
        assert_eq!(failover(&zones), None);
        zones.voters[1].domain = "b".to_owned();
        assert!(failover(&zones).is_some());
    }

    #[test]
    fn plans_name_who_is_away() {
        let plan = |action, voters: &[Option<u64>]| match evaluate(action, &health(voters)) {
            Some(PolicyAction::Plan(plan)) => Some(plan),
            None => None,
            other => panic!("{other:?}"),
        };
        let add = |domain: &str| RewritePlan::ReplicaAdd { domains: [domain.to_owned()].into() };
        let remove = |node| RewritePlan::ReplicaRemove { nodes: [NodeId::new(node)].into() };
        let (one, two) = ([Some(0), Some(0), None], [Some(0), None, None]);
        assert_eq!(plan(RecoveryAction::ReplicaAdd, &one), Some(add("c")));
        assert_eq!(plan(RecoveryAction::ReplicaRemove, &one), Some(remove(3)));
        assert_eq!(plan(RecoveryAction::ReplicaRemove, &two), None, "no majority would be left");
        let half = [Some(0), Some(0), None, None];
        assert_eq!(plan(RecoveryAction::ReplicaRemove, &half), None, "half is no majority");
        for action in [RecoveryAction::ReplicaAdd, RecoveryAction::ReplicaRemove] {
            assert_eq!(plan(action, &[Some(0), Some(0)]), None, "nobody is away");
        }
        assert_eq!(plan(RecoveryAction::TierDown, &[]), Some(RewritePlan::TierDown));
        assert_eq!(plan(RecoveryAction::TierUp, &[]), Some(RewritePlan::TierUp));
    }

    #[test]
    fn without_an_action_the_mode_tells() {
        let build = |rules: &[DegradationRule]| {
            rules
                .iter()
                .cloned()
                .fold(DegradationContract::builder(), |b, r| b.rule(r))
                .build()
                .unwrap()
        };
        let fine = health(&[]);
        let contract = build(&[
            DegradationRule::new(
                [Failure::Revoked, Failure::Incompatible],
                DegradationMode::ReadOnly,
            ),
            DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk),
        ]);
        let due = |failure| contract.evaluate(&failure, &fine);
        assert_eq!(due(Failure::Revoked), Some(PolicyAction::Fence { reason: Failure::Revoked }));
        assert_eq!(due(Failure::Incompatible), None);
        assert_eq!(due(Failure::Degraded), None);
        let closed = |reason| Some(PolicyAction::FailClosed { reason });
        assert_eq!(due(Failure::Fenced), closed(Failure::Fenced), "no rule names it");
        // A closed node that leads hands over first, if it can.
        let contract =
            build(&[DegradationRule::new([Failure::Degraded], DegradationMode::FailClosed)
                .action(RecoveryAction::Failover)]);
        let to = PolicyAction::Failover { to: NodeId::new(2) };
        let two = health(&[Some(0), Some(0)]);
        assert_eq!(contract.evaluate(&Failure::Degraded, &two), Some(to));
        assert_eq!(contract.evaluate(&Failure::Degraded, &fine), closed(Failure::Degraded));
    }

    proptest! {
        /// Nothing is done that was not declared.
        #[test]
        fn only_what_was_declared_is_due(
            contract in contract(),
            failure in prop::sample::select(Failure::ALL.to_vec()),
            voters in prop::collection::vec(prop::option::of(0_u64..5), 0..5),
        ) {
            let action = contract.lookup_rule(&failure).and_then(|rule| rule.action);
            let declared = match contract.evaluate(&failure, &health(&voters)) {
                None => true,
                Some(PolicyAction::Failover { .. }) => action == Some(RecoveryAction::Failover),
                Some(PolicyAction::Throttle { per_second }) => {
                    action == Some(RecoveryAction::Throttle { per_second })
                }
                Some(PolicyAction::Plan(plan)) => action.is_some_and(|action| matches!(
                    (action, plan),
                    (RecoveryAction::ReplicaAdd, RewritePlan::ReplicaAdd { .. })
                        | (RecoveryAction::ReplicaRemove, RewritePlan::ReplicaRemove { .. })
                        | (RecoveryAction::TierDown, RewritePlan::TierDown)
                        | (RecoveryAction::TierUp, RewritePlan::TierUp)
                )),
                Some(PolicyAction::FailClosed { reason }) => {
                    reason == failure && contract.mode(&failure) == DegradationMode::FailClosed
                }
                Some(PolicyAction::Fence { reason }) => {
                    reason == failure && contract.mode(&failure) == DegradationMode::ReadOnly
                }
            };
            prop_assert!(declared);
        }
    }
}
