//! A connection to a peer, protected or not, and for how long it may be used.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CommonState, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::frame::FrameError;
use crate::identity::NodeId;
use crate::peer_faults::PeerFault;
use crate::tls::{CertificateFacts, PeerLinks, PeerTls, TlsSetup, unix_time};

/// How often the clock is looked at again for certificates that expire: it may have been set.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// How a connection ended that the peer did not close.
#[derive(Debug)]
pub(crate) enum Ended {
    Lost(io::Error),
    /// By this node, for a reason.
    Refused(PeerFault, String),
    /// By the peer, which did not like our certificate.
    ByPeer(AlertDescription),
}

impl From<io::Error> for Ended {
    /// TLS tells its own errors inside of these.
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            None => Self::Lost(error),
            Some(rustls::Error::AlertReceived(alert)) => Self::ByPeer(*alert),
            Some(refused) => Self::Refused(PeerFault::Untrusted, refused.to_string()),
        }
    }
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        Self::Refused(error.fault(), error.to_string())
    }
}

/// What bytes go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that may be spoken on.
pub(crate) struct Link {
    pub(crate) stream: Box<dyn Stream>,
    /// Whom the other side's certificate names, if there are certificates.
    pub(crate) names: Option<NodeId>,
    pub(crate) tenure: Tenure,
}

/// Until when it may be.
pub(crate) struct Tenure(Option<Protected>);

struct Protected {
    /// Keeps the sender of `setups`.
    _tls: PeerTls,
    setups: watch::Receiver<Arc<TlsSetup>>,
    ends: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    we_called: bool,
}

impl Link {
    /// Of a peer that called.
    pub(crate) async fn accept(links: &PeerLinks, stream: TcpStream) -> Result<Self, Ended> {
        let PeerLinks::Tls(tls) = links else { return Ok(Self::plain(stream)) };
        let mut setups = tls.follow();
        let setup = Arc::clone(&setups.borrow_and_update());
        let stream = TlsAcceptor::from(setup.server()).accept(stream).await?;
        let protected = Protected::begin(tls, setups, &setup, stream.get_ref().1, false)?;
        Ok(Self::protected(stream, protected))
    }

    /// To a peer.
    pub(crate) async fn connect(links: &PeerLinks, stream: TcpStream) -> Result<Self, Ended> {
        let PeerLinks::Tls(tls) = links else { return Ok(Self::plain(stream)) };
        let mut setups = tls.follow();
        let setup = Arc::clone(&setups.borrow_and_update());
        // What it is called does not matter: the certificate names a node.
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let stream = TlsConnector::from(setup.client()).connect(name, stream).await?;
        let protected = Protected::begin(tls, setups, &setup, stream.get_ref().1, true)?;
        Ok(Self::protected(stream, protected))
    }

    fn plain(stream: TcpStream) -> Self {
        Self { stream: Box::new(stream), names: None, tenure: Tenure(None) }
    }

    fn protected(stream: impl Stream + 'static, (names, until): (NodeId, Protected)) -> Self {
        Self { stream: Box::new(stream), names: Some(names), tenure: Tenure(Some(until)) }
    }

    /// Whether this is the node that it should be. Without certificates everybody is.
    pub(crate) fn is(&self, node: NodeId) -> Result<(), Ended> {
        match self.names {
            Some(named) if named != node => {
                let what = format!("a certificate of node={named}, where node={node} was said");
                Err(Ended::Refused(PeerFault::WrongIdentity, what))
            }
            _ => Ok(()),
        }
    }
}

impl Protected {
    /// Judges what the handshake left to us: the version, whose certificate it is, and for which side.
    fn begin(
        tls: &PeerTls,
        setups: watch::Receiver<Arc<TlsSetup>>,
        setup: &TlsSetup,
        session: &CommonState,
        we_called: bool,
    ) -> Result<(NodeId, Self), Ended> {
        let refused = |fault, what: String| Err(Ended::Refused(fault, what));
        if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return refused(PeerFault::Untrusted, "TLS older than 1.3".to_owned());
        }
        let Some(chain) = session.peer_certificates() else {
            return refused(PeerFault::Untrusted, "no certificate".to_owned());
        };
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let facts = match CertificateFacts::read(&chain[0]) {
            Ok(facts) => facts,
            Err(error) => return refused(PeerFault::WrongIdentity, error.to_string()),
        };
        let node = facts.subject.node();
        let Some(node) = node.filter(|_| facts.subject.cluster() == tls.of().0) else {
            return refused(
                PeerFault::WrongIdentity,
                format!("a certificate of {}", facts.subject),
            );
        };
        if !(if we_called { facts.serves } else { facts.calls }) {
            return refused(PeerFault::Untrusted, "a certificate for another use".to_owned());
        }
        let ends = facts.not_after.min(setup.facts().not_after);
        Ok((node, Self { _tls: tls.clone(), setups, ends, chain, we_called }))
    }
}

impl Tenure {
    /// Resolves, with the reason, when the connection may not be used any more: a certificate of either side
    /// has expired, or the other side's is not believed any more.
    pub(crate) async fn over(&mut self) -> &'static str {
        let Some(protected) = &mut self.0 else { return pending().await };
        loop {
            let Ok(left) = protected.ends.duration_since(now()) else {
                return "a certificate has expired";
            };
            tokio::select! {
                () = tokio::time::sleep(left.min(CLOCK_CHECK)) => {}
                // The sender is in what is held here, so that it is never the end of it.
                _ = protected.setups.changed() => {
                    if !protected.is_believed() {
                        return "its authority is not believed any more";
                    }
                }
            }
        }
    }
}

impl Protected {
    /// By the credentials of now.
    fn is_believed(&mut self) -> bool {
        let setup = Arc::clone(&self.setups.borrow_and_update());
        let at = unix_time(now());
        let judged = if self.we_called {
            setup.believes_server(&self.chain, at)
        } else {
            setup.believes_caller(&self.chain, at)
        };
        judged.is_ok()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates are of the calendar, and this is a driver"
)]
fn now() -> SystemTime {
    SystemTime::now()
}
