//! A collector of spans, as much of OpenTelemetry's as a test needs: its own reading of what is on the wire.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use palisade_proto::MessageCodec;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    of: Vec<OfProcess>,
}

#[derive(Clone, PartialEq, Message)]
struct OfProcess {
    #[prost(message, optional, tag = "1")]
    process: Option<Process>,
    #[prost(message, repeated, tag = "2")]
    of: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct Process {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Sent>,
}

#[derive(Clone, PartialEq, Message)]
struct Sent {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_id: Vec<u8>,
    #[prost(string, tag = "3")]
    state: String,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    begun: u64,
    #[prost(fixed64, tag = "8")]
    ended: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<SentStatus>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SentStatus {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AttributeValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeValue {
    #[prost(oneof = "Any", tags = "1, 2, 3")]
    any: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Switch(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Answer {}

/// A span that has come.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace_id: String,
    pub(crate) parent_id: String,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) took_nanos: u64,
    pub(crate) is_error: bool,
    attributes: Vec<Attribute>,
    process: Vec<Attribute>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn find(attributes: &[Attribute], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.clone()?.any? {
        Any::Text(text) => text,
        Any::Switch(switch) => switch.to_string(),
        Any::Number(number) => number.to_string(),
    })
}

impl Span {
    /// What it says of the call.
    pub(crate) fn says(&self, key: &str) -> Option<String> {
        find(&self.attributes, key)
    }

    /// What it says of the process.
    pub(crate) fn process_says(&self, key: &str) -> Option<String> {
        find(&self.process, key)
    }
}

/// Spans, until it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    taken: Taken,
    _served: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<Span>>>);

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, taken) = (listener.local_addr().unwrap(), Taken::default());
        let service = taken.clone();
        let mut served = JoinSet::new();
        served.spawn(async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { address, taken, _served: served }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.taken.0.lock().unwrap().clone()
    }
}

impl NamedService for Taken {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<HttpRequest<Body>> for Taken {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<HttpResponse<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), format!("/{}/Export", Self::NAME));
        let taken = self.clone();
        Box::pin(async move {
            Ok(Grpc::new(MessageCodec::<Answer, Export>::default()).unary(taken, request).await)
        })
    }
}

impl UnaryService<Export> for Taken {
    type Response = Answer;
    type Future = BoxFuture<Response<Answer>, Status>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        for of in request.into_inner().of {
            let process = of.process.unwrap_or_default().attributes;
            let spans = of.of.into_iter().flat_map(|of| of.spans).map(|sent| Span {
                trace_id: hex(&sent.trace_id),
                parent_id: hex(&sent.parent_id),
                state: sent.state,
                name: sent.name,
                kind: sent.kind,
                took_nanos: sent.ended - sent.begun,
                is_error: sent.status.is_some_and(|status| status.code == 2),
                attributes: sent.attributes,
                process: process.clone(),
            });
            self.0.lock().unwrap().extend(spans);
        }
        Box::pin(std::future::ready(Ok(Response::new(Answer {}))))
    }
}
