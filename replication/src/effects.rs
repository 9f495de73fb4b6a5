//! What goes into a replica and what comes out of it.

use bytes::Bytes;
use palisade_wal::{GroupId, LogIndex, Scrubbed, Write};

use crate::entry::{AppliedPosition, CommittedEntry};
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Offset, Term};
use crate::membership::{MemberChange, Membership};
use crate::node_load::QueueLoad;
use crate::peer_faults::PeerFault;
use crate::snapshot::{Manifest, SnapshotId};
use crate::wire::{Beat, Envelope};

/// Milliseconds since the Unix epoch as the driver's wall clock says. Only a leader uses it, and
/// only to stamp entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WallTime(u64);

impl WallTime {
    /// Wraps a number of milliseconds.
    #[must_use]
    pub(crate) const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// The number of milliseconds.
    #[must_use]
    pub(crate) const fn as_ms(self) -> u64 {
        self.0
    }
}

/// Names one write that a replica owes an answer for. Rises within a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// One tick of the driver's clock passed.
    Tick,
    /// Ticks passed that were held back, as the replica had said they could be.
    Rested {
        /// How many.
        ticks: u64,
    },
    /// A message from another replica arrived.
    Peer {
        /// What it says.
        envelope: Envelope,
        /// Which life of its sender sent it.
        life: Incarnation,
    },
    /// A caller wants a record in the log. Numbers rise within the session.
    Propose {
        /// The caller's number in this session.
        seq: u64,
        /// The record.
        payload: Bytes,
    },
    /// The caller gave up waiting; the record may still be committed.
    Abandon {
        /// The number it was proposed with.
        seq: u64,
    },
    /// A caller wants to read what is committed now.
    Read {
        /// What the driver calls this read.
        token: u64,
    },
    /// The write of this ticket and of all before it are durable.
    Durable {
        /// From [`WriteEffect`].
        ticket: Ticket,
    },
    /// The state machine has applied everything up to here.
    Applied {
        /// Its position.
        position: AppliedPosition,
    },
    /// The state up to this entry survives a loss of power.
    Flushed {
        /// The last entry covered.
        index: LogIndex,
    },
    /// A node says whether it knows this one in this life, and in no other.
    Recognized {
        /// Who says it.
        by: NodeId,
        /// Whether it does.
        same: bool,
    },
    /// A heartbeat or its answer, out of a message that held those of many groups.
    Beat {
        /// Who sent it.
        from: NodeId,
        /// In which life.
        life: Incarnation,
        /// What it says.
        beat: Beat,
    },
    /// A leader's heartbeat that was answered while the replica rested, as it had said it could be.
    Answered {
        /// Who sent it.
        from: NodeId,
        /// In which life.
        life: Incarnation,
        /// What it says.
        beat: Beat,
    },
    /// A caller wants another membership.
    Change {
        /// What the driver calls this request.
        token: u64,
        /// Which change.
        change: MemberChange,
    },
    /// A caller wants another leader.
    Transfer {
        /// A voter.
        to: NodeId,
    },
    /// The state was exported as this snapshot, or could not be.
    Exported(Option<Manifest>),
    /// A scrub could not read this entry.
    Unreadable {
        /// Which.
        index: LogIndex,
    },
    /// A scrub could not read the register.
    RegisterUnreadable,
    /// There is room for a snapshot that is to be received, or not.
    Begun {
        /// Which.
        snapshot: SnapshotId,
        /// The chunks that are not there yet; `None` if there is no room.
        missing: Option<Vec<u32>>,
    },
    /// A chunk was written and synced, or was not what it should have been.
    Stored {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which.
        chunk: u32,
        /// Whether it is there now.
        held: bool,
    },
}

impl Input {
    /// What a scrub found that cannot be read, for each group.
    pub(crate) fn of_scrub(found: Scrubbed) -> impl Iterator<Item = (GroupId, Self)> {
        let entries = found.entries.into_iter();
        let registers = found.registers.into_iter();
        let entries = entries.map(|(group, index)| (group, Self::Unreadable { index }));
        entries.chain(registers.map(|group| (group, Self::RegisterUnreadable)))
    }
}

/// What the state machine is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Apply {
    /// Take this entry in.
    Entry(CommittedEntry),
    /// Put the received snapshot of this index in place of the state.
    Install(LogIndex),
    /// Make the state durable now if that can be: the log waits to be trimmed.
    Flush,
}

/// What is to be done with snapshots on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShelfEffect {
    /// Export the state as it stands; answer with [`Input::Exported`].
    Export,
    /// Send a chunk of an export, if it is there.
    Serve {
        /// To whom.
        to: NodeId,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        chunk: u32,
    },
    /// Make room for a snapshot; answer with [`Input::Begun`].
    Begin {
        /// Which.
        manifest: Manifest,
    },
    /// Check and keep a chunk; answer with [`Input::Stored`].
    Store {
        /// Of which snapshot.
        manifest: Manifest,
        /// Which chunk.
        chunk: u32,
        /// What arrived.
        bytes: Bytes,
    },
}

/// A batch for the wal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteEffect {
    /// Answer with [`Input::Durable`] once it is synced.
    pub(crate) ticket: Ticket,
    /// To be written as one batch.
    pub(crate) writes: Vec<Write>,
}

/// Work the driver owes the core, in the order it is owed.
#[must_use = "dropped effects are lost writes or lost messages"]
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Append and sync, each as one batch and in this order.
    pub(crate) writes: Vec<WriteEffect>,
    /// Safe to send now: nothing in them promises what is not yet durable.
    pub(crate) send: Vec<Envelope>,
    /// Committed and durable here; apply in this order.
    pub(crate) apply: Vec<Apply>,
    /// These reads may be served once this entry is applied here.
    pub(crate) reads: Vec<(u64, LogIndex)>,
    /// These reads are not served: the replica is under repair.
    pub(crate) refused_reads: Vec<u64>,
    /// What became of changes of membership that were asked for.
    pub(crate) changes: Vec<(u64, Result<(), NodeError>)>,
    /// Own proposals whose outcome nobody here will see.
    pub(crate) unknown: Vec<u64>,
    /// Messages that were refused: whose, and why. These connections are to be closed.
    pub(crate) refused: Vec<(NodeId, Incarnation, PeerFault)>,
    /// Work on snapshots.
    pub(crate) shelf: Vec<ShelfEffect>,
    /// The membership is not what it was.
    pub(crate) members_changed: bool,
}

/// What a replica is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows the leader, or looks for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Orders the log.
    Leader,
    /// Receives the log, counts for nothing.
    Learner,
    /// Its log was damaged: it is being repaired, or on probation. It counts for nothing meanwhile.
    Repairing,
    /// Is no member: it was removed, or waits to be added.
    Outsider,
    /// It stopped: its state cannot be relied on. It counts for nothing.
    Halted,
}

/// How a replica sees its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its own role.
    pub role: Role,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// The term it is in.
    pub term: Term,
    /// Last entry of its log.
    pub last_index: LogIndex,
    /// Last entry that is synced here.
    pub durable_index: LogIndex,
    /// Last entry it knows to be committed.
    pub committed_index: LogIndex,
    /// Last entry that is in the state here.
    pub applied_index: LogIndex,
    /// First entry its log still holds.
    pub first_index: LogIndex,
    /// Last record handed to apply.
    pub offset: Offset,
    /// Own proposals that wait for their outcome.
    pub proposals_count: usize,
    /// Who takes part, as far as this replica knows.
    pub members: Membership,
    /// For how long it has known no leader, or has not heard of the one it knows. This duration and the next two are counts of its ticks, in
    /// which a process that stood still does not count.
    pub leaderless_ms: u64,
    /// For how long the oldest own proposal has been waiting to be seen committed.
    pub uncommitted_ms: u64,
    /// For how long the oldest write under way has been with the disk, or the last one was, if it has been
    /// done for no longer than it took.
    pub sync_ms: u64,
    /// The disk of the log has no room for further records, or that of the state for what is applied.
    pub disk_full: bool,
    /// Elections that it has begun since it was opened: terms in which it asked for votes.
    pub elections: u64,
    /// Terms whose leader it came to know since it was opened.
    pub leaders: u64,
    /// What waits in it, against its bounds.
    pub queues: Vec<QueueLoad>,
    /// The voters as their leader sees them; nobody else knows, and leaves it empty.
    pub voters: Vec<VoterStatus>,
}

/// A voter, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterStatus {
    /// Which one.
    pub node: NodeId,
    /// It was heard of within an election timeout, or the leader has not waited for it so long yet. The
    /// leader hears itself.
    pub answers: bool,
    /// How many entries of the leader's log it is not known to have.
    pub entries_behind: u64,
}

impl Effects {
    /// These, and then those.
    pub(crate) fn extend(&mut self, later: Self) {
        self.writes.extend(later.writes);
        self.send.extend(later.send);
        self.apply.extend(later.apply);
        self.reads.extend(later.reads);
        self.refused_reads.extend(later.refused_reads);
        self.changes.extend(later.changes);
        self.unknown.extend(later.unknown);
        self.refused.extend(later.refused);
        self.shelf.extend(later.shelf);
        self.members_changed |= later.members_changed;
    }

    /// True if there is anything beside writes and messages.
    pub(crate) fn owes_more(&self) -> bool {
        !self.apply.is_empty()
            || !self.reads.is_empty()
            || !self.refused_reads.is_empty()
            || !self.changes.is_empty()
            || !self.unknown.is_empty()
            || !self.refused.is_empty()
            || !self.shelf.is_empty()
            || self.members_changed
    }
}
