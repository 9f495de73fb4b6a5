//! What time alone asks for: whoever leads looks once a second what is due, and writes a record that says
//! where: in which resources, and whether among the clients. What is done then is decided where the record is applied, by its log
//! time. A group where nothing is due is left in peace.

use std::ops::ControlFlow;

use palisade_replication::{GroupId, LogTime, Role};

use crate::backend::{all, race};
use crate::clients;
use crate::command::{CHORES_MAX, Chore, Command};
use crate::comparing;
use crate::engine::Engine;
use crate::error::Error;
use crate::group::Group;
use crate::machine::read_position;
use crate::projection::rebuild::{self, Kinds};
use crate::projection::{ProjectionFault, Registry, RowsRead};
use crate::read::ReadConsistency;
use crate::resource_row::each_resource;
use crate::store::StateRead;

/// Between two rounds.
pub(crate) const ROUND: std::time::Duration = std::time::Duration::from_secs(1);
/// How long a round waits for its record. What is due then is due again.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
/// Most records of one round, so that what is due in bulk leaves room for others.
const RECORDS_MAX: usize = 16;

/// One round on this node, in all of its groups at once: one that waits holds up none of the others.
pub(crate) async fn look_after(engine: &Engine) {
    let round = async |group: Group| {
        if let Err(error) = round(&group).await {
            tracing::debug!(%group, %error, "housekeeping will be tried again");
        }
    };
    engine.backend().build();
    all(engine.groups().into_iter().map(round)).await;
}

/// One round in a group of this node: records until nothing is due, or there were enough of them.
///
/// # Errors
/// As any write; the next round tries again.
async fn round(group: &Group) -> Result<(), Error> {
    let status = group.status().await?;
    comparing::round(group, &status).await;
    rebuild::round(group, &status).await?;
    if status.role != Role::Leader {
        return Ok(());
    }
    let now = group.engine.backend().wall_clock();
    let mut before = Vec::new();
    for _ in 0..RECORDS_MAX {
        let registry = group.engine.registry().clone();
        let look = move |read: &dyn StateRead, group| due(read, &registry, group, now);
        let due = group.read(ReadConsistency::Local.into(), look).await?.value;
        // What a record left as it was is not asked for again before the next round.
        if due.is_empty() || due == before {
            return Ok(());
        }
        let mut chores: Vec<Chore> = due.iter().map(|(_, chore)| *chore).collect();
        chores.sort_unstable();
        let command = Command::Housekeep(chores);
        let wait = group.engine.backend().sleep(PATIENCE);
        let Some(done) = race(group.propose(&command), wait).await else { return Ok(()) };
        done?;
        before = due;
    }
    Ok(())
}

/// Where something is due, and since when: what waits longest, as much as a record takes. A resource that
/// cannot say it is left out, and keeps none of the others waiting.
fn due(
    read: &dyn StateRead,
    registry: &Registry,
    group: GroupId,
    now: LogTime,
) -> Result<Vec<(LogTime, Chore)>, ProjectionFault> {
    let (position, _) = read_position(read, group)?;
    // A record that is written now is stamped with the later of the two.
    let now = now.max(position.log_time);
    let mut due = Vec::new();
    if let Some(from) = clients::due(read, group)?.filter(|from| *from <= now) {
        due.push((from, Chore::Clients));
    }
    let kinds = Kinds::load(read, group)?;
    each_resource(read, group, |id, resource| {
        let kind = kinds.find(registry, &resource);
        let from = match (resource.deleted, kind) {
            (Some(deleted), _) => Ok(Some(deleted.until)),
            (None, Some(kind)) => kind.projection.due(&RowsRead::new(read, kind.family, group, id)),
            (None, None) => Ok(None),
        };
        match from {
            Ok(Some(from)) if from <= now => due.push((from, Chore::Resource(id))),
            Ok(_) => {}
            Err(fault) => {
                tracing::warn!(%group, resource = id.0, %fault, "cannot tell what is due");
            }
        }
        ControlFlow::Continue(())
    })?;
    due.sort_unstable();
    due.truncate(CHORES_MAX);
    Ok(due)
}
