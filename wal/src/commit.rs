//! Group commit without I/O: what is written next, where it goes, and who may be told.
//!
//! ```text
//!   submit --> staged --> taken (being written and synced) --> durable
//! ```
//!
//! A batch is checked, indexed and encoded when it is submitted, while the one before is synced.
//! Everything staged when the disk comes free is taken together: one write, one sync, however many
//! batches and groups. There is no timer.
//!
//! Two things are written beside what callers ask for. The registers of a frame are repeated in the
//! next one, see `copies`. And when nothing is left to do, a **mark** is written behind the last
//! batch, which tells that the batch was synced: without it, damage there would look like a tail
//! that was torn.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crc32fast::Hasher;

use crate::copies::Copies;
use crate::error::WalError;
use crate::frame::{
    self, Encoder, FrameHeader, ITEM_HEADER_BYTES, ItemKind, ItemRef, Link, Size, Write,
};
use crate::index::{Index, LiveItem, Location, Lost};
use crate::keys::{KeyHold, SEAL_BYTES};
use crate::options::{STATE_BYTES_MAX, WalOptions};
use crate::position::{BatchSeq, GroupId, LogIndex, SEQ_MAX, SegmentId};
use crate::room::{Need, Room};
use crate::sealing::TailSeal;
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// Bytes for one place in one segment.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) segment: SegmentId,
    pub(crate) pos: u64,
    pub(crate) bytes: Vec<u8>,
    /// Where in them the last frame begins.
    pub(crate) last_frame: usize,
    /// The segment begins with this chunk, and the one before is to be synced first.
    pub(crate) begins: Option<SegmentHeader>,
}

/// What is to be written and synced next.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) up_to: BatchSeq,
    /// The highest batch that was synced before any of it is written.
    pub(crate) durable: BatchSeq,
    /// Nobody waits for it: it is synced with what comes after.
    pub(crate) is_mark: bool,
    /// So many chunks are written already.
    pub(crate) written: usize,
}

impl Taken {
    /// The last frame may have been made while what is before it was being synced. It names that as
    /// synced, so that a loss before it is told from a tail that was torn.
    pub(crate) fn tell_synced(&mut self, domain: &Hasher) {
        let last = self.chunks.last_mut().expect("something was taken");
        let pos = last.pos + last.last_frame as u64;
        frame::set_durable(domain, pos, &mut last.bytes[last.last_frame..], self.durable);
    }
}

/// Where a wal goes on.
#[derive(Debug)]
pub(crate) struct Start {
    /// Where the next frame goes, or `None` if it begins a segment.
    pub(crate) tail: Option<(SegmentId, u64)>,
    pub(crate) next_seq: BatchSeq,
    /// The next segment is begun behind damage.
    pub(crate) after_damage: bool,
    /// The first batch of the last segment, or zero if there is none.
    pub(crate) segment_first: BatchSeq,
    /// The last batch is not known to be synced by anything behind it.
    pub(crate) mark_due: bool,
    /// Registers of the last frame.
    pub(crate) copies: Copies,
    /// Where the frames of each segment end.
    pub(crate) ends: BTreeMap<SegmentId, u64>,
}

/// Numbers that tell how a wal is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Bytes of entries, registers and trim marks that are still needed, each with its header.
    pub live_bytes: u64,
    /// Segment files, spare ones not counted.
    pub segments: u64,
    /// Syncs so far.
    pub syncs: u64,
    /// Bytes of batches written so far.
    pub bytes_written: u64,
    /// Of these, copies of what was live in segments that were to be freed.
    pub bytes_moved: u64,
    /// Segments in which a scrub found something that does not hold.
    pub segments_condemned: u64,
    /// Bytes of batches that wait to be written.
    pub queued_bytes: u64,
    /// What may wait of callers' batches. Copies of what is live go beyond it.
    pub queued_bytes_max: u64,
    /// Batches that wait to be written.
    pub queued_batches: u64,
}

/// A live item and its payload.
pub(crate) type ReadItem = (LiveItem, Vec<u8>);

/// The decisions of a wal.
pub(crate) struct Commit {
    options: WalOptions,
    domain: Hasher,
    pub(crate) index: Index,
    /// Segments that exist or are about to, oldest first.
    pub(crate) segments: BTreeSet<SegmentId>,
    /// Where the frames of those end that are not the last.
    ends: BTreeMap<SegmentId, u64>,
    /// Those in which something does not hold. What is live in them moves.
    condemned: BTreeSet<SegmentId>,
    /// Places of items that could not be read, so that they are not tried again after each sync.
    unreadable: BTreeSet<(SegmentId, u32)>,
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
    pub(crate) room: Room,
    /// Old places of entries whose copies are staged: until those are written, reads go here.
    moving: BTreeMap<(SegmentId, u32), Location>,
    /// Why nothing is taken any more.
    pub(crate) refusal: Option<WalError>,
    pub(crate) stats: WalStats,
    /// The next segment is begun behind damage.
    pub(crate) after_damage: bool,
    /// The first batch of the last segment, or zero.
    segment_first: BatchSeq,
    /// The last frame is a batch, and nothing behind it tells that it was synced.
    mark_due: bool,
    /// Registers of the last frame, which the next repeats.
    copies: Copies,
    /// Cleared, to be filled for the frame being made.
    copies_made: Copies,
    /// Seals what is written, if anything is.
    seal: TailSeal,
}

/// Fills one frame: every item goes to the bytes and to the index.
struct Filler<'a> {
    encoder: Encoder<'a>,
    index: &'a mut Index,
    /// What the next frame repeats.
    copies: &'a mut Copies,
    segment: SegmentId,
    pos: u64,
    seq: BatchSeq,
}

impl Filler<'_> {
    fn put(&mut self, item: ItemRef<'_>) {
        let link = self.index.link(item.group, self.seq);
        self.put_linked(item, link);
    }

    fn put_linked(&mut self, item: ItemRef<'_>, link: Link) {
        let item_made = self.encoder.item(item, link);
        self.index.apply(&item_made, self.segment, self.pos, self.seq);
        if item.kind == ItemKind::State {
            self.copies.set(item.group, item.payload);
        }
    }

    /// The copy is not what the index points to: it lies behind the original, and so is there as
    /// long as the original is needed.
    fn put_copy(&mut self, group: GroupId, payload: &[u8]) {
        let link = self.index.copy_link(group, self.seq);
        let link = Link { copied: self.encoder.seals(), ..link };
        let kind = ItemKind::State;
        self.encoder.item(ItemRef { kind, group, index: LogIndex::ZERO, payload }, link);
        self.index.copied(group, self.seq);
    }

    fn put_mark(&mut self) {
        let (kind, group) = (ItemKind::Mark, GroupId::new(0));
        let item = ItemRef { kind, group, index: LogIndex::ZERO, payload: &[] };
        self.encoder.item(item, Link::default());
    }

    /// The trim mark comes along, since the front of a damaged log may not be what the files say.
    fn put_repaired(&mut self, group: GroupId) {
        let payload = encode_lost(self.index.lost_of(group));
        let found = self.index.groups.get(&group);
        let trimmed = found.map_or(LogIndex::ZERO, |found| found.trimmed);
        let last = found.map_or(LogIndex::ZERO, |found| found.last());
        self.put(ItemRef { kind: ItemKind::Trim, group, index: trimmed, payload: &[] });
        self.put(ItemRef { kind: ItemKind::Repaired, group, index: last, payload: &payload });
    }
}

/// Lost runs that a repair names one by one; those beyond are named together.
const LOST_MAX: usize = 64;

fn encode_lost(lost: &[Lost]) -> Vec<u8> {
    let mut named = lost.to_vec();
    if LOST_MAX < named.len() {
        let rest = named.split_off(LOST_MAX - 1);
        named.push((rest[0].0, rest[rest.len() - 1].1));
    }
    named
        .iter()
        .flat_map(|(first, last)| [first, last])
        .flat_map(|seq| seq.get().to_le_bytes())
        .collect()
}

fn lost_bytes(lost: &[Lost]) -> usize {
    16 * lost.len().min(LOST_MAX)
}

impl Commit {
    pub(crate) fn new(
        options: WalOptions,
        domain: Hasher,
        index: Index,
        segments: BTreeSet<SegmentId>,
        start: Start,
        seal: TailSeal,
    ) -> Self {
        let Start { tail, next_seq, after_damage, segment_first, mark_due, copies, ends } = start;
        let durable = BatchSeq::new(next_seq.get() - 1);
        let next_segment = segments.last().map_or(SegmentId::new(1), |last| last.next());
        Self {
            options,
            domain,
            index,
            segments,
            ends,
            condemned: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            tail,
            next_segment,
            next_seq,
            staged: Vec::new(),
            staged_bytes: 0,
            spare_buffer: Vec::new(),
            taken: durable,
            written: tail.unwrap_or((next_segment, 0)),
            durable,
            room: Room::default(),
            moving: BTreeMap::new(),
            refusal: None,
            stats: WalStats::default(),
            after_damage,
            segment_first,
            mark_due,
            copies,
            copies_made: Copies::default(),
            seal,
        }
    }

    /// Takes a batch in, whole or not at all. One that adds no entry is urgent in any case.
    pub(crate) fn submit(&mut self, batch: &[Write], need: Need) -> Result<BatchSeq, WalError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if batch.is_empty() {
            return Err(invalid("a batch has at least one write"));
        }
        self.check(batch)?;
        let adds = |write: &Write| matches!(write, Write::Append { .. } | Write::Restore { .. });
        let need = if batch.iter().any(adds) { need } else { Need::Urgent };
        let size: Size = batch.iter().map(|write| self.encoded(write)).sum();
        let sets = |group| {
            batch
                .iter()
                .any(|write| matches!(write, Write::SetState { .. }) && write.group() == group)
        };
        self.stage(size, need, sets, |filler| {
            for write in batch {
                match write {
                    Write::Repaired { group } => filler.put_repaired(*group),
                    _ => filler.put(ItemRef::from(write)),
                }
            }
        })
    }

    fn encoded(&self, write: &Write) -> Size {
        let kind = ItemRef::from(write).kind;
        let more = match write {
            Write::Repaired { group } => ITEM_HEADER_BYTES + lost_bytes(self.index.lost_of(*group)),
            _ => write.payload().len(),
        };
        Size::of(kind, more)
    }

    /// Copies live items to the end, so that their old segment can be freed. Those that have moved
    /// or gone since they were read are left out.
    pub(crate) fn submit_moved(&mut self, items: &[ReadItem]) -> Result<(), WalError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let index = &self.index;
        let current: Vec<&ReadItem> =
            items.iter().filter(|(item, _)| index.is_current(item)).collect();
        if current.is_empty() {
            return Ok(());
        }
        let size: Size =
            current.iter().map(|(item, payload)| Size::of(item.kind, payload.len())).sum();
        let sets = |group| {
            current.iter().any(|(item, _)| item.kind == ItemKind::State && item.group == group)
        };
        let mut places = Vec::with_capacity(current.len());
        let moved = self.stage(size, Need::Own, sets, |filler| {
            for (item, payload) in &current {
                let link = match item.kind {
                    ItemKind::State => filler.index.copy_link(item.group, filler.seq),
                    _ => filler.index.link(item.group, filler.seq),
                };
                let LiveItem { kind, group, index, location } = *item;
                filler.put_linked(ItemRef { kind, group, index, payload }, link);
                if let Some(copy) = filler.index.groups[&group].entry(index) {
                    places.push(((copy.segment, copy.pos), location));
                }
            }
        });
        moved?;
        self.moving.extend(places);
        let is_sealed = self.seal.sealer().is_some();
        self.stats.bytes_moved += frame::frame_bytes(size.stored(is_sealed)) as u64;
        Ok(())
    }

    /// Tells of damaged groups by a trim mark that trims nothing more, so that the damage is still
    /// known when the place where it happened is freed.
    pub(crate) fn submit_notes(&mut self) -> Result<(), WalError> {
        if self.index.not_noted.is_empty() || self.oldest_unused().is_none() {
            return Ok(());
        }
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let room = self.options.batch_bytes_max / 2 / ITEM_HEADER_BYTES;
        let groups: Vec<GroupId> = self.index.not_noted.iter().copied().take(room).collect();
        let noted = self.stage(
            groups.iter().map(|_| Size::of(ItemKind::Trim, 0)).sum(),
            Need::Own,
            |_| false,
            |filler| {
                for group in &groups {
                    let index = filler.index.groups[group].trimmed;
                    filler.put(ItemRef {
                        kind: ItemKind::Trim,
                        group: *group,
                        index,
                        payload: &[],
                    });
                }
            },
        );
        noted.map(|_| ())
    }

    /// Stages a frame with these items and the copies that are due. `sets` tells whose registers
    /// are among the items: those need no copy.
    fn stage(
        &mut self,
        size: Size,
        need: Need,
        sets: impl Fn(GroupId) -> bool,
        fill: impl FnOnce(&mut Filler<'_>),
    ) -> Result<BatchSeq, WalError> {
        let alone = frame::frame_bytes(size.plain);
        if alone > self.options.batch_bytes_max {
            return Err(invalid(&format!(
                "a batch of {alone} bytes is over batch_bytes_max={}",
                self.options.batch_bytes_max
            )));
        }
        let with_copies = size + self.copies_size(&sets);
        if frame::frame_bytes(with_copies.plain) <= self.options.batch_bytes_max {
            return self.frame(with_copies, need, &sets, fill);
        }
        // Together they are too long: the copies go first, in a frame of their own.
        self.stage_mark(need)?;
        self.frame(size, need, &sets, fill)
    }

    fn stage_mark(&mut self, need: Need) -> Result<BatchSeq, WalError> {
        let size = Size::of(ItemKind::Mark, 0) + self.copies_size(&|_| false);
        self.frame(size, need, &|_| false, |filler| filler.put_mark())
    }

    fn copies_size(&self, sets: &impl Fn(GroupId) -> bool) -> Size {
        let due = self.copies.iter().filter(|(group, _)| !sets(*group));
        due.map(|(_, payload)| Size::of(ItemKind::State, payload.len())).sum()
    }

    fn frame(
        &mut self,
        size: Size,
        need: Need,
        sets: &impl Fn(GroupId) -> bool,
        fill: impl FnOnce(&mut Filler<'_>),
    ) -> Result<BatchSeq, WalError> {
        if SEQ_MAX < self.next_seq {
            return Err(invalid("no batch could follow the last number there is"));
        }
        let active = self.seal.active();
        let frame_bytes = frame::frame_bytes(size.stored(active.is_some()));
        let queue_is_full = self.staged_bytes + frame_bytes > self.options.queued_bytes_max;
        if queue_is_full && need != Need::Own {
            return Err(self.backpressure());
        }
        let (segment, pos) = self.place(frame_bytes as u64, need, active)?;
        let seq = self.next_seq;
        let header = FrameHeader { segment, seq, durable: self.durable };
        let chunk = self.staged.last_mut().expect("a place is in the last chunk");
        chunk.last_frame = chunk.bytes.len();
        let encoder = Encoder::begin(header, &mut chunk.bytes).sealed(self.seal.sealer(), pos);
        let (index, copies) = (&mut self.index, &mut self.copies_made);
        let mut filler = Filler { encoder, index, copies, segment, pos, seq };
        for (group, payload) in self.copies.iter().filter(|(group, _)| !sets(*group)) {
            filler.put_copy(group, payload);
        }
        fill(&mut filler);
        filler.encoder.finish(&self.domain, pos);
        assert_eq!(chunk.pos + chunk.bytes.len() as u64, pos + frame_bytes as u64);
        self.copies.clear();
        std::mem::swap(&mut self.copies, &mut self.copies_made);
        self.tail = Some((segment, pos + frame_bytes as u64));
        self.staged_bytes += frame_bytes;
        self.next_seq = seq.next();
        self.mark_due = true;
        Ok(seq)
    }

    /// A mark behind the last batch, if that is synced and nothing is left to do.
    pub(crate) fn take_mark(&mut self) -> Option<Taken> {
        let idle = self.staged.is_empty() && self.durable.next() == self.next_seq;
        if !self.mark_due || !idle || self.refusal.is_some() {
            return None;
        }
        // Without room for it now, there may be later.
        self.stage_mark(Need::Ordinary).ok()?;
        self.mark_due = false;
        let taken = self.take()?;
        Some(Taken { is_mark: true, ..taken })
    }

    /// Where a frame of this size goes; the last staged chunk ends there afterwards.
    fn place(
        &mut self,
        frame_bytes: u64,
        need: Need,
        active: Option<KeyHold>,
    ) -> Result<(SegmentId, u64), WalError> {
        if self.room.refuses(need) {
            return Err(WalError::NoSpace);
        }
        if let Some((segment, pos)) = self.tail
            && pos + frame_bytes <= self.options.segment_bytes
            && (self.room.is_short() || !self.condemned.contains(&segment))
            && self.seal.goes_on(active.as_ref().map(KeyHold::epoch), self.room.is_short())
        {
            if self.staged.is_empty() {
                let bytes = std::mem::take(&mut self.spare_buffer);
                self.staged.push(Chunk { segment, pos, bytes, last_frame: 0, begins: None });
            }
            return Ok((segment, pos));
        }
        let segment = self.next_segment;
        let begun = self.seal.begin(segment, active)?;
        // A segment is begun in a file that is ready, so that a full disk is noticed before
        // anything is promised.
        if !self.room.take_spare(need) {
            let is_short = self.room.is_short();
            return Err(if is_short { WalError::NoSpace } else { self.backpressure() });
        }
        self.next_segment = segment.next();
        self.segments.insert(segment);
        self.ends.extend(self.tail);
        let header = SegmentHeader {
            segment,
            first_seq: self.next_seq,
            bytes: self.options.segment_bytes,
            after_damage: std::mem::take(&mut self.after_damage),
            unlisted: self.index.unlisted.is_some(),
            prev_first: std::mem::replace(&mut self.segment_first, self.next_seq),
            seal: begun.mark,
        };
        self.seal.begun(segment, begun);
        let pos = SEGMENT_HEADER_BYTES;
        let bytes = std::mem::take(&mut self.spare_buffer);
        self.staged.push(Chunk { segment, pos, bytes, last_frame: 0, begins: Some(header) });
        Ok((segment, pos))
    }

    /// Refuses what would leave a gap or name what is not there, looking at the batch as a whole.
    fn check(&self, batch: &[Write]) -> Result<(), WalError> {
        // Few groups share a batch: a small list beats a map.
        let mut ends: Vec<(GroupId, LogIndex, LogIndex)> = Vec::new();
        for (number, write) in batch.iter().enumerate() {
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
                Write::Restore { index, .. } => {
                    if *index <= *trimmed || *last < *index {
                        return Err(invalid(&format!(
                            "group={group} holds {}..={last}, cannot restore index={index}",
                            trimmed.next()
                        )));
                    }
                }
                Write::Truncate { after, .. } => {
                    if *after < *trimmed || *last < *after {
                        return Err(invalid(&format!(
                            "group={group} holds {}..={last}, cannot truncate after={after}",
                            trimmed.next()
                        )));
                    }
                    *last = *after;
                }
                Write::Repaired { .. } => {
                    if batch[..number].contains(write) {
                        return Err(invalid("a batch repairs a group at most once"));
                    }
                    if let Some(hole) = self.holes_after(group, &batch[..number]).first() {
                        return Err(invalid(&format!(
                            "group={group} is not repaired, index={hole} is missing"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// What is still missing of a group when these writes are done.
    fn holes_after(&self, group: GroupId, writes: &[Write]) -> BTreeSet<LogIndex> {
        let found = self.index.groups.get(&group);
        let mut holes: BTreeSet<LogIndex> = found.iter().flat_map(|found| found.holes()).collect();
        for write in writes.iter().filter(|write| write.group() == group) {
            match write {
                Write::Append { index, .. } => holes.retain(|hole| hole < index),
                Write::Restore { index, .. } => {
                    holes.remove(index);
                }
                Write::Truncate { after, .. } => holes.retain(|hole| hole <= after),
                Write::Trim { up_to, .. } => holes.retain(|hole| up_to < hole),
                Write::Reset { .. } => holes.clear(),
                Write::SetState { .. } | Write::Repaired { .. } => {}
            }
        }
        holes
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
        let chunks = std::mem::take(&mut self.staged);
        let (up_to, durable) = (self.taken, self.durable);
        Some(Taken { chunks, up_to, durable, is_mark: false, written: 0 })
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
        // Copies that were staged meanwhile are not written yet.
        let written = self.written;
        self.moving.retain(|(segment, pos), _| written < (*segment, u64::from(*pos)));
    }

    /// Where the bytes of an entry can be read, if they have been handed to the disk.
    pub(crate) fn readable(&self, location: &Location) -> Option<Location> {
        if self.is_written(location) {
            return Some(*location);
        }
        self.moving.get(&(location.segment, location.pos)).copied()
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
    fn is_written(&self, location: &Location) -> bool {
        // By its end: an empty payload at the end of what is written begins there, too.
        let end = u64::from(location.pos) + u64::from(location.len);
        (location.segment, end) <= self.written
    }

    /// The oldest segment, if nothing in it is needed and it is not the last.
    pub(crate) fn freeable(&self) -> Option<SegmentId> {
        let noted = self.index.not_noted.is_empty() && self.index.noted_up_to <= self.durable;
        self.oldest_unused().filter(|_| noted)
    }

    /// The same, but what it tells of damage may not stand elsewhere yet.
    fn oldest_unused(&self) -> Option<SegmentId> {
        let oldest = *self.segments.first()?;
        // Behind damage nothing is written at first: the header that tells of groups nobody knows comes with the
        // next segment.
        let is_begun = 0 < self.written.1;
        let used =
            is_begun && oldest < self.written.0 && self.tail.is_some_and(|(tail, _)| oldest < tail);
        (used && self.index.is_free(oldest, self.durable)).then_some(oldest)
    }

    pub(crate) fn freed(&mut self, segment: SegmentId) {
        self.segments.remove(&segment);
        self.ends.remove(&segment);
        self.condemned.remove(&segment);
        self.unreadable.retain(|(of, _)| *of != segment);
        self.index.forget(segment);
        self.seal.forget(segment);
    }

    /// What is to be moved now: all that is live of the oldest segment that holds anything.
    pub(crate) fn movable(&self) -> Vec<LiveItem> {
        let mut segments = self.segments.len() as u64;
        for segment in self.segments.range(..self.written.0) {
            let mut first_bytes = self.index.live_bytes_in(*segment);
            if first_bytes > 0 {
                if self.seal.would_seal(*segment) {
                    first_bytes += SEAL_BYTES as u64 * self.index.live_count_in(*segment);
                }
                let live_bytes = self.index.live_bytes();
                let due = self.room.is_move_due(&self.options, segments, live_bytes, first_bytes)
                    || !self.room.is_short() && self.is_to_go(*segment);
                let mut items = if due { self.index.live_items(*segment) } else { Vec::new() };
                items.retain(|item| {
                    let LiveItem { location: Location { segment, pos, .. }, .. } = item;
                    !self.unreadable.contains(&(*segment, *pos))
                });
                return items;
            }
            // About to be freed.
            segments -= 1;
        }
        Vec::new()
    }

    /// It, or one behind it that only goes after it, is not to stay as it is.
    fn is_to_go(&self, segment: SegmentId) -> bool {
        let mut condemned = self.condemned.range(segment..self.written.0);
        self.seal.is_former(segment) || condemned.next().is_some()
    }

    /// The first segment behind this one that has something written in it.
    pub(crate) fn written_after(&self, before: SegmentId) -> Option<SegmentId> {
        let next = self.segments.range(before.next()..).next().copied();
        next.filter(|next| self.written_end(*next).is_some())
    }

    /// The segment that was written to last.
    pub(crate) fn written_last(&self) -> SegmentId {
        self.written.0
    }

    /// Up to where frames are written in a segment, if there are any.
    pub(crate) fn written_end(&self, segment: SegmentId) -> Option<u64> {
        let (last, last_end) = self.written;
        match segment.cmp(&last) {
            _ if !self.segments.contains(&segment) => None,
            Ordering::Less => self.ends.get(&segment).copied(),
            Ordering::Equal => Some(last_end).filter(|end| 0 < *end),
            Ordering::Greater => None,
        }
    }

    /// False if it is gone, or about to go.
    pub(crate) fn is_needed(&self, segment: SegmentId) -> bool {
        self.segments.contains(&segment) && self.oldest_unused() != Some(segment)
    }

    /// Something in the segment does not hold. Gives what is needed of it, or nothing if none of it is.
    pub(crate) fn condemn(&mut self, segment: SegmentId) -> Option<Vec<LiveItem>> {
        if !self.is_needed(segment) {
            return None;
        }
        // They are tried again once in each round.
        self.unreadable.retain(|(of, _)| *of != segment);
        if self.condemned.insert(segment) {
            self.stats.segments_condemned += 1;
        }
        let mut items = self.index.live_items(segment);
        items.retain(|item| self.is_written(&item.location));
        Some(items)
    }

    /// An item could not be read: it holds its segment until somebody replaces it.
    pub(crate) fn note_unreadable(&mut self, item: &LiveItem) {
        self.unreadable.insert((item.location.segment, item.location.pos));
    }

    pub(crate) fn is_condemned(&self, segment: SegmentId) -> bool {
        self.condemned.contains(&segment)
    }

    pub(crate) fn stats(&self) -> WalStats {
        WalStats {
            live_bytes: self.index.live_bytes(),
            segments: self.segments.len() as u64,
            queued_bytes: self.staged_bytes as u64,
            queued_bytes_max: self.options.queued_bytes_max as u64,
            queued_batches: self.next_seq.get() - 1 - self.taken.get(),
            ..self.stats
        }
    }
}

fn invalid(what: &str) -> WalError {
    WalError::InvalidArgument { what: what.to_owned() }
}
