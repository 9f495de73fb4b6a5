//! How the nodes of a cluster reach each other, and the credentials they do it with, which change while
//! they run.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use super::{Credentials, CredentialsError, TlsSetup, unix_time};
use crate::identity::{ClusterId, NodeId};

/// How peers are reached.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum PeerLinks {
    /// Plain TCP, within this machine: every address must be of the loopback interface.
    #[default]
    Loopback,
    /// TLS, and both sides say who they are by certificate.
    Tls(PeerTls),
    /// Plain TCP with whoever reaches the port: for a network that nobody else is in.
    Unprotected,
}

impl PeerLinks {
    /// Whether a peer may be spoken to there.
    pub(crate) fn allow(&self, address: SocketAddr) -> bool {
        match self {
            Self::Loopback => address.ip().to_canonical().is_loopback(),
            Self::Tls(_) | Self::Unprotected => true,
        }
    }
}

/// A node's credentials for its peers. Clones share them, so that who holds one can give the node others
/// while it runs.
#[derive(Clone, Debug)]
pub struct PeerTls {
    cluster: ClusterId,
    node: NodeId,
    setup: Arc<watch::Sender<Arc<TlsSetup>>>,
}

impl PeerTls {
    /// Takes the first ones. The leaf must name this node; one that has expired is taken, and the others
    /// refuse it until it is renewed.
    ///
    /// # Errors
    /// [`CredentialsError`], saying what does not fit.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        credentials: &Credentials,
    ) -> Result<Self, CredentialsError> {
        let setup = read(cluster, node, credentials)?;
        Ok(Self { cluster, node, setup: Arc::new(watch::Sender::new(setup)) })
    }

    /// Takes others from now on. A connection whose other side they no longer believe ends; all others go
    /// on until a certificate of theirs expires.
    ///
    /// # Errors
    /// As [`PeerTls::new`]; the former stay in use.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let setup = read(self.cluster, self.node, credentials)?;
        self.setup.send_replace(setup);
        Ok(())
    }

    /// What is in use.
    #[must_use]
    pub fn setup(&self) -> Arc<TlsSetup> {
        Arc::clone(&self.setup.borrow())
    }

    /// Whose credentials these are.
    #[must_use]
    pub fn of(&self) -> (ClusterId, NodeId) {
        (self.cluster, self.node)
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Arc<TlsSetup>> {
        self.setup.subscribe()
    }
}

fn read(
    cluster: ClusterId,
    node: NodeId,
    credentials: &Credentials,
) -> Result<Arc<TlsSetup>, CredentialsError> {
    let setup = TlsSetup::read(credentials, &[])?;
    let facts = setup.facts();
    if facts.subject.cluster() != cluster || facts.subject.node() != Some(node) {
        let wanted = super::Subject::of_node(cluster, node).to_string();
        return Err(CredentialsError::OfAnother { wanted, found: facts.subject.clone() });
    }
    if !(facts.serves && facts.calls) {
        let why = "the leaf of a node needs the key usages serverAuth and clientAuth".to_owned();
        return Err(CredentialsError::Unusable { why });
    }
    // Of an authority that nobody believes, none of the others would take it. That it has expired, or is
    // for later, shows by itself, and passes.
    let at: UnixTime = unix_time(facts.not_before);
    if let Err(error) = setup.believes_caller(&setup.own, at) {
        let why = format!("our own certificate is not of an authority that we believe: {error}");
        return Err(CredentialsError::Unusable { why });
    }
    Ok(Arc::new(setup))
}
