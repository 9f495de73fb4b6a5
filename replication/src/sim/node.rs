//! One simulated node: the production host over a wal and a shelf on simulated disks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::sim::SimDisk;
use palisade_wal::{GroupId, Keys, LogIndex, Wal, WalError, WalIdentity, WalScrubber};

use super::{Completion, Event, OpId, SimCluster, SimMachine};
use crate::applier::{Committed, install, rebuilding};
use crate::effects::{Apply, Effects, Input, Role, ShelfEffect, WallTime};
use crate::entry::CommittedEntry;
use crate::error::NodeError;
use crate::host::{Host, Hosted, is_of_one_log};
use crate::identity::{Incarnation, NodeId, Offset, Term};
use crate::membership::Membership;
use crate::records::{RecordRun, Records};
use crate::replica::ReplicaConfig;
use crate::shelf::Shelf;
use crate::sim::sealing::Sealing;
use crate::state_machine::{ApplyError, HaltScope};
use crate::wire::{Body, Envelope};

/// However slow a disk is, it is done then: one that hangs is another fault.
const SYNC_US_MAX: u64 = 3_000_000;

/// So much of a log is read again every so many ticks: a round takes some seconds.
const SCRUB_BYTES: usize = 4 << 10;
const SCRUB_TICKS: u64 = 16;

pub(super) struct SimNode<M> {
    pub(super) disk: SimDisk,
    pub(super) shelf_disk: SimDisk,
    pub(super) machine: M,
    pub(super) incarnation: Incarnation,
    /// The first voters, if it was one.
    pub(super) first: Option<Membership>,
    /// It had another data directory once.
    pub(super) wiped: bool,
    /// Which life of the others it has met.
    pub(super) acquaintances: BTreeMap<NodeId, Incarnation>,
    /// Counts starts, so that events of a former life are ignored.
    pub(super) life: u64,
    /// The file that says below which term all promises lie.
    pub(super) ceiling: Term,
    pub(super) tick_us: u64,
    pub(super) clock_ms: i64,
    pub(super) stopped_until: u64,
    /// Its disk does not come back from a sync, and whether one is under way.
    pub(super) held: Option<bool>,
    pub(super) running: Option<Running>,
    pub(super) halted: Option<NodeError>,
    pub(super) halted_groups: BTreeMap<GroupId, NodeError>,
    /// Groups whose state is being made anew.
    pub(super) rebuilding: BTreeSet<GroupId>,
    /// Something was done to its disk that no disk may do.
    pub(super) harmed: bool,
    /// Its disk takes so many times as long as it should.
    pub(super) slowness: u64,
    /// It loses power after so many further deeds.
    pub(super) fuse: Option<u64>,
    /// Power is to fail in the middle of an operation of a disk.
    pub(super) cuts: bool,
    /// What it had durable when it last went down, of what is applied anywhere.
    pub(super) kept: BTreeMap<GroupId, LogIndex>,
    pub(super) sealing: Sealing,
}

impl<M> SimNode<M> {
    /// Adds how often each fault of its disks has struck.
    pub(super) fn strikes(&self, counts: &mut BTreeMap<&'static str, u64>) {
        for (what, count) in [&self.disk, &self.shelf_disk].into_iter().flat_map(SimDisk::strikes) {
            *counts.entry(what).or_default() += count;
        }
    }

    pub(super) fn running(&self) -> &Running {
        self.running.as_ref().expect("it is up")
    }
}

pub(super) struct Running {
    wal: Wal,
    scrubber: WalScrubber,
    /// Since it was started.
    ticks: u64,
    pub(super) host: Host,
    shelf: Arc<Shelf>,
    session: u64,
    next_seq: u64,
    syncing: bool,
    to_apply: VecDeque<(GroupId, Apply)>,
    proposals: BTreeMap<(GroupId, u64), OpId>,
    pub(super) asked: BTreeSet<OpId>,
    barriers: Vec<(GroupId, LogIndex, OpId)>,
}

impl Running {
    /// Who waits for an answer.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = OpId> {
        let barriers = self.barriers.into_iter().map(|(_, _, op)| op);
        self.proposals.into_values().chain(self.asked).chain(barriers)
    }

    /// True if every group of it has members.
    pub(super) fn is_born(&self) -> bool {
        self.host.replicas().all(|(_, replica)| !replica.members().members.is_empty())
    }

    pub(super) fn propose(
        &mut self,
        group: GroupId,
        op: OpId,
        payload: &Bytes,
    ) -> Result<u64, NodeError> {
        let replica = self.host.replica(group).ok_or(NodeError::Unavailable)?;
        if let Some(refusal) = replica.refusal(payload.len()) {
            return Err(refusal);
        }
        if self.host.is_full() {
            return Err(NodeError::Backpressure { queue: "wal", retry_after_ms: 10 });
        }
        self.next_seq += 1;
        self.proposals.insert((group, self.next_seq), op);
        Ok(self.next_seq)
    }

    /// Nobody waits for this proposal any more. Says which one it is.
    pub(super) fn give_up(&mut self, op: OpId) -> Option<(GroupId, u64)> {
        let proposal = *self.proposals.iter().find(|(_, of)| **of == op)?.0;
        self.proposals.remove(&proposal);
        Some(proposal)
    }
}

impl<M: SimMachine> SimCluster<M> {
    /// Starts a node on what its disk holds.
    pub fn start(&mut self, id: NodeId) {
        self.note(b"start", id.get());
        let (session, seed) = (self.random.draw(), self.random.draw());
        if self.nodes[&id].running.is_some() {
            return;
        }
        match self.open(id, session, seed) {
            Ok((running, lost)) => {
                let node = self.nodes.get_mut(&id).expect("a known node");
                node.running = Some(running);
                node.halted = None;
                node.halted_groups.clear();
                node.rebuilding.clear();
                let (life, tick_us) = (node.life, node.tick_us);
                for group in self.groups() {
                    if let Some(cause) = self.nodes[&id].machine.halted(group)
                        && (lost.contains_key(&group) || !self.resume_rebuild(id, group))
                    {
                        self.stop_group(id, group, cause.into());
                    }
                }
                for (group, cause) in lost {
                    self.stop_group(id, group, cause);
                }
                self.check_kept(id);
                self.schedule(tick_us, Event::Tick { node: id, life });
                for group in self.groups() {
                    let index = self.nodes[&id].machine.flushed(group).index;
                    self.input(id, group, Input::Flushed { index });
                }
            }
            Err(error) => self.halt(id, error),
        }
    }

    /// A node, and the groups of it whose log is beyond repair.
    fn open(
        &mut self,
        id: NodeId,
        session: u64,
        seed: u64,
    ) -> Result<(Running, BTreeMap<GroupId, NodeError>), NodeError> {
        let groups: Vec<GroupId> = self.groups().collect();
        let node = self.nodes.get_mut(&id).expect("a known node");
        let identity =
            WalIdentity { cluster: 1, node: id.get(), incarnation: node.incarnation.get() };
        let keys =
            if self.options.seals { node.sealing.start(id, node.life) } else { Keys::none() };
        let shelf = Shelf::open(Arc::new(node.shelf_disk.clone()), keys.clone(), identity)?;
        let disk = Arc::new(node.disk.clone());
        let (mut wal, recovered) =
            Wal::open_with_keys(disk, identity, self.options.wal.clone(), keys)?;
        if groups.iter().all(|group| recovered.groups.contains_key(group)) {
            wal.forget_unlisted();
        }
        let mut replicas = BTreeMap::new();
        let mut lost = BTreeMap::new();
        let groups_count = groups.len();
        for group in groups {
            let config = ReplicaConfig {
                group,
                node: id,
                incarnation: node.incarnation,
                first: node.first.clone(),
                session,
                seed,
                options: self.options.replica.clone(),
            };
            let applied = node.machine.applied(group);
            let ceiling = node.ceiling;
            let hosted = match Hosted::open(config, &recovered, wal.reader(), applied, ceiling) {
                Err(cause) if is_of_one_log(&cause) => {
                    lost.insert(group, cause);
                    Hosted::lost(group, &recovered, applied, ceiling)
                }
                opened => opened?,
            };
            replicas.insert(group, hosted);
        }
        if (lost.len() == groups_count || recovered.groups.is_empty())
            && let Some((_, cause)) = lost.pop_first()
        {
            return Err(cause);
        }
        for (group, hosted) in &replicas {
            let found = recovered.groups.get(group).map(|found| (found.verdict, &found.damage));
            if hosted.status().role == Role::Repairing {
                self.tell(|| format!("node {id} group {group}: to be repaired, {found:?}"));
            }
        }
        let node = &self.nodes[&id];
        let mut host = Host::new(id, replicas, node.ceiling, &self.options.wal);
        node.acquaintances.iter().for_each(|(other, life)| host.meet(*other, *life));
        let running = Running {
            scrubber: wal.scrubber(),
            ticks: 0,
            wal,
            host,
            shelf: Arc::new(shelf),
            session,
            next_seq: 0,
            syncing: false,
            to_apply: VecDeque::new(),
            proposals: BTreeMap::new(),
            asked: BTreeSet::new(),
            barriers: Vec::new(),
        };
        Ok((running, lost))
    }

    /// What `Node::records` gives of a node that is up.
    ///
    /// # Errors
    /// As there.
    pub fn records(
        &self,
        id: NodeId,
        group: GroupId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Vec<RecordRun>, NodeError> {
        let node = &self.nodes[&id];
        let running = node.running.as_ref().ok_or(NodeError::Closed)?;
        let role = running.host.status(group).map(|status| status.role);
        if role.is_none_or(|role| role == Role::Repairing) {
            return Err(NodeError::Unavailable);
        }
        let (reader, applied) = (running.wal.reader(), node.machine.applied(group));
        Records { group, reader, applied }.read(from, bytes_max)
    }

    /// The node stops by itself. An invariant that failed is a bug, and the end of the run; so is a
    /// node that finds something missing although nobody touched its disk.
    fn halt(&mut self, id: NodeId, cause: NodeError) {
        if self.notice_cut(id) {
            return;
        }
        assert!(!matches!(cause, NodeError::Invariant { .. }), "node={id}: {cause}");
        let lost = matches!(cause, NodeError::Damaged { .. } | NodeError::Apply(_));
        assert!(!lost || self.nodes[&id].harmed, "node={id} lost something by itself: {cause}");
        self.count("node halted");
        self.tell(|| format!("node {id} halts: {cause}"));
        self.stop(id);
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.machine.crash();
        node.halted = Some(cause);
    }

    /// What `Node::halt` does to a group of a node that is up.
    pub fn halt_group(&mut self, id: NodeId, group: GroupId, what: impl Into<String>) {
        let node = &self.nodes[&id];
        if node.running.is_some() && !node.halted_groups.contains_key(&group) {
            self.stop_group(id, group, ApplyError::of_group(what).into());
        }
    }

    /// What `Node::rebuild` begins on a node that is up. It is over when the group has halted no more.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When the state cannot be given up.
    pub fn rebuild(&mut self, id: NodeId, group: GroupId) -> Result<(), NodeError> {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().ok_or(NodeError::Closed)?;
        if node.rebuilding.contains(&group) {
            return Ok(());
        }
        running.host.may_rebuild(group).map_err(NodeError::Rebuild)?;
        node.machine.give_up(group).expect("a simulated state can be given up");
        running.to_apply.retain(|(of, _)| *of != group);
        let effects = running.host.rebuild(group);
        node.rebuilding.insert(group);
        node.halted_groups.insert(group, rebuilding(group));
        self.perform(id, group, effects);
        self.count("state given up");
        self.tell(|| format!("node {id} group {group}: its state is made anew"));
        Ok(())
    }

    /// A state that was given up before this start. False if that is to be asked for again.
    fn resume_rebuild(&mut self, id: NodeId, group: GroupId) -> bool {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("it was just started");
        let goes_on = node.machine.is_given_up(group)
            && running.host.is_made_anew(group, node.machine.applied(group), |index| {
                running.shelf.received(group, index).is_ok_and(|found| found.is_some())
            });
        if goes_on {
            node.rebuilding.insert(group);
            node.halted_groups.insert(group, rebuilding(group));
            self.count("rebuild resumed");
        }
        goes_on
    }

    /// A state that was given up is served again once it is whole.
    fn note_whole(&mut self, id: NodeId, group: GroupId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        if node.machine.halted(group).is_none() && node.rebuilding.remove(&group) {
            node.halted_groups.remove(&group);
            self.count("state made anew");
        }
    }

    /// One group of the node stops.
    fn stop_group(&mut self, id: NodeId, group: GroupId, cause: NodeError) {
        let what = if is_of_one_log(&cause) { "log beyond repair" } else { "group halted" };
        self.stop_group_of(id, group, cause, what);
    }

    fn stop_group_of(&mut self, id: NodeId, group: GroupId, cause: NodeError, what: &'static str) {
        let lost = is_of_one_log(&cause);
        assert!(!lost || self.nodes[&id].harmed, "node={id} lost something by itself: {cause}");
        self.count(what);
        self.tell(|| format!("node {id} group {group} halts: {cause}"));
        let running = self.running(id);
        let mut effects = running.host.halt(group);
        let barriers = std::mem::take(&mut running.barriers);
        let (lost, kept) = barriers.into_iter().partition(|(of, _, _)| *of == group);
        running.barriers = kept;
        let lost: Vec<(GroupId, LogIndex, OpId)> = lost;
        effects.refused_reads.extend(lost.into_iter().map(|(_, _, op)| op));
        self.perform(id, group, effects);
        let halted = NodeError::GroupHalted { group: group.get(), cause: Arc::new(cause) };
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.rebuilding.remove(&group);
        node.halted_groups.insert(group, halted);
    }

    /// Reads the log again, a little at a time.
    pub(super) fn scrub(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("it is up");
        running.ticks += 1;
        if !running.ticks.is_multiple_of(SCRUB_TICKS) {
            return;
        }
        // What else goes wrong, the node learns from its own reads and writes.
        let Ok(found) = running.scrubber.step(SCRUB_BYTES) else { return };
        if !found.is_sound() {
            assert!(
                node.harmed,
                "node={id}: its log is damaged, and nobody touched its disk: {found:?}"
            );
            let life = node.life;
            self.count("damage found by a scrub");
            let after = self.random.below(1_000);
            for (group, input) in Input::of_scrub(found) {
                self.schedule(after, Event::Later { node: id, life, group, input });
            }
        }
    }

    pub(super) fn step(&mut self, id: NodeId) {
        let now = WallTime::from_ms(self.clock_ms(id));
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("it is up");
        let wal = &mut running.wal;
        let ceiling = &mut node.ceiling;
        let raise = |term| {
            *ceiling = term;
            Ok(())
        };
        running.host.note_space(wal.is_short());
        let effects = match running.host.step(now, |writes| wal.submit_owed(writes), raise) {
            Ok(effects) => effects,
            Err(cause) => return self.halt(id, cause),
        };
        self.check_leaders(id);
        for envelope in effects.send {
            if self.burns(id) {
                return;
            }
            self.send(envelope);
        }
        for (group, effects) in effects.groups {
            if self.burns(id) {
                return;
            }
            self.perform(id, group, effects);
        }
        for (group, cause) in effects.lost {
            self.stop_group(id, group, cause);
        }
        if !self.burns(id) {
            self.write(id);
        }
    }

    fn perform(&mut self, id: NodeId, group: GroupId, effects: Effects) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let life = node.life;
        let running = node.running.as_mut().expect("it has just stepped");
        for (token, index) in effects.reads {
            running.asked.remove(&token);
            running.barriers.push((group, index, token));
        }
        for token in effects.refused_reads {
            running.asked.remove(&token);
            let refused = Completion::Refused(NodeError::Unavailable);
            self.completions.push_back((token, refused));
        }
        for (token, result) in effects.changes {
            running.asked.remove(&token);
            let completion = match result {
                Ok(()) => Completion::Changed,
                Err(NodeError::Indeterminate) => Completion::Unknown,
                Err(refusal) => Completion::Refused(refusal),
            };
            self.completions.push_back((token, completion));
        }
        for seq in effects.unknown {
            let op = running.proposals.remove(&(group, seq));
            self.completions.extend(op.map(|op| (op, Completion::Unknown)));
        }
        if effects.members_changed && self.options.tells {
            let replica = running.host.replica(group).expect("it has just stepped");
            let roles: Vec<_> = replica.members().roles().collect();
            eprintln!("node {id} group {group}: members {roles:?}");
        }
        let applies = !effects.apply.is_empty() || !running.barriers.is_empty();
        running.to_apply.extend(effects.apply.into_iter().map(|step| (group, step)));
        if applies {
            let after = self.random.below(2_000);
            self.schedule(after, Event::Apply { node: id, life });
        }
        for _ in effects.refused {
            self.count("message refused");
        }
        for work in effects.shelf {
            self.shelve(id, life, group, work);
        }
    }

    /// Work on snapshots takes its time, but is done at once.
    fn shelve(&mut self, id: NodeId, life: u64, group: GroupId, work: ShelfEffect) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let Some(running) = &node.running else { return };
        let shelf = Arc::clone(&running.shelf);
        let (input, what) = match work {
            ShelfEffect::Export => {
                let exporter = node.machine.exporter();
                let manifest = shelf.export(group, &mut *exporter(group)).ok();
                (Input::Exported(manifest), "snapshot exported")
            }
            ShelfEffect::Serve { to, snapshot, chunk } => {
                self.count("chunk served");
                if let Some(bytes) = shelf.serve(group, snapshot, chunk) {
                    let bytes = self.alter_chunk(bytes);
                    let body = Body::Chunk { snapshot, chunk, bytes };
                    self.send(Envelope { group, from: id, to, body });
                }
                return;
            }
            ShelfEffect::Begin { manifest } => {
                let missing = shelf.begin(&manifest).ok();
                (Input::Begun { snapshot: manifest.id(), missing }, "snapshot begun")
            }
            ShelfEffect::Store { manifest, chunk, bytes } => {
                let held = shelf.store(&manifest, chunk, &bytes).unwrap_or(false);
                (Input::Stored { snapshot: manifest.id(), chunk, held }, "chunk stored")
            }
        };
        self.count(what);
        self.tell(|| format!("node {id} group {group}: {what}"));
        let after = 100 + self.random.below(5_000);
        self.schedule(after, Event::Later { node: id, life, group, input });
    }

    /// What goes wrong in the memory of the sender, no checksum of a message tells.
    fn alter_chunk(&mut self, chunk: Bytes) -> Bytes {
        if chunk.is_empty() || !self.rot.per_mille(10 * self.options.corrupt_per_mille) {
            return chunk;
        }
        self.count("chunk altered");
        let mut raw = chunk.to_vec();
        let at = self.rot.below(raw.len() as u64) as usize;
        raw[at] ^= 1 << self.rot.below(8);
        raw.into()
    }

    /// Writes what is queued, unless a sync is under way.
    fn write(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(running) = node.running.as_mut().filter(|running| !running.syncing) else {
            return;
        };
        // As the writer's thread: whoever asks whether there is room makes it look.
        let is_asked = running.host.is_full() || running.wal.is_short();
        let room = if is_asked { running.wal.maintain() } else { Ok(()) };
        match room.and_then(|()| running.wal.write_queued()) {
            // What finds no space waits.
            Ok(None) | Err(WalError::NoSpace) => {}
            Ok(Some(_)) => {
                running.syncing = true;
                let slowness = self.nodes[&id].slowness;
                let after = slowness * (50 + self.random.below(self.options.sync_us_max));
                let after = after.min(SYNC_US_MAX.max(self.options.sync_us_max));
                self.schedule(after, Event::Synced { node: id, life });
            }
            Err(error) => self.halt(id, error.into()),
        }
    }

    pub(super) fn synced(&mut self, id: NodeId) {
        let running = self.running(id);
        running.syncing = false;
        let durable = running.wal.sync().and_then(|durable| {
            running.wal.maintain()?;
            Ok(durable)
        });
        match durable {
            Ok(_) if self.burns(id) => {}
            Ok(durable) => {
                self.running(id).host.durable(durable);
                self.step(id);
            }
            Err(error) => self.halt(id, error.into()),
        }
    }

    pub(super) fn apply(&mut self, id: NodeId) {
        let mut flush = self.random.per_mille(self.options.flush_per_mille);
        self.note(b"apply", id.get());
        let steps = std::mem::take(&mut self.running(id).to_apply);
        let mut entries: Vec<CommittedEntry> = Vec::new();
        let (mut of, mut lost) = (None, BTreeSet::new());
        for (group, step) in steps {
            if lost.contains(&group) {
                continue;
            }
            if of.is_some_and(|of| of != group) {
                self.apply_entries(id, of.expect("just looked"), &std::mem::take(&mut entries));
            }
            of = Some(group);
            match step {
                Apply::Entry(entry) => entries.push(entry),
                Apply::Flush => flush = true,
                Apply::Install(index) => {
                    self.apply_entries(id, group, &std::mem::take(&mut entries));
                    match self.install(id, group, index) {
                        Ok(()) => {}
                        Err(cause @ NodeError::Damaged { .. }) => {
                            self.lose_snapshot(id, group, cause);
                            lost.insert(group);
                        }
                        Err(NodeError::Apply(cause)) if cause.scope == HaltScope::Group => {
                            self.stop_group(id, group, NodeError::Apply(cause));
                            lost.insert(group);
                        }
                        Err(cause) => return self.halt(id, cause),
                    }
                }
            }
        }
        if let Some(group) = of {
            self.apply_entries(id, group, &entries);
        }
        if self.nodes[&id].running.is_none() || self.burns(id) {
            return;
        }
        self.serve_reads(id);
        if flush {
            let node = self.nodes.get_mut(&id).expect("a known node");
            node.machine.flush().expect("a simulated state flushes");
            if self.burns(id) {
                return;
            }
            for group in self.groups() {
                let index = self.nodes[&id].machine.flushed(group).index;
                self.input(id, group, Input::Flushed { index });
            }
        }
    }

    fn serve_reads(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("it is up");
        let machine = &node.machine;
        let completions = &mut self.completions;
        running.barriers.retain(|(group, index, op)| {
            let applied = machine.applied(*group);
            let served = *index <= applied.index;
            if served {
                completions.push_back((*op, Completion::Readable(applied.offset)));
            }
            !served
        });
    }

    fn install(&mut self, id: NodeId, group: GroupId, index: LogIndex) -> Result<(), NodeError> {
        self.tell(|| format!("node {id} group {group}: installs a snapshot, index={index}"));
        let node = self.nodes.get_mut(&id).expect("a known node");
        let Some(running) = &node.running else { return Ok(()) };
        let shelf = Arc::clone(&running.shelf);
        install(&mut node.machine, &shelf, group, index)?;
        self.count("snapshot installed");
        self.check_head(id, group);
        self.note_whole(id, group);
        let machine = &self.nodes[&id].machine;
        let (position, flushed) = (machine.applied(group), machine.flushed(group).index);
        self.input(id, group, Input::Applied { position });
        self.input(id, group, Input::Flushed { index: flushed });
        Ok(())
    }

    /// What was received and is to be installed is not what it was: the group halts, and somebody who watches it
    /// has it made anew.
    fn lose_snapshot(&mut self, id: NodeId, group: GroupId, cause: NodeError) {
        if self.notice_cut(id) {
            return;
        }
        self.stop_group_of(id, group, cause, "received snapshot lost");
        if let Err(refusal) = self.rebuild(id, group) {
            self.tell(|| format!("node {id} group {group}: {refusal}"));
        }
    }

    fn apply_entries(&mut self, id: NodeId, group: GroupId, entries: &[CommittedEntry]) {
        let running = &self.nodes[&id].running;
        if entries.is_empty()
            || running.as_ref().is_none_or(|running| running.host.is_halted(group))
            || self.burns(id)
        {
            return;
        }
        for entry in entries {
            self.check_records(group, entry);
        }
        let node = self.nodes.get_mut(&id).expect("a known node");
        let running = node.running.as_mut().expect("checked to be up");
        let outcomes = match node.machine.apply(group, entries) {
            Ok(outcomes) => outcomes,
            Err(cause) if cause.scope == HaltScope::Group => {
                self.stop_group(id, group, cause.into());
                return;
            }
            Err(cause) => panic!("apply does not fail: {cause}"),
        };
        let mut outcomes = outcomes.into_iter();
        for entry in entries {
            let mut offset = entry.first_offset;
            for record in &entry.records {
                let outcome = outcomes.next().expect("one outcome for each record");
                if record.id.session == running.session
                    && let Some(op) = running.proposals.remove(&(group, record.id.seq))
                {
                    let committed = Committed { offset, log_time: entry.log_time, outcome };
                    self.completions.push_back((op, Completion::Committed(committed)));
                }
                offset = offset.next();
            }
        }
        self.check_head(id, group);
        self.note_whole(id, group);
        let position = self.nodes[&id].machine.applied(group);
        self.input(id, group, Input::Applied { position });
    }
}
