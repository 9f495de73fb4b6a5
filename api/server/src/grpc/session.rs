//! `palisade.session.v1.Session`.

use std::time::Duration;

use palisade::{Error, Freshness, GroupId, Stored};
use palisade_proto::failure::{Code, Disposition, Failure};
use palisade_proto::session::v1 as proto;
use palisade_proto::session::v1::session_server::Session as Service;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::endpoint::{Endpoint, refused};
use super::registrations::AT_ONCE;
use crate::security::grants::{Right, Rights};

/// What a caller is told who has registered more than it may.
fn too_many(left: Duration) -> Failure {
    let why =
        format!("a caller registers {AT_ONCE} clients of a group at once, and as many in an hour");
    let help = "nothing happened; number further commands by the clients that there are, or come back later";
    Failure::new(Code::RateLimited, Code::RateLimited.as_str(), Disposition::Retry, why, help)
        .after(left)
}

/// Whether nothing was registered, as far as it is known.
fn is_nothing(error: &Error) -> bool {
    matches!(error.disposition(), palisade::Disposition::Retry | palisade::Disposition::Reject)
}

#[tonic::async_trait]
impl Service for Endpoint {
    async fn register(
        &self,
        request: Request<proto::RegisterRequest>,
    ) -> Result<Response<proto::RegisterResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        // For who may write something: a client is kept, and has room.
        self.allow_somewhere(&call, Rights::of([Right::Append]))?;
        let group = self.engine.group(GroupId::new(asked.group)).map_err(refused)?;
        let ttl = Duration::from_millis(asked.ttl_ms);
        // Its numbers are for whoever registered it, whichever node is asked.
        let registered = match (call.principal(), call.registrant()) {
            (Some(principal), Some(registrant)) => {
                let taken = self.registrations().take(principal, group.id(), Instant::now());
                taken.map_err(too_many)?;
                let done = call.write(group.register_client_as(registrant, ttl)).await;
                if done.as_ref().is_err_and(is_nothing) {
                    self.registrations().give_back(principal, group.id());
                }
                done
            }
            _ => call.write(group.register_client(ttl)).await,
        };
        let client = registered.map_err(refused)?;
        // A client is named by the record that registered it, as a state is by its last.
        let (cluster, group, offset) = (client.cluster, client.group, client.offset);
        let client = Freshness { cluster, group, offset }.to_bytes();
        Ok(Response::new(proto::RegisterResponse { client }))
    }
}
