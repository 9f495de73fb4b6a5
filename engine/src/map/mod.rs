//! A replicated map: ordered keys, each value with the offset of its last change as its version.

mod past;
mod range;
mod watch;

use std::marker::PhantomData;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

pub use self::past::MapAt;
pub use self::range::{MapPage, MapRange};
pub use self::watch::{MapChange, Watch, WatchEvent, WatchOptions};
use crate::batch::Guard;
use crate::bounds::BATCH_OPS_MAX;
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::group::Group;
use crate::handle::Handle;
use crate::page::SCAN_BYTES_MAX;
use crate::projection::{ProjectionFault, RowsRead};
use crate::projections::map::{
    self, BelowFloor, Found, History, Map, MapBounds, MapGuard, MapOp, Version, When,
};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{FailureDomain, FenceEpoch, LogicalResourceName, ResourceSpec, SchemaId};
use crate::schemas::{Schemas, decoded};
use crate::stored::{Key, Stored};

/// Most rows that one range returns.
pub const RANGE_ROWS_MAX: usize = 4096;
/// Most keys that are read at once.
pub const GET_KEYS_MAX: usize = BATCH_OPS_MAX;

/// A handle to a map from `K` to `V`, opened by one writer generation or for reading alone.
///
/// ```
/// use palisade::sim::SimFabric;
/// use palisade::*;
///
/// # fn main() -> Result<(), Error> {
/// let mut fabric = SimFabric::new(1);
/// let engine = fabric.engine(fabric.node(1));
/// fabric.block_on(async {
///     let spec = ResourceSpec::new("stock", "count.v1")?;
///     let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
///     let apples = "apples".to_owned();
///     let receipt = stock.put(&apples, &7).await?;
///     let row = stock.get(&apples, receipt.freshness()).await?.value.expect("it was put");
///     assert_eq!((row.value, row.version.offset()), (7, receipt.offset));
///     // Only if nobody was faster.
///     stock.put_if(&apples, &6, row.version).await?;
///     let late = stock.put_if(&apples, &5, row.version).await;
///     assert!(matches!(late, Err(Error::VersionMismatch { .. })));
///     Ok(())
/// })
/// # }
/// ```
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
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// let apples = "apples".to_owned();
/// let receipt = stock.put(&apples, &7).await?;
/// let row = stock.get(&apples, receipt.freshness()).await?.value;
/// let Some(Versioned { value, version, ends_at }) = row else { panic!("it was put") };
/// assert_eq!((value, version, ends_at), (7, Version::at(receipt.offset), None));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<V> {
    /// The value.
    pub value: V,
    /// The offset of the change that made it.
    pub version: Version,
    /// When it is removed by itself, if it is.
    pub ends_at: Option<LogTime>,
}

impl<V: Stored> Versioned<V> {
    fn of(schemas: &Schemas, found: &Found) -> Result<Self, Error> {
        let (version, ends_at) = (found.version, found.ends_at);
        Ok(Self { value: schemas.value(&found.value)?, version, ends_at })
    }
}

impl<K: Key, V: Stored> ReplicatedMap<K, V> {
    /// Opens the map for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// As [`crate::Handle::open`].
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

    /// Opens a map that is there for writing with an epoch that it has: see
    /// [`crate::Handle::open_existing`].
    ///
    /// A program that was told the epoch writes with it; one that only looks needs none:
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// let (name, schema, epoch) = (spec.name.clone(), spec.schema.clone(), spec.epoch);
    /// ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    ///
    /// let worker = ReplicatedMap::open_existing(&engine, &name, &schema, epoch).await?;
    /// let receipt = worker.put(&"apples".to_owned(), &7_u64).await?;
    ///
    /// let reader = ReplicatedMap::<String, u64>::open_reader(&engine, &name, &schema).await?;
    /// let row = reader.get(&"apples".to_owned(), receipt.freshness()).await?.value;
    /// assert_eq!(row.map(|row| row.value), Some(7));
    /// let refused = reader.delete(&"apples".to_owned()).await;
    /// assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// The same.
    pub async fn open_existing(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
        epoch: FenceEpoch,
    ) -> Result<Self, Error> {
        let handle = Handle::open_existing(engine, name, schema, epoch).await?;
        Ok(Self { handle, rows: PhantomData })
    }

    /// The group that it lies in.
    #[must_use]
    pub fn group(&self) -> &Group {
        self.handle.group()
    }

    /// The same handle on behalf of somebody: see [`crate::Handle::for_caller`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let apples = "apples".to_owned();
    /// let (here, elsewhere) = (engine.domain().clone(), FailureDomain::new("elsewhere", "r", "z"));
    /// stock.admit(&here).await?;
    /// stock.for_caller(here).put(&apples, &7).await?;
    ///
    /// let refused = stock.for_caller(elsewhere.clone()).get(&apples, ReadConsistency::Local).await;
    /// assert!(matches!(refused, Err(Error::DomainUnavailable { .. })));
    /// assert!(stock.admit(&elsewhere).await.is_err());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn for_caller(&self, domain: FailureDomain) -> Self {
        Self { handle: self.handle.for_caller(domain), rows: self.rows }
    }

    /// The same handle as a part of a trace: see [`crate::Handle::traced`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// stock.traced(trace).put(&"apples".to_owned(), &7).await?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn traced(&self, trace: crate::TraceContext) -> Self {
        Self { handle: self.handle.traced(trace), rows: self.rows }
    }

    /// Whether a worker in this domain may work on it: see [`crate::Handle::admit`].
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] if not, and as any read.
    pub async fn admit(&self, worker: &FailureDomain) -> Result<(), Error> {
        self.handle.admit(worker).await
    }

    /// Says how much of its past the map keeps; an hour and 100,000 changes if never said. What is
    /// beyond goes a little with every change from then on, and what is only too old as time passes.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let apples = "apples".to_owned();
    /// stock.keep(History { keep_ms: 60_000, changes_max: 1 }).await?;
    /// let first = stock.put(&apples, &7).await?.offset;
    /// stock.put(&apples, &6).await?;
    /// let now = stock.put(&apples, &5).await?;
    ///
    /// let gone = stock.at(first).get(&apples, now.freshness()).await;
    /// assert!(matches!(gone, Err(Error::Compacted { floor }) if floor > first));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn keep(&self, history: History) -> Result<Receipt, Error> {
        Ok(self.handle.submit(&MapOp::Keep { history }).await?.receipt)
    }

    /// Demands of a batch that a key stands at this version, [`Version::ABSENT`] if it is not to be
    /// there.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// # let (apples, apple) = ("apples".to_owned(), "an apple".to_owned());
    /// let version = Version::at(stock.put(&apples, &7).await?.offset);
    /// let sold = engine.batch().require(stock.version_is(&apples, version)).append(&orders, &apple);
    /// stock.put(&apples, &6).await?; // by somebody who was faster
    /// assert!(matches!(sold.commit().await, Err(Error::GuardFailed { guard: 0 })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    pub fn version_is(&self, key: &K, version: Version) -> Guard {
        self.handle.guard(&MapGuard::VersionIs { key: key.to_bytes(), version })
    }

    /// Sets a key. A time to live that it had is over with.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn put(&self, key: &K, value: &V) -> Result<Receipt, Error> {
        Ok(self.handle.batch().put(self, key, value).commit().await?.receipt)
    }

    /// Sets a key if its version is this one.
    ///
    /// # Errors
    /// [`Error::VersionMismatch`] if it is another, and as [`crate::Batch::commit`].
    pub async fn put_if(&self, key: &K, value: &V, version: Version) -> Result<Receipt, Error> {
        Ok(self.handle.batch().put_if(self, key, value, version).commit().await?.receipt)
    }

    /// Sets a key that is removed by itself so many milliseconds of log time later: never before, and
    /// normally within a second, while the group has a leader. Until then it is there for every reader,
    /// and its removal is a change like another: it has an offset, and is watched.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # let spec = ResourceSpec::new("offers", "count.v1").unwrap();
    /// # let offers = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec)).unwrap();
    /// # let apples = "apples".to_owned();
    /// # fabric.block_on(async {
    /// let receipt = offers.put_with_ttl_ms(&apples, &7, 60_000).await?;
    /// let Versioned { value, ends_at, .. } =
    ///     offers.get(&apples, receipt.freshness()).await?.value.expect("it is there for a minute");
    /// assert_eq!((value, ends_at), (7, Some(LogTime::new(receipt.log_time.get() + 60_000))));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// # fabric.run_for(std::time::Duration::from_secs(70));
    /// # fabric.block_on(async {
    /// // More than a minute later.
    /// assert_eq!(offers.get(&apples, ReadConsistency::Linearizable).await?.value, None);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no time at all, and as [`crate::Batch::commit`].
    pub async fn put_with_ttl_ms(&self, key: &K, value: &V, ttl_ms: u64) -> Result<Receipt, Error> {
        let batch = self.handle.batch().put_with_ttl_ms(self, key, value, ttl_ms);
        Ok(batch.commit().await?.receipt)
    }

    /// Removes a key; one that is not there stays so.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let apples = "apples".to_owned();
    /// stock.put(&apples, &7).await?;
    /// let receipt = stock.delete(&apples).await?;
    /// assert_eq!(stock.get(&apples, receipt.freshness()).await?.value, None);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`crate::Batch::commit`].
    pub async fn delete(&self, key: &K) -> Result<Receipt, Error> {
        let op = MapOp::Delete { guard: None, key: key.to_bytes() };
        Ok(self.handle.submit(&op).await?.receipt)
    }

    /// Removes a key if its version is this one.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let apples = "apples".to_owned();
    /// let empty = Version::at(stock.put(&apples, &0).await?.offset);
    /// stock.put(&apples, &7).await?; // by somebody who was faster
    ///
    /// let late = stock.delete_if(&apples, empty).await;
    /// assert!(matches!(late, Err(Error::VersionMismatch { expected, .. }) if expected == empty));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::VersionMismatch`] if it is another, and as [`crate::Batch::commit`].
    pub async fn delete_if(&self, key: &K, version: Version) -> Result<Receipt, Error> {
        let op = MapOp::Delete { guard: Some(version), key: key.to_bytes() };
        Ok(self.handle.submit(&op).await?.receipt)
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
        self.get_when(key, When::Now, options.into()).await
    }

    /// The values of several keys at one moment, in the order asked; at most [`GET_KEYS_MAX`], and
    /// [`SCAN_BYTES_MAX`] together.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let keys = ["apples".to_owned(), "pears".to_owned()];
    /// let receipt = stock.put(&keys[0], &7).await?;
    /// let rows = stock.get_many(&keys, receipt.freshness()).await?.value;
    /// let counts: Vec<u64> = rows.into_iter().map(|row| row.map_or(0, |row| row.value)).collect();
    /// assert_eq!(counts, [7, 0]);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more keys or bytes, [`Error::NotYetApplied`] and others, as the options say.
    pub async fn get_many(
        &self,
        keys: &[K],
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Vec<Option<Versioned<V>>>>, Error> {
        self.get_many_when(keys, When::Now, options.into()).await
    }

    /// The rows of a range, in its order, at most [`RANGE_ROWS_MAX`] and [`crate::SCAN_BYTES_MAX`] at
    /// once. For pages that are all of one moment, read the later ones [`ReplicatedMap::at`] the offset
    /// of the first.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn range(
        &self,
        range: MapRange<K>,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<MapPage<K, V>>, Error> {
        self.range_when(range, When::Now, options.into()).await
    }

    /// The map as it was once every record up to this offset was applied.
    #[must_use]
    pub fn at(&self, offset: Offset) -> MapAt<K, V> {
        MapAt::new(self.clone(), offset)
    }

    /// From which offset on the map can be read as it was, and watched; and how many keys it has.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let first = stock.put(&"apples".to_owned(), &7).await?;
    /// let MapBounds { floor, keys } = stock.bounds(first.freshness()).await?.value;
    /// assert_eq!(keys, 1);
    /// // It can be read as it was then, and watched from there.
    /// assert!(floor <= first.offset);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn bounds(&self, options: impl Into<ReadOptions>) -> Result<Read<MapBounds>, Error> {
        self.handle.read_own(options, map::bounds).await
    }

    /// Tells every change behind an offset, in order. To watch from now on, begin at the offset of a
    /// read: what it shows and what is told then fit together without a gap.
    pub fn watch(&self, from: Offset, options: WatchOptions) -> Watch<K, V> {
        Watch::new(self.clone(), from, options)
    }

    async fn get_when(
        &self,
        key: &K,
        when: When,
        options: ReadOptions,
    ) -> Result<Read<Option<Versioned<V>>>, Error> {
        let key = key.to_bytes();
        let read = self.read_when(when, options, move |rows| map::get(rows, &key, when)).await?;
        let schemas = self.handle.schemas();
        read.try_map(|found| found.map(|found| Versioned::of(schemas, &found)).transpose())
    }

    async fn get_many_when(
        &self,
        keys: &[K],
        when: When,
        options: ReadOptions,
    ) -> Result<Read<Vec<Option<Versioned<V>>>>, Error> {
        if keys.len() > GET_KEYS_MAX {
            let what = format!("at most {GET_KEYS_MAX} keys are read at once");
            return Err(Error::InvalidArgument { what });
        }
        let keys: Vec<Bytes> = keys.iter().map(Stored::to_bytes).collect();
        let read = self
            .read_when(when, options, move |rows| {
                let (mut values, mut bytes) = (Vec::with_capacity(keys.len()), 0);
                for key in &keys {
                    let found = map::get(rows, key, when)?;
                    bytes += found.as_ref().map_or(0, |found| found.value.len());
                    values.push(found);
                    if SCAN_BYTES_MAX < bytes && 1 < values.len() {
                        return Ok(Err(values.len() - 1));
                    }
                }
                Ok(Ok(values))
            })
            .await?;
        let read = read.try_map(|found| {
            found.map_err(|first| Error::InvalidArgument {
                what: format!(
                    "the values of these keys have more than {SCAN_BYTES_MAX} bytes: the first {first} can \
                     be read at once"
                ),
            })
        })?;
        let schemas = self.handle.schemas();
        let value =
            |found: Option<Found>| found.map(|found| Versioned::of(schemas, &found)).transpose();
        read.try_map(|found| found.into_iter().map(value).collect())
    }

    async fn range_when(
        &self,
        range: MapRange<K>,
        when: When,
        options: ReadOptions,
    ) -> Result<Read<MapPage<K, V>>, Error> {
        let asked = range.keys();
        let read =
            self.read_when(when, options, move |rows| map::range(rows, &asked, when)).await?;
        let schemas = self.handle.schemas();
        let row = |(key, found): &(Vec<u8>, Found)| {
            let key = decoded(K::from_bytes(&Bytes::copy_from_slice(key)))?;
            Ok((key, Versioned::of(schemas, found)?))
        };
        read.try_map(|page| {
            let rows = page.rows.iter().map(row).collect::<Result<_, Error>>()?;
            Ok(MapPage { rows, next: page.next.map(|key| range.onward(key)) })
        })
    }

    /// A read of one moment's rows that says when it asks for too long ago.
    async fn read_when<T: Send + 'static>(
        &self,
        when: When,
        options: ReadOptions,
        read: impl FnOnce(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        let options = match when {
            When::Now => options,
            When::At(offset) => options.also_at_least(offset),
        };
        let found =
            self.handle.read_own(options, move |rows| match map::check_floor(rows, when)? {
                Ok(()) => Ok(Ok(read(rows)?)),
                Err(below) => Ok(Err(below)),
            });
        found.await?.try_map(|found| found.map_err(compacted))
    }
}

fn compacted(BelowFloor(floor): BelowFloor) -> Error {
    Error::Compacted { floor }
}
