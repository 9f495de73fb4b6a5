//! The built-in projections: how one operation changes the state of its resource.
//!
//! Each is a function of its rows, the operation, and where the record stands in the log. Nothing else
//! may decide, or replicas would part. They know nothing of the engine but what every projection knows.

pub(crate) mod idempotency;
pub(crate) mod log;
pub(crate) mod map;
pub(crate) mod place;
