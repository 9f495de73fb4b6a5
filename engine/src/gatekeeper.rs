//! Obeys contracts: what is asked before each call on a resource that declares one.
//!
//! ```text
//! status of the group --GroupHealth--> the failure --contract--> mode --gate--> the call is made, or not
//!                                                 \--policy--> leadership is handed over, calls are counted
//! ```
//! What is observed is asked of the node for each call, and nothing is remembered that decides one, but
//! for the tokens of throttles. So the first call after a failure is over is served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_replication::{GroupId, NodeId};

use crate::contracts::Contracts;
use crate::degradation::{
    Call, DegradationMode, EmitAction, Gate, GroupHealth, HealthLimits, PolicyAction, gate,
};
use crate::engine::Engine;
use crate::error::Error;
use crate::failure::Failure;
use crate::group::Group;
use crate::resource::{FailureDomain, FenceEpoch, LogicalResourceName, ResourceId, ResourceSpec};
use crate::throttle::Bucket;

/// What an engine knows of its resources' contracts, and of those that operate under a failure.
pub(crate) struct Gatekeeper {
    contracts: Contracts,
    limits: HealthLimits,
    /// A handle that was fenced is another matter than the group that others still use.
    stands: Mutex<Stands>,
}

/// By group and resource, and whether it is the stand of a handle that was fenced.
type Stands = BTreeMap<(GroupId, ResourceId, bool), Stand>;

/// How a resource operates under a failure.
struct Stand {
    failure: Failure,
    mode: DegradationMode,
    emits: bool,
    throttle: Option<Bucket>,
    /// When leadership may be handed over again.
    failover_from: Duration,
}

/// A resource with a contract, for one handle.
struct Part {
    group: GroupId,
    resource: ResourceId,
    spec: Arc<ResourceSpec>,
    /// The handle's, if it writes.
    epoch: Option<FenceEpoch>,
}

/// How a resource with a contract operates under a failure: see [`Engine::conditions`].
///
/// ```
/// # use palisade::{degradation::*, sim::SimFabric, *};
/// # use std::time::Duration;
/// # let mut fabric = SimFabric::new(3);
/// # let engine = fabric.engine(fabric.leader().unwrap());
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
/// let stale = DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk);
/// let spec = spec.contract(DegradationContract::builder().rule(stale).build()?);
/// let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// assert!(engine.conditions().await.is_empty());
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// # fabric.partition(&[engine.node()]);
/// # fabric.run_for(Duration::from_secs(30));
/// # fabric.block_on(async {
///
/// // When it has lost the others:
/// for ResourceCondition { resource, observed, mode, .. } in engine.conditions().await {
///     assert_eq!((resource.as_str(), mode), ("stock", DegradationMode::StaleReadsOk));
///     println!("{observed}");
/// }
/// # assert_eq!(engine.conditions().await.len(), 1);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ResourceCondition {
    /// Which resource.
    pub resource: LogicalResourceName,
    /// The failure, with its facts.
    pub observed: Error,
    /// How the resource operates.
    pub mode: DegradationMode,
    /// What its contract asks for beside that. A plan is for whoever asked.
    pub due: Option<PolicyAction>,
}

impl Gatekeeper {
    pub(crate) fn new(contracts: Contracts, limits: HealthLimits) -> Self {
        Self { contracts, limits, stands: Mutex::default() }
    }

    /// For how long a fresh answer is tried for, if a stale one may stand in for it.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.limits.disconnected_after_ms)
    }

    /// What is observed by a handle, and what is due.
    fn judge(
        &self,
        part: &Part,
        health: &Result<GroupHealth, Error>,
    ) -> (Option<Error>, Option<PolicyAction>) {
        let current = part.spec.epoch;
        let fenced_by = part.epoch.filter(|epoch| *epoch < current).map(|_| current);
        let observed = match health {
            Ok(health) => GroupHealth { fenced_by, ..health.clone() }.observe(&self.limits),
            // Who cannot say how it is, is not well.
            Err(error) => Some(error.clone()),
        };
        let due =
            observed.as_ref().zip(part.spec.contract.as_ref()).and_then(|(error, contract)| {
                let unknown = GroupHealth::well(NodeId::new(0));
                contract.evaluate(&error.failure(), health.as_ref().unwrap_or(&unknown))
            });
        (observed, due)
    }

    /// Notes how a resource operates, and tells when that is another way. Gives who is to lead, if
    /// somebody else is to.
    fn note(
        &self,
        part: &Part,
        observed: Option<&Error>,
        due: Option<&PolicyAction>,
        now: Duration,
    ) -> Option<NodeId> {
        let mut stands = self.stands();
        let name = &part.spec.name;
        let left = |stand: &Stand| {
            if stand.emits {
                let Stand { failure, mode, .. } = stand;
                tracing::info!(resource = %name, %failure, %mode, "left a mode");
            }
        };
        let Some(observed) = observed else {
            stands.remove(&(part.group, part.resource, false)).iter().for_each(left);
            return None;
        };
        let (failure, contract) = (observed.failure(), part.spec.contract.as_ref()?);
        let mode = contract.mode(&failure);
        let key = (part.group, part.resource, failure == Failure::Fenced);
        if stands.get(&key).is_none_or(|stand| (stand.failure, stand.mode) != (failure, mode)) {
            let rule = contract.lookup_rule(&failure);
            let emits = rule.is_none_or(|rule| rule.emit == EmitAction::Event);
            let failover_from = Duration::ZERO;
            let stand = Stand { failure, mode, emits, throttle: None, failover_from };
            stands.insert(key, stand).iter().for_each(left);
            if emits {
                tracing::warn!(resource = %name, %failure, %mode, %observed, ?due, "entered a mode");
            }
        }
        let stand = stands.get_mut(&key)?;
        match due {
            Some(PolicyAction::Throttle { per_second }) => {
                let kept = stand.throttle.filter(|bucket| bucket.per_second() == *per_second);
                stand.throttle = Some(kept.unwrap_or_else(|| Bucket::new(*per_second, now)));
                None
            }
            Some(PolicyAction::Failover { to }) if stand.failover_from <= now => {
                stand.failover_from = now + self.patience();
                Some(*to)
            }
            _ => None,
        }
    }

    /// Counts a call on all of these, or on none.
    fn count(&self, parts: &[Part], now: Duration) -> Result<(), Error> {
        let mut stands = self.stands();
        let mut taken = Vec::new();
        for key in parts.iter().map(|part| (part.group, part.resource, false)) {
            let Some(mut bucket) = stands.get(&key).and_then(|stand| stand.throttle) else {
                continue;
            };
            bucket.take(now).map_err(|retry_after_ms| Error::RateLimited { retry_after_ms })?;
            taken.push((key, bucket));
        }
        for (key, bucket) in taken {
            if let Some(stand) = stands.get_mut(&key) {
                stand.throttle = Some(bucket);
            }
        }
        Ok(())
    }

    fn stands(&self) -> MutexGuard<'_, Stands> {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Judges a call on resources, each by a handle of this epoch, on behalf of these. It is to be made as
    /// this says, unless one of them refuses it.
    ///
    /// # Errors
    /// What has stopped here, then the placement, then the failure that the contract refuses it for, then
    /// [`Error::RateLimited`] for what a throttle does not let through.
    pub(crate) async fn gate(
        &self,
        handles: impl IntoIterator<Item = (ResourceId, Option<FenceEpoch>)>,
        call: Call,
        callers: &[FailureDomain],
    ) -> Result<Gate, Error> {
        let keeper = self.engine.gatekeeper();
        if keeper.contracts.is_empty() {
            return Ok(Gate::Try);
        }
        let (group, mut seen) = (self.id(), BTreeSet::new());
        let parts: Vec<Part> = handles
            .into_iter()
            .filter(|handle| seen.insert(*handle))
            .filter_map(|(resource, epoch)| {
                let spec = keeper.contracts.of(group, resource)?;
                Some(Part { group, resource, spec, epoch })
            })
            .collect();
        if parts.is_empty() {
            return Ok(Gate::Try);
        }
        if let Some(cause) = self.stopped() {
            return Err(cause);
        }
        let health = self.health().await;
        let now = self.engine.backend().now();
        let mut verdict = Gate::Try;
        for part in &parts {
            let (observed, due) = keeper.judge(part, &health);
            self.act(part, observed.as_ref(), due.as_ref(), now);
            match gate(part.spec.contract.as_ref(), observed.as_ref(), call) {
                Gate::Refuse(error) => {
                    return Err(part.spec.misplaced(callers).unwrap_or(error));
                }
                other => verdict = other,
            }
        }
        keeper.count(&parts, now)?;
        Ok(verdict)
    }

    /// The same of the resources in it.
    async fn conditions(&self) -> Vec<ResourceCondition> {
        let (group, keeper) = (self.id(), self.engine.gatekeeper());
        let health = match self.stopped() {
            Some(cause) => Err(cause),
            None => self.health().await,
        };
        let now = self.engine.backend().now();
        let mut conditions = Vec::new();
        for (resource, spec) in keeper.contracts.all(group) {
            let part = Part { group, resource, spec, epoch: None };
            let (observed, due) = keeper.judge(&part, &health);
            self.act(&part, observed.as_ref(), due.as_ref(), now);
            if let Some((observed, contract)) = observed.zip(part.spec.contract.as_ref()) {
                let (resource, mode) = (part.spec.name.clone(), contract.mode(&observed.failure()));
                conditions.push(ResourceCondition { resource, observed, mode, due });
            }
        }
        conditions
    }

    fn act(
        &self,
        part: &Part,
        observed: Option<&Error>,
        due: Option<&PolicyAction>,
        now: Duration,
    ) {
        if let Some(to) = self.engine.gatekeeper().note(part, observed, due, now)
            && let Err(error) = self.transfer_leadership(to)
        {
            tracing::debug!(%error, "a failover will be tried again");
        }
    }

    /// How this node sees it.
    async fn health(&self) -> Result<GroupHealth, Error> {
        let status = self.engine.within(self.status(), false).await?;
        Ok(GroupHealth::seen(self.engine.node(), &status, self.applied()?))
    }
}

impl Engine {
    /// Which resources with a contract operate under a failure, as this node sees it, and what is to be
    /// done about it: plans are for the caller. None: all is well. Whoever drives a node asks now and then,
    /// so that events are told, and leadership is handed over, where no handle is used.
    ///
    /// ```
    /// # use palisade::{degradation::PolicyAction, sim::SimFabric};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// for condition in engine.conditions().await {
    ///     println!("{}: {} ({})", condition.resource, condition.mode, condition.observed);
    ///     if let Some(PolicyAction::Plan(plan)) = condition.due {
    ///         println!("to be done: {plan:?}");
    ///     }
    /// }
    /// # });
    /// ```
    pub async fn conditions(&self) -> Vec<ResourceCondition> {
        let mut conditions = Vec::new();
        for group in self.groups() {
            conditions.extend(group.conditions().await);
        }
        conditions
    }
}
