//! Watching a map: every change, in order, once.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use super::{ReplicatedMap, Versioned, compacted};
use crate::error::Error;
use crate::projections::map::{self, Changed, ChangedAt, Found};
use crate::read::ReadConsistency;
use crate::schemas::{Schemas, decoded};
use crate::stored::{Key, Stored};

/// What a watch is to tell.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Only keys whose bytes begin like this; all of them if it is empty.
    pub prefix: Bytes,
    /// How long it is silent before it tells how far it is.
    pub progress: Duration,
}

/// All keys, and progress every second.
impl Default for WatchOptions {
    fn default() -> Self {
        Self { prefix: Bytes::new(), progress: Duration::from_secs(1) }
    }
}

/// One change of a key.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// let apples = "apples".to_owned();
/// let from = stock.put(&apples, &7).await?.offset;
/// stock.delete(&apples).await?;
/// let mut watch = stock.watch(from, WatchOptions::default());
/// if let WatchEvent::Changes { changes, .. } = watch.next().await? {
///     let MapChange { key, now, before, ended } = &changes[0];
///     assert_eq!((key, now, ended), (&apples, &None, &false));
///     assert_eq!(before.as_ref().map(|row| row.value), Some(7));
/// }
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChange<K, V> {
    /// The key.
    pub key: K,
    /// What it is now; nothing if it was removed.
    pub now: Option<Versioned<V>>,
    /// What it was; nothing if it was not there.
    pub before: Option<Versioned<V>>,
    /// It was removed because its time to live was over.
    pub ended: bool,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent<K, V> {
    /// Everything that one record has changed.
    Changes {
        /// The record.
        offset: Offset,
        /// Its stamp.
        log_time: LogTime,
        /// What it has changed, in the order of its operations.
        changes: Vec<MapChange<K, V>>,
    },
    /// Everything up to this record has been told.
    Progress {
        /// The record.
        offset: Offset,
    },
}

/// Tells the changes of a map: see [`ReplicatedMap::watch`].
///
/// A watch is a place in the feed of changes and no queue: whoever reads it slowly holds nobody up, and
/// nothing is kept for him. What it tells is ordered, whole (all changes of a record together) and without a
/// gap, and each change comes once; on another replica it goes on from [`Watch::position`]. When what comes
/// next is not kept any more, it says [`Error::Compacted`], and tells nothing that is out of order.
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
///     let seen = stock.range(MapRange::all(), ReadConsistency::Linearizable).await?;
///     let mut watch = stock.watch(seen.freshness.offset, WatchOptions::default());
///     stock.put(&apples, &7).await?;
///     let WatchEvent::Changes { changes, .. } = watch.next().await? else { panic!("a key was put") };
///     assert_eq!((changes[0].key.as_str(), &changes[0].before), ("apples", &None));
///     Ok(())
/// })
/// # }
/// ```
pub struct Watch<K, V> {
    map: ReplicatedMap<K, V>,
    options: WatchOptions,
    told: VecDeque<ChangedAt>,
    /// Up to where everything was told, or is in `told`.
    read: Offset,
    /// Up to where everything was told.
    position: Offset,
    /// Until when it is silent if there is nothing to tell, once somebody waits.
    silent_until: Option<Duration>,
}

impl<K: Key, V: Stored> Watch<K, V> {
    pub(super) fn new(map: ReplicatedMap<K, V>, from: Offset, options: WatchOptions) -> Self {
        Self { map, options, told: VecDeque::new(), read: from, position: from, silent_until: None }
    }

    /// Where it stands: everything up to this offset was told. A watch from here tells what is next.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let from = stock.put(&"apples".to_owned(), &7).await?.offset;
    /// let mut watch = stock.watch(from, WatchOptions::default());
    /// stock.put(&"pears".to_owned(), &2).await?;
    /// watch.next().await?;
    /// // Kept somewhere; on any replica a watch goes on from there.
    /// let position = watch.position();
    /// stock.put(&"apples".to_owned(), &6).await?;
    /// let mut watch = stock.watch(position, WatchOptions::default());
    /// let WatchEvent::Changes { changes, .. } = watch.next().await? else { panic!("a key was put") };
    /// assert_eq!(changes[0].key, "apples");
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// What is next. Waits for it, and says how far it is when nothing came for [`WatchOptions::progress`],
    /// however much changes elsewhere in the group.
    ///
    /// Dropping the future loses nothing: the next call goes on.
    ///
    /// # Errors
    /// [`Error::Compacted`] if what comes next is not kept any more: read the map, and watch from there.
    /// Any other as a read; it can be tried again.
    pub async fn next(&mut self) -> Result<WatchEvent<K, V>, Error> {
        loop {
            self.ready().await?;
            if let Some(event) = self.read_next().await? {
                return Ok(event);
            }
        }
    }

    /// Waits until there may be something to tell, and reads none of it: for who bounds what is held at once,
    /// and makes room before [`Watch::read_next`].
    ///
    /// Dropping the future loses nothing.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let from = stock.put(&"apples".to_owned(), &7).await?.offset;
    /// let mut watch = stock.watch(from, WatchOptions::default());
    /// stock.put(&"pears".to_owned(), &2).await?;
    /// stock.put(&"plums".to_owned(), &3).await?;
    /// watch.ready().await?;
    /// // Now there is something, and room for a page of it.
    /// let mut told = 0;
    /// while let Some(WatchEvent::Changes { .. }) = watch.read_next().await? {
    ///     told += 1;
    ///     if !watch.holds() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(told, 2);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As for any read.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let left = self.left();
        let group = &self.map.handle.group;
        if self.told.is_empty() && !left.is_zero() && group.applied()? <= self.read {
            // Whoever named the place may have named one that never comes.
            let next = Offset::new(self.read.get().saturating_add(1));
            group.wait_applied(next, left).await?;
        }
        Ok(())
    }

    /// What is next as [`Watch::next`] tells it, or none if it would have to wait.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn read_next(&mut self) -> Result<Option<WatchEvent<K, V>>, Error> {
        let left = self.left();
        if self.told.is_empty() {
            self.read_page().await?;
            if self.told.is_empty() && !left.is_zero() {
                return Ok(None);
            }
        }
        // Told only once it is decoded: what cannot be read is not passed over.
        let schemas = self.map.handle.schemas();
        let event = self.told.front().map(|record| event(schemas, record)).transpose()?;
        self.silent_until = None;
        Ok(Some(match event {
            Some(event) => {
                let first = self.told.pop_front().map_or(self.read, |record| record.offset);
                self.position = if self.told.is_empty() { self.read } else { first };
                event
            }
            None => {
                self.position = self.read;
                WatchEvent::Progress { offset: self.position }
            }
        }))
    }

    /// Whether it holds what it has read and not told.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.told.is_empty()
    }

    /// How long it is still silent if nothing comes. The end of its silence stays when whoever waits gives up.
    fn left(&mut self) -> Duration {
        let now = self.map.handle.group.engine.backend().now();
        let until = now.saturating_add(self.options.progress);
        self.silent_until.get_or_insert(until).saturating_sub(now)
    }

    /// Reads a page of changes.
    async fn read_page(&mut self) -> Result<(), Error> {
        let (from, prefix) = (self.read, self.options.prefix.clone());
        let read = self.map.handle.read_own(ReadConsistency::Local, move |rows| {
            map::changes(rows, from, |key| key.starts_with(&prefix))
        });
        let read = read.await?;
        // A replica that another snapshot has just replaced, or another replica, may be behind.
        let reached = read.freshness.offset.max(from);
        let page = read.value.map_err(compacted)?;
        self.read = page.next.unwrap_or(reached);
        self.told = page.records.into();
        Ok(())
    }
}

fn event<K: Key, V: Stored>(
    schemas: &Schemas,
    record: &ChangedAt,
) -> Result<WatchEvent<K, V>, Error> {
    let value =
        |found: Option<&Found>| found.map(|found| Versioned::of(schemas, found)).transpose();
    let change = |change: &Changed| {
        Ok(MapChange {
            key: decoded(K::from_bytes(&Bytes::copy_from_slice(&change.key)))?,
            now: value(change.now.as_ref())?,
            before: value(change.before.as_ref())?,
            ended: change.ended,
        })
    };
    Ok(WatchEvent::Changes {
        offset: record.offset,
        log_time: record.log_time,
        changes: record.changes.iter().map(change).collect::<Result<_, Error>>()?,
    })
}
