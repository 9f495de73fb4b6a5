//! Rows of an idempotency store.
//!
//! ```text
//! 'k' key*                 the request: fingerprint 32, owner, reserved at; once completed: offset, log
//!                          time, result
//! 't' reserved at 8 key*   nothing: requests by age
//! 'c'                      how many requests are kept, a time before which none of them was reserved
//! ```
//! Numbers and byte strings as in `codec`, `key*` as in `keys`, times in keys big-endian.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::op::Fingerprint;
use crate::bounds::VALUE_BYTES_MAX;
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::keys;
use crate::outcome::Completion;
use crate::projection::{ProjectionFault, RowsRead};
use crate::resource::FenceEpoch;
#[cfg(test)]
use crate::store::{Direction, Walk};

/// Where it is kept which requests there are.
pub(super) const WINDOW_ROW: &[u8] = b"c";
/// Behind all requests by age.
pub(super) const AGES_END: &[u8] = b"u";

/// A request as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) owner: FenceEpoch,
    pub(crate) since: LogTime,
    pub(crate) completion: Option<Completion>,
}

impl Request {
    pub(super) fn encode(&self) -> Bytes {
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

    fn decode(raw: Bytes) -> Result<Self, DecodeError> {
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

/// The request of a key, if it is known.
pub(crate) fn find(rows: &RowsRead<'_>, key: &[u8]) -> Result<Option<Request>, ProjectionFault> {
    Ok(rows.get(&request_row(key))?.map(Request::decode).transpose()?)
}

/// All requests, the oldest first: when each was reserved, and its key.
#[cfg(test)]
pub(crate) fn ages(rows: &RowsRead<'_>) -> Result<Vec<(LogTime, Vec<u8>)>, ProjectionFault> {
    let mut ages = Vec::new();
    rows.walk(&ages_from(LogTime::new(0)), Some(AGES_END), Direction::Forward, &mut |row, _| {
        ages.push(split_age_row(row));
        Walk::Next
    })?;
    ages.into_iter().collect()
}

pub(super) fn request_row(key: &[u8]) -> Vec<u8> {
    let mut row = vec![b'k'];
    keys::escape(&mut row, key);
    row
}

pub(super) fn age_row(since: LogTime, key: &[u8]) -> Vec<u8> {
    let mut row = ages_from(since);
    keys::escape(&mut row, key);
    row
}

/// Where the requests that are not older than this begin, by age.
pub(super) fn ages_from(since: LogTime) -> Vec<u8> {
    let mut row = vec![b't'];
    row.extend_from_slice(&since.get().to_be_bytes());
    row
}

/// When a request was reserved and its key, of its age's row.
pub(super) fn split_age_row(row: &[u8]) -> Result<(LogTime, Vec<u8>), ProjectionFault> {
    let split = row.get(1..).and_then(<[u8]>::split_first_chunk::<8>).and_then(|(since, key)| {
        Some((LogTime::new(u64::from_be_bytes(*since)), keys::unescape(key)?))
    });
    split.ok_or_else(|| ProjectionFault::new("malformed age key"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn ages_come_oldest_first(a in key(), b in key(), x: u64, y: u64) {
            let age = |key: &[u8], at| age_row(LogTime::new(at), key);
            prop_assert_eq!(age(&a, x).cmp(&age(&b, y)), x.cmp(&y).then(a.cmp(&b)));
            prop_assert_eq!(age(&a, x) >= ages_from(LogTime::new(y)), x >= y);
            prop_assert!(age(&a, x) < AGES_END.to_vec());
            prop_assert_eq!(split_age_row(&age(&a, x)).unwrap(), (LogTime::new(x), a));
        }

        #[test]
        fn reading_a_row_never_panics(raw in vec(any::<u8>(), 0..60)) {
            let _ = (split_age_row(&raw), Request::decode(raw.into()));
        }
    }
}
