//! What goes over a connection: length 4, CRC-32 of the body 4, body. Little-endian.
//!
//! ```text
//! body   one envelope (see `wire`), or of the connection itself:
//!        0, age 8, its draw 8     how old the sender's data directory is (see `ages`)
//! ```

use bytes::{Buf, BufMut, BytesMut};

use crate::ages::Age;
use crate::options::RECORD_BYTES_LIMIT;
use crate::peer_faults::PeerFault;
use crate::wire::{Envelope, WireError};

const HEADER_BYTES: usize = 8;
/// No envelope begins like that.
const KIND_AGE: u8 = 0;
const AGE_BYTES: usize = 1 + 8 + 8;

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Message(Envelope),
    Age(Age),
}
/// Largest body that is read: a message of entries, each within its own bound, and their headers.
pub(crate) const BODY_BYTES_MAX: usize = 4 * RECORD_BYTES_LIMIT;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of length={length} is longer than any message may be")]
    Oversized { length: usize },
    #[error("a frame has a wrong checksum")]
    Corrupt,
    #[error("{0}")]
    Message(#[from] WireError),
}

impl FrameError {
    pub(crate) fn fault(self) -> PeerFault {
        match self {
            Self::Oversized { .. } => PeerFault::Oversized,
            Self::Corrupt => PeerFault::Corrupt,
            Self::Message(WireError::UnknownKind { .. }) => PeerFault::UnknownVersion,
            Self::Message(WireError::Truncated | WireError::TrailingBytes) => PeerFault::Malformed,
        }
    }
}

pub(crate) fn put_frame(out: &mut BytesMut, envelope: &Envelope) {
    put(out, |out| envelope.encode(out));
}

pub(crate) fn put_age(out: &mut BytesMut, age: Age) {
    put(out, |out| {
        out.put_u8(KIND_AGE);
        out.put_u64_le(age.count);
        out.put_u64_le(age.draw);
    });
}

fn put(out: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    encode(out);
    let body = start + HEADER_BYTES;
    // `Options::validate` sees to it: the other side would close the connection.
    debug_assert!(out.len() - body <= BODY_BYTES_MAX);
    let length = (out.len() - body) as u32;
    let crc = crc32fast::hash(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// Takes one whole frame off the front of the buffer, if it is there.
pub(crate) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
    let (length, crc) = (word(0) as usize, word(4));
    if length > BODY_BYTES_MAX {
        return Err(FrameError::Oversized { length });
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let body = buffer.split_to(length).freeze();
    if crc32fast::hash(&body) != crc {
        return Err(FrameError::Corrupt);
    }
    if body.first() == Some(&KIND_AGE) && body.len() == AGE_BYTES {
        let mut fields = &body[1..];
        let age = Age { count: fields.get_u64_le(), draw: fields.get_u64_le() };
        return Ok(Some(Frame::Age(age)));
    }
    Ok(Some(Frame::Message(Envelope::decode(body)?)))
}

#[cfg(test)]
mod tests {
    use palisade_wal::{GroupId, LogIndex};

    use super::*;
    use crate::identity::NodeId;
    use crate::wire::Body;

    #[test]
    fn a_damaged_or_endless_frame_is_noticed() {
        let envelope = Envelope {
            group: GroupId::new(1),
            from: NodeId::new(1),
            to: NodeId::new(2),
            body: Body::Flushed { index: LogIndex::new(3) },
        };
        let mut out = BytesMut::new();
        put_frame(&mut out, &envelope);
        let good = out.clone();
        assert_eq!(take_frame(&mut out).unwrap(), Some(Frame::Message(envelope)));
        let age = Age { count: 3, draw: u64::MAX };
        put_age(&mut out, age);
        assert_eq!(take_frame(&mut out).unwrap(), Some(Frame::Age(age)));
        for cut in 0..good.len() {
            assert_eq!(take_frame(&mut BytesMut::from(&good[..cut])).unwrap(), None);
        }
        for at in 4..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(take_frame(&mut bad).is_err(), "at={at}");
        }
        let mut endless = BytesMut::from(&[0xff; 16][..]);
        assert!(take_frame(&mut endless).is_err());
    }
}
