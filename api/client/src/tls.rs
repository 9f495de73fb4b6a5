//! The way to a node: each side shows a certificate, and the node's is judged by whom it names.
//!
//! A node is believed if an authority of ours issued its leaf, and the leaf names a node of our own cluster. By
//! which host it is reached does not matter: addresses change, and whoever owns a name of a host is no node.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use palisade::ClusterId;
use palisade::tls::{CertificateFacts, CertificateRole, Credentials, TlsSetup};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::codegen::{BoxFuture, Service};

use crate::error::Error;

/// What a client and a node agree to speak.
const PROTOCOLS: &[&[u8]] = &[b"h2"];
/// Where an address says no port.
const PORT: u16 = 443;

/// Who a client is, and whom it believes; others can take their place while it runs.
pub(crate) struct NodeTls {
    cluster: ClusterId,
    setup: RwLock<Arc<TlsSetup>>,
}

fn read(credentials: &Credentials) -> Result<TlsSetup, Error> {
    let setup = TlsSetup::read(credentials, PROTOCOLS);
    let setup = setup.map_err(|error| Error::invalid(error.to_string()))?;
    let facts = setup.facts();
    if facts.subject.role() != CertificateRole::Client || !facts.calls {
        let what = format!("a certificate of {} is not for calling", facts.subject);
        return Err(Error::invalid(what));
    }
    Ok(setup)
}

impl NodeTls {
    pub(crate) fn new(credentials: &Credentials) -> Result<Self, Error> {
        let setup = read(credentials)?;
        let cluster = setup.facts().subject.cluster();
        Ok(Self { cluster, setup: RwLock::new(Arc::new(setup)) })
    }

    /// Uses these for connections from now on.
    pub(crate) fn take(&self, credentials: &Credentials) -> Result<(), Error> {
        let setup = read(credentials)?;
        if setup.facts().subject.cluster() != self.cluster {
            return Err(Error::invalid("the certificate is of another cluster"));
        }
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup);
        Ok(())
    }

    async fn connect(&self, to: &Uri) -> io::Result<TlsStream<TcpStream>> {
        let host = to.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, to.port_u16().unwrap_or(PORT))).await?;
        stream.set_nodelay(true)?;
        let setup = Arc::clone(&self.setup.read().unwrap_or_else(PoisonError::into_inner));
        // What it is called does not matter, and is not sent: the certificate names a node.
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let stream = TlsConnector::from(setup.client()).connect(name, stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        judge(self.cluster, chain).map_err(io::Error::other)?;
        Ok(stream)
    }
}

/// Whether a chain that the handshake has believed is a node's of this cluster.
fn judge(cluster: ClusterId, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    let leaf = chain.first().ok_or("the node shows no certificate")?;
    let facts = CertificateFacts::read(leaf).map_err(|error| format!("the node's: {error}"))?;
    let is_node = facts.subject.role() == CertificateRole::Node && facts.serves;
    if !is_node || facts.subject.cluster() != cluster {
        let whom = facts.subject;
        return Err(format!("a certificate of {whom} is not of a node of our cluster={cluster}"));
    }
    Ok(())
}

/// Connects to one node, for whoever keeps its channel.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Arc<NodeTls>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let tls = Arc::clone(&self.tls);
        Box::pin(async move { tls.connect(&to).await.map(TokioIo::new) })
    }
}
