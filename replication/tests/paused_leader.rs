//! A leader that is stopped (SIGSTOP), replaced, and goes on (SIGCONT): real processes, real sockets.
//!
//! It wakes up as a leader, with requests before it that came while it slept. What the others say to it
//! goes through relays here, and is held up until it has looked at those. No linearizable read may be served from what it held (G5), and what it acknowledges must
//! be in the log that the others went on with (G1, G2).
//!
//! The processes are this test itself, started again: see `serve`.

mod journal;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, GroupId, Keys, Member, Node, NodeConfig, NodeId, OpenDisk, Options, PeerLinks, Role,
    WalOptions,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

const GROUP: GroupId = GroupId::new(1);
const NODES: usize = 3;
const ROUNDS: usize = 4;
/// Connections on which the paused leader is asked without end.
const READERS: usize = 4;
/// Requests that wait for it when it wakes.
const LATE_READS: usize = 48;
const LATE_WRITES: usize = 4;
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a node waits for the outcome of a record before it says that it does not know.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// What a process is to be: its number, where it keeps its log, where it is asked, where it listens, and
/// where it reaches all of them.
const ROLE: &str = "PALISADE_TEST_NODE";

// ---- one node, as a process of its own ----

fn config(
    number: usize,
    data_dir: PathBuf,
    listen: SocketAddr,
    peers: &[SocketAddr],
) -> NodeConfig {
    let member = |address: &SocketAddr| Member { address: Some(*address), ..Member::default() };
    NodeConfig {
        cluster: ClusterId::new(5),
        node: id(number),
        data_dir,
        groups: vec![GROUP],
        voters: peers.iter().enumerate().map(|(at, address)| (id(at), member(address))).collect(),
        listen: Some(listen),
        links: PeerLinks::default(),
        options: Options::default(),
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    }
}

fn id(number: usize) -> NodeId {
    NodeId::new(number as u64 + 1)
}

/// Serves until its standard input ends, which it does with whoever started it.
async fn serve(role: &str) {
    let parts: Vec<&str> = role.split(' ').collect();
    let [number, data_dir, asked_at, listen, peers @ ..] = &parts[..] else {
        panic!("role: {role}")
    };
    let peers: Vec<SocketAddr> = peers.iter().map(|peer| peer.parse().unwrap()).collect();
    let number = number.parse().unwrap();
    let journal = Journal::default();
    let config = config(number, PathBuf::from(data_dir), listen.parse().unwrap(), &peers);
    let node = Node::open(config, journal.clone()).await.unwrap();
    let listener = tokio::net::TcpListener::bind(asked_at).await.unwrap();
    let mut callers = JoinSet::new();
    let (ended, mut end) = tokio::sync::oneshot::channel();
    let wait = move || {
        // Whatever it is, it is the end.
        let _ = io::stdin().read(&mut [0]);
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("stdin".into()).spawn(wait).unwrap();
    loop {
        tokio::select! {
            _ = &mut end => break,
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                callers.spawn(answer(node.clone(), journal.clone(), stream));
            }
        }
    }
    callers.shutdown().await;
    node.close().await.unwrap();
}

/// One line for each line: `w NUMBER` appends it, `r` reads the highest number linearizably, `s` says
/// whether this node leads, `d` dumps what it holds.
async fn answer(node: Node<Journal>, journal: Journal, stream: TcpStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split_once(' ') {
            Some((_, number)) => append(&node, number.parse().unwrap()).await,
            None if line == "r" => match node.read_barrier(GROUP).await {
                Ok(_) => numbers(&journal).into_iter().max().unwrap_or_default().to_string(),
                Err(_) => "no".to_owned(),
            },
            None if line == "s" => match node.status(GROUP).await.map(|status| status.role) {
                Ok(Role::Leader) => "leader".to_owned(),
                _ => "follower".to_owned(),
            },
            None => {
                let numbers = numbers(&journal).into_iter().map(|number| number.to_string());
                numbers.collect::<Vec<_>>().join(" ")
            }
        };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn append(node: &Node<Journal>, number: u64) -> String {
    let payload = Bytes::from(number.to_le_bytes().to_vec());
    let Ok(proposal) = node.propose(GROUP, payload) else { return "no".to_owned() };
    match tokio::time::timeout(REQUEST_PATIENCE, proposal).await {
        Ok(Ok(committed)) => format!("at {}", committed.offset),
        _ => "unknown".to_owned(),
    }
}

fn numbers(journal: &Journal) -> Vec<u64> {
    let records = journal.records(GROUP);
    records.iter().map(|record| u64::from_le_bytes(record[..].try_into().unwrap())).collect()
}

// ---- the test, which starts and stops them ----

/// A process that ends with its owner, stopped or not.
struct Process {
    child: Child,
    asked_at: SocketAddr,
}

impl Process {
    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(done.success(), "{name} to {pid}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Connection {
    read: BufReader<tokio::net::tcp::OwnedReadHalf>,
    write: tokio::net::tcp::OwnedWriteHalf,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let connected = async {
            loop {
                match TcpStream::connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let stream = tokio::time::timeout(PATIENCE, connected).await.expect("the process listens");
        let (read, write) = stream.into_split();
        Self { read: BufReader::new(read), write }
    }

    async fn ask(&mut self, what: &str) -> String {
        self.write.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        let read = self.read.read_line(&mut line);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer").unwrap();
        line.trim_end().to_owned()
    }
}

struct Cluster {
    _dir: tempfile::TempDir,
    processes: Vec<Process>,
    /// For each process, whether it hears what the others say.
    hears: Vec<watch::Sender<bool>>,
    _relays: JoinSet<()>,
}

/// Passes on what the others say to one process, while it may hear it.
async fn relay(from: tokio::net::TcpListener, to: SocketAddr, hears: watch::Receiver<bool>) {
    let mut streams = JoinSet::new();
    loop {
        let (said, _) = from.accept().await.unwrap();
        let mut hears = hears.clone();
        streams.spawn(async move {
            let Ok(heard) = TcpStream::connect(to).await else { return };
            let ((mut says, mut answered), (mut answers, mut hear)) =
                (said.into_split(), heard.into_split());
            let there = async {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let read = says.read(&mut buffer).await?;
                    let may = hears.wait_for(|hears| *hears).await.is_ok();
                    if read == 0 || !may {
                        return io::Result::Ok(());
                    }
                    hear.write_all(&buffer[..read]).await?;
                }
            };
            let back = tokio::io::copy(&mut answers, &mut answered);
            // When either side closes, so does this.
            tokio::select! { _ = there => {}, _ = back => {} }
        });
    }
}

impl Cluster {
    fn start(test: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<TcpListener> =
            (0..3 * NODES).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let [relays, listen, asked] = [0, 1, 2].map(|part| &addresses[part * NODES..][..NODES]);
        let (mut hears, mut running) = (Vec::new(), JoinSet::new());
        // The addresses of the others are free again for the processes.
        for (listener, to) in listeners.into_iter().zip(listen) {
            let (hear, may_hear) = watch::channel(true);
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            running.spawn(relay(listener, *to, may_hear));
            hears.push(hear);
        }
        let peers: Vec<String> = relays.iter().map(SocketAddr::to_string).collect();
        let start = |number: usize| {
            let data_dir = dir.path().join(number.to_string());
            let (asked_at, listen) = (asked[number], listen[number]);
            let data_dir = data_dir.display();
            let role = format!("{number} {data_dir} {asked_at} {listen} {}", peers.join(" "));
            let child = Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(ROLE, role)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            Process { child, asked_at }
        };
        let processes = (0..NODES).map(start).collect();
        Self { _dir: dir, processes, hears, _relays: running }
    }

    async fn connect(&self, at: usize) -> Connection {
        Connection::open(self.processes[at].asked_at).await
    }

    /// Who leads, of those that may be asked.
    async fn leader(&self, of: &[usize]) -> usize {
        let mut connections = BTreeMap::new();
        for at in of {
            connections.insert(*at, self.connect(*at).await);
        }
        let found = async {
            loop {
                for (at, connection) in &mut connections {
                    if connection.ask("s").await == "leader" {
                        return *at;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("a leader")
    }
}

/// What the test knows to be acknowledged: numbers rise, one writer at a time.
#[derive(Default)]
struct Known {
    next: AtomicU64,
    /// The highest number that a writer was told is in the log.
    acked: AtomicU64,
}

impl Known {
    fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Asks one node for linearizable reads without end. Says how many were served.
async fn read_on(mut connection: Connection, known: Arc<Known>, over: Arc<AtomicBool>) -> u64 {
    let mut served = 0;
    while !over.load(Ordering::SeqCst) {
        let floor = known.acked.load(Ordering::SeqCst);
        let answer = connection.ask("r").await;
        if let Ok(value) = answer.parse::<u64>() {
            assert!(floor <= value, "G5: stale, read={value} acknowledged before={floor}");
            served += 1;
        }
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_serves_nothing_stale() {
    if let Ok(role) = std::env::var(ROLE) {
        return serve(&role).await;
    }
    let cluster = Cluster::start("a_leader_that_was_paused_serves_nothing_stale");
    let known = Arc::new(Known::default());
    let mut acked: BTreeMap<u64, u64> = BTreeMap::new();
    let mut note = |number: u64, answer: &str| match answer.strip_prefix("at ") {
        Some(offset) => acked.insert(number, offset.parse().unwrap()).is_none(),
        None => false,
    };
    for round in 0..ROUNDS {
        let all: Vec<usize> = (0..NODES).collect();
        let old = cluster.leader(&all).await;
        let others: Vec<usize> = all.into_iter().filter(|at| *at != old).collect();
        let mut writer = cluster.connect(others[round % 2]).await;
        // Until one is acknowledged: the leader serves reads of it.
        while {
            let number = known.take();
            let acked = note(number, &writer.ask(&format!("w {number}")).await);
            known.acked.fetch_max(if acked { number } else { 0 }, Ordering::SeqCst);
            !acked
        } {}
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let connection = cluster.connect(old).await;
            readers.spawn(read_on(connection, Arc::clone(&known), Arc::clone(&over)));
        }
        // Those that are asked while it sleeps, each on a connection of its own: some of them before it
        // hears of the others, if it is lucky.
        let mut late_reads = Vec::new();
        let mut late_writes = Vec::new();
        for _ in 0..LATE_READS {
            late_reads.push(cluster.connect(old).await);
        }
        for _ in 0..LATE_WRITES {
            late_writes.push(cluster.connect(old).await);
        }
        let mut caught_up = cluster.connect(old).await;

        cluster.hears[old].send(false).unwrap();
        cluster.processes[old].signal("STOP");
        let new = cluster.leader(&others).await;
        assert_ne!(new, old);
        for _ in 0..20 {
            let number = known.take();
            let answer = writer.ask(&format!("w {number}")).await;
            if note(number, &answer) {
                known.acked.fetch_max(number, Ordering::SeqCst);
            }
        }
        let floor = known.acked.load(Ordering::SeqCst);
        let mut sent = Vec::new();
        for read in &mut late_reads {
            read.write.write_all(b"r\n").await.unwrap();
        }
        for write in &mut late_writes {
            let number = known.take();
            write.write.write_all(format!("w {number}\n").as_bytes()).await.unwrap();
            sent.push(number);
        }
        cluster.processes[old].signal("CONT");
        // By the time it has answered these, it has looked at what came before.
        for _ in 0..20 {
            caught_up.ask("s").await;
        }
        cluster.hears[old].send(true).unwrap();

        let answer = async |connection: &mut Connection| {
            let mut line = String::new();
            let read = connection.read.read_line(&mut line);
            tokio::time::timeout(PATIENCE, read).await.expect("an answer").unwrap();
            line.trim_end().to_owned()
        };
        for read in &mut late_reads {
            if let Ok(value) = answer(read).await.parse::<u64>() {
                assert!(floor <= value, "G5: stale, read={value} acknowledged before={floor}");
            }
        }
        for (write, number) in late_writes.iter_mut().zip(sent) {
            note(number, &answer(write).await);
        }
        // It follows now: it serves what was written meanwhile.
        while caught_up.ask("r").await.parse::<u64>().map_or(true, |value| value < floor) {}
        over.store(true, Ordering::SeqCst);
        let mut all_served = 0;
        while let Some(served) = readers.join_next().await {
            all_served += served.unwrap();
        }
        assert!(all_served > 0, "nothing was read, and so nothing was tried");
    }
    // What anyone was told is so, at every node, once and at its offset.
    let mut connections = Vec::new();
    for at in 0..NODES {
        let mut connection = cluster.connect(at).await;
        // A read first: the node has everything then that was acknowledged.
        while connection.ask("r").await == "no" {}
        connections.push(connection);
    }
    for connection in &mut connections {
        let held = connection.ask("d").await;
        let held: Vec<u64> = held.split(' ').map(|number| number.parse().unwrap()).collect();
        for (number, offset) in &acked {
            assert_eq!(held[*offset as usize - 1], *number, "G1: offset={offset}");
            assert_eq!(held.iter().filter(|held| *held == number).count(), 1, "G6: {number}");
        }
    }
    assert!(acked.len() > ROUNDS * 10, "{}", acked.len());
}
