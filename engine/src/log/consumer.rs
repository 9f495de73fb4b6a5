//! Named consumers: how far somebody has come in a log, kept in the log.

use crate::error::Error;
use crate::freshness::Read;
use crate::handle::Handle;
use crate::projections::log::{
    self, CONSUMER_NAME_BYTES_MAX, ConsumerChange, Log, LogOp, LogPosition,
};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::FenceEpoch;

/// A name with a committed position: everything before it is done with. It holds nothing back: entries
/// are removed whether it has read them or not, and it is told [`Error::Trimmed`] when it reads.
///
/// Each change carries an owner epoch, and the highest stays: of two processes that both take themselves
/// for the consumer, only the newer can commit.
///
/// ```
/// use palisade::sim::SimFabric;
/// use palisade::*;
///
/// # fn main() -> Result<(), Error> {
/// let mut fabric = SimFabric::new(1);
/// let engine = fabric.engine(fabric.node(1));
/// fabric.block_on(async {
///     let spec = ResourceSpec::new("orders", "order.v1")?;
///     let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
///     let order = orders.append(&"an apple".to_owned()).await?.outcome;
///     let billing = orders.consumer("billing")?;
///     assert_eq!(billing.position(ReadConsistency::Local).await?.value, LogPosition::START);
///     // It is billed, and done with.
///     billing.commit(order.after()).await?;
///     assert_eq!(billing.position(ReadConsistency::Local).await?.value, order.after());
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Consumer {
    pub(crate) handle: Handle<Log>,
    name: String,
    owner: FenceEpoch,
}

impl Consumer {
    pub(super) fn new(handle: Handle<Log>, name: &str) -> Result<Self, Error> {
        if !(1..=CONSUMER_NAME_BYTES_MAX).contains(&name.len()) {
            return Err(Error::InvalidArgument {
                what: format!("a consumer's name has 1 to {CONSUMER_NAME_BYTES_MAX} bytes"),
            });
        }
        // A handle for reading alone commits nothing.
        let owner = handle.epoch().unwrap_or(FenceEpoch::zero());
        Ok(Self { handle, name: name.to_owned(), owner })
    }

    /// The same consumer for another owner.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let order = orders.append(&"an apple".to_owned()).await?.outcome;
    /// let old = orders.consumer("billing")?.owned_by(FenceEpoch::new(4));
    /// let new = orders.consumer("billing")?.owned_by(FenceEpoch::new(5));
    /// new.commit(order.after()).await?;
    /// let late = old.commit(order.after()).await;
    /// assert!(matches!(late, Err(Error::Fenced { .. })));
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn owned_by(self, owner: FenceEpoch) -> Self {
        Self { owner, ..self }
    }

    /// What is committed: where to read on. [`LogPosition::START`] if nothing ever was.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn position(
        &self,
        options: impl Into<ReadOptions>,
    ) -> Result<Read<LogPosition>, Error> {
        let name = self.name.clone();
        let read = self.handle.read_own(options, move |rows| log::committed(rows, &name)).await?;
        Ok(read.map(|found| found.unwrap_or(LogPosition::START)))
    }

    /// Says that everything before a position is done with; at one offset with what was made of it by
    /// [`crate::Batch::commit_consumer`]. After an entry that was handled, that is
    /// `entry.position.after()`. To commit the same again changes nothing but the owner.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] for a position below what is committed or beyond the tail, and for
    /// one consumer too many; [`Error::Fenced`] if a higher owner has made a change. Others as
    /// [`crate::Batch::commit`].
    pub async fn commit(&self, position: LogPosition) -> Result<Receipt, Error> {
        self.change(ConsumerChange::Commit(position)).await
    }

    /// Sets the position, back or forth: for whoever decides that entries are to be read again, or left
    /// out.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let order = orders.append(&"an apple".to_owned()).await?.outcome;
    /// let billing = orders.consumer("billing")?;
    /// billing.commit(order.after()).await?;
    /// // The bill was wrong: it is to be written again.
    /// let receipt = billing.reset(order).await?;
    /// assert_eq!(billing.position(receipt.freshness()).await?.value, order);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::commit`], but that it may fall.
    pub async fn reset(&self, position: LogPosition) -> Result<Receipt, Error> {
        self.change(ConsumerChange::Reset(position)).await
    }

    /// Removes the consumer with its position and its owner. One that is not there stays so.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let order = orders.append(&"an apple".to_owned()).await?.outcome;
    /// let billing = orders.consumer("billing")?;
    /// billing.commit(order.after()).await?;
    /// let receipt = billing.forget().await?;
    /// assert_eq!(billing.position(receipt.freshness()).await?.value, LogPosition::START);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::Fenced`] if a higher owner has made a change. Others as [`crate::Batch::commit`].
    pub async fn forget(&self) -> Result<Receipt, Error> {
        self.change(ConsumerChange::Forget).await
    }

    async fn change(&self, change: ConsumerChange) -> Result<Receipt, Error> {
        Ok(self.handle.submit(&self.op(change)).await?.receipt)
    }

    pub(crate) fn op(&self, change: ConsumerChange) -> LogOp {
        LogOp::Consumer { name: self.name.clone(), owner: self.owner, change }
    }
}
