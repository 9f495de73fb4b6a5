//! The `palisade` command.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use palisade::{ClusterId, FailureDomain, NodeId};
use palisade_server::command::ca;
use palisade_server::demo::{DemoSettings, run_demo};
use palisade_server::node::{NodeSettings, run};
use palisade_server::reports::profile_by_name;

/// An embedded, replicated storage engine, and the durable report service built on it.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start three nodes, load 20,000 flights, kill leaders, and check that nothing was lost.
    Demo(DemoArgs),
    /// Run one node of the report service.
    Node(NodeArgs),
    /// Make certificates: the authorities of a cluster, and leaves for nodes and callers.
    #[command(subcommand)]
    Ca(ca::CaCommand),
}

#[derive(Args)]
struct DemoArgs {
    /// Leave the cluster up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Where the nodes keep their data; a temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Load only the first so many flights.
    #[arg(long)]
    limit: Option<usize>,
    /// Where the service may run: single-az, multi-az, cross-region or cross-provider.
    #[arg(long, default_value = "cross-provider")]
    profile: String,
}

#[derive(Args)]
struct NodeArgs {
    /// This node's number, from 1.
    #[arg(long)]
    id: u64,
    /// The cluster's number.
    #[arg(long, default_value_t = 1)]
    cluster: u128,
    /// Where it keeps its data.
    #[arg(long)]
    data: PathBuf,
    /// Where the other nodes reach it.
    #[arg(long)]
    peer_listen: SocketAddr,
    /// Where callers reach it. Loopback only: callers are not asked who they are yet.
    #[arg(long)]
    http_listen: SocketAddr,
    /// A voter and where the others reach it, as NUMBER=ADDRESS; once for each, this one included.
    #[arg(long = "voter", value_parser = parse_voter, required = true)]
    voters: Vec<(u64, SocketAddr)>,
    /// Where it is, as provider/region/zone.
    #[arg(long, value_parser = parse_domain)]
    domain: FailureDomain,
    /// Where the service may run: single-az, multi-az, cross-region or cross-provider.
    #[arg(long, default_value = "cross-provider")]
    profile: String,
}

fn parse_voter(text: &str) -> Result<(u64, SocketAddr), String> {
    let (id, address) = text.split_once('=').ok_or("write NUMBER=ADDRESS")?;
    let id = id.parse().map_err(|error| format!("number: {error}"))?;
    Ok((id, address.parse().map_err(|error| format!("address: {error}"))?))
}

fn parse_domain(text: &str) -> Result<FailureDomain, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [provider, region, zone] => Ok(FailureDomain::new(provider, region, zone)),
        _ => Err("write provider/region/zone".to_owned()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PALISADE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo(args).await,
            Command::Node(args) => node(args).await,
            Command::Ca(command) => {
                ca::run(command).map(|done| println!("{done}")).map_err(|error| error.to_string())
            }
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: DemoArgs) -> Result<(), String> {
    let profile = profile_by_name(&args.profile).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let DemoArgs { keep, dir, limit, .. } = args;
    let settings = DemoSettings { program, keep, dir, limit, profile };
    tokio::select! {
        done = run_demo(settings) => done.map(|_| ()),
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    }
}

async fn node(args: NodeArgs) -> Result<(), String> {
    if !args.http_listen.ip().is_loopback() {
        return Err(
            "--http-listen serves loopback only: callers are not asked who they are yet".to_owned()
        );
    }
    let settings = NodeSettings {
        id: NodeId::new(args.id),
        cluster: ClusterId::new(args.cluster),
        data: args.data,
        peer_listen: args.peer_listen,
        http_listen: args.http_listen,
        voters: args.voters.into_iter().map(|(id, at)| (NodeId::new(id), at)).collect(),
        domain: args.domain,
        profile: profile_by_name(&args.profile).map_err(|error| error.to_string())?,
    };
    run(settings, stop_signal()).await.map_err(|error| error.to_string())
}

/// Resolves when the process is asked to end.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM will not be heard");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
