//! The finer names of errors: one for each variant, beside the closed set of [`Failure`](crate::Failure).

use crate::error::Error;

macro_rules! kinds {
    ($($name:ident,)*) => {
        impl Error {
            /// The names that [`Error::kind`] gives, in the order of the variants: those of the closed set,
            /// and those that tell more of one of them.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($name),)*];

            /// Which variant it is. Where [`Error::code`] is enough to decide what to do, this says more of
            /// what happened.
            ///
            /// ```
            /// use palisade::Error;
            ///
            /// let error = Error::GuardFailed { guard: 0 };
            /// assert_eq!((error.code(), error.kind()), ("PreconditionFailed", "GuardFailed"));
            /// ```
            #[must_use]
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name),)*
                }
            }
        }
    };
}

kinds! {
    LeaseExpired,
    Revoked,
    Fenced,
    Disconnected,
    Degraded,
    Incompatible,
    RateLimited,
    InternalError,
    InvalidArgument,
    NotFound,
    AlreadyExists,
    IdempotencyConflict,
    DomainUnavailable,
    NotYetApplied,
    PreconditionFailed,
    VersionMismatch,
    Trimmed,
    TailMismatch,
    Compacted,
    GuardFailed,
    WindowExpired,
    ClientEvicted,
    ClientOfAnother,
    InProgress,
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn the_closed_set_comes_first_and_names_itself() {
        let closed = Failure::ALL.map(Failure::as_str);
        assert_eq!(Error::KINDS[..closed.len()], closed);
        let mut sorted = Error::KINDS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), Error::KINDS.len(), "no name twice");
    }
}
