//! A replica whose log is damaged, until it holds again what it had: see `docs/repair.md`.
//!
//! It takes the place of the replica, and lets nothing of the consensus library near the log: so it
//! can neither vote nor confirm. What it does is ask the others for entries, give its own to those
//! who ask, and write what it gets.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use palisade_wal::{Damage, GroupId, LogIndex, RecoveredGroup, Verdict, WalReader, Write};

use crate::effects::{Effects, GroupStatus, Input, Role, Ticket, WriteEffect};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId, Term};
use crate::log_store::term_of_stored;
use crate::register::Register;
use crate::replica::{Replica, ReplicaConfig};
use crate::wire::{Body, Envelope, NotGiven, Want};

/// Entries are read and given up to about this much at a time.
const GIVEN_BYTES_MAX: usize = 1 << 20;
/// So often everybody is asked while others are damaged too: they may be repaired before.
const ROUNDS_MAX: u32 = 100;

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
    met: BTreeMap<NodeId, Incarnation>,
    tickets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// These are wanted.
    Fetching(Want),
    /// The last write is on its way.
    Writing(Ticket),
    /// All is durable.
    Whole,
}

/// What a repair makes of the log beside fetching: decided once, when it begins.
struct Plan {
    register: Register,
    writes: Vec<Write>,
    want: Option<Want>,
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
        let nothing = || NodeError::Damaged {
            what: format!("nothing is left of group={group} to repair it by: replace this replica"),
        };
        let found = found.ok_or_else(nothing)?;
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
        let log = Log { group, reader: &reader, found };
        let known = damage.state_known;
        let plan = log.plan(register, known, damage.whole_from, applied)?;
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
            met: BTreeMap::new(),
            tickets: 0,
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
        tracing::warn!(group = %parts.config.group, %index, "an entry cannot be read: fetching it");
        let mut repair = Self {
            config: parts.config,
            reader: parts.reader,
            first: parts.register.base.index.next(),
            last: parts.last,
            doubtful: Some((index, index)),
            register: parts.register,
            applied: parts.applied,
            flushed: parts.flushed,
            emitted: parts.emitted,
            stage: Stage::Fetching(want),
            tick: 0,
            next_peer: 0,
            asked: None,
            refused: BTreeMap::new(),
            rounds: 0,
            met: parts.met,
            tickets: parts.last_ticket,
        };
        let mut effects =
            Effects { unknown: parts.pending, refused_reads: parts.reads, ..Effects::default() };
        effects.changes.extend(parts.changing.map(|token| (token, Err(NodeError::Indeterminate))));
        repair.ask(&mut effects);
        (repair, effects)
    }

    pub(crate) fn status(&self) -> GroupStatus {
        GroupStatus {
            role: Role::Repairing,
            leader: None,
            term: self.register.term,
            last_index: self.last,
            committed_index: self.register.commit,
            first_index: self.first,
            offset: self.applied.offset,
            proposals_count: 0,
            members: self.register.members.clone(),
        }
    }

    pub(crate) fn meet(&mut self, node: NodeId, life: Incarnation) {
        self.met.insert(node, life);
    }

    /// Takes in what happened. Gives the replica once it is whole.
    pub(crate) fn step(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<(Effects, Option<Replica>), NodeError> {
        let mut effects = Effects::default();
        for input in inputs {
            match input {
                Input::Tick => self.on_tick(&mut effects),
                Input::Durable { ticket } if self.stage == Stage::Writing(ticket) => {
                    self.stage = Stage::Whole;
                    self.doubtful = None;
                }
                Input::Applied { position } => self.applied = position,
                Input::Flushed { index } => self.flushed = index.max(self.flushed),
                Input::Peer { envelope, .. } => self.on_peer(envelope, &mut effects)?,
                // Nobody is kept waiting for a replica that may never be whole.
                Input::Propose { seq, .. } => effects.unknown.push(seq),
                Input::Read { token } => effects.refused_reads.push(token),
                Input::Change { token, .. } => {
                    effects.changes.push((token, Err(NodeError::Unavailable)));
                }
                _ => {}
            }
        }
        let ready = self.stage == Stage::Whole && self.emitted <= self.applied.index;
        let replica = ready.then(|| self.take_up()).transpose()?;
        Ok((effects, replica))
    }

    fn take_up(&self) -> Result<Replica, NodeError> {
        let group = self.config.group;
        let last = self.reader.range(group).map_or(self.register.base.index, |(_, last)| last);
        let recovered = RecoveredGroup {
            verdict: Verdict::Clean,
            state: Some(self.register.encode()),
            first: self.register.base.index.next(),
            last,
            damage: None,
        };
        let reader = self.reader.clone();
        let mut replica =
            Replica::open(self.config.clone(), Some(&recovered), reader, self.applied)?;
        replica.after_repair(self.tickets, self.flushed, &self.met);
        tracing::info!(%group, probation = self.register.probation, "the log is repaired");
        Ok(replica)
    }

    fn on_tick(&mut self, effects: &mut Effects) {
        self.tick += 1;
        let patience = u64::from(self.config.options.resend_ticks);
        if self.asked.is_some_and(|asked| asked + patience < self.tick) {
            // Somebody does not answer. Whoever did not have them may have been sent them since.
            self.refused.retain(|_, why| *why == NotGiven::Trimmed);
            self.ask(effects);
        }
    }

    fn others(&self) -> Vec<NodeId> {
        let members = self.register.members.members.keys();
        members.copied().filter(|member| *member != self.config.node).collect()
    }

    /// Asks the next of those who have not refused.
    fn ask(&mut self, effects: &mut Effects) {
        let Stage::Fetching(want) = self.stage else { return };
        let mut others = self.others();
        others.retain(|other| !self.refused.contains_key(other));
        if others.is_empty() {
            self.asked = Some(self.tick);
            return;
        }
        let to = others[self.next_peer % others.len()];
        self.next_peer += 1;
        self.asked = Some(self.tick);
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
        give(&self.reader, self.config.group, base, want, |index| self.stored_term(index))
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
        let others: BTreeSet<NodeId> = self.others().into_iter().collect();
        if !others.iter().all(|other| self.refused.contains_key(other)) {
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
        let applying = self.emitted.max(self.applied.index);
        let committed = self.register.commit.max(applying);
        // An anchor that may never have been committed proves nothing when it is missing elsewhere.
        let known = |anchor: LogIndex| anchor <= committed;
        if known(want.anchor) && self.refused.values().all(|why| *why != NotGiven::Trimmed) {
            return Err(NodeError::Damaged {
                what: format!(
                    "entries of group={group} from index={} to {} are unreadable at every replica: \
                     restore one of them",
                    want.first, want.anchor
                ),
            });
        }
        if want.first <= applying {
            // A log must not end before its state. Stopping makes the state durable, and then the
            // log can begin behind it.
            return Err(NodeError::Damaged {
                what: format!(
                    "entry index={} of group={group} cannot be read and is trimmed everywhere \
                     else: start this node again, its state has it",
                    want.first
                ),
            });
        }
        let mut writes = Vec::new();
        cut(&mut self.register, &mut writes, group, (want.first, self.last));
        self.finish(writes, effects);
        Ok(())
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

/// What the state or the register knows of entries that the log does not have: it lost its end, in a
/// way that looked like a torn write to the wal. Whatever else was there may be lost with it.
pub(crate) fn lost_its_end(
    found: &RecoveredGroup,
    applied: AppliedPosition,
) -> Option<RecoveredGroup> {
    let register = Register::decode(found.state.as_ref()?).ok()?;
    let committed = register.commit.max(applied.index);
    let lost = found.damage.is_none() && found.last < committed;
    let damage = Damage { state_known: false, holes: Vec::new(), whole_from: None };
    lost.then(|| RecoveredGroup { damage: Some(damage), ..found.clone() })
}

/// Entries of a log whose terms are known, for whoever lost theirs.
pub(crate) fn give(
    reader: &WalReader,
    group: GroupId,
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
    let read = reader.read(group, want.first, end, GIVEN_BYTES_MAX);
    match read {
        Ok(entries) if !entries.is_empty() => {
            Ok(entries.into_iter().map(|(_, payload)| payload).collect())
        }
        _ => Err(NotGiven::Unknown),
    }
}

/// Everything from here on goes, if there is any, and the replica is on probation.
fn cut(
    register: &mut Register,
    writes: &mut Vec<Write>,
    group: GroupId,
    (from, last): (LogIndex, LogIndex),
) {
    let after = LogIndex::new(from.get() - 1).min(last).max(register.base.index);
    if after < last {
        writes.push(Write::Truncate { group, after });
    }
    register.commit = register.commit.min(after);
    register.probation = true;
}

/// What recovery found, to be judged with what the state holds.
struct Log<'a> {
    group: GroupId,
    reader: &'a WalReader,
    found: &'a RecoveredGroup,
}

impl Log<'_> {
    fn plan(
        &self,
        mut register: Register,
        register_known: bool,
        whole_from: Option<LogIndex>,
        applied: AppliedPosition,
    ) -> Result<Plan, NodeError> {
        let group = self.group;
        let last = self.found.last;
        let mut writes = Vec::new();
        let based = register.base.index.next() == self.found.first;
        // What lies below may be older than what was lost, though it is known to be committed by its
        // index: who was a leader before may hold entries that were replaced in what is missing.
        let is_doubtful = whole_from.is_none_or(|whole| register.base.index.next() < whole);
        // What the state holds is not needed in the log.
        if register.base.index < applied.index && (!based || is_doubtful || last < applied.index) {
            if !register_known && register.members_index < applied.members_index {
                // With an old membership it would be part of majorities that are none.
                return Err(NodeError::Damaged {
                    what: format!(
                        "group={group} lost its register, and with it perhaps changes of its \
                         membership: replace this replica"
                    ),
                });
            }
            register.base = applied;
            writes.push(if applied.index <= last {
                Write::Trim { group, up_to: applied.index }
            } else {
                Write::Reset { group, up_to: applied.index }
            });
            register.commit = register.commit.max(applied.index);
        } else if self.found.first <= register.base.index {
            // The mark of the last trim is lost, the register that speaks of it is not.
            let up_to = register.base.index;
            writes.push(if up_to <= last {
                Write::Trim { group, up_to }
            } else {
                Write::Reset { group, up_to }
            });
        } else if !based {
            return Err(NodeError::Damaged {
                what: format!(
                    "the beginning of the log of group={group} is lost: replace this replica"
                ),
            });
        }
        let from = register.base.index.next();
        let anchor = whole_from.filter(|whole| *whole <= last);
        let want = match anchor {
            Some(anchor) if anchor <= from => None,
            Some(anchor) => {
                let term = self.stored_term(anchor).ok_or_else(|| NodeError::Damaged {
                    what: format!("entry index={anchor} of group={group} cannot be read"),
                })?;
                // What is of the anchor's term was put there by its leader, and never replaced since:
                // the log that holds the anchor holds it.
                let mut first = from;
                while first < anchor && self.stored_term(first) == Some(term) {
                    first = first.next();
                }
                (first < anchor).then_some(Want { first, anchor, term })
            }
            None => {
                cut(&mut register, &mut writes, group, (from, last));
                None
            }
        };
        Ok(Plan { register, writes, want })
    }

    fn stored_term(&self, index: LogIndex) -> Option<Term> {
        let read = self.reader.read(self.group, index, index.next(), usize::MAX).ok()?;
        term_of_stored(&read.first()?.1)
    }
}
