//! How fresh a read must be.

use std::time::Duration;

use palisade_replication::Offset;

use crate::freshness::Freshness;

/// What a read must reflect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadConsistency {
    /// Everything that was acknowledged to anyone before the read began (G5).
    Linearizable,
    /// Every record up to this one, or a typed error (G4).
    AtLeastOffset(Offset),
    /// What a write or an earlier read has given a token of (G4): any replica may be asked.
    AtLeast(Freshness),
    /// Whatever this replica has.
    Local,
}

/// How to read: how fresh, how long to wait for it, and whether a stale answer may stand in for it.
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
///     // On whichever replica: at least as fresh as the receipt, or an error after half a second.
///     let half = std::time::Duration::from_millis(500);
///     let options = ReadOptions::from(receipt.freshness()).wait(half).refuse_stale();
///     assert!(stock.get(&apples, options).await?.value.is_some());
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    pub(crate) consistency: ReadConsistency,
    pub(crate) wait: Option<Duration>,
    /// Beside what the consistency asks for.
    pub(crate) at_least: Offset,
    pub(crate) refuse_stale: bool,
}

impl ReadOptions {
    /// And not older than this offset.
    pub(crate) fn also_at_least(mut self, offset: Offset) -> Self {
        self.at_least = self.at_least.max(offset);
        self
    }

    /// Waits up to so long for what is asked for to be applied here. Without it, a replica that is behind
    /// says so at once, and in a [`crate::Session`] after a second.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// A stale answer is worth nothing to the caller: where the resource's contract would give one, the
    /// error is wanted instead.
    #[must_use]
    pub fn refuse_stale(mut self) -> Self {
        self.refuse_stale = true;
        self
    }
}

impl From<ReadConsistency> for ReadOptions {
    fn from(consistency: ReadConsistency) -> Self {
        Self { consistency, wait: None, at_least: Offset::ZERO, refuse_stale: false }
    }
}

impl From<Freshness> for ReadOptions {
    fn from(freshness: Freshness) -> Self {
        ReadConsistency::AtLeast(freshness).into()
    }
}
