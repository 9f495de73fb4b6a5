//! How many groups a directory was opened with: it stays with that.

use crate::error::Error;
use crate::keys;
use crate::machine::stopped;
use crate::store::{FamilyId, StateStore, WriteSet};

/// Keeps how many data groups there are, or refuses another number than was kept.
pub(crate) fn keep_count(store: &dyn StateStore, data_groups: u64) -> Result<(), Error> {
    let count = data_groups.to_be_bytes();
    match store.get(FamilyId::META, keys::GROUPS).map_err(|error| stopped(&error))? {
        Some(found) if found[..] == count => Ok(()),
        Some(found) => Err(Error::Incompatible {
            expected: format!("data_groups={data_groups}"),
            found: match found.last_chunk() {
                Some(found) => {
                    format!("a directory with data_groups={}", u64::from_be_bytes(*found))
                }
                None => "a directory that does not say how many groups it has".to_owned(),
            },
        }),
        None => {
            let row = (FamilyId::META, keys::GROUPS.to_vec(), Some(count.to_vec().into()));
            let kept = store.commit(WriteSet::rows(vec![row])).and_then(|()| store.flush());
            kept.map_err(|error| stopped(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn another_number_of_groups_is_refused() {
        let store = MemoryStore::default();
        keep_count(&store, 4).unwrap();
        keep_count(&store, 4).unwrap();
        let Error::Incompatible { expected, found } = keep_count(&store, 3).unwrap_err() else {
            panic!("another failure")
        };
        assert_eq!((&*expected, &*found), ("data_groups=3", "a directory with data_groups=4"));
    }
}
