//! The gate before a call: what a contract makes of it while something has failed.

use super::contract::DegradationContract;
use super::rule::DegradationMode;
use crate::error::Error;
use crate::failure::Failure;
use crate::read::ReadConsistency;

/// A call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Any command: append, put, a batch.
    Write,
    /// Any read.
    Read {
        /// How fresh.
        consistency: ReadConsistency,
        /// An answer that is flagged stale is worth nothing to the caller.
        refuse_stale: bool,
    },
}

impl Call {
    /// A read whose caller looks at the flag.
    #[must_use]
    pub const fn read(consistency: ReadConsistency) -> Self {
        Self::Read { consistency, refuse_stale: false }
    }
}

/// What is to be done with a call.
#[derive(Clone, Debug)]
pub enum Gate {
    /// It is made as without a contract; its result is the answer.
    Try,
    /// It is made; an error for which [`Gate::stands_in_for`] is true is answered with what this replica
    /// has, flagged stale.
    TryElseStale,
    /// It is answered with what this replica has, flagged stale.
    Stale,
    /// It is not made. Nothing happened, and the error says why.
    Refuse(Error),
}

impl Gate {
    /// True if a stale answer may be given in the place of this error of the try: what the replica lacks
    /// is freshness, and nothing else is wrong. Every other error stands.
    ///
    /// ```
    /// use palisade::Error;
    /// use palisade::degradation::Gate;
    ///
    /// let cut_off = Error::Disconnected { outcome_unknown: false };
    /// assert!(Gate::TryElseStale.stands_in_for(&cut_off));
    /// assert!(!Gate::Try.stands_in_for(&cut_off));
    /// assert!(!Gate::TryElseStale.stands_in_for(&Error::InternalError { what: "damage".into() }));
    /// ```
    #[must_use]
    pub fn stands_in_for(&self, error: &Error) -> bool {
        let not_fresh = matches!(
            error.failure(),
            Failure::Disconnected
                | Failure::Degraded
                | Failure::RateLimited
                | Failure::NotYetApplied
        );
        matches!(self, Self::TryElseStale) && not_fresh
    }
}

/// Judges a call by the resource's contract and by what was observed last: by
/// [`GroupHealth::observe`](super::GroupHealth::observe), or by a call before. Without a contract, or
/// while nothing has failed, every call is tried.
///
/// That this replica has halted, and that the caller or the node is outside the placement, is judged
/// before: no contract softens it.
///
/// ```
/// use palisade::degradation::{
///     Call, DegradationContract, DegradationMode, DegradationRule, Gate, gate,
/// };
/// use palisade::{Disposition, Error, Failure, ReadConsistency};
///
/// let contract = DegradationContract::builder()
///     .rule(DegradationRule::new([Failure::Disconnected], DegradationMode::ReadOnly))
///     .build()?;
/// let seen = Error::Disconnected { outcome_unknown: false };
/// let Gate::Refuse(error) = gate(Some(&contract), Some(&seen), Call::Write) else { panic!() };
/// assert_eq!(error.disposition(), Disposition::Retry);
/// let read = Call::read(ReadConsistency::Local);
/// assert!(matches!(gate(Some(&contract), Some(&seen), read), Gate::Try));
/// # Ok::<(), Error>(())
/// ```
#[must_use]
pub fn gate(contract: Option<&DegradationContract>, observed: Option<&Error>, call: Call) -> Gate {
    let (Some(contract), Some(observed)) = (contract, observed) else { return Gate::Try };
    let mode = contract.mode(&observed.failure());
    match (mode, call) {
        (DegradationMode::FailClosed, _) => Gate::Refuse(untried(observed)),
        (_, Call::Write) if mode.takes_writes() => Gate::Try,
        (_, Call::Write) => Gate::Refuse(untried(observed)),
        (_, Call::Read { .. }) if !mode.serves_stale() => Gate::Try,
        // Every other consistency demands something that stale state may lack.
        (_, Call::Read { consistency, refuse_stale }) => {
            match (consistency == ReadConsistency::Local, refuse_stale) {
                (true, false) => Gate::Stale,
                (true, true) => Gate::Refuse(untried(observed)),
                (false, false) => Gate::TryElseStale,
                (false, true) => Gate::Try,
            }
        }
    }
}

/// The failure as this call meets it: what was observed of a call before may have been of unknown
/// outcome, but this one was not made.
fn untried(observed: &Error) -> Error {
    match observed {
        Error::Disconnected { .. } => Error::Disconnected { outcome_unknown: false },
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use palisade_replication::{Disposition, Offset};

    use super::super::rule::DegradationRule;
    use super::*;
    use crate::degradation::page;
    use crate::resource::FenceEpoch;

    const LINEARIZABLE: ReadConsistency = ReadConsistency::Linearizable;
    const AT_LEAST: ReadConsistency = ReadConsistency::AtLeastOffset(Offset::ZERO);
    const LOCAL: ReadConsistency = ReadConsistency::Local;

    fn degraded() -> Error {
        Error::Degraded { what: "the disk is slow".to_owned() }
    }

    /// Degraded is the one failure under which every mode is allowed.
    fn contract(mode: DegradationMode) -> DegradationContract {
        let rule = DegradationRule::new([Failure::Degraded], mode);
        DegradationContract::builder().rule(rule).build().unwrap()
    }

    fn named(gate: &Gate) -> &'static str {
        match gate {
            Gate::Try => "try",
            Gate::TryElseStale => "try, else stale",
            Gate::Stale => "stale",
            Gate::Refuse(_) => "refuse",
        }
    }

    /// The table of modes, row by row.
    #[test]
    fn each_mode_does_what_the_page_says() {
        let rows = page::table(
            "| mode | write | read at `Linearizable` or `AtLeastOffset` | read at `Local` |",
        );
        let modes: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
        assert_eq!(modes, DegradationMode::ALL.map(|mode| mode.to_string()));
        for (row, mode) in rows.iter().zip(DegradationMode::ALL) {
            let contract = contract(mode);
            let calls = [
                (Call::Write, &row[1]),
                (Call::read(LINEARIZABLE), &row[2]),
                (Call::read(AT_LEAST), &row[2]),
                (Call::read(LOCAL), &row[3]),
            ];
            for (call, expected) in calls {
                let found = gate(Some(&contract), Some(&degraded()), call);
                assert_eq!(named(&found), expected, "{mode} {call:?}");
                let Gate::Refuse(error) = found else { continue };
                assert_eq!(error.to_string(), degraded().to_string(), "the failure with its facts");
            }
        }
    }

    #[test]
    fn nothing_is_gated_without_a_contract_or_without_a_failure() {
        let calls = [Call::Write, Call::read(LINEARIZABLE), Call::read(LOCAL)];
        for call in calls {
            for mode in DegradationMode::ALL {
                assert_eq!(named(&gate(Some(&contract(mode)), None, call)), "try");
            }
            assert_eq!(named(&gate(None, Some(&degraded()), call)), "try");
        }
    }

    /// A failure that no rule names closes the resource, whatever the other rules allow.
    #[test]
    fn what_no_rule_names_is_closed() {
        let contract = contract(DegradationMode::Normal);
        let fenced = Error::Fenced { current: FenceEpoch::new(4) };
        for call in [Call::Write, Call::read(AT_LEAST), Call::read(LOCAL)] {
            let found = gate(Some(&contract), Some(&fenced), call);
            let current =
                |error: &Error| matches!(error, Error::Fenced { current } if current.get() == 4);
            assert!(matches!(&found, Gate::Refuse(error) if current(error)), "{found:?}");
        }
    }

    #[test]
    fn who_refuses_stale_gets_none() {
        for mode in [DegradationMode::StaleReadsOk, DegradationMode::DegradedOk] {
            let read = |consistency| {
                let call = Call::Read { consistency, refuse_stale: true };
                named(&gate(Some(&contract(mode)), Some(&degraded()), call))
            };
            assert_eq!([read(LINEARIZABLE), read(AT_LEAST), read(LOCAL)], ["try", "try", "refuse"]);
        }
        let fresh = Call::Read { consistency: LOCAL, refuse_stale: true };
        let read_only = contract(DegradationMode::ReadOnly);
        assert_eq!(named(&gate(Some(&read_only), Some(&degraded()), fresh)), "try");
    }

    /// What is refused was not tried, even if what was seen was a call of unknown outcome.
    #[test]
    fn a_refusal_is_never_of_unknown_outcome() {
        let closed = DegradationContract::default();
        let seen = Error::Disconnected { outcome_unknown: true };
        assert_eq!(seen.disposition(), Disposition::Indeterminate);
        let Gate::Refuse(error) = gate(Some(&closed), Some(&seen), Call::Write) else {
            panic!("everything is refused")
        };
        assert_eq!(error.failure(), Failure::Disconnected);
        assert_eq!(error.disposition(), Disposition::Retry);
    }

    /// Only where freshness is what is lacking.
    #[test]
    fn a_stale_answer_hides_no_other_error() {
        let what = || "it".to_owned();
        let stale = [
            Error::Disconnected { outcome_unknown: true },
            Error::Degraded { what: what() },
            Error::RateLimited { retry_after_ms: 1 },
            Error::NotYetApplied { required: Offset::ZERO, applied: Offset::ZERO },
        ];
        let stands = [
            Error::LeaseExpired,
            Error::Revoked,
            Error::Fenced { current: FenceEpoch::new(1) },
            Error::Incompatible { expected: what(), found: what() },
            Error::InternalError { what: what() },
            Error::InvalidArgument { what: what() },
            Error::NotFound { what: what() },
            Error::AlreadyExists { what: what() },
            Error::IdempotencyConflict { op: None },
            Error::DomainUnavailable { domain: what(), resource: what() },
            Error::PreconditionFailed { what: what() },
        ];
        assert!(stale.iter().all(|error| Gate::TryElseStale.stands_in_for(error)));
        assert!(!stands.iter().any(|error| Gate::TryElseStale.stands_in_for(error)));
        for gate in [Gate::Try, Gate::Stale, Gate::Refuse(Error::Revoked)] {
            assert!(!stale.iter().any(|error| gate.stands_in_for(error)), "{gate:?}");
        }
    }
}
