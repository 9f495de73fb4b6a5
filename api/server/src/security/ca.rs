//! The built-in authority, for development and for clusters that have no other: two of them, one that issues
//! nodes and one that issues callers, so that no leaf of the one is ever taken where the other is wanted.
//!
//! ```text
//! <dir>/cluster             the cluster, 32 hex digits
//! <dir>/peer/issuer.pem     key and certificate of who issues nodes now (0600)
//! <dir>/peer/bundle.pem     whom to believe about nodes: the issuer, and the former until it is dropped
//! <dir>/client/...          the same for callers
//! ```
//! The directory is for whoever runs the cluster: nodes get leaves and bundles, never an issuer.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use palisade::tls::{CertificateRole, Subject};
use palisade::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ring::rand::SecureRandom;

use super::files::{self, Hold, Secrecy};
use super::now;

/// How long a leaf lives if nothing else is said.
pub const LEAF_HOURS: u32 = 24;
/// How long one may be asked to live.
pub const LEAF_HOURS_MAX: u32 = 24 * 365;
const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// A leaf is valid from a little before it was made: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5 * 60);
/// Certificates in a bundle, at most: who rotates more often than that drops the former first.
const BUNDLE_MAX: usize = 8;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// It issues nodes.
    Peer,
    /// It issues callers.
    Client,
}

impl Authority {
    fn of(subject: &Subject) -> Self {
        match subject.role() {
            CertificateRole::Node => Self::Peer,
            _ => Self::Client,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "peer",
            Self::Client => "client",
        })
    }
}

/// Why an authority did not do what it was asked for. Nothing changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// Something is there already.
    #[error("{} is there already: choose another place, or remove it yourself", path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// What is in the directory is not an authority's.
    #[error("{} is not an authority's: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What was asked for cannot be issued.
    #[error("it cannot be issued: {why}")]
    Invalid {
        /// The rule.
        why: String,
    },
}

/// A leaf to be issued.
#[derive(Clone, Debug)]
pub struct LeafOrder {
    /// Whom it names.
    pub subject: Subject,
    /// Hosts by which callers that judge names reach a node.
    pub dns: Vec<String>,
    /// The same, by address.
    pub ips: Vec<IpAddr>,
    /// How long it lives.
    pub hours: u32,
}

/// A leaf that was issued.
#[derive(Clone)]
pub struct IssuedLeaf {
    /// It.
    pub certificate_pem: String,
    /// Its key, unless whoever asked has it.
    pub key_pem: Option<String>,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// The authorities of one cluster, in a directory.
#[derive(Clone, Debug)]
pub struct Ca {
    dir: PathBuf,
    cluster: ClusterId,
}

impl Ca {
    /// Makes the authorities of a cluster, in a directory that is not there yet.
    ///
    /// # Errors
    /// [`CaError`]; the directory is not there then.
    pub fn init(dir: &Path, cluster: ClusterId) -> Result<Self, CaError> {
        let io = in_file(dir);
        if dir.exists() {
            return Err(CaError::Exists { path: dir.to_owned() });
        }
        let mut name = dir
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)
            .map_err(|kind| in_file(dir)(kind.into()))?
            .to_owned();
        name.push(".new");
        let building = dir.with_file_name(name);
        // Whatever is there is somebody's, or what a crash has left of an earlier one: who knows removes it.
        if building.exists() {
            return Err(CaError::Exists { path: building });
        }
        let ca = Self { dir: building.clone(), cluster };
        for authority in [Authority::Peer, Authority::Client] {
            let within = building.join(authority.to_string());
            files::make_dir(&within).map_err(in_file(&within))?;
            let (issuer, certificate) = new_authority(cluster, authority)?;
            ca.write_new(&ca.issuer_path(authority), Secrecy::Secret, &issuer)?;
            ca.write_new(&ca.bundle_path(authority), Secrecy::Public, &certificate)?;
        }
        let text = format!("{:032x}\n", cluster.get());
        ca.write_new(&building.join("cluster"), Secrecy::Public, &text)?;
        fs::rename(&building, dir).map_err(io)?;
        files::sync_parent(dir).map_err(in_file(dir))?;
        Ok(Self { dir: dir.to_owned(), cluster })
    }

    /// Takes up the authorities in a directory.
    ///
    /// # Errors
    /// [`CaError`] if there are none.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let path = dir.join("cluster");
        let text = read_text(&path)?;
        let text = text.trim_end();
        let cluster = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
        let why = || "it does not hold 32 hex digits".to_owned();
        let cluster = cluster.ok_or_else(|| CaError::Damaged { path, why: why() })?;
        Ok(Self { dir: dir.to_owned(), cluster: ClusterId::new(cluster) })
    }

    /// Whose they are.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// A node of this cluster.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Subject {
        Subject::of_node(self.cluster, node)
    }

    /// A caller of this cluster.
    ///
    /// # Errors
    /// [`CaError::Invalid`] for a name that no caller can have.
    pub fn client(&self, name: &str) -> Result<Subject, CaError> {
        Subject::of_client(self.cluster, name).map_err(invalid)
    }

    /// Whom to believe: about nodes, or about callers.
    ///
    /// # Errors
    /// [`CaError::Io`].
    pub fn bundle(&self, authority: Authority) -> Result<String, CaError> {
        read_text(&self.bundle_path(authority))
    }

    /// Issues a leaf, with a key that is made here.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issue(&self, order: &LeafOrder) -> Result<IssuedLeaf, CaError> {
        let (params, not_after) = self.params_of(order)?;
        let issuer = self.issuer(Authority::of(&order.subject))?;
        let key = KeyPair::generate().map_err(invalid)?;
        let leaf = params.signed_by(&key, &issuer).map_err(invalid)?;
        let key_pem = Some(key.serialize_pem());
        Ok(IssuedLeaf { certificate_pem: leaf.pem(), key_pem, not_after })
    }

    /// Issues a leaf for the key of a signing request (PEM). Nothing else of the request is taken: who it
    /// is for and what it may be used for is in the order.
    ///
    /// # Errors
    /// [`CaError::Invalid`] for a request that its key did not sign.
    pub fn sign(&self, order: &LeafOrder, request_pem: &str) -> Result<IssuedLeaf, CaError> {
        let mut request =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(invalid)?;
        let (params, not_after) = self.params_of(order)?;
        request.params = params;
        let issuer = self.issuer(Authority::of(&order.subject))?;
        let leaf = request.signed_by(&issuer).map_err(invalid)?;
        Ok(IssuedLeaf { certificate_pem: leaf.pem(), key_pem: None, not_after })
    }

    /// Puts a new issuer in the place of the present one. The bundle holds both until [`Ca::drop_former`]:
    /// give it to every node before any of them gets a leaf of the new one.
    ///
    /// # Errors
    /// [`CaError`]. The bundle may hold one more then, that never issues: rotate again.
    pub fn rotate(&self, authority: Authority) -> Result<(), CaError> {
        let hold = self.hold(authority)?;
        // Whoever rotates what cannot issue would be left with nothing.
        self.issuer(authority)?;
        let bundle = self.bundle(authority)?;
        if bundle.matches("BEGIN CERTIFICATE").count() >= BUNDLE_MAX {
            return Err(invalid("the bundle is full: drop the former first (--drop-former)"));
        }
        let (issuer, certificate) = new_authority(self.cluster, authority)?;
        let path = self.bundle_path(authority);
        let both = format!("{bundle}{certificate}");
        hold.replace(&path, Secrecy::Public, both.as_bytes()).map_err(in_file(&path))?;
        let path = self.issuer_path(authority);
        hold.replace(&path, Secrecy::Secret, issuer.as_bytes()).map_err(in_file(&path))
    }

    /// Takes all but the present issuer out of the bundle: what the former issued is refused by whoever has
    /// the new bundle.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn drop_former(&self, authority: Authority) -> Result<(), CaError> {
        let hold = self.hold(authority)?;
        let issuer = read_text(&self.issuer_path(authority))?;
        let certificate = certificate_of(&issuer)
            .ok_or_else(|| self.damaged(authority, "there is no certificate in it"))?;
        let path = self.bundle_path(authority);
        hold.replace(&path, Secrecy::Public, certificate.as_bytes()).map_err(in_file(&path))
    }

    fn params_of(&self, order: &LeafOrder) -> Result<(CertificateParams, SystemTime), CaError> {
        let LeafOrder { subject, dns, ips, hours } = order;
        if subject.cluster() != self.cluster {
            return Err(invalid("it is for another cluster"));
        }
        if !(1..=LEAF_HOURS_MAX).contains(hours) {
            return Err(invalid("a leaf lives 1 to 8760 hours"));
        }
        let now = now();
        let not_after = now + DAY / 24 * *hours;
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCKS_DIFFER).into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial()?.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.name());
        let uri = subject.to_string().try_into().map_err(invalid)?;
        params.subject_alt_names.push(SanType::URI(uri));
        for name in dns {
            let name = name.as_str().try_into().map_err(invalid)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject.role() {
            CertificateRole::Node => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            _ => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        Ok((params, not_after))
    }

    fn issuer(&self, authority: Authority) -> Result<Issuer<'static, KeyPair>, CaError> {
        let path = self.issuer_path(authority);
        let text = files::read_secret(&path).map_err(in_file(&path))?;
        let text =
            String::from_utf8(text).map_err(|error| self.damaged(authority, &error.to_string()))?;
        let key = KeyPair::from_pem(&text)
            .map_err(|error| self.damaged(authority, &error.to_string()))?;
        let certificate = certificate_of(&text)
            .ok_or_else(|| self.damaged(authority, "there is no certificate in it"))?;
        Issuer::from_ca_cert_pem(certificate, key)
            .map_err(|error| self.damaged(authority, &error.to_string()))
    }

    fn hold(&self, authority: Authority) -> Result<Hold, CaError> {
        let path = self.bundle_path(authority);
        Hold::of(&path).map_err(in_file(&path))
    }

    fn issuer_path(&self, authority: Authority) -> PathBuf {
        self.dir.join(authority.to_string()).join("issuer.pem")
    }

    fn bundle_path(&self, authority: Authority) -> PathBuf {
        self.dir.join(authority.to_string()).join("bundle.pem")
    }

    fn damaged(&self, authority: Authority, why: &str) -> CaError {
        CaError::Damaged { path: self.issuer_path(authority), why: why.to_owned() }
    }

    fn write_new(&self, path: &Path, secrecy: Secrecy, text: &str) -> Result<(), CaError> {
        let hold = Hold::of(path).map_err(in_file(path))?;
        hold.write_new(path, secrecy, text.as_bytes()).map_err(in_file(path))
    }
}

impl IssuedLeaf {
    /// Writes `<name>.pem`, and `<name>.key` if there is a key. In the place of what is there only if it is to
    /// be renewed; the key goes first, so that whoever looks between finds two that do not fit, and looks
    /// again.
    ///
    /// # Errors
    /// [`CaError::Exists`] or [`CaError::Io`].
    pub fn write(&self, dir: &Path, name: &str, renew: bool) -> Result<(), CaError> {
        files::make_dir(dir).map_err(in_file(dir))?;
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        if !renew && let Some(path) = [&certificate, &key].into_iter().find(|path| path.exists()) {
            return Err(CaError::Exists { path: path.clone() });
        }
        let hold = Hold::of(&key).map_err(in_file(&key))?;
        let write = |path: &Path, secrecy, text: &str| {
            let write = if renew { Hold::replace } else { Hold::write_new };
            write(&hold, path, secrecy, text.as_bytes()).map_err(in_file(path))
        };
        if let Some(text) = &self.key_pem {
            write(&key, Secrecy::Secret, text)?;
        }
        write(&certificate, Secrecy::Public, &self.certificate_pem)
    }
}

/// Writes whom to believe beside a leaf; it holds no secret, and replaces what is there.
///
/// # Errors
/// [`CaError::Io`].
pub fn write_bundle(dir: &Path, authority: Authority, bundle: &str) -> Result<PathBuf, CaError> {
    files::make_dir(dir).map_err(in_file(dir))?;
    let path = dir.join(format!("{authority}-authorities.pem"));
    let hold = Hold::of(&path).map_err(in_file(&path))?;
    hold.replace(&path, Secrecy::Public, bundle.as_bytes()).map_err(in_file(&path))?;
    Ok(path)
}

/// Key and certificate of a new one, and the certificate alone.
fn new_authority(cluster: ClusterId, authority: Authority) -> Result<(String, String), CaError> {
    let key = KeyPair::generate().map_err(invalid)?;
    let now = now();
    let serial = serial()?;
    let mut params = CertificateParams::default();
    params.not_before = (now - CLOCKS_DIFFER).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    // Its own name each time: the one that takes another's place is not mixed up with it.
    let name: String = serial[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("palisade {authority} {:032x} {name}", cluster.get());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(serial.into());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(invalid)?.pem();
    Ok((format!("{}{certificate}", key.serialize_pem()), certificate))
}

/// Positive, and never the same twice.
fn serial() -> Result<Vec<u8>, CaError> {
    let mut serial = vec![0; 16];
    let random = ring::rand::SystemRandom::new();
    random.fill(&mut serial).map_err(|_| invalid("no randomness"))?;
    serial[0] = serial[0] & 0x7f | 1;
    Ok(serial)
}

/// The certificate in a file that has a key before it.
fn certificate_of(pem: &str) -> Option<&str> {
    pem.find("-----BEGIN CERTIFICATE-----").map(|at| &pem[at..])
}

fn read_text(path: &Path) -> Result<String, CaError> {
    let raw = files::read(path).map_err(in_file(path))?;
    let damaged = |error: std::string::FromUtf8Error| CaError::Damaged {
        path: path.to_owned(),
        why: error.to_string(),
    };
    String::from_utf8(raw).map_err(damaged)
}

fn in_file(path: &Path) -> impl Fn(io::Error) -> CaError + use<> {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => CaError::Exists { path: path.clone() },
        _ => CaError::Io { path: path.clone(), source },
    }
}

fn invalid(why: impl fmt::Display) -> CaError {
    CaError::Invalid { why: why.to_string() }
}

#[cfg(test)]
mod tests;
