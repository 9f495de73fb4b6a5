//! Idempotency: which requests are under way or done, and with what result (G6).
//!
//! A request is reserved by an owner, then completed with a result. Only an owner of a higher epoch
//! may take over what another has reserved. Requests are kept for [`RETENTION_MS`] of log time from
//! their reservation and at most [`REQUESTS_MAX`] of them; the oldest go first. A request that is
//! gone is not known any more: the same id would then take effect again.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::{At, Step};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::command::{Completion, Fingerprint, Refusal, VALUE_BYTES_MAX};
use crate::keys;
use crate::resource::{FenceEpoch, ResourceId};
use crate::store::{Family, StoreError};
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
            view.remove(Family::Idempotency, age);
        }
        None => {
            let count = count(view, at, resource)?;
            evict(view, at, resource, count + 1)?;
        }
    }
    let request = Request { fingerprint, owner, since: at.log_time, completion: None };
    view.put(Family::Idempotency, row, request.encode());
    let age = keys::request_age(at.group, resource, at.log_time, key);
    view.put(Family::Idempotency, age, Bytes::new());
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
    if let Some(completion) = request.completion {
        return Ok(Step::Duplicate(completion));
    }
    if owner < request.owner {
        return Ok(Step::Refused(Refusal::Fenced { current: request.owner }));
    }
    if request.owner < owner {
        return Ok(Step::Refused(Refusal::NotReserved));
    }
    request.completion = Some(Completion { offset: at.offset, log_time: at.log_time, result });
    view.put(Family::Idempotency, row, request.encode());
    Ok(Step::Done)
}

fn find(view: &View<'_>, row: &[u8]) -> Result<Option<Request>, StoreError> {
    let found = view.get(Family::Idempotency, row)?;
    found.map(Request::decode).transpose().map_err(malformed)
}

fn count(view: &View<'_>, at: At, resource: ResourceId) -> Result<u64, StoreError> {
    match view.get(Family::Idempotency, &keys::request_count(at.group, resource))? {
        None => Ok(0),
        Some(raw) => Reader::new(raw).number("request count").map_err(malformed),
    }
}

/// Pushes out what is too old, or too much, and stores the count that remains.
fn evict(
    view: &mut View<'_>,
    at: At,
    resource: ResourceId,
    mut count: u64,
) -> Result<(), StoreError> {
    let (from, end) = keys::request_ages(at.group, resource);
    for _ in 0..EVICTIONS_PER_RESERVE {
        let Some((age, _)) = view.first(Family::Idempotency, &from, &end)? else { break };
        let (since, key) = keys::split_request_age(&age)
            .ok_or_else(|| StoreError { what: "malformed age key".into() })?;
        let old = since.get() + RETENTION_MS < at.log_time.get();
        if !old && count <= REQUESTS_MAX {
            break;
        }
        view.remove(Family::Idempotency, keys::request(at.group, resource, &key));
        view.remove(Family::Idempotency, age);
        count -= 1;
    }
    let mut raw = Vec::new();
    put_number(&mut raw, count);
    view.put(Family::Idempotency, keys::request_count(at.group, resource), raw.into());
    Ok(())
}

fn malformed(error: DecodeError) -> StoreError {
    StoreError { what: error.to_string() }
}
