//! One rule of a contract: which failures, how to operate under them, and what it may not say.

use std::fmt;

use crate::failure::Failure;

/// How a resource operates under a failure. `docs/degradation.md` has the table of what each mode means
/// for each kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DegradationMode {
    /// Reads and writes are tried, as without a contract.
    Normal,
    /// Reads are tried, writes refused.
    ReadOnly,
    /// Reads that cannot be fresh are served stale, and say so; writes are refused.
    StaleReadsOk,
    /// Reads that cannot be fresh are served stale, and say so; writes are tried.
    DegradedOk,
    /// Everything is refused: what holds for a failure that no rule names.
    FailClosed,
}

impl DegradationMode {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Normal, Self::ReadOnly, Self::StaleReadsOk, Self::DegradedOk, Self::FailClosed];

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::ReadOnly => "ReadOnly",
            Self::StaleReadsOk => "StaleReadsOk",
            Self::DegradedOk => "DegradedOk",
            Self::FailClosed => "FailClosed",
        }
    }

    /// True if writes are tried.
    ///
    /// ```
    /// use palisade::degradation::DegradationMode;
    ///
    /// assert!(DegradationMode::DegradedOk.takes_writes());
    /// assert!(!DegradationMode::StaleReadsOk.takes_writes());
    /// ```
    #[must_use]
    pub const fn takes_writes(self) -> bool {
        matches!(self, Self::Normal | Self::DegradedOk)
    }

    /// True if a read may be answered stale, and says so.
    ///
    /// ```
    /// use palisade::degradation::DegradationMode;
    ///
    /// let stale = DegradationMode::ALL.into_iter().filter(|mode| mode.serves_stale());
    /// let names: Vec<&str> = stale.map(DegradationMode::as_str).collect();
    /// assert_eq!(names, ["StaleReadsOk", "DegradedOk"]);
    /// ```
    #[must_use]
    pub const fn serves_stale(self) -> bool {
        matches!(self, Self::StaleReadsOk | Self::DegradedOk)
    }
}

impl fmt::Display for DegradationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What callers see of a failure. A contract states it although the mode decides it: whoever reads the
/// contract reads what callers will see, and a rule that contradicts itself is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SurfaceUpstream {
    /// The failure, as an error.
    Failure,
    /// An answer that says it is stale.
    Flagged,
}

/// What is told to those who watch the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EmitAction {
    /// An event when the mode is entered and when it is left, not for each call.
    Event,
    /// Nothing; only for [`DegradationMode::Normal`] without an action: degradation is never silent.
    Nothing,
}

/// What may be done about a failure besides operating in a mode. These and no others: see
/// [`DegradationContract::evaluate`](super::DegradationContract::evaluate).
///
/// ```
/// use palisade::degradation::RecoveryAction;
///
/// assert_eq!(RecoveryAction::Throttle { per_second: 100 }.as_str(), "Throttle");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecoveryAction {
    /// Hands the leadership to another voter.
    Failover,
    /// Lets only so many calls through.
    Throttle {
        /// In a second; at least one.
        per_second: u32,
    },
    /// Asks for more replicas.
    ReplicaAdd,
    /// Asks for those to be removed that are away.
    ReplicaRemove,
    /// Asks for bulk to be moved to the colder tier.
    TierDown,
    /// Asks for bulk to be moved to the hotter tier.
    TierUp,
}

impl RecoveryAction {
    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "Failover",
            Self::Throttle { .. } => "Throttle",
            Self::ReplicaAdd => "ReplicaAdd",
            Self::ReplicaRemove => "ReplicaRemove",
            Self::TierDown => "TierDown",
            Self::TierUp => "TierUp",
        }
    }
}

impl fmt::Display for RecoveryAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One rule: under these failures, operate like this.
///
/// ```
/// use palisade::Failure;
/// use palisade::degradation::{
///     DegradationMode, DegradationRule, EmitAction, RecoveryAction, SurfaceUpstream,
/// };
///
/// let short = DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk)
///     .action(RecoveryAction::Throttle { per_second: 100 });
/// let long = DegradationRule {
///     when: vec![Failure::Degraded],
///     mode: DegradationMode::DegradedOk,
///     surface_upstream: SurfaceUpstream::Flagged,
///     emit: EmitAction::Event,
///     action: Some(RecoveryAction::Throttle { per_second: 100 }),
/// };
/// assert_eq!(short, long);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DegradationRule {
    /// Which failures it is about: one or more of the eight of the system, each once in a contract.
    pub when: Vec<Failure>,
    /// How to operate under them.
    pub mode: DegradationMode,
    /// What callers see.
    pub surface_upstream: SurfaceUpstream,
    /// What those see who watch the node.
    pub emit: EmitAction,
    /// What else is done.
    pub action: Option<RecoveryAction>,
}

impl DegradationRule {
    /// A rule that shows callers what the mode makes of the failure, emits an event, and does nothing
    /// else.
    #[must_use]
    pub fn new(when: impl IntoIterator<Item = Failure>, mode: DegradationMode) -> Self {
        Self {
            when: when.into_iter().collect(),
            mode,
            surface_upstream: surface_of(mode),
            emit: EmitAction::Event,
            action: None,
        }
    }

    /// The same rule with an action.
    #[must_use]
    pub fn action(self, action: RecoveryAction) -> Self {
        Self { action: Some(action), ..self }
    }

    /// Says what is wrong with the rule by itself, and what to do instead.
    pub(super) fn fault(&self) -> Option<String> {
        let mode = self.mode;
        if self.when.is_empty() {
            return Some(
                "names no failure and would never apply: name one, or leave it out".into(),
            );
        }
        if let Some(of_the_caller) = self.when.iter().find(|failure| failure.is_of_the_caller()) {
            return Some(format!(
                "names {of_the_caller}, which answers one call and is no state of a resource: leave \
                 it out, and let the caller see it"
            ));
        }
        if let Some(failure) = self.when.iter().find(|failure| !modes(**failure).contains(&mode)) {
            return Some(format!(
                "has mode {mode} for {failure}: {}; it may be {}",
                why_not(*failure),
                listed(modes(*failure))
            ));
        }
        let surface = surface_of(mode);
        if self.surface_upstream != surface {
            return Some(format!(
                "surfaces {:?} in mode {mode}, where callers see {surface:?}: say so",
                self.surface_upstream
            ));
        }
        let untouched = mode == DegradationMode::Normal && self.action.is_none();
        if self.emit == EmitAction::Nothing && !untouched {
            return Some(
                "emits nothing, and degradation is never silent: emit Event, or have mode Normal \
                 and no action"
                    .into(),
            );
        }
        self.action.and_then(|action| self.fault_of(action))
    }

    fn fault_of(&self, action: RecoveryAction) -> Option<String> {
        if let Some(failure) = self.when.iter().find(|failure| !allows(**failure, action)) {
            return Some(format!(
                "has action {action} for {failure}, where it cannot be done or does no good: leave \
                 it out, or give {failure} a rule of its own"
            ));
        }
        match action {
            RecoveryAction::Throttle { per_second: 0 } => Some(
                "throttles to nothing in a second: let one through, or have mode FailClosed".into(),
            ),
            RecoveryAction::Throttle { .. } if self.mode == DegradationMode::FailClosed => {
                Some("throttles what mode FailClosed refuses altogether: have one of them".into())
            }
            _ => None,
        }
    }
}

/// What callers see of a mode.
const fn surface_of(mode: DegradationMode) -> SurfaceUpstream {
    if mode.serves_stale() { SurfaceUpstream::Flagged } else { SurfaceUpstream::Failure }
}

/// In which modes a resource may operate under a failure.
const fn modes(failure: Failure) -> &'static [DegradationMode] {
    use DegradationMode::{FailClosed, Normal, ReadOnly, StaleReadsOk};
    match failure {
        Failure::Degraded | Failure::RateLimited => &DegradationMode::ALL,
        Failure::Disconnected => &[Normal, ReadOnly, StaleReadsOk, FailClosed],
        Failure::LeaseExpired | Failure::Revoked | Failure::Fenced | Failure::Incompatible => {
            &[ReadOnly, FailClosed]
        }
        Failure::InternalError => &[FailClosed],
        Failure::InvalidArgument
        | Failure::NotFound
        | Failure::AlreadyExists
        | Failure::IdempotencyConflict
        | Failure::DomainUnavailable
        | Failure::NotYetApplied
        | Failure::PreconditionFailed => &[],
    }
}

/// Why a failure does not allow every mode.
const fn why_not(failure: Failure) -> &'static str {
    match failure {
        Failure::LeaseExpired | Failure::Revoked | Failure::Fenced => {
            "the right to write is gone, and fresh reads work"
        }
        Failure::Disconnected => {
            "while it is cut off it would serve stale reads and take writes that were decided on them"
        }
        Failure::Incompatible => "what does not fit is not written, and not read but as what it is",
        Failure::InternalError => "a replica that has halted may be damaged and serves no read",
        _ => "it is no state of a resource",
    }
}

/// True if the action can be done under the failure, and can do some good.
const fn allows(failure: Failure, action: RecoveryAction) -> bool {
    use RecoveryAction::{Failover, Throttle, TierUp};
    match failure {
        Failure::Degraded => true,
        Failure::RateLimited => !matches!(action, TierUp),
        // The others are records, and need the quorum that is missing.
        Failure::Disconnected => matches!(action, Failover | Throttle { .. }),
        _ => false,
    }
}

fn listed(modes: &[DegradationMode]) -> String {
    modes.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::degradation::page;

    const ACTIONS: [RecoveryAction; 6] = [
        RecoveryAction::Failover,
        RecoveryAction::Throttle { per_second: 1 },
        RecoveryAction::ReplicaAdd,
        RecoveryAction::ReplicaRemove,
        RecoveryAction::TierDown,
        RecoveryAction::TierUp,
    ];

    const TABLE: &str =
        "| failure | Normal | ReadOnly | StaleReadsOk | DegradedOk | FailClosed | actions |";

    /// Every failure with every mode and every action: what the page lets pass is what passes.
    #[test]
    fn a_rule_may_say_what_the_page_says() {
        let rows = page::table(TABLE);
        let system: Vec<_> = Failure::ALL.into_iter().filter(|f| !f.is_of_the_caller()).collect();
        let named: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
        assert_eq!(named, system.iter().map(ToString::to_string).collect::<Vec<_>>());
        for failure in Failure::ALL {
            let row = rows.iter().find(|row| row[0] == failure.as_str());
            for (at, mode) in DegradationMode::ALL.into_iter().enumerate() {
                let rule = DegradationRule::new([failure], mode);
                let allowed = row.is_some_and(|row| row[at + 1] == "yes");
                assert_eq!(rule.fault().is_none(), allowed, "{rule:?}: {:?}", rule.fault());
                for action in ACTIONS {
                    let listed =
                        row.is_some_and(|row| row[6].split(", ").any(|a| a == action.as_str()));
                    let closed = mode == DegradationMode::FailClosed && action == ACTIONS[1];
                    let with = rule.clone().action(action);
                    assert_eq!(with.fault().is_none(), allowed && listed && !closed, "{with:?}");
                }
            }
        }
    }

    /// The mode of a rule about several failures must be allowed for each of them, and so its action.
    #[test]
    fn the_strictest_of_several_failures_decides() {
        let both = [Failure::Degraded, Failure::Disconnected];
        let fault = DegradationRule::new(both, DegradationMode::DegradedOk).fault().unwrap();
        assert!(fault.contains("Disconnected"), "{fault}");
        let rule = DegradationRule::new(both, DegradationMode::ReadOnly);
        assert_eq!(rule.fault(), None);
        let fault = rule.action(RecoveryAction::ReplicaAdd).fault().unwrap();
        assert!(fault.contains("Disconnected"), "{fault}");
    }

    #[test]
    fn a_rule_says_what_callers_will_see() {
        for mode in DegradationMode::ALL {
            for surface in [SurfaceUpstream::Failure, SurfaceUpstream::Flagged] {
                let rule = DegradationRule {
                    surface_upstream: surface,
                    ..DegradationRule::new([Failure::Degraded], mode)
                };
                let stale =
                    matches!(mode, DegradationMode::StaleReadsOk | DegradationMode::DegradedOk);
                assert_eq!(rule.fault().is_none(), stale == (surface == SurfaceUpstream::Flagged));
            }
        }
    }

    #[test]
    fn only_what_changes_nothing_is_silent() {
        for mode in DegradationMode::ALL {
            for action in [None, Some(RecoveryAction::Failover)] {
                let rule = DegradationRule {
                    emit: EmitAction::Nothing,
                    action,
                    ..DegradationRule::new([Failure::Degraded], mode)
                };
                let silent = mode == DegradationMode::Normal && action.is_none();
                assert_eq!(rule.fault().is_none(), silent, "{rule:?}");
            }
        }
    }

    #[test]
    fn a_throttle_lets_something_through() {
        let rule = |per_second| {
            DegradationRule::new([Failure::RateLimited], DegradationMode::Normal)
                .action(RecoveryAction::Throttle { per_second })
        };
        assert!(rule(0).fault().unwrap().contains("FailClosed"));
        assert_eq!(rule(1).fault(), None);
    }
}
