//! What can go wrong, as a service sees it: a closed set, and for each what to do about it.

use bytes::Bytes;
use palisade_replication::{
    ChangeRefusal, CredentialsError, Disposition, KeyError, LogTime, NodeError, Offset,
    SubjectError,
};
use palisade_wal::WalError;

use crate::projections::log::LogPosition;
use crate::projections::map::Version;
use crate::resource::FenceEpoch;

/// When to come back if the disk has no room.
const DISK_RETRY_AFTER_MS: u64 = 1000;

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
    /// The request id, or the number of the command, was used before for something else. Use a new one.
    #[error("the request id or command number was used before for something else")]
    IdempotencyConflict {
        /// Which operation of its batch names the request, from 0; nothing for the number of a command.
        op: Option<usize>,
    },
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
    /// The key of a map is not at the version that the caller expected.
    #[error("the key is at another version, expected={expected} found={found} op={op}")]
    VersionMismatch {
        /// Which operation of its batch, from 0.
        op: usize,
        /// What the caller expected.
        expected: Version,
        /// What it is at.
        found: Version,
    },
    /// Entries of the log that were asked for have been removed. Go on at `first`, or stop.
    #[error("entries of the log were removed, first={first}")]
    Trimmed {
        /// After the last that was removed: everything from here on is there.
        first: LogPosition,
    },
    /// The tail of a log is not where the caller expected it.
    #[error("the tail is elsewhere, expected={expected} found={found} op={op}")]
    TailMismatch {
        /// Which operation of its batch, from 0.
        op: usize,
        /// Where the caller expected it.
        expected: LogPosition,
        /// Where it is.
        found: LogPosition,
    },
    /// The map is not known any more as it was then: read it as it is, and go on from there.
    #[error("what was before is not kept any more, floor={floor}")]
    Compacted {
        /// From which offset on it is known.
        floor: Offset,
    },
    /// A demand of a batch does not hold, and it says nothing to be done otherwise.
    #[error("guard number {guard} of the batch does not hold")]
    GuardFailed {
        /// Which, from 0.
        guard: usize,
    },
    /// A request of that time is not known any more: whether it took effect cannot be told. Look for what it
    /// was to do, or make a new request.
    #[error("requests of that time are forgotten, floor={floor}")]
    WindowExpired {
        /// Requests that were reserved up to this log time may be forgotten.
        floor: LogTime,
    },
    /// The client is not known any more, and with it what it has done. This attempt had no effect, but **an
    /// earlier one of the same command may have had**: look for what it was to do, register anew.
    #[error("the client is not known any more, client={client}")]
    ClientEvicted {
        /// The record that registered it.
        client: Offset,
    },
    /// The client was registered by somebody else, and numbers nothing for who asks.
    #[error("the client was registered by somebody else, client={client}")]
    ClientOfAnother {
        /// The record that registered it.
        client: Offset,
    },
    /// The request is reserved by an owner of a higher epoch.
    #[error("the request is in progress, owner_epoch={owner} age_ms={age_ms} op={op}")]
    InProgress {
        /// Which operation of its batch, from 0.
        op: usize,
        /// The epoch of its owner; a higher one may take over.
        owner: FenceEpoch,
        /// How long ago it was reserved, by log time.
        age_ms: u64,
    },
    /// The resource's own projection refuses the operation: [`crate::Handle::refusal`] reads why.
    #[error("projection={projection} refuses operation {op}")]
    Refused {
        /// The kind of the resource.
        projection: &'static str,
        /// Which operation of its batch, from 0.
        op: usize,
        /// The refusal, as the projection writes it.
        detail: Bytes,
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
            Self::Disconnected { outcome_unknown: true } | Self::ClientEvicted { .. } => {
                Disposition::Indeterminate
            }
            Self::LeaseExpired
            | Self::Revoked
            | Self::WindowExpired { .. }
            | Self::ClientOfAnother { .. }
            | Self::Fenced { .. }
            | Self::Incompatible { .. }
            | Self::InvalidArgument { .. }
            | Self::NotFound { .. }
            | Self::Compacted { .. }
            | Self::AlreadyExists { .. }
            | Self::IdempotencyConflict { .. }
            | Self::DomainUnavailable { .. }
            | Self::PreconditionFailed { .. }
            | Self::VersionMismatch { .. }
            | Self::Trimmed { .. }
            | Self::TailMismatch { .. }
            | Self::GuardFailed { .. }
            | Self::InProgress { .. }
            | Self::Refused { .. } => Disposition::Reject,
            Self::InternalError { .. } => Disposition::Halt,
        }
    }

    /// What a person can do about it.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let refused = stock.put_with_ttl_ms(&"apples".to_owned(), &7, 0).await.unwrap_err();
    /// eprintln!("{refused}\n{}", refused.help());
    /// assert_eq!(refused.disposition(), Disposition::Reject);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::LeaseExpired => {
                "acquire the lease again; what it guarded is not yours until then"
            }
            Self::Revoked => "stop, and ask whoever revoked it",
            Self::WindowExpired { .. } => {
                "it may have taken effect long ago: look for what it was to do before making a new request"
            }
            Self::ClientEvicted { .. } => {
                "an earlier attempt may have taken effect: look for what it was to do, and register anew \
                 for what comes next; ask for a longer ttl if this was a pause"
            }
            Self::ClientOfAnother { .. } => "register a client, and number commands with that one",
            Self::Fenced { .. } => {
                "stop writing: another writer took over; to take over in turn, open the resource \
                 with a higher epoch"
            }
            Self::Disconnected { outcome_unknown: false } => {
                "nothing happened; try again, and check that a majority of the nodes is up"
            }
            Self::Disconnected { outcome_unknown: true } => {
                "it may have taken effect; repeat it with the same request id or command number, or look it up"
            }
            Self::Degraded { .. } => "try again, or ask another node",
            Self::Incompatible { .. } => {
                "open it as what it is, or use another name or another directory"
            }
            Self::RateLimited { .. } => "nothing happened; wait as long as it says and try again",
            Self::InternalError { .. } => {
                "this node serves nothing more; read the cause, then restart or replace it"
            }
            Self::InvalidArgument { .. } => {
                "change the request; it will never be accepted as it is"
            }
            Self::NotFound { .. } => "check the name and the group",
            Self::Trimmed { .. } => {
                "go on at the first position that is there, if you can do without what is gone; to keep \
                 entries for longer, change the log's retention"
            }
            Self::Compacted { .. } => {
                "read it as it is, and watch or read on from the offset of that; or keep more"
            }
            Self::AlreadyExists { .. } => "use the one that is there, or choose another name",
            Self::IdempotencyConflict { .. } => {
                "use a new id or number for a new request; repeat an old one unchanged"
            }
            Self::DomainUnavailable { .. } => {
                "call from a domain that the placement names; nothing is tried elsewhere"
            }
            Self::NotYetApplied { .. } => {
                "wait for the offset, ask another replica, or read with less freshness"
            }
            Self::PreconditionFailed { .. }
            | Self::VersionMismatch { .. }
            | Self::TailMismatch { .. }
            | Self::GuardFailed { .. } => "read the state again and decide anew",
            Self::InProgress { .. } => {
                "let its owner finish, or take the request over with a higher epoch"
            }
            Self::Refused { .. } => "read the refusal with the handle of the resource",
        }
    }

    /// Which of the closed set it is, for programs in other languages. Variants that tell more of a
    /// failed precondition are one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.failure().as_str()
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
            NodeError::Foreign { .. } => Self::Incompatible {
                expected: "this node's own data".to_owned(),
                found: error.to_string(),
            },
            NodeError::Newer { .. } => Self::Incompatible {
                expected: "what this release can read".to_owned(),
                found: error.to_string(),
            },
            NodeError::Wal(wal) => match &*wal {
                WalError::AlreadyOpen { .. } => Self::AlreadyExists { what: wal.to_string() },
                WalError::Backpressure { .. } | WalError::NoSpace => {
                    Self::RateLimited { retry_after_ms: DISK_RETRY_AFTER_MS }
                }
                WalError::Key(error) => error.clone().into(),
                WalError::Foreign { .. } | WalError::UnknownVersion { .. } => Self::Incompatible {
                    expected: "this node's own data, of a version this release knows".to_owned(),
                    found: wal.to_string(),
                },
                _ => Self::InternalError { what: wal.to_string() },
            },
            NodeError::RecordsTrimmed { .. } => Self::NotFound { what: error.to_string() },
            NodeError::Rebuild(_) => Self::PreconditionFailed { what: error.to_string() },
            NodeError::Change(refusal) => refusal.into(),
            other => Self::InternalError { what: other.to_string() },
        }
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        match error.disposition() {
            // A ring that does not fit what is there.
            Disposition::Reject => Self::Incompatible {
                expected: "a key ring that opens what is stored".to_owned(),
                found: error.to_string(),
            },
            _ => Self::InternalError { what: error.to_string() },
        }
    }
}

impl From<ChangeRefusal> for Error {
    fn from(refusal: ChangeRefusal) -> Self {
        Self::PreconditionFailed { what: refusal.to_string() }
    }
}

impl From<CredentialsError> for Error {
    fn from(error: CredentialsError) -> Self {
        Self::InvalidArgument { what: error.to_string() }
    }
}

impl From<SubjectError> for Error {
    fn from(error: SubjectError) -> Self {
        Self::InvalidArgument { what: error.to_string() }
    }
}
