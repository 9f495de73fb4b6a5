//! What was agreed on, and what the model makes of it: one log, whoever has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use palisade_replication::{Committed, LogIndex};

use super::super::naive::Here;
use super::super::*;
use crate::outcome::RecordOutcome;

/// A record as it was applied first, wherever that was.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    id: ProposalId,
    index: LogIndex,
    log_time: LogTime,
    payload: Bytes,
}

/// How often one payload was proposed, and what the proposers were told.
#[derive(Debug, Default)]
struct Tally {
    proposed: usize,
    refused: usize,
    committed: usize,
}

/// The committed log, and the model behind each of its records.
#[derive(Default)]
pub(super) struct Journal {
    /// What clients have proposed, and how often.
    said: BTreeMap<Bytes, (Said, Tally)>,
    written: Vec<Written>,
    outcomes: Vec<Outcome>,
    /// Behind so many records.
    models: Vec<Arc<Model>>,
    ids: BTreeSet<ProposalId>,
}

/// A journal that all nodes write and all clients read.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Journal>>);

impl Shared {
    pub(super) fn new() -> Self {
        let models = vec![Arc::default()];
        Self(Arc::new(Mutex::new(Journal { models, ..Journal::default() })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Journal {
    /// How many records are known to be committed.
    pub(super) fn end(&self) -> u64 {
        self.written.len() as u64
    }

    /// The model behind an offset.
    pub(super) fn model(&self, offset: u64) -> Arc<Model> {
        Arc::clone(&self.models[offset as usize])
    }

    /// When the last record was stamped up to an offset.
    pub(super) fn log_time(&self, offset: u64) -> u64 {
        let last = (offset as usize).checked_sub(1).map(|at| self.written[at].log_time);
        last.map_or(0, LogTime::get)
    }

    /// Somebody proposes this.
    pub(super) fn propose(&mut self, said: Said) -> Bytes {
        let payload = said.command().encode();
        let (_, tally) = self.said.entry(payload.clone()).or_insert((said, Tally::default()));
        tally.proposed += 1;
        payload
    }

    /// They were told that nothing has happened.
    pub(super) fn refused(&mut self, payload: &Bytes) {
        self.said.get_mut(payload).expect("it was proposed").1.refused += 1;
    }

    /// They were told what has happened: what the model says to just this record, at that offset.
    pub(super) fn committed(&mut self, payload: &Bytes, told: &Committed<RecordOutcome>) {
        let at = told.offset.get() as usize - 1;
        assert_eq!(self.written[at].payload, *payload, "G2: offset={}", told.offset);
        assert_eq!(self.written[at].log_time, told.log_time, "G2: offset={}", told.offset);
        assert_eq!(told.outcome.0, self.outcomes[at], "what a client is told at {}", told.offset);
        self.said.get_mut(payload).expect("it was proposed").1.committed += 1;
    }

    /// A replica has applied an entry.
    pub(super) fn applied(&mut self, node: NodeId, entry: &CommittedEntry, told: &[RecordOutcome]) {
        let (index, log_time) = (entry.index, entry.log_time);
        assert_eq!(entry.records.len(), told.len());
        for ((at, record), told) in (entry.first_offset.get()..).zip(&entry.records).zip(told) {
            let payload = record.payload.clone();
            let record = Written { id: record.id, index, log_time, payload };
            match self.written.get(at as usize - 1) {
                Some(agreed) => assert_eq!(record, *agreed, "G2: node={node} offset={at}"),
                None => self.write(at, record),
            }
            let wanted = &self.outcomes[at as usize - 1];
            let said = &self.said[&self.written[at as usize - 1].payload].0;
            assert_eq!(told.0, *wanted, "G8: node={node} offset={at} {said:?}");
        }
    }

    /// What nobody has applied before.
    fn write(&mut self, at: u64, record: Written) {
        assert_eq!(at, self.end() + 1, "G2: offsets are dense");
        assert!(self.log_time(at - 1) <= record.log_time.get(), "log time falls at offset={at}");
        assert!(self.ids.insert(record.id), "G6: proposed once, committed twice: {record:?}");
        let (said, _) = self.said.get(&record.payload).expect("nobody has proposed this");
        let here = Here { offset: at, now: record.log_time.get() };
        let mut model = Model::clone(self.models.last().expect("there is one behind nothing"));
        self.outcomes.push(model.apply(here, said));
        self.models.push(Arc::new(model));
        self.written.push(record);
    }

    /// At the end: each was committed as often as its proposers were told, or may have been.
    pub(super) fn check_tallies(&self) {
        let mut found: BTreeMap<&Bytes, usize> = BTreeMap::new();
        self.written.iter().for_each(|record| *found.entry(&record.payload).or_default() += 1);
        for (payload, (said, tally)) in &self.said {
            let found = found.get(payload).copied().unwrap_or_default();
            assert!(tally.committed <= found, "G1: {found} of {tally:?}: {said:?}");
            assert!(found <= tally.proposed - tally.refused, "G6: {found} of {tally:?}: {said:?}");
        }
    }

    /// Every record, with what the model answers.
    pub(super) fn each(&self) -> impl Iterator<Item = (&Said, &Outcome)> {
        let said = self.written.iter().map(|record| &self.said[&record.payload].0);
        said.zip(&self.outcomes)
    }
}
