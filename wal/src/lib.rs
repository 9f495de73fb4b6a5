//! One node's durable, ordered frames for many groups.

/// A group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u64);
/// An index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogIndex(u64);
impl GroupId {
    /// Wraps.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// Raw.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
impl LogIndex {
    /// Before the log.
    pub const ZERO: Self = Self(0);
    /// Wraps.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// Raw.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
