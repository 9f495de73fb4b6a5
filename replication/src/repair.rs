//! A replica whose log is damaged, until it holds again what it had: see `docs/repair.md`.
//!
//! It takes the place of the replica, and lets nothing of the consensus library near the log: so it
//! can neither vote nor confirm. What it does is ask the others for entries, give its own to those
//! who ask, and write what it gets.

mod left;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use palisade_wal::{GroupId, LogIndex, RecoveredGroup, Verdict, WalReader, Write};

use crate::effects::{Apply, Effects, GroupStatus, Input, Role, Ticket, WriteEffect};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Term};
use crate::log_store::term_of_stored;
use crate::register::Register;
use crate::replica::{Replica, ReplicaConfig, is_leaders, raft_codec};
use crate::wire::{Body, Envelope, NotGiven, Want};

use left::{Left, cannot_be_read, cut};
pub(crate) use left::{is_unreadable, lost_its_end, unreadable};

/// So often everybody is asked while others are damaged too: they may be repaired before.
const ROUNDS_MAX: u32 = 100;
/// So often who does not answer is asked before it counts as gone.
const ASKS_MIN: u32 = 3;

/// A repair under way.
pub(crate) struct Repair {
    config: ReplicaConfig,
    reader: WalReader,
    register: Register,
    /// What the log holds, holes included.
    first: LogIndex,
    last: LogIndex,
    /// Entries here may be missing, or older than what was lost, until all that was fetched is durable.
    doubtful: Option<(LogIndex, LogIndex)>,
    applied: AppliedPosition,
    flushed: LogIndex,
    /// The state machine still has to take in what it was given, up to here.
    emitted: LogIndex,
    stage: Stage,
    tick: u64,
    /// Whom to ask next, and when the last was asked.
    next_peer: usize,
    asked: Option<u64>,
    refused: BTreeMap<NodeId, NotGiven>,
    /// How often all refused, and those of them who lost nothing are no majority.
    rounds: u32,
    /// Who beats as the leader of which term, and when it last did: members that this replica knows of
    /// may be none any more.
    writer: Option<(Term, NodeId)>,
    heard: u64,
    /// How often each was asked for what is wanted now.
    asks: BTreeMap<NodeId, u32>,
    met: BTreeMap<NodeId, Incarnation>,
    tickets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The state is given up, and the log is to be: once somebody leads who has what was in it.
    Leaderless,
    /// These are wanted.
    Fetching(Want),
    /// The last write is on its way.
    Writing(Ticket),
    /// All is durable.
    Whole,
}

impl Repair {
    /// Begins the repair of what recovery found. `ceiling` is above every term that this node has
    /// promised anything in.
    ///
    /// # Errors
    /// When nothing is left to begin with.
    pub(crate) fn open(
        config: ReplicaConfig,
        found: Option<&RecoveredGroup>,
        reader: WalReader,
        applied: AppliedPosition,
        ceiling: Term,
    ) -> Result<(Self, Effects), NodeError> {
        let group = config.group;
        let found = found.ok_or_else(|| nothing(group))?;
        // A state that was just opened holds what it holds.
        let left = Left { found, sound_below: LogIndex::ZERO, flushed: applied.index };
        Self::begin(config, left, reader, applied, ceiling, 0)
    }

    /// Begins the repair of a log that recovery found whole, and that cannot be read now. Tickets go on
    /// after this one.
    ///
    /// # Errors
    /// As [`Repair::open`].
    pub(crate) fn of_unreadable(
        config: ReplicaConfig,
        found: &RecoveredGroup,
        reader: WalReader,
        (applied, flushed): (AppliedPosition, LogIndex),
        tickets: u64,
    ) -> Result<(Self, Effects), NodeError> {
        let (found, sound_below) = cannot_be_read(found, config.group, &reader)?;
        // The register is there: no vote is forgotten.
        let ceiling = Term::ZERO;
        let left = Left { found: &found, sound_below, flushed };
        Self::begin(config, left, reader, applied, ceiling, tickets)
    }

    fn begin(
        config: ReplicaConfig,
        left: Left<'_>,
        reader: WalReader,
        applied: AppliedPosition,
        ceiling: Term,
        tickets: u64,
    ) -> Result<(Self, Effects), NodeError> {
        let group = config.group;
        let found = left.found;
        let nothing = || nothing(group);
        let mut register = Register::decode(found.state.as_ref().ok_or_else(nothing)?)?;
        let damage = found.damage.clone().ok_or_else(nothing)?;
        if register.members.members.is_empty() {
            return Err(nothing());
        }
        if !damage.state_known {
            // Its vote may be lost: it counts as given, in the highest term there can have been.
            register.term = register.term.max(ceiling);
            register.vote = config.node.get();
        }
        let plan = left.plan(group, &reader, register, &damage, applied)?;
        let cut = plan.register.probation
            && plan.register.members.other_voters(config.node).next().is_none();
        let alone = plan.register.members.members.keys().all(|member| *member == config.node);
        if cut || (plan.want.is_some() && alone) {
            // What was lost may have been acknowledged, and no other voter can say.
            return Err(NodeError::Damaged {
                what: format!(
                    "the log of group={group} lost entries, and this is its only voter: restore it"
                ),
            });
        }
        let doubtful = plan.want.map(|want| (want.first, LogIndex::new(want.anchor.get() - 1)));
        let mut repair = Self {
            register: plan.register,
            first: found.first,
            last: found.last,
            doubtful,
            flushed: applied.index,
            emitted: applied.index,
            applied,
            stage: Stage::Whole,
            tick: 0,
            next_peer: 0,
            asked: None,
            refused: BTreeMap::new(),
            rounds: 0,
            writer: None,
            heard: 0,
            asks: BTreeMap::new(),
            met: BTreeMap::new(),
            tickets,
            reader,
            config,
        };
        tracing::warn!(%group, want = ?plan.want, "the log is damaged: repairing it");
        let mut effects = Effects::default();
        match plan.want {
            Some(want) => {
                repair.write(plan.writes, &mut effects);
                repair.stage = Stage::Fetching(want);
                repair.ask(&mut effects);
            }
            None => repair.finish(plan.writes, &mut effects),
        }
        Ok((repair, effects))
    }

    /// An entry of a running replica cannot be read back.
    pub(crate) fn of_entry(
        parts: crate::replica::Parts,
        index: LogIndex,
        term: Term,
    ) -> (Self, Effects) {
        let want = Want { first: index, anchor: index, term };
        let mut effects = parts.unanswered();
        tracing::warn!(group = %parts.config.group, %index, "an entry cannot be read: fetching it");
        let mut repair = Self {
            doubtful: Some((index, index)),
            stage: Stage::Fetching(want),
            ..Self::of_parts(parts)
        };
        repair.ask(&mut effects);
        (repair, effects)
    }

    /// The state of a replica was given up. Its log goes, too, so that the leader sends a snapshot; what it
    /// confirmed counts no more, and it is on probation until it has made up for it.
    pub(crate) fn of_state(parts: crate::replica::Parts) -> Self {
        tracing::warn!(group = %parts.config.group, "the state is made anew");
        Self {
            applied: AppliedPosition::ZERO,
            flushed: LogIndex::ZERO,
            emitted: LogIndex::ZERO,
            ..Self::of_parts(parts)
        }
    }

    /// With what a replica had, and nothing to be fetched.
    fn of_parts(parts: crate::replica::Parts) -> Self {
        Self {
            config: parts.config,
            reader: parts.reader,
            first: parts.register.base.index.next(),
            last: parts.last,
            doubtful: None,
            register: parts.register,
            applied: parts.applied,
            flushed: parts.flushed,
            emitted: parts.emitted,
            stage: Stage::Leaderless,
            tick: 0,
            next_peer: 0,
            asked: None,
            refused: BTreeMap::new(),
            rounds: 0,
            writer: None,
            heard: 0,
            asks: BTreeMap::new(),
            met: parts.met,
            tickets: parts.last_ticket,
        }
    }

    pub(crate) fn status(&self) -> GroupStatus {
        GroupStatus {
            role: Role::Repairing,
            leader: None,
            term: self.register.term,
            last_index: self.last,
            // What the log holds beyond that may not be what was confirmed.
            durable_index: self.applied.index,
            committed_index: self.register.commit,
            applied_index: self.applied.index,
            first_index: self.first,
            offset: self.applied.offset,
            proposals_count: 0,
            members: self.register.members.clone(),
            leaderless_ms: self.tick * self.config.options.tick_ms,
            uncommitted_ms: 0,
            sync_ms: 0,
            disk_full: false,
            elections: 0,
            leaders: 0,
            queues: Vec::new(),
            voters: Vec::new(),
        }
    }

    pub(crate) fn meet(&mut self, node: NodeId, life: Incarnation) {
        self.met.insert(node, life);
    }

    /// Takes in what happened. Gives the replica once it is whole.
    pub(crate) fn step(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> (Effects, Result<Option<Replica>, NodeError>) {
        let mut effects = Effects::default();
        let stepped = self.step_into(inputs, &mut effects);
        (effects, stepped)
    }

    fn step_into(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        effects: &mut Effects,
    ) -> Result<Option<Replica>, NodeError> {
        for input in inputs {
            match input {
                Input::Tick => self.on_tick(effects)?,
                Input::Durable { ticket } if self.stage == Stage::Writing(ticket) => {
                    self.stage = Stage::Whole;
                    self.doubtful = None;
                }
                Input::Applied { position } => self.applied = position,
                Input::Flushed { index } => self.flushed = index.max(self.flushed),
                Input::Peer { envelope, .. } => self.on_peer(envelope, effects)?,
                Input::Beat { from, beat, .. } if !beat.answer => self.on_beat(from, beat.term),
                // Nobody is kept waiting for a replica that may never be whole.
                Input::Propose { seq, .. } => effects.unknown.push(seq),
                Input::Read { token } => effects.refused_reads.push(token),
                Input::Change { token, .. } => {
                    effects.changes.push((token, Err(NodeError::Unavailable)));
                }
                _ => {}
            }
        }
        if self.stage != Stage::Whole || self.applied.index < self.emitted {
            return Ok(None);
        }
        let found = self.found();
        let reader = self.reader.clone();
        let opened = Replica::open(self.config.clone(), Some(&found), reader, self.applied);
        match opened {
            Ok(mut replica) => {
                replica.after_repair(self.tickets, self.flushed, &self.met);
                let probation = self.register.probation;
                tracing::info!(group = %self.config.group, probation, "the log is repaired");
                Ok(Some(replica))
            }
            Err(error) if is_unreadable(&error) => {
                effects.extend(self.begin_again(&found)?);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Something else cannot be read by now.
    fn begin_again(&mut self, found: &RecoveredGroup) -> Result<Effects, NodeError> {
        let (config, reader) = (self.config.clone(), self.reader.clone());
        let (again, effects) =
            Self::of_unreadable(config, found, reader, (self.applied, self.flushed), self.tickets)?;
        let before = std::mem::replace(self, again);
        (self.flushed, self.met, self.writer) = (before.flushed, before.met, before.writer);
        Ok(effects)
    }

    /// The log as it is now.
    fn found(&self) -> RecoveredGroup {
        let group = self.config.group;
        let last = self.reader.range(group).map_or(self.register.base.index, |(_, last)| last);
        RecoveredGroup {
            verdict: Verdict::Clean,
            state: Some(self.register.encode()),
            first: self.register.base.index.next(),
            last,
            damage: None,
        }
    }

    fn on_tick(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        self.tick += 1;
        let is_led = self.tick <= self.heard + u64::from(self.config.options.election_ticks);
        if self.stage == Stage::Leaderless && self.writer.is_some() && is_led {
            self.forget(effects);
            return Ok(());
        }
        let patience = u64::from(self.config.options.resend_ticks);
        if self.asked.is_some_and(|asked| asked + patience < self.tick) {
            if self.leader_refused() {
                return self.cut(effects);
            }
            // Somebody does not answer. Whoever did not have them may have been sent them since.
            self.refused.retain(|_, why| *why == NotGiven::Trimmed);
            self.ask(effects);
        }
        Ok(())
    }

    fn on_beat(&mut self, from: NodeId, term: Term) {
        let beats = Some((term, from));
        if term < self.register.term || beats < self.writer {
            return;
        }
        if self.writer != beats {
            // What it said before it led counts no more than what another says.
            self.refused.remove(&from);
        }
        (self.writer, self.heard) = (beats, self.tick);
    }

    /// Whom it can ask: the members that it knows of, and who leads those of today.
    fn others(&self) -> BTreeSet<NodeId> {
        let members = self.register.members.members.keys().copied();
        let all = members.chain(self.writer.map(|(_, writer)| writer));
        all.filter(|other| *other != self.config.node).collect()
    }

    /// Asks the next of those who have not refused.
    fn ask(&mut self, effects: &mut Effects) {
        let Stage::Fetching(want) = self.stage else { return };
        let mut others: Vec<NodeId> = self.others().into_iter().collect();
        others.retain(|other| !self.refused.contains_key(other));
        self.asked = Some(self.tick);
        if others.is_empty() {
            return;
        }
        let to = others[self.next_peer % others.len()];
        self.next_peer += 1;
        *self.asks.entry(to).or_default() += 1;
        effects.send.push(self.envelope(to, Body::Want(want)));
    }

    fn envelope(&self, to: NodeId, body: Body) -> Envelope {
        Envelope { group: self.config.group, from: self.config.node, to, body }
    }

    fn on_peer(&mut self, envelope: Envelope, effects: &mut Effects) -> Result<(), NodeError> {
        match envelope.body {
            Body::Given { want, entries } if self.stage == Stage::Fetching(want) => {
                self.on_given(envelope.from, want, entries, effects)
            }
            Body::Want(want) => {
                let entries = self.give(want);
                effects.send.push(self.envelope(envelope.from, Body::Given { want, entries }));
                Ok(())
            }
            Body::Raft(raw) => {
                // A leader's, as a beat: with reads under way, heartbeats come like this.
                if let Ok(message) = raft_codec::message(&raw)
                    && is_leaders(&message)
                {
                    self.on_beat(envelope.from, Term::new(message.term));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What can be relied on is given away, also by a replica that is damaged elsewhere.
    fn give(&self, want: Want) -> Result<Vec<Bytes>, NotGiven> {
        let overlaps =
            |(from, up_to): (LogIndex, LogIndex)| from <= want.anchor && want.first <= up_to;
        if self.doubtful.is_some_and(overlaps) {
            return Err(NotGiven::Doubtful);
        }
        let base = self.register.base.index;
        give(&self.reader, &self.config, base, want, |index| self.stored_term(index))
    }

    fn stored_term(&self, index: LogIndex) -> Option<Term> {
        let read = self.reader.read(self.config.group, index, index.next(), usize::MAX).ok()?;
        term_of_stored(&read.first()?.1)
    }

    fn on_given(
        &mut self,
        from: NodeId,
        want: Want,
        entries: Result<Vec<Bytes>, NotGiven>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let entries = match entries {
            Ok(entries) => entries,
            Err(why) => return self.on_refused(from, why, effects),
        };
        let end = if want.first == want.anchor { want.anchor.next() } else { want.anchor };
        let mut writes = Vec::new();
        let mut next = want.first;
        for payload in entries {
            let fits = term_of_stored(&payload).is_some_and(|term| term <= want.term);
            if next == end || !fits {
                tracing::warn!(%from, "ignored entries that were not wanted");
                return Ok(());
            }
            writes.push(Write::Restore { group: self.config.group, index: next, payload });
            next = next.next();
        }
        if next == want.first {
            return Ok(());
        }
        if next == end {
            self.finish(writes, effects);
        } else {
            self.write(writes, effects);
            self.stage = Stage::Fetching(Want { first: next, ..want });
            self.asks.clear();
            self.refused.clear();
            // Whoever gave these has the rest.
            self.next_peer = self.next_peer.wrapping_sub(1);
            self.ask(effects);
        }
        Ok(())
    }

    /// Once nobody has them: trimmed entries were committed, and the leader helps with a snapshot;
    /// unknown ones are lost. That there will be a leader takes a majority who lost nothing.
    fn on_refused(
        &mut self,
        from: NodeId,
        why: NotGiven,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        self.refused.insert(from, why);
        if !self.others().iter().all(|other| self.refused.contains_key(other)) {
            self.ask(effects);
            return Ok(());
        }
        let Stage::Fetching(want) = self.stage else { return Ok(()) };
        let group = self.config.group;
        let lost_nothing =
            |node: NodeId| self.refused.get(&node).is_some_and(|why| *why != NotGiven::Doubtful);
        if self.refused.values().any(|why| *why == NotGiven::Doubtful)
            && !self.register.members.is_majority(lost_nothing)
        {
            self.rounds += 1;
            self.asked = Some(self.tick);
            if self.rounds < ROUNDS_MAX {
                return Ok(());
            }
            return Err(NodeError::Damaged {
                what: format!(
                    "entries of group={group} from index={} to {} are lost at so many replicas that \
                     the others are no majority: restore one of them",
                    want.first, want.anchor
                ),
            });
        }
        // An anchor that may never have been committed proves nothing when it is missing elsewhere.
        if self.is_committed(want.anchor)
            && self.refused.values().all(|why| *why != NotGiven::Trimmed)
        {
            return Err(NodeError::Damaged {
                what: format!(
                    "entries of group={group} from index={} to {} are unreadable at every replica: \
                     restore one of them",
                    want.first, want.anchor
                ),
            });
        }
        if want.first <= self.applying() {
            // A log must not end before its state. Once the state is durable, the log can begin behind it.
            effects.apply.push(Apply::Flush);
            return Err(NodeError::Damaged {
                what: format!(
                    "entry index={} of group={group} cannot be read and is trimmed everywhere \
                     else: start this node again, its state has it",
                    want.first
                ),
            });
        }
        self.cut(effects)
    }

    /// What the state holds, or will.
    fn applying(&self) -> LogIndex {
        self.emitted.max(self.applied.index)
    }

    fn is_committed(&self, index: LogIndex) -> bool {
        index <= self.register.commit.max(self.applying())
    }

    /// True if the leader of today has trimmed what is wanted, or replaced what was never committed, and
    /// everybody else refused or let time pass again and again: they are not needed, and may be members
    /// no more.
    fn leader_refused(&self) -> bool {
        let Stage::Fetching(want) = self.stage else { return false };
        let patience = u64::from(self.config.options.election_ticks);
        let writer = self.writer.filter(|_| self.tick <= self.heard + patience);
        let why = writer.and_then(|(_, writer)| self.refused.get(&writer));
        let had_time = |other: &NodeId| {
            self.refused.contains_key(other)
                || self.asks.get(other).is_some_and(|asks| ASKS_MIN <= *asks)
        };
        let helps = match why {
            Some(NotGiven::Trimmed) => true,
            Some(NotGiven::Unknown) => !self.is_committed(want.anchor),
            Some(NotGiven::Doubtful) | None => false,
        };
        helps && self.others().iter().all(had_time) && self.applying() < want.first
    }

    fn cut(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        let Stage::Fetching(want) = self.stage else { return Ok(()) };
        if self.register.members.other_voters(self.config.node).next().is_none() {
            return Err(NodeError::Damaged {
                what: format!(
                    "entries of group={} from index={} to {} cannot be read, and this is its only \
                     voter: restore them",
                    self.config.group, want.first, want.anchor
                ),
            });
        }
        let mut writes = Vec::new();
        cut(&mut self.register, &mut writes, self.config.group, (want.first, self.last));
        self.finish(writes, effects);
        Ok(())
    }

    /// Lets go of the log. Whoever leads in a term that is not below its own has all that it held which was
    /// ever committed, and has been elected by a majority.
    fn forget(&mut self, effects: &mut Effects) {
        let base = AppliedPosition::ZERO;
        (self.register.base, self.register.commit) = (base, base.index);
        self.register.probation = true;
        (self.first, self.last) = (base.index.next(), base.index);
        let group = self.config.group;
        self.finish(vec![Write::Reset { group, up_to: base.index }], effects);
    }

    fn write(&mut self, writes: Vec<Write>, effects: &mut Effects) {
        if !writes.is_empty() {
            self.tickets += 1;
            effects.writes.push(WriteEffect { ticket: Ticket(self.tickets), writes });
        }
    }

    fn finish(&mut self, mut writes: Vec<Write>, effects: &mut Effects) {
        let group = self.config.group;
        writes.push(Write::SetState { group, payload: self.register.encode() });
        writes.push(Write::Repaired { group });
        self.write(writes, effects);
        self.asked = None;
        self.stage = Stage::Writing(Ticket(self.tickets));
    }
}

/// Entries of a log whose terms are known, for whoever lost theirs.
pub(crate) fn give(
    reader: &WalReader,
    config: &ReplicaConfig,
    base: LogIndex,
    want: Want,
    term_of: impl Fn(LogIndex) -> Option<Term>,
) -> Result<Vec<Bytes>, NotGiven> {
    if want.first <= base {
        return Err(NotGiven::Trimmed);
    }
    if want.anchor < want.first {
        return Err(NotGiven::Unknown);
    }
    if term_of(want.anchor) != Some(want.term) {
        return Err(NotGiven::Unknown);
    }
    let end = want.anchor.max(want.first.next());
    // Whoever asks writes them at once, as it would an append.
    let read = reader.read(config.group, want.first, end, config.options.message_bytes_max);
    match read {
        Ok(entries) if !entries.is_empty() => {
            Ok(entries.into_iter().map(|(_, payload)| payload).collect())
        }
        _ => Err(NotGiven::Unknown),
    }
}

fn nothing(group: GroupId) -> NodeError {
    NodeError::Damaged {
        what: format!("nothing is left of group={group} to repair it by: replace this replica"),
    }
}
