//! A group that cannot go on at one node: it alone stops, there alone.

mod journal;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::sim::{Completion, SimCluster, SimMachine, SimOptions};
use palisade_replication::{
    AppliedPosition, ApplyError, ClusterId, CommittedEntry, Exporter, GroupId, Keys, Member, Node,
    NodeConfig, NodeError, NodeId, OpenDisk, Options, PeerLinks, Role, StateMachine, WalOptions,
};

const HALTS: GroupId = GroupId::new(1);
const GOES_ON: GroupId = GroupId::new(2);
const POISON: &[u8] = b"poison";

/// Cannot take in one record of one group, as long as it is ill.
struct Patient {
    journal: Journal,
    is_ill: Arc<AtomicBool>,
    /// Tells that it cannot, and does not return before it hears.
    asks: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

impl Patient {
    fn new(is_ill: Arc<AtomicBool>) -> Self {
        Self { journal: Journal::default(), is_ill, asks: None }
    }
}

impl StateMachine for Patient {
    type Outcome = usize;

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.journal.applied(group)
    }

    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<usize>, ApplyError> {
        let mut records = entries.iter().flat_map(|entry| &entry.records);
        let ill = self.is_ill.load(Ordering::Relaxed);
        if ill && group == HALTS && records.any(|record| record.payload == POISON) {
            if let Some((cannot, hears)) = &self.asks {
                cannot.send(()).unwrap();
                // Or the test has ended.
                let _ = hears.recv();
            }
            return Err(ApplyError::of_group("a record that cannot be taken in"));
        }
        self.journal.apply(group, entries)
    }

    fn halted(&self, group: GroupId) -> Option<ApplyError> {
        self.journal.halted(group)
    }

    fn give_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        self.journal.give_up(group)
    }

    fn is_given_up(&self, group: GroupId) -> bool {
        self.journal.is_given_up(group)
    }

    fn flushed(&self, group: GroupId) -> AppliedPosition {
        self.journal.flushed(group)
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.journal.flush()
    }

    fn exporter(&self) -> Exporter {
        self.journal.exporter()
    }

    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        self.journal.install(group, position, chunks)
    }
}

impl SimMachine for Patient {
    fn crash(&mut self) {
        self.journal.crash();
    }

    fn head(&self, group: GroupId) -> [u8; 32] {
        self.journal.head(group)
    }

    fn digest(&self, group: GroupId) -> [u8; 32] {
        self.journal.digest(group)
    }
}

struct Ward {
    cluster: SimCluster<Patient>,
    ill: NodeId,
    is_ill: Arc<AtomicBool>,
}

impl Ward {
    /// Three nodes, two groups, and one of the nodes is ill: the first group's leader, or a follower.
    fn new(seed: u64) -> Self {
        let options = SimOptions { groups: 2, ..SimOptions::calm() };
        let ill = NodeId::new(1 + seed % 3);
        let is_ill = Arc::new(AtomicBool::new(true));
        let of_one = Arc::clone(&is_ill);
        let mut cluster = SimCluster::new(seed, options, move |node| {
            Patient::new(if node == ill { Arc::clone(&of_one) } else { Arc::default() })
        });
        cluster.run_for(5_000_000);
        Self { cluster, ill, is_ill }
    }

    /// The one that is ill has got what it cannot take in, and one of its groups has halted.
    fn poisoned(seed: u64) -> Self {
        let mut ward = Self::new(seed);
        let first = ward.leader(HALTS);
        ward.records(first, HALTS, POISON);
        ward.cluster.run_for(5_000_000);
        assert_eq!(ward.role(HALTS), Role::Halted, "seed={seed}");
        ward
    }

    fn leader(&self, group: GroupId) -> NodeId {
        self.cluster.leader(group).expect("liveness: a leader")
    }

    /// Whether a record given to a node is committed within some seconds.
    fn records(&mut self, node: NodeId, group: GroupId, payload: &'static [u8]) -> bool {
        let asked = self.cluster.propose(node, group, Bytes::from_static(payload));
        self.cluster.run_for(3_000_000);
        let mut committed = false;
        while let Some((op, completion)) = self.cluster.completion() {
            committed |= op == asked && matches!(completion, Completion::Committed(_));
        }
        committed
    }

    fn role(&self, group: GroupId) -> Role {
        self.cluster.status(self.ill, group).expect("it is up").role
    }
}

/// G8, G10: the group stops at one node, whichever role that has in it: it answers nothing, and the others
/// go on without it. The node's other group goes on with it.
#[test]
fn a_group_halts_alone() {
    for seed in 0..12 {
        let mut ward = Ward::poisoned(seed);
        assert!(ward.cluster.halted(ward.ill).is_none(), "seed={seed}: the node goes on");

        let leader = ward.leader(HALTS);
        assert_ne!(leader, ward.ill, "seed={seed}");
        assert!(ward.records(leader, HALTS, b"without it"), "seed={seed}: liveness");
        assert!(!ward.records(ward.ill, HALTS, b"through it"), "seed={seed}: it answers nothing");
        let read = ward.cluster.read(ward.ill, HALTS);
        ward.cluster.run_for(3_000_000);
        while let Some((op, completion)) = ward.cluster.completion() {
            let readable = matches!(completion, Completion::Readable(_));
            assert!(op != read || !readable, "seed={seed}: it serves nothing");
        }
        assert!(ward.records(ward.ill, GOES_ON, b"through it"), "seed={seed}: liveness");
    }
}

/// G1: it neither votes nor confirms. With one more of three gone its group waits, and the other does not.
#[test]
fn a_halted_group_counts_for_nothing() {
    for seed in 0..12 {
        let mut ward = Ward::poisoned(seed);
        let (leader, ill) = (ward.leader(HALTS), ward.ill);
        let third = (1..=3).map(NodeId::new).find(|node| ![leader, ill].contains(node)).unwrap();
        // Whether it would confirm to a leader that there is, or vote for one that there is not.
        let gone = if seed % 2 == 0 { third } else { leader };
        let left = if seed % 2 == 0 { leader } else { third };
        ward.cluster.power_off(gone);
        assert!(!ward.records(left, HALTS, b"by one of three"), "G1: seed={seed}");
        ward.cluster.run_for(10_000_000);
        assert!(ward.cluster.leader(HALTS).is_none(), "I4: seed={seed}: elected by one of three");
        ward.leader(GOES_ON);
        assert!(ward.records(left, GOES_ON, b"by two of three"), "seed={seed}: liveness");
    }
}

/// Once it can take in what it could not, it is started again and goes on with the others.
#[test]
fn a_halted_group_goes_on_when_it_is_well() {
    for seed in 0..6 {
        let mut ward = Ward::poisoned(seed);
        ward.cluster.kill(ward.ill);
        ward.cluster.start(ward.ill);
        ward.cluster.run_for(5_000_000);
        assert_eq!(ward.role(HALTS), Role::Halted, "seed={seed}: it halts again");
        ward.is_ill.store(false, Ordering::Relaxed);
        ward.cluster.kill(ward.ill);
        ward.cluster.start(ward.ill);
        ward.cluster.run_for(10_000_000);
        assert!(ward.records(ward.ill, HALTS, b"through it"), "seed={seed}: liveness");
        ward.cluster.run_for(5_000_000);
        ward.cluster.assert_converged();
        let records = ward.cluster.machine(ward.ill).journal.records(HALTS);
        assert!(records.iter().any(|record| record == POISON), "seed={seed}: nothing is skipped");
    }
}

async fn open(
    data_dir: &Path,
    id: u64,
    voters: BTreeMap<NodeId, Member>,
    listen: Option<SocketAddr>,
    machine: Patient,
) -> Node<Patient> {
    let config = NodeConfig {
        cluster: ClusterId::new(3),
        node: NodeId::new(id),
        data_dir: data_dir.to_owned(),
        groups: vec![HALTS, GOES_ON],
        voters,
        listen,
        links: PeerLinks::default(),
        options: Options::default(),
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    };
    Node::open(config, machine).await.unwrap()
}

/// The same with the threads of production: who waits is told, whoever asks later hears why, and the other
/// group of the node goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_hear_why_a_group_has_halted() {
    let dir = tempfile::tempdir().unwrap();
    let alone = [(NodeId::new(1), Member::default())].into();
    let node =
        open(dir.path(), 1, alone, None, Patient::new(Arc::new(AtomicBool::new(true)))).await;
    let record = |group, payload| node.propose(group, Bytes::from_static(payload));
    for group in [HALTS, GOES_ON] {
        // Alone it leads at once, but not before it has looked at its log.
        while record(group, b"before").unwrap().await.is_err() {}
    }
    let before = node.applied(HALTS).unwrap().offset;
    let waits = node.wait_applied(HALTS, before.next());
    let (waited, unknown) = tokio::join!(waits, record(HALTS, POISON).unwrap());
    assert!(matches!(unknown, Err(NodeError::Indeterminate)), "{unknown:?}");
    let why = |error: NodeError| {
        let told = error.to_string();
        assert!(matches!(error, NodeError::GroupHalted { group: 1, .. }), "{told}");
        assert!(told.contains("a record that cannot be taken in"), "{told}");
    };
    why(waited.unwrap_err());
    why(node.halted(HALTS).expect("it has halted"));
    why(record(HALTS, b"later").expect_err("it takes nothing"));
    why(node.read_barrier(HALTS).await.unwrap_err());
    assert_eq!(node.status(HALTS).await.unwrap().role, Role::Halted);
    assert_eq!(node.applied(HALTS).unwrap().offset, before, "its state is as it was");
    record(GOES_ON, b"later").unwrap().await.unwrap();
    node.read_barrier(GOES_ON).await.unwrap();
    assert!(node.halted(GOES_ON).is_none() && node.stopped().is_none());
    node.close().await.unwrap();
}

/// What is found wrong with a state that is being given up is no news, though it comes late: the group is made anew,
/// and whoever asked for that is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_fails_while_it_is_given_up_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let free: [TcpListener; 3] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let at = free.map(|listener| listener.local_addr().unwrap());
    let member = |id: u64| Member { address: Some(at[id as usize - 1]), ..Member::default() };
    let voters: BTreeMap<_, _> = (1..=3).map(|id| (NodeId::new(id), member(id))).collect();
    let ((cannot, is_asked), (go_on, hears)) = (mpsc::channel(), mpsc::channel());
    let is_ill = Arc::new(AtomicBool::new(true));
    let patient = Patient { asks: Some((cannot, hears)), ..Patient::new(Arc::clone(&is_ill)) };
    let journal = patient.journal.clone();
    let mut nodes = Vec::new();
    for (id, machine) in
        (1..).zip([Patient::new(Arc::default()), Patient::new(Arc::default()), patient])
    {
        let listen = Some(at[id as usize - 1]);
        nodes.push(
            open(&dir.path().join(id.to_string()), id, voters.clone(), listen, machine).await,
        );
    }
    let [first, _, third] = &nodes[..] else { unreachable!("three") };
    // It may know no leader yet, and lose one.
    let commit = async |payload| {
        while first.propose(HALTS, Bytes::from_static(payload)).unwrap().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    commit(POISON).await;
    tokio::task::block_in_place(|| is_asked.recv_timeout(Duration::from_secs(60))).unwrap();
    is_ill.store(false, Ordering::Relaxed);
    third.halt(HALTS, "somebody found it wrong").unwrap();
    while third.halted(HALTS).is_none() {
        tokio::task::yield_now().await;
    }
    let mut anew = pin!(third.rebuild(HALTS));
    assert!(anew.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // It has been heard before this is answered.
    assert_eq!(third.status(HALTS).await.unwrap().role, Role::Halted);
    go_on.send(()).unwrap();
    anew.await.unwrap();
    assert!(third.halted(HALTS).is_none());
    commit(b"after").await;
    while journal.records(HALTS).last().is_none_or(|last| last != "after") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for node in &nodes {
        node.close().await.unwrap();
    }
}
