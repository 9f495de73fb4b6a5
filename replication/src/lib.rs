//! One ordered, agreed log out of several write-ahead logs.

mod acquaintances;
mod applier;
mod directory;
mod driver;
mod effects;
mod entry;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod inbox;
mod load;
mod log_store;
mod node;
mod options;
mod proposals;
mod raft_log;
mod reads;
mod register;
mod replica;
#[cfg(feature = "sim")]
pub mod sim;
mod state_machine;
mod sync;
mod tracker;
mod transport;
mod wire;

pub use applier::Committed;
pub use effects::{Effects, GroupStatus, Input, Role, Ticket, WallTime, WriteEffect};
pub use entry::{AppliedPosition, CommittedEntry, ProposalId, RECORD_HEADER_BYTES, Record};
pub use error::NodeError;
pub use identity::{ClusterId, Incarnation, LogTime, NodeId, Offset, Term};
pub use node::{Node, NodeConfig, Proposal};
pub use options::Options;
pub use palisade_wal::{Disposition, GroupId, LogIndex, WalOptions};
pub use replica::{Replica, ReplicaConfig};
pub use state_machine::{ApplyError, StateMachine};
pub use transport::Transport;
pub use wire::{Body, Envelope, Forward, WireError};
