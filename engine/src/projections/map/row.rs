//! Rows of a map.
//!
//! ```text
//! 'v' key* !offset 8        one version of a key: flags 1 (1 it was removed, 2 it ends by itself), when it
//!                           ends, value
//! 'f' offset 8, index 2     one change: log time, 1 if it ended by itself, key
//! 'x' ends at 8, key*       nothing: the newest versions that end by themselves, by when they do
//! 'h'                       what is kept of the past: `history.rs`
//! ```
//! Numbers and byte strings as in `codec`, `key*` as in `keys`, numbers in keys big-endian. `!offset` is
//! the offset's complement: the newest version of a key comes first.

use std::fmt;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use crate::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::keys;
use crate::projection::ProjectionFault;

/// Offset of the last change of a key, or that there is none.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// let apples = "apples".to_owned();
/// let first = stock.put_if(&apples, &7, Version::ABSENT).await?;
/// let version = Version::at(first.offset);
/// assert_eq!(version.offset(), first.offset);
/// stock.put_if(&apples, &6, version).await?;
/// let late = stock.put_if(&apples, &5, version).await;
/// assert!(matches!(late, Err(Error::VersionMismatch { expected, .. }) if expected == version));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(crate) Offset);

impl Version {
    /// The key is not there.
    pub const ABSENT: Self = Self(Offset::ZERO);

    /// That of a key that was last changed at this offset; [`Version::ABSENT`] for zero.
    #[must_use]
    pub const fn at(offset: Offset) -> Self {
        Self(offset)
    }

    /// The offset at which the key was last changed.
    #[must_use]
    pub const fn offset(self) -> Offset {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ABSENT => f.write_str("absent"),
            Self(offset) => offset.fmt(f),
        }
    }
}

const REMOVED: u8 = 1;
const ENDS: u8 = 2;

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Nothing: it was removed.
    pub(crate) value: Option<Bytes>,
    /// When it is removed by itself.
    pub(crate) ends_at: Option<LogTime>,
}

impl Held {
    pub(super) fn encode(&self) -> Bytes {
        let length = self.value.as_ref().map_or(0, Bytes::len);
        let mut out = Vec::with_capacity(length + 16);
        let removed = if self.value.is_none() { REMOVED } else { 0 };
        out.push(removed | if self.ends_at.is_some() { ENDS } else { 0 });
        if let Some(ends_at) = self.ends_at {
            put_number(&mut out, ends_at.get());
        }
        if let Some(value) = &self.value {
            out.extend_from_slice(value);
        }
        out.into()
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, DecodeError> {
        let raw = Bytes::copy_from_slice(raw);
        let length = raw.len();
        let mut reader = Reader::new(raw);
        let flags = reader.byte("version flags")?;
        let ends_at = match flags {
            0 | REMOVED => None,
            ENDS => Some(LogTime::new(reader.number("end")?)),
            _ => return Err(DecodeError { what: "version flags" }),
        };
        let value = reader.rest();
        if flags == REMOVED && !value.is_empty() || length > VALUE_BYTES_MAX + 16 {
            return Err(DecodeError { what: "version of a key" });
        }
        Ok(Self { value: (flags != REMOVED).then_some(value), ends_at })
    }
}

/// One change of a key, where it stands in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) log_time: LogTime,
    /// The key was removed because its time was over.
    pub(crate) ended: bool,
    pub(crate) key: Bytes,
}

impl Change {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.key.len() + 12);
        put_number(&mut out, self.log_time.get());
        out.push(self.ended.into());
        put_bytes(&mut out, &self.key);
        out.into()
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(raw));
        let log_time = LogTime::new(reader.number("log time")?);
        let ended = match reader.byte("kind of change")? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError { what: "kind of change" }),
        };
        let key = reader.bytes(KEY_BYTES_MAX, "key")?;
        reader.end("change")?;
        Ok(Self { log_time, ended, key })
    }
}

/// All versions of a key begin with this.
pub(super) fn key_row(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 16);
    row.push(b'v');
    keys::escape(&mut row, key);
    row
}

/// Where the keys that are not below this one begin.
pub(super) fn bound_row(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 16);
    row.push(b'v');
    keys::escape_bytes(&mut row, key);
    row
}

/// Behind all keys.
pub(super) const KEYS_END: &[u8] = b"w";

pub(super) fn version_row(key: &[u8], version: Version) -> Vec<u8> {
    let mut row = key_row(key);
    row.extend_from_slice(&(!version.0.get()).to_be_bytes());
    row
}

pub(super) fn split_version_row(row: &[u8]) -> Result<(Vec<u8>, Version), ProjectionFault> {
    let split = row.get(1..).and_then(<[u8]>::split_last_chunk::<8>).and_then(|(key, version)| {
        let version = Version(Offset::new(!u64::from_be_bytes(*version)));
        Some((keys::unescape(key)?, version))
    });
    split.ok_or_else(|| ProjectionFault::new("malformed map key"))
}

/// The rows of changes begin with this.
pub(super) const CHANGE: u8 = b'f';
/// Behind all changes.
pub(super) const FEED_END: &[u8] = &[CHANGE + 1];

pub(super) fn end_row(ends_at: LogTime, key: &[u8]) -> Vec<u8> {
    let mut row = vec![b'x'];
    row.extend_from_slice(&ends_at.get().to_be_bytes());
    keys::escape(&mut row, key);
    row
}

/// Before and behind all versions that end by themselves.
pub(super) const ENDS_FROM: &[u8] = b"x";
pub(super) const ENDS_END: &[u8] = b"y";

pub(super) fn split_end_row(row: &[u8]) -> Result<(LogTime, Vec<u8>), ProjectionFault> {
    let split = row.get(1..).and_then(<[u8]>::split_first_chunk::<8>).and_then(|(ends_at, key)| {
        Some((LogTime::new(u64::from_be_bytes(*ends_at)), keys::unescape(key)?))
    });
    split.ok_or_else(|| ProjectionFault::new("malformed end key"))
}

pub(super) const HEADER_ROW: &[u8] = b"h";

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    fn version(offset: u64) -> Version {
        Version(Offset::new(offset))
    }

    proptest! {
        #[test]
        fn versions_keep_the_order_of_keys_newest_first(a in key(), b in key(), x: u64, y: u64) {
            let order = version_row(&a, version(x)).cmp(&version_row(&b, version(y)));
            prop_assert_eq!(order, a.cmp(&b).then(y.cmp(&x)));
            let row = version_row(&a, version(x));
            prop_assert_eq!(split_version_row(&row).unwrap(), (a.clone(), version(x)));
            prop_assert_eq!(row >= bound_row(&b), a >= b);
            prop_assert!(row < KEYS_END.to_vec());
        }

        #[test]
        fn ends_come_in_their_order(a in key(), b in key(), x: u64, y: u64) {
            let end = |at, key: &[u8]| end_row(LogTime::new(at), key);
            prop_assert_eq!(end(x, &a).cmp(&end(y, &b)), x.cmp(&y).then(a.cmp(&b)));
            prop_assert!(end(x, &a) < ENDS_END.to_vec());
            prop_assert_eq!(split_end_row(&end(x, &a)).unwrap(), (LogTime::new(x), a));
        }

        #[test]
        fn values_have_one_form(value in proptest::option::of(key()), end: Option<u64>, raw in key()) {
            let ends_at = value.as_ref().and(end).map(LogTime::new);
            let held = Held { value: value.map(Bytes::from), ends_at };
            prop_assert_eq!(Held::decode(&held.encode()), Ok(held));
            let (log_time, ended) = (LogTime::new(end.unwrap_or(7)), end.is_some());
            let change = Change { log_time, ended, key: raw.clone().into() };
            prop_assert_eq!(Change::decode(&change.encode()), Ok(change));
            if let Ok(held) = Held::decode(&raw) {
                prop_assert_eq!(held.encode(), raw.clone());
            }
            let _ = (split_version_row(&raw), split_end_row(&raw));
        }
    }
}
