//! Handles to resources.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::{Blocking, Consumer, Engine, Group, LogTail, MapAt, Observation, Watch, waiting};
use crate::error::Error;
use crate::freshness::Read;
use crate::handle::Done;
use crate::idempotency::{RequestStatus, Reservation};
use crate::log::{LogBounds, LogPage};
use crate::map::{MapPage, MapRange, Versioned, WatchOptions};
use crate::projection::{Projection, ProjectionFault, RowsRead};
use crate::projections::idempotency::{Fingerprint, RequestWindow};
use crate::projections::log::{ConsumerPosition, LogPosition, LogRetention, LogTrim};
use crate::projections::map::{History, MapBounds, Version};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{FailureDomain, FenceEpoch, LogicalResourceName, ResourceSpec, SchemaId};
use crate::store::Direction;
use crate::stored::{Key, Stored};

/// How a handle of any kind is opened, and for whom it is.
macro_rules! opening {
    ($of:literal: $handle:ty) => {
        #[doc = concat!("Waits for [`", $of, "::open`](crate::", $of, "::open).")]
        ///
        /// # Errors
        /// The same, and [`Error::InvalidArgument`] within a tokio runtime.
        pub fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
            Ok(engine.beside(engine.wait(<$handle>::open(engine, spec))?))
        }

        #[doc = concat!("Waits for [`", $of, "::open_reader`](crate::", $of, "::open_reader).")]
        ///
        /// # Errors
        /// The same, and [`Error::InvalidArgument`] within a tokio runtime.
        pub fn open_reader(
            engine: &Engine,
            name: &LogicalResourceName,
            schema: &SchemaId,
        ) -> Result<Self, Error> {
            Ok(engine.beside(engine.wait(<$handle>::open_reader(engine, name, schema))?))
        }

        #[doc = concat!("Waits for [`", $of, "::open_existing`](crate::", $of, "::open_existing).")]
        ///
        /// # Errors
        /// The same, and [`Error::InvalidArgument`] within a tokio runtime.
        pub fn open_existing(
            engine: &Engine,
            name: &LogicalResourceName,
            schema: &SchemaId,
            epoch: FenceEpoch,
        ) -> Result<Self, Error> {
            Ok(engine.beside(engine.wait(<$handle>::open_existing(engine, name, schema, epoch))?))
        }

        /// The group that it lies in.
        pub fn group(&self) -> Group {
            self.beside(self.of.group().clone())
        }

        /// The same handle on behalf of somebody: see [`crate::Handle::for_caller`].
        pub fn for_caller(&self, domain: FailureDomain) -> Self {
            self.beside(self.of.for_caller(domain))
        }

        /// The same handle as a part of a trace: see [`crate::Handle::traced`].
        pub fn traced(&self, trace: crate::TraceContext) -> Self {
            self.beside(self.of.traced(trace))
        }

        waiting! { $of:
            fn admit(worker: &FailureDomain) -> ();
        }
    };
}

impl<P: Projection> Blocking<crate::Handle<P>> {
    opening! { "Handle": crate::Handle<P> }

    waiting! { "Handle":
        fn submit(op: &P::Op) -> Done<P::Outcome>;
    }

    /// Waits for [`Handle::read`](crate::Handle::read).
    ///
    /// # Errors
    /// The same, and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn read<T: Send + 'static>(
        &self,
        options: impl Into<ReadOptions>,
        read: impl FnOnce(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        self.wait(self.of.read(options, read))
    }

    /// Tells what a read comes to over time: see [`Handle::observe`](crate::Handle::observe).
    pub fn observe<T: Clone + PartialEq + Send + 'static>(
        &self,
        from: Offset,
        read: impl Fn(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + Sync + 'static,
    ) -> Observation<P, T> {
        Observation::new(self.of.observe(from, read), &self.running)
    }
}

impl<T: Stored> Blocking<crate::ReplicatedLog<T>> {
    opening! { "ReplicatedLog": crate::ReplicatedLog<T> }

    waiting! { "ReplicatedLog":
        fn append(value: &T) -> Done<LogPosition>;
        fn append_all(values: &[T]) -> Done<Vec<LogPosition>>;
        fn append_if(value: &T, expected_tail: LogPosition) -> Done<LogPosition>;
        fn retain(retention: LogRetention) -> Receipt;
        fn trim_before(before: LogPosition) -> Done<LogTrim>;
        fn bounds(options: impl Into<ReadOptions>) -> Read<LogBounds>;
        fn scan(
            from: impl Into<LogPosition>,
            direction: Direction,
            limit: usize,
            options: impl Into<ReadOptions>
        ) -> Read<LogPage<T>>;
        fn consumers(options: impl Into<ReadOptions>) -> Read<Vec<ConsumerPosition>>;
    }

    /// Follows the log on this replica from a position on.
    pub fn tail(&self, from: impl Into<LogPosition>) -> LogTail<T> {
        LogTail::new(self.of.tail(from), &self.running)
    }

    /// A consumer of this log by its name: see [`crate::ReplicatedLog::consumer`].
    ///
    /// # Errors
    /// The same.
    pub fn consumer(&self, name: &str) -> Result<Consumer, Error> {
        Ok(self.beside(self.of.consumer(name)?))
    }
}

impl Blocking<crate::Consumer> {
    waiting! { "Consumer":
        fn position(options: impl Into<ReadOptions>) -> Read<LogPosition>;
        fn commit(position: LogPosition) -> Receipt;
        fn reset(position: LogPosition) -> Receipt;
        fn forget() -> Receipt;
    }

    /// The same consumer for another owner.
    pub fn owned_by(self, owner: FenceEpoch) -> Self {
        Self { of: self.of.owned_by(owner), running: self.running }
    }
}

impl<K: Key, V: Stored> Blocking<crate::ReplicatedMap<K, V>> {
    opening! { "ReplicatedMap": crate::ReplicatedMap<K, V> }

    waiting! { "ReplicatedMap":
        fn keep(history: History) -> Receipt;
        fn put(key: &K, value: &V) -> Receipt;
        fn put_if(key: &K, value: &V, version: Version) -> Receipt;
        fn put_with_ttl_ms(key: &K, value: &V, ttl_ms: u64) -> Receipt;
        fn delete(key: &K) -> Receipt;
        fn delete_if(key: &K, version: Version) -> Receipt;
        fn get(key: &K, options: impl Into<ReadOptions>) -> Read<Option<Versioned<V>>>;
        fn get_many(
            keys: &[K],
            options: impl Into<ReadOptions>
        ) -> Read<Vec<Option<Versioned<V>>>>;
        fn range(range: MapRange<K>, options: impl Into<ReadOptions>) -> Read<MapPage<K, V>>;
        fn bounds(options: impl Into<ReadOptions>) -> Read<MapBounds>;
    }

    /// The map as it was at an offset: see [`crate::ReplicatedMap::at`].
    pub fn at(&self, offset: Offset) -> MapAt<K, V> {
        self.beside(self.of.at(offset))
    }

    /// Tells every change after an offset: see [`crate::ReplicatedMap::watch`].
    pub fn watch(&self, from: Offset, options: WatchOptions) -> Watch<K, V> {
        Watch::new(self.of.watch(from, options), &self.running)
    }
}

impl<K: Key, V: Stored> Blocking<crate::MapAt<K, V>> {
    waiting! { "MapAt":
        fn get(key: &K, options: impl Into<ReadOptions>) -> Read<Option<Versioned<V>>>;
        fn get_many(
            keys: &[K],
            options: impl Into<ReadOptions>
        ) -> Read<Vec<Option<Versioned<V>>>>;
        fn range(range: MapRange<K>, options: impl Into<ReadOptions>) -> Read<MapPage<K, V>>;
    }
}

impl Blocking<crate::ReplicatedIdempotencyStore> {
    opening! { "ReplicatedIdempotencyStore": crate::ReplicatedIdempotencyStore }

    waiting! { "ReplicatedIdempotencyStore":
        fn keep(window: RequestWindow) -> Receipt;
        fn reserve_issued(
            key: &str,
            fingerprint: Fingerprint,
            owner: FenceEpoch,
            issued: LogTime
        ) -> Receipt;
        fn reserve(key: &str, fingerprint: Fingerprint, owner: FenceEpoch) -> Receipt;
        fn reserve_or_result(
            key: &str,
            fingerprint: Fingerprint,
            owner: FenceEpoch,
            issued: Option<LogTime>
        ) -> Reservation;
        fn complete(key: &str, owner: FenceEpoch, result: Bytes) -> Receipt;
        fn status(key: &str, options: impl Into<ReadOptions>) -> Read<RequestStatus>;
    }
}
