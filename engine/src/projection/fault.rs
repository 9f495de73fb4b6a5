//! Why a projection cannot go on.

use palisade_replication::ApplyError;

use crate::codec::DecodeError;
use crate::store::{StoreCause, StoreError};

/// Why a projection cannot go on: its rows are not what it has written, or cannot be read.
///
/// A read of the caller's own that finds something else than it looks for:
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # mod counter {
/// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
/// # }
/// # use counter::Counter;
/// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("visits", "count.v1")?;
/// # let visits = Handle::<Counter>::open(&engine, spec).await?;
/// let first = |rows: &RowsRead<'_>| {
///     let row = rows.first(b"", None)?;
///     row.map(|(key, _)| key).ok_or_else(|| ProjectionFault::new("nobody has come yet"))
/// };
/// let found = visits.read(ReadConsistency::Linearizable, first).await;
/// assert!(found.unwrap_err().to_string().contains("nobody has come yet"));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ProjectionFault {
    what: String,
    cause: Cause,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The projection's own.
    Projection,
    /// That of a read which a caller gave.
    Caller,
    /// A bug: it panicked.
    Panic,
    /// The state of this replica is not what it must be.
    State,
    /// A part of the state of this replica cannot be read.
    Unreadable,
    /// The store under all groups has failed.
    Store,
    /// The store under all groups has no space now.
    Full,
}

impl ProjectionFault {
    /// A fault of the projection itself, described for people.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: Cause::Projection }
    }

    /// The same, of a read that a caller gave: what is no fault of the state is his own.
    pub(crate) fn of_caller(self) -> Self {
        match self.cause {
            Cause::Projection | Cause::Panic => Self { cause: Cause::Caller, ..self },
            _ => self,
        }
    }

    /// Whether it says nothing about the state of this replica.
    pub(crate) fn is_of_caller(&self) -> bool {
        self.cause == Cause::Caller
    }

    /// The state of this replica is wrong: it must not serve again before it was rebuilt.
    pub(crate) fn of_state(what: impl Into<String>) -> Self {
        Self { cause: Cause::State, ..Self::new(what) }
    }

    /// What is wrong with the state of this replica, if that is the fault.
    pub(crate) fn wrong_state(&self) -> Option<&str> {
        (self.cause == Cause::State).then_some(&self.what)
    }

    /// What of the state of this replica cannot be read, if that is the fault.
    pub(crate) fn unreadable_state(&self) -> Option<&str> {
        (self.cause == Cause::Unreadable).then_some(&self.what)
    }

    /// Whether a read that met it has shown that the rows are not what was written. A panic or a store that does
    /// not answer shows nothing of the kind, and may be met at every replica.
    pub(crate) fn is_of_rows(&self) -> bool {
        matches!(self.cause, Cause::Projection | Cause::State | Cause::Unreadable)
    }

    /// The same, with where it happened before it.
    pub(crate) fn within(self, place: &str) -> Self {
        Self { what: format!("{place}: {}", self.what), ..self }
    }

    /// If it is the store's, and nobody else can do anything about it: which kind.
    pub(crate) fn store_cause(&self) -> Option<StoreCause> {
        match self.cause {
            Cause::Store => Some(StoreCause::Failed),
            Cause::Unreadable => Some(StoreCause::Unreadable),
            Cause::Full => Some(StoreCause::Full),
            Cause::Projection | Cause::Caller | Cause::Panic | Cause::State => None,
        }
    }

    /// What becomes of it while a record is applied: the group halts, or the node if its store failed. For
    /// space it waits.
    pub(crate) fn into_apply_error(self) -> ApplyError {
        match self.cause {
            Cause::Store => ApplyError::of_node(self.what),
            Cause::Full => ApplyError::full(self.what),
            Cause::Projection | Cause::Caller | Cause::Panic | Cause::State | Cause::Unreadable => {
                ApplyError::of_group(self.what)
            }
        }
    }
}

/// A panic is a fault: it takes neither the thread nor the host with it.
pub(crate) fn guarded<T>(
    work: impl FnOnce() -> Result<T, ProjectionFault>,
) -> Result<T, ProjectionFault> {
    palisade_replication::guarded(work).unwrap_or_else(|what| {
        let what = format!("it panicked: {what}");
        Err(ProjectionFault { what, cause: Cause::Panic })
    })
}

impl From<StoreError> for ProjectionFault {
    fn from(error: StoreError) -> Self {
        let cause = match error.cause() {
            StoreCause::Failed => Cause::Store,
            StoreCause::Unreadable => Cause::Unreadable,
            StoreCause::Full => Cause::Full,
        };
        Self { what: error.to_string(), cause }
    }
}

impl From<DecodeError> for ProjectionFault {
    fn from(error: DecodeError) -> Self {
        Self::new(error.to_string())
    }
}
