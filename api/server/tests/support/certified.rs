//! An authority of its own for each test, and clients with certificates of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palisade::tls::{CertificateRole, Credentials, TlsSetup};
use palisade::{ClusterId, NodeId};
use palisade_client::{Client, ClientBuilder};
use palisade_server::grpc::Callers;
use palisade_server::security::ca::{Authority, Ca, LeafOrder};
use palisade_server::security::tls::CallerTls;
use palisade_server::security::token::LiveKeys;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// A cluster's authorities, in a directory of the test.
pub(crate) struct Certified {
    pub(crate) ca: Ca,
}

/// Short, for what happens without a quorum; longer than what a busy machine takes to hear from one.
const GRANTS_AGE_MAX: Duration = Duration::from_secs(10);

/// A channel to a node, as long as it is held.
pub(crate) struct Way {
    #[allow(dead_code, reason = "not every test file speaks so")]
    pub(crate) channel: Channel,
    _between: JoinSet<()>,
}

impl Certified {
    pub(crate) fn new(dir: &Path, cluster: ClusterId) -> Self {
        Self { ca: Ca::init(&dir.join("ca"), cluster).unwrap() }
    }

    /// A leaf, and whom it believes.
    fn credentials(&self, subject: palisade::tls::Subject, believed: Authority) -> Credentials {
        let order = LeafOrder { subject, dns: Vec::new(), ips: Vec::new(), hours: 1 };
        let leaf = self.ca.issue(&order).unwrap();
        Credentials {
            certificates_pem: leaf.certificate_pem.into(),
            key_pem: leaf.key_pem.unwrap().into(),
            authorities_pem: self.ca.bundle(believed).unwrap().into(),
        }
    }

    /// Whom a node serves: those with a certificate.
    pub(crate) fn callers(
        &self,
        node: NodeId,
        admins: &[&str],
        token_keys: Option<Arc<LiveKeys>>,
    ) -> Callers {
        let credentials = self.credentials(self.ca.node(node), Authority::Client);
        let cluster = self.ca.cluster();
        let tls = CallerTls::new(cluster, CertificateRole::Node, &credentials).unwrap();
        let admins = admins.iter().map(|name| (*name).to_owned()).collect();
        let grants_age_max = GRANTS_AGE_MAX;
        Callers::Certified { tls: Arc::new(tls), admins, token_keys, grants_age_max }
    }

    /// A plain way to a node for messages as they are on the wire, which this caller's certificate opens.
    #[allow(dead_code, reason = "not every test file speaks so")]
    pub(crate) async fn way(&self, name: &str, node: SocketAddr) -> Way {
        let credentials = self.credentials(self.ca.client(name).unwrap(), Authority::Peer);
        let setup = TlsSetup::read(&credentials, &[b"h2"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let mut between = JoinSet::new();
        between.spawn(async move {
            while let Ok((mut plain, _)) = listener.accept().await {
                let stream = TcpStream::connect(node).await.unwrap();
                let of = ServerName::IpAddress(node.ip().into());
                let tls = TlsConnector::from(setup.client()).connect(of, stream).await;
                let Ok(mut tls) = tls else { return };
                // Whoever ends it ends it for the other.
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut tls).await;
            }
        });
        let channel = Endpoint::from_shared(format!("http://{here}")).unwrap().connect_lazy();
        Way { channel, _between: between }
    }

    /// A client of this name, before it has endpoints.
    pub(crate) fn caller(&self, name: &str) -> ClientBuilder {
        let leaf = self.credentials(self.ca.client(name).unwrap(), Authority::Peer);
        Client::builder()
            .identity(leaf.certificates_pem, leaf.key_pem)
            .authority(leaf.authorities_pem)
            .call_timeout(Duration::from_secs(30))
    }
}
