//! What many idle groups cost: three nodes in one process, each hosting all of them, and the share
//! of one core that a node takes while a record is proposed now and then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use palisade_benches::{cpu_seconds, ended};
use palisade_replication::{
    AppliedPosition, ApplyError, ClusterId, CommittedEntry, Export, Exporter, GroupId, Keys,
    Member, Node, NodeConfig, NodeId, OpenDisk, Options, PeerLinks, Role, StateMachine, TakeChunk,
    WalOptions,
};
use tokio::task::JoinSet;

/// The share of one core that a node with many mostly idle groups takes.
#[derive(Parser)]
struct Args {
    /// Groups, all on all three nodes.
    #[arg(long, default_value_t = 1000)]
    groups: u64,
    /// The groups that get records, each in turn; 0: all of them.
    #[arg(long, default_value_t = 0)]
    busy: u64,
    /// Records a second, over all groups.
    #[arg(long, default_value_t = 10)]
    records: u64,
    /// Length of one run, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Runs; the one in the middle counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Most that the median may be, in percent of one core: with more, this fails.
    #[arg(long)]
    share_max: Option<f64>,
    /// Where the data goes; a temporary directory if not given.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

/// Counts records.
#[derive(Default)]
struct Count {
    groups: BTreeMap<GroupId, AppliedPosition>,
}

impl StateMachine for Count {
    type Outcome = ();

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.groups.get(&group).copied().unwrap_or(AppliedPosition::ZERO)
    }

    fn apply(&mut self, group: GroupId, entries: &[CommittedEntry]) -> Result<Vec<()>, ApplyError> {
        let mut outcomes = Vec::new();
        for entry in entries {
            outcomes.resize(outcomes.len() + entry.records.len(), ());
            self.groups.insert(group, entry.end());
        }
        Ok(outcomes)
    }

    fn flushed(&self, _group: GroupId) -> AppliedPosition {
        AppliedPosition::ZERO
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    fn exporter(&self) -> Exporter {
        Arc::new(|_| Box::new(Nothing))
    }

    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        for chunk in chunks {
            chunk?;
        }
        self.groups.insert(group, position);
        Ok(())
    }
}

struct Nothing;

impl Export for Nothing {
    fn run(&mut self, _take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
        // Nothing is ever flushed, so nothing is trimmed, and nobody needs a snapshot.
        Err(ApplyError::of_node("a count is not exported"))
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    ended(run(Args::parse()).await)
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn run(args: Args) -> Result<(), String> {
    let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let groups: Vec<GroupId> = (1..=args.groups).map(GroupId::new).collect();
    let nodes = open(&dir, &groups).await?;
    let started = Instant::now();
    settle(&nodes, &groups).await?;
    println!("{} groups have leaders after {:?}", groups.len(), started.elapsed());

    let busy = if args.busy == 0 { args.groups } else { args.busy.min(args.groups) };
    let mut shares = Vec::new();
    for _ in 0..args.runs.max(1) {
        let (share, count) = run_once(&nodes, &groups[..busy as usize], &args).await?;
        println!("{count} records in {} s; a node takes {share:.1} % of one core", args.seconds);
        shares.push(share);
    }
    shares.sort_by(f64::total_cmp);
    let median = shares[shares.len() / 2];
    println!("median: {median:.1} % of one core");
    for node in &nodes {
        node.close().await.map_err(|error| error.to_string())?;
    }
    match args.share_max {
        Some(max) if max < median => Err(format!(
            "a node takes {median:.1} % of one core, and at most {max} % was asked for"
        )),
        _ => Ok(()),
    }
}

/// The share of one core that a node takes, in percent, and how many records it took in.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn run_once(
    nodes: &[Node<Count>],
    busy: &[GroupId],
    args: &Args,
) -> Result<(f64, usize), String> {
    let (cpu, clock) = (cpu_seconds()?, Instant::now());
    let mut interval = tokio::time::interval(Duration::from_secs(1) / args.records.max(1) as u32);
    let mut records = JoinSet::new();
    let mut count = 0;
    while clock.elapsed() < Duration::from_secs(args.seconds) {
        interval.tick().await;
        let (group, node) = (busy[count % busy.len()], &nodes[count % nodes.len()]);
        let proposal = node.propose(group, Bytes::from_static(b"now and then"));
        records.spawn(proposal.map_err(|error| error.to_string())?);
        count += 1;
        while let Some(done) = records.try_join_next() {
            done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
    }
    let share = (cpu_seconds()? - cpu) / clock.elapsed().as_secs_f64() / nodes.len() as f64;
    Ok((share * 100.0, count))
}

async fn open(dir: &Path, groups: &[GroupId]) -> Result<Vec<Node<Count>>, String> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for _ in 0..3 {
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        addresses.push(listener.local_addr().map_err(|error| error.to_string())?);
    }
    let voter = |(at, address): (usize, &SocketAddr)| {
        let member = Member { address: Some(*address), ..Member::default() };
        (NodeId::new(at as u64 + 1), member)
    };
    let voters: BTreeMap<NodeId, Member> = addresses.iter().enumerate().map(voter).collect();
    let mut nodes = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let config = NodeConfig {
            cluster: ClusterId::new(5),
            node: NodeId::new(at as u64 + 1),
            data_dir: dir.join(format!("idle-{at}")),
            groups: groups.to_vec(),
            voters: voters.clone(),
            listen: Some(*address),
            links: PeerLinks::default(),
            options: Options::default(),
            wal: WalOptions::default(),
            disk: OpenDisk::default(),
            keys: Keys::none(),
        };
        nodes.push(Node::open(config, Count::default()).await.map_err(|error| error.to_string())?);
    }
    Ok(nodes)
}

/// Waits until every group has a leader.
async fn settle(nodes: &[Node<Count>], groups: &[GroupId]) -> Result<(), String> {
    for group in groups {
        let mut tries = 0;
        'led: loop {
            for node in nodes {
                let status = node.status(*group).await.map_err(|error| error.to_string())?;
                if status.role == Role::Leader {
                    break 'led;
                }
            }
            tries += 1;
            if tries > 3000 {
                return Err(format!("group={group} has no leader after a minute"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
