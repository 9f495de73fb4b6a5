//! Rules of the house that no compiler checks. Each is one test, each says what to do about a finding,
//! and each has a broken fake that it must catch: a rule that never fires guards nothing.
//!
//! A rule is a pure function from what it read to its findings. Files are found by walking the tree, so
//! everything here also works on an unpacked source archive.

#[path = "tidy/deny.rs"]
mod deny;
#[path = "tidy/pages.rs"]
mod pages;
#[path = "tidy/readme.rs"]
mod readme;
#[path = "tidy/safety.rs"]
mod safety;
#[path = "tidy/shown.rs"]
mod shown;
#[path = "tidy/tree.rs"]
mod tree;
#[path = "tidy/twins.rs"]
mod twins;

use std::collections::BTreeSet;
use std::fs;

use toml::{Table, Value};
use tree::{file_name, hold, is_build_folder, read, root, sources, strings, workspace};

// ---- what may know what ----

/// One folder of the top level, what it may build on inside the workspace, and what it must not know.
/// A name that ends in `/*` stands for every crate below that folder.
struct Layer {
    folder: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        folder: "wal",
        may_use: &[],
        never: &["raft", "raft-proto", "protobuf", "tokio", "rocksdb", "prost", "tonic", "axum"],
    },
    Layer {
        folder: "replication",
        may_use: &["palisade-wal"],
        never: &["rocksdb", "tonic", "axum"],
    },
    Layer {
        folder: "engine",
        may_use: &["palisade-wal", "palisade-replication"],
        never: &["raft", "raft-proto", "tonic", "prost", "axum", "hyper", "reqwest"],
    },
    Layer {
        folder: "fabricfs",
        may_use: &["palisade"],
        never: &["raft", "raft-proto", "rocksdb", "tonic", "axum"],
    },
    Layer {
        folder: "api",
        may_use: &["palisade", "palisade-fabricfs", "api/*"],
        never: &["raft", "raft-proto", "rocksdb"],
    },
    Layer { folder: "benches", may_use: &["*"], never: &[] },
    Layer { folder: "jepsen", may_use: &["*"], never: &[] },
];

struct Member {
    /// Relative to the workspace, as in `api/server`.
    folder: String,
    package: String,
    manifest: Table,
    /// Packages built into it: `dependencies` and `build-dependencies`, for every target.
    depends_on: BTreeSet<String>,
}

impl Member {
    fn parse(folder: &str, manifest: &str, workspace: &Table) -> Self {
        let manifest: Table =
            manifest.parse().unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"));
        let package =
            manifest["package"]["name"].as_str().expect("a package has a name").to_owned();
        let mut depends_on = BTreeSet::new();
        let targets = manifest.get("target").and_then(Value::as_table);
        let tables = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
        for table in std::iter::once(&manifest).chain(tables) {
            for kind in ["dependencies", "build-dependencies"] {
                let entries = table.get(kind).and_then(Value::as_table);
                for (key, entry) in entries.into_iter().flatten() {
                    depends_on.insert(package_of(key, entry, workspace));
                }
            }
        }
        Self { folder: folder.to_owned(), package, manifest, depends_on }
    }
}

/// The package behind a dependency's key, which may be renamed here or in the workspace.
fn package_of(key: &str, entry: &Value, workspace: &Table) -> String {
    let inherited = entry.get("workspace").and_then(Value::as_bool) == Some(true);
    let shared = || workspace.get("workspace")?.get("dependencies")?.get(key);
    let entry = if inherited { shared() } else { Some(entry) };
    let renamed = entry.and_then(|entry| entry.get("package")).and_then(Value::as_str);
    renamed.unwrap_or(key).to_owned()
}

fn members() -> Vec<Member> {
    let workspace = workspace();
    let folders = strings(&workspace["workspace"], "members");
    folders
        .iter()
        .map(|folder| Member::parse(folder, &read(&format!("{folder}/Cargo.toml")), &workspace))
        .collect()
}

fn layer_of(folder: &str) -> Option<&'static Layer> {
    let top = folder.split('/').next().expect("split yields at least one part");
    LAYERS.iter().find(|layer| layer.folder == top)
}

fn wrong_arrows(members: &[Member]) -> Vec<String> {
    let mut findings = Vec::new();
    for member in members {
        let Some(layer) = layer_of(&member.folder) else {
            findings.push(format!("{}: belongs to no layer", member.folder));
            continue;
        };
        for dependency in &member.depends_on {
            if layer.never.contains(&dependency.as_str()) {
                findings.push(format!("{} must not know {dependency}", member.folder));
            }
            let Some(used) = members.iter().find(|other| other.package == *dependency) else {
                continue;
            };
            let allowed = layer.may_use.iter().any(|name| match name.strip_suffix("/*") {
                Some(folder) => layer_of(&used.folder).is_some_and(|used| used.folder == folder),
                None => *name == "*" || *name == dependency,
            });
            if !allowed {
                findings.push(format!("{} must not build on {}", member.folder, used.folder));
            }
        }
    }
    findings
}

#[test]
fn dependency_arrows_point_one_way() {
    hold(
        "Dependencies point one way: wal <- replication <- engine <- {fabricfs, api/*} <- {jepsen, benches}. \
         Move the code to the layer that may know both, or put a trait between them.",
        wrong_arrows(&members()),
    );
}

#[test]
fn dependency_arrows_catch_a_fake() {
    let workspace: Table =
        "[workspace.dependencies]\nkv = { version = '1', package = 'rocksdb' }".parse().unwrap();
    let member = |folder: &str, name: &str, rest: &str| {
        Member::parse(folder, &format!("[package]\nname = '{name}'\n{rest}"), &workspace)
    };
    let layers = |wal: &str, api: &str| {
        wrong_arrows(&[
            member("wal", "palisade-wal", wal),
            member("engine", "palisade", "[dependencies]\npalisade-wal.path = '../wal'"),
            member("api/client", "palisade-client", ""),
            member("api/server", "palisade-server", api),
        ])
    };
    let fine = "[dependencies]\npalisade.path = '../../engine'\npalisade-client.path = '../client'";
    assert_eq!(layers("[dev-dependencies]\ntokio = '1'", fine), [""; 0]);
    assert_eq!(layers("[dependencies]\ntokio = '1'", ""), ["wal must not know tokio"]);
    assert_eq!(layers("[build-dependencies]\nprost = '1'", ""), ["wal must not know prost"]);
    assert_eq!(
        layers("[target.'cfg(unix)'.dependencies]\nraft = '1'", ""),
        ["wal must not know raft"]
    );
    assert_eq!(
        layers("[dependencies]\npalisade.path = '../engine'", ""),
        ["wal must not build on engine"]
    );
    assert_eq!(
        layers("", "[dependencies]\nkv.workspace = true"),
        ["api/server must not know rocksdb"]
    );
    assert_eq!(
        layers("", "[dependencies]\nx = { version = '1', package = 'raft' }"),
        ["api/server must not know raft"]
    );
    assert_eq!(
        layers("", "[dependencies]\npalisade-wal.path = '../../wal'"),
        ["api/server must not build on wal"]
    );
    assert_eq!(wrong_arrows(&[member("extra", "extra", "")]), ["extra: belongs to no layer"]);
}

// ---- who may import what ----

/// A crate that only few files may import, so that it can be exchanged, faked, or watched there.
struct Border {
    crates: &'static [&'static str],
    /// Files that may import it, and folders (with a slash at the end) whose files all may.
    files: &'static [&'static str],
}

const ROCKSDB: Border = Border {
    crates: &["rocksdb", "librocksdb_sys"],
    // As a peer, beside which our log is measured, it is in no build of ours.
    files: &["engine/src/store.rs", "engine/src/store/rocks.rs", "benches/peers/"],
};

/// `protobuf` is raft's codec and has no other use here.
const RAFT: Border = Border {
    crates: &["raft", "raft_proto", "protobuf"],
    // raft-engine, a peer of our log, takes entries of its type.
    files: &["replication/src/replica/", "replication/src/log_store.rs", "benches/peers/"],
};

const OBJECT_STORE: Border = Border {
    crates: &["object_store"],
    files: &[
        "engine/src/backup/",
        "engine/tests/backup.rs",
        "engine/tests/encryption.rs",
        "api/server/src/backups.rs",
    ],
};

/// TLS is of the driver: nothing that decides sees a certificate.
const TLS: Border = Border {
    crates: &["rustls", "tokio_rustls", "x509_parser"],
    files: &["replication/src/tls/", "replication/src/link.rs", "replication/tests/", "api/"],
};

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether Rust source names the crate at the start of a path. Comments are left out; strings are not.
fn imports(text: &str, name: &str) -> bool {
    text.lines().map(|line| line.split("//").next().expect("split yields at least one part")).any(
        |line| {
            line.match_indices(name).any(|(at, _)| {
                let (before, after) = (&line[..at], &line[at + name.len()..]);
                // In `crate::raft::X` it is a module of ours; in `::raft::X` it is the crate.
                let outer = before.strip_suffix("::").unwrap_or(before);
                let starts_path = !outer.ends_with(|c| is_word(c) || c == '>' || c == '.');
                let is_named = matches!(before.split_whitespace().last(), Some("use" | "crate"))
                    && !after.starts_with(is_word);
                starts_path && (after.starts_with("::") || is_named)
            })
        },
    )
}

fn wrong_imports(border: &Border, sources: &[(String, String)]) -> Vec<String> {
    let may = |path: &String| {
        let allows = |may: &&str| path == *may || may.ends_with('/') && path.starts_with(*may);
        border.files.iter().any(allows)
    };
    let crossing = sources.iter().filter(|(path, text)| {
        path.ends_with(".rs") && !may(path) && border.crates.iter().any(|name| imports(text, name))
    });
    crossing.map(|(path, _)| path.clone()).collect()
}

#[test]
fn rocksdb_stays_behind_the_state_store() {
    hold(
        "Only engine/src/store/rocks.rs (or engine/src/store.rs) imports rocksdb: everything else runs on the \
         StateStore trait, and so also in the simulator. Add what you need to the trait.",
        wrong_imports(&ROCKSDB, &sources()),
    );
}

#[test]
fn tls_stays_in_the_driver() {
    hold(
        "In replication only src/tls/ and src/link.rs import rustls and x509-parser; the engine does not. \
         Give out a type of ours.",
        wrong_imports(&TLS, &sources()),
    );
}

#[test]
fn raft_stays_behind_the_replica() {
    hold(
        "Only replication/src/replica/ and log_store.rs import raft or protobuf. \
         Convert to a type of ours there.",
        wrong_imports(&RAFT, &sources()),
    );
}

#[test]
fn object_store_stays_behind_backups() {
    hold(
        "Only engine/src/backup/ imports object_store, and in there only place.rs speaks to one; the server's \
         backups.rs chooses which. Add what you need to BackupPlace.",
        wrong_imports(&OBJECT_STORE, &sources()),
    );
}

#[test]
fn imports_catch_a_fake() {
    // `kept` stands for the crate, so that this file imports nothing itself.
    for text in [
        "use kept::Config;",
        "use kept;",
        "use ::kept::Config;",
        "extern crate kept;",
        "use {kept::A};",
        "fn f(x: &kept::Config) {}",
        "pub use kept as r;",
    ] {
        assert!(imports(text, "kept"), "missed: {text}");
    }
    for text in [
        "use crate::kept::X;",
        "// use kept::X;",
        "let x = kept_term::Y;",
        "use palisade_kept::X;",
        "a.kept",
        "//! See kept::Config.",
        "let kept = 1;",
        "use kept_term;",
    ] {
        assert!(!imports(text, "kept"), "wrongly found: {text}");
    }
    let border = Border { crates: &["kept"], ..RAFT };
    let source = |path: &str| (path.to_owned(), "use kept::Config;".to_owned());
    let part = source("replication/src/replica/ready.rs");
    let store = source("replication/src/log_store.rs");
    let driver = source("replication/src/driver.rs");
    let server = source("api/server/src/main.rs");
    assert_eq!(
        wrong_imports(&border, &[part, store, driver, server]),
        ["replication/src/driver.rs", "api/server/src/main.rs"]
    );
}

/// What an engine takes a time from. Everything above the seam runs in simulations too.
const CLOCKS: &[&str] = &["tokio::time", "Instant::now", "SystemTime::now"];

fn wrong_clocks(sources: &[(String, String)]) -> Vec<String> {
    let own = ["engine/src/node_backend.rs", "engine/src/node_backend/carrier.rs"];
    let above = |path: &str| path.starts_with("engine/src/") && !own.contains(&path);
    let above = sources.iter().filter(|(path, _)| above(path));
    above.flat_map(|(path, text)| lines_with(CLOCKS, path, text)).collect()
}

#[test]
fn only_the_node_backend_has_a_clock() {
    hold(
        "Only engine/src/node_backend.rs, with its carrier, takes the time from the machine: handles wait with Backend::sleep, so \
         that their deadlines are simulated in a simulation.",
        wrong_clocks(&sources()),
    );
    let fake = |path: &str| (path.to_owned(), "tokio::time::sleep(LONG).await;".to_owned());
    let fakes = ["engine/src/watch.rs", "engine/src/node_backend.rs", "engine/tests/engine.rs"];
    assert_eq!(wrong_clocks(&fakes.map(fake)), ["engine/src/watch.rs:1: tokio::time"]);
}

// ---- the shape of the tree ----

const TOP_FILES: &[&str] = &["Cargo.toml", "Cargo.lock", "Makefile", "LICENSE", "README.md"];

/// `names` is the visible top level, `paths` every file of the tree.
fn wrong_top_level(names: &BTreeSet<String>, paths: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for name in names {
        let is_layer = LAYERS.iter().any(|layer| layer.folder == name);
        if !is_layer && !TOP_FILES.contains(&name.as_str()) {
            findings.push(format!("{name}: not one of the fixed names"));
        }
        let has_content = paths.iter().any(|path| path.split('/').next() == Some(name));
        if is_layer && !has_content {
            findings.push(format!("{name}: holds nothing yet"));
        }
    }
    let missing = TOP_FILES.iter().filter(|name| !names.contains(**name));
    findings.extend(missing.map(|name| format!("{name}: missing")));
    findings
}

#[test]
fn the_top_level_is_fixed() {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let visible = entries.filter(|path| !is_build_folder(path)).map(|path| file_name(&path));
    hold(
        "The visible top level is fixed. Tool settings live in dotfiles, documents beside the code they \
         describe, and a folder appears with its first file.",
        wrong_top_level(
            &visible.filter(|name| !name.starts_with('.')).collect(),
            &sources().into_iter().map(|(path, _)| path).collect::<Vec<_>>(),
        ),
    );
}

#[test]
fn the_top_level_catches_a_fake() {
    let names =
        |extra: &[&str]| TOP_FILES.iter().chain(extra).map(|name| (*name).to_owned()).collect();
    let paths = ["wal/Cargo.toml".to_owned(), "api/server/Cargo.toml".to_owned()];
    assert_eq!(wrong_top_level(&names(&["wal", "api"]), &paths), [""; 0]);
    assert_eq!(
        wrong_top_level(&names(&["scripts"]), &paths),
        ["scripts: not one of the fixed names"]
    );
    assert_eq!(wrong_top_level(&names(&["jepsen"]), &paths), ["jepsen: holds nothing yet"]);
    assert_eq!(wrong_top_level(&BTreeSet::new(), &paths).len(), TOP_FILES.len());
}

fn wrong_manifest(member: &Member) -> Vec<String> {
    let inherits = |table: &str, key: &str| {
        let value = if key.is_empty() {
            member.manifest.get(table)
        } else {
            member.manifest[table].get(key)
        };
        value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
    };
    [("lints", ""), ("package", "license"), ("package", "edition"), ("package", "rust-version")]
        .into_iter()
        .filter(|(table, key)| !inherits(table, key))
        .map(|(table, key)| {
            format!("{}/Cargo.toml: [{table}] {key} workspace = true is missing", member.folder)
        })
        .collect()
}

#[test]
fn manifests_inherit_from_the_workspace() {
    let mut findings: Vec<_> = members().iter().flat_map(wrong_manifest).collect();
    let known = workspace();
    let listed = |list: &str| {
        strings(&known["workspace"], list).into_iter().map(|folder| format!("{folder}/Cargo.toml"))
    };
    let known: BTreeSet<_> = listed("members").chain(listed("exclude")).collect();
    let manifests =
        sources().into_iter().map(|(path, _)| path).filter(|path| path.ends_with("/Cargo.toml"));
    findings.extend(
        manifests.filter(|path| !known.contains(path)).map(|path| format!("{path}: not a member")),
    );
    hold(
        "Every crate is a member and takes its lints, licence, edition and Rust version from the workspace.",
        findings,
    );
}

#[test]
fn manifests_catch_a_fake() {
    let parse = |manifest: &str| Member::parse("wal", manifest, &Table::new());
    let fine = "[package]\nname = 'x'\nlicense.workspace = true\nedition.workspace = true\n\
                rust-version.workspace = true\n[lints]\nworkspace = true";
    assert_eq!(wrong_manifest(&parse(fine)), [""; 0]);
    assert_eq!(wrong_manifest(&parse(&fine.replace("[lints]\nworkspace = true", ""))).len(), 1);
    assert_eq!(
        wrong_manifest(&parse(&fine.replace("license.workspace = true", "license = 'MIT'"))).len(),
        1
    );
    assert_eq!(wrong_manifest(&parse("[package]\nname = 'x'")).len(), 4);
}

/// Crate documentation comes first: a reader meets the idea before the attributes.
fn opens_with_docs(lib: Option<&str>) -> bool {
    lib.is_some_and(|text| text.trim_start().starts_with("//!"))
}

#[test]
fn every_crate_says_what_it_is() {
    let without = |member: &Member| {
        let lib = fs::read_to_string(root().join(&member.folder).join("src/lib.rs")).ok();
        (!opens_with_docs(lib.as_deref())).then(|| format!("{}/src/lib.rs", member.folder))
    };
    hold(
        "Every crate has a src/lib.rs whose first line is `//!`: what it is, and what it does not know.",
        members().iter().filter_map(without).collect(),
    );
    assert!(opens_with_docs(Some("\n//! A log.")));
    assert!(!opens_with_docs(Some("mod log;\n//! A log.")));
    assert!(!opens_with_docs(None));
}

// ---- what a source file may hold ----

const SOURCE_LINES_MAX: usize = 900;

fn too_long(path: &str, text: &str) -> Option<String> {
    let is_source =
        [".rs", ".proto", ".sh", ".py", ".js"].iter().any(|suffix| path.ends_with(suffix));
    let lines = text.lines().count();
    (is_source && lines > SOURCE_LINES_MAX).then(|| format!("{path}: {lines} lines"))
}

#[test]
fn source_files_stay_readable() {
    let findings = sources().iter().filter_map(|(path, text)| too_long(path, text)).collect();
    hold(
        "A source file has at most 900 lines. Past 600, look for the second idea inside.",
        findings,
    );
    assert!(too_long("a.rs", &"x\n".repeat(SOURCE_LINES_MAX + 1)).is_some());
    assert!(too_long("a.rs", &"x\n".repeat(SOURCE_LINES_MAX)).is_none());
    assert!(too_long("a.ndjson", &"x\n".repeat(SOURCE_LINES_MAX + 1)).is_none());
}

/// Put together from halves, so that this file does not trip over itself.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[", "ignore"),
];

/// Folders of one machine. A path in the tree must work in every checkout.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// Lines that hold one of the words: whole words where they begin and end in a letter, and paths where
/// nothing of a longer path stands before them.
fn lines_with(words: &[&str], path: &str, text: &str) -> Vec<String> {
    let holds = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            let starts = if word.starts_with(is_word) || word.starts_with('/') {
                !before.ends_with(|c| is_word(c) || matches!(c, '.' | '-' | '}' | ')' | '*' | '~'))
            } else {
                true
            };
            starts && !(word.ends_with(is_word) && after.starts_with(is_word))
        })
    };
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let found = words.iter().filter(|word| holds(line, word));
        findings.extend(found.map(|word| format!("{path}:{}: {word}", index + 1)));
    }
    findings
}

#[test]
fn nothing_unfinished_is_left_behind() {
    hold(
        "Finish it, or take it out and open an issue. A test that cannot run everywhere decides at run time, \
         and says that it did nothing.",
        sources().iter().flat_map(|(path, text)| lines_with(UNFINISHED, path, text)).collect(),
    );
}

#[test]
fn no_path_of_one_machine() {
    let of_lock_file = |path: &str| path == "Cargo.lock";
    hold(
        "An absolute path of one machine. Derive it from the manifest's folder, a temporary folder, or an \
         argument; in a text, write a relative one.",
        sources()
            .iter()
            .filter(|(path, _)| !of_lock_file(path))
            .flat_map(|(path, text)| lines_with(MACHINE_PATHS, path, text))
            .collect(),
    );
}

#[test]
fn banned_words_catch_a_fake() {
    let text = |word: &str| format!("fine\n    {word} rest");
    for word in UNFINISHED.iter().chain(MACHINE_PATHS) {
        assert_eq!(lines_with(&[word], "a.rs", &text(word)), [format!("a.rs:2: {word}")]);
    }
    for (word, line) in [
        (UNFINISHED[4], "mktemp a.XXXXXX"),
        (MACHINE_PATHS[2], "../frame/work/"),
        (MACHINE_PATHS[0], "$X/home/a"),
    ] {
        assert_eq!(lines_with(&[word], "a.rs", line), [""; 0]);
    }
}
