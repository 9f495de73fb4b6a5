//! How fresh a read must be.

use std::time::Duration;

use palisade_replication::Offset;

use crate::freshness::Freshness;

/// What a read must reflect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadConsistency {
    /// Everything that was acknowledged to anyone before the read began (G5).
    Linearizable,
    /// Every record up to this one, or a typed error (G4).
    AtLeastOffset(Offset),
    /// What a write or an earlier read has given a token of (G4): any replica may be asked.
    AtLeast(Freshness),
    /// Whatever this replica has.
    Local,
}

/// How to read: how fresh, how long to wait for it, and whether a stale answer may stand in for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    pub(crate) consistency: ReadConsistency,
    pub(crate) wait: Option<Duration>,
    /// Beside what the consistency asks for.
    pub(crate) at_least: Offset,
    pub(crate) refuse_stale: bool,
}

impl ReadOptions {
    /// And not older than this offset.
    pub(crate) fn also_at_least(mut self, offset: Offset) -> Self {
        self.at_least = self.at_least.max(offset);
        self
    }

    /// Waits up to so long for what is asked for to be applied here. Without it, a replica that is behind
    /// says so at once, and in a [`crate::Session`] after a second.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// A stale answer is worth nothing to the caller: where the resource's contract would give one, the
    /// error is wanted instead.
    #[must_use]
    pub fn refuse_stale(mut self) -> Self {
        self.refuse_stale = true;
        self
    }
}

impl From<ReadConsistency> for ReadOptions {
    fn from(consistency: ReadConsistency) -> Self {
        Self { consistency, wait: None, at_least: Offset::ZERO, refuse_stale: false }
    }
}

impl From<Freshness> for ReadOptions {
    fn from(freshness: Freshness) -> Self {
        ReadConsistency::AtLeast(freshness).into()
    }
}
