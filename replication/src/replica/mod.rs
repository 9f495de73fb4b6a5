//! One replica of one group: what happened goes in, what is to be done comes out.
//!
//! ```text
//!            Input                                    Effects
//!   tick, message, propose, read      +---------+     write a batch, answer Durable
//!   durable, applied, flushed  -----> | Replica | --> send messages
//!   change, transfer, snapshots       +---------+     apply committed entries, serve reads
//! ```
//!
//! It holds no clock, socket, file, task, lock or ambient randomness; time is a count of ticks, and
//! the wall clock comes in with each step for the one use of stamping entries. The order that must
//! hold between its effects is in `docs/protocol.md`. In short:
//!
//! - A follower's promise (an acknowledged append, a vote) leaves only once every write before it
//!   is durable. A leader's appends leave at once, beside its own sync.
//! - An entry is handed to apply only when it is committed **and** durable here.
//! - Offsets are given by the leader when it proposes, and checked by every replica at commit.
//!
//! The parts: `open` takes a replica up, `leading` is what a leader does with proposals, `members`
//! changes the membership, `barriers` asks raft what reads have to wait for, `domains` makes commits reach two failure domains, `newborn` makes a first
//! voter out of a node with nothing, `ready` turns what raft wants into effects, `rest` says which ticks
//! it can do without, `snapshots` helps those whom the log can help no more, `vitals` tells how long things
//! have been taking.

mod barriers;
mod domains;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod leading;
mod members;
mod newborn;
mod open;
mod probation;
pub(crate) mod raft_codec;
mod ready;
#[cfg(test)]
mod repairing;
mod rest;
#[cfg(test)]
mod scenarios;
mod snapshots;
#[cfg(test)]
mod unsynced;
mod vitals;

use std::collections::{BTreeMap, VecDeque};

use palisade_wal::{GroupId, LogIndex, WalError, Write};
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};

use crate::effects::{Apply, Effects, GroupStatus, Input, Role, Ticket, WallTime};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Term};
use crate::log_store::LogStore;
use crate::membership::Membership;
use crate::options::Options;
use crate::peer_faults::PeerFault;
use crate::proposals::Pending;
use crate::reads::Reads;
use crate::register::Register;
use crate::wire::{Beat, Body, Envelope};

use domains::Demanded;
use leading::Leading;
use members::Changing;
pub(crate) use members::conf_state;
pub(crate) use probation::Parts;
use probation::Probation;
pub(crate) use rest::Rest;
use snapshots::{Incoming, Outgoing};
use vitals::Vitals;

/// What the log adds to an entry, at most.
const STORED_ENTRY_BYTES: usize = 64;
/// Entries behind one that rots that are looked at, to begin the log there.
const TRIM_TRIES_MAX: usize = 64;

/// Who a replica is.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaConfig {
    /// The group it belongs to.
    pub(crate) group: GroupId,
    /// The node it lives on.
    pub(crate) node: NodeId,
    /// Which life of it this is.
    pub(crate) incarnation: Incarnation,
    /// The first voters, for a group that has never run here; `None` for a node that waits to be
    /// made a member.
    pub(crate) first: Option<Membership>,
    /// One life of the process, drawn at random: names this replica's proposals and reads.
    pub(crate) session: u64,
    /// Spreads election timeouts.
    pub(crate) seed: u64,
    /// Bounds and intervals.
    pub(crate) options: Options,
}

/// A write on its way to the disk, and what may happen once it is there.
#[derive(Debug)]
struct Outstanding {
    /// raft's number of the last ready that it covers.
    number: u64,
    /// First and last entry it writes.
    entries: Option<(u64, u64)>,
    promises: Vec<Message>,
    /// A snapshot takes the place of log and state.
    install: Option<AppliedPosition>,
}

/// One replica's protocol state.
pub(crate) struct Replica {
    config: ReplicaConfig,
    raw: RawNode<LogStore>,
    tick: u64,
    /// The register as it was last given to the wal.
    written: Register,
    register_dirty: bool,
    members: Membership,
    /// The last change of membership that `members` holds.
    members_index: LogIndex,
    outstanding: VecDeque<Outstanding>,
    /// The last entry of writes that are done and were not reported: what they wrote is being replaced.
    unreported: u64,
    /// Tickets go on where raft's numbers begin again.
    tickets_before: u64,
    last_ticket: u64,
    /// Everything up to here was handed to apply.
    emitted: AppliedPosition,
    applied: AppliedPosition,
    /// The state is behind the log until this snapshot is installed.
    installing: Option<LogIndex>,
    /// Handed to apply and not yet applied.
    backlog: VecDeque<(LogIndex, usize)>,
    backlog_bytes: usize,
    pending: Pending,
    reads: Reads,
    /// Numbers what this replica was asked for by others' reads.
    stamps: u64,
    leading: Option<Leading>,
    /// The leader and term last seen, to notice a change.
    known: (Option<NodeId>, Term),
    /// Up to where each member's state survives a crash.
    flushed: BTreeMap<NodeId, LogIndex>,
    /// Which life of other nodes this one has met.
    met: BTreeMap<NodeId, Incarnation>,
    /// The tick at which each member was last heard of.
    heard: BTreeMap<NodeId, u64>,
    /// Writes that begin the log anew, before all others.
    resets: Vec<Write>,
    trims: Vec<Write>,
    changing: Option<Changing>,
    demanded: Option<Demanded>,
    outgoing: Outgoing,
    incoming: Option<Incoming>,
    /// Since this tick the disk has not come back from the oldest write, or is full.
    disk_waits_since: Option<u64>,
    /// It has room for promises and trims, and for no further entries.
    disk_is_full: bool,
    vitals: Vitals,
    /// Names this life of its log: what it confirms bears it.
    stand: u64,
    /// It lost something that it had confirmed, and has not made up for it yet.
    probation: Option<Probation>,
    /// Who knows this node, and whether in this life; asked by one that has nothing.
    recognized: BTreeMap<NodeId, bool>,
    /// An install that a crash interrupted.
    reinstall: Option<LogIndex>,
}

impl Replica {
    /// Takes in what happened, in order, and says what is owed.
    ///
    /// # Errors
    /// Any error ends this replica. What is owed up to it still is: it was handed out, counted and
    /// promised as such, and whoever goes on in its place relies on that.
    pub(crate) fn step(
        &mut self,
        now: WallTime,
        inputs: impl IntoIterator<Item = Input>,
    ) -> (Effects, Result<(), NodeError>) {
        let mut effects = Effects::default();
        let stepped = self.step_into(now, inputs, &mut effects);
        (effects, stepped)
    }

    fn step_into(
        &mut self,
        now: WallTime,
        inputs: impl IntoIterator<Item = Input>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        effects.apply.extend(self.reinstall.take().map(Apply::Install));
        for input in inputs {
            self.take(input, effects)?;
            self.note_election();
            // raft draws its timeout from a thread's generator at every change of role or term:
            // drawn again from the seed before the next tick could read it.
            self.spread_election_timeout();
            // Whoever slept finds a queue of appends: one write must not hold all of them.
            if self.raw.raft.raft_log.unstable.entries_size > self.config.options.message_bytes_max
            {
                self.settle(now, effects)?;
            }
        }
        self.settle(now, effects)?;
        self.answer_change(effects);
        self.want_export(effects);
        if let Some(error) = self.raw.store().take_failure() {
            return Err(NodeError::from(error));
        }
        self.assert_invariants();
        Ok(())
    }

    /// Hands out what is owed by now.
    fn settle(&mut self, now: WallTime, effects: &mut Effects) -> Result<(), NodeError> {
        // Each round may free the next: a persisted entry commits, a commit frees a proposal.
        loop {
            self.notice_leadership(effects)?;
            self.dispatch_proposals(now, effects)?;
            self.dispatch_reads();
            self.trim()?;
            self.guard_progress();
            let writes = !self.trims.is_empty() || !self.resets.is_empty() || self.register_dirty;
            // What cannot be read stays ready for ever.
            if self.raw.store().has_failed() || (!self.raw.has_ready() && !writes) {
                return Ok(());
            }
            self.take_ready(effects)?;
            self.spread_election_timeout();
        }
    }

    fn take(&mut self, input: Input, effects: &mut Effects) -> Result<(), NodeError> {
        match input {
            Input::Tick => return self.on_tick(effects),
            Input::Rested { ticks } => return self.on_rested(ticks, effects),
            Input::Peer { envelope, life } => return self.on_peer(envelope, life, effects),
            Input::Recognized { by, same } => self.on_recognized(by, same)?,
            Input::Beat { from, life, beat } => return self.on_beat(from, life, beat, effects),
            Input::Answered { from, life, beat } => {
                return self.on_answered(from, life, beat, effects);
            }
            Input::Propose { seq, payload } => self.pending.accept(seq, payload, self.tick),
            Input::Abandon { seq } => {
                self.pending.resolve(seq);
            }
            Input::Read { token } => self.reads.accept(token),
            Input::Durable { ticket } => self.on_durable(ticket, effects)?,
            Input::Applied { position } => self.on_applied(position),
            Input::Flushed { index } => self.on_flushed(self.config.node, index),
            Input::Change { token, change } => self.on_change(token, &change, effects),
            Input::Transfer { to } => self.on_transfer(to),
            Input::Exported(manifest) => self.on_exported(manifest),
            Input::Unreadable { index } => self.on_unreadable(index)?,
            // It is as it was, in memory.
            Input::RegisterUnreadable => self.register_dirty = true,
            Input::Begun { snapshot, missing } => self.on_begun(snapshot, missing, effects)?,
            Input::Stored { snapshot, chunk, held } => {
                self.on_stored(snapshot, chunk, held, effects)?;
            }
        }
        Ok(())
    }

    /// A scrub could not read this entry. What the state holds for good goes from the log; anything else is
    /// repaired, as if it had been needed. But a sole voter has nobody to ask, and may never need it.
    fn on_unreadable(&mut self, index: LogIndex) -> Result<(), NodeError> {
        let group = self.config.group;
        let store = self.raw.store();
        if index <= store.base().index || store.last() < index {
            // Trimmed or cut off, though the log may have to write that yet.
            return Ok(());
        }
        let read = store.reader().read(group, index, index.next(), usize::MAX);
        let Err(error @ WalError::Corrupt { .. }) = read else {
            // It was replaced meanwhile.
            return Ok(());
        };
        if self.trim_beyond(index) {
            return Ok(());
        }
        if self.members.other_voters(self.config.node).next().is_some() {
            return Err(error.into());
        }
        tracing::error!(%group, %error, "nobody else has this entry: take a backup, and restore it");
        Ok(())
    }

    /// Drops the log up to just behind this entry, if its state survives a crash and nobody is being brought up
    /// to date from there.
    fn trim_beyond(&mut self, index: LogIndex) -> bool {
        let own = self.flushed.get(&self.config.node).copied().unwrap_or_default();
        let own = own.min(self.applied.index);
        let sending = self.outgoing.held_from(self.raw.store().offer());
        let last = sending.map_or(own, |sending| own.min(sending));
        if self.installing.is_some() {
            return false;
        }
        // One that can be read says where records stand.
        let candidates = (index.get() + 1..=last.get()).take(TRIM_TRIES_MAX).map(LogIndex::new);
        for up_to in candidates {
            if self.trim_to(up_to).is_ok() {
                return true;
            }
        }
        false
    }

    /// How this replica sees its group, so many ticks after those that it was given.
    #[must_use]
    pub(crate) fn status(&self, ticks_held: u64) -> GroupStatus {
        let raft = &self.raw.raft;
        let (tick, tick_ms) = (self.tick + ticks_held, self.config.options.tick_ms);
        let waits = self.pending.oldest().map_or(0, |since| tick - since);
        GroupStatus {
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
                StateRole::Follower if self.probation.is_some() => Role::Repairing,
                StateRole::Follower if self.members.voters.contains(&self.config.node) => {
                    Role::Follower
                }
                StateRole::Follower if self.members.role(self.config.node).is_some() => {
                    Role::Learner
                }
                StateRole::Follower => Role::Outsider,
            },
            leader: self.leader(),
            term: Term::new(raft.term),
            last_index: LogIndex::new(raft.raft_log.last_index()),
            durable_index: LogIndex::new(raft.raft_log.persisted),
            committed_index: LogIndex::new(raft.raft_log.committed),
            applied_index: self.applied.index,
            first_index: self.raw.store().base().index.next(),
            offset: self.emitted.offset,
            proposals_count: self.pending.count(),
            members: self.members.clone(),
            leaderless_ms: self.vitals.leaderless(tick) * tick_ms,
            uncommitted_ms: waits * tick_ms,
            sync_ms: self.vitals.writing(tick) * tick_ms,
            disk_full: self.disk_is_full,
            elections: self.vitals.elections(),
            leaders: self.vitals.leaders(),
            queues: self.loads().to_vec(),
            voters: self.voters(),
        }
    }

    /// True if it believes to lead; cheaper than the status.
    #[must_use]
    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Up to here the log is on the disk.
    #[cfg(feature = "sim")]
    pub(crate) fn persisted(&self) -> LogIndex {
        LogIndex::new(self.raw.raft.raft_log.persisted)
    }

    /// How raft sees everyone, for people who replay a seed.
    #[cfg(feature = "sim")]
    pub(crate) fn told(&self) -> String {
        let raft = &self.raw.raft;
        format!(
            "base={:?} offer={:?} outgoing={:?} incoming={} probation={:?} outstanding={} state={:?} \
             term={} leader={} last={} committed={} persisted={} applied={:?} {:#?}",
            self.raw.store().base(),
            self.raw.store().offer().map(|offer| offer.manifest.position.index),
            self.outgoing,
            self.incoming.is_some(),
            self.probation,
            self.outstanding.len(),
            raft.state,
            raft.term,
            raft.leader_id,
            raft.raft_log.last_index(),
            raft.raft_log.committed,
            raft.raft_log.persisted,
            self.applied,
            raft.prs().iter().map(|(id, p)| format!("{id}: {p:?}")).collect::<Vec<_>>()
        )
    }

    /// The term it is in.
    #[must_use]
    pub(crate) fn term(&self) -> Term {
        Term::new(self.raw.raft.term)
    }

    /// Who takes part, as of the last change that is committed and durable here.
    #[must_use]
    pub(crate) fn members(&self) -> &Membership {
        &self.members
    }

    /// Why a further proposal of this size cannot be taken now, if so.
    #[must_use]
    pub(crate) fn refusal(&self, payload_bytes: usize) -> Option<NodeError> {
        let options = &self.config.options;
        let queue = if self.disk_is_full {
            "wal"
        } else if self.pending.count() >= options.proposals_max {
            "proposals_max"
        } else if self.pending.bytes() + payload_bytes > options.proposals_bytes_max {
            "proposals_bytes_max"
        } else if self.backlog_bytes > options.apply_backlog_bytes_max {
            "apply_backlog_bytes_max"
        } else if !self.has_room(payload_bytes) {
            "intake"
        } else {
            return None;
        };
        Some(NodeError::Backpressure { queue, retry_after_ms: options.tick_ms })
    }

    /// True if a further read can be taken now.
    #[must_use]
    pub(crate) fn takes_reads(&self) -> bool {
        self.reads.count() < self.config.options.reads_max
    }

    fn leader(&self) -> Option<NodeId> {
        match self.raw.raft.leader_id {
            0 => None,
            id => Some(NodeId::new(id)),
        }
    }

    fn on_tick(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        self.tick += 1;
        if self.may_tick() {
            self.raw.tick();
        } else if self.disk_is_full {
            // It does not campaign, and still notices when its leader is gone: then it votes.
            self.raw.raft.election_elapsed += 1;
        }
        let options = &self.config.options;
        let (report_ticks, patience) = (options.report_ticks, u64::from(options.resend_ticks));
        let resend_before = self.tick.saturating_sub(patience);
        self.reads.restart(resend_before);
        if !self.pending.is_empty()
            && let Some(leader) = self.leader().filter(|leader| *leader != self.config.node)
        {
            let term = Term::new(self.raw.raft.term);
            let records = self.pending.resend(term, resend_before, self.tick);
            self.forward(leader, term, records, effects);
        }
        if self.tick.is_multiple_of(u64::from(report_ticks)) {
            self.report_flushed(effects);
        }
        self.mind_snapshots(effects);
        self.mind_disk();
        let is_led = self.leader().is_some_and(|id| id == self.config.node || self.hears(id));
        self.vitals.tick(self.tick, is_led, !self.outstanding.is_empty());
        if self.disk_is_full && self.tick.is_multiple_of(patience) {
            self.want_flush(effects);
        }
        self.mind_probation(effects)
    }

    /// What is applied and not flushed holds the log, which has no room for more.
    fn want_flush(&self, effects: &mut Effects) {
        let flushed = self.flushed.get(&self.config.node).copied().unwrap_or_default();
        if flushed < self.applied.index {
            effects.apply.push(Apply::Flush);
        }
    }

    /// raft's clock is that of elections for a follower, and of heartbeats for a leader.
    ///
    /// It stands still for a follower that could not lead: one whose disk does not keep up, whose
    /// state is being replaced, or that has much to apply yet. The last also bounds what a campaign
    /// reads at once: raft looks for changes of membership in everything that is not applied
    /// (its #530).
    fn may_tick(&self) -> bool {
        let unapplied = self.raw.raft.raft_log.committed - self.raw.raft.raft_log.applied;
        self.leads()
            || (self.disk_waits_since.is_none_or(|since| !self.is_slow(since))
                && self.installing.is_none()
                && self.probation.is_none()
                && unapplied <= self.config.options.unapplied_entries_max)
    }

    fn is_slow(&self, since: u64) -> bool {
        self.tick - since > u64::from(self.config.options.slow_disk_ticks)
    }

    /// The disk is full but for a reserve, or no longer.
    pub(crate) fn note_disk(&mut self, is_full: bool) {
        self.disk_is_full = is_full;
    }

    /// A leader whose own disk does not come back, or takes no more, steps aside: it would stand in
    /// everyone's way.
    fn mind_disk(&mut self) {
        if self.outstanding.is_empty() && !self.disk_is_full {
            self.disk_waits_since = None;
            return;
        }
        let since = *self.disk_waits_since.get_or_insert(self.tick);
        if !self.leads() || !self.is_slow(since) || self.members.voters.len() < 2 {
            return;
        }
        let is_full = self.disk_is_full;
        tracing::warn!(group = %self.config.group, is_full, "the disk does not keep up: giving up the leadership");
        let term = self.raw.raft.term;
        match self.best_successor() {
            Some(to) if since + 2 * u64::from(self.config.options.slow_disk_ticks) > self.tick => {
                self.raw.transfer_leader(to.get());
            }
            _ => self.raw.raft.become_follower(term, 0),
        }
    }

    fn report_flushed(&self, effects: &mut Effects) {
        let Some(index) = self.flushed.get(&self.config.node).copied() else { return };
        let others = self.members.members.keys().filter(|member| **member != self.config.node);
        effects.send.extend(others.map(|to| self.envelope(*to, Body::Flushed { index })));
    }

    fn envelope(&self, to: NodeId, body: Body) -> Envelope {
        Envelope { group: self.config.group, from: self.config.node, to, body }
    }

    /// True if votes and confirmations of this life of a node count. One that lost its data
    /// directory has forgotten what it promised.
    fn counts(&self, from: NodeId, life: Incarnation) -> bool {
        let named = self.members.member(from).and_then(|member| member.incarnation);
        named.or(self.met.get(&from).copied()).is_none_or(|known| known == life)
    }

    fn on_peer(
        &mut self,
        envelope: Envelope,
        life: Incarnation,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let from = envelope.from;
        if envelope.group != self.config.group || envelope.to != self.config.node {
            tracing::debug!(%from, "ignored a message that is not for this replica");
            return Ok(());
        }
        let counts = self.counts(from, life);
        if counts {
            self.heard.insert(from, self.tick);
        }
        match envelope.body {
            Body::Raft(message) => {
                return self.on_message(from, life, (&message, None), effects);
            }
            Body::Confirm { stand, message } => {
                return self.on_message(from, life, (&message, Some(stand)), effects);
            }
            Body::Chunk { snapshot, chunk, bytes } => {
                self.on_chunk(from, snapshot, chunk, bytes, effects);
            }
            _ if !counts => self.refuse_life(from, life, effects),
            Body::Forward(forward) => self.on_forward(forward),
            Body::Flushed { index } => self.on_flushed(from, index),
            Body::Fetch { snapshot, chunk } => self.on_fetch(from, snapshot, chunk, effects),
            Body::Want(want) => self.on_want(from, want, effects),
            Body::Recount { stand } => self.on_recount(from, stand, effects),
            Body::Recounted { stand, term, last } => {
                self.on_recounted(from, stand, (term, last), effects);
            }
            Body::Demand => self.on_demand(),
            // Meant for a repair that is over.
            Body::Given { .. } => {}
            Body::Beats(_) => unreachable!("the host hands beats out one by one"),
        }
        Ok(())
    }

    /// A message of raft's, and with a confirmation which life of its sender's log it is of.
    fn on_message(
        &mut self,
        from: NodeId,
        life: Incarnation,
        (bytes, stand): (&[u8], Option<u64>),
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let refused = match raft_codec::message(bytes) {
            Err(error) => {
                tracing::debug!(%from, %error, "refused an unreadable message");
                PeerFault::Malformed
            }
            Ok(message) if message.from != from.get() => PeerFault::Impostor,
            // More than can be written at once would end the node.
            Ok(message)
                if message.get_msg_type() == MessageType::MsgAppend
                    && bytes.len() + STORED_ENTRY_BYTES * message.get_entries().len()
                        > self.config.options.append_bytes_limit() =>
            {
                PeerFault::Oversized
            }
            Ok(message) if self.counts(from, life) || is_leaders(&message) => {
                if self.stands(&message, stand, effects) {
                    self.on_raft(message, effects)?;
                }
                return Ok(());
            }
            Ok(_) => {
                self.refuse_life(from, life, effects);
                return Ok(());
            }
        };
        effects.refused.push((from, life, refused));
        Ok(())
    }

    /// What only the life that the group knows may say. A leader is no stranger: who follows it here
    /// holds an old membership, and is being helped.
    fn refuse_life(&self, from: NodeId, life: Incarnation, effects: &mut Effects) {
        if self.leader() != Some(from) {
            effects.refused.push((from, life, PeerFault::WrongIncarnation));
        }
    }

    /// Another node was met: a change of membership tells it to those who have not.
    pub(crate) fn meet(&mut self, node: NodeId, life: Incarnation) {
        self.met.insert(node, life);
    }

    pub(super) fn on_beat(
        &mut self,
        from: NodeId,
        life: Incarnation,
        beat: Beat,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        if self.counts(from, life) {
            self.heard.insert(from, self.tick);
        } else if beat.answer {
            self.refuse_life(from, life, effects);
            return Ok(());
        }
        let mut message = Message::default();
        message.set_msg_type(if beat.answer {
            MessageType::MsgHeartbeatResponse
        } else {
            MessageType::MsgHeartbeat
        });
        message.from = from.get();
        message.to = self.config.node.get();
        message.term = beat.term.get();
        message.commit = beat.commit.get();
        self.step_raft(message)
    }

    fn on_raft(&mut self, message: Message, effects: &mut Effects) -> Result<(), NodeError> {
        match message.get_msg_type() {
            // The leader probes until apply has caught up and there is space: its window is the
            // back-pressure.
            MessageType::MsgAppend
                if self.disk_is_full
                    || self.backlog_bytes > self.config.options.apply_backlog_bytes_max =>
            {
                Ok(())
            }
            MessageType::MsgPropose => {
                tracing::warn!("ignored a proposal that did not come through forwarding");
                Ok(())
            }
            MessageType::MsgSnapshot => self.on_offer(message, effects),
            MessageType::MsgReadIndex => self.on_read_index(message),
            // A node with nothing may have promised something in another life. To say so helps the
            // leader to help; to vote or to confirm a leader's reads would be a promise.
            kind if self.members.members.is_empty() && kind != MessageType::MsgAppend => Ok(()),
            // Whoever could not lead does not take over.
            MessageType::MsgTimeoutNow if !self.may_tick() => Ok(()),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if self.probation.is_some() =>
            {
                Ok(())
            }
            _ => self.step_raft(message),
        }
    }

    fn step_raft(&mut self, mut message: Message) -> Result<(), NodeError> {
        let last = self.raw.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat && last < message.commit {
            // Meant for who confirmed more than this log holds; raft would panic. Who is on probation
            // still learns from it who leads, and asks to be counted anew.
            if self.probation.is_none() {
                tracing::warn!(
                    from = message.from,
                    last,
                    commit = message.commit,
                    "ignored a heartbeat"
                );
                return Ok(());
            }
            message.commit = 0;
        }
        match self.raw.step(message) {
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::StepLocalMsg) => Ok(()),
            Err(error) => Err(invariant(format!("raft: {error}"))),
        }
    }

    fn on_durable(&mut self, ticket: Ticket, effects: &mut Effects) -> Result<(), NodeError> {
        let mut persisted = None;
        if !self.disk_is_full {
            self.disk_waits_since = None;
        }
        self.vitals.written(self.tick);
        while self
            .outstanding
            .front()
            .is_some_and(|write| write.number + self.tickets_before <= ticket.0)
        {
            let write = self.outstanding.pop_front().expect("front was there");
            self.promise(write.promises, effects)?;
            effects.apply.extend(write.install.as_ref().map(|base| Apply::Install(base.index)));
            // If a later write replaces entries of this one, raft must not count them as persisted
            // now: should the later write be torn, they would be gone. It hears with the later one,
            // and until then of nothing in between, with which it would count them too.
            let last = write.entries.map_or(0, |(_, last)| last);
            let before = if write.install.is_some() { 0 } else { self.unreported };
            self.unreported = last.max(before);
            let replaced = self.outstanding.iter().any(|later| {
                later.install.is_some()
                    || later.entries.is_some_and(|(first, _)| first <= self.unreported)
            });
            if !replaced {
                persisted = Some(write.number);
                self.unreported = 0;
            }
        }
        if let Some(number) = persisted {
            self.raw.on_persist_ready(number);
        }
        Ok(())
    }

    fn on_applied(&mut self, position: AppliedPosition) {
        assert!(position.index <= self.emitted.index, "applied what was never committed");
        if position.index <= self.applied.index {
            return;
        }
        self.applied = position;
        if self.installing.is_some_and(|index| index <= position.index) {
            self.installing = None;
        }
        while self.backlog.front().is_some_and(|(index, _)| *index <= position.index) {
            let (_, bytes) = self.backlog.pop_front().expect("front was there");
            self.backlog_bytes -= bytes;
        }
        if self.raw.raft.raft_log.applied < position.index.get() {
            self.raw.advance_apply_to(position.index.get());
        }
        let persisted = LogIndex::new(self.raw.raft.raft_log.persisted);
        let cache_bytes_max = self.config.options.entry_cache_bytes_max;
        self.raw.mut_store().evict(cache_bytes_max, position.index.min(persisted));
    }

    fn on_flushed(&mut self, node: NodeId, index: LogIndex) {
        if node != self.config.node && !self.members.members.contains_key(&node) {
            return;
        }
        let known = self.flushed.entry(node).or_default();
        // Reports may arrive out of order; what survived a crash once always will.
        *known = index.max(*known);
    }

    /// Drops what survives a crash here and at every member that is not too far behind. One that is
    /// gets a snapshot: the log is never held for who may not come back (G12).
    fn trim(&mut self) -> Result<(), NodeError> {
        let base = self.raw.store().base();
        let trimmable = self.applied.index.get().saturating_sub(base.index.get());
        if self.installing.is_some() || trimmable < self.config.options.trim_entries_min {
            return Ok(());
        }
        let own = self.flushed.get(&self.config.node).copied().unwrap_or_default();
        let own = own.min(self.applied.index);
        let entries_min = match self.disk_is_full {
            true => 1,
            false => self.config.options.trim_entries_min,
        };
        if own.get() < base.index.get() + entries_min {
            return Ok(());
        }
        let held = LogIndex::new(own.get().saturating_sub(self.config.options.lag_entries_max));
        let members = self.members.members.keys();
        let everywhere = members.map(|m| self.flushed.get(m).copied().unwrap_or_default()).min();
        let kept = if self.disk_is_full { 0 } else { self.config.options.kept_entries };
        let kept = LogIndex::new(own.get().saturating_sub(kept));
        let mut up_to = everywhere.unwrap_or_default().max(held).min(kept);
        if let Some(sending) = self.outgoing.held_from(self.raw.store().offer()) {
            // Who has fetched a snapshot needs what follows it.
            up_to = up_to.min(sending);
        }
        if up_to.get() < base.index.get() + entries_min {
            return Ok(());
        }
        self.trim_to(up_to)
    }

    fn trim_to(&mut self, up_to: LogIndex) -> Result<(), NodeError> {
        let store = self.raw.mut_store();
        let (offset, log_time) = store.tail(up_to)?;
        let term =
            store.term_of(up_to).ok_or_else(|| invariant("trimmed beyond the log".into()))?;
        // Of no use at the base, which the state has passed.
        let members_index = self.emitted.members_index.min(up_to);
        store.trim(AppliedPosition { index: up_to, term, members_index, offset, log_time });
        self.trims.push(Write::Trim { group: self.config.group, up_to });
        Ok(())
    }

    /// The released raft may put a follower's next index at or below what it has confirmed (its
    /// #557): entries would be sent again, or a snapshot to one who needs none.
    fn guard_progress(&mut self) {
        if self.leads() {
            for (_, progress) in self.raw.raft.mut_prs().iter_mut() {
                progress.next_idx = progress.next_idx.max(progress.matched + 1);
            }
        }
    }

    /// The same seed, node and term always wait equally long.
    fn spread_election_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let ticks = self.config.options.election_ticks as usize;
        let mixed = mix(self.config.seed ^ mix(self.config.node.get() ^ mix(raft.term)));
        raft.set_randomized_election_timeout(ticks + (mixed % ticks as u64) as usize);
    }

    fn assert_invariants(&self) {
        let log = &self.raw.raft.raft_log;
        // Committed may pass what is durable here, since a quorum need not include this node;
        // what is handed to apply may pass neither (#14370 of etcd).
        assert!(self.emitted.index.get() <= log.committed);
        assert!(self.applied.index <= self.emitted.index);
        if self.installing.is_none() {
            assert!(self.emitted.index.get() <= log.persisted);
            assert!(self.raw.store().base().index <= self.applied.index);
        }
        if let Some(leading) = &self.leading {
            assert_eq!(leading.term.get(), self.raw.raft.term);
            assert!(self.emitted.offset < leading.next_offset);
        }
    }
}

/// What only a leader says. Whoever a quorum has elected is the leader, also for a replica that
/// knows an old membership; nothing is counted of it.
pub(crate) fn is_leaders(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgAppend
            | MessageType::MsgHeartbeat
            | MessageType::MsgSnapshot
            | MessageType::MsgReadIndexResp
    )
}

fn invariant(what: String) -> NodeError {
    NodeError::Invariant { what }
}

/// The finalizer of SplitMix64: every bit of the input reaches every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
