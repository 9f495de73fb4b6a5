//! The border between the agreed order and what is computed from it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::GroupId;

use crate::entry::{AppliedPosition, CommittedEntry};

/// State computed from committed entries alone, for every group of a node.
///
/// The driver owns it on one thread; the simulator calls it in line. Nothing in it may read a
/// clock, draw a random number or depend on the order of a hash map: the same entries give the
/// same state and the same outcomes at every replica (G8).
pub trait StateMachine: Send + 'static {
    /// What the application of one record answers to its proposer.
    type Outcome: Send + fmt::Debug + 'static;

    /// Where the group's state stands now. After a crash: where the stored state stands, which
    /// may lie before what was applied; the log replays the rest.
    fn applied(&self, group: GroupId) -> AppliedPosition;

    /// Applies entries in order and commits them together with the new applied position, all or
    /// nothing: all of them, or the first of them, as that position says. Returns one outcome per record
    /// applied, in order. A refused record is an outcome; an error halts the group or the node, as it says.
    /// After one of the group, or for want of space, its state is as it was before.
    ///
    /// # Errors
    /// When the state cannot be read or stored, or contradicts the entries.
    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<Self::Outcome>, ApplyError>;

    /// Why the group's stored state must not be used, if it must not: the group is taken up as one that has
    /// halted.
    fn halted(&self, group: GroupId) -> Option<ApplyError> {
        let _ = group;
        None
    }

    /// Gives the group's state up: it is at no position from now on, also after a loss of power, and
    /// [`StateMachine::halted`] says so until one that is installed has come as far as this one had.
    ///
    /// # Errors
    /// When that cannot be stored; halts the node unless it is for want of space.
    fn give_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        Err(ApplyError::of_node(format!("the state of group={group} cannot be given up")))
    }

    /// Whether the group's state was given up, and none that came as far has taken its place yet.
    fn is_given_up(&self, group: GroupId) -> bool {
        let _ = group;
        false
    }

    /// The position that would survive a loss of power now. The log is trimmed only below it.
    fn flushed(&self, group: GroupId) -> AppliedPosition;

    /// Makes everything applied so far survive a loss of power.
    ///
    /// # Errors
    /// When the state cannot be stored; halts the node unless it is for want of space.
    fn flush(&mut self) -> Result<(), ApplyError>;

    /// Gives what writes out a group's state as it stands when it is run, on another thread and
    /// beside further applies.
    fn exporter(&self) -> Exporter;

    /// Puts a state that another replica exported in place of this one, and makes it survive a loss
    /// of power before it returns. Over a crash inside, [`StateMachine::applied`] is either zero or
    /// the position given; the same install is then done again. `chunks` gives what was exported,
    /// in order, and must be read to its end.
    ///
    /// # Errors
    /// When a chunk is not given, which halts the group. When the state cannot be stored: halts the node unless
    /// it is for want of space. The same install is then done again, or at the next start.
    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError>;
}

/// Gives what writes out a group's state.
pub type Exporter = Arc<dyn Fn(GroupId) -> Box<dyn Export> + Send + Sync>;

/// Takes chunks of a state, each with the position that the state is of.
pub type TakeChunk<'a> = dyn FnMut(AppliedPosition, Bytes) -> Result<(), ApplyError> + 'a;

/// Writes out a group's state in bounded pieces.
pub trait Export: Send {
    /// Gives all chunks of one moment's state to `take`, at least one, each about
    /// [`crate::CHUNK_BYTES_TARGET`] long and the same at every replica that stands there.
    ///
    /// # Errors
    /// What `take` gave, or the state's own.
    fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError>;
}

/// What cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltScope {
    /// One group on this node: its state or its records are wrong, and those of others are not.
    Group,
    /// The whole node: what holds the state cannot be relied on.
    Node,
    /// Nothing halts: what holds the state has no space now. All is as it was before, and the same is done
    /// again until there is some.
    Nothing,
}

/// Why a state machine cannot go on. The group or the node halts with it as the cause.
#[derive(Debug, thiserror::Error)]
#[error("apply failed: {what}")]
pub struct ApplyError {
    /// How far it reaches.
    pub scope: HaltScope,
    /// What failed, for people.
    pub what: String,
    /// The cause below, where there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ApplyError {
    /// One group cannot go on here.
    #[must_use]
    pub fn of_group(what: impl Into<String>) -> Self {
        Self { scope: HaltScope::Group, what: what.into(), source: None }
    }

    /// The node cannot go on.
    #[must_use]
    pub fn of_node(what: impl Into<String>) -> Self {
        Self { scope: HaltScope::Node, what: what.into(), source: None }
    }

    /// There is no space for it.
    #[must_use]
    pub fn full(what: impl Into<String>) -> Self {
        Self { scope: HaltScope::Nothing, what: what.into(), source: None }
    }

    /// The same, with what lies below.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}
