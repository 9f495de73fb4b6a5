//! Frame, format version 1: one batch, whole or not at all. Little-endian.
//!
//! ```text
//! offset  size  field    rule
//!      0     4  crc32    over the owner's identity, the frame's place in its file, bytes 4..36+n
//!      4     4  length   n, the items, at most the segment's rest
//!      8     8  segment  the owning segment; stale bytes of a recycled file fail here
//!     16     8  seq      exactly one more than the frame before
//!     24     8  durable  a seq up to which all was synced when this frame was made, or, of the last
//!                        frame of a write, when it was written; below seq
//!     32     4  crc32    over the owner's identity, the frame's place in its file, bytes 4..32
//!     36     n  items    then zeros to a multiple of 8
//! ```
//!
//! The second checksum bounds the search for frames: what callers store can look like the header of
//! a long one at every other place, and only with the owner's identity could it pass this.
//!
//! An item:
//!
//! ```text
//!      0     1  kind     low bits: 1 append, 2 state, 3 trim, 4 reset, 5 moved append,
//!                        6 restore, 7 truncate, 8 repaired, 9 mark
//!                        0x80: the group was damaged when this was written
//!                        0x40: a copied register that may be older than the one that was lost
//!                        0x20: the payload is sealed, of append, state, moved and restore
//!                        0x10: a copy of a register that is sealed, and so looks like another
//!      1     8  group    0 for mark
//!      9     8  index    of the entry, or up to which is trimmed, reset or kept, or the last of a
//!                        repaired log; 0 for state and mark
//!     17     8  prev     the last batch before this one that changed the group, 0 if none
//!     25     4  length   m, 0 for trim, reset, truncate and mark
//!     29     4  crc32    over the m bytes, for reading one entry without its frame
//!     33     m  payload  opaque; of repaired: (first 8, last 8) of each lost run of batches that
//!                        the repair knew of
//! ```
//!
//! `prev` chains the batches of a group, so that a reader who finds batches missing can tell whether
//! they held anything of it.
//!
//! The first frame to break a rule ends what can be read in order. What that means is decided in
//! `recovery`, by what stands after it.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::keys::{SEAL_BYTES, Sealer, epoch_of};
use crate::position::{BatchSeq, GroupId, LogIndex, SEQ_MAX, SegmentId};
use crate::sealing;

pub(crate) const FRAME_HEADER_BYTES: usize = 36;
/// Where the highest synced batch is named.
const DURABLE: usize = 24;
/// Where the header's own checksum lies, which covers what is before it.
const HEADER_CRC: usize = 32;
pub(crate) const ITEM_HEADER_BYTES: usize = 33;
pub(crate) const ALIGN_BYTES: usize = 8;

const KIND_APPEND: u8 = 1;
const KIND_STATE: u8 = 2;
const KIND_TRIM: u8 = 3;
const KIND_RESET: u8 = 4;
const KIND_MOVED: u8 = 5;
const KIND_RESTORE: u8 = 6;
const KIND_TRUNCATE: u8 = 7;
const KIND_REPAIRED: u8 = 8;
const KIND_MARK: u8 = 9;
const FLAG_DAMAGED: u8 = 0x80;
const FLAG_STALE: u8 = 0x40;
const FLAG_SEALED: u8 = 0x20;
const FLAG_COPIED: u8 = 0x10;

/// One change to one group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Adds an entry. An index that is already there replaces it and everything after it.
    Append {
        /// Whose log.
        group: GroupId,
        /// At most one past the last.
        index: LogIndex,
        /// Opaque.
        payload: Bytes,
    },
    /// Replaces the group's register.
    SetState {
        /// Whose register.
        group: GroupId,
        /// Opaque, at most [`crate::STATE_BYTES_MAX`].
        payload: Bytes,
    },
    /// Lets go of the entries up to here.
    Trim {
        /// Whose log.
        group: GroupId,
        /// The last entry that may go; at most the last there is.
        up_to: LogIndex,
    },
    /// Empties the log; it goes on after this index.
    Reset {
        /// Whose log.
        group: GroupId,
        /// The entry before the next one.
        up_to: LogIndex,
    },
    /// Puts an entry where one is missing, unreadable or stale. Nothing after it goes.
    Restore {
        /// Whose log.
        group: GroupId,
        /// From the first to the last there is.
        index: LogIndex,
        /// Opaque.
        payload: Bytes,
    },
    /// Drops every entry above this one.
    Truncate {
        /// Whose log.
        group: GroupId,
        /// The last entry that stays; from the trimmed front to the last there is.
        after: LogIndex,
    },
    /// Says that nothing of a damaged group is missing any more: no hole is left, and its register
    /// and entries are what they should be.
    Repaired {
        /// Whose log.
        group: GroupId,
    },
}

impl Write {
    /// The group it changes.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Append { group, .. }
            | Self::SetState { group, .. }
            | Self::Trim { group, .. }
            | Self::Reset { group, .. }
            | Self::Restore { group, .. }
            | Self::Truncate { group, .. }
            | Self::Repaired { group } => *group,
        }
    }

    /// What it puts into an item, as far as the write alone says.
    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            Self::Append { payload, .. }
            | Self::SetState { payload, .. }
            | Self::Restore { payload, .. } => payload,
            Self::Trim { .. }
            | Self::Reset { .. }
            | Self::Truncate { .. }
            | Self::Repaired { .. } => &[],
        }
    }
}

/// What an item does, as recovery and the index see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Append,
    State,
    Trim,
    Reset,
    /// An entry copied from an older segment: it takes no other entry's place.
    Moved,
    Restore,
    Truncate,
    Repaired,
    /// Changes nothing: its frame tells that the one before was synced.
    Mark,
}

impl ItemKind {
    /// Its payload is its caller's, and sealed if anything is.
    pub(crate) fn is_content(self) -> bool {
        matches!(self, Self::Append | Self::State | Self::Moved | Self::Restore)
    }

    fn code(self) -> u8 {
        match self {
            Self::Append => KIND_APPEND,
            Self::State => KIND_STATE,
            Self::Trim => KIND_TRIM,
            Self::Reset => KIND_RESET,
            Self::Moved => KIND_MOVED,
            Self::Restore => KIND_RESTORE,
            Self::Truncate => KIND_TRUNCATE,
            Self::Repaired => KIND_REPAIRED,
            Self::Mark => KIND_MARK,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            KIND_APPEND => Self::Append,
            KIND_STATE => Self::State,
            KIND_TRIM => Self::Trim,
            KIND_RESET => Self::Reset,
            KIND_MOVED => Self::Moved,
            KIND_RESTORE => Self::Restore,
            KIND_TRUNCATE => Self::Truncate,
            KIND_REPAIRED => Self::Repaired,
            KIND_MARK => Self::Mark,
            _ => return None,
        })
    }
}

/// Where an item stands among the changes of its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// The last batch before that changed the group.
    pub(crate) prev: BatchSeq,
    /// The group was damaged, and is until it is repaired.
    pub(crate) damaged: bool,
    /// A copy of a register that may be older than the one that was lost.
    pub(crate) stale: bool,
    /// A copy of a register, where it is sealed: its bytes do not tell.
    pub(crate) copied: bool,
}

/// An item without its payload, and where the payload lies in the encoded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: ItemKind,
    pub(crate) group: GroupId,
    pub(crate) index: LogIndex,
    pub(crate) link: Link,
    /// From the start of the frame.
    pub(crate) payload_pos: u32,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
    /// The payload is sealed bytes.
    pub(crate) sealed: bool,
}

/// The part of a frame's header that is not checked by its checksum alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) segment: SegmentId,
    pub(crate) seq: BatchSeq,
    pub(crate) durable: BatchSeq,
}

/// Whole length of a frame with so many bytes of items.
pub(crate) fn frame_bytes(items_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + items_bytes).next_multiple_of(ALIGN_BYTES)
}

/// What items take, as their callers hand them in and as they are stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Headers and payloads, before anything is sealed.
    pub(crate) plain: usize,
    /// How many payloads are sealed if anything is.
    contents: usize,
}

impl Size {
    pub(crate) fn of(kind: ItemKind, payload_bytes: usize) -> Self {
        Self { plain: ITEM_HEADER_BYTES + payload_bytes, contents: usize::from(kind.is_content()) }
    }

    pub(crate) fn stored(self, is_sealed: bool) -> usize {
        self.plain + if is_sealed { SEAL_BYTES * self.contents } else { 0 }
    }
}

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { plain: self.plain + other.plain, contents: self.contents + other.contents }
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |sum, size| sum + size)
    }
}

/// What an item says, with its payload borrowed.
#[derive(Clone, Copy)]
pub(crate) struct ItemRef<'a> {
    pub(crate) kind: ItemKind,
    pub(crate) group: GroupId,
    pub(crate) index: LogIndex,
    pub(crate) payload: &'a [u8],
}

impl<'a> From<&'a Write> for ItemRef<'a> {
    fn from(write: &'a Write) -> Self {
        let (kind, index) = match write {
            Write::Append { index, .. } => (ItemKind::Append, *index),
            Write::SetState { .. } => (ItemKind::State, LogIndex::ZERO),
            Write::Trim { up_to, .. } => (ItemKind::Trim, *up_to),
            Write::Reset { up_to, .. } => (ItemKind::Reset, *up_to),
            Write::Restore { index, .. } => (ItemKind::Restore, *index),
            Write::Truncate { after, .. } => (ItemKind::Truncate, *after),
            // The index knows the last entry; who encodes fills it in.
            Write::Repaired { .. } => (ItemKind::Repaired, LogIndex::ZERO),
        };
        Self { kind, group: write.group(), index, payload: write.payload() }
    }
}

/// Builds one frame at the end of a buffer, item by item.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    /// Who seals payloads, and the frame's place in its file.
    sealed: Option<(&'a mut Sealer, u64)>,
}

impl<'a> Encoder<'a> {
    pub(crate) fn begin(header: FrameHeader, out: &'a mut Vec<u8>) -> Self {
        assert!(header.durable < header.seq, "a frame cannot know that itself is synced");
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&header.segment.get().to_le_bytes());
        out.extend_from_slice(&header.seq.get().to_le_bytes());
        out.extend_from_slice(&header.durable.get().to_le_bytes());
        out.extend_from_slice(&[0; FRAME_HEADER_BYTES - HEADER_CRC]);
        Self { out, start, sealed: None }
    }

    /// Seals payloads from here on; the frame lies at `pos` of its segment.
    pub(crate) fn sealed(self, sealer: Option<&'a mut Sealer>, pos: u64) -> Self {
        Self { sealed: sealer.map(|sealer| (sealer, pos)), ..self }
    }

    /// Whether payloads are sealed.
    pub(crate) fn seals(&self) -> bool {
        self.sealed.is_some()
    }

    /// Adds an item and says where its payload lies, from the frame's start.
    pub(crate) fn item(&mut self, item: ItemRef<'_>, link: Link) -> Item {
        let header_pos = self.out.len();
        let payload_pos = header_pos - self.start + ITEM_HEADER_BYTES;
        self.out.resize(header_pos + ITEM_HEADER_BYTES, 0);
        let sealer = self.sealed.as_mut().filter(|_| item.kind.is_content());
        let sealed = sealer.is_some();
        match sealer {
            None => self.out.extend_from_slice(item.payload),
            Some((sealer, pos)) => {
                let place = sealing::place(*pos + payload_pos as u64, item.group, item.index);
                sealer.seal(&place, item.payload, self.out);
            }
        }
        let stored = &self.out[header_pos + ITEM_HEADER_BYTES..];
        let (payload_len, payload_crc) = (stored.len() as u32, crc32fast::hash(stored));
        let flag = |is_set, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(link.damaged, FLAG_DAMAGED)
            | flag(link.stale, FLAG_STALE)
            | flag(sealed, FLAG_SEALED)
            | flag(link.copied, FLAG_COPIED);
        let header = &mut self.out[header_pos..header_pos + ITEM_HEADER_BYTES];
        header[0] = item.kind.code() | flags;
        header[1..9].copy_from_slice(&item.group.get().to_le_bytes());
        header[9..17].copy_from_slice(&item.index.get().to_le_bytes());
        header[17..25].copy_from_slice(&link.prev.get().to_le_bytes());
        header[25..29].copy_from_slice(&payload_len.to_le_bytes());
        header[29..33].copy_from_slice(&payload_crc.to_le_bytes());
        Item {
            kind: item.kind,
            group: item.group,
            index: item.index,
            link,
            payload_pos: payload_pos as u32,
            payload_len,
            payload_crc,
            sealed,
        }
    }

    /// Seals the frame for its place in the file.
    pub(crate) fn finish(self, domain: &Hasher, pos: u64) {
        let Self { out, start, .. } = self;
        let length = (out.len() - start - FRAME_HEADER_BYTES) as u32;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        seal(domain, pos, &mut out[start..]);
        out.resize(start + frame_bytes(length as usize), 0);
    }
}

/// Names a later batch as synced in a frame that is encoded.
pub(crate) fn set_durable(domain: &Hasher, pos: u64, raw: &mut [u8], durable: BatchSeq) {
    let told = &mut raw[DURABLE..HEADER_CRC];
    if told == durable.get().to_le_bytes() {
        return;
    }
    told.copy_from_slice(&durable.get().to_le_bytes());
    let length = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]) as usize;
    seal(domain, pos, &mut raw[..FRAME_HEADER_BYTES + length]);
}

/// Sets both checksums of a frame, which ends with its items.
fn seal(domain: &Hasher, pos: u64, raw: &mut [u8]) {
    let crc = checksum(domain, pos, &raw[4..HEADER_CRC]);
    raw[HEADER_CRC..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let crc = checksum(domain, pos, &raw[4..]);
    raw[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The place is part of it, so that a frame that was written elsewhere in the file never passes.
fn checksum(domain: &Hasher, pos: u64, rest: &[u8]) -> u32 {
    let mut hasher = domain.clone();
    hasher.update(&pos.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// A frame that its checksum confirms.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    /// With the padding.
    pub(crate) bytes: usize,
    raw: &'a [u8],
}

/// A frame's header that holds, and what is read of its items so far.
pub(crate) struct FrameHead {
    pub(crate) header: FrameHeader,
    /// Of header and items.
    pub(crate) content_bytes: usize,
    crc: u32,
    hasher: Hasher,
}

impl FrameHead {
    /// Takes in the next bytes of the items.
    pub(crate) fn take(&mut self, raw: &[u8]) {
        self.hasher.update(raw);
    }

    /// True if these were the items.
    pub(crate) fn holds(self) -> bool {
        self.hasher.finalize() == self.crc
    }

    /// Of the whole frame, with the padding.
    pub(crate) fn bytes(&self) -> u64 {
        self.content_bytes.next_multiple_of(ALIGN_BYTES) as u64
    }
}

/// Reads the header of a frame at this place of a segment, or `None` if there is none that holds.
pub(crate) fn head(domain: &Hasher, segment: SegmentId, raw: &[u8], pos: u64) -> Option<FrameHead> {
    let raw = raw.get(..FRAME_HEADER_BYTES)?;
    let length = u32_at(raw, 4) as usize;
    let content_bytes = FRAME_HEADER_BYTES.checked_add(length)?;
    // The cheap checks first: most candidates during a search fail here.
    if length == 0 || u64_at(raw, 8) != segment.get() || u64_at(raw, 16) <= u64_at(raw, 24) {
        return None;
    }
    if SEQ_MAX.get() < u64_at(raw, 16) {
        return None;
    }
    if checksum(domain, pos, &raw[4..HEADER_CRC]) != u32_at(raw, HEADER_CRC) {
        return None;
    }
    let header = FrameHeader {
        segment,
        seq: BatchSeq::new(u64_at(raw, 16)),
        durable: BatchSeq::new(u64_at(raw, 24)),
    };
    let mut hasher = domain.clone();
    hasher.update(&pos.to_le_bytes());
    hasher.update(&raw[4..]);
    Some(FrameHead { header, content_bytes, crc: u32_at(raw, 0), hasher })
}

/// Reads the frame at this place of a segment, or `None` if there is none that holds.
pub(crate) fn decode<'a>(
    domain: &Hasher,
    segment: SegmentId,
    file: &'a [u8],
    pos: usize,
) -> Option<Frame<'a>> {
    let raw = file.get(pos..)?;
    let mut head = head(domain, segment, raw, pos as u64)?;
    let content = raw.get(..head.content_bytes)?;
    head.take(&content[FRAME_HEADER_BYTES..]);
    let (header, bytes) = (head.header, (head.bytes() as usize).min(raw.len()));
    head.holds().then_some(Frame { header, bytes, raw: content })
}

impl<'a> Frame<'a> {
    /// Its items, or `None` from the first that is malformed although the checksum holds.
    pub(crate) fn items(&self) -> impl Iterator<Item = Option<(Item, &'a [u8])>> + use<'a> {
        let raw = self.raw;
        let mut pos = FRAME_HEADER_BYTES;
        std::iter::from_fn(move || {
            if pos == raw.len() {
                return None;
            }
            let item = decode_item(raw, pos);
            pos =
                item.map_or(raw.len(), |(item, payload)| item.payload_pos as usize + payload.len());
            Some(item)
        })
    }
}

fn decode_item(raw: &[u8], pos: usize) -> Option<(Item, &[u8])> {
    let header = raw.get(pos..pos + ITEM_HEADER_BYTES)?;
    let flags = FLAG_DAMAGED | FLAG_STALE | FLAG_SEALED | FLAG_COPIED;
    let kind = ItemKind::from_code(header[0] & !flags)?;
    // `Commit::check` refuses these too: no entry could follow the one, and entries begin at 1.
    let is_entry = matches!(kind, ItemKind::Append | ItemKind::Moved | ItemKind::Restore);
    if u64_at(header, 9) == u64::MAX || is_entry && u64_at(header, 9) == 0 {
        return None;
    }
    let payload_pos = pos + ITEM_HEADER_BYTES;
    let payload_len = u32_at(header, 25);
    let payload = raw.get(payload_pos..payload_pos.checked_add(payload_len as usize)?)?;
    let sealed = header[0] & FLAG_SEALED != 0;
    let is_sealed_so =
        kind.is_content() && SEAL_BYTES <= payload.len() && epoch_of(payload).is_some();
    let copied = header[0] & FLAG_COPIED != 0;
    if sealed && !is_sealed_so || copied && !(sealed && kind == ItemKind::State) {
        return None;
    }
    let item = Item {
        kind,
        group: GroupId::new(u64_at(header, 1)),
        index: LogIndex::new(u64_at(header, 9)),
        link: Link {
            prev: BatchSeq::new(u64_at(header, 17)),
            damaged: header[0] & FLAG_DAMAGED != 0,
            stale: header[0] & FLAG_STALE != 0,
            copied,
        },
        payload_pos: payload_pos as u32,
        payload_len,
        payload_crc: u32_at(header, 29),
        sealed,
    };
    Some((item, payload))
}

/// Gives what could be a frame at `pos` the checksums that it would need. Returns its length, with
/// the padding, or `None` if its length alone rules it out.
#[cfg(feature = "fuzz")]
pub(crate) fn seal_at(domain: &Hasher, raw: &mut [u8], pos: usize) -> Option<usize> {
    let raw = raw.get_mut(pos..)?;
    let length = u32_at(raw.get(..FRAME_HEADER_BYTES)?, 4) as usize;
    let end = FRAME_HEADER_BYTES.checked_add(length)?;
    seal(domain, pos as u64, raw.get_mut(..end).filter(|_| length > 0)?);
    Some(frame_bytes(length))
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn write() -> impl Strategy<Value = Write> {
        let payload = || vec(any::<u8>(), 0..50).prop_map(Bytes::from);
        let group = || any::<u64>().prop_map(GroupId::new);
        let index = || any::<u64>().prop_map(LogIndex::new);
        prop_oneof![
            (group(), index(), payload()).prop_map(|(group, index, payload)| Write::Append {
                group,
                index,
                payload
            }),
            (group(), payload()).prop_map(|(group, payload)| Write::SetState { group, payload }),
            (group(), index()).prop_map(|(group, up_to)| Write::Trim { group, up_to }),
            (group(), index()).prop_map(|(group, up_to)| Write::Reset { group, up_to }),
            (group(), index(), payload()).prop_map(|(group, index, payload)| Write::Restore {
                group,
                index,
                payload
            }),
            (group(), index()).prop_map(|(group, after)| Write::Truncate { group, after }),
            group().prop_map(|group| Write::Repaired { group }),
        ]
    }

    const LINK: Link = Link { prev: BatchSeq::new(5), damaged: true, stale: false, copied: false };

    fn items_bytes(writes: &[Write]) -> usize {
        writes.iter().map(|write| ITEM_HEADER_BYTES + write.payload().len()).sum()
    }

    fn encoded(writes: &[Write]) -> (Vec<u8>, FrameHeader) {
        let header = FrameHeader {
            segment: SegmentId::new(3),
            seq: BatchSeq::new(9),
            durable: BatchSeq::new(7),
        };
        let mut raw = Vec::new();
        let mut encoder = Encoder::begin(header, &mut raw);
        for write in writes {
            encoder.item(ItemRef::from(write), LINK);
        }
        encoder.finish(&Hasher::new(), 0);
        (raw, header)
    }

    proptest! {
        #[test]
        fn frame_round_trips(writes in vec(write(), 1..6)) {
            let (raw, header) = encoded(&writes);
            prop_assert_eq!(raw.len() % ALIGN_BYTES, 0);
            prop_assert_eq!(raw.len(), frame_bytes(items_bytes(&writes)));
            let frame = decode(&Hasher::new(), header.segment, &raw, 0).unwrap();
            prop_assert_eq!(frame.header, header);
            prop_assert_eq!(frame.bytes, raw.len());
            let items: Vec<_> = frame.items().map(Option::unwrap).collect();
            prop_assert_eq!(items.len(), writes.len());
            for ((item, payload), write) in items.into_iter().zip(&writes) {
                let expected = ItemRef::from(write);
                prop_assert_eq!(
                    (item.kind, item.group, item.index, payload),
                    (expected.kind, expected.group, expected.index, expected.payload)
                );
                prop_assert_eq!(item.link, LINK);
                prop_assert_eq!(item.payload_crc, crc32fast::hash(payload));
            }
        }

        /// No single changed byte before the padding goes unnoticed, and no cut either.
        #[test]
        fn any_changed_byte_is_noticed(writes in vec(write(), 1..4), at: prop::sample::Index, bit in 0u8..8) {
            let (mut raw, header) = encoded(&writes);
            let at = at.index(FRAME_HEADER_BYTES + items_bytes(&writes));
            prop_assert!(decode(&Hasher::new(), header.segment, &raw[..at], 0).is_none());
            raw[at] ^= 1 << bit;
            prop_assert!(decode(&Hasher::new(), header.segment, &raw, 0).is_none());
        }

        #[test]
        fn decode_never_panics(raw in vec(any::<u8>(), 0..200)) {
            if let Some(frame) = decode(&Hasher::new(), SegmentId::new(0), &raw, 0) {
                let _ = frame.items().count();
            }
        }
    }

    #[test]
    fn another_owner_segment_or_place_fails() {
        let (raw, header) =
            encoded(&[Write::Trim { group: GroupId::new(1), up_to: LogIndex::new(1) }]);
        let mut other = Hasher::new();
        other.update(b"someone else");
        assert!(decode(&other, header.segment, &raw, 0).is_none());
        assert!(decode(&Hasher::new(), header.segment.next(), &raw, 0).is_none());
        let elsewhere = [vec![0; 8], raw].concat();
        assert!(decode(&Hasher::new(), header.segment, &elsewhere, 8).is_none());
    }

    /// A frame with this number and one item, of which nothing else is of interest.
    fn one_item(seq: BatchSeq, kind: ItemKind, index: u64) -> Vec<u8> {
        let header = FrameHeader { segment: SegmentId::new(3), seq, durable: BatchSeq::ZERO };
        let mut raw = Vec::new();
        let mut encoder = Encoder::begin(header, &mut raw);
        let (group, index) = (GroupId::new(1), LogIndex::new(index));
        encoder.item(ItemRef { kind, group, index, payload: &[] }, LINK);
        encoder.finish(&Hasher::new(), 0);
        raw
    }

    #[test]
    fn numbers_that_nobody_wrote_make_no_frame() {
        let decodes = |seq| {
            let raw = one_item(seq, ItemKind::State, 0);
            decode(&Hasher::new(), SegmentId::new(3), &raw, 0).is_some()
        };
        assert!(decodes(SEQ_MAX));
        assert!(!decodes(SEQ_MAX.next()));
    }

    #[test]
    fn an_item_is_refused_where_no_entry_can_be() {
        let holds = |kind, index| {
            let raw = one_item(BatchSeq::new(1), kind, index);
            let frame = decode(&Hasher::new(), SegmentId::new(3), &raw, 0).unwrap();
            frame.items().all(|item| item.is_some())
        };
        for kind in [ItemKind::Append, ItemKind::Moved, ItemKind::Restore] {
            assert!(!holds(kind, 0), "entries begin at 1: {kind:?}");
            assert!(holds(kind, 1));
            assert!(!holds(kind, u64::MAX), "no entry could follow: {kind:?}");
        }
        for kind in [ItemKind::State, ItemKind::Trim, ItemKind::Reset, ItemKind::Truncate] {
            assert!(holds(kind, 0), "{kind:?}");
            assert!(!holds(kind, u64::MAX), "no entry could follow: {kind:?}");
        }
    }

    #[test]
    fn each_flag_of_an_item_stands_for_itself() {
        for (damaged, stale) in [(false, false), (false, true), (true, false), (true, true)] {
            let link = Link { prev: BatchSeq::new(5), damaged, stale, copied: false };
            let header = FrameHeader {
                segment: SegmentId::new(3),
                seq: BatchSeq::new(9),
                durable: BatchSeq::new(7),
            };
            let mut raw = Vec::new();
            let mut encoder = Encoder::begin(header, &mut raw);
            let write = Write::SetState { group: GroupId::new(1), payload: vec![1].into() };
            let written = encoder.item(ItemRef::from(&write), link);
            encoder.finish(&Hasher::new(), 0);
            let frame = decode(&Hasher::new(), SegmentId::new(3), &raw, 0).unwrap();
            let (read, _) = frame.items().next().unwrap().unwrap();
            assert_eq!(read.link, link);
            assert_eq!(read, written, "what was written is what is read");
        }
    }

    /// A frame whose last byte is the file's needs no padding.
    #[test]
    fn a_frame_may_end_with_its_file() {
        let (raw, header) = encoded(&[Write::Repaired { group: GroupId::new(1) }]);
        let end = FRAME_HEADER_BYTES + ITEM_HEADER_BYTES;
        let frame = decode(&Hasher::new(), header.segment, &raw[..end], 0).unwrap();
        assert_eq!((frame.bytes, frame.items().count()), (end, 1));
    }
}
