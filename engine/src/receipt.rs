//! The proof of a write.

use palisade_replication::{ClusterId, GroupId, LogTime, Offset};

use crate::freshness::Freshness;

/// Says where a write took effect. It is returned only once the record is on stable storage at a
/// quorum of voters (G1) and applied on the node that was called.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// let receipt = stock.put(&"apples".to_owned(), &7).await?;
/// let Receipt { group, offset, duplicate, .. } = receipt;
/// assert_eq!((group, duplicate), (stock.group().id(), false));
/// // Whoever has it reads, on any replica, what was written or what became of it.
/// let read = stock.get(&"apples".to_owned(), receipt.freshness()).await?;
/// assert!(offset <= read.freshness.offset);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The cluster that it is of.
    pub cluster: ClusterId,
    /// The group whose log it is in.
    pub group: GroupId,
    /// Its place there: read at least at it to see the write.
    pub offset: Offset,
    /// The leader's stamp on it.
    pub log_time: LogTime,
    /// The request had taken effect before; this is its first receipt again (G6).
    pub duplicate: bool,
}

impl Receipt {
    /// What a read must reflect at least to see the write.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        Freshness { cluster: self.cluster, group: self.group, offset: self.offset }
    }
}
