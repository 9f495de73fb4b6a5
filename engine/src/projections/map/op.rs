//! What can be done to a map, and its bytes.
//!
//! ```text
//! operation  1 put        guard, time to live in milliseconds plus one or 0, key, value
//!            2 delete     guard, key
//!            3 keep       history: milliseconds, changes
//! guard      0 for none, otherwise the version plus one
//! demand     1 version    version, key
//! outcome    the version that the key was at before, 0 if it was not there
//! refusal    1 version    expected, found
//!            2 key twice
//! ```
//! Numbers and byte strings as in `codec`.

use bytes::Bytes;
use palisade_replication::Offset;

use super::history::History;
use super::row::Version;
use crate::bounds::{KEY_BYTES_MAX, SCHEMA_BYTES, VALUE_BYTES_MAX};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::error::Error;
use crate::stored::Stored;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MapOp {
    Put { guard: Option<Version>, ttl_ms: Option<u64>, key: Bytes, value: Bytes },
    Delete { guard: Option<Version>, key: Bytes },
    Keep { history: History },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const KEEP: u8 = 3;

/// A number or nothing.
fn put_maybe(out: &mut Vec<u8>, number: Option<u64>) {
    put_number(out, number.map_or(0, |number| number.saturating_add(1)));
}

fn take_maybe(reader: &mut Reader, what: &'static str) -> Result<Option<u64>, DecodeError> {
    Ok(reader.number(what)?.checked_sub(1))
}

fn put_guard(out: &mut Vec<u8>, guard: Option<Version>) {
    put_maybe(out, guard.map(|version| version.0.get()));
}

fn take_guard(reader: &mut Reader) -> Result<Option<Version>, DecodeError> {
    Ok(take_maybe(reader, "guard")?.map(|raw| Version(Offset::new(raw))))
}

impl Stored for MapOp {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Put { guard, ttl_ms, key, value } => {
                out.push(PUT);
                put_guard(&mut out, *guard);
                put_maybe(&mut out, *ttl_ms);
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
            }
            Self::Delete { guard, key } => {
                out.push(DELETE);
                put_guard(&mut out, *guard);
                put_bytes(&mut out, key);
            }
            Self::Keep { history } => {
                out.push(KEEP);
                history.put(&mut out);
            }
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let op = match reader.byte("map operation")? {
            PUT => Self::Put {
                guard: take_guard(&mut reader)?,
                ttl_ms: take_maybe(&mut reader, "time to live")?,
                key: reader.bytes(KEY_BYTES_MAX, "key")?,
                value: reader.bytes(VALUE_BYTES_MAX + SCHEMA_BYTES, "value")?,
            },
            DELETE => Self::Delete {
                guard: take_guard(&mut reader)?,
                key: reader.bytes(KEY_BYTES_MAX, "key")?,
            },
            KEEP => Self::Keep { history: History::take(&mut reader)? },
            _ => return Err(DecodeError { what: "map operation" }),
        };
        reader.end("map operation")?;
        Ok(op)
    }
}

/// What a batch can demand of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MapGuard {
    /// The key stands at this version.
    VersionIs { key: Bytes, version: Version },
}

const VERSION_IS: u8 = 1;

fn put_version(out: &mut Vec<u8>, version: Version) {
    put_number(out, version.0.get());
}

fn take_version(reader: &mut Reader) -> Result<Version, DecodeError> {
    Ok(Version(Offset::new(reader.number("version")?)))
}

impl Stored for MapGuard {
    fn to_bytes(&self) -> Bytes {
        let Self::VersionIs { key, version } = self;
        let mut out = vec![VERSION_IS];
        put_version(&mut out, *version);
        put_bytes(&mut out, key);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("map guard")? != VERSION_IS {
            return Err(DecodeError { what: "map guard" });
        }
        let version = take_version(&mut reader)?;
        let key = reader.bytes(KEY_BYTES_MAX, "key")?;
        reader.end("map guard")?;
        Ok(Self::VersionIs { key, version })
    }
}

/// What a change of a map says: the version that the key was at before.
impl Stored for Version {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(8);
        put_version(&mut out, *self);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let version = take_version(&mut reader)?;
        reader.end("version")?;
        Ok(version)
    }
}

/// Why a change of a map cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapRefusal {
    VersionMismatch {
        expected: Version,
        found: Version,
    },
    /// The batch has changed the key already: both would have one version.
    KeyTwice,
}

const VERSION_MISMATCH: u8 = 1;
const KEY_TWICE: u8 = 2;

impl Stored for MapRefusal {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        match self {
            Self::VersionMismatch { expected, found } => {
                out.push(VERSION_MISMATCH);
                put_version(&mut out, *expected);
                put_version(&mut out, *found);
            }
            Self::KeyTwice => out.push(KEY_TWICE),
        }
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let refusal = match reader.byte("map refusal")? {
            VERSION_MISMATCH => {
                let (expected, found) = (take_version(&mut reader)?, take_version(&mut reader)?);
                Self::VersionMismatch { expected, found }
            }
            KEY_TWICE => Self::KeyTwice,
            _ => return Err(DecodeError { what: "map refusal" }),
        };
        reader.end("map refusal")?;
        Ok(refusal)
    }
}

impl MapRefusal {
    /// What the caller is told whose batch has this operation.
    pub(crate) fn error(self, op: usize) -> Error {
        match self {
            Self::VersionMismatch { expected, found } => {
                Error::VersionMismatch { op, expected, found }
            }
            Self::KeyTwice => Error::InvalidArgument {
                what: "a batch changes a key of a map at most once".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = MapOp> {
        let bytes = || vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let number = || proptest::option::of(0..u64::MAX);
        let guard = || number().prop_map(|raw| raw.map(|raw| Version(Offset::new(raw))));
        prop_oneof![
            (guard(), number(), bytes(), bytes())
                .prop_map(|(guard, ttl_ms, key, value)| MapOp::Put { guard, ttl_ms, key, value }),
            (guard(), bytes()).prop_map(|(guard, key)| MapOp::Delete { guard, key }),
            any::<(u64, u64)>().prop_map(|(keep_ms, changes_max)| MapOp::Keep {
                history: History { keep_ms, changes_max }
            }),
        ]
    }

    proptest! {
        #[test]
        fn encodings_have_one_form(op in op(), x: u64, y: u64, at: usize, byte: u8) {
            let version = |raw| Version(Offset::new(raw));
            prop_assert_eq!(MapOp::from_bytes(&op.to_bytes()), Ok(op.clone()));
            let refusal = MapRefusal::VersionMismatch { expected: version(x), found: version(y) };
            for refusal in [refusal, MapRefusal::KeyTwice] {
                prop_assert_eq!(MapRefusal::from_bytes(&refusal.to_bytes()), Ok(refusal));
            }
            let guard = MapGuard::VersionIs { key: op.to_bytes(), version: version(x) };
            prop_assert_eq!(MapGuard::from_bytes(&guard.to_bytes()), Ok(guard));
            prop_assert_eq!(Version::from_bytes(&version(x).to_bytes()), Ok(version(x)));
            // E8: what is read is written the same again.
            let mut raw = op.to_bytes().to_vec();
            let at = at % raw.len();
            raw[at] = byte;
            let raw = Bytes::from(raw);
            if let Ok(op) = MapOp::from_bytes(&raw) {
                prop_assert_eq!(op.to_bytes(), raw.clone());
            }
            if let Ok(guard) = MapGuard::from_bytes(&raw) {
                prop_assert_eq!(guard.to_bytes(), raw.clone());
            }
            if let Ok(refusal) = MapRefusal::from_bytes(&raw) {
                prop_assert_eq!(refusal.to_bytes(), raw);
            }
        }
    }
}
