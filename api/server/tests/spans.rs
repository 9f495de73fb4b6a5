//! Spans of a real node, as a collector gets them.

#[path = "support/collector.rs"]
mod collector;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use collector::{Collector, Span};
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1::directory_client::DirectoryClient;
use palisade_proto::directory::v1::{Kind, OpenRequest, Spec};
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::log::v1::{AppendRequest, AppendStreamRequest};
use tonic::transport::Channel;
use tonic::{Code, Request};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SERVER: i32 = 2;

/// A node that this test has started.
struct Node {
    process: Child,
    address: SocketAddr,
}

impl Node {
    fn start(dir: &Path, collector: SocketAddr, stored: bool) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "[node]\nid = 7\ncluster = \"000000000000000000000000000000aa\"\ndata_dir = \"data\"\n\
             [listen]\ngrpc = \"{free}\"\n[security]\nmode = \"insecure-loopback\"\n\
             [log]\nlevel = \"off\"\n[traces]\ncollector = \"{collector}\"\n\
             stored = {stored}\n"
        );
        std::fs::write(dir.join("node.toml"), config).unwrap();
        let mut command = support::palisade(dir);
        command.args(["node", "--config", "node.toml"]).stdout(Stdio::null());
        Self { process: command.spawn().unwrap(), address: free }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Tells it to end, and waits until it has.
    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In a trace, as the part of its caller that is numbered so.
fn traced<T>(message: T, parent: u8, flags: u8) -> Request<T> {
    let mut request = Request::new(message);
    let text = format!("00-{TRACE}-00000000000000{parent:02x}-{flags:02x}");
    request.metadata_mut().insert("traceparent", text.parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=value".parse().unwrap());
    request
}

fn log(name: &str) -> Option<common::Resource> {
    let (name, schema) = (name.to_owned(), "order.v1".to_owned());
    Some(common::Resource { name, schema, ..Default::default() })
}

fn append(name: &str) -> AppendRequest {
    AppendRequest { log: log(name), values: vec!["an apple".into()], ..Default::default() }
}

async fn open(channel: Channel) {
    let spec = Spec {
        name: "orders".to_owned(),
        kind: Kind::Log.into(),
        schema: "order.v1".to_owned(),
        ..Default::default()
    };
    let open = OpenRequest { spec: Some(spec) };
    DirectoryClient::new(channel).open(open).await.unwrap();
}

fn of(spans: &[Span], parent: u8) -> Vec<&Span> {
    let parent = format!("00000000000000{parent:02x}");
    spans.iter().filter(|span| span.parent_id == parent).collect()
}

fn place(of: &Span) -> (Option<String>, Option<String>) {
    (of.says("group"), of.says("offset"))
}

fn says(receipt: Option<common::Receipt>) -> (Option<String>, Option<String>) {
    let receipt = receipt.unwrap();
    (Some(receipt.group.to_string()), Some(receipt.offset.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_call_is_a_span_of_its_callers_trace() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start().await;
    let node = Node::start(dir.path(), collector.address, false);
    let channel = node.channel().await;
    open(channel.clone()).await;

    let mut logs = LogClient::new(channel);
    let kept = logs.append(traced(append("orders"), 1, 1)).await.unwrap().into_inner();
    let message = |log, value: &'static str| {
        let values = if value.is_empty() { Vec::new() } else { vec![value.into()] };
        AppendStreamRequest { log, values }
    };
    // More records than a span has room for, each after the answer to the one before.
    let (send, mut messages) = tokio::sync::mpsc::channel(1);
    send.send(message(log("orders"), "a pear")).await.unwrap();
    let messages = futures_util::stream::poll_fn(move |context| messages.poll_recv(context));
    let mut answers = logs.append_stream(traced(messages, 2, 1)).await.unwrap().into_inner();
    let mut last = None;
    for _ in 0..200 {
        last = answers.message().await.unwrap().unwrap().receipt;
        send.send(message(None, "a plum")).await.unwrap();
    }
    drop(send);
    while let Some(answer) = answers.message().await.unwrap() {
        last = answer.receipt;
    }
    let refused = logs.append(traced(append("nothing"), 3, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // Nobody keeps these.
    logs.append(traced(append("orders"), 4, 0)).await.unwrap();
    logs.append(append("orders")).await.unwrap();
    drop((logs, answers));
    // What waits is sent before the process ends.
    tokio::task::spawn_blocking(|| node.stop()).await.unwrap();

    let spans = collector.spans();
    let [unary] = of(&spans, 1)[..] else { panic!("{spans:?}") };
    assert_eq!((unary.trace_id.as_str(), unary.state.as_str()), (TRACE, "vendor=value"));
    assert_eq!((unary.name.as_str(), unary.kind), ("palisade.log.v1.Log/Append", SERVER));
    assert_eq!(place(unary), says(kept.receipt));
    assert_eq!((unary.says("code").as_deref(), unary.is_error), (Some("Ok"), false));
    assert_eq!(unary.process_says("service.name").as_deref(), Some("palisade"));
    assert_eq!(unary.process_says("service.instance.id").as_deref(), Some("7"));
    assert!(unary.took_nanos > 0);

    let [stream] = of(&spans, 2)[..] else { panic!("{spans:?}") };
    assert_eq!(stream.name, "palisade.log.v1.Log/AppendStream");
    assert_eq!(place(stream), says(last), "where its last record took effect");

    let [refused] = of(&spans, 3)[..] else { panic!("{spans:?}") };
    assert_eq!((refused.says("code").as_deref(), refused.is_error), (Some("NotFound"), false));
    assert_eq!(place(refused), (None, None));

    assert_eq!(spans.len(), 3, "{spans:?}");
}

/// Where the record is applied, the trace goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_stored_with_its_trace_is_a_span_where_it_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start().await;
    let node = Node::start(dir.path(), collector.address, true);
    let channel = node.channel().await;
    open(channel.clone()).await;
    let mut logs = LogClient::new(channel);
    let kept = logs.append(traced(append("orders"), 1, 1)).await.unwrap().into_inner();
    logs.append(traced(append("orders"), 2, 0)).await.unwrap();
    drop(logs);
    tokio::task::spawn_blocking(|| node.stop()).await.unwrap();
    let spans = collector.spans();
    let applied: Vec<&Span> = spans.iter().filter(|span| span.name == "palisade.apply").collect();
    let [applied] = applied[..] else { panic!("{spans:?}") };
    assert_eq!(applied.trace_id, TRACE);
    assert_eq!(applied.parent_id, "0000000000000001");
    assert_eq!(place(applied), says(kept.receipt));
    assert_eq!(applied.says("outcome").as_deref(), Some("done"));
    assert_eq!(applied.says("node").as_deref(), Some("7"));
    assert_eq!(spans.len(), 2, "{spans:?}");
}

/// A collector that is not there takes nothing from calls, and little from the end of the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = Node::start(dir.path(), nobody, true);
    let mut logs = LogClient::new(node.channel().await);
    let refused = logs.append(traced(append("orders"), 1, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    tokio::task::spawn_blocking(|| node.stop()).await.unwrap();
}
