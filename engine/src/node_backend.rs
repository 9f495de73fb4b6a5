//! The node of this process behind an engine: threads that replicate, threads that read, tokio's clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use palisade_replication::{
    ChangeRefusal, Committed, Disposition, GroupId, GroupStatus, Incarnation, LogTime,
    MemberChange, Node, NodeError, NodeId, Offset, PeerFault,
};

use crate::backend::{Backend, BoxFuture, ReadJob};
use crate::caretaker;
use crate::engine::WeakEngine;
use crate::error::Error;
use crate::machine::EngineMachine;
use crate::outcome::RecordOutcome;
use crate::readers::Readers;
use crate::store::StateStore;

/// Threads that read the state.
const READER_THREADS: usize = 2;

/// A running node and the readers of its state.
pub(crate) struct NodeBackend {
    node: Node<EngineMachine>,
    readers: Readers,
}

impl NodeBackend {
    /// Adds readers to a node that runs on this store.
    ///
    /// # Errors
    /// When they cannot be started; the node is closed then.
    pub(crate) async fn start(
        node: Node<EngineMachine>,
        store: &Arc<dyn StateStore>,
    ) -> Result<Self, Error> {
        match Readers::start(store, READER_THREADS) {
            Ok(readers) => Ok(Self { node, readers }),
            Err(error) => {
                // The caller hears the first cause; a node that would not close as well is gone
                // with this process.
                let _ = node.close().await;
                Err(error)
            }
        }
    }
}

/// Looks after the engine once a second, as long as somebody else has it.
pub(crate) async fn look_after(engine: WeakEngine) {
    loop {
        tokio::time::sleep(caretaker::ROUND).await;
        let Some(engine) = engine.upgrade() else { return };
        match caretaker::round(&engine).await {
            Err(error) if error.disposition() == Disposition::Halt => return,
            Err(error) => tracing::debug!(%error, "housekeeping will be tried again"),
            Ok(()) => {}
        }
    }
}

impl Backend for NodeBackend {
    fn propose(
        &self,
        group: GroupId,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Committed<RecordOutcome>, Error>> {
        Box::pin(async move { Ok(self.node.propose(group, payload)?.await?) })
    }

    fn barrier(&self, group: GroupId) -> BoxFuture<'_, Result<Offset, Error>> {
        Box::pin(async move { Ok(self.node.read_barrier(group).await?.offset) })
    }

    fn applied(&self, group: GroupId) -> Result<Offset, Error> {
        Ok(self.node.applied(group)?.offset)
    }

    fn wait_applied(&self, group: GroupId, at_least: Offset) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.node.wait_applied(group, at_least).await?;
            Ok(())
        })
    }

    fn read(&self, job: ReadJob) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.readers.read(job))
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(length))
    }

    fn wall_clock(&self) -> LogTime {
        #[expect(clippy::disallowed_methods, reason = "only to know whether a record is due")]
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        LogTime::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn status(&self, group: GroupId) -> BoxFuture<'_, Result<GroupStatus, Error>> {
        Box::pin(async move { Ok(self.node.status(group).await?) })
    }

    fn change(
        &self,
        group: GroupId,
        change: MemberChange,
    ) -> BoxFuture<'_, Result<Result<(), ChangeRefusal>, Error>> {
        Box::pin(async move {
            match self.node.change_members(group, change).await {
                Ok(()) => Ok(Ok(())),
                Err(NodeError::Change(refusal)) => Ok(Err(refusal)),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn transfer(&self, group: GroupId, to: NodeId) -> Result<(), Error> {
        Ok(self.node.transfer_leadership(group, to)?)
    }

    fn stopped(&self, group: GroupId) -> Option<Error> {
        self.node.stopped().or_else(|| self.node.halted(group)).map(Error::from)
    }

    fn incarnation(&self) -> Incarnation {
        self.node.incarnation()
    }

    fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        self.node.peer_faults()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let closed = self.node.close().await;
            self.readers.close().await;
            Ok(closed?)
        })
    }
}
