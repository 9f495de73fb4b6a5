//! Looks at a machine before a node does: each check says what it found, and what to do if that is not good.
//!
//! A check reads; the one that measures syncs writes a file of its own beside the data and removes it. Each
//! is bounded: so many syncs, one attempt for each port.

mod checks;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::node::{Certificates, NodeSettings, Security};

/// How good what was found is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// A node runs, and not as well as it could.
    Warned,
    /// A node does not run, or not safely.
    Failed,
}

impl Mark {
    /// For people.
    #[must_use]
    pub const fn sign(self) -> char {
        match self {
            Self::Good => '✓',
            Self::Warned => '!',
            Self::Failed => '✗',
        }
    }

    /// For programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warned => "warned",
            Self::Failed => "failed",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// How good it is.
    pub mark: Mark,
    /// What was found.
    pub found: String,
    /// What to do, unless it is good.
    pub fix: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, mark: Mark::Good, found: found.into(), fix: None }
    }

    fn warned(check: &'static str, found: impl Into<String>, fix: &str) -> Self {
        Self { check, mark: Mark::Warned, found: found.into(), fix: Some(fix.to_owned()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, fix: &str) -> Self {
        Self { check, mark: Mark::Failed, found: found.into(), fix: Some(fix.to_owned()) }
    }
}

/// What is to be looked at, beside the machine itself.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Where a node keeps its data.
    pub dir: Option<PathBuf>,
    /// Where it would listen, each with the key that says so.
    pub ports: Vec<(&'static str, SocketAddr)>,
    /// Its certificates.
    pub certificates: Option<Certificates>,
    /// Bytes of one file of its log.
    pub segment_bytes: Option<u64>,
}

impl Subject {
    /// All that a node's settings name; a directory that was named before stays.
    pub fn take(&mut self, node: &NodeSettings) {
        self.dir.get_or_insert_with(|| node.data_dir.clone());
        let listen = [
            ("listen.peers", node.listen.peers),
            ("listen.grpc", node.listen.grpc),
            ("listen.admin", node.listen.admin),
            ("reports.listen", node.reports.as_ref().map(|reports| reports.listen)),
        ];
        let ports = listen.into_iter().filter_map(|(key, address)| Some((key, address?)));
        self.ports = ports.collect();
        self.segment_bytes = Some(node.storage.wal_segment_bytes);
        if let Security::MutualTls(certificates) = &node.security {
            self.certificates = Some(certificates.clone());
        }
    }
}

/// Does all checks, in an order from the machine to the node.
#[must_use]
pub fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![checks::clock(), checks::open_files()];
    if let Some(dir) = &subject.dir {
        findings.extend(checks::directory(dir, subject.segment_bytes));
    }
    findings.extend(subject.ports.iter().map(|(key, address)| checks::port(key, *address)));
    if let Some(certificates) = &subject.certificates {
        findings.extend(checks::certificate_files(certificates));
    }
    findings
}
