//! What can go wrong, as a service sees it: a closed set, and for each what to do about it.

use palisade_replication::{Disposition, NodeError, Offset};

use crate::resource::FenceEpoch;

/// A refusal or failure.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lease had ended. Acquire it again.
    #[error("the lease has expired, acquire it again")]
    LeaseExpired,
    /// The right to do this was taken away.
    #[error("the right was revoked")]
    Revoked,
    /// A newer writer has opened the resource. Stop writing, or open it with a higher epoch.
    #[error("a newer writer has opened the resource, current={current}")]
    Fenced {
        /// Its epoch.
        current: FenceEpoch,
    },
    /// The group could not be reached in time.
    #[error("the group was not reached in time, outcome_unknown={outcome_unknown}")]
    Disconnected {
        /// True if the request may have taken effect: retry it with the same request id.
        outcome_unknown: bool,
    },
    /// The node serves, but not this now.
    #[error("degraded: {what}")]
    Degraded {
        /// What is missing.
        what: String,
    },
    /// The two sides do not fit together.
    #[error("incompatible, expected={expected} found={found}")]
    Incompatible {
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Too much at once. Nothing happened; come back later.
    #[error("too much at once, try again, retry_after_ms={retry_after_ms}")]
    RateLimited {
        /// When to come back.
        retry_after_ms: u64,
    },
    /// The engine has stopped, for the cause given. Restart it, and look at the cause.
    #[error("the engine has stopped: {what}")]
    InternalError {
        /// The first cause.
        what: String,
    },
    /// The caller broke a rule.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// The rule.
        what: String,
    },
    /// It is not there.
    #[error("not found: {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// It is there already, or someone else has it.
    #[error("already exists: {what}")]
    AlreadyExists {
        /// What was to be made.
        what: String,
    },
    /// The request id was used before, for another request. Use a new one.
    #[error("the request id was used before for another request")]
    IdempotencyConflict,
    /// The resource may not be used from there. It is not tried anywhere else.
    #[error("resource={resource} may not be used from domain={domain}")]
    DomainUnavailable {
        /// From where it was tried.
        domain: String,
        /// The resource.
        resource: String,
    },
    /// This replica has not come that far. Wait, ask for less, or ask another.
    #[error("this replica has not come that far, required={required} applied={applied}")]
    NotYetApplied {
        /// What was asked for.
        required: Offset,
        /// How far it is.
        applied: Offset,
    },
    /// The state is not what the caller expected. Read it again and decide anew.
    #[error("precondition failed: {what}")]
    PreconditionFailed {
        /// What differs.
        what: String,
    },
}

impl Error {
    /// What the caller should do. Exhaustive on purpose: a new variant has to choose.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::RateLimited { .. }
            | Self::Degraded { .. }
            | Self::NotYetApplied { .. }
            | Self::Disconnected { outcome_unknown: false } => Disposition::Retry,
            Self::Disconnected { outcome_unknown: true } => Disposition::Indeterminate,
            Self::LeaseExpired
            | Self::Revoked
            | Self::Fenced { .. }
            | Self::Incompatible { .. }
            | Self::InvalidArgument { .. }
            | Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::IdempotencyConflict
            | Self::DomainUnavailable { .. }
            | Self::PreconditionFailed { .. } => Disposition::Reject,
            Self::InternalError { .. } => Disposition::Halt,
        }
    }

    /// The variant's name, for programs in other languages.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::LeaseExpired => "LeaseExpired",
            Self::Revoked => "Revoked",
            Self::Fenced { .. } => "Fenced",
            Self::Disconnected { .. } => "Disconnected",
            Self::Degraded { .. } => "Degraded",
            Self::Incompatible { .. } => "Incompatible",
            Self::RateLimited { .. } => "RateLimited",
            Self::InternalError { .. } => "InternalError",
            Self::InvalidArgument { .. } => "InvalidArgument",
            Self::NotFound { .. } => "NotFound",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::IdempotencyConflict => "IdempotencyConflict",
            Self::DomainUnavailable { .. } => "DomainUnavailable",
            Self::NotYetApplied { .. } => "NotYetApplied",
            Self::PreconditionFailed { .. } => "PreconditionFailed",
        }
    }
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Backpressure { retry_after_ms, .. } => Self::RateLimited { retry_after_ms },
            NodeError::Unavailable => Self::Disconnected { outcome_unknown: false },
            NodeError::Indeterminate => Self::Disconnected { outcome_unknown: true },
            NodeError::InvalidArgument { what } => Self::InvalidArgument { what },
            NodeError::UnknownGroup { .. } => Self::NotFound { what: error.to_string() },
            NodeError::Foreign { .. } | NodeError::OtherVoters { .. } => Self::Incompatible {
                expected: "this node's own data".to_owned(),
                found: error.to_string(),
            },
            NodeError::Wal(wal) if wal.disposition() == Disposition::Retry => {
                Self::AlreadyExists { what: wal.to_string() }
            }
            other => Self::InternalError { what: other.to_string() },
        }
    }
}
