//! Reads of a group: as fresh as asked, and never less than its session has seen.

use std::time::Duration;

use palisade_replication::{GroupId, Offset};
use tokio::sync::oneshot;

use super::Group;
use crate::backend::race;
use crate::comparing::latch::Latch;
use crate::degradation::Gate;
use crate::error::Error;
use crate::freshness::{Freshness, Read};
use crate::machine::read_position;
use crate::projection::{ProjectionFault, fault};
use crate::read::{ReadConsistency, ReadOptions};
use crate::session::Session;
use crate::store::StateRead;

impl Group {
    /// The session has written or seen what this offset says.
    pub(super) fn note(&self, offset: Offset) {
        if let Some(seen) = self.engine.seen() {
            seen.note(self.id, offset);
        }
    }

    /// Reads one moment's state that is as fresh as asked.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        options: ReadOptions,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        self.read_through(&Gate::Try, options, read).await
    }

    /// The same of a resource, as its gate lets it.
    pub(crate) async fn read_through<T: Send + 'static>(
        &self,
        gate: &Gate,
        options: ReadOptions,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        // A halted replica may be damaged: it serves nothing, however stale (G10).
        if let Some(cause) = self.engine.backend().stopped(self.id) {
            return Err(cause);
        }
        let fresh = match gate {
            Gate::Stale => None,
            Gate::TryElseStale => {
                let patience = self.engine.backend().sleep(self.engine.gatekeeper().patience());
                let late = Err(Error::Disconnected { outcome_unknown: false });
                // Few resources have such a gate, and other reads need no room for it.
                match race(Box::pin(self.fresh(options)), patience).await.unwrap_or(late) {
                    Err(error) if gate.stands_in_for(&error) => None,
                    tried => Some(tried?),
                }
            }
            Gate::Try => Some(self.fresh(options).await?),
            Gate::Refuse(error) => return Err(error.clone()),
        };
        // What a session has seen, and what a page goes on from, stale answers do not take back either.
        let floor = self.seen_here().max(options.at_least);
        // What is there already is not to be taken back by a snapshot that replaces it.
        let required = fresh.unwrap_or(floor).max(self.applied()?);
        let mut read = self.read_state(required, read).await?;
        read.stale = fresh.is_none();
        self.note(read.freshness.offset);
        Ok(read)
    }

    /// Resolves once what is asked for is applied here, and says what that is.
    pub(super) async fn fresh(&self, options: ReadOptions) -> Result<Offset, Error> {
        let asked = match options.consistency {
            ReadConsistency::Local => Offset::ZERO,
            ReadConsistency::Linearizable => self.barrier().await?,
            ReadConsistency::AtLeastOffset(required) => required,
            ReadConsistency::AtLeast(freshness) => {
                freshness.check(self.engine.cluster(), self.id)?;
                freshness.offset
            }
        };
        let wait = if self.engine.seen().is_some() { Session::WAIT } else { Duration::ZERO };
        let required = asked.max(self.seen_here()).max(options.at_least);
        self.at_least(required, options.wait.unwrap_or(wait)).await?;
        Ok(required)
    }

    /// Everything up to this offset is applied here, and nothing behind it was acknowledged before.
    pub(crate) async fn barrier(&self) -> Result<Offset, Error> {
        self.engine.within(self.engine.backend().barrier(self.id), false).await
    }

    /// What the session has seen of the group, if there is one.
    fn seen_here(&self) -> Offset {
        self.engine.seen().map_or(Offset::ZERO, |seen| seen.of(self.id))
    }

    /// Reads one moment's state, which says itself how fresh it is (G4): a state that a snapshot is
    /// about to replace stands nowhere.
    pub(super) async fn read_state<T: Send + 'static>(
        &self,
        required: Offset,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        let (leave, mut left) = oneshot::channel();
        let group = self.id;
        let job = move |state: &dyn StateRead| {
            let found = guarded(state, group, || {
                let (position, _) = read_position(state, group)?;
                if position.offset < required {
                    return Ok(Err(position.offset));
                }
                Ok(Ok((read(state, group)?, position)))
            });
            // A caller that gave up is no loss.
            let _ = leave.send(found);
            Ok(())
        };
        self.engine.backend().read(Box::new(job)).await?;
        let found = left.try_recv().map_err(|_| Error::InternalError {
            what: "a read ended without what it read".to_owned(),
        })?;
        let found = match found {
            Ok(found) => found,
            Err(broken) => return Err(self.broken(broken).await),
        };
        let (value, position) =
            found.map_err(|applied| Error::NotYetApplied { required, applied })?;
        let (cluster, group, offset) = (self.engine.cluster(), self.id, position.offset);
        let freshness = Freshness { cluster, group, offset };
        Ok(Read { value, freshness, log_time: position.log_time, stale: false })
    }

    /// What a read is told that met a fault. A fault of the state halts the group before anybody is told: it is
    /// not served any more, also after a restart (G10).
    pub(crate) async fn broken(&self, broken: Broken) -> Error {
        let Broken { fault, stands } = broken;
        if fault.is_of_caller() {
            let what = format!("the read that was given failed, nothing else is wrong: {fault}");
            return Error::InvalidArgument { what };
        }
        if !stands {
            let (required, applied) = (Offset::ZERO.next(), Offset::ZERO);
            return Error::NotYetApplied { required, applied };
        }
        if !fault.is_of_rows() {
            return Error::InternalError { what: format!("a read failed: {fault}") };
        }
        let what = format!("a read met a damaged state: {fault}");
        let latch = match fault.unreadable_state() {
            Some(_) => Latch::Unreadable(what.clone()),
            None => Latch::Wrong(what.clone()),
        };
        if let Err(error) = self.engine.backend().halt(self.id, latch).await {
            return error;
        }
        // It ends with an error once the group has stopped: the next read is not to be served any more.
        let never = Offset::new(u64::MAX);
        let _ = self.wait_applied(never, self.engine.request_timeout()).await;
        Error::InternalError { what }
    }

    /// Waits until this offset is applied here, or for so long.
    pub(crate) async fn wait_applied(&self, offset: Offset, wait: Duration) -> Result<(), Error> {
        let waits = self.engine.backend().wait_applied(self.id, offset);
        race(waits, self.engine.backend().sleep(wait)).await.unwrap_or(Ok(()))
    }

    pub(crate) async fn at_least(&self, required: Offset, wait: Duration) -> Result<(), Error> {
        if required <= self.applied()? {
            return Ok(());
        }
        if !wait.is_zero() {
            let waits = self.engine.backend().wait_applied(self.id, required);
            if let Some(waited) = race(waits, self.engine.backend().sleep(wait)).await {
                return waited;
            }
        }
        Err(Error::NotYetApplied { required, applied: self.applied()? })
    }
}

/// A fault that a read of a group met.
pub(crate) struct Broken {
    fault: ProjectionFault,
    /// The state stood somewhere. One that a snapshot is replacing does not, and is not whole.
    stands: bool,
}

/// Reads a group's state, and says of a fault where that stood.
pub(crate) fn guarded<T>(
    state: &dyn StateRead,
    group: GroupId,
    read: impl FnOnce() -> Result<T, ProjectionFault>,
) -> Result<T, Broken> {
    fault::guarded(read).map_err(|fault| {
        let position = read_position(state, group);
        let stands = position.map_or(true, |(position, _)| position.offset > Offset::ZERO);
        Broken { fault, stands }
    })
}
