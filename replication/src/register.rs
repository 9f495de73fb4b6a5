//! The group's register in the wal: what raft must never forget, where the log begins, and who
//! takes part.
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
//!     57     8  members_index    the last change of membership that is in what follows
//!     65        members          see `membership`
//! ```
//! Little-endian. It is written in one batch with the entries it speaks of.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::LogIndex;

use crate::error::NodeError;
use crate::identity::{LogTime, Offset, Term};
use crate::membership::Membership;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 65;

/// Where a replica's log begins: what was known of the last trimmed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogBase {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) offset: Offset,
    pub(crate) log_time: LogTime,
}

impl LogBase {
    /// A node that is to join: it has nothing, not even the beginning.
    pub(crate) const NOTHING: Self = Self {
        index: LogIndex::ZERO,
        term: Term::ZERO,
        offset: Offset::ZERO,
        log_time: LogTime::ZERO,
    };

    /// The first voters begin after an entry that nobody has, so that a node with nothing can only
    /// be helped by a snapshot. It brings the membership, which the log's beginning does not hold.
    pub(crate) const GENESIS: Self = Self {
        index: LogIndex::new(1),
        term: Term::new(1),
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
    pub(crate) members_index: LogIndex,
    pub(crate) members: Membership,
}

impl Register {
    /// A group that has never run, with its first voters.
    pub(crate) fn genesis(members: Membership) -> Self {
        let base = LogBase::GENESIS;
        Self {
            term: base.term,
            vote: 0,
            commit: base.index,
            base,
            members_index: base.index,
            members,
        }
    }

    /// A node that waits to be made a member.
    pub(crate) fn joining() -> Self {
        Self {
            term: Term::ZERO,
            vote: 0,
            commit: LogIndex::ZERO,
            base: LogBase::NOTHING,
            members_index: LogIndex::ZERO,
            members: Membership::default(),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED_BYTES + 2 + 64 * self.members.members.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.term.get());
        out.put_u64_le(self.vote);
        out.put_u64_le(self.commit.get());
        out.put_u64_le(self.base.index.get());
        out.put_u64_le(self.base.term.get());
        out.put_u64_le(self.base.offset.get());
        out.put_u64_le(self.base.log_time.get());
        out.put_u64_le(self.members_index.get());
        self.members.encode(&mut out);
        out.freeze()
    }

    pub(crate) fn decode(mut raw: &[u8]) -> Result<Self, NodeError> {
        let damaged = |what: &str| NodeError::Damaged { what: format!("group register {what}") };
        if raw.len() < FIXED_BYTES {
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
        let members_index = LogIndex::new(raw.get_u64_le());
        let members = Membership::decode(&mut raw).ok_or_else(|| damaged("names no members"))?;
        if !raw.is_empty() {
            return Err(damaged("has a wrong length"));
        }
        Ok(Self { term, vote, commit, base, members_index, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeId;
    use crate::membership::Member;

    #[test]
    fn register_round_trips_and_refuses_what_it_does_not_know() {
        let members = (1..4).map(|id| (NodeId::new(id), Member::default())).collect();
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
            members_index: LogIndex::new(33),
            members: Membership::of_voters(members),
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
