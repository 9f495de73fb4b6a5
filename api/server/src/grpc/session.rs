//! `palisade.session.v1.Session`.

use std::time::Duration;

use palisade::{Freshness, GroupId, Stored};
use palisade_proto::session::v1 as proto;
use palisade_proto::session::v1::session_server::Session as Service;
use tonic::{Request, Response, Status};

use super::endpoint::{Endpoint, refused};
use crate::security::grants::{Right, Rights};

#[tonic::async_trait]
impl Service for Endpoint {
    async fn register(
        &self,
        request: Request<proto::RegisterRequest>,
    ) -> Result<Response<proto::RegisterResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        // For who may write something: a client is kept, and has room.
        self.allow_somewhere(&call, Rights::of([Right::Append]))?;
        let registered = async {
            let group = self.engine.group(GroupId::new(asked.group))?;
            let ttl = Duration::from_millis(asked.ttl_ms);
            // Its numbers are for whoever registered it, whichever node is asked.
            match call.registrant() {
                Some(registrant) => call.write(group.register_client_as(registrant, ttl)).await,
                None => call.write(group.register_client(ttl)).await,
            }
        };
        let client = registered.await.map_err(refused)?;
        // A client is named by the record that registered it, as a state is by its last.
        let (cluster, group, offset) = (client.cluster, client.group, client.offset);
        let client = Freshness { cluster, group, offset }.to_bytes();
        Ok(Response::new(proto::RegisterResponse { client }))
    }
}
