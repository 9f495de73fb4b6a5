//! Connections of callers: so many and no more, and each by a certificate where one is asked for.

use std::io;
use std::net::SocketAddr;
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

use crate::security::accept::{AcceptRefusal, CallerStream, Gate};
use crate::security::audit::{AuditEvent, AuditFacts, AuditQueue};
use crate::security::identity::Identity;
use crate::security::now_ms;

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

/// A connection of a caller.
pub(super) struct Connection {
    io: Io,
    address: SocketAddr,
    _place: OwnedSemaphorePermit,
}

/// Who is on the other side.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Where it is asked.
    pub(crate) identity: Option<Identity>,
}

/// Asks who comes, and writes down who is not let in.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) gate: Arc<Gate>,
    pub(super) audit: Arc<AuditQueue>,
}

impl Door {
    async fn admit(&self, stream: TcpStream, address: SocketAddr) -> Option<Box<CallerStream>> {
        match self.gate.admit(stream).await {
            Ok(stream) => Some(Box::new(stream)),
            Err(refusal) => {
                tracing::debug!(%address, %refusal, "a caller was not let in");
                // Who goes away by himself was not refused.
                if !matches!(refusal, AcceptRefusal::Lost(_)) {
                    let (address, why) = (address.ip().to_string(), refusal.to_string());
                    let facts = AuditFacts::of(AuditEvent::NotAuthenticated);
                    self.audit.note(AuditFacts { address, why, ..facts }, now_ms());
                }
                None
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let identity = match &self.io {
            Io::Plain(_) => None,
            Io::Certified(stream) => Some(stream.identity().clone()),
        };
        Peer { address: self.address, identity }
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
    door: Option<Door>,
    places: Arc<Semaphore>,
    handshakes: JoinSet<Option<Connection>>,
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    match accepted {
                        Ok((stream, address)) => {
                            if let Some(connection) = self.take(stream, address) {
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
    fn take(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!("a connection was closed: there are {CONNECTIONS_MAX}");
            return None;
        };
        // Without it answers wait for more; they come later then, and are the same.
        let _ = stream.set_nodelay(true);
        let Some(door) = self.door.clone() else {
            return Some(Connection { io: Io::Plain(stream), address, _place: place });
        };
        self.handshakes.spawn(async move {
            let io = Io::Certified(door.admit(stream, address).await?);
            Some(Connection { io, address, _place: place })
        });
        None
    }
}

/// The connections that come to a listener, through a door if there is one.
pub(super) fn incoming(
    listener: TcpListener,
    door: Option<Door>,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let incoming = Incoming { listener, door, places, handshakes: JoinSet::new() };
    stream::unfold(incoming, |mut incoming| async {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}
