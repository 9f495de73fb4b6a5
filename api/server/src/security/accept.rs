//! The port of callers: TLS first, then who it is, within a deadline; and no longer than the certificates
//! that it was begun with.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use palisade::ClusterId;
use palisade::tls::CertificateFacts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::identity::{Identity, IdentityRefusal};
use super::now;
use super::tls::CallerTls;

/// How long a caller may take to show a certificate.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptRefusal {
    /// It shows no certificate that is believed, or speaks an older TLS, or none.
    #[error("no certificate that is believed: {why}")]
    Untrusted {
        /// What TLS says.
        why: String,
    },
    /// The certificate is believed, and is not a caller's of this cluster.
    #[error(transparent)]
    Identity(#[from] IdentityRefusal),
    /// It took too long.
    #[error("no certificate within 5 seconds")]
    Stalled,
    /// It went away by itself.
    #[error("lost: {0}")]
    Lost(#[source] io::Error),
}

/// How often each has been, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptCounts {
    /// Connections with a caller on them.
    pub taken: u64,
    /// [`AcceptRefusal::Untrusted`].
    pub untrusted: u64,
    /// [`AcceptRefusal::Identity`].
    pub unidentified: u64,
    /// [`AcceptRefusal::Stalled`].
    pub stalled: u64,
}

/// Takes the connections of callers.
#[derive(Debug)]
pub struct Gate {
    cluster: ClusterId,
    tls: Arc<CallerTls>,
    taken: AtomicU64,
    untrusted: AtomicU64,
    unidentified: AtomicU64,
    stalled: AtomicU64,
}

impl Gate {
    /// To a node of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId, tls: Arc<CallerTls>) -> Self {
        let [taken, untrusted, unidentified, stalled] = [0; 4].map(AtomicU64::new);
        Self { cluster, tls, taken, untrusted, unidentified, stalled }
    }

    /// Does the handshake, and judges who it is with. How many of these go on at once is for whoever
    /// listens to bound.
    ///
    /// # Errors
    /// [`AcceptRefusal`]; the connection is closed, and counted.
    pub async fn admit(&self, stream: TcpStream) -> Result<CallerStream, AcceptRefusal> {
        let admitted = timeout(HANDSHAKE_TIMEOUT, self.handshake(stream)).await;
        let admitted = admitted.unwrap_or(Err(AcceptRefusal::Stalled));
        let counter = match &admitted {
            Ok(_) => &self.taken,
            Err(AcceptRefusal::Untrusted { .. }) => &self.untrusted,
            Err(AcceptRefusal::Identity(_)) => &self.unidentified,
            Err(AcceptRefusal::Stalled) => &self.stalled,
            Err(AcceptRefusal::Lost(_)) => return admitted,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        admitted
    }

    async fn handshake(&self, stream: TcpStream) -> Result<CallerStream, AcceptRefusal> {
        let setup = self.tls.setup();
        let stream = TlsAcceptor::from(setup.server()).accept(stream).await.map_err(judge)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = Identity::of_chain(self.cluster, chain)?;
        if identity.client().is_none() {
            return Err(IdentityRefusal::NotForCalling.into());
        }
        let facts = CertificateFacts::read(&chain[0]).map_err(IdentityRefusal::from)?;
        let ends = facts.not_after.min(setup.facts().not_after);
        let left = ends.duration_since(now()).unwrap_or_default();
        Ok(CallerStream { stream, identity, end: Box::pin(sleep(left)) })
    }

    /// How often each has been since the node was opened.
    #[must_use]
    pub fn counts(&self) -> AcceptCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AcceptCounts {
            taken: read(&self.taken),
            untrusted: read(&self.untrusted),
            unidentified: read(&self.unidentified),
            stalled: read(&self.stalled),
        }
    }
}

fn judge(error: io::Error) -> AcceptRefusal {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        // The caller did not like ours.
        None | Some(rustls::Error::AlertReceived(_)) => AcceptRefusal::Lost(error),
        Some(refused) => AcceptRefusal::Untrusted { why: refused.to_string() },
    }
}

/// A connection with a caller on it. Reading from it fails once a certificate of either side has expired.
#[derive(Debug)]
pub struct CallerStream {
    stream: TlsStream<TcpStream>,
    identity: Identity,
    end: Pin<Box<Sleep>>,
}

impl CallerStream {
    /// Who calls.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it goes through.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        self.stream.get_ref().0
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::other("a certificate has expired: connect again")));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
