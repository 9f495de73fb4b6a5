//! What goes into a replica and what comes out of it.

use bytes::Bytes;
use palisade_wal::{LogIndex, Write};

use crate::entry::{AppliedPosition, CommittedEntry};
use crate::identity::{NodeId, Offset, Term};
use crate::wire::Envelope;

/// Milliseconds since the Unix epoch as the driver's wall clock says. Only a leader uses it, and
/// only to stamp entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(u64);

impl WallTime {
    /// Wraps a number of milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0
    }
}

/// Names one write that a replica owes an answer for. Rises within a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// One tick of the driver's clock passed.
    Tick,
    /// A message from another replica arrived.
    Peer(Envelope),
    /// A caller wants a record in the log. Numbers rise within the session.
    Propose {
        /// The caller's number in this session.
        seq: u64,
        /// The record.
        payload: Bytes,
    },
    /// The caller gave up waiting; the record may still be committed.
    Abandon {
        /// The number it was proposed with.
        seq: u64,
    },
    /// A caller wants to read what is committed now.
    Read {
        /// What the driver calls this read.
        token: u64,
    },
    /// The write of this ticket and of all before it are durable.
    Durable {
        /// From [`WriteEffect`].
        ticket: Ticket,
    },
    /// The state machine has applied everything up to here.
    Applied {
        /// Its position.
        position: AppliedPosition,
    },
    /// The state up to this entry survives a loss of power.
    Flushed {
        /// The last entry covered.
        index: LogIndex,
    },
}

/// A batch for the wal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteEffect {
    /// Answer with [`Input::Durable`] once it is synced.
    pub ticket: Ticket,
    /// To be written as one batch.
    pub writes: Vec<Write>,
}

/// Work the driver owes the core, in the order it is owed.
#[must_use = "dropped effects are lost writes or lost messages"]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Append and sync, each as one batch and in this order.
    pub writes: Vec<WriteEffect>,
    /// Safe to send now: nothing in them promises what is not yet durable.
    pub send: Vec<Envelope>,
    /// Committed and durable here; apply in this order.
    pub apply: Vec<CommittedEntry>,
    /// These reads may be served once this entry is applied here.
    pub reads: Vec<(u64, LogIndex)>,
}

/// What a replica is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows the leader, or looks for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Orders the log.
    Leader,
}

/// How a replica sees its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its own role.
    pub role: Role,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// The term it is in.
    pub term: Term,
    /// Last entry of its log.
    pub last_index: LogIndex,
    /// Last entry it knows to be committed.
    pub committed_index: LogIndex,
    /// First entry its log still holds.
    pub first_index: LogIndex,
    /// Last record handed to apply.
    pub offset: Offset,
    /// Own proposals that wait for their outcome.
    pub proposals_count: usize,
}
