//! Idempotency: which requests are under way or done, and with what result (G6).
//!
//! A request is reserved by an owner, then completed with a result. Owners are told apart by their
//! epochs: the same owner may reserve again what it holds, so that it can repeat a request whose
//! answer was lost; only an owner of a higher epoch may take over what another holds. A completion
//! belongs to the holder: a lower owner is fenced even when the work is done, and another result
//! than the first is refused.
//!
//! Requests are kept for [`RETENTION_MS`] of log time from their reservation and at most
//! [`REQUESTS_MAX`] of them; the oldest go first, a few with each new one. A request that is gone is
//! not known any more: the same id would then take effect again.
//!
//! ```text
//! request  fingerprint 32, owner, reserved at; completed: offset, log time, result
//! window   how many requests are kept, a time before which none of them was reserved
//! ```
//! Numbers and byte strings as in `codec`.

use std::cmp::Ordering;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::{At, Step};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::command::{Completion, Fingerprint, Refusal, VALUE_BYTES_MAX};
use crate::keys;
use crate::resource::{FenceEpoch, ResourceId};
use crate::store::{FamilyId, StoreError};
use crate::view::View;

/// How long a request is known, in milliseconds of log time: one day.
pub const RETENTION_MS: u64 = 24 * 60 * 60 * 1000;
/// How many requests a store knows.
pub const REQUESTS_MAX: u64 = 1_000_000;
/// How many old requests a new one pushes out at most. More than one, so that a backlog shrinks.
const EVICTIONS_PER_RESERVE: usize = 4;

/// A request as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) owner: FenceEpoch,
    pub(crate) since: LogTime,
    pub(crate) completion: Option<Completion>,
}

impl Request {
    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&self.fingerprint.0);
        put_number(&mut out, self.owner.get());
        put_number(&mut out, self.since.get());
        if let Some(completion) = &self.completion {
            put_number(&mut out, completion.offset.get());
            put_number(&mut out, completion.log_time.get());
            put_bytes(&mut out, &completion.result);
        }
        out.into()
    }

    pub(crate) fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let fingerprint = Fingerprint(reader.array("fingerprint")?);
        let owner = FenceEpoch::new(reader.number("owner")?);
        let since = LogTime::new(reader.number("since")?);
        let mut request = Self { fingerprint, owner, since, completion: None };
        if reader.end("request").is_err() {
            request.completion = Some(Completion {
                offset: Offset::new(reader.number("offset")?),
                log_time: LogTime::new(reader.number("log time")?),
                result: reader.bytes(VALUE_BYTES_MAX, "result")?,
            });
            reader.end("request")?;
        }
        Ok(request)
    }
}

pub(crate) fn reserve(
    view: &mut View<'_>,
    at: At,
    resource: ResourceId,
    owner: FenceEpoch,
    fingerprint: Fingerprint,
    key: &[u8],
) -> Result<Step, StoreError> {
    let row = keys::request(at.group, resource, key);
    match find(view, &row)? {
        Some(request) if request.fingerprint != fingerprint => {
            return Ok(Step::Refused(Refusal::IdempotencyConflict));
        }
        Some(Request { completion: Some(completion), .. }) => {
            return Ok(Step::Duplicate(completion));
        }
        Some(request) if owner < request.owner => {
            let Request { owner, since, .. } = request;
            return Ok(Step::Refused(Refusal::InProgress { owner, since }));
        }
        Some(request) => {
            let age = keys::request_age(at.group, resource, request.since, key);
            view.remove(FamilyId::IDEMPOTENCY, age);
        }
        None => {
            let mut window = Window::load(view, at, resource)?;
            window.admit(at);
            window.evict(view, at, resource)?;
            let row = keys::request_window(at.group, resource);
            view.put(FamilyId::IDEMPOTENCY, row, window.encode());
        }
    }
    let request = Request { fingerprint, owner, since: at.log_time, completion: None };
    view.put(FamilyId::IDEMPOTENCY, row, request.encode());
    let age = keys::request_age(at.group, resource, at.log_time, key);
    view.put(FamilyId::IDEMPOTENCY, age, Bytes::new());
    Ok(Step::Done)
}

pub(crate) fn complete(
    view: &mut View<'_>,
    at: At,
    resource: ResourceId,
    owner: FenceEpoch,
    key: &[u8],
    result: Bytes,
) -> Result<Step, StoreError> {
    let row = keys::request(at.group, resource, key);
    let Some(mut request) = find(view, &row)? else {
        return Ok(Step::Refused(Refusal::NotReserved));
    };
    match owner.cmp(&request.owner) {
        Ordering::Less => return Ok(Step::Refused(Refusal::Fenced { current: request.owner })),
        Ordering::Greater => return Ok(Step::Refused(Refusal::NotReserved)),
        Ordering::Equal => {}
    }
    if let Some(completion) = request.completion {
        return Ok(if completion.result == result {
            Step::Duplicate(completion)
        } else {
            Step::Refused(Refusal::CompletedOtherwise { at: completion.offset })
        });
    }
    request.completion = Some(Completion { offset: at.offset, log_time: at.log_time, result });
    view.put(FamilyId::IDEMPOTENCY, row, request.encode());
    Ok(Step::Done)
}

fn find(view: &View<'_>, row: &[u8]) -> Result<Option<Request>, StoreError> {
    let found = view.get(FamilyId::IDEMPOTENCY, row)?;
    found.map(Request::decode).transpose().map_err(malformed)
}

/// Which requests are kept: how many, and that none was reserved before `since`. It spares each new
/// request the look at the oldest one, and who looks for that the walk over all that are gone.
struct Window {
    count: u64,
    since: LogTime,
}

impl Window {
    fn load(view: &View<'_>, at: At, resource: ResourceId) -> Result<Self, StoreError> {
        let Some(raw) =
            view.get(FamilyId::IDEMPOTENCY, &keys::request_window(at.group, resource))?
        else {
            return Ok(Self { count: 0, since: at.log_time });
        };
        let decode = || {
            let mut reader = Reader::new(raw);
            let count = reader.number("request count")?;
            let since = LogTime::new(reader.number("oldest request")?);
            reader.end("request window")?;
            Ok(Self { count, since })
        };
        decode().map_err(malformed)
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        put_number(&mut out, self.count);
        put_number(&mut out, self.since.get());
        out.into()
    }

    fn admit(&mut self, at: At) {
        if self.count == 0 {
            self.since = at.log_time;
        }
        self.count += 1;
    }

    /// Pushes out what is too old, or too much: the oldest first.
    fn evict(
        &mut self,
        view: &mut View<'_>,
        at: At,
        resource: ResourceId,
    ) -> Result<(), StoreError> {
        let too_old = |since: LogTime| at.log_time.get().saturating_sub(since.get()) > RETENTION_MS;
        for _ in 0..EVICTIONS_PER_RESERVE {
            if self.count <= REQUESTS_MAX && !too_old(self.since) {
                break;
            }
            let (from, end) = keys::request_ages(at.group, resource, self.since);
            let Some((age, _)) = view.first(FamilyId::IDEMPOTENCY, &from, &end)? else {
                // Only the request that is being admitted is left, and it is of now.
                self.since = at.log_time;
                break;
            };
            let (since, key) = keys::split_request_age(&age)
                .ok_or_else(|| StoreError { what: "malformed age key".into() })?;
            self.since = since;
            if self.count <= REQUESTS_MAX && !too_old(since) {
                break;
            }
            view.remove(FamilyId::IDEMPOTENCY, keys::request(at.group, resource, &key));
            view.remove(FamilyId::IDEMPOTENCY, age);
            self.count -= 1;
        }
        Ok(())
    }
}

fn malformed(error: DecodeError) -> StoreError {
    StoreError { what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use palisade_replication::GroupId;

    use super::*;
    use crate::store::{
        Direction, EachRow, Families, MemoryStore, StateRead, StateStore, WriteSet,
    };

    const STORE: ResourceId = ResourceId(1);

    /// Counts the rows that walks come by.
    struct Counted<'a> {
        store: &'a MemoryStore,
        rows: Cell<usize>,
    }

    impl StateRead for Counted<'_> {
        fn families(&self) -> &Families {
            self.store.families()
        }

        fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.store.get(family, key)
        }

        fn walk(
            &self,
            family: FamilyId,
            from: &[u8],
            end: &[u8],
            direction: Direction,
            each: &mut EachRow<'_>,
        ) -> Result<(), StoreError> {
            self.store.walk(family, from, end, direction, &mut |key, value| {
                self.rows.set(self.rows.get() + 1);
                each(key, value)
            })
        }
    }

    /// Old requests are pushed out in a time that depends on how many they are, not on its square:
    /// each look at the oldest begins where the last one ended.
    #[test]
    fn old_requests_are_pushed_out_without_walking_over_those_that_are_gone() {
        const COUNT: u64 = 1_000;
        let at = |offset: u64, log_time: u64| At {
            group: GroupId::new(1),
            offset: Offset::new(offset),
            log_time: LogTime::new(log_time),
        };
        let request = |view: &mut View<'_>, at: At| {
            let (owner, fingerprint) = (FenceEpoch::new(1), Fingerprint([0; 32]));
            let key = at.offset.get().to_be_bytes();
            let step = reserve(view, at, STORE, owner, fingerprint, &key).unwrap();
            assert!(matches!(step, Step::Done));
            view.keep_record();
        };
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        (1..=COUNT).for_each(|n| request(&mut view, at(n, n)));
        store.commit(view.into_writes()).unwrap();

        let counted = Counted { store: &store, rows: Cell::new(0) };
        let mut view = View::new(&counted);
        let later = COUNT + RETENTION_MS + 1;
        // Each pushes out several.
        (1..=COUNT / 2).for_each(|n| request(&mut view, at(COUNT + n, later)));
        let writes: WriteSet = view.into_writes();
        store.commit(writes).unwrap();
        let known = |n: u64| {
            let row = keys::request(GroupId::new(1), STORE, &n.to_be_bytes());
            store.get(FamilyId::IDEMPOTENCY, &row).unwrap().is_some()
        };
        assert!((1..=COUNT).all(|n| !known(n)) && known(COUNT + 1));
        let rows = counted.rows.get();
        assert!(rows <= 3 * COUNT as usize, "rows={rows}");
    }
}
