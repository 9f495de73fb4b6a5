//! What clients ask for: what the generator of histories draws, moved to where a long history has come to.
//!
//! Histories of the generator are short, and name offsets, epochs and numbers as they are then. Here each is
//! taken for how far it is from what the client has read somewhere, which may be old.

use proptest::strategy::{BoxedStrategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use palisade_replication::sim::SimRandom;

use super::super::histories::{Repetition, any_registration, any_repetition, any_said, settle};
use super::super::naive::{Action, Batch, Demand, On};
use super::super::*;
use crate::command::Number;
use crate::projections::idempotency::{RequestGuard, RequestOp};
use crate::projections::log::{ConsumerChange, LogGuard, LogOp, LogPosition};
use crate::projections::map::{MapGuard, MapOp};

/// A client repeats one of so many of the last commands that were numbered, whoever made them.
const REPEATED_MAX: usize = 12;
/// Requests are named anew after so many records.
const ERA: u64 = 60;

/// Draws what is asked for.
pub(super) struct Asks {
    runner: TestRunner,
    said: BoxedStrategy<Said>,
    registration: BoxedStrategy<Said>,
    repetition: BoxedStrategy<Option<Repetition>>,
    numbered: Vec<Batch>,
}

/// What a client knows: the model as some replica had it.
pub(super) struct Known<'a> {
    pub(super) model: &'a Model,
    pub(super) offset: u64,
    pub(super) log_time: u64,
}

impl Asks {
    pub(super) fn new(random: &mut SimRandom) -> Self {
        let seed: Vec<u8> = (0..4).flat_map(|_| random.draw().to_le_bytes()).collect();
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        Self {
            runner: TestRunner::new_with_rng(Config::default(), random),
            said: any_said().boxed(),
            registration: any_registration().boxed(),
            repetition: any_repetition().boxed(),
            numbered: Vec::new(),
        }
    }

    fn draw<T: std::fmt::Debug>(runner: &mut TestRunner, from: &BoxedStrategy<T>) -> T {
        from.new_tree(runner).expect("nothing is filtered for long").current()
    }

    /// The next command of a client that knows this.
    pub(super) fn next(&mut self, known: &Known<'_>, random: &mut SimRandom) -> Said {
        let repetition = Self::draw(&mut self.runner, &self.repetition);
        let forgotten_too = random.below(6) == 0;
        let may_be_known = |batch: &&Batch| {
            let client = batch.number.map(|number| number.client.get());
            client.is_some_and(|client| known.model.clients.0.contains_key(&client))
        };
        let last = self.numbered.iter().rev().take(REPEATED_MAX);
        let last: Vec<_> = last.filter(|batch| forgotten_too || may_be_known(batch)).collect();
        if let Some(said) = repetition.and_then(|repetition| repetition.of(&last)) {
            return said;
        }
        let mut said = Self::draw(&mut self.runner, &self.said);
        if known.model.clients.0.len() < 2 && random.below(4) == 0 {
            said = Self::draw(&mut self.runner, &self.registration);
        }
        if let Some(back) = known.undelete().filter(|_| random.below(8) == 0) {
            said = back;
        }
        let missing = KINDS.iter().position(|kind| known.model.table.newest(kind).is_none());
        if let Some(at) = missing.filter(|_| random.below(3) == 0) {
            said = opened().swap_remove(at).said;
        }
        settle(known.model, &mut said);
        known.shift(&mut said, random);
        if let Said::Batch(batch @ Batch { number: Some(_), .. }) = &said {
            self.numbered.push(batch.clone());
        }
        said
    }
}

impl Known<'_> {
    /// Takes a resource back that is deleted, if one is.
    fn undelete(&self) -> Option<Said> {
        let mut resources = self.model.table.resources.iter();
        let (id, found) = resources.find(|(_, found)| found.deleted.is_some())?;
        Some(Said::Alter(AlterCommand {
            resource: ResourceId(*id),
            expected: found.revision(),
            node: NodeId::new(1),
            caller: FailureDomain::new("aws", "r", "z"),
            reason: Reason::new("wanted").expect("it is a reason"),
            alteration: Alteration::Undelete,
            policy: None,
        }))
    }

    fn shift(&self, said: &mut Said, random: &mut SimRandom) {
        match said {
            Said::Open(command) => {
                let newest = self.model.table.newest(&command.kind);
                let current = newest.map_or(1, |id| self.epoch(id));
                let epoch = (current + command.spec.epoch.get()).saturating_sub(2);
                command.spec.epoch = FenceEpoch::new(epoch.max(1));
            }
            Said::Batch(batch) => {
                batch.guards.iter_mut().for_each(|on| self.demand(on, random));
                let ops = batch.then.iter_mut().chain(&mut batch.otherwise);
                ops.for_each(|on| self.action(on, random));
                if random.below(3) > 0 {
                    // A long batch would seldom get anywhere otherwise.
                    let writer = |id: ResourceId| FenceEpoch::new(self.epoch(id.0));
                    batch.guards.iter_mut().for_each(|on| on.epoch = writer(on.resource));
                    let ops = batch.then.iter_mut().chain(&mut batch.otherwise);
                    ops.for_each(|on| on.epoch = writer(on.resource));
                }
                if self.model.clients.0.is_empty() && random.below(4) > 0 {
                    batch.number = None;
                }
                batch.number.iter_mut().for_each(|number| self.number(number, random));
            }
            Said::Alter(_) | Said::Housekeep(_) | Said::Register { .. } => {}
        }
    }

    fn epoch(&self, id: u32) -> u64 {
        self.model.table.resources.get(&id).map_or(1, |found| found.spec.epoch.get())
    }

    /// The first writer of a short history is the one of today.
    fn writer<T>(&self, on: &mut On<T>) {
        if on.epoch == FenceEpoch::new(1) {
            on.epoch = FenceEpoch::new(self.epoch(on.resource.0));
        }
    }

    fn demand(&self, on: &mut On<Demand>, random: &mut SimRandom) {
        self.writer(on);
        let id = on.resource.0;
        match &mut on.what {
            Demand::Log(LogGuard::TailIs { position }) => self.tail(id, position, random),
            Demand::Map(MapGuard::VersionIs { key, version }) => {
                self.version(id, key, version, random);
            }
            Demand::Request(RequestGuard::Completed { key }) => self.era(key),
        }
    }

    fn action(&self, on: &mut On<Action>, random: &mut SimRandom) {
        self.writer(on);
        let id = on.resource.0;
        match &mut on.what {
            Action::Log(LogOp::Append { expected, .. }) => {
                expected.iter_mut().for_each(|expected| self.tail(id, expected, random));
            }
            Action::Log(LogOp::Trim { before }) => self.position(before),
            Action::Log(LogOp::Consumer { change, .. }) => match change {
                ConsumerChange::Commit(at) | ConsumerChange::Reset(at) => self.position(at),
                ConsumerChange::Forget => {}
            },
            Action::Map(MapOp::Put { guard, key, .. } | MapOp::Delete { guard, key }) => {
                guard.iter_mut().for_each(|version| self.version(id, key, version, random));
            }
            Action::Request(RequestOp::Reserve { issued, key, .. }) => {
                // From somewhat before the last record to somewhat behind it.
                let shifted =
                    |issued: LogTime| (self.log_time + issued.get()).saturating_sub(2_000);
                *issued = issued.map(|issued| match issued.get() {
                    0 => issued,
                    _ => LogTime::new(shifted(issued)),
                });
                self.era(key);
            }
            Action::Request(RequestOp::Complete { owner, key, .. }) => {
                self.era(key);
                // Mostly of who has it, or it would seldom come to an end.
                let requests = self.model.requests.iter();
                let begun =
                    requests.filter(|((of, _), request)| *of == id && request.done.is_none());
                let begun: Vec<_> = begun.collect();
                if !begun.is_empty() && random.below(3) > 0 {
                    let ((_, reserved), request) = random.pick(&begun);
                    (*key, *owner) = (reserved.clone(), request.owner);
                }
            }
            Action::Log(LogOp::Retain { .. })
            | Action::Map(MapOp::Keep { .. })
            | Action::Request(RequestOp::Keep { .. }) => {}
        }
    }

    fn era(&self, key: &mut Bytes) {
        let era = (self.offset / ERA) as u8;
        *key = Bytes::from([&key[..], &[era]].concat());
    }

    /// Where the short history ends is where this one does.
    fn position(&self, position: &mut LogPosition) {
        if *position != LogPosition::START {
            let offset = (self.offset + position.offset.get()).saturating_sub(36);
            position.offset = Offset::new(offset);
        }
    }

    fn tail(&self, id: u32, position: &mut LogPosition, random: &mut SimRandom) {
        match self.model.logs.get(&id) {
            Some(log) if random.below(3) > 0 => *position = log.tail,
            _ => self.position(position),
        }
    }

    fn version(&self, id: u32, key: &Bytes, version: &mut Version, random: &mut SimRandom) {
        if *version != Version::ABSENT {
            let found = self.model.maps.get(&id).map(|map| map.version(key));
            *version = found.filter(|_| random.below(4) > 0).unwrap_or(*version);
        }
    }

    /// The first clients of a short history are the newest of this one, and have come further.
    fn number(&self, number: &mut Number, random: &mut SimRandom) {
        let newest = self.model.clients.0.iter().rev();
        let mut found = newest.skip(usize::from(number.client.get() == 5));
        if let (4..6, Some((id, client))) = (number.client.get(), found.next()) {
            number.client = Offset::new(*id);
            let last = client.answers.keys().next_back().copied();
            number.seq = match random.below(2) {
                0 => last.unwrap_or(client.acked_up_to) + 1,
                _ => client.acked_up_to + number.seq,
            };
            if random.below(4) > 0 {
                number.registrant = client.registrant;
            }
            if number.acked_up_to > 0 {
                number.acked_up_to = (number.acked_up_to + client.acked_up_to).saturating_sub(1);
            }
        }
    }
}
