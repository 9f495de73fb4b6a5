//! What can go wrong with a backup, and what to do about it.

use std::sync::Arc;

use palisade_replication::{ClusterId, Disposition, GroupId, KeyError, Offset};

use super::BackupId;
use crate::error::Error;
use crate::failure::Failure;

/// Why a backup was not taken, not found whole, or not restored. Files are named below the prefix.
///
/// ```
/// use palisade::backup::{BackupError, BackupId};
/// use palisade::{Disposition, Failure};
///
/// let refused: BackupError = BackupId::new("monday/evening").unwrap_err();
/// assert_eq!(refused.failure(), Failure::InvalidArgument);
/// // What a program does about any of them follows from this.
/// assert_eq!(refused.disposition(), Disposition::Reject);
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file is not there. A backup without its manifest did not come to its end.
    #[error("file={file} is missing")]
    Missing {
        /// Which.
        file: String,
    },
    /// A file is not what it was when it was written.
    #[error("file={file} is damaged: {what}")]
    Damaged {
        /// Which.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file was written by another release.
    #[error("file={file} is of an unknown format: {found}")]
    UnknownFormat {
        /// Which.
        file: String,
        /// What it says it is.
        found: String,
    },
    /// A file belongs to another cluster.
    #[error("file={file} is of another cluster, expected={expected} found={found}")]
    Foreign {
        /// Which.
        file: String,
        /// Whose it should be.
        expected: ClusterId,
        /// Whose it is.
        found: ClusterId,
    },
    /// A backup does not follow from the one that is named as its parent.
    #[error("file={file} does not follow from its parent={parent}")]
    BrokenChain {
        /// The manifest, or what was to become it.
        file: String,
        /// Its parent.
        parent: BackupId,
    },
    /// The parent is ahead of this node: take the incremental backup later, or of another node.
    #[error("this node is behind the parent={parent}, group={group} applied={applied}")]
    Behind {
        /// The parent.
        parent: BackupId,
        /// The group that it is behind in.
        group: GroupId,
        /// How far this node is.
        applied: Offset,
    },
    /// The log no longer has the records since the parent: take a full backup.
    #[error("records of group={group} before offset={first} are trimmed: take a full backup")]
    Trimmed {
        /// Of which group.
        group: GroupId,
        /// The first that is left.
        first: Offset,
    },
    /// The state at an offset before the first full backup of the chain is not in it: choose an older one.
    #[error(
        "the chain begins with the state of group={group} at offset={floor}: choose an older one"
    )]
    Compacted {
        /// Of which group.
        group: GroupId,
        /// The first offset that can be restored.
        floor: Offset,
    },
    /// The id is used. What is there may be a backup that did not come to its end.
    #[error("file={file} is there already: choose another id")]
    AlreadyExists {
        /// Which file was found.
        file: String,
    },
    /// The caller broke a rule.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// The rule.
        what: String,
    },
    /// The object store failed.
    #[error("the store failed with file={file}: {source}")]
    Store {
        /// Which file it was about.
        file: String,
        /// What the store said.
        source: Arc<object_store::Error>,
    },
    /// What is sealed cannot be opened with the keys there are, or what is to be written not sealed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The engine failed, or refused.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl BackupError {
    /// Which of the closed set of failures it is.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Missing { .. } | Self::Trimmed { .. } | Self::Compacted { .. } => {
                Failure::NotFound
            }
            // What is there is not what its manifest, its parent or this release expects.
            Self::Damaged { .. }
            | Self::UnknownFormat { .. }
            | Self::Foreign { .. }
            | Self::BrokenChain { .. }
            | Self::Key(_) => Failure::Incompatible,
            Self::Behind { .. } => Failure::NotYetApplied,
            Self::AlreadyExists { .. } => Failure::AlreadyExists,
            Self::InvalidArgument { .. } => Failure::InvalidArgument,
            Self::Store { .. } => Failure::Disconnected,
            Self::Engine(error) => error.failure(),
        }
    }

    /// What the caller should do. Nothing is ever left half done under another name: what was not finished
    /// is refused, whoever meets it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Behind { .. } | Self::Store { .. } => Disposition::Retry,
            Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::UnknownFormat { .. }
            | Self::Foreign { .. }
            | Self::BrokenChain { .. }
            | Self::Trimmed { .. }
            | Self::Compacted { .. }
            | Self::AlreadyExists { .. }
            | Self::InvalidArgument { .. }
            | Self::Key(_) => Disposition::Reject,
            Self::Engine(error) => error.disposition(),
        }
    }

    pub(super) fn damaged(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.into(), what: what.into() }
    }
}
