//! Who a certificate speaks of: one URI among its alternative names, and nothing else in it.
//!
//! `spiffe://<cluster, 32 hex digits>.palisade/<role>/<name>`, where the role is `node`, and the name then
//! its number in decimal, or `client`. There is one way to write each, so that two texts never mean the
//! same one.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{ClusterId, NodeId};

/// Longest name of a caller.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// What a certificate may be used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CertificateRole {
    /// One of the cluster's nodes.
    Node,
    /// A caller.
    Client,
}

impl CertificateRole {
    fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
        }
    }
}

/// Who a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    cluster: ClusterId,
    role: CertificateRole,
    name: String,
}

impl Subject {
    /// A node of a cluster.
    #[must_use]
    pub fn of_node(cluster: ClusterId, node: NodeId) -> Self {
        Self { cluster, role: CertificateRole::Node, name: node.to_string() }
    }

    /// A caller of a cluster.
    ///
    /// # Errors
    /// For a name that is not 1 to [`CLIENT_NAME_BYTES_MAX`] of `a-z`, `0-9`, `.`, `_` and `-`.
    pub fn of_client(cluster: ClusterId, name: &str) -> Result<Self, SubjectError> {
        let fine =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if name.is_empty() || CLIENT_NAME_BYTES_MAX < name.len() || !name.bytes().all(fine) {
            return Err(SubjectError::Name);
        }
        Ok(Self { cluster, role: CertificateRole::Client, name: name.to_owned() })
    }

    /// Reads what [`Subject`]'s `Display` writes.
    ///
    /// # Errors
    /// For anything else.
    pub fn parse(uri: &str) -> Result<Self, SubjectError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(SubjectError::Uri)?;
        let (cluster, rest) = rest.split_once(".palisade/").ok_or(SubjectError::Uri)?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if cluster.len() != 32 || !cluster.bytes().all(hex) {
            return Err(SubjectError::Uri);
        }
        let cluster = u128::from_str_radix(cluster, 16).map_err(|_| SubjectError::Uri)?;
        let cluster = ClusterId::new(cluster);
        match rest.split_once('/').ok_or(SubjectError::Uri)? {
            ("node", name) => {
                let node: u64 = name.parse().map_err(|_| SubjectError::Name)?;
                let subject = Self::of_node(cluster, NodeId::new(node));
                // `+1` and `01` are numbers too.
                if node == 0 || subject.name != name {
                    return Err(SubjectError::Name);
                }
                Ok(subject)
            }
            ("client", name) => Self::of_client(cluster, name),
            _ => Err(SubjectError::Role),
        }
    }

    /// Whose cluster it is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// What it may be used as.
    #[must_use]
    pub fn role(&self) -> CertificateRole {
        self.role
    }

    /// The name within the cluster and role.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self.role {
            CertificateRole::Node => self.name.parse().ok().map(NodeId::new),
            CertificateRole::Client => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, role, name } = self;
        write!(f, "spiffe://{:032x}.palisade/{}/{name}", cluster.get(), role.as_str())
    }
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// It is no X.509 certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It has no URI among its alternative names, or several.
    #[error("the certificate must have exactly one URI among its alternative names")]
    UriCount,
    /// The URI is of another form.
    #[error("the URI must be spiffe://<cluster, 32 hex digits>.palisade/<node or client>/<name>")]
    Uri,
    /// The role is none of ours.
    #[error("the role in the URI must be node or client")]
    Role,
    /// The name does not suit the role.
    #[error(
        "the name in the URI must be the node's number, or for a client 1 to 64 of a-z, 0-9, '.', '_' and '-'"
    )]
    Name,
}

/// What is read of a certificate. Only of one whose signatures were verified is it true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateFacts {
    /// Whom it names.
    pub subject: Subject,
    /// It is no certificate before this.
    pub not_before: SystemTime,
    /// Nor after this.
    pub not_after: SystemTime,
    /// It may be shown to who calls (extended key usage `serverAuth`, named and not left open).
    pub serves: bool,
    /// It may be shown to who is called (`clientAuth`).
    pub calls: bool,
}

impl CertificateFacts {
    /// Reads a leaf.
    ///
    /// # Errors
    /// For one that cannot be read or names nobody.
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, SubjectError> {
        let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| SubjectError::Unreadable)?;
        if !rest.is_empty() {
            return Err(SubjectError::Unreadable);
        }
        let names = leaf.subject_alternative_name().map_err(|_| SubjectError::Unreadable)?;
        let names = names.map(|names| &names.value.general_names);
        let mut uris = names.into_iter().flatten().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(SubjectError::UriCount);
        };
        let usage = leaf.extended_key_usage().map_err(|_| SubjectError::Unreadable)?;
        let at = |seconds: i64| {
            let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            SystemTime::UNIX_EPOCH.checked_add(since).ok_or(SubjectError::Unreadable)
        };
        Ok(Self {
            subject: Subject::parse(uri)?,
            not_before: at(leaf.validity().not_before.timestamp())?,
            not_after: at(leaf.validity().not_after.timestamp())?,
            serves: usage.as_ref().is_some_and(|usage| usage.value.server_auth),
            calls: usage.as_ref().is_some_and(|usage| usage.value.client_auth),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_written_in_one_way() {
        let cluster = ClusterId::new(0xabc);
        for subject in [
            Subject::of_node(cluster, NodeId::new(7)),
            Subject::of_client(cluster, "reports-1.eu_west").unwrap(),
        ] {
            assert_eq!(Subject::parse(&subject.to_string()), Ok(subject));
        }
        let hex = "00000000000000000000000000000abc";
        let good = format!("spiffe://{hex}.palisade/node/7");
        assert_eq!(Subject::parse(&good).unwrap().node(), Some(NodeId::new(7)));
        for wrong in [
            String::new(),
            good.to_uppercase(),
            format!("spiffe://{}.palisade/node/7", hex.to_uppercase()),
            format!("spiffe://{}.palisade/node/7", &hex[1..]),
            format!("spiffe://+{}.palisade/node/7", &hex[1..]),
            format!("spiffe://{hex}.palisade/node/07"),
            format!("spiffe://{hex}.palisade/node/+7"),
            format!("spiffe://{hex}.palisade/node/0"),
            format!("spiffe://{hex}.palisade/node/7/"),
            format!("spiffe://{hex}.palisade/node/18446744073709551616"),
            format!("spiffe://{hex}.palisade/node"),
            format!("spiffe://{hex}.palisade/admin/7"),
            format!("spiffe://{hex}.palisade/client/"),
            format!("spiffe://{hex}.palisade/client/A"),
            format!("spiffe://{hex}.palisade/client/a/b"),
            format!("spiffe://{hex}.palisade/client/a*"),
            format!("spiffe://{hex}.palisade/client/{}", "a".repeat(65)),
            format!("spiffe://{hex}.elsewhere/node/7"),
            format!("https://{hex}.palisade/node/7"),
        ] {
            assert!(Subject::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
