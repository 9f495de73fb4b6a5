//! Freshness tokens: what a read reflects, and what a later one is to reflect at least.

use std::fmt;

use bytes::Bytes;
use palisade_replication::{ClusterId, GroupId, LogTime, Offset};

use crate::codec::{DecodeError, Reader, put_number};
use crate::error::Error;
use crate::stored::Stored;

const VERSION: u8 = 1;

/// A place in the log of a group: whoever has it can ask any replica for what is at least as fresh, with
/// [`crate::ReadConsistency::AtLeast`]. Every write and every read gives one.
///
/// It is of one cluster: offsets that were never committed may mean something else in a cluster that was
/// restored from a backup.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// let token: Freshness = stock.put(&"apples".to_owned(), &7).await?.freshness();
/// // As bytes, it goes with an answer to a client, and comes back with its next question.
/// let Freshness { group, offset, .. } = Freshness::from_bytes(&token.to_bytes()).unwrap();
/// assert_eq!((group, offset), (token.group, token.offset));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Freshness {
    /// Whose log it is.
    pub cluster: ClusterId,
    /// Which of its logs.
    pub group: GroupId,
    /// Everything up to this record is reflected.
    pub offset: Offset,
}

impl Freshness {
    /// Refuses a token of another cluster or group.
    pub(crate) fn check(self, cluster: ClusterId, group: GroupId) -> Result<(), Error> {
        if self.cluster != cluster {
            return Err(Error::Incompatible {
                expected: format!("a freshness token of cluster={cluster}"),
                found: format!("one of cluster={}", self.cluster),
            });
        }
        if self.group != group {
            return Err(Error::InvalidArgument {
                what: format!(
                    "a freshness token of group={} says nothing of group={group}",
                    self.group
                ),
            });
        }
        Ok(())
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.cluster, self.group, self.offset)
    }
}

/// ```text
/// version 1 byte (1), cluster 16 bytes, little-endian, group, offset
/// ```
/// Other numbers as LEB128 varints of the shortest form.
impl Stored for Freshness {
    fn to_bytes(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_record(&mut out, self.cluster, self.group, self.offset);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("freshness version")? != VERSION {
            return Err(DecodeError { what: "freshness version" });
        }
        let (cluster, group, offset) = take_record(&mut reader)?;
        reader.end("freshness")?;
        Ok(Self { cluster, group, offset })
    }
}

/// Which record of which group of which cluster: what every token that leaves a process names.
pub(crate) fn put_record(out: &mut Vec<u8>, cluster: ClusterId, group: GroupId, offset: Offset) {
    out.extend_from_slice(&cluster.get().to_le_bytes());
    put_number(out, group.get());
    put_number(out, offset.get());
}

pub(crate) fn take_record(
    reader: &mut Reader,
) -> Result<(ClusterId, GroupId, Offset), DecodeError> {
    let cluster = ClusterId::new(u128::from_le_bytes(reader.array("cluster")?));
    let group = GroupId::new(reader.number("group")?);
    Ok((cluster, group, Offset::new(reader.number("offset")?)))
}

/// What was read, and of when.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// stock.put(&"apples".to_owned(), &7).await?;
/// let read = stock.get(&"apples".to_owned(), ReadConsistency::Linearizable).await?;
/// let Read { value, freshness, log_time, stale } = read;
/// assert_eq!(value.map(|row| row.value), Some(7));
/// assert!(!stale);
/// println!("as it was at {freshness}, of {log_time}");
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The place of the state that it was read from: at or after what was asked for, unless it is stale.
    pub freshness: Freshness,
    /// The stamp of the last record in that state.
    pub log_time: LogTime,
    /// The resource operates under a failure, and its contract lets the replica answer with what it has:
    /// it may lack what was asked for. `freshness` says what it reflects.
    pub stale: bool,
}

impl<T> Read<T> {
    /// The same read with another value.
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Read<U> {
        let Self { value, freshness, log_time, stale } = self;
        Read { value: map(value), freshness, log_time, stale }
    }

    /// The same read with what became of its value.
    pub(crate) fn try_map<U>(
        self,
        map: impl FnOnce(T) -> Result<U, Error>,
    ) -> Result<Read<U>, Error> {
        let Self { value, freshness, log_time, stale } = self;
        Ok(Read { value: map(value)?, freshness, log_time, stale })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_have_one_form(cluster: u128, group: u64, offset: u64, at: usize, byte: u8) {
            let token = Freshness {
                cluster: ClusterId::new(cluster),
                group: GroupId::new(group),
                offset: Offset::new(offset),
            };
            let mut raw = token.to_bytes().to_vec();
            prop_assert_eq!(Freshness::from_bytes(&token.to_bytes()), Ok(token));
            let at = at % raw.len();
            raw[at] = byte;
            if let Ok(token) = Freshness::from_bytes(&raw.clone().into()) {
                prop_assert_eq!(token.to_bytes(), raw);
            }
        }
    }
}
