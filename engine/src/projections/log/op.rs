//! What can be done to a log, demanded of it, and answered.
//!
//! ```text
//! operation  1 append     tail expected, count, payloads
//!            2 trim       before
//!            3 retain     keep ms, keep bytes
//!            4 commit     name, owner, position
//!            5 reset      name, owner, position
//!            6 forget     name, owner
//! demand     1 tail       position
//! outcome    1 appended   first, count
//!            2 trimmed    first, removed, complete
//!            3 done
//! refusal    1 tail       expected, found
//!            2 fenced     current
//!            3 falls      committed
//!            4 beyond     tail
//!            5 too many consumers
//! ```

use bytes::Bytes;

use super::header::LogRetention;
use super::position::LogPosition;
use super::state::CONSUMERS_MAX;
use crate::bounds::{BATCH_OPS_MAX, SCHEMA_BYTES, VALUE_BYTES_MAX};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::error::Error;
use crate::resource::FenceEpoch;
use crate::stored::Stored;

/// Most entries that one operation appends.
pub const APPEND_ENTRIES_MAX: usize = 255;
// The entries of a record, and the place after the last of them, can be counted.
const _: () = assert!(BATCH_OPS_MAX * APPEND_ENTRIES_MAX <= u16::MAX as usize);
/// Longest name of a consumer.
pub const CONSUMER_NAME_BYTES_MAX: usize = 128;

/// What can be done to a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogOp {
    Append { expected: Option<LogPosition>, payloads: Vec<Bytes> },
    Trim { before: LogPosition },
    Retain { retention: LogRetention },
    Consumer { name: String, owner: FenceEpoch, change: ConsumerChange },
}

/// What can be done to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConsumerChange {
    Commit(LogPosition),
    Reset(LogPosition),
    Forget,
}

#[cfg(any(test, feature = "sim"))]
impl LogOp {
    /// Appends one payload, wherever the tail is.
    pub(crate) fn append(payload: Bytes) -> Self {
        Self::Append { expected: None, payloads: vec![payload] }
    }
}

const APPEND: u8 = 1;
const TRIM: u8 = 2;
const RETAIN: u8 = 3;
const COMMIT: u8 = 4;
const RESET: u8 = 5;
const FORGET: u8 = 6;

impl Stored for LogOp {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Append { expected, payloads } => {
                out.push(APPEND);
                out.push(u8::from(expected.is_some()));
                if let Some(expected) = expected {
                    expected.put(&mut out);
                }
                put_number(&mut out, payloads.len() as u64);
                payloads.iter().for_each(|payload| put_bytes(&mut out, payload));
            }
            Self::Trim { before } => {
                out.push(TRIM);
                before.put(&mut out);
            }
            Self::Retain { retention } => {
                out.push(RETAIN);
                retention.put(&mut out);
            }
            Self::Consumer { name, owner, change } => {
                let (kind, position) = match change {
                    ConsumerChange::Commit(position) => (COMMIT, Some(position)),
                    ConsumerChange::Reset(position) => (RESET, Some(position)),
                    ConsumerChange::Forget => (FORGET, None),
                };
                out.push(kind);
                put_bytes(&mut out, name.as_bytes());
                put_number(&mut out, owner.get());
                if let Some(position) = position {
                    position.put(&mut out);
                }
            }
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let op = match reader.byte("log operation")? {
            APPEND => take_append(&mut reader)?,
            TRIM => Self::Trim { before: LogPosition::take(&mut reader)? },
            RETAIN => Self::Retain { retention: LogRetention::take(&mut reader)? },
            kind @ (COMMIT | RESET | FORGET) => take_consumer(kind, &mut reader)?,
            _ => return Err(DecodeError { what: "log operation" }),
        };
        reader.end("log operation")?;
        Ok(op)
    }
}

fn take_append(reader: &mut Reader) -> Result<LogOp, DecodeError> {
    let expected = match reader.byte("tail")? {
        0 => None,
        1 => Some(LogPosition::take(reader)?),
        _ => return Err(DecodeError { what: "tail" }),
    };
    let count = reader.number("payload count")?;
    if !(1..=APPEND_ENTRIES_MAX as u64).contains(&count) {
        return Err(DecodeError { what: "payload count" });
    }
    let mut take = || reader.bytes(VALUE_BYTES_MAX + SCHEMA_BYTES, "payload");
    let payloads = (0..count).map(|_| take()).collect::<Result<_, _>>()?;
    Ok(LogOp::Append { expected, payloads })
}

fn take_consumer(kind: u8, reader: &mut Reader) -> Result<LogOp, DecodeError> {
    let name = reader.text(CONSUMER_NAME_BYTES_MAX, "consumer")?;
    if name.is_empty() {
        return Err(DecodeError { what: "consumer" });
    }
    let owner = FenceEpoch::new(reader.number("owner")?);
    let change = match kind {
        COMMIT => ConsumerChange::Commit(LogPosition::take(reader)?),
        RESET => ConsumerChange::Reset(LogPosition::take(reader)?),
        _ => ConsumerChange::Forget,
    };
    Ok(LogOp::Consumer { name, owner, change })
}

/// What a batch can demand of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogGuard {
    /// The tail is this.
    TailIs { position: LogPosition },
}

const TAIL_IS: u8 = 1;

impl Stored for LogGuard {
    fn to_bytes(&self) -> Bytes {
        let Self::TailIs { position } = self;
        let mut out = vec![TAIL_IS];
        position.put(&mut out);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("log guard")? != TAIL_IS {
            return Err(DecodeError { what: "log guard" });
        }
        let position = LogPosition::take(&mut reader)?;
        reader.end("log guard")?;
        Ok(Self::TailIs { position })
    }
}

/// How far a trim came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTrim {
    /// After the last entry that was ever removed from the log.
    pub first: LogPosition,
    /// How many entries this trim has removed.
    pub removed: u64,
    /// Nothing is left of what it was to remove.
    pub complete: bool,
}

/// What an operation on a log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogOutcome {
    /// So many entries, the first at this place, the others at the places after it.
    Appended {
        first: LogPosition,
        count: u16,
    },
    Trimmed(LogTrim),
    Done,
}

const APPENDED: u8 = 1;
const TRIMMED: u8 = 2;
const DONE: u8 = 3;

impl Stored for LogOutcome {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        match self {
            Self::Appended { first, count } => {
                out.push(APPENDED);
                first.put(&mut out);
                put_number(&mut out, u64::from(*count));
            }
            Self::Trimmed(LogTrim { first, removed, complete }) => {
                out.push(TRIMMED);
                first.put(&mut out);
                put_number(&mut out, *removed);
                out.push(u8::from(*complete));
            }
            Self::Done => out.push(DONE),
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let malformed = DecodeError { what: "log outcome" };
        let outcome = match reader.byte("log outcome")? {
            APPENDED => {
                let first = LogPosition::take(&mut reader)?;
                let count = u16::try_from(reader.number("count")?).map_err(|_| malformed)?;
                Self::Appended { first, count }
            }
            TRIMMED => {
                let first = LogPosition::take(&mut reader)?;
                let removed = reader.number("removed")?;
                let complete = match reader.byte("complete")? {
                    raw @ (0 | 1) => raw == 1,
                    _ => return Err(malformed),
                };
                Self::Trimmed(LogTrim { first, removed, complete })
            }
            DONE => Self::Done,
            _ => return Err(malformed),
        };
        reader.end("log outcome")?;
        Ok(outcome)
    }
}

/// Why a log cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogRefusal {
    TailMismatch { expected: LogPosition, found: LogPosition },
    Fenced { current: FenceEpoch },
    Falls { committed: LogPosition },
    BeyondTail { tail: LogPosition },
    TooManyConsumers,
}

const TAIL_MISMATCH: u8 = 1;
const FENCED: u8 = 2;
const FALLS: u8 = 3;
const BEYOND_TAIL: u8 = 4;
const TOO_MANY_CONSUMERS: u8 = 5;

impl Stored for LogRefusal {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        match self {
            Self::TailMismatch { expected, found } => {
                out.push(TAIL_MISMATCH);
                expected.put(&mut out);
                found.put(&mut out);
            }
            Self::Fenced { current } => {
                out.push(FENCED);
                put_number(&mut out, current.get());
            }
            Self::Falls { committed } => {
                out.push(FALLS);
                committed.put(&mut out);
            }
            Self::BeyondTail { tail } => {
                out.push(BEYOND_TAIL);
                tail.put(&mut out);
            }
            Self::TooManyConsumers => out.push(TOO_MANY_CONSUMERS),
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let refusal = match reader.byte("log refusal")? {
            TAIL_MISMATCH => {
                let expected = LogPosition::take(&mut reader)?;
                Self::TailMismatch { expected, found: LogPosition::take(&mut reader)? }
            }
            FENCED => Self::Fenced { current: FenceEpoch::new(reader.number("owner")?) },
            FALLS => Self::Falls { committed: LogPosition::take(&mut reader)? },
            BEYOND_TAIL => Self::BeyondTail { tail: LogPosition::take(&mut reader)? },
            TOO_MANY_CONSUMERS => Self::TooManyConsumers,
            _ => return Err(DecodeError { what: "log refusal" }),
        };
        reader.end("log refusal")?;
        Ok(refusal)
    }
}

impl LogRefusal {
    /// What the caller is told whose batch has this operation.
    pub(crate) fn error(self, op: usize) -> Error {
        let what = match self {
            Self::TailMismatch { expected, found } => {
                return Error::TailMismatch { op, expected, found };
            }
            Self::Fenced { current } => return Error::Fenced { current },
            Self::Falls { committed } => {
                format!("a consumer never goes back but by a reset, committed={committed}")
            }
            Self::BeyondTail { tail } => {
                format!("a consumer commits what there is, tail={tail}")
            }
            Self::TooManyConsumers => {
                format!("the log has {CONSUMERS_MAX} consumers: forget one")
            }
        };
        Error::PreconditionFailed { what }
    }
}
