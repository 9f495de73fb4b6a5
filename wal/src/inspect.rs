//! Looks at the files of a wal that nobody has open: what a start would find, and every frame.
//!
//! It is the recovery of [`Wal::open`](crate::Wal::open) without what follows it: nothing is cut, zeroed,
//! written again or begun, so a wal can be looked at before anybody decides what becomes of it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::disk::Disk;
use crate::error::WalError;
use crate::frame::{self, ALIGN_BYTES, FRAME_HEADER_BYTES, Frame, ItemKind};
use crate::index::Location;
use crate::keys::{KeyEpoch, KeyError, Keys, epoch_of};
use crate::options::WalOptions;
use crate::position::{BatchSeq, BytePos, GroupId, LogIndex, SegmentId};
use crate::salvage;
use crate::sealing::Opener;
use crate::segment::{self, FileKind, SEGMENT_HEADER_BYTES, WalIdentity, decode_header};
use crate::verdict::Recovered;
use crate::wal::{read_note, recover};

/// What the files of a wal come to.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Whose they are.
    pub identity: WalIdentity,
    /// In order.
    pub segments: Vec<InspectedSegment>,
    /// Prewritten files that wait to become segments, and their bytes.
    pub spares: (u64, u64),
    /// Everything up to here was synced, as the note says; zero if it says nothing.
    pub noted: BatchSeq,
    /// What a start would find. A register that the keys do not open is left out.
    pub recovered: Recovered,
    /// Each segment with each epoch that it is sealed with.
    pub needs: Vec<(SegmentId, KeyEpoch)>,
    /// Why a start with these keys would be refused.
    pub refused: Option<KeyError>,
}

/// One segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedSegment {
    /// Which one.
    pub id: SegmentId,
    /// Length of the file.
    pub bytes: u64,
    /// Its first batch; none if its header does not hold.
    pub first_seq: Option<BatchSeq>,
    /// It was begun behind damage that was known.
    pub after_damage: bool,
    /// The epoch that its entries and registers are sealed with; none if they are clear.
    pub epoch: Option<KeyEpoch>,
}

/// What lies at a place of a segment.
#[derive(Debug)]
pub enum InspectedPlace<'a> {
    /// A frame that holds.
    Frame {
        /// Where it begins.
        byte_pos: BytePos,
        /// With its padding.
        bytes: u64,
        /// Which batch it is.
        seq: BatchSeq,
        /// The highest batch that was known to be synced when it was made.
        durable: BatchSeq,
        /// What it changes, in order.
        items: Vec<InspectedItem<'a>>,
    },
    /// Bytes of this segment's own between frames, or behind the last, that are none. Behind the last frame
    /// of the last segment that may be a batch that was never finished: the verdict says so.
    NoFrame {
        /// Where they begin.
        byte_pos: BytePos,
        /// Up to the next frame, or the last that is not zero.
        raw: &'a [u8],
    },
}

/// One change of a frame.
#[derive(Clone, Debug)]
pub struct InspectedItem<'a> {
    /// What it does, as `docs/format.md` calls it.
    pub kind: &'static str,
    /// Whose log.
    pub group: GroupId,
    /// The entry, or up to which; zero where there is none.
    pub index: LogIndex,
    /// The last batch before that changed the group.
    pub prev: BatchSeq,
    /// The group was damaged when it was written.
    pub damaged: bool,
    /// Opaque; if it is sealed and was not opened, sealed bytes.
    pub payload: Cow<'a, [u8]>,
    /// The epoch it is sealed with; none if it is clear.
    pub epoch: Option<KeyEpoch>,
    /// Why it was not opened.
    pub unopened: Option<KeyError>,
}

impl InspectedItem<'_> {
    /// Whether its payload is an entry of the log.
    #[must_use]
    pub fn is_entry(&self) -> bool {
        matches!(self.kind, "append" | "moved" | "restore")
    }

    /// Whether its payload is a register.
    #[must_use]
    pub fn is_register(&self) -> bool {
        self.kind == "state"
    }
}

/// Reads everything and decides what it means. Without an identity, the first segment says whose it is.
/// Keys are for registers: everything else is known without.
///
/// # Errors
/// When no segment says whose it is, when the files are someone else's or of an unknown version, or when
/// the disk refuses. Damage is no error: the verdict says so.
pub fn inspect(
    disk: &dyn Disk,
    identity: Option<WalIdentity>,
    keys: &Keys,
) -> Result<Inspection, WalError> {
    let (ids, spares) = files(disk)?;
    let identity = match identity {
        Some(identity) => identity,
        None => owner(disk, &ids)?,
    };
    let mut segments = Vec::with_capacity(ids.len());
    for id in &ids {
        let name = segment::file_name(*id);
        let bytes = disk.len(&name).map_err(WalError::failed("stat", &name))?;
        let raw = salvage::read(disk, &name, bytes.min(SEGMENT_HEADER_BYTES) as usize)
            .map_err(WalError::failed("read", &name))?;
        let header = decode_header(&identity, &name, &raw.bytes)?;
        let header = header.filter(|header| header.segment == *id);
        segments.push(InspectedSegment {
            id: *id,
            bytes,
            first_seq: header.map(|header| header.first_seq),
            after_damage: header.is_some_and(|header| header.after_damage),
            epoch: header.and_then(|header| header.seal).map(|mark| mark.epoch),
        });
    }
    let noted = read_note(disk, &identity)?;
    let recovery = recover(disk, &identity, noted, &WalOptions::default(), &ids)?;
    let mut outcome = recovery.finish();
    let needs = outcome.seals.needs().collect();
    let mut refused = outcome.seals.judge(keys).err();
    let opener = Opener::new(keys.clone(), identity);
    for (group, found) in &mut outcome.recovered.groups {
        let location = outcome.index.groups[group].state.filter(|location| location.sealed);
        let (Some(state), Some(location)) = (&found.state, location) else { continue };
        match opener.open(*group, LogIndex::ZERO, &location, state.to_vec()) {
            Ok(opened) => found.state = Some(opened.into()),
            Err(error) => {
                refused = refused.or(Some(error));
                found.state = None;
            }
        }
    }
    let recovered = outcome.recovered;
    Ok(Inspection { identity, segments, spares, noted, recovered, needs, refused })
}

/// Shows what lies in a segment, in order, until `each` breaks off.
///
/// # Errors
/// When the disk refuses to read the file.
pub fn walk_segment(
    disk: &dyn Disk,
    identity: &WalIdentity,
    keys: &Keys,
    segment: SegmentId,
    each: &mut dyn FnMut(InspectedPlace<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, WalError> {
    let name = segment::file_name(segment);
    let length = disk.len(&name).map_err(WalError::failed("stat", &name))?;
    let length = length.min(u64::from(u32::MAX)) as usize;
    let file = salvage::read(disk, &name, length).map_err(WalError::failed("read", &name))?;
    let (raw, domain) = (&file.bytes[..], identity.domain());
    let opener = Opener::new(keys.clone(), *identity);
    let mut pos = SEGMENT_HEADER_BYTES as usize;
    let mut behind = pos;
    while pos + FRAME_HEADER_BYTES <= raw.len() {
        let frame = frame::decode(&domain, segment, raw, pos);
        let Some(frame) = frame.filter(|frame| frame.items().all(|item| item.is_some())) else {
            pos += ALIGN_BYTES;
            continue;
        };
        if behind < pos && each(no_frame(raw, behind, pos)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if each(shown(&frame, pos, &opener)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        pos += frame.bytes;
        behind = pos;
    }
    // What a recycled file still holds of its former life names another segment.
    let named = raw.get(behind + 8..behind + 16);
    if named.is_some_and(|named| named == segment.get().to_le_bytes()) {
        return Ok(each(no_frame(raw, behind, raw.len())));
    }
    Ok(ControlFlow::Continue(()))
}

fn no_frame(raw: &[u8], from: usize, end: usize) -> InspectedPlace<'_> {
    let raw = &raw[from..end];
    let last = raw.iter().rposition(|byte| *byte != 0);
    InspectedPlace::NoFrame {
        byte_pos: BytePos::new(from as u64),
        raw: &raw[..last.map_or(0, |last| last + 1)],
    }
}

fn shown<'a>(frame: &Frame<'a>, pos: usize, opener: &Opener) -> InspectedPlace<'a> {
    let segment = frame.header.segment;
    let items = frame.items().flatten().map(|(item, stored)| {
        let location = Location::of(&item, segment, pos as u64).filter(|at| at.sealed);
        let opened = location
            .map(|at| opener.open(item.group, item.index, &at, stored.to_vec()))
            .transpose();
        let (payload, unopened) = match opened {
            Ok(None) => (Cow::Borrowed(stored), None),
            Ok(Some(opened)) => (Cow::Owned(opened), None),
            Err(error) => (Cow::Borrowed(stored), Some(error)),
        };
        InspectedItem {
            kind: name_of(item.kind),
            group: item.group,
            index: item.index,
            prev: item.link.prev,
            damaged: item.link.damaged,
            payload,
            epoch: location.and_then(|_| epoch_of(stored)),
            unopened,
        }
    });
    InspectedPlace::Frame {
        byte_pos: BytePos::new(pos as u64),
        bytes: frame.bytes as u64,
        seq: frame.header.seq,
        durable: frame.header.durable,
        items: items.collect(),
    }
}

fn name_of(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Append => "append",
        ItemKind::State => "state",
        ItemKind::Trim => "trim",
        ItemKind::Reset => "reset",
        ItemKind::Moved => "moved",
        ItemKind::Restore => "restore",
        ItemKind::Truncate => "truncate",
        ItemKind::Repaired => "repaired",
        ItemKind::Mark => "mark",
    }
}

/// Segments by number; how many spares there are, and how many bytes.
fn files(disk: &dyn Disk) -> Result<(BTreeSet<SegmentId>, (u64, u64)), WalError> {
    let mut segments = BTreeSet::new();
    let mut spares = (0, 0);
    for name in disk.list().map_err(WalError::failed("list", "the wal's directory"))? {
        match segment::kind_of(&name) {
            FileKind::Segment(id) => {
                segments.insert(id);
            }
            FileKind::Spare(_) => {
                spares.0 += 1;
                spares.1 += disk.len(&name).map_err(WalError::failed("stat", &name))?;
            }
            FileKind::Other => {}
        }
    }
    Ok((segments, spares))
}

/// Whose wal it is, as the first header says that holds.
fn owner(disk: &dyn Disk, segments: &BTreeSet<SegmentId>) -> Result<WalIdentity, WalError> {
    for id in segments {
        let name = segment::file_name(*id);
        let raw = salvage::read(disk, &name, SEGMENT_HEADER_BYTES as usize)
            .map_err(WalError::failed("read", &name))?;
        if let Some(owner) = segment::owner(&raw.bytes) {
            return Ok(owner);
        }
    }
    Err(WalError::InvalidArgument { what: "no segment says whose log it is".to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::frame::Write;
    use crate::sim::SimDisk;
    use crate::wal::Wal;

    const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
    const GROUP: GroupId = GroupId::new(1);

    fn written(entries: u64) -> SimDisk {
        let disk = SimDisk::from_seed(1);
        let options = WalOptions {
            segment_bytes: 64 << 10,
            batch_bytes_max: 8 << 10,
            queued_bytes_max: 64 << 10,
            live_multiple_max: 3,
        };
        let (mut wal, _) = Wal::open(Arc::new(disk.clone()), IDENTITY, options).unwrap();
        for index in 1..=entries {
            let payload = Bytes::from(vec![index as u8; 100]);
            let write = Write::Append { group: GROUP, index: LogIndex::new(index), payload };
            wal.submit(&[write]).unwrap();
            wal.write_queued().unwrap();
            wal.sync().unwrap();
        }
        disk
    }

    /// Batches of the frames, and where there is none.
    fn seen(disk: &SimDisk) -> (Vec<u64>, Vec<u64>) {
        let (mut seqs, mut gaps) = (Vec::new(), Vec::new());
        let _ = walk_segment(disk, &IDENTITY, &Keys::none(), SegmentId::new(1), &mut |place| {
            match place {
                InspectedPlace::Frame { seq, .. } => seqs.push(seq.get()),
                InspectedPlace::NoFrame { byte_pos, .. } => gaps.push(byte_pos.get()),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        (seqs, gaps)
    }

    #[test]
    fn every_frame_is_shown_and_whose_it_is() {
        let disk = written(5);
        let found = inspect(&disk, None, &Keys::none()).unwrap();
        assert_eq!(found.identity, IDENTITY);
        assert!(!found.recovered.verdict.is_damaged());
        assert_eq!(found.recovered.groups[&GROUP].last, LogIndex::new(5));
        assert_eq!(seen(&disk), (vec![1, 2, 3, 4, 5], vec![]));
        let foreign =
            inspect(&disk, Some(WalIdentity { node: 2, ..IDENTITY }), &Keys::none()).unwrap_err();
        assert!(matches!(foreign, WalError::Foreign { .. }), "{foreign}");
        assert!(inspect(&SimDisk::from_seed(2), None, &Keys::none()).is_err(), "nobody's");
    }

    /// Whatever byte of a synced frame is bad: the verdict is damaged, and the place is shown.
    #[test]
    fn a_frame_that_was_synced_and_does_not_hold_is_damage() {
        let good = written(5);
        let mut places = Vec::new();
        let _ = walk_segment(&good, &IDENTITY, &Keys::none(), SegmentId::new(1), &mut |place| {
            if let InspectedPlace::Frame { byte_pos, bytes, .. } = place {
                places.push((byte_pos.get(), bytes));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let (third, bytes) = places[2];
        for at in (third..third + bytes - 8).step_by(11) {
            let disk = written(5);
            let name = segment::file_name(SegmentId::new(1));
            let mut byte = [0];
            disk.read_at(&name, at, &mut byte).unwrap();
            disk.write_at(&name, at, &[byte[0] ^ 1]).unwrap();
            let found = inspect(&disk, None, &Keys::none()).unwrap();
            assert!(found.recovered.verdict.is_damaged(), "at={at}");
            assert_eq!(seen(&disk), (vec![1, 2, 4, 5], vec![third]), "at={at}");
        }
    }
}
