//! Ranges of keys, and pages of what is in them.

use std::marker::PhantomData;

use bytes::Bytes;

use super::{RANGE_ROWS_MAX, Versioned};
use crate::keys;
use crate::projections::map::KeyRange;
use crate::store::Direction;
use crate::stored::Key;

/// Which keys of a map, and in which order.
///
/// ```
/// use palisade::MapRange;
///
/// let whole = MapRange::<String>::all();
/// let reports = MapRange::<String>::prefix(b"report/").limit(100);
/// let last = MapRange::from(&"b".to_owned()).before(&"d".to_owned()).backward().limit(1);
/// # let _ = (whole, reports, last);
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a range does nothing until it is read"]
pub struct MapRange<K> {
    keys: KeyRange,
    of: PhantomData<fn() -> K>,
}

impl<K> Clone for MapRange<K> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), of: self.of }
    }
}

impl<K: Key> MapRange<K> {
    /// All keys, in their order.
    pub fn all() -> Self {
        let (direction, limit) = (Direction::Forward, RANGE_ROWS_MAX);
        let keys = KeyRange { from: Bytes::new(), end: None, direction, limit };
        Self { keys, of: PhantomData }
    }

    /// This key and those behind it.
    pub fn from(key: &K) -> Self {
        let mut all = Self::all();
        all.keys.from = key.to_bytes();
        all
    }

    /// The keys whose bytes begin like this.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut all = Self::all();
        all.keys.from = Bytes::copy_from_slice(prefix);
        // Nothing is behind a prefix of the highest bytes alone but what begins like it.
        if prefix.iter().any(|byte| *byte != 0xff) {
            all.keys.end = Some(keys::after(prefix).into());
        }
        all
    }

    /// Only keys before this one.
    pub fn before(mut self, key: &K) -> Self {
        self.keys.end = Some(key.to_bytes());
        self
    }

    /// From the last key to the first.
    pub fn backward(mut self) -> Self {
        self.keys.direction = Direction::Backward;
        self
    }

    /// At most so many rows a page; never more than [`RANGE_ROWS_MAX`], and never none: who asks for one
    /// page after the other comes to an end.
    pub fn limit(mut self, rows: usize) -> Self {
        self.keys.limit = rows.clamp(1, RANGE_ROWS_MAX);
        self
    }

    pub(super) fn keys(&self) -> KeyRange {
        self.keys.clone()
    }

    /// What is left of it, when this key is the next.
    pub(super) fn onward(self, next: Vec<u8>) -> Self {
        let mut keys = self.keys;
        match keys.direction {
            Direction::Forward => keys.from = next.into(),
            // The least key that is above it.
            Direction::Backward => keys.end = Some([&next[..], &[0]].concat().into()),
        }
        Self { keys, of: self.of }
    }
}

/// A part of a map.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// stock.put(&"apples".to_owned(), &7).await?;
/// stock.put(&"pears".to_owned(), &2).await?;
/// let (mut asked, mut found) = (Some(MapRange::all().limit(1)), Vec::new());
/// while let Some(range) = asked {
///     let MapPage { rows, next } = stock.range(range, ReadConsistency::Linearizable).await?.value;
///     found.extend(rows.into_iter().map(|(key, Versioned { value, .. })| (key, value)));
///     asked = next;
/// }
/// assert_eq!(found, [("apples".to_owned(), 7), ("pears".to_owned(), 2)]);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPage<K, V> {
    /// The rows, in the order of the range.
    pub rows: Vec<(K, Versioned<V>)>,
    /// The range to go on with, or `None` if there was nothing more.
    pub next: Option<MapRange<K>>,
}
