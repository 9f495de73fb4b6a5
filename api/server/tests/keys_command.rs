//! `palisade keys`, and the offline tools on what is sealed: which epoch is told, and what is refused.

use std::path::Path;

use palisade::backup::BackupId;
use palisade::encryption::{KeyRing, Keys};
use palisade::{ClusterId, Engine, ReplicatedMap, ResourceSpec};
use palisade_server::backups::open_or_make;

mod support;
use support::json;

const NEEDLE: &str = "a value that nobody may find";

/// Writes to a node with the ring as it is now, and takes a backup of it.
fn write(dir: &Path, backup: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let keys = Keys::new(KeyRing::read(&dir.join("ring")).unwrap());
        let builder = Engine::builder(dir.join("data")).cluster(ClusterId::new(0xaa));
        let engine = builder.keys(keys).state_disk_is_encrypted().open().await.unwrap();
        let spec = ResourceSpec::new("values", "value.v1").unwrap();
        let map: ReplicatedMap<String, String> = ReplicatedMap::open(&engine, spec).await.unwrap();
        for key in 0..20 {
            map.put(&format!("key {key}"), &NEEDLE.to_owned()).await.unwrap();
        }
        let (place, _) = open_or_make(&dir.join("backups")).unwrap();
        engine.backup(&place).full(&BackupId::new(backup).unwrap()).await.unwrap();
        engine.close().await.unwrap();
    });
}

fn told(dir: &Path, arguments: &[&str], code: i32) -> serde_json::Value {
    let (found, document) = json(dir, arguments);
    assert_eq!(found, code, "{arguments:?}: {document}");
    document
}

const STATUS: &[&str] =
    &["keys", "status", "--ring", "ring", "--data-dir", "data", "--backups", "backups"];

#[test]
fn a_ring_is_made_rotated_and_its_keys_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    told(dir, &["keys", "new", "--ring", "ring"], 0);
    told(dir, &["keys", "new", "--ring", "ring"], 4);
    std::fs::copy(dir.join("ring"), dir.join("first")).unwrap();
    write(dir, "one");
    let rotated = told(dir, &["keys", "rotate", "--ring", "ring"], 0);
    assert_eq!(rotated["active"], 2);
    write(dir, "two");

    let status = told(dir, STATUS, 0);
    assert_eq!(status["epochs"][0]["state"], "readable");
    assert_eq!(status["epochs"][1]["state"], "active");
    let needs = |epoch: usize| status["epochs"][epoch]["needed_by"].to_string();
    assert!(needs(0).contains("backups one"), "{status}");
    assert!(needs(1).contains("backups two") && needs(1).contains("log segments"), "{status}");
    // With a ring of before, what it does not open is said.
    let old: Vec<&str> = STATUS.iter().map(|it| if *it == "ring" { "first" } else { it }).collect();
    let missing = told(dir, &old, 2).to_string();
    assert!(missing.contains("epoch=2"), "{missing}");

    let retire = ["keys", "retire", "--ring", "ring", "--epoch", "1"];
    let everywhere = [&retire[..], &["--data-dir", "data", "--backups", "backups"]].concat();
    let needed = told(dir, &[&everywhere[..], &["--confirm"]].concat(), 4).to_string();
    assert!(needed.contains("backups one"), "{needed}");
    let before = std::fs::read(dir.join("ring")).unwrap();
    let unconfirmed = told(dir, &retire, 2).to_string();
    assert!(unconfirmed.contains("wipe the key of epoch 1"), "{unconfirmed}");
    assert_eq!(std::fs::read(dir.join("ring")).unwrap(), before);
    std::fs::remove_dir_all(dir.join("backups/one")).unwrap();
    // One that is under way needs a key, too, and nobody can tell which.
    std::fs::create_dir_all(dir.join("backups/half/group-1")).unwrap();
    std::fs::write(dir.join("backups/half/group-1/records"), "some").unwrap();
    let unknown = told(dir, &[&everywhere[..], &["--confirm"]].concat(), 4).to_string();
    assert!(unknown.contains("backups half"), "{unknown}");
    std::fs::remove_dir_all(dir.join("backups/half")).unwrap();
    told(dir, &[&everywhere[..], &["--confirm"]].concat(), 0);
    let after = std::fs::read_to_string(dir.join("ring")).unwrap();
    assert!(after.contains("key 1 retired\n") && after.contains("key 2 active "), "{after}");
    told(dir, &["keys", "retire", "--ring", "ring", "--epoch", "2", "--confirm"], 4);
    let off = ["keys", "rotate", "--ring", "ring", "--off"];
    assert_eq!(told(dir, &off, 2)["error"]["code"], "Unconfirmed");
    let off = told(dir, &[&off[..], &["--confirm"]].concat(), 0);
    assert_eq!(off["active"], serde_json::Value::Null);
}

#[test]
fn offline_tools_open_what_is_sealed_with_a_ring_and_judge_it_without() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    told(dir, &["keys", "new", "--ring", "ring"], 0);
    told(dir, &["keys", "new", "--ring", "other"], 0);
    write(dir, "one");
    let verify = told(dir, &["wal", "verify", "data"], 0);
    assert_eq!(verify["verdict"], "clean");
    assert!(verify["sealed"].as_u64().unwrap() > 20, "{verify}");
    assert_eq!(verify["records"], 0);
    let opened = told(dir, &["wal", "verify", "data", "--key-ring", "ring"], 0);
    assert_eq!(opened["sealed"], 0);
    assert!(opened["records"].as_u64().unwrap() > 20, "{opened}");
    let wrong = told(dir, &["wal", "verify", "data", "--key-ring", "other"], 2).to_string();
    assert!(wrong.contains("another key of epoch=1"), "{wrong}");
    let dump = told(dir, &["wal", "dump", "data"], 0).to_string();
    assert!(dump.contains(r#""sealed":"#) && !dump.contains(r#""records":"#), "{dump}");
    let dump = told(dir, &["wal", "dump", "data", "--key-ring", "ring"], 0).to_string();
    assert!(!dump.contains(r#""sealed":"#) && dump.contains(r#""records":"#), "{dump}");

    let verify = ["backup", "verify", "one", "--from", "backups"];
    let refused = told(dir, &verify, 2).to_string();
    assert!(refused.contains("Sealed") && refused.contains("epoch=1"), "{refused}");
    told(dir, &[&verify[..], &["--key-ring", "ring"]].concat(), 0);
    told(dir, &[&verify[..], &["--key-ring", "other"]].concat(), 2);
}

/// A node says where its state is protected, or does not start.
#[test]
fn a_node_with_a_ring_says_what_protects_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let file = "[node]\nid = 1\ncluster = \"000000000000000000000000000000aa\"\ndata_dir = \"data\"\n\
                [encryption]\nkey_ring_file = \"ring\"\n";
    std::fs::write(dir.path().join("node.toml"), file).unwrap();
    let refused = told(dir.path(), &["config", "check", "node.toml"], 2).to_string();
    assert!(refused.contains("MissingKey") && refused.contains("encrypted-disk"), "{refused}");
    let said = format!("{file}state_store = \"encrypted-disk\"\n");
    std::fs::write(dir.path().join("node.toml"), said).unwrap();
    told(dir.path(), &["config", "check", "node.toml"], 0);
}
