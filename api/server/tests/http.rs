//! The HTTP face, status by status, over one real node.

use std::net::SocketAddr;

use palisade::{Engine, FailureDomain, PlacementProfile, ReplicaPolicy};
use palisade_server::http::{BODY_BYTES_MAX, router_with};
use palisade_server::reports::{
    ReportService, RequestState, Worker, aws_zone, gcp_region, multi_az_profile, single_az_profile,
};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

struct Server {
    address: SocketAddr,
    service: ReportService,
    client: Client,
    _tasks: JoinSet<()>,
    _dir: TempDir,
}

async fn start_with(profile: PlacementProfile, in_flight_max: usize) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).domain(aws_zone()).open().await.unwrap();
    let profile = PlacementProfile { replicas: ReplicaPolicy::majority(1), ..profile };
    let service = ReportService::open(&engine, profile).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = router_with(service.clone(), in_flight_max);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
    Server { address, service, client: Client::new(), _tasks: tasks, _dir: dir }
}

async fn start() -> Server {
    start_with(multi_az_profile(), 64).await
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.client.post(self.url(path)).json(body).send().await.unwrap()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.client.get(self.url(path)).send().await.unwrap()).await
    }
}

async fn answer(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

fn request(id: &str, month: &str) -> Value {
    json!({ "request_id": id, "airport": "ATL", "month": month })
}

#[tokio::test]
async fn a_submission_is_accepted_once_and_conflicts_with_another() {
    let server = start().await;
    let (status, first) = server.post("/reports", &request("r1", "2001-01")).await;
    assert_eq!(status, 202, "{first}");
    assert_eq!(first["duplicate"], false);
    assert_eq!(first["request_id"], "r1");
    assert_eq!(first["status_path"], "/reports/r1");

    let (status, again) = server.post("/reports", &request("r1", "2001-01")).await;
    assert_eq!(status, 202);
    assert_eq!(again["duplicate"], true);
    assert_eq!(again["accepted_offset"], first["accepted_offset"]);

    let (status, conflict) = server.post("/reports", &request("r1", "2001-02")).await;
    assert_eq!((status, &conflict["error"]), (409, &json!("IdempotencyConflict")));
    assert_eq!(conflict["disposition"], "Reject");

    let path = format!("/reports/r1?at_least={}", first["accepted_offset"]);
    let (status, found) = server.get(&path).await;
    assert_eq!((status, &found["state"]), (200, &json!("accepted")));
    assert!(found["applied"].as_u64() >= first["accepted_offset"].as_u64());
}

#[tokio::test]
async fn a_replica_that_is_behind_says_so_now_or_after_the_wait() {
    let server = start().await;
    let (_, first) = server.post("/reports", &request("r1", "2001-01")).await;
    let ahead = first["accepted_offset"].as_u64().unwrap() + 1;
    for wait in ["", "&wait_ms=20"] {
        let (status, behind) = server.get(&format!("/reports/r1?at_least={ahead}{wait}")).await;
        assert_eq!((status, &behind["error"]), (412, &json!("NotYetApplied")));
        assert_eq!(behind["required"], ahead);
        assert_eq!(behind["applied"], ahead - 1);
    }
    let path = format!("/reports/r1?at_least={ahead}&wait_ms=20000");
    let next = request("r2", "2001-01");
    let (read, _) = tokio::join!(server.get(&path), server.post("/reports", &next));
    assert_eq!(read.0, 200, "{}", read.1);
}

#[tokio::test]
async fn what_is_malformed_is_refused_with_a_reason() {
    let server = start().await;
    let good = request("r1", "2001-01");
    let mut unknown = good.clone();
    unknown["extra"] = json!(1);
    for (body, reason) in [
        (unknown, "unknown field"),
        (json!({ "request_id": "r1" }), "missing field"),
        (request("r1", "January"), "month"),
        (request("no spaces", "2001-01"), "request_id"),
        (json!([]), "body"),
    ] {
        let (status, refused) = server.post("/reports", &body).await;
        assert_eq!((status, &refused["error"]), (400, &json!("InvalidArgument")), "{body}");
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(reason), "{message}");
    }
    let raw = |kind: &'static str, body: Vec<u8>| {
        let post = server.client.post(server.url("/reports"));
        post.header("content-type", kind).body(body).send()
    };
    let json = "application/json";
    assert_eq!(answer(raw(json, b"{\"request_id\"".to_vec()).await.unwrap()).await.0, 400);
    assert_eq!(answer(raw(json, vec![b' '; BODY_BYTES_MAX + 1]).await.unwrap()).await.0, 413);
    assert_eq!(answer(raw("text/plain", good.to_string().into()).await.unwrap()).await.0, 415);
    assert_eq!(server.get("/reports/unknown").await.0, 404);
    assert_eq!(server.get("/nowhere").await.0, 404);
    assert_eq!(server.get("/reports").await.0, 405);
    assert_eq!(server.get("/reports/r1?at_least=x").await.0, 400);
    assert_eq!(server.get("/reports/r1?at_last=1").await.0, 400);
    // None of it left a trace.
    assert_eq!(server.get("/reports/r1").await.0, 404);
}

#[tokio::test]
async fn a_caller_outside_the_profile_is_refused() {
    let server = start().await;
    let submit = |domain: String| {
        let post = server.client.post(server.url("/reports")).json(&request("r1", "2001-01"));
        post.header("x-palisade-domain", domain).send()
    };
    let (status, refused) = answer(submit(gcp_region().to_string()).await.unwrap()).await;
    assert_eq!((status, &refused["error"]), (403, &json!("DomainUnavailable")));
    assert_eq!(refused["domain"], gcp_region().to_string());
    assert_eq!(answer(submit("nowhere".into()).await.unwrap()).await.0, 400);
    let other_zone = FailureDomain::new("aws", "us-east-1", "us-east-1b");
    assert_eq!(answer(submit(other_zone.to_string()).await.unwrap()).await.0, 202);
    let read = server.client.get(server.url("/reports/r1"));
    let read = read.header("x-palisade-domain", gcp_region().to_string()).send().await.unwrap();
    assert_eq!(answer(read).await.0, 403);
}

#[tokio::test]
async fn an_overloaded_node_says_when_to_come_back() {
    let server = start_with(single_az_profile(), 0).await;
    let post = server.client.post(server.url("/reports")).json(&request("r1", "2001-01"));
    let response = post.send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, refused) = answer(response).await;
    assert_eq!((status, &refused["error"]), (429, &json!("RateLimited")));
    assert_eq!(refused["disposition"], "Retry");
    assert_eq!(server.get("/status").await.0, 200, "how it is doing is seen all the same");
}

#[tokio::test]
async fn flights_are_taken_once_and_reported_by_a_worker_once() {
    let server = start().await;
    let flight = |delay: i64, destination: &str| {
        json!({ "date": "2001-01-05 10:00", "delay": delay, "distance": 100,
                "origin": "ATL", "destination": destination })
    };
    for (id, (delay, destination)) in [(5, "LAX"), (15, "SFO"), (-2, "LAX")].iter().enumerate() {
        let body = json!({ "id": id, "flight": flight(*delay, destination) });
        assert_eq!(server.post("/flights", &body).await.0, 202);
        let (_, again) = server.post("/flights", &body).await;
        assert_eq!(again["duplicate"], true);
    }
    let other = json!({ "id": 0, "flight": flight(99, "JFK") });
    assert_eq!(server.post("/flights", &other).await.0, 409);
    let (_, airport) = server.get("/airports/ATL").await;
    assert_eq!((&airport["flights"], &airport["delay_sum"]), (&json!(3), &json!(18)));

    let (_, receipt) = server.post("/reports", &request("r1", "2001-01")).await;
    let offset = receipt["accepted_offset"].as_u64().unwrap();
    let worker =
        |name: &str| Worker::new(server.service.clone(), aws_zone(), name, (0, 1)).unwrap();
    let refused = Worker::new(server.service.clone(), gcp_region(), "worker-gcp", (0, 1));
    assert!(refused.is_err(), "a worker outside the profile is refused");
    let (mut first, mut second) = (worker("one"), worker("two"));
    assert_eq!(first.tick().await.unwrap(), 1);
    assert_eq!(second.tick().await.unwrap(), 0, "it is done already");
    assert_eq!(first.tick().await.unwrap(), 0);

    let (_, found) = server.get(&format!("/reports/r1?at_least={offset}")).await;
    assert_eq!((&found["state"], &found["worker"]), (&json!("completed"), &json!("one")));
    let report = &found["report"];
    assert_eq!((&report["flights"], &report["p95_delay"]), (&json!(3), &json!(15)));
    assert_eq!(
        (&report["mean_delay"], &report["busiest_destination"]),
        (&json!(6.0), &json!("LAX"))
    );
    let (_, effects) = server.get("/effects").await;
    assert_eq!(effects["entries"].as_array().unwrap().len(), 1);
    assert!(effects["next"].is_null(), "{effects}");
    let fresh = palisade::ReadConsistency::Linearizable;
    let read = server.service.read_status(&aws_zone(), "r1", fresh).await.unwrap();
    let state = read.unwrap().state;
    assert!(matches!(state, RequestState::Completed { .. }));
}
