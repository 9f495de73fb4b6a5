//! The table of keys: each with what it can hold, its default, and one line of what it is for.

use palisade::{DATA_GROUPS_MAX, READER_THREADS_MAX, STATE_MEMORY_BYTES_MIN};

/// A quorum is asked in a quarter of the age, and has that long to answer: 2.5 s, for one that spans the world.
const GRANTS_AGE_MS_MIN: u64 = 10_000;

/// What a key can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number, from the one up to the other.
    Number(u64, u64),
    /// `true` or `false`.
    Switch,
    /// The path of a file or directory; from a file it counts from that file's directory.
    Path,
    /// `provider/region/zone`.
    Domain,
    /// 32 hex digits.
    Cluster,
    /// `ADDRESS:PORT`.
    Address,
    /// Names of callers, with commas between; in a file a list of them.
    Names,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Which log lines are written: a level, or levels by target.
    LogFilter,
    /// `ID=ADDRESS:PORT[@provider/region/zone]`, with commas between; in a file `[[voters]]` tables.
    Voters,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name, as in a file.
    pub path: &'static str,
    /// What it can hold.
    pub kind: Kind,
    /// Its value where nothing else is said, as it would be written; none if it is then not set.
    pub default: Option<&'static str>,
    /// One line.
    pub about: &'static str,
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    about: &'static str,
) -> Key {
    Key { path, kind, default, about }
}

const MEMORY: Kind = Kind::Number(STATE_MEMORY_BYTES_MIN as u64, 1 << 44);

/// The largest batch that a node writes.
const WAL_BATCH_BYTES: u64 = 16 << 20;

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key("node.id", Kind::Number(1, u64::MAX), None, "this node's number, unique in its cluster"),
    key("node.cluster", Kind::Cluster, None, "the cluster's number, the same at every node"),
    key("node.data_dir", Kind::Path, None, "where the node keeps its data"),
    key("node.domain", Kind::Domain, Some("local/local/local"), "where the node is"),
    key(
        "node.mode",
        Kind::Choice(&["single-node", "raft"]),
        Some("single-node"),
        "one node by itself, or one of several",
    ),
    key("node.joins", Kind::Switch, Some("false"), "wait to be made a member by those who are"),
    key(
        "node.data_groups",
        Kind::Number(1, DATA_GROUPS_MAX),
        Some("1"),
        "groups that resources are spread over, for the life of the cluster",
    ),
    key(
        "node.request_timeout_ms",
        Kind::Number(1, 86_400_000),
        Some("10000"),
        "how long a request waits for its quorum",
    ),
    key("listen.peers", Kind::Address, None, "where the other nodes reach it"),
    key("listen.grpc", Kind::Address, None, "where callers reach it"),
    key("listen.admin", Kind::Address, None, "metrics, readiness and the console; loopback only"),
    key("voters", Kind::Voters, None, "the first voters of a raft cluster, this node among them"),
    key(
        "security.mode",
        Kind::Choice(&["mtls", "insecure-loopback"]),
        Some("mtls"),
        "certificates for everyone, or none on this machine alone",
    ),
    key("security.node_cert_file", Kind::Path, None, "this node's certificate, PEM"),
    key("security.node_key_file", Kind::Path, None, "its private key, PEM"),
    key("security.peer_ca_file", Kind::Path, None, "who signs the certificates of nodes, PEM"),
    key("security.client_ca_file", Kind::Path, None, "who signs the certificates of clients, PEM"),
    key(
        "security.token_keys_file",
        Kind::Path,
        None,
        "keys of capability tokens; none are taken without",
    ),
    key("security.admins", Kind::Names, None, "callers who may do everything, whatever is granted"),
    key(
        "security.grants_age_ms_max",
        Kind::Number(GRANTS_AGE_MS_MIN, 86_400_000),
        Some("30000"),
        "how long ago a quorum may have had the grants that callers are served by",
    ),
    key(
        "storage.state_cache_bytes",
        MEMORY,
        Some("67108864"),
        "memory for parts of the state that were read",
    ),
    key(
        "storage.state_write_buffer_bytes",
        MEMORY,
        Some("67108864"),
        "memory for changes of the state that are not on disk yet",
    ),
    key(
        "storage.reader_threads",
        Kind::Number(1, READER_THREADS_MAX as u64),
        Some("2"),
        "threads that read the state",
    ),
    key(
        "storage.scrub_bytes_per_second",
        Kind::Number(1, 1 << 40),
        Some("4194304"),
        "how much of the state is read again in a second, to find what rots",
    ),
    key(
        "storage.wal_segment_bytes",
        Kind::Number(WAL_BATCH_BYTES + (1 << 20), (1 << 32) - 8),
        Some("33554432"),
        "size of one file of the write-ahead log, a multiple of 8",
    ),
    key(
        "storage.wal_queued_bytes_max",
        Kind::Number(WAL_BATCH_BYTES, 1 << 40),
        Some("67108864"),
        "what may wait to be written to the write-ahead log",
    ),
    key(
        "encryption.key_ring_file",
        Kind::Path,
        None,
        "keys that seal the log, snapshots and backups; nothing is sealed without",
    ),
    key(
        "encryption.state_store",
        Kind::Choice(&["encrypted-disk"]),
        None,
        "what protects the state store, which keys do not seal",
    ),
    key(
        "backup.dir",
        Kind::Path,
        None,
        "where backups of this node are written; none are taken without",
    ),
    key("log.level", Kind::LogFilter, Some("info"), "which log lines go to stderr"),
    key("log.format", Kind::Choice(&["text", "json"]), Some("text"), "how they are written"),
    key(
        "traces.collector",
        Kind::Address,
        None,
        "where the spans of traced calls go, by OTLP over gRPC; loopback only",
    ),
    key(
        "traces.stored",
        Kind::Switch,
        Some("false"),
        "store trace contexts with records: once every node is of a release that knows them",
    ),
    key("reports.listen", Kind::Address, None, "serves the report service there; loopback only"),
    key(
        "reports.profile",
        Kind::Choice(&["single-az", "multi-az", "cross-region", "cross-provider"]),
        Some("cross-provider"),
        "where the report service may run",
    ),
];

impl Key {
    /// Its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("PALISADE_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// Its flag, with the dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.path.replace(['.', '_'], "-"))
    }

    /// What stands for its value in a usage line.
    #[must_use]
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Number(..) if self.path.contains("bytes") => "BYTES",
            Kind::Number(..) if self.path.contains("_ms") => "MS",
            Kind::Number(..) => "NUMBER",
            Kind::Switch => "BOOL",
            Kind::Path if self.path.ends_with("_dir") => "DIR",
            Kind::Path => "FILE",
            Kind::Domain => "PROVIDER/REGION/ZONE",
            Kind::Cluster => "HEX",
            Kind::Address => "ADDRESS:PORT",
            Kind::Names => "NAME,...",
            Kind::Choice(_) => "WORD",
            Kind::LogFilter => "FILTER",
            Kind::Voters => "ID=ADDRESS:PORT,...",
        }
    }
}

/// The key of this path.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The name out of these that is spelled most like the one, if any is near enough to have been meant.
pub(crate) fn nearest(
    found: &str,
    names: impl IntoIterator<Item = impl Into<String>>,
) -> Option<String> {
    let near = |name: &String| 2 * distance(found, name) <= found.len().max(4);
    let names = names.into_iter().map(Into::into).filter(near);
    names.min_by_key(|name| distance(found, name))
}

/// Letters to be put in, taken out or changed to make the one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (place, candidate) in other.iter().enumerate() {
            let change = diagonal + usize::from(letter != *candidate);
            diagonal = row[place + 1];
            row[place + 1] = change.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_keys_share_a_name_in_any_place() {
        let names = |of: fn(&Key) -> String| KEYS.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!(names(|key| key.path.to_owned()), KEYS.len());
        assert_eq!(names(Key::variable), KEYS.len());
        assert_eq!(names(Key::flag), KEYS.len());
    }

    #[test]
    fn letters_that_differ_are_counted() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(
            nearest("node.data_dri", ["node.domain", "node.data_dir"]).as_deref(),
            Some("node.data_dir")
        );
        assert_eq!(nearest("zzzzzzzz", ["node.domain"]), None);
    }
}
