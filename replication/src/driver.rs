//! The thread that owns a node's replicas: one loop that picks inputs, steps, performs effects.
//!
//! ```text
//!  callers ---> inbox ---> replica thread ---> wal thread     (write, sync)   ---> inbox
//!  peers   --->   |                       ---> applier thread (state machine) ---> inbox, callers
//!                                         ---> shelf thread   (snapshots)     ---> inbox, peers
//!                                         ---> transport      (tokio tasks)
//! ```
//!
//! It reads everything that has arrived before it steps, so that one step serves many callers. The
//! tick comes first and only once a round: after a pause of the whole process one tick is counted,
//! not one for each that was missed, so messages are heard before an election starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use palisade_wal::{BatchSeq, GroupId, LogIndex, Scrubbed, WalError, WalWriter};
use tokio::sync::oneshot;

use crate::applier::{ApplyJob, GroupShared, Reply, is_rebuilding};
use crate::ceiling::Ceiling;
use crate::effects::{Effects, GroupStatus, Input, WallTime};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::host::Host;
use crate::identity::{Incarnation, NodeId};
use crate::inbox::Outbox;
use crate::keeper::ShelfQueue;
use crate::membership::{Member, MemberChange};
use crate::transport::{Told, Transport};
use crate::vigil::Vigil;
use crate::wire::Envelope;

/// Inputs taken in before a step, at most.
const ROUND_INPUTS_MAX: usize = 4096;
/// Bytes taken in before a step, give or take one message. What a step of one group writes is one
/// batch of the wal, which has a bound.
pub(crate) const ROUND_BYTES_MAX: usize = 4 << 20;

/// Something for the replica thread.
#[derive(Debug)]
pub(crate) enum Event<O> {
    Propose {
        group: GroupId,
        payload: Bytes,
        reply: Reply<O>,
    },
    Read {
        group: GroupId,
        reply: oneshot::Sender<Result<LogIndex, NodeError>>,
    },
    Change {
        group: GroupId,
        change: MemberChange,
        reply: oneshot::Sender<Result<(), NodeError>>,
    },
    Transfer {
        group: GroupId,
        to: NodeId,
    },
    Rebuild {
        group: GroupId,
        reply: oneshot::Sender<Result<(), NodeError>>,
    },
    Status {
        group: GroupId,
        reply: oneshot::Sender<GroupStatus>,
    },
    Peer {
        envelope: Envelope,
        life: Incarnation,
    },
    Durable(Result<BatchSeq, Arc<WalError>>),
    Applied {
        group: GroupId,
        position: AppliedPosition,
    },
    Flushed {
        group: GroupId,
        index: LogIndex,
    },
    Shelf {
        group: GroupId,
        input: Input,
    },
    Scrubbed(Scrubbed),
    Send(Envelope),
    Told(Told),
    Met {
        node: NodeId,
        life: Incarnation,
    },
    /// A group cannot go on.
    Halt {
        group: GroupId,
        cause: NodeError,
    },
    /// Somebody has found the state of a group wrong.
    Rejected {
        group: GroupId,
        cause: NodeError,
    },
    /// There is no space for the state, or again there is.
    StateFull(bool),
    /// A group has no state any more, and is to get one.
    GivenUp {
        group: GroupId,
    },
    /// It is as far as it was.
    Whole {
        group: GroupId,
    },
    /// A thread of the node cannot go on.
    Failed(NodeError),
    Close,
}

impl<O> Event<O> {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Propose { payload, .. } => payload.len(),
            Self::Peer { envelope, .. } => envelope.encoded_bytes(),
            _ => 0,
        }
    }
}

/// Who waits for what in one group.
pub(crate) struct Callers<O> {
    shared: Arc<GroupShared<O>>,
    next_seq: u64,
    next_token: u64,
    reads: BTreeMap<u64, oneshot::Sender<Result<LogIndex, NodeError>>>,
    changes: BTreeMap<u64, oneshot::Sender<Result<(), NodeError>>>,
    /// Who waits for the state to be made anew.
    rebuild: Option<oneshot::Sender<Result<(), NodeError>>>,
    /// The state is about to be given up: what is wrong with it matters no more.
    gives_up: bool,
}

impl<O> Callers<O> {
    pub(crate) fn new(shared: Arc<GroupShared<O>>) -> Self {
        Self {
            shared,
            next_seq: 0,
            next_token: 0,
            reads: BTreeMap::new(),
            changes: BTreeMap::new(),
            rebuild: None,
            gives_up: false,
        }
    }
}

pub(crate) struct Driver<O, T: Transport> {
    pub(crate) outbox: Outbox<Event<O>>,
    pub(crate) host: Host,
    pub(crate) callers: BTreeMap<GroupId, Callers<O>>,
    pub(crate) wal: WalWriter,
    pub(crate) ceiling: Ceiling,
    pub(crate) transport: T,
    pub(crate) jobs: mpsc::Sender<ApplyJob>,
    pub(crate) shelf: ShelfQueue,
    pub(crate) tick: Duration,
    pub(crate) resend_ticks: u32,
    pub(crate) vigil: Vigil,
    /// The state has no space.
    pub(crate) state_is_full: bool,
}

impl<O: Send + 'static, T: Transport> Driver<O, T> {
    /// Runs until closed (`Ok`) or until something final happens.
    #[expect(clippy::disallowed_methods, reason = "the driver owns the clock that ticks")]
    pub(crate) fn run(&mut self) -> Result<(), NodeError> {
        let mut next_tick = Instant::now() + self.tick;
        let mut ticks = 0_u64;
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let mut event = match self.outbox.wait(wait) {
                Ok(event) => Some(event),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let now = Instant::now();
            if next_tick <= now {
                next_tick = now + self.tick;
                ticks += 1;
                self.on_tick(ticks);
            }
            let mut round_bytes = 0;
            for _ in 0..ROUND_INPUTS_MAX {
                if round_bytes > ROUND_BYTES_MAX {
                    break;
                }
                let Some(taken) = event.take().or_else(|| self.outbox.take()) else { break };
                round_bytes += taken.payload_bytes();
                if let Event::Close = taken {
                    return Ok(());
                }
                self.on_event(taken)?;
            }
            self.step()?;
        }
    }

    fn on_tick(&mut self, ticks: u64) {
        if self.vigil.is_over() {
            self.host.tick();
        } else {
            self.vigil.tick();
        }
        if !ticks.is_multiple_of(u64::from(self.resend_ticks)) {
            return;
        }
        for (group, callers) in &mut self.callers {
            for seq in callers.shared.take_abandoned() {
                self.host.input(*group, Input::Abandon { seq });
            }
            callers.reads.retain(|_, reply| !reply.is_closed());
        }
    }

    fn on_event(&mut self, event: Event<O>) -> Result<(), NodeError> {
        match event {
            Event::Propose { group, payload, reply } => self.on_propose(group, payload, reply),
            Event::Read { group, reply } => {
                let refusal = match self.host.replica(group) {
                    None => Some(self.absence(group)),
                    Some(replica) if replica.takes_reads() => None,
                    Some(_) => {
                        Some(NodeError::Backpressure { queue: "reads_max", retry_after_ms: 10 })
                    }
                };
                if let Some(refusal) = refusal {
                    let _ = reply.send(Err(refusal));
                    return Ok(());
                }
                let callers = self.callers(group);
                callers.next_token += 1;
                let token = callers.next_token;
                callers.reads.insert(token, reply);
                self.host.input(group, Input::Read { token });
            }
            Event::Change { group, change, reply } => {
                let callers = self.callers(group);
                callers.next_token += 1;
                let token = callers.next_token;
                callers.changes.insert(token, reply);
                self.host.input(group, Input::Change { token, change });
            }
            Event::Transfer { group, to } => self.host.input(group, Input::Transfer { to }),
            Event::Rebuild { group, reply } => self.on_rebuild(group, reply),
            Event::GivenUp { group } => {
                self.callers(group).gives_up = false;
                let effects = self.host.rebuild(group);
                self.perform(group, effects);
            }
            Event::Whole { group } => {
                tracing::info!(%group, "the state was made anew");
                // Who gave up the wait is told nothing.
                self.callers(group).rebuild.take().map(|reply| reply.send(Ok(())));
            }
            Event::Status { group, reply } => {
                if let Some(status) = self.host.status(group) {
                    let _ = reply.send(status);
                }
            }
            // Who is not heard is answered with no vote and no confirmation; peers repeat what matters.
            Event::Peer { .. } if !self.vigil.is_over() => {}
            Event::Peer { envelope, life } => self.host.deliver(envelope, life),
            Event::Durable(Ok(up_to)) => self.host.durable(up_to),
            Event::Durable(Err(error)) => return Err(error.into()),
            Event::Applied { group, position } => {
                self.host.input(group, Input::Applied { position });
            }
            Event::Flushed { group, index } => self.host.input(group, Input::Flushed { index }),
            Event::Shelf { group, input } => self.host.input(group, input),
            Event::Scrubbed(found) => {
                for (group, input) in Input::of_scrub(found) {
                    self.host.input(group, input);
                }
            }
            Event::Told(Told::Recognized { by, same }) => {
                self.vigil.heard(by);
                self.host.recognized(by, same);
            }
            Event::Told(Told::ListensAt { node, address }) => {
                self.transport.introduce(node, address);
            }
            Event::Told(Told::PutBack { by, remembered }) => {
                return Err(NodeError::PutBack { by, remembered: remembered.count });
            }
            Event::Met { node, life } => self.host.meet(node, life),
            Event::Send(envelope) => self.transport.send(envelope),
            Event::Halt { group, .. } if self.callers(group).gives_up => {}
            Event::Halt { group, cause } => self.halt(group, cause),
            // One that has halted since may have another state soon.
            Event::Rejected { group, .. } if self.callers(group).shared.halted().is_some() => {}
            Event::Rejected { group, cause } => self.halt(group, cause),
            Event::StateFull(is_full) => self.state_is_full = is_full,
            Event::Failed(error) => return Err(error),
            Event::Close => unreachable!("handled by the loop"),
        }
        Ok(())
    }

    /// Why there is no replica to ask.
    fn absence(&self, group: GroupId) -> NodeError {
        let halted = self.callers.get(&group).and_then(|callers| callers.shared.halted());
        halted.unwrap_or(NodeError::Unavailable)
    }

    /// The state goes first: without a log it could not be taken up, nor without it be followed. One that is
    /// under way is waited for, by who called last.
    fn on_rebuild(&mut self, group: GroupId, reply: oneshot::Sender<Result<(), NodeError>>) {
        let callers = self.callers(group);
        let was_begun = callers.rebuild.is_some()
            || callers.shared.halted().as_ref().is_some_and(is_rebuilding);
        if !was_begun && let Err(refusal) = self.host.may_rebuild(group) {
            let _ = reply.send(Err(NodeError::Rebuild(refusal)));
            return;
        }
        self.callers(group).rebuild = Some(reply);
        if !was_begun {
            self.callers(group).gives_up = true;
            let _ = self.jobs.send(ApplyJob { group, steps: Vec::new(), gives_up: true });
        }
    }

    fn halt(&mut self, group: GroupId, cause: NodeError) {
        tracing::error!(%group, %cause, "the group halts on this node");
        let cause = NodeError::GroupHalted { group: group.get(), cause: Arc::new(cause) };
        let effects = self.host.halt(group);
        let callers = self.callers(group);
        callers.shared.halt(cause.clone());
        if let Some(reply) = callers.rebuild.take() {
            let _ = reply.send(Err(cause));
        }
        self.perform(group, effects);
    }

    fn on_propose(&mut self, group: GroupId, payload: Bytes, reply: Reply<O>) {
        let Some(replica) = self.host.replica(group) else {
            let _ = reply.send(Err(self.absence(group)));
            return;
        };
        let retry_after_ms = self.tick.as_millis() as u64;
        let stuck =
            self.host.is_full().then_some(NodeError::Backpressure { queue: "wal", retry_after_ms });
        if let Some(refusal) = replica.refusal(payload.len()).or(stuck) {
            // A caller that gave up is no loss.
            let _ = reply.send(Err(refusal));
            return;
        }
        let callers = self.callers(group);
        callers.next_seq += 1;
        let seq = callers.next_seq;
        callers.shared.wait(seq, reply);
        self.host.input(group, Input::Propose { seq, payload });
    }

    fn callers(&mut self, group: GroupId) -> &mut Callers<O> {
        self.callers.get_mut(&group).expect("the handle checked the group")
    }

    /// Steps every replica that has something to hear, and performs what they owe.
    fn step(&mut self) -> Result<(), NodeError> {
        // What cannot be applied must not pile up in the log, which only what was applied frees.
        self.host.note_space(self.wal.is_short() || self.state_is_full);
        let effects = self.host.step(
            wall_time(),
            |writes| self.wal.submit_owed(writes),
            |ceiling| self.ceiling.raise(ceiling),
        )?;
        for envelope in effects.send {
            self.transport.send(envelope);
        }
        for (group, effects) in effects.groups {
            self.perform(group, effects);
        }
        for (group, cause) in effects.lost {
            self.halt(group, cause);
        }
        Ok(())
    }

    fn perform(&mut self, group: GroupId, effects: Effects) {
        if !effects.apply.is_empty() {
            // The applier only ends before this thread when it failed, which it has reported.
            let _ = self.jobs.send(ApplyJob { group, steps: effects.apply, gives_up: false });
        }
        for work in effects.shelf {
            if let Some(refused) = self.shelf.offer(group, work) {
                self.host.input(group, refused);
            }
        }
        for (node, life, fault) in effects.refused {
            self.transport.refuse(node, life, fault);
        }
        if effects.members_changed {
            let status = self.host.status(group).expect("it has just stepped");
            let members: Vec<(NodeId, Member)> = status.members.members.into_iter().collect();
            self.transport.know(&members);
        }
        let callers = self.callers(group);
        for (token, index) in effects.reads {
            if let Some(reply) = callers.reads.remove(&token) {
                let _ = reply.send(Ok(index));
            }
        }
        for token in effects.refused_reads {
            if let Some(reply) = callers.reads.remove(&token) {
                let _ = reply.send(Err(NodeError::Unavailable));
            }
        }
        for (token, result) in effects.changes {
            if let Some(reply) = callers.changes.remove(&token) {
                let _ = reply.send(result);
            }
        }
        callers.shared.give_up(&effects.unknown);
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver passes the wall clock in, for stamps")]
fn wall_time() -> WallTime {
    // A clock before 1970 stamps zero; log time never falls whatever it says.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
