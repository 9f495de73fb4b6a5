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
    buffer: Vec<u8>,
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

const FIRST: Stage = Stage::Behind(SegmentId::new(0));

impl WalScrubber {
    pub(crate) fn new(shared: Arc<Shared>, bell: Option<Arc<Bell>>) -> Self {
        Self {
            shared,
            bell,
            stage: FIRST,
            last: SegmentId::new(0),
            again: false,
            buffer: Vec::new(),
        }
    }

    /// Reads on for about so many bytes, or to the end of the round.
    ///
    /// # Errors
    /// When a file is missing or may not be read. The next step goes on with the next segment.
    pub fn step(&mut self, bytes_max: usize) -> Result<Scrubbed, WalError> {
        let mut done = Scrubbed::default();
        while !done.ends_round && done.bytes < bytes_max as u64 {
            let stage = std::mem::replace(&mut self.stage, FIRST);
            let segment = stage.segment();
            match self.advance(stage, &mut done) {
                Ok(stage) => self.stage = stage,
                Err(error) => {
                    self.stage = Stage::Behind(segment);
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    fn advance(&mut self, stage: Stage, done: &mut Scrubbed) -> Result<Stage, WalError> {
        match stage {
            Stage::Behind(before) => {
                let commit = self.shared.commit();
                if before == SegmentId::new(0) {
                    self.last = commit.written_last();
                }
                // However fast it is written, a round ends.
                let next = commit.written_after(before).filter(|next| *next <= self.last);
                done.ends_round = next.is_none();
                Ok(next.map_or(FIRST, |segment| Stage::Before { segment, pos: 0 }))
            }
            Stage::Before { segment, pos: 0 } => {
                let name = segment::file_name(segment);
                let holds = self.read(segment, 0, SEGMENT_HEADER_BYTES as usize, done)?
                    && decode_header(&self.shared.opener.owner(), &name, &self.buffer)?
                        .is_some_and(|header| header.segment == segment);
                Ok(if holds {
                    self.passed(Stage::Before { segment, pos: SEGMENT_HEADER_BYTES })
                } else {
                    self.failed(Stage::Before { segment, pos: 0 })
                })
            }
            Stage::Before { segment, pos } => {
                let Some(end) = self.shared.commit().written_end(segment) else {
                    return Ok(Stage::Behind(segment));
                };
                if end <= pos {
                    return Ok(Stage::Behind(segment));
                }
                let head = if self.read(segment, pos, FRAME_HEADER_BYTES, done)? {
                    let domain = self.shared.opener.owner().domain();
                    frame::head(&domain, segment, &self.buffer, pos)
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
                let is_read = self.read(segment, pos + read as u64, piece, done)?;
                if is_read {
                    head.take(&self.buffer);
                }
                let read = read + piece;
                if is_read && read < head.content_bytes {
                    return Ok(Stage::Within { segment, pos, head, read });
                }
                let behind = pos + head.bytes();
                Ok(if is_read && head.holds() {
                    self.passed(Stage::Before { segment, pos: behind })
                } else {
                    self.failed(Stage::Before { segment, pos })
                })
            }
            Stage::Needed { segment, mut items } => {
                let Some(item) = items.next() else { return Ok(Stage::Behind(segment)) };
                self.look_at(&item, done)?;
                Ok(Stage::Needed { segment, items })
            }
        }
    }

    fn passed(&mut self, next: Stage) -> Stage {
        self.again = false;
        next
    }

    /// What does not hold is read once more from its beginning, and then given up.
    fn failed(&mut self, begin: Stage) -> Stage {
        let segment = begin.segment();
        if !std::mem::replace(&mut self.again, true) {
            return begin;
        }
        self.again = false;
        let condemned = self.shared.commit().condemn(segment);
        let Some(items) = condemned else { return Stage::Behind(segment) };
        self.bell.iter().for_each(|bell| bell.ring());
        Stage::Needed { segment, items: items.into_iter() }
    }

    /// Fills the buffer from the medium. False if it gives the bytes up, or the segment was freed meanwhile.
    fn read(
        &mut self,
        segment: SegmentId,
        pos: u64,
        count: usize,
        done: &mut Scrubbed,
    ) -> Result<bool, WalError> {
        self.buffer.resize(count, 0);
        done.bytes += count as u64;
        let name = segment::file_name(segment);
        match self.shared.disk.read_medium(&name, pos, &mut self.buffer) {
            Ok(()) => Ok(true),
            Err(error) if is_unreadable(&error) => Ok(false),
            Err(_) if !self.shared.commit().is_needed(segment) => Ok(false),
            Err(error) => Err(WalError::io("read", &name)(error)),
        }
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
