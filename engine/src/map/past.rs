//! A map as it was.

use palisade_replication::Offset;

use super::{MapPage, MapRange, ReplicatedMap, Versioned};
use crate::error::Error;
use crate::freshness::Read;
use crate::projections::map::When;
use crate::read::ReadOptions;
use crate::stored::{Key, Stored};

/// A map as it was once every record up to an offset was applied: see [`ReplicatedMap::at`]. Reads are the
/// same however often, and on whichever replica they are made, until what they need is not kept any more
/// ([`Error::Compacted`]). A replica that has not come that far says so, or waits for it.
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
///     let then = stock.put(&apples, &7).await?.offset;
///     let now = stock.put(&apples, &6).await?;
///     let row = stock.at(then).get(&apples, now.freshness()).await?.value;
///     assert_eq!(row.map(|row| row.value), Some(7));
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct MapAt<K, V> {
    map: ReplicatedMap<K, V>,
    offset: Offset,
}

impl<K: Key, V: Stored> MapAt<K, V> {
    pub(super) fn new(map: ReplicatedMap<K, V>, offset: Offset) -> Self {
        Self { map, offset }
    }

    /// As [`ReplicatedMap::get`].
    ///
    /// # Errors
    /// [`Error::Compacted`] below the floor of the map, and as [`ReplicatedMap::get`].
    pub async fn get(
        &self,
        key: &K,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Option<Versioned<V>>>, Error> {
        self.map.get_when(key, When::At(self.offset), options.into()).await
    }

    /// As [`ReplicatedMap::get_many`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let keys = ["apples".to_owned(), "pears".to_owned()];
    /// stock.put(&keys[0], &7).await?;
    /// let then = stock.put(&keys[1], &2).await?.offset;
    /// let now = stock.delete(&keys[1]).await?.freshness();
    /// let rows = stock.at(then).get_many(&keys, now).await?.value;
    /// assert_eq!(rows[1].as_ref().map(|row| row.value), Some(2));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::Compacted`] below the floor of the map, and as [`ReplicatedMap::get_many`].
    pub async fn get_many(
        &self,
        keys: &[K],
        options: impl Into<ReadOptions>,
    ) -> Result<Read<Vec<Option<Versioned<V>>>>, Error> {
        self.map.get_many_when(keys, When::At(self.offset), options.into()).await
    }

    /// As [`ReplicatedMap::range`].
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// let then = stock.put(&"apples".to_owned(), &7).await?;
    /// stock.put(&"pears".to_owned(), &2).await?;
    /// // Page after page of one moment, whatever is written meanwhile.
    /// let mut range = MapRange::all().limit(100);
    /// let mut rows = Vec::new();
    /// loop {
    ///     let page = stock.at(then.offset).range(range, then.freshness()).await?.value;
    ///     rows.extend(page.rows);
    ///     match page.next {
    ///         Some(next) => range = next,
    ///         None => break,
    ///     }
    /// }
    /// assert_eq!(rows.len(), 1);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::Compacted`] below the floor of the map, and as [`ReplicatedMap::range`].
    pub async fn range(
        &self,
        range: MapRange<K>,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<MapPage<K, V>>, Error> {
        self.map.range_when(range, When::At(self.offset), options.into()).await
    }
}
