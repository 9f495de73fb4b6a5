//! Frame, format version 1: one batch, whole or not at all. Little-endian.
//!
//! ```text
//! offset  size  field    rule
//!      0     4  crc32    over the owner's identity, then bytes 4..32+n
//!      4     4  length   n, the items, at most the segment's rest
//!      8     8  segment  the owning segment; stale bytes of a recycled file fail here
//!     16     8  seq      exactly one more than the frame before
//!     24     8  durable  highest seq known to be synced when this frame was made; below seq
//!     32     n  items    then zeros to a multiple of 8
//! ```
//!
//! An item:
//!
//! ```text
//!      0     1  kind     1 append, 2 state, 3 trim, 4 reset, 5 moved append
//!      1     8  group
//!      9     8  index    of the entry, or up to which is trimmed or reset; 0 for state
//!     17     4  length   m, 0 for trim and reset
//!     21     4  crc32    over the m bytes, for reading one entry without its frame
//!     25     m  payload  opaque
//! ```
//!
//! The first frame to break a rule ends what can be read in order. What that means is decided in
//! `recovery`, by what stands after it.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::position::{BatchSeq, GroupId, LogIndex, SegmentId};

pub(crate) const FRAME_HEADER_BYTES: usize = 32;
pub(crate) const ITEM_HEADER_BYTES: usize = 25;
pub(crate) const ALIGN_BYTES: usize = 8;

const KIND_APPEND: u8 = 1;
const KIND_STATE: u8 = 2;
const KIND_TRIM: u8 = 3;
const KIND_RESET: u8 = 4;
const KIND_MOVED: u8 = 5;

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
}

impl Write {
    /// The group it changes.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Append { group, .. }
            | Self::SetState { group, .. }
            | Self::Trim { group, .. }
            | Self::Reset { group, .. } => *group,
        }
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        ITEM_HEADER_BYTES
            + match self {
                Self::Append { payload, .. } | Self::SetState { payload, .. } => payload.len(),
                Self::Trim { .. } | Self::Reset { .. } => 0,
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
}

/// An item without its payload, and where the payload lies in the encoded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: ItemKind,
    pub(crate) group: GroupId,
    pub(crate) index: LogIndex,
    /// From the start of the frame.
    pub(crate) payload_pos: u32,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
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

/// What an item says, with its payload borrowed.
pub(crate) struct ItemRef<'a> {
    pub(crate) kind: ItemKind,
    pub(crate) group: GroupId,
    pub(crate) index: LogIndex,
    pub(crate) payload: &'a [u8],
}

impl<'a> From<&'a Write> for ItemRef<'a> {
    fn from(write: &'a Write) -> Self {
        match write {
            Write::Append { group, index, payload } => {
                Self { kind: ItemKind::Append, group: *group, index: *index, payload }
            }
            Write::SetState { group, payload } => {
                Self { kind: ItemKind::State, group: *group, index: LogIndex::ZERO, payload }
            }
            Write::Trim { group, up_to } => {
                Self { kind: ItemKind::Trim, group: *group, index: *up_to, payload: &[] }
            }
            Write::Reset { group, up_to } => {
                Self { kind: ItemKind::Reset, group: *group, index: *up_to, payload: &[] }
            }
        }
    }
}

/// Appends a frame to `out` and reports each item, with payload positions from the frame's start.
pub(crate) fn encode<'a>(
    domain: &Hasher,
    header: FrameHeader,
    items: impl Iterator<Item = ItemRef<'a>>,
    out: &mut Vec<u8>,
    mut each: impl FnMut(Item),
) {
    assert!(header.durable < header.seq, "a frame cannot know that itself is synced");
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&header.segment.get().to_le_bytes());
    out.extend_from_slice(&header.seq.get().to_le_bytes());
    out.extend_from_slice(&header.durable.get().to_le_bytes());
    for item in items {
        let payload_crc = crc32fast::hash(item.payload);
        out.push(match item.kind {
            ItemKind::Append => KIND_APPEND,
            ItemKind::State => KIND_STATE,
            ItemKind::Trim => KIND_TRIM,
            ItemKind::Reset => KIND_RESET,
            ItemKind::Moved => KIND_MOVED,
        });
        out.extend_from_slice(&item.group.get().to_le_bytes());
        out.extend_from_slice(&item.index.get().to_le_bytes());
        out.extend_from_slice(&(item.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&payload_crc.to_le_bytes());
        each(Item {
            kind: item.kind,
            group: item.group,
            index: item.index,
            payload_pos: (out.len() - start) as u32,
            payload_len: item.payload.len() as u32,
            payload_crc,
        });
        out.extend_from_slice(item.payload);
    }
    let length = (out.len() - start - FRAME_HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let mut hasher = domain.clone();
    hasher.update(&out[start + 4..]);
    let crc = hasher.finalize();
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + frame_bytes(length as usize), 0);
}

/// A frame that its checksum confirms.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    /// With the padding.
    pub(crate) bytes: usize,
    raw: &'a [u8],
}

/// Reads the frame at the start of `raw`, or `None` if there is none that holds.
pub(crate) fn decode<'a>(domain: &Hasher, segment: SegmentId, raw: &'a [u8]) -> Option<Frame<'a>> {
    let header = raw.get(..FRAME_HEADER_BYTES)?;
    let length = u32_at(header, 4) as usize;
    let end = FRAME_HEADER_BYTES.checked_add(length)?;
    if length == 0 || raw.len() < end {
        return None;
    }
    // The cheap checks first: most candidates during a search fail here.
    if u64_at(header, 8) != segment.get() || u64_at(header, 16) <= u64_at(header, 24) {
        return None;
    }
    // Nothing could follow it: nobody wrote this.
    if u64_at(header, 16) == u64::MAX {
        return None;
    }
    let mut hasher = domain.clone();
    hasher.update(&raw[4..end]);
    if hasher.finalize() != u32_at(header, 0) {
        return None;
    }
    let header = FrameHeader {
        segment,
        seq: BatchSeq::new(u64_at(header, 16)),
        durable: BatchSeq::new(u64_at(header, 24)),
    };
    let bytes = frame_bytes(length).min(raw.len());
    Some(Frame { header, bytes, raw: &raw[..end] })
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
    let kind = match header[0] {
        KIND_APPEND => ItemKind::Append,
        KIND_STATE => ItemKind::State,
        KIND_TRIM => ItemKind::Trim,
        KIND_RESET => ItemKind::Reset,
        KIND_MOVED => ItemKind::Moved,
        _ => return None,
    };
    // No entry could follow it: `Commit::check` refuses it too.
    if u64_at(header, 9) == u64::MAX {
        return None;
    }
    let payload_pos = pos + ITEM_HEADER_BYTES;
    let payload_len = u32_at(header, 17);
    let payload = raw.get(payload_pos..payload_pos.checked_add(payload_len as usize)?)?;
    let item = Item {
        kind,
        group: GroupId::new(u64_at(header, 1)),
        index: LogIndex::new(u64_at(header, 9)),
        payload_pos: payload_pos as u32,
        payload_len,
        payload_crc: u32_at(header, 21),
    };
    Some((item, payload))
}

/// Gives what could be a frame at `pos` the checksum that it would need. Returns its length, with
/// the padding, or `None` if its length alone rules it out.
#[cfg(feature = "fuzz")]
pub(crate) fn seal(domain: &Hasher, raw: &mut [u8], pos: usize) -> Option<usize> {
    let raw = raw.get_mut(pos..)?;
    let length = u32_at(raw.get(..FRAME_HEADER_BYTES)?, 4) as usize;
    let end = FRAME_HEADER_BYTES.checked_add(length)?;
    let mut hasher = domain.clone();
    hasher.update(raw.get(4..end).filter(|_| length > 0)?);
    raw[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
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
        ]
    }

    fn encoded(writes: &[Write]) -> (Vec<u8>, FrameHeader) {
        let header = FrameHeader {
            segment: SegmentId::new(3),
            seq: BatchSeq::new(9),
            durable: BatchSeq::new(7),
        };
        let mut raw = Vec::new();
        encode(&Hasher::new(), header, writes.iter().map(ItemRef::from), &mut raw, |_| ());
        (raw, header)
    }

    proptest! {
        #[test]
        fn frame_round_trips(writes in vec(write(), 1..6)) {
            let (raw, header) = encoded(&writes);
            prop_assert_eq!(raw.len() % ALIGN_BYTES, 0);
            let items_bytes: usize = writes.iter().map(Write::encoded_bytes).sum();
            prop_assert_eq!(raw.len(), frame_bytes(items_bytes));
            let frame = decode(&Hasher::new(), header.segment, &raw).unwrap();
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
                prop_assert_eq!(item.payload_crc, crc32fast::hash(payload));
            }
        }

        /// No single changed byte before the padding goes unnoticed, and no cut either.
        #[test]
        fn any_changed_byte_is_noticed(writes in vec(write(), 1..4), at: prop::sample::Index, bit in 0u8..8) {
            let (mut raw, header) = encoded(&writes);
            let items_bytes: usize = writes.iter().map(Write::encoded_bytes).sum();
            let at = at.index(FRAME_HEADER_BYTES + items_bytes);
            prop_assert!(decode(&Hasher::new(), header.segment, &raw[..at]).is_none());
            raw[at] ^= 1 << bit;
            prop_assert!(decode(&Hasher::new(), header.segment, &raw).is_none());
        }

        #[test]
        fn decode_never_panics(raw in vec(any::<u8>(), 0..200)) {
            if let Some(frame) = decode(&Hasher::new(), SegmentId::new(0), &raw) {
                let _ = frame.items().count();
            }
        }
    }

    #[test]
    fn another_owner_or_segment_fails() {
        let (raw, header) =
            encoded(&[Write::Trim { group: GroupId::new(1), up_to: LogIndex::new(1) }]);
        let mut other = Hasher::new();
        other.update(b"someone else");
        assert!(decode(&other, header.segment, &raw).is_none());
        assert!(decode(&Hasher::new(), header.segment.next(), &raw).is_none());
    }
}
