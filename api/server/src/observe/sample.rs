//! A look at the groups of a node, as its engine tells of them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use palisade::{Compared, Engine, Error, Group, GroupId, GroupStatus, NodeLoad, Offset, PeerFault};
use tokio::time::timeout;

use super::readiness::GroupSeen;

/// How long a group may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// The groups of a node, in the order of their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) groups: Vec<GroupSample>,
    pub(crate) peer_faults: BTreeMap<PeerFault, u64>,
    pub(crate) load: NodeLoad,
    /// A part of the stored state could not be read.
    pub(crate) is_damaged: bool,
}

/// A group, as this node has it.
#[derive(Clone, Debug)]
pub(crate) struct GroupSample {
    pub(crate) id: GroupId,
    pub(crate) status: Result<GroupStatus, Error>,
    pub(crate) applied: Result<Offset, Error>,
    pub(crate) compared: Compared,
}

impl Sample {
    pub(super) async fn take(engine: &Engine) -> Self {
        let groups = join_all(engine.groups().into_iter().map(GroupSample::take)).await;
        let (peer_faults, load) = (engine.peer_faults(), engine.load());
        Self { groups, peer_faults, load, is_damaged: engine.state_is_damaged() }
    }

    /// Records that are applied here, over all groups.
    pub(crate) fn applied(&self) -> u64 {
        self.groups.iter().filter_map(|group| group.applied.as_ref().ok()).map(|at| at.get()).sum()
    }

    /// Records that are committed and not applied here yet, over all groups.
    pub(crate) fn records_behind(&self) -> u64 {
        self.groups.iter().map(GroupSample::records_behind).sum()
    }

    /// How long the slowest write to the log has been taking, or took.
    pub(crate) fn sync_ms(&self) -> u64 {
        let statuses = self.groups.iter().filter_map(|group| group.status.as_ref().ok());
        statuses.map(|status| status.sync_ms).max().unwrap_or(0)
    }
}

impl GroupSample {
    async fn take(group: Group) -> Self {
        let too_busy = || Err(Error::RateLimited { retry_after_ms: PATIENCE.as_millis() as u64 });
        // What is applied is asked first, so that it is never ahead of what is committed.
        let applied = group.applied();
        let status = timeout(PATIENCE, group.status()).await.unwrap_or_else(|_| too_busy());
        Self { id: group.id(), status, applied, compared: group.compared() }
    }

    pub(crate) fn records_behind(&self) -> u64 {
        match (&self.status, &self.applied) {
            (Ok(status), Ok(applied)) => status.offset.get().saturating_sub(applied.get()),
            _ => 0,
        }
    }

    /// Why it has stopped here, if it has.
    pub(crate) fn halted(&self) -> Option<String> {
        match &self.applied {
            Err(Error::InternalError { what }) => Some(what.clone()),
            _ => None,
        }
    }

    /// What counts for its readiness, beside a write that tries it.
    pub(super) fn seen(&self, writes: Option<&Result<(), Error>>) -> GroupSeen {
        GroupSeen {
            group: self.id,
            role: self.status.as_ref().ok().map(|status| status.role),
            halted: self.halted(),
            records_behind: self.records_behind(),
            writes: writes.cloned(),
        }
    }
}

/// How many divergences are kept of each group that can say.
pub(super) async fn divergences(engine: &Engine) -> BTreeMap<GroupId, usize> {
    let of = |group: Group| async move {
        let found = timeout(PATIENCE, group.divergences()).await.ok()?.ok()?;
        Some((group.id(), found.len()))
    };
    join_all(engine.groups().into_iter().map(of)).await.into_iter().flatten().collect()
}
