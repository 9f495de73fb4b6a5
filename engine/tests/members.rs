//! Members that come and go, snapshots and repair: engines over loopback TCP, with real files.
#![cfg(feature = "rocksdb")]

#[path = "support/data.rs"]
mod data;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data::Data;
use palisade::{
    ClusterId, Disposition, Engine, EngineBuilder, Error, Member, MemberChange, NodeId, Offset,
    Options, ReadConsistency, ReadOptions, ReplicaPolicy, ReplicatedMap, ResourceSpec, Role,
    WalOptions,
};

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

struct Nodes {
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
}

impl Nodes {
    fn new(count: usize) -> Self {
        let listeners: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        Self { dir: tempfile::tempdir().unwrap(), addresses }
    }

    fn data(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("node-{at}"))
    }

    /// The log is trimmed early, so that whoever is away needs a snapshot.
    fn builder(&self, at: usize) -> EngineBuilder {
        let wal =
            WalOptions { segment_bytes: 16 << 20, batch_bytes_max: 15 << 20, ..Default::default() };
        let options = Options {
            trim_entries_min: 16,
            lag_entries_max: 32,
            flush_bytes_target: 32 << 10,
            report_ticks: 10,
            ..Options::default()
        };
        Engine::builder(self.data(at))
            .cluster(ClusterId::new(9))
            .node(node(at))
            .listen(self.addresses[at])
            .wal(wal)
            .options(options)
            .request_timeout_ms(20_000)
    }

    async fn open_voter(&self, at: usize) -> Engine {
        let voters = self.addresses.iter().take(3).enumerate();
        let builder = voters.fold(self.builder(at), |b, (n, address)| b.voter(node(n), *address));
        builder.open().await.unwrap()
    }
}

fn node(at: usize) -> NodeId {
    NodeId::new(at as u64 + 1)
}

async fn map(engine: &Engine) -> ReplicatedMap<String, String> {
    let spec = ResourceSpec::new("map", "test.v1").unwrap().replicas(ReplicaPolicy::majority(3));
    let mut opened = None;
    until("a map", async || match ReplicatedMap::open(engine, spec.clone()).await {
        Ok(map) => opened.replace(map).is_none(),
        // While its log is under repair a node says that nothing happened.
        Err(error) if error.disposition() == Disposition::Retry => false,
        Err(error) => panic!("{error}"),
    })
    .await;
    opened.unwrap()
}

/// Puts so many rows, one after the other, and gives the last offset.
async fn put(map: &ReplicatedMap<String, String>, from: usize, count: usize) -> Offset {
    let mut last = Offset::ZERO;
    for number in from..from + count {
        let value = format!("{number} {}", "x".repeat(900));
        last = map.put(&format!("key {number:05}"), &value).await.unwrap().offset;
    }
    last
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

async fn leader(engines: &[&Engine]) -> usize {
    let mut found = None;
    until("a leader", async || {
        for (at, engine) in engines.iter().enumerate() {
            if engine.data().status().await.unwrap().role == Role::Leader {
                found = Some(at);
            }
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Asks until it is done: a member may have to catch up first.
async fn change(leader: &Engine, change: MemberChange) {
    until("a change of membership", async || match leader.change_members(change.clone()).await {
        Ok(_) => true,
        Err(Error::PreconditionFailed { .. }) => false,
        Err(error) => panic!("{change:?}: {error}"),
    })
    .await;
}

async fn digests_agree(engines: &[&Engine], at_least: Offset) {
    let mut maps = Vec::new();
    for engine in engines {
        maps.push(map(engine).await);
    }
    // Opening a map is a record too.
    let applied = engines.iter().map(|engine| engine.data().applied().unwrap()).max();
    let at_least = applied.unwrap().max(at_least);
    let options = ReadOptions::from(ReadConsistency::AtLeastOffset(at_least)).wait(PATIENCE);
    let mut digests = Vec::new();
    for (map, engine) in maps.iter().zip(engines) {
        map.get(&"key 00000".to_owned(), options).await.unwrap().value.expect("the first row");
        digests.push(engine.data().digest().await.unwrap());
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:#?}");
}

/// A new node gets a snapshot and takes the place of a dead one, while writes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_replaced_by_a_newcomer_with_a_snapshot() {
    let nodes = Nodes::new(4);
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(nodes.open_voter(at).await);
    }
    let lead = leader(&engines.iter().collect::<Vec<_>>()).await;
    let leader = engines.swap_remove(lead);
    let written = map(&leader).await;
    put(&written, 0, 300).await;
    let dead = engines.pop().unwrap();
    let dead_node = dead.node();
    dead.close().await.unwrap();
    drop(dead);
    put(&written, 300, 100).await;

    let newcomer = nodes.builder(3).joins().open().await.unwrap();
    assert_eq!(newcomer.data().status().await.unwrap().role, Role::Outsider);
    let member = Member {
        incarnation: Some(newcomer.incarnation()),
        address: Some(nodes.addresses[3]),
        domain: String::new(),
    };
    change(&leader, MemberChange::AddLearner { node: node(3), member }).await;
    let refused = leader.change_members(MemberChange::Remove { node: leader.node() }).await;
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })), "{refused:?}");
    change(&leader, MemberChange::Replace { old: dead_node, new: node(3) }).await;
    let last = put(&written, 400, 50).await;
    digests_agree(&[&leader, &engines[0], &newcomer], last).await;
    assert_eq!(newcomer.data().status().await.unwrap().role, Role::Follower);
    let first = newcomer.data().status().await.unwrap().first_index;
    assert!(first.get() > 100, "it came by a snapshot, first={first}");

    // It keeps what it got over a restart, and is a voter: the leader may go.
    newcomer.close().await.unwrap();
    drop(newcomer);
    let newcomer = nodes.builder(3).joins().open().await.unwrap();
    until("the leadership moves", async || {
        leader.data().transfer_leadership(engines[0].node()).unwrap();
        leader.data().status().await.unwrap().role != Role::Leader
    })
    .await;
    leader.close().await.unwrap();
    let last = put(&map(&engines[0]).await, 450, 20).await;
    digests_agree(&[&engines[0], &newcomer], last).await;
}

/// The written part of a segment file.
fn written(raw: &[u8]) -> usize {
    raw.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<PathBuf> = fs::read_dir(data.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    segments
}

/// G10: damage in the middle of one replica's log costs nothing, and the others make up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_repaired_from_the_others() {
    let nodes = Nodes::new(3);
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(nodes.open_voter(at).await);
    }
    let last = put(&map(&engines[0]).await, 0, 200).await;
    digests_agree(&engines.iter().collect::<Vec<_>>(), last).await;

    for round in 0..4 {
        let engine = engines.pop().unwrap();
        engine.close().await.unwrap();
        drop(engine);
        let path = segments(&nodes.data(2)).pop().unwrap();
        let mut raw = fs::read(&path).unwrap();
        let middle = written(&raw) / 2;
        match round {
            0 => raw[middle] ^= 1,
            1 => raw[middle / 512 * 512..][..512].fill(0),
            2 => raw[middle..middle + 700].reverse(),
            _ => raw.truncate(middle),
        }
        fs::write(&path, &raw).unwrap();
        let rest = put(&map(&engines[0]).await, 200 + 10 * round, 10).await;
        engines.push(nodes.open_voter(2).await);
        digests_agree(&engines.iter().collect::<Vec<_>>(), rest).await;
    }
    // Whole again: it can carry a majority.
    until("the probation ends", async || {
        engines[2].data().status().await.unwrap().role != Role::Repairing
    })
    .await;
    let gone = engines.remove(0);
    gone.close().await.unwrap();
    drop(gone);
    let last = put(&map(&engines[1]).await, 300, 5).await;
    digests_agree(&engines.iter().collect::<Vec<_>>(), last).await;
}
