//! The contracts of a node's resources as its state machine has them, for handles to look at.
//!
//! A handle asks here before each call, and keeps no contract of its own: one that is altered binds every
//! handle from the record on that altered it. A resource without a contract is not in here: its calls
//! cost one look into a map that does not have it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use palisade_replication::GroupId;

use crate::resource::{ResourceId, ResourceSpec};
use crate::resource_row::Resource;

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

    /// True if no resource declares anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.specs.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// All of a group, in the order they were made.
    pub(crate) fn all(&self, group: GroupId) -> Vec<(ResourceId, Arc<ResourceSpec>)> {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        let here = specs.iter().filter(|((of, _), _)| *of == group);
        here.map(|((_, resource), spec)| (*resource, Arc::clone(spec))).collect()
    }

    /// The resource is this from now on, or is gone.
    pub(crate) fn set(&self, group: GroupId, id: ResourceId, resource: Option<&Resource>) {
        self.change(|specs| insert(specs, group, id, resource));
    }

    /// The resources of the group are these, and no others.
    pub(crate) fn set_all<'a>(
        &self,
        group: GroupId,
        resources: impl Iterator<Item = (ResourceId, &'a Resource)>,
    ) {
        self.change(|specs| {
            specs.retain(|(of, _), _| *of != group);
            resources.for_each(|(id, resource)| insert(specs, group, id, Some(resource)));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Specs)) {
        change(&mut self.specs.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn insert(specs: &mut Specs, group: GroupId, id: ResourceId, resource: Option<&Resource>) {
    let usable = resource.filter(|resource| resource.deleted.is_none());
    match usable.map(|resource| &resource.spec).filter(|spec| spec.contract.is_some()) {
        Some(spec) => _ = specs.insert((group, id), Arc::new(spec.clone())),
        None => _ = specs.remove(&(group, id)),
    }
}
