//! Observing a resource of any kind: what a read of it comes to, told whenever it is another.

use std::sync::Arc;

use palisade_replication::Offset;

use crate::error::Error;
use crate::freshness::Read;
use crate::handle::Handle;
use crate::projection::{Projection, ProjectionFault, RowsRead};
use crate::read::{ReadConsistency, ReadOptions};

type Look<T> = dyn Fn(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + Sync;

/// Tells what a read comes to, whenever that is another: see [`Handle::observe`].
///
/// It tells of states and not of changes. What it tells is newer each time and of one moment each; but between
/// two of them there may have been others that nobody is told of, and what it told last is what there is only
/// until the next record. Who must not miss a change appends to a log in the same batch, and follows that.
///
/// Nothing is kept for who observes, and nobody waits for him: after each wait it reads once, however many
/// records there were.
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
/// let count = |rows: &RowsRead<'_>| Ok(rows.get(b"count")?);
/// let mut seen: Observation<Counter, _> = visits.observe(Offset::ZERO, count);
/// assert_eq!(seen.next().await?.value, None);
/// let receipt = visits.submit(&3).await?.receipt;
/// let told: Read<_> = seen.next().await?;
/// assert_eq!(told.value, Some(3_u64.to_bytes()));
/// // On any replica, one that is made from here tells of nothing older.
/// assert!(receipt.offset <= seen.position());
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[must_use = "an observation reads nothing until it is asked"]
pub struct Observation<P, T> {
    handle: Handle<P>,
    look: Arc<Look<T>>,
    /// The state that was looked at last, or is to be looked at first.
    position: Offset,
    told: Option<T>,
}

impl<P: Projection, T: Clone + PartialEq + Send + 'static> Observation<P, T> {
    pub(crate) fn new(handle: Handle<P>, from: Offset, look: Arc<Look<T>>) -> Self {
        Self { handle, look, position: from, told: None }
    }

    /// Of which state it looked at last. Another one, on any replica, that is made from here tells of none that
    /// is older.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// What the read comes to: the first time as soon as this replica is where it is to begin, and then once
    /// it is something else. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Handle::read`]; it can be asked again.
    pub async fn next(&mut self) -> Result<Read<T>, Error> {
        loop {
            let group = self.handle.group();
            let wanted = match &self.told {
                None => self.position,
                // Whoever named the place may have named the last there is.
                Some(_) => Offset::new(self.position.get().saturating_add(1)),
            };
            group.engine.backend().wait_applied(group.id(), wanted).await?;
            let look = Arc::clone(&self.look);
            let options = ReadOptions::from(ReadConsistency::Local).also_at_least(wanted);
            let read = self.handle.read(options, move |rows| look(rows)).await?;
            self.position = read.freshness.offset;
            if self.told.as_ref() != Some(&read.value) {
                self.told = Some(read.value.clone());
                return Ok(read);
            }
        }
    }
}
