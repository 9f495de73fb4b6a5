//! One replica of one group: what happened goes in, what is to be done comes out.
//!
//! ```text
//!            Input                                    Effects
//!   tick, message, propose, read      +---------+     write a batch, answer Durable
//!   durable, applied, flushed  -----> | Replica | --> send messages
//!                                     +---------+     apply committed entries, serve reads
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

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use palisade_wal::{GroupId, LogIndex, RecoveredGroup, Verdict, WalReader, Write};
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, Ready, StateRole};

use crate::effects::{Effects, GroupStatus, Input, Role, Ticket, WallTime, WriteEffect};
use crate::entry::{AppliedPosition, CommittedEntry, EntryBody, ProposalId, Record};
use crate::error::NodeError;
use crate::identity::{LogTime, NodeId, Offset, Term};
use crate::log_store::{LogStore, encode_entry};
use crate::options::Options;
use crate::proposals::{Pending, ProposedInTerm};
use crate::reads::Reads;
use crate::register::{LogBase, Register, VOTERS_MAX};
use crate::wire::{Body, Envelope, Forward};

/// A register that only lags in its commit index is written again after this many entries.
const COMMIT_LAG_MAX: u64 = 1024;

/// Who a replica is.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The group it belongs to.
    pub group: GroupId,
    /// The node it lives on.
    pub node: NodeId,
    /// Every voter of the group, this node among them.
    pub voters: Vec<NodeId>,
    /// One life of the process, drawn at random: names this replica's proposals and reads.
    pub session: u64,
    /// Spreads election timeouts.
    pub seed: u64,
    /// Bounds and intervals.
    pub options: Options,
}

/// A write on its way to the disk, and what may leave once it is there.
#[derive(Debug)]
struct Outstanding {
    /// raft's number of the last ready that it covers.
    number: u64,
    /// First and last entry it writes.
    entries: Option<(u64, u64)>,
    send: Vec<Envelope>,
}

/// What only a leader has.
#[derive(Debug)]
struct Leading {
    term: Term,
    next_offset: Offset,
    log_time: LogTime,
    proposed: ProposedInTerm,
    /// Records taken in and not yet proposed.
    batch: VecDeque<Record>,
    batch_bytes: usize,
}

/// One replica's protocol state.
pub struct Replica {
    config: ReplicaConfig,
    raw: RawNode<LogStore>,
    tick: u64,
    /// The register as it was last given to the wal.
    written: Register,
    register_dirty: bool,
    outstanding: VecDeque<Outstanding>,
    /// Everything up to here was handed to apply.
    emitted: AppliedPosition,
    emitted_term: Term,
    applied: AppliedPosition,
    /// Handed to apply and not yet applied.
    backlog: VecDeque<(LogIndex, usize)>,
    backlog_bytes: usize,
    pending: Pending,
    reads: Reads,
    leading: Option<Leading>,
    /// The leader and term last seen, to notice a change.
    known: (Option<NodeId>, Term),
    /// Up to where each voter's state survives a crash.
    flushed: BTreeMap<NodeId, LogIndex>,
    trims: Vec<Write>,
}

impl Replica {
    /// Takes up the replica where its wal and its state left it. `recovered` is `None` for a group
    /// that has never run here.
    ///
    /// # Errors
    /// When the log is damaged, contradicts the state, or belongs to other voters.
    pub fn open(
        config: ReplicaConfig,
        recovered: Option<&RecoveredGroup>,
        reader: WalReader,
        applied: AppliedPosition,
    ) -> Result<Self, NodeError> {
        config.options.validate()?;
        let (register, fresh) = open_register(&config, recovered)?;
        let group = config.group;
        let base = register.base;
        if applied.index < base.index {
            return Err(NodeError::Damaged {
                what: format!(
                    "the state of group={group} is behind its log, applied={} first={}: \
                     replace this replica",
                    applied.index,
                    base.index.next()
                ),
            });
        }
        // What was applied was committed, whatever the register still says.
        let commit = register.commit.max(applied.index);
        let store = LogStore::open(
            group,
            reader,
            base,
            (register.term, register.vote, commit),
            &register.voters,
            config.options.entry_cache_bytes_max,
        )?;
        if store.last() < commit {
            return Err(NodeError::Damaged {
                what: format!(
                    "the log of group={group} lost its end, last={} committed={commit}: \
                     replace this replica",
                    store.last()
                ),
            });
        }
        let emitted_term = store.term_of(applied.index).ok_or_else(|| NodeError::Damaged {
            what: format!("the log of group={group} does not hold index={}", applied.index),
        })?;
        let raw = RawNode::new(&raft_config(&config, applied), store, &crate::raft_log::logger())
            .map_err(|error| NodeError::Damaged {
            what: format!("raft refused its log: {error}"),
        })?;
        let mut replica = Self {
            raw,
            tick: 0,
            written: register,
            register_dirty: fresh,
            outstanding: VecDeque::new(),
            emitted: applied,
            emitted_term,
            applied,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            pending: Pending::default(),
            reads: Reads::new(config.session),
            leading: None,
            known: (None, Term::ZERO),
            flushed: config.voters.iter().map(|voter| (*voter, LogIndex::ZERO)).collect(),
            trims: Vec::new(),
            config,
        };
        if replica.config.voters.len() == 1 {
            // Nobody else can lead: no need to wait for an election timeout.
            replica.raw.campaign().map_err(|error| invariant(format!("campaign: {error}")))?;
        }
        replica.spread_election_timeout();
        Ok(replica)
    }

    /// Takes in what happened, in order, and says what is owed.
    ///
    /// # Errors
    /// Any error is final: the driver halts the node with it as the cause, and sends nothing more.
    pub fn step(
        &mut self,
        now: WallTime,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Effects, NodeError> {
        let mut effects = Effects::default();
        for input in inputs {
            self.take(input, &mut effects)?;
            // raft draws its timeout from a thread's generator at every change of role or term:
            // drawn again from the seed before the next tick could read it.
            self.spread_election_timeout();
        }
        // Each round may free the next: a persisted entry commits, a commit frees a proposal.
        loop {
            self.notice_leadership(&mut effects)?;
            self.dispatch_proposals(now, &mut effects)?;
            self.dispatch_reads();
            self.trim()?;
            if !self.raw.has_ready() && self.trims.is_empty() && !self.register_dirty {
                break;
            }
            self.take_ready(&mut effects)?;
            self.spread_election_timeout();
        }
        if let Some(error) = self.raw.store().take_failure() {
            return Err(NodeError::from(error));
        }
        self.assert_invariants();
        Ok(effects)
    }

    fn take(&mut self, input: Input, effects: &mut Effects) -> Result<(), NodeError> {
        match input {
            Input::Tick => self.on_tick(effects),
            Input::Peer(envelope) => self.on_peer(envelope),
            Input::Propose { seq, payload } => {
                self.pending.accept(seq, payload);
                Ok(())
            }
            Input::Abandon { seq } => {
                self.pending.resolve(seq);
                Ok(())
            }
            Input::Read { token } => {
                self.reads.accept(token);
                Ok(())
            }
            Input::Durable { ticket } => {
                self.on_durable(ticket, effects);
                Ok(())
            }
            Input::Applied { position } => {
                self.on_applied(position);
                Ok(())
            }
            Input::Flushed { index } => {
                self.on_flushed(self.config.node, index);
                Ok(())
            }
        }
    }

    /// How this replica sees its group.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let raft = &self.raw.raft;
        GroupStatus {
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            leader: self.leader(),
            term: Term::new(raft.term),
            last_index: LogIndex::new(raft.raft_log.last_index()),
            committed_index: LogIndex::new(raft.raft_log.committed),
            first_index: self.raw.store().base().index.next(),
            offset: self.emitted.offset,
            proposals_count: self.pending.count(),
        }
    }

    /// Why a further proposal of this size cannot be taken now, if so.
    #[must_use]
    pub fn refusal(&self, payload_bytes: usize) -> Option<NodeError> {
        let options = &self.config.options;
        let queue = if self.pending.count() >= options.proposals_max {
            "proposals_max"
        } else if self.pending.bytes() + payload_bytes > options.proposals_bytes_max {
            "proposals_bytes_max"
        } else if self.backlog_bytes > options.apply_backlog_bytes_max {
            "apply_backlog_bytes_max"
        } else {
            return None;
        };
        Some(NodeError::Backpressure { queue, retry_after_ms: options.tick_ms })
    }

    /// True if a further read can be taken now.
    #[must_use]
    pub fn takes_reads(&self) -> bool {
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
        self.raw.tick();
        let options = &self.config.options;
        let resend_before = self.tick.saturating_sub(u64::from(options.resend_ticks));
        self.reads.restart(resend_before);
        if let Some(leader) = self.leader().filter(|leader| *leader != self.config.node) {
            let term = Term::new(self.raw.raft.term);
            let records = self.pending.resend(term, resend_before, self.tick);
            self.forward(leader, term, records, effects);
        }
        if self.tick.is_multiple_of(u64::from(options.report_ticks)) {
            self.report_flushed(effects);
        }
        Ok(())
    }

    fn report_flushed(&self, effects: &mut Effects) {
        let index = self.flushed[&self.config.node];
        let others = self.config.voters.iter().filter(|voter| **voter != self.config.node);
        effects.send.extend(others.map(|to| self.envelope(*to, Body::Flushed { index })));
    }

    fn envelope(&self, to: NodeId, body: Body) -> Envelope {
        Envelope { group: self.config.group, from: self.config.node, to, body }
    }

    fn on_peer(&mut self, envelope: Envelope) -> Result<(), NodeError> {
        let expected = envelope.group == self.config.group
            && envelope.to == self.config.node
            && self.flushed.contains_key(&envelope.from);
        if !expected {
            tracing::debug!(?envelope.from, "ignored a message that is not for this replica");
            return Ok(());
        }
        match envelope.body {
            Body::Raft(bytes) => match Message::parse_from_bytes(&bytes) {
                Ok(message) if message.from == envelope.from.get() => self.on_raft(message),
                _ => {
                    tracing::warn!(from = %envelope.from, "ignored an unreadable raft message");
                    Ok(())
                }
            },
            Body::Forward(forward) => {
                self.on_forward(forward);
                Ok(())
            }
            Body::Flushed { index } => {
                self.on_flushed(envelope.from, index);
                Ok(())
            }
        }
    }

    fn on_raft(&mut self, message: Message) -> Result<(), NodeError> {
        let append = message.get_msg_type() == MessageType::MsgAppend;
        if append && self.backlog_bytes > self.config.options.apply_backlog_bytes_max {
            // The leader probes until apply has caught up: its window is the back-pressure.
            return Ok(());
        }
        if message.get_msg_type() == MessageType::MsgPropose {
            tracing::warn!("ignored a proposal that did not come through forwarding");
            return Ok(());
        }
        match self.raw.step(message) {
            Ok(()) => Ok(()),
            Err(raft::Error::StepPeerNotFound | raft::Error::StepLocalMsg) => Ok(()),
            Err(error) => Err(invariant(format!("raft: {error}"))),
        }
    }

    fn on_forward(&mut self, forward: Forward) {
        let intake_max = self.config.options.proposals_bytes_max * self.config.voters.len();
        let Some(leading) = self.leading.as_mut().filter(|l| l.term == forward.term) else {
            return;
        };
        leading.proposed.resolved(forward.session, forward.resolved_up_to);
        for (seq, payload) in forward.records {
            // A record that finds no room is not remembered, so the origin's next try counts.
            if leading.batch_bytes + payload.len() > intake_max {
                break;
            }
            if leading.proposed.first_time(forward.session, seq) {
                leading.take_in(ProposalId { session: forward.session, seq }, payload);
            }
        }
    }

    fn on_durable(&mut self, ticket: Ticket, effects: &mut Effects) {
        let mut persisted = None;
        while self.outstanding.front().is_some_and(|write| write.number <= ticket.0) {
            let write = self.outstanding.pop_front().expect("front was there");
            effects.send.extend(write.send);
            // If a later write replaces entries of this one, raft must not count them as persisted
            // now: should the later write be torn, they would be gone. It hears with the later one.
            let last = write.entries.map_or(0, |(_, last)| last);
            let replaced = self
                .outstanding
                .iter()
                .any(|later| later.entries.is_some_and(|(first, _)| first <= last));
            if !replaced {
                persisted = Some(write.number);
            }
        }
        if let Some(number) = persisted {
            self.raw.on_persist_ready(number);
        }
    }

    fn on_applied(&mut self, position: AppliedPosition) {
        assert!(position.index <= self.emitted.index, "applied what was never committed");
        if position.index <= self.applied.index {
            return;
        }
        self.applied = position;
        while self.backlog.front().is_some_and(|(index, _)| *index <= position.index) {
            let (_, bytes) = self.backlog.pop_front().expect("front was there");
            self.backlog_bytes -= bytes;
        }
        self.raw.advance_apply_to(position.index.get());
        let persisted = LogIndex::new(self.raw.raft.raft_log.persisted);
        let cache_bytes_max = self.config.options.entry_cache_bytes_max;
        self.raw.mut_store().evict(cache_bytes_max, position.index.min(persisted));
    }

    fn on_flushed(&mut self, node: NodeId, index: LogIndex) {
        let known = self.flushed.get_mut(&node).expect("checked to be a voter");
        // Reports may arrive out of order; what survived a crash once always will.
        *known = index.max(*known);
    }

    /// Drops what every voter holds in flushed state: nobody can ask for it any more.
    fn trim(&mut self) -> Result<(), NodeError> {
        let base = self.raw.store().base();
        let everywhere = self.flushed.values().min().copied().unwrap_or(LogIndex::ZERO);
        let up_to = everywhere.min(self.applied.index);
        if up_to.get() < base.index.get() + self.config.options.trim_entries_min {
            return Ok(());
        }
        let store = self.raw.mut_store();
        let (offset, log_time) = store.tail(up_to)?;
        let term =
            store.term_of(up_to).ok_or_else(|| invariant("trimmed beyond the log".into()))?;
        store.trim(LogBase { index: up_to, term, offset, log_time });
        self.trims.push(Write::Trim { group: self.config.group, up_to });
        Ok(())
    }

    /// Reacts to a change of leader or term since the last look.
    fn notice_leadership(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        let term = Term::new(self.raw.raft.term);
        let known = (self.leader(), term);
        if known != self.known {
            self.known = known;
            // Whoever was to confirm the barrier is gone.
            self.reads.restart(u64::MAX);
            self.report_flushed(effects);
        }
        let leads = self.raw.raft.state == StateRole::Leader;
        if let Some(leading) = self.leading.take_if(|leading| !leads || leading.term != term) {
            // Own records that were not proposed can go to the next leader at once.
            let session = self.config.session;
            let own = leading.batch.iter().filter(|record| record.id.session == session);
            self.pending.unsend(own.map(|record| record.id.seq));
        }
        if leads && self.leading.is_none() {
            // Everything before this term is in the store; the term's own empty entry, which may
            // not be there yet, takes no offset.
            let store = self.raw.store();
            let (offset, log_time) = store.tail(store.last())?;
            self.leading = Some(Leading {
                term,
                next_offset: offset.next(),
                log_time,
                proposed: ProposedInTerm::default(),
                batch: VecDeque::new(),
                batch_bytes: 0,
            });
        }
        Ok(())
    }

    fn dispatch_proposals(
        &mut self,
        now: WallTime,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let options = &self.config.options;
        let (session, tick) = (self.config.session, self.tick);
        if let Some(leading) = &mut self.leading {
            for (seq, payload) in self.pending.send(leading.term, tick) {
                if leading.proposed.first_time(session, seq) {
                    leading.take_in(ProposalId { session, seq }, payload);
                }
            }
            leading.proposed.resolved(session, self.pending.resolved_up_to());
            let busy = self.outstanding.len() >= options.appends_in_flight_max
                || self.backlog_bytes > options.apply_backlog_bytes_max;
            if !busy && !leading.batch.is_empty() {
                return self.propose_entry(now);
            }
        } else if let Some(leader) = self.leader().filter(|leader| *leader != self.config.node) {
            let term = Term::new(self.raw.raft.term);
            let records = self.pending.send(term, tick);
            self.forward(leader, term, records, effects);
        }
        Ok(())
    }

    /// Sends records to the leader, in messages of a bounded size.
    fn forward(
        &self,
        leader: NodeId,
        term: Term,
        records: Vec<(u64, Bytes)>,
        effects: &mut Effects,
    ) {
        let session = self.config.session;
        let resolved_up_to = self.pending.resolved_up_to();
        let mut send = |records| {
            let forward = Forward { term, session, resolved_up_to, records };
            effects.send.push(self.envelope(leader, Body::Forward(forward)));
        };
        let mut message = Vec::new();
        let mut bytes = 0;
        for (seq, payload) in records {
            if bytes + payload.len() > self.config.options.message_bytes_max && !message.is_empty()
            {
                send(std::mem::take(&mut message));
                bytes = 0;
            }
            bytes += payload.len();
            message.push((seq, payload));
        }
        if !message.is_empty() {
            send(message);
        }
    }

    /// Packs what has arrived into one entry. Called while the disk has room for another append, so
    /// the size of a batch follows from what arrives during a sync, and no timer is involved.
    fn propose_entry(&mut self, now: WallTime) -> Result<(), NodeError> {
        let leading = self.leading.as_mut().expect("only a leader proposes");
        let log_time = leading.log_time.max(LogTime::new(now.as_ms()));
        let mut records = Vec::with_capacity(leading.batch.len());
        let mut bytes = 0;
        while let Some(record) = leading.batch.front() {
            let full = bytes + record.payload.len() > self.config.options.entry_bytes_target;
            if full && !records.is_empty() {
                break;
            }
            bytes += record.payload.len();
            records.extend(leading.batch.pop_front());
        }
        leading.batch_bytes -= bytes;
        let body = EntryBody { first_offset: leading.next_offset, log_time, records };
        match self.raw.propose(Vec::new(), body.encode().into()) {
            Ok(()) => {
                leading.next_offset = body.last_offset().next();
                leading.log_time = log_time;
                Ok(())
            }
            Err(raft::Error::ProposalDropped) => {
                // Too much is uncommitted, or leadership is being handed over: the records keep
                // their place and are tried again with the next input.
                leading.batch_bytes += bytes;
                for record in body.records.into_iter().rev() {
                    leading.batch.push_front(record);
                }
                Ok(())
            }
            Err(error) => Err(invariant(format!("raft refused an entry: {error}"))),
        }
    }

    fn dispatch_reads(&mut self) {
        let ready = match self.leader() {
            None => false,
            // A leader does not know what is committed before it has committed in its own term.
            Some(leader) if leader == self.config.node => self.raw.raft.commit_to_current_term(),
            Some(_) => true,
        };
        if ready && let Some(context) = self.reads.start(self.tick) {
            self.raw.read_index(context);
        }
    }

    fn take_ready(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        let mut ready = self.raw.ready();
        if !ready.snapshot().is_empty() {
            return Err(invariant("a snapshot arrived that nobody sends".into()));
        }
        for message in ready.take_messages() {
            effects.send.push(self.raft_envelope(&message)?);
        }
        for read in ready.take_read_states() {
            let index = LogIndex::new(read.index);
            if let Some((tokens, index)) = self.reads.confirmed(&read.request_ctx, index) {
                effects.reads.extend(tokens.into_iter().map(|token| (token, index)));
            }
        }
        let committed = ready.take_committed_entries();
        let promises = ready
            .take_persisted_messages()
            .iter()
            .map(|message| self.raft_envelope(message))
            .collect::<Result<Vec<_>, _>>()?;
        let writes = self.writes_of(&mut ready);
        let entries = writes.1;
        let number = ready.number();
        self.raw.advance_append_async(ready);
        self.owe(number, writes.0, entries, promises, effects);
        for entry in committed {
            self.emit(entry, effects)?;
        }
        Ok(())
    }

    /// What a ready wants on disk, and which entries those are.
    fn writes_of(&mut self, ready: &mut Ready) -> (Vec<Write>, Option<(u64, u64)>) {
        let group = self.config.group;
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        let mut writes: Vec<Write> = entries
            .iter()
            .map(|entry| Write::Append {
                group,
                index: LogIndex::new(entry.index),
                payload: encode_entry(entry),
            })
            .collect();
        let raft = &self.raw.raft;
        let register = Register {
            term: Term::new(raft.term),
            vote: raft.vote,
            commit: LogIndex::new(raft.raft_log.committed),
            base: self.raw.store().base(),
            voters: self.written.voters.clone(),
        };
        let lag = register.commit.get() - self.written.commit.get().min(register.commit.get());
        let moved = (register.term, register.vote, register.base)
            != (self.written.term, self.written.vote, self.written.base);
        if moved || self.register_dirty || lag >= COMMIT_LAG_MAX {
            writes.push(Write::SetState { group, payload: register.encode() });
            self.written = register;
            self.register_dirty = false;
        }
        writes.append(&mut self.trims);
        let range =
            entries.first().zip(entries.last()).map(|(first, last)| (first.index, last.index));
        (writes, range)
    }

    /// Hands out the writes of a ready; its promises leave when they and all before are durable.
    fn owe(
        &mut self,
        number: u64,
        writes: Vec<Write>,
        entries: Option<(u64, u64)>,
        promises: Vec<Envelope>,
        effects: &mut Effects,
    ) {
        if !writes.is_empty() {
            effects.writes.push(WriteEffect { ticket: Ticket(number), writes });
            self.outstanding.push_back(Outstanding { number, entries, send: promises });
        } else if let Some(last) = self.outstanding.back_mut() {
            // Nothing of its own to write, but it may promise what an earlier write holds.
            last.send.extend(promises);
        } else {
            self.raw.on_persist_ready(number);
            effects.send.extend(promises);
        }
    }

    fn raft_envelope(&self, message: &Message) -> Result<Envelope, NodeError> {
        let bytes = message
            .write_to_bytes()
            .map_err(|error| invariant(format!("raft message does not encode: {error}")))?;
        Ok(self.envelope(NodeId::new(message.to), Body::Raft(bytes.into())))
    }

    /// Hands a committed entry to apply, and settles own proposals by it.
    fn emit(&mut self, entry: Entry, effects: &mut Effects) -> Result<(), NodeError> {
        let index = LogIndex::new(entry.index);
        let term = Term::new(entry.term);
        assert_eq!(index, self.emitted.index.next(), "entries are committed in order");
        assert!(self.emitted_term <= term, "terms never fall along the log");
        if entry.get_entry_type() != EntryType::EntryNormal {
            return Err(NodeError::Damaged {
                what: format!(
                    "entry index={index} changes the membership, which this release \
                               does not know: open it with a newer one"
                ),
            });
        }
        let bytes = entry.data.len();
        let next = self.emitted.offset.next();
        let (first_offset, log_time, records) = if entry.data.is_empty() {
            (next, self.emitted.log_time, Vec::new())
        } else {
            let body = EntryBody::decode(entry.data).map_err(|error| NodeError::Damaged {
                what: format!("entry index={index}: {error}"),
            })?;
            (body.first_offset, body.log_time, body.records)
        };
        // G2: what the leader assigned is what follows here.
        if first_offset != next || log_time < self.emitted.log_time {
            return Err(invariant(format!(
                "entry index={index} starts at offset={first_offset}, expected={next}"
            )));
        }
        for record in &records {
            if record.id.session == self.config.session {
                self.pending.resolve(record.id.seq);
            }
        }
        if self.emitted_term < term {
            self.emitted_term = term;
            self.pending.lost(term);
        }
        let offset = Offset::new(first_offset.get() + records.len() as u64 - 1);
        self.emitted = AppliedPosition { index, offset, log_time };
        self.backlog.push_back((index, bytes));
        self.backlog_bytes += bytes;
        effects.apply.push(CommittedEntry { index, term, log_time, first_offset, records });
        Ok(())
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
        assert!(self.emitted.index.get() <= log.persisted);
        assert!(self.applied.index <= self.emitted.index);
        assert!(self.raw.store().base().index <= self.applied.index);
        if let Some(leading) = &self.leading {
            assert_eq!(leading.term.get(), self.raw.raft.term);
            assert!(self.emitted.offset < leading.next_offset);
        }
    }
}

impl Leading {
    fn take_in(&mut self, id: ProposalId, payload: Bytes) {
        self.batch_bytes += payload.len();
        self.batch.push_back(Record { id, payload });
    }
}

fn open_register(
    config: &ReplicaConfig,
    recovered: Option<&RecoveredGroup>,
) -> Result<(Register, bool), NodeError> {
    let mut voters = config.voters.clone();
    voters.sort_unstable();
    voters.dedup();
    if voters.len() != config.voters.len() || voters.is_empty() || voters.len() > VOTERS_MAX {
        return Err(NodeError::InvalidArgument {
            what: format!("voters must be 1 to {VOTERS_MAX} different nodes"),
        });
    }
    if !voters.contains(&config.node) || voters[0].get() == 0 {
        return Err(NodeError::InvalidArgument {
            what: "voters must name this node, and no node is 0".into(),
        });
    }
    let Some(recovered) = recovered else { return Ok((Register::fresh(voters), true)) };
    if let Verdict::Damaged { .. } = &recovered.verdict {
        return Err(NodeError::Damaged {
            what: format!(
                "the log of group={} is damaged and is not served: {:?}",
                config.group, recovered.verdict
            ),
        });
    }
    let Some(state) = &recovered.state else {
        return Err(NodeError::Damaged {
            what: format!("the log of group={} has entries but no register", config.group),
        });
    };
    let register = Register::decode(state)?;
    if register.voters != voters {
        return Err(NodeError::OtherVoters {
            stored: register.voters.iter().map(|voter| voter.get()).collect(),
            configured: voters.iter().map(|voter| voter.get()).collect(),
        });
    }
    if recovered.first != register.base.index.next() {
        return Err(NodeError::Damaged {
            what: format!(
                "the log of group={} begins at index={}, its register says {}",
                config.group,
                recovered.first,
                register.base.index.next()
            ),
        });
    }
    Ok((register, false))
}

fn raft_config(config: &ReplicaConfig, applied: AppliedPosition) -> Config {
    let options = &config.options;
    Config {
        id: config.node.get(),
        election_tick: options.election_ticks as usize,
        heartbeat_tick: options.heartbeat_ticks as usize,
        applied: applied.index.get(),
        max_size_per_msg: options.message_bytes_max as u64,
        max_inflight_msgs: options.messages_in_flight_max,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        // Merged appends know no bound: one message could hold all that a follower lacks.
        batch_append: false,
        max_uncommitted_size: options.uncommitted_bytes_max as u64,
        max_committed_size_per_ready: options.message_bytes_max as u64,
        ..Config::default()
    }
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
