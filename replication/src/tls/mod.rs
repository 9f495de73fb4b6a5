//! TLS in both directions: who we are, and whom we believe.
//!
//! TLS 1.3 and no other, ring, both sides with a certificate, and no resumption: a session that is taken up
//! again would outlive the certificate it was begun with. The chain of the other side is judged here, and
//! its name by whoever uses the connection: a certificate names nodes and callers, not hosts.

mod certificate;
mod peers;
mod verify;

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use self::certificate::{
    CLIENT_NAME_BYTES_MAX, CertificateFacts, CertificateRole, Subject, SubjectError,
};
pub use self::peers::{PeerLinks, PeerTls};
use self::verify::{Servers, callers};

/// What TLS is made of, as PEM.
#[derive(Clone)]
pub struct Credentials {
    /// Our leaf, and below it the authorities between it and one that the others believe, if there are any.
    pub certificates_pem: Vec<u8>,
    /// Our leaf's key.
    pub key_pem: Vec<u8>,
    /// Whose certificates we believe: several, while one takes another's place.
    pub authorities_pem: Vec<u8>,
}

/// Never the key.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Why credentials are not taken. Nothing changes then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file is not what it should be.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// The certificates, the key or the authorities.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The parts do not belong together.
    #[error("the credentials cannot be used: {why}")]
    Unusable {
        /// What does not fit.
        why: String,
    },
    /// Our leaf names nobody.
    #[error("our own certificate: {0}")]
    Subject(#[from] SubjectError),
    /// Our leaf names somebody else.
    #[error("our own certificate names {found}, where {wanted} is wanted: issue one for it")]
    OfAnother {
        /// Who should be named.
        wanted: String,
        /// Who is.
        found: Subject,
    },
}

/// Credentials that were read, and fit together.
#[derive(Clone, Debug)]
pub struct TlsSetup {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    servers: Arc<Servers>,
    callers: Arc<dyn ClientCertVerifier>,
    own: Vec<CertificateDer<'static>>,
    facts: CertificateFacts,
}

impl TlsSetup {
    /// Reads credentials, for connections whose first words are agreed on by `protocols` (ALPN), if any.
    ///
    /// # Errors
    /// [`CredentialsError`] if a part cannot be read, or they do not belong together.
    pub fn read(credentials: &Credentials, protocols: &[&[u8]]) -> Result<Self, CredentialsError> {
        let own = certificates("the certificates", &credentials.certificates_pem)?;
        let authorities = certificates("the authorities", &credentials.authorities_pem)?;
        let key = PrivateKeyDer::from_pem_slice(&credentials.key_pem)
            .map_err(|error| unreadable("the key", &error))?;
        let facts = CertificateFacts::read(&own[0])?;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| unreadable("the authorities", &error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: rustls::Error| CredentialsError::Unusable { why: error.to_string() };
        let callers =
            callers(&roots, &provider).map_err(|why| CredentialsError::Unusable { why })?;
        let servers = Arc::new(Servers::new(roots, &provider));
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::clone(&callers))
            .with_single_cert(own.clone(), key.clone_key())
            .map_err(unusable)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols.clone_from(&protocols);
        let verifier = Arc::clone(&servers) as Arc<_>;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(own.clone(), key)
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.alpn_protocols = protocols;
        let (server, client) = (Arc::new(server), Arc::new(client));
        Ok(Self { server, client, servers, callers, own, facts })
    }

    /// For who is called.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For who calls. It judges the chain of who answers, and not who that is.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// What our own leaf says.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Whether an authority that is believed issued this chain, at that time, to who answers.
    pub(crate) fn believes_server(
        &self,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), rustls::Error> {
        let (leaf, between) = split(chain)?;
        self.servers.judge(leaf, between, at)
    }

    /// Whether an authority that is believed issued this chain, at that time, to who calls.
    pub(crate) fn believes_caller(
        &self,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), rustls::Error> {
        let (leaf, between) = split(chain)?;
        self.callers.verify_client_cert(leaf, between, at).map(|_| ())
    }
}

fn split<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), rustls::Error> {
    chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)
}

fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| unreadable(what, &error))?;
    if all.is_empty() {
        return Err(unreadable(what, &"there is no certificate in it"));
    }
    Ok(all)
}

fn unreadable(what: &'static str, why: &dyn std::fmt::Display) -> CredentialsError {
    CredentialsError::Unreadable { what, why: why.to_string() }
}

pub(crate) fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
