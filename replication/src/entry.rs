//! What one raft entry carries: a run of records with dense offsets, stamped by the leader.
//!
//! ```text
//! offset  size  field         rule
//!      0     1  version       1
//!      1     8  first_offset  exactly one more than the last offset before this entry
//!      9     8  log_time      never below the log time of the entry before
//!     17     4  count         at least 1
//!     21        count times:
//!            8  session       who proposed: one life of one process
//!            8  seq           the proposer's own number, unique within the session
//!            4  length        n
//!            n  payload       opaque here
//! ```
//! Little-endian. A leader's empty entry has no payload at all and takes no offset.

use bytes::Bytes;
use palisade_wal::LogIndex;

use crate::identity::{LogTime, Offset, Term};

/// What a record adds to an entry beside its payload.
pub const RECORD_HEADER_BYTES: usize = 8 + 8 + 4;

/// Names one proposal for ever: the proposer's session and its own number in it.
///
/// The origin finds its own records in the committed log by it, so no acknowledgement has to
/// travel beside the log, and the leader of a term drops a retransmitted one by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProposalId {
    /// One life of one process, drawn at random.
    pub session: u64,
    /// Dense within the session, from 1.
    pub seq: u64,
}

/// One client command in a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who proposed it.
    pub id: ProposalId,
    /// What was proposed, opaque to this crate.
    pub payload: Bytes,
}

/// An entry that a quorum holds and this node has durable, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its place in the raft log.
    pub index: LogIndex,
    /// The term that proposed it.
    pub term: Term,
    /// The leader's stamp.
    pub log_time: LogTime,
    /// Offset of the first record. For an entry without records: the next record's offset.
    pub first_offset: Offset,
    /// In order; the record at position `i` has offset `first_offset + i`.
    pub records: Vec<Record>,
}

/// Where a replica's state stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedPosition {
    /// The last applied entry.
    pub index: LogIndex,
    /// The last applied record.
    pub offset: Offset,
    /// The highest log time applied.
    pub log_time: LogTime,
}

impl AppliedPosition {
    /// A fresh replica.
    pub const ZERO: Self =
        Self { index: LogIndex::ZERO, offset: Offset::ZERO, log_time: LogTime::ZERO };
}
