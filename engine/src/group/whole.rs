//! Reads of what lies in all groups, in the state of one moment.
//!
//! A node has one store, and a snapshot of it has all groups, each as far as it is applied here. There is no
//! order between what different groups have applied.

use palisade_replication::{GroupId, Offset};
use tokio::sync::oneshot;

use super::Group;
use crate::backend::all;
use crate::engine::Engine;
use crate::error::Error;
use crate::machine::read_position;
use crate::projection::ProjectionFault;
use crate::read::{ReadConsistency, ReadOptions};
use crate::store::StateRead;

impl Engine {
    /// Reads all groups that hold resources, each as fresh as asked.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an offset, which is of one group, and as a read of each group.
    pub(crate) async fn read_all<T: Send + 'static>(
        &self,
        options: ReadOptions,
        read: impl FnOnce(&dyn StateRead, &[GroupId]) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<T, Error> {
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
            let mut stands = Vec::new();
            let mut behind = None;
            for (group, required) in ids.iter().zip(required) {
                let applied = read_position(state, *group)?.0.offset;
                if applied < required {
                    behind = behind.or(Some(Error::NotYetApplied { required, applied }));
                }
                stands.push(applied);
            }
            let found = match behind {
                Some(behind) => Err(behind),
                None => read(state, &ids)
                    .map(|value| (value, stands))
                    .map_err(|fault| Error::InternalError { what: fault.to_string() }),
            };
            // A caller that gave up is no loss.
            let _ = leave.send(found);
            Ok(())
        };
        self.backend().read(Box::new(job)).await?;
        let found = left.try_recv().map_err(|_| Error::InternalError {
            what: "a read ended without what it read".to_owned(),
        })?;
        let (value, stands) = found?;
        groups.iter().zip(stands).for_each(|(group, stands)| group.note(stands));
        Ok(value)
    }
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
