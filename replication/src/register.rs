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
//!     57     8  trim_members     the last change of membership up to there
//!     65     8  members_index    the last change of membership that is in what follows
//!     73     1  probation        1 while it neither votes nor campaigns, see `docs/repair.md`
//!     74        members          see `membership`
//! ```
//! Little-endian. It is written in one batch with the entries it speaks of.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::LogIndex;

use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::{LogTime, Offset, Term};
use crate::membership::Membership;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 74;

/// The register of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) term: Term,
    pub(crate) vote: u64,
    pub(crate) commit: LogIndex,
    /// The last entry that is gone; the log begins after it.
    pub(crate) base: AppliedPosition,
    pub(crate) members_index: LogIndex,
    pub(crate) probation: bool,
    pub(crate) members: Membership,
}

impl Register {
    /// A group that has never run, with its first voters.
    pub(crate) fn genesis(members: Membership) -> Self {
        let base = AppliedPosition::GENESIS;
        Self {
            term: base.term,
            vote: 0,
            commit: base.index,
            base,
            members_index: base.index,
            probation: false,
            members,
        }
    }

    /// A node that waits to be made a member.
    pub(crate) fn joining() -> Self {
        Self {
            term: Term::ZERO,
            vote: 0,
            commit: LogIndex::ZERO,
            base: AppliedPosition::ZERO,
            members_index: LogIndex::ZERO,
            probation: false,
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
        out.put_u64_le(self.base.members_index.get());
        out.put_u64_le(self.members_index.get());
        out.put_u8(self.probation.into());
        self.members.encode(&mut out);
        out.freeze()
    }

    pub(crate) fn decode(stored: &[u8]) -> Result<Self, NodeError> {
        let mut raw = stored;
        let damaged = |what: &str| NodeError::Damaged { what: format!("group register {what}") };
        if let Some(version) = raw.first().filter(|version| VERSION < **version) {
            return Err(NodeError::Newer { what: format!("a group register version={version}") });
        }
        if raw.len() < FIXED_BYTES {
            return Err(damaged("is too short"));
        }
        let version = raw.get_u8();
        if version != VERSION {
            return Err(damaged("is of no version"));
        }
        let term = Term::new(raw.get_u64_le());
        let vote = raw.get_u64_le();
        let commit = LogIndex::new(raw.get_u64_le());
        let base = AppliedPosition {
            index: LogIndex::new(raw.get_u64_le()),
            term: Term::new(raw.get_u64_le()),
            offset: Offset::new(raw.get_u64_le()),
            log_time: LogTime::new(raw.get_u64_le()),
            members_index: LogIndex::new(raw.get_u64_le()),
        };
        let members_index = LogIndex::new(raw.get_u64_le());
        let probation = match raw.get_u8() {
            0 => false,
            1 => true,
            _ => return Err(damaged("has an unknown stage")),
        };
        let members = Membership::decode(&mut raw).ok_or_else(|| damaged("names no members"))?;
        if !raw.is_empty() {
            return Err(damaged("has a wrong length"));
        }
        let register = Self { term, vote, commit, base, members_index, probation, members };
        // What would be written otherwise was not written by this code.
        if register.encode() != stored {
            return Err(damaged("is not as it is written"));
        }
        Ok(register)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::is_of_one_log;
    use crate::identity::NodeId;
    use crate::membership::Member;

    #[test]
    fn register_round_trips_and_refuses_what_it_does_not_know() {
        let members = (1..4).map(|id| (NodeId::new(id), Member::default())).collect();
        let register = Register {
            term: Term::new(7),
            vote: 2,
            commit: LogIndex::new(90),
            base: AppliedPosition {
                index: LogIndex::new(40),
                term: Term::new(5),
                members_index: LogIndex::new(33),
                offset: Offset::new(1000),
                log_time: LogTime::new(12),
            },
            members_index: LogIndex::new(33),
            probation: true,
            members: Membership::of_voters(members),
        };
        let encoded = register.encode();
        assert_eq!(Register::decode(&encoded).unwrap(), register);
        for cut in 0..encoded.len() {
            assert!(Register::decode(&encoded[..cut]).is_err(), "cut={cut}");
        }
        let mut newer = encoded.to_vec();
        newer[0] = 2;
        let refused = Register::decode(&newer).unwrap_err();
        assert!(
            matches!(&refused, NodeError::Newer { what } if what.contains("version=2")),
            "{refused}"
        );
        assert!(!is_of_one_log(&refused), "the node does not open");
        assert!(matches!(Register::decode(&newer[..9]), Err(NodeError::Newer { .. })));
        newer[0] = 0;
        assert!(matches!(Register::decode(&newer), Err(NodeError::Damaged { .. })));
    }
}
