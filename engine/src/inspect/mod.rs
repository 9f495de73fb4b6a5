//! Looks at the files of a node that is not running: its write-ahead log and its state. Nothing is made,
//! cut, repaired or changed, so that it can be done before anybody decides what becomes of them.
//!
//! ```text
//! WalFiles::open(dir)    -> whose log, what a start would find, every frame with what it says
//! verify_state(dir)      -> how far each group is applied, and whether its rows are what was written
//! key_needs(dir)         -> which key epochs its files need; of a node that runs, too
//! ```
//! A directory that a process has open is refused: what is being written cannot be judged, and RocksDB's
//! read-only mode on files that another process changes is not safe. While it is looked at, no node can
//! open it.

mod needs;
mod record;
#[cfg(feature = "rocksdb")]
mod state;
mod wal;

use palisade_replication::NodeError;
use palisade_wal::WalError;

pub use needs::{KeyNeeds, key_needs};
pub use record::{RecordView, RegisterView};
#[cfg(feature = "rocksdb")]
pub use state::{GroupState, StateView, verify_state};
pub use wal::{GroupLog, ItemBody, SegmentFile, WalFiles, WalFrame, WalItem, WalPlace, WalVerdict};

/// Why files could not be looked at.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// use palisade::encryption::Keys;
/// use palisade::inspect::{InspectError, WalFiles};
///
/// match WalFiles::open(dir, Keys::none()) {
///     Ok(files) => println!("{:?}", files.verdict()),
///     Err(InspectError::InUse { what }) => println!("stop the node first: {what}"),
///     Err(error) => println!("{error}"),
/// }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// There is no such thing there.
    #[error("{what}")]
    NotThere {
        /// What was looked for, and where.
        what: String,
    },
    /// A process has it open.
    #[error("{what}")]
    InUse {
        /// What, and how that is known.
        what: String,
    },
    /// It is somebody else's, or of a release that this one does not know.
    #[error("{what}")]
    Incompatible {
        /// What was found.
        what: String,
    },
    /// So much of it is damaged that nothing can be said.
    #[error("{what}")]
    Damaged {
        /// What, and where.
        what: String,
    },
    /// The file system refuses.
    #[error("{what}")]
    Unreadable {
        /// What it says.
        what: String,
    },
}

impl From<WalError> for InspectError {
    fn from(error: WalError) -> Self {
        let what = error.to_string();
        match error {
            WalError::AlreadyOpen { .. } => Self::InUse { what },
            WalError::Foreign { .. } | WalError::UnknownVersion { .. } => {
                Self::Incompatible { what }
            }
            WalError::InvalidArgument { .. } | WalError::Corrupt { .. } => Self::Damaged { what },
            WalError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::NotThere { what: format!("{what}: there is no such file or directory") }
            }
            WalError::Io { source, .. } => Self::Unreadable { what: format!("{what}: {source}") },
            _ => Self::Unreadable { what },
        }
    }
}

impl From<NodeError> for InspectError {
    fn from(error: NodeError) -> Self {
        let what = error.to_string();
        match error {
            NodeError::Io { source, .. } => Self::Unreadable { what: format!("{what}: {source}") },
            NodeError::Newer { .. } => Self::Incompatible { what },
            _ => Self::Damaged { what },
        }
    }
}
