//! A running node finds what rots in its log, on real files: nobody reads it, nobody restarts it.

mod journal;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, GroupId, Keys, Member, Node, NodeConfig, NodeId, Offset, OpenDisk, Options,
    PeerLinks, WalOptions,
};

const GROUP: GroupId = GroupId::new(1);
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(dir: &Path, id: u64, addresses: &[SocketAddr]) -> (Node<Journal>, Journal) {
    let voter = |(id, address): (u64, &SocketAddr)| {
        (NodeId::new(id), Member { address: Some(*address), ..Member::default() })
    };
    let config = NodeConfig {
        cluster: ClusterId::new(5),
        node: NodeId::new(id),
        data_dir: dir.join(id.to_string()),
        groups: vec![GROUP],
        voters: (1..).zip(addresses).map(voter).collect(),
        listen: Some(addresses[id as usize - 1]),
        links: PeerLinks::default(),
        options: Options { scrub_pause_ms: 20, ..Options::default() },
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    };
    let journal = Journal::default();
    (Node::open(config, journal.clone()).await.unwrap(), journal)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not happen in time");
}

/// At whichever node leads.
async fn commit(nodes: &[(Node<Journal>, Journal)], payload: &Bytes) {
    until("a commit", async || {
        for (node, _) in nodes {
            if let Ok(proposal) = node.propose(GROUP, payload.clone())
                && proposal.await.is_ok()
            {
                return true;
            }
        }
        false
    })
    .await;
}

/// Flips a bit of a record wherever it lies in these files. Returns where that was.
fn rot(folder: &Path, record: &[u8]) -> Vec<PathBuf> {
    let mut rotten = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let raw = std::fs::read(&path).unwrap();
        let Some(at) = raw.windows(record.len()).position(|place| place == record) else {
            continue;
        };
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[raw[at + 5] ^ 0x10], at as u64 + 5).unwrap();
        file.sync_all().unwrap();
        rotten.push(path);
    }
    rotten
}

/// G1, G10: the same record rots at all three, one after the other. Each has it again before the next
/// loses it, and the file that cannot be relied on is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rots_under_a_running_node_is_repaired_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.map(|listener| listener.local_addr().unwrap());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(open(dir.path(), id, &addresses).await);
    }
    let records: Vec<Bytes> =
        (0..40).map(|number| Bytes::from(format!("record {number:03} ").repeat(40))).collect();
    for record in &records {
        commit(&nodes, record).await;
    }
    for (at, (node, journal)) in nodes.iter().enumerate() {
        until("the same everywhere", async || journal.records(GROUP).len() >= records.len()).await;
        let folder = dir.path().join((at + 1).to_string()).join("wal");
        let rotten = rot(&folder, &records[7]);
        assert!(!rotten.is_empty(), "the record is in a file of the log");
        until("the file goes", async || {
            // What is live in it moves as callers write.
            commit(&nodes, &Bytes::from_static(b"goes on")).await;
            !rotten.iter().any(|path| path.exists())
        })
        .await;
        until("all of its log is whole", async || {
            let runs = node.records(GROUP, Offset::new(1), 1 << 20).await.unwrap_or_default();
            let held: Vec<Bytes> = runs.iter().flat_map(|run| run.payloads.clone()).collect();
            held.starts_with(&records)
        })
        .await;
    }
    for (node, _) in &nodes {
        assert!(0 < node.load().log_segments_condemned, "it is told");
        node.close().await.unwrap();
    }
}
