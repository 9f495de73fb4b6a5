//! The state machine: committed records in, state and outcomes out.
//!
//! One record is one offset. It takes effect entirely or not at all (`batch_apply.rs`), over a view that
//! reads its own writes and forgets those of a record that is refused.
//!
//! Records form a chain (`chain.rs`): equal heads at equal offsets mean equal logs (G8).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{
    AppliedPosition, ApplyError, ClusterId, CommittedEntry, Exporter, GroupId, HaltScope, LogIndex,
    LogTime, NodeId, Offset, StateMachine, Term,
};

use crate::batch_apply;
use crate::chain::{ANCHORS_EVERY, ChainHead, ChainLink};
use crate::clients::{ClientBounds, ClientTable, numbered};
use crate::codec::{DecodeError, Reader, put_number};
use crate::command::{Chore, Command, is_rebuild};
use crate::comparing::latch::{self, Latch};
use crate::comparing::{self, Compared, Comparisons, spans};
use crate::contracts::Contracts;
use crate::error::Error;
use crate::keys;
use crate::names;
use crate::outcome::{Outcome, RecordOutcome};
use crate::projection::rebuild::{self, Builds, JobDesk, Scene, Turn};
use crate::projection::{At, ProjectionFault, Registry};
use crate::resource::ResourceId;
use crate::resource_table::{LoadError, ResourceTable};
use crate::snapshot::{self, StateExport};
use crate::store::{FamilyId, StateRead, StateStore, StoreError, WriteSet};
use crate::trace::{AppliedTraces, TraceListeners, TracedRecord};
use crate::view::View;

/// Format of everything stored, beside each record's own version.
pub(crate) const STATE_VERSION: u8 = 2;

/// The engine's state machine over a store.
pub(crate) struct EngineMachine {
    store: Arc<dyn StateStore>,
    registry: Registry,
    /// Whether a flush of the store survives a restart.
    keeps: bool,
    clients: ClientBounds,
    groups: BTreeMap<GroupId, Group>,
    contracts: Contracts,
    /// What is to be built beside the log.
    jobs: JobDesk,
    comparisons: Comparisons,
    traces: AppliedTraces,
    /// Who reports what its states come to; nobody while a state is being restored.
    node: Option<NodeId>,
}

/// What a run brings about beside rows: nothing, if it is not committed.
#[derive(Default)]
struct Aside {
    /// Resources that may be another thing than before.
    touched: Vec<ResourceId>,
    compared: Compared,
    /// Records that are part of traces.
    traced: Vec<TracedRecord>,
}

struct Group {
    /// Why it must not be served, if it must not.
    latch: Option<Latch>,
    position: AppliedPosition,
    flushed: AppliedPosition,
    head: ChainHead,
    resources: ResourceTable,
    builds: Builds,
    /// What is in memory may be ahead of the store.
    is_stale: bool,
}

impl EngineMachine {
    /// Takes up the state where the store left it, and marks an empty store as this node's.
    /// `keeps` says whether the store survives a restart.
    ///
    /// # Errors
    /// When the state is another node's, of an unknown version or of a projection that is not
    /// registered, or cannot be read.
    pub(crate) fn open(
        store: Arc<dyn StateStore>,
        registry: Registry,
        keeps: bool,
        cluster: ClusterId,
        node: NodeId,
        groups: &[GroupId],
    ) -> Result<Self, Error> {
        claim(&*store, cluster, node)?;
        let machine = Self::unclaimed(store, registry, keeps, groups)?;
        Ok(Self { node: Some(node), ..machine })
    }

    /// Takes up a state without asking whose it is.
    pub(crate) fn unclaimed(
        store: Arc<dyn StateStore>,
        registry: Registry,
        keeps: bool,
        groups: &[GroupId],
    ) -> Result<Self, Error> {
        let mut machine = Self {
            store,
            registry,
            keeps,
            clients: ClientBounds::default(),
            groups: BTreeMap::new(),
            contracts: Contracts::default(),
            jobs: JobDesk::default(),
            comparisons: Comparisons::default(),
            traces: AppliedTraces::default(),
            node: None,
        };
        for group in groups {
            machine.load(*group)?;
        }
        Ok(machine)
    }

    /// The same with other bounds.
    #[cfg(test)]
    pub(crate) fn with_clients(self, clients: ClientBounds) -> Self {
        Self { clients, ..self }
    }

    fn load(&mut self, group: GroupId) -> Result<(), LoadError> {
        spans::ensure(&*self.store, group)?;
        let latch = Latch::load(&*self.store, group)?;
        let (position, head) = read_position(&*self.store, group)?;
        if let Some(before) = self.groups.get_mut(&group) {
            before.builds.end_all();
        }
        let is_readable = match &latch {
            // It is not gone on with, and may not be readable.
            Some(Latch::Wrong(_) | Latch::Unreadable(_)) => false,
            // What it had is still to be cleared.
            Some(Latch::Anew(_)) => position != AppliedPosition::ZERO,
            None => true,
        };
        let (mut resources, mut builds) = (ResourceTable::empty(), Builds::default());
        if is_readable {
            resources = ResourceTable::load(&*self.store, &self.registry, group)?;
            builds = Builds::load(&*self.store, &self.registry, group, &resources.kinds)?;
        }
        builds.publish(&self.jobs);
        // What the store came up with was flushed: it keeps nothing else over a restart.
        let flushed = if self.keeps { position } else { AppliedPosition::ZERO };
        self.contracts.set_all(group, resources.iter());
        let is_stale = false;
        let taken_up = Group { latch, position, flushed, head, resources, builds, is_stale };
        self.groups.insert(group, taken_up);
        Ok(())
    }

    /// The contracts of its resources as it has applied them; clones share them.
    pub(crate) fn contracts(&self) -> Contracts {
        self.contracts.clone()
    }

    /// What is to be built beside the log; clones share it.
    pub(crate) fn jobs(&self) -> JobDesk {
        self.jobs.clone()
    }

    /// How often its replicas were compared; clones share it.
    pub(crate) fn comparisons(&self) -> Comparisons {
        self.comparisons.clone()
    }

    /// Where it is heard of applied records that are part of traces.
    pub(crate) fn traces(&self) -> TraceListeners {
        self.traces.listeners()
    }

    /// Goes on with other projections from its next load on, as a process that is started from another
    /// release.
    #[cfg(feature = "sim")]
    pub(crate) fn upgrade(&mut self, registry: Registry) {
        self.registry = registry;
    }

    /// The groups that it has the state of.
    #[cfg(feature = "sim")]
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().copied().collect()
    }

    /// Forgets what is not in the store, as a crash does.
    #[cfg(feature = "sim")]
    pub(crate) fn reload(&mut self) -> Result<(), LoadError> {
        self.groups().into_iter().try_for_each(|group| self.load(group))
    }

    /// Applies entries, and commits what they do together. After an error the group is as the store has it.
    fn apply_run(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<RecordOutcome>, ApplyError> {
        self.freshen(group)?;
        let applied = self.try_run(group, entries);
        if let (Err(_), Some(state)) = (&applied, self.groups.get_mut(&group)) {
            state.is_stale = true;
        }
        applied
    }

    /// Takes the group up again if what is in memory is not what is stored.
    fn freshen(&mut self, group: GroupId) -> Result<(), ApplyError> {
        let Some(state) = self.groups.get(&group).filter(|state| state.is_stale) else {
            return Ok(());
        };
        // What is stored may not be flushed.
        let flushed = state.flushed;
        self.take_up(group)?;
        let state = self.groups.get_mut(&group).expect("it was just taken up");
        state.flushed = flushed;
        let latch = state.latch.as_ref().filter(|latch| !matches!(latch, Latch::Anew(_)));
        if let Some(cause) = latch.map(Latch::cause) {
            // It was latched, and there was no space to make that durable.
            state.is_stale = true;
            self.store.flush()?;
            return Err(ApplyError::of_group(cause));
        }
        Ok(())
    }

    /// As [`Self::load`], while it runs.
    fn take_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        self.load(group).map_err(|error| match error {
            LoadError::Store(error) => error.into(),
            LoadError::Unregistered(unknown) => ApplyError::of_group(unknown.to_string()),
        })
    }

    fn try_run(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<RecordOutcome>, ApplyError> {
        let store = Arc::clone(&self.store);
        let state = self.groups.get_mut(&group).ok_or_else(|| failed("unknown group"))?;
        // Nothing is built behind its back from here on until it has committed.
        let jobs = state.builds.jobs();
        let turns: Vec<_> = jobs.iter().map(Turn::of).collect();
        state.builds.look(&turns);
        let mut view = View::new(&*store);
        let (mut outcomes, mut aside) = (Vec::new(), Aside::default());
        // Where the state stands is what was committed: a fault on the way leaves it where it was.
        let (mut position, mut head) = (state.position, state.head);
        for entry in entries {
            if entry.first_offset != position.offset.next() {
                return Err(failed(&format!(
                    "offsets are not dense, expected={} found={}",
                    position.offset.next(),
                    entry.first_offset
                )));
            }
            let (offset, log_time) = (entry.first_offset, entry.log_time);
            let mut at = At { group, offset, log_time, index: 0 };
            for record in &entry.records {
                let (within, payload) = (self.clients, record.payload.clone());
                let (registry, with) = (&self.registry, (within, self.node));
                let outcome = state
                    .record(registry, with, &*store, &mut view, at, payload, &mut aside)
                    .map_err(|fault| halting(&*store, at.group, at.offset, fault))?;
                if outcome.stands() {
                    view.keep_record();
                } else {
                    view.drop_record();
                }
                state.builds.settle(&mut view);
                let link = ChainLink::of(at.offset, at.log_time, &record.payload);
                head = head.next(link);
                if at.offset.get().is_multiple_of(ANCHORS_EVERY) {
                    let kept = Bytes::copy_from_slice(&head.0);
                    view.put(FamilyId::HEADS, keys::head(group, at.offset), kept);
                    view.keep_record();
                }
                outcomes.push(RecordOutcome(outcome));
                at.offset = at.offset.next();
            }
            position = entry.end();
        }
        let mut writes = view.into_writes();
        let row = encode_position(position, head);
        writes.writes.push((FamilyId::META, keys::position(group), Some(row)));
        if state.latch.take_if(|latch| latch.ends_at(position.offset)).is_some() {
            writes.writes.push(latch::removal(group));
        }
        spans::commit(&*self.store, group, writes)
            .map_err(|error| halting(&*store, group, position.offset, error.into()))?;
        (state.position, state.head) = (position, head);
        state.builds.leave(turns);
        state.builds.publish(&self.jobs);
        self.comparisons.add(group, aside.compared);
        aside.traced.into_iter().for_each(|record| self.traces.tell(record));
        for resource in aside.touched {
            self.contracts.set(group, resource, state.resources.get(resource));
        }
        Ok(outcomes)
    }
}

impl StateMachine for EngineMachine {
    type Outcome = RecordOutcome;

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.groups.get(&group).map_or(AppliedPosition::ZERO, |group| group.position)
    }

    /// One commit for all, but for entries that are about a rebuild: what those bring about may have to be
    /// there before the next one, and rows that they give up must not be written by one before.
    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<RecordOutcome>, ApplyError> {
        let alone =
            |entry: &CommittedEntry| entry.records.iter().any(|record| is_rebuild(&record.payload));
        let before = self.applied(group).index;
        let mut outcomes = Vec::new();
        for run in entries.chunk_by(|one, next| !alone(one) && !alone(next)) {
            match self.apply_run(group, run) {
                Ok(of_run) => outcomes.extend(of_run),
                // Those before it are committed, and are answered.
                Err(error)
                    if error.scope == HaltScope::Nothing && before < self.applied(group).index =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    fn halted(&self, group: GroupId) -> Option<ApplyError> {
        let latch = self.groups.get(&group)?.latch.as_ref();
        latch.map(|latch| ApplyError::of_group(latch.cause()))
    }

    fn is_given_up(&self, group: GroupId) -> bool {
        let latch = self.groups.get(&group).and_then(|group| group.latch.as_ref());
        matches!(latch, Some(Latch::Anew(_)))
    }

    fn give_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        let stood = self.applied(group).offset;
        latch::give_up(&*self.store, group, stood)?;
        self.take_up(group)
    }

    fn flushed(&self, group: GroupId) -> AppliedPosition {
        self.groups.get(&group).map_or(AppliedPosition::ZERO, |group| group.flushed)
    }

    fn exporter(&self) -> Exporter {
        let store = Arc::clone(&self.store);
        Arc::new(move |group| Box::new(StateExport { store: Arc::clone(&store), group }))
    }

    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        if let Some(before) = self.groups.get_mut(&group) {
            before.builds.end_all();
        }
        snapshot::install(&*self.store, group, position, chunks)?;
        self.take_up(group)
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.store.flush()?;
        if self.keeps {
            for group in self.groups.values_mut() {
                group.flushed = group.position;
            }
        }
        Ok(())
    }
}

impl Group {
    /// Computes what a record does. A record that cannot be read is no refusal: other replicas may be
    /// able to.
    #[expect(clippy::too_many_arguments, reason = "all that a record is applied with")]
    fn record(
        &mut self,
        registry: &Registry,
        (clients, node): (ClientBounds, Option<NodeId>),
        store: &dyn StateStore,
        view: &mut View<'_>,
        at: At,
        payload: Bytes,
        aside: &mut Aside,
    ) -> Result<Outcome, ProjectionFault> {
        let (resources, builds) = (&mut self.resources, &mut self.builds);
        let touched = &mut aside.touched;
        let (command, trace) = Command::decode_traced(payload)?;
        let outcome = match command {
            Command::Open(command) => {
                let opened = resources.open(view, registry, at, command)?;
                if let Outcome::Opened { resource, .. } = opened {
                    touched.push(resource);
                }
                Ok(opened)
            }
            Command::Batch(command) => {
                let mut apply = |view: &mut View<'_>, command| {
                    batch_apply::apply(resources, registry, builds, view, at, command)
                };
                match command.number {
                    None => apply(view, command),
                    Some(number) => numbered(view, registry, at, clients, number, command, apply),
                }
            }
            Command::Housekeep(chores) => {
                touched.extend(chores.iter().filter_map(|chore| match chore {
                    Chore::Clients => None,
                    Chore::Resource(id) => Some(*id),
                }));
                batch_apply::tidy(resources, registry, builds, view, at, clients, &chores)
            }
            Command::Alter(command) => {
                touched.push(command.resource);
                Ok(resources.alter(view, at, command))
            }
            Command::Rebuild(command) => {
                let scene = Scene { resources, builds, registry, store, view, at };
                rebuild::apply(scene, command)
            }
            Command::Claim(command) => names::claim(view, at, command),
            Command::Compare(command) => {
                comparing::apply(resources, view, at, node, command, &mut aside.compared)
            }
            Command::Register { ttl_ms, registrant } => {
                ClientTable::load(view, at, clients)?.register(ttl_ms, registrant)
            }
        }?;
        let traced = trace.map(|trace| TracedRecord::new(trace, at.group, at.offset, &outcome));
        aside.traced.extend(traced);
        Ok(outcome)
    }
}

/// Refuses another node's state, and marks an empty store as this one's.
fn claim(store: &dyn StateStore, cluster: ClusterId, node: NodeId) -> Result<(), Error> {
    let owner = owner_row(cluster, node);
    match store.get(FamilyId::META, keys::OWNER).map_err(|error| stopped(&error))? {
        Some(found) if found[..] == owner[..] => Ok(()),
        Some(found) if found.first() != Some(&STATE_VERSION) => Err(Error::Incompatible {
            expected: format!("state version={STATE_VERSION}"),
            found: match found.first() {
                Some(version) if *version < STATE_VERSION => {
                    format!("state version={version}: it was never released, make it anew")
                }
                version => format!("state version={version:?}: open it with a newer release"),
            },
        }),
        Some(found) if found[..] == *UNFINISHED => Err(Error::Incompatible {
            expected: format!("state of cluster={cluster} node={node}"),
            found: "an unfinished restore: empty the directory, and restore again".to_owned(),
        }),
        Some(_) => Err(Error::Incompatible {
            expected: format!("state of cluster={cluster} node={node}"),
            found: "state of another node".to_owned(),
        }),
        None => {
            let write = (FamilyId::META, keys::OWNER.to_vec(), Some(owner));
            store.commit(WriteSet::rows(vec![write])).map_err(|error| stopped(&error))
        }
    }
}

/// Stands in place of the owner while a state is being restored.
pub(crate) const UNFINISHED: &[u8] = &[STATE_VERSION, b'r'];

/// Whose a state is, as it is stored.
pub(crate) fn owner_row(cluster: ClusterId, node: NodeId) -> Bytes {
    let mut owner = vec![STATE_VERSION];
    owner.extend_from_slice(&cluster.get().to_le_bytes());
    owner.extend_from_slice(&node.get().to_le_bytes());
    owner.into()
}

/// A group's position as it is stored.
pub(crate) fn encode_position(position: AppliedPosition, head: ChainHead) -> Bytes {
    let mut out = head.0.to_vec();
    put_number(&mut out, position.index.get());
    put_number(&mut out, position.term.get());
    put_number(&mut out, position.members_index.get());
    put_number(&mut out, position.offset.get());
    put_number(&mut out, position.log_time.get());
    out.into()
}

/// Where a group's stored state stands.
pub(crate) fn read_position(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<(AppliedPosition, ChainHead), StoreError> {
    let Some(raw) = read.get(FamilyId::META, &keys::position(group))? else {
        return Ok((AppliedPosition::ZERO, ChainHead::ZERO));
    };
    decode_position(raw).map_err(|error| StoreError::new(error.to_string()))
}

/// What [`encode_position`] wrote.
pub(crate) fn decode_position(raw: Bytes) -> Result<(AppliedPosition, ChainHead), DecodeError> {
    let mut reader = Reader::new(raw);
    let head = ChainHead(reader.array("chain head")?);
    let position = AppliedPosition {
        index: LogIndex::new(reader.number("index")?),
        term: Term::new(reader.number("term")?),
        members_index: LogIndex::new(reader.number("members index")?),
        offset: Offset::new(reader.number("offset")?),
        log_time: LogTime::new(reader.number("log time")?),
    };
    reader.end("position")?;
    Ok((position, head))
}

/// What becomes of a fault on the way to an offset. A state that is found to be wrong, or cannot be read, is not
/// served after a restart, either.
fn halting(
    store: &dyn StateStore,
    group: GroupId,
    offset: Offset,
    fault: ProjectionFault,
) -> ApplyError {
    let wrong = fault.wrong_state().map(|what| Latch::Wrong(what.to_owned()));
    let unreadable = fault.unreadable_state();
    let unreadable = unreadable.map(|what| Latch::Unreadable(format!("it cannot be read, {what}")));
    let latched = wrong.or(unreadable).map_or(Ok(()), |latch| latch::set(store, group, &latch));
    match latched {
        Ok(()) => fault.within(&format!("offset={offset}")).into_apply_error(),
        Err(error) => error.into(),
    }
}

fn failed(what: &str) -> ApplyError {
    ApplyError::of_node(what)
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => stopped(&error),
            LoadError::Unregistered(unknown) => {
                Self::Incompatible { expected: unknown.expected, found: unknown.found }
            }
        }
    }
}

pub(crate) fn stopped(error: &StoreError) -> Error {
    Error::InternalError { what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use palisade_replication::{ProposalId, Record};

    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn a_state_is_taken_up_by_its_own_node_and_by_no_other_version() {
        let store = MemoryStore::default();
        let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
        let refused = |cluster, node| match claim(&store, cluster, node).unwrap_err() {
            Error::Incompatible { found, .. } => found,
            error => panic!("{error}"),
        };
        claim(&store, cluster, node).unwrap();
        claim(&store, cluster, node).unwrap();
        assert_eq!(refused(cluster, NodeId::new(2)), "state of another node");
        assert_eq!(refused(ClusterId::new(8), node), "state of another node");

        let unfinished = Some(Bytes::from_static(UNFINISHED));
        let writes = vec![(FamilyId::META, keys::OWNER.to_vec(), unfinished)];
        store.commit(WriteSet::rows(writes)).unwrap();
        assert!(refused(cluster, node).starts_with("an unfinished restore"));

        let newer = Some(Bytes::from_static(&[STATE_VERSION + 1]));
        let writes = vec![(FamilyId::META, keys::OWNER.to_vec(), newer)];
        store.commit(WriteSet::rows(writes)).unwrap();
        assert!(refused(cluster, node).contains("newer release"));

        let older = Some(Bytes::from_static(&[STATE_VERSION - 1]));
        let writes = vec![(FamilyId::META, keys::OWNER.to_vec(), older)];
        store.commit(WriteSet::rows(writes)).unwrap();
        assert_eq!(refused(cluster, node), "state version=1: it was never released, make it anew");
    }

    /// What is flushed is what a log is trimmed by.
    #[test]
    fn a_fault_leaves_the_machine_where_the_store_stands() {
        let registry = Registry::new(&[]).unwrap();
        let store = Arc::new(MemoryStore::default());
        let group = GroupId::new(1);
        let mut machine =
            EngineMachine::unclaimed(store.clone(), registry, true, &[group]).unwrap();
        let entry = |number: u64, payload: Bytes| CommittedEntry {
            members_index: LogIndex::new(1),
            index: LogIndex::new(number),
            term: Term::new(1),
            log_time: LogTime::new(number),
            first_offset: Offset::new(number),
            records: vec![Record { id: ProposalId { session: 1, seq: number }, payload }],
        };
        let known = Command::Housekeep(vec![Chore::Resource(ResourceId(7))]).encode();
        machine.apply(group, &[entry(1, known.clone())]).unwrap();
        let stands = machine.applied(group);
        let entries = [entry(2, known.clone()), entry(3, Bytes::from_static(b"unreadable"))];
        machine.apply(group, &entries).unwrap_err();
        machine.flush().unwrap();
        assert_eq!(machine.applied(group), stands);
        assert_eq!(machine.flushed(group), stands);
        assert_eq!(read_position(&*store, group).unwrap().0, stands);
    }
}
