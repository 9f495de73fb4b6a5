//! A replicated log: values in one order, each at its offset for ever.

use std::marker::PhantomData;

use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::handle::Handle;
use crate::projections::log::{self, Log, LogPosition};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{LogicalResourceName, ResourceSpec, SchemaId};
use crate::stored::Stored;

/// Most entries that one scan returns.
pub const SCAN_ENTRIES_MAX: usize = 4096;

/// A handle to a log of `T`, opened by one writer generation.
pub struct ReplicatedLog<T> {
    pub(crate) handle: Handle<Log>,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for ReplicatedLog<T> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), values: self.values }
    }
}

/// A value in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry<T> {
    /// Its place.
    pub position: LogPosition,
    /// The value.
    pub value: T,
}

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage<T> {
    /// The values, in order.
    pub entries: Vec<LogEntry<T>>,
    /// Where to go on, or `None` if there was nothing more.
    pub next: Option<LogPosition>,
}

impl<T: Stored> ReplicatedLog<T> {
    /// Opens the log for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an epoch below the current, [`Error::Incompatible`] if it is something
    /// else than asked for, [`Error::DomainUnavailable`] outside its placement.
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(engine, spec).await?, values: PhantomData })
    }

    /// Opens a log that is there for reading: nothing is written to the log, and no writer is fenced.
    ///
    /// # Errors
    /// As [`crate::Handle::open_reader`].
    pub async fn open_reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open_reader(engine, name, schema).await?, values: PhantomData })
    }

    /// Appends a value.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn append(&self, value: &T) -> Result<Receipt, Error> {
        Ok(self.handle.engine.batch().append(self, value).commit().await?.receipt)
    }

    /// Values at or after `from`, in order, at most `limit`, [`SCAN_ENTRIES_MAX`] and
    /// [`crate::SCAN_BYTES_MAX`]. Places of other resources' records are not there.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say; [`Error::Incompatible`] for a value
    /// that is no `T`.
    pub async fn scan(
        &self,
        from: impl Into<LogPosition>,
        limit: usize,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<LogPage<T>>, Error> {
        let (from, limit) = (from.into(), limit.min(SCAN_ENTRIES_MAX));
        let read = self.handle.read(options, move |rows| log::scan(rows, from, limit)).await?;
        let entry = |(position, value)| Ok(LogEntry { position, value: decode(&value)? });
        read.try_map(|page| {
            let entries = page.rows.into_iter().map(entry).collect::<Result<_, Error>>()?;
            Ok(LogPage { entries, next: page.next })
        })
    }
}

pub(crate) fn decode<T: Stored>(bytes: &bytes::Bytes) -> Result<T, Error> {
    T::from_bytes(bytes).map_err(|error| Error::Incompatible {
        expected: std::any::type_name::<T>().to_owned(),
        found: error.to_string(),
    })
}
