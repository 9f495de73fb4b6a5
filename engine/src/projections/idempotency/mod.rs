//! Idempotency: which requests are under way or done, and with what result (G6).
//!
//! A request is reserved by an owner, then completed with a result. Owners are told apart by their
//! epochs: the same owner may reserve again what it holds, so that it can repeat a request whose
//! answer was lost; only an owner of a higher epoch may take over what another holds. A completion
//! belongs to the holder: a lower owner is fenced even when the work is done, and another result
//! than the first is refused.
//!
//! Requests are kept for some log time from their reservation and no more than some number of them
//! ([`RequestWindow`]); the oldest go first, a few with each new one, and those that are only too old as
//! time passes. A request that is gone is not known any more: the same id would then take effect again,
//! unless it says when it was issued.
//!
//! One thing no other projection can do: a record that repeats a request is answered as the first time,
//! before anything in it is judged or done.

mod op;
mod request;
mod window;

use std::any::TypeId;
use std::cmp::Ordering;

use bytes::Bytes;
use palisade_replication::LogTime;

pub use self::op::{Fingerprint, RequestOutcome};
pub(crate) use self::op::{RequestGuard, RequestOp, RequestRefusal};
pub(crate) use self::request::Request;
#[cfg(test)]
pub(crate) use self::request::ages;
pub(crate) use self::request::find;
use self::request::{age_row, request_row};
use self::window::EVICTIONS_PER_RESERVE;
pub use self::window::RequestWindow;
pub(crate) use self::window::Window;
use crate::outcome::Completion;
use crate::projection::{
    AnyProjection, Applied, At, Erased, Projection, ProjectionFault, Repeated, Rows, RowsRead, Step,
};
use crate::resource::FenceEpoch;
use crate::stored::Stored;

pub(crate) const NAME: &str = "idempotency";

/// The projection, but for the repetitions.
pub(crate) struct Idempotency;

type Done = Result<Applied<RequestOutcome, RequestRefusal>, ProjectionFault>;

impl Projection for Idempotency {
    const NAME: &'static str = NAME;
    const VERSION: u32 = 1;
    type Op = RequestOp;
    type Outcome = RequestOutcome;
    type Refusal = RequestRefusal;
    type Guard = RequestGuard;

    fn apply(&self, at: At, op: RequestOp, rows: &mut Rows<'_, '_>) -> Done {
        match op {
            RequestOp::Reserve { owner, issued, fingerprint, key } => {
                reserve(at, rows, owner, issued, fingerprint, &key)
            }
            RequestOp::Complete { owner, key, result } => complete(at, rows, owner, &key, result),
            RequestOp::Keep { window: keeps } => {
                let mut window = Window::load(&rows.read())?;
                window.keeps = keeps;
                window.store(rows)?;
                Ok(Applied::Done(RequestOutcome::Kept))
            }
        }
    }

    fn holds(&self, guard: &RequestGuard, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        let RequestGuard::Completed { key } = guard;
        Ok(find(rows, key)?.is_some_and(|request| request.completion.is_some()))
    }

    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        Window::load(rows)?.due(rows)
    }

    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
        let mut window = Window::load(&rows.read())?;
        window.evict(rows, at, most)?;
        window.store(rows)
    }
}

fn reserve(
    at: At,
    rows: &mut Rows<'_, '_>,
    owner: FenceEpoch,
    issued: Option<LogTime>,
    fingerprint: Fingerprint,
    key: &[u8],
) -> Done {
    let outcome = match find(&rows.read(), key)? {
        Some(request) if request.fingerprint != fingerprint => {
            return Ok(Applied::Refused(RequestRefusal::Conflict));
        }
        // Repetitions were told before: this batch has completed it itself.
        Some(Request { completion: Some(_), .. }) => {
            return Ok(Applied::Refused(RequestRefusal::TwiceInOneBatch));
        }
        Some(request) if owner < request.owner => {
            let age_ms = at.log_time.get().saturating_sub(request.since.get());
            let owner = request.owner;
            return Ok(Applied::Refused(RequestRefusal::InProgress { owner, age_ms }));
        }
        Some(request) => {
            rows.remove(&age_row(request.since, key));
            if owner == request.owner {
                RequestOutcome::ReservedAgain
            } else {
                RequestOutcome::TakenOver { from: request.owner }
            }
        }
        None => {
            let mut window = Window::load(&rows.read())?;
            let (floor, now) = (window.floor, at.log_time);
            // Nothing was ever forgotten while the floor is zero.
            if floor.get() > 0 && issued.is_some_and(|issued| issued <= floor) {
                return Ok(Applied::Refused(RequestRefusal::Forgotten { floor }));
            }
            if issued.is_some_and(|issued| issued > now) {
                return Ok(Applied::Refused(RequestRefusal::IssuedLater { now }));
            }
            window.admit(at);
            window.evict(rows, at, EVICTIONS_PER_RESERVE)?;
            window.store(rows)?;
            RequestOutcome::Reserved
        }
    };
    let request = Request { fingerprint, owner, since: at.log_time, completion: None };
    rows.put(&request_row(key), request.encode())?;
    rows.put(&age_row(at.log_time, key), Bytes::new())?;
    Ok(Applied::Done(outcome))
}

fn complete(at: At, rows: &mut Rows<'_, '_>, owner: FenceEpoch, key: &[u8], result: Bytes) -> Done {
    let Some(mut request) = find(&rows.read(), key)? else {
        return Ok(Applied::Refused(RequestRefusal::NotReserved));
    };
    let refused = match (owner.cmp(&request.owner), &request.completion) {
        (Ordering::Less, _) => Some(RequestRefusal::Fenced { current: request.owner }),
        (Ordering::Greater, _) => Some(RequestRefusal::NotReserved),
        (Ordering::Equal, None) => None,
        (Ordering::Equal, Some(first)) if first.offset == at.offset => {
            Some(RequestRefusal::TwiceInOneBatch)
        }
        (Ordering::Equal, Some(first)) => {
            Some(RequestRefusal::CompletedOtherwise { at: first.offset })
        }
    };
    if let Some(refusal) = refused {
        return Ok(Applied::Refused(refusal));
    }
    request.completion = Some(Completion { offset: at.offset, log_time: at.log_time, result });
    rows.put(&request_row(key), request.encode())?;
    Ok(Applied::Done(RequestOutcome::Completed))
}

/// The projection, with the repetitions.
pub(crate) struct Requests(Erased<Idempotency>);

impl Default for Requests {
    fn default() -> Self {
        Self(Erased(Idempotency))
    }
}

impl AnyProjection for Requests {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn version(&self) -> u32 {
        self.0.version()
    }

    fn of(&self) -> TypeId {
        self.0.of()
    }

    fn apply(&self, at: At, op: Bytes, rows: &mut Rows<'_, '_>) -> Result<Step, ProjectionFault> {
        self.0.apply(at, op, rows)
    }

    fn holds(&self, guard: &Bytes, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        self.0.holds(guard, rows)
    }

    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        self.0.due(rows)
    }

    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
        self.0.tidy(at, rows, most)
    }

    fn repeats(
        &self,
        op: &Bytes,
        rows: &RowsRead<'_>,
    ) -> Result<Option<Repeated>, ProjectionFault> {
        let op = RequestOp::from_bytes(op)?;
        let (RequestOp::Reserve { key, .. } | RequestOp::Complete { key, .. }) = &op else {
            return Ok(None);
        };
        let Some(known) = find(rows, key)? else { return Ok(None) };
        Ok(match op {
            RequestOp::Reserve { fingerprint, .. } if fingerprint != known.fingerprint => {
                Some(Repeated::Refused(RequestRefusal::Conflict.to_bytes()))
            }
            RequestOp::Reserve { .. } => known.completion.map(Repeated::Completed),
            RequestOp::Complete { owner, result, .. } => known
                .completion
                .filter(|first| owner == known.owner && first.result == result)
                .map(Repeated::Completed),
            RequestOp::Keep { .. } => None,
        })
    }
}
