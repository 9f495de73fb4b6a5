//! One group of an engine: its log, and the state that is computed from it.

mod reading;
mod whole;

use std::fmt;

use palisade_replication::{GroupId, GroupStatus, NodeId, Offset};
use tokio::sync::oneshot;

use crate::chain::ChainHead;
use crate::command::Command;
use crate::comparing::latch::Latch;
use crate::comparing::{Compared, Divergence, divergences};
use crate::digest::{StateDigest, digest};
use crate::engine::Engine;
use crate::error::Error;
use crate::machine::read_position;
use crate::outcome::Outcome;
use crate::read::ReadConsistency;
use crate::receipt::Receipt;
use crate::store::StateRead;
use crate::trace::TraceContext;

/// A group of an engine: a log with an order of its own, and the state computed from it. A resource lies in
/// one group, and [`crate::Handle::group`] says in which. Cheap to clone.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// # stock.put(&"apples".to_owned(), &7).await?;
/// let applied = stock.group().applied()?;
/// let now = ReadConsistency::AtLeastOffset(applied);
/// assert!(stock.get(&"apples".to_owned(), now).await?.value.is_some());
/// for group in engine.groups() {
///     println!("{group}: {:?}", group.status().await?.role);
/// }
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Group {
    pub(crate) engine: Engine,
    id: GroupId,
}

/// Its number.
impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.id)
    }
}

impl Group {
    /// The same group as a part of a trace.
    pub(crate) fn traced(&self, trace: TraceContext) -> Self {
        Self { engine: self.engine.traced(trace), id: self.id }
    }

    /// A group that the engine hosts.
    pub(crate) fn of(engine: &Engine, id: GroupId) -> Self {
        Self { engine: engine.clone(), id }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The last record applied here.
    ///
    /// # Errors
    /// [`Error::InternalError`] if the group or the engine has stopped.
    pub fn applied(&self) -> Result<Offset, Error> {
        self.engine.backend().applied(self.id)
    }

    /// How this node sees the group.
    ///
    /// # Errors
    /// [`Error::RateLimited`] if it is too busy to say, [`Error::InternalError`] if it has stopped.
    pub async fn status(&self) -> Result<GroupStatus, Error> {
        self.engine.backend().status(self.id).await
    }

    /// Asks for the leadership to be handed to a voter. This node must lead, or be the one that is to;
    /// otherwise nothing happens. [`Group::status`] says whether it was.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # let leader = fabric.leader().unwrap();
    /// # let to = fabric.node(1 + leader.get() % 3);
    /// # let group = fabric.engine(leader).group(GroupId::new(1)).unwrap();
    /// group.transfer_leadership(to)?;
    /// # fabric.run_for(std::time::Duration::from_secs(2));
    /// // A moment later:
    /// let status = fabric.block_on(group.status())?;
    /// assert_eq!(status.leader, Some(to));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::RateLimited`] if the node is too busy, [`Error::InternalError`] if it has stopped.
    pub fn transfer_leadership(&self, to: NodeId) -> Result<(), Error> {
        self.engine.backend().transfer(self.id, to)
    }

    /// The last record applied here, and the head of the chain of records up to it.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(3);
    /// # let groups = [1, 2].map(|n| fabric.engine(fabric.node(n)).group(GroupId::new(1)).unwrap());
    /// # fabric.block_on(async {
    /// let (here, there) = (groups[0].chain_head().await?, groups[1].chain_head().await?);
    /// // At equal offsets the heads are equal, or the logs are not the same.
    /// assert!(here.0 != there.0 || here.1 == there.1);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As for any read.
    pub async fn chain_head(&self) -> Result<(Offset, ChainHead), Error> {
        let applied = self.applied()?;
        let read = self.read_state(applied, |read, group| Ok(read_position(read, group)?)).await?;
        let (position, head) = read.value;
        Ok((position.offset, head))
    }

    /// Digests of the whole state at one offset, read from front to back.
    ///
    /// # Errors
    /// As for any read.
    pub async fn digest(&self) -> Result<StateDigest, Error> {
        Ok(self.read_state(self.applied()?, |read, group| Ok(digest(read, group)?)).await?.value)
    }

    /// Replicas whose states were found to differ from what a majority agreed on, the newest first, at most 64
    /// of them: each named with the first range of rows that differs. Any replica tells that has applied the
    /// record that showed it, but not the one it is about: that has halted, and its calls say why.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # use std::time::Duration;
    /// # let mut fabric = SimFabric::new(3);
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let wrong = fabric.node(1 + engine.node().get() % 3);
    /// # let spec = ResourceSpec::new("stock", "count.v1").unwrap();
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec)).unwrap();
    /// # fabric.block_on(stock.put(&"apples".to_owned(), &7)).unwrap();
    /// # fabric.run_for(Duration::from_secs(2));
    /// # fabric.flip_bit(wrong, "map", 0, true);
    /// # for n in 0..40 {
    /// #     fabric.block_on(stock.put(&"pears".to_owned(), &n)).unwrap();
    /// #     fabric.run_for(Duration::from_secs(1));
    /// # }
    /// # let group = stock.group();
    /// # fabric.block_on(async {
    /// for found in group.divergences().await? {
    ///     let Divergence { node, projection, from, has_majority, .. } = found;
    ///     println!("node={node} differs in projection={projection}, from key={from:?} on");
    ///     assert!(has_majority, "or nobody knows whose state is right");
    /// #   assert_eq!(node, wrong);
    /// }
    /// let Compared { digests, differing, .. } = group.compared();
    /// assert!(differing <= digests);
    /// # assert_eq!(differing, 1);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As any read of this replica alone.
    pub async fn divergences(&self) -> Result<Vec<Divergence>, Error> {
        let found =
            self.read(ReadConsistency::Local.into(), |read, group| divergences(read, group));
        Ok(found.await?.value)
    }

    /// What was compared since this engine was opened, by the records that were applied here.
    #[must_use]
    pub fn compared(&self) -> Compared {
        self.engine.comparisons().of(self.id)
    }

    /// Makes this replica's state anew from a snapshot of the leader, after it has halted because its state is
    /// wrong: its state and its log are given up for it. Resolves once the replica is as far as it was, and serves
    /// again. A crash on the way leaves a replica that has halted: call it again. The node votes only once it
    /// holds again all that it had confirmed.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # use std::time::Duration;
    /// # let mut fabric = SimFabric::new(3);
    /// # let engine = fabric.engine(fabric.leader().unwrap());
    /// # let wrong = fabric.node(1 + engine.node().get() % 3);
    /// # let spec = ResourceSpec::new("stock", "count.v1").unwrap();
    /// # let stock = fabric.block_on(ReplicatedMap::<String, u64>::open(&engine, spec)).unwrap();
    /// # fabric.block_on(stock.put(&"apples".to_owned(), &7)).unwrap();
    /// # fabric.run_for(Duration::from_secs(65));
    /// # fabric.flip_bit(wrong, "map", 0, false);
    /// # fabric.run_for(Duration::from_secs(65));
    /// # let group = fabric.engine(wrong).group(stock.group().id()).unwrap();
    /// # fabric.block_on(async {
    /// // A bit of a row has flipped, and the replica has halted.
    /// let halted = group.applied().unwrap_err();
    /// assert_eq!(halted.disposition(), Disposition::Halt);
    /// group.rebuild_replica().await?;
    /// group.applied()?;
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] with the reason where it cannot be done: the replica has not halted, or is the
    /// only voter, which is restored from a backup; or a file of the state cannot be read, and the node is to be
    /// replaced by one with an empty directory. The cause, if it halts once more.
    pub async fn rebuild_replica(&self) -> Result<(), Error> {
        let (leave, mut left) = oneshot::channel();
        let group = self.id;
        let job = move |state: &dyn StateRead| {
            // A caller that gave up is no loss.
            let _ = leave.send(Latch::load(state, group)?);
            Ok(())
        };
        self.engine.backend().read(Box::new(job)).await?;
        // New rows would lie over the file, and RocksDB would stumble over it when it puts files together.
        if let Ok(Some(Latch::Unreadable(what))) = left.try_recv() {
            let what = format!("{what}: replace the node by one with an empty directory");
            return Err(Error::PreconditionFailed { what });
        }
        self.engine.backend().rebuild(self.id).await
    }

    /// Why nothing more is served of it, if so.
    pub(crate) fn stopped(&self) -> Option<Error> {
        self.engine.backend().stopped(self.id)
    }

    /// Commits a record, and says where and with which outcome.
    pub(crate) async fn propose(&self, command: &Command) -> Result<(Receipt, Outcome), Error> {
        let payload = command.encode_traced(self.engine.stored_trace().as_ref());
        debug_assert_eq!(Command::decode(payload.clone()).as_ref(), Ok(command));
        let work = self.engine.backend().propose(self.id, payload);
        let committed = self.engine.within(work, true).await?;
        self.note(committed.offset);
        let receipt = Receipt {
            cluster: self.engine.cluster(),
            group: self.id,
            offset: committed.offset,
            log_time: committed.log_time,
            duplicate: false,
        };
        Ok((receipt, committed.outcome.0))
    }
}
