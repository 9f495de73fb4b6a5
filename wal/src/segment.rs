//! Segment files: their names, and the header that says whose they are.
//!
//! ```text
//! offset  size  field        rule
//!      0     8  magic        "PLSDWAL\n"
//!      8     4  version      1, or 2 of a sealed one
//!     12     4  crc32        over bytes 0..12 and 16..96
//!     16    16  cluster
//!     32     8  node
//!     40    16  incarnation
//!     56     8  segment      as in the file's name
//!     64     8  first_seq    of the first frame; every batch below it was synced before
//!     72     8  bytes        length of the file; a shorter one was cut
//!     80     1  flags        1: it was begun behind damage, numbers below first_seq may be unused
//!                            2: batches were lost, and groups may be that nothing tells of any more
//!     81     3  check        of the key of the epoch, zeros in version 1
//!     84     4  epoch        that payloads are sealed with, zeros in version 1
//!     88     8  prev_first   first_seq of the segment before, in case its header goes bad; 0 if none
//! ```
//! Little-endian. A file gets its header, is synced, and only then its name: a segment by name
//! always has one.

use crc32fast::Hasher;

use crate::error::WalError;
use crate::keys::KeyEpoch;
use crate::position::{BatchSeq, SEQ_MAX, SegmentId};
use crate::sealing::SealMark;

/// Length of what a segment begins with.
pub const SEGMENT_HEADER_BYTES: u64 = 96;
const MAGIC: &[u8; 8] = b"PLSDWAL\n";
const VERSION: u32 = 1;
const VERSION_SEALED: u32 = 2;

/// Whose wal it is. Part of every checksum, so that another owner's frames cannot pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIdentity {
    /// The cluster.
    pub cluster: u128,
    /// The node in it.
    pub node: u64,
    /// The life of its data directory.
    pub incarnation: u128,
}

impl WalIdentity {
    /// The state that every frame checksum of this owner starts from.
    pub(crate) fn domain(&self) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.update(&self.cluster.to_le_bytes());
        hasher.update(&self.node.to_le_bytes());
        hasher.update(&self.incarnation.to_le_bytes());
        hasher
    }
}

/// What a segment's header says beside its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment: SegmentId,
    pub(crate) first_seq: BatchSeq,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Damage lies before it and is known of.
    pub(crate) after_damage: bool,
    /// Batches were lost, and with them groups may be that nothing tells of any more.
    pub(crate) unlisted: bool,
    /// The first batch of the segment before, or zero.
    pub(crate) prev_first: BatchSeq,
    /// What payloads are sealed with; none if they are clear.
    pub(crate) seal: Option<SealMark>,
}

pub(crate) fn file_name(segment: SegmentId) -> String {
    format!("{:016x}.seg", segment.get())
}

/// A prewritten file that waits to become a segment.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

pub(crate) enum FileKind {
    Segment(SegmentId),
    Spare(u64),
    Other,
}

/// Beyond what files are ever numbered with: such a name was made up.
const NUMBER_MAX: u64 = 1 << 62;
/// The highest number that a log goes on from: no log comes so far by itself.
pub(crate) const NUMBER_FOUND_MAX: u64 = 1 << 61;

/// Only a name that the wal itself would give counts.
pub(crate) fn kind_of(name: &str) -> FileKind {
    let number = |end: &str| {
        let number = u64::from_str_radix(name.strip_suffix(end)?, 16).ok();
        number.filter(|number| *number <= NUMBER_MAX)
    };
    let segment = number(".seg").map(SegmentId::new).filter(|id| file_name(*id) == name);
    let spare = number(".spare").filter(|number| spare_name(*number) == name);
    match (segment, spare) {
        (Some(id), _) => FileKind::Segment(id),
        (None, Some(number)) => FileKind::Spare(number),
        (None, None) => FileKind::Other,
    }
}

pub(crate) fn encode_header(
    identity: &WalIdentity,
    header: SegmentHeader,
) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut raw = [0; SEGMENT_HEADER_BYTES as usize];
    raw[0..8].copy_from_slice(MAGIC);
    let version = if header.seal.is_some() { VERSION_SEALED } else { VERSION };
    raw[8..12].copy_from_slice(&version.to_le_bytes());
    raw[16..32].copy_from_slice(&identity.cluster.to_le_bytes());
    raw[32..40].copy_from_slice(&identity.node.to_le_bytes());
    raw[40..56].copy_from_slice(&identity.incarnation.to_le_bytes());
    raw[56..64].copy_from_slice(&header.segment.get().to_le_bytes());
    raw[64..72].copy_from_slice(&header.first_seq.get().to_le_bytes());
    raw[72..80].copy_from_slice(&header.bytes.to_le_bytes());
    raw[80] = u8::from(header.after_damage) | u8::from(header.unlisted) << 1;
    if let Some(SealMark { epoch, check }) = header.seal {
        raw[81..84].copy_from_slice(&check);
        raw[84..88].copy_from_slice(&epoch.get().to_le_bytes());
    }
    raw[88..96].copy_from_slice(&header.prev_first.get().to_le_bytes());
    let crc = header_crc(&raw);
    raw[12..16].copy_from_slice(&crc.to_le_bytes());
    raw
}

/// `Ok(None)` if the bytes are not a header, an error if they are someone else's or newer.
pub(crate) fn decode_header(
    identity: &WalIdentity,
    file: &str,
    raw: &[u8],
) -> Result<Option<SegmentHeader>, WalError> {
    let Some(raw) = raw.get(..SEGMENT_HEADER_BYTES as usize) else { return Ok(None) };
    if &raw[..8] != MAGIC {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"));
    let wide = |at: usize| u128::from_le_bytes(raw[at..at + 16].try_into().expect("16 bytes"));
    if header_crc(raw) != word(12) {
        return Ok(None);
    }
    if !is_known(word(8)) {
        return Err(WalError::UnknownVersion { file: file.to_owned(), found: word(8) });
    }
    let found = WalIdentity { cluster: wide(16), node: long(32), incarnation: wide(40) };
    if found != *identity {
        let difference = if found.cluster != identity.cluster {
            format!("cluster={:032x}", found.cluster)
        } else if found.node != identity.node {
            format!("node={}", found.node)
        } else {
            format!("incarnation={:032x}", found.incarnation)
        };
        return Err(WalError::Foreign { file: file.to_owned(), difference });
    }
    // Nobody wrote this: batches are numbered from 1, and files are shorter.
    let first_seqs = 1..=SEQ_MAX.get();
    if !first_seqs.contains(&long(64)) || SEQ_MAX.get() < long(88) || u64::from(u32::MAX) < long(72)
    {
        return Ok(None);
    }
    let mark = |epoch| SealMark { epoch, check: raw[81..84].try_into().expect("three bytes") };
    let seal = KeyEpoch::new(word(84)).map(mark).filter(|_| word(8) == VERSION_SEALED);
    if seal.is_none() && word(8) == VERSION_SEALED {
        return Ok(None);
    }
    Ok(Some(SegmentHeader {
        segment: SegmentId::new(long(56)),
        first_seq: BatchSeq::new(long(64)),
        bytes: long(72),
        after_damage: raw[80] & 1 != 0,
        unlisted: raw[80] & 2 != 0,
        prev_first: BatchSeq::new(long(88)),
        seal,
    }))
}

/// Whether a file that begins like this was last a segment of this wal up to this one, or never any. What was
/// a later one holds frames that would pass in a segment of its number.
pub(crate) fn is_spent(identity: &WalIdentity, raw: &[u8], last: SegmentId) -> bool {
    let is_new = raw.iter().all(|byte| *byte == 0);
    let header = decode_header(identity, "", raw);
    is_new || matches!(header, Ok(Some(header)) if header.segment <= last)
}

fn is_known(version: u32) -> bool {
    matches!(version, VERSION | VERSION_SEALED)
}

/// The epoch that the payloads of a segment are sealed with, as the first bytes of its file say, or that they are
/// clear; nothing if the header does not hold. Whose segment it is does not matter, and no key is needed.
#[must_use]
pub fn sealed_segment_epoch(raw: &[u8]) -> Option<Option<KeyEpoch>> {
    let owner = owner(raw)?;
    Some(decode_header(&owner, "", raw).ok()??.seal.map(|mark| mark.epoch))
}

/// Whose header it is, if it holds and is of a version that is known.
pub(crate) fn owner(raw: &[u8]) -> Option<WalIdentity> {
    let raw = raw.get(..SEGMENT_HEADER_BYTES as usize)?;
    let wide = |at: usize| u128::from_le_bytes(raw[at..at + 16].try_into().expect("16 bytes"));
    let holds = &raw[..8] == MAGIC
        && is_known(u32::from_le_bytes(raw[8..12].try_into().expect("four bytes")))
        && raw[12..16] == header_crc(raw).to_le_bytes();
    let node = u64::from_le_bytes(raw[32..40].try_into().expect("eight bytes"));
    holds.then(|| WalIdentity { cluster: wide(16), node, incarnation: wide(40) })
}

fn header_crc(raw: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&raw[..12]);
    hasher.update(&raw[16..SEGMENT_HEADER_BYTES as usize]);
    hasher.finalize()
}

/// Gives what could be a header the checksum that it would need.
#[cfg(feature = "fuzz")]
pub(crate) fn seal(raw: &mut [u8]) {
    if let Some(raw) = raw.get_mut(..SEGMENT_HEADER_BYTES as usize) {
        let crc = header_crc(raw);
        raw[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: WalIdentity = WalIdentity { cluster: 1, node: 2, incarnation: 3 };
    const HEADER: SegmentHeader = SegmentHeader {
        segment: SegmentId::new(5),
        first_seq: BatchSeq::new(6),
        bytes: 7,
        after_damage: true,
        unlisted: false,
        prev_first: BatchSeq::new(4),
        seal: None,
    };
    const SEAL: SealMark = SealMark { epoch: KeyEpoch::new(9).unwrap(), check: [1, 2, 3] };

    #[test]
    fn header_round_trips_and_refuses_others() {
        let raw = encode_header(&IDENTITY, HEADER);
        assert_eq!(decode_header(&IDENTITY, "f", &raw).unwrap(), Some(HEADER));
        for other in [
            WalIdentity { cluster: 9, ..IDENTITY },
            WalIdentity { node: 9, ..IDENTITY },
            WalIdentity { incarnation: 9, ..IDENTITY },
        ] {
            assert!(matches!(decode_header(&other, "f", &raw), Err(WalError::Foreign { .. })));
        }
        for at in 0..raw.len() {
            let mut bad = raw;
            bad[at] ^= 1;
            assert_eq!(decode_header(&IDENTITY, "f", &bad).unwrap(), None, "at={at}");
            assert_eq!(decode_header(&IDENTITY, "f", &raw[..at]).unwrap(), None, "cut={at}");
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        let mut raw = encode_header(&IDENTITY, HEADER);
        raw[8] = 3;
        let crc = header_crc(&raw);
        raw[12..16].copy_from_slice(&crc.to_le_bytes());
        let error = decode_header(&IDENTITY, "f", &raw).unwrap_err();
        assert!(matches!(error, WalError::UnknownVersion { found: 3, .. }), "{error}");
        assert_eq!(owner(&raw), None);
    }

    /// A release that does not know of keys refuses it by its version.
    #[test]
    fn a_sealed_segment_is_version_2_and_says_its_epoch() {
        let header = SegmentHeader { seal: Some(SEAL), ..HEADER };
        let mut raw = encode_header(&IDENTITY, header);
        assert_eq!(raw[8..12], [2, 0, 0, 0]);
        assert_eq!(decode_header(&IDENTITY, "f", &raw).unwrap(), Some(header));
        assert_eq!(owner(&raw), Some(IDENTITY));
        assert_eq!(sealed_segment_epoch(&raw), Some(Some(SEAL.epoch)));
        assert_eq!(sealed_segment_epoch(&encode_header(&IDENTITY, HEADER)), Some(None));
        let mut rotten = raw;
        rotten[20] ^= 1;
        assert_eq!(sealed_segment_epoch(&rotten), None);
        raw[84..88].fill(0);
        let crc = header_crc(&raw);
        raw[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_header(&IDENTITY, "f", &raw).unwrap(), None, "there is no epoch 0");
    }

    #[test]
    fn each_flag_stands_for_itself() {
        for (after_damage, unlisted) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let header = SegmentHeader { after_damage, unlisted, ..HEADER };
            let raw = encode_header(&IDENTITY, header);
            assert_eq!(decode_header(&IDENTITY, "f", &raw).unwrap(), Some(header));
        }
    }

    #[test]
    fn numbers_that_nobody_wrote_make_no_header() {
        let decoded = |header| {
            let raw = encode_header(&IDENTITY, header);
            decode_header(&IDENTITY, "f", &raw).unwrap()
        };
        let beyond = SEQ_MAX.next();
        let largest = SegmentHeader {
            first_seq: SEQ_MAX,
            bytes: u64::from(u32::MAX),
            prev_first: SEQ_MAX,
            ..HEADER
        };
        assert_eq!(decoded(largest), Some(largest));
        assert_eq!(decoded(SegmentHeader { first_seq: beyond, ..largest }), None);
        assert_eq!(decoded(SegmentHeader { first_seq: BatchSeq::ZERO, ..largest }), None);
        assert_eq!(decoded(SegmentHeader { prev_first: beyond, ..largest }), None);
        assert_eq!(decoded(SegmentHeader { bytes: largest.bytes + 1, ..largest }), None);
    }

    #[test]
    fn another_owner_is_told_by_what_differs() {
        let raw = encode_header(&IDENTITY, HEADER);
        let difference = |identity| match decode_header(&identity, "f", &raw).unwrap_err() {
            WalError::Foreign { difference, .. } => difference,
            error => panic!("{error}"),
        };
        let cluster = format!("cluster={:032x}", IDENTITY.cluster);
        let incarnation = format!("incarnation={:032x}", IDENTITY.incarnation);
        assert_eq!(difference(WalIdentity { cluster: 9, node: 9, incarnation: 9 }), cluster);
        assert_eq!(difference(WalIdentity { node: 9, incarnation: 9, ..IDENTITY }), "node=2");
        assert_eq!(difference(WalIdentity { incarnation: 9, ..IDENTITY }), incarnation);
    }

    #[test]
    fn only_whole_names_count() {
        let kind = |name: &str| match kind_of(name) {
            FileKind::Segment(id) => ("segment", id.get()),
            FileKind::Spare(number) => ("spare", number),
            FileKind::Other => ("other", 0),
        };
        assert_eq!(kind(&file_name(SegmentId::new(0x1f))), ("segment", 0x1f));
        assert_eq!(kind(&spare_name(0x2f)), ("spare", 0x2f));
        assert_eq!(kind(&file_name(SegmentId::new(NUMBER_MAX))), ("segment", NUMBER_MAX));
        for name in [
            "1f.seg",
            "2f.spare",
            "000000000000001f",
            "000000000000001F.seg",
            "+00000000000001f.seg",
            "zzzzzzzzzzzzzzzz.seg",
            "ffffffffffffffff.seg",
            "ffffffffffffffff.spare",
            "4000000000000001.spare",
            "lock",
        ] {
            assert_eq!(kind(name), ("other", 0), "{name}");
        }
    }
}
