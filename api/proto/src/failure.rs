//! What a failure looks like on the wire: a gRPC status, with `google.rpc.ErrorInfo` and, where there is a
//! time to wait, `google.rpc.RetryInfo`. Programs in any language can read both.
//!
//! ```text
//! ErrorInfo.domain     palisade
//! ErrorInfo.reason     one of the closed set of fifteen, as RATE_LIMITED
//! ErrorInfo.metadata   disposition   Retry, Indeterminate, Reject or Halt: what the caller may do
//!                      kind          finer than the reason, as VERSION_MISMATCH
//!                      help          what a person can do
//!                      others        the facts of the case, as expected, found, retry_after_ms
//! ```
//! A status without it is not Palisade's own: it comes from a proxy, or from the transport.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code as GrpcCode, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of every failure.
pub const DOMAIN: &str = "palisade";
/// Longest message, help or fact, in bytes: a status travels in headers, which are bounded.
pub const TEXT_BYTES_MAX: usize = 512;
/// Most facts of one failure.
pub const FACTS_MAX: usize = 8;

macro_rules! codes {
    ($($name:ident = $text:literal => $grpc:ident,)*) => {
        /// What kind of thing went wrong: a closed set, the same as the engine's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: [Self; 15] = [$(Self::$name,)*];

            /// As it is written on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Which gRPC status it travels as, if its kind does not say otherwise.
            const fn grpc(self) -> GrpcCode {
                match self { $(Self::$name => GrpcCode::$grpc,)* }
            }
        }
    };
}

codes! {
    LeaseExpired = "LEASE_EXPIRED" => FailedPrecondition,
    Revoked = "REVOKED" => FailedPrecondition,
    Fenced = "FENCED" => FailedPrecondition,
    Disconnected = "DISCONNECTED" => Unavailable,
    Degraded = "DEGRADED" => Unavailable,
    Incompatible = "INCOMPATIBLE" => FailedPrecondition,
    RateLimited = "RATE_LIMITED" => ResourceExhausted,
    InternalError = "INTERNAL_ERROR" => Internal,
    InvalidArgument = "INVALID_ARGUMENT" => InvalidArgument,
    NotFound = "NOT_FOUND" => NotFound,
    AlreadyExists = "ALREADY_EXISTS" => AlreadyExists,
    IdempotencyConflict = "IDEMPOTENCY_CONFLICT" => AlreadyExists,
    DomainUnavailable = "DOMAIN_UNAVAILABLE" => PermissionDenied,
    NotYetApplied = "NOT_YET_APPLIED" => Unavailable,
    PreconditionFailed = "PRECONDITION_FAILED" => Aborted,
}

impl Code {
    /// The code of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

/// Finer kinds that travel as another gRPC status than their code does.
pub mod kind {
    /// Nobody is known to have made the call.
    pub const NOT_AUTHENTICATED: &str = "NOT_AUTHENTICATED";
    /// Who made the call may not.
    pub const NOT_ALLOWED: &str = "NOT_ALLOWED";
    /// What was asked for is not kept any more.
    pub const TRIMMED: &str = "TRIMMED";
    /// What was asked for is not kept any more.
    pub const COMPACTED: &str = "COMPACTED";
    /// The time of the call is over.
    pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
}

/// What the caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Nothing happened: try again.
    Retry,
    /// It may have happened: try again with the same request id or number, or look it up.
    Indeterminate,
    /// It will not be done as it is.
    Reject,
    /// The node serves nothing more.
    Halt,
}

impl Disposition {
    const ALL: [Self; 4] = [Self::Retry, Self::Indeterminate, Self::Reject, Self::Halt];

    /// As it is written on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "Retry",
            Self::Indeterminate => "Indeterminate",
            Self::Reject => "Reject",
            Self::Halt => "Halt",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|disposition| disposition.as_str() == text)
    }
}

/// A failure, as both sides see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of the closed set.
    pub code: Code,
    /// Finer than the code; the code's own text if there is nothing finer.
    pub kind: String,
    /// What the caller may do.
    pub disposition: Disposition,
    /// One sentence: the cause.
    pub message: String,
    /// The next step.
    pub help: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// What the typed error says beside that, by name.
    pub facts: BTreeMap<String, String>,
}

/// What `tonic-types` takes.
#[expect(clippy::disallowed_types, reason = "never iterated: it is encoded, and read by name")]
type Metadata = std::collections::HashMap<String, String>;

/// The beginning of a text that is not longer than allowed, with nothing that a header could not hold.
fn bounded(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

impl Failure {
    /// A failure of this kind, without a time to wait and without facts.
    pub fn new(
        code: Code,
        kind: &str,
        disposition: Disposition,
        message: impl AsRef<str>,
        help: &str,
    ) -> Self {
        Self {
            code,
            kind: bounded(kind),
            disposition,
            message: bounded(message.as_ref()),
            help: bounded(help),
            retry_after: None,
            facts: BTreeMap::new(),
        }
    }

    /// With a fact; beyond [`FACTS_MAX`] it is left out.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl ToString) -> Self {
        if self.facts.len() < FACTS_MAX {
            self.facts.insert(name.to_owned(), bounded(&value.to_string()));
        }
        self
    }

    /// With a time to wait.
    #[must_use]
    pub fn after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    fn grpc(&self) -> GrpcCode {
        match self.kind.as_str() {
            kind::NOT_AUTHENTICATED => GrpcCode::Unauthenticated,
            kind::NOT_ALLOWED => GrpcCode::PermissionDenied,
            kind::TRIMMED | kind::COMPACTED => GrpcCode::OutOfRange,
            // "May be returned even if the operation has completed", as gRPC says of it.
            kind::OUTCOME_UNKNOWN => GrpcCode::DeadlineExceeded,
            _ => self.code.grpc(),
        }
    }
}

const KIND: &str = "kind";
const DISPOSITION: &str = "disposition";
const HELP: &str = "help";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let grpc = failure.grpc();
        let mut metadata = failure.facts;
        metadata.insert(KIND.to_owned(), failure.kind);
        metadata.insert(DISPOSITION.to_owned(), failure.disposition.as_str().to_owned());
        metadata.insert(HELP.to_owned(), failure.help);
        let mut details = ErrorDetails::with_error_info(
            failure.code.as_str(),
            DOMAIN,
            metadata.into_iter().collect::<Metadata>(),
        );
        if let Some(wait) = failure.retry_after {
            details.set_retry_info(Some(wait));
        }
        Self::with_error_details(grpc, failure.message, details)
    }
}

impl Failure {
    /// What a status says, if it is Palisade's own.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let details = status.check_error_details().ok()?;
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        let mut facts: BTreeMap<String, String> =
            info.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(Self {
            code: Code::parse(&info.reason)?,
            kind: facts.remove(KIND)?,
            disposition: Disposition::parse(&facts.remove(DISPOSITION)?)?,
            message: status.message().to_owned(),
            help: facts.remove(HELP)?,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            facts,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failures() -> impl Strategy<Value = Failure> {
        let facts = prop::collection::btree_map("[a-z_]{1,12}x", ".{0,40}", 0..FACTS_MAX);
        let of = (0..15_usize, "[A-Z_]{1,20}", 0..4_usize, ".{0,700}", ".{0,700}");
        (of, prop::option::of(0..100_000_u64), facts).prop_map(
            |((code, kind, disposition, message, help), wait, facts)| {
                let disposition = Disposition::ALL[disposition];
                let failure = Failure::new(Code::ALL[code], &kind, disposition, message, &help);
                let failure =
                    facts.iter().fold(failure, |failure, (name, value)| failure.fact(name, value));
                match wait {
                    Some(ms) => failure.after(Duration::from_millis(ms)),
                    None => failure,
                }
            },
        )
    }

    proptest! {
        /// What one side says is what the other reads, and it fits into headers.
        #[test]
        fn a_failure_survives_the_wire(failure in failures()) {
            prop_assert!(failure.message.len() <= TEXT_BYTES_MAX);
            let status = Status::from(failure.clone());
            prop_assert!(status.details().len() < 8 << 10);
            prop_assert_eq!(Failure::of(&status), Some(failure));
        }

        /// Whatever else comes as a status is not taken for one of Palisade's.
        #[test]
        fn other_details_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let status = Status::with_details(GrpcCode::Internal, "", bytes.into());
            prop_assert_eq!(Failure::of(&status), None);
        }
    }

    #[test]
    fn a_status_of_somebody_else_is_none_of_ours() {
        assert_eq!(Failure::of(&Status::unavailable("no route")), None);
        let info = ErrorDetails::with_error_info("FENCED", "example.com", []);
        let status = Status::with_error_details(GrpcCode::Internal, "", info);
        assert_eq!(Failure::of(&status), None);
    }

    /// Whoever knows gRPC only is told to try again exactly where nothing has happened.
    #[test]
    fn only_what_can_be_repeated_is_unavailable() {
        for code in Code::ALL {
            let retried = [Code::Disconnected, Code::Degraded, Code::NotYetApplied];
            assert_eq!(code.grpc() == GrpcCode::Unavailable, retried.contains(&code), "{code:?}");
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
        let unknown = Failure::new(
            Code::Disconnected,
            kind::OUTCOME_UNKNOWN,
            Disposition::Indeterminate,
            "",
            "",
        );
        assert_eq!(Status::from(unknown).code(), GrpcCode::DeadlineExceeded);
    }
}
