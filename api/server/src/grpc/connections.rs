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

/// A connection of a caller, and its place among those that there may be.
pub(crate) struct Connection {
    io: Io,
    address: SocketAddr,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// One that needs no certificate.
    pub(crate) fn plain(
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { io: Io::Plain(stream), address, _place: place }
    }
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
                // There is none to wait for only where there is room for one.
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
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
            return Some(Connection::plain(stream, address, place));
        };
        self.handshakes.spawn(async move {
            let io = Io::Certified(door.admit(stream, address).await?);
            Some(Connection { io, address, _place: place })
        });
        None
    }
}

/// The connections that come to a listener while there are places, through a door if there is one.
pub(super) fn incoming(
    listener: TcpListener,
    door: Option<Door>,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Connection>> {
    let incoming = Incoming { listener, door, places, handshakes: JoinSet::new() };
    stream::unfold(incoming, |mut incoming| async {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use palisade::tls::{CertificateRole, Credentials, Subject};
    use palisade::{ClusterId, NodeId};
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::security::ca::{Authority, Ca, LeafOrder};
    use crate::security::tls::CallerTls;

    /// G12: one more than there are places is closed at once, and there is room again when one has gone.
    #[tokio::test]
    async fn so_many_connections_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = pin!(incoming(listener, None, Arc::new(Semaphore::new(2))));
        let mut dialed = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..2 {
            dialed.push(TcpStream::connect(address).await.unwrap());
            taken.push(incoming.next().await.unwrap().unwrap());
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            read = third.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_)), "{read:?}"),
            _ = incoming.next() => panic!("there is no place for it"),
        }
        taken.pop();
        let _fourth = TcpStream::connect(address).await.unwrap();
        incoming.next().await.unwrap().unwrap();
    }

    fn tls(ca: &Ca, subject: Subject, believed: Authority, role: CertificateRole) -> CallerTls {
        let order = LeafOrder { subject, dns: Vec::new(), ips: Vec::new(), hours: 1 };
        let leaf = ca.issue(&order).unwrap();
        let credentials = Credentials {
            certificates_pem: leaf.certificate_pem.into(),
            key_pem: leaf.key_pem.unwrap().into(),
            authorities_pem: ca.bundle(believed).unwrap().into(),
        };
        CallerTls::new(ca.cluster(), role, &credentials).unwrap()
    }

    /// G12: as many as there are handshakes at once, who are all refused, make room for who means it.
    #[tokio::test]
    async fn handshakes_that_fail_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::init(&dir.path().join("ca"), ClusterId::new(1)).unwrap();
        let one = ca.node(NodeId::new(1));
        let own = tls(&ca, one, Authority::Client, CertificateRole::Node);
        let reports = ca.client("reports").unwrap();
        let theirs = tls(&ca, reports, Authority::Peer, CertificateRole::Client);
        let gate = Arc::new(Gate::new(ca.cluster(), Arc::new(own)));
        let door = Door { gate, audit: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming =
            pin!(incoming(listener, Some(door.clone()), Arc::new(Semaphore::new(CONNECTIONS_MAX))));
        let calling = async {
            let mut crowd = Vec::new();
            for _ in 0..HANDSHAKES_MAX {
                crowd.push(TcpStream::connect(address).await.unwrap());
                tokio::task::yield_now().await;
            }
            for stream in &mut crowd {
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            }
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::IpAddress(address.ip().into());
            TlsConnector::from(theirs.setup().client()).connect(name, stream).await.unwrap()
        };
        let (_called, taken) = tokio::join!(calling, incoming.next());
        let peer = taken.unwrap().unwrap().connect_info();
        assert_eq!(peer.identity.unwrap().client(), Some("reports"));
        let records = door.audit.take(1);
        let count: u64 = records.iter().map(|record| record.count).sum();
        assert!(0 < count, "and they are written down");
    }
}
