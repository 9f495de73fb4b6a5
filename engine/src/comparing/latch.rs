//! What a replica knows to be wrong with its own state: a row of its own, which outlives it.
//!
//! ```text
//! stage 1 byte (1 wrong), cause for people
//! ```

use bytes::Bytes;
use palisade_replication::GroupId;

use crate::keys;
use crate::store::{FamilyId, StateRead, StateStore, StoreError, WriteSet};

const WRONG: u8 = 1;

/// Why the replica must not serve, if it must not.
pub(crate) fn cause(read: &dyn StateRead, group: GroupId) -> Result<Option<String>, StoreError> {
    let found = read.get(FamilyId::META, &keys::latch(group))?;
    Ok(found.map(|raw| String::from_utf8_lossy(raw.get(1..).unwrap_or_default()).into_owned()))
}

/// The state is wrong, for the first cause that is found. Survives a loss of power when it returns.
pub(crate) fn set(store: &dyn StateStore, group: GroupId, what: &str) -> Result<(), StoreError> {
    if cause(store, group)?.is_some() {
        return Ok(());
    }
    let raw = Bytes::from([&[WRONG], what.as_bytes()].concat());
    store.commit(WriteSet::rows(vec![(FamilyId::META, keys::latch(group), Some(raw))]))?;
    store.flush()
}
