//! What the chunks of a state come to: a digest for each family, and where the state stands.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::{ApplyError, GroupId, LogTime, Offset};

use super::layout::Hash;
use crate::chain::ChainHead;
use crate::digest::{FamilyDigest, StateDigest};
use crate::keys;
use crate::machine::decode_position;
use crate::snapshot::{Part, read_chunk};
use crate::store::FamilyId;

/// Digests of the families that have rows.
pub(super) type Digests = BTreeMap<String, Hash>;

/// A digest of a whole state, as a manifest has it.
pub(super) fn of_state(digest: &StateDigest) -> Digests {
    let nothing = FamilyDigest::default().finish();
    let with_rows = digest.projections.iter().filter(|(_, digest)| *digest != nothing);
    with_rows.map(|(family, digest)| ((*family).to_owned(), Hash(digest.0))).collect()
}

pub(super) struct StateSum {
    group: GroupId,
    families: BTreeMap<String, FamilyDigest>,
    position: Option<(Offset, LogTime, ChainHead)>,
}

impl StateSum {
    pub(super) fn new(group: GroupId) -> Self {
        Self { group, families: BTreeMap::new(), position: None }
    }

    /// Adds the next chunk.
    pub(super) fn add(&mut self, chunk: Bytes) -> Result<(), ApplyError> {
        let mark = keys::position(self.group);
        let mut family = None;
        read_chunk(chunk, |part| {
            match (part, &family) {
                (Part::Family(name), _) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    family = Some(name);
                }
                (Part::Row(key, value), Some(name)) if name == FamilyId::META_NAME => {
                    if key != mark {
                        return Err(ApplyError::of_node("a row is not of this group"));
                    }
                    let (position, head) = decode_position(value)
                        .map_err(|error| ApplyError::of_node(error.to_string()))?;
                    self.position = Some((position.offset, position.log_time, head));
                }
                (Part::Row(key, value), Some(name)) => {
                    if !self.families.contains_key(name) {
                        self.families.insert(name.clone(), FamilyDigest::default());
                    }
                    self.families.get_mut(name).expect("it is there now").row(&key, &value);
                }
                // Whoever installs them compares them with the rows; so does this, with digests.
                (Part::Sums(_), _) => {}
                (Part::Row(..), None) => {
                    return Err(ApplyError::of_node("a row is of no family"));
                }
            }
            Ok(())
        })
    }

    /// The digests, and where the state stands if it says so: offset, log time, head.
    pub(super) fn finish(self) -> (Digests, Option<(Offset, LogTime, ChainHead)>) {
        let hash = |(family, digest): (String, FamilyDigest)| (family, Hash(digest.finish().0));
        (self.families.into_iter().map(hash).collect(), self.position)
    }
}
