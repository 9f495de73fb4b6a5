//! What can go wrong, as a caller sees it.

use std::fmt;

use palisade_proto::failure::{Code, Disposition, Failure, kind};
use tonic::{Code as GrpcCode, Status};

/// A refusal or failure: what the node says, or what became of the way to it in the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Failure>);

impl Error {
    /// All that is known of it.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.0
    }

    /// Which of the closed set it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the caller may do.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        self.0.disposition
    }

    /// Finer than the code.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.0.kind == kind
    }

    /// The caller broke a rule, which is found out before anything is sent.
    pub(crate) fn invalid(what: impl AsRef<str>) -> Self {
        let code = Code::InvalidArgument;
        let help = "change the request; it will never be accepted as it is";
        Self(Box::new(Failure::new(code, code.as_str(), Disposition::Reject, what, help)))
    }

    /// An answer that is not what was asked for.
    pub(crate) fn unexpected(what: &str) -> Self {
        let code = Code::Incompatible;
        let help = "have client and nodes of releases that fit together";
        Self(Box::new(Failure::new(code, code.as_str(), Disposition::Reject, what, help)))
    }

    pub(crate) fn unreached(what: &str, writes: bool) -> Self {
        let (kind, disposition, help) = if writes {
            let help = "it may have taken effect: repeat it as the same command, or look it up";
            (kind::OUTCOME_UNKNOWN, Disposition::Indeterminate, help)
        } else {
            let help = "nothing happened; try again, and check that a majority of the nodes is up";
            (Code::Disconnected.as_str(), Disposition::Retry, help)
        };
        Self(Box::new(Failure::new(Code::Disconnected, kind, disposition, what, help)))
    }

    /// What a status says. One that is not a node's own comes from the way to it: of a write nobody knows then
    /// what became of it.
    pub(crate) fn of(status: &Status, writes: bool) -> Self {
        if let Some(failure) = Failure::of(status) {
            return Self(Box::new(failure));
        }
        let what = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            GrpcCode::InvalidArgument | GrpcCode::OutOfRange | GrpcCode::Unimplemented => {
                Self::unexpected(&what)
            }
            GrpcCode::Unauthenticated | GrpcCode::PermissionDenied => {
                let help = "call with a certificate or token that is known and may do this";
                let failure =
                    Failure::new(Code::Revoked, kind::NOT_ALLOWED, Disposition::Reject, what, help);
                Self(Box::new(failure))
            }
            _ => Self::unreached(&what, writes),
        }
    }

    /// The same, and what came of the last attempt.
    pub(crate) fn and_then(mut self, last: &Self) -> Self {
        self.0.facts.insert("last_attempt".to_owned(), last.to_string());
        self
    }

    /// Nobody has answered in time.
    pub(crate) fn timed_out(writes: bool) -> Self {
        Self::unreached("nobody has answered in time", writes)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the network says of a write, it may have happened.
    #[test]
    fn what_breaks_on_the_way_is_unknown_for_writes_only() {
        for code in
            [GrpcCode::Unavailable, GrpcCode::Cancelled, GrpcCode::Unknown, GrpcCode::Internal]
        {
            let status = Status::new(code, "broken");
            assert_eq!(Error::of(&status, true).disposition(), Disposition::Indeterminate);
            assert_eq!(Error::of(&status, false).disposition(), Disposition::Retry);
        }
        let denied = Error::of(&Status::permission_denied("no"), true);
        assert_eq!((denied.code(), denied.disposition()), (Code::Revoked, Disposition::Reject));
    }

    #[test]
    fn what_a_node_says_is_kept() {
        let failure = Failure::new(Code::Fenced, "FENCED", Disposition::Reject, "what", "help")
            .fact("current_epoch", 7);
        let status = Status::from(failure.clone());
        assert_eq!(Error::of(&status, true).failure(), &failure);
    }
}
