//! What fuzzing calls: every place where a node reads what callers send, and the texts that it is configured
//! with.
//!
//! Of each method of the public packages there is a target: bytes that are to be its message are decoded, judged
//! and turned into what the engine is asked for, as far as that needs no engine. Whatever they are, nothing
//! panics, no room is made for what only a length says, and a refusal fits into the head of an answer.

use crate::{config, grpc, security};

/// One function that takes bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As its corpus folder is called.
    pub name: &'static str,
    /// Panics if a promise does not hold. Returns whether the bytes, as they are, are well-formed.
    pub run: fn(&[u8]) -> bool,
    /// Named inputs to begin with; `good-*` are well-formed, the others are not.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Targets of the texts and rows beside the messages.
const OTHERS: [Target; 4] = [
    Target { name: "config_file", run: config::fuzz::text, seeds: config_seeds },
    Target { name: "token_text", run: security::fuzz::token, seeds: security::fuzz::token_seeds },
    Target { name: "grants_row", run: security::fuzz::row, seeds: security::fuzz::row_seeds },
    Target {
        name: "audit_record",
        run: security::fuzz::record,
        seeds: security::fuzz::record_seeds,
    },
];

/// Every target of this crate.
#[must_use]
pub fn targets() -> Vec<Target> {
    grpc::fuzz::TARGETS.iter().chain(&OTHERS).copied().collect()
}

/// Runs one target of this crate. Panics if there is none of that name.
pub fn run(name: &str, raw: &[u8]) -> bool {
    let found = targets().into_iter().find(|target| target.name == name);
    (found.expect("a target of that name").run)(raw)
}

/// Inputs that are named by what becomes of them.
pub(crate) fn sorted(
    run: fn(&[u8]) -> bool,
    seeds: Vec<(&str, Vec<u8>)>,
) -> Vec<(String, Vec<u8>)> {
    let judged = seeds.into_iter().map(|(name, raw)| {
        let kind = if run(&raw) { "good" } else { "bad" };
        (format!("{kind}-{name}"), raw)
    });
    judged.collect()
}

fn config_seeds() -> Vec<(String, Vec<u8>)> {
    let whole = br#"[node]
id = 1
cluster = "00000000000000000000000000000007"
data_dir = "data"
domain = "aws/eu-west-1/a"
mode = "raft"
data_groups = 2

[listen]
peers = "127.0.0.1:7300"
grpc = "127.0.0.1:7301"

[security]
mode = "insecure-loopback"

[storage]
reader_threads = 4

[[voters]]
id = 1
address = "127.0.0.1:7300"
domain = "aws/eu-west-1/a"
"#;
    let seeds = vec![
        ("whole", whole.to_vec()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("nothing", Vec::new()),
        ("misspelled", b"[node]\nidd = 1\n[lissten]\n".to_vec()),
        ("numbers", b"[node]\nid = 0xffff_ffff_ffff_ffff_ff\n[[voters]]\nid = -1\n".to_vec()),
        ("deep", [b"a = ".to_vec(), b"[".repeat(4096)].concat()),
    ];
    assert!(config::fuzz::text(whole), "a whole file is taken");
    sorted(config::fuzz::text, seeds)
}
