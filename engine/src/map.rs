//! A replicated map: ordered keys, each value with the offset of its last change as its version.

use std::marker::PhantomData;

use crate::batch::Guard;
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::handle::Handle;
use crate::log::decode;
use crate::projections::map::{self, Map, MapGuard, Version};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{LogicalResourceName, ResourceSpec, SchemaId};
use crate::stored::{Key, Stored};

/// Most rows that one range returns.
pub const RANGE_ROWS_MAX: usize = 4096;

/// A handle to a map from `K` to `V`, opened by one writer generation.
pub struct ReplicatedMap<K, V> {
    pub(crate) handle: Handle<Map>,
    rows: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for ReplicatedMap<K, V> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), rows: self.rows }
    }
}

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<V> {
    /// The value.
    pub value: V,
    /// The offset of the change that made it.
    pub version: Version,
}

/// A part of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPage<K, V> {
    /// The rows, in the order of their keys.
    pub rows: Vec<(K, Versioned<V>)>,
    /// Where to go on, or `None` if there was nothing more.
    pub next: Option<K>,
}

impl<K: Key, V: Stored> ReplicatedMap<K, V> {
    /// Opens the map for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// As [`crate::ReplicatedLog::open`].
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(engine, spec).await?, rows: PhantomData })
    }

    /// Opens a map that is there for reading: nothing is written to the log, and no writer is fenced.
    ///
    /// # Errors
    /// As [`crate::Handle::open_reader`].
    pub async fn open_reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open_reader(engine, name, schema).await?, rows: PhantomData })
    }

    /// Demands of a batch that a key stands at this version, [`Version::ABSENT`] if it is not to be
    /// there.
    pub fn version_is(&self, key: &K, version: Version) -> Guard {
        self.handle.guard(&MapGuard::VersionIs { key: key.to_bytes(), version })
    }

    /// Sets a key.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn put(&self, key: &K, value: &V) -> Result<Receipt, Error> {
        Ok(self.handle.engine.batch().put(self, key, value).commit().await?.receipt)
    }

    /// Sets a key if its version is this one.
    ///
    /// # Errors
    /// [`Error::VersionMismatch`] if it is another, and as [`crate::Batch::commit`].
    pub async fn put_if(&self, key: &K, value: &V, version: Version) -> Result<Receipt, Error> {
        Ok(self.handle.engine.batch().put_if(self, key, value, version).commit().await?.receipt)
    }

    /// Removes a key; one that is not there stays so.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn delete(&self, key: &K) -> Result<Receipt, Error> {
        Ok(self.handle.engine.batch().delete(self, key).commit().await?.receipt)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn get(
        &self,
        key: &K,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Option<Versioned<V>>>, Error> {
        let key = key.to_bytes();
        let found = self.handle.read(options, move |rows| map::newest(rows, &key)).await?;
        let row = |(value, version)| Ok(Versioned { value: decode(&value)?, version });
        found.try_map(|found| found.map(row).transpose())
    }

    /// The rows from `from` up to before `end`, or to the end of the map, in the order of their
    /// keys, at most `limit`, [`RANGE_ROWS_MAX`] and [`crate::SCAN_BYTES_MAX`].
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn range(
        &self,
        from: &K,
        end: Option<&K>,
        limit: usize,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<MapPage<K, V>>, Error> {
        let (from, end) = (from.to_bytes(), end.map(Stored::to_bytes));
        let limit = limit.min(RANGE_ROWS_MAX);
        let read = self
            .handle
            .read(options, move |rows| map::range(rows, &from, end.as_deref(), limit))
            .await?;
        let row = |(key, value, version): map::MapRow| {
            let value = decode(&value)?;
            Ok((decode(&key.into())?, Versioned { value, version }))
        };
        read.try_map(|page| {
            let rows = page.rows.into_iter().map(row).collect::<Result<_, Error>>()?;
            let next = page.next.map(|key| decode(&key.into())).transpose()?;
            Ok(MapPage { rows, next })
        })
    }
}
