//! Reads of what lies in all groups, in the state of one moment.
//!
//! A node has one store, and a snapshot of it has all groups, each as far as it is applied here. There is no
//! order between what different groups have applied.

use palisade_replication::{GroupId, Offset};
use tokio::sync::oneshot;

use super::Group;
use super::reading::{Broken, guarded};
use crate::backend::all;
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Freshness;
use crate::machine::read_position;
use crate::projection::ProjectionFault;
use crate::read::{ReadConsistency, ReadOptions};
use crate::store::StateRead;

impl Engine {
    /// Reads all groups that hold resources, one after the other, each as fresh as asked. Says of each how fresh
    /// what was read is.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an offset, which is of one group, and as a read of each group.
    pub(crate) async fn read_all<T: Send + 'static>(
        &self,
        options: ReadOptions,
        mut found: T,
        mut read: impl FnMut(&mut T, &dyn StateRead, GroupId) -> Result<(), ProjectionFault>
        + Send
        + 'static,
    ) -> Result<(T, Vec<Freshness>), Error> {
        if let ReadConsistency::AtLeastOffset(offset) = options.consistency {
            let what = format!(
                "offset={offset} is of one group, and this reads all of them: ask for a freshness token"
            );
            return Err(Error::InvalidArgument { what });
        }
        let groups = self.data_group_handles();
        let required = all(groups.iter().map(|group| group.required(options))).await;
        let required = required.into_iter().collect::<Result<Vec<Offset>, Error>>()?;
        let ids: Vec<GroupId> = groups.iter().map(Group::id).collect();
        let (leave, mut left) = oneshot::channel();
        let job = move |state: &dyn StateRead| {
            let mut each = |(at, (group, required)): (usize, (&GroupId, &Offset))| {
                let (group, required) = (*group, *required);
                let step = guarded(state, group, || {
                    let applied = read_position(state, group)?.0.offset;
                    if applied < required {
                        return Ok(Err(Error::NotYetApplied { required, applied }));
                    }
                    read(&mut found, state, group)?;
                    Ok(Ok(applied))
                });
                match step {
                    Ok(Ok(applied)) => Ok(applied),
                    Ok(Err(behind)) => Err(End::Behind(behind)),
                    Err(broken) => Err(End::Broken(at, broken)),
                }
            };
            let stands = ids.iter().zip(&required).enumerate().map(&mut each);
            let stands = stands.collect::<Result<Vec<Offset>, End>>();
            // A caller that gave up is no loss.
            let _ = leave.send(stands.map(|stands| (found, stands)));
            Ok(())
        };
        self.backend().read(Box::new(job)).await?;
        let found = left.try_recv().map_err(|_| Error::InternalError {
            what: "a read ended without what it read".to_owned(),
        })?;
        let (value, stands) = match found {
            Ok(found) => found,
            Err(End::Behind(behind)) => return Err(behind),
            Err(End::Broken(at, broken)) => return Err(groups[at].broken(broken).await),
        };
        let cluster = self.cluster();
        let token = |(group, offset): (&Group, Offset)| {
            group.note(offset);
            Freshness { cluster, group: group.id(), offset }
        };
        Ok((value, groups.iter().zip(stands).map(token).collect()))
    }
}

/// Why groups were not read to the last.
enum End {
    Behind(Error),
    /// The group that it is of, and what is wrong there.
    Broken(usize, Broken),
}

impl Group {
    /// How far the group is to be applied for a read of all of them.
    async fn required(&self, options: ReadOptions) -> Result<Offset, Error> {
        if let Some(cause) = self.stopped() {
            return Err(cause);
        }
        let consistency = match options.consistency {
            // It says nothing of the others.
            ReadConsistency::AtLeast(freshness) if freshness.group != self.id => {
                ReadConsistency::Local
            }
            consistency => consistency,
        };
        let fresh = self.fresh(ReadOptions { consistency, ..options }).await?;
        Ok(fresh.max(self.applied()?))
    }
}
