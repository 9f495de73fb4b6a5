//! A directory that was put back from a copy, and a copy that runs beside it: real nodes, real files.

mod journal;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, GroupId, Keys, Member, Node, NodeConfig, NodeError, NodeId, OpenDisk, Options,
    PeerLinks, Role, WalOptions,
};

const GROUP: GroupId = GroupId::new(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// It is over with the last word, and not before.
const FOR_EVER: u32 = u32::MAX;

async fn open(dir: &Path, addresses: &[SocketAddr], id: u64, vigil_ticks: u32) -> Node<Journal> {
    open_with(dir, addresses, id, vigil_ticks, state()).await
}

async fn open_with(
    dir: &Path,
    addresses: &[SocketAddr],
    id: u64,
    vigil_ticks: u32,
    state: Journal,
) -> Node<Journal> {
    let member = |at: usize| Member { address: Some(addresses[at]), ..Member::default() };
    let config = NodeConfig {
        cluster: ClusterId::new(6),
        node: NodeId::new(id),
        data_dir: dir.join(id.to_string()),
        groups: vec![GROUP],
        voters: (0..3).map(|at| (NodeId::new(at as u64 + 1), member(at))).collect(),
        listen: Some(addresses[id as usize - 1]),
        links: PeerLinks::default(),
        options: Options { tick_ms: 5, vigil_ticks, ..Options::default() },
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    };
    Node::open(config, state).await.unwrap()
}

/// Made from the log at each start.
fn state() -> Journal {
    let mut state = Journal::default();
    state.never_flushes = true;
    state
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

async fn commit(node: &Node<Journal>, payload: &'static str) {
    until("a commit", async || match node.propose(GROUP, Bytes::from(payload)) {
        Ok(proposal) => proposal.await.is_ok(),
        Err(_) => false,
    })
    .await;
}

async fn close(node: Node<Journal>) {
    node.close().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let aside = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &aside);
        } else {
            fs::copy(entry.path(), aside).unwrap();
        }
    }
}

fn addresses<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let listeners = [0; COUNT].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap())
}

/// Its end by the word of a peer that remembers more.
async fn put_back_by(node: &Node<Journal>) -> NodeId {
    let mut ended = None;
    until("it halts", async || {
        ended = node.status(GROUP).await.err();
        ended.is_some()
    })
    .await;
    let Some(NodeError::Halted { cause }) = ended else { panic!("{ended:?}") };
    let NodeError::PutBack { by, .. } = *cause else { panic!("{cause:?}") };
    by
}

/// What was committed by two is not voted away by one of them, put back, and the third, which was away: the second
/// is asked first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_elected_before_who_knows_better_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses::<3>();
    let path = dir.path();

    let [one, two, three] = [1, 2, 3].map(|id| open(path, &addresses, id, 10));
    let (one, two, three) = (one.await, two.await, three.await);
    commit(&one, "by all").await;
    close(three).await;
    close(one).await;
    copy(&path.join("1"), &path.join("aside"));
    let one = open(path, &addresses, 1, 10).await;
    commit(&one, "by two").await;
    close(one).await;
    close(two).await;
    fs::remove_dir_all(path.join("1")).unwrap();
    copy(&path.join("aside"), &path.join("1"));

    let three = open(path, &addresses, 3, 0).await;
    let put_back = open(path, &addresses, 1, FOR_EVER).await;
    // Some twenty elections long.
    for _ in 0..500 {
        let status = three.status(GROUP).await.unwrap();
        assert_eq!(status.leader, None, "elected by who has forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let state = state();
    let two = open_with(path, &addresses, 2, 10, state.clone()).await;
    assert_eq!(put_back_by(&put_back).await, NodeId::new(2));
    commit(&two, "by the others").await;
    two.read_barrier(GROUP).await.unwrap();
    let held = state.records(GROUP);
    let committed = ["by all", "by two", "by the others"];
    assert!(committed.iter().all(|one| held.iter().any(|held| held == one)), "{held:?}");
    close(two).await;
    close(three).await;
}

/// Of two that run under one name the second is told so, and ends, where the first was started after the copy was
/// made; what the first promises goes on to count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_runs_beside_its_original_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (at, path) = (addresses::<3>(), dir.path());
    let [one, two, three] = [1, 2, 3].map(|id| open(path, &at, id, 10));
    let (one, two, three) = (one.await, two.await, three.await);
    commit(&one, "by all").await;
    close(three).await;
    fs::create_dir(path.join("beside")).unwrap();
    copy(&path.join("3"), &path.join("beside/3"));

    let state = state();
    let three = open_with(path, &at, 3, 10, state.clone()).await;
    // Both have heard its age before they follow it: that is the first word of a connection.
    until("it leads", async || {
        for node in [&one, &two] {
            let _ = node.transfer_leadership(GROUP, NodeId::new(3));
        }
        three.status(GROUP).await.unwrap().role == Role::Leader
    })
    .await;
    commit(&one, "by way of one").await;
    commit(&two, "by way of two").await;
    let [first, second, _] = at;
    let [beside] = addresses::<1>();
    let copied = open(&path.join("beside"), &[first, second, beside], 3, 10).await;
    let by = put_back_by(&copied).await;
    assert!([1, 2].contains(&by.get()), "{by}");
    // A majority with the original alone.
    close(two).await;
    commit(&one, "with the original").await;
    assert!(three.stopped().is_none());
    three.read_barrier(GROUP).await.unwrap();
    assert!(state.records(GROUP).iter().any(|held| held == "with the original"));
    close(one).await;
    close(three).await;
}
