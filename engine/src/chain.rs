//! The chain of records: one head stands for the whole log up to it (G8). What a link and a head are of is
//! in `audit.rs`, which an auditor takes as it is.

use palisade_replication::{LogTime, Offset};

use crate::audit;

/// The head at each offset that this divides is kept in the state for ever, and a proof leads up to one of
/// them, so it has less than so many links.
pub(crate) const ANCHORS_EVERY: u64 = 1024;

/// Head of the chain of records: equal heads at equal offsets mean equal logs.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
/// orders.append(&"an apple".to_owned()).await?;
/// let (offset, head): (Offset, ChainHead) = orders.group().chain_head().await?;
/// // What an auditor keeps, where nobody who could change the log can change it, too.
/// let anchor = audit::Anchor { offset: offset.get(), head: head.to_bytes() };
/// assert_ne!(anchor, audit::Anchor::ZERO);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainHead(pub(crate) [u8; 32]);

/// What one record adds to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainLink(pub(crate) [u8; 32]);

impl ChainLink {
    pub(crate) fn of(offset: Offset, log_time: LogTime, payload: &[u8]) -> Self {
        Self(audit::link(offset.get(), log_time.get(), payload))
    }
}

impl ChainHead {
    /// Before the first record.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash itself: with its offset an [`audit::Anchor`].
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    pub(crate) fn next(self, link: ChainLink) -> Self {
        Self(audit::next_head(self.0, link.0))
    }
}

impl std::fmt::Display for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainHead({self})")
    }
}
