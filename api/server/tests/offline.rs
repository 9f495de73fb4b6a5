//! The offline tools on files that a node wrote: they tell what is there, and never change a byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use palisade::{ClusterId, Engine, NodeId, ReadConsistency, ReplicatedMap, ResourceSpec};
use serde_json::Value;
use sha2::{Digest, Sha256};

mod support;
use support::{json, run};

const KEYS: u64 = 200;
const NEEDLE: &str = "the value of key 77, told apart by this text";

async fn open(dir: &Path) -> Engine {
    let builder = Engine::builder(dir).cluster(ClusterId::new(0xaa)).node(NodeId::new(3));
    builder.open().await.unwrap()
}

/// A data directory that a node has written to and closed.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = open(&dir.path().join("data")).await;
        let spec = ResourceSpec::new("values", "value.v1").unwrap();
        let map: ReplicatedMap<String, String> = ReplicatedMap::open(&engine, spec).await.unwrap();
        for key in 0..KEYS {
            let value = if key == 77 { NEEDLE.to_owned() } else { format!("{key}") };
            map.put(&format!("key {key}"), &value).await.unwrap();
        }
        map.get(&"key 1".to_owned(), ReadConsistency::Linearizable).await.unwrap();
        engine.close().await.unwrap();
    });
    dir
}

/// Every file below a directory: its length, its bytes, and when it was written.
fn print_of(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let sum = Sha256::digest(fs::read(&path).unwrap()).to_vec();
                found.insert(path.clone(), (sum, fs::metadata(&path).unwrap().modified().unwrap()));
            }
        }
    }
    found
}

const TOOLS: [&[&str]; 4] = [
    &["wal", "verify", "data"],
    &["wal", "stat", "data"],
    &["wal", "dump", "data"],
    &["state", "verify", "data"],
];

fn places<'a>(dump: &'a Value, place: &str) -> Vec<&'a Value> {
    dump["places"].as_array().unwrap().iter().filter(|it| it["place"] == place).collect()
}

#[test]
fn what_a_node_wrote_is_told_and_not_touched() {
    let dir = written();
    let before = print_of(dir.path());
    assert!(before.len() > 8, "{before:?}");
    for tool in TOOLS {
        let (code, document) = json(dir.path(), tool);
        assert_eq!(code, 0, "{tool:?}: {document}");
        assert!(run(dir.path(), tool).status.success());
        assert_eq!(print_of(dir.path()), before, "{tool:?} changed something");
    }
    let (_, verify) = json(dir.path(), &["wal", "verify", "data"]);
    assert_eq!(verify["verdict"], "clean");
    assert_eq!(verify["owner"]["node"], 3);
    assert_eq!(verify["undecodable"], 0);
    assert_eq!(verify["no_frames"], serde_json::json!([]));
    assert!(verify["records"].as_u64().unwrap() >= KEYS, "{verify}");
    let (_, dump) = json(dir.path(), &["wal", "dump", "data", "--group", "1"]);
    let text = dump.to_string();
    assert!(text.contains(r#""command":"batch""#), "records are decoded: {text}");
    assert!(text.contains(r#""resource":"values""#), "so is the resource: {text}");
    let all = places(&dump, "frame").len();
    let (_, some) = json(dir.path(), &["wal", "dump", "data", "--group", "1", "--limit", "5"]);
    assert_eq!((places(&some, "frame").len(), &some["more"]), (5, &Value::Bool(true)));
    let from = places(&some, "frame")[2]["batch"].as_u64().unwrap().to_string();
    let range = ["wal", "dump", "data", "--group", "1", "--from", &from, "--to", &from];
    let (_, one) = json(dir.path(), &range);
    assert_eq!((places(&one, "frame").len(), &one["more"]), (1, &Value::Bool(false)));
    assert!(all > 100);
    let (_, state) = json(dir.path(), &["state", "verify", "data"]);
    assert_eq!(state["damaged"], false);
    let group = &state["groups"][1];
    assert!(group["applied_offset"].as_u64().unwrap() >= KEYS, "{state}");
    assert!(group["bytes_compared"].as_u64().unwrap() > KEYS * 10, "{state}");
    assert_eq!(group["compared"], true);
}

/// A frame that was synced and does not hold: where, what, a hexdump, and exit code 6.
#[test]
fn a_damaged_frame_is_found_and_left_as_it_is() {
    let dir = written();
    let (_, dump) = json(dir.path(), &["wal", "dump", "data"]);
    let frames = places(&dump, "frame");
    let frame = frames[frames.len() / 2];
    let (segment, byte_pos) =
        (frame["segment"].as_u64().unwrap(), frame["byte_pos"].as_u64().unwrap());
    let path = dir.path().join(format!("data/wal/{segment:016x}.seg"));
    let mut raw = fs::read(&path).unwrap();
    raw[byte_pos as usize + 50] ^= 0x10;
    fs::write(&path, raw).unwrap();
    let before = print_of(dir.path());
    let (code, verify) = json(dir.path(), &["wal", "verify", "data"]);
    assert_eq!(code, 6, "{verify}");
    assert_eq!(verify["verdict"], "damaged");
    assert_eq!((&verify["segment"], &verify["byte_pos"]), (&frame["segment"], &frame["byte_pos"]));
    assert_eq!(verify["error"]["code"], "Damaged");
    assert_eq!(verify["no_frames"][0]["byte_pos"], frame["byte_pos"]);
    let output = run(dir.path(), &["wal", "verify", "data"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(said.starts_with("error[Damaged]: ") && said.contains("\n  help: "), "{said}");
    let output = run(dir.path(), &["wal", "dump", "data"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("segment {segment} byte {byte_pos}: no frame")), "{said}");
    assert!(said.contains(&format!("\n  {byte_pos:08x}  ")), "a hexdump");
    let (_, dump) = json(dir.path(), &["wal", "dump", "data"]);
    assert_eq!(places(&dump, "frame").len(), frames.len() - 1, "all others are shown");
    assert_eq!(print_of(dir.path()), before);
}

/// What a start would cut is told, and is no damage.
#[test]
fn a_torn_tail_is_no_damage() {
    let dir = written();
    let (_, dump) = json(dir.path(), &["wal", "dump", "data"]);
    let frames = places(&dump, "frame");
    let last = frames[frames.len() - 1];
    let at = last["byte_pos"].as_u64().unwrap() + last["bytes"].as_u64().unwrap();
    let segment = last["segment"].as_u64().unwrap();
    let path = dir.path().join(format!("data/wal/{segment:016x}.seg"));
    let mut raw = fs::read(&path).unwrap();
    let next = &mut raw[at as usize..at as usize + 64];
    next.fill(7);
    next[8..16].copy_from_slice(&segment.to_le_bytes());
    fs::write(&path, raw).unwrap();
    let (code, verify) = json(dir.path(), &["wal", "verify", "data"]);
    assert_eq!((code, &verify["verdict"]), (0, &Value::from("torn_tail")), "{verify}");
    assert_eq!(verify["byte_pos"], at);
}

#[test]
fn rows_that_rotted_are_found() {
    let dir = written();
    let state = dir.path().join("data/state");
    let tables = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let mut flipped = 0;
    for table in tables.filter(|path| path.extension().is_some_and(|end| end == "sst")) {
        let mut raw = fs::read(&table).unwrap();
        let at = raw.windows(12).position(|window| window == &NEEDLE.as_bytes()[..12]);
        if let Some(at) = at {
            raw[at] ^= 1;
            fs::write(&table, raw).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0, "the value is in a file");
    let before = print_of(dir.path());
    let (code, verify) = json(dir.path(), &["state", "verify", "data"]);
    assert_eq!((code, &verify["error"]["code"]), (6, &Value::from("Damaged")), "{verify}");
    assert_eq!(print_of(dir.path()), before);
}

/// A running node's files are refused, and a node does not start while they are looked at.
#[test]
fn a_directory_in_use_is_refused() {
    let dir = written();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = runtime.block_on(open(&dir.path().join("data")));
    for tool in TOOLS {
        let (code, document) = json(dir.path(), tool);
        assert_eq!((code, &document["error"]["code"]), (4, &Value::from("InUse")), "{document}");
    }
    runtime.block_on(engine.close()).unwrap();
    let files = palisade::inspect::WalFiles::open(
        &dir.path().join("data"),
        palisade::encryption::Keys::none(),
    )
    .unwrap();
    let refused = runtime.block_on(
        Engine::builder(dir.path().join("data"))
            .cluster(ClusterId::new(0xaa))
            .node(NodeId::new(3))
            .open(),
    );
    assert!(matches!(refused, Err(palisade::Error::AlreadyExists { .. })));
    drop(files);
}

#[test]
fn what_is_no_node_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    for tool in TOOLS {
        let (code, document) = json(dir.path(), tool);
        assert_eq!((code, &document["error"]["code"]), (3, &Value::from("NotFound")), "{document}");
        let missing: Vec<&str> =
            tool.iter().map(|it| if *it == "data" { "none" } else { it }).collect();
        assert_eq!(json(dir.path(), &missing).0, 3, "{missing:?}");
    }
    assert_eq!(fs::read_dir(dir.path().join("data")).unwrap().count(), 0, "nothing was made");
}
