//! A store whose writes fail when a test says so.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{
    Direction, EachRow, Families, FamilyId, MemoryStore, StateRead, StateStore, StoreCause,
    StoreError, WriteSet,
};

/// Says of each commit and each flush, before it is done, whether it fails.
type Plan = Box<dyn FnMut() -> Option<StoreCause> + Send>;

/// A store whose writes fail when a test says so. Clones share it.
#[derive(Clone)]
pub(crate) struct FaultyStore<S = MemoryStore> {
    inner: S,
    plan: Arc<Mutex<Plan>>,
    flushes: bool,
}

impl<S: StateStore> FaultyStore<S> {
    /// Over this one, which does not fail.
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, plan: Arc::new(Mutex::new(Box::new(|| None))), flushes: false }
    }

    /// The same, and each commit is flushed.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn flushing(inner: S) -> Self {
        Self { flushes: true, ..Self::new(inner) }
    }

    /// From now on.
    pub(crate) fn fail(&self, plan: impl FnMut() -> Option<StoreCause> + Send + 'static) {
        *self.lock() = Box::new(plan);
    }

    /// It loses power before the write behind so many, and stays without.
    pub(crate) fn lose_power_after(&self, mut writes: u64) {
        self.fail(move || match writes.checked_sub(1) {
            Some(left) => {
                writes = left;
                None
            }
            None => Some(StoreCause::Failed),
        });
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no plan panics")
    }

    fn may_write(&self) -> Result<(), StoreError> {
        let cause = (self.lock())();
        cause.map_or(Ok(()), |cause| Err(StoreError::of(cause, format!("planned: {cause:?}"))))
    }
}

impl FaultyStore {
    /// Loses what was not flushed.
    pub(crate) fn crash(&self) {
        self.inner.crash();
    }
}

impl<S: StateStore> StateRead for FaultyStore<S> {
    fn families(&self) -> &Families {
        self.inner.families()
    }

    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(family, key)
    }

    fn walk(
        &self,
        family: FamilyId,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        self.inner.walk(family, from, end, direction, each)
    }
}

impl<S: StateStore> StateStore for FaultyStore<S> {
    fn snapshot(&self) -> Box<dyn StateRead + '_> {
        self.inner.snapshot()
    }

    fn commit(&self, writes: WriteSet) -> Result<(), StoreError> {
        self.may_write()?;
        self.inner.commit(writes)?;
        if self.flushes { self.inner.flush() } else { Ok(()) }
    }

    fn is_damaged(&self) -> bool {
        self.inner.is_damaged()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.may_write()?;
        self.inner.flush()
    }
}
