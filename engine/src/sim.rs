//! The engine's state machine under the simulator of `palisade-replication`.

mod backend;
mod conduct;
mod desk;
mod exchange;
mod fabric;
mod import_law;
mod rehearsal;
mod release;
mod rot;

use std::sync::{Arc, Mutex};

use palisade_replication::sim::SimMachine;
use palisade_replication::{
    AppliedPosition, ApplyError, ClusterId, CommittedEntry, Exporter, GroupId, NodeId, Offset,
    StateMachine,
};

use crate::command::{BatchCommand, Command, Op, OpenCommand};
use crate::comparing::Comparisons;
use crate::contracts::Contracts;
use crate::digest::digest;
use crate::error::Error;
use crate::machine::{EngineMachine, read_position};
use crate::outcome::Outcome;
use crate::page::Page;
use crate::profile::PolicyHash;
use crate::projection::rebuild::JobDesk;
use crate::projection::{Registry, RowsRead};
use crate::projections::idempotency::{Fingerprint, RequestOp};
use crate::projections::log::{self, LogOp, LogPosition, RawEntry};
use crate::projections::map::{self, MapOp, Version, When};
use crate::resource::{FailureDomain, FenceEpoch, ResourceId, ResourceKind, ResourceSpec};
use crate::store::{Direction, FamilyId, MemoryStore};
use crate::stored::Stored;
use crate::trace::{TraceContext, TraceListeners};

pub use crate::outcome::RecordOutcome;
pub use conduct::{Misconduct, check_projection};
pub use fabric::{SimFabric, SimFabricBuilder};
pub use import_law::check_import;
pub use palisade_replication::sim::{
    Completion as SimCompletion, GROUP, Nemesis, OpId, SimCluster, SimFault, SimOptions, SimRandom,
};
pub use release::SimRelease;

/// The cluster that every simulated node belongs to.
const CLUSTER: ClusterId = ClusterId::new(1);

/// The engine over a store that loses what was not flushed.
///
/// What is proposed to it are records as services make them; a campaign with histories of its own is built of these:
///
/// ```
/// use palisade::sim::*;
/// use palisade::*;
///
/// let mut cluster = SimCluster::new(1, SimOptions::calm(), SimEngine::new);
/// while cluster.leader(GROUP).is_none() {
///     cluster.run_for(10_000);
/// }
/// let leader = cluster.leader(GROUP).expect("somebody leads");
/// let caller = FailureDomain::new("local", "local", "local");
/// let mut done = |record| -> SimOutcome {
///     cluster.propose(leader, GROUP, record);
///     assert!(cluster.run_to_completion(u64::MAX));
///     match cluster.completion() {
///         Some((_, SimCompletion::Committed(done))) => (&done.outcome as &RecordOutcome).into(),
///         other => panic!("{other:?}"),
///     }
/// };
/// let mut opened = |kind, name| -> ResourceId {
///     let spec = ResourceSpec::new(name, "v1").expect("it is a name");
///     match done(open(kind, spec, caller.clone())) {
///         SimOutcome::Opened(resource) => resource,
///         other => panic!("{other:?}"),
///     }
/// };
/// let resources = [
///     opened(ResourceKind::LOG, "log"),
///     opened(ResourceKind::MAP, "map"),
///     opened(ResourceKind::IDEMPOTENCY, "requests"),
/// ];
/// let [log, map, _] = resources;
/// let (key, epoch) = (b"r-17".to_vec(), FenceEpoch::new(1));
/// let payload = b"a report".to_vec();
/// let submission = Submission { resources, epoch, key: key.clone(), payload, caller: caller.clone() };
/// assert_eq!(done(submission.encode()), SimOutcome::Applied);
/// assert!(matches!(done(submission.encode()), SimOutcome::Duplicate(_)));
///
/// let payload = b"another".to_vec();
/// let swap = Swap { log, map, epoch, key: key.clone(), expected: Some(1), payload, caller };
/// assert_eq!(done(swap.encode()), SimOutcome::VersionMismatch);
///
/// let state: &SimEngine = cluster.machine(leader);
/// let (offset, report) = state.log(GROUP, log)[0].clone();
/// assert_eq!(state.logged(GROUP, log, offset), Some(report.clone()));
/// assert_eq!(state.map(GROUP, map, &key), Some((report, offset)));
/// # let _ = SimEngine::of_groups(NodeId::new(1), &[GROUP]);
/// ```
pub struct SimEngine {
    store: MemoryStore,
    machine: EngineMachine,
    /// What its next life is opened with, if it is another release.
    next: Release,
}

/// What a node is to be opened with when it starts again.
type Release = Arc<Mutex<Option<Registry>>>;

impl SimEngine {
    /// A fresh replica of one group.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self::of_groups(node, &[GROUP])
    }

    /// A fresh replica of each of these groups.
    ///
    /// ```
    /// use palisade::GroupId;
    /// use palisade::sim::{SimCluster, SimEngine, SimOptions};
    ///
    /// let groups = [1, 2].map(GroupId::new);
    /// let options = SimOptions { groups: 2, ..SimOptions::calm() };
    /// let mut cluster =
    ///     SimCluster::new(1, options, move |node| SimEngine::of_groups(node, &groups));
    /// cluster.run_for(2_000_000);
    /// assert!(groups.iter().all(|group| cluster.leader(*group).is_some()));
    /// ```
    ///
    /// # Panics
    /// Never: an empty store in memory opens.
    #[must_use]
    pub fn of_groups(node: NodeId, groups: &[GroupId]) -> Self {
        let registry = Registry::new(&[]).expect("no name is wrong");
        Self::with_registry(node, groups, registry)
    }

    fn with_registry(node: NodeId, groups: &[GroupId], registry: Registry) -> Self {
        let store = MemoryStore::new(registry.families().clone());
        let shared = Arc::new(store.clone());
        let machine = EngineMachine::open(shared, registry, true, CLUSTER, node, groups)
            .expect("an empty store opens");
        Self { store, machine, next: Release::default() }
    }

    /// Where to say that it is to be opened with something else.
    fn release(&self) -> Release {
        Arc::clone(&self.next)
    }

    /// The groups that it is a replica of.
    fn groups(&self) -> Vec<GroupId> {
        self.machine.groups()
    }

    /// What is to be built beside its log; clones share it.
    fn jobs(&self) -> JobDesk {
        self.machine.jobs()
    }

    /// The state; clones share it.
    fn store(&self) -> MemoryStore {
        self.store.clone()
    }

    /// The contracts of its resources; clones share them.
    fn contracts(&self) -> Contracts {
        self.machine.contracts()
    }

    /// Where it is heard of applied records that are part of traces.
    fn traces(&self) -> TraceListeners {
        self.machine.traces()
    }

    /// How often its replicas were compared; clones share it.
    fn comparisons(&self) -> Comparisons {
        self.machine.comparisons()
    }

    /// What the state holds of a log: offset and payload.
    #[must_use]
    pub fn log(&self, group: GroupId, resource: ResourceId) -> Vec<(u64, Vec<u8>)> {
        let rows = RowsRead::new(&self.store, FamilyId::LOG, group, resource);
        let first = log::header(&rows).expect("memory can be read").first;
        let (mut entries, mut next) = (Vec::new(), Some(first));
        while let Some(from) = next {
            let page = page(&rows, from, usize::MAX).expect("it begins where the log does");
            entries.extend(
                page.rows
                    .into_iter()
                    .map(|entry| (entry.position.offset.get(), entry.payload.to_vec())),
            );
            next = page.next;
        }
        entries
    }

    /// What a log holds at an offset.
    #[must_use]
    pub fn logged(&self, group: GroupId, resource: ResourceId, offset: u64) -> Option<Vec<u8>> {
        let rows = RowsRead::new(&self.store, FamilyId::LOG, group, resource);
        let page = page(&rows, Offset::new(offset).into(), 1)?;
        let entry = page.rows.into_iter().next()?;
        (entry.position.offset.get() == offset).then(|| entry.payload.to_vec())
    }

    /// What the state holds of a map's key: value and version.
    #[must_use]
    pub fn map(&self, group: GroupId, resource: ResourceId, key: &[u8]) -> Option<(Vec<u8>, u64)> {
        let rows = RowsRead::new(&self.store, FamilyId::MAP, group, resource);
        map::get(&rows, key, When::Now)
            .expect("memory can be read")
            .map(|found| (found.value.to_vec(), found.version.offset().get()))
    }
}

/// Entries of a log from a place on, if none of them was removed.
fn page(
    rows: &RowsRead<'_>,
    from: LogPosition,
    limit: usize,
) -> Option<Page<RawEntry, LogPosition>> {
    let found =
        log::scan(rows, from, Direction::Forward, Page::new(limit)).expect("memory can be read");
    found.ok().map(|found| found.page)
}

impl StateMachine for SimEngine {
    type Outcome = RecordOutcome;

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.machine.applied(group)
    }

    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<RecordOutcome>, ApplyError> {
        self.machine.apply(group, entries)
    }

    fn halted(&self, group: GroupId) -> Option<ApplyError> {
        self.machine.halted(group)
    }

    fn is_given_up(&self, group: GroupId) -> bool {
        self.machine.is_given_up(group)
    }

    fn give_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        self.machine.give_up(group)
    }

    fn flushed(&self, group: GroupId) -> AppliedPosition {
        self.machine.flushed(group)
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.machine.flush()
    }

    fn exporter(&self) -> Exporter {
        self.machine.exporter()
    }

    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<bytes::Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        self.machine.install(group, position, chunks)
    }
}

impl SimMachine for SimEngine {
    fn crash(&mut self) {
        self.store.crash();
        if let Some(registry) = self.next.lock().expect("nobody panics with it").take() {
            self.machine.upgrade(registry);
        }
        self.machine.reload().expect("memory can be read, and what it needs is registered");
    }

    fn head(&self, group: GroupId) -> [u8; 32] {
        let (_, head) = read_position(&self.store, group).expect("memory can be read");
        head.0
    }

    fn digest(&self, group: GroupId) -> [u8; 32] {
        let digest = digest(&self.store, group).expect("memory can be read");
        // One number for all of it: any difference shows.
        let text = format!("{digest:?}");
        Fingerprint::of(text.as_bytes()).0
    }
}

/// A record that opens a resource.
#[must_use]
pub fn open(kind: ResourceKind, spec: ResourceSpec, caller: FailureDomain) -> bytes::Bytes {
    let (claim, policy) = (Offset::ZERO, PolicyHash::of_spec(&spec));
    Command::Open(OpenCommand { anew: false, claim, kind, version: 1, spec, policy, caller })
        .encode()
}

/// A record of operations that demand nothing.
fn batch(
    caller: &FailureDomain,
    epoch: FenceEpoch,
    ops: Vec<(ResourceId, bytes::Bytes)>,
) -> bytes::Bytes {
    let op = |(resource, body)| Op { resource, epoch, body };
    let then: Vec<Op> = ops.into_iter().map(op).collect();
    let (guards, otherwise, trace) = (Vec::new(), Vec::new(), drawn(&then));
    let (number, caller) = (None, caller.clone());
    Command::Batch(BatchCommand { number, caller, guards, then, otherwise })
        .encode_traced(trace.as_ref())
}

/// About one record in four is part of a trace, as what it says has it.
fn drawn(ops: &[Op]) -> Option<TraceContext> {
    let bytes = ops.iter().flat_map(|op| &op.body);
    let sum = bytes.fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let trace = TraceContext::new(u128::from(sum).to_be_bytes(), sum.to_be_bytes(), 1);
    trace.filter(|_| sum.is_multiple_of(4))
}

/// A submission as the report service makes it: reserve, append, put and complete in one batch.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Log, map and idempotency store.
    pub resources: [ResourceId; 3],
    /// The writer's epoch.
    pub epoch: FenceEpoch,
    /// The request's id.
    pub key: Vec<u8>,
    /// What it asks for.
    pub payload: Vec<u8>,
    /// On whose behalf.
    pub caller: FailureDomain,
}

impl Submission {
    /// Its record.
    #[must_use]
    pub fn encode(&self) -> bytes::Bytes {
        let [log, map, requests] = self.resources;
        let key = bytes::Bytes::copy_from_slice(&self.key);
        let payload = bytes::Bytes::copy_from_slice(&self.payload);
        let owner = self.epoch;
        let fingerprint = Fingerprint::of(&self.payload);
        let reserve = RequestOp::Reserve { owner, issued: None, fingerprint, key: key.clone() };
        let append = LogOp::append(payload.clone());
        let put = MapOp::Put { guard: None, ttl_ms: None, key: key.clone(), value: payload };
        let complete = RequestOp::Complete { owner, key, result: bytes::Bytes::new() };
        let ops = vec![
            (requests, reserve.to_bytes()),
            (log, append.to_bytes()),
            (map, put.to_bytes()),
            (requests, complete.to_bytes()),
        ];
        batch(&self.caller, self.epoch, ops)
    }
}

/// A batch that appends to a log and then sets a key of a map, whatever it holds or only if that
/// stands where it is expected.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The log.
    pub log: ResourceId,
    /// The map.
    pub map: ResourceId,
    /// The writer's epoch.
    pub epoch: FenceEpoch,
    /// The key.
    pub key: Vec<u8>,
    /// The offset of the change that is expected to be the key's last, 0 for none.
    pub expected: Option<u64>,
    /// What is appended, and what the key is set to.
    pub payload: Vec<u8>,
    /// On whose behalf.
    pub caller: FailureDomain,
}

impl Swap {
    /// Its record.
    #[must_use]
    pub fn encode(&self) -> bytes::Bytes {
        let key = bytes::Bytes::copy_from_slice(&self.key);
        let payload = bytes::Bytes::copy_from_slice(&self.payload);
        let guard = self.expected.map(|offset| Version(Offset::new(offset)));
        let append = LogOp::append(payload.clone());
        let put = MapOp::Put { guard, ttl_ms: None, key, value: payload };
        let ops = vec![(self.log, append.to_bytes()), (self.map, put.to_bytes())];
        batch(&self.caller, self.epoch, ops)
    }
}

/// An outcome in words a test can match on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimOutcome {
    /// The resource is open.
    Opened(ResourceId),
    /// It took effect.
    Applied,
    /// It had taken effect before, at this offset.
    Duplicate(u64),
    /// A newer writer has opened the resource.
    Fenced(FenceEpoch),
    /// The id was used for something else.
    Conflict,
    /// The key does not stand where it was expected.
    VersionMismatch,
    /// Any other refusal.
    Refused(String),
}

impl From<&RecordOutcome> for SimOutcome {
    fn from(outcome: &RecordOutcome) -> Self {
        match &outcome.0 {
            Outcome::Opened { resource, .. } => Self::Opened(*resource),
            Outcome::Applied { .. } | Outcome::Altered { .. } => Self::Applied,
            Outcome::Duplicate(first) => Self::Duplicate(first.offset.get()),
            Outcome::Refused(refusal) => match Error::from(refusal.clone()) {
                Error::Fenced { current } => Self::Fenced(current),
                Error::IdempotencyConflict { .. } => Self::Conflict,
                Error::VersionMismatch { .. } => Self::VersionMismatch,
                other => Self::Refused(other.to_string()),
            },
            Outcome::Repeated { first, .. } => Self::Duplicate(first.offset.get()),
            // Records of this file have no number.
            other => Self::Refused(format!("{other:?}")),
        }
    }
}
