//! The node of this process behind an engine: threads that replicate, threads that read, tokio's clock.

mod carrier;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
#[cfg(feature = "backup")]
use palisade_replication::{ApplyError, Export};
use palisade_replication::{
    ChangeRefusal, Committed, GroupId, GroupStatus, Incarnation, LogTime, MemberChange, Node,
    NodeError, NodeId, NodeLoad, Offset, PeerFault, RecordRun,
};
#[cfg(feature = "backup")]
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use self::carrier::{Carrier, apart};
use crate::backend::{Backend, BoxFuture, ReadJob};
use crate::caretaker;
use crate::comparing::latch::{self, Latch};
use crate::engine::WeakEngine;
use crate::error::Error;
use crate::machine::{EngineMachine, stopped};
use crate::outcome::RecordOutcome;
use crate::projection::rebuild::{Driver, JobDesk};
use crate::readers::Readers;
#[cfg(feature = "backup")]
use crate::snapshot::StateExport;
use crate::store::StateStore;

/// Chunks of a state that were read and are not taken yet.
#[cfg(feature = "backup")]
const EXPORT_CHUNKS_MAX: usize = 2;

/// A running node and the readers of its state.
pub(crate) struct NodeBackend {
    node: Node<EngineMachine>,
    readers: Readers,
    carrier: Carrier,
    opened: Instant,
    builder: Driver,
    /// The node and the readers keep it open, and nothing else but what is under way.
    store: Weak<dyn StateStore>,
}

impl NodeBackend {
    /// Adds readers to a node that runs on this store.
    ///
    /// # Errors
    /// When they cannot be started; the node is closed then.
    pub(crate) async fn start(
        node: Node<EngineMachine>,
        store: &Arc<dyn StateStore>,
        reader_threads: usize,
        carrier: Carrier,
        jobs: JobDesk,
    ) -> Result<Self, Error> {
        let builder = Driver::new(jobs, store);
        match Readers::start(store, reader_threads) {
            Ok(readers) => Ok(Self {
                node,
                readers,
                carrier,
                opened: Instant::now(),
                builder,
                store: Arc::downgrade(store),
            }),
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
        if engine.backend().ended() {
            return;
        }
        caretaker::look_after(&engine).await;
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
        let stopped = self.stopped(group);
        stopped.map_or_else(|| Ok(self.node.applied(group)?.offset), Err)
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

    fn records(
        &self,
        group: GroupId,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Result<Vec<RecordRun>, Offset>, Error>> {
        self.carrier.carry(async move {
            match self.node.records(group, from, bytes_max).await {
                Ok(runs) => Ok(Ok(runs)),
                Err(NodeError::RecordsTrimmed { first }) => Ok(Err(first)),
                Err(error) => Err(error.into()),
            }
        })
    }

    #[cfg(feature = "backup")]
    fn export(&self, group: GroupId) -> Result<mpsc::Receiver<Result<Bytes, Error>>, Error> {
        let store = self.store.upgrade().ok_or(NodeError::Closed)?;
        let (chunks, taken) = mpsc::channel(EXPORT_CHUNKS_MAX);
        let mut export = StateExport { store, group };
        self.carrier.spawn_blocking(move || {
            let exported = export.run(&mut |_, chunk| {
                let gone = |_| ApplyError::of_node("nobody takes the state any more");
                chunks.blocking_send(Ok(chunk)).map_err(gone)
            });
            if let Err(error) = exported {
                // Whoever gave up is told nothing.
                let what = error.to_string();
                let _ = chunks.blocking_send(Err(Error::InternalError { what }));
            }
        });
        Ok(taken)
    }

    fn build(&self) {
        self.builder.build();
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'_, ()> {
        self.carrier.sleep(length)
    }

    fn now(&self) -> Duration {
        self.opened.elapsed()
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

    fn ended(&self) -> bool {
        self.node.stopped().is_some()
    }

    fn stopped(&self, group: GroupId) -> Option<Error> {
        self.node.stopped().or_else(|| self.node.halted(group)).map(Error::from)
    }

    fn halt(&self, group: GroupId, latch: Latch) -> BoxFuture<'_, Result<(), Error>> {
        self.carrier.carry(async move {
            let store = self.store.upgrade().ok_or(NodeError::Closed)?;
            let what = latch.cause();
            // Before it stops: after it, nobody would know.
            let set = tokio::task::spawn_blocking(move || latch::set(&*store, group, &latch));
            let set =
                set.await.map_err(|panic| Error::InternalError { what: panic.to_string() })?;
            set.map_err(|error| stopped(&error))?;
            Ok(self.node.halt(group, what)?)
        })
    }

    fn rebuild(&self, group: GroupId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { Ok(self.node.rebuild(group).await?) })
    }

    fn incarnation(&self) -> Incarnation {
        self.node.incarnation()
    }

    fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        self.node.peer_faults()
    }

    fn load(&self) -> NodeLoad {
        let mut load = self.node.load();
        load.queues.push(self.readers.load());
        load
    }

    fn state_is_damaged(&self) -> bool {
        self.store.upgrade().is_some_and(|store| store.is_damaged())
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.carrier.carry(async move {
            let closed = self.node.close().await;
            if let Some(thread) = self.builder.end() {
                // A fault of a projection does not unwind into its thread: there is nothing to learn.
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
            self.readers.close().await;
            Ok(closed?)
        })
    }
}
