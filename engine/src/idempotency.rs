//! A replicated idempotency store: each request takes effect once, and its repetitions are told the
//! first result.

use bytes::Bytes;
use palisade_replication::LogTime;

use crate::command::{Completion, Fingerprint};
use crate::engine::Engine;
use crate::error::Error;
use crate::keys;
use crate::projections::idempotency::Request;
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{FenceEpoch, ResourceId, ResourceKind, ResourceSpec};
use crate::store::{FamilyId, StoreError};

/// A handle to an idempotency store, opened by one writer generation.
#[derive(Clone)]
pub struct ReplicatedIdempotencyStore {
    engine: Engine,
    pub(crate) resource: ResourceId,
    pub(crate) epoch: FenceEpoch,
}

/// How a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// An owner has reserved it and not completed it.
    InProgress {
        /// The owner's epoch; a higher one may take over.
        owner: FenceEpoch,
        /// When it was reserved.
        since: LogTime,
    },
    /// It is done.
    Completed(Completion),
}

impl ReplicatedIdempotencyStore {
    /// Opens the store for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// As [`crate::ReplicatedLog::open`].
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        let epoch = spec.epoch;
        let resource = engine.open_resource(ResourceKind::Idempotency, spec).await?;
        Ok(Self { engine: engine.clone(), resource, epoch })
    }

    /// Reserves a request for an owner. A receipt with `duplicate` says that it was completed
    /// before; one without that the owner is to do the work and complete it.
    ///
    /// # Errors
    /// [`Error::IdempotencyConflict`] if the id was used for another request,
    /// [`Error::PreconditionFailed`] if an owner of a higher epoch has it.
    pub async fn reserve(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
    ) -> Result<Receipt, Error> {
        self.engine.batch().reserve(self, key, fingerprint, owner).commit().await
    }

    /// Completes a request that this owner has reserved.
    ///
    /// # Errors
    /// [`Error::Fenced`] if an owner of a higher epoch has taken over.
    pub async fn complete(
        &self,
        key: &str,
        owner: FenceEpoch,
        result: Bytes,
    ) -> Result<Receipt, Error> {
        self.engine.batch().complete(self, key, owner, result).commit().await
    }

    /// How a request stands, or `None` if it is not known.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say.
    pub async fn status(
        &self,
        key: &str,
        options: impl Into<ReadOptions>,
    ) -> Result<Option<RequestStatus>, Error> {
        let (resource, key) = (self.resource, key.to_owned());
        let request = self
            .engine
            .read(options.into(), move |read, group| {
                let row = keys::request(group, resource, key.as_bytes());
                let found = read.get(FamilyId::IDEMPOTENCY, &row)?;
                found
                    .map(Request::decode)
                    .transpose()
                    .map_err(|error| StoreError { what: error.to_string() })
            })
            .await?;
        Ok(request.map(|request| match request.completion {
            Some(completion) => RequestStatus::Completed(completion),
            None => RequestStatus::InProgress { owner: request.owner, since: request.since },
        }))
    }
}
