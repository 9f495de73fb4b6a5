//! Idempotency stores.

use std::sync::Arc;

use bytes::Bytes;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1::{Kind as ResourceKind, Spec};
use palisade_proto::idempotency::v1 as proto;
use palisade_proto::idempotency::v1::idempotency_client::IdempotencyClient;

use crate::client::Call;
use crate::error::Error;
use crate::resource::{Consistency, Named};
use crate::retry::Kind;

/// An idempotency store: each request takes effect once.
#[derive(Clone)]
pub struct Requests {
    named: Arc<Named>,
}

/// How a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// It is not known.
    Unknown,
    /// An owner has reserved it and not completed it.
    InProgress {
        /// The owner's epoch; a higher one may take over.
        owner_epoch: u64,
        /// How long ago it was reserved, by log time.
        age_ms: u64,
    },
    /// It is done.
    Completed {
        /// The record that completed it.
        offset: u64,
        /// What that said.
        result: Bytes,
    },
}

impl Requests {
    pub(crate) fn new(named: Named) -> Self {
        Self { named: Arc::new(named) }
    }

    pub(crate) fn named(&self) -> &Named {
        &self.named
    }

    /// Opens it for writing, and makes it if it is not there.
    ///
    /// # Errors
    /// What the node says, as `FENCED` or `INCOMPATIBLE`.
    pub async fn open(&self) -> Result<(), Error> {
        self.open_as(Spec::default()).await
    }

    /// The same, with what else is to be said of it: see [`crate::Log::open_as`].
    ///
    /// # Errors
    /// As [`Requests::open`].
    pub async fn open_as(&self, spec: Spec) -> Result<(), Error> {
        self.named.open(Spec { kind: ResourceKind::Idempotency.into(), ..spec }).await.map(|_| ())
    }

    /// Writes as the writer of this epoch, which somebody has opened it with; of 1 if nothing is said.
    #[must_use]
    pub fn writing_as(self, epoch: u64) -> Self {
        self.named.write_as(epoch);
        self
    }

    /// Reserves a request for an owner. A receipt with `duplicate` says that it was completed before; one
    /// without, that the owner is to do the work and complete it. `fingerprint` is the SHA-256 of a canonical
    /// encoding of the request.
    ///
    /// # Errors
    /// `IDEMPOTENCY_CONFLICT` if the key was used for another request, `PRECONDITION_FAILED` of kind
    /// `IN_PROGRESS` if an owner of a higher epoch has it.
    pub async fn reserve(
        &self,
        key: &str,
        fingerprint: [u8; 32],
        owner_epoch: u64,
    ) -> Result<common::Receipt, Error> {
        let asked = proto::ReserveRequest {
            store: Some(self.named.resource()),
            key: key.to_owned(),
            fingerprint: Bytes::copy_from_slice(&fingerprint),
            owner_epoch,
            issued_ms: None,
        };
        let call = Call::write(self.named.group().await?, Kind::Once, key.len());
        let done = self.named.client.call(call, asked, |channel, request| async {
            IdempotencyClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .reserve(request)
                .await
        });
        self.named.noted(done.await?.receipt)
    }

    /// Completes a request that this owner has reserved.
    ///
    /// # Errors
    /// `FENCED` if an owner of a higher epoch has taken over.
    pub async fn complete(
        &self,
        key: &str,
        owner_epoch: u64,
        result: Bytes,
    ) -> Result<common::Receipt, Error> {
        let bytes = key.len() + result.len();
        let asked = proto::CompleteRequest {
            store: Some(self.named.resource()),
            key: key.to_owned(),
            owner_epoch,
            result,
        };
        let call = Call::write(self.named.group().await?, Kind::Once, bytes);
        let done = self.named.client.call(call, asked, |channel, request| async {
            IdempotencyClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .complete(request)
                .await
        });
        self.named.noted(done.await?.receipt)
    }

    /// Says how long completed requests are known, and how many.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn set_window(
        &self,
        retention_ms: u64,
        requests_max: u64,
    ) -> Result<common::Receipt, Error> {
        let store = Some(self.named.resource());
        let asked = proto::SetWindowRequest { store, retention_ms, requests_max };
        let call = Call::write(self.named.group().await?, Kind::Write, 0);
        let done = self.named.client.call(call, asked, |channel, request| async {
            IdempotencyClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .set_window(request)
                .await
        });
        self.named.noted(done.await?.receipt)
    }

    /// How a request stands.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn status(&self, key: &str, consistency: Consistency) -> Result<RequestState, Error> {
        use proto::get_status_response::Status;
        let asked = proto::GetStatusRequest {
            store: Some(self.named.resource()),
            key: key.to_owned(),
            options: Some(consistency.options()),
        };
        let read = self.named.client.call(Call::read(), asked, |channel, request| async {
            IdempotencyClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .get_status(request)
                .await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named.client.seen().note_reflected(it));
        match read.status {
            Some(Status::Unknown(_)) => Ok(RequestState::Unknown),
            Some(Status::InProgress(proto::InProgress { owner_epoch, age_ms, .. })) => {
                Ok(RequestState::InProgress { owner_epoch, age_ms })
            }
            Some(Status::Completed(proto::Completed { offset, result, .. })) => {
                Ok(RequestState::Completed { offset, result })
            }
            None => Err(Error::unexpected("a request stands in no way that is known here")),
        }
    }
}
