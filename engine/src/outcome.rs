//! What the application of a record answers.

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, Offset};

use crate::alteration::Revision;
use crate::clients::NumberRefusal;
use crate::refusal::Refusal;
use crate::resource::{ResourceId, SchemaId};

/// The result of a completed request, and where it was completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The record that completed it.
    pub offset: Offset,
    /// When.
    pub log_time: LogTime,
    /// What the completing record said.
    pub result: Bytes,
}

/// Where a record is, and the leader's stamp on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) offset: Offset,
    pub(crate) log_time: LogTime,
}

impl Completion {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { offset: self.offset, log_time: self.log_time }
    }
}

/// Which operations of a batch were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// All that was demanded was so.
    Then,
    /// Something was not: see [`crate::Batch::otherwise`].
    Otherwise,
}

/// What the application of a record answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The resource is open. These are its schemas, in the order of their numbers.
    Opened { resource: ResourceId, schemas: Vec<SchemaId> },
    /// The name belongs to this group, by this record.
    Claimed { group: GroupId, by: Offset },
    /// The resource is altered.
    Altered { revision: Revision },
    /// The batch took effect at its offset: what each operation of the branch has said.
    Applied { branch: Branch, outcomes: Vec<Bytes> },
    /// A request of the batch was completed before, there: no effect now.
    Duplicate(Stamp),
    /// The client is known.
    Registered { client: Offset },
    /// A numbered command that was answered before, there: no effect now, the first answer again.
    Repeated { first: Stamp, outcome: Box<Outcome> },
    /// A numbered command that its number does not let through: no effect.
    Unnumbered(NumberRefusal),
    /// No effect.
    Refused(Refusal),
}

impl Outcome {
    /// Whether what the record wrote stands.
    pub(crate) fn stands(&self) -> bool {
        matches!(
            self,
            Self::Opened { .. }
                | Self::Claimed { .. }
                | Self::Altered { .. }
                | Self::Applied { .. }
                | Self::Registered { .. }
        )
    }
}

/// What a record's application answers; read through the handles.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "exported for the simulator"))]
pub struct RecordOutcome(pub(crate) Outcome);
