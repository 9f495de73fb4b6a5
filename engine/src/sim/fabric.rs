//! A whole cluster inside a test: what a service that links Palisade can try its own code against.
//!
//! The same engine runs as in production, over simulated disks, ways and clocks, in one thread and
//! from one seed: a run that fails can be repeated. Time only passes when something is asked for or
//! [`SimFabric::run_for`] is called.
//!
//! ```
//! use palisade::sim::{SimFabric, SimRefusal};
//!
//! let mut fabric = SimFabric::new(3);
//! let [one, two, three] = [fabric.node(1), fabric.node(2), fabric.node(3)];
//! let map = fabric.open_map(one, "states", 1)?;
//! let receipt = fabric.put(one, map, "job 7", "accepted")?;
//! assert_eq!(fabric.get_at_least(two, map, "job 7", receipt)?.as_deref(), Some("accepted"));
//!
//! fabric.partition(&[one]);
//! assert_eq!(fabric.put(one, map, "job 8", "accepted"), Err(SimRefusal::Unknown));
//! fabric.put(three, map, "job 9", "accepted")?;
//! fabric.heal();
//! # Ok::<(), palisade::sim::SimRefusal>(())
//! ```

use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{NodeId, Offset, StateMachine};

use super::{GROUP, SimCluster, SimCompletion, SimEngine, SimOptions, SimOutcome};
use crate::command::{Action, Command, Op};
use crate::resource::{
    FailureDomain, FenceEpoch, LogicalResourceName, Placement, ReplicaPolicy, ResourceId,
    ResourceKind, ResourceSpec, SchemaId,
};

/// How long an operation is waited for, in simulated time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time passes in steps of this while an operation is waited for.
const STEP_US: u64 = 1_000;
const PROVIDER: &str = "simulated";

/// A simulated cluster that behaves, until it is told not to.
pub struct SimFabric {
    cluster: SimCluster<SimEngine>,
}

/// An opened resource, and the epoch it was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimResource {
    id: ResourceId,
    epoch: FenceEpoch,
}

/// Why an operation has no receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimRefusal {
    /// Nothing happened: the node is down or does not take it now.
    #[error("nothing happened: {what}")]
    Unavailable {
        /// Why.
        what: String,
    },
    /// It may have happened: there was no answer in time, or its node went down.
    #[error("the outcome is unknown")]
    Unknown,
    /// It was judged in its place in the log, and refused.
    #[error("refused: {0:?}")]
    Refused(SimOutcome),
    /// The replica has not applied that much.
    #[error("not yet applied, required={required} applied={applied}")]
    NotYetApplied {
        /// What was asked for.
        required: Offset,
        /// What there is.
        applied: Offset,
    },
}

impl SimFabric {
    /// So many nodes that are all voters, with nothing going wrong by itself.
    #[must_use]
    pub fn new(nodes: u64) -> Self {
        Self::from_seed(1, nodes)
    }

    /// The same with another order of things.
    #[must_use]
    pub fn from_seed(seed: u64, nodes: u64) -> Self {
        let options = SimOptions {
            nodes,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            corrupt_per_mille: 0,
            ..SimOptions::default()
        };
        let mut cluster = SimCluster::new(seed, options, SimEngine::new);
        while cluster.leader(GROUP).is_none() {
            cluster.run_for(10 * STEP_US);
        }
        Self { cluster }
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn node(&self, number: u64) -> NodeId {
        let node = NodeId::new(number);
        assert!(self.cluster.node_ids().contains(&node), "there is no node {number}");
        node
    }

    /// The node that leads, if one does.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.cluster.leader(GROUP)
    }

    /// Opens a log for writing, which fences lower epochs.
    ///
    /// # Errors
    /// [`SimRefusal`], as for every operation.
    pub fn open_log(
        &mut self,
        node: NodeId,
        name: &str,
        epoch: u64,
    ) -> Result<SimResource, SimRefusal> {
        self.open(node, ResourceKind::Log, name, epoch)
    }

    /// Opens a map for writing, which fences lower epochs.
    ///
    /// # Errors
    /// [`SimRefusal`], as for every operation.
    pub fn open_map(
        &mut self,
        node: NodeId,
        name: &str,
        epoch: u64,
    ) -> Result<SimResource, SimRefusal> {
        self.open(node, ResourceKind::Map, name, epoch)
    }

    fn open(
        &mut self,
        node: NodeId,
        kind: ResourceKind,
        name: &str,
        epoch: u64,
    ) -> Result<SimResource, SimRefusal> {
        let invalid =
            |error: crate::error::Error| SimRefusal::Unavailable { what: error.to_string() };
        let epoch = FenceEpoch::new(epoch);
        let spec = ResourceSpec {
            name: LogicalResourceName::new(name).map_err(invalid)?,
            schema: SchemaId::new("simulated.v1").map_err(invalid)?,
            epoch,
            replicas: ReplicaPolicy::majority(1),
            placement: Placement::providers([PROVIDER]).map_err(invalid)?,
        };
        match self.commit(node, Command::Open { kind, spec, caller: caller() })? {
            (_, SimOutcome::Opened(id)) => Ok(SimResource { id, epoch }),
            (_, refused) => Err(SimRefusal::Refused(refused)),
        }
    }

    /// Appends to a log.
    ///
    /// # Errors
    /// [`SimRefusal`]; a fenced writer is told who is current.
    pub fn append(
        &mut self,
        node: NodeId,
        log: SimResource,
        payload: &str,
    ) -> Result<Offset, SimRefusal> {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.act(node, log, Action::Append { payload })
    }

    /// Puts a value into a map.
    ///
    /// # Errors
    /// [`SimRefusal`]; a fenced writer is told who is current.
    pub fn put(
        &mut self,
        node: NodeId,
        map: SimResource,
        key: &str,
        value: &str,
    ) -> Result<Offset, SimRefusal> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        self.act(node, map, Action::Put { guard: None, key: bytes(key), value: bytes(value) })
    }

    fn act(
        &mut self,
        node: NodeId,
        resource: SimResource,
        action: Action,
    ) -> Result<Offset, SimRefusal> {
        let op = Op { resource: resource.id, epoch: resource.epoch, action };
        match self.commit(node, Command::Batch { caller: caller(), ops: vec![op] })? {
            (offset, SimOutcome::Applied) => Ok(offset),
            (_, refused) => Err(SimRefusal::Refused(refused)),
        }
    }

    /// What a node's map holds, at least as fresh as this offset. Waits for nothing (G4).
    ///
    /// # Errors
    /// [`SimRefusal::NotYetApplied`] if the node is behind.
    pub fn get_at_least(
        &mut self,
        node: NodeId,
        map: SimResource,
        key: &str,
        required: Offset,
    ) -> Result<Option<String>, SimRefusal> {
        let machine = self.cluster.machine(node);
        let applied = machine.applied(GROUP).offset;
        if applied < required {
            return Err(SimRefusal::NotYetApplied { required, applied });
        }
        let found = machine.map(GROUP, map.id, key.as_bytes());
        Ok(found.map(|(value, _)| String::from_utf8_lossy(&value).into_owned()))
    }

    /// What a node's map holds, as fresh as anything that was acknowledged before (G5).
    ///
    /// # Errors
    /// [`SimRefusal::Unknown`] if no majority confirms it in time.
    pub fn get(
        &mut self,
        node: NodeId,
        map: SimResource,
        key: &str,
    ) -> Result<Option<String>, SimRefusal> {
        let op = self.cluster.read(node, GROUP);
        match self.wait_for(op)? {
            SimCompletion::Readable(at) => self.get_at_least(node, map, key, at),
            _ => Err(SimRefusal::Unknown),
        }
    }

    /// What a node's log holds: offset and payload.
    #[must_use]
    pub fn scan(&self, node: NodeId, log: SimResource) -> Vec<(Offset, String)> {
        let rows = self.cluster.machine(node).log(GROUP, log.id).into_iter();
        rows.map(|(offset, payload)| {
            (Offset::new(offset), String::from_utf8_lossy(&payload).into_owned())
        })
        .collect()
    }

    fn commit(
        &mut self,
        node: NodeId,
        command: Command,
    ) -> Result<(Offset, SimOutcome), SimRefusal> {
        let op = self.cluster.propose(node, GROUP, command.encode());
        match self.wait_for(op)? {
            SimCompletion::Committed(done) => Ok((done.offset, SimOutcome::from(&done.outcome))),
            _ => Err(SimRefusal::Unknown),
        }
    }

    fn wait_for(&mut self, op: u64) -> Result<SimCompletion<super::RecordOutcome>, SimRefusal> {
        let end = self.cluster.now_us() + PATIENCE.as_micros() as u64;
        while self.cluster.now_us() < end {
            while let Some((done, completion)) = self.cluster.completion() {
                // Answers that come after their operation was given up are nobody's.
                if done != op {
                    continue;
                }
                return match completion {
                    SimCompletion::Refused(error) => {
                        Err(SimRefusal::Unavailable { what: error.to_string() })
                    }
                    SimCompletion::Unknown => Err(SimRefusal::Unknown),
                    completion => Ok(completion),
                };
            }
            self.cluster.run_for(STEP_US);
        }
        Err(SimRefusal::Unknown)
    }

    /// Cuts these nodes off from all others, both ways.
    pub fn partition(&mut self, side: &[NodeId]) {
        for from in side {
            for to in self.cluster.node_ids().into_iter().filter(|to| !side.contains(to)) {
                self.cluster.set_blocked(*from, to, true);
                self.cluster.set_blocked(to, *from, true);
            }
        }
    }

    /// Mends all ways and disks, and lets stopped processes go on.
    pub fn heal(&mut self) {
        self.cluster.heal();
    }

    /// A node loses power: what it had not synced is gone.
    pub fn crash(&mut self, node: NodeId) {
        self.cluster.power_off(node);
    }

    /// Starts a node on what its disk holds.
    pub fn restart(&mut self, node: NodeId) {
        self.cluster.start(node);
    }

    /// The process of a node stands still for so long, and then goes on.
    pub fn pause(&mut self, node: NodeId, length: Duration) {
        self.cluster.pause(node, length.as_micros() as u64);
    }

    /// The wall clock of a node jumps.
    pub fn jump_clock(&mut self, node: NodeId, ms: i64) {
        self.cluster.jump_clock(node, ms);
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, length: Duration) {
        self.cluster.run_for(length.as_micros() as u64);
    }

    /// All replicas have come to the same state.
    ///
    /// # Panics
    /// When they have not: heal first, and give them time.
    pub fn assert_converged(&self) {
        self.cluster.assert_converged();
    }
}

fn caller() -> FailureDomain {
    FailureDomain::new(PROVIDER, "here", "a")
}
