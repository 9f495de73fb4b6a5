//! What replicas say to each other, and its bytes.
//!
//! ```text
//! offset  size  field
//!      0     1  kind    1 raft, 2 forward, 3 flushed, 4 beats, 5 fetch, 6 chunk, 7 want, 8 given,
//!                        9 recount, 10 recounted, 11 demand, 12 confirm
//!      1     8  group   0 for beats, which name their own
//!      9     8  from
//!     17     8  to
//!     25        raft:     an opaque message of the consensus library
//!               forward:  term 8, session 8, resolved_up_to 8, count 4,
//!                         then count times seq 8, length 4, payload
//!               flushed:  index 8
//!               beats:    count times group 8, term 8, commit 8, answer 1
//!               fetch:    snapshot 16, chunk 4
//!               chunk:    snapshot 16, chunk 4, then its bytes
//!               want:     first 8, anchor index 8, anchor term 8
//!               given:    as want, then 1 if trimmed, 2 if unknown, or 0 and
//!                         any number of times length 4, entry
//!               recount:  stand 8
//!               recounted: stand 8, term 8, last 8
//!               confirm:  stand 8, then as raft
//!               demand:   nothing
//! ```
//! Little-endian. Length and checksum belong to the frame around it, in the transport.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::{GroupId, LogIndex};

use crate::identity::{NodeId, Term};
use crate::snapshot::SnapshotId;

const HEADER_BYTES: usize = 1 + 3 * 8;
const KIND_RAFT: u8 = 1;
const KIND_FORWARD: u8 = 2;
const KIND_FLUSHED: u8 = 3;
const KIND_BEATS: u8 = 4;
const KIND_FETCH: u8 = 5;
const KIND_CHUNK: u8 = 6;
const KIND_WANT: u8 = 7;
const KIND_GIVEN: u8 = 8;
const KIND_RECOUNT: u8 = 9;
const KIND_RECOUNTED: u8 = 10;
const KIND_DEMAND: u8 = 11;
const KIND_CONFIRM: u8 = 12;
const WANT_BYTES: usize = 3 * 8;
pub(crate) const FORWARDED_HEADER_BYTES: usize = 8 + 4;
const BEAT_BYTES: usize = 3 * 8 + 1;
const CHUNK_HEADER_BYTES: usize = 16 + 4;
/// What an envelope of beats names, which are of many groups. No group has this number.
pub(crate) const NO_GROUP: GroupId = GroupId::new(u64::MAX);

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
    /// Heartbeats of many groups, or their answers, in one message.
    Beats(Vec<Beat>),
    /// The sender wants a chunk of a snapshot it was offered.
    Fetch {
        /// Which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        chunk: u32,
    },
    /// A chunk that was asked for.
    Chunk {
        /// Which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        chunk: u32,
        /// What it is.
        bytes: Bytes,
    },
    /// The sender lost entries, and wants them from whoever holds the one that follows them.
    Want(Want),
    /// An answer to that.
    Given {
        /// What was wanted.
        want: Want,
        /// Entries from the first on, as the log stores them, or why there are none.
        entries: Result<Vec<Bytes>, NotGiven>,
    },
    /// The sender lost something that it had confirmed to the leader.
    Recount {
        /// What it confirms from now on bears this number. Anything else is from before.
        stand: u64,
    },
    /// The leader counts the receiver anew.
    Recounted {
        /// By what bears this number.
        stand: u64,
        /// The leader's term.
        term: Term,
        /// Its last entry.
        last: LogIndex,
    },
    /// A message of the consensus library that confirms entries.
    Confirm {
        /// Which life of the sender's log confirms them: another since it last lost something.
        stand: u64,
        /// In the library's own encoding.
        message: Bytes,
    },
    /// Somebody asked the sender for commits across failure domains: the leader may make it so.
    Demand,
}

/// Entries that are wanted: from `first` up to before the anchor, of the log that holds the anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The first entry wanted.
    pub first: LogIndex,
    /// An entry behind all that are wanted, or the one that is.
    pub anchor: LogIndex,
    /// Its term. Logs that hold the same anchor hold the same entries before it.
    pub term: Term,
}

/// Why entries are not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGiven {
    /// They were committed, and are trimmed.
    Trimmed,
    /// The anchor is not there.
    Unknown,
    /// Something is missing here too.
    Doubtful,
}

/// A leader's word to a follower of one group that it leads still, or the follower's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The group.
    pub group: GroupId,
    /// The sender's term.
    pub term: Term,
    /// What the receiver may know to be committed, or what the follower knows.
    pub commit: LogIndex,
    /// The follower's answer.
    pub answer: bool,
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
                Body::Beats(beats) => BEAT_BYTES * beats.len(),
                Body::Fetch { .. } => CHUNK_HEADER_BYTES,
                Body::Chunk { bytes, .. } => CHUNK_HEADER_BYTES + bytes.len(),
                Body::Want(_) => WANT_BYTES,
                Body::Given { entries, .. } => {
                    let entries = entries.iter().flatten();
                    WANT_BYTES + 1 + entries.map(|entry| 4 + entry.len()).sum::<usize>()
                }
                Body::Demand => 0,
                Body::Recount { .. } => 8,
                Body::Recounted { .. } => 24,
                Body::Confirm { message, .. } => 8 + message.len(),
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
            Body::Beats(_) => KIND_BEATS,
            Body::Fetch { .. } => KIND_FETCH,
            Body::Chunk { .. } => KIND_CHUNK,
            Body::Want(_) => KIND_WANT,
            Body::Given { .. } => KIND_GIVEN,
            Body::Recount { .. } => KIND_RECOUNT,
            Body::Recounted { .. } => KIND_RECOUNTED,
            Body::Demand => KIND_DEMAND,
            Body::Confirm { .. } => KIND_CONFIRM,
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
            Body::Beats(beats) => {
                for beat in beats {
                    out.put_u64_le(beat.group.get());
                    out.put_u64_le(beat.term.get());
                    out.put_u64_le(beat.commit.get());
                    out.put_u8(beat.answer.into());
                }
            }
            Body::Fetch { snapshot, chunk } => {
                out.put_slice(&snapshot.0);
                out.put_u32_le(*chunk);
            }
            Body::Chunk { snapshot, chunk, bytes } => {
                out.put_slice(&snapshot.0);
                out.put_u32_le(*chunk);
                out.put_slice(bytes);
            }
            Body::Want(want) => want.encode(out),
            Body::Given { want, entries } => {
                want.encode(out);
                out.put_u8(match entries {
                    Ok(_) => 0,
                    Err(NotGiven::Trimmed) => 1,
                    Err(NotGiven::Unknown) => 2,
                    Err(NotGiven::Doubtful) => 3,
                });
                for entry in entries.iter().flatten() {
                    out.put_u32_le(entry.len() as u32);
                    out.put_slice(entry);
                }
            }
            Body::Demand => {}
            Body::Recount { stand } => out.put_u64_le(*stand),
            Body::Confirm { stand, message } => {
                out.put_u64_le(*stand);
                out.put_slice(message);
            }
            Body::Recounted { stand, term, last } => {
                out.put_u64_le(*stand);
                out.put_u64_le(term.get());
                out.put_u64_le(last.get());
            }
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
            KIND_BEATS => Body::Beats(decode_beats(raw)?),
            KIND_FETCH | KIND_CHUNK => {
                if raw.len() < CHUNK_HEADER_BYTES {
                    return Err(WireError::Truncated);
                }
                let mut id = [0; 16];
                raw.copy_to_slice(&mut id);
                let (snapshot, chunk) = (SnapshotId(id), raw.get_u32_le());
                match kind {
                    KIND_CHUNK => Body::Chunk { snapshot, chunk, bytes: raw },
                    _ if raw.is_empty() => Body::Fetch { snapshot, chunk },
                    _ => return Err(WireError::TrailingBytes),
                }
            }
            KIND_WANT | KIND_GIVEN => {
                let want = Want::decode(&mut raw)?;
                match kind {
                    KIND_GIVEN => Body::Given { want, entries: decode_given(raw)? },
                    _ if raw.is_empty() => Body::Want(want),
                    _ => return Err(WireError::TrailingBytes),
                }
            }
            KIND_DEMAND if raw.is_empty() => Body::Demand,
            KIND_DEMAND => return Err(WireError::TrailingBytes),
            KIND_RECOUNT => match raw.len() {
                0..8 => return Err(WireError::Truncated),
                8 => Body::Recount { stand: raw.get_u64_le() },
                _ => return Err(WireError::TrailingBytes),
            },
            KIND_CONFIRM if raw.len() < 8 => return Err(WireError::Truncated),
            KIND_CONFIRM => Body::Confirm { stand: raw.get_u64_le(), message: raw },
            KIND_RECOUNTED => match raw.len() {
                0..24 => return Err(WireError::Truncated),
                24 => {
                    let stand = raw.get_u64_le();
                    let term = Term::new(raw.get_u64_le());
                    Body::Recounted { stand, term, last: LogIndex::new(raw.get_u64_le()) }
                }
                _ => return Err(WireError::TrailingBytes),
            },
            kind => return Err(WireError::UnknownKind { kind }),
        };
        Ok(Self { group, from, to, body })
    }
}

impl Want {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.first.get());
        out.put_u64_le(self.anchor.get());
        out.put_u64_le(self.term.get());
    }

    fn decode(raw: &mut Bytes) -> Result<Self, WireError> {
        if raw.len() < WANT_BYTES {
            return Err(WireError::Truncated);
        }
        let first = LogIndex::new(raw.get_u64_le());
        let anchor = LogIndex::new(raw.get_u64_le());
        Ok(Self { first, anchor, term: Term::new(raw.get_u64_le()) })
    }
}

fn decode_given(mut raw: Bytes) -> Result<Result<Vec<Bytes>, NotGiven>, WireError> {
    if raw.is_empty() {
        return Err(WireError::Truncated);
    }
    let not = match raw.get_u8() {
        0 => None,
        1 => Some(NotGiven::Trimmed),
        2 => Some(NotGiven::Unknown),
        3 => Some(NotGiven::Doubtful),
        kind => return Err(WireError::UnknownKind { kind }),
    };
    match not {
        Some(not) if raw.is_empty() => return Ok(Err(not)),
        Some(_) => return Err(WireError::TrailingBytes),
        None => {}
    }
    let mut entries = Vec::new();
    while !raw.is_empty() {
        if raw.len() < 4 {
            return Err(WireError::Truncated);
        }
        let length = raw.get_u32_le() as usize;
        if raw.len() < length {
            return Err(WireError::Truncated);
        }
        entries.push(raw.split_to(length));
    }
    Ok(Ok(entries))
}

fn decode_beats(mut raw: Bytes) -> Result<Vec<Beat>, WireError> {
    if raw.is_empty() || !raw.len().is_multiple_of(BEAT_BYTES) {
        return Err(WireError::Truncated);
    }
    let mut beats = Vec::with_capacity(raw.len() / BEAT_BYTES);
    while !raw.is_empty() {
        let group = GroupId::new(raw.get_u64_le());
        let term = Term::new(raw.get_u64_le());
        let commit = LogIndex::new(raw.get_u64_le());
        let answer = match raw.get_u8() {
            0 => false,
            1 => true,
            kind => return Err(WireError::UnknownKind { kind }),
        };
        beats.push(Beat { group, term, commit, answer });
    }
    Ok(beats)
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
        let want = || {
            (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(first, anchor, term)| Want {
                first: LogIndex::new(first),
                anchor: LogIndex::new(anchor),
                term: Term::new(term),
            })
        };
        let entries = prop_oneof![
            vec(bytes(), 0..4).prop_map(Ok),
            Just(Err(NotGiven::Trimmed)),
            Just(Err(NotGiven::Unknown)),
            Just(Err(NotGiven::Doubtful)),
        ];
        let beat = (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
            |(group, term, commit, answer)| Beat {
                group: GroupId::new(group),
                term: Term::new(term),
                commit: LogIndex::new(commit),
                answer,
            },
        );
        let chunk = (any::<[u8; 16]>(), any::<u32>());
        prop_oneof![
            want().prop_map(Body::Want),
            (want(), entries).prop_map(|(want, entries)| Body::Given { want, entries }),
            any::<u64>().prop_map(|stand| Body::Recount { stand }),
            (any::<u64>(), bytes()).prop_map(|(stand, message)| Body::Confirm { stand, message }),
            Just(Body::Demand),
            (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(stand, term, last)| {
                Body::Recounted { stand, term: Term::new(term), last: LogIndex::new(last) }
            }),
            vec(beat, 1..5).prop_map(Body::Beats),
            chunk.prop_map(|(id, chunk)| Body::Fetch { snapshot: SnapshotId(id), chunk }),
            (chunk, bytes()).prop_map(|((id, chunk), bytes)| Body::Chunk {
                snapshot: SnapshotId(id),
                chunk,
                bytes,
            }),
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
        fn decode_never_panics(kind in 0u8..14, raw in vec(any::<u8>(), 0..120)) {
            let mut raw = raw;
            raw.insert(0, kind);
            let _ = Envelope::decode(Bytes::from(raw));
        }
    }
}
