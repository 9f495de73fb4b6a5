//! The command as a person meets it: every help text, every transcript of the page, how it fails, and three
//! nodes that are put up and down.
//!
//! `PALISADE_GOLDEN=write` writes help texts and transcripts anew; look at what changed.
//!
//! The runner is our own: a transcript stands in the page itself, runs in a directory that this test fills,
//! and is written anew as the other golden files of this tree are. trycmd does the same with twenty more
//! crates and another variable.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod support;
use support::{json, palisade, run};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn is_writing() -> bool {
    std::env::var_os("PALISADE_GOLDEN").is_some_and(|value| value == "write")
}

/// Paths of all subcommands, the program's own empty one first.
fn subcommands(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
    found.push(path.to_vec());
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = [path, &[sub.get_name().to_owned()]].concat();
        subcommands(sub, &path, found);
    }
}

#[test]
fn every_help_text_is_as_it_was_reviewed() {
    let mut paths = Vec::new();
    subcommands(&palisade_server::command::cli(), &[], &mut paths);
    let dir = docs().join("help");
    let mut expected = BTreeSet::new();
    let mut differ = Vec::new();
    for path in paths {
        let name = [&["palisade".to_owned()], &path[..]].concat().join("-") + ".txt";
        let output = palisade(Path::new(".")).args(&path).arg("--help").output().unwrap();
        assert!(output.status.success(), "{name}");
        assert!(output.stderr.is_empty(), "{name}");
        let text = String::from_utf8(output.stdout).unwrap();
        let file = dir.join(&name);
        if is_writing() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            differ.push(name.clone());
        }
        expected.insert(name);
    }
    assert!(differ.is_empty(), "PALISADE_GOLDEN=write writes these anew: {differ:?}");
    let found = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let found: BTreeSet<String> = found.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(found, expected, "a help text of no subcommand");
}

/// A directory with what the transcripts speak of.
fn scene() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let node = "[node]\nid = 1\ncluster = \"000000000000000000000000000000aa\"\ndata_dir = \"data\"\n\n\
                [listen]\ngrpc = \"127.0.0.1:7401\"\n\n[security]\nmode = \"insecure-loopback\"\n";
    fs::write(dir.path().join("node.toml"), node).unwrap();
    let wrong = node.replace("data_dir", "data_dri").replace("127.0.0.1", "0.0.0.0");
    fs::write(dir.path().join("wrong.toml"), wrong).unwrap();
    dir
}

/// What a line of a transcript prints: stdout, then stderr, then the exit code if it is not 0.
fn played(dir: &Path, line: &str) -> String {
    let mut command = palisade(dir);
    let mut words = line.split_whitespace().peekable();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        command.env(name, value);
        words.next();
    }
    assert_eq!(words.next(), Some("palisade"), "{line}");
    let output = command.args(words).output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    match output.status.code() {
        Some(0) => text,
        code => format!("{text}(exit code {})\n", code.unwrap()),
    }
}

/// Every `$ palisade ...` in a console block of the page is run, and prints what stands there.
#[test]
fn every_transcript_is_real() {
    let page = docs().join("command.md");
    let text = fs::read_to_string(&page).unwrap();
    let dir = scene();
    let (mut anew, mut count) = (String::new(), 0);
    let mut lines = text.lines().peekable();
    let mut in_console = false;
    while let Some(line) = lines.next() {
        anew.push_str(line);
        anew.push('\n');
        if line.starts_with("```") {
            in_console = line == "```console";
        }
        let Some(command) = line.strip_prefix("$ ").filter(|_| in_console) else { continue };
        count += 1;
        while lines.peek().is_some_and(|line| !line.starts_with("$ ") && *line != "```") {
            lines.next();
        }
        anew.push_str(&played(dir.path(), command));
    }
    assert!(count >= 5, "the page has transcripts: {count}");
    if is_writing() {
        fs::write(&page, &anew).unwrap();
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), anew, "PALISADE_GOLDEN=write writes it anew");
}

/// Whatever is wrong: a code, one sentence, the next step; as text on stderr, or in the one document.
#[test]
fn every_failure_has_its_shape_and_its_exit_code() {
    let dir = scene();
    let cases: [(&[&str], i32, &str); 8] = [
        (&[], 2, "Usage"),
        (&["nod"], 2, "Usage"),
        (&["node", "--nope"], 2, "Usage"),
        (&["wal", "dump", "data", "--limit", "0"], 2, "Usage"),
        (&["config", "check", "none.toml"], 2, "UnreadableFile"),
        (&["config", "check", "wrong.toml"], 2, "UnknownKey"),
        (&["explain", "Nothing"], 3, "UnknownCode"),
        (&["down", "--dir", "none"], 3, "NotFound"),
    ];
    for (args, exit, code) in cases {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(exit), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}: data alone goes to stdout");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("error[{code}]: ")), "{args:?}: {said}");
        assert!(said.contains("\n  help: "), "{args:?}: {said}");
        let (found, document) = json(dir.path(), args);
        let error = &document["error"];
        assert_eq!((found, &error["code"]), (exit, &Value::from(code)), "{args:?}");
        assert_eq!(error["exit_code"], exit);
        assert!(!error["help"].as_str().unwrap().is_empty());
        assert!(run(dir.path(), &["explain", code]).status.success(), "{code} has a page");
    }
    // TLS that was asked for is never left out in silence.
    let files = "--security-node-cert-file=a --security-node-key-file=b --security-peer-ca-file=c \
                 --security-client-ca-file=d --listen-grpc=127.0.0.1:0 --node-id=1 --node-data-dir=x \
                 --node-cluster=000000000000000000000000000000aa";
    let args: Vec<&str> = ["node"].into_iter().chain(files.split_whitespace()).collect();
    let output = run(dir.path(), &args);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(" a: No such file"), "{output:?}");
    assert!(!dir.path().join("x").exists());
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(Path::new("."), &["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        assert!(script.contains("palisade") && script.contains("verify"), "{shell}");
    }
}

fn pids(document: &Value) -> Vec<u64> {
    document["nodes"].as_array().unwrap().iter().map(|it| it["pid"].as_u64().unwrap()).collect()
}

/// Stops what a failed test would leave.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        run(self.0, &["down"]);
    }
}

/// State outlives `down`, and whoever is up already is left alone.
#[test]
fn a_local_cluster_goes_up_and_down_and_keeps_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let _down = Down(dir.path());
    let (code, first) = json(dir.path(), &["up"]);
    assert_eq!(code, 0, "{first}");
    assert_eq!(pids(&first).len(), 3);
    let (code, again) = json(dir.path(), &["up"]);
    assert_eq!((code, pids(&again)), (0, pids(&first)), "those that are up are left alone");
    let get = |path: &str| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let url = format!("http://{}{path}", first["nodes"][0]["reports"].as_str().unwrap());
        runtime.block_on(async { reqwest::get(url).await.unwrap().json::<Value>().await.unwrap() })
    };
    let console = format!("http://{}/", first["nodes"][0]["admin"].as_str().unwrap());
    let page = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let answer = reqwest::get(console).await.unwrap();
        answer.text().await.unwrap()
    });
    assert!(page.contains("<title>Palisade</title>"), "{page}");
    let before = get("/digest");
    let (code, stopped) = json(dir.path(), &["down"]);
    assert_eq!(code, 0, "{stopped}");
    let of = |it: &Value| it["pid"].as_u64().unwrap();
    let stopped: Vec<u64> = stopped["stopped"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(stopped, pids(&first));
    let (code, verify) = json(dir.path(), &["wal", "verify", "palisade-local/node-1"]);
    assert_eq!((code, &verify["verdict"]), (0, &Value::from("clean")));
    let (code, none) = json(dir.path(), &["down"]);
    assert_eq!((code, none["stopped"].as_array().unwrap().len()), (0, 0));
    let (code, second) = json(dir.path(), &["up"]);
    assert_eq!(code, 0, "{second}");
    assert!(pids(&second).iter().all(|pid| !pids(&first).contains(pid)));
    let after = get("/digest");
    let offset = |digest: &Value| digest["offset"].as_u64().unwrap();
    assert!(offset(&before) <= offset(&after), "{before} {after}");
}
