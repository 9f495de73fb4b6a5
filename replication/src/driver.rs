//! The thread that owns a node's replicas: one loop that picks inputs, steps, performs effects.
//!
//! ```text
//!  callers ---> inbox ---> replica thread ---> wal thread     (write, sync)   ---> inbox
//!  peers   --->   |                       ---> applier thread (state machine) ---> inbox, callers
//!                                         ---> transport      (tokio tasks)
//! ```
//!
//! It reads everything that has arrived before it steps, so that one step serves many callers. The
//! tick comes first and only once a round: after a pause of the whole process one tick is counted,
//! not one for each that was missed, so messages are heard before an election starts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use palisade_wal::{BatchSeq, GroupId, LogIndex, WalError, WalWriter, Write};
use tokio::sync::oneshot;

use crate::applier::{ApplyJob, GroupShared, Reply};
use crate::effects::{Effects, GroupStatus, Input, Ticket, WallTime};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::inbox::Outbox;
use crate::replica::Replica;
use crate::transport::Transport;
use crate::wire::Envelope;

/// Inputs taken in before a step, at most.
const ROUND_INPUTS_MAX: usize = 4096;
/// Bytes taken in before a step, give or take one message. What a step writes is one batch of the
/// wal, which has a bound.
const ROUND_BYTES_MAX: usize = 4 << 20;

/// Something for the replica thread.
#[derive(Debug)]
pub(crate) enum Event<O> {
    Propose { group: GroupId, payload: Bytes, reply: Reply<O> },
    Read { group: GroupId, reply: oneshot::Sender<Result<LogIndex, NodeError>> },
    Status { group: GroupId, reply: oneshot::Sender<GroupStatus> },
    Peer(Envelope),
    Durable(Result<BatchSeq, Arc<WalError>>),
    Applied { group: GroupId, position: AppliedPosition },
    Flushed { group: GroupId, index: LogIndex },
    ApplierFailed(NodeError),
    Close,
}

impl<O> Event<O> {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Propose { payload, .. } => payload.len(),
            Self::Peer(envelope) => envelope.encoded_bytes(),
            _ => 0,
        }
    }
}

/// One group as its replica thread sees it.
pub(crate) struct Hosted<O> {
    pub(crate) replica: Replica,
    pub(crate) shared: Arc<GroupShared<O>>,
    inputs: Vec<Input>,
    next_seq: u64,
    next_token: u64,
    reads: BTreeMap<u64, oneshot::Sender<Result<LogIndex, NodeError>>>,
}

impl<O> Hosted<O> {
    pub(crate) fn new(replica: Replica, shared: Arc<GroupShared<O>>) -> Self {
        Self {
            replica,
            shared,
            inputs: Vec::new(),
            next_seq: 0,
            next_token: 0,
            reads: BTreeMap::new(),
        }
    }
}

/// Whose writes a batch holds.
type Tickets = Vec<(GroupId, Ticket)>;

pub(crate) struct Driver<O, T: Transport> {
    pub(crate) outbox: Outbox<Event<O>>,
    pub(crate) groups: BTreeMap<GroupId, Hosted<O>>,
    pub(crate) wal: WalWriter,
    pub(crate) transport: T,
    pub(crate) jobs: mpsc::Sender<ApplyJob>,
    pub(crate) tick: Duration,
    pub(crate) resend_ticks: u32,
    /// Submitted batches of the wal and whose tickets each answers, in order.
    pub(crate) submitted: VecDeque<(BatchSeq, Tickets)>,
    /// Batches the wal had no room for; nothing is appended past them.
    pub(crate) unsubmitted: VecDeque<(Vec<Write>, Tickets)>,
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
        for hosted in self.groups.values_mut() {
            hosted.inputs.push(Input::Tick);
            if ticks.is_multiple_of(u64::from(self.resend_ticks)) {
                let gone = hosted.shared.take_abandoned();
                hosted.inputs.extend(gone.into_iter().map(|seq| Input::Abandon { seq }));
                hosted.reads.retain(|_, reply| !reply.is_closed());
            }
        }
    }

    fn on_event(&mut self, event: Event<O>) -> Result<(), NodeError> {
        match event {
            Event::Propose { group, payload, reply } => {
                let wal_full = !self.unsubmitted.is_empty();
                let retry_after_ms = self.tick.as_millis() as u64;
                let hosted = self.hosted(group);
                let refusal =
                    hosted.replica.refusal(payload.len()).or(wal_full
                        .then_some(NodeError::Backpressure { queue: "wal", retry_after_ms }));
                if let Some(refusal) = refusal {
                    let _ = reply.send(Err(refusal));
                    return Ok(());
                }
                hosted.next_seq += 1;
                let seq = hosted.next_seq;
                hosted.shared.wait(seq, reply);
                hosted.inputs.push(Input::Propose { seq, payload });
            }
            Event::Read { group, reply } => {
                let hosted = self.hosted(group);
                if !hosted.replica.takes_reads() {
                    let queue = "reads_max";
                    let _ = reply.send(Err(NodeError::Backpressure { queue, retry_after_ms: 10 }));
                    return Ok(());
                }
                hosted.next_token += 1;
                let token = hosted.next_token;
                hosted.reads.insert(token, reply);
                hosted.inputs.push(Input::Read { token });
            }
            Event::Status { group, reply } => {
                let _ = reply.send(self.hosted(group).replica.status());
            }
            Event::Peer(envelope) => {
                // While the wal is full, hearing more would only make more to write.
                if self.unsubmitted.is_empty()
                    && let Some(hosted) = self.groups.get_mut(&envelope.group)
                {
                    hosted.inputs.push(Input::Peer(envelope));
                }
            }
            Event::Durable(Ok(up_to)) => self.on_durable(up_to),
            Event::Durable(Err(error)) => return Err(NodeError::Wal(error)),
            Event::Applied { group, position } => {
                self.hosted(group).inputs.push(Input::Applied { position });
            }
            Event::Flushed { group, index } => {
                self.hosted(group).inputs.push(Input::Flushed { index });
            }
            Event::ApplierFailed(error) => return Err(error),
            Event::Close => unreachable!("handled by the loop"),
        }
        Ok(())
    }

    fn hosted(&mut self, group: GroupId) -> &mut Hosted<O> {
        self.groups.get_mut(&group).expect("the handle checked the group")
    }

    fn on_durable(&mut self, up_to: BatchSeq) {
        while self.submitted.front().is_some_and(|(seq, _)| *seq <= up_to) {
            let (_, tickets) = self.submitted.pop_front().expect("front was there");
            for (group, ticket) in tickets {
                self.hosted(group).inputs.push(Input::Durable { ticket });
            }
        }
    }

    /// Steps every replica that has something to hear, and performs what they owe.
    fn step(&mut self) -> Result<(), NodeError> {
        let now = wall_time();
        let mut writes = Vec::new();
        let mut tickets = Vec::new();
        let mut all = Vec::new();
        for (group, hosted) in &mut self.groups {
            if hosted.inputs.is_empty() {
                continue;
            }
            let mut effects = hosted.replica.step(now, hosted.inputs.drain(..))?;
            for write in effects.writes.drain(..) {
                tickets.push((*group, write.ticket));
                writes.extend(write.writes);
            }
            all.push((*group, effects));
        }
        // The disk first: it is the slowest.
        if !writes.is_empty() {
            self.unsubmitted.push_back((writes, tickets));
        }
        self.submit()?;
        for (group, effects) in all {
            self.perform(group, effects);
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), NodeError> {
        while let Some((writes, tickets)) = self.unsubmitted.pop_front() {
            match self.wal.submit(&writes) {
                Ok(seq) => self.submitted.push_back((seq, tickets)),
                Err(WalError::Backpressure { .. } | WalError::NoSpace) => {
                    self.unsubmitted.push_front((writes, tickets));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn perform(&mut self, group: GroupId, effects: Effects) {
        for envelope in effects.send {
            self.transport.send(envelope);
        }
        if !effects.apply.is_empty() {
            // The applier only ends before this thread when it failed, which it has reported.
            let _ = self.jobs.send(ApplyJob { group, entries: effects.apply });
        }
        let hosted = self.hosted(group);
        for (token, index) in effects.reads {
            if let Some(reply) = hosted.reads.remove(&token) {
                // A caller that gave up is no loss.
                let _ = reply.send(Ok(index));
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver passes the wall clock in, for stamps")]
fn wall_time() -> WallTime {
    // A clock before 1970 stamps zero; log time never falls whatever it says.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
