//! Which projections an engine was opened with.

use std::fmt;
use std::sync::Arc;

use super::{AnyProjection, Erased};
use crate::error::Error;
use crate::projections::idempotency::Requests;
use crate::projections::log::Log;
use crate::projections::map::Map;
use crate::store::{Families, FamilyId};

/// The projections of an engine: the built-in ones, and those that its host has added.
#[derive(Clone)]
pub(crate) struct Registry {
    projections: Arc<[Arc<dyn AnyProjection>]>,
    families: Families,
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
        let built_in: [Arc<dyn AnyProjection>; 3] =
            [Arc::new(Erased(Log)), Arc::new(Erased(Map)), Arc::new(Requests::default())];
        Ok(Self {
            projections: built_in.into_iter().chain(added.iter().cloned()).collect(),
            families,
        })
    }

    /// The families of their rows, and those of the engine itself.
    pub(crate) fn families(&self) -> &Families {
        &self.families
    }

    pub(crate) fn find(&self, name: &str) -> Option<Kind<'_>> {
        let projection = self.projections.iter().find(|projection| projection.name() == name)?;
        let family = self.families.find(name.as_bytes())?;
        Some(Kind { family, projection: &**projection })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.projections.iter().map(|each| (each.name(), each.version()));
        f.debug_map().entries(named).finish()
    }
}
