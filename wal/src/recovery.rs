//! Bytes in, verdict out: what of a wal survived, and whether what is missing was ever promised.
//!
//! Batches are numbered without gaps, so reading them in order breaks at the first frame that does
//! not hold, at the place where batch `expected` should be. Three things can be true there:
//!
//! - It is simply where writing stopped. **Clean.**
//! - The frame was being written when power failed, and nobody was told of it. **Torn tail**: cut.
//! - The frame had been synced and was damaged since. **Damaged**: never cut, never written over.
//!
//! Evidence tells the last two apart. A later frame says which batches were synced when it was made
//! (`durable`), and a later segment says that all of the one before was, since a segment is only
//! begun then. If any of that covers `expected`, it was promised. The search for evidence covers
//! every 8-byte place after the bad frame.
//!
//! ```text
//!   segment 1           segment 2             segment 3, after damage
//!   1 2 3 . . 6 7       8 9 . (end unsure)    90 91 ...
//!         gap 4..=5           gap 10..=89
//! ```
//! What is missing between two frames that were read is a **gap**; what it means for each group is
//! decided in `chain`. A damaged wal goes on in a new segment, whose header says so: then the gaps
//! before it are known, and what they did to the groups is in their items.

use std::collections::{BTreeMap, VecDeque};

use crc32fast::Hasher;

use crate::chain::{Chains, Gap, HOLE_ENTRIES_MAX, Losses, Place};
use crate::commit::Start;
use crate::copies::Copies;
use crate::frame::{self, ALIGN_BYTES, FRAME_HEADER_BYTES, Frame, ITEM_HEADER_BYTES, ItemKind};
use crate::index::Index;
use crate::keys::epoch_of;
use crate::position::{BatchSeq, BytePos, SegmentId};
use crate::sealing::Seals;
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::verdict::{Recovered, Verdict};

/// Nothing shorter is a frame, so this bounds how many a lost place may have held.
const FRAME_BYTES_MIN: u64 =
    ((FRAME_HEADER_BYTES + ITEM_HEADER_BYTES).next_multiple_of(ALIGN_BYTES)) as u64;

/// One segment's file as it was read.
pub(crate) struct SegmentBytes<'a> {
    pub(crate) id: SegmentId,
    /// `None` if the file has none that holds.
    pub(crate) header: Option<SegmentHeader>,
    /// What cannot be read is zeros.
    pub(crate) raw: &'a [u8],
    /// Everything from here on could be read.
    pub(crate) read_from: u64,
    /// The first batch, as the next segment tells, or zero.
    pub(crate) first_told: BatchSeq,
    /// There is a later segment, so all of this one was synced.
    pub(crate) is_followed: bool,
    /// The first batch of the next segment that says so.
    pub(crate) seq_end: BatchSeq,
}

impl SegmentBytes<'_> {
    /// Of the file as it is, or as it was when it was begun, if that was longer.
    fn length(&self) -> u64 {
        let read = self.raw.len() as u64;
        self.header.map_or(read, |header| header.bytes.max(read))
    }

    /// Whether something behind this place cannot be read, or is gone.
    fn lacks(&self, pos: u64) -> bool {
        (self.raw.len() as u64) < self.length() || pos < self.read_from
    }
}

/// Takes segments in order and keeps what they say.
pub(crate) struct Recovery {
    domain: Hasher,
    /// Everything up to here was synced.
    noted: BatchSeq,
    /// `None` before the first segment.
    expected: Option<BatchSeq>,
    losses: Losses,
    chains: Chains,
    /// The first batch of the last segment.
    segment_first: BatchSeq,
    /// Where reading in order ended.
    end: (SegmentId, u64),
    /// The same of each segment.
    ends: BTreeMap<SegmentId, u64>,
    /// Damage was found that no later segment tells of: the first place.
    fresh: Option<(SegmentId, u64)>,
    /// The last header says that groups may be lost that nothing tells of.
    is_unlisted: bool,
    /// The next frame is the first of a writer that did not know the one before.
    is_estranged: bool,
    /// Behind the last frame of the last segment lies something of this segment's own.
    is_torn: bool,
    /// There is anything at all, perhaps of the file's former life.
    has_rest: bool,
    /// The end is damaged, and may have held so many batches.
    lost_at_end: u64,
    /// The highest batch that anything tells of.
    seen: BatchSeq,
    /// The highest batch that a frame says was synced, and where the frames of the last segment lie that
    /// none says it of: batch, place, length.
    told_synced: BatchSeq,
    unsure: VecDeque<(BatchSeq, u64, usize)>,
    /// Registers of the last frame, and whether it was a mark.
    copies: Copies,
    ends_in_mark: bool,
    /// What the files say they are sealed with.
    seals: Seals,
}

/// What is to be done with the files, and the index of what is in them.
pub(crate) struct Outcome {
    pub(crate) recovered: Recovered,
    pub(crate) index: Index,
    pub(crate) start: Start,
    /// The rest of the tail's segment is to be zeroed before anything is written there.
    pub(crate) zero_tail: bool,
    /// Frames of the last segment, by place and length, of which nothing tells that they were synced.
    pub(crate) unsure: Vec<(u64, usize)>,
    /// What all of it is sealed with. Registers, and `start.copies`, are as they are stored.
    pub(crate) seals: Seals,
}

impl Recovery {
    /// `noted` is the batch up to which the note says that everything was synced, or zero.
    pub(crate) fn new(domain: Hasher, noted: BatchSeq) -> Self {
        Self {
            domain,
            noted,
            expected: None,
            losses: Losses::default(),
            chains: BTreeMap::new(),
            segment_first: BatchSeq::ZERO,
            end: (SegmentId::new(0), 0),
            ends: BTreeMap::new(),
            fresh: None,
            is_unlisted: false,
            is_estranged: false,
            is_torn: false,
            has_rest: false,
            lost_at_end: 0,
            seen: noted,
            told_synced: noted,
            unsure: VecDeque::new(),
            copies: Copies::default(),
            ends_in_mark: true,
            seals: Seals::default(),
        }
    }

    /// Takes the next segment.
    pub(crate) fn segment(&mut self, segment: &SegmentBytes<'_>) {
        let frames = self.survey(segment);
        self.begin(segment, &frames);
        self.unsure.clear();
        self.end = (segment.id, SEGMENT_HEADER_BYTES);
        // The highest that the frames from each on say was synced.
        let mut synced = vec![BatchSeq::ZERO; frames.len()];
        let mut highest = BatchSeq::ZERO;
        for (synced, (_, frame)) in synced.iter_mut().zip(&frames).rev() {
            highest = highest.max(frame.header.durable);
            *synced = highest;
        }
        let mut is_cut = false;
        for ((pos, frame), synced) in frames.iter().zip(&synced) {
            let expected = self.expected();
            if frame.header.seq < expected {
                continue;
            }
            if expected < frame.header.seq {
                // Where more is missing, nothing is cut: the next start would find it again.
                let promised = segment.is_followed
                    || self.fresh.is_some()
                    || segment.lacks(self.end.1)
                    || expected <= self.noted.max(*synced);
                if !promised {
                    is_cut = true;
                    break;
                }
                self.gap(frame.header.seq, self.end);
            }
            self.frame(segment, *pos as u64, frame);
        }
        self.ends.extend([self.end]);
        if !segment.is_followed {
            self.end_of_last(segment, is_cut);
        }
    }

    fn expected(&self) -> BatchSeq {
        self.expected.expect("set when the segment began")
    }

    /// Every frame that holds, in the order of their numbers.
    fn survey<'a>(&mut self, segment: &SegmentBytes<'a>) -> Vec<(usize, Frame<'a>)> {
        let mut frames: Vec<(usize, Frame<'a>)> = Vec::new();
        let mut pos = SEGMENT_HEADER_BYTES as usize;
        while pos + FRAME_HEADER_BYTES <= segment.raw.len() {
            let frame = frame::decode(&self.domain, segment.id, segment.raw, pos)
                .filter(|frame| frame.items().all(|item| item.is_some()));
            let Some(frame) = frame else {
                pos += ALIGN_BYTES;
                continue;
            };
            self.seen = self.seen.max(frame.header.seq);
            let rises = frames.last().is_none_or(|(_, last)| last.header.seq < frame.header.seq);
            let bytes = frame.bytes;
            if rises && frame.header.seq < segment.seq_end {
                frames.push((pos, frame));
            }
            pos += bytes;
        }
        frames
    }

    /// What the segment's beginning says about the batches before it.
    fn begin(&mut self, segment: &SegmentBytes<'_>, frames: &[(usize, Frame<'_>)]) {
        let header = segment.header.filter(|header| header.segment == segment.id);
        if let Some(mark) = header.and_then(|header| header.seal) {
            self.seals.marks.insert(segment.id, mark);
        }
        self.is_torn = false;
        if let Some(header) = header {
            let promised = BatchSeq::new(header.first_seq.get().saturating_sub(1));
            self.seen = self.seen.max(promised);
            match self.expected {
                None => {
                    self.expected = Some(header.first_seq);
                    self.losses.oldest = header.first_seq;
                }
                Some(expected) if expected < header.first_seq => {
                    self.gap(header.first_seq, self.end);
                }
                Some(_) => {}
            }
            self.is_estranged = header.after_damage;
            self.is_unlisted = header.unlisted;
            self.segment_first = header.first_seq;
            if header.after_damage {
                // Whoever began it knew, and what is damaged says so.
                self.fresh = None;
            }
            return;
        }
        // A segment gets its header before its name: without one it is damaged.
        self.fresh = self.fresh.or(Some((segment.id, 0)));
        self.is_estranged = true;
        if self.expected.is_none() && segment.first_told != BatchSeq::ZERO {
            self.expected = Some(segment.first_told);
            self.losses.oldest = segment.first_told;
        }
        if self.expected.is_none() {
            // As many as fit may lie before the first frame that is left.
            let first = frames.first().map(|(pos, frame)| {
                let before = (*pos as u64 - SEGMENT_HEADER_BYTES) / FRAME_BYTES_MIN;
                frame.header.seq.get().saturating_sub(before).max(1)
            });
            let first = BatchSeq::new(first.unwrap_or(1));
            self.expected = Some(first);
            self.losses.oldest = first;
        }
        self.segment_first = self.expected();
    }

    /// Batches from the expected one up to before `next` are lost.
    fn gap(&mut self, next: BatchSeq, at: (SegmentId, u64)) {
        let first = self.expected();
        let last = BatchSeq::new(next.get() - 1);
        assert!(first <= last);
        self.losses.gaps.push(Gap { first, last, at, copied: false });
        self.fresh = self.fresh.or(Some(at));
        self.expected = Some(next);
    }

    fn frame(&mut self, segment: &SegmentBytes<'_>, pos: u64, frame: &Frame<'_>) {
        let (header, segment) = (segment.header, segment.id);
        let seq = frame.header.seq;
        if let Some(gap) = self.losses.gaps.last_mut()
            && gap.first == gap.last
            && gap.last.next() == seq
            && !self.is_estranged
        {
            gap.copied = true;
        }
        self.is_estranged = false;
        self.copies.clear();
        self.ends_in_mark = false;
        let place = Place { segment, frame_pos: pos, seq };
        for (item, payload) in frame.items().flatten() {
            if item.kind == ItemKind::Mark {
                self.ends_in_mark = true;
                continue;
            }
            if item.kind.is_content() {
                let epoch = epoch_of(payload).filter(|_| item.sealed);
                let place = (segment, pos + u64::from(item.payload_pos));
                self.seals.item(place, header.map(|header| header.seal), epoch);
            }
            let chain = self.chains.entry(item.group).or_default();
            chain.item(&item, payload, place, &self.losses);
            if item.kind == ItemKind::State {
                self.copies.set(item.group, payload);
            }
        }
        if self.ends_in_mark {
            // What it holds are copies.
            self.copies.clear();
        }
        self.expected = Some(seq.next());
        self.end = (segment, pos + frame.bytes as u64);
        self.told_synced = self.told_synced.max(frame.header.durable);
        self.unsure.push_back((seq, pos, frame.bytes));
        while self.unsure.front().is_some_and(|(seq, ..)| *seq <= self.told_synced) {
            self.unsure.pop_front();
        }
    }

    /// Whether the log ends where the last frame does.
    fn end_of_last(&mut self, segment: &SegmentBytes<'_>, is_cut: bool) {
        let end = self.end.1;
        let is_empty = segment.header.is_none() && end == SEGMENT_HEADER_BYTES;
        // What a recycled file still holds of its former life names another segment.
        let named = segment.raw.get(end as usize + 8..end as usize + 16);
        let named = named.is_some_and(|named| named == segment.id.get().to_le_bytes());
        self.is_torn = is_cut || named;
        self.has_rest = segment.raw.iter().skip(end as usize).any(|byte| *byte != 0);
        // A tear beside damage may be damage too.
        let is_doubtful = self.fresh.is_some() && self.is_torn;
        let is_missed = self.expected() <= self.noted;
        if segment.lacks(end) || is_empty || is_doubtful || is_missed {
            // There may have been more.
            self.lost_at_end = segment.length().saturating_sub(end) / FRAME_BYTES_MIN + 1;
            self.fresh = self.fresh.or(Some(self.end));
        }
    }

    pub(crate) fn finish(mut self) -> Outcome {
        if self.expected.is_none() && self.noted != BatchSeq::ZERO {
            // There was a log, and not one segment of it is left.
            self.expected = Some(BatchSeq::new(1));
            self.losses.oldest = BatchSeq::new(1);
            self.fresh = Some(self.end);
        }
        let mut next_seq = self.expected.unwrap_or(BatchSeq::new(1));
        if self.fresh.is_some() {
            let beyond = self.seen.get().max(next_seq.get() - 1).saturating_add(self.lost_at_end);
            let next = BatchSeq::new(beyond).next();
            if next_seq < next {
                self.gap(next, self.end);
            }
            next_seq = next;
        }
        let at = |(segment, pos)| (segment, BytePos::new(pos));
        let torn = self.is_torn && self.fresh.is_none();
        let (segment, byte_pos) = at(self.end);
        let whole = if torn { Verdict::TornTail { segment, byte_pos } } else { Verdict::Clean };
        let mut verdict = whole;
        let mut index = Index::default();
        let mut groups = BTreeMap::new();
        let mut room = HOLE_ENTRIES_MAX;
        for (group, chain) in self.chains {
            let (mut recovered, found) = chain.finish(&self.losses, &mut room);
            if recovered.verdict.is_damaged() {
                verdict = recovered.verdict;
            } else {
                recovered.verdict = whole;
            }
            groups.insert(group, recovered);
            index.insert(group, found);
        }
        if let Some((segment, byte_pos)) = self.fresh.map(at) {
            verdict = Verdict::Damaged { segment, byte_pos };
        }
        let unlisted_damaged = self.is_unlisted || !self.losses.gaps.is_empty();
        index.unlisted = unlisted_damaged.then(|| self.losses.runs());
        let after_damage = self.fresh.is_some();
        let start = Start {
            tail: (self.expected.is_some() && !after_damage).then_some(self.end),
            next_seq,
            after_damage,
            segment_first: self.segment_first,
            mark_due: !self.ends_in_mark && !after_damage,
            copies: self.copies,
            ends: self.ends,
        };
        let recovered = Recovered { groups, verdict, unlisted_damaged };
        // Parts of a frame that was cut could make it whole again, together with parts of another
        // that is written to the same place and cut as well.
        let zero_tail = self.has_rest && !after_damage;
        let unsure = self.unsure.into_iter().map(|(_, pos, bytes)| (pos, bytes)).collect();
        Outcome { recovered, index, start, zero_tail, unsure, seals: self.seals }
    }
}

#[cfg(test)]
mod tests;
