//! What replicas say to each other, and its bytes.
//!
//! ```text
//! offset  size  field
//!      0     1  kind    1 raft, 2 forward, 3 flushed
//!      1     8  group
//!      9     8  from
//!     17     8  to
//!     25        raft:     an opaque message of the consensus library
//!               forward:  term 8, session 8, resolved_up_to 8, count 4,
//!                         then count times seq 8, length 4, payload
//!               flushed:  index 8
//! ```
//! Little-endian. Length and checksum belong to the frame around it, in the transport.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::{GroupId, LogIndex};

use crate::identity::{NodeId, Term};

const HEADER_BYTES: usize = 1 + 3 * 8;
const KIND_RAFT: u8 = 1;
const KIND_FORWARD: u8 = 2;
const KIND_FLUSHED: u8 = 3;
const FORWARDED_HEADER_BYTES: usize = 8 + 4;

/// A message from one replica of a group to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group both replicas belong to.
    pub group: GroupId,
    /// Who sent it.
    pub from: NodeId,
    /// Who is to have it.
    pub to: NodeId,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A message of the consensus library, in its own encoding.
    Raft(Bytes),
    /// Records for the leader of a term to propose. Any other leader ignores it: the origin sends
    /// again once it has applied an entry of a newer term, and only then.
    Forward(Forward),
    /// The sender's state up to this entry survives a crash: nobody keeps log for it below.
    Flushed {
        /// The last entry covered.
        index: LogIndex,
    },
}

/// Records on their way from the node that was called to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The only term in which these may be proposed.
    pub term: Term,
    /// The origin's session.
    pub session: u64,
    /// Every proposal of the session up to here is resolved; a late copy of one is ignored.
    pub resolved_up_to: u64,
    /// Sequence number and payload, ascending.
    pub records: Vec<(u64, Bytes)>,
}

/// Why bytes are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the message does.
    #[error("message ends early")]
    Truncated,
    /// The bytes go on after the message.
    #[error("message has bytes after its end")]
    TrailingBytes,
    /// A kind this release does not know.
    #[error("message has unknown kind={kind}")]
    UnknownKind {
        /// The byte found.
        kind: u8,
    },
}

impl Envelope {
    /// Length of the encoding.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES
            + match &self.body {
                Body::Raft(message) => message.len(),
                Body::Forward(forward) => {
                    28 + forward
                        .records
                        .iter()
                        .map(|(_, payload)| FORWARDED_HEADER_BYTES + payload.len())
                        .sum::<usize>()
                }
                Body::Flushed { .. } => 8,
            }
    }

    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.reserve(self.encoded_bytes());
        out.put_u8(match &self.body {
            Body::Raft(_) => KIND_RAFT,
            Body::Forward(_) => KIND_FORWARD,
            Body::Flushed { .. } => KIND_FLUSHED,
        });
        out.put_u64_le(self.group.get());
        out.put_u64_le(self.from.get());
        out.put_u64_le(self.to.get());
        match &self.body {
            Body::Raft(message) => out.put_slice(message),
            Body::Forward(forward) => {
                out.put_u64_le(forward.term.get());
                out.put_u64_le(forward.session);
                out.put_u64_le(forward.resolved_up_to);
                out.put_u32_le(forward.records.len() as u32);
                for (seq, payload) in &forward.records {
                    out.put_u64_le(*seq);
                    out.put_u32_le(payload.len() as u32);
                    out.put_slice(payload);
                }
            }
            Body::Flushed { index } => out.put_u64_le(index.get()),
        }
        debug_assert_eq!(out.len() - start, self.encoded_bytes());
    }

    /// Reads one envelope; payloads share the memory of `raw`.
    ///
    /// # Errors
    /// When the bytes are not exactly one envelope.
    pub fn decode(mut raw: Bytes) -> Result<Self, WireError> {
        if raw.len() < HEADER_BYTES {
            return Err(WireError::Truncated);
        }
        let kind = raw.get_u8();
        let group = GroupId::new(raw.get_u64_le());
        let from = NodeId::new(raw.get_u64_le());
        let to = NodeId::new(raw.get_u64_le());
        let body = match kind {
            KIND_RAFT => Body::Raft(raw),
            KIND_FORWARD => Body::Forward(Forward::decode(raw)?),
            KIND_FLUSHED => match raw.len() {
                0..8 => return Err(WireError::Truncated),
                8 => Body::Flushed { index: LogIndex::new(raw.get_u64_le()) },
                _ => return Err(WireError::TrailingBytes),
            },
            kind => return Err(WireError::UnknownKind { kind }),
        };
        Ok(Self { group, from, to, body })
    }
}

impl Forward {
    fn decode(mut raw: Bytes) -> Result<Self, WireError> {
        if raw.len() < 28 {
            return Err(WireError::Truncated);
        }
        let term = Term::new(raw.get_u64_le());
        let session = raw.get_u64_le();
        let resolved_up_to = raw.get_u64_le();
        let count = raw.get_u32_le() as usize;
        // Each record takes at least its header, so a forged count cannot allocate much.
        if count > raw.len() / FORWARDED_HEADER_BYTES {
            return Err(WireError::Truncated);
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            if raw.len() < FORWARDED_HEADER_BYTES {
                return Err(WireError::Truncated);
            }
            let seq = raw.get_u64_le();
            let length = raw.get_u32_le() as usize;
            if raw.len() < length {
                return Err(WireError::Truncated);
            }
            records.push((seq, raw.split_to(length)));
        }
        if !raw.is_empty() {
            return Err(WireError::TrailingBytes);
        }
        Ok(Self { term, session, resolved_up_to, records })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn body() -> impl Strategy<Value = Body> {
        let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        prop_oneof![
            bytes().prop_map(Body::Raft),
            any::<u64>().prop_map(|index| Body::Flushed { index: LogIndex::new(index) }),
            (any::<u64>(), any::<u64>(), any::<u64>(), vec((any::<u64>(), bytes()), 0..5))
                .prop_map(|(term, session, resolved_up_to, records)| Body::Forward(Forward {
                    term: Term::new(term),
                    session,
                    resolved_up_to,
                    records,
                })),
        ]
    }

    proptest! {
        #[test]
        fn envelope_round_trips(group: u64, from: u64, to: u64, body in body()) {
            let envelope = Envelope {
                group: GroupId::new(group), from: NodeId::new(from), to: NodeId::new(to), body,
            };
            let mut out = BytesMut::new();
            envelope.encode(&mut out);
            prop_assert_eq!(out.len(), envelope.encoded_bytes());
            prop_assert_eq!(Envelope::decode(out.freeze()), Ok(envelope));
        }

        #[test]
        fn decode_never_panics(kind in 0u8..5, raw in vec(any::<u8>(), 0..120)) {
            let mut raw = raw;
            raw.insert(0, kind);
            let _ = Envelope::decode(Bytes::from(raw));
        }
    }
}
