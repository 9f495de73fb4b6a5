//! The canonical workload in its smallest size, and the other tools in theirs.

use std::process::Command;
use std::time::Duration;

use palisade_benches::{Nodes, closed_loop, record};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_take_appends() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes::open(dir.path()).await.unwrap();
    let log = nodes.leader_log().await.unwrap();
    let append = move |number| {
        let log = log.clone();
        async move { log.append(&record(number)).await.map(|_| ()).map_err(|e| e.to_string()) }
    };
    let sample = closed_loop(8, Duration::from_millis(200), append).await.unwrap();
    assert!(sample.per_second > 0.0);
    let http = nodes.serve().await.unwrap();
    for number in 0..6 {
        http.append(number, record(number)).await.unwrap();
    }
    nodes.close().await.unwrap();
}

/// Runs a tool and gives what it printed.
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a tool says that misses a bound which it was given.
fn fails(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_flood_is_counted_for_each_node() {
    let told = tool(env!("CARGO_BIN_EXE_flood"), &["--seconds", "1", "--only", "impatient"]);
    assert!(told.contains("impatient"), "{told}");
    assert_eq!(told.matches("follower").count(), 2, "{told}");
}

#[test]
fn idle_groups_take_a_share_of_a_core() {
    let args = ["--groups", "10", "--seconds", "1", "--runs", "1"];
    let told = tool(env!("CARGO_BIN_EXE_idle"), &args);
    assert!(told.contains("median"), "{told}");
    // No node takes nothing.
    let refused = fails(env!("CARGO_BIN_EXE_idle"), &[&args[..], &["--share-max", "0"]].concat());
    assert!(refused.contains("at most 0 % was asked for"), "{refused}");
}

#[test]
fn a_snapshot_is_measured_until_the_newcomer_has_caught_up() {
    let args = ["--state-mib", "16", "--seconds", "1", "--runs", "1", "--callers", "16"];
    let told = tool(env!("CARGO_BIN_EXE_snapshot"), &args);
    assert!(told.contains("catch up"), "{told}");
    let refused =
        fails(env!("CARGO_BIN_EXE_snapshot"), &[&args[..], &["--share-min", "100000"]].concat());
    assert!(refused.contains("at least 100000 % was asked for"), "{refused}");
}

#[test]
fn a_killed_node_is_timed_until_it_serves() {
    let told = tool(env!("CARGO_BIN_EXE_recovery"), &["--mib", "4", "--runs", "1"]);
    assert!(told.contains("flushed by default, median"), "{told}");
    assert!(told.contains("nothing flushed, median"), "{told}");
    assert!(told.matches("for each GiB").count() >= 2, "{told}");
}

#[test]
fn many_keys_are_opened() {
    let args = ["--keys", "10000", "--runs", "1"];
    let told = tool(env!("CARGO_BIN_EXE_keys"), &args);
    assert!(told.contains("median: open after"), "{told}");
    let refused = fails(env!("CARGO_BIN_EXE_keys"), &[&args[..], &["--open-ms-max", "0"]].concat());
    assert!(refused.contains("at most 0 ms was asked for"), "{refused}");
}

#[test]
fn every_way_over_grpc_is_measured() {
    let args = ["--runs", "1", "--run-ms", "200", "--in-flight", "64"];
    let told = tool(env!("CARGO_BIN_EXE_rpc"), &args);
    for way in
        ["in process", "unary", "one stream", "streams", "one stream, batched", "echo, unary"]
    {
        assert!(told.lines().any(|line| line.starts_with(&format!("{way} "))), "{way}: {told}");
    }
    let bound = [&args[..], &["--only", "one stream", "--share-min", "100000"]].concat();
    let refused = fails(env!("CARGO_BIN_EXE_rpc"), &bound);
    assert!(refused.contains("100000 % was asked for"), "{refused}");
}
