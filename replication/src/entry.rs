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

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::LogIndex;

use crate::identity::{LogTime, Offset, Term};

/// Version byte of the layout above.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;
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
    /// The last change of membership up to this entry, itself included.
    pub members_index: LogIndex,
}

impl CommittedEntry {
    /// Where a state stands that has applied this entry.
    ///
    /// # Panics
    /// Never for an entry that a replica handed out: offsets begin at 1.
    #[must_use]
    pub fn end(&self) -> AppliedPosition {
        AppliedPosition {
            index: self.index,
            term: self.term,
            members_index: self.members_index,
            offset: Offset::new(self.first_offset.get() + self.records.len() as u64 - 1),
            log_time: self.log_time,
        }
    }
}

/// Where a replica's state stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedPosition {
    /// The last applied entry.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// The last change of membership up to there.
    pub members_index: LogIndex,
    /// The last applied record.
    pub offset: Offset,
    /// The highest log time applied.
    pub log_time: LogTime,
}

impl AppliedPosition {
    /// A fresh replica: it has nothing, not even the beginning.
    pub const ZERO: Self = Self {
        index: LogIndex::ZERO,
        term: Term::ZERO,
        members_index: LogIndex::ZERO,
        offset: Offset::ZERO,
        log_time: LogTime::ZERO,
    };

    /// The first voters begin after an entry that nobody has, so that a node with nothing can only
    /// be helped by a snapshot. It brings the membership, which the log's beginning does not hold.
    pub(crate) const GENESIS: Self = Self {
        index: LogIndex::new(1),
        term: Term::new(1),
        members_index: LogIndex::new(1),
        offset: Offset::ZERO,
        log_time: LogTime::ZERO,
    };
}

impl AppliedPosition {
    /// Where a state stands that was put there. No log that begins with its first voters has an entry of
    /// this place and term which others hold too.
    pub(crate) const FOUNDED: Self =
        Self { index: LogIndex::new(2), members_index: LogIndex::new(2), ..Self::GENESIS };
}

/// The stamp and the records of an entry, as the leader proposes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryBody {
    pub(crate) first_offset: Offset,
    pub(crate) log_time: LogTime,
    pub(crate) records: Vec<Record>,
}

impl EntryBody {
    /// Offset of the last record.
    pub(crate) fn last_offset(&self) -> Offset {
        Offset::new(self.first_offset.get() + self.records.len() as u64 - 1)
    }

    pub(crate) fn encode(&self) -> Bytes {
        assert!(!self.records.is_empty(), "an entry without records takes no offset");
        let payload_bytes: usize =
            self.records.iter().map(|record| RECORD_HEADER_BYTES + record.payload.len()).sum();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + payload_bytes);
        out.put_u8(VERSION);
        out.put_u64_le(self.first_offset.get());
        out.put_u64_le(self.log_time.get());
        out.put_u32_le(self.records.len() as u32);
        for record in &self.records {
            out.put_u64_le(record.id.session);
            out.put_u64_le(record.id.seq);
            out.put_u32_le(record.payload.len() as u32);
            out.put_slice(&record.payload);
        }
        out.freeze()
    }

    /// Payloads share the memory of `raw`.
    pub(crate) fn decode(mut raw: Bytes) -> Result<Self, EntryError> {
        let (first_offset, log_time, count) = Self::decode_header(&raw)?;
        raw.advance(HEADER_BYTES);
        // A record takes at least its header, so a forged count cannot make this allocate much.
        if count as usize > raw.len() / RECORD_HEADER_BYTES {
            return Err(EntryError::Truncated);
        }
        let mut records = Vec::with_capacity(count as usize);
        for _ in 0..count {
            if raw.len() < RECORD_HEADER_BYTES {
                return Err(EntryError::Truncated);
            }
            let id = ProposalId { session: raw.get_u64_le(), seq: raw.get_u64_le() };
            let length = raw.get_u32_le() as usize;
            if raw.len() < length {
                return Err(EntryError::Truncated);
            }
            records.push(Record { id, payload: raw.split_to(length) });
        }
        if !raw.is_empty() {
            return Err(EntryError::TrailingBytes);
        }
        Ok(Self { first_offset, log_time, records })
    }

    /// Last offset and log time, without the records.
    pub(crate) fn decode_tail(raw: &[u8]) -> Result<(Offset, LogTime), EntryError> {
        let (first_offset, log_time, count) = Self::decode_header(raw)?;
        Ok((Offset::new(first_offset.get() + u64::from(count) - 1), log_time))
    }

    fn decode_header(mut raw: &[u8]) -> Result<(Offset, LogTime, u32), EntryError> {
        if raw.len() < HEADER_BYTES {
            return Err(EntryError::Truncated);
        }
        let version = raw.get_u8();
        if version != VERSION {
            return Err(EntryError::UnknownVersion { version });
        }
        let first_offset = raw.get_u64_le();
        let log_time = LogTime::new(raw.get_u64_le());
        let count = raw.get_u32_le();
        if first_offset == 0 || count == 0 {
            return Err(EntryError::ZeroOffset);
        }
        if first_offset.checked_add(u64::from(count)).is_none() {
            return Err(EntryError::ZeroOffset);
        }
        Ok((Offset::new(first_offset), log_time, count))
    }
}

/// Why the bytes of an entry are not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("entry ends early")]
    Truncated,
    #[error("entry has bytes after its last record")]
    TrailingBytes,
    #[error("entry has unknown version={version}")]
    UnknownVersion { version: u8 },
    #[error("entry has no records or an impossible offset")]
    ZeroOffset,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn body(first_offset: u64, payloads: &[Vec<u8>]) -> EntryBody {
        EntryBody {
            first_offset: Offset::new(first_offset),
            log_time: LogTime::new(99),
            records: payloads
                .iter()
                .enumerate()
                .map(|(i, payload)| Record {
                    id: ProposalId { session: 5, seq: i as u64 },
                    payload: Bytes::copy_from_slice(payload),
                })
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn entry_round_trips(first in 1u64..1 << 60, payloads in vec(vec(any::<u8>(), 0..64), 1..8)) {
            let body = body(first, &payloads);
            let encoded = body.encode();
            prop_assert_eq!(EntryBody::decode_tail(&encoded), Ok((body.last_offset(), body.log_time)));
            prop_assert_eq!(EntryBody::decode(encoded), Ok(body));
        }

        #[test]
        fn decode_never_panics(raw in vec(any::<u8>(), 0..200), version in prop::bool::ANY) {
            let mut raw = raw;
            if version && !raw.is_empty() {
                raw[0] = VERSION;
            }
            let _ = EntryBody::decode(Bytes::from(raw));
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let encoded = body(3, &[b"one".to_vec(), b"two".to_vec()]).encode();
        for cut in 0..encoded.len() {
            assert!(EntryBody::decode(encoded.slice(..cut)).is_err(), "cut={cut}");
        }
    }

    #[test]
    fn what_no_leader_wrote_is_refused() {
        let encoded = body(3, &[b"one".to_vec()]).encode();
        let with = |at: usize, bytes: &[u8]| {
            let mut raw = encoded.to_vec();
            raw[at..at + bytes.len()].copy_from_slice(bytes);
            Bytes::from(raw)
        };
        let header = |raw: &Bytes| EntryBody::decode_tail(raw);
        for raw in [with(1, &[0; 8]), with(17, &[0; 4]), with(1, &[0xff; 8])] {
            assert_eq!(header(&raw), Err(EntryError::ZeroOffset));
            assert_eq!(EntryBody::decode(raw), Err(EntryError::ZeroOffset));
        }
        let version = VERSION + 1;
        let newer = with(0, &[version]);
        assert_eq!(header(&newer), Err(EntryError::UnknownVersion { version }));
        // A count that cannot be, which must not be believed before it is checked.
        assert_eq!(EntryBody::decode(with(17, &[0xff; 4])), Err(EntryError::Truncated));
        let longer = Bytes::from([&encoded[..], &[0]].concat());
        assert_eq!(EntryBody::decode(longer), Err(EntryError::TrailingBytes));
        let tail = (Offset::new(3), LogTime::new(99));
        assert_eq!(header(&encoded.slice(..HEADER_BYTES)), Ok(tail), "the records are not read");
    }

    #[test]
    fn an_entry_without_payloads_is_as_short_as_can_be() {
        let body = body(3, &[Vec::new(), Vec::new()]);
        let encoded = body.encode();
        assert_eq!(encoded.len(), HEADER_BYTES + 2 * RECORD_HEADER_BYTES);
        assert_eq!(EntryBody::decode(encoded), Ok(body));
    }

    #[test]
    fn an_applied_entry_ends_at_its_last_record() {
        let body = body(3, &[b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert_eq!(body.last_offset(), Offset::new(5));
        let entry = CommittedEntry {
            members_index: LogIndex::new(2),
            index: LogIndex::new(9),
            term: Term::new(4),
            log_time: body.log_time,
            first_offset: body.first_offset,
            records: body.records,
        };
        let end = AppliedPosition {
            index: LogIndex::new(9),
            term: Term::new(4),
            members_index: LogIndex::new(2),
            offset: Offset::new(5),
            log_time: LogTime::new(99),
        };
        assert_eq!(entry.end(), end);
    }
}
