//! `grpc.health.v1.Health`: the service `""` is the whole node, `group/1` one group of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use palisade_proto::SERVICES;
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as Service;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::probe::{Probe, Ready};

/// Between two looks for whoever watches.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Health {
    probe: Arc<Probe>,
}

impl Health {
    pub(crate) fn new(probe: Arc<Probe>) -> Self {
        Self { probe }
    }

    async fn of(&self, service: &str) -> ServingStatus {
        serving(service, &self.probe.look().await)
    }
}

fn serving(service: &str, ready: &Ready) -> ServingStatus {
    let is_ready = match service.strip_prefix("group/") {
        Some(group) => {
            let found = ready.iter().find(|(id, _)| id.get().to_string() == group);
            match found {
                Some((_, ready)) => ready.is_ok(),
                None => return ServingStatus::ServiceUnknown,
            }
        }
        None if service.is_empty() || SERVICES.contains(&service) => {
            ready.values().all(Result::is_ok)
        }
        None => return ServingStatus::ServiceUnknown,
    };
    if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Service for Health {
    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.of(&service).await {
            ServingStatus::ServiceUnknown => {
                Err(Status::not_found(format!("service={service:?} is not known here")))
            }
            status => Ok(Response::new(response(status))),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let health = self.clone();
        // What it is now, and then whatever it changes to.
        let states = stream::unfold(None, move |told: Option<ServingStatus>| {
            let (health, service) = (health.clone(), service.clone());
            async move {
                loop {
                    let status = health.of(&service).await;
                    if told != Some(status) {
                        return Some((Ok(response(status)), Some(status)));
                    }
                    sleep(PAUSE).await;
                }
            }
        });
        Ok(Response::new(Box::pin(states)))
    }
}

#[cfg(test)]
mod tests {
    use palisade::{Error, GroupId};

    use super::*;

    #[test]
    fn the_node_is_ready_once_all_of_its_groups_are() {
        let down = Err(Error::Disconnected { outcome_unknown: true });
        let ready: Ready = [(0, Ok(())), (1, Ok(())), (2, down)]
            .map(|(group, ready)| (GroupId::new(group), ready))
            .into();
        assert_eq!(serving("", &ready), ServingStatus::NotServing);
        assert_eq!(serving("palisade.map.v1.Map", &ready), ServingStatus::NotServing);
        assert_eq!(serving("group/1", &ready), ServingStatus::Serving);
        assert_eq!(serving("group/2", &ready), ServingStatus::NotServing);
        for unknown in ["group/3", "group/", "map"] {
            assert_eq!(serving(unknown, &ready), ServingStatus::ServiceUnknown);
        }
        let ready = ready.into_iter().take(2).collect();
        assert_eq!(serving("", &ready), ServingStatus::Serving);
    }
}
