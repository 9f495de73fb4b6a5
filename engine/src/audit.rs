//! What an auditor needs: whether records are those that a head stands for.
//!
//! All records of a group form a chain. Whoever keeps an [`Anchor`], 40 bytes, can later be shown a
//! record or a run of them, and tell without any trust whether they are what was in the log.
//!
//! ```text
//! link(n) = SHA-256(0x00, offset, log time, payload)       numbers as eight bytes, little-endian
//! head(n) = SHA-256(0x01, head(n-1), link(n))              head(0) is zero
//! ```
//! A record goes into the head by its link alone, so the proof that a record is in the log holds the
//! links of its neighbours, 32 bytes each, and not what they say:
//!
//! ```text
//! offset  size  field        rule
//!      0     8  magic        "PLSPROOF"
//!      8     1  version      1
//!      9     8  offset       of the record, at least 1
//!     17     8  log time     of the record
//!     25    32  head before  of the record before it
//!     57     4  length       n
//!     61     n  payload      of the record
//!  61+n  32 each  links      of the records behind it, in order, up to the anchor; may be none
//! ```
//! Little-endian. This file imports nothing but the hash, knows nothing of the engine, and may be copied
//! to wherever an audit is made.

use std::error::Error;
use std::fmt;

use sha2::{Digest, Sha256};

const LINK_TAG: u8 = 0;
const HEAD_TAG: u8 = 1;
const MAGIC: &[u8; 8] = b"PLSPROOF";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8 + 1 + 8 + 8 + HASH_BYTES + 4;
const HASH_BYTES: usize = 32;

/// What one record adds to the chain.
#[must_use]
pub fn link(offset: u64, log_time: u64, payload: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([LINK_TAG]);
    hasher.update(offset.to_le_bytes());
    hasher.update(log_time.to_le_bytes());
    hasher.update(payload);
    hasher.finalize().into()
}

/// The head after a record, of the head before it and its link.
#[must_use]
pub fn next_head(before: [u8; 32], link: [u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([HEAD_TAG]);
    hasher.update(before);
    hasher.update(link);
    hasher.finalize().into()
}

/// Stands for all records of a group up to an offset. Kept where nobody who could change the log can
/// change it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The last record it stands for; 0 for none.
    pub offset: u64,
    /// The head of the chain up to there.
    pub head: [u8; 32],
}

impl Anchor {
    /// Before the first record.
    pub const ZERO: Self = Self { offset: 0, head: [0; 32] };

    fn then(self, link: [u8; 32]) -> Result<Self, AuditError> {
        let offset = self.offset.checked_add(1).ok_or(AuditError::Malformed { what: "offset" })?;
        Ok(Self { offset, head: next_head(self.head, link) })
    }
}

/// A record as it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRecord<'a> {
    /// Its offset.
    pub offset: u64,
    /// The leader's stamp, in milliseconds.
    pub log_time: u64,
    /// What was proposed.
    pub payload: &'a [u8],
}

/// Shows that a record is in the log that an anchor stands for.
///
/// ```
/// use palisade::audit::{Anchor, AuditError, InclusionProof, link, next_head, verify};
///
/// let proof = InclusionProof {
///     offset: 1,
///     log_time: 7,
///     payload: b"a".to_vec(),
///     head_before: [0; 32],
///     links: Vec::new(),
/// };
/// let file = proof.to_bytes();
/// let read = InclusionProof::from_bytes(&file)?;
/// assert_eq!(read.anchor_offset(), Some(1));
///
/// let anchor = Anchor { offset: 1, head: next_head([0; 32], link(1, 7, b"a")) };
/// verify(&anchor, &read)?;
/// assert!(matches!(InclusionProof::from_bytes(&file[1..]), Err(AuditError::Malformed { .. })));
/// # Ok::<(), AuditError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// The record's offset.
    pub offset: u64,
    /// The leader's stamp on it, in milliseconds.
    pub log_time: u64,
    /// What was proposed.
    pub payload: Vec<u8>,
    /// The head up to the record before it.
    pub head_before: [u8; 32],
    /// The links of the records behind it, up to the anchor's.
    pub links: Vec<[u8; 32]>,
}

impl InclusionProof {
    /// The offset of the anchor that it is made for, or `None` if there cannot be such an offset.
    #[must_use]
    pub fn anchor_offset(&self) -> Option<u64> {
        self.offset.checked_add(self.links.len() as u64)
    }

    /// The proof as a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let links_bytes = self.links.len() * HASH_BYTES;
        let mut raw = Vec::with_capacity(HEADER_BYTES + self.payload.len() + links_bytes);
        raw.extend_from_slice(MAGIC);
        raw.push(VERSION);
        raw.extend_from_slice(&self.offset.to_le_bytes());
        raw.extend_from_slice(&self.log_time.to_le_bytes());
        raw.extend_from_slice(&self.head_before);
        raw.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        raw.extend_from_slice(&self.payload);
        raw.extend(self.links.iter().flatten());
        raw
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`AuditError::Malformed`] if it is no proof, or of another version.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, AuditError> {
        let mut rest = raw;
        let magic: [u8; 8] = take(&mut rest, "magic")?;
        let [version] = take(&mut rest, "version")?;
        if magic != *MAGIC || version != VERSION {
            return Err(AuditError::Malformed { what: "magic or version" });
        }
        let offset = u64::from_le_bytes(take(&mut rest, "offset")?);
        let log_time = u64::from_le_bytes(take(&mut rest, "log time")?);
        let head_before = take(&mut rest, "head before")?;
        let length = u32::from_le_bytes(take(&mut rest, "length")?) as usize;
        let (payload, links) =
            rest.split_at_checked(length).ok_or(AuditError::Malformed { what: "payload" })?;
        let (links, []) = links.as_chunks() else {
            return Err(AuditError::Malformed { what: "links" });
        };
        let (payload, links) = (payload.to_vec(), links.to_vec());
        Ok(Self { offset, log_time, payload, head_before, links })
    }
}

fn take<const N: usize>(rest: &mut &[u8], what: &'static str) -> Result<[u8; N], AuditError> {
    let (taken, left) = rest.split_first_chunk().ok_or(AuditError::Malformed { what })?;
    *rest = left;
    Ok(*taken)
}

/// Why what was shown is not what the anchor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditError {
    /// It is no proof, or of a version that is not known here.
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// The proof is made for an anchor at another offset.
    OtherAnchor {
        /// Where the anchor stands.
        expected: u64,
        /// Where the proof ends.
        found: u64,
    },
    /// A record is missing, or there twice.
    Gap {
        /// The offset that comes next.
        expected: u64,
        /// The offset that was shown.
        found: u64,
    },
    /// The hashes differ: it is not what was in the log.
    Differs {
        /// Where the anchor stands.
        offset: u64,
    },
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { what } => write!(f, "malformed {what}"),
            Self::OtherAnchor { expected, found } => {
                write!(f, "made for another anchor, expected={expected} found={found}")
            }
            Self::Gap { expected, found } => {
                write!(f, "offsets are not dense, expected={expected} found={found}")
            }
            Self::Differs { offset } => {
                write!(f, "it is not in the log that the anchor at offset={offset} stands for")
            }
        }
    }
}

impl Error for AuditError {}

/// Whether the record of a proof is in the log that the anchor stands for. The anchor is the auditor's
/// own, never one that came with the proof.
///
/// ```
/// use palisade::audit::{Anchor, AuditRecord, InclusionProof, link, verify, verify_run};
///
/// let record = |offset, payload| AuditRecord { offset, log_time: 7, payload };
/// let records = [record(1, b"a".as_slice()), record(2, b"b"), record(3, b"c")];
/// let before = verify_run(Anchor::ZERO, records[..1].iter().copied())?;
/// let anchor = verify_run(before, records[1..].iter().copied())?;
/// let proof = InclusionProof {
///     offset: 2,
///     log_time: 7,
///     payload: b"b".to_vec(),
///     head_before: before.head,
///     links: vec![link(3, 7, b"c")],
/// };
/// verify(&anchor, &proof)?;
/// assert!(verify(&anchor, &InclusionProof { log_time: 8, ..proof }).is_err());
/// # Ok::<_, palisade::audit::AuditError>(())
/// ```
///
/// # Errors
/// [`AuditError::Differs`] if it is not, [`AuditError::OtherAnchor`] if the proof is for an anchor at
/// another offset.
pub fn verify(anchor: &Anchor, proof: &InclusionProof) -> Result<(), AuditError> {
    let before = proof.offset.checked_sub(1).ok_or(AuditError::Malformed { what: "offset" })?;
    let mut found = Anchor { offset: before, head: proof.head_before };
    let first = link(proof.offset, proof.log_time, &proof.payload);
    for link in std::iter::once(&first).chain(&proof.links) {
        found = found.then(*link)?;
    }
    if found.offset != anchor.offset {
        return Err(AuditError::OtherAnchor { expected: anchor.offset, found: found.offset });
    }
    if found.head != anchor.head {
        return Err(AuditError::Differs { offset: anchor.offset });
    }
    Ok(())
}

/// The anchor after a run of records that follows another. It is to be compared with the auditor's own:
/// equal anchors mean that these are the records of the log, all of them, in its order.
///
/// # Errors
/// [`AuditError::Gap`] if the run does not begin behind `from`, or leaves one out.
pub fn verify_run<'a>(
    from: Anchor,
    records: impl IntoIterator<Item = AuditRecord<'a>>,
) -> Result<Anchor, AuditError> {
    records.into_iter().try_fold(from, |anchor, record| {
        let next = anchor.then(link(record.offset, record.log_time, record.payload))?;
        if next.offset == record.offset {
            Ok(next)
        } else {
            Err(AuditError::Gap { expected: next.offset, found: record.offset })
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Stored = (u64, Vec<u8>);

    fn records(stored: &[Stored]) -> impl Iterator<Item = AuditRecord<'_>> {
        (1..).zip(stored).map(|(offset, (log_time, payload))| AuditRecord {
            offset,
            log_time: *log_time,
            payload,
        })
    }

    fn anchor(stored: &[Stored]) -> Anchor {
        verify_run(Anchor::ZERO, records(stored)).unwrap()
    }

    /// The proof of the record at a place of the run.
    fn prove(stored: &[Stored], at: usize) -> InclusionProof {
        InclusionProof {
            offset: at as u64 + 1,
            log_time: stored[at].0,
            payload: stored[at].1.clone(),
            head_before: anchor(&stored[..at]).head,
            links: records(stored)
                .skip(at + 1)
                .map(|r| link(r.offset, r.log_time, r.payload))
                .collect(),
        }
    }

    fn some_records() -> impl Strategy<Value = Vec<Stored>> {
        vec((any::<u64>(), vec(any::<u8>(), 0..6)), 1..6)
    }

    proptest! {
        #[test]
        fn every_record_is_proven_and_no_flipped_bit_of_its_proof_passes(stored in some_records()) {
            let anchor = anchor(&stored);
            for at in 0..stored.len() {
                let proof = prove(&stored, at);
                prop_assert_eq!(verify(&anchor, &proof), Ok(()));
                prop_assert_eq!(proof.anchor_offset(), Some(anchor.offset));
                let raw = proof.to_bytes();
                prop_assert_eq!(InclusionProof::from_bytes(&raw), Ok(proof.clone()));
                for bit in 0..raw.len() * 8 {
                    let mut flipped = raw.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let passes = InclusionProof::from_bytes(&flipped).and_then(|p| verify(&anchor, &p));
                    prop_assert!(passes.is_err(), "bit {}", bit);
                }
                for bit in 0..256 {
                    let mut other = anchor;
                    other.head[bit / 8] ^= 1 << (bit % 8);
                    prop_assert_eq!(verify(&other, &proof), Err(AuditError::Differs { offset: anchor.offset }));
                }
            }
        }

        #[test]
        fn a_run_with_a_flipped_bit_comes_to_another_anchor(stored in some_records(), cut in 0..6_usize) {
            let whole = anchor(&stored);
            let cut = cut.min(stored.len());
            let before = anchor(&stored[..cut]);
            prop_assert_eq!(verify_run(before, records(&stored).skip(cut)), Ok(whole));
            for at in 0..stored.len() {
                let mut flips = vec![stored.clone(); 64 + stored[at].1.len() * 8];
                for (bit, flipped) in flips.iter_mut().enumerate() {
                    match bit.checked_sub(64) {
                        None => flipped[at].0 ^= 1 << bit,
                        Some(bit) => flipped[at].1[bit / 8] ^= 1 << (bit % 8),
                    }
                    prop_assert_ne!(anchor(flipped).head, whole.head);
                }
                let left_out = records(&stored).filter(|record| record.offset != at as u64 + 1);
                let shown = verify_run(Anchor::ZERO, left_out);
                prop_assert!(shown != Ok(whole));
            }
        }

        #[test]
        fn reading_a_proof_never_panics(raw in vec(any::<u8>(), 0..200), begins: bool) {
            let start: &[u8] = if begins { b"PLSPROOF\x01" } else { b"" };
            let read = InclusionProof::from_bytes(&[start, &raw].concat());
            if let Ok(proof) = read {
                prop_assert_eq!(proof.to_bytes(), [start, &raw].concat());
                let _ = verify(&Anchor::ZERO, &proof);
            }
        }
    }

    #[test]
    fn what_does_not_fit_together_is_told_apart() {
        let stored = [(5, b"a".to_vec()), (6, b"b".to_vec()), (6, b"".to_vec())];
        let proof = prove(&stored, 1);
        let earlier = Anchor { offset: 2, ..anchor(&stored) };
        assert_eq!(
            verify(&earlier, &proof),
            Err(AuditError::OtherAnchor { expected: 2, found: 3 })
        );
        let gap = verify_run(Anchor::ZERO, records(&stored).skip(1));
        assert_eq!(gap, Err(AuditError::Gap { expected: 1, found: 2 }));
        let zero = InclusionProof { offset: 0, ..proof.clone() };
        assert_eq!(verify(&anchor(&stored), &zero), Err(AuditError::Malformed { what: "offset" }));
        let last = InclusionProof { offset: u64::MAX, ..proof };
        assert_eq!(last.anchor_offset(), None);
        assert_eq!(verify(&anchor(&stored), &last), Err(AuditError::Malformed { what: "offset" }));
    }

    fn hex(raw: &[u8]) -> String {
        raw.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let pair = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(pair).collect()
    }

    /// A proof of version 1 and its anchor, byte by byte: whoever has kept one must be able to read it.
    #[test]
    fn a_proof_of_version_one_stays_what_it_is() {
        let stored: Vec<Stored> = (0..4_u8)
            .map(|n| (1_800_000_000_000 + u64::from(n), vec![n; usize::from(n)]))
            .collect();
        let (anchor, proof) = (anchor(&stored), prove(&stored, 1));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/proof-1.txt");
        if std::env::var_os("PALISADE_GOLDEN").is_some_and(|value| value == "write") {
            let head = hex(&anchor.head);
            let text =
                format!("anchor {} {head}\nproof {}\n", anchor.offset, hex(&proof.to_bytes()));
            std::fs::write(&path, text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        let words: Vec<&str> = kept.split_whitespace().collect();
        let ["anchor", offset, head, "proof", raw] = words[..] else { panic!("{kept}") };
        let head = unhex(head).try_into().unwrap();
        let kept_anchor = Anchor { offset: offset.parse().unwrap(), head };
        let kept_proof = InclusionProof::from_bytes(&unhex(raw)).unwrap();
        assert_eq!((kept_anchor, &kept_proof), (anchor, &proof));
        assert_eq!(unhex(raw), proof.to_bytes());
        assert_eq!(verify(&kept_anchor, &kept_proof), Ok(()));
    }

    #[test]
    fn the_verifier_can_be_copied() {
        let code = include_str!("audit.rs").split("#[cfg(test)]").next().unwrap();
        let uses: Vec<_> = code.lines().filter(|line| line.starts_with("use ")).collect();
        assert_eq!(
            uses,
            ["use std::error::Error;", "use std::fmt;", "use sha2::{Digest, Sha256};"]
        );
        assert!(!code.contains(concat!("cra", "te::")));
    }
}
