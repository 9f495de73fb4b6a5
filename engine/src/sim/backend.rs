//! A node of a simulated cluster behind an engine.

use std::collections::BTreeMap;
#[cfg(feature = "backup")]
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "backup")]
use palisade_replication::{ApplyError, Export};
use palisade_replication::{
    ChangeRefusal, Committed, GroupId, GroupStatus, Incarnation, LogTime, MemberChange, NodeError,
    NodeId, NodeLoad, Offset, PeerFault, RecordRun,
};
#[cfg(feature = "backup")]
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::RecordOutcome;
use super::desk::{Answer, Desk, End, Life, Question};
use crate::backend::{Backend, BoxFuture, ReadJob};
use crate::comparing::latch::{self, Latch};
use crate::error::Error;
use crate::machine::{read_position, stopped};
#[cfg(feature = "backup")]
use crate::snapshot::StateExport;
use crate::store::StateStore;
use crate::trace::TraceContext;

/// One life of a simulated node. Answers come while the fabric lets time pass.
pub(super) struct SimBackend {
    pub(super) desk: Desk,
    pub(super) life: Life,
    pub(super) incarnation: Incarnation,
}

impl SimBackend {
    /// Asks, and waits for the answer. `lost` is the answer when the simulation is gone.
    async fn ask<T>(
        &self,
        question: impl FnOnce(Answer<T>) -> Question,
        lost: NodeError,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.desk.lay(self.life, question(answer))?;
        answered.await.unwrap_or_else(|_| Err(lost.into()))
    }
}

impl Backend for SimBackend {
    fn propose(
        &self,
        group: GroupId,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Committed<RecordOutcome>, Error>> {
        let question = move |answer| Question::Propose { group, payload, answer };
        Box::pin(self.ask(question, NodeError::Indeterminate))
    }

    fn barrier(&self, group: GroupId) -> BoxFuture<'_, Result<Offset, Error>> {
        Box::pin(self.ask(move |answer| Question::Barrier { group, answer }, NodeError::Closed))
    }

    fn applied(&self, group: GroupId) -> Result<Offset, Error> {
        if let Some(cause) = self.stopped(group) {
            return Err(cause);
        }
        let store = self.desk.store(self.life)?;
        let (position, _) = read_position(&store, group).map_err(|error| stopped(&error))?;
        Ok(position.offset)
    }

    fn wait_applied(&self, group: GroupId, at_least: Offset) -> BoxFuture<'_, Result<(), Error>> {
        let question = move |answer| Question::Applied { group, at_least, answer };
        Box::pin(self.ask(question, NodeError::Closed))
    }

    /// At once: nothing else happens while a handle is polled.
    fn read(&self, job: ReadJob) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let store = self.desk.store(self.life)?;
            job(&*store.snapshot()).map_err(|error| stopped(&error))
        })
    }

    fn records(
        &self,
        group: GroupId,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Result<Vec<RecordRun>, Offset>, Error>> {
        let question = move |answer| Question::Records { group, from, bytes_max, answer };
        Box::pin(self.ask(question, NodeError::Closed))
    }

    /// All at once, and in memory: it is a small state.
    #[cfg(feature = "backup")]
    fn export(&self, group: GroupId) -> Result<mpsc::Receiver<Result<Bytes, Error>>, Error> {
        let store = self.desk.store(self.life)?;
        let mut chunks = Vec::new();
        let exported = StateExport { store: Arc::new(store), group }.run(&mut |_, chunk| {
            chunks.push(Ok(chunk));
            Ok(())
        });
        let failed = |error: ApplyError| Error::InternalError { what: error.to_string() };
        chunks.extend(exported.map_err(failed).err().map(Err));
        let (send, taken) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            send.try_send(chunk).expect("there is room for all");
        }
        Ok(taken)
    }

    /// The fabric builds, a step at a time.
    fn build(&self) {}

    fn sleep(&self, length: Duration) -> BoxFuture<'_, ()> {
        let us = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        let woken = self.desk.sleep(us);
        // Without a simulation there is no time to wait for.
        Box::pin(async move { woken.await.unwrap_or_default() })
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.desk.now_us())
    }

    fn wall_clock(&self) -> LogTime {
        self.desk.clock(self.life.node)
    }

    fn status(&self, group: GroupId) -> BoxFuture<'_, Result<GroupStatus, Error>> {
        Box::pin(self.ask(move |answer| Question::Status { group, answer }, NodeError::Closed))
    }

    fn change(
        &self,
        group: GroupId,
        change: MemberChange,
    ) -> BoxFuture<'_, Result<Result<(), ChangeRefusal>, Error>> {
        let question = move |answer| Question::Change { group, change, answer };
        Box::pin(self.ask(question, NodeError::Closed))
    }

    fn transfer(&self, group: GroupId, to: NodeId) -> Result<(), Error> {
        self.desk.lay(self.life, Question::Transfer { group, to })
    }

    fn ended(&self) -> bool {
        self.desk.ended(self.life).is_some()
    }

    fn stopped(&self, group: GroupId) -> Option<Error> {
        self.desk.stopped(self.life, group)
    }

    fn halt(&self, group: GroupId, latch: Latch) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let store = self.desk.store(self.life)?;
            latch::set(&store, group, &latch).map_err(|error| stopped(&error))?;
            let what = latch.cause();
            self.desk.lay(self.life, Question::Halt { group, what })
        })
    }

    fn rebuild(&self, group: GroupId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.ask(move |answer| Question::Rebuild { group, answer }, NodeError::Closed))
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// None: peers of a simulated node speak to it without connections.
    fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        PeerFault::ALL.into_iter().map(|fault| (fault, 0)).collect()
    }

    fn draw_trace(&self) -> Option<TraceContext> {
        self.desk.draw_trace()
    }

    /// Nothing: a simulated node has a thread of its own for none of it.
    fn load(&self) -> NodeLoad {
        NodeLoad::default()
    }

    fn state_is_damaged(&self) -> bool {
        false
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            match self.desk.ended(self.life) {
                None => self.ask(|answer| Question::Close { answer }, NodeError::Closed).await,
                Some(End::Closed) => Ok(()),
                Some(cause) => Err(cause.into()),
            }
        })
    }
}
