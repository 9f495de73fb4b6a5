//! What a replica knows to be wrong with its own state: a row of its own, which outlives it.
//!
//! ```text
//! stage 1 byte: 1 wrong, cause for people
//!               2 being made anew, offset 8 that it had come to
//!               3 cannot be read, cause for people
//! ```
//! Little-endian. A state that is being made anew is whole once it has come as far as it had.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use crate::keys;
use crate::store::{FamilyId, StateRead, StateStore, StoreError, WriteSet};

const WRONG: u8 = 1;
const ANEW: u8 = 2;
const UNREADABLE: u8 = 3;

/// Why a state must not be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Latch {
    /// It was found to be wrong.
    Wrong(String),
    /// It is being made anew, and is to come as far as this.
    Anew(Offset),
    /// Some of its rows cannot be read.
    Unreadable(String),
}

impl Latch {
    /// Why the state must not be served, if it must not.
    pub(crate) fn load(read: &dyn StateRead, group: GroupId) -> Result<Option<Self>, StoreError> {
        let found = read.get(FamilyId::META, &keys::latch(group))?;
        Ok(found.map(|raw| Self::decode(&raw)))
    }

    /// What is no stage that is known is as bad as the first.
    fn decode(raw: &[u8]) -> Self {
        let (stage, rest) = raw.split_first().unwrap_or((&WRONG, &[]));
        let what = || String::from_utf8_lossy(rest).into_owned();
        match (*stage, rest.first_chunk()) {
            (ANEW, Some(up_to)) => Self::Anew(Offset::new(u64::from_le_bytes(*up_to))),
            (UNREADABLE, _) => Self::Unreadable(what()),
            _ => Self::Wrong(what()),
        }
    }

    fn encode(&self) -> Bytes {
        let up_to;
        let (stage, rest) = match self {
            Self::Wrong(what) => (WRONG, what.as_bytes()),
            Self::Anew(offset) => {
                up_to = offset.get().to_le_bytes();
                (ANEW, &up_to[..])
            }
            Self::Unreadable(what) => (UNREADABLE, what.as_bytes()),
        };
        [&[stage], rest].concat().into()
    }

    /// For people.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Wrong(what) | Self::Unreadable(what) => what.clone(),
            Self::Anew(_) => "the state was being made anew when the node stopped: call \
                              rebuild_replica again"
                .to_owned(),
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

/// The state must not be served, for the first cause that is found. Survives a loss of power when it returns.
pub(crate) fn set(store: &dyn StateStore, group: GroupId, latch: &Latch) -> Result<(), StoreError> {
    if Latch::load(store, group)?.is_some() {
        return Ok(());
    }
    let row = (FamilyId::META, keys::latch(group), Some(latch.encode()));
    store.commit(WriteSet::rows(vec![row]))?;
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
    store.commit(WriteSet::rows(vec![
        (FamilyId::META, keys::latch(group), Some(Latch::Anew(up_to).encode())),
        (FamilyId::META, keys::position(group), None),
        (FamilyId::META, keys::own_sums(group), None),
    ]))?;
    store.flush()
}
