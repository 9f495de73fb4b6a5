//! What the nodes of a simulated cluster are opened with, one by one, and what they build of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_replication::{GroupId, NodeId};

use super::{Release, SimEngine};
use crate::comparing::Comparisons;
use crate::error::Error;
use crate::projection::rebuild::{JobDesk, Run};
use crate::projection::{Added, Projection, Registry};
use crate::resource_table::ResourceTable;
use crate::store::{MemoryStore, StateStore};
use crate::trace::TraceListeners;

/// A release of a service: what it opens its engine with. See [`super::SimFabric::restart_from`].
/// By default there are no projections in it but the built-in ones.
///
/// ```
/// # use palisade::{sim::{SimFabric, SimRelease}, *};
/// # mod versions {
/// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/versions.rs"));
/// # }
/// # use versions::{First, Second};
/// let first = SimRelease::default().projection(First);
/// let second = SimRelease::default()
///     .projection(Second)
///     .superseding(First)
///     .rebuild_queue_bytes_max(1 << 20);
/// let mut fabric = SimFabric::builder(1).release(first).build()?;
/// let node = fabric.node(1);
/// fabric.shut_down(node);
/// fabric.restart_from(node, &second)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a release does nothing until a node is started from it"]
pub struct SimRelease {
    added: Added,
}

impl SimRelease {
    /// Adds a kind of resource: see [`crate::EngineBuilder::projection`].
    pub fn projection(mut self, projection: impl Projection) -> Self {
        self.added.projection(projection);
        self
    }

    /// Adds an older version of one: see [`crate::EngineBuilder::superseding`].
    pub fn superseding(mut self, older: impl Projection) -> Self {
        self.added.older(older);
        self
    }

    /// See [`crate::EngineBuilder::rebuild_queue_bytes_max`].
    pub fn rebuild_queue_bytes_max(mut self, rebuild_queue_bytes_max: u64) -> Self {
        self.added.rebuild_queue_bytes_max = rebuild_queue_bytes_max;
        self
    }

    pub(super) fn registry(&self) -> Result<Registry, Error> {
        self.added.registry()
    }
}

/// What each node was opened with; clones share it.
#[derive(Clone, Default)]
pub(super) struct Sites {
    by_node: Arc<Mutex<BTreeMap<NodeId, Site>>>,
}

struct Site {
    groups: Vec<GroupId>,
    store: MemoryStore,
    jobs: JobDesk,
    comparisons: Comparisons,
    traces: TraceListeners,
    registry: Registry,
    next: Release,
    /// Jobs under way.
    runs: Vec<Run>,
}

impl Sites {
    pub(super) fn add(&self, node: NodeId, engine: &SimEngine, registry: Registry) {
        let (store, jobs, next) = (engine.store(), engine.jobs(), engine.release());
        let (groups, comparisons, runs) = (engine.groups(), engine.comparisons(), Vec::new());
        let traces = engine.traces();
        let site = Site { groups, store, jobs, comparisons, traces, registry, next, runs };
        self.lock().insert(node, site);
    }

    pub(super) fn registry(&self, node: NodeId) -> Registry {
        self.lock()[&node].registry.clone()
    }

    pub(super) fn comparisons(&self, node: NodeId) -> Comparisons {
        self.lock()[&node].comparisons.clone()
    }

    pub(super) fn traces(&self, node: NodeId) -> TraceListeners {
        self.lock()[&node].traces.clone()
    }

    /// All that a node has applied is on disk.
    pub(super) fn flush(&self, node: NodeId) {
        self.lock()[&node].store.flush().expect("memory can be written");
    }

    /// The next life of a node is opened with these.
    pub(super) fn upgrade(&self, node: NodeId, registry: Registry) -> Result<(), Error> {
        let mut sites = self.lock();
        let site = sites.get_mut(&node).expect("a known node");
        for group in &site.groups {
            ResourceTable::load(&site.store, &registry, *group)?;
        }
        *site.next.lock().expect("nobody panics with it") = Some(registry.clone());
        site.registry = registry;
        Ok(())
    }

    /// One step of each job of the nodes that are up.
    pub(super) fn build(&self, up: &[NodeId]) {
        for (node, site) in self.lock().iter_mut() {
            if up.contains(node) {
                site.runs.extend(site.jobs.take().into_iter().map(Run::new));
                site.runs.retain_mut(|run| run.step(&site.store));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Site>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
