//! What of a segment shows that its batches were synced.

use std::ops::Range;

use crate::frame::{FRAME_HEADER_BYTES, frame_bytes};
use crate::segment::SEGMENT_HEADER_BYTES;

/// Whether a frame outside of this place says that the batches in it were synced. Frames behind one that
/// cannot be followed are not looked at.
pub(super) fn shows(segment: &[u8], place: &Range<usize>) -> bool {
    let number = |pos: usize| segment.get(pos..pos + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (owner, mut pos) = (number(56), SEGMENT_HEADER_BYTES as usize);
    let mut within = None;
    while let Some(header) = segment.get(pos..pos + FRAME_HEADER_BYTES) {
        let items = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let (seq, durable) = (number(pos + 16), number(pos + 24));
        if items == 0 || number(pos + 8) != owner || seq <= durable {
            break;
        }
        let end = pos + frame_bytes(items);
        if pos < place.end && place.start < end {
            within = seq;
        } else if within.is_some() && durable >= within {
            return true;
        }
        pos = end;
    }
    within.is_none() && place.end <= pos
}
