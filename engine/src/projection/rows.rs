//! The rows of one resource, as its projection sees them: its own keys, and nobody else's.

use bytes::Bytes;
use palisade_replication::{CHUNK_BYTES_MAX, CHUNK_BYTES_TARGET, GroupId};

use super::ProjectionFault;
use crate::bounds::KEY_BYTES_MAX;
use crate::keys;
use crate::resource::ResourceId;
use crate::store::{Direction, EachRow, FamilyId, StateRead, Walk};
use crate::view::View;

/// Longest key of a row, in bytes: room for the longest key that a service may use, each byte of it
/// escaped, and for what stands around it.
pub const ROW_KEY_BYTES_MAX: usize = 3 << 10;
/// Longest value of a row, in bytes: a row is in one chunk of a snapshot, and behind up to a target of
/// others. With a longer one, no replica could be caught up with any more.
pub const ROW_VALUE_BYTES_MAX: usize = 4 << 20;
const _: () =
    assert!(CHUNK_BYTES_TARGET + ROW_VALUE_BYTES_MAX + 2 * ROW_KEY_BYTES_MAX <= CHUNK_BYTES_MAX);
const _: () = assert!(ROW_KEY_BYTES_MAX >= 2 * KEY_BYTES_MAX + 64);

/// A row: its key and its value.
pub(crate) type Row = (Vec<u8>, Bytes);

/// The rows of one resource at one moment, in the order of their keys.
#[derive(Clone, Copy)]
pub struct RowsRead<'a> {
    read: &'a dyn StateRead,
    family: FamilyId,
    prefix: [u8; keys::RESOURCE_PREFIX_BYTES],
    version: u32,
}

impl<'a> RowsRead<'a> {
    pub(crate) fn new(
        read: &'a dyn StateRead,
        family: FamilyId,
        group: GroupId,
        resource: ResourceId,
    ) -> Self {
        Self { read, family, prefix: keys::of_resource(group, resource), version: 1 }
    }

    /// The same, written by another version of the projection than the first.
    pub(crate) fn of_version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// Which version of the projection has written the rows. While a newer one supersedes an older one, what
    /// is read may still be the older one's: a read that knows both layouts is served throughout.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// # let visits = Handle::<Counter>::open(&engine, spec).await?;
    /// # let receipt = visits.submit(&3).await?.receipt;
    /// // Two layouts, as long as nodes are on their way from the one to the other.
    /// let count = |rows: &RowsRead<'_>| {
    ///     let key: &[u8] = if rows.version() == 1 { b"count" } else { b"sum" };
    ///     Ok(rows.get(key)?.map(|raw| u64::from_bytes(&raw)).transpose()?)
    /// };
    /// assert_eq!(visits.read(receipt.freshness(), count).await?.value, Some(3));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ProjectionFault> {
        Ok(self.read.get(self.family, &self.whole(key))?)
    }

    /// The rows from `from` up to before `end`, or to the last, in order or backward, as `each` says. The
    /// keys it is given are in the range, and so must be those that it seeks.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # use std::convert::Infallible;
    /// # struct Names;
    /// # impl Projection for Names {
    /// #     const NAME: &'static str = "names";
    /// #     const VERSION: u32 = 1;
    /// #     type Op = String;
    /// #     type Outcome = ();
    /// #     type Refusal = Infallible;
    /// #     type Guard = Infallible;
    /// #     fn apply(&self, _: At, name: String, rows: &mut Rows<'_, '_>)
    /// #         -> Result<Applied<(), Infallible>, ProjectionFault> {
    /// #         rows.put(name.as_bytes(), "")?;
    /// #         Ok(Applied::Done(()))
    /// #     }
    /// # }
    /// # let mut fabric = SimFabric::builder(1).projection(Names).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let names = Handle::<Names>::open(&engine, ResourceSpec::new("names", "v1")?).await?;
    /// for name in ["fruit/apple", "fruit/pear", "nut/hazel", "nut/wal"] {
    ///     names.submit(&name.to_owned()).await?;
    /// }
    /// // The kinds alone: from one name to the first of the next kind, with nothing read between.
    /// let kinds = |rows: &RowsRead<'_>| {
    ///     let mut kinds = Vec::new();
    ///     let each: &mut EachRow<'_> = &mut |key, _| {
    ///         let kind = key.split(|byte| *byte == b'/').next().unwrap_or(key).to_vec();
    ///         let next = [&kind[..], b"0"].concat(); // `0` is the byte behind `/`
    ///         kinds.push(String::from_utf8_lossy(&kind).into_owned());
    ///         if kinds.len() < 100 { Walk::Seek(next) } else { Walk::Stop }
    ///     };
    ///     rows.walk(b"", None, Direction::Forward, each)?;
    ///     Ok(kinds)
    /// };
    /// assert_eq!(names.read(ReadConsistency::Linearizable, kinds).await?.value, ["fruit", "nut"]);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn walk(
        &self,
        from: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), ProjectionFault> {
        let (from, end) = (self.whole(from), self.end(end));
        let each = &mut |key: &[u8], value: &[u8]| match each(&key[self.prefix.len()..], value) {
            Walk::Seek(to) => Walk::Seek(self.whole(&to)),
            other => other,
        };
        Ok(self.read.walk(self.family, &from, &end, direction, each)?)
    }

    /// The first row from `from` up to before `end`, or to the last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn first(&self, from: &[u8], end: Option<&[u8]>) -> Result<Option<Row>, ProjectionFault> {
        self.one(from, end, Direction::Forward)
    }

    /// The last row from `from` up to before `end`, or of all from there on.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # mod counter {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/counter.rs"));
    /// # }
    /// # use counter::Counter;
    /// # let mut fabric = SimFabric::builder(1).projection(Counter).build().unwrap();
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("visits", "count.v1")?;
    /// # let visits = Handle::<Counter>::open(&engine, spec).await?;
    /// # visits.submit(&3).await?;
    /// let ends = |rows: &RowsRead<'_>| Ok((rows.first(b"", None)?, rows.last(b"", None)?));
    /// let (first, last) = visits.read(ReadConsistency::Linearizable, ends).await?.value;
    /// let (key, value) = first.clone().expect("there is one row");
    /// assert_eq!((key, value), (b"count".to_vec(), 3_u64.to_bytes()));
    /// assert_eq!(first, last);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn last(&self, from: &[u8], end: Option<&[u8]>) -> Result<Option<Row>, ProjectionFault> {
        self.one(from, end, Direction::Backward)
    }

    fn one(
        &self,
        from: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Result<Option<Row>, ProjectionFault> {
        let mut found = None;
        self.walk(from, end, direction, &mut |key, value| {
            found = Some((key.to_vec(), Bytes::copy_from_slice(value)));
            Walk::Stop
        })?;
        Ok(found)
    }

    fn whole(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    fn end(&self, end: Option<&[u8]>) -> Vec<u8> {
        end.map_or_else(|| keys::after(&self.prefix), |end| self.whole(end))
    }
}

/// The rows of one resource while an operation is applied: reads see what it has written so far.
pub struct Rows<'r, 'v> {
    view: &'r mut View<'v>,
    family: FamilyId,
    group: GroupId,
    resource: ResourceId,
}

impl<'r, 'v> Rows<'r, 'v> {
    pub(crate) fn new(
        view: &'r mut View<'v>,
        family: FamilyId,
        group: GroupId,
        resource: ResourceId,
    ) -> Self {
        Self { view, family, group, resource }
    }

    /// The rows as they are now.
    #[must_use]
    pub fn read(&self) -> RowsRead<'_> {
        RowsRead::new(self.view, self.family, self.group, self.resource)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ProjectionFault> {
        self.read().get(key)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the key is longer than [`ROW_KEY_BYTES_MAX`], or the value than [`ROW_VALUE_BYTES_MAX`].
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) -> Result<(), ProjectionFault> {
        let value = value.into();
        check_row(key, &value)?;
        self.view.put(self.family, self.read().whole(key), value);
        Ok(())
    }

    /// Removes a row; one that is not there stays so.
    pub fn remove(&mut self, key: &[u8]) {
        self.view.remove(self.family, self.read().whole(key));
    }
}

/// Refuses a row that no snapshot could carry.
pub(super) fn check_row(key: &[u8], value: &Bytes) -> Result<(), ProjectionFault> {
    let refused = |what: &str, bytes: usize, most: usize| {
        Err(ProjectionFault::new(format!(
            "a row's {what} has {bytes} bytes, at most {most} are allowed"
        )))
    };
    if key.len() > ROW_KEY_BYTES_MAX {
        return refused("key", key.len(), ROW_KEY_BYTES_MAX);
    }
    if value.len() > ROW_VALUE_BYTES_MAX {
        return refused("value", value.len(), ROW_VALUE_BYTES_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    const GROUP: GroupId = GroupId::new(1);

    fn rows<'r, 'v>(view: &'r mut View<'v>, resource: u32) -> Rows<'r, 'v> {
        Rows::new(view, FamilyId::MAP, GROUP, ResourceId(resource))
    }

    #[test]
    fn a_resource_sees_its_own_rows_only() {
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        for resource in 1..=3 {
            for key in ["a", "b", "\u{ff}"] {
                let value = format!("{key}{resource}");
                rows(&mut view, resource).put(key.as_bytes(), value).unwrap();
            }
        }
        rows(&mut view, 2).remove(b"b");
        let rows = rows(&mut view, 2);
        let seen = |from: &str, end: Option<&str>, direction| {
            let mut seen = Vec::new();
            let mut each = |key: &[u8], value: &[u8]| {
                assert_eq!(key, &value[..value.len() - 1]);
                seen.push(String::from_utf8(value.to_vec()).unwrap());
                Walk::Next
            };
            let end = end.map(str::as_bytes);
            rows.read().walk(from.as_bytes(), end, direction, &mut each).unwrap();
            seen
        };
        assert_eq!(seen("", None, Direction::Forward), ["a2", "\u{ff}2"]);
        assert_eq!(seen("", None, Direction::Backward), ["\u{ff}2", "a2"]);
        assert_eq!(seen("b", None, Direction::Forward), ["\u{ff}2"]);
        assert_eq!(seen("", Some("b"), Direction::Backward), ["a2"]);
        let key = |row: Option<Row>| row.map(|(key, _)| String::from_utf8(key).unwrap());
        assert_eq!(key(rows.read().first(b"", None).unwrap()).as_deref(), Some("a"));
        assert_eq!(key(rows.read().last(b"", None).unwrap()).as_deref(), Some("\u{ff}"));
        assert_eq!(key(rows.read().last(b"b", Some(b"c")).unwrap()), None);
        assert_eq!(rows.get(b"b").unwrap(), None);
    }

    #[test]
    fn a_walk_seeks_by_the_keys_of_the_resource() {
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        for key in ["a", "b", "c"] {
            rows(&mut view, 1).put(key.as_bytes(), Bytes::new()).unwrap();
        }
        let mut seen = Vec::new();
        let mut each = |key: &[u8], _: &[u8]| {
            seen.push(key.to_vec());
            Walk::Seek(b"c".to_vec())
        };
        let rows = rows(&mut view, 1);
        rows.read().walk(b"", None, Direction::Forward, &mut each).unwrap();
        assert_eq!(seen, [b"a", b"c"]);
    }

    #[test]
    fn a_key_and_a_value_have_a_bound() {
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        let mut rows = rows(&mut view, 1);
        rows.put(&[b'k'; ROW_KEY_BYTES_MAX], Bytes::new()).unwrap();
        let refused = rows.put(&[b'k'; ROW_KEY_BYTES_MAX + 1], Bytes::new()).unwrap_err();
        assert!(refused.to_string().contains("3073 bytes"), "{refused}");
        rows.put(b"k", vec![0; ROW_VALUE_BYTES_MAX]).unwrap();
        let refused = rows.put(b"k", vec![0; ROW_VALUE_BYTES_MAX + 1]).unwrap_err();
        assert!(refused.to_string().contains("value has 4194305 bytes"), "{refused}");
    }
}
