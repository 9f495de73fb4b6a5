//! Registers of the last frame, to be repeated in the next.
//!
//! A register holds what must never be forgotten, and one frame is one place that can go bad. So
//! whatever frame comes next carries the registers of the one before once more.

use crate::position::GroupId;

/// Keeps its buffers, so that a steady stream of registers allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Whose, and where in the bytes.
    items: Vec<(GroupId, usize, usize)>,
    bytes: Vec<u8>,
}

impl Copies {
    /// The last one given for a group counts.
    pub(crate) fn set(&mut self, group: GroupId, payload: &[u8]) {
        self.items.retain(|(held, ..)| *held != group);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.items.push((group, start, self.bytes.len()));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &[u8])> {
        self.items.iter().map(|(group, start, end)| (*group, &self.bytes[*start..*end]))
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.bytes.clear();
    }
}
