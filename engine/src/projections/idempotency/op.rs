//! What can be done to an idempotency store, and its bytes.
//!
//! ```text
//! operation  1 reserve    owner epoch, log time of issue plus one or 0, fingerprint 32, key
//!            2 complete   owner epoch, key, result
//!            3 keep       milliseconds, requests
//! demand     1 completed  key
//! outcome    1 reserved
//!            2 reserved again
//!            3 taken over  owner epoch before
//!            4 completed
//!            5 kept
//! refusal    1 conflict
//!            2 in progress  owner epoch, reserved so many milliseconds ago
//!            3 not reserved
//!            4 completed otherwise  offset
//!            5 fenced  current owner epoch
//!            6 twice in one batch
//!            7 forgotten  floor of the window
//!            8 issued later  log time
//! ```
//! Numbers and byte strings as in `codec`.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::window::RequestWindow;
use crate::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::error::Error;
use crate::resource::FenceEpoch;
use crate::stored::Stored;

/// A canonical digest of a request: the same request has the same, another request another.
///
/// ```
/// use palisade::Fingerprint;
///
/// let of_bob = Fingerprint::of(b"account=bob amount=12");
/// assert_eq!(of_bob, Fingerprint::of(b"account=bob amount=12"));
/// assert_ne!(of_bob, Fingerprint::of(b"account=bob amount=13"));
/// // Who has a SHA-256 of his own gives that.
/// # let sha256 = [7; 32];
/// let given = Fingerprint::from_digest(sha256);
/// assert_ne!(given, of_bob);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub(crate) [u8; 32]);

impl Fingerprint {
    /// The SHA-256 of a canonical encoding of the request.
    #[must_use]
    pub fn of(canonical: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(canonical).into())
    }

    /// One that was computed elsewhere.
    #[must_use]
    pub const fn from_digest(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestOp {
    Reserve {
        owner: FenceEpoch,
        /// Not before this log time was the request made for the first time.
        issued: Option<LogTime>,
        fingerprint: Fingerprint,
        key: Bytes,
    },
    Complete {
        owner: FenceEpoch,
        key: Bytes,
        result: Bytes,
    },
    Keep {
        window: RequestWindow,
    },
}

const RESERVE: u8 = 1;
const COMPLETE: u8 = 2;
const KEEP: u8 = 3;

impl Stored for RequestOp {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Reserve { owner, issued, fingerprint, key } => {
                out.push(RESERVE);
                put_number(&mut out, owner.get());
                put_number(&mut out, issued.map_or(0, |at| at.get().saturating_add(1)));
                out.extend_from_slice(&fingerprint.0);
                put_bytes(&mut out, key);
            }
            Self::Complete { owner, key, result } => {
                out.push(COMPLETE);
                put_number(&mut out, owner.get());
                put_bytes(&mut out, key);
                put_bytes(&mut out, result);
            }
            Self::Keep { window } => {
                out.push(KEEP);
                window.put(&mut out);
            }
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let owner = |reader: &mut Reader| Ok(FenceEpoch::new(reader.number("owner")?));
        let op = match reader.byte("request operation")? {
            RESERVE => Self::Reserve {
                owner: owner(&mut reader)?,
                issued: reader.number("issued")?.checked_sub(1).map(LogTime::new),
                fingerprint: Fingerprint(reader.array("fingerprint")?),
                key: reader.bytes(KEY_BYTES_MAX, "key")?,
            },
            KEEP => Self::Keep { window: RequestWindow::take(&mut reader)? },
            COMPLETE => Self::Complete {
                owner: owner(&mut reader)?,
                key: reader.bytes(KEY_BYTES_MAX, "key")?,
                result: reader.bytes(VALUE_BYTES_MAX, "result")?,
            },
            _ => return Err(DecodeError { what: "request operation" }),
        };
        reader.end("request operation")?;
        Ok(op)
    }
}

/// What an operation on an idempotency store has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The request was not known, and is reserved now.
    Reserved,
    /// The same owner had reserved it before.
    ReservedAgain,
    /// An owner of a lower epoch had reserved it: he may have left something half-way.
    TakenOver {
        /// His epoch.
        from: FenceEpoch,
    },
    /// The request is completed.
    Completed,
    /// The window of the store is set.
    Kept,
}

impl Stored for RequestOutcome {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(10);
        match self {
            Self::Reserved => out.push(1),
            Self::ReservedAgain => out.push(2),
            Self::TakenOver { from } => {
                out.push(3);
                put_number(&mut out, from.get());
            }
            Self::Completed => out.push(4),
            Self::Kept => out.push(5),
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let outcome = match reader.byte("request outcome")? {
            1 => Self::Reserved,
            2 => Self::ReservedAgain,
            3 => Self::TakenOver { from: FenceEpoch::new(reader.number("owner")?) },
            4 => Self::Completed,
            5 => Self::Kept,
            _ => return Err(DecodeError { what: "request outcome" }),
        };
        reader.end("request outcome")?;
        Ok(outcome)
    }
}

/// What a batch can demand of an idempotency store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestGuard {
    /// The request was completed.
    Completed { key: Bytes },
}

const COMPLETED: u8 = 1;

impl Stored for RequestGuard {
    fn to_bytes(&self) -> Bytes {
        let Self::Completed { key } = self;
        let mut out = vec![COMPLETED];
        put_bytes(&mut out, key);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("request guard")? != COMPLETED {
            return Err(DecodeError { what: "request guard" });
        }
        let key = reader.bytes(KEY_BYTES_MAX, "key")?;
        reader.end("request guard")?;
        Ok(Self::Completed { key })
    }
}

/// Why something cannot be done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestRefusal {
    /// The id was used for another request.
    Conflict,
    /// An owner of a higher epoch has it.
    InProgress { owner: FenceEpoch, age_ms: u64 },
    /// The owner that completes it does not have it.
    NotReserved,
    /// It was completed with another result.
    CompletedOtherwise { at: Offset },
    /// An owner of a higher epoch has taken over.
    Fenced { current: FenceEpoch },
    /// The batch had completed it already.
    TwiceInOneBatch,
    /// It may have been completed and forgotten: whatever was reserved up to there is.
    Forgotten { floor: LogTime },
    /// It says that it was issued later than now: no window would ever tell that it is old.
    IssuedLater { now: LogTime },
}

impl Stored for RequestRefusal {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        match self {
            Self::Conflict => out.push(1),
            Self::InProgress { owner, age_ms } => {
                out.push(2);
                put_number(&mut out, owner.get());
                put_number(&mut out, *age_ms);
            }
            Self::NotReserved => out.push(3),
            Self::CompletedOtherwise { at } => {
                out.push(4);
                put_number(&mut out, at.get());
            }
            Self::Fenced { current } => {
                out.push(5);
                put_number(&mut out, current.get());
            }
            Self::TwiceInOneBatch => out.push(6),
            Self::Forgotten { floor } => {
                out.push(7);
                put_number(&mut out, floor.get());
            }
            Self::IssuedLater { now } => {
                out.push(8);
                put_number(&mut out, now.get());
            }
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let refusal = match reader.byte("request refusal")? {
            1 => Self::Conflict,
            2 => Self::InProgress {
                owner: FenceEpoch::new(reader.number("owner")?),
                age_ms: reader.number("age")?,
            },
            3 => Self::NotReserved,
            4 => Self::CompletedOtherwise { at: Offset::new(reader.number("offset")?) },
            5 => Self::Fenced { current: FenceEpoch::new(reader.number("epoch")?) },
            6 => Self::TwiceInOneBatch,
            7 => Self::Forgotten { floor: LogTime::new(reader.number("floor")?) },
            8 => Self::IssuedLater { now: LogTime::new(reader.number("now")?) },
            _ => return Err(DecodeError { what: "request refusal" }),
        };
        reader.end("request refusal")?;
        Ok(refusal)
    }
}

impl RequestRefusal {
    /// What the caller is told whose batch has this operation.
    pub(crate) fn error(self, op: usize) -> Error {
        match self {
            Self::Conflict => Error::IdempotencyConflict { op: Some(op) },
            Self::InProgress { owner, age_ms } => Error::InProgress { op, owner, age_ms },
            Self::NotReserved => Error::PreconditionFailed {
                what: "the request is not reserved by this owner epoch".to_owned(),
            },
            Self::CompletedOtherwise { at } => Error::PreconditionFailed {
                what: format!("the request was completed with another result, offset={at}"),
            },
            Self::Fenced { current } => Error::Fenced { current },
            Self::TwiceInOneBatch => Error::InvalidArgument {
                what: "a batch completes a request at most once, and last".to_owned(),
            },
            Self::Forgotten { floor } => Error::WindowExpired { floor },
            Self::IssuedLater { now } => Error::InvalidArgument {
                what: format!(
                    "a request is issued at a log time that its maker was told, which is never later \
                     than now={now}"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = RequestOp> {
        let bytes = || vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let owner = || any::<u64>().prop_map(FenceEpoch::new);
        prop_oneof![
            (owner(), proptest::option::of(0..u64::MAX), any::<[u8; 32]>(), bytes()).prop_map(
                |(owner, issued, raw, key)| RequestOp::Reserve {
                    owner,
                    issued: issued.map(LogTime::new),
                    fingerprint: Fingerprint(raw),
                    key
                }
            ),
            any::<(u64, u64)>().prop_map(|(retention_ms, requests_max)| RequestOp::Keep {
                window: RequestWindow { retention_ms, requests_max }
            }),
            (owner(), bytes(), bytes()).prop_map(|(owner, key, result)| RequestOp::Complete {
                owner,
                key,
                result
            }),
        ]
    }

    fn refusal() -> impl Strategy<Value = RequestRefusal> {
        let epoch = || any::<u64>().prop_map(FenceEpoch::new);
        prop_oneof![
            Just(RequestRefusal::Conflict),
            (epoch(), any::<u64>())
                .prop_map(|(owner, age_ms)| RequestRefusal::InProgress { owner, age_ms }),
            Just(RequestRefusal::NotReserved),
            any::<u64>().prop_map(|at| RequestRefusal::CompletedOtherwise { at: Offset::new(at) }),
            epoch().prop_map(|current| RequestRefusal::Fenced { current }),
            Just(RequestRefusal::TwiceInOneBatch),
            any::<u64>().prop_map(|now| RequestRefusal::IssuedLater { now: LogTime::new(now) }),
            any::<u64>().prop_map(|floor| RequestRefusal::Forgotten { floor: LogTime::new(floor) }),
        ]
    }

    fn outcome() -> impl Strategy<Value = RequestOutcome> {
        prop_oneof![
            Just(RequestOutcome::Reserved),
            Just(RequestOutcome::ReservedAgain),
            any::<u64>().prop_map(|from| RequestOutcome::TakenOver { from: FenceEpoch::new(from) }),
            Just(RequestOutcome::Completed),
            Just(RequestOutcome::Kept),
        ]
    }

    proptest! {
        #[test]
        fn encodings_have_one_form(
            op in op(),
            refusal in refusal(),
            outcome in outcome(),
            at: usize,
            byte: u8,
        ) {
            prop_assert_eq!(RequestOutcome::from_bytes(&outcome.to_bytes()), Ok(outcome));
            prop_assert_eq!(RequestOp::from_bytes(&op.to_bytes()), Ok(op.clone()));
            prop_assert_eq!(RequestRefusal::from_bytes(&refusal.to_bytes()), Ok(refusal));
            let guard = RequestGuard::Completed { key: op.to_bytes() };
            prop_assert_eq!(RequestGuard::from_bytes(&guard.to_bytes()), Ok(guard));
            // E8: what is read is written the same again.
            let mut raw = op.to_bytes().to_vec();
            let at = at % raw.len();
            raw[at] = byte;
            let raw = Bytes::from(raw);
            if let Ok(op) = RequestOp::from_bytes(&raw) {
                prop_assert_eq!(op.to_bytes(), raw.clone());
            }
            if let Ok(outcome) = RequestOutcome::from_bytes(&raw) {
                prop_assert_eq!(outcome.to_bytes(), raw.clone());
            }
            if let Ok(refusal) = RequestRefusal::from_bytes(&raw) {
                prop_assert_eq!(refusal.to_bytes(), raw);
            }
        }
    }
}
