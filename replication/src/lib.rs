//! One ordered, agreed log out of several write-ahead logs.

mod entry;
mod identity;
mod state_machine;

pub use entry::{AppliedPosition, CommittedEntry, ProposalId, RECORD_HEADER_BYTES, Record};
pub use identity::{ClusterId, Incarnation, LogTime, NodeId, Offset, Term};
pub use palisade_wal::{GroupId, LogIndex};
pub use state_machine::{ApplyError, StateMachine};
