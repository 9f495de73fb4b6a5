//! The group's register in the wal: what raft must never forget, and where the log begins.
//!
//! ```text
//! offset  size  field
//!      0     1  version          1
//!      1     8  term             the highest term seen
//!      9     8  vote             whom this node voted for in it, 0 for nobody
//!     17     8  commit           a lower bound of what was committed
//!     25     8  trim_index       entries up to here are gone
//!     33     8  trim_term        the term of that entry
//!     41     8  trim_offset      the last record up to there
//!     49     8  trim_log_time    the log time up to there
//!     57     2  voters           count, then 8 bytes each, ascending
//! ```
//! Little-endian. It is written in one batch with the entries it speaks of.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::LogIndex;

use crate::error::NodeError;
use crate::identity::{LogTime, NodeId, Offset, Term};

const VERSION: u8 = 1;
/// More voters than this are refused: a group is a handful of replicas.
pub(crate) const VOTERS_MAX: usize = 31;

/// Where a replica's log begins: what was known of the last trimmed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogBase {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) offset: Offset,
    pub(crate) log_time: LogTime,
}

impl LogBase {
    pub(crate) const ZERO: Self = Self {
        index: LogIndex::ZERO,
        term: Term::ZERO,
        offset: Offset::ZERO,
        log_time: LogTime::ZERO,
    };
}

/// The register of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) term: Term,
    pub(crate) vote: u64,
    pub(crate) commit: LogIndex,
    pub(crate) base: LogBase,
    pub(crate) voters: Vec<NodeId>,
}

impl Register {
    /// A group that has never run, with its first voters.
    pub(crate) fn fresh(voters: Vec<NodeId>) -> Self {
        debug_assert!(voters.is_sorted());
        Self { term: Term::ZERO, vote: 0, commit: LogIndex::ZERO, base: LogBase::ZERO, voters }
    }

    pub(crate) fn encode(&self) -> Bytes {
        assert!(self.voters.len() <= VOTERS_MAX);
        let mut out = BytesMut::with_capacity(59 + 8 * self.voters.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.term.get());
        out.put_u64_le(self.vote);
        out.put_u64_le(self.commit.get());
        out.put_u64_le(self.base.index.get());
        out.put_u64_le(self.base.term.get());
        out.put_u64_le(self.base.offset.get());
        out.put_u64_le(self.base.log_time.get());
        out.put_u16_le(self.voters.len() as u16);
        for voter in &self.voters {
            out.put_u64_le(voter.get());
        }
        out.freeze()
    }

    pub(crate) fn decode(mut raw: &[u8]) -> Result<Self, NodeError> {
        let damaged = |what: &str| NodeError::Damaged { what: format!("group register {what}") };
        if raw.len() < 59 {
            return Err(damaged("is too short"));
        }
        let version = raw.get_u8();
        if version != VERSION {
            return Err(damaged(&format!(
                "has unknown version={version}, open it with a newer release"
            )));
        }
        let term = Term::new(raw.get_u64_le());
        let vote = raw.get_u64_le();
        let commit = LogIndex::new(raw.get_u64_le());
        let base = LogBase {
            index: LogIndex::new(raw.get_u64_le()),
            term: Term::new(raw.get_u64_le()),
            offset: Offset::new(raw.get_u64_le()),
            log_time: LogTime::new(raw.get_u64_le()),
        };
        let count = usize::from(raw.get_u16_le());
        if count > VOTERS_MAX || raw.len() != 8 * count {
            return Err(damaged("has a wrong length"));
        }
        let voters = (0..count).map(|_| NodeId::new(raw.get_u64_le())).collect();
        Ok(Self { term, vote, commit, base, voters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_round_trips_and_refuses_what_it_does_not_know() {
        let register = Register {
            term: Term::new(7),
            vote: 2,
            commit: LogIndex::new(90),
            base: LogBase {
                index: LogIndex::new(40),
                term: Term::new(5),
                offset: Offset::new(1000),
                log_time: LogTime::new(12),
            },
            voters: vec![NodeId::new(1), NodeId::new(2), NodeId::new(3)],
        };
        let encoded = register.encode();
        assert_eq!(Register::decode(&encoded).unwrap(), register);
        for cut in 0..encoded.len() {
            assert!(Register::decode(&encoded[..cut]).is_err(), "cut={cut}");
        }
        let mut newer = encoded.to_vec();
        newer[0] = 2;
        assert!(Register::decode(&newer).unwrap_err().to_string().contains("version=2"));
    }
}
