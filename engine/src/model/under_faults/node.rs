//! A replica that says what it applies, and is compared with the model wherever it could have lost something.

use palisade_replication::sim::SimMachine;
use palisade_replication::{ApplyError, Exporter};

use super::super::*;
use super::journal::Shared;
use crate::outcome::RecordOutcome;
use crate::projections::idempotency::Fingerprint;

/// The machine under test on one node.
pub(super) struct Watched {
    node: NodeId,
    replica: Replica<MemoryStore>,
    journal: Shared,
}

impl Watched {
    pub(super) fn new(node: NodeId, journal: Shared) -> Self {
        Self { node, replica: Replica::open(Arc::new(MemoryStore::default())), journal }
    }

    /// The rows, as a read finds them.
    pub(super) fn store(&self) -> &MemoryStore {
        &self.replica.store
    }

    /// How far it is applied.
    pub(super) fn offset(&self) -> u64 {
        self.replica.machine.applied(GROUP).offset.get()
    }

    /// Everything that is stored is what the model says there, and nothing else is.
    pub(super) fn check(&self) {
        let model = self.journal.lock().model(self.offset());
        assert_state(self.store(), &model);
        assert_contracts(&self.replica.machine, &model);
    }
}

impl StateMachine for Watched {
    type Outcome = RecordOutcome;

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.replica.machine.applied(group)
    }

    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<RecordOutcome>, ApplyError> {
        let applied = self.replica.machine.apply(group, entries);
        // No record of a client is unreadable, and memory can always be written.
        let outcomes = applied.unwrap_or_else(|halted| panic!("node={}: {halted}", self.node));
        let (mut journal, mut rest) = (self.journal.lock(), &outcomes[..]);
        for entry in entries {
            let (told, others) = rest.split_at(entry.records.len());
            journal.applied(self.node, entry, told);
            rest = others;
        }
        drop(journal);
        Ok(outcomes)
    }

    fn halted(&self, group: GroupId) -> Option<ApplyError> {
        self.replica.machine.halted(group)
    }

    fn is_given_up(&self, group: GroupId) -> bool {
        self.replica.machine.is_given_up(group)
    }

    fn give_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        self.replica.machine.give_up(group)
    }

    fn flushed(&self, group: GroupId) -> AppliedPosition {
        self.replica.machine.flushed(group)
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.replica.machine.flush()
    }

    fn exporter(&self) -> Exporter {
        self.replica.machine.exporter()
    }

    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        self.replica.machine.install(group, position, chunks)?;
        self.check();
        Ok(())
    }
}

impl SimMachine for Watched {
    /// It is opened anew, as by another process.
    fn crash(&mut self) {
        self.replica.store.crash();
        self.replica = Replica::open(Arc::clone(&self.replica.store));
        self.check();
    }

    fn head(&self, group: GroupId) -> [u8; 32] {
        let (_, head) = read_position(self.store(), group).expect("memory can be read");
        head.0
    }

    fn digest(&self, group: GroupId) -> [u8; 32] {
        let digest = digest(self.store(), group).expect("memory can be read");
        Fingerprint::of(format!("{digest:?}").as_bytes()).0
    }
}
