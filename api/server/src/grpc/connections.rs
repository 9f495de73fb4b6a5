//! Connections of callers: so many and no more, and each by a certificate where one is asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::server::Connected;

use crate::security::accept::{CallerStream, Gate};
use crate::security::identity::Identity;

/// Connections of one node. Over it, new ones are closed at once.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Those that have not shown a certificate yet. Over it, new ones wait to be taken.
const HANDSHAKES_MAX: usize = 64;
/// After the system had no room for a connection.
const PAUSE: Duration = Duration::from_millis(50);

enum Io {
    Plain(TcpStream),
    Certified(Box<CallerStream>),
}

/// A connection of a caller, and its place among those that there may be.
pub(crate) struct Connection {
    io: Io,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// One that needs no certificate.
    pub(crate) fn plain(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self { io: Io::Plain(stream), _place: place }
    }
}

/// Who is on the other side, where that is asked.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Option<Identity>);

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match &self.io {
            Io::Plain(_) => Peer(None),
            Io::Certified(stream) => Peer(Some(stream.identity().clone())),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Certified(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Certified(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Certified(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Certified(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

struct Incoming {
    listener: TcpListener,
    gate: Option<Arc<Gate>>,
    places: Arc<Semaphore>,
    handshakes: JoinSet<Option<Connection>>,
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    match accepted {
                        Ok((stream, _)) => {
                            if let Some(connection) = self.take(stream) {
                                return connection;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a connection was not taken");
                            sleep(PAUSE).await;
                        }
                    }
                }
                Some(Ok(Some(connection))) = self.handshakes.join_next() => return connection,
            }
        }
    }

    /// Takes it if it needs no certificate, or begins to ask for one.
    fn take(&mut self, stream: TcpStream) -> Option<Connection> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!("a connection was closed: there are {CONNECTIONS_MAX}");
            return None;
        };
        // Without it answers wait for more; they come later then, and are the same.
        let _ = stream.set_nodelay(true);
        let Some(gate) = &self.gate else {
            return Some(Connection::plain(stream, place));
        };
        let gate = Arc::clone(gate);
        self.handshakes.spawn(async move {
            match gate.admit(stream).await {
                Ok(stream) => {
                    Some(Connection { io: Io::Certified(Box::new(stream)), _place: place })
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "a caller was not let in");
                    None
                }
            }
        });
        None
    }
}

/// The connections that come to a listener while there are places, through a gate if there is one.
pub(super) fn incoming(
    listener: TcpListener,
    gate: Option<Arc<Gate>>,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Connection>> {
    let incoming = Incoming { listener, gate, places, handshakes: JoinSet::new() };
    stream::unfold(incoming, |mut incoming| async {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}
