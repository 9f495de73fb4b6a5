//! A small file beside the segments that says up to which batch everything was synced.
//!
//! A mark behind the last batch says so too, but it often lies in the same sector: what takes one takes
//! the other, and the log looks as if its end had never been written. This file lies elsewhere.
//!
//! ```text
//! offset  size  field    rule
//!      0     8  magic    "PLSDSYNC"
//!      8     4  version  1
//!     12     4  crc32    over the owner (cluster, node, incarnation), then 0..12 and 16..24
//!     16     8  seq      every batch up to here was synced before this was written
//!     24   488  zeros
//! ```
//! Little-endian. It is written with each mark, and synced only before a segment is freed: what it says holds as
//! soon as it can be read, whenever that is. One that does not hold, or is not there, says nothing.

use crc32fast::Hasher;

use crate::position::{BatchSeq, SEQ_MAX};

pub(crate) const NOTE_NAME: &str = "synced";
/// One sector: it is written whole or not at all.
pub(crate) const NOTE_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"PLSDSYNC";
const VERSION: u32 = 1;

pub(crate) fn encode(domain: &Hasher, synced: BatchSeq) -> [u8; NOTE_BYTES] {
    let mut raw = [0; NOTE_BYTES];
    raw[0..8].copy_from_slice(MAGIC);
    raw[8..12].copy_from_slice(&VERSION.to_le_bytes());
    raw[16..24].copy_from_slice(&synced.get().to_le_bytes());
    let crc = crc(domain, &raw);
    raw[12..16].copy_from_slice(&crc.to_le_bytes());
    raw
}

/// The batch, or zero if the bytes say nothing.
pub(crate) fn decode(domain: &Hasher, raw: &[u8]) -> BatchSeq {
    let known = raw.len() == NOTE_BYTES
        && &raw[..8] == MAGIC
        && raw[8..12] == VERSION.to_le_bytes()
        && raw[12..16] == crc(domain, raw).to_le_bytes();
    let seq = || u64::from_le_bytes(raw[16..24].try_into().expect("eight bytes"));
    let synced = if known { BatchSeq::new(seq()) } else { BatchSeq::ZERO };
    if SEQ_MAX < synced { BatchSeq::ZERO } else { synced }
}

fn crc(domain: &Hasher, raw: &[u8]) -> u32 {
    let mut hasher = domain.clone();
    hasher.update(&raw[..12]);
    hasher.update(&raw[16..24]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_was_written_or_nothing() {
        let domain = Hasher::new();
        let raw = encode(&domain, BatchSeq::new(7));
        assert_eq!(decode(&domain, &raw), BatchSeq::new(7));
        for at in 0..24 {
            let mut bad = raw;
            bad[at] ^= 1;
            assert_eq!(decode(&domain, &bad), BatchSeq::ZERO, "at={at}");
        }
        assert_eq!(decode(&domain, &raw[..24]), BatchSeq::ZERO);
        let beyond = BatchSeq::new(SEQ_MAX.get() + 1);
        assert_eq!(decode(&domain, &encode(&domain, beyond)), BatchSeq::ZERO);
        let mut other = Hasher::new();
        other.update(&[1]);
        assert_eq!(decode(&other, &raw), BatchSeq::ZERO);
    }
}
