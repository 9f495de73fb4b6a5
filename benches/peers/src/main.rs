//! The same load on Palisade and on what a user would pick instead, in alternating runs on one machine, beside
//! the goals of `goals.toml`. See `benches/docs/peers.md`.

mod disk;
mod embedded;
mod failover;
mod goals;
mod keys;
mod load;
mod middle;
mod parties;
mod party;
mod plots;
mod report;
mod rows;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use palisade_benches::ended;

use crate::keys::Keys;

/// Palisade beside etcd, ZooKeeper, JetStream, Redis, PostgreSQL, raft-engine, RocksDB, redb and fjall: the
/// same load, in alternating runs, with the ratios that we want of it. What is not installed is said to be.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(subcommand)]
    process: Option<Process>,
}

#[derive(clap::Args)]
struct Args {
    /// Runs of each; the one in the middle counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Length of one run; a tenth of it before is not counted.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// So many requests in each run instead, all of them counted.
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// How requests are spread over keys: uniform:KEYS or zipf:KEYS.
    #[arg(long, default_value = "uniform:1000")]
    keys: Keys,
    /// Only rows and curves with one of these in what they are about, as the table says it, or in whom they
    /// are against.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The rows, and no curves.
    #[arg(long)]
    no_curves: bool,
    /// Where the data goes; a temporary directory if not given. It should be on a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where results.json and the plots go; not written if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Processes that this program begins.
#[derive(Subcommand)]
#[command(hide = true)]
enum Process {
    /// One of three nodes of ours.
    Node {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        at: usize,
        #[arg(long, value_delimiter = ',')]
        addresses: Vec<SocketAddr>,
    },
    /// Services that answer at once.
    Echo,
    /// An engine in one process.
    Embedded {
        #[arg(long)]
        engine: String,
        #[arg(long)]
        dir: PathBuf,
    },
}

/// As many workers as there are cores: 2 are shared with the servers.
#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    ended(match cli.process {
        None => rows::run(&cli.args).await,
        Some(Process::Node { dir, at, addresses }) => {
            parties::serve_node(&dir, at, &addresses).await
        }
        Some(Process::Echo) => parties::serve_echo().await,
        Some(Process::Embedded { engine, dir }) => embedded::serve(&engine, &dir),
    })
}
