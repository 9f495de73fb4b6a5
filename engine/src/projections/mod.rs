//! The built-in projections: how one operation changes the state of its resource.
//!
//! Each is a function of what the view shows, the operation, and where the record stands in the
//! log. Nothing else may decide, or replicas would part.

pub(crate) mod idempotency;
pub(crate) mod log;
pub(crate) mod map;
pub(crate) mod resources;

use palisade_replication::{GroupId, LogTime, Offset};

use crate::command::{Completion, Refusal};

/// Where the record that is applied stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) group: GroupId,
    pub(crate) offset: Offset,
    pub(crate) log_time: LogTime,
}

/// How one operation went.
pub(crate) enum Step {
    Done,
    /// The request was completed before; the whole record has no effect.
    Duplicate(Completion),
    /// It cannot be done; the whole record has no effect.
    Refused(Refusal),
}
