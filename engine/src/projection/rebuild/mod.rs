//! The rebuild of a projection whose version rises: rows of the newer version are made beside those of the
//! older one, which decides and serves until a record says otherwise. `docs/projections.md` tells the whole.
//!
//! ```text
//! record.rs   what members say to each other, as records of the group        the same at every replica
//! state.rs    how far the group is with a kind                               the same at every replica
//! judge.rs    what those records do to it                                    the same at every replica
//! local.rs    how far this replica is: which family is served, the queue     node-local rows
//! build.rs    the newer version beside each record that is applied           under apply
//! job.rs      rows of one moment, then the queue                             beside apply
//! driver.rs   the thread that does the latter
//! due.rs      what this node ought to say now: a function of one moment's state
//! status.rs   what users are told
//! ```
//! Nothing that a replica finds out by itself changes what all have: it is said in a record first.

mod build;
mod driver;
mod due;
mod job;
mod judge;
mod local;
mod record;
mod state;
mod status;

pub(crate) use self::build::{Builds, Turn};
pub(crate) use self::driver::Driver;
pub(crate) use self::due::{in_use, round};
pub(crate) use self::job::JobDesk;
#[cfg(feature = "sim")]
pub(crate) use self::job::Run;
#[cfg(all(feature = "backup", any(feature = "rocksdb", test)))]
pub(crate) use self::judge::forget;
pub(crate) use self::judge::{Scene, apply};
pub(crate) use self::local::served;
pub(crate) use self::record::RebuildCommand;
#[cfg(test)]
pub(crate) use self::record::tests::any_rebuild;
pub use self::state::RebuildFailure;
pub(crate) use self::state::{Kinds, rows_of};
pub use self::status::{RebuildHere, RebuildStage, RebuildStatus};

#[cfg(all(test, feature = "sim"))]
mod tests;
