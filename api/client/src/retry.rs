//! What is done again, and when: decided by the disposition alone.

use std::time::Duration;

use palisade_proto::failure::Disposition;

use crate::error::Error;

/// Before the first repetition; doubled from one to the next.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The group has forgotten the client that a command is one of.
pub(crate) const CLIENT_EVICTED: &str = "CLIENT_EVICTED";

/// Somebody else registered that client: who calls goes by another name since.
pub(crate) const CLIENT_OF_ANOTHER: &str = "CLIENT_OF_ANOTHER";

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    /// Sent again it has no further effect: it has a number, or a reservation in it.
    Once,
    /// Sent again it might take effect again.
    Write,
}

impl Kind {
    pub(crate) fn writes(self) -> bool {
        self != Self::Read
    }
}

/// Whether a call is to be made again after this, perhaps at another node.
pub(crate) fn again(kind: Kind, error: &Error) -> bool {
    match error.disposition() {
        // The number means nothing any more: sent again, it would be told the same.
        _ if error.is(CLIENT_EVICTED) => false,
        Disposition::Retry => true,
        // The node has stopped; what it did with a write is not known.
        Disposition::Indeterminate | Disposition::Halt => kind != Kind::Write,
        Disposition::Reject => false,
    }
}

/// What the caller is told once a call is given up: of a write with an attempt that may have taken effect, that
/// nobody knows, whatever the last attempt says. A client that its group has forgotten is told so.
pub(crate) fn told(last: Error, unknown: Option<Error>) -> Error {
    match unknown {
        Some(unknown) if !last.is(CLIENT_EVICTED) => unknown.and_then(&last),
        _ => last,
    }
}

/// How long to wait before the repetition of this number, from 0. Callers that failed together come back apart:
/// `spread` is another for each.
pub(crate) fn pause(repetition: u32, error: &Error, spread: u64) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << repetition.min(10)).min(PAUSE_MAX);
    // Between a half of it and all of it.
    let part = 512 + (spread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55);
    let own = longest.mul_f64(part as f64 / 1024.0);
    own.max(error.failure().retry_after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use palisade_proto::failure::{Code, Failure};
    use tonic::Status;

    use super::*;

    fn error(disposition: Disposition) -> Error {
        let failure = Failure::new(Code::Disconnected, "", disposition, "", "");
        Error::of(&Status::from(failure), true)
    }

    /// G6: only what cannot take effect twice is sent again when nobody knows.
    #[test]
    fn what_may_have_happened_is_repeated_only_if_it_happens_once() {
        use Disposition::{Halt, Indeterminate, Reject, Retry};
        for kind in [Kind::Read, Kind::Once, Kind::Write] {
            assert!(again(kind, &error(Retry)));
            assert!(!again(kind, &error(Reject)));
            for unknown in [Indeterminate, Halt] {
                assert_eq!(again(kind, &error(unknown)), kind != Kind::Write, "{kind:?}");
            }
        }
    }

    /// G6: what a later attempt says does not undo an earlier one.
    #[test]
    fn what_may_have_happened_is_never_told_as_nothing() {
        let unknown = || Some(error(Disposition::Indeterminate));
        for last in [Disposition::Retry, Disposition::Reject, Disposition::Indeterminate] {
            let told = told(error(last), unknown());
            assert_eq!(told.disposition(), Disposition::Indeterminate, "{last:?}");
            assert!(told.failure().facts.contains_key("last_attempt"));
        }
        assert_eq!(told(error(Disposition::Retry), None).disposition(), Disposition::Retry);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let error = error(Disposition::Retry);
        for repetition in 0..40 {
            let pauses: Vec<_> = (0..50).map(|spread| pause(repetition, &error, spread)).collect();
            assert!(pauses.iter().all(|pause| (PAUSE_MIN / 2..=PAUSE_MAX).contains(pause)));
            assert_ne!(pauses[1], pauses[2]);
        }
        let evicted =
            Failure::new(Code::Revoked, CLIENT_EVICTED, Disposition::Indeterminate, "", "");
        assert!(!again(Kind::Once, &Error::of(&Status::from(evicted), true)));
        let limited = Failure::new(Code::RateLimited, "", Disposition::Retry, "", "");
        let limited = limited.after(Duration::from_secs(7));
        let limited = Error::of(&Status::from(limited), true);
        assert_eq!(pause(0, &limited, 1), Duration::from_secs(7));
    }
}
