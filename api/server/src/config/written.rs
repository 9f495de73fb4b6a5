//! A configuration file as it is written for somebody who will edit it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use palisade::FailureDomain;

use super::value::VoterText;

/// What a node of several is configured with. Everything else is the default, and left out.
#[derive(Clone, Debug)]
pub struct NodeFile {
    /// By whom it was written.
    pub written_by: &'static str,
    /// Which node, where the others reach it, and where it is.
    pub node: VoterText,
    /// 32 hex digits.
    pub cluster: String,
    /// Groups that resources are spread over.
    pub data_groups: u64,
    /// Every first voter; none for a node that joins.
    pub voters: Vec<VoterText>,
    /// Where callers reach it.
    pub grpc: SocketAddr,
    /// Where its console is, if it serves one.
    pub admin: Option<SocketAddr>,
    /// Where its report service is, and the name of its profile, if it runs one.
    pub reports: Option<(SocketAddr, String)>,
    /// Where its backups are written, if they are taken.
    pub backup_dir: Option<&'static str>,
    /// Callers who may do everything.
    pub admins: Vec<String>,
    /// Everyone on this machine may come in; else it has certificates, in `certs` beside the file.
    pub is_loopback: bool,
}

/// The directory of certificates, as `palisade ca issue --out` fills it.
pub const CERTS: &str = "certs";

/// In quotes; whatever is in it.
fn domain(domain: Option<&FailureDomain>) -> toml::Value {
    domain.map_or("local/local/local".to_owned(), ToString::to_string).into()
}

impl fmt::Display for NodeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.node.id;
        writeln!(f, "# Written by `{}`, and not again: it can be edited.", self.written_by)?;
        writeln!(f, "[node]\nid = {id}\ncluster = \"{}\"\nmode = \"raft\"", self.cluster)?;
        writeln!(f, "data_dir = \"node-{id}\"\ndomain = {}", domain(self.node.domain.as_ref()))?;
        if self.data_groups != 1 {
            writeln!(f, "data_groups = {}", self.data_groups)?;
        }
        if self.voters.is_empty() {
            writeln!(f, "joins = true")?;
        }
        writeln!(f, "\n[listen]\npeers = \"{}\"\ngrpc = \"{}\"", self.node.address, self.grpc)?;
        if let Some(admin) = self.admin {
            writeln!(f, "admin = \"{admin}\"")?;
        }
        if let Some((listen, profile)) = &self.reports {
            writeln!(f, "\n[reports]\nlisten = \"{listen}\"\nprofile = \"{profile}\"")?;
        }
        if let Some(dir) = self.backup_dir {
            writeln!(f, "\n[backup]\ndir = \"{dir}\"")?;
        }
        writeln!(f, "\n[security]")?;
        if self.is_loopback {
            writeln!(f, "# Everyone on this machine may come in, and nobody else can.")?;
            writeln!(f, "mode = \"insecure-loopback\"")?;
        } else {
            if !self.admins.is_empty() {
                writeln!(f, "admins = [\"{}\"]", self.admins.join("\", \""))?;
            }
            writeln!(f, "node_cert_file = \"{CERTS}/node-{id}.pem\"")?;
            writeln!(f, "node_key_file = \"{CERTS}/node-{id}.key\"")?;
            writeln!(f, "peer_ca_file = \"{CERTS}/peer-authorities.pem\"")?;
            writeln!(f, "client_ca_file = \"{CERTS}/client-authorities.pem\"")?;
        }
        for voter in &self.voters {
            writeln!(f, "\n[[voters]]\nid = {}\naddress = \"{}\"", voter.id, voter.address)?;
            writeln!(f, "domain = {}", domain(voter.domain.as_ref()))?;
        }
        Ok(())
    }
}

impl NodeFile {
    /// Writes it where nothing is.
    ///
    /// # Errors
    /// When something is there, or it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(self.to_string().as_bytes())?;
        file.sync_all()
    }
}

/// The number of a new cluster.
///
/// # Errors
/// When the system gives no random bytes.
pub fn random_cluster() -> io::Result<String> {
    let mut raw = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut raw)?;
    // Zero is no cluster.
    raw[15] |= 1;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::node::Security;

    fn voter(id: u64) -> VoterText {
        let address = format!("10.0.0.{id}:7300").parse().unwrap();
        VoterText { id, address, domain: Some(FailureDomain::new("aws", "eu", format!("{id}"))) }
    }

    #[test]
    fn what_is_written_is_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = NodeFile {
            written_by: "a test",
            node: voter(2),
            cluster: random_cluster().unwrap(),
            data_groups: 4,
            voters: (1..=3).map(voter).collect(),
            grpc: "10.0.0.2:7301".parse().unwrap(),
            admin: None,
            reports: None,
            backup_dir: Some("backups"),
            admins: vec!["ops".to_owned(), "night-shift".to_owned()],
            is_loopback: false,
        };
        let path = dir.path().join("node-2.toml");
        file.write(&path).unwrap();
        assert_eq!(file.write(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let read = |path: &Path| {
            let layers = Layers { file: Some(path.to_owned()), ..Layers::default() };
            layers.resolve().unwrap().config().unwrap().node
        };
        let node = read(&path);
        assert_eq!((node.id.get(), node.voters.len(), node.data_groups), (2, 3, 4));
        assert_eq!(node.backup_dir, Some(dir.path().join("backups")));
        let Security::MutualTls(certificates) = node.security else { panic!() };
        assert_eq!(certificates.node_key_file, dir.path().join("certs/node-2.key"));
        let joins = dir.path().join("joins.toml");
        NodeFile { voters: Vec::new(), ..file }.write(&joins).unwrap();
        assert!(read(&joins).joins);
    }
}
