//! TLS out of files, which are looked at again while the node runs.
//!
//! A file that cannot be read, or does not belong to the others, changes nothing: what was in use stays in
//! use, and [`TlsStatus`] says so until it is mended. Certificate and key are two files, so between the
//! writing of one and the other they do not fit; the next look finds them whole.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, SystemTime};

use palisade::ClusterId;
use palisade::tls::{
    CertificateFacts, CertificateRole, Credentials, CredentialsError, PeerTls, TlsSetup,
};
use ring::digest;
use tokio::sync::Notify;

use super::{files, now};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What a caller and a node agree to speak.
const PROTOCOLS: &[&[u8]] = &[b"h2"];

/// Where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our leaf, and what is between it and its authority.
    pub certificates: PathBuf,
    /// Its key, which nobody else on this machine may read.
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
    setup: RwLock<Arc<TlsSetup>>,
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
        let setup = RwLock::new(Self::read(cluster, role, credentials)?);
        Ok(Self { cluster, role, setup })
    }

    fn read(
        cluster: ClusterId,
        role: CertificateRole,
        credentials: &Credentials,
    ) -> Result<Arc<TlsSetup>, CredentialsError> {
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
        Ok(Arc::new(setup))
    }

    /// What is in use.
    #[must_use]
    pub fn setup(&self) -> Arc<TlsSetup> {
        Arc::clone(&self.setup.read().expect("no code panics while it holds the setup"))
    }
}

impl TakesCredentials for CallerTls {
    fn take(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let setup = Self::read(self.cluster, self.role, credentials)?;
        *self.setup.write().expect("no code panics while it holds the setup") = setup;
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
    now_please: Notify,
    seen: Mutex<Seen>,
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
        Self { files, user, now_please: Notify::new(), seen: Mutex::default() }
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

    /// Has [`TlsWatch::run`] look at once: after SIGHUP, say.
    pub fn look_soon(&self) {
        self.now_please.notify_one();
    }

    /// Looks every [`LOOK_EVERY`], until it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            let watch = Arc::clone(&self);
            // It panics only if a lock's holder did.
            let _ = tokio::task::spawn_blocking(move || watch.look()).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.now_please.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code panics while it holds what was seen")
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
