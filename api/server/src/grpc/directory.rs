//! `palisade.directory.v1.Directory`.

use palisade::{
    Altered, Error, LogicalResourceName, ReadConsistency, ReplicatedIdempotencyStore,
    ReplicatedLog, ReplicatedMap, ResourceKind, ResourceSpec, Revision,
};
use palisade_proto::directory::v1 as proto;
use palisade_proto::directory::v1::directory_server::Directory as Service;
use tonic::{Request, Response, Status};

use super::convert::{self, Raw, needed, of_domain};
use super::endpoint::{Call, Endpoint, refused};
use super::spec::{alteration, described, of_alteration, spec};

/// Resources of one answer.
const LIST_MAX: usize = 256;

impl Endpoint {
    fn spec(&self, asked: Option<&proto::Spec>) -> Result<(ResourceKind, ResourceSpec), Error> {
        spec(needed(asked, "spec")?, self.engine.domain())
    }

    async fn open_resource(
        &self,
        call: &Call,
        asked: &proto::OpenRequest,
    ) -> Result<proto::Described, Error> {
        let (kind, spec) = self.spec(asked.spec.as_ref())?;
        let name = spec.name.clone();
        let engine = &self.engine;
        call.write(async {
            if kind == ResourceKind::LOG {
                ReplicatedLog::<Raw>::open(engine, spec).await?;
            } else if kind == ResourceKind::MAP {
                ReplicatedMap::<bytes::Bytes, Raw>::open(engine, spec).await?;
            } else {
                ReplicatedIdempotencyStore::open(engine, spec).await?;
            }
            // It was applied here: what is asked now is what it has become.
            let found = engine.directory().describe(&name, ReadConsistency::Local).await?;
            Ok(described(&found.value))
        })
        .await
    }

    async fn alter(
        &self,
        call: &Call,
        asked: &proto::AlterRequest,
    ) -> Result<proto::AlterResponse, Error> {
        let name = LogicalResourceName::new(&asked.name)?;
        let alteration = alteration(needed(asked.alteration.as_ref(), "alteration")?)?;
        let revision = Revision::new(asked.revision);
        let directory = self.engine.directory();
        let altered = directory.alter(&name, revision, alteration, &asked.reason);
        let receipt = call.write(altered).await?;
        Ok(proto::AlterResponse {
            receipt: Some(convert::receipt(receipt)),
            revision: revision.next().get(),
        })
    }

    async fn describe(
        &self,
        call: &Call,
        asked: &proto::DescribeRequest,
    ) -> Result<proto::DescribeResponse, Error> {
        let name = LogicalResourceName::new(&asked.name)?;
        let options = call.options_of_all(asked.options.clone())?;
        let read = call.read(self.engine.directory().describe(&name, options)).await?;
        let reflected = Some(convert::reflected(&read));
        Ok(proto::DescribeResponse { described: Some(described(&read.value)), reflected })
    }

    async fn list(
        &self,
        call: &Call,
        asked: &proto::ListRequest,
    ) -> Result<proto::ListResponse, Error> {
        let after = match asked.after.as_str() {
            "" => None,
            after => Some(LogicalResourceName::new(after)?),
        };
        let options = call.options_of_all(asked.options.clone())?;
        let directory = self.engine.directory();
        let listed = directory.list(&asked.prefix, after.as_ref(), LIST_MAX, options);
        let found = call.read(listed).await?;
        let more = found.len() == LIST_MAX;
        Ok(proto::ListResponse { described: found.iter().map(described).collect(), more })
    }
}

fn told(altered: &Altered) -> proto::Altered {
    proto::Altered {
        revision: altered.revision.get(),
        offset: altered.offset.get(),
        log_time_ms: altered.log_time.get(),
        node: altered.node.get(),
        domain: Some(of_domain(&altered.domain)),
        reason: altered.reason.as_str().to_owned(),
        alteration: Some(of_alteration(&altered.alteration)),
    }
}

#[tonic::async_trait]
impl Service for Endpoint {
    async fn open(
        &self,
        request: Request<proto::OpenRequest>,
    ) -> Result<Response<proto::OpenResponse>, Status> {
        let (call, asked) = Call::of(request)?;
        let described = Some(self.open_resource(&call, &asked).await.map_err(refused)?);
        Ok(Response::new(proto::OpenResponse { described }))
    }

    async fn create(
        &self,
        request: Request<proto::CreateRequest>,
    ) -> Result<Response<proto::CreateResponse>, Status> {
        let (call, asked) = Call::of(request)?;
        let (kind, spec) = self.spec(asked.spec.as_ref()).map_err(refused)?;
        let made = call.write(self.engine.directory().create(&kind, spec)).await;
        let described = Some(described(&made.map_err(refused)?));
        Ok(Response::new(proto::CreateResponse { described }))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        let (call, asked) = Call::of(request)?;
        self.serve(&[], || self.describe(&call, &asked)).await
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let (call, asked) = Call::of(request)?;
        Ok(Response::new(self.list(&call, &asked).await.map_err(refused)?))
    }

    async fn alter(
        &self,
        request: Request<proto::AlterRequest>,
    ) -> Result<Response<proto::AlterResponse>, Status> {
        let (call, asked) = Call::of(request)?;
        self.serve(&[], || self.alter(&call, &asked)).await
    }

    async fn list_alterations(
        &self,
        request: Request<proto::ListAlterationsRequest>,
    ) -> Result<Response<proto::ListAlterationsResponse>, Status> {
        let (call, asked) = Call::of(request)?;
        let found = async {
            let name = LogicalResourceName::new(&asked.name)?;
            let options = call.options_of_all(asked.options)?;
            call.read(self.engine.directory().alterations(&name, options)).await
        };
        let found = found.await.map_err(refused)?.value;
        let alterations = found.iter().map(told).collect();
        Ok(Response::new(proto::ListAlterationsResponse { alterations }))
    }
}
