//! Bytes in, verdict out: what of a wal survived, and whether what is missing was ever promised.
//!
//! Batches are numbered without gaps, so reading them in order ends at the first frame that does
//! not hold, at the place where batch `expected` should be. Three things can be true there:
//!
//! - It is simply where writing stopped. **Clean.**
//! - The frame was being written when power failed, and nobody was told of it. **Torn tail**: cut.
//! - The frame had been synced and was damaged since. **Damaged**: never cut, never written over.
//!
//! Evidence tells the last two apart. A later frame says which batches were synced when it was made
//! (`durable`), and a later segment's header says the same (`first_seq`, less one), since a segment
//! is only begun when the one before is synced. If any of that covers `expected`, it was promised.
//! The search for evidence covers every 8-byte place after the bad frame, in all segments.
//!
//! A lost frame may have held any group, so damage concerns every group of the wal.

use std::collections::BTreeMap;

use bytes::Bytes;
use crc32fast::Hasher;

use crate::frame::{self, ALIGN_BYTES, Item, ItemKind};
use crate::index::{GroupIndex, Index, Location};
use crate::position::{BatchSeq, BytePos, GroupId, LogIndex, SegmentId};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// What recovery thinks of a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there.
    Clean,
    /// Writing was interrupted; what nobody was told of is cut off.
    TornTail {
        /// Where the cut is.
        segment: SegmentId,
        /// Where the cut is.
        byte_pos: BytePos,
    },
    /// Something that had been synced is unreadable. Nothing was changed on disk.
    Damaged {
        /// Where the first unreadable frame is.
        segment: SegmentId,
        /// Where the first unreadable frame is.
        byte_pos: BytePos,
    },
}

/// One group as recovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Whether it can be relied on.
    pub verdict: Verdict,
    /// Its register.
    pub state: Option<Bytes>,
    /// The first entry still held, or the next to be written if there is none.
    pub first: LogIndex,
    /// The last entry, or the one before `first` if there is none.
    pub last: LogIndex,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Every group that ever wrote and was not forgotten.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// The same for all of them.
    pub verdict: Verdict,
}

/// Takes segments in order and keeps what they say.
pub(crate) struct Recovery {
    domain: Hasher,
    expected: Option<BatchSeq>,
    groups: BTreeMap<GroupId, Found>,
    /// Where reading in order ended.
    end: Option<(SegmentId, u64)>,
    /// The end was not followed by the next batch: the first bad place, and what is missing.
    broken: Option<(SegmentId, u64, BatchSeq)>,
    /// The highest batch that anything after the break says was synced.
    evidence: BatchSeq,
    /// Behind the last frame of the last segment lies something of this segment's own.
    torn: bool,
}

#[derive(Default)]
struct Found {
    trimmed: LogIndex,
    mark: Option<Location>,
    entries: BTreeMap<LogIndex, Location>,
    state: Option<(Location, Bytes)>,
}

/// What is to be done with the files, and the index of what is in them.
pub(crate) struct Outcome {
    pub(crate) recovered: Recovered,
    pub(crate) index: Index,
    pub(crate) next_seq: BatchSeq,
    /// Where writing goes on, or `None` if there is no segment.
    pub(crate) tail: Option<(SegmentId, u64)>,
    /// The rest of the tail's segment is to be zeroed before anything is written there.
    pub(crate) zero_tail: bool,
}

impl Recovery {
    pub(crate) fn new(domain: Hasher) -> Self {
        Self {
            domain,
            expected: None,
            groups: BTreeMap::new(),
            end: None,
            broken: None,
            evidence: BatchSeq::ZERO,
            torn: false,
        }
    }

    /// Takes the next segment. `header` is `None` if the file has none that holds.
    pub(crate) fn segment(&mut self, id: SegmentId, header: Option<SegmentHeader>, raw: &[u8]) {
        let first_seq = header.filter(|header| header.segment == id).map(|header| header.first_seq);
        match (first_seq, self.expected, self.broken) {
            // A segment gets its header before its name: without one it is damaged.
            (None, expected, None) => {
                self.broken = Some((id, 0, expected.unwrap_or(BatchSeq::new(1))));
                // Its name alone says that everything before it was synced.
                self.evidence = BatchSeq::new(u64::MAX);
            }
            (None, _, Some(_)) => self.evidence = BatchSeq::new(u64::MAX),
            (Some(first_seq), expected, broken) => {
                let promised = BatchSeq::new(first_seq.get().saturating_sub(1));
                if let Some((_, _, missing)) = broken {
                    if missing <= promised {
                        self.evidence = self.evidence.max(promised);
                    }
                } else if expected.is_some_and(|expected| expected != first_seq) {
                    // Batches between the segments are missing, and this one says they were synced.
                    let (segment, pos) = self.end.expect("an expectation comes from a segment");
                    self.broken = Some((segment, pos, expected.expect("checked to be there")));
                    self.evidence = self.evidence.max(promised);
                } else {
                    self.expected = Some(first_seq);
                    self.end = Some((id, SEGMENT_HEADER_BYTES));
                }
            }
        }
        let start = SEGMENT_HEADER_BYTES as usize;
        if self.broken.is_some() {
            self.search(id, raw, start);
        } else {
            self.read(id, raw, start);
        }
    }

    /// Reads frames in order from `pos`, then looks for evidence behind the last.
    fn read(&mut self, id: SegmentId, raw: &[u8], mut pos: usize) {
        let mut expected = self.expected.expect("set by the header");
        while let Some(frame) = frame::decode(&self.domain, id, raw.get(pos..).unwrap_or(&[])) {
            if frame.header.seq != expected {
                break;
            }
            let items: Option<Vec<_>> = frame.items().collect();
            let Some(items) = items else { break };
            for (item, payload) in items {
                self.item(&item, payload, id, pos as u64);
            }
            pos += frame.bytes;
            expected = BatchSeq::new(expected.get() + 1);
        }
        self.expected = Some(expected);
        self.end = Some((id, pos as u64));
        let evidence = self.evidence_in(id, raw, pos);
        // What a recycled file still holds of its former life names another segment.
        self.torn = evidence.is_some()
            || raw.get(pos + 8..pos + 16).is_some_and(|named| named == id.get().to_le_bytes());
        if let Some(durable) = evidence
            && expected <= durable
        {
            self.broken = Some((id, pos as u64, expected));
            self.evidence = durable;
            self.search(id, raw, pos);
        }
    }

    /// After damage: keeps what later frames say, as far as they can be read.
    fn search(&mut self, id: SegmentId, raw: &[u8], mut pos: usize) {
        while let Some(rest) = raw.get(pos..).filter(|rest| !rest.is_empty()) {
            let Some(frame) = frame::decode(&self.domain, id, rest) else {
                pos += ALIGN_BYTES;
                continue;
            };
            self.evidence = self.evidence.max(frame.header.durable);
            for (item, payload) in frame.items().flatten() {
                self.item(&item, payload, id, pos as u64);
            }
            pos += frame.bytes;
        }
    }

    /// The highest batch that a frame at or after `pos` says was synced.
    fn evidence_in(&self, id: SegmentId, raw: &[u8], mut pos: usize) -> Option<BatchSeq> {
        let mut highest = None;
        while let Some(rest) = raw.get(pos..).filter(|rest| !rest.is_empty()) {
            match frame::decode(&self.domain, id, rest) {
                Some(frame) => {
                    highest = highest.max(Some(frame.header.durable));
                    pos += frame.bytes;
                }
                None => pos += ALIGN_BYTES,
            }
        }
        highest
    }

    fn item(&mut self, item: &Item, payload: &[u8], segment: SegmentId, frame_pos: u64) {
        let Ok(pos) = u32::try_from(frame_pos + u64::from(item.payload_pos)) else { return };
        let location = Location { segment, pos, len: item.payload_len, crc: item.payload_crc };
        let found = self.groups.entry(item.group).or_default();
        match item.kind {
            ItemKind::Append => {
                found.entries.split_off(&item.index);
                found.entries.insert(item.index, location);
            }
            ItemKind::Moved => {
                found.entries.insert(item.index, location);
            }
            ItemKind::State => {
                found.state = Some((location, Bytes::copy_from_slice(payload)));
            }
            ItemKind::Trim => {
                found.trimmed = found.trimmed.max(item.index);
                found.mark = Some(location);
            }
            ItemKind::Reset => {
                found.entries.clear();
                found.trimmed = item.index;
                found.mark = Some(location);
            }
        }
        if item.index < LogIndex::new(u64::MAX) {
            let keep = found.entries.split_off(&found.trimmed.next());
            found.entries = keep;
        }
    }

    pub(crate) fn finish(self) -> Outcome {
        let at = |segment, pos| (segment, BytePos::new(pos));
        let mut verdict = match (self.broken, self.end) {
            (Some((segment, pos, _)), _) => {
                let (segment, byte_pos) = at(segment, pos);
                Verdict::Damaged { segment, byte_pos }
            }
            (None, Some((segment, pos))) if self.torn => {
                let (segment, byte_pos) = at(segment, pos);
                Verdict::TornTail { segment, byte_pos }
            }
            _ => Verdict::Clean,
        };
        // An unbroken run of batches holds unbroken logs. If one is not, an oldest segment is gone.
        let unbroken = |found: &Found| {
            let mut next = found.trimmed.next();
            found.entries.keys().all(|index| {
                let holds = *index == next;
                next = index.next();
                holds
            })
        };
        if !matches!(verdict, Verdict::Damaged { .. }) && !self.groups.values().all(unbroken) {
            let segment = self.end.map_or(SegmentId::new(0), |(segment, _)| segment);
            verdict = Verdict::Damaged { segment, byte_pos: BytePos::new(0) };
        }
        let damaged = matches!(verdict, Verdict::Damaged { .. });
        let mut index = Index::default();
        let mut groups = BTreeMap::new();
        for (group, found) in self.groups {
            let contiguous: Vec<Location> = found
                .entries
                .iter()
                .zip(found.trimmed.next().get()..)
                .take_while(|((index, _), expected)| index.get() == *expected)
                .map(|((_, location), _)| *location)
                .collect();
            let (state_location, state) = found.state.unzip();
            let found = GroupIndex {
                trimmed: found.trimmed,
                mark: found.mark,
                entries: contiguous.into(),
                state: state_location,
            };
            let recovered =
                RecoveredGroup { verdict, state, first: found.first(), last: found.last() };
            groups.insert(group, recovered);
            index.insert(group, found);
        }
        Outcome {
            recovered: Recovered { groups, verdict },
            index,
            next_seq: self.expected.unwrap_or(BatchSeq::new(1)),
            tail: self.end,
            zero_tail: !damaged && self.torn,
        }
    }
}
