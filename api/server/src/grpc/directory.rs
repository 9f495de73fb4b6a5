//! `palisade.directory.v1.Directory`.

use palisade::{
    Alteration, Altered, Described, Error, LogicalResourceName, ReadConsistency, ReadOptions,
    ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, ResourceKind, ResourceSpec, Revision,
};
use palisade_proto::directory::v1 as proto;
use palisade_proto::directory::v1::directory_server::Directory as Service;
use tonic::{Request, Response, Status};

use super::convert::{self, Raw, needed, of_domain};
use super::endpoint::{Call, Endpoint, refused};
use super::own::directory_for;
use super::spec::{alteration, described, of_alteration, spec};
use crate::security::grants::Right;

/// Resources of one answer.
const LIST_MAX: usize = 256;

impl Endpoint {
    fn spec(&self, asked: Option<&proto::Spec>) -> Result<(ResourceKind, ResourceSpec), Error> {
        spec(needed(asked, "spec")?, self.engine.domain())
    }

    async fn is_there(&self, name: &str) -> Result<bool, Error> {
        let name = LogicalResourceName::new(name)?;
        match self.engine.directory().describe(&name, ReadConsistency::Linearizable).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
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
        let altered = async {
            let directory = match &alteration {
                Alteration::Place(_) => {
                    let fresh = ReadConsistency::Linearizable;
                    let found = self.engine.directory().describe(&name, fresh).await?.value;
                    directory_for(&self.engine, &found.placement).await?
                }
                _ => self.engine.directory(),
            };
            directory.alter(&name, revision, alteration, &asked.reason).await
        };
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
        call.read(self.list_seen(call, &asked.prefix, after, options)).await
    }

    /// A page of what a caller may see, full if there is as much. What it may not see is nowhere in the answer,
    /// nor in where to go on.
    async fn list_seen(
        &self,
        call: &Call,
        prefix: &str,
        mut after: Option<LogicalResourceName>,
        options: ReadOptions,
    ) -> Result<proto::ListResponse, Error> {
        let directory = self.engine.directory();
        let mut seen: Vec<Described> = Vec::new();
        loop {
            let found = directory.list(prefix, after.as_ref(), LIST_MAX, options).await?.resources;
            let is_last = found.len() < LIST_MAX;
            after = found.last().map(|last| last.name.clone());
            seen.extend(
                found.into_iter().filter(|it| self.might(call, Right::Read, it.name.as_str())),
            );
            if LIST_MAX < seen.len() || is_last {
                break;
            }
        }
        // One more than a page says that there is another.
        let has_more = LIST_MAX < seen.len();
        seen.truncate(LIST_MAX);
        let next = seen.last().filter(|_| has_more).map(|last| last.name.as_str().to_owned());
        let described = seen.iter().map(described).collect();
        Ok(proto::ListResponse { described, next: next.unwrap_or_default() })
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
        let (call, asked) = self.begin(request)?;
        let name = asked.spec.as_ref().map_or("", |spec| &spec.name);
        // Nothing is looked up for who may do neither.
        if !self.might(&call, Right::Append, name) {
            self.allow(&call, Right::Admin, name)?;
        }
        // Whoever may write to what is there may take it over; to make it takes more.
        let right =
            if self.is_there(name).await.map_err(refused)? { Right::Append } else { Right::Admin };
        self.allow(&call, right, name)?;
        let described = Some(self.open_resource(&call, &asked).await.map_err(refused)?);
        Ok(Response::new(proto::OpenResponse { described }))
    }

    async fn create(
        &self,
        request: Request<proto::CreateRequest>,
    ) -> Result<Response<proto::CreateResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        let (kind, spec) = self.spec(asked.spec.as_ref()).map_err(refused)?;
        self.allow(&call, Right::Admin, spec.name.as_str())?;
        let made = call.write(self.engine.directory().create(&kind, spec)).await;
        let described = Some(described(&made.map_err(refused)?));
        Ok(Response::new(proto::CreateResponse { described }))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow(&call, Right::Read, &asked.name)?;
        self.serve(&call, Right::Read, &[], false, || self.describe(&call, &asked)).await
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.known(&call)?;
        Ok(Response::new(self.list(&call, &asked).await.map_err(refused)?))
    }

    async fn alter(
        &self,
        request: Request<proto::AlterRequest>,
    ) -> Result<Response<proto::AlterResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        use proto::alteration::Alteration::Place;
        let alteration = asked.alteration.as_ref().and_then(|it| it.alteration.as_ref());
        match alteration {
            // Where the endpoint's own resources are, is as anything's: that no member is left out is the
            // engine's to see. What they say stays with the endpoint.
            Some(Place(_)) => self.allow_own(&call, Right::Admin, &asked.name)?,
            _ => self.allow(&call, Right::Admin, &asked.name)?,
        }
        self.serve(&call, Right::Admin, &[], false, || self.alter(&call, &asked)).await
    }

    async fn list_alterations(
        &self,
        request: Request<proto::ListAlterationsRequest>,
    ) -> Result<Response<proto::ListAlterationsResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow(&call, Right::Read, &asked.name)?;
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
