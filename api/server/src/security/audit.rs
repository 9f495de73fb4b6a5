//! What was refused, granted and revoked: one record of each kind in a moment, however often it was.
//!
//! A refusal must cost whoever causes it more than it costs us. So refusals wait in a queue that is written
//! once in a while, and those that are the same but for their time are one record with a count. When too many
//! different ones of an event wait, further ones are joined in one record, which says no more than how many
//! they were. None is lost but for those that wait when the process is killed.
//!
//! ```text
//! version 1, event 1, count 8, first 8, last 8, node 8,
//! then who, token, address, method, resource, right, why: each its length in 1 byte, and UTF-8
//! ```
//! Big-endian; times are milliseconds since 1970.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::grants::Rest;

/// The log with the records.
pub const AUDIT_LOG: &str = "palisade.audit";
/// Different records of one event that wait to be written. Further ones are joined.
pub const WAITING_MAX: usize = 16;
/// Longest of the texts of a record.
const TEXT_BYTES_MAX: usize = 255;
const VERSION: u8 = 1;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AuditEvent {
    /// Nobody is known to have made a connection or call.
    NotAuthenticated = 1,
    /// A token was not taken.
    TokenRefused = 2,
    /// Who made a call may not.
    NotAllowed = 3,
    /// Somebody may do more.
    Granted = 4,
    /// Somebody may do less.
    Revoked = 5,
    /// A replica that has halted is made anew: its state and its log there are given up.
    Cleared = 6,
    /// One of the endpoint's own resources is at one more provider, as the cluster is.
    Placed = 7,
}

impl AuditEvent {
    /// In words, as people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAuthenticated => "not authenticated",
            Self::TokenRefused => "token refused",
            Self::NotAllowed => "not allowed",
            Self::Granted => "granted",
            Self::Revoked => "revoked",
            Self::Cleared => "cleared",
            Self::Placed => "placed",
        }
    }

    const ALL: [Self; 7] = [
        Self::NotAuthenticated,
        Self::TokenRefused,
        Self::NotAllowed,
        Self::Granted,
        Self::Revoked,
        Self::Cleared,
        Self::Placed,
    ];
}

/// What is the same of records that are joined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditFacts {
    /// What happened.
    pub event: AuditEvent,
    /// Whose grants were asked for; empty if that is not known.
    pub who: String,
    /// The token that was called with, 32 hex digits; empty without one.
    pub token: String,
    /// From where.
    pub address: String,
    /// The method.
    pub method: String,
    /// With what.
    pub resource: String,
    /// What was to be done with it.
    pub right: String,
    /// Why it was refused, or what was granted or revoked, and to whom.
    pub why: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// What it is about.
    pub facts: AuditFacts,
    /// How often it was.
    pub count: u64,
    /// When it was first, by the clock of the node that was called.
    pub first_ms: u64,
    /// And last.
    pub last_ms: u64,
    /// That node.
    pub node: u64,
}

/// A record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// It was written by a newer release.
    #[error("the record was written by a newer release: upgrade this node")]
    UnknownVersion,
    /// It is no record.
    #[error("the record cannot be read")]
    Malformed,
}

impl AuditFacts {
    /// Nothing but the event.
    #[must_use]
    pub fn of(event: AuditEvent) -> Self {
        let [who, token, address, method, resource, right, why] = [const { String::new() }; 7];
        Self { event, who, token, address, method, resource, right, why }
    }

    fn texts(&self) -> [&String; 7] {
        let Self { event: _, who, token, address, method, resource, right, why } = self;
        [who, token, address, method, resource, right, why]
    }

    fn bounded(mut self) -> Self {
        let Self { event: _, who, token, address, method, resource, right, why } = &mut self;
        for text in [who, token, address, method, resource, right, why] {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        self
    }
}

impl AuditRecord {
    /// A record of something that happened once.
    #[must_use]
    pub fn once(facts: AuditFacts, node: u64, now_ms: u64) -> Self {
        Self { facts: facts.bounded(), count: 1, first_ms: now_ms, last_ms: now_ms, node }
    }

    /// As the log has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.facts.event as u8];
        for number in [self.count, self.first_ms, self.last_ms, self.node] {
            out.extend(number.to_be_bytes());
        }
        for text in self.facts.texts() {
            super::grants::put_text(&mut out, text);
        }
        out
    }

    /// Reads what [`AuditRecord::encode`] writes, and nothing else.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn decode(raw: &[u8]) -> Result<Self, AuditError> {
        match raw.first() {
            Some(&VERSION) => Self::read(&raw[1..]).ok_or(AuditError::Malformed),
            Some(newer) if *newer > VERSION => Err(AuditError::UnknownVersion),
            _ => Err(AuditError::Malformed),
        }
    }

    fn read(raw: &[u8]) -> Option<Self> {
        let mut rest = Rest(raw);
        let event = rest.byte()?;
        let event = AuditEvent::ALL.into_iter().find(|known| *known as u8 == event)?;
        let mut number = || rest.array().map(u64::from_be_bytes);
        let (count, first_ms, last_ms, node) = (number()?, number()?, number()?, number()?);
        let mut text = || rest.text();
        let facts = AuditFacts {
            event,
            who: text()?,
            token: text()?,
            address: text()?,
            method: text()?,
            resource: text()?,
            right: text()?,
            why: text()?,
        };
        rest.0.is_empty().then_some(Self { facts, count, first_ms, last_ms, node })
    }
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    count: u64,
    first_ms: u64,
    last_ms: u64,
}

/// Records that wait to be written.
#[derive(Debug, Default)]
pub struct AuditQueue {
    waiting: Mutex<BTreeMap<AuditFacts, Tally>>,
    some: Notify,
}

impl AuditQueue {
    /// Something happened.
    pub fn note(&self, facts: AuditFacts, now_ms: u64) {
        let tally = Tally { count: 1, first_ms: now_ms, last_ms: now_ms };
        join(&mut self.lock(), facts.bounded(), tally);
        self.some.notify_one();
    }

    /// Takes all that wait, as a node's.
    #[must_use]
    pub fn take(&self, node: u64) -> Vec<AuditRecord> {
        let waiting = std::mem::take(&mut *self.lock());
        let record = |(facts, tally): (AuditFacts, Tally)| {
            let Tally { count, first_ms, last_ms } = tally;
            AuditRecord { facts, count, first_ms, last_ms, node }
        };
        waiting.into_iter().map(record).collect()
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, records: Vec<AuditRecord>) {
        let mut waiting = self.lock();
        for AuditRecord { facts, count, first_ms, last_ms, .. } in records {
            join(&mut waiting, facts, Tally { count, first_ms, last_ms });
        }
    }

    /// Resolves when some may wait.
    pub async fn some(&self) {
        self.some.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AuditFacts, Tally>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn join(waiting: &mut BTreeMap<AuditFacts, Tally>, facts: AuditFacts, tally: Tally) {
    let others = |facts: &AuditFacts| waiting.keys().filter(|it| it.event == facts.event).count();
    let facts = if !waiting.contains_key(&facts) && WAITING_MAX <= others(&facts) {
        let why = "too many different ones at once: joined".to_owned();
        AuditFacts { why, ..AuditFacts::of(facts.event) }
    } else {
        facts
    };
    let joined = waiting.entry(facts).or_insert(Tally { count: 0, ..tally });
    joined.count = joined.count.saturating_add(tally.count);
    joined.first_ms = joined.first_ms.min(tally.first_ms);
    joined.last_ms = joined.last_ms.max(tally.last_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> AuditFacts {
        let address = address.to_owned();
        AuditFacts { address, ..AuditFacts::of(AuditEvent::NotAuthenticated) }
    }

    /// G12: whatever comes, so many wait and no more, and each is counted.
    #[test]
    fn a_flood_is_joined_and_counted() {
        let queue = AuditQueue::default();
        for number in 0..100_000_u64 {
            queue.note(refused(&format!("10.0.{}.{}", number % 250, number / 250 % 250)), number);
            queue.note(AuditFacts::of(AuditEvent::TokenRefused), number);
        }
        let records = queue.take(7);
        // Those, what they were joined in, and the one that is always the same.
        assert_eq!(records.len(), WAITING_MAX + 1 + 1);
        let count = |event| {
            let of = records.iter().filter(|record| record.facts.event == event);
            of.map(|record| record.count).sum::<u64>()
        };
        assert_eq!(count(AuditEvent::NotAuthenticated), 100_000);
        let same = records.iter().find(|record| record.facts.event == AuditEvent::TokenRefused);
        let same = same.unwrap();
        assert_eq!((same.count, same.first_ms, same.last_ms), (100_000, 0, 99_999));
        assert!(queue.take(7).is_empty());
        // What could not be written waits on, with what has come since.
        queue.note(refused("10.0.0.0"), 200_000);
        queue.put_back(records);
        let records = queue.take(7);
        assert!(records.len() <= WAITING_MAX + 1 + 1, "{}", records.len());
        assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 200_001);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut facts = refused("127.0.0.1");
        facts.why = "ä".repeat(200);
        let record = AuditRecord { count: 3, last_ms: 9, ..AuditRecord::once(facts, 7, 5) };
        assert_eq!(record.facts.why.len(), 254, "cut between letters");
        let raw = record.encode();
        assert_eq!(AuditRecord::decode(&raw), Ok(record));
        for cut in 0..raw.len() {
            assert!(AuditRecord::decode(&raw[..cut]).is_err(), "{cut}");
        }
        assert!(AuditRecord::decode(&[&raw[..], &[0]].concat()).is_err());
        assert_eq!(AuditRecord::decode(&[2]), Err(AuditError::UnknownVersion));
        // As it is laid out, by hand: a change of the format is not one by accident.
        let small = AuditRecord::once(AuditFacts::of(AuditEvent::Revoked), 1, 2);
        let by_hand =
            b"\x01\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0";
        assert_eq!(small.encode(), by_hand);
    }

    proptest::proptest! {
        /// Nothing that is stored panics, and what is taken is written in one way only.
        #[test]
        fn any_bytes_are_judged(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
            if let Ok(record) = AuditRecord::decode(&raw) {
                proptest::prop_assert_eq!(record.encode(), raw);
            }
        }
    }
}
