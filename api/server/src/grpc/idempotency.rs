//! `palisade.idempotency.v1.Idempotency`.

use palisade::{Error, LogTime, RequestStatus, RequestWindow};
use palisade_proto::idempotency::v1 as proto;
use palisade_proto::idempotency::v1::idempotency_server::Idempotency as Service;
use tonic::{Request, Response, Status};

use super::convert::{self, epoch, fingerprint};
use super::endpoint::{Call, Endpoint};
use super::handles::{Store, Use};
use crate::security::grants::Right;

impl Endpoint {
    async fn reserve(
        &self,
        call: &Call,
        asked: &proto::ReserveRequest,
    ) -> Result<proto::ReserveResponse, Error> {
        let store: Store = self.handles.open(asked.store.as_ref(), "store", Use::Write).await?;
        let fingerprint = fingerprint(&asked.fingerprint)?;
        let (key, owner) = (&asked.key, epoch(asked.owner_epoch));
        let receipt = match asked.issued_ms {
            None => call.write(store.reserve(key, fingerprint, owner)).await?,
            Some(issued) => {
                let issued = LogTime::new(issued);
                call.write(store.reserve_issued(key, fingerprint, owner, issued)).await?
            }
        };
        Ok(proto::ReserveResponse { receipt: Some(convert::receipt(receipt)) })
    }

    async fn complete(
        &self,
        call: &Call,
        asked: &proto::CompleteRequest,
    ) -> Result<proto::CompleteResponse, Error> {
        let store: Store = self.handles.open(asked.store.as_ref(), "store", Use::Write).await?;
        let (owner, result) = (epoch(asked.owner_epoch), asked.result.clone());
        let receipt = call.write(store.complete(&asked.key, owner, result)).await?;
        Ok(proto::CompleteResponse { receipt: Some(convert::receipt(receipt)) })
    }

    async fn request_status(
        &self,
        call: &Call,
        asked: &proto::GetStatusRequest,
    ) -> Result<proto::GetStatusResponse, Error> {
        use proto::get_status_response::Status;
        let store: Store = self.handles.open(asked.store.as_ref(), "store", Use::Read).await?;
        let options = call.options(asked.options.clone(), store.group())?;
        let read = call.read(store.status(&asked.key, options)).await?;
        let reflected = Some(convert::reflected(&read));
        let status = match read.value {
            RequestStatus::Unknown { floor } => {
                Status::Unknown(proto::Unknown { floor_ms: floor.get() })
            }
            RequestStatus::InProgress { owner, since, age_ms } => {
                let (owner_epoch, since_ms) = (owner.get(), since.get());
                Status::InProgress(proto::InProgress { owner_epoch, since_ms, age_ms })
            }
            RequestStatus::Completed(done) => Status::Completed(proto::Completed {
                offset: done.offset.get(),
                log_time_ms: done.log_time.get(),
                result: done.result,
            }),
        };
        Ok(proto::GetStatusResponse { status: Some(status), reflected })
    }
}

#[tonic::async_trait]
impl Service for Endpoint {
    async fn reserve(
        &self,
        request: Request<proto::ReserveRequest>,
    ) -> Result<Response<proto::ReserveResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Append, asked.store.as_slice(), false, || {
            self.reserve(&call, &asked)
        })
        .await
    }

    async fn complete(
        &self,
        request: Request<proto::CompleteRequest>,
    ) -> Result<Response<proto::CompleteResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Append, asked.store.as_slice(), false, || {
            self.complete(&call, &asked)
        })
        .await
    }

    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.store.as_slice(), false, || {
            self.request_status(&call, &asked)
        })
        .await
    }

    async fn set_window(
        &self,
        request: Request<proto::SetWindowRequest>,
    ) -> Result<Response<proto::SetWindowResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        let proto::SetWindowRequest { retention_ms, requests_max, .. } = asked;
        let window = RequestWindow { retention_ms, requests_max };
        self.serve(&call, Right::Admin, asked.store.as_slice(), false, || async {
            let store: Store = self.handles.open(asked.store.as_ref(), "store", Use::Write).await?;
            let receipt = Some(convert::receipt(call.write(store.keep(window)).await?));
            Ok(proto::SetWindowResponse { receipt })
        })
        .await
    }
}
