//! What gRPC itself takes: services that answer each append and each get at once, and store nothing.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use palisade_proto::common::v1::{Position, Receipt, Reflected, Value};
use palisade_proto::log::v1 as log;
use palisade_proto::log::v1::log_server::{Log, LogServer};
use palisade_proto::map::v1 as map;
use palisade_proto::map::v1::map_server::{Map, MapServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::RECORD_BYTES;
use crate::payloads::Payloads;

/// A running service; stopped when dropped.
pub struct Echo {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Echo {
    /// Serves on loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn serve() -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = Server::builder()
                .add_service(LogServer::new(AtOnce::default()))
                .add_service(MapServer::new(AtOnce::default()));
            if let Err(error) = server.serve_with_incoming(incoming).await {
                eprintln!("the echo ended: {error}");
            }
        });
        Ok(Self { address, _task: task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

struct AtOnce {
    payloads: Payloads,
}

impl Default for AtOnce {
    fn default() -> Self {
        Self { payloads: Payloads::of(RECORD_BYTES) }
    }
}

/// As long as the answers of a node are.
fn receipt() -> Option<Receipt> {
    Some(Receipt { freshness: vec![b'x'; 20].into(), ..Receipt::default() })
}

fn answer(values: usize) -> log::AppendStreamResponse {
    let first = Some(Position::default());
    log::AppendStreamResponse { messages: 1, receipt: receipt(), first, values: values as u32 }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("only appends and gets are answered"))
}

/// As long as the answers of a node are.
fn row(key: Bytes, data: Bytes) -> map::Found {
    let value = Some(Value { data, ..Value::default() });
    map::Found { row: Some(map::Row { key, value, version: 1, ends_at_ms: 0 }) }
}

fn reflected() -> Option<Reflected> {
    Some(Reflected { freshness: vec![b'x'; 20].into(), ..Reflected::default() })
}

#[tonic::async_trait]
impl Log for AtOnce {
    type AppendStreamStream = Answers<log::AppendStreamResponse>;
    type TailStream = Answers<log::TailResponse>;

    async fn append(
        &self,
        _: Request<log::AppendRequest>,
    ) -> Result<Response<log::AppendResponse>, Status> {
        let first = Some(Position::default());
        Ok(Response::new(log::AppendResponse { receipt: receipt(), first }))
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<log::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let answers = request.into_inner().filter_map(async |message| match message {
            Ok(message) if message.values.is_empty() => None,
            message => Some(message.map(|message| answer(message.values.len()))),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn scan(
        &self,
        _: Request<log::ScanRequest>,
    ) -> Result<Response<log::ScanResponse>, Status> {
        not_here()
    }

    async fn tail(
        &self,
        _: Request<log::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        not_here()
    }

    async fn get_bounds(
        &self,
        _: Request<log::GetBoundsRequest>,
    ) -> Result<Response<log::GetBoundsResponse>, Status> {
        not_here()
    }

    async fn set_retention(
        &self,
        _: Request<log::SetRetentionRequest>,
    ) -> Result<Response<log::SetRetentionResponse>, Status> {
        not_here()
    }

    async fn trim(
        &self,
        _: Request<log::TrimRequest>,
    ) -> Result<Response<log::TrimResponse>, Status> {
        not_here()
    }

    async fn get_consumer(
        &self,
        _: Request<log::GetConsumerRequest>,
    ) -> Result<Response<log::GetConsumerResponse>, Status> {
        not_here()
    }

    async fn set_consumer(
        &self,
        _: Request<log::SetConsumerRequest>,
    ) -> Result<Response<log::SetConsumerResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl Map for AtOnce {
    type WatchStream = Answers<map::WatchResponse>;

    async fn get(
        &self,
        request: Request<map::GetRequest>,
    ) -> Result<Response<map::GetResponse>, Status> {
        let keys = request.into_inner().keys.into_iter();
        let found = keys.map(|key| row(key, self.payloads.get(0))).collect();
        Ok(Response::new(map::GetResponse { found, reflected: reflected() }))
    }

    async fn put(&self, _: Request<map::PutRequest>) -> Result<Response<map::PutResponse>, Status> {
        not_here()
    }

    async fn delete(
        &self,
        _: Request<map::DeleteRequest>,
    ) -> Result<Response<map::DeleteResponse>, Status> {
        not_here()
    }

    async fn range(
        &self,
        _: Request<map::RangeRequest>,
    ) -> Result<Response<map::RangeResponse>, Status> {
        not_here()
    }

    async fn watch(
        &self,
        _: Request<map::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        not_here()
    }

    async fn get_bounds(
        &self,
        _: Request<map::GetBoundsRequest>,
    ) -> Result<Response<map::GetBoundsResponse>, Status> {
        not_here()
    }

    async fn set_history(
        &self,
        _: Request<map::SetHistoryRequest>,
    ) -> Result<Response<map::SetHistoryResponse>, Status> {
        not_here()
    }
}
