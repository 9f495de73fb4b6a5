//! The admin port over real nodes and sockets: who may, what is measured, and when a node is ready.

#[path = "support/admin.rs"]
mod admin;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use admin::{AdminPort, fill};
use nodes::Nodes;
use palisade::{GroupId, NodeId, Role};
use palisade_proto::common::v1 as common;
use palisade_proto::map::v1::map_client::MapClient;
use palisade_proto::map::v1::{GetRequest, PutRequest};
use palisade_server::admin::{CONNECTIONS_MAX, Shows};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const DASHBOARD: &str = include_str!("../data/grafana/palisade.json");
const PAGE: &str = include_str!("../docs/observability.md");

async fn get(port: &AdminPort, path: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(port.url(path)).await.unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap())
}

async fn text(port: &AdminPort, path: &str) -> String {
    let answer = reqwest::get(port.url(path)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.text().await.unwrap()
}

/// Asks until the node is in a state, and gives what it said then.
async fn until(port: &AdminPort, state: &str) -> (StatusCode, Value) {
    loop {
        let (status, found) = get(port, "/api/v1/readiness").await;
        if found["state"] == state {
            return (status, found);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// One call that is answered and one that is refused.
async fn call(nodes: &Nodes) {
    let address = format!("http://{}", nodes.addresses[0]);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let mut maps = MapClient::new(channel);
    let (name, schema) = ("stock".to_owned(), "count.v1".to_owned());
    let map = common::Resource { name, schema, epoch: 0, caller: None };
    let value = 7_u64.to_be_bytes().to_vec().into();
    let put = PutRequest { map: Some(map.clone()), key: "k".into(), value, ..Default::default() };
    maps.put(put).await.unwrap();
    let missing = common::Resource { name: "nothing".to_owned(), ..map };
    let get = GetRequest { map: Some(missing), keys: vec!["k".into()], options: None, at: 0 };
    maps.get(get).await.unwrap_err();
}

/// The names of what is measured that have a value.
fn measured(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    lines.map(name).filter(|name| !name.is_empty()).collect()
}

fn names_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words.filter(|word| word.starts_with("palisade_")).map(str::to_owned).collect()
}

/// As the page names it: without the prefix, and a histogram without what is behind its name.
fn of_page(name: &str) -> String {
    let name = name.strip_prefix("palisade_").unwrap_or(name);
    let name = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end).filter(|rest| rest.ends_with("_seconds")))
        .unwrap_or(name);
    name.to_owned()
}

/// Every metric of the dashboard and of the page is there, and the page leaves none out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_promised_is_measured() {
    let nodes = Nodes::start(2).await;
    fill(&nodes.engines[0]).await;
    call(&nodes).await;
    // It leads one group at least, and so knows of voters.
    let group = nodes.engines[0].group(GroupId::new(1)).unwrap();
    while group.status().await.unwrap().role != Role::Leader {
        group.transfer_leadership(NodeId::new(1)).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let port = AdminPort::of(&nodes.observed[0], Shows::Everything).await;
    until(&port, "ready").await;
    let text = text(&port, "/metrics").await;
    let measured = measured(&text);

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut queried = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let names = names_in(target["expr"].as_str().unwrap());
        assert!(!names.is_empty(), "{target}");
        queried.extend(names);
    }
    for variable in variables {
        queried.extend(names_in(&variable["query"].to_string()));
    }
    let missing: Vec<&String> = queried.difference(&measured).collect();
    assert!(missing.is_empty(), "the dashboard asks for {missing:?}");

    let section = PAGE.split("## Metrics").nth(1).unwrap().split("## ").next().unwrap();
    let first_cells = section.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| {
        let cell = line.split(" | ").next().unwrap();
        cell.split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>()
    });
    let page: BTreeSet<String> = first_cells.flatten().collect();
    let measured: BTreeSet<String> = measured.iter().map(|name| of_page(name)).collect();
    assert_eq!(page, measured);

    let has = |line: &str| text.lines().any(|found| found == line);
    assert!(has("palisade_readiness{state=\"ready\"} 1"), "{text}");
    assert!(
        has("palisade_group_role{group=\"1\",role=\"leader\"} 1.0")
            || has("palisade_group_role{group=\"1\",role=\"leader\"} 1"),
        "{text}"
    );
    let put =
        "palisade_grpc_calls_total{service=\"palisade.map.v1.Map\",method=\"Put\",code=\"Ok\"} 1";
    assert!(has(put), "{text}");
    assert!(has("palisade_grpc_refusals_total{code=\"NOT_FOUND\"} 1"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    nodes.close().await;
}

/// A node says that it starts before it is open, that it is ready once it takes writes, and why not when it
/// does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_whether_it_is_ready() {
    let port = AdminPort::start(Shows::Everything).await;
    let (status, found) = get(&port, "/api/v1/readiness").await;
    assert_eq!((status, &found["state"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("starting")));
    assert_eq!(text(&port, "/livez").await, "ok\n");
    let (status, found) = get(&port, "/api/v1/groups").await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, &json!("Disconnected"));
    assert_eq!((status, &found["error"]), expected);

    let nodes = Nodes::start(3).await;
    port.stage.open(&nodes.observed[0]);
    let (status, found) = until(&port, "ready").await;
    assert_eq!((status, &found["ready"]), (StatusCode::OK, &json!(true)));
    assert_eq!(found["groups"].as_array().unwrap().len(), 2);
    let (status, _) = get(&port, "/api/v1/readiness?group=1").await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = get(&port, "/api/v1/readiness?group=9").await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // Without a quorum nothing can be written, and nobody is told otherwise.
    nodes.engines[1].close().await.unwrap();
    nodes.engines[2].close().await.unwrap();
    let (status, found) = until(&port, "degraded").await;
    assert_eq!((status, &found["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
    let reason = found["groups"][1]["reason"].as_str().unwrap();
    assert!(reason.contains("not reached in time"), "{reason}");

    port.stage.stopping();
    let (status, found) = get(&port, "/api/v1/readiness").await;
    assert_eq!((status, &found["state"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("stopping")));
    nodes.engines[0].close().await.unwrap();
}

async fn status_of(port: &AdminPort, method: Method, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut asked = Client::new().request(method, port.url(path));
    for (name, value) in headers {
        asked = asked.header(*name, *value);
    }
    asked.body("{\"group\":1,\"reason\":\"a test\"}").send().await.unwrap().status().as_u16()
}

/// What a website could make a browser on this machine send does nothing, and is told nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websites_are_refused() {
    let nodes = Nodes::start(1).await;
    fill(&nodes.engines[0]).await;
    let port = AdminPort::of(&nodes.observed[0], Shows::Everything).await;
    let own = port.url("");
    let clear = "/api/v1/fences/clear";
    let marked = ("x-palisade-admin", "1");
    // Nothing has halted, so there is nothing to clear: who may is told that.
    assert_eq!(status_of(&port, Method::POST, clear, &[marked]).await, 409);
    assert_eq!(status_of(&port, Method::POST, clear, &[marked, ("origin", &own)]).await, 409);
    for headers in [
        &[][..],
        &[("origin", own.as_str())],
        &[marked, ("origin", "http://evil.example")],
        &[marked, ("origin", "null")],
        &[marked, ("host", "evil.example")],
        &[marked, ("sec-fetch-site", "cross-site")],
    ] {
        assert_eq!(status_of(&port, Method::POST, clear, headers).await, 403, "{headers:?}");
    }
    for path in ["/", "/metrics", "/livez", "/api/v1/log?resource=orders", "/console/main.js"] {
        assert_eq!(status_of(&port, Method::GET, path, &[]).await, 200, "{path}");
        for headers in [
            ("host", "evil.example"),
            ("host", "localhost.evil.example:80"),
            ("origin", "http://evil.example"),
        ] {
            assert_eq!(
                status_of(&port, Method::GET, path, &[headers]).await,
                403,
                "{path} {headers:?}"
            );
        }
        let answer = reqwest::get(port.url(path)).await.unwrap();
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
    nodes.close().await;
}

/// Entries as they are stored, so many and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_as_it_is() {
    let nodes = Nodes::start(1).await;
    let port = AdminPort::of(&nodes.observed[0], Shows::Everything).await;
    let (_, found) = get(&port, "/api/v1/audit").await;
    assert_eq!((&found["kept"], &found["entries"]), (&json!(false), &json!([])));

    fill(&nodes.engines[0]).await;
    let (_, found) = get(&port, "/api/v1/log?resource=orders&limit=3").await;
    let kinds: Vec<_> = found["entries"].as_array().unwrap().iter().map(|e| &e["as"]).collect();
    assert_eq!(kinds, ["json", "text", "hex"], "the newest, the oldest of them first");
    assert_eq!(found["count"], 42);
    let first = found["entries"][0]["offset"].as_u64().unwrap();
    let path = format!("/api/v1/log?resource=orders&from={first}&limit=1");
    let (_, again) = get(&port, &path).await;
    assert_eq!(again["entries"][0], found["entries"][0]);
    let (_, all) = get(&port, "/api/v1/log?resource=orders&from=0&limit=100000").await;
    assert_eq!(all["entries"].as_array().unwrap().len(), 42);

    let (_, found) = get(&port, "/api/v1/audit?limit=1").await;
    assert_eq!((&found["kept"], found["entries"].as_array().unwrap().len()), (&json!(true), 1));
    let (_, found) = get(&port, "/api/v1/audit").await;
    let told =
        |at: usize| ["event", "who", "right", "resource"].map(|key| &found["entries"][at][key]);
    assert_eq!(told(0), ["not allowed", "reports", "append", "orders"], "{found}");
    assert_eq!(told(1)[1], "billing");
    assert_eq!(told(2)[0], "unreadable", "the others are shown all the same");
    for (path, status, code) in [
        ("/api/v1/log?resource=nothing", 404, "NotFound"),
        ("/api/v1/log", 400, "InvalidArgument"),
        ("/api/v1/log?resource=orders&limit=x", 400, "InvalidArgument"),
        ("/api/v1/log?resource=orders&what=1", 400, "InvalidArgument"),
        ("/api/v1/nothing", 404, "NotFound"),
        ("/console/nothing.js", 404, "NotFound"),
    ] {
        let (found, body) = get(&port, path).await;
        assert_eq!((found.as_u16(), &body["error"]), (status, &json!(code)), "{path}");
    }
    let (_, found) = get(&port, "/api/v1/resources?prefix=st").await;
    assert_eq!(found["resources"][0]["name"], "stock");
    let (_, found) = get(&port, "/api/v1/fences").await;
    let writers = found["writers"].as_array().unwrap();
    assert!(writers.iter().any(|of| of["resource"] == "orders" && of["epoch"] == 1), "{found}");
    nodes.close().await;
}

/// Where callers must show a certificate, the port that asks for none tells nobody what is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_for_callers_who_are_asked() {
    let nodes = Nodes::start(1).await;
    fill(&nodes.engines[0]).await;
    let port = AdminPort::of(&nodes.observed[0], Shows::Health).await;
    for path in ["/api/v1/log?resource=orders", "/api/v1/audit"] {
        let (status, found) = get(&port, path).await;
        assert_eq!((status.as_u16(), &found["error"]), (403, &json!("Revoked")), "{path}");
        assert!(found["entries"].is_null(), "{found}");
    }
    let (_, found) = get(&port, "/api/v1/cluster").await;
    assert_eq!((&found["node"], &found["members"]), (&json!(1), &json!([])));
    for path in ["/api/v1/resources", "/api/v1/fences"] {
        assert_eq!(get(&port, path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let marked = [("x-palisade-admin", "1")];
    assert_eq!(status_of(&port, Method::POST, "/api/v1/fences/clear", &marked).await, 403);
    for path in ["/api/v1/readiness", "/api/v1/cluster", "/api/v1/groups", "/api/v1/metrics"] {
        assert_eq!(get(&port, path).await.0, StatusCode::OK, "{path}");
    }
    nodes.close().await;
}

/// G12: as many connections as there may be, none of which says what it wants, make room for one that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_crowd_keeps_nobody_from_the_admin_port() {
    let port = AdminPort::start(Shows::Health).await;
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: local").await.unwrap();
        crowd.push(stream);
    }
    assert_eq!(text(&port, "/livez").await, "ok\n");
    drop(crowd);
}

/// G12: and none of which reads what it has asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_does_not_read_keeps_nobody_from_the_admin_port() {
    let port = AdminPort::start(Shows::Health).await;
    let asked = format!("GET /console/console.css HTTP/1.1\r\nhost: {}\r\n\r\n", port.address);
    let mut crowd = JoinSet::new();
    for _ in 0..CONNECTIONS_MAX {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let mut stream = socket.connect(port.address).await.unwrap();
        let asked = asked.clone();
        // It asks for as long as it is taken in: the answers fill whatever is between the two.
        crowd.spawn(async move {
            while stream.write_all(asked.as_bytes()).await.is_ok() {}
            stream
        });
    }
    assert_eq!(text(&port, "/livez").await, "ok\n");
    drop(crowd);
}

/// Where nothing is to be had, nobody waits for what somebody says that he sends.
#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let port = AdminPort::start(Shows::Health).await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    let head = format!(
        "POST /api/v1/fences/clear HTTP/1.1\r\nhost: {}\r\nx-palisade-admin: 1\r\n\
         content-length: 9\r\n\r\n",
        port.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
}

/// What an operator asks for by the command, of the node that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_is_fenced() {
    let nodes = Nodes::start(1).await;
    fill(&nodes.engines[0]).await;
    let endpoint = format!("http://{}", nodes.addresses[0]);
    let asked = move || {
        let run = |args: &[&str]| support::json(Path::new("."), &[&["fence"], args].concat());
        let (code, found) = run(&["list", "--endpoint", &endpoint]);
        assert_eq!((code, &found["halted"]), (0, &json!([])));
        assert!(found["writers"].as_array().unwrap().iter().any(|of| of["resource"] == "stock"));
        let clear =
            ["clear", "--endpoint", &endpoint, "--node", "1", "--group", "1", "--reason", "a test"];
        let (code, found) = run(&clear);
        assert_eq!((code, found["plan"].as_array().map(Vec::len)), (2, Some(1)), "{found}");
        let (code, found) = run(&[&clear[..], &["--confirm"]].concat());
        let expected = (4, &json!("PreconditionFailed"));
        assert_eq!((code, &found["error"]["code"]), expected, "nothing has halted: {found}");
        let (code, found) = run(&["list", "--endpoint", "http://127.0.0.1:1"]);
        assert_eq!((code, &found["error"]["code"]), (5, &json!("Disconnected")));
    };
    tokio::task::spawn_blocking(asked).await.unwrap();
    nodes.close().await;
}

/// What is fenced is asked when something is wrong: a node that says nothing keeps nobody from what the others
/// say, and is named; and one without a quorum says what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fenced_is_told_without_a_quorum_and_beside_a_silent_node() {
    let mut nodes = Nodes::start(3).await;
    fill(&nodes.engines[0]).await;
    let endpoint = format!("http://{}", nodes.addresses[0]);
    for other in [2, 1] {
        nodes.engines.remove(other).close().await.unwrap();
    }
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_endpoint = format!("http://{}", silent.local_addr().unwrap());
    let asked = move || {
        let run = |endpoints: &[&String]| {
            let named = endpoints.iter().flat_map(|endpoint| ["--endpoint", endpoint]);
            let args: Vec<&str> = ["fence", "list"].into_iter().chain(named).collect();
            support::json(Path::new("."), &args)
        };
        let is_told = |found: &Value| {
            found["writers"].as_array().unwrap().iter().any(|of| of["resource"] == "stock")
        };
        let (code, found) = run(&[&endpoint]);
        assert_eq!((code, &found["unasked"]), (0, &json!([])), "{found}");
        assert!(is_told(&found), "{found}");
        let (code, found) = run(&[&silent_endpoint, &endpoint]);
        assert_eq!((code, &found["unasked"]), (5, &json!([silent_endpoint])), "{found}");
        assert!(is_told(&found), "{found}");
        let what = found["error"]["what"].as_str().unwrap();
        assert!(what.contains(&silent_endpoint), "{what}");
    };
    tokio::task::spawn_blocking(asked).await.unwrap();
    drop(silent);
    nodes.close().await;
}
