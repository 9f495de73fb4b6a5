//! The state machine: committed records in, state and outcomes out.
//!
//! One record is one offset. It takes effect entirely or not at all: operations are done in order
//! over a view that reads its own writes, and the first that cannot be done takes all of them back.
//! Who may do it is judged for all operations first, so that a fenced writer learns that it is
//! fenced, whatever else is wrong. Requests come next, so that a repetition is answered as one (G6)
//! and not with a guard that its own first effect has moved. No other operation can tell: reserving
//! and completing touch nothing that they touch.
//!
//! Records form a chain (`chain.rs`): equal heads at equal offsets mean equal logs (G8).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{
    AppliedPosition, ApplyError, ClusterId, CommittedEntry, Exporter, GroupId, LogIndex, LogTime,
    NodeId, Offset, StateMachine, Term,
};

use crate::chain::{ChainHead, ChainLink};
use crate::codec::{DecodeError, Reader, put_number};
use crate::command::{Action, Command, Op, Outcome, Refusal};
use crate::error::Error;
use crate::keys;
use crate::projections::resources::ResourceTable;
use crate::projections::{At, Step, idempotency, log, map};
use crate::resource::{FailureDomain, ResourceKind};
use crate::snapshot::{self, StateExport};
use crate::store::{FamilyId, StateRead, StateStore, StoreError, WriteSet};
use crate::view::View;

/// Format of everything stored, beside each record's own version.
pub(crate) const STATE_VERSION: u8 = 2;

/// The engine's state machine over a store.
pub(crate) struct EngineMachine {
    store: Arc<dyn StateStore>,
    /// Whether a flush of the store survives a restart.
    keeps: bool,
    groups: BTreeMap<GroupId, Group>,
}

struct Group {
    position: AppliedPosition,
    flushed: AppliedPosition,
    head: ChainHead,
    resources: ResourceTable,
}

impl EngineMachine {
    /// Takes up the state where the store left it, and marks an empty store as this node's.
    /// `keeps` says whether the store survives a restart.
    ///
    /// # Errors
    /// When the state is another node's or of an unknown version, or cannot be read.
    pub(crate) fn open(
        store: Arc<dyn StateStore>,
        keeps: bool,
        cluster: ClusterId,
        node: NodeId,
        groups: &[GroupId],
    ) -> Result<Self, Error> {
        claim(&*store, cluster, node)?;
        Self::unclaimed(store, keeps, groups)
    }

    /// Takes up a state without asking whose it is.
    pub(crate) fn unclaimed(
        store: Arc<dyn StateStore>,
        keeps: bool,
        groups: &[GroupId],
    ) -> Result<Self, Error> {
        let mut machine = Self { store, keeps, groups: BTreeMap::new() };
        for group in groups {
            machine.load(*group).map_err(|error| stopped(&error))?;
        }
        Ok(machine)
    }

    fn load(&mut self, group: GroupId) -> Result<(), StoreError> {
        let (position, head) = read_position(&*self.store, group)?;
        let resources = ResourceTable::load(&*self.store, group)?;
        // What the store came up with was flushed: it keeps nothing else over a restart.
        let flushed = if self.keeps { position } else { AppliedPosition::ZERO };
        self.groups.insert(group, Group { position, flushed, head, resources });
        Ok(())
    }

    /// Forgets what is not in the store, as a crash does.
    #[cfg(feature = "sim")]
    pub(crate) fn reload(&mut self) -> Result<(), StoreError> {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        groups.into_iter().try_for_each(|group| self.load(group))
    }
}

impl StateMachine for EngineMachine {
    type Outcome = RecordOutcome;

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.groups.get(&group).map_or(AppliedPosition::ZERO, |group| group.position)
    }

    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<RecordOutcome>, ApplyError> {
        let store = Arc::clone(&self.store);
        let state = self.groups.get_mut(&group).ok_or_else(|| failed("unknown group"))?;
        let mut view = View::new(&*store);
        let mut outcomes = Vec::new();
        for entry in entries {
            if entry.first_offset != state.position.offset.next() {
                return Err(failed(&format!(
                    "offsets are not dense, expected={} found={}",
                    state.position.offset.next(),
                    entry.first_offset
                )));
            }
            let mut at = At { group, offset: entry.first_offset, log_time: entry.log_time };
            for record in &entry.records {
                let command = Command::decode(record.payload.clone())
                    .map_err(|error| failed(&format!("offset={}: {error}", at.offset)))?;
                let outcome = state
                    .record(&mut view, at, command)
                    .map_err(|error| failed(&error.to_string()))?;
                match &outcome {
                    Outcome::Applied | Outcome::Opened { .. } => view.keep_record(),
                    Outcome::Duplicate(_) | Outcome::Refused(_) => view.drop_record(),
                }
                let link = ChainLink::of(at.offset, at.log_time, &record.payload);
                state.head = state.head.next(link);
                outcomes.push(RecordOutcome(outcome));
                at.offset = at.offset.next();
            }
            state.position = entry.end();
        }
        let mut writes = view.into_writes();
        let row = encode_position(state.position, state.head);
        writes.writes.push((FamilyId::META, keys::position(group), Some(row)));
        self.store.commit(writes).map_err(|error| failed(&error.to_string()))?;
        Ok(outcomes)
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
        snapshot::install(&*self.store, group, position, chunks)?;
        self.load(group).map_err(|error| failed(&error.to_string()))
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.store.flush().map_err(|error| failed(&error.to_string()))?;
        if self.keeps {
            for group in self.groups.values_mut() {
                group.flushed = group.position;
            }
        }
        Ok(())
    }
}

/// What a record's application answers; read through the handles.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "exported for the simulator"))]
pub struct RecordOutcome(pub(crate) Outcome);

impl Group {
    fn record(
        &mut self,
        view: &mut View<'_>,
        at: At,
        command: Command,
    ) -> Result<Outcome, StoreError> {
        match command {
            Command::Open { kind, spec, caller } => {
                Ok(self.resources.open(view, at.group, kind, spec, &caller))
            }
            Command::Batch { caller, ops } => self.batch(view, at, &caller, ops),
        }
    }

    fn batch(
        &self,
        view: &mut View<'_>,
        at: At,
        caller: &FailureDomain,
        ops: Vec<Op>,
    ) -> Result<Outcome, StoreError> {
        for op in &ops {
            let kind = op.action.kind();
            if let Err(refusal) = self.resources.admit(op.resource, kind, op.epoch, caller) {
                return Ok(Outcome::Refused(refusal));
            }
        }
        if appends_twice(&ops) {
            return Ok(Outcome::Refused(Refusal::AppendedTwice));
        }
        let (requests, others): (Vec<Op>, Vec<Op>) =
            ops.into_iter().partition(|op| op.action.kind() == ResourceKind::Idempotency);
        for op in requests.into_iter().chain(others) {
            match step(view, at, op)? {
                Step::Done => {}
                Step::Duplicate(completion) => return Ok(Outcome::Duplicate(completion)),
                Step::Refused(refusal) => return Ok(Outcome::Refused(refusal)),
            }
        }
        Ok(Outcome::Applied)
    }
}

/// True if two operations append to the same log.
pub(crate) fn appends_twice(ops: &[Op]) -> bool {
    let appends = |op: &&Op| matches!(op.action, Action::Append { .. });
    let mut logs: Vec<_> = ops.iter().filter(appends).map(|op| op.resource).collect();
    logs.sort_unstable();
    logs.windows(2).any(|pair| pair[0] == pair[1])
}

fn step(view: &mut View<'_>, at: At, op: Op) -> Result<Step, StoreError> {
    let resource = op.resource;
    match op.action {
        Action::Append { payload } => log::append(view, at, resource, payload),
        Action::Put { guard, key, value } => {
            map::change(view, at, resource, guard, &key, Some(value))
        }
        Action::Delete { guard, key } => map::change(view, at, resource, guard, &key, None),
        Action::Reserve { owner, fingerprint, key } => {
            idempotency::reserve(view, at, resource, owner, fingerprint, &key)
        }
        Action::Complete { owner, key, result } => {
            idempotency::complete(view, at, resource, owner, &key, result)
        }
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

/// The cluster whose state it is.
#[cfg(feature = "backup")]
pub(crate) fn read_cluster(read: &dyn StateRead) -> Result<ClusterId, StoreError> {
    let owner = read.get(FamilyId::META, keys::OWNER)?;
    let cluster = owner.as_deref().and_then(|owner| owner.get(1..)?.first_chunk());
    let cluster = cluster.ok_or_else(|| StoreError { what: "the state is nobody's".to_owned() });
    Ok(ClusterId::new(u128::from_le_bytes(*cluster?)))
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
    decode_position(raw).map_err(|error| StoreError { what: error.to_string() })
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

fn failed(what: &str) -> ApplyError {
    ApplyError::of_node(what)
}

pub(crate) fn stopped(error: &StoreError) -> Error {
    Error::InternalError { what: error.to_string() }
}

#[cfg(test)]
mod tests {
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
}
