//! The rules of clients once more.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::naive::{Batch, Here};
use crate::clients::{ClientBounds, NumberRefusal, Registrant, counted_bytes};
use crate::command::Number;
use crate::outcome::{Outcome, Stamp};

/// Few, so that they push each other out.
pub(super) const BOUNDS: ClientBounds = ClientBounds { clients: 3, bytes: 1_000 };
const WINDOW: u64 = 64;
const MINUTE_MS: u64 = 60_000;

/// What a command does, whoever does it.
type What = [Vec<(u32, Bytes)>; 3];

#[derive(Clone, Debug)]
pub(super) struct NaiveClient {
    ttl_ms: u64,
    pub(super) registrant: Option<Registrant>,
    used: u64,
    looked_at: u64,
    pub(super) acked_up_to: u64,
    pub(super) answers: BTreeMap<u64, (What, Stamp, Outcome)>,
}

/// By the record that has registered them.
#[derive(Clone, Debug, Default)]
pub(super) struct NaiveClients(pub(super) BTreeMap<u64, NaiveClient>);

impl Batch {
    fn what(&self) -> What {
        let demands = self.guards.iter().map(|on| (on.resource.0, on.what.body())).collect();
        let actions = [&self.then, &self.otherwise];
        let [then, otherwise] =
            actions.map(|branch| branch.iter().map(|on| (on.resource.0, on.what.body())).collect());
        [demands, then, otherwise]
    }
}

impl Here {
    pub(super) fn stamp(self) -> Stamp {
        Stamp { offset: Offset::new(self.offset), log_time: LogTime::new(self.now) }
    }
}

impl NaiveClients {
    pub(super) fn register(
        &mut self,
        here: Here,
        ttl_ms: u64,
        registrant: Option<Registrant>,
    ) -> Outcome {
        let (used, looked_at) = (here.now, here.now + ttl_ms + MINUTE_MS);
        let answers = BTreeMap::new();
        let client = NaiveClient { ttl_ms, registrant, used, looked_at, acked_up_to: 0, answers };
        self.0.insert(here.offset, client);
        self.make_room(here.offset);
        Outcome::Registered { client: Offset::new(here.offset) }
    }

    /// What the number alone says: nothing for a command that is to be done.
    pub(super) fn told(&self, number: Number, batch: &Batch) -> Option<Outcome> {
        let Some(client) = self.0.get(&number.client.get()) else {
            return Some(Outcome::Unnumbered(NumberRefusal::Evicted { client: number.client }));
        };
        if client.registrant != number.registrant {
            return Some(Outcome::Unnumbered(NumberRefusal::OfAnother { client: number.client }));
        }
        let seq = number.seq;
        if let Some((what, first, outcome)) = client.answers.get(&seq) {
            let same = *what == batch.what();
            return Some(if same {
                Outcome::Repeated { first: *first, outcome: Box::new(outcome.clone()) }
            } else {
                Outcome::Unnumbered(NumberRefusal::OtherCommand)
            });
        }
        let acked = client.acked_up_to.max(number.acked_up_to);
        let (first, last) = (acked + 1, acked + WINDOW);
        let refusal = NumberRefusal::OutOfWindow { seq, first, last };
        (!(first..=last).contains(&seq)).then_some(Outcome::Unnumbered(refusal))
    }

    pub(super) fn answered(
        &mut self,
        here: Here,
        number: Number,
        batch: &Batch,
        outcome: &Outcome,
    ) {
        let client = self.0.get_mut(&number.client.get()).unwrap();
        client.acked_up_to = client.acked_up_to.max(number.acked_up_to);
        let acked = client.acked_up_to;
        client.answers.retain(|seq, _| acked < *seq);
        client.answers.insert(number.seq, (batch.what(), here.stamp(), outcome.clone()));
        if here.now - client.used >= MINUTE_MS {
            client.used = here.now;
        }
        self.make_room(number.client.get());
    }

    fn bytes(&self) -> u64 {
        let answers = self.0.values().flat_map(|client| client.answers.values());
        counted_bytes(self.0.len(), answers.map(|(_, stamp, outcome)| (*stamp, outcome.clone())))
    }

    fn make_room(&mut self, own: u64) {
        while BOUNDS.clients < self.0.len() as u64 || BOUNDS.bytes < self.bytes() {
            let others = self.0.iter().filter(|(id, _)| **id != own);
            let Some((_, oldest)) = others.map(|(id, client)| (client.used, *id)).min() else {
                return;
            };
            self.0.remove(&oldest);
        }
    }

    pub(super) fn tidy(&mut self, now: u64) {
        for client in self.0.values_mut() {
            if client.looked_at <= now {
                client.looked_at = client.used + client.ttl_ms + MINUTE_MS;
            }
        }
        self.0.retain(|_, client| now < client.looked_at);
    }
}
