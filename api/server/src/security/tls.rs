//! TLS out of files, which are looked at again while the node runs.
//!
//! A file that cannot be read, or does not belong to the others, changes nothing: what was in use stays in
//! use, and [`TlsStatus`] says so until it is mended. Certificate and key are two files, so between the
//! writing of one and the other they do not fit; the next look finds them whole.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use palisade::ClusterId;
use palisade::tls::{
    CertificateFacts, CertificateRole, Credentials, CredentialsError, PeerTls, TlsSetup,
};
use ring::digest;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;

use super::watch::Watched;
use super::{files, now};

/// What a caller and a node agree to speak.
const PROTOCOLS: &[&[u8]] = &[b"h2"];

/// Where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our leaf, and what is between it and its authority.
    pub certificates: PathBuf,
    /// Its key, which nobody but its owner may read.
    pub key: PathBuf,
    /// Whom we believe.
    pub authorities: PathBuf,
}

/// Why files are not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFilesError {
    /// One cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// They do not fit.
    #[error("{source} ({})", certificates.display())]
    Credentials {
        /// Which they are.
        certificates: PathBuf,
        /// What does not fit.
        source: CredentialsError,
    },
}

impl TlsFiles {
    /// Reads them.
    ///
    /// # Errors
    /// [`TlsFilesError::Io`], naming the file.
    pub fn read(&self) -> Result<Credentials, TlsFilesError> {
        let io = |path: &PathBuf| {
            let path = path.clone();
            move |source| TlsFilesError::Io { path, source }
        };
        Ok(Credentials {
            certificates_pem: files::read(&self.certificates).map_err(io(&self.certificates))?,
            key_pem: files::read_secret(&self.key).map_err(io(&self.key))?,
            authorities_pem: files::read(&self.authorities).map_err(io(&self.authorities))?,
        })
    }

    fn refused(&self, source: CredentialsError) -> TlsFilesError {
        TlsFilesError::Credentials { certificates: self.certificates.clone(), source }
    }

    /// A node's credentials for its peers.
    ///
    /// # Errors
    /// [`TlsFilesError`]; the node must not be opened without them.
    pub fn peers(
        &self,
        cluster: ClusterId,
        node: palisade::NodeId,
    ) -> Result<PeerTls, TlsFilesError> {
        let credentials = self.read()?;
        PeerTls::new(cluster, node, &credentials).map_err(|source| self.refused(source))
    }

    /// A node's, or a caller's, for the port of callers.
    ///
    /// # Errors
    /// [`TlsFilesError`]; the port must not be opened without them.
    pub fn callers(
        &self,
        cluster: ClusterId,
        role: CertificateRole,
    ) -> Result<CallerTls, TlsFilesError> {
        let credentials = self.read()?;
        CallerTls::new(cluster, role, &credentials).map_err(|source| self.refused(source))
    }
}

/// What new credentials can be given to.
pub trait TakesCredentials: Send + Sync {
    /// Uses these from now on.
    ///
    /// # Errors
    /// [`CredentialsError`]; the former stay in use.
    fn take(&self, credentials: &Credentials) -> Result<(), CredentialsError>;

    /// What our own leaf says, of those in use.
    fn facts(&self) -> CertificateFacts;
}

impl TakesCredentials for PeerTls {
    fn take(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        self.replace(credentials)
    }

    fn facts(&self) -> CertificateFacts {
        self.setup().facts().clone()
    }
}

/// TLS on the port of callers, on either side of it: a node shows its node leaf and believes the client
/// authority, a caller shows a client leaf and believes the peer authority.
///
/// Whoever accepts or calls takes [`CallerTls::setup`] for each connection, and judges with
/// [`super::identity::Identity`] whose it is.
#[derive(Debug)]
pub struct CallerTls {
    cluster: ClusterId,
    role: CertificateRole,
    in_use: watch::Sender<Arc<InUse>>,
}

/// What connections are made with, and what they are judged by again when it changes.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) setup: Arc<TlsSetup>,
    callers: Arc<dyn ClientCertVerifier>,
}

impl InUse {
    /// Whether an authority that is believed issued this chain to who calls, and it is valid now.
    pub(super) fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let since = now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(since);
        let judge = |(leaf, between)| self.callers.verify_client_cert(leaf, between, at).is_ok();
        chain.split_first().is_some_and(judge)
    }
}

impl CallerTls {
    /// Takes the first ones; the leaf must be of this cluster and role.
    ///
    /// # Errors
    /// [`CredentialsError`], saying what does not fit.
    pub fn new(
        cluster: ClusterId,
        role: CertificateRole,
        credentials: &Credentials,
    ) -> Result<Self, CredentialsError> {
        let in_use = watch::Sender::new(Self::read(cluster, role, credentials)?);
        Ok(Self { cluster, role, in_use })
    }

    fn read(
        cluster: ClusterId,
        role: CertificateRole,
        credentials: &Credentials,
    ) -> Result<Arc<InUse>, CredentialsError> {
        let setup = TlsSetup::read(credentials, PROTOCOLS)?;
        let facts = setup.facts();
        if facts.subject.cluster() != cluster || facts.subject.role() != role {
            return Err(CredentialsError::OfAnother {
                wanted: format!("a {role:?} of cluster={cluster}").to_lowercase(),
                found: facts.subject.clone(),
            });
        }
        let suits = match role {
            CertificateRole::Node => facts.serves,
            _ => facts.calls,
        };
        if !suits {
            let why = "the leaf is for another use: issue it with `palisade ca issue`".to_owned();
            return Err(CredentialsError::Unusable { why });
        }
        let callers = callers(&credentials.authorities_pem)?;
        Ok(Arc::new(InUse { setup: Arc::new(setup), callers }))
    }

    /// What is in use.
    #[must_use]
    pub fn setup(&self) -> Arc<TlsSetup> {
        Arc::clone(&self.in_use.borrow().setup)
    }

    pub(super) fn follow(&self) -> watch::Receiver<Arc<InUse>> {
        self.in_use.subscribe()
    }
}

/// Judges chains of callers as the handshake does, outside of one.
fn callers(authorities_pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, CredentialsError> {
    let unusable =
        |why: &dyn std::fmt::Display| CredentialsError::Unusable { why: why.to_string() };
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities_pem) {
        let authority = authority.map_err(|error| unusable(&error))?;
        roots.add(authority).map_err(|error| unusable(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map(|built| built as _)
        .map_err(|error| unusable(&error))
}

impl TakesCredentials for CallerTls {
    fn take(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        self.in_use.send_replace(Self::read(self.cluster, self.role, credentials)?);
        Ok(())
    }

    fn facts(&self) -> CertificateFacts {
        self.setup().facts().clone()
    }
}

/// How it stands with one set of files: for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsStatus {
    /// Until when our own leaf is valid; past that, nobody takes it.
    pub not_after: SystemTime,
    /// Whether that was so when this was asked.
    pub expired: bool,
    /// How often others were taken.
    pub reloads: u64,
    /// How often the files were not taken, since they were last.
    pub failures: u64,
    /// Why they were not the last time, if they were not.
    pub failure: Option<String>,
}

/// Looks at files, and hands on what is new in them.
pub struct TlsWatch {
    files: TlsFiles,
    user: Arc<dyn TakesCredentials>,
    seen: Mutex<Seen>,
}

impl std::fmt::Debug for TlsWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsWatch").field("files", &self.files).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Seen {
    /// Of the contents that are in use.
    digest: Option<Vec<u8>>,
    reloads: u64,
    failures: u64,
    failure: Option<String>,
}

impl TlsWatch {
    /// Of files whose contents are in use already.
    #[must_use]
    pub fn new(files: TlsFiles, user: Arc<dyn TakesCredentials>) -> Self {
        Self { files, user, seen: Mutex::default() }
    }

    /// Looks now, and returns how it stands. It reads files: not on a thread of a runtime.
    pub fn look(&self) -> TlsStatus {
        let taken = self.files.read().and_then(|credentials| {
            let digest = digest_of(&credentials);
            if self.lock().digest.as_ref() == Some(&digest) {
                return Ok((digest, false));
            }
            let taken = self.user.take(&credentials);
            taken.map(|()| (digest, true)).map_err(|source| self.files.refused(source))
        });
        let mut seen = self.lock();
        match taken {
            Ok((digest, is_new)) => {
                if is_new && seen.digest.is_some() {
                    seen.reloads += 1;
                    tracing::info!(
                        certificates = %self.files.certificates.display(),
                        "took new certificates"
                    );
                }
                seen.digest = Some(digest);
                seen.failures = 0;
                seen.failure = None;
            }
            Err(error) => {
                seen.failures += 1;
                let why = error.to_string();
                // Once, and not at every look.
                if seen.failure.as_ref() != Some(&why) {
                    tracing::error!(
                        error = %why,
                        "new certificates were not taken, the former stay in use: mend the file"
                    );
                    seen.failure = Some(why);
                }
            }
        }
        drop(seen);
        self.status()
    }

    /// How it stood at the last look.
    #[must_use]
    pub fn status(&self) -> TlsStatus {
        let not_after = self.user.facts().not_after;
        let seen = self.lock();
        let (reloads, failures, failure) = (seen.reloads, seen.failures, seen.failure.clone());
        TlsStatus { not_after, expired: not_after < now(), reloads, failures, failure }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code panics while it holds what was seen")
    }
}

impl Watched for TlsWatch {
    fn look_again(&self) {
        self.look();
    }
}

fn digest_of(credentials: &Credentials) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&credentials.certificates_pem, &credentials.key_pem, &credentials.authorities_pem]
    {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}
