//! The subcommands for clusters, members, backups and load, as a person gives them, against real processes.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

mod support;
use support::{json, palisade, run};

/// Stops what a failed test would leave.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        run(self.0, &["down"]);
    }
}

/// A node that this test has started.
struct Node(Child);

impl Node {
    fn start(dir: &Path, config: &str) -> Self {
        let mut command = palisade(dir);
        command.args(["node", "--config", config]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn done(dir: &Path, args: &[&str]) -> Value {
    let (code, document) = json(dir, args);
    assert_eq!(code, 0, "{args:?}: {document}");
    document
}

fn fails(dir: &Path, args: &[&str], exit: i32, code: &str) -> Value {
    let (found, document) = json(dir, args);
    assert_eq!(
        (found, document["error"]["code"].as_str()),
        (exit, Some(code)),
        "{args:?}: {document}"
    );
    document
}

/// Three ports that follow each other, and that nobody listens on now.
fn three_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if port < u16::MAX - 1 && is_free(port + 1) && is_free(port + 2) {
            return port;
        }
    }
}

fn leader(status: &Value, group: usize) -> u64 {
    let groups = status["nodes"].as_array().unwrap().iter().map(|node| &node["groups"][group]);
    let newest = groups.max_by_key(|group| (group["term"].as_u64(), group["leader"].as_u64()));
    newest.unwrap()["leader"].as_u64().unwrap()
}

/// What a node is in each group that it is a member of.
fn role(status: &Value, node: u64) -> Vec<&str> {
    let groups = status["nodes"][0]["groups"].as_array().unwrap().iter();
    let members = groups.flat_map(|group| group["members"].as_array().unwrap());
    let of = members.filter(|member| member["node"] == node);
    of.map(|member| member["role"].as_str().unwrap()).collect()
}

/// The life of a local cluster: its members change, its leaders move, it is loaded, backed up and restored.
#[test]
fn a_cluster_grows_moves_and_comes_back_from_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _down = Down(dir);
    let up = done(dir, &["up"]);
    done(dir, &["cluster", "wait", "--healthy"]);
    let status = done(dir, &["cluster", "status"]);
    assert_eq!(
        (status["healthy"].as_bool(), status["nodes"].as_array().unwrap().len()),
        (Some(true), 3)
    );

    let to = leader(&status, 1) % 3 + 1;
    done(dir, &["member", "transfer", "1", &to.to_string()]);
    let moved = done(dir, &["cluster", "status"]);
    assert_eq!(leader(&moved, 1), to);

    members(dir, &up);
    load(dir);
    backups(dir);
}

/// A fourth node, which waits to be a member, and all that there are to ask.
struct Joined {
    _node: Node,
    port: u16,
    endpoints: Vec<String>,
}

fn join_args(node: &str) -> [&str; 5] {
    ["cluster", "join", "--insecure-loopback", "--node", node]
}

fn fourth(port: u16) -> String {
    format!("4=127.0.0.1:{port}@aws/eu-west-1/d")
}

impl Joined {
    fn start(dir: &Path, up: &Value) -> Self {
        let port = three_ports();
        let joins = done(dir, &join_args(&fourth(port)));
        assert_eq!(joins["nodes"][0]["grpc"], format!("127.0.0.1:{}", port + 1));
        let own = format!("--endpoint=http://127.0.0.1:{}", port + 1);
        let others = up["nodes"].as_array().unwrap().iter();
        let others =
            others.map(|node| format!("--endpoint=http://{}", node["grpc"].as_str().unwrap()));
        let endpoints = others.chain([own]).collect();
        Self { _node: Node::start(dir, "node-4.toml"), port, endpoints }
    }

    /// Asked of all of them.
    fn all(&self, dir: &Path, args: &[&str]) -> (i32, Value) {
        let endpoints = self.endpoints.iter().map(String::as_str);
        json(dir, &args.iter().copied().chain(endpoints).collect::<Vec<_>>())
    }

    /// Made a learner: its domain and its life are its own word, once it listens.
    fn add(&self, dir: &Path) {
        let address = format!("127.0.0.1:{}", self.port);
        let add = ["member", "add", "4", "--address", &address, "--domain", "aws/eu-west-1/d"];
        let (code, added) = self.all(dir, &add);
        let groups = added["groups_changed"].as_array().map(Vec::len);
        assert_eq!((code, groups), (0, Some(2)), "{added}");
    }

    /// It is refused until the node has caught up: in one group or the other.
    fn until_made(&self, dir: &Path, args: &[&str]) {
        let mut made = self.all(dir, args);
        for _ in 0..600 {
            if made.0 == 0 {
                break;
            }
            assert_eq!(made.0, 4, "{}", made.1);
            made = self.all(dir, args);
        }
        assert_eq!(made.0, 0, "{}", made.1);
    }

    fn status(&self, dir: &Path) -> Value {
        self.all(dir, &["cluster", "status"]).1
    }
}

fn members(dir: &Path, up: &Value) {
    let joined = Joined::start(dir, up);
    // What is there is never changed.
    let written = fs::read(dir.join("node-4.toml")).unwrap();
    fails(dir, &join_args(&fourth(joined.port)), 4, "AlreadyExists");
    assert_eq!(fs::read(dir.join("node-4.toml")).unwrap(), written);

    joined.add(dir);
    let (code, again) = joined.all(dir, &["member", "promote", "9"]);
    assert_eq!((code, again["error"]["exit_code"].as_i64()), (4, Some(4)));
    joined.until_made(dir, &["member", "promote", "4"]);
    assert_eq!(role(&joined.status(dir), 4), ["voter", "voter"]);

    let (code, planned) = joined.all(dir, &["member", "remove", "4"]);
    assert_eq!((code, planned["error"]["code"].as_str()), (2, Some("Unconfirmed")));
    assert_eq!(role(&joined.status(dir), 4), ["voter", "voter"], "a plan changes nothing");
    let (code, removed) = joined.all(dir, &["member", "remove", "4", "--confirm"]);
    assert_eq!(code, 0, "{removed}");
    let status = done(dir, &["cluster", "status"]);
    assert_eq!(role(&status, 4), [""; 0]);
}

/// A learner takes the place of a voter, and another voter becomes a learner: each as it was planned, and not
/// before it was confirmed.
#[test]
fn a_voter_gives_up_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _down = Down(dir);
    let up = done(dir, &["up"]);
    done(dir, &["cluster", "wait", "--healthy"]);
    let joined = Joined::start(dir, &up);
    joined.add(dir);
    for plan in [&["member", "replace", "3", "4"][..], &["member", "demote", "2"]] {
        let (code, planned) = joined.all(dir, plan);
        assert_eq!((code, planned["error"]["code"].as_str()), (2, Some("Unconfirmed")), "{plan:?}");
    }
    let status = joined.status(dir);
    let roles = [2, 3, 4].map(|node| role(&status, node));
    assert_eq!(roles, [["voter"; 2], ["voter"; 2], ["learner"; 2]], "a plan changes nothing");

    joined.until_made(dir, &["member", "replace", "3", "4", "--confirm"]);
    let status = joined.status(dir);
    assert_eq!((role(&status, 3), role(&status, 4)), (Vec::new(), vec!["voter"; 2]));
    joined.until_made(dir, &["member", "demote", "2", "--confirm"]);
    assert_eq!(role(&joined.status(dir), 2), ["learner"; 2]);
    // Done again, it was so before.
    let (code, again) = joined.all(dir, &["member", "demote", "2", "--confirm"]);
    assert_eq!((code, &again["groups_changed"]), (0, &Value::Array(Vec::new())), "{again}");
}

fn load(dir: &Path) {
    for workload in ["append", "stream", "put", "get"] {
        let shape =
            ["--operations", "300", "--in-flight", "70", "--keys", "10", "--svg", "plot.svg"];
        let measured = done(dir, &[&["bench", workload], &shape[..]].concat());
        assert_eq!(measured["operations"], 300, "{measured}");
        assert_eq!(measured["failed"], Value::Object(Default::default()));
        assert!(measured["percentiles"][2]["latency_us"].as_u64() > Some(0), "{measured}");
        let plot = fs::read_to_string(dir.join("plot.svg")).unwrap();
        assert!(plot.contains(workload) && plot.ends_with("</svg>\n"));
    }
    // Each of them took effect, and took effect once.
    assert_eq!(done(dir, &["log", "bounds", "bench/log"])["entries"], 600);
}

fn backups(dir: &Path) {
    done(dir, &["directory", "open", "stock", "--kind", "map", "--schema", "stock.v1"]);
    done(dir, &["map", "put", "stock", "apples", "7"]);
    // Of the leader, which has what it acknowledged.
    let leader = leader(&done(dir, &["cluster", "status"]), 1).to_string();
    done(dir, &["backup", "create", "monday", "--node", &leader]);
    let put = done(dir, &["map", "put", "stock", "apples", "8"]);
    let (group, offset) = (put["group"].as_u64().unwrap(), put["offset"].as_u64().unwrap());
    let tuesday = ["backup", "create", "tuesday", "--parent", "monday", "--node", &leader];
    let taken = done(dir, &tuesday);
    assert_eq!(taken["parent"], "monday");
    fails(dir, &tuesday, 4, "AlreadyExists");
    fails(dir, &["backup", "create", "wednesday", "--parent", "sunday"], 3, "NotFound");
    fails(dir, &["backup", "create", "../out"], 2, "InvalidArgument");

    let from = ["--from", "palisade-local/backups"];
    let listed = done(dir, &[&["backup", "list"], &from[..]].concat());
    let listed = listed["backups"].as_array().unwrap();
    let complete =
        listed.iter().filter(|it| it["complete"] == true).map(|it| it["id"].as_str().unwrap());
    assert_eq!(complete.collect::<Vec<_>>(), ["monday", "tuesday"]);
    let verified = done(dir, &[&["backup", "verify", "tuesday"], &from[..]].concat());
    assert_eq!(verified["chain"].as_array().unwrap().len(), 2);

    // One node of a new cluster, whose only voter it is; a record before the end.
    let port = three_ports();
    let node = format!("1=127.0.0.1:{port}@aws/eu-west-1/a");
    done(dir, &["cluster", "init", "--insecure-loopback", "--node", &node, "--out", "new"]);
    let restore = ["backup", "restore", "tuesday", "--config", "new/node-1.toml"];
    let at = format!("{group}:{}", offset - 1);
    done(dir, &[&restore[..], &from, &["--at", &at]].concat());
    fails(dir, &[&restore[..], &from].concat(), 2, "InvalidArgument");
    let _node = Node::start(dir, "new/node-1.toml");
    let endpoint = format!("--endpoint=http://127.0.0.1:{}", port + 1);
    done(dir, &["cluster", "wait", "--healthy", &endpoint]);
    assert_eq!(done(dir, &["map", "get", "stock", "apples", &endpoint])["value"], "7");
    fails(dir, &["map", "put", "stock", "apples", "9", &endpoint], 4, "Fenced");

    // A file that is not what was written.
    let state = dir.join("palisade-local/backups/monday/group-1/state-0");
    let mut raw = fs::read(&state).unwrap();
    let middle = raw.len() / 2;
    raw[middle] ^= 1;
    fs::write(&state, raw).unwrap();
    fails(dir, &[&["backup", "verify", "tuesday"], &from[..]].concat(), 6, "Damaged");
}

/// Configurations for other machines: what they say is what their nodes read.
#[test]
fn a_new_cluster_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let nodes: Vec<String> =
        (1..=3).map(|id| format!("--node={id}=10.0.0.{id}:7300@aws/eu/{id}")).collect();
    let init: Vec<&str> = ["cluster", "init", "--out", "conf"]
        .into_iter()
        .chain(nodes.iter().map(String::as_str))
        .collect();
    let made = done(dir, &init);
    assert_eq!(made["cluster"].as_str().unwrap().len(), 32);
    for id in 1..=3 {
        done(dir, &["config", "check", &format!("conf/node-{id}.toml")]);
    }
    assert_eq!(made["nodes"][0]["grpc"], "10.0.0.1:7301");
    assert_eq!(made["nodes"][0]["console"], "http://127.0.0.1:7302/");
    // Each next step is a command that there is.
    for step in made["next"].as_array().unwrap() {
        let words: Vec<&str> = step.as_str().unwrap().split(' ').skip(1).collect();
        let output = run(dir, &[&words[..], &["--help"]].concat());
        assert!(output.status.success(), "{step}");
    }
    let before = fs::read(dir.join("conf/node-1.toml")).unwrap();
    fs::remove_file(dir.join("conf/node-3.toml")).unwrap();
    fails(dir, &init, 4, "AlreadyExists");
    assert_eq!(fs::read(dir.join("conf/node-1.toml")).unwrap(), before);
    assert!(!dir.join("conf/node-3.toml").exists(), "all of them or none");
    fails(dir, &["cluster", "init", "--node=1=10.0.0.1:1", "--node=1=10.0.0.2:1"], 2, "Usage");
    let near = ["cluster", "init", "--node=1=127.0.0.1:7300", "--node=2=127.0.0.1:7302"];
    fails(dir, &near, 2, "Usage");
}

/// Three nodes for the load alone, gone at the end.
#[test]
fn a_load_brings_its_own_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = palisade(dir.path());
    command.args(["bench", "put", "--own-cluster", "--operations", "50", "--json"]);
    let output = command.env("TMPDIR", dir.path()).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &document["operations"]),
        (Some(0), &50.into()),
        "{document}"
    );
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left of it");
}
