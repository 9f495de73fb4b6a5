//! How a command fails: a code, one sentence, the next step, and the exit code of its class.

use palisade::{Error, Failure};
use serde_json::{Value, json};

use palisade::inspect::InspectError;

use super::printable::printable;
use crate::config::ConfigError;

/// Exit codes, by the class of what happened. Stable: scripts decide by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// What was asked for was done, or holds.
    Ok = 0,
    /// Something that nobody foresaw.
    Unexpected = 1,
    /// The command line, the environment or the configuration is wrong.
    Usage = 2,
    /// It is not there.
    NotFound = 3,
    /// It is there already, in use, fenced, or not as it was expected.
    Conflict = 4,
    /// Not now: no quorum, too much at once, or too late.
    Unavailable = 5,
    /// Stored bytes are not what was written.
    Damaged = 6,
    /// The caller may not do this.
    NotAllowed = 7,
    /// It may have been done: nobody knows.
    OutcomeUnknown = 8,
}

/// A call that may have taken effect, and whose answer did not come.
pub(super) const OUTCOME_UNKNOWN: &str = "OutcomeUnknown";

/// Codes of the command's own failures, beside those of the engine; each with its exit class.
pub(super) const OWN_CODES: &[(&str, Exit)] = &[
    ("Usage", Exit::Usage),
    ("UnreadableFile", Exit::Usage),
    ("InvalidSyntax", Exit::Usage),
    ("UnknownKey", Exit::Usage),
    ("InvalidValue", Exit::Usage),
    ("MissingKey", Exit::Usage),
    ("UnfitKeys", Exit::Usage),
    ("Sealed", Exit::Usage),
    ("UnknownCode", Exit::NotFound),
    ("Unconfirmed", Exit::Usage),
    ("InUse", Exit::Conflict),
    ("Damaged", Exit::Damaged),
    ("NotCompared", Exit::Unavailable),
    ("Unfit", Exit::Unavailable),
    ("Unready", Exit::Unavailable),
    ("Interrupted", Exit::Unavailable),
    ("NotAuthenticated", Exit::NotAllowed),
    ("NotAllowed", Exit::NotAllowed),
    (OUTCOME_UNKNOWN, Exit::OutcomeUnknown),
    ("InputOutput", Exit::Unexpected),
    ("DemoFailed", Exit::Unexpected),
];

/// Why a command did not do what it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    code: &'static str,
    exit: Exit,
    what: String,
    help: String,
    /// What else is wrong, found in the same look.
    also: Vec<Failed>,
}

impl Failed {
    /// A failure of the command itself.
    ///
    /// # Panics
    /// When the code is none of [`OWN_CODES`].
    #[must_use]
    pub(super) fn new(
        code: &'static str,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let known = OWN_CODES.iter().find(|(known, _)| *known == code);
        let (code, exit) = *known.expect("a code of the command is in its table");
        Self { code, exit, what: what.into(), help: help.into(), also: Vec::new() }
    }

    /// A failure of the closed set, under its own code or a finer one.
    #[must_use]
    pub(super) fn of_set(code: &'static str, set: Failure, what: String, help: String) -> Self {
        Self { code, exit: exit_of(set), what, help, also: Vec::new() }
    }

    /// One of the closed set, that somebody else tells of.
    #[must_use]
    pub(super) fn of(failure: Failure, what: String, help: impl Into<String>) -> Self {
        let (code, exit) = (failure.as_str(), exit_of(failure));
        Self { code, exit, what, help: help.into(), also: Vec::new() }
    }

    /// The same with another next step.
    #[must_use]
    pub(super) fn helping(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// The same, as it was told there.
    #[must_use]
    pub(super) fn at(mut self, place: &str) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// All of them as one, whose class is that of the first. `None` if there are none.
    pub(super) fn all(failed: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut failed = failed.into_iter();
        let mut first = failed.next()?;
        first.also.extend(failed);
        Some(first)
    }

    /// Its exit code.
    #[must_use]
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    pub(super) fn lines(&self, red: &str, plain: &str) -> String {
        // Part of it may be what others said.
        let (what, help) = (printable(&self.what), printable(&self.help));
        let mut text = format!("{red}error[{}]{plain}: {what}\n  help: {help}\n", self.code);
        for other in &self.also {
            text.push_str(&other.lines(red, plain));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let also: Vec<Value> = self.also.iter().map(Self::json).collect();
        let mut error = json!({
            "code": self.code,
            "what": self.what,
            "help": self.help,
            "exit_code": self.exit as u8,
        });
        if !also.is_empty() {
            error["also"] = json!(also);
        }
        error
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let help = error.help().to_owned();
        Self::of_set(error.kind(), error.failure(), error.to_string(), help)
    }
}

/// The class of each failure of the closed set.
#[must_use]
pub(super) const fn exit_of(failure: Failure) -> Exit {
    match failure {
        Failure::InvalidArgument => Exit::Usage,
        Failure::NotFound => Exit::NotFound,
        Failure::Fenced
        | Failure::Incompatible
        | Failure::AlreadyExists
        | Failure::IdempotencyConflict
        | Failure::PreconditionFailed => Exit::Conflict,
        Failure::Disconnected
        | Failure::Degraded
        | Failure::RateLimited
        | Failure::NotYetApplied => Exit::Unavailable,
        Failure::DomainUnavailable | Failure::LeaseExpired | Failure::Revoked => Exit::NotAllowed,
        Failure::InternalError => Exit::Unexpected,
    }
}

impl From<InspectError> for Failed {
    fn from(error: InspectError) -> Self {
        let what = error.to_string();
        match error {
            InspectError::NotThere { .. } => Self::from(Error::NotFound { what })
                .helping("name the data directory of a node: the one that has a file `node` in it"),
            InspectError::InUse { .. } => {
                let help = "stop the node first; a running node checks itself all the time";
                Self::new("InUse", what, help)
            }
            InspectError::Incompatible { .. } => Self::from(Error::Incompatible {
                expected: "files of this node and of a release up to this one".to_owned(),
                found: what,
            }),
            InspectError::Damaged { .. } => {
                let help = "restore a backup, or replace this node: the others have the data";
                Self::new("Damaged", what, help)
            }
            _ => Self::new("InputOutput", what, "check the rights to read that place"),
        }
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::new(error.code(), error.to_string(), error.help())
    }
}

impl From<Vec<ConfigError>> for Failed {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self::all(errors.into_iter().map(Self::from)).expect("a refusal has a reason")
    }
}
