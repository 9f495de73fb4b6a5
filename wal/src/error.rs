//! What can go wrong, one variant for each thing a caller could handle differently.

use std::io;
use std::sync::Arc;

use crate::keys::KeyError;
use crate::position::{BytePos, GroupId, LogIndex, SegmentId};

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing happened: try again.
    Retry,
    /// It may have happened: look it up, or try again with the same request id.
    Indeterminate,
    /// The caller is wrong.
    Reject,
    /// Stop: what is stored here can no longer be relied on.
    Halt,
}

/// Why the wal refused, or stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The queue is full. Nothing was taken.
    #[error("wal queue is full, queued_bytes={queued_bytes} queued_bytes_max={queued_bytes_max}")]
    Backpressure {
        /// What waits to be written.
        queued_bytes: usize,
        /// The bound on it.
        queued_bytes_max: usize,
    },
    /// The disk has no space for what was asked for, if a reserve is to remain. Nothing was taken; free
    /// some space, it goes on.
    #[error("no space for the wal, free some disk space")]
    NoSpace,
    /// A write or sync failed before. The first cause is kept, and nothing more is taken.
    #[error("wal is poisoned: {cause}")]
    Poisoned {
        /// What failed first.
        #[source]
        cause: Arc<WalError>,
    },
    /// A failed invariant: a bug, in the wal or in the disk that it was given. What was not durable may be lost.
    #[error("an invariant of the wal failed: {what}")]
    Panicked {
        /// The failed assertion.
        what: String,
    },
    /// A sync failed: what it covered may be lost, whatever a later sync says.
    #[error("sync failed, segment={segment}")]
    SyncFailed {
        /// The segment that was synced.
        segment: SegmentId,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another file operation failed.
    #[error("{op} failed, file={file}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// To which file.
        file: String,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// Stored bytes cannot be read, or are not what was written.
    #[error(
        "stored bytes are damaged, segment={segment} byte_pos={byte_pos} group={group} index={index}"
    )]
    Corrupt {
        /// Where.
        segment: SegmentId,
        /// Where.
        byte_pos: BytePos,
        /// Whose entry it is.
        group: GroupId,
        /// Which entry it is; 0 for a register.
        index: LogIndex,
        /// The cause, if the disk gave one rather than other bytes.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// The entry was trimmed.
    #[error("entry was trimmed, group={group} first={first}")]
    Trimmed {
        /// The group asked for.
        group: GroupId,
        /// The first entry it still has.
        first: LogIndex,
    },
    /// The entry is not there.
    #[error("entry does not exist, group={group} index={index}")]
    Missing {
        /// The group asked for.
        group: GroupId,
        /// The entry asked for.
        index: LogIndex,
    },
    /// The directory belongs to another cluster, node or incarnation.
    #[error("segment belongs to another owner, file={file}: {difference}")]
    Foreign {
        /// The file that says so.
        file: String,
        /// Whose it is.
        difference: String,
    },
    /// Written by a release that this one does not know.
    #[error("unknown wal format version={found}, file={file}: open it with a newer release")]
    UnknownVersion {
        /// The file that says so.
        file: String,
        /// The version it has.
        found: u32,
    },
    /// What is sealed cannot be opened, or what is to be written not sealed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The caller broke a rule.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// The rule.
        what: String,
    },
    /// Another process has the directory open.
    #[error("wal is already open in another process, file={file}")]
    AlreadyOpen {
        /// The lock file.
        file: String,
    },
    /// The writer was closed.
    #[error("wal is closed")]
    Closed,
}

impl WalError {
    /// What the caller should do. Exhaustive on purpose: a new variant has to choose.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Backpressure { .. } | Self::NoSpace | Self::AlreadyOpen { .. } => {
                Disposition::Retry
            }
            Self::Trimmed { .. }
            | Self::Missing { .. }
            | Self::Foreign { .. }
            | Self::UnknownVersion { .. }
            | Self::InvalidArgument { .. }
            | Self::Closed => Disposition::Reject,
            Self::Key(error) => error.disposition(),
            // After a failed sync the page cache no longer says what is on disk.
            Self::Poisoned { .. }
            | Self::Panicked { .. }
            | Self::SyncFailed { .. }
            | Self::Io { .. }
            | Self::Corrupt { .. } => Disposition::Halt,
        }
    }

    /// A full disk is one thing wherever it is met, and everything else is final.
    pub(crate) fn io(op: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let failed = Self::failed(op, file);
        move |source| if is_full(&source) { Self::NoSpace } else { failed(source) }
    }

    /// Whatever it is, it is final.
    pub(crate) fn failed(op: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { op, file, source: Arc::new(source) }
    }
}

/// True if it would work with more space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
