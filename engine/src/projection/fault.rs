//! Why a projection cannot go on.

use palisade_replication::ApplyError;

use crate::codec::DecodeError;
use crate::store::StoreError;

/// Why a projection cannot go on: its rows are not what it has written, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ProjectionFault {
    what: String,
    /// The store under all groups has failed, not this projection.
    of_store: bool,
    /// The state of this replica is not what it must be.
    of_state: bool,
}

impl ProjectionFault {
    /// A fault of the projection itself, described for people.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), of_store: false, of_state: false }
    }

    /// The state of this replica is wrong: it must not serve again before it was rebuilt.
    pub(crate) fn of_state(what: impl Into<String>) -> Self {
        Self { of_state: true, ..Self::new(what) }
    }

    /// What is wrong with the state of this replica, if that is the fault.
    pub(crate) fn wrong_state(&self) -> Option<&str> {
        self.of_state.then_some(&self.what)
    }

    /// The same, with where it happened before it.
    pub(crate) fn within(self, place: &str) -> Self {
        Self { what: format!("{place}: {}", self.what), ..self }
    }

    /// Whether it is the store's, and nobody else can do anything about it.
    pub(crate) fn is_of_store(&self) -> bool {
        self.of_store
    }

    /// What becomes of it while a record is applied: the group halts, or the node if its store failed.
    pub(crate) fn into_apply_error(self) -> ApplyError {
        if self.of_store { ApplyError::of_node(self.what) } else { ApplyError::of_group(self.what) }
    }
}

impl From<StoreError> for ProjectionFault {
    fn from(error: StoreError) -> Self {
        Self { what: error.to_string(), of_store: true, of_state: false }
    }
}

impl From<DecodeError> for ProjectionFault {
    fn from(error: DecodeError) -> Self {
        Self::new(error.to_string())
    }
}
