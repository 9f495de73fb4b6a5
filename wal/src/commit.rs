//! Group commit without I/O: what is written next, where it goes, and who may be told.
//!
//! ```text
//!   submit --> staged --> taken (being written and synced) --> durable
//! ```
//!
//! A batch is checked, indexed and encoded when it is submitted, while the one before is synced.
//! Everything staged when the disk comes free is taken together: one write, one sync, however many
//! batches and groups. There is no timer.

use std::collections::BTreeSet;
use std::sync::Arc;

use crc32fast::Hasher;

use crate::error::WalError;
use crate::frame::{self, FrameHeader, ItemKind, ItemRef, Write};
use crate::index::{Index, LiveItem, Location};
use crate::options::{STATE_BYTES_MAX, WalOptions};
use crate::position::{BatchSeq, GroupId, LogIndex, SegmentId};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// Bytes for one place in one segment.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) segment: SegmentId,
    pub(crate) pos: u64,
    pub(crate) bytes: Vec<u8>,
    /// The segment begins with this chunk, and the one before is to be synced first.
    pub(crate) begins: Option<SegmentHeader>,
}

/// What is to be written and synced next.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) up_to: BatchSeq,
}

/// Numbers that tell how a wal is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Payload bytes of entries and registers that are still needed.
    pub live_bytes: u64,
    /// Segment files, spare ones not counted.
    pub segments: u64,
    /// Syncs so far.
    pub syncs: u64,
    /// Bytes written so far.
    pub bytes_written: u64,
}

/// The decisions of a wal.
pub(crate) struct Commit {
    options: WalOptions,
    domain: Hasher,
    pub(crate) index: Index,
    /// Segments that exist or are about to, oldest first.
    pub(crate) segments: BTreeSet<SegmentId>,
    /// Where the next frame goes, or `None` before the first segment.
    tail: Option<(SegmentId, u64)>,
    next_segment: SegmentId,
    next_seq: BatchSeq,
    staged: Vec<Chunk>,
    staged_bytes: usize,
    /// A used buffer, to be filled again.
    spare_buffer: Vec<u8>,
    /// The last batch handed out to be written.
    pub(crate) taken: BatchSeq,
    /// Everything before this place in this segment, and all earlier segments, is written.
    written: (SegmentId, u64),
    pub(crate) durable: BatchSeq,
    /// Prewritten files ready to become segments, those that staged chunks need not counted.
    pub(crate) spares_free: usize,
    pub(crate) no_space: bool,
    /// Why nothing is taken any more.
    pub(crate) refusal: Option<WalError>,
    pub(crate) stats: WalStats,
}

impl Commit {
    pub(crate) fn new(
        options: WalOptions,
        domain: Hasher,
        index: Index,
        segments: BTreeSet<SegmentId>,
        tail: Option<(SegmentId, u64)>,
        next_seq: BatchSeq,
    ) -> Self {
        let durable = BatchSeq::new(next_seq.get() - 1);
        let next_segment = segments.last().map_or(SegmentId::new(1), |last| last.next());
        Self {
            options,
            domain,
            index,
            segments,
            tail,
            next_segment,
            next_seq,
            staged: Vec::new(),
            staged_bytes: 0,
            spare_buffer: Vec::new(),
            taken: durable,
            written: tail.unwrap_or((SegmentId::new(0), 0)),
            durable,
            spares_free: 0,
            no_space: false,
            refusal: None,
            stats: WalStats::default(),
        }
    }

    /// Takes a batch in, whole or not at all.
    pub(crate) fn submit(&mut self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if batch.is_empty() {
            return Err(invalid("a batch has at least one write"));
        }
        self.check(batch)?;
        let items_bytes: usize = batch.iter().map(Write::encoded_bytes).sum();
        self.stage(items_bytes, batch.iter().map(ItemRef::from))
    }

    /// Copies live items to the end, so that their old segment can be freed. Those that have moved
    /// or gone since they were read are left out.
    pub(crate) fn submit_moved(&mut self, items: &[(LiveItem, Vec<u8>)]) -> Result<(), WalError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let index = &self.index;
        let current: Vec<&(LiveItem, Vec<u8>)> =
            items.iter().filter(|(item, _)| index.is_current(item)).collect();
        let items_bytes: usize =
            current.iter().map(|(_, payload)| frame::ITEM_HEADER_BYTES + payload.len()).sum();
        if items_bytes == 0 {
            return Ok(());
        }
        let refs = current.into_iter().map(|(item, payload)| ItemRef {
            kind: item.kind,
            group: item.group,
            index: item.index,
            payload,
        });
        self.stage(items_bytes, refs).map(|_| ())
    }

    fn stage<'a>(
        &mut self,
        items_bytes: usize,
        items: impl Iterator<Item = ItemRef<'a>>,
    ) -> Result<BatchSeq, WalError> {
        let frame_bytes = frame::frame_bytes(items_bytes);
        if frame_bytes > self.options.batch_bytes_max {
            return Err(invalid(&format!(
                "a batch of {frame_bytes} bytes is over batch_bytes_max={}",
                self.options.batch_bytes_max
            )));
        }
        if self.staged_bytes + frame_bytes > self.options.queued_bytes_max {
            return Err(self.backpressure());
        }
        let (segment, pos) = self.place(frame_bytes as u64)?;
        let seq = self.next_seq;
        let header = FrameHeader { segment, seq, durable: self.durable };
        let chunk = self.staged.last_mut().expect("a place is in the last chunk");
        let index = &mut self.index;
        frame::encode(&self.domain, header, items, &mut chunk.bytes, |item| {
            index.apply(&item, segment, pos, seq);
        });
        assert_eq!(chunk.pos + chunk.bytes.len() as u64, pos + frame_bytes as u64);
        self.tail = Some((segment, pos + frame_bytes as u64));
        self.staged_bytes += frame_bytes;
        self.next_seq = seq.next();
        Ok(seq)
    }

    /// Where a frame of this size goes; the last staged chunk ends there afterwards.
    fn place(&mut self, frame_bytes: u64) -> Result<(SegmentId, u64), WalError> {
        if let Some((segment, pos)) = self.tail
            && pos + frame_bytes <= self.options.segment_bytes
        {
            if self.staged.is_empty() {
                let bytes = std::mem::take(&mut self.spare_buffer);
                self.staged.push(Chunk { segment, pos, bytes, begins: None });
            }
            return Ok((segment, pos));
        }
        // A segment is begun in a file that is ready, so that a full disk is noticed before
        // anything is promised.
        if self.spares_free == 0 {
            return Err(if self.no_space { WalError::NoSpace } else { self.backpressure() });
        }
        self.spares_free -= 1;
        let segment = self.next_segment;
        self.next_segment = segment.next();
        self.segments.insert(segment);
        let header = SegmentHeader { segment, first_seq: self.next_seq };
        let pos = SEGMENT_HEADER_BYTES;
        let bytes = std::mem::take(&mut self.spare_buffer);
        self.staged.push(Chunk { segment, pos, bytes, begins: Some(header) });
        Ok((segment, pos))
    }

    /// Refuses what would leave a gap or name what is not there, looking at the batch as a whole.
    fn check(&self, batch: &[Write]) -> Result<(), WalError> {
        // Few groups share a batch: a small list beats a map.
        let mut ends: Vec<(GroupId, LogIndex, LogIndex)> = Vec::new();
        for write in batch {
            let group = write.group();
            let at = ends.iter().position(|(seen, ..)| *seen == group).unwrap_or_else(|| {
                let found = self.index.groups.get(&group);
                let trimmed = found.map_or(LogIndex::ZERO, |found| found.trimmed);
                let last = found.map_or(LogIndex::ZERO, |found| found.last());
                ends.push((group, trimmed, last));
                ends.len() - 1
            });
            let (_, trimmed, last) = &mut ends[at];
            match write {
                Write::Append { index, .. } => {
                    if *index <= *trimmed || last.next() < *index {
                        return Err(invalid(&format!(
                            "group={group} holds {}..={last}, cannot append index={index}",
                            trimmed.next()
                        )));
                    }
                    if *index == LogIndex::new(u64::MAX) {
                        return Err(invalid("no entry could follow the last index there is"));
                    }
                    *last = *index;
                }
                Write::SetState { payload, .. } => {
                    if payload.len() > STATE_BYTES_MAX {
                        return Err(invalid("a register is over STATE_BYTES_MAX"));
                    }
                }
                Write::Trim { up_to, .. } => {
                    if *last < *up_to {
                        return Err(invalid(&format!(
                            "group={group} ends at {last}, cannot trim up to {up_to}"
                        )));
                    }
                    *trimmed = (*up_to).max(*trimmed);
                }
                Write::Reset { up_to, .. } => {
                    if *up_to == LogIndex::new(u64::MAX) {
                        return Err(invalid("no entry could follow the last index there is"));
                    }
                    *trimmed = *up_to;
                    *last = *up_to;
                }
            }
        }
        Ok(())
    }

    fn backpressure(&self) -> WalError {
        WalError::Backpressure {
            queued_bytes: self.staged_bytes,
            queued_bytes_max: self.options.queued_bytes_max,
        }
    }

    /// Everything staged, to be written and synced together.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        if self.staged.is_empty() || self.refusal.is_some() {
            return None;
        }
        self.staged_bytes = 0;
        self.taken = BatchSeq::new(self.next_seq.get() - 1);
        Some(Taken { chunks: std::mem::take(&mut self.staged), up_to: self.taken })
    }

    pub(crate) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    pub(crate) fn on_written(&mut self, mut taken: Taken) {
        let last = taken.chunks.pop().expect("something was written");
        self.written = (last.segment, last.pos + last.bytes.len() as u64);
        let chunks = taken.chunks.iter().chain(std::iter::once(&last));
        self.stats.bytes_written += chunks.map(|chunk| chunk.bytes.len() as u64).sum::<u64>();
        let mut buffer = last.bytes;
        buffer.clear();
        self.spare_buffer = buffer;
    }

    pub(crate) fn on_synced(&mut self, up_to: BatchSeq) {
        assert!(self.durable <= up_to);
        assert!(up_to <= self.taken);
        self.durable = up_to;
        self.stats.syncs += 1;
    }

    /// Keeps the first cause of failure; everything later is refused with it.
    pub(crate) fn poison(&mut self, cause: &WalError) {
        if self.refusal.is_none() {
            self.refusal = Some(WalError::Poisoned { cause: Arc::new(cause.clone()) });
        }
    }

    /// True if the bytes at a location have been handed to the disk.
    pub(crate) fn is_written(&self, location: &Location) -> bool {
        // By its end: an empty payload at the end of what is written begins there, too.
        let end = u64::from(location.pos) + u64::from(location.len);
        (location.segment, end) <= self.written
    }

    /// The oldest segment, if nothing in it is needed and it is not the last.
    pub(crate) fn freeable(&self) -> Option<SegmentId> {
        let oldest = *self.segments.first()?;
        let used = oldest < self.written.0 && self.tail.is_some_and(|(tail, _)| oldest < tail);
        (used && self.index.is_free(oldest, self.durable)).then_some(oldest)
    }

    pub(crate) fn freed(&mut self, segment: SegmentId) {
        self.segments.remove(&segment);
        self.index.forget(segment);
    }

    /// Live items of the oldest segment, if it alone holds back more segments than the live bytes
    /// justify and little would have to be copied.
    pub(crate) fn movable(&self) -> Vec<LiveItem> {
        let Some(oldest) = self.segments.first().filter(|oldest| **oldest < self.written.0) else {
            return Vec::new();
        };
        let segment_bytes = self.options.segment_bytes;
        let justified =
            (self.index.live_bytes() / segment_bytes + 1) * self.options.live_multiple_max;
        let small = self.index.live_bytes_in(*oldest) <= segment_bytes / 4;
        if self.segments.len() as u64 <= justified || !small {
            return Vec::new();
        }
        let room = self.options.batch_bytes_max / 2;
        let mut bytes = 0;
        self.index
            .live_items(*oldest)
            .into_iter()
            .take_while(|item| {
                bytes += frame::ITEM_HEADER_BYTES + item.location.len as usize;
                item.kind == ItemKind::State || bytes <= room
            })
            .collect()
    }

    pub(crate) fn stats(&self) -> WalStats {
        WalStats {
            live_bytes: self.index.live_bytes(),
            segments: self.segments.len() as u64,
            ..self.stats
        }
    }
}

fn invalid(what: &str) -> WalError {
    WalError::InvalidArgument { what: what.to_owned() }
}
