//! The contracts of a node's resources as its state machine has them, for handles to look at.
//!
//! A handle asks here before each call, and keeps no contract of its own: one that is altered binds every
//! handle from the record on that altered it. A resource without a contract is not in here, so that its
//! calls cost one look into a map that does not have it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use palisade_replication::GroupId;

use crate::resource::{ResourceId, ResourceSpec};

/// Specs of the resources that declare a contract; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contracts {
    specs: Arc<RwLock<Specs>>,
}

type Specs = BTreeMap<(GroupId, ResourceId), Arc<ResourceSpec>>;

impl Contracts {
    /// The resource's spec with its current epoch, if it declares a contract.
    pub(crate) fn of(&self, group: GroupId, resource: ResourceId) -> Option<Arc<ResourceSpec>> {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        specs.get(&(group, resource)).cloned()
    }

    /// All of a group, in the order they were made.
    pub(crate) fn all(&self, group: GroupId) -> Vec<(ResourceId, Arc<ResourceSpec>)> {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        let here = specs.iter().filter(|((of, _), _)| *of == group);
        here.map(|((_, resource), spec)| (*resource, Arc::clone(spec))).collect()
    }

    /// The resource is this from now on.
    pub(crate) fn set(&self, group: GroupId, resource: ResourceId, spec: &ResourceSpec) {
        self.change(|specs| insert(specs, group, resource, spec));
    }

    /// The resources of the group are these, and no others.
    pub(crate) fn set_all<'a>(
        &self,
        group: GroupId,
        resources: impl Iterator<Item = (ResourceId, &'a ResourceSpec)>,
    ) {
        self.change(|specs| {
            specs.retain(|(of, _), _| *of != group);
            resources.for_each(|(resource, spec)| insert(specs, group, resource, spec));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Specs)) {
        change(&mut self.specs.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn insert(specs: &mut Specs, group: GroupId, resource: ResourceId, spec: &ResourceSpec) {
    match &spec.contract {
        Some(_) => _ = specs.insert((group, resource), Arc::new(spec.clone())),
        None => _ = specs.remove(&(group, resource)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::degradation::DegradationContract;
    use crate::resource::FenceEpoch;

    #[test]
    fn only_those_with_a_contract_are_kept_and_each_as_it_is_last() {
        let contracts = Contracts::default();
        let [one, two] = [1, 2].map(GroupId::new);
        let plain = ResourceSpec::new("orders", "order.v1").unwrap();
        let declared = plain.clone().contract(DegradationContract::default());
        let id = ResourceId(7);
        let epoch = |group| contracts.of(group, id).map(|spec| spec.epoch.get());
        contracts.set(one, id, &plain);
        assert_eq!(epoch(one), None);
        contracts.set(one, id, &declared);
        contracts.set(one, id, &declared.clone().epoch(FenceEpoch::new(2)));
        contracts.set(two, id, &declared);
        assert_eq!((epoch(one), epoch(two)), (Some(2), Some(1)));
        // A snapshot in which another resource has the contract.
        contracts.set_all(one, [(ResourceId(8), &declared), (id, &plain)].into_iter());
        assert_eq!((epoch(one), epoch(two)), (None, Some(1)));
        assert_eq!(contracts.all(one).len(), 1);
        contracts.set(two, id, &plain);
        assert_eq!(epoch(two), None);
    }
}
