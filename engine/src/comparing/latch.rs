//! What a replica knows to be wrong with its own state: a row of its own, which outlives it.
//!
//! ```text
//! stage 1 byte: 1 wrong, cause for people
//!               2 being made anew, offset 8 that it had come to
//! ```
//! Little-endian. A state that is being made anew is whole once it has come as far as it had.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use crate::keys;
use crate::store::{FamilyId, StateRead, StateStore, StoreError, WriteSet};

const WRONG: u8 = 1;
const ANEW: u8 = 2;

/// Why a state must not be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Latch {
    /// It was found to be wrong.
    Wrong(String),
    /// It is being made anew, and is to come as far as this.
    Anew(Offset),
}

impl Latch {
    /// Why the state must not be served, if it must not.
    pub(crate) fn load(read: &dyn StateRead, group: GroupId) -> Result<Option<Self>, StoreError> {
        let found = read.get(FamilyId::META, &keys::latch(group))?;
        Ok(found.map(|raw| match (raw.first(), raw.get(1..).and_then(<[u8]>::first_chunk)) {
            (Some(&ANEW), Some(up_to)) => Self::Anew(Offset::new(u64::from_le_bytes(*up_to))),
            _ => {
                Self::Wrong(String::from_utf8_lossy(raw.get(1..).unwrap_or_default()).into_owned())
            }
        }))
    }

    /// For people.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Wrong(what) => what.clone(),
            Self::Anew(_) => {
                "the state was being made anew when the node stopped: call rebuild_replica again"
                    .to_owned()
            }
        }
    }

    /// Whether a state that stands there may be served.
    pub(crate) fn ends_at(&self, offset: Offset) -> bool {
        matches!(self, Self::Anew(up_to) if *up_to <= offset)
    }
}

/// The row goes.
pub(crate) fn removal(group: GroupId) -> (FamilyId, Vec<u8>, Option<Bytes>) {
    (FamilyId::META, keys::latch(group), None)
}

/// The state is wrong, for the first cause that is found. Survives a loss of power when it returns.
pub(crate) fn set(store: &dyn StateStore, group: GroupId, what: &str) -> Result<(), StoreError> {
    if Latch::load(store, group)?.is_some() {
        return Ok(());
    }
    let raw = Bytes::from([&[WRONG], what.as_bytes()].concat());
    store.commit(WriteSet::rows(vec![(FamilyId::META, keys::latch(group), Some(raw))]))?;
    store.flush()
}

/// The state is given up, which had come so far, or was to. Survives a loss of power when it returns.
pub(crate) fn give_up(
    store: &dyn StateStore,
    group: GroupId,
    stood: Offset,
) -> Result<(), StoreError> {
    let up_to = match Latch::load(store, group)? {
        Some(Latch::Anew(before)) => before.max(stood),
        _ => stood,
    };
    let raw = Bytes::from([&[ANEW][..], &up_to.get().to_le_bytes()].concat());
    store.commit(WriteSet::rows(vec![
        (FamilyId::META, keys::latch(group), Some(raw)),
        (FamilyId::META, keys::position(group), None),
        (FamilyId::META, keys::own_sums(group), None),
    ]))?;
    store.flush()
}
