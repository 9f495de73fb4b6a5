//! A node that begins with a restored state, and committed records that are read back: real nodes, real
//! files.

mod journal;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, Committed, CommittedEntry, Founding, GroupId, Incarnation, Keys, LogIndex, LogTime,
    Member, MemberChange, Node, NodeConfig, NodeError, NodeId, Offset, OpenDisk, Options,
    PeerLinks, ProposalId, RebuildRefusal, Record, Role, StateMachine, Term, WalOptions,
};

const GROUP: GroupId = GroupId::new(1);
const RESTORED: u64 = 41;
/// Far in the future of any clock: log time does not fall behind it all the same.
const LOG_TIME: LogTime = LogTime::new(9_000_000_000_000);
/// Far more than are not flushed yet.
const KEPT: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(60);

fn address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn config(dir: &Path, id: u64, listen: SocketAddr, voters: &[u64]) -> NodeConfig {
    let member = |id: &u64| (NodeId::new(*id), Member::default());
    NodeConfig {
        cluster: ClusterId::new(6),
        node: NodeId::new(id),
        data_dir: dir.join(id.to_string()),
        groups: vec![GROUP],
        voters: voters.iter().map(member).collect(),
        listen: Some(listen),
        links: PeerLinks::default(),
        options: Options::default(),
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    }
}

/// A state of `RESTORED` records, as a restore would make it.
fn restored() -> Journal {
    let record = |seq: u64| Record {
        id: ProposalId { session: 1, seq },
        payload: Bytes::from(format!("old {seq}")),
    };
    let mut journal = Journal::default();
    let entry = CommittedEntry {
        index: LogIndex::new(2),
        term: Term::new(1),
        log_time: LOG_TIME,
        first_offset: Offset::new(1),
        records: (1..=RESTORED).map(record).collect(),
        members_index: LogIndex::new(2),
    };
    journal.apply(GROUP, &[entry]).unwrap();
    assert_eq!(journal.applied(GROUP), Founding::position(Offset::new(RESTORED), LOG_TIME));
    journal
}

fn founding(dir: &Path, listen: SocketAddr) -> Founding {
    Founding {
        data_dir: dir.join("1"),
        disk: OpenDisk::default(),
        keys: Keys::none(),
        wal: WalOptions::default(),
        cluster: ClusterId::new(6),
        node: NodeId::new(1),
        member: Member { address: Some(listen), ..Member::default() },
        groups: BTreeMap::from([(GROUP, (Offset::new(RESTORED), LOG_TIME))]),
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

async fn commit(node: &Node<Journal>, payload: &str) -> Committed<usize> {
    let mut committed = None;
    until("a commit", async || {
        let proposal = node.propose(GROUP, Bytes::from(payload.to_owned())).unwrap();
        committed = proposal.await.ok();
        committed.is_some()
    })
    .await;
    committed.unwrap()
}

/// G2: the first record gets the offset behind the state, log time does not fall, a restart changes
/// nothing, and another node joins with all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_state_goes_on_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = [address(), address()];
    let journal = restored();
    founding(dir.path(), one).found().unwrap();
    let node = Node::open(config(dir.path(), 1, one, &[]), journal.clone()).await.unwrap();
    let first = commit(&node, "new").await;
    assert_eq!(first.offset, Offset::new(RESTORED + 1));
    assert!(LOG_TIME <= first.log_time, "log time falls to {}", first.log_time);
    node.close().await.unwrap();
    drop(node);

    // Somewhere else: the runtime may not have let go of the first address yet.
    let node = Node::open(config(dir.path(), 1, address(), &[]), journal.clone()).await.unwrap();
    assert_eq!(commit(&node, "newer").await.offset, Offset::new(RESTORED + 2));
    let other = Journal::default();
    let second = Node::open(config(dir.path(), 2, two, &[]), other.clone()).await.unwrap();
    let member =
        Member { incarnation: Some(second.incarnation()), address: Some(two), ..Member::default() };
    let change = MemberChange::AddLearner { node: NodeId::new(2), member };
    node.change_members(GROUP, change).await.unwrap();
    until("the same there", async || other.records(GROUP) == journal.records(GROUP)).await;
    assert_eq!(other.records(GROUP).len() as u64, RESTORED + 2);
    for node in [node, second] {
        node.close().await.unwrap();
    }
}

/// G10: neither a log without the state that it begins behind, nor the state without such a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_what_was_restored_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listen = address();
    founding(dir.path(), listen).found().unwrap();
    let error = founding(dir.path(), listen).found().unwrap_err();
    assert!(matches!(error, NodeError::InvalidArgument { .. }), "{error}");

    let opened = Node::open(config(dir.path(), 1, listen, &[]), Journal::default()).await;
    let node = opened.expect("that the state is missing is found by who holds it");
    until("it halts", async || node.halted(GROUP).is_some()).await;
    let halted = node.halted(GROUP).unwrap().to_string();
    assert!(halted.contains("no snapshot is there that makes up for it"), "{halted}");
    let refused = node.rebuild(GROUP).await.unwrap_err();
    assert!(matches!(refused, NodeError::Rebuild(RebuildRefusal::OnlyVoter)), "{refused}");
    node.close().await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let opened = Node::open(config(other.path(), 1, address(), &[1]), restored()).await;
    let error = opened.err().expect("a state that no log leads to");
    assert!(matches!(error, NodeError::Damaged { .. }), "{error}");
}

/// G10: what is beyond repair is one group's log, and the node has others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_beyond_repair_halts_its_group_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = GroupId::new(2);
    let mut config = config(dir.path(), 1, address(), &[1]);
    config.groups = vec![other];
    let node = Node::open(config.clone(), Journal::default()).await.unwrap();
    node.propose(other, Bytes::from_static(b"begins")).unwrap().await.unwrap();
    node.close().await.unwrap();
    config.groups.push(GROUP);
    let journal = restored();
    for round in 2..=3 {
        let node = Node::open(config.clone(), journal.clone()).await.unwrap();
        let committed = node.propose(other, Bytes::from_static(b"goes on")).unwrap().await.unwrap();
        assert_eq!(committed.offset, Offset::new(round));
        let Some(NodeError::GroupHalted { group: 1, cause }) = node.halted(GROUP) else {
            panic!("a state that no log leads to is served");
        };
        assert!(matches!(*cause, NodeError::Damaged { .. }), "{cause}");
        let refused = node.propose(GROUP, Bytes::from_static(b"more")).unwrap_err();
        assert!(matches!(refused, NodeError::GroupHalted { .. }), "{refused}");
        assert_eq!(node.status(GROUP).await.unwrap().role, Role::Halted);
        let refused = node.rebuild(GROUP).await.unwrap_err();
        assert!(matches!(refused, NodeError::Rebuild(RebuildRefusal::LogLost)), "{refused}");
        node.close().await.unwrap();
    }
}

/// What is read back is what was applied, from each offset on and in pieces of any size; what is trimmed
/// is told by where the rest begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_records_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let listen = address();
    let journal = Journal::default();
    let mut config = config(dir.path(), 1, listen, &[1]);
    config.options.trim_entries_min = 4;
    config.options.flush_bytes_target = 200;
    config.options.kept_entries = KEPT;
    let node = Node::open(config, journal.clone()).await.unwrap();
    let member = Member { incarnation: Some(Incarnation::new(9)), ..Member::default() };
    for round in 0..60_u64 {
        let proposals: Vec<_> = (0..round % 5 + 1)
            .map(|at| node.propose(GROUP, Bytes::from(format!("{round} {at}"))).unwrap())
            .collect();
        for proposal in proposals {
            proposal.await.unwrap();
        }
        if round % 20 == 7 {
            // Entries without records in between.
            let learner = NodeId::new(2 + round);
            let add = MemberChange::AddLearner { node: learner, member: member.clone() };
            for change in [add, MemberChange::Remove { node: learner }] {
                // The one before may still be on its way to the state.
                until("a change", async || {
                    node.change_members(GROUP, change.clone()).await.is_ok()
                })
                .await;
            }
        }
        let held = journal.records(GROUP);
        let end = Offset::new(held.len() as u64);
        assert_eq!(node.records(GROUP, end.next(), 1).await.unwrap(), []);
        let first = match node.records(GROUP, Offset::new(1), 1).await {
            Err(NodeError::RecordsTrimmed { first }) => first,
            read => read.unwrap()[0].first_offset,
        };
        for from in first.get()..=end.get() {
            let mut next = from;
            // It may be trimmed again meanwhile, and no later than that.
            while next <= end.get() {
                let runs = match node.records(GROUP, Offset::new(next), (from % 40) as usize).await
                {
                    Err(NodeError::RecordsTrimmed { first }) => {
                        assert!(next < first.get());
                        break;
                    }
                    runs => runs.unwrap(),
                };
                assert!(!runs.is_empty());
                for run in runs {
                    assert_eq!(run.first_offset.get(), next);
                    for payload in run.payloads {
                        assert_eq!(held[next as usize - 1], payload, "offset={next}");
                        next += 1;
                    }
                }
            }
        }
    }
    let trimmed = node.records(GROUP, Offset::new(1), 1).await;
    let Err(NodeError::RecordsTrimmed { first }) = trimmed else { panic!("{trimmed:?}") };
    let kept = node.records(GROUP, first, usize::MAX).await.unwrap().len() as u64;
    // Four have no records.
    assert!((KEPT - 4..2 * KEPT).contains(&kept), "{kept} are kept");
    let zero = node.records(GROUP, Offset::ZERO, 1).await;
    assert!(matches!(zero, Err(NodeError::InvalidArgument { .. })), "{zero:?}");
    node.close().await.unwrap();
    assert!(node.records(GROUP, Offset::new(1), 1).await.is_err());
}

/// A node that was closed can be opened again at once, however busy the runtime is that carries its connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_closed_node_leaves_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let at = address();
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..32 {
        busy.spawn(async {
            loop {
                (0..100_000).for_each(|_| std::hint::spin_loop());
                tokio::task::yield_now().await;
            }
        });
    }
    for _ in 0..5 {
        let config = config(dir.path(), 1, at, &[1]);
        let node = Node::open(config, Journal::default()).await.unwrap();
        node.close().await.unwrap();
        TcpListener::bind(at).unwrap();
    }
}
