//! The state of a node that is not running: every row is read, and compared with the sums that were kept
//! with the rows when they were written (`docs/comparing.md`).

use std::path::Path;

use palisade_replication::{AppliedPosition, ClusterId, GroupId, NodeId};

use super::InspectError;
use crate::bounds::DATA_GROUPS_MAX;
use crate::chain::ChainHead;
use crate::comparing::latch::Latch;
use crate::comparing::{look_at_all, spans};
use crate::keys;
use crate::machine::{STATE_VERSION, read_position};
use crate::store::{FamilyId, RocksStore, StateRead, StoreError};

/// What a state comes to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StateView {
    /// Whose it is.
    pub cluster: ClusterId,
    /// Whose it is.
    pub node: NodeId,
    /// The kinds of rows there are.
    pub families: Vec<String>,
    /// Each group's part.
    pub groups: Vec<GroupState>,
}

/// A group's part of a state, as it was when it was flushed last.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupState {
    /// Which group.
    pub group: GroupId,
    /// How far it is applied.
    pub applied: AppliedPosition,
    /// The head of the chain of records there, in hex.
    pub chain_head: String,
    /// Bytes of rows that were compared with their sums.
    pub bytes_compared: u64,
    /// False if the sums are of another release: rows could be read, and not compared.
    pub has_sums: bool,
    /// Why the node itself would not serve it, if it knows.
    pub latched: Option<String>,
    /// What is wrong with its rows, place by place.
    pub faults: Vec<String>,
}

impl StateView {
    /// Whether anything is wrong with it.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.groups.iter().any(|group| group.latched.is_some() || !group.faults.is_empty())
    }
}

/// Reads all of the state of a data directory.
///
/// ```
/// # use palisade::*;
/// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
/// use palisade::inspect::{GroupState, StateView, verify_state};
///
/// let engine = Engine::builder(dir).open().await?;
/// engine.close().await?;
/// let state: StateView = verify_state(dir).expect("it can be read");
/// for GroupState { group, bytes_compared, faults, .. } in &state.groups {
///     println!("group={group}: {bytes_compared} bytes were compared");
///     faults.iter().for_each(|fault| println!("  {fault}"));
/// }
/// assert!(!state.is_damaged());
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
///
/// # Errors
/// As [`InspectError`] says. Rows that are damaged are none: they are listed.
pub fn verify_state(data_dir: &Path) -> Result<StateView, InspectError> {
    let dir = data_dir.join("state");
    let store = RocksStore::open_read_only(&dir)?;
    let damaged = |error: StoreError| InspectError::Damaged { what: error.to_string() };
    let owner = store.get(FamilyId::META, keys::OWNER).map_err(damaged)?;
    let Some((cluster, node)) = owner.as_deref().and_then(decode_owner) else {
        return Err(match owner.as_deref().and_then(<[u8]>::first) {
            Some(version) if *version != STATE_VERSION => InspectError::Incompatible {
                what: format!(
                    "the state has version={version}, this release knows {STATE_VERSION}"
                ),
            },
            _ => InspectError::Damaged {
                what: "the state does not say whose it is: it was never flushed, or a restore \
                       into it was not finished"
                    .to_owned(),
            },
        });
    };
    let count = store.get(FamilyId::META, keys::GROUPS).map_err(damaged)?;
    let count = count.and_then(|raw| Some(u64::from_be_bytes(raw[..].try_into().ok()?)));
    let count = count.filter(|count| (1..=DATA_GROUPS_MAX).contains(count));
    let count = count.ok_or_else(|| InspectError::Damaged {
        what: "the state does not say how many groups it has".to_owned(),
    })?;
    let mut groups = Vec::new();
    for group in (0..=count).map(GroupId::new) {
        groups.push(look(&store, group).map_err(damaged)?);
    }
    let families = store.families();
    let families = families.ids().map(|family| families.column(family).to_owned()).collect();
    Ok(StateView { cluster, node, families, groups })
}

fn look(store: &RocksStore, group: GroupId) -> Result<GroupState, StoreError> {
    let (applied, ChainHead(head)) = read_position(store, group)?;
    let has_sums = spans::are_known(store, group)?;
    let (bytes_compared, faults) =
        if has_sums { look_at_all(store, group)? } else { (0, Vec::new()) };
    Ok(GroupState {
        group,
        applied,
        chain_head: head.iter().map(|byte| format!("{byte:02x}")).collect(),
        bytes_compared,
        has_sums,
        latched: Latch::load(store, group)?.map(|latch| latch.cause()),
        faults,
    })
}

/// As `machine::owner_row` writes it.
fn decode_owner(raw: &[u8]) -> Option<(ClusterId, NodeId)> {
    let (version, rest) = raw.split_first()?;
    let (cluster, node) = rest.split_at_checked(16)?;
    if *version != STATE_VERSION {
        return None;
    }
    let cluster = ClusterId::new(u128::from_le_bytes(cluster.try_into().ok()?));
    Some((cluster, NodeId::new(u64::from_le_bytes(node.try_into().ok()?))))
}
