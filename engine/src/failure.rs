//! The names of all that can go wrong: a closed set of fifteen.
//!
//! An [`Error`] carries the facts of one case; its [`Failure`] is the kind of case, small enough to be
//! named in a rule, counted, and kept. Errors may become finer; the set of failures stays.

use std::fmt;

use palisade_replication::Disposition;

use crate::audit::AuditError;
use crate::codec::DecodeError;
use crate::error::Error;
use crate::inspect::InspectError;
use crate::projection::ProjectionFault;

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What kind of thing went wrong. Every [`Error`] is of one kind: see [`Error::failure`].
        ///
        /// The first eight can be the state of a resource, and rules of a
        /// [`DegradationContract`](crate::degradation::DegradationContract) name them. The other seven
        /// answer one call, and are the caller's own: see [`Failure::is_of_the_caller`].
        ///
        /// ```
        /// use palisade::{Error, Failure};
        ///
        /// let error = Error::Disconnected { outcome_unknown: false };
        /// assert_eq!(error.failure(), Failure::Disconnected);
        /// assert_eq!(error.failure().to_string(), "Disconnected");
        /// assert_eq!(Failure::ALL.len(), 15);
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Failure {
            $($(#[$doc])* $name,)*
        }

        impl Failure {
            /// All of them, those of the system first.
            pub const ALL: [Self; 15] = [$(Self::$name,)*];

            /// The name, as in [`Error::code`].
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

failures! {
    /// The holder's time is over.
    LeaseExpired,
    /// An authority took the right away.
    Revoked,
    /// A newer writer has opened the resource.
    Fenced,
    /// No quorum was reached in time.
    Disconnected,
    /// Served, but with less than there should be.
    Degraded,
    /// The two sides do not fit together.
    Incompatible,
    /// Too much at once, or no room.
    RateLimited,
    /// The replica has stopped, and may be damaged.
    InternalError,
    /// The request breaks a rule.
    InvalidArgument,
    /// It is not there.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The request id was used for another request.
    IdempotencyConflict,
    /// Not from there: placement is authorization (G9).
    DomainUnavailable,
    /// This replica has not come that far.
    NotYetApplied,
    /// The state is not what the caller expected.
    PreconditionFailed,
}

impl Failure {
    /// True for what answers one call and says nothing about the next: the caller asked for what cannot
    /// be, now or from there. Such a failure is never the state of a resource, and no rule names it.
    ///
    /// ```
    /// use palisade::Failure;
    ///
    /// assert!(Failure::DomainUnavailable.is_of_the_caller());
    /// assert!(!Failure::Disconnected.is_of_the_caller());
    /// ```
    #[must_use]
    pub const fn is_of_the_caller(self) -> bool {
        match self {
            Self::LeaseExpired
            | Self::Revoked
            | Self::Fenced
            | Self::Disconnected
            | Self::Degraded
            | Self::Incompatible
            | Self::RateLimited
            | Self::InternalError => false,
            Self::InvalidArgument
            | Self::NotFound
            | Self::AlreadyExists
            | Self::IdempotencyConflict
            | Self::DomainUnavailable
            | Self::NotYetApplied
            | Self::PreconditionFailed => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// What kind of failure it is. Exhaustive on purpose: a new variant has to choose.
    ///
    /// ```
    /// use palisade::{Error, Failure, LogicalResourceName};
    ///
    /// let error = LogicalResourceName::new("no blanks").unwrap_err();
    /// assert_eq!(error.failure(), Failure::InvalidArgument);
    /// assert!(matches!(error, Error::InvalidArgument { .. }));
    /// ```
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::LeaseExpired => Failure::LeaseExpired,
            Self::Revoked
            | Self::WindowExpired { .. }
            | Self::ClientEvicted { .. }
            | Self::ClientOfAnother { .. } => Failure::Revoked,
            Self::Fenced { .. } => Failure::Fenced,
            Self::Disconnected { .. } => Failure::Disconnected,
            Self::Degraded { .. } => Failure::Degraded,
            Self::Incompatible { .. } => Failure::Incompatible,
            Self::RateLimited { .. } => Failure::RateLimited,
            Self::InternalError { .. } => Failure::InternalError,
            Self::InvalidArgument { .. } => Failure::InvalidArgument,
            Self::NotFound { .. } | Self::Trimmed { .. } | Self::Compacted { .. } => {
                Failure::NotFound
            }
            Self::AlreadyExists { .. } => Failure::AlreadyExists,
            Self::IdempotencyConflict { .. } => Failure::IdempotencyConflict,
            Self::DomainUnavailable { .. } => Failure::DomainUnavailable,
            Self::NotYetApplied { .. } => Failure::NotYetApplied,
            Self::PreconditionFailed { .. }
            | Self::VersionMismatch { .. }
            | Self::TailMismatch { .. }
            | Self::GuardFailed { .. }
            | Self::InProgress { .. }
            | Self::Refused { .. } => Failure::PreconditionFailed,
        }
    }
}

impl Failure {
    /// What to do about one that is told by itself, without the facts of an [`Error`]: damage is no caller's.
    const fn alone(self) -> Disposition {
        match self {
            Self::InternalError => Disposition::Halt,
            _ => Disposition::Reject,
        }
    }
}

/// Errors of parts that have one of their own: of the same closed set.
macro_rules! of_the_set {
    ($($error:ty: $self:ident => $failure:expr,)*) => {
        $(
            impl $error {
                /// What kind of failure it is.
                #[must_use]
                pub fn failure(&$self) -> Failure {
                    $failure
                }

                /// What the caller should do.
                #[must_use]
                pub fn disposition(&self) -> Disposition {
                    self.failure().alone()
                }
            }
        )*
    };
}

of_the_set! {
    InspectError: self => match self {
        Self::NotThere { .. } => Failure::NotFound,
        Self::InUse { .. } => Failure::AlreadyExists,
        Self::Incompatible { .. } => Failure::Incompatible,
        Self::Damaged { .. } | Self::Unreadable { .. } => Failure::InternalError,
    },
    DecodeError: self => {
        let Self { what: _ } = self;
        Failure::Incompatible
    },
    ProjectionFault: self => match self.is_of_caller() {
        true => Failure::InvalidArgument,
        false => Failure::InternalError,
    },
    AuditError: self => match self {
        Self::Malformed { .. } | Self::OtherAnchor { .. } | Self::Gap { .. } => {
            Failure::InvalidArgument
        }
        Self::Differs { .. } => Failure::Incompatible,
    },
}

#[cfg(test)]
mod tests {
    use palisade_replication::Offset;

    use super::*;
    use crate::degradation::page;
    use crate::resource::FenceEpoch;
    use palisade_replication::{ChangeRefusal, CredentialsError, KeyEpoch, KeyError, SubjectError};

    /// One of each, in the order of the set.
    fn errors() -> [Error; 15] {
        let what = || "it".to_owned();
        [
            Error::LeaseExpired,
            Error::Revoked,
            Error::Fenced { current: FenceEpoch::new(1) },
            Error::Disconnected { outcome_unknown: true },
            Error::Degraded { what: what() },
            Error::Incompatible { expected: what(), found: what() },
            Error::RateLimited { retry_after_ms: 1 },
            Error::InternalError { what: what() },
            Error::InvalidArgument { what: what() },
            Error::NotFound { what: what() },
            Error::AlreadyExists { what: what() },
            Error::IdempotencyConflict { op: None },
            Error::DomainUnavailable { domain: what(), resource: what() },
            Error::NotYetApplied { required: Offset::ZERO, applied: Offset::ZERO },
            Error::PreconditionFailed { what: what() },
        ]
    }

    #[test]
    fn every_error_is_of_one_kind_and_bears_its_name() {
        assert_eq!(errors().map(|error| error.failure()), Failure::ALL);
        for error in errors() {
            assert_eq!(error.failure().as_str(), error.code());
        }
    }

    /// No public error is without a kind, and damage is told apart from what a caller may do better.
    #[test]
    fn errors_of_the_parts_are_of_the_set() {
        let what = || "it".to_owned();
        let fault = || ProjectionFault::new("it");
        let told = [
            (InspectError::NotThere { what: what() }.failure(), Failure::NotFound),
            (InspectError::InUse { what: what() }.failure(), Failure::AlreadyExists),
            (InspectError::Incompatible { what: what() }.failure(), Failure::Incompatible),
            (InspectError::Damaged { what: what() }.failure(), Failure::InternalError),
            (InspectError::Unreadable { what: what() }.failure(), Failure::InternalError),
            (DecodeError { what: "it" }.failure(), Failure::Incompatible),
            (fault().failure(), Failure::InternalError),
            (fault().of_caller().failure(), Failure::InvalidArgument),
            (AuditError::Malformed { what: "it" }.failure(), Failure::InvalidArgument),
            (AuditError::OtherAnchor { expected: 1, found: 2 }.failure(), Failure::InvalidArgument),
            (AuditError::Gap { expected: 1, found: 2 }.failure(), Failure::InvalidArgument),
            (AuditError::Differs { offset: 1 }.failure(), Failure::Incompatible),
        ];
        told.into_iter().for_each(|(found, wanted)| assert_eq!(found, wanted));
        // Those of the crates below become one of ours.
        let kind = |error: Error| (error.failure(), error.disposition());
        let epoch = KeyEpoch::new(1).unwrap();
        for (found, wanted) in [
            (
                KeyError::Missing { file: what(), epoch }.into(),
                (Failure::Incompatible, Disposition::Reject),
            ),
            (KeyError::NoRandomness.into(), (Failure::InternalError, Disposition::Halt)),
            (
                ChangeRefusal::NotLeader { leader: None }.into(),
                (Failure::PreconditionFailed, Disposition::Reject),
            ),
            (SubjectError::Role.into(), (Failure::InvalidArgument, Disposition::Reject)),
            (
                CredentialsError::from(SubjectError::Role).into(),
                (Failure::InvalidArgument, Disposition::Reject),
            ),
        ] {
            assert_eq!(kind(found), wanted);
        }
        assert_eq!(InspectError::Damaged { what: what() }.disposition(), Disposition::Halt);
        assert_eq!(AuditError::Differs { offset: 1 }.disposition(), Disposition::Reject);
        assert_eq!(fault().disposition(), Disposition::Halt);
        assert_eq!(fault().of_caller().disposition(), Disposition::Reject);
    }

    /// What the page says of each is what the code says, and in the order of the code.
    #[test]
    fn the_page_lists_them_all() {
        let listed = page::table("| failure | whose | what it is |");
        let whose = |failure: Failure| if failure.is_of_the_caller() { "caller" } else { "system" };
        let known = Failure::ALL.map(|failure| [failure.to_string(), whose(failure).to_owned()]);
        let listed: Vec<_> =
            listed.into_iter().map(|row| [row[0].clone(), row[1].clone()]).collect();
        assert_eq!(listed, known);
    }
}
