//! What a snapshot is: the rows of one group's state at one place of its log, cut into chunks, and a
//! manifest that says what they must be.
//!
//! ```text
//! manifest   version 1, group 8, index 8, term 8, members_index 8, offset 8, log_time 8, count 4,
//!            then for each chunk length 4 and SHA-256 32
//! id         the first 16 bytes of the SHA-256 of the manifest
//! ```
//! Little-endian. The same state gives the same chunks and so the same id at every replica.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::{GroupId, LogIndex};
use sha2::{Digest, Sha256};

use crate::entry::AppliedPosition;
use crate::identity::{LogTime, Offset, Term};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 6 * 8 + 4;
const CHUNK_BYTES: usize = 4 + 32;
/// What an exporter cuts its rows into; one row more may follow.
pub const CHUNK_BYTES_TARGET: usize = 1 << 20;
/// Largest chunk that is taken.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;
/// More chunks than this make no snapshot: 256 GiB of state in one group.
const CHUNKS_MAX: usize = 1 << 18;

/// Names a snapshot by what is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId(pub(crate) [u8; 16]);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

/// What one chunk must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkSum {
    pub(crate) length: u32,
    pub(crate) sha256: [u8; 32],
}

impl ChunkSum {
    pub(crate) fn of(chunk: &[u8]) -> Self {
        Self { length: chunk.len() as u32, sha256: Sha256::digest(chunk).into() }
    }
}

/// What a snapshot must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) group: GroupId,
    pub(crate) position: AppliedPosition,
    pub(crate) chunks: Vec<ChunkSum>,
}

impl Manifest {
    pub(crate) fn id(&self) -> SnapshotId {
        let digest = Sha256::digest(self.encode());
        SnapshotId(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + CHUNK_BYTES * self.chunks.len()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        out.put_u8(VERSION);
        out.put_u64_le(self.group.get());
        out.put_u64_le(self.position.index.get());
        out.put_u64_le(self.position.term.get());
        out.put_u64_le(self.position.members_index.get());
        out.put_u64_le(self.position.offset.get());
        out.put_u64_le(self.position.log_time.get());
        out.put_u32_le(self.chunks.len() as u32);
        for chunk in &self.chunks {
            out.put_u32_le(chunk.length);
            out.put_slice(&chunk.sha256);
        }
        out.freeze()
    }

    pub(crate) fn decode(mut raw: &[u8]) -> Option<Self> {
        if raw.len() < HEADER_BYTES || raw.get_u8() != VERSION {
            return None;
        }
        let group = GroupId::new(raw.get_u64_le());
        let position = AppliedPosition {
            index: LogIndex::new(raw.get_u64_le()),
            term: Term::new(raw.get_u64_le()),
            members_index: LogIndex::new(raw.get_u64_le()),
            offset: Offset::new(raw.get_u64_le()),
            log_time: LogTime::new(raw.get_u64_le()),
        };
        let count = raw.get_u32_le() as usize;
        if count > CHUNKS_MAX || raw.len() != CHUNK_BYTES * count {
            return None;
        }
        let chunks: Vec<ChunkSum> = (0..count)
            .map(|_| {
                let length = raw.get_u32_le();
                let mut sha256 = [0; 32];
                raw.copy_to_slice(&mut sha256);
                ChunkSum { length, sha256 }
            })
            .collect();
        let fits = chunks.iter().all(|chunk| chunk.length as usize <= CHUNK_BYTES_MAX);
        fits.then_some(Self { group, position, chunks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_round_trips_and_its_id_names_every_byte() {
        let manifest = Manifest {
            group: GroupId::new(3),
            position: AppliedPosition {
                index: LogIndex::new(9),
                term: Term::new(2),
                members_index: LogIndex::new(1),
                offset: Offset::new(7),
                log_time: LogTime::new(5),
            },
            chunks: vec![ChunkSum::of(b"one"), ChunkSum::of(b"two")],
        };
        let raw = manifest.encode();
        assert_eq!(Manifest::decode(&raw).as_ref(), Some(&manifest));
        for cut in 0..raw.len() {
            assert_eq!(Manifest::decode(&raw[..cut]), None, "cut={cut}");
        }
        for at in 1..raw.len() {
            let mut other = raw.to_vec();
            other[at] ^= 1;
            let id = Manifest::decode(&other).map(|other| other.id());
            assert_ne!(id, Some(manifest.id()), "at={at}");
        }
    }

    #[test]
    fn a_forged_count_or_length_is_refused() {
        let manifest = Manifest {
            group: GroupId::new(1),
            position: AppliedPosition::ZERO,
            chunks: vec![ChunkSum { length: CHUNK_BYTES_MAX as u32 + 1, sha256: [0; 32] }],
        };
        assert_eq!(Manifest::decode(&manifest.encode()), None);
        let mut raw = Manifest { chunks: Vec::new(), ..manifest }.encode().to_vec();
        raw[HEADER_BYTES - 4..].fill(0xff);
        assert_eq!(Manifest::decode(&raw), None);
    }
}
