//! What a node does about comparing, once a second: it reads its own rows again, says what it came to at the
//! last mark, and, if it leads, makes the next one.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_replication::{GroupId, GroupStatus, LogTime, MemberRole, NodeId, Role};

use super::folds::StateSums;
use super::scrub;
use super::table::{CompareCommand, Mark, own_sums};
use crate::backend::race;
use crate::codec::Reader;
use crate::command::Command;
use crate::error::Error;
use crate::group::Group;
use crate::machine::read_position;
use crate::projection::ProjectionFault;
use crate::read::ReadConsistency;
use crate::store::StateRead;

/// A mark is due after so many records, or after so long if there was any.
const MARK_RECORDS: u64 = 65_536;
const MARK_MS: u64 = 10_000;
/// An engine that was opened makes none before.
const FIRST_MARK: Duration = Duration::from_millis(MARK_MS);
/// How long a round waits for its record. What was not heard of is said again.
const PATIENCE: Duration = Duration::from_secs(1);

/// One round for a group.
pub(crate) async fn round(group: &Group, status: &GroupStatus) {
    if status.role == Role::Halted {
        return;
    }
    // Neither keeps the other from its turn; what could not be done now is done in a later round.
    if let Err(error) = scrub::round(group).await {
        tracing::debug!(%group, %error, "rows will be looked at later");
    }
    if let Err(error) = talk(group, status).await {
        tracing::debug!(%group, %error, "a mark or a report will be tried again");
    }
}

/// Proposes what is owed, if anything is.
async fn talk(group: &Group, status: &GroupStatus) -> Result<(), Error> {
    let votes = |(node, role): (NodeId, MemberRole)| (node, role == MemberRole::Voter);
    let backend = group.engine.backend();
    let owed = Owed {
        node: group.engine.node(),
        members: status.members.roles().map(votes).collect(),
        makes_marks: status.role == Role::Leader && FIRST_MARK <= backend.now(),
        now: backend.wall_clock(),
    };
    let look = move |read: &dyn StateRead, group| owed.look(read, group);
    let Some(command) = group.read(ReadConsistency::Local.into(), look).await?.value else {
        return Ok(());
    };
    let command = Command::Compare(command);
    match race(group.propose(&command), backend.sleep(PATIENCE)).await {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(()),
    }
}

struct Owed {
    node: NodeId,
    members: BTreeMap<NodeId, bool>,
    makes_marks: bool,
    now: LogTime,
}

impl Owed {
    fn look(
        self,
        read: &dyn StateRead,
        group: GroupId,
    ) -> Result<Option<CompareCommand>, ProjectionFault> {
        let mark = Mark::load(read, group)?;
        if let Some(mark) = mark.as_ref()
            && mark.waits_for(read, group, self.node)?
            && let Some(raw) = own_sums(read, group, mark.offset)?
        {
            let sums = StateSums::take(&mut Reader::new(raw))?;
            return Ok(Some(CompareCommand::Report { node: self.node, mark: mark.offset, sums }));
        }
        let (position, _) = read_position(read, group)?;
        let work =
            mark.as_ref().map_or(position.offset.get(), |mark| mark.work_since(position.offset));
        let since = mark.map_or(0, |mark| mark.log_time.get());
        let now = self.now.max(position.log_time).get();
        let is_due = MARK_RECORDS <= work || (0 < work && since + MARK_MS <= now);
        // A replica alone has nobody to be compared with.
        let makes = self.makes_marks && is_due && 1 < self.members.len();
        Ok(makes.then_some(CompareCommand::Mark { members: self.members }))
    }
}
