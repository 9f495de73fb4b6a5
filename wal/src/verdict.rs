//! What recovery tells its caller: what of each group survived, and what of that can be relied on.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::position::{BytePos, GroupId, LogIndex, SegmentId};

/// What recovery thinks of a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there.
    Clean,
    /// Writing was interrupted; what nobody was told of is cut off.
    TornTail {
        /// Where the cut is.
        segment: SegmentId,
        /// Where the cut is.
        byte_pos: BytePos,
    },
    /// Something that had been synced is unreadable. Nothing was changed on disk.
    Damaged {
        /// Where the unreadable frame is.
        segment: SegmentId,
        /// Where the unreadable frame is.
        byte_pos: BytePos,
    },
}

impl Verdict {
    /// True if something that had been synced is missing, or may be.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// What is wrong with a damaged group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The register is what was last set, also if that is none. If not, a later one may be lost.
    pub state_known: bool,
    /// Entries between `first` and `last` that are missing: the first and the last of each run.
    pub holes: Vec<(LogIndex, LogIndex)>,
    /// Every entry from here to `last` is there and was written after the last loss that may have
    /// concerned the group, and nothing follows `last`. One past `last` if only the end is sure.
    /// Entries below may be older than the ones that were lost. `None` if nothing is sure.
    pub whole_from: Option<LogIndex>,
}

/// One group as recovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Whether it can be relied on.
    pub verdict: Verdict,
    /// Its register.
    pub state: Option<Bytes>,
    /// The first entry still held, or the next to be written if there is none.
    pub first: LogIndex,
    /// The last entry, or the one before `first` if there is none.
    pub last: LogIndex,
    /// What is wrong, if the verdict is [`Verdict::Damaged`].
    pub damage: Option<Damage>,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Every group that ever wrote and was not forgotten.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// The summary: damaged if any group is, or if the files have damage that was not seen before.
    pub verdict: Verdict,
    /// Batches are missing that nobody can tell the groups of: a group that is not listed may have
    /// lost everything. It counts as damaged from its first write on, until it is repaired. This
    /// stays so until [`Wal::forget_unlisted`](crate::Wal::forget_unlisted).
    pub unlisted_damaged: bool,
}

impl Recovered {
    /// True if something of the group is missing or may be, also if it is not listed.
    #[must_use]
    pub fn is_damaged(&self, group: GroupId) -> bool {
        self.groups.get(&group).map_or(self.unlisted_damaged, |found| found.verdict.is_damaged())
    }
}
