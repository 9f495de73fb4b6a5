//! A replicated log: values in one order, each at its offset for ever.

use std::marker::PhantomData;

use palisade_replication::Offset;

use crate::engine::Engine;
use crate::error::Error;
use crate::keys;
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{FenceEpoch, ResourceId, ResourceKind, ResourceSpec};
use crate::store::Family;
use crate::stored::Stored;

/// Most entries that one scan returns.
pub const SCAN_ENTRIES_MAX: usize = 4096;

/// A handle to a log of `T`, opened by one writer generation.
pub struct ReplicatedLog<T> {
    engine: Engine,
    pub(crate) resource: ResourceId,
    pub(crate) epoch: FenceEpoch,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for ReplicatedLog<T> {
    fn clone(&self) -> Self {
        let Self { engine, resource, epoch, values } = self;
        Self { engine: engine.clone(), resource: *resource, epoch: *epoch, values: *values }
    }
}

/// A value in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry<T> {
    /// Its place.
    pub offset: Offset,
    /// The value.
    pub value: T,
}

impl<T: Stored> ReplicatedLog<T> {
    /// Opens the log for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an epoch below the current, [`Error::Incompatible`] if it is something
    /// else than asked for, [`Error::DomainUnavailable`] outside its placement.
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        let epoch = spec.epoch;
        let resource = engine.open_resource(ResourceKind::Log, spec).await?;
        Ok(Self { engine: engine.clone(), resource, epoch, values: PhantomData })
    }

    /// Appends a value.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn append(&self, value: &T) -> Result<Receipt, Error> {
        self.engine.batch().append(self, value).commit().await
    }

    /// Values at or after `from`, in order, at most `limit` and [`SCAN_ENTRIES_MAX`]. Offsets of
    /// other resources' records are not there: the next scan begins after the last entry.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say; [`Error::Incompatible`] for a value
    /// that is no `T`.
    pub async fn scan(
        &self,
        from: Offset,
        limit: usize,
        options: impl Into<ReadOptions>,
    ) -> Result<Vec<LogEntry<T>>, Error> {
        let resource = self.resource;
        let limit = limit.min(SCAN_ENTRIES_MAX);
        let rows = self
            .engine
            .read(options.into(), move |read, group| {
                let mut rows = Vec::new();
                let from = keys::log(group, resource, from);
                let end = keys::resource_end(group, resource);
                read.scan(Family::Log, &from, &end, &mut |key, value| {
                    if rows.len() < limit {
                        rows.push((keys::log_offset(key), bytes::Bytes::copy_from_slice(value)));
                    }
                    rows.len() < limit
                })?;
                Ok(rows)
            })
            .await?;
        rows.into_iter()
            .map(|(offset, value)| {
                let offset = offset
                    .ok_or_else(|| Error::InternalError { what: "malformed log key".to_owned() })?;
                Ok(LogEntry { offset, value: decode(&value)? })
            })
            .collect()
    }
}

pub(crate) fn decode<T: Stored>(bytes: &bytes::Bytes) -> Result<T, Error> {
    T::from_bytes(bytes).map_err(|error| Error::Incompatible {
        expected: std::any::type_name::<T>().to_owned(),
        found: error.to_string(),
    })
}
