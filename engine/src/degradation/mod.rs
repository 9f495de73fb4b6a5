//! What a resource does when something has failed: declared beforehand, checked when it is declared, and
//! tried in drills before it is needed.
//!
//! ```text
//! what a node sees --health--> the failure --contract--> mode --gate--> try, try else stale, stale, refuse
//!                                             \--policy--> what else is due: failover, throttle, a plan
//! a copy of the placement --drill--> the same question, asked of every node that would be left
//! ```
//! Everything here is a function of its arguments: no clock, no state, no I/O. Handles obey it through
//! `gatekeeper.rs`. `docs/degradation.md` has the reasons, and the tables that the tests of this module read.
//!
//! ```
//! use palisade::degradation::{
//!     Call, DegradationContract, DegradationMode, DegradationRule, Gate, gate,
//! };
//! use palisade::{Error, Failure, ReadConsistency};
//!
//! // A cache: stale reads while cut off, nothing for a writer that was replaced.
//! let contract = DegradationContract::builder()
//!     .rule(DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk))
//!     .rule(DegradationRule::new([Failure::Fenced], DegradationMode::FailClosed))
//!     .build()?;
//!
//! let cut_off = Error::Disconnected { outcome_unknown: false };
//! let read = Call::read(ReadConsistency::Linearizable);
//! assert!(matches!(gate(Some(&contract), Some(&cut_off), read), Gate::TryElseStale));
//! assert!(matches!(gate(Some(&contract), Some(&cut_off), Call::Write), Gate::Refuse(_)));
//! # Ok::<(), Error>(())
//! ```

mod contract;
mod drill;
mod gate;
mod health;
mod map;
#[cfg(test)]
pub(crate) mod page;
mod policy;
mod report;
mod rule;

pub use crate::gatekeeper::ResourceCondition;
#[cfg(test)]
pub(crate) use contract::tests::contract as any_contract;
pub use contract::{DegradationContract, DegradationContractBuilder};
pub use drill::FailureDrill;
pub use gate::{Call, Gate, gate};
pub use health::{GroupHealth, HealthLimits, VoterHealth};
pub use map::{ClusterMap, GroupMap, MemberMap, ResourceMap};
pub use policy::{PolicyAction, RewritePlan};
pub use report::{Answer, DrillReport, GroupVerdict, NodeAnswers, ResourceVerdict};
pub use rule::{DegradationMode, DegradationRule, EmitAction, RecoveryAction, SurfaceUpstream};
