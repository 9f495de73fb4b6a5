//! The engine itself, and what is of no single resource: directory, sessions, batches.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{GroupId, GroupStatus, MemberChange, Offset};

use super::{Blocking, Directory, Engine, Group, Running, Session, TracedRecords, waiting};
use crate::alteration::{Alteration, Altered, Revision};
use crate::audit::InclusionProof;
use crate::batch::{Batch, BatchDone};
use crate::builder::EngineBuilder;
use crate::chain::ChainHead;
use crate::clients::{ClientId, Registrant};
use crate::comparing::Divergence;
use crate::degradation::{ClusterMap, DrillReport, FailureDrill, ResourceCondition};
use crate::digest::StateDigest;
use crate::directory::{Described, Listed};
use crate::error::Error;
use crate::freshness::Read;
use crate::members::MembersChanged;
use crate::projection::rebuild::RebuildStatus;
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{LogicalResourceName, ResourceKind, ResourceSpec};
use crate::trace::TraceContext;

impl EngineBuilder {
    /// Opens the engine on a runtime of its own, for services that have none: see [`crate::blocking`].
    ///
    /// # Errors
    /// As [`EngineBuilder::open`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn open_blocking(self) -> Result<Engine, Error> {
        let (of, running) = Running::open(self)?;
        Ok(Blocking { of, running })
    }
}

impl Blocking<crate::Engine> {
    waiting! { "Engine":
        fn change_members(change: MemberChange) -> BTreeMap<GroupId, MembersChanged>;
        fn cluster_map() -> ClusterMap;
        fn drill(drill: &FailureDrill) -> DrillReport;
        fn close() -> ();
    }

    /// Waits for [`Engine::conditions`](crate::Engine::conditions).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] within a tokio runtime.
    pub fn conditions(&self) -> Result<Vec<ResourceCondition>, Error> {
        self.wait(async { Ok(self.of.conditions().await) })
    }

    /// A group that it hosts: see [`crate::Engine::group`].
    ///
    /// # Errors
    /// The same.
    pub fn group(&self, group: GroupId) -> Result<Group, Error> {
        Ok(self.beside(self.of.group(group)?))
    }

    /// The groups that it hosts.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.of.groups().into_iter().map(|group| self.beside(group)).collect()
    }

    /// Commits a batch that was begun with [`crate::Engine::batch`], and waits for that.
    ///
    /// # Errors
    /// As [`Batch::commit`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn commit(&self, batch: Batch) -> Result<BatchDone, Error> {
        self.wait(batch.commit())
    }

    /// The resources that there are, and how they are changed.
    pub fn directory(&self) -> Directory {
        self.beside(self.of.directory())
    }

    /// The same engine as a part of a trace: see [`crate::Engine::traced`].
    pub fn traced(&self, trace: TraceContext) -> Self {
        self.beside(self.of.traced(trace))
    }

    /// Records with a trace context as they are applied here: see [`crate::Engine::traced_records`].
    pub fn traced_records(&self) -> TracedRecords {
        TracedRecords::new(self.of.traced_records(), &self.running)
    }

    /// Begins a session: see [`crate::Engine::session`].
    pub fn session(&self) -> Session {
        self.beside(self.of.session())
    }

    /// Begins a session whose commands are numbered: see [`crate::Engine::client_session`].
    ///
    /// # Errors
    /// The same, and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn client_session(&self, ttl: Duration) -> Result<Session, Error> {
        let session = self.wait(self.of.client_session(ttl))?;
        Ok(self.beside(session))
    }

    /// Goes on with a session: see [`crate::Engine::resume`].
    ///
    /// # Errors
    /// The same.
    pub fn resume(&self, token: &Bytes) -> Result<Session, Error> {
        Ok(self.beside(self.of.resume(token)?))
    }
}

impl Blocking<crate::Group> {
    waiting! { "Group":
        fn status() -> GroupStatus;
        fn chain_head() -> (Offset, ChainHead);
        fn digest() -> StateDigest;
        fn divergences() -> Vec<Divergence>;
        fn rebuild_replica() -> ();
        fn head(offset: Offset) -> ChainHead;
        fn prove(offset: Offset) -> InclusionProof;
        fn register_client(ttl: Duration) -> ClientId;
        fn register_client_as(registrant: Registrant, ttl: Duration) -> ClientId;
        fn rebuilds() -> Read<Vec<RebuildStatus>>;
        fn rebuild_again(kind: &ResourceKind) -> ();
    }
}

impl Blocking<crate::Session> {
    /// The engine, for handles that carry the session.
    pub fn engine(&self) -> Engine {
        self.beside(self.of.engine().clone())
    }
}

impl Blocking<crate::Directory> {
    waiting! { "Directory":
        fn create(kind: &ResourceKind, spec: ResourceSpec) -> Described;
        fn describe(name: &LogicalResourceName, options: impl Into<ReadOptions>) -> Read<Described>;
        fn list(
            prefix: &str,
            after: Option<&LogicalResourceName>,
            limit: usize,
            options: impl Into<ReadOptions>
        ) -> Listed;
        fn alterations(
            name: &LogicalResourceName,
            options: impl Into<ReadOptions>
        ) -> Read<Vec<Altered>>;
        fn alter(
            name: &LogicalResourceName,
            expected: Revision,
            alteration: Alteration,
            reason: &str
        ) -> Receipt;
        fn delete(
            name: &LogicalResourceName,
            expected: Revision,
            retain_ms: u64,
            reason: &str
        ) -> Receipt;
        fn undelete(name: &LogicalResourceName, expected: Revision, reason: &str) -> Receipt;
    }
}
