//! The rules of the house that no compiler knows: who may depend on whom, what a file may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// All files of the project, relative to its root.
fn files() -> Vec<PathBuf> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != ".git" && name != "target" {
                    walk(&path, root, out);
                }
            } else {
                out.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(&root(), &root(), &mut out);
    out.sort();
    out
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    files().into_iter().filter(rust).map(read).collect()
}

/// Manifest folder to its parsed manifest, for every member.
fn manifests() -> BTreeMap<String, toml::Table> {
    let parse = |path: PathBuf| -> toml::Table {
        fs::read_to_string(&path).unwrap().parse().unwrap_or_else(|e| panic!("{path:?}: {e}"))
    };
    let workspace = parse(root().join("Cargo.toml"));
    workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| {
            let folder = member.as_str().unwrap().to_owned();
            let manifest = parse(root().join(&folder).join("Cargo.toml"));
            (folder, manifest)
        })
        .collect()
}

/// What a member builds on; what only its tests use does not count.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

/// What a member must not know, by its folder.
fn forbidden(folder: &str) -> Vec<&'static str> {
    let above_wal = ["palisade-replication", "palisade", "palisade-fabricfs", "palisade-server"];
    match folder {
        "wal" => {
            [&above_wal[..], &["raft", "tokio", "rocksdb", "prost", "tonic", "serde"]].concat()
        }
        "replication" => {
            [&above_wal[1..], &["rocksdb", "tonic", "prost", "axum", "serde"]].concat()
        }
        "engine" => [&above_wal[2..], &["raft", "tonic", "prost", "axum", "serde"]].concat(),
        "fabricfs" => vec!["palisade-wal", "palisade-replication", "rocksdb", "raft"],
        folder if folder.starts_with("api/") => {
            vec!["palisade-wal", "palisade-replication", "rocksdb", "raft"]
        }
        _ => vec![],
    }
}

fn wrong_arrows(folder: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    forbidden(folder)
        .into_iter()
        .filter(|name| dependencies.contains(*name))
        .map(|name| format!("{folder} must not know {name}"))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let wrong: Vec<String> = manifests()
        .iter()
        .flat_map(|(folder, manifest)| wrong_arrows(folder, &dependencies(manifest)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The rule itself is not blind.
    let raft = BTreeSet::from(["raft".to_owned()]);
    assert_eq!(wrong_arrows("wal", &raft).len(), 1);
    assert_eq!(wrong_arrows("api/server", &raft).len(), 1);
}

#[test]
fn members_share_lints_and_licence_and_say_what_they_are() {
    for (folder, manifest) in manifests() {
        let inherits = |table: &str, key: &str| {
            manifest.get(table).and_then(|t| t.get(key)).and_then(|v| match v {
                toml::Value::Boolean(yes) => Some(*yes),
                value => value.get("workspace")?.as_bool(),
            })
        };
        assert_eq!(
            inherits("lints", "workspace"),
            Some(true),
            "{folder}: [lints] workspace = true"
        );
        assert_eq!(
            inherits("package", "license"),
            Some(true),
            "{folder}: license.workspace = true"
        );
        let lib = fs::read_to_string(root().join(&folder).join("src/lib.rs")).unwrap();
        assert!(lib.starts_with("//!"), "{folder}/src/lib.rs opens with what the crate is");
    }
}

/// Files that import a library, and those that may.
fn importers(library: &str, allowed: &[&str]) -> Vec<PathBuf> {
    let uses = [format!("use {library}::"), format!("{library}::")];
    let imports = |text: &str| {
        text.lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//") && uses.iter().any(|used| line.contains(used.as_str()))
        })
    };
    sources()
        .into_iter()
        .filter(|(path, text)| {
            imports(text) && !allowed.iter().any(|allowed| path == Path::new(allowed))
        })
        .map(|(path, _)| path)
        .filter(|path| path != Path::new("engine/tests/tidy.rs"))
        .collect()
}

#[test]
fn foreign_engines_stay_behind_their_border() {
    let rocks = importers("rocksdb", &["engine/src/store/rocks.rs"]);
    assert!(rocks.is_empty(), "only engine/src/store/rocks.rs imports rocksdb: {rocks:?}");
    let raft = importers("raft", &["replication/src/replica.rs", "replication/src/log_store.rs"]);
    let raft: Vec<_> = raft.into_iter().filter(|path| path.starts_with("replication")).collect();
    assert!(raft.is_empty(), "only replica.rs and log_store.rs import raft: {raft:?}");
}

#[test]
fn the_top_level_stays_small() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "Makefile",
        "LICENSE",
        "README.md",
        "engine",
        "wal",
        "replication",
        "api",
        "fabricfs",
        "benches",
        "jepsen",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name.starts_with('.') || name == "target" || allowed.contains(&name.as_str());
        assert!(known, "{name}: the top level has a fixed set of names");
    }
}

/// Marks of unfinished work, and paths of one machine. Written in two parts, so that this file does
/// not hold them.
fn marks() -> Vec<String> {
    let mark = |a: &str, b: &str| format!("{a}{b}");
    vec![
        mark("todo", "!("),
        mark("unimplemented", "!("),
        mark("dbg", "!("),
        mark("FIX", "ME"),
        mark("X", "XX"),
        mark("#[ig", "nore"),
        mark("/ho", "me/"),
        mark("/ro", "ot/"),
        mark("/wo", "rk/"),
    ]
}

#[test]
fn files_are_finished_and_not_too_long() {
    for (path, text) in sources() {
        for mark in marks() {
            assert!(!text.contains(&mark), "{}: {mark}", path.display());
        }
        let lines = text.lines().count();
        assert!(lines <= 900, "{}: {lines} lines; look for the second idea inside", path.display());
    }
}

/// True if the licence expression can be satisfied by allowed licences alone.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    fn any(tokens: &mut Vec<String>, allowed: &BTreeSet<String>) -> bool {
        let mut holds = all(tokens, allowed);
        while tokens.last().is_some_and(|token| token == "OR") {
            tokens.pop();
            holds |= all(tokens, allowed);
        }
        holds
    }
    fn all(tokens: &mut Vec<String>, allowed: &BTreeSet<String>) -> bool {
        let mut holds = one(tokens, allowed);
        while tokens.last().is_some_and(|token| token == "AND") {
            tokens.pop();
            holds &= one(tokens, allowed);
        }
        holds
    }
    fn one(tokens: &mut Vec<String>, allowed: &BTreeSet<String>) -> bool {
        let mut name = tokens.pop().unwrap_or_default();
        if name == "(" {
            let holds = any(tokens, allowed);
            tokens.pop();
            return holds;
        }
        if tokens.last().is_some_and(|token| token == "WITH") {
            tokens.pop();
            name = format!("{name} WITH {}", tokens.pop().unwrap_or_default());
        }
        allowed.contains(&name)
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens: Vec<String> = spaced.split_whitespace().rev().map(str::to_owned).collect();
    any(&mut tokens, allowed)
}

#[test]
fn licence_expressions_are_read_rightly() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()]);
    assert!(satisfied("MIT OR GPL-3.0", &allowed));
    assert!(satisfied("GPL-3.0/MIT", &allowed));
    assert!(satisfied("(GPL-3.0 OR MIT) AND MIT", &allowed));
    assert!(satisfied("Apache-2.0 WITH LLVM-exception", &allowed));
    assert!(!satisfied("MIT AND GPL-3.0", &allowed));
    assert!(!satisfied("GPL-3.0", &allowed));
    assert!(!satisfied("", &allowed));
}

/// Licences, bans and sources of `.deny.toml`, held without cargo-deny.
#[test]
fn dependencies_keep_the_rules() {
    let rules: toml::Table =
        fs::read_to_string(root().join(".deny.toml")).unwrap().parse().unwrap();
    let allowed: BTreeSet<String> = rules["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|licence| licence.as_str().unwrap().to_owned())
        .collect();
    let banned: BTreeSet<&str> = rules["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap())
        .collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "the list of dependencies is there");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(satisfied(licence, &allowed), "{name}: licence {licence:?} is not in .deny.toml");
        assert!(!banned.contains(name), "{name} is banned in .deny.toml");
        // None for members of this workspace.
        if let Some(source) = package["source"].as_str() {
            assert!(source.starts_with("registry+"), "{name} comes from {source}");
        }
    }
}
