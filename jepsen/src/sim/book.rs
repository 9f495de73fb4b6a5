//! What clients of one group have asked for and were told, and whether that can be true.

use std::collections::{BTreeMap, BTreeSet};

use palisade::sim::SimEngine;
use palisade::{
    FailureDomain, FenceEpoch, Placement, ReplicaPolicy, ResourceId, ResourceKind, ResourceSpec,
};
use palisade_replication::{GroupId, StateMachine};

use super::registers::{self, Registers};

/// The resources of each group: log, map and idempotency store.
pub(super) const KINDS: [(ResourceKind, &str); 3] = [
    (ResourceKind::LOG, "log"),
    (ResourceKind::MAP, "map"),
    (ResourceKind::IDEMPOTENCY, "requests"),
];

/// On whose behalf everything is asked.
pub(super) fn domain() -> FailureDomain {
    FailureDomain::new("aws", "us-east-1", "a")
}

pub(super) fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "sim.v1")
        .expect("the campaign's names are names")
        .epoch(FenceEpoch::new(epoch))
        .replicas(ReplicaPolicy::majority(3))
        .placement(Placement::providers(["aws"]).expect("and its provider's"))
}

/// A submission: what a key is to be done with, once.
#[derive(Clone, Debug)]
pub(super) struct Submitted {
    pub(super) key: u64,
    pub(super) payload: Vec<u8>,
    pub(super) epoch: u64,
}

/// A change of a register.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) asked: registers::Asked,
    pub(super) payload: Vec<u8>,
    pub(super) epoch: u64,
}

/// What is known of a group.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) group: GroupId,
    pub(super) resources: [ResourceId; 3],
    /// The newest epoch anybody has asked to open.
    pub(super) epoch: u64,
    pub(super) registers: Registers,
    /// Key to payload and the offset of its first receipt.
    first: BTreeMap<u64, (Vec<u8>, u64)>,
    /// Keys whose taking effect was told to someone.
    applied: BTreeSet<u64>,
    /// Changes of registers whose taking effect was told to someone, by offset.
    changed: BTreeMap<u64, Vec<u8>>,
    /// Changes of registers that were refused: each has a payload of its own, which is nowhere.
    refused: BTreeSet<Vec<u8>>,
    /// Of each resource, the offset of the last fence that was acknowledged, and its epoch.
    fenced_at: [Option<(u64, u64)>; 3],
}

impl Book {
    pub(super) fn new(group: GroupId, resources: [ResourceId; 3]) -> Self {
        Self {
            group,
            resources,
            epoch: 1,
            registers: Registers::default(),
            first: BTreeMap::new(),
            applied: BTreeSet::new(),
            changed: BTreeMap::new(),
            refused: BTreeSet::new(),
            fenced_at: [None; 3],
        }
    }

    /// The newest epoch was opened everywhere, as far as anybody was told.
    pub(super) fn is_open(&self) -> bool {
        let epoch = self.epoch;
        epoch == 1 || self.fenced_at.iter().all(|at| at.is_some_and(|(_, known)| epoch <= known))
    }

    /// Offset and key of a receipt, if there is one yet.
    pub(super) fn receipt(&self, number: u64) -> Option<(u64, u64)> {
        let at = number.checked_rem(self.first.len() as u64)?;
        self.first.iter().nth(at as usize).map(|(key, (_, offset))| (*offset, *key))
    }

    /// A submission took effect at this offset; its node was told first.
    pub(super) fn submission_applied(
        &mut self,
        submitted: Submitted,
        offset: u64,
        machine: &SimEngine,
    ) {
        // One that lost power since may be behind again, and says that.
        if offset <= machine.applied(self.group).offset.get() {
            self.check_fresh(machine, offset, submitted.key, Some(&submitted.payload));
            let [log, _, _] = self.resources;
            let logged = machine.logged(self.group, log, offset);
            assert_eq!(logged.as_ref(), Some(&submitted.payload), "G7: the log at {offset}");
        }
        self.check_fence(&[0, 1, 2], submitted.epoch, offset);
        assert!(self.applied.insert(submitted.key), "G6: {submitted:?} took effect twice");
        let told = (submitted.payload.clone(), offset);
        let first = self.first.entry(submitted.key).or_insert_with(|| told.clone());
        assert_eq!(*first, told, "G6: {submitted:?}");
    }

    /// G4: a replica that is at a receipt's offset shows what was written there.
    pub(super) fn check_fresh(
        &self,
        machine: &SimEngine,
        offset: u64,
        key: u64,
        payload: Option<&Vec<u8>>,
    ) {
        let [_, map, _] = self.resources;
        let row = machine.map(self.group, map, &key.to_be_bytes());
        let payload = payload.unwrap_or_else(|| &self.first[&key].0);
        assert_eq!(row, Some((payload.clone(), offset)), "G4: group={} key={key}", self.group);
    }

    /// It had taken effect before, at this offset.
    pub(super) fn submission_repeated(&mut self, submitted: Submitted, offset: u64) {
        let told = (submitted.payload.clone(), offset);
        // Where the first answer was lost with its node, this one stands for it.
        let first = self.first.entry(submitted.key).or_insert_with(|| told.clone());
        assert_eq!(*first, told, "G6: {submitted:?}");
    }

    /// A change of a register took effect at this offset.
    pub(super) fn register_changed(&mut self, changed: Changed, offset: u64) {
        self.check_fence(&[0, 1], changed.epoch, offset);
        let told = self.changed.insert(offset, changed.payload);
        assert_eq!(told, None, "G2: two receipts for offset={offset} of group={}", self.group);
    }

    /// A change of a register was refused: nothing has happened, and nothing will.
    pub(super) fn register_refused(&mut self, changed: Changed) {
        self.refused.insert(changed.payload);
    }

    /// A resource was opened.
    pub(super) fn opened(&mut self, resource: ResourceId, epoch: u64, offset: u64) {
        let at = self.resources.iter().position(|known| *known == resource);
        let fence = &mut self.fenced_at[at.expect("only these are opened")];
        if fence.is_none_or(|(_, known)| known < epoch) {
            *fence = Some((offset, epoch));
        }
    }

    /// G3: nothing of an older epoch takes effect behind a fence.
    fn check_fence(&self, touched: &[usize], epoch: u64, offset: u64) {
        for (fence, current) in touched.iter().filter_map(|at| self.fenced_at[*at]) {
            let is_current = offset < fence || epoch >= current;
            let group = self.group;
            assert!(is_current, "G3: group={group} epoch={epoch} at {offset}, fence at {fence}");
        }
    }

    /// At the end: everything that was told is there, once, and in an order that explains it.
    pub(super) fn check_log(&self, machine: &SimEngine) {
        let group = self.group;
        let rows = machine.log(group, self.resources[0]);
        let log: BTreeMap<u64, Vec<u8>> = rows.into_iter().collect();
        for (key, (payload, offset)) in &self.first {
            assert_eq!(log.get(offset), Some(payload), "G1: group={group} key={key} at {offset}");
        }
        for (offset, payload) in &self.changed {
            assert_eq!(log.get(offset), Some(payload), "G1: group={group} change at {offset}");
        }
        for (offset, payload) in &log {
            let text = String::from_utf8_lossy(payload);
            let was_refused = self.refused.contains(payload);
            assert!(!was_refused, "G7: group={group}: {text} was refused and stands at {offset}");
        }
        let distinct: BTreeSet<&Vec<u8>> = log.values().collect();
        assert_eq!(distinct.len(), log.len(), "G6: group={group}: something took effect twice");
        self.check_swaps(&log);
    }

    /// Each swap expected the change before it; one that was refused left nothing behind (G7).
    fn check_swaps(&self, log: &BTreeMap<u64, Vec<u8>>) {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for (offset, payload) in log {
            let text = String::from_utf8_lossy(payload);
            let words: Vec<&str> = text.split(' ').collect();
            let (register, expected) = match words[..] {
                ["put", _, register] => (register, None),
                ["swap", _, register, expected] => (register, Some(expected)),
                _ => continue,
            };
            let before = last.insert(register.to_owned(), *offset).unwrap_or(0).to_string();
            let fits = expected.is_none_or(|expected| expected == before);
            assert!(fits, "G7: {text} took effect at {offset}, behind {before}");
        }
    }
}
