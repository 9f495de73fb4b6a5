//! Reads what is written again, so that what rots is found while others still have it: `docs/scrub.md`.

use std::sync::Arc;

use crate::bell::Bell;
use crate::error::WalError;
use crate::frame::{self, FRAME_HEADER_BYTES, FrameHead, ItemKind};
use crate::index::LiveItem;
use crate::position::{GroupId, LogIndex, SegmentId};
use crate::reader::read_payload;
use crate::salvage::is_unreadable;
use crate::segment::{self, SEGMENT_HEADER_BYTES, decode_header};
use crate::wal::Shared;

/// Read at once.
const PIECE_BYTES: usize = 256 << 10;
const PAGE_BYTES: u64 = 4096;

/// What a step of a scrub found.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// How much it read.
    pub bytes: u64,
    /// Entries that cannot be read any more.
    pub entries: Vec<(GroupId, LogIndex)>,
    /// Groups whose register cannot be read any more.
    pub registers: Vec<GroupId>,
    /// Everything was looked at; the next step begins again.
    pub ends_round: bool,
}

impl Scrubbed {
    /// True if nothing is lost in what was read, as far as it is needed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.entries.is_empty() && self.registers.is_empty()
    }
}

/// Goes round a wal, a step at a time. Holds the wal's files, as readers do.
pub struct WalScrubber {
    shared: Arc<Shared>,
    /// Of the writer, who moves what a condemned segment holds.
    bell: Option<Arc<Bell>>,
    stage: Stage,
    /// The last segment when the round began.
    last: SegmentId,
    /// What was read last did not hold, and is read once more.
    again: bool,
    window: Window,
    /// Told once what was found before it is.
    error: Option<WalError>,
}

enum Stage {
    /// Before the first segment behind this one.
    Behind(SegmentId),
    /// Before a frame, or the header at the beginning.
    Before { segment: SegmentId, pos: u64 },
    /// Within a frame: so much of it is read.
    Within { segment: SegmentId, pos: u64, head: FrameHead, read: usize },
    /// The segment is condemned, and what is needed of it is looked at.
    Needed { segment: SegmentId, items: std::vec::IntoIter<LiveItem> },
}

/// What was read of a segment last, in whole pages as far as it is written: each page is read once, however many
/// frames lie in it.
#[derive(Default)]
struct Window {
    segment: SegmentId,
    pos: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn get(&self, segment: SegmentId, pos: u64, count: usize) -> Option<&[u8]> {
        let at = usize::try_from(pos.checked_sub(self.pos)?).ok()?;
        self.bytes.get(at..at + count).filter(|_| self.segment == segment)
    }
}

const FIRST: Stage = Stage::Behind(SegmentId::new(0));

impl WalScrubber {
    pub(crate) fn new(shared: Arc<Shared>, bell: Option<Arc<Bell>>) -> Self {
        let last = SegmentId::new(0);
        let (again, window, error) = (false, Window::default(), None);
        Self { shared, bell, stage: FIRST, last, again, window, error }
    }

    /// Reads on for about so many bytes, or to the end of the round.
    ///
    /// # Errors
    /// When a file is missing or may not be read. The next step goes on with the next segment.
    pub fn step(&mut self, bytes_max: usize) -> Result<Scrubbed, WalError> {
        let mut done = Scrubbed::default();
        while !done.ends_round && done.bytes < bytes_max as u64 && self.error.is_none() {
            let stage = std::mem::replace(&mut self.stage, FIRST);
            let segment = stage.segment();
            self.stage = self.advance(stage, &mut done).unwrap_or_else(|error| {
                self.error = Some(error);
                Stage::Behind(segment)
            });
        }
        match self.error.take() {
            Some(error) if done.is_sound() => Err(error),
            error => {
                self.error = error;
                Ok(done)
            }
        }
    }

    fn advance(&mut self, stage: Stage, done: &mut Scrubbed) -> Result<Stage, WalError> {
        match stage {
            Stage::Behind(before) => {
                self.again = false;
                self.window.bytes.clear();
                let commit = self.shared.commit();
                if before == SegmentId::new(0) {
                    self.last = commit.written_last();
                }
                // However fast it is written, a round ends.
                let next = commit.written_after(before).filter(|next| *next <= self.last);
                done.ends_round = next.is_none();
                Ok(next.map_or(FIRST, |segment| Stage::Before { segment, pos: 0 }))
            }
            Stage::Before { segment, pos } => {
                let Some(end) = self.shared.commit().written_end(segment) else {
                    return Ok(Stage::Behind(segment));
                };
                if end <= pos {
                    return Ok(Stage::Behind(segment));
                }
                if pos == 0 {
                    return self.header(segment, end, done);
                }
                let head = if self.read(segment, pos, FRAME_HEADER_BYTES, end, done)? {
                    let raw = self.window.get(segment, pos, FRAME_HEADER_BYTES);
                    let domain = self.shared.opener.owner().domain();
                    raw.and_then(|raw| frame::head(&domain, segment, raw, pos))
                } else {
                    None
                };
                Ok(match head.filter(|head| pos + head.content_bytes as u64 <= end) {
                    Some(head) => Stage::Within { segment, pos, head, read: FRAME_HEADER_BYTES },
                    None => self.failed(Stage::Before { segment, pos }),
                })
            }
            Stage::Within { segment, pos, mut head, read } => {
                let piece = PIECE_BYTES.min(head.content_bytes - read);
                let from = pos + read as u64;
                let end = pos + head.content_bytes as u64;
                let is_read = self.read(segment, from, piece, end, done)?;
                let raw = self.window.get(segment, from, piece).filter(|_| is_read);
                let Some(raw) = raw else {
                    return Ok(self.failed(Stage::Before { segment, pos }));
                };
                head.take(raw);
                let read = read + piece;
                if read < head.content_bytes {
                    return Ok(Stage::Within { segment, pos, head, read });
                }
                let behind = pos + head.bytes();
                Ok(if head.holds() {
                    self.passed(Stage::Before { segment, pos: behind })
                } else {
                    self.failed(Stage::Before { segment, pos })
                })
            }
            Stage::Needed { segment, mut items } => {
                let Some(item) = items.next() else { return Ok(Stage::Behind(segment)) };
                if let Err(error) = self.look_at(&item, done) {
                    self.error = Some(error);
                }
                Ok(Stage::Needed { segment, items })
            }
        }
    }

    fn header(
        &mut self,
        segment: SegmentId,
        end: u64,
        done: &mut Scrubbed,
    ) -> Result<Stage, WalError> {
        let count = SEGMENT_HEADER_BYTES as usize;
        let is_read = self.read(segment, 0, count, end, done)?;
        let raw = self.window.get(segment, 0, count).filter(|_| is_read).unwrap_or_default();
        let owner = self.shared.opener.owner();
        let header = decode_header(&owner, &segment::file_name(segment), raw)?;
        Ok(if header.is_some_and(|header| header.segment == segment) {
            self.passed(Stage::Before { segment, pos: SEGMENT_HEADER_BYTES })
        } else {
            self.failed(Stage::Before { segment, pos: 0 })
        })
    }

    fn passed(&mut self, next: Stage) -> Stage {
        self.again = false;
        next
    }

    /// What does not hold is read once more from its beginning, and then given up.
    fn failed(&mut self, begin: Stage) -> Stage {
        let segment = begin.segment();
        self.window.bytes.clear();
        if !std::mem::replace(&mut self.again, true) {
            return begin;
        }
        let condemned = self.shared.commit().condemn(segment);
        let Some(items) = condemned else { return Stage::Behind(segment) };
        self.bell.iter().for_each(|bell| bell.ring());
        Stage::Needed { segment, items: items.into_iter() }
    }

    /// Makes sure that the window has these bytes, of a segment that is written up to `end`. False if the medium
    /// gives them up, or the segment was freed meanwhile.
    fn read(
        &mut self,
        segment: SegmentId,
        pos: u64,
        count: usize,
        end: u64,
        done: &mut Scrubbed,
    ) -> Result<bool, WalError> {
        if self.window.get(segment, pos, count).is_some() {
            return Ok(true);
        }
        let page = pos / PAGE_BYTES * PAGE_BYTES;
        let whole = (end - page).min((PIECE_BYTES as u64).max(pos + count as u64 - page)) as usize;
        // Something that is bad beside it is not its fault.
        for (pos, count) in [(page, whole), (pos, count)] {
            self.window.segment = segment;
            self.window.pos = pos;
            self.window.bytes.resize(count, 0);
            done.bytes += count as u64;
            let name = segment::file_name(segment);
            match self.shared.disk.read_medium(&name, pos, &mut self.window.bytes) {
                Ok(()) => return Ok(true),
                Err(error) if is_unreadable(&error) => {}
                Err(_) if !self.shared.commit().is_needed(segment) => break,
                Err(error) => {
                    self.window.bytes.clear();
                    return Err(WalError::io("read", &name)(error));
                }
            }
        }
        self.window.bytes.clear();
        Ok(false)
    }

    /// What moved or went meanwhile is no loss.
    fn look_at(&self, item: &LiveItem, done: &mut Scrubbed) -> Result<(), WalError> {
        done.bytes += u64::from(item.location.len).max(1);
        let Shared { disk, opener, .. } = &*self.shared;
        match read_payload(&**disk, opener, item.group, item.index, &item.location) {
            Ok(_) => return Ok(()),
            Err(_) if !self.shared.commit().index.is_current(item) => return Ok(()),
            Err(WalError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        // A medium that fails may take seconds for it.
        done.bytes += PIECE_BYTES as u64;
        match item.kind {
            ItemKind::State => done.registers.push(item.group),
            _ => done.entries.push((item.group, item.index)),
        }
        Ok(())
    }
}

impl Stage {
    fn segment(&self) -> SegmentId {
        match self {
            Self::Behind(segment)
            | Self::Before { segment, .. }
            | Self::Within { segment, .. }
            | Self::Needed { segment, .. } => *segment,
        }
    }
}

#[cfg(test)]
mod tests;
