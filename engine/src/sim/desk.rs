//! Where handles leave what they ask of a simulated cluster.
//!
//! A handle can be anywhere and is shared; the cluster belongs to its fabric. So a handle only lays down
//! a question, in the order in which handles are polled, and waits for the answer. The fabric takes the
//! questions up between two steps of simulated time. Nothing here depends on a thread or a clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use palisade_replication::{
    ChangeRefusal, Committed, GroupId, GroupStatus, LogTime, MemberChange, NodeError, NodeId,
    Offset, RecordRun,
};
use tokio::sync::oneshot;

use super::RecordOutcome;
use crate::contracts::Contracts;
use crate::error::Error;
use crate::store::MemoryStore;
use crate::trace::TraceContext;

/// Takes the answer to a question; nobody may wait for it any more.
pub(super) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// Answers. Whoever gave up the wait is told nothing.
pub(super) fn tell<T>(answer: Answer<T>, what: Result<T, Error>) {
    let _ = answer.send(what);
}

/// One life of a node: from its start until it is crashed, closed, or stops by itself. Handles belong to a
/// life, as they belong to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: NodeId,
    pub(super) number: usize,
}

/// Runs of records, or where the log begins that does not go back so far.
pub(super) type Records = Result<Vec<RecordRun>, Offset>;

/// What a handle asks of its node.
pub(super) enum Question {
    Propose { group: GroupId, payload: Bytes, answer: Answer<Committed<RecordOutcome>> },
    Barrier { group: GroupId, answer: Answer<Offset> },
    Change { group: GroupId, change: MemberChange, answer: Answer<Result<(), ChangeRefusal>> },
    Status { group: GroupId, answer: Answer<GroupStatus> },
    Applied { group: GroupId, at_least: Offset, answer: Answer<()> },
    Records { group: GroupId, from: Offset, bytes_max: usize, answer: Answer<Records> },
    Transfer { group: GroupId, to: NodeId },
    Halt { group: GroupId, what: String },
    Rebuild { group: GroupId, answer: Answer<()> },
    Close { answer: Answer<()> },
}

impl Question {
    /// It was not taken up, and nothing happened.
    pub(super) fn refuse(self, cause: Error) {
        match self {
            Self::Propose { answer, .. } => tell(answer, Err(cause)),
            Self::Barrier { answer, .. } => tell(answer, Err(cause)),
            Self::Change { answer, .. } => tell(answer, Err(cause)),
            Self::Status { answer, .. } => tell(answer, Err(cause)),
            Self::Records { answer, .. } => tell(answer, Err(cause)),
            Self::Applied { answer, .. }
            | Self::Rebuild { answer, .. }
            | Self::Close { answer } => tell(answer, Err(cause)),
            Self::Transfer { .. } | Self::Halt { .. } => {}
        }
    }
}

/// Somebody sleeps until then.
pub(super) struct Sleeper {
    pub(super) until_us: u64,
    pub(super) wake: oneshot::Sender<()>,
}

/// The desk; clones share it.
#[derive(Clone, Default)]
pub(super) struct Desk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    now_us: u64,
    seats: BTreeMap<NodeId, Seat>,
    questions: Vec<(Life, Question)>,
    /// Records that were made, which some have a trace context of.
    records: u64,
    sleepers: Vec<Sleeper>,
}

struct Seat {
    store: MemoryStore,
    contracts: Contracts,
    runs: bool,
    clock: LogTime,
    /// Why groups have halted there, while the node goes on.
    halted_groups: BTreeMap<GroupId, NodeError>,
    /// How each life ended that is over, first the first.
    ends: Vec<End>,
}

/// Why a life is over.
#[derive(Clone)]
pub(super) enum End {
    /// A handle closed its engine.
    Closed,
    /// The test took the power away.
    PowerLost,
    /// The node found that it must not go on.
    Halted(NodeError),
}

impl From<End> for Error {
    fn from(end: End) -> Self {
        match end {
            End::Closed => NodeError::Closed.into(),
            End::PowerLost => Self::InternalError { what: "the node lost power".to_owned() },
            End::Halted(cause) => NodeError::Halted { cause: Arc::new(cause) }.into(),
        }
    }
}

impl Desk {
    /// A node with this state begins its first life.
    pub(super) fn seat(&self, node: NodeId, store: MemoryStore, contracts: Contracts) {
        self.lock().seats.insert(
            node,
            Seat {
                store,
                contracts,
                runs: true,
                clock: LogTime::new(0),
                halted_groups: BTreeMap::new(),
                ends: Vec::new(),
            },
        );
    }

    /// The life that a node is in, or that ended last.
    pub(super) fn life(&self, node: NodeId) -> Life {
        let seat = &self.lock().seats[&node];
        Life { node, number: if seat.runs { seat.ends.len() } else { seat.ends.len() - 1 } }
    }

    /// The contracts of a node's resources.
    pub(super) fn contracts(&self, node: NodeId) -> Contracts {
        self.lock().seats[&node].contracts.clone()
    }

    /// One record in four is part of a trace.
    pub(super) fn draw_trace(&self) -> Option<TraceContext> {
        let mut inner = self.lock();
        inner.records += 1;
        let number = inner.records;
        let trace = u128::from(number).to_be_bytes();
        TraceContext::new(trace, number.to_be_bytes(), 1).filter(|_| number.is_multiple_of(4))
    }

    /// The next life of a node begins.
    pub(super) fn begin(&self, node: NodeId) {
        self.lock().seats.get_mut(&node).expect("a known node").runs = true;
    }

    /// What a node's clock says.
    pub(super) fn note_clock(&self, node: NodeId, clock: LogTime) {
        self.lock().seats.get_mut(&node).expect("a known node").clock = clock;
    }

    /// What a node's clock said last.
    pub(super) fn clock(&self, node: NodeId) -> LogTime {
        self.lock().seats[&node].clock
    }

    /// Which groups have halted on a node.
    pub(super) fn note_groups(&self, node: NodeId, halted: BTreeMap<GroupId, NodeError>) {
        self.lock().seats.get_mut(&node).expect("a known node").halted_groups = halted;
    }

    /// Why a node serves nothing more of the group to who holds an engine of this life.
    pub(super) fn stopped(&self, life: Life, group: GroupId) -> Option<Error> {
        let inner = self.lock();
        let halted = || inner.seats[&life.node].halted_groups.get(&group).cloned().map(Error::from);
        inner.ended(life).map(Error::from).or_else(halted)
    }

    /// The life of a node is over, if it was not already.
    pub(super) fn end(&self, node: NodeId, end: End) {
        let mut inner = self.lock();
        let seat = inner.seats.get_mut(&node).expect("a known node");
        if std::mem::take(&mut seat.runs) {
            seat.ends.push(end);
        }
    }

    /// Why a life is over, if it is.
    pub(super) fn ended(&self, life: Life) -> Option<End> {
        self.lock().ended(life)
    }

    /// The state of a node, while the life goes on.
    pub(super) fn store(&self, life: Life) -> Result<MemoryStore, Error> {
        let inner = self.lock();
        let store = || Ok(inner.seats[&life.node].store.clone());
        inner.ended(life).map_or_else(store, |end| Err(end.into()))
    }

    /// Lays a question down, while the life goes on.
    pub(super) fn lay(&self, life: Life, question: Question) -> Result<(), Error> {
        let mut inner = self.lock();
        if let Some(end) = inner.ended(life) {
            return Err(end.into());
        }
        inner.questions.push((life, question));
        Ok(())
    }

    /// Asks to be woken after so long.
    pub(super) fn sleep(&self, us: u64) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        let mut inner = self.lock();
        let until_us = inner.now_us.saturating_add(us);
        inner.sleepers.push(Sleeper { until_us, wake });
        woken
    }

    /// Simulated time.
    pub(super) fn now_us(&self) -> u64 {
        self.lock().now_us
    }

    /// The questions since the last call, in order.
    pub(super) fn take_questions(&self) -> Vec<(Life, Question)> {
        std::mem::take(&mut self.lock().questions)
    }

    /// It is so late. Says who is to be woken, and forgets who gave up.
    pub(super) fn advance(&self, now_us: u64) -> Vec<Sleeper> {
        let mut inner = self.lock();
        inner.now_us = now_us;
        inner.sleepers.retain(|sleeper| !sleeper.wake.is_closed());
        inner.sleepers.extract_if(.., |sleeper| sleeper.until_us <= now_us).collect()
    }

    /// True if somebody has asked something, or sleeps.
    pub(super) fn is_waited_for(&self) -> bool {
        let inner = self.lock();
        !inner.questions.is_empty() || !inner.sleepers.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the desk")
    }
}

impl Inner {
    fn ended(&self, life: Life) -> Option<End> {
        self.seats[&life.node].ends.get(life.number).cloned()
    }
}
