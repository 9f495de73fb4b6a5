//! Where state is kept: an ordered store with families of keys.

#[cfg(test)]
pub(crate) mod conformance;
mod families;
#[cfg(all(test, feature = "sim"))]
mod faulty;
#[cfg(any(not(feature = "rocksdb"), feature = "sim", test))]
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(all(test, feature = "rocksdb"))]
mod rot;
#[cfg(any(not(feature = "rocksdb"), feature = "sim", test))]
mod tree;
mod walk;

use bytes::Bytes;
use palisade_replication::ApplyError;

pub(crate) use families::{Families, FamilyId};
#[cfg(all(test, feature = "sim"))]
pub(crate) use faulty::FaultyStore;
#[cfg(any(not(feature = "rocksdb"), feature = "sim", test))]
pub(crate) use memory::MemoryStore;
#[cfg(feature = "rocksdb")]
pub(crate) use rocks::RocksStore;
#[cfg(all(test, feature = "rocksdb"))]
pub(crate) use rot::rot;
pub(crate) use walk::Rest;
pub use walk::{Direction, EachRow, Walk};

/// Memory that a store on disk may take, over all families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StateMemory {
    /// For blocks, indexes and filters that were read.
    pub(crate) cache_bytes: usize,
    /// For rows that are not flushed yet.
    pub(crate) write_buffer_bytes: usize,
}

impl Default for StateMemory {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, write_buffer_bytes: 64 << 20 }
    }
}

/// Changes that are committed together: ranges are cleared first, then rows are written, later ones
/// over earlier ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteSet {
    /// Family, and from where up to before which key nothing stays.
    pub(crate) cleared: Vec<(FamilyId, Vec<u8>, Vec<u8>)>,
    /// Family, key, and the value or its removal.
    pub(crate) writes: Vec<(FamilyId, Vec<u8>, Option<Bytes>)>,
}

impl WriteSet {
    /// These rows alone.
    pub(crate) fn rows(writes: Vec<(FamilyId, Vec<u8>, Option<Bytes>)>) -> Self {
        Self { cleared: Vec::new(), writes }
    }
}

/// Why the store cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("state store: {what}")]
pub(crate) struct StoreError {
    /// What failed, for people.
    what: String,
    cause: StoreCause,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreCause {
    /// It cannot go on, or holds what nobody wrote there.
    Failed,
    /// A part of its files cannot be read. What lies elsewhere may well be, and others be served of it.
    Unreadable,
    /// Its disk has no space. Nothing was written, and it goes on by itself when there is some.
    Full,
}

impl StoreError {
    /// It cannot go on, or holds what nobody wrote there.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self::of(StoreCause::Failed, what)
    }

    pub(crate) fn of(cause: StoreCause, what: impl Into<String>) -> Self {
        Self { what: what.into(), cause }
    }

    pub(crate) fn cause(&self) -> StoreCause {
        self.cause
    }
}

impl From<StoreError> for ApplyError {
    /// Of what is not about one group alone.
    fn from(error: StoreError) -> Self {
        let what = error.to_string();
        let found = match error.cause {
            StoreCause::Full => Self::full(what),
            StoreCause::Failed | StoreCause::Unreadable => Self::of_node(what),
        };
        found.with_source(error)
    }
}

/// Reads of one moment's state.
pub(crate) trait StateRead {
    /// What there is to read.
    fn families(&self) -> &Families;

    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The rows from `from` up to before `end`, in order or backward, as `each` says.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn walk(
        &self,
        family: FamilyId,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError>;
}

/// An ordered store. Any thread reads; one thread commits, and beside it those that build rows which it
/// does not touch.
///
/// Nothing needs to be durable before [`StateStore::flush`] returns, but whatever a crash leaves
/// must be the state after some commit at or after the last flush, over all families.
pub(crate) trait StateStore: StateRead + Send + Sync + 'static {
    /// Reads that see no later commit, and that no commit waits for.
    fn snapshot(&self) -> Box<dyn StateRead + '_>;

    /// Commits all the writes, or none.
    ///
    /// # Errors
    /// When the store cannot be written: with [`StoreCause::Full`], it can be again once there is space.
    fn commit(&self, writes: WriteSet) -> Result<(), StoreError>;

    /// Whether a part of it could not be read, now or before it was opened.
    fn is_damaged(&self) -> bool;

    /// Returns once everything committed survives a loss of power.
    ///
    /// # Errors
    /// As [`StateStore::commit`]. What was committed can be read all the same.
    fn flush(&self) -> Result<(), StoreError>;
}
