//! Which projections an engine was opened with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{AnyProjection, Erased, Projection};
use crate::error::Error;
use crate::projections::idempotency::Requests;
use crate::projections::log::Log;
use crate::projections::map::Map;
use crate::store::{Families, FamilyId};

const BUILT_IN: usize = 3;
/// Most bytes of operations that a rebuild keeps to do later, if nothing else is said.
const REBUILD_QUEUE_BYTES_MAX: u64 = 1 << 30;

/// What a host adds to the built-in projections of an engine.
#[derive(Clone)]
pub(crate) struct Added {
    projections: Vec<Arc<dyn AnyProjection>>,
    older: Vec<Arc<dyn AnyProjection>>,
    pub(crate) rebuild_queue_bytes_max: u64,
}

impl Default for Added {
    fn default() -> Self {
        let rebuild_queue_bytes_max = REBUILD_QUEUE_BYTES_MAX;
        Self { projections: Vec::new(), older: Vec::new(), rebuild_queue_bytes_max }
    }
}

impl Added {
    pub(crate) fn projection(&mut self, projection: impl Projection) {
        self.projections.push(Arc::new(Erased(projection)));
    }

    /// An older version of one of them.
    pub(crate) fn older(&mut self, older: impl Projection) {
        self.older.push(Arc::new(Erased(older)));
    }

    /// All of an engine's.
    ///
    /// # Errors
    /// As [`Registry::new`] and [`Registry::superseding`].
    pub(crate) fn registry(&self) -> Result<Registry, Error> {
        let registry = Registry::new(&self.projections)?.superseding(&self.older)?;
        Ok(Registry { queue_bytes_max: self.rebuild_queue_bytes_max, ..registry })
    }
}

/// The projections of an engine: the built-in ones, and those that its host has added.
#[derive(Clone)]
pub(crate) struct Registry {
    projections: Arc<[Arc<dyn AnyProjection>]>,
    /// Older versions of some of them.
    older: Arc<[Arc<dyn AnyProjection>]>,
    families: Families,
    queue_bytes_max: u64,
}

/// A projection, and where its rows are.
#[derive(Clone, Copy)]
pub(crate) struct Kind<'a> {
    pub(crate) family: FamilyId,
    pub(crate) projection: &'a dyn AnyProjection,
}

impl Registry {
    /// The built-in projections and these.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is not plain or there twice, and for too many.
    pub(crate) fn new(added: &[Arc<dyn AnyProjection>]) -> Result<Self, Error> {
        let names: Vec<&'static str> = added.iter().map(|projection| projection.name()).collect();
        let families = Families::new(&names)?;
        let built_in: [Arc<dyn AnyProjection>; BUILT_IN] =
            [Arc::new(Erased(Log)), Arc::new(Erased(Map)), Arc::new(Requests::default())];
        Ok(Self {
            projections: built_in.into_iter().chain(added.iter().cloned()).collect(),
            older: Arc::new([]),
            families,
            queue_bytes_max: REBUILD_QUEUE_BYTES_MAX,
        })
    }

    /// The same with older versions of some of its projections.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for one that nothing supersedes, or that is there twice.
    pub(crate) fn superseding(self, older: &[Arc<dyn AnyProjection>]) -> Result<Self, Error> {
        for (at, old) in older.iter().enumerate() {
            let (name, version) = (old.name(), old.version());
            let invalid = |why: &str| {
                let what = format!("projection={name} version={version} {why}");
                Err(Error::InvalidArgument { what })
            };
            let newest = self.projections.iter().find(|newer| newer.name() == name);
            match newest.map(|newer| newer.version()) {
                None => {
                    return invalid("is superseded by nothing: say projection of the newer one");
                }
                Some(newer) if newer <= version => {
                    return invalid(&format!(
                        "is superseded by version={newer}, which is no newer"
                    ));
                }
                Some(_) => {}
            }
            let is_same =
                |other: &Arc<dyn AnyProjection>| (other.name(), other.version()) == (name, version);
            if older[..at].iter().any(is_same) {
                return invalid("is superseded twice");
            }
        }
        Ok(Self { older: older.into(), ..self })
    }

    /// Most bytes of operations that a rebuild keeps to do later.
    pub(crate) fn queue_bytes_max(&self) -> u64 {
        self.queue_bytes_max
    }

    /// The families of their rows, and those of the engine itself.
    pub(crate) fn families(&self) -> &Families {
        &self.families
    }

    /// The newest version of a projection, and the first of its families.
    pub(crate) fn find(&self, name: &str) -> Option<Kind<'_>> {
        let projection = self.projections.iter().find(|projection| projection.name() == name)?;
        let family = self.families.find(name.as_bytes())?;
        Some(Kind { family, projection: &**projection })
    }

    /// The same of one version, be it the newest or not.
    pub(crate) fn find_version(&self, name: &str, version: u32) -> Option<Kind<'_>> {
        let newest = self.find(name)?;
        if newest.projection.version() == version {
            return Some(newest);
        }
        let projection = self.older(name).find(|old| old.version() == version)?;
        Some(Kind { projection, ..newest })
    }

    /// Older versions of a projection.
    pub(crate) fn older<'a, 'n>(
        &'a self,
        name: &'n str,
    ) -> impl Iterator<Item = &'a dyn AnyProjection> + use<'a, 'n> {
        let of_name = move |old: &&Arc<dyn AnyProjection>| old.name() == name;
        self.older.iter().filter(of_name).map(|old| &**old)
    }

    /// The oldest version of a projection.
    pub(crate) fn oldest(&self, name: &str) -> Option<u32> {
        let newest = self.find(name)?.projection.version();
        Some(self.older(name).map(AnyProjection::version).min().unwrap_or(newest))
    }

    /// Projections that supersede an older version: name and newest version, by name.
    pub(crate) fn superseders(&self) -> BTreeMap<&'static str, u32> {
        let newest = |old: &Arc<dyn AnyProjection>| {
            Some((old.name(), self.find(old.name())?.projection.version()))
        };
        self.older.iter().filter_map(newest).collect()
    }

    /// Whether there are projections beside the built-in ones.
    pub(crate) fn has_added(&self) -> bool {
        self.projections.len() > BUILT_IN
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.projections.iter().chain(&*self.older);
        let named = all.map(|each| (each.name(), each.version()));
        f.debug_map().entries(named).finish()
    }
}
