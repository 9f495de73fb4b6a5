//! Who calls, by the certificate that the connection was made with, and by nothing that a message says.

use palisade::ClusterId;
use palisade::tls::{CertificateFacts, CertificateRole, Subject, SubjectError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Who is on the other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    subject: Subject,
    fingerprint: Fingerprint,
}

/// The SHA-256 of a leaf, which a token can be bound to.
pub type Fingerprint = [u8; 32];

/// Why a connection has no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityRefusal {
    /// It was made without a certificate.
    #[error("the connection shows no certificate: call with one of the cluster's client authority")]
    NoCertificate,
    /// The certificate names nobody.
    #[error("{0}")]
    Unnamed(#[from] SubjectError),
    /// The certificate is of another cluster.
    #[error("the certificate is of another cluster: call with one of this cluster")]
    ForeignCluster,
    /// The certificate is for another use.
    #[error("the certificate is not for calling: issue one with `palisade ca issue`")]
    NotForCalling,
}

impl Identity {
    /// Reads it from the chain of a connection whose handshake believed it, leaf first.
    ///
    /// # Errors
    /// [`IdentityRefusal`], and then nothing may be done on this connection.
    pub fn of_chain(
        cluster: ClusterId,
        chain: &[CertificateDer<'_>],
    ) -> Result<Self, IdentityRefusal> {
        let leaf = chain.first().ok_or(IdentityRefusal::NoCertificate)?;
        let facts = CertificateFacts::read(leaf)?;
        if facts.subject.cluster() != cluster {
            return Err(IdentityRefusal::ForeignCluster);
        }
        if !facts.calls {
            return Err(IdentityRefusal::NotForCalling);
        }
        Ok(Self { subject: facts.subject, fingerprint: fingerprint(leaf) })
    }

    /// Whom the certificate names.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Which certificate it was.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The name that grants are given to, of a caller. Nodes have none: they speak to each other elsewhere.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        (self.subject.role() == CertificateRole::Client).then(|| self.subject.name())
    }
}

fn fingerprint(leaf: &CertificateDer<'_>) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// That of the first certificate of a file.
pub(crate) fn fingerprint_of_pem(pem: &[u8]) -> Option<Fingerprint> {
    CertificateDer::from_pem_slice(pem).ok().map(|leaf| fingerprint(&leaf))
}
