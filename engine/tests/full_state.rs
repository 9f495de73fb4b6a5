//! Section 6 of the design, of the state: a node whose state has no space refuses and votes, halts nothing, and
//! comes back by itself. On a real file system that is really full, so as root alone.
#![cfg(all(feature = "rocksdb", target_os = "linux"))]

#[path = "support/data.rs"]
mod data;
#[path = "support/mounted.rs"]
mod mounted;

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use data::Data;
use mounted::mounted;
use palisade::{
    ClusterId, Engine, Error, NodeId, ReadConsistency, ReadOptions, ReplicaPolicy, ReplicatedMap,
    ResourceSpec, Role, WalOptions,
};

const PATIENCE: Duration = Duration::from_secs(120);
const SMALL_MIB: u64 = 48;

/// Takes all the space that there is.
fn fill(path: &Path) {
    let mut ballast = File::create(path).unwrap();
    for bytes in [1 << 20, 4096] {
        while ballast.write_all(&vec![1; bytes]).is_ok() {}
    }
    // What was delayed is there, too, or it is not full.
    let _ = ballast.sync_all();
}

async fn open(dir: &Path, addresses: &[SocketAddr], at: usize) -> Engine {
    let wal =
        WalOptions { segment_bytes: 16 << 20, batch_bytes_max: 15 << 20, ..Default::default() };
    let mut builder = Engine::builder(dir)
        .cluster(ClusterId::new(9))
        .node(NodeId::new(at as u64 + 1))
        .listen(addresses[at])
        .wal(wal)
        .state_write_buffer_bytes(2 << 20)
        .request_timeout_ms(6_000);
    for (number, address) in addresses.iter().enumerate() {
        builder = builder.voter(NodeId::new(number as u64 + 1), *address);
    }
    builder.open().await.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

/// G1, G10, G12: the state of one of three is full; then it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_state_is_full_comes_back_by_itself() {
    let test = "a_node_whose_state_is_full_comes_back_by_itself";
    let prepare = format!(
        "truncate -s {SMALL_MIB}M \"$0\" && mkfs.ext4 -q -m 0 \"$0\" && mount -o loop \"$0\" \"$1\""
    );
    let Some(small) = mounted(test, &prepare) else { return };
    let dir = tempfile::tempdir().unwrap();
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(|at| at.local_addr().unwrap()).collect();
    drop(listeners);
    let first = dir.path().join("node-0");
    std::fs::create_dir(&first).unwrap();
    // The state alone: its log has all the space it wants.
    std::fs::create_dir(small.join("state")).unwrap();
    std::os::unix::fs::symlink(small.join("state"), first.join("state")).unwrap();
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(open(&dir.path().join(format!("node-{at}")), &addresses, at).await);
    }
    let spec = ResourceSpec::new("map", "test.v1").unwrap().replicas(ReplicaPolicy::majority(3));
    let mut maps: Vec<ReplicatedMap<String, String>> = Vec::new();
    for engine in &engines {
        maps.push(ReplicatedMap::open(engine, spec.clone()).await.unwrap());
    }
    let ballast = small.join("ballast");
    fill(&ballast);

    // Written through another node, until the first has no space for what it has in memory.
    let value = |number: u64| format!("{number} ").repeat(4_000);
    let mut written = 0_u64;
    let full = async |engine: &Engine| engine.data().status().await.unwrap().disk_full;
    while !full(&engines[0]).await {
        let put = maps[1].put(&format!("k{written}"), &value(written)).await;
        match put {
            Ok(put) => {
                written += 1;
                // It keeps up, however busy the machine is, or it is full.
                until("the first has it, or is full", async || {
                    engines[0].data().applied().is_ok_and(|applied| put.offset <= applied)
                        || full(&engines[0]).await
                })
                .await;
            }
            // The first led, and steps aside.
            Err(Error::RateLimited { .. } | Error::Disconnected { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(written < 10_000, "it is never full");
        assert_ne!(engines[0].data().status().await.unwrap().role, Role::Halted);
    }
    println!("full after {written} records");
    let status = async |at: usize| engines[at].data().status().await.unwrap();
    until("another leads", async || {
        status(1).await.role == Role::Leader || status(2).await.role == Role::Leader
    })
    .await;
    // Two of three go on, and it is none of their quorum's.
    for _ in 0..40 {
        until("a commit of two", async || {
            maps[1].put(&format!("k{written}"), &value(written)).await.is_ok()
        })
        .await;
        written += 1;
    }
    let refused = maps[0].put(&"refused".into(), &"v".into()).await;
    assert!(
        matches!(refused, Err(Error::RateLimited { .. })),
        "nothing is taken in that could not be applied: {refused:?}"
    );
    assert!(full(&engines[0]).await);
    // It votes: with another gone, the third leads by its vote.
    let leads = if status(1).await.role == Role::Leader { 1 } else { 2 };
    let left = 3 - leads;
    engines[leads].close().await.unwrap();
    until("a leader by the vote of a full node", async || status(left).await.role == Role::Leader)
        .await;

    // Nobody does anything but to make space.
    std::fs::remove_file(&ballast).unwrap();
    until("it takes records again", async || !full(&engines[0]).await).await;
    let mut last = None;
    until("a commit of the one that was full and the one that is left", async || {
        last = maps[0].put(&"last".into(), &"v".into()).await.ok();
        last.is_some()
    })
    .await;
    let at = last.unwrap().offset;
    let fresh = || ReadOptions::from(ReadConsistency::AtLeastOffset(at)).wait(PATIENCE);
    for number in (0..written).step_by(7) {
        let read = maps[0].get(&format!("k{number}"), fresh()).await.unwrap().value.unwrap();
        assert_eq!(read.value, value(number), "G1: k{number}");
    }
    maps[left].get(&"last".into(), fresh()).await.unwrap();
    until("one state at both (G8)", async || {
        let one = engines[0].data().digest().await.unwrap();
        one == engines[left].data().digest().await.unwrap()
    })
    .await;
    for at in [0, left] {
        engines[at].close().await.unwrap();
    }
    // What it had in memory then was flushed since.
    drop(maps);
    let again = open(&first, &addresses, 0).await;
    assert!(at <= again.data().applied().unwrap());
    again.close().await.unwrap();
}
