//! The thread that owns the state machine: committed entries in, outcomes out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use palisade_wal::{GroupId, LogIndex};
use tokio::sync::oneshot;

use crate::driver::Event;
use crate::effects::Apply;
use crate::entry::{AppliedPosition, CommittedEntry};
use crate::error::NodeError;
use crate::identity::{LogTime, Offset};
use crate::inbox::Inbox;
use crate::shelf::Shelf;
use crate::state_machine::{HaltScope, StateMachine};
use crate::tracker::Tracker;

/// Entries are applied together up to this size: one commit of the state for all of them.
const APPLY_BYTES_TARGET: usize = 1 << 20;
/// How long a state without space is left alone before the next try.
pub(crate) const ROOM_RETRY: Duration = Duration::from_millis(250);

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<O> {
    /// Its place in the log.
    pub offset: Offset,
    /// The leader's stamp on it.
    pub log_time: LogTime,
    /// What the state machine answered.
    pub outcome: O,
}

pub(crate) type Reply<O> = oneshot::Sender<Result<Committed<O>, NodeError>>;

/// What the threads of one node share about one group.
#[derive(Debug)]
pub(crate) struct GroupShared<O> {
    pub(crate) tracker: Tracker,
    /// Callers who wait for the outcome of their record, by its number in this session.
    waiters: Mutex<BTreeMap<u64, Reply<O>>>,
    /// Why the group stopped here, if it did.
    halted: Mutex<Option<NodeError>>,
}

impl<O> GroupShared<O> {
    pub(crate) fn new(tracker: Tracker) -> Self {
        Self { tracker, waiters: Mutex::new(BTreeMap::new()), halted: Mutex::new(None) }
    }

    pub(crate) fn wait(&self, seq: u64, reply: Reply<O>) {
        self.waiters().insert(seq, reply);
    }

    /// Callers who have given up, taken out.
    pub(crate) fn take_abandoned(&self) -> Vec<u64> {
        let mut waiters = self.waiters();
        let gone: Vec<u64> =
            waiters.iter().filter(|(_, reply)| reply.is_closed()).map(|(seq, _)| *seq).collect();
        for seq in &gone {
            waiters.remove(seq);
        }
        gone
    }

    /// What became of these nobody here will see.
    pub(crate) fn give_up(&self, seqs: &[u64]) {
        if seqs.is_empty() {
            return;
        }
        let mut waiters = self.waiters();
        for reply in seqs.iter().filter_map(|seq| waiters.remove(seq)) {
            // A caller that gave up is no loss.
            let _ = reply.send(Err(NodeError::Indeterminate));
        }
    }

    /// The group stops, for the first cause that is given.
    pub(crate) fn halt(&self, cause: NodeError) {
        let mut halted = self.halted.lock().unwrap_or_else(PoisonError::into_inner);
        if halted.as_ref().is_none_or(is_rebuilding) {
            *halted = Some(cause);
        }
        drop(halted);
        self.answer_waiters();
        self.tracker.stop();
    }

    pub(crate) fn halted(&self) -> Option<NodeError> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A state that was given up is waited for, whatever the group halted for.
    fn await_state(&self, group: GroupId) {
        *self.halted.lock().unwrap_or_else(PoisonError::into_inner) = Some(rebuilding(group));
    }

    /// It is there, and the group is served again, unless it has halted for something else since: its log
    /// may be beyond repair.
    fn serve_again(&self) -> bool {
        let mut halted = self.halted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_whole = halted.as_ref().is_some_and(is_rebuilding);
        if is_whole {
            *halted = None;
            // Before anybody can halt it once more.
            self.tracker.go_on();
        }
        is_whole
    }

    /// The node stops: what became of those who wait is not known here.
    pub(crate) fn close(&self) {
        self.answer_waiters();
        self.tracker.close();
    }

    fn answer_waiters(&self) {
        for reply in std::mem::take(&mut *self.waiters()).into_values() {
            // A caller that gave up is no loss.
            let _ = reply.send(Err(NodeError::Indeterminate));
        }
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Reply<O>>> {
        self.waiters.lock().expect("no code panics while it holds the waiters")
    }
}

/// What one group's state is to take in, in order.
#[derive(Debug)]
pub(crate) struct ApplyJob {
    pub(crate) group: GroupId,
    pub(crate) steps: Vec<Apply>,
    /// Before all of it, the state is given up.
    pub(crate) gives_up: bool,
}

/// The cause of a group that is being made anew.
pub(crate) fn rebuilding(group: GroupId) -> NodeError {
    NodeError::GroupHalted { group: group.get(), cause: Arc::new(NodeError::Rebuilding) }
}

/// Whether that is the cause.
pub(crate) fn is_rebuilding(cause: &NodeError) -> bool {
    matches!(cause, NodeError::GroupHalted { cause, .. } if matches!(**cause, NodeError::Rebuilding))
}

pub(crate) struct Applier<M: StateMachine> {
    pub(crate) machine: M,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) session: u64,
    pub(crate) jobs: mpsc::Receiver<ApplyJob>,
    pub(crate) groups: BTreeMap<GroupId, Arc<GroupShared<M::Outcome>>>,
    pub(crate) inbox: Inbox<Event<M::Outcome>>,
    pub(crate) flush_bytes_target: usize,
    /// Groups that take nothing in any more.
    pub(crate) halted: BTreeSet<GroupId>,
    /// Groups whose state is being made anew.
    pub(crate) rebuilding: BTreeSet<GroupId>,
    /// Jobs that were taken off the queue, and are still to be done.
    pub(crate) held: VecDeque<ApplyJob>,
    /// There was no space for what was done last.
    pub(crate) is_full: bool,
    /// How long until it is done again then.
    pub(crate) room_retry: Duration,
}

impl<M: StateMachine> Applier<M> {
    /// Applies until the replica thread ends, then makes the state durable.
    pub(crate) fn run(mut self) -> Result<(), NodeError> {
        match self.apply_all() {
            // What could not be stored before the node was closed stays in the log.
            Ok(()) | Err(NodeError::Closed) => Ok(()),
            failed => failed,
        }
    }

    fn apply_all(&mut self) -> Result<(), NodeError> {
        let mut unflushed_bytes = 0;
        while let Some(mut job) = self.held.pop_front().or_else(|| self.jobs.recv().ok()) {
            let mut bytes = job_bytes(&job);
            while bytes < APPLY_BYTES_TARGET {
                match self.held.pop_front().or_else(|| self.jobs.try_recv().ok()) {
                    Some(next) if next.group == job.group && !next.gives_up => {
                        bytes += job_bytes(&next);
                        job.steps.extend(next.steps);
                    }
                    Some(next) => {
                        self.held.push_front(next);
                        break;
                    }
                    None => break,
                }
            }
            let group = job.group;
            if job.gives_up {
                self.with_room(|applier| applier.give_up(group))?;
            }
            if self.halted.contains(&group) {
                continue;
            }
            match self.take(job) {
                Err(NodeError::Apply(cause)) if cause.scope == HaltScope::Group => {
                    self.halt(group, NodeError::Apply(cause));
                }
                // What it was sent and is to install.
                Err(cause @ NodeError::Damaged { .. }) => self.halt(group, cause),
                taken => taken?,
            }
            unflushed_bytes += bytes;
            if unflushed_bytes >= self.flush_bytes_target {
                unflushed_bytes = 0;
                self.with_room(Self::flush)?;
            }
        }
        match self.machine.flush() {
            Err(full) if full.scope == HaltScope::Nothing => Err(NodeError::Closed),
            flushed => Ok(flushed?),
        }
    }

    fn halt(&mut self, group: GroupId, cause: NodeError) {
        self.halted.insert(group);
        self.rebuilding.remove(&group);
        self.inbox.report(Event::Halt { group, cause });
    }

    /// Does it again and again while there is no space for the state. The node is told of that: it takes in
    /// nothing that would be applied, and votes.
    ///
    /// # Errors
    /// [`NodeError::Closed`] if it is closed meanwhile.
    fn with_room<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        loop {
            let done = work(self);
            let full = match &done {
                Err(NodeError::Apply(cause)) if cause.scope == HaltScope::Nothing => Some(cause),
                _ => None,
            };
            if full.is_some() != self.is_full {
                self.is_full = full.is_some();
                match full {
                    Some(cause) => tracing::warn!(%cause, "no space for the state: it waits"),
                    None => tracing::warn!("there is space for the state again"),
                }
                self.inbox.report(Event::StateFull(self.is_full));
            }
            if !self.is_full {
                return done;
            }
            self.wait()?;
        }
    }

    /// Lets some time pass, and takes jobs off the queue meanwhile, to notice when it ends.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a disk is left alone is nobody's decision"
    )]
    fn wait(&mut self) -> Result<(), NodeError> {
        let until = Instant::now() + self.room_retry;
        loop {
            match self.jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(job) => self.hold(job),
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(NodeError::Closed),
            }
        }
    }

    /// A replica with a full disk asks for a flush again and again: one that waits is enough.
    fn hold(&mut self, job: ApplyJob) {
        let flushes = |job: &ApplyJob| !job.gives_up && matches!(job.steps[..], [Apply::Flush]);
        let last = self.held.iter().rfind(|held| held.group == job.group);
        if !(flushes(&job) && last.is_some_and(flushes)) {
            self.held.push_back(job);
        }
    }

    fn take(&mut self, job: ApplyJob) -> Result<(), NodeError> {
        let group = job.group;
        let mut entries = Vec::with_capacity(job.steps.len());
        for step in job.steps {
            match step {
                Apply::Entry(entry) => entries.push(entry),
                Apply::Install(index) => {
                    self.apply(group, &std::mem::take(&mut entries))?;
                    self.with_room(|applier| applier.install(group, index))?;
                }
                Apply::Flush => {
                    self.apply(group, &std::mem::take(&mut entries))?;
                    self.with_room(Self::flush)?;
                }
            }
        }
        self.apply(group, &entries)
    }

    /// Lets go of the state of a group that has halted; one that is received takes its place.
    fn give_up(&mut self, group: GroupId) -> Result<(), NodeError> {
        self.machine.give_up(group)?;
        let shared = &self.groups[&group];
        shared.await_state(group);
        shared.tracker.fall_back(self.machine.applied(group));
        self.halted.remove(&group);
        self.rebuilding.insert(group);
        self.inbox.report(Event::GivenUp { group });
        Ok(())
    }

    /// The state has come so far. One that was given up is served again once it is whole.
    fn advance(&mut self, group: GroupId) -> AppliedPosition {
        let (shared, position) = (&self.groups[&group], self.machine.applied(group));
        shared.tracker.advance(position);
        if self.rebuilding.contains(&group) && self.machine.halted(group).is_none() {
            self.rebuilding.remove(&group);
            if shared.serve_again() {
                self.inbox.report(Event::Whole { group });
            }
        }
        position
    }

    /// Puts a received snapshot in place of the state.
    fn install(&mut self, group: GroupId, index: LogIndex) -> Result<(), NodeError> {
        install(&mut self.machine, &self.shelf, group, index)?;
        let position = self.advance(group);
        self.inbox.report(Event::Applied { group, position });
        let index = self.machine.flushed(group).index;
        self.inbox.report(Event::Flushed { group, index });
        Ok(())
    }

    fn apply(&mut self, group: GroupId, mut entries: &[CommittedEntry]) -> Result<(), NodeError> {
        while !entries.is_empty() {
            let applied = self.with_room(|applier| applier.apply_some(group, entries))?;
            entries = &entries[applied..];
        }
        Ok(())
    }

    /// Returns how many of them were applied: the first of them, and at least one.
    fn apply_some(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<usize, NodeError> {
        let outcomes = self.machine.apply(group, entries)?;
        // The position first: whoever holds a receipt reads at least at it.
        let position = self.advance(group);
        let count = entries.iter().take_while(|entry| entry.index <= position.index).count();
        let (entries, last) = (&entries[..count], entries[..count].last());
        let last = last.map(|entry| entry.index);
        assert_eq!(last, Some(position.index), "the state machine stands where it applied to");
        let shared = &self.groups[&group];
        let mut outcomes = outcomes.into_iter();
        let mut replies = Vec::new();
        {
            let mut waiters = shared.waiters();
            for entry in entries {
                let mut offset = entry.first_offset;
                for record in &entry.records {
                    let outcome = outcomes.next().expect("one outcome for each record");
                    if record.id.session == self.session
                        && let Some(reply) = waiters.remove(&record.id.seq)
                    {
                        let log_time = entry.log_time;
                        replies.push((reply, Committed { offset, log_time, outcome }));
                    }
                    offset = offset.next();
                }
            }
        }
        assert!(outcomes.next().is_none(), "one outcome for each record");
        for (reply, committed) in replies {
            // A caller that gave up is no loss.
            let _ = reply.send(Ok(committed));
        }
        self.inbox.report(Event::Applied { group, position });
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), NodeError> {
        self.machine.flush()?;
        for group in self.groups.keys() {
            let index = self.machine.flushed(*group).index;
            self.inbox.report(Event::Flushed { group: *group, index });
        }
        Ok(())
    }
}

/// Puts a received snapshot in place of a group's state, and removes it then.
///
/// # Errors
/// [`NodeError::Damaged`] if it is not there, or has rotted: the log counts on it, and the group halts.
pub(crate) fn install<M: StateMachine>(
    machine: &mut M,
    shelf: &Shelf,
    group: GroupId,
    index: LogIndex,
) -> Result<(), NodeError> {
    let io = |what: &str| {
        let what = format!("{what} a snapshot of group={group}");
        move |source| NodeError::Io { what, source: Arc::new(source) }
    };
    if machine.applied(group).index < index {
        let manifest = shelf.received(group, index).map_err(io("could not find"))?;
        let lost = |why: &str| NodeError::Damaged {
            what: format!(
                "the state of group={group} is behind its log, which begins after index={index}, \
                 and {why}: make it anew"
            ),
        };
        let manifest = manifest.ok_or_else(|| lost("no snapshot is there that makes up for it"))?;
        let mut missing = None;
        let mut chunks = (0..manifest.chunks.len()).map(|at| {
            let chunk = shelf.chunk(&manifest, at);
            chunk.inspect_err(|error| missing = Some(error.what.clone()))
        });
        let installed = machine.install(group, manifest.position, &mut chunks);
        if let Some(what) = missing {
            return Err(lost(&what));
        }
        installed?;
        assert_eq!(machine.applied(group), manifest.position, "a snapshot is of one place");
    }
    shelf.discard(group).map_err(io("could not remove"))
}

fn job_bytes(job: &ApplyJob) -> usize {
    job.steps
        .iter()
        .filter_map(|step| match step {
            Apply::Entry(entry) => Some(entry),
            Apply::Install(_) | Apply::Flush => None,
        })
        .flat_map(|entry| &entry.records)
        .map(|record| record.payload.len() + crate::entry::RECORD_HEADER_BYTES)
        .sum()
}

#[cfg(all(test, not(palisade_loom)))]
mod tests;
