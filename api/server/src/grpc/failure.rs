//! Errors of the engine as they travel.

use std::time::Duration;

use palisade::Error;
use palisade_proto::failure::{Code, Disposition, Failure, kind};
use tonic::Status;

/// How often a replica that is behind is worth asking again.
const BEHIND_RETRY: Duration = Duration::from_millis(20);

/// The code that the engine names in its own way.
pub(crate) fn code_of(failure: palisade::Failure) -> Code {
    use palisade::Failure as Of;
    match failure {
        Of::LeaseExpired => Code::LeaseExpired,
        Of::Revoked => Code::Revoked,
        Of::Fenced => Code::Fenced,
        Of::Disconnected => Code::Disconnected,
        Of::Degraded => Code::Degraded,
        Of::Incompatible => Code::Incompatible,
        Of::RateLimited => Code::RateLimited,
        Of::InternalError => Code::InternalError,
        Of::InvalidArgument => Code::InvalidArgument,
        Of::NotFound => Code::NotFound,
        Of::AlreadyExists => Code::AlreadyExists,
        Of::IdempotencyConflict => Code::IdempotencyConflict,
        Of::DomainUnavailable => Code::DomainUnavailable,
        Of::NotYetApplied => Code::NotYetApplied,
        Of::PreconditionFailed => Code::PreconditionFailed,
    }
}

pub(crate) fn disposition_of(disposition: palisade::Disposition) -> Disposition {
    match disposition {
        palisade::Disposition::Retry => Disposition::Retry,
        palisade::Disposition::Indeterminate => Disposition::Indeterminate,
        palisade::Disposition::Reject => Disposition::Reject,
        palisade::Disposition::Halt => Disposition::Halt,
    }
}

/// A name of the engine's as it is written on the wire: `VersionMismatch` is `VERSION_MISMATCH` there.
fn on_the_wire(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

/// What the error is where its code does not say all of it.
fn kind_of(error: &Error) -> String {
    match error {
        Error::Disconnected { outcome_unknown: true } => kind::OUTCOME_UNKNOWN.to_owned(),
        error => on_the_wire(error.kind()),
    }
}

/// The failure that tells of an error.
pub(crate) fn failure(error: &Error) -> Failure {
    let (code, kind) = (code_of(error.failure()), kind_of(error));
    let disposition = disposition_of(error.disposition());
    let told = Failure::new(code, &kind, disposition, error.to_string(), error.help());
    match error {
        Error::Fenced { current } => told.fact("current_epoch", current),
        Error::Incompatible { expected, found } => {
            told.fact("expected", expected).fact("found", found)
        }
        Error::RateLimited { retry_after_ms } => told.after(Duration::from_millis(*retry_after_ms)),
        Error::DomainUnavailable { domain, resource } => {
            told.fact("domain", domain).fact("resource", resource)
        }
        Error::NotYetApplied { required, applied } => {
            told.after(BEHIND_RETRY).fact("required", required).fact("applied", applied)
        }
        Error::VersionMismatch { expected, found, .. } => {
            told.fact("expected", expected.offset()).fact("found", found.offset())
        }
        Error::TailMismatch { expected, found, .. } => {
            told.fact("expected", expected).fact("found", found)
        }
        Error::Trimmed { first } => told.fact("first", first),
        Error::Compacted { floor } => told.fact("floor", floor),
        Error::GuardFailed { guard } => told.fact("guard", guard),
        Error::WindowExpired { floor } => told.fact("floor_ms", floor.get()),
        Error::ClientEvicted { client } | Error::ClientOfAnother { client } => {
            told.fact("client", client)
        }
        Error::InProgress { owner, age_ms, .. } => {
            told.fact("owner_epoch", owner).fact("age_ms", age_ms)
        }
        Error::Refused { projection, op, .. } => told.fact("projection", projection).fact("op", op),
        _ => told,
    }
}

/// The status that tells of an error.
pub(crate) fn status(error: Error) -> Status {
    failure(&error).into()
}

/// A request that breaks a rule of its message.
pub(crate) fn invalid(what: impl Into<String>) -> Error {
    Error::InvalidArgument { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_the_error_says() {
        let fenced = failure(&Error::Fenced { current: palisade::FenceEpoch::new(7) });
        assert_eq!((fenced.code, fenced.kind.as_str()), (Code::Fenced, "FENCED"));
        assert_eq!(fenced.facts["current_epoch"], "7");
        let limited = failure(&Error::RateLimited { retry_after_ms: 250 });
        assert_eq!(limited.retry_after, Some(Duration::from_millis(250)));
        let unknown = failure(&Error::Disconnected { outcome_unknown: true });
        assert_eq!(unknown.disposition, Disposition::Indeterminate);
        let nothing = failure(&Error::Disconnected { outcome_unknown: false });
        assert_eq!(
            (nothing.disposition, nothing.kind.as_str()),
            (Disposition::Retry, "DISCONNECTED")
        );
    }

    /// The two sets of codes are one, and so are their kinds: names that are written in two ways.
    #[test]
    fn the_sets_of_codes_are_the_same() {
        let engine = palisade::Failure::ALL.map(|failure| on_the_wire(failure.as_str()));
        assert_eq!(Code::ALL.map(|code| code.as_str().to_owned()), engine);
        let known: Vec<String> = Error::KINDS.iter().map(|kind| on_the_wire(kind)).collect();
        for kind in [kind::TRIMMED, kind::COMPACTED] {
            assert!(known.iter().any(|known| known == kind), "{kind}");
        }
    }
}
