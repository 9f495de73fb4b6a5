//! What the keys come to: the settings of a node, or everything that does not fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use palisade::NodeId;

use super::error::ConfigError;
use super::layers::{Resolved, Source};
use super::value::{Value, VoterText};
use crate::node::{Certificates, Listen, NodeSettings, Reports, Security, Storage, Voter};
use crate::reports::profile_by_name;

/// Everything that a node's process is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node itself.
    pub node: NodeSettings,
    /// What it writes to stderr.
    pub log: LogSettings,
    /// Where the spans of traced calls go.
    pub collector: Option<SocketAddr>,
}

/// What a process writes to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or levels by target.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    Json,
}

const CERTIFICATE_KEYS: [&str; 4] = [
    "security.node_cert_file",
    "security.node_key_file",
    "security.peer_ca_file",
    "security.client_ca_file",
];
const LISTEN_KEYS: [&str; 4] = ["listen.peers", "listen.grpc", "listen.admin", "reports.listen"];
/// Served to this machine alone, whatever the mode.
const LOOPBACK_KEYS: [&str; 2] = ["listen.admin", "reports.listen"];

struct Reader<'a> {
    resolved: &'a Resolved,
    errors: Vec<ConfigError>,
}

impl Config {
    pub(super) fn of(resolved: &Resolved) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader { resolved, errors: Vec::new() };
        reader.needed("node.id", "every node has a number of its own, from 1");
        reader.needed("node.cluster", "all nodes of a cluster have the same 32 hex digits");
        reader.needed("node.data_dir", "a node needs a directory of its own");
        reader.members();
        reader.security();
        reader.storage();
        reader.encryption();
        reader.traces();
        if !reader.errors.is_empty() {
            return Err(reader.errors);
        }
        Ok(reader.built())
    }
}

impl Reader<'_> {
    fn value(&self, path: &str) -> Option<&Value> {
        self.resolved.get(path).map(|(value, _)| value)
    }

    fn needed(&mut self, path: &str, why: &str) {
        if self.resolved.get(path).is_none() {
            let (key, why) = (path.to_owned(), why.to_owned());
            self.errors.push(ConfigError::MissingKey { key, why });
        }
    }

    fn unfit(&mut self, path: &str, other: &str, why: &str) {
        let source_of =
            self.resolved.get(path).map_or(Source::Default, |(_, source)| source.clone());
        let other = match self.value(other) {
            Some(value) => format!("{other}={value}"),
            None => other.to_owned(),
        };
        let (key, why) = (path.to_owned(), why.to_owned());
        self.errors.push(ConfigError::UnfitKeys { key, source_of, other, why });
    }

    fn number(&self, path: &str) -> u64 {
        match self.value(path) {
            Some(Value::Number(number)) => *number,
            other => unreachable!("{path} is a number and was asked for: {other:?}"),
        }
    }

    fn switch(&self, path: &str) -> bool {
        matches!(self.value(path), Some(Value::Switch(true)))
    }

    fn word(&self, path: &str) -> &str {
        match self.value(path) {
            Some(Value::Word(word)) => word,
            other => unreachable!("{path} has a default: {other:?}"),
        }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        match self.value(path) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => None,
        }
    }

    fn address(&self, path: &str) -> Option<SocketAddr> {
        match self.value(path) {
            Some(Value::Address(address)) => Some(*address),
            _ => None,
        }
    }

    fn names(&self, path: &str) -> BTreeSet<String> {
        match self.value(path) {
            Some(Value::Names(names)) => names.clone(),
            _ => BTreeSet::new(),
        }
    }

    fn voters(&self) -> &[VoterText] {
        match self.value("voters") {
            Some(Value::Voters(voters)) => voters,
            _ => &[],
        }
    }

    /// Who takes part, by the mode.
    fn members(&mut self) {
        let joins = self.switch("node.joins");
        let named = !self.voters().is_empty();
        if self.word("node.mode") == "single-node" {
            let alone = "a single node has no others: say node.mode=raft if there are";
            for (path, is_set) in [
                ("voters", named),
                ("node.joins", joins),
                ("listen.peers", self.value("listen.peers").is_some()),
            ] {
                if is_set {
                    self.unfit(path, "node.mode", alone);
                }
            }
            return;
        }
        self.needed("listen.peers", "a node of several is reached by the others");
        match (joins, named) {
            (true, true) => {
                let why = "a node that joins names no first voters: those who are members name it";
                self.unfit("voters", "node.joins", why);
            }
            (false, false) => {
                self.needed("voters", "the first nodes of a raft cluster name each other")
            }
            _ => {}
        }
        let id = match self.value("node.id") {
            Some(Value::Number(id)) => Some(*id),
            _ => None,
        };
        let voters = self.voters().to_vec();
        if let Some(id) = id
            && named
            && voters.iter().all(|voter| voter.id != id)
        {
            let why =
                "this node is one of the first voters too, or joins later with node.joins=true";
            self.unfit("voters", "node.id", why);
        }
        for (at, voter) in voters.iter().enumerate() {
            if voters[..at].iter().any(|before| before.id == voter.id) {
                self.unfit("voters", "voters", "no two voters have one number");
            }
            if voters[..at].iter().any(|before| before.address == voter.address) {
                self.unfit("voters", "voters", "no two voters have one address");
            }
        }
    }

    /// Without certificates nobody outside this machine is let in.
    fn security(&mut self) {
        for path in LOOPBACK_KEYS {
            if self.address(path).is_some_and(|at| !at.ip().is_loopback()) {
                let why = "callers are not asked there who they are: listen on 127.0.0.1 or [::1]";
                self.unfit(path, path, why);
            }
        }
        if self.word("security.mode") == "insecure-loopback" {
            for path in LISTEN_KEYS {
                let is_outside = self.address(path).is_some_and(|at| !at.ip().is_loopback());
                if is_outside && !LOOPBACK_KEYS.contains(&path) {
                    let why = "without certificates only 127.0.0.1 and [::1] are served";
                    self.unfit(path, "security.mode", why);
                }
            }
            if self.voters().iter().any(|voter| !voter.address.ip().is_loopback()) {
                self.unfit(
                    "voters",
                    "security.mode",
                    "without certificates all nodes are on this machine",
                );
            }
            return;
        }
        if self.value("reports.listen").is_some() {
            let why = "the report service asks nobody who he is: serve it with \
                       security.mode=insecure-loopback, or from a process of its own that calls the cluster";
            self.unfit("reports.listen", "security.mode", why);
        }
        if LISTEN_KEYS.iter().all(|path| self.value(path).is_none()) {
            // Nobody can call it.
            return;
        }
        for path in CERTIFICATE_KEYS {
            let why = "with security.mode=mtls, which is the default, everyone has a certificate \
                       (on this machine alone, security.mode=insecure-loopback does without)";
            self.needed(path, why);
        }
    }

    /// As the write-ahead log's own rule.
    fn storage(&mut self) {
        let path = "storage.wal_segment_bytes";
        if !self.number(path).is_multiple_of(8) {
            self.unfit(path, path, "it must be a multiple of 8");
        }
    }

    /// What keys do not seal must lie somewhere safe, and nothing here can see whether it does.
    fn encryption(&mut self) {
        if self.value("encryption.key_ring_file").is_some() {
            let why = "the state store is not sealed: put node.data_dir on an encrypted disk or file system \
                       (dm-crypt, fscrypt), and say so with encryption.state_store=encrypted-disk";
            self.needed("encryption.state_store", why);
        }
    }

    /// Spans say what is called and by whom, and leave without TLS.
    fn traces(&mut self) {
        let path = "traces.collector";
        let Some(collector) = self.address(path) else { return };
        if !collector.ip().is_loopback() {
            let why =
                "spans are sent without TLS: to a collector on this machine, which passes them on";
            self.unfit(path, path, why);
        }
        if !cfg!(feature = "otel") {
            let why =
                "this palisade was built without: build it with --features palisade-server/otel";
            self.unfit(path, path, why);
        }
    }

    fn built(&self) -> Config {
        let domain = match self.value("node.domain") {
            Some(Value::Domain(domain)) => domain.clone(),
            other => unreachable!("node.domain has a default: {other:?}"),
        };
        let cluster = match self.value("node.cluster") {
            Some(Value::Cluster(cluster)) => *cluster,
            other => unreachable!("node.cluster was asked for: {other:?}"),
        };
        let voters = self.voters().iter().map(|voter| {
            let VoterText { id, address, domain } = voter.clone();
            (NodeId::new(id), Voter { address, domain })
        });
        let profile = self.word("reports.profile");
        let reports = self.address("reports.listen").map(|listen| Reports {
            listen,
            profile: profile_by_name(profile).expect("each word of the key is a profile"),
        });
        let node = NodeSettings {
            id: NodeId::new(self.number("node.id")),
            cluster,
            data_dir: self.path("node.data_dir").expect("it was asked for"),
            domain,
            joins: self.switch("node.joins"),
            data_groups: self.number("node.data_groups"),
            request_timeout_ms: self.number("node.request_timeout_ms"),
            voters: voters.collect::<BTreeMap<NodeId, Voter>>(),
            listen: Listen {
                peers: self.address("listen.peers"),
                grpc: self.address("listen.grpc"),
                admin: self.address("listen.admin"),
            },
            security: self.security_settings(),
            storage: Storage {
                state_cache_bytes: self.number("storage.state_cache_bytes") as usize,
                state_write_buffer_bytes: self.number("storage.state_write_buffer_bytes") as usize,
                reader_threads: self.number("storage.reader_threads") as usize,
                scrub_bytes_per_second: self.number("storage.scrub_bytes_per_second"),
                wal_segment_bytes: self.number("storage.wal_segment_bytes"),
                wal_queued_bytes_max: self.number("storage.wal_queued_bytes_max") as usize,
            },
            key_ring_file: self.path("encryption.key_ring_file"),
            backup_dir: self.path("backup.dir"),
            stores_traces: self.switch("traces.stored"),
            reports,
        };
        let format = match self.word("log.format") {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let log = LogSettings { filter: self.word("log.level").to_owned(), format };
        Config { node, log, collector: self.address("traces.collector") }
    }

    fn security_settings(&self) -> Security {
        let of = |path| self.path(path);
        if self.word("security.mode") == "insecure-loopback" {
            return Security::InsecureLoopback;
        }
        match CERTIFICATE_KEYS.map(of) {
            [
                Some(node_cert_file),
                Some(node_key_file),
                Some(peer_ca_file),
                Some(client_ca_file),
            ] => Security::MutualTls(Certificates {
                node_cert_file,
                node_key_file,
                peer_ca_file,
                client_ca_file,
                token_keys_file: of("security.token_keys_file"),
                admins: self.names("security.admins"),
                grants_age_ms_max: self.number("security.grants_age_ms_max"),
            }),
            // They were asked for if anything listens.
            _ => Security::Closed,
        }
    }
}
