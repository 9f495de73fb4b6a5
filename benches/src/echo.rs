//! What gRPC itself takes: the log service that answers each append at once, and stores nothing.

use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use palisade_proto::common::v1::{Position, Receipt};
use palisade_proto::log::v1 as log;
use palisade_proto::log::v1::log_server::{Log, LogServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

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
            let server = Server::builder().add_service(LogServer::new(AtOnce));
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

struct AtOnce;

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
    Err(Status::unimplemented("only appends are answered"))
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
