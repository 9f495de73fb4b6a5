//! The port of callers: TLS first, then who it is, within a deadline; and no longer than the certificates of
//! both sides are good.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use palisade::ClusterId;
use palisade::tls::CertificateFacts;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::identity::{Identity, IdentityRefusal};
use super::now;
use super::tls::{CallerTls, InUse};

/// How long a caller may take to show a certificate.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the clock is looked at again for certificates that expire: it may have been set.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

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
    timeout: Duration,
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
        let timeout = HANDSHAKE_TIMEOUT;
        Self { cluster, tls, timeout, taken, untrusted, unidentified, stalled }
    }

    /// One that waits for ever.
    #[cfg(test)]
    pub(crate) fn patient(self) -> Self {
        Self { timeout: Duration::MAX, ..self }
    }

    /// Does the handshake, and judges who it is with. How many of these go on at once is for whoever
    /// listens to bound.
    ///
    /// # Errors
    /// [`AcceptRefusal`]; the connection is closed, and counted.
    pub async fn admit(&self, stream: TcpStream) -> Result<CallerStream, AcceptRefusal> {
        let admitted = timeout(self.timeout, self.handshake(stream)).await;
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
        let mut in_use = self.tls.follow();
        let setup = Arc::clone(&in_use.borrow_and_update().setup);
        let stream = TlsAcceptor::from(setup.server()).accept(stream).await.map_err(judge)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = Identity::of_chain(self.cluster, chain)?;
        if identity.client().is_none() {
            return Err(IdentityRefusal::NotForCalling.into());
        }
        let facts = CertificateFacts::read(&chain[0]).map_err(IdentityRefusal::from)?;
        let ends = facts.not_after.min(setup.facts().not_after);
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        let tenure = Tenure { _tls: Arc::clone(&self.tls), in_use, chain, ends };
        Ok(CallerStream { stream, identity, over: Box::pin(tenure.over()), ended: None })
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

/// Until when a connection may be used.
struct Tenure {
    /// Keeps the sender of `in_use`.
    _tls: Arc<CallerTls>,
    in_use: watch::Receiver<Arc<InUse>>,
    chain: Vec<CertificateDer<'static>>,
    /// Of the leaf that ends first.
    ends: SystemTime,
}

impl Tenure {
    /// Resolves, with the reason, when it may not be used any more.
    async fn over(mut self) -> &'static str {
        loop {
            let Ok(left) = self.ends.duration_since(now()) else {
                return "a certificate has expired: connect again";
            };
            tokio::select! {
                () = sleep(left.min(CLOCK_CHECK)) => {}
                // The sender is in what is held here, so that it is never the end of it.
                _ = self.in_use.changed() => {
                    let in_use = Arc::clone(&self.in_use.borrow_and_update());
                    if !in_use.believes(&self.chain) {
                        return "the authority of its certificate is not believed any more";
                    }
                }
            }
        }
    }
}

/// A connection with a caller on it. Reading from it fails once a certificate of either side has expired, or
/// the authority of the caller's is not believed any more.
pub struct CallerStream {
    stream: TlsStream<TcpStream>,
    identity: Identity,
    over: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    /// Why it may not be used any more.
    ended: Option<&'static str>,
}

impl std::fmt::Debug for CallerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerStream").field("identity", &self.identity).finish_non_exhaustive()
    }
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
        if self.ended.is_none()
            && let Poll::Ready(why) = self.over.as_mut().poll(context)
        {
            tracing::debug!(caller = %self.identity.subject(), why, "a connection was ended");
            self.ended = Some(why);
        }
        if let Some(why) = self.ended {
            return Poll::Ready(Err(io::Error::other(why)));
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
