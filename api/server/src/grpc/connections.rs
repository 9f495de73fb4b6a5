//! Connections of callers: so many and no more, and each by a certificate where one is asked for.
//!
//! Until one begins with HTTP/2 it waits in a lobby, as strangers do between nodes, and has no place among those
//! that there may be: whoever means it is through in no time, and a crowd that says nothing keeps nobody out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use palisade::lobby::{Lobby, Origin, Place, STRANGERS_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::server::Connected;

use crate::security::accept::{AcceptRefusal, CallerStream, Gate};
use crate::security::audit::{AuditEvent, AuditFacts, AuditQueue};
use crate::security::identity::Identity;
use crate::security::now_ms;

/// Connections of one node that speak HTTP/2. Over it, new ones are closed at once.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Those of one certificate's name. Over it, its new ones are closed at once.
const CONNECTIONS_OF_NAME_MAX: usize = 128;
/// How long one may take to begin with HTTP/2, once it has shown a certificate where one is asked for.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// What HTTP/2 begins with: these bytes, and the head of a frame of settings.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_BYTES: usize = PREFACE.len() + 9;
/// Tasks of connections that have not begun: those in the lobby, and as many that have just lost their place.
const BEGINNING_MAX: usize = 2 * STRANGERS_MAX;
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
    /// What it has begun with, and nobody has read.
    begun: Bytes,
    _place: OwnedSemaphorePermit,
    _of_name: Option<PlaceOfName>,
}

impl Connection {
    /// One that needs no certificate.
    pub(crate) fn plain(
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let io = Io::Plain(stream);
        Self { io, address, begun: Bytes::new(), _place: place, _of_name: None }
    }
}

/// How many connections each name has.
#[derive(Debug, Default)]
struct Names(Mutex<BTreeMap<String, usize>>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more of that name, if it has not too many.
    fn enter(self: &Arc<Self>, name: &str) -> Option<PlaceOfName> {
        let mut names = self.lock();
        let count = names.entry(name.to_owned()).or_default();
        if CONNECTIONS_OF_NAME_MAX <= *count {
            return None;
        }
        *count += 1;
        drop(names);
        Some(PlaceOfName { names: Arc::clone(self), name: name.to_owned() })
    }
}

/// One of a name's connections; given back with this.
struct PlaceOfName {
    names: Arc<Names>,
    name: String,
}

impl Drop for PlaceOfName {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
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
        if !self.begun.is_empty() {
            let next = self.begun.len().min(buffer.remaining());
            buffer.put_slice(&self.begun.split_to(next));
            return Poll::Ready(Ok(()));
        }
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

/// How connections begin.
#[derive(Clone)]
struct Hall {
    door: Option<Door>,
    places: Arc<Semaphore>,
    names: Arc<Names>,
    /// Those that have not begun.
    lobby: Arc<Lobby>,
    preface_timeout: Duration,
}

impl Hall {
    fn new(door: Option<Door>, places: Arc<Semaphore>) -> Self {
        let (names, lobby) = (Arc::default(), Arc::default());
        Self { door, places, names, lobby, preface_timeout: PREFACE_TIMEOUT }
    }

    /// Waits until one speaks, for as long as nobody else needs its place.
    async fn begin(
        self,
        stream: TcpStream,
        address: SocketAddr,
        waits: Place,
    ) -> Option<Connection> {
        tokio::select! {
            biased;
            () = waits.taken() => {
                tracing::debug!(%address, "a connection that said nothing made room for another");
                None
            }
            begun = self.begun(stream, address) => begun,
        }
    }

    async fn begun(&self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        // Without it answers wait for more; they come later then, and are the same.
        let _ = stream.set_nodelay(true);
        let (begun, io) = match &self.door {
            None => {
                let mut stream = stream;
                (self.preface(&mut stream, address).await?, Io::Plain(stream))
            }
            Some(door) => {
                let mut stream = door.admit(stream, address).await?;
                (self.preface(&mut stream, address).await?, Io::Certified(stream))
            }
        };
        let of_name = match &io {
            Io::Plain(_) => None,
            Io::Certified(stream) => {
                let name = stream.identity().client()?;
                let Some(place) = self.names.enter(name) else {
                    tracing::warn!(
                        name,
                        "a connection was closed: its name has {CONNECTIONS_OF_NAME_MAX}"
                    );
                    return None;
                };
                Some(place)
            }
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!("a connection was closed: there are {CONNECTIONS_MAX}");
            return None;
        };
        Some(Connection { io, address, begun, _place: place, _of_name: of_name })
    }

    /// What HTTP/2 begins with, and nothing behind it.
    async fn preface(
        &self,
        io: &mut (impl AsyncRead + Unpin),
        address: SocketAddr,
    ) -> Option<Bytes> {
        let mut preface = [0; PREFACE_BYTES];
        let begins = async {
            let mut came = 0;
            while came < PREFACE_BYTES {
                match io.read(&mut preface[came..]).await {
                    Ok(0) | Err(_) => return false,
                    Ok(count) => came += count,
                }
                let known = came.min(PREFACE.len());
                if preface[..known] != PREFACE[..known] {
                    return false;
                }
            }
            true
        };
        match timeout(self.preface_timeout, begins).await {
            Ok(true) => Some(Bytes::copy_from_slice(&preface)),
            Ok(false) => {
                tracing::debug!(%address, "a connection was closed: it does not begin as HTTP/2");
                None
            }
            Err(_) => {
                tracing::debug!(%address, "a connection was closed: it said nothing in time");
                None
            }
        }
    }
}

struct Incoming {
    listener: TcpListener,
    hall: Hall,
    beginning: JoinSet<Option<Connection>>,
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.beginning.len() < BEGINNING_MAX => {
                    match accepted {
                        Ok((stream, address)) => {
                            let waits = self.hall.lobby.enter(Origin::of(address.ip()));
                            self.beginning.spawn(self.hall.clone().begin(stream, address, waits));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a connection was not taken");
                            sleep(PAUSE).await;
                        }
                    }
                }
                // There is none to wait for only where there is room for one.
                Some(ended) = self.beginning.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
            }
        }
    }
}

fn through(listener: TcpListener, hall: Hall) -> impl Stream<Item = io::Result<Connection>> {
    let incoming = Incoming { listener, hall, beginning: JoinSet::new() };
    stream::unfold(incoming, |mut incoming| async {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    })
}

/// The connections that come to a listener and speak while there are places, through a door if there is one.
pub(super) fn incoming(
    listener: TcpListener,
    door: Option<Door>,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Connection>> {
    through(listener, Hall::new(door, places))
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

    /// What it begins with who means it.
    async fn speak(io: &mut (impl AsyncWrite + Unpin)) {
        io.write_all(&[&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0"].concat()).await.unwrap();
    }

    async fn speaking(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        speak(&mut stream).await;
        stream
    }

    /// G12: one more than there are places is closed at once, and there is room again when one has gone.
    #[tokio::test]
    async fn so_many_connections_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = pin!(incoming(listener, None, Arc::new(Semaphore::new(2))));
        let mut dialed = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..2 {
            dialed.push(speaking(address).await);
            taken.push(incoming.next().await.unwrap().unwrap());
        }
        let mut third = speaking(address).await;
        let mut byte = [0];
        tokio::select! {
            read = third.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_)), "{read:?}"),
            _ = incoming.next() => panic!("there is no place for it"),
        }
        taken.pop();
        let _fourth = speaking(address).await;
        let mut connection = incoming.next().await.unwrap().unwrap();
        let mut begun = [0; PREFACE_BYTES];
        connection.read_exact(&mut begun).await.unwrap();
        assert_eq!(begun[..PREFACE.len()], PREFACE[..], "what was read to know it is read again");
    }

    /// G12: a name has so many of them, and others have their own.
    #[test]
    fn so_many_connections_of_a_name() {
        let names = Arc::new(Names::default());
        let enter = |name| names.enter(name);
        let mut places: Vec<_> =
            (0..CONNECTIONS_OF_NAME_MAX).map(|_| enter("mallory").unwrap()).collect();
        assert!(enter("mallory").is_none());
        let other = enter("reports").unwrap();
        places.pop();
        places.push(enter("mallory").unwrap());
        drop((places, other));
        assert!(names.lock().is_empty());
    }

    /// A hall in which a connection may be silent for ever, if nobody needs its place.
    fn patient(door: Option<Door>) -> Hall {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Hall { preface_timeout: Duration::MAX, ..Hall::new(door, places) }
    }

    /// G12: three times as many silent connections as may wait, and one who speaks is through.
    #[tokio::test]
    async fn a_silent_crowd_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = pin!(through(listener, patient(None)));
        let calling = async {
            let mut crowd = Vec::new();
            for _ in 0..3 * STRANGERS_MAX {
                crowd.push(TcpStream::connect(address).await.unwrap());
            }
            (crowd, speaking(address).await)
        };
        let ((_crowd, caller), taken) = tokio::join!(calling, incoming.next());
        assert_eq!(taken.unwrap().unwrap().address, caller.local_addr().unwrap());
    }

    /// G12: who begins otherwise, or ends in the middle of it, has no place.
    #[tokio::test]
    async fn what_is_no_http2_has_no_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hall = patient(None);
        let places = Arc::clone(&hall.places);
        let mut incoming = pin!(through(listener, hall));
        for wrong in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(wrong.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut byte = [0];
            tokio::select! {
                read = stream.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_)), "{read:?}"),
                _ = incoming.next() => panic!("{wrong}"),
            }
        }
        assert_eq!(places.available_permits(), CONNECTIONS_MAX);
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

    struct Certified {
        ca: Ca,
        door: Door,
        listener: TcpListener,
        address: SocketAddr,
        _dir: tempfile::TempDir,
    }

    impl Certified {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ca = Ca::init(&dir.path().join("ca"), ClusterId::new(1)).unwrap();
            let own = tls(&ca, ca.node(NodeId::new(1)), Authority::Client, CertificateRole::Node);
            let gate = Gate::new(ca.cluster(), Arc::new(own)).patient();
            let door = Door { gate: Arc::new(gate), audit: Arc::default() };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            Self { ca, door, listener, address, _dir: dir }
        }

        fn caller(&self, name: &str) -> Caller {
            let subject = self.ca.client(name).unwrap();
            let tls = tls(&self.ca, subject, Authority::Peer, CertificateRole::Client);
            Caller { tls, address: self.address }
        }
    }

    struct Caller {
        tls: CallerTls,
        address: SocketAddr,
    }

    impl Caller {
        async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::IpAddress(self.address.ip().into());
            let connector = TlsConnector::from(self.tls.setup().client());
            connector.connect(name, stream).await.unwrap()
        }
    }

    /// G12: nor does one of strangers, who would never show a certificate.
    #[tokio::test]
    async fn silent_strangers_keep_nobody_out() {
        let at = Certified::new().await;
        let (reports, address) = (at.caller("reports"), at.address);
        let mut incoming = pin!(through(at.listener, patient(Some(at.door))));
        let calling = async {
            let mut crowd = Vec::new();
            for _ in 0..3 * STRANGERS_MAX {
                crowd.push(TcpStream::connect(address).await.unwrap());
            }
            let mut caller = reports.connect().await;
            speak(&mut caller).await;
            (crowd, caller)
        };
        let (_called, taken) = tokio::join!(calling, incoming.next());
        let peer = taken.unwrap().unwrap().connect_info();
        assert_eq!(peer.identity.unwrap().client(), Some("reports"));
    }

    /// G12: nor one of a caller with a certificate, who then says nothing.
    #[tokio::test]
    async fn a_silent_crowd_with_a_certificate_keeps_nobody_out() {
        let at = Certified::new().await;
        let (mallory, reports) = (at.caller("mallory"), at.caller("reports"));
        let mut incoming = pin!(through(at.listener, patient(Some(at.door))));
        let calling = async {
            let mut crowd = Vec::new();
            for _ in 0..2 * STRANGERS_MAX + 1 {
                crowd.push(mallory.connect().await);
            }
            let mut caller = reports.connect().await;
            speak(&mut caller).await;
            (crowd, caller)
        };
        let (_called, taken) = tokio::join!(calling, incoming.next());
        let peer = taken.unwrap().unwrap().connect_info();
        assert_eq!(peer.identity.unwrap().client(), Some("reports"));
    }

    /// G12: those who are refused make room for who means it, and are written down.
    #[tokio::test]
    async fn handshakes_that_fail_make_room() {
        let at = Certified::new().await;
        let (reports, address, door) = (at.caller("reports"), at.address, at.door);
        let mut incoming = pin!(through(at.listener, patient(Some(door.clone()))));
        let calling = async {
            let mut crowd = Vec::new();
            for _ in 0..STRANGERS_MAX {
                crowd.push(TcpStream::connect(address).await.unwrap());
                tokio::task::yield_now().await;
            }
            for stream in &mut crowd {
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            }
            let mut caller = reports.connect().await;
            speak(&mut caller).await;
            caller
        };
        let (_called, taken) = tokio::join!(calling, incoming.next());
        let peer = taken.unwrap().unwrap().connect_info();
        assert_eq!(peer.identity.unwrap().client(), Some("reports"));
        let records = door.audit.take(1);
        let count: u64 = records.iter().map(|record| record.count).sum();
        assert!(0 < count, "and they are written down");
    }
}
