//! Digests of the state: what replicas are compared by.

use palisade_replication::{GroupId, Offset};
use sha2::{Digest, Sha256};

use crate::chain::ChainHead;
use crate::keys;
use crate::machine::read_position;
use crate::projection::rebuild::served;
use crate::store::{Direction, StateRead, StoreError, Walk};

/// What a replica's state amounts to at one offset. Equal offsets must have equal digests (G8).
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(3);
/// # let spec = ResourceSpec::new("stock", "count.v1").unwrap().replicas(ReplicaPolicy::majority(3));
/// # let engine = fabric.engine(fabric.node(1));
/// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec)).unwrap();
/// # fabric.block_on(stock.put(&"apples".to_owned(), &7)).unwrap();
/// # fabric.run_for(std::time::Duration::from_secs(2));
/// let replicas: [Group; 2] =
///     [1, 2].map(|n| fabric.engine(fabric.node(n)).group(GroupId::new(1)).expect("it is there"));
/// # fabric.block_on(async {
/// let (here, there) = (replicas[0].digest().await?, replicas[1].digest().await?);
/// let StateDigest { offset, head, projections } = &here;
/// assert_eq!(there.offset, *offset);
/// assert_eq!((&there.head, &there.projections), (head, projections));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// Everything up to this record is in the state.
    pub offset: Offset,
    /// Head of the chain of records up to there.
    pub head: ChainHead,
    /// SHA-256 over every row of each projection, in order.
    pub projections: Vec<(&'static str, ChainHead)>,
}

/// SHA-256 over the rows of one family, in the order of their keys.
#[derive(Default)]
pub(crate) struct FamilyDigest(Sha256);

impl FamilyDigest {
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub(crate) fn finish(self) -> ChainHead {
        ChainHead(self.0.finalize().into())
    }
}

/// Reads the whole state of one moment.
pub(crate) fn digest(read: &dyn StateRead, group: GroupId) -> Result<StateDigest, StoreError> {
    let (position, head) = read_position(read, group)?;
    let mut projections = Vec::new();
    for (family, held) in served(read, group)? {
        let mut digest = FamilyDigest::default();
        if let Some((from, end)) = keys::of_group(family, group) {
            read.walk(held, &from, &end, Direction::Forward, &mut |key, value| {
                digest.row(key, value);
                Walk::Next
            })?;
        }
        projections.push((read.families().name(family), digest.finish()));
    }
    Ok(StateDigest { offset: position.offset, head, projections })
}
