//! What a log knows of itself without a look at its entries: where they begin and end, how many there are,
//! and how long they are kept.

use bytes::Bytes;

use super::position::LogPosition;
use crate::codec::{DecodeError, Reader, put_number};
use crate::stored::Stored;

/// How long entries are kept: what lies beyond either bound is removed by appends, the oldest first.
/// Nothing is removed by the default. What is exactly counted is said in `docs/log.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRetention {
    /// Entries whose log time is longer ago are removed.
    pub keep_ms: Option<u64>,
    /// Above so many bytes the oldest are removed. An entry counts with 17 more than its value has: one is the number of its schema.
    pub keep_bytes: Option<u64>,
}

impl LogRetention {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_some(out, self.keep_ms);
        put_some(out, self.keep_bytes);
    }

    pub(super) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let keep_ms = take_some(reader)?;
        Ok(Self { keep_ms, keep_bytes: take_some(reader)? })
    }
}

fn put_some(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    if let Some(number) = number {
        put_number(out, number);
    }
}

fn take_some(reader: &mut Reader) -> Result<Option<u64>, DecodeError> {
    match reader.byte("retention")? {
        0 => Ok(None),
        1 => Ok(Some(reader.number("retention")?)),
        _ => Err(DecodeError { what: "retention" }),
    }
}

/// The key of the header's row.
pub(super) const ROW: &[u8] = b"h";

/// The header of a log. A log without one has never been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// After the last entry that was removed.
    pub(crate) first: LogPosition,
    /// After the last entry that was appended.
    pub(crate) tail: LogPosition,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(super) consumers: u64,
    pub(crate) retention: LogRetention,
}

impl Header {
    pub(super) const NEW: Self = Self {
        first: LogPosition::START,
        tail: LogPosition::START,
        bytes: 0,
        entries: 0,
        consumers: 0,
        retention: LogRetention { keep_ms: None, keep_bytes: None },
    };
}

impl Stored for Header {
    fn to_bytes(&self) -> Bytes {
        let Self { first, tail, bytes, entries, consumers, retention } = self;
        let mut out = Vec::with_capacity(32);
        first.put(&mut out);
        tail.put(&mut out);
        [bytes, entries, consumers].into_iter().for_each(|number| put_number(&mut out, *number));
        retention.put(&mut out);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let (first, tail) = (LogPosition::take(&mut reader)?, LogPosition::take(&mut reader)?);
        let header = Self {
            first,
            tail,
            bytes: reader.number("bytes of the log")?,
            entries: reader.number("entries of the log")?,
            consumers: reader.number("consumers of the log")?,
            retention: LogRetention::take(&mut reader)?,
        };
        reader.end("log header")?;
        Ok(header)
    }
}
