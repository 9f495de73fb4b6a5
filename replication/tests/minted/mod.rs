//! Certificates for tests, good ones and others.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a node's may be used for.
pub(crate) const EITHER: &[ExtendedKeyUsagePurpose] =
    &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
/// Only to answer.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) const SERVES: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];

/// Who issues.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// What is to be issued.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) from: SystemTime,
    pub(crate) until: SystemTime,
    pub(crate) usages: &'static [ExtendedKeyUsagePurpose],
}

/// What was.
#[allow(dead_code, reason = "not every test needs all of it")]
pub(crate) struct Minted {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    key: Vec<u8>,
}

impl Leaf {
    /// One for now, and for either side.
    pub(crate) fn of(uri: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "certificates are of the calendar")]
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        Self { uris: vec![uri.to_owned()], from: now - hour, until: now + hour, usages: EITHER }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn leaf(&self, leaf: &Leaf) -> Minted {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = leaf.from.into();
        params.not_after = leaf.until.into();
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
        params.subject_alt_names = leaf.uris.iter().map(uri).collect();
        params.extended_key_usages = leaf.usages.to_vec();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Minted {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
        }
    }
}

impl Minted {
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}
