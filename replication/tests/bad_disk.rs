//! Nodes over disks that misbehave, with real files and sockets underneath.

mod journal;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, Disk, GroupId, Incarnation, Keys, Member, MemberChange, Node, NodeConfig, NodeError,
    NodeId, Offset, OpenDisk, Options, PeerLinks, Role, WalOptions,
};

const GROUP: GroupId = GroupId::new(1);
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one disk does beside what it should.
#[derive(Default)]
struct Mood {
    /// Syncs do not come back while it is.
    holds: Mutex<bool>,
    changed: Condvar,
    /// A question for the length of a file is the end of its thread.
    panics: AtomicBool,
    /// So is a sync.
    panics_at_sync: AtomicBool,
    /// The next sync fails, and only that one: the disk takes everything after it.
    fails_once: AtomicBool,
    /// The next part of a snapshot that is received is not written, and seems to be.
    loses_part: AtomicBool,
}

impl Mood {
    fn hold(&self, holds: bool) {
        *self.holds.lock().unwrap() = holds;
        self.changed.notify_all();
    }
}

/// Lets syncs go when a test ends, also where it fails: closing waits for them.
struct Released(Arc<Mood>);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.hold(false);
    }
}

struct Moody {
    disk: Arc<dyn Disk>,
    mood: Arc<Mood>,
}

impl Disk for Moody {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.create(name, bytes)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        assert!(!self.mood.panics.load(Ordering::SeqCst), "a bug in a disk");
        self.disk.len(name)
    }

    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(name, pos, buffer)
    }
    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_medium(name, pos, buffer)
    }

    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        let is_part = name.starts_with("in-") && !name.ends_with(".manifest");
        if is_part && self.mood.loses_part.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        self.disk.write_at(name, pos, bytes)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        assert!(!self.mood.panics_at_sync.load(Ordering::SeqCst), "a bug in a disk");
        let holds = self.mood.holds.lock().unwrap();
        drop(self.mood.changed.wait_while(holds, |holds| *holds).unwrap());
        if self.mood.fails_once.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.disk.sync(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

/// A node whose log and snapshots are on disks of these moods.
async fn open(
    dir: &Path,
    id: u64,
    addresses: &[SocketAddr],
    voters: &[u64],
    moods: [&Arc<Mood>; 2],
) -> (Node<Journal>, Journal) {
    let member = |id: &u64| {
        let address = Some(addresses[*id as usize - 1]);
        (NodeId::new(*id), Member { address, ..Member::default() })
    };
    let [log, snapshots] = moods.map(Arc::clone);
    let disk = OpenDisk::over(move |dir, disk| {
        let mood = if dir.ends_with("snapshots") { &snapshots } else { &log };
        Arc::new(Moody { disk, mood: Arc::clone(mood) })
    });
    let config = NodeConfig {
        cluster: ClusterId::new(5),
        node: NodeId::new(id),
        data_dir: dir.join(id.to_string()),
        groups: vec![GROUP],
        voters: voters.iter().map(member).collect::<BTreeMap<_, _>>(),
        listen: Some(addresses[id as usize - 1]),
        links: PeerLinks::default(),
        options: Options { slow_disk_ticks: 15, ..Options::default() },
        wal: WalOptions::default(),
        disk,
        keys: Keys::none(),
    };
    let journal = Journal::default();
    (Node::open(config, journal.clone()).await.unwrap(), journal)
}

/// Three voters, their logs on disks of these moods.
async fn open_all(
    dir: &Path,
    addresses: &[SocketAddr],
    moods: &[Arc<Mood>],
) -> Vec<(Node<Journal>, Journal)> {
    let mut nodes = Vec::new();
    for (id, mood) in (1..).zip(moods) {
        nodes.push(open(dir, id, addresses, &[1, 2, 3], [mood, &Arc::default()]).await);
    }
    nodes
}

fn addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

async fn leads(node: &Node<Journal>) -> bool {
    node.status(GROUP).await.unwrap().role == Role::Leader
}

async fn leader(nodes: &[(Node<Journal>, Journal)], but: Option<usize>) -> usize {
    let mut found = None;
    until("a leader", async || {
        for (at, (node, _)) in nodes.iter().enumerate().filter(|(at, _)| Some(*at) != but) {
            if leads(node).await {
                found = Some(at);
            }
        }
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn commit(node: &Node<Journal>, payload: &str) {
    until("a commit", async || {
        let proposal = node.propose(GROUP, Bytes::from(payload.to_owned())).unwrap();
        proposal.await.is_ok()
    })
    .await;
}

/// A leader stands in everyone's way with a disk that does not come back: it steps aside, while its
/// sync is still under way, and what it was asked for meanwhile is answered rightly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_disk_steps_aside() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(3);
    let moods: Vec<Arc<Mood>> = (0..3).map(|_| Arc::default()).collect();
    let nodes = open_all(dir.path(), &addresses, &moods).await;
    let old = leader(&nodes, None).await;
    commit(&nodes[old].0, "before").await;

    moods[old].hold(true);
    let _released = Released(Arc::clone(&moods[old]));
    let asked = nodes[old].0.propose(GROUP, Bytes::from_static(b"asked of the slow one")).unwrap();
    let mut asked = pin!(asked);
    let new = leader(&nodes, Some(old)).await;
    until("it has stepped aside", async || !leads(&nodes[old].0).await).await;
    commit(&nodes[new].0, "of the new leader").await;
    // Its own disk has nothing of it yet, so it has told nobody that it is there.
    let mut context = Context::from_waker(Waker::noop());
    assert!(asked.as_mut().poll(&mut context).is_pending());

    moods[old].hold(false);
    let committed = tokio::time::timeout(PATIENCE, asked).await.expect("an answer").unwrap();
    let held = nodes[old].1.records(GROUP);
    assert_eq!(held[committed.offset.get() as usize - 1], "asked of the slow one");
    same_everywhere(&nodes, 3).await;
    let held = nodes[new].1.records(GROUP);
    assert_eq!(held.iter().filter(|record| *record == "asked of the slow one").count(), 1);
    for (node, _) in &nodes {
        node.close().await.unwrap();
    }
}

/// Everything that was committed is at all of them, once and in one order.
async fn same_everywhere(nodes: &[(Node<Journal>, Journal)], count: usize) {
    until("the same everywhere", async || {
        let all: Vec<_> = nodes.iter().map(|(_, journal)| journal.records(GROUP)).collect();
        all[0].len() >= count && all.iter().all(|records| *records == all[0])
    })
    .await;
}

/// G1: a failed sync is final, also if the next one would not fail. The node halts and says why, the others go
/// on, and what it had not synced is not counted. With a disk that works it is one of them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_halts_the_node_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(3);
    let moods: Vec<Arc<Mood>> = (0..3).map(|_| Arc::default()).collect();
    let fine = Arc::default();
    let mut nodes = open_all(dir.path(), &addresses, &moods).await;
    for of_leader in [true, false] {
        let led = leader(&nodes, None).await;
        commit(&nodes[led].0, "before").await;
        let failing = if of_leader { led } else { (led + 1) % 3 };
        moods[failing].fails_once.store(true, Ordering::SeqCst);
        // It may be acknowledged by the two others, and not by this one's disk.
        let asked =
            nodes[led].0.propose(GROUP, Bytes::from_static(b"over the failed sync")).unwrap();
        until("it halts", async || nodes[failing].0.stopped().is_some()).await;
        let stopped = nodes[failing].0.stopped().unwrap();
        let NodeError::Halted { cause } = &stopped else { panic!("{stopped:?}") };
        assert!(matches!(&**cause, NodeError::Wal(_)), "{cause:?}");
        assert!(stopped.to_string().contains("sync"), "it says why: {stopped}");
        let answer = tokio::time::timeout(PATIENCE, asked).await.expect("an answer");
        if of_leader {
            assert!(matches!(answer, Err(NodeError::Indeterminate)), "{answer:?}");
        } else {
            answer.unwrap();
        }
        let refused = nodes[failing].0.propose(GROUP, Bytes::from_static(b"refused"));
        assert!(matches!(refused, Err(NodeError::Halted { .. })), "nothing more is taken");
        let next = leader(&nodes_without(&nodes, failing), None).await;
        commit(&nodes_without(&nodes, failing)[next].0, "of the two others").await;
        assert!(nodes[failing].0.close().await.is_err());

        let moods = [&moods[failing], &fine];
        let id = failing as u64 + 1;
        nodes[failing] = open(dir.path(), id, &addresses, &[1, 2, 3], moods).await;
        let led = leader(&nodes, None).await;
        commit(&nodes[led].0, "with all three").await;
        same_everywhere(&nodes, 3).await;
    }
    for (node, _) in &nodes {
        node.close().await.unwrap();
    }
}

fn nodes_without(nodes: &[(Node<Journal>, Journal)], but: usize) -> Vec<(Node<Journal>, Journal)> {
    let others = nodes.iter().enumerate().filter(|(at, _)| *at != but);
    others.map(|(_, (node, journal))| (node.clone(), journal.clone())).collect()
}

/// G10: bytes of the log rot under a running node. What it gives from there is an error and never another
/// record, and when it is started again it fetches them from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rots_under_a_running_node_is_not_served_and_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(3);
    let fine = Arc::default();
    let mut nodes = open_all(dir.path(), &addresses, &[(); 3].map(|()| Arc::default())).await;
    let led = leader(&nodes, None).await;
    let records: Vec<Bytes> =
        (0..40).map(|number| Bytes::from(format!("record {number:03} ").repeat(40))).collect();
    for record in &records {
        nodes[led].0.propose(GROUP, record.clone()).unwrap().await.unwrap();
    }
    same_everywhere(&nodes, records.len()).await;
    let victim = (led + 1) % 3;
    let rotten = &records[7];
    let folder = dir.path().join((victim + 1).to_string()).join("wal");
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let raw = std::fs::read(&path).unwrap();
        for at in 0..raw.len().saturating_sub(rotten.len()) {
            if raw[at..].starts_with(rotten) {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                let byte = [raw[at + 5] ^ 0x10];
                std::os::unix::fs::FileExt::write_all_at(&file, &byte, at as u64 + 5).unwrap();
                flipped += 1;
            }
        }
    }
    assert!(flipped > 0, "the record is in a file of the log");
    let read = nodes[victim].0.records(GROUP, Offset::new(1), 1 << 20).await;
    let served: Vec<Bytes> =
        read.iter().flatten().flat_map(|run| run.payloads.iter().cloned()).collect();
    assert!(records.starts_with(&served), "something that nobody wrote is served");
    assert!(served.len() <= 7, "what is damaged is not served");
    commit(&nodes[led].0, "beside the damage").await;

    nodes[victim].0.close().await.unwrap();
    let id = victim as u64 + 1;
    nodes[victim] = open(dir.path(), id, &addresses, &[1, 2, 3], [&fine, &fine]).await;
    commit(&nodes[led].0, "after the damage").await;
    same_everywhere(&nodes, records.len() + 2).await;
    until("all of its log is whole", async || {
        let read = nodes[victim].0.records(GROUP, Offset::new(1), 1 << 20).await;
        let runs = read.unwrap_or_default();
        let held: Vec<Bytes> = runs.iter().flat_map(|run| run.payloads.clone()).collect();
        held.starts_with(&records)
    })
    .await;
    for (node, _) in &nodes {
        node.close().await.unwrap();
    }
}

/// A log that nobody writes any more would take in what is never durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_the_log_halts_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(1);
    let (mood, fine) = (Arc::default(), Arc::default());
    let (node, journal) = open(dir.path(), 1, &addresses, &[1], [&mood, &fine]).await;
    commit(&node, "record").await;
    mood.panics_at_sync.store(true, Ordering::SeqCst);
    let proposed = node.propose(GROUP, Bytes::from_static(b"lost")).unwrap();
    assert!(proposed.await.is_err(), "nothing made it durable");
    until("it halts", async || node.stopped().is_some()).await;
    let Some(NodeError::Halted { cause }) = node.stopped() else { panic!("{:?}", node.stopped()) };
    assert!(
        matches!(&*cause, NodeError::Invariant { what } if what.contains("a bug in a disk")),
        "{cause:?}"
    );
    let refused = node.propose(GROUP, Bytes::from_static(b"later")).unwrap_err();
    assert!(refused.to_string().contains("a bug in a disk"), "{refused}");
    assert!(node.load().log_batches <= 1, "it can be looked at");
    assert!(node.close().await.is_err());
    drop(node);
    mood.panics_at_sync.store(false, Ordering::SeqCst);
    let (node, again) = open(dir.path(), 1, &addresses, &[1], [&mood, &fine]).await;
    commit(&node, "after the bug").await;
    assert!(again.records(GROUP).starts_with(&journal.records(GROUP)[..1]));
    node.close().await.unwrap();
}

/// A node whose snapshots nobody looks after any more would promise them and never give any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_snapshots_halts_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(2);
    let (mood, fine) = (Arc::default(), Arc::default());
    let (first, _) = open(dir.path(), 1, &addresses, &[1], [&fine, &mood]).await;
    commit(&first, "record").await;
    mood.panics.store(true, Ordering::SeqCst);
    // It has nothing, so it is helped by a snapshot, and asks for its chunks.
    let (second, _) = open(dir.path(), 2, &addresses, &[], [&fine, &fine]).await;
    let member = Member {
        incarnation: Some(second.incarnation()),
        address: Some(addresses[1]),
        ..Member::default()
    };
    let change = MemberChange::AddLearner { node: NodeId::new(2), member };
    // It may halt before it answers.
    let _ = first.change_members(GROUP, change).await;
    until("it halts", async || first.stopped().is_some()).await;
    let Some(NodeError::Halted { cause }) = first.stopped() else {
        panic!("{:?}", first.stopped())
    };
    assert!(
        matches!(&*cause, NodeError::Invariant { what } if what.contains("a bug in a disk")),
        "{cause:?}"
    );
    assert!(first.close().await.is_err());
    second.close().await.unwrap();
}

/// G10: the log counts on a snapshot that turns out to lack a part. Its group halts, the node goes on, the next start
/// tries again, and a call makes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_part_of_a_snapshot_halts_its_group_alone() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(2);
    let (mood, fine) = (Arc::<Mood>::default(), Arc::<Mood>::default());
    let first = open(dir.path(), 1, &addresses, &[1], [&fine, &fine]).await;
    for record in 0..40 {
        commit(&first.0, &format!("record {record}")).await;
    }
    mood.loses_part.store(true, Ordering::SeqCst);
    let second = open(dir.path(), 2, &addresses, &[], [&fine, &mood]).await;
    let member = Member {
        incarnation: Some(second.0.incarnation()),
        address: Some(addresses[1]),
        ..Member::default()
    };
    let change = MemberChange::AddLearner { node: NodeId::new(2), member };
    first.0.change_members(GROUP, change).await.unwrap();
    until("it halts", async || second.0.halted(GROUP).is_some()).await;
    let halted = second.0.halted(GROUP).unwrap().to_string();
    assert!(halted.contains("missing or damaged"), "{halted}");
    assert!(second.0.stopped().is_none(), "the node has others");
    second.0.close().await.unwrap();
    drop(second);

    let second = open(dir.path(), 2, &addresses, &[], [&fine, &mood]).await;
    until("it halts", async || second.0.halted(GROUP).is_some()).await;
    second.0.rebuild(GROUP).await.unwrap();
    assert!(second.0.halted(GROUP).is_none());
    let nodes = [first, second];
    commit(&nodes[0].0, "after the loss").await;
    same_everywhere(&nodes, 41).await;
    for (node, _) in &nodes {
        node.close().await.unwrap();
    }
}

/// A change that is under way when its node is closed may be made by others, and by the node when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_under_way_at_the_close_is_of_unknown_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(2);
    let (mood, fine) = (Arc::<Mood>::default(), Arc::<Mood>::default());
    let (node, _) = open(dir.path(), 1, &addresses, &[1], [&mood, &fine]).await;
    commit(&node, "before").await;
    mood.hold(true);
    let _released = Released(Arc::clone(&mood));
    let incarnation = Some(Incarnation::new(7));
    let member = Member { incarnation, address: Some(addresses[1]), ..Member::default() };
    let change = MemberChange::AddLearner { node: NodeId::new(2), member };
    let (mut changed, mut closed) = (pin!(node.change_members(GROUP, change)), pin!(node.close()));
    let mut context = Context::from_waker(Waker::noop());
    let last = async || node.status(GROUP).await.unwrap().last_index;
    let before = last().await;
    assert!(changed.as_mut().poll(&mut context).is_pending());
    until("it is proposed", async || before < last().await).await;
    assert!(closed.as_mut().poll(&mut context).is_pending());
    mood.hold(false);
    closed.await.unwrap();
    let told = changed.await.unwrap_err();
    assert!(matches!(told, NodeError::Indeterminate), "{told}");
}
