//! What time alone asks for: whoever leads looks once a second what is due, and writes a record that says
//! which resources are to be tidied. What is done then is decided where the record is applied, by its log
//! time. A group where nothing is due is left in peace.

use palisade_replication::{GroupId, LogTime, Role};

use crate::command::{Command, HOUSEKEEP_RESOURCES_MAX};
use crate::engine::Engine;
use crate::error::Error;
use crate::machine::read_position;
use crate::projection::{ProjectionFault, Registry, RowsRead};
use crate::read::ReadConsistency;
use crate::resource_table::each_resource;
use crate::store::{StateRead, Walk};

/// Between two rounds.
pub(crate) const ROUND: std::time::Duration = std::time::Duration::from_secs(1);
/// How long a round waits for its record. What is due then is due again.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// One round on this node.
///
/// # Errors
/// As any write; the next round tries again.
pub(crate) async fn round(engine: &Engine) -> Result<(), Error> {
    if engine.status().await?.role != Role::Leader {
        return Ok(());
    }
    let (registry, now) = (engine.registry().clone(), engine.backend().wall_clock());
    let due = engine
        .read(ReadConsistency::Local.into(), move |read, group| due(read, &registry, group, now))
        .await?;
    if let Some(command) = due.value {
        let wait = engine.backend().sleep(PATIENCE);
        if let Some(done) = crate::backend::race(engine.propose(&command), wait).await {
            done?;
        }
    }
    Ok(())
}

/// The record that is due, if one is.
fn due(
    read: &dyn StateRead,
    registry: &Registry,
    group: GroupId,
    now: LogTime,
) -> Result<Option<Command>, ProjectionFault> {
    let (position, _) = read_position(read, group)?;
    // A record that is written now is stamped with the later of the two.
    let now = now.max(position.log_time);
    let mut due = Vec::new();
    let mut fault = Ok(());
    each_resource(read, group, |id, resource| {
        let Some(kind) = registry.find(resource.kind.as_str()) else { return Walk::Next };
        match kind.projection.due(&RowsRead::new(read, kind.family, group, id)) {
            Ok(Some(from)) if from <= now => due.push(id),
            Ok(_) => {}
            Err(error) => fault = Err(error),
        }
        if fault.is_ok() && due.len() < HOUSEKEEP_RESOURCES_MAX { Walk::Next } else { Walk::Stop }
    })?;
    fault?;
    Ok((!due.is_empty()).then_some(Command::Housekeep(due)))
}
