//! Messages and what they mean to the engine.

use std::time::Duration;

use bytes::Bytes;
use palisade::{
    DecodeError, Error, FailureDomain, FenceEpoch, Fingerprint, Freshness, LogPosition, LogTime,
    Offset, Read, ReadConsistency, ReadOptions, Receipt, SchemaId, Stored, Version, Versioned,
};
use palisade_proto::common::v1 as common;
use palisade_proto::map::v1 as map;

use super::deadline;
use super::failure::invalid;

/// A value as it is: its bytes, and their schema if it is not the one that it was asked with.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) data: Bytes,
    schema: Option<SchemaId>,
}

impl Raw {
    pub(crate) fn new(data: Bytes) -> Self {
        Self { data, schema: None }
    }
}

impl Stored for Raw {
    fn to_bytes(&self) -> Bytes {
        self.data.clone()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        Ok(Self::new(bytes.clone()))
    }

    fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
        Ok(Self { data: bytes.clone(), schema: Some(schema.clone()) })
    }
}

impl From<Raw> for common::Value {
    fn from(raw: Raw) -> Self {
        let schema = raw.schema.map(|schema| schema.as_str().to_owned()).unwrap_or_default();
        Self { data: raw.data, schema }
    }
}

/// What a message must have.
pub(crate) fn needed<T>(field: Option<T>, name: &str) -> Result<T, Error> {
    field.ok_or_else(|| invalid(format!("field {name} is needed")))
}

pub(crate) fn domain(domain: &common::Domain) -> FailureDomain {
    FailureDomain::new(&domain.provider, &domain.region, &domain.zone)
}

pub(crate) fn of_domain(domain: &FailureDomain) -> common::Domain {
    let FailureDomain { provider, region, zone } = domain.clone();
    common::Domain { provider, region, zone }
}

/// 0 is taken for the first there is.
pub(crate) fn epoch(epoch: u64) -> FenceEpoch {
    FenceEpoch::new(epoch.max(1))
}

pub(crate) fn position(position: &common::Position) -> Result<LogPosition, Error> {
    let index = u16::try_from(position.index)
        .map_err(|_| invalid(format!("index={} of a position is too large", position.index)))?;
    Ok(LogPosition { offset: Offset::new(position.offset), index })
}

pub(crate) fn of_position(position: LogPosition) -> common::Position {
    common::Position { offset: position.offset.get(), index: position.index.into() }
}

pub(crate) fn fingerprint(sha256: &[u8]) -> Result<Fingerprint, Error> {
    let bytes = sha256
        .try_into()
        .map_err(|_| invalid(format!("a fingerprint has 32 bytes, not {}", sha256.len())))?;
    Ok(Fingerprint::from_digest(bytes))
}

pub(crate) fn version(version: u64) -> Version {
    Version::at(Offset::new(version))
}

pub(crate) fn receipt(receipt: Receipt) -> common::Receipt {
    common::Receipt {
        group: receipt.group.get(),
        offset: receipt.offset.get(),
        log_time_ms: receipt.log_time.get(),
        duplicate: receipt.duplicate,
        freshness: receipt.freshness().to_bytes(),
    }
}

/// What a read reflects, beside what was read.
pub(crate) fn reflected<T>(read: &Read<T>) -> common::Reflected {
    common::Reflected {
        group: read.freshness.group.get(),
        offset: read.freshness.offset.get(),
        log_time_ms: read.log_time.get(),
        stale: read.stale,
        freshness: read.freshness.to_bytes(),
    }
}

pub(crate) fn freshness(token: &Bytes) -> Result<Freshness, Error> {
    Freshness::from_bytes(token)
        .map_err(|error| invalid(format!("the bytes are no freshness token: {error}")))
}

/// How fresh a read must be, and how long it waits: what it says, what its caller has seen of the group, and
/// what is left of its time.
pub(crate) fn options(
    options: Option<common::ReadOptions>,
    seen: Option<Freshness>,
    left: Option<Duration>,
) -> Result<ReadOptions, Error> {
    use common::read_options::Consistency;
    let options = options.unwrap_or_default();
    let consistency = match options.consistency {
        None | Some(Consistency::Linearizable(_)) => ReadConsistency::Linearizable,
        Some(Consistency::AtLeastOffset(offset)) => {
            let seen = seen.map_or(Offset::ZERO, |seen| seen.offset);
            ReadConsistency::AtLeastOffset(Offset::new(offset).max(seen))
        }
        Some(Consistency::AtLeast(token)) => {
            let token = freshness(&token)?;
            let newer = seen.filter(|seen| token.offset < seen.offset);
            ReadConsistency::AtLeast(newer.unwrap_or(token))
        }
        Some(Consistency::Local(_)) => {
            seen.map_or(ReadConsistency::Local, ReadConsistency::AtLeast)
        }
    };
    let read = ReadOptions::from(consistency).wait(deadline::wait(options.wait_ms, left));
    Ok(if options.refuse_stale { read.refuse_stale() } else { read })
}

pub(crate) fn row(key: Bytes, found: Versioned<Raw>) -> map::Row {
    map::Row {
        key,
        value: Some(found.value.into()),
        version: found.version.offset().get(),
        ends_at_ms: found.ends_at.map_or(0, LogTime::get),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_the_safest() {
        let read = options(None, None, None).unwrap();
        let linearizable = ReadOptions::from(ReadConsistency::Linearizable);
        assert_eq!(read, linearizable.wait(Duration::from_secs(1)));
        assert_eq!(epoch(0), FenceEpoch::new(1));
    }

    /// F1 and F2: whoever says what it has seen is never told less, however it reads.
    #[test]
    fn what_a_caller_has_seen_is_the_least_it_reads() {
        use common::read_options::Consistency;
        let at = |offset| Freshness {
            cluster: palisade::ClusterId::new(1),
            group: palisade::GroupId::new(1),
            offset: Offset::new(offset),
        };
        let read = |consistency, seen: Option<u64>| {
            let asked = common::ReadOptions {
                consistency: Some(consistency),
                wait_ms: Some(0),
                refuse_stale: false,
            };
            options(Some(asked), seen.map(at), None).unwrap()
        };
        let is = |consistency: ReadConsistency| ReadOptions::from(consistency).wait(Duration::ZERO);
        let local = || Consistency::Local(common::Local {});
        assert_eq!(read(local(), None), is(ReadConsistency::Local));
        assert_eq!(read(local(), Some(7)), is(ReadConsistency::AtLeast(at(7))));
        let token = |offset: u64| Consistency::AtLeast(at(offset).to_bytes());
        assert_eq!(read(token(9), Some(7)), is(ReadConsistency::AtLeast(at(9))));
        assert_eq!(read(token(5), Some(7)), is(ReadConsistency::AtLeast(at(7))));
        let offset = read(Consistency::AtLeastOffset(5), Some(7));
        assert_eq!(offset, is(ReadConsistency::AtLeastOffset(Offset::new(7))));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let is_invalid = |error| matches!(error, Error::InvalidArgument { .. });
        let far = common::Position { offset: 1, index: 1 << 16 };
        assert!(is_invalid(position(&far).unwrap_err()));
        assert!(is_invalid(fingerprint(&[0; 31]).unwrap_err()));
        assert!(is_invalid(freshness(&Bytes::from_static(b"no token")).unwrap_err()));
        assert!(is_invalid(needed::<()>(None, "log").unwrap_err()));
    }
}
