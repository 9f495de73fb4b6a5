//! A node's replicas over one wal, without I/O: both drivers run this.
//!
//! Inputs are queued by group; a step lets every group that has some take them, and puts together
//! what they owe: one batch of writes for all groups as far as it fits, and one message of
//! heartbeats for each peer, however many groups beat. While the wal has no room, peers are not
//! listened to and callers are refused, so what waits stays bounded (G12). While the disk is full but for
//! the wal's reserve, no entries are taken in, from nobody; votes, heartbeats and trims go on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use palisade_wal::{
    BatchSeq, GroupId, LogIndex, Recovered, WalError, WalOptions, WalReader, Write,
};

use crate::effects::{Effects, GroupStatus, Input, Role, Ticket, WallTime};
use crate::entry::AppliedPosition;
use crate::error::{NodeError, RebuildRefusal};
use crate::identity::{Incarnation, NodeId, Term};
use crate::membership::Membership;
use crate::register::Register;
use crate::repair::{Repair, is_unreadable, lost_its_end, unreadable};
use crate::replica::{Parts, Replica, ReplicaConfig, Rest};
use crate::wire::{Beat, Body, Envelope, NO_GROUP};

/// Writes of several groups share a batch of the wal up to about this size, or half of what it takes.
const BATCH_BYTES_TARGET: usize = 4 << 20;
/// The ceiling of terms is raised by so many at a time: seldom, and each time a file is synced.
const CEILING_STEP: u64 = 1024;
/// So many terms before it is needed: a disk that is full then may not be later.
const CEILING_AHEAD: u64 = CEILING_STEP / 2;
/// What is held back for a group, at most.
const HELD_MAX: usize = 32;

/// One group of a node.
pub(crate) struct Hosted {
    stage: Stage,
    inputs: Vec<Input>,
    /// What was owed before the first step. Seldom there, and large.
    owed: Option<Box<Effects>>,
    rest: Rest,
    /// What it can do without until its next step: see `replica::rest`.
    held: Vec<Input>,
}

enum Stage {
    Running(Box<Replica>),
    Repairing(Box<Repair>),
    /// It stopped, and this is how it saw itself last. What it hears is lost on it.
    Halted(Box<Halted>),
    /// Between two others.
    Turning,
}

/// A group that has stopped.
struct Halted {
    status: GroupStatus,
    /// What its state can be made anew with, or why it cannot.
    parts: Result<Parts, RebuildRefusal>,
}

impl Hosted {
    /// Takes a group up, or begins its repair.
    ///
    /// # Errors
    /// When what is left of it contradicts itself, or is too little.
    pub(crate) fn open(
        config: ReplicaConfig,
        recovered: &Recovered,
        reader: WalReader,
        applied: AppliedPosition,
        ceiling: Term,
    ) -> Result<Self, NodeError> {
        let found = recovered.groups.get(&config.group);
        let cut = found.and_then(|found| lost_its_end(found, applied));
        let found = cut.as_ref().or(found);
        if cut.is_some() || recovered.is_damaged(config.group) {
            let (repair, owed) = Repair::open(config, found, reader, applied, ceiling)?;
            let stage = Stage::Repairing(Box::new(repair));
            return Ok(Self::new(stage, Some(owed)));
        }
        let (opened, owed) =
            match (Replica::open(config.clone(), found, reader.clone(), applied), found) {
                (Ok(replica), _) => (Stage::Running(Box::new(replica)), None),
                (Err(error), Some(found)) if is_unreadable(&error) => {
                    let (repair, owed) =
                        Repair::of_unreadable(config, found, reader, (applied, applied.index), 0)?;
                    (Stage::Repairing(Box::new(repair)), Some(owed))
                }
                (Err(error), _) => return Err(error),
            };
        Ok(Self::new(opened, owed))
    }

    /// A group whose log is beyond repair: it takes part in nothing, and the others go on.
    pub(crate) fn lost(
        group: GroupId,
        recovered: &Recovered,
        applied: AppliedPosition,
        term: Term,
    ) -> Self {
        let found = recovered.groups.get(&group);
        let register = found.and_then(|found| Register::decode(found.state.as_ref()?).ok());
        let status = GroupStatus {
            role: Role::Halted,
            leader: None,
            term,
            last_index: found.map_or(LogIndex::ZERO, |found| found.last),
            durable_index: applied.index,
            committed_index: applied.index,
            applied_index: applied.index,
            first_index: found.map_or(LogIndex::ZERO.next(), |found| found.first),
            offset: applied.offset,
            proposals_count: 0,
            members: register.map_or_else(Membership::default, |register| register.members),
            leaderless_ms: 0,
            uncommitted_ms: 0,
            sync_ms: 0,
            disk_full: false,
            elections: 0,
            leaders: 0,
            queues: Vec::new(),
            voters: Vec::new(),
        };
        let parts = Err(RebuildRefusal::LogLost);
        Self::new(Stage::Halted(Box::new(Halted { status, parts })), None)
    }

    fn new(stage: Stage, owed: Option<Effects>) -> Self {
        let (inputs, held) = (Vec::new(), Vec::new());
        Self { stage, inputs, owed: owed.map(Box::new), rest: Rest::default(), held }
    }

    /// Queues an input, behind what was held back. True if it is to be stepped now, and was not yet.
    fn input(&mut self, input: Input) -> bool {
        let first = self.inputs.is_empty();
        self.inputs.append(&mut self.held);
        self.inputs.push(input);
        first
    }

    fn tick(&mut self) -> bool {
        if matches!(self.stage, Stage::Halted(_)) {
            return false;
        }
        if !self.inputs.is_empty() || self.rest.ticks == 0 {
            return self.input(Input::Tick);
        }
        self.rest.ticks -= 1;
        match self.held.last_mut() {
            Some(Input::Rested { ticks }) => *ticks += 1,
            _ => self.held.push(Input::Rested { ticks: 1 }),
        }
        false
    }

    /// How many of the ticks that it rests are over.
    fn ticks_held(&self) -> u64 {
        let ticks = |input: &Input| if let Input::Rested { ticks } = input { *ticks } else { 0 };
        self.held.iter().map(ticks).sum()
    }

    /// Takes a heartbeat, or its answer. What is to be answered at once goes to `answers`.
    fn beat(
        &mut self,
        from: NodeId,
        life: Incarnation,
        beat: Beat,
        answers: &mut Vec<Beat>,
    ) -> bool {
        let rests = self.inputs.is_empty() && self.held.len() < HELD_MAX;
        if rests && beat.answer && self.rest.answers == Some(beat.term) {
            self.held.push(Input::Beat { from, life, beat });
            return false;
        }
        let followed = self.rest.follows.filter(|_| rests);
        if let Some(answer) = followed.and_then(|followed| followed.answer(from, &beat)) {
            self.held.push(Input::Answered { from, life, beat });
            answers.push(answer);
            return false;
        }
        self.input(Input::Beat { from, life, beat })
    }

    pub(crate) fn status(&self) -> GroupStatus {
        match &self.stage {
            Stage::Running(replica) => replica.status(self.ticks_held()),
            Stage::Repairing(repair) => repair.status(),
            Stage::Halted(halted) => halted.status.clone(),
            Stage::Turning => unreachable!("no step ends here"),
        }
    }

    /// What is owed, and whether it goes on. If not, nobody is left without an answer all the same.
    fn step(&mut self, now: WallTime, disk_is_full: bool) -> (Effects, Result<(), NodeError>) {
        let mut effects = self.owed.take().map_or_else(Effects::default, |owed| *owed);
        let mut taken = std::mem::take(&mut self.inputs);
        let mut inputs = taken.drain(..);
        let stepped = self.step_into(now, disk_is_full, inputs.by_ref(), &mut effects);
        effects.extend(unanswered(inputs));
        // The same buffer again.
        taken.append(&mut self.inputs);
        self.inputs = taken;
        self.rest = match &self.stage {
            Stage::Running(replica) if self.inputs.is_empty() => replica.rest(),
            _ => Rest::default(),
        };
        (effects, stepped)
    }

    fn step_into(
        &mut self,
        now: WallTime,
        disk_is_full: bool,
        mut inputs: impl Iterator<Item = Input>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        if let Stage::Running(replica) = &mut self.stage {
            replica.note_disk(disk_is_full);
            let (stepped, ended) = replica.step(now, inputs.by_ref());
            effects.extend(stepped);
            let Err(error) = ended else { return Ok(()) };
            effects.extend(self.turn(error)?);
            // What it has not taken in, its repair does.
        }
        match &mut self.stage {
            Stage::Repairing(repair) => {
                let (stepped, ended) = repair.step(inputs);
                effects.extend(stepped);
                if let Some(replica) = ended? {
                    self.stage = Stage::Running(Box::new(replica));
                    effects.members_changed = true;
                    // It has something to do that no input asks for.
                    self.inputs.push(Input::Tick);
                }
            }
            Stage::Halted(_) => effects.extend(unanswered(inputs)),
            Stage::Running(_) | Stage::Turning => unreachable!("no step ends here"),
        }
        Ok(())
    }

    /// It takes part in nothing any more. What is owed is not: whoever goes on in its place may hold
    /// another state.
    fn halt(&mut self) -> Effects {
        let status =
            GroupStatus { role: Role::Halted, leader: None, queues: Vec::new(), ..self.status() };
        let mut effects = unanswered(self.inputs.drain(..).chain(self.held.drain(..)));
        self.owed = None;
        self.rest = Rest::default();
        let parts = match std::mem::replace(&mut self.stage, Stage::Turning) {
            Stage::Running(replica) => {
                let parts = replica.into_parts();
                effects.extend(parts.unanswered());
                Ok(parts)
            }
            Stage::Halted(before) => before.parts,
            Stage::Repairing(_) | Stage::Turning => Err(RebuildRefusal::Repairing),
        };
        self.stage = Stage::Halted(Box::new(Halted { status, parts }));
        effects
    }

    fn may_rebuild(&self, node: NodeId) -> Result<(), RebuildRefusal> {
        let Stage::Halted(halted) = &self.stage else { return Err(RebuildRefusal::Running) };
        let parts = halted.parts.as_ref().map_err(|refusal| *refusal)?;
        let mut others = parts.register.members.other_voters(node);
        others.next().map(drop).ok_or(RebuildRefusal::OnlyVoter)
    }

    /// A group that has halted gets what it is to hold from the others. What it was told meanwhile is of what was
    /// given up.
    fn rebuild(&mut self) -> Effects {
        let mut effects = Effects::default();
        let stage = std::mem::replace(&mut self.stage, Stage::Turning);
        self.stage = match stage {
            Stage::Halted(halted) => match *halted {
                Halted { parts: Ok(parts), .. } => {
                    effects = unanswered(self.inputs.drain(..).chain(self.held.drain(..)));
                    Stage::Repairing(Box::new(Repair::of_state(parts)))
                }
                halted => Stage::Halted(Box::new(halted)),
            },
            other => other,
        };
        effects
    }

    /// A replica that cannot read an entry repairs it, if there is anybody to ask.
    fn turn(&mut self, error: NodeError) -> Result<Effects, NodeError> {
        let Stage::Running(replica) = std::mem::replace(&mut self.stage, Stage::Turning) else {
            unreachable!("only a running replica fails like this")
        };
        let known = unreadable(&error).and_then(|index| Some((index, replica.term_of(index)?)));
        let Some((index, term)) = known.filter(|_| replica.members().members.len() > 1) else {
            self.stage = Stage::Running(replica);
            return Err(error);
        };
        let (repair, effects) = Repair::of_entry(replica.into_parts(), index, term);
        self.stage = Stage::Repairing(Box::new(repair));
        Ok(effects)
    }
}

/// True if it concerns the log of one group alone: the node has others.
pub(crate) fn is_of_one_log(cause: &NodeError) -> bool {
    matches!(cause, NodeError::Damaged { .. }) || is_unreadable(cause)
}

/// What becomes of questions that nobody answers.
fn unanswered(inputs: impl Iterator<Item = Input>) -> Effects {
    let mut effects = Effects::default();
    for input in inputs {
        match input {
            Input::Propose { seq, .. } => effects.unknown.push(seq),
            Input::Read { token } => effects.refused_reads.push(token),
            Input::Change { token, .. } => {
                effects.changes.push((token, Err(NodeError::Unavailable)));
            }
            _ => {}
        }
    }
    effects
}

/// Whose writes a batch holds.
type Tickets = Vec<(GroupId, Ticket)>;

/// The replicas of one node.
pub(crate) struct Host {
    node: NodeId,
    groups: BTreeMap<GroupId, Hosted>,
    /// Every promise of this node was made in a term below.
    ceiling: Term,
    /// Groups with inputs.
    busy: Vec<GroupId>,
    /// Answers to heartbeats for groups that rest.
    answers: BTreeMap<NodeId, Vec<Beat>>,
    /// Submitted batches of the wal and whose tickets each answers, in order.
    submitted: VecDeque<(BatchSeq, Tickets)>,
    batch_bytes_target: usize,
    /// Batches the wal had no room for; nothing is appended past them.
    unsubmitted: VecDeque<(Vec<Write>, Tickets)>,
    /// The wal is down to its reserve, or the state has no space.
    is_short: bool,
}

/// What a step of the whole node owes beside its writes, which are with the wal already.
#[must_use = "dropped effects are lost messages"]
#[derive(Debug, Default)]
pub(crate) struct HostEffects {
    /// May leave now.
    pub(crate) send: Vec<Envelope>,
    /// What each group owes beside messages and writes.
    pub(crate) groups: Vec<(GroupId, Effects)>,
    /// Groups whose log is beyond repair, and why: they are to be halted.
    pub(crate) lost: Vec<(GroupId, NodeError)>,
}

impl Host {
    pub(crate) fn new(
        node: NodeId,
        groups: BTreeMap<GroupId, Hosted>,
        ceiling: Term,
        wal: &WalOptions,
    ) -> Self {
        Self {
            node,
            batch_bytes_target: BATCH_BYTES_TARGET.min(wal.batch_bytes_max / 2),
            busy: groups.keys().copied().collect(),
            groups,
            answers: BTreeMap::new(),
            ceiling,
            submitted: VecDeque::new(),
            unsubmitted: VecDeque::new(),
            is_short: false,
        }
    }

    /// The replica of a group, unless it is under repair.
    pub(crate) fn replica(&self, group: GroupId) -> Option<&Replica> {
        match &self.groups.get(&group)?.stage {
            Stage::Running(replica) => Some(replica),
            _ => None,
        }
    }

    /// The replicas that are not under repair.
    #[cfg(feature = "sim")]
    pub(crate) fn replicas(&self) -> impl Iterator<Item = (GroupId, &Replica)> {
        self.groups.keys().filter_map(|group| Some((*group, self.replica(*group)?)))
    }

    pub(crate) fn status(&self, group: GroupId) -> Option<GroupStatus> {
        let status = self.groups.get(&group).map(Hosted::status);
        status.map(|status| GroupStatus { disk_full: self.is_full(), ..status })
    }

    /// True while the wal has no room for what is owed.
    fn is_stuck(&self) -> bool {
        !self.unsubmitted.is_empty()
    }

    /// True while nothing should be taken in that becomes an entry.
    pub(crate) fn is_full(&self) -> bool {
        self.is_short || self.is_stuck()
    }

    /// Whether the wal is down to its reserve, or the state has no space; to be said before every step.
    pub(crate) fn note_space(&mut self, is_short: bool) {
        if self.is_short != is_short {
            tracing::warn!(is_short, "space for entries");
        }
        self.is_short = is_short;
    }

    /// The group stops here, and the others go on. Gives what its callers are owed.
    pub(crate) fn halt(&mut self, group: GroupId) -> Effects {
        self.groups.get_mut(&group).map(Hosted::halt).unwrap_or_default()
    }

    /// Why the state of a group cannot be made anew, if it cannot.
    pub(crate) fn may_rebuild(&self, group: GroupId) -> Result<(), RebuildRefusal> {
        let hosted = self.groups.get(&group).ok_or(RebuildRefusal::Running)?;
        hosted.may_rebuild(self.node)
    }

    /// A group that has halted gets what it is to hold from the others, if that
    /// [may be](Self::may_rebuild). Its state was given up. Gives what its callers are owed.
    pub(crate) fn rebuild(&mut self, group: GroupId) -> Effects {
        let Some(hosted) = self.groups.get_mut(&group) else { return Effects::default() };
        hosted.rebuild()
    }

    /// Whether a state that was given up before this start, and stands there, needs nothing more but what the
    /// replica gets by itself: the log that did not lead to it is gone.
    pub(crate) fn is_made_anew(
        &self,
        group: GroupId,
        applied: AppliedPosition,
        is_received: impl FnOnce(LogIndex) -> bool,
    ) -> bool {
        let begins_anew = |replica: &Replica| match replica.installs() {
            Some(snapshot) => is_received(snapshot),
            None => replica.is_empty(),
        };
        applied != AppliedPosition::ZERO || self.replica(group).is_some_and(begins_anew)
    }

    /// The group has stopped here.
    #[cfg(feature = "sim")]
    pub(crate) fn is_halted(&self, group: GroupId) -> bool {
        matches!(self.groups.get(&group), Some(Hosted { stage: Stage::Halted(_), .. }))
    }

    /// Queues an input for a group; one that is not hosted ignores it.
    pub(crate) fn input(&mut self, group: GroupId, input: Input) {
        let Some(hosted) = self.groups.get_mut(&group) else { return };
        if hosted.input(input) {
            self.busy.push(group);
        }
    }

    /// One tick passed for all groups. Those at rest hear of it later.
    pub(crate) fn tick(&mut self) {
        for (group, hosted) in &mut self.groups {
            if hosted.tick() {
                self.busy.push(*group);
            }
        }
    }

    /// A node was met, in this life of it.
    pub(crate) fn meet(&mut self, node: NodeId, life: Incarnation) {
        for hosted in self.groups.values_mut() {
            match &mut hosted.stage {
                Stage::Running(replica) => replica.meet(node, life),
                Stage::Repairing(repair) => repair.meet(node, life),
                Stage::Halted(_) | Stage::Turning => {}
            }
        }
    }

    /// A node says whether it knows this one in this life, and in no other.
    pub(crate) fn recognized(&mut self, by: NodeId, same: bool) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.input(group, Input::Recognized { by, same });
        }
    }

    /// A message arrived, from this life of its sender.
    pub(crate) fn deliver(&mut self, envelope: Envelope, life: Incarnation) {
        if self.is_stuck() || envelope.to != self.node {
            return;
        }
        match envelope.body {
            Body::Beats(beats) => {
                let answers = self.answers.entry(envelope.from).or_default();
                for beat in beats {
                    let Some(hosted) = self.groups.get_mut(&beat.group) else { continue };
                    if hosted.beat(envelope.from, life, beat, answers) {
                        self.busy.push(beat.group);
                    }
                }
            }
            // What becomes entries comes again; who forwards or gives does so until it is answered.
            Body::Forward(_) | Body::Given { .. } if self.is_short => {}
            _ => self.input(envelope.group, Input::Peer { envelope, life }),
        }
    }

    /// Everything up to this batch is durable.
    pub(crate) fn durable(&mut self, up_to: BatchSeq) {
        while self.submitted.front().is_some_and(|(seq, _)| *seq <= up_to) {
            let (_, tickets) = self.submitted.pop_front().expect("front was there");
            for (group, ticket) in tickets {
                self.input(group, Input::Durable { ticket });
            }
        }
    }

    /// Lets every group with inputs take them. `submit` gives a batch to the wal, `raise` makes a new
    /// ceiling of terms durable before it returns.
    pub(crate) fn step(
        &mut self,
        now: WallTime,
        mut submit: impl FnMut(&[Write]) -> Result<BatchSeq, WalError>,
        mut raise: impl FnMut(Term) -> io::Result<()>,
    ) -> Result<HostEffects, NodeError> {
        let mut all = HostEffects::default();
        let mut batch = Batch { bytes_target: self.batch_bytes_target, ..Batch::default() };
        let mut beats = std::mem::take(&mut self.answers);
        let mut busy = std::mem::take(&mut self.busy);
        // Whatever order inputs came in, groups step in theirs.
        busy.sort_unstable();
        busy.dedup();
        for group in &busy {
            let hosted = self.groups.get_mut(group).expect("only hosted groups are busy");
            let (mut effects, stepped) = hosted.step(now, self.is_short);
            match stepped {
                Err(cause) if is_of_one_log(&cause) => all.lost.push((*group, cause)),
                stepped => stepped?,
            }
            if !hosted.inputs.is_empty() {
                self.busy.push(*group);
            }
            if let Stage::Running(replica) = &hosted.stage {
                self.ceiling = raised(self.ceiling, replica.term(), &mut raise)?;
            }
            for write in effects.writes.drain(..) {
                batch.add(*group, write.ticket, write.writes, &mut self.unsubmitted);
            }
            for envelope in effects.send.drain(..) {
                match envelope.body {
                    Body::Beats(mut own) => beats.entry(envelope.to).or_default().append(&mut own),
                    _ => all.send.push(envelope),
                }
            }
            if effects.owes_more() {
                all.groups.push((*group, effects));
            }
        }
        batch.close(&mut self.unsubmitted);
        // The disk first: it is the slowest.
        while let Some((writes, tickets)) = self.unsubmitted.pop_front() {
            match submit(&writes) {
                Ok(seq) => self.submitted.push_back((seq, tickets)),
                Err(WalError::Backpressure { .. } | WalError::NoSpace) => {
                    self.unsubmitted.push_front((writes, tickets));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let from = self.node;
        beats.retain(|_, beats| !beats.is_empty());
        all.send.extend(beats.into_iter().map(|(to, beats)| Envelope {
            group: NO_GROUP,
            from,
            to,
            body: Body::Beats(beats),
        }));
        Ok(all)
    }
}

/// A ceiling above this term.
fn raised(
    ceiling: Term,
    term: Term,
    raise: &mut impl FnMut(Term) -> io::Result<()>,
) -> Result<Term, NodeError> {
    if term.get() + CEILING_AHEAD < ceiling.get() {
        return Ok(ceiling);
    }
    let higher = Term::new(term.get() + CEILING_STEP);
    match raise(higher) {
        Ok(()) => Ok(higher),
        Err(error) if term < ceiling && is_full(&error) => Ok(ceiling),
        Err(source) => Err(NodeError::Io {
            what: "could not raise the ceiling of terms".into(),
            source: Arc::new(source),
        }),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes on their way into one batch of the wal.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    tickets: Tickets,
    bytes: usize,
    bytes_target: usize,
}

impl Batch {
    /// Each group's write stays whole.
    fn add(
        &mut self,
        group: GroupId,
        ticket: Ticket,
        writes: Vec<Write>,
        full: &mut VecDeque<(Vec<Write>, Tickets)>,
    ) {
        let bytes: usize = writes.iter().map(write_bytes).sum();
        if self.bytes + bytes > self.bytes_target {
            self.close(full);
        }
        self.bytes += bytes;
        self.writes.extend(writes);
        self.tickets.push((group, ticket));
    }

    fn close(&mut self, full: &mut VecDeque<(Vec<Write>, Tickets)>) {
        if !self.writes.is_empty() {
            full.push_back((std::mem::take(&mut self.writes), std::mem::take(&mut self.tickets)));
            self.bytes = 0;
        }
    }
}

fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Append { payload, .. } | Write::SetState { payload, .. } => payload.len() + 64,
        _ => 64,
    }
}

#[cfg(test)]
mod tests;
