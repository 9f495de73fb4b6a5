//! The subcommands for data, as a person gives them, against three real nodes.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

#[path = "support/nodes.rs"]
mod nodes;
mod support;
use nodes::Nodes;
use support::{json, palisade, run};

/// Nodes, and a directory to be in.
struct Scene {
    dir: TempDir,
    endpoints: Vec<String>,
}

impl Scene {
    fn of(nodes: &Nodes) -> Self {
        let endpoints =
            nodes.addresses.iter().map(|address| format!("--endpoint=http://{address}"));
        Self { dir: tempfile::tempdir().unwrap(), endpoints: endpoints.collect() }
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        args.iter().copied().chain(self.endpoints.iter().map(String::as_str)).collect()
    }

    /// The document, and that the exit code was this.
    fn exits(&self, code: i32, args: &[&str]) -> Value {
        let (found, document) = json(self.dir.path(), &self.args(args));
        assert_eq!(found, code, "{args:?}: {document}");
        document
    }

    fn done(&self, args: &[&str]) -> Value {
        self.exits(0, args)
    }

    fn text(&self, args: &[&str]) -> String {
        let output = run(self.dir.path(), &self.args(args));
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that goes on until it has told so many lines: they are read while `meanwhile` happens.
    fn follows(&self, args: &[&str], meanwhile: impl FnOnce()) -> Vec<Value> {
        let mut command = palisade(self.dir.path());
        command.args(self.args(args)).arg("--json").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        meanwhile();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let documents = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        assert!(child.wait().unwrap().success());
        documents
    }
}

fn code(document: &Value) -> &str {
    document["error"]["code"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_written_read_followed_and_trimmed() {
    let nodes = Nodes::start(3).await;
    let scene = Scene::of(&nodes);
    tokio::task::block_in_place(|| logs(&scene));
    nodes.close().await;
}

fn logs(scene: &Scene) {
    let missing = scene.exits(3, &["log", "append", "events", "a"]);
    assert_eq!(code(&missing), "NotFound");
    let kind = ["--kind", "log", "--schema", "event.v1"];
    let made = scene.done(&[&["directory", "create", "events"], &kind[..]].concat());
    assert_eq!((&made["kind"], &made["epoch"]), (&Value::from("log"), &Value::from(1)));
    assert_eq!(
        code(&scene.exits(4, &[&["directory", "create", "events"], &kind[..]].concat())),
        "AlreadyExists"
    );

    std::fs::write(scene.dir.path().join("value"), b"\x00\xff").unwrap();
    let done = scene.done(&["log", "append", "events", "apples", "@value", "@@home"]);
    let positions = done["positions"].as_array().unwrap();
    assert_eq!(positions.len(), 3);
    let entries = scene.done(&["log", "scan", "events"]);
    let values = entries["entries"].as_array().unwrap();
    let value = |at: usize| &values[at]["value"];
    assert_eq!((value(0), value(2)), (&Value::from("apples"), &Value::from("@home")));
    assert_eq!(values[1]["value_hex"], "00ff");
    assert_eq!(values[1]["position"], positions[1]);
    assert!(scene.text(&["log", "scan", "events"]).contains("apples"));
    let newest = scene.done(&["log", "scan", "events", "--backward", "--limit", "1", "--hex"]);
    assert_eq!(newest["entries"][0]["value_hex"], "40686f6d65");

    // Only if nothing came in between.
    let tail = entries["tail"].as_str().unwrap();
    scene.done(&["log", "append", "events", "pears", "--expect-tail", tail]);
    let late = scene.exits(4, &["log", "append", "events", "plums", "--expect-tail", tail]);
    assert_eq!(code(&late), "TailMismatch");

    let told = scene.follows(&["log", "tail", "events", "--count", "5"], || {
        scene.done(&["log", "append", "events", "cherries"]);
    });
    let told: Vec<&str> = told.iter().filter_map(|line| line["value"].as_str()).collect();
    assert_eq!(told, ["apples", "@home", "pears", "cherries"]);

    scene.done(&["log", "consumers", "events", "reader", "--commit", tail]);
    for change in [&["--forget"][..], &["--reset", "1.0"]] {
        let change = [&["log", "consumers", "events", "reader"], change].concat();
        assert_eq!(scene.exits(2, &change)["error"]["code"], "Unconfirmed");
    }
    let at = scene.text(&["log", "consumers", "events", "reader", "--consistency", "linearizable"]);
    assert_eq!(at.trim(), tail);

    // What destroys says what it would do, and does nothing.
    let trim = ["log", "trim", "events", "--before", tail];
    let planned = scene.exits(2, &trim);
    assert_eq!((code(&planned), planned["plan"].as_array().unwrap().len()), ("Unconfirmed", 1));
    assert_eq!(scene.done(&["log", "bounds", "events"])["entries"], 5);
    assert_eq!(scene.done(&[&trim[..], &["--confirm"]].concat())["first"], tail);
    assert_eq!(scene.done(&["log", "bounds", "events"])["entries"], 2);
    let gone = scene.exits(3, &["log", "scan", "events", "--from", "1"]);
    assert_eq!(code(&gone), "Trimmed");
    let keep = ["log", "retention", "events", "--keep-bytes", "1000"];
    scene.exits(2, &keep);
    scene.done(&[&keep[..], &["--confirm"]].concat());
    assert_eq!(scene.done(&["log", "retention", "events"])["keep_bytes"], 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_and_requests_are_what_they_were_made() {
    let nodes = Nodes::start(3).await;
    let scene = Scene::of(&nodes);
    tokio::task::block_in_place(|| {
        maps(&scene);
        requests(&scene);
        directory(&scene);
    });
    nodes.close().await;
}

/// What may take something away says what first.
fn confirmed(scene: &Scene, words: &[&str]) -> Value {
    let planned = scene.exits(2, words);
    assert_eq!((code(&planned), planned["plan"].as_array().unwrap().len()), ("Unconfirmed", 1));
    scene.done(&[words, &["--confirm"]].concat())
}

fn maps(scene: &Scene) {
    scene.done(&["directory", "open", "stock", "--kind", "map", "--schema", "stock.v1"]);
    let history = ["map", "history", "stock", "--keep-ms", "3600000", "--changes-max", "100"];
    confirmed(scene, &history);
    let first = scene.done(&["map", "put", "stock", "apples", "7"]);
    let version = first["offset"].to_string();
    assert_eq!(scene.text(&["map", "get", "stock", "apples"]), "7\n");
    assert_eq!(scene.done(&["map", "get", "stock", "apples"])["version"], first["offset"]);
    assert_eq!(code(&scene.exits(3, &["map", "get", "stock", "pears"])), "NotFound");

    let (put, none) = (["map", "put", "stock", "apples"], ["--expect-version", "0"]);
    let there = scene.exits(4, &[&put[..], &["8"], &none].concat());
    assert_eq!(code(&there), "VersionMismatch");
    let told =
        scene.follows(&["map", "watch", "stock", "--from", &version, "--count", "2"], || {
            let second = scene.done(&[&put[..], &["8", "--expect-version", &version]].concat());
            let second = second["offset"].to_string();
            scene.done(&["map", "delete", "stock", "apples", "--expect-version", &second]);
        });
    assert_eq!((&told[0]["now"]["value"], &told[0]["before"]["value"]), (&"8".into(), &"7".into()));
    assert_eq!((&told[1]["now"], &told[1]["key"]), (&Value::Null, &"apples".into()));
    let before = ["map", "get", "stock", "apples", "--at", &version, "--at-least", &version];
    assert_eq!(scene.done(&before)["value"], "7");

    for key in ["a1", "a2", "b1"] {
        scene.done(&["map", "put", "stock", key, "1"]);
    }
    let keys = |args: &[&str]| {
        let found = scene.done(&[&["map", "range", "stock"], args].concat());
        let rows = found["rows"].as_array().unwrap().iter();
        (
            rows.map(|row| row["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
            found["more"] == true,
        )
    };
    assert_eq!(keys(&["--prefix", "a"]).0, ["a1", "a2"]);
    assert_eq!(
        keys(&["--from", "a2", "--backward", "--limit", "1"]),
        (vec!["b1".to_owned()], true)
    );

    // An older writer is fenced, and who says the epoch writes on.
    scene.done(&[
        "directory",
        "open",
        "stock",
        "--kind",
        "map",
        "--schema",
        "stock.v1",
        "--epoch",
        "2",
    ]);
    assert_eq!(code(&scene.exits(4, &["map", "put", "stock", "a1", "2"])), "Fenced");
    scene.done(&["map", "put", "stock", "a1", "2", "--epoch", "2"]);
}

fn requests(scene: &Scene) {
    scene.done(&["directory", "open", "orders", "--kind", "idempotency", "--schema", "order.v1"]);
    let window = ["idem", "window", "orders", "--retention-ms", "3600000", "--requests-max", "100"];
    confirmed(scene, &window);
    let state = || scene.done(&["idem", "status", "orders", "o-1"])["state"].clone();
    assert_eq!(state(), "unknown");
    let reserve = ["idem", "reserve", "orders", "o-1", "one apple"];
    assert_eq!(scene.done(&reserve)["state"], "reserved");
    assert_eq!(state(), "in_progress");
    let other = scene.exits(4, &["idem", "reserve", "orders", "o-1", "two apples"]);
    assert_eq!(code(&other), "IdempotencyConflict");
    scene.done(&["idem", "complete", "orders", "o-1", "sent"]);
    assert_eq!(scene.done(&["idem", "status", "orders", "o-1"])["result"], "sent");
    let again = scene.done(&reserve);
    assert_eq!((&again["state"], &again["duplicate"]), (&"completed".into(), &true.into()));
}

fn directory(scene: &Scene) {
    let listed = scene.done(&["directory", "list", "--prefix", "st"]);
    assert_eq!(listed["resources"][0]["name"], "stock");
    let found = scene.done(&["directory", "describe", "stock"]);
    let revision = found["revision"].to_string();
    let alter =
        ["directory", "alter", "stock", "--reason", "a second shape", "--revision", &revision];
    let altered = scene.done(&[&alter[..], &["--add-schema", "stock.v2"]].concat());
    assert!(altered["revision"].as_u64() > found["revision"].as_u64());
    assert_eq!(
        scene.exits(4, &[&alter[..], &["--add-schema", "stock.v3"]].concat())["error"]["exit_code"],
        4
    );
    let described = scene.done(&["directory", "describe", "stock"]);
    assert_eq!(described["alterations"][0]["reason"], "a second shape");
    let delete = ["directory", "delete", "stock", "--reason", "no longer sold"];
    scene.exits(2, &delete);
    scene.done(&["map", "range", "stock"]);
    scene.done(&[&delete[..], &["--confirm"]].concat());
    assert_eq!(
        code(&scene.exits(3, &["map", "range", "stock", "--schema", "stock.v1"])),
        "NotFound"
    );
}

/// What cannot be reached, and what was not said.
#[test]
fn who_calls_nobody_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, none) = json(dir.path(), &["log", "bounds", "events"]);
    assert_eq!((exit, code(&none)), (2, "Usage"));
    let nobody = ["--endpoint", "http://127.0.0.1:1", "--timeout-ms", "200"];
    let (exit, lost) = json(dir.path(), &[&["log", "bounds", "events"], &nobody[..]].concat());
    assert_eq!((exit, code(&lost)), (5, "Disconnected"));
    // Of a stream, the last line says what is wrong.
    let mut tail = palisade(dir.path());
    let tail = tail.args(["log", "tail", "events", "--json"]).args(nobody).output().unwrap();
    let text = String::from_utf8(tail.stdout).unwrap();
    assert_eq!((tail.status.code(), text.lines().count()), (Some(5), 1));
    let last: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(code(&last), "Disconnected");
    // A secret is never sent where it could be read.
    let token = dir.path().join("token");
    std::fs::write(&token, "pal1.x").unwrap();
    let readable = [&["log", "bounds", "events", "--token-file", "token"], &nobody[..]].concat();
    std::fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let (exit, refused) = json(dir.path(), &readable);
    assert_eq!((exit, code(&refused)), (2, "UnreadableFile"));
}
