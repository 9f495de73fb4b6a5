//! Where a resource lies: the system group says it by name, and this node knows most of it already.

use crate::bounds::SYSTEM_GROUP;
use crate::command::{ClaimCommand, Command};
use crate::engine::{Engine, unexpected};
use crate::error::Error;
use crate::group::Group;
use crate::names::{self, Claimed};
use crate::outcome::Outcome;
use crate::read::ReadConsistency;
use crate::resource::{LogicalResourceName, ResourceId, ResourceKind, ResourceSpec};
use crate::schemas::Schemas;
use crate::store::StateRead;

impl Engine {
    /// The group that says where names belong. No session looks into it: what it says of a name never changes,
    /// and whoever does not find one asks for all there is.
    pub(crate) fn system(&self) -> Group {
        Group::of(&self.without_session(), SYSTEM_GROUP)
    }

    /// Opens a resource for writing in the group of its name, making it if it is not there; `anew` if it must
    /// not be.
    pub(crate) async fn open_resource(
        &self,
        kind: ResourceKind,
        spec: ResourceSpec,
        anew: bool,
    ) -> Result<(Group, ResourceId, Schemas), Error> {
        let claimed = match self.claimed(&spec.name, ReadConsistency::Local).await? {
            Some(claimed) => claimed,
            None => self.claim(&spec).await?,
        };
        if claimed.affinity != spec.affinity {
            return Err(Error::Incompatible {
                expected: format!("affinity={} of resource={}", spec.affinity, spec.name),
                found: format!("affinity={}", claimed.affinity),
            });
        }
        let group = self.group(claimed.group)?;
        let (resource, schemas) = group.open_resource(kind, spec, claimed.by, anew).await?;
        Ok((group, resource, schemas))
    }

    /// The group of a name. A replica that has heard of it needs nobody else.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nobody has claimed it, and as a read of that consistency.
    pub(crate) async fn locate(
        &self,
        name: &LogicalResourceName,
        consistency: ReadConsistency,
    ) -> Result<Group, Error> {
        let found = match self.claimed(name, ReadConsistency::Local).await? {
            None if consistency == ReadConsistency::Local && self.seen().is_none() => None,
            None => self.claimed(name, ReadConsistency::Linearizable).await?,
            found => found,
        };
        let found = found.ok_or_else(|| Error::NotFound { what: format!("resource={name}") })?;
        self.group(found.group)
    }

    /// Claims a name that is not known here.
    async fn claim(&self, spec: &ResourceSpec) -> Result<Claimed, Error> {
        let system = self.system();
        // A name is kept for ever: it is not claimed for what would be refused then.
        system.check_opening(spec).await?;
        let (name, affinity) = (spec.name.clone(), spec.affinity.clone());
        let data_groups = self.data_groups();
        let command = ClaimCommand { name, affinity: affinity.clone(), data_groups };
        match system.propose(&Command::Claim(command)).await?.1 {
            Outcome::Claimed { group, by } => Ok(Claimed { group, by, affinity }),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => Err(unexpected(&other)),
        }
    }

    async fn claimed(
        &self,
        name: &LogicalResourceName,
        consistency: ReadConsistency,
    ) -> Result<Option<Claimed>, Error> {
        let wanted = name.clone();
        let look = move |read: &dyn StateRead, _| {
            Ok((names::find(read, &wanted)?, names::data_groups(read)?))
        };
        let (found, data_groups) = self.system().read(consistency.into(), look).await?.value;
        match data_groups {
            Some(found) if found != self.data_groups() => Err(Error::Incompatible {
                expected: format!("data_groups={}", self.data_groups()),
                found: format!("data_groups={found} in this cluster: open every node with as many"),
            }),
            _ => Ok(found),
        }
    }
}
