//! Three engines over loopback TCP, with real files.
#![cfg(feature = "rocksdb")]

#[path = "support/data.rs"]
mod data;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use data::Data;
use palisade::{
    ClusterId, Engine, EngineBuilder, Error, LogPosition, NodeId, Offset, ReadConsistency,
    ReadOptions, ReplicaPolicy, ReplicatedLog, ReplicatedMap, ResourceSpec, WalOptions,
};

fn addresses() -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

fn builder(dir: &Path, addresses: &[SocketAddr], at: usize) -> EngineBuilder {
    let wal =
        WalOptions { segment_bytes: 16 << 20, batch_bytes_max: 15 << 20, ..Default::default() };
    let mut builder = Engine::builder(dir.join(format!("node-{at}")))
        .cluster(ClusterId::new(9))
        .node(NodeId::new(at as u64 + 1))
        .listen(addresses[at])
        .wal(wal)
        .request_timeout_ms(6_000);
    for (number, address) in addresses.iter().enumerate() {
        builder = builder.voter(NodeId::new(number as u64 + 1), *address);
    }
    builder
}

async fn open(dir: &Path, addresses: &[SocketAddr], at: usize) -> Engine {
    builder(dir, addresses, at).open().await.unwrap()
}

fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().replicas(ReplicaPolicy::majority(3))
}

async fn map(engine: &Engine) -> ReplicatedMap<String, String> {
    ReplicatedMap::open(engine, spec("map")).await.unwrap()
}

/// G4 and G5 across replicas: a receipt of one node is honoured by the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_serves_at_the_receipts_offset() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(open(dir.path(), &addresses, at).await);
    }
    let mut maps = Vec::new();
    for engine in &engines {
        maps.push(map(engine).await);
    }
    for number in 0..60 {
        let (writer, reader) = (&maps[number % 3], &maps[(number + 1) % 3]);
        let (key, value) = (format!("k{}", number % 7), format!("v{number}"));
        let receipt = writer.put(&key, &value).await.unwrap();
        let fresh = ReadOptions::from(ReadConsistency::AtLeastOffset(receipt.offset));
        let read =
            reader.get(&key, fresh.wait(Duration::from_secs(10))).await.unwrap().value.unwrap();
        assert_eq!((read.value, read.version.offset()), (value.clone(), receipt.offset));
        let other = &maps[(number + 2) % 3];
        let read = other.get(&key, ReadConsistency::Linearizable).await.unwrap().value.unwrap();
        assert_eq!(read.value, value);
    }
    let applied = engines.iter().map(|engine| engine.data().applied().unwrap()).max().unwrap();
    let mut digests = Vec::new();
    for (engine, map) in engines.iter().zip(&maps) {
        let at = ReadOptions::from(ReadConsistency::AtLeastOffset(applied));
        map.get(&"k0".into(), at.wait(Duration::from_secs(10))).await.unwrap();
        digests.push(engine.data().digest().await.unwrap());
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    for engine in engines {
        engine.close().await.unwrap();
    }
}

/// A node that comes back with an emptied directory has forgotten what it promised. The others know
/// its former life and do not listen to it: it must not make a quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_node_makes_no_quorum() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let first = open(dir.path(), &addresses, 0).await;
    let second = open(dir.path(), &addresses, 1).await;
    let third = open(dir.path(), &addresses, 2).await;
    let map_first = map(&first).await;
    // The third has been heard by both: it acknowledges through each of them in turn.
    for engine in [&first, &second, &third] {
        map(engine).await.put(&"k".into(), &"before".into()).await.unwrap();
    }
    third.close().await.unwrap();
    drop(third);
    std::fs::remove_dir_all(dir.path().join("node-2")).unwrap();
    let emptied = open(dir.path(), &addresses, 2).await;
    map_first.put(&"k".into(), &"with two".into()).await.unwrap();
    second.close().await.unwrap();
    drop(second);
    let refused = map_first.put(&"k".into(), &"with one".into()).await;
    assert!(
        matches!(refused, Err(Error::Disconnected { outcome_unknown: true })),
        "one node and an emptied one are no quorum: {refused:?}"
    );
    assert_eq!(emptied.data().applied().unwrap(), Offset::ZERO, "nobody speaks to it");
    // The real second comes back, and with it the quorum.
    let second = open(dir.path(), &addresses, 1).await;
    map_first.put(&"k".into(), &"with two again".into()).await.unwrap();
    for engine in [first, second, emptied] {
        engine.close().await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let aside = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &aside);
        } else {
            std::fs::copy(entry.path(), aside).unwrap();
        }
    }
}

/// A node whose directory was put back from a copy has forgotten what it promised since. The others know, and it
/// halts before it says anything to them; a copy that nothing followed is as good as what it is a copy of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_put_back_makes_no_quorum() {
    let dir = tempfile::tempdir().unwrap();
    let (own, aside) = (dir.path().join("node-2"), dir.path().join("aside"));
    let addresses = addresses();
    let first = open(dir.path(), &addresses, 0).await;
    let second = open(dir.path(), &addresses, 1).await;
    let third = open(dir.path(), &addresses, 2).await;
    let map_first = map(&first).await;
    map(&third).await.put(&"k".into(), &"before".into()).await.unwrap();
    third.close().await.unwrap();
    drop(third);
    copy(&own, &aside);
    std::fs::remove_dir_all(&own).unwrap();
    copy(&aside, &own);
    let third = open(dir.path(), &addresses, 2).await;
    map(&third).await.put(&"k".into(), &"after a move".into()).await.unwrap();
    third.close().await.unwrap();
    drop(third);

    second.close().await.unwrap();
    drop(second);
    std::fs::remove_dir_all(&own).unwrap();
    copy(&aside, &own);
    let put_back = open(dir.path(), &addresses, 2).await;
    let halted = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match put_back.data().status().await {
                Err(error) => return error,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let halted = halted.await.expect("it halts").to_string();
    assert!(halted.contains("put back from a copy") && halted.contains("node=1"), "{halted}");
    let refused = map_first.put(&"k".into(), &"with one".into()).await;
    assert!(matches!(refused, Err(Error::Disconnected { .. })), "no quorum: {refused:?}");
    drop(put_back);
    // It is not taken up again, whoever is there by then.
    let again = builder(dir.path(), &addresses, 2).open().await.map(drop).unwrap_err();
    assert!(again.to_string().contains("put back from a copy"), "{again}");
    let second = open(dir.path(), &addresses, 1).await;
    map_first.put(&"k".into(), &"with two again".into()).await.unwrap();
    for engine in [first, second] {
        engine.close().await.unwrap();
    }
}

/// A replica that was away for long is caught up from the log, in bounded messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(open(dir.path(), &addresses, at).await);
    }
    let log: ReplicatedLog<Vec<u8>> = ReplicatedLog::open(&engines[0], spec("log")).await.unwrap();
    let away = engines.pop().unwrap();
    away.close().await.unwrap();
    drop(away);
    let mut last = Offset::ZERO;
    for number in 0..120_u8 {
        last = log.append(&vec![number; 200_000]).await.unwrap().receipt.offset;
    }
    let back = open(dir.path(), &addresses, 2).await;
    let log: ReplicatedLog<Vec<u8>> = ReplicatedLog::open(&back, spec("log")).await.unwrap();
    let at = ReadOptions::from(ReadConsistency::AtLeastOffset(last)).wait(Duration::from_secs(30));
    let (mut entries, mut next) = (Vec::new(), Some(LogPosition::START));
    while let Some(from) = next {
        let page = log.scan(from, palisade::Direction::Forward, 1000, at).await.unwrap();
        entries.extend(page.value.entries);
        next = page.value.next;
    }
    assert_eq!(entries.len(), 120);
    assert!(entries.iter().zip(0..).all(|(entry, number)| entry.value[0] == number));
    engines.push(back);
    for engine in engines {
        engine.close().await.unwrap();
    }
}
