//! What can go wrong, one variant for each thing a caller could handle differently.

use std::sync::Arc;

use palisade_wal::{Disposition, KeyError, WalError};

use crate::identity::{ClusterId, NodeId, Offset};
use crate::membership::ChangeRefusal;
use crate::state_machine::ApplyError;

/// Why a node refused, or stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A queue is full. Nothing happened.
    #[error("{queue} is full, try again, retry_after_ms={retry_after_ms}")]
    Backpressure {
        /// Which bound was reached.
        queue: &'static str,
        /// When to come back.
        retry_after_ms: u64,
    },
    /// The group has no leader this node can reach, and the request never left. Nothing happened.
    #[error("no leader is reachable, try again")]
    Unavailable,
    /// The request left, and its fate is not known here.
    #[error("the outcome is unknown, retry with the same request id")]
    Indeterminate,
    /// The caller is wrong.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// The rule that was broken.
        what: String,
    },
    /// The group does not live on this node.
    #[error("group is not hosted here, group={group}")]
    UnknownGroup {
        /// The group asked for.
        group: u64,
    },
    /// The data directory belongs to someone else.
    #[error("the data directory belongs to cluster={cluster} node={node}, open it as that one")]
    Foreign {
        /// Whose it is.
        cluster: ClusterId,
        /// Whose it is.
        node: NodeId,
    },
    /// The data directory is a copy of before, and has forgotten what this node promised since. Whoever knows
    /// that counts on the promises: nothing goes on from it.
    #[error(
        "the data directory was put back from a copy: node={by} remembers it at age={remembered}, which it has not \
         been; replace this node by one with an empty directory"
    )]
    PutBack {
        /// Who remembers.
        by: NodeId,
        /// What it remembers: how often the directory had been started, and minutes beside that.
        remembered: u64,
    },
    /// The log begins later than that.
    #[error("records before offset={first} are trimmed")]
    RecordsTrimmed {
        /// The first record that is left, or will be.
        first: Offset,
    },
    /// The membership was not changed.
    #[error("the membership was not changed: {0}")]
    Change(#[from] ChangeRefusal),
    /// What is stored cannot be trusted or does not fit together.
    #[error("{what}")]
    Damaged {
        /// What was found, and where.
        what: String,
    },
    /// A newer release has written it, and this one does not know it.
    #[error("{what} is of a newer release: open it with that")]
    Newer {
        /// What it is, with its version.
        what: String,
    },
    /// The write-ahead log failed or refused.
    #[error("write-ahead log: {0}")]
    Wal(#[source] Arc<WalError>),
    /// The state machine cannot go on.
    #[error("{0}")]
    Apply(#[source] Arc<ApplyError>),
    /// A file or socket of the node failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// An invariant does not hold: a bug, here or below. The node stopped before it did harm.
    #[error("an invariant failed: {what}")]
    Invariant {
        /// The failed assertion.
        what: String,
    },
    /// The node stopped for the cause given, and takes nothing more.
    #[error("the node has halted: {cause}")]
    Halted {
        /// What stopped it, first.
        #[source]
        cause: Arc<NodeError>,
    },
    /// This replica of the group stopped for the cause given: it serves nothing, and counts for nothing.
    /// The node's other groups go on, and so does this one elsewhere.
    #[error("group={group} has halted on this node: {cause}")]
    GroupHalted {
        /// Which group.
        group: u64,
        /// What stopped it, first.
        #[source]
        cause: Arc<NodeError>,
    },
    /// The state of the group is not made anew.
    #[error("the state is not made anew: {0}")]
    Rebuild(RebuildRefusal),
    /// The state of the group is being made anew: the group serves again when it is as far as it was.
    #[error("the state is being made anew from a snapshot")]
    Rebuilding,
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

impl NodeError {
    /// What the caller should do.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Backpressure { .. } | Self::Unavailable | Self::Rebuilding | Self::Closed => {
                Disposition::Retry
            }
            Self::Indeterminate => Disposition::Indeterminate,
            Self::InvalidArgument { .. }
            | Self::UnknownGroup { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::RecordsTrimmed { .. }
            | Self::Rebuild(_) => Disposition::Reject,
            Self::Change(refusal) => refusal.disposition(),
            Self::Wal(error) => error.disposition(),
            Self::Damaged { .. }
            | Self::PutBack { .. }
            | Self::Apply(_)
            | Self::Io { .. }
            | Self::Invariant { .. }
            | Self::Halted { .. }
            | Self::GroupHalted { .. } => Disposition::Halt,
        }
    }
}

/// Why a replica's state is not made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildRefusal {
    /// The replica has not halted.
    #[error("the replica has not halted, and its state is as good as any")]
    Running,
    /// Nobody else has the state.
    #[error("this is the only voter, and nobody else has the state: restore it from a backup")]
    OnlyVoter,
    /// Its log was being repaired when it halted.
    #[error("its log was being repaired when it halted: start the node again, and ask then")]
    Repairing,
    /// Its log is beyond repair, and what it promised may be lost with it.
    #[error(
        "its log is beyond repair, and what it promised may be lost with it: replace this replica"
    )]
    LogLost,
}

impl From<WalError> for NodeError {
    fn from(error: WalError) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<WalError>> for NodeError {
    fn from(error: Arc<WalError>) -> Self {
        match &*error {
            WalError::Panicked { what } => Self::Invariant { what: what.clone() },
            WalError::Poisoned { cause } if matches!(**cause, WalError::Panicked { .. }) => {
                Arc::clone(cause).into()
            }
            _ => Self::Wal(error),
        }
    }
}

impl From<KeyError> for NodeError {
    fn from(error: KeyError) -> Self {
        WalError::Key(error).into()
    }
}

impl From<ApplyError> for NodeError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(Arc::new(error))
    }
}
