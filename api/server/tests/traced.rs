//! The trace of a caller goes on where his record is applied: at each node of a real cluster, whichever was called.

mod support;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1::directory_client::DirectoryClient;
use palisade_proto::directory::v1::{Kind, OpenRequest, Spec};
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::log::v1::{AppendRequest, AppendStreamRequest};
use serde_json::Value;
use tokio::time::timeout;
use tonic::Request;
use tonic::transport::Channel;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that this test has started, and what it logs.
struct Node {
    process: Child,
    grpc: u16,
    lines: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", self.grpc)).unwrap();
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// What it logged in spans of this name, that far.
    fn spans(&self, name: &str) -> Vec<Value> {
        let lines = std::fs::read_to_string(&self.lines).unwrap();
        // The last line may be half there.
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.map(|line| line["span"].clone()).filter(|span| span["name"] == name).collect()
    }

    /// The spans of records that it has applied as a part of this span of the caller, once there are so many.
    async fn applied(&self, parent: u8, count: usize) -> Vec<Value> {
        let parent = format!("00000000000000{parent:02x}");
        let looks = async {
            loop {
                let mut spans = self.spans("apply");
                spans.retain(|span| span["parent_id"] == parent.as_str());
                if count <= spans.len() {
                    return spans;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, looks).await.expect("it applies what was committed")
    }
}

fn start(dir: &Path, id: usize, peers: &[u16], grpc: &[u16], stored: bool) -> Node {
    let voters = peers
        .iter()
        .enumerate()
        .map(|(at, port)| format!("[[voters]]\nid = {}\naddress = \"127.0.0.1:{port}\"\n", at + 1));
    let (peer, port) = (peers[id - 1], grpc[id - 1]);
    let config = format!(
        "[node]\nid = {id}\ncluster = \"000000000000000000000000000000aa\"\nmode = \"raft\"\n\
         data_dir = \"data-{id}\"\n[listen]\npeers = \"127.0.0.1:{peer}\"\n\
         grpc = \"127.0.0.1:{port}\"\n[security]\nmode = \"insecure-loopback\"\n\
         [log]\nlevel = \"palisade_server=debug\"\nformat = \"json\"\n\
         [traces]\nstored = {stored}\n{}",
        voters.collect::<String>()
    );
    let (file, lines) = (format!("node-{id}.toml"), dir.join(format!("node-{id}.log")));
    std::fs::write(dir.join(&file), config).unwrap();
    let mut command = support::palisade(dir);
    command.args(["node", "--config", &file]).stdout(Stdio::null());
    let process = command.stderr(File::create(&lines).unwrap()).spawn().unwrap();
    Node { process, grpc: port, lines }
}

/// Three nodes, of which those keep traces with what is written through them.
fn cluster(dir: &Path, stored: [bool; 3]) -> Vec<Node> {
    // Held until each has its own.
    let held: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = held.iter().map(|held| held.local_addr().unwrap().port()).collect();
    drop(held);
    let (peers, grpc) = ports.split_at(3);
    (1..=3).map(|id| start(dir, id, peers, grpc, stored[id - 1])).collect()
}

fn traced<T>(message: T, parent: u8, flags: u8) -> Request<T> {
    let mut request = Request::new(message);
    let text = format!("00-{TRACE}-00000000000000{parent:02x}-{flags:02x}");
    request.metadata_mut().insert("traceparent", text.parse().unwrap());
    request
}

fn log() -> Option<common::Resource> {
    let (name, schema) = ("orders".to_owned(), "order.v1".to_owned());
    Some(common::Resource { name, schema, ..Default::default() })
}

fn append() -> AppendRequest {
    AppendRequest { log: log(), values: vec!["an apple".into()], ..Default::default() }
}

async fn open(channel: Channel) {
    let spec = Spec {
        name: "orders".to_owned(),
        kind: Kind::Log.into(),
        schema: "order.v1".to_owned(),
        ..Default::default()
    };
    let open = OpenRequest { spec: Some(spec) };
    let mut directory = DirectoryClient::new(channel);
    // Without a leader, at first.
    while directory.open(open.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_at_every_node_that_applies_the_record() {
    let dir = tempfile::tempdir().unwrap();
    // One that stores no contexts applies those of the others.
    let nodes = cluster(dir.path(), [true, true, false]);
    open(nodes[0].channel().await).await;
    // At most one of the two leads.
    for (at, node) in nodes[..2].iter().enumerate() {
        let parent = at as u8 + 1;
        let mut logs = LogClient::new(node.channel().await);
        let appended = logs.append(traced(append(), parent, 1)).await.unwrap().into_inner();
        let receipt = appended.receipt.unwrap();
        for (node, number) in nodes.iter().zip(1..) {
            let [span] = &node.applied(parent, 1).await[..] else { panic!("one record") };
            assert_eq!(span["trace_id"], TRACE);
            assert_eq!((&span["node"], &span["outcome"]), (&number.into(), &"done".into()));
            let place = (span["group"].as_u64(), span["offset"].as_u64());
            assert_eq!(place, (Some(receipt.group), Some(receipt.offset)));
        }
    }
    // Each record of a stream.
    let mut logs = LogClient::new(nodes[0].channel().await);
    let message =
        |log, value: &'static str| AppendStreamRequest { log, values: vec![value.into()] };
    let (send, mut messages) = tokio::sync::mpsc::channel(1);
    send.send(message(log(), "a pear")).await.unwrap();
    let messages = futures_util::stream::poll_fn(move |context| messages.poll_recv(context));
    let mut answers = logs.append_stream(traced(messages, 7, 1)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    send.send(message(None, "a plum")).await.unwrap();
    answers.message().await.unwrap().unwrap();
    drop(send);
    for node in &nodes {
        assert_eq!(node.applied(7, 2).await.len(), 2);
    }
    // A caller who keeps nothing, and a node that was not told to store anything.
    logs.append(traced(append(), 8, 0)).await.unwrap();
    let mut other = LogClient::new(nodes[2].channel().await);
    other.append(traced(append(), 9, 1)).await.unwrap();
    // Refused: it has its place all the same. One behind the others: all of them are told by then.
    let mut stale = append();
    stale.expected_tail = Some(common::Position { offset: 1, index: 0 });
    logs.append(traced(stale, 10, 1)).await.unwrap_err();
    for node in &nodes {
        let [span] = &node.applied(10, 1).await[..] else { panic!("one record") };
        assert_eq!(span["outcome"], "refused");
        assert_eq!(node.applied(8, 0).await.len() + node.applied(9, 0).await.len(), 0);
    }
}
