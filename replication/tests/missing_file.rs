//! A node that is started without one of the files of its log, and what the others make of it.

mod journal;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, GroupId, Keys, Member, Node, NodeConfig, NodeError, NodeId, Offset, OpenDisk,
    Options, PeerLinks, Role, WalOptions,
};

const GROUP: GroupId = GroupId::new(1);
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: usize = 40;

/// Its state is gone with each end, so that it needs all of its log.
async fn open(
    dir: &Path,
    id: u64,
    addresses: &[SocketAddr],
) -> Result<(Node<Journal>, Journal), NodeError> {
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
        // So that nobody votes again while a machine is busy: a vote is written to the last file.
        options: Options { election_ticks: 100, ..Options::default() },
        wal: WalOptions {
            segment_bytes: 13 << 20,
            batch_bytes_max: 12 << 20,
            ..WalOptions::default()
        },
        disk: OpenDisk::default(),
        keys: Keys::none(),
    };
    let mut journal = Journal::default();
    journal.never_flushes = true;
    Ok((Node::open(config, journal.clone()).await?, journal))
}

fn addresses() -> [SocketAddr; 3] {
    let free: [TcpListener; 3] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    free.map(|listener| listener.local_addr().unwrap())
}

/// Three voters, whose logs have several files.
async fn open_all(dir: &Path, addresses: &[SocketAddr]) -> Vec<(Node<Journal>, Journal)> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(open(dir, id, addresses).await.unwrap());
    }
    for number in 0..RECORDS {
        commit(&nodes, &record(number)).await;
    }
    same_everywhere(&nodes, RECORDS).await;
    nodes
}

async fn close(nodes: Vec<(Node<Journal>, Journal)>) {
    for (node, _) in nodes {
        node.close().await.unwrap();
    }
}

fn record(number: usize) -> Bytes {
    Bytes::from(format!("record {number:04} ").repeat(80_000))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not happen in time");
}

/// Through whichever node takes it.
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

async fn same_everywhere(nodes: &[(Node<Journal>, Journal)], least: usize) {
    until("the same everywhere", async || {
        let all: Vec<_> = nodes.iter().map(|(_, journal)| journal.records(GROUP)).collect();
        least <= all[0].len() && all.iter().all(|records| *records == all[0])
    })
    .await;
}

fn segments(dir: &Path, id: u64) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join(id.to_string()).join("wal")).unwrap();
    let mut segments: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    segments
}

/// G1, G10: whether it is the last or one between, the node counts for nothing before it has again what was in it, and has all of it
/// again when it is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_one_of_its_files_is_repaired_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let mut nodes = open_all(dir.path(), &addresses).await;
    for last in [false, true] {
        let (node, _) = nodes.pop().unwrap();
        node.close().await.unwrap();
        drop(node);
        let segments = segments(dir.path(), 3);
        assert!(3 <= segments.len(), "{segments:?}");
        let gone = if last { segments.len() - 1 } else { 1 };
        std::fs::remove_file(&segments[gone]).unwrap();
        commit(&nodes, &record(nodes[0].1.records(GROUP).len())).await;
        nodes.push(open(dir.path(), 3, &addresses).await.unwrap());
        let (node, journal) = &nodes[2];
        assert_eq!(
            node.status(GROUP).await.unwrap().role,
            Role::Repairing,
            "{gone} of {segments:?}"
        );
        same_everywhere(&nodes, RECORDS + 1).await;
        until("all of its log is whole", async || {
            let mut held = Vec::new();
            while let next = Offset::new(held.len() as u64 + 1)
                && let Ok(runs) = node.records(GROUP, next, 1 << 20).await
                && !runs.is_empty()
            {
                held.extend(runs.into_iter().flat_map(|run| run.payloads));
            }
            held == journal.records(GROUP)
        })
        .await;
    }
    // It can carry a majority again.
    let (gone, _) = nodes.remove(0);
    gone.close().await.unwrap();
    commit(&nodes, &record(RECORDS + 3)).await;
    same_everywhere(&nodes, RECORDS + 3).await;
    close(nodes).await;
}

/// The file that has the register alone, as nobody voted since: nothing is left of the group, and nothing changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_register_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let mut nodes = open_all(dir.path(), &addresses).await;
    let (node, _) = nodes.pop().unwrap();
    node.close().await.unwrap();
    drop(node);
    let first = segments(dir.path(), 3).remove(0);
    let aside = dir.path().join("aside");
    std::fs::rename(&first, &aside).unwrap();
    let refused = open(dir.path(), 3, &addresses).await.map(drop).unwrap_err();
    assert!(matches!(refused, NodeError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("replace this replica"), "{refused}");
    std::fs::rename(&aside, &first).unwrap();
    nodes.push(open(dir.path(), 3, &addresses).await.unwrap());
    commit(&nodes, &record(RECORDS)).await;
    same_everywhere(&nodes, RECORDS + 1).await;
    close(nodes).await;
}
