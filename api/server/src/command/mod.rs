//! The `palisade` command: one file for each subcommand, one way to speak, one way to fail.
//!
//! A subcommand parses its arguments with clap, does its work, and gives back what it found as a document
//! and as text, or how it failed. It never prints and never exits: `output` does. `docs/command.md` has the
//! tree, the exit codes, and how to add one.

mod audit;
mod backup;
mod bench;
mod ca;
mod client_args;
mod cluster;
mod completions;
mod config;
mod config_args;
mod confirm;
mod data;
mod demo;
mod doctor;
mod explain;
mod failed;
mod fence;
mod grant;
mod hexdump;
mod keys;
mod logs;
mod node;
mod output;
mod placement;
mod printable;
mod progress;
mod state;
mod table;
mod token;
mod up;
mod wal;
mod when;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failed::{Exit, Failed};
use output::Output;

/// An embedded, replicated storage engine: its nodes, its tools, and the report service built on it.
#[derive(Parser)]
#[command(name = "palisade", version)]
struct Cli {
    /// Write one JSON document to stdout instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Node(node::NodeArgs),
    Up(up::UpArgs),
    Down(up::DownArgs),
    Config(config::ConfigCommand),
    Doctor(doctor::DoctorArgs),
    Cluster(cluster::ClusterCommand),
    Member(cluster::MemberCommand),
    Directory(data::DirectoryCommand),
    Log(data::LogCommand),
    Map(data::MapCommand),
    Idem(data::IdemCommand),
    Backup(backup::BackupCommand),
    Bench(bench::BenchArgs),
    #[command(subcommand)]
    Ca(ca::CaCommand),
    #[command(subcommand)]
    Token(token::TokenCommand),
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    Audit(audit::AuditArgs),
    Wal(wal::WalCommand),
    State(state::StateCommand),
    #[command(subcommand)]
    Fence(fence::FenceCommand),
    Explain(explain::ExplainArgs),
    Completions(completions::CompletionsArgs),
}

/// The command line, for documentation.
#[must_use]
pub fn cli() -> clap::Command {
    Cli::command()
}

/// Parses the arguments of a process, the program's name first, and does what they say.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let asked_for_json = args.iter().any(|arg| arg == "--json");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let output = Output::new(asked_for_json);
            return exit(output.finish(Err(usage(&error))));
        }
        Err(help) => {
            // Nobody may be there to read it.
            let _ = help.print();
            return exit(Exit::Ok);
        }
    };
    let output = Output::new(cli.json);
    let done = match cli.command {
        Command::Demo(args) => args.run(),
        Command::Node(args) => args.run(),
        Command::Up(args) => args.run(),
        Command::Down(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Cluster(args) => args.run(),
        Command::Member(args) => args.run(),
        Command::Directory(args) => args.run(),
        Command::Log(args) => args.run(&output),
        Command::Map(args) => args.run(&output),
        Command::Idem(args) => args.run(),
        Command::Backup(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Ca(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Keys(command) => command.run(),
        Command::Grant(command) => command.run(),
        Command::Audit(args) => args.run(),
        Command::Wal(args) => args.run(),
        Command::State(args) => args.run(),
        Command::Fence(command) => command.run(),
        Command::Explain(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    exit(output.finish(done))
}

fn exit(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

/// What clap says, in the shape of every other error.
fn usage(error: &clap::Error) -> Failed {
    let rendered = error.render().to_string();
    let lines = || rendered.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_advice = |line: &&str| line.starts_with("tip: ") || line.starts_with("Usage: ");
    // Without arguments, clap shows the help.
    let (what, advice): (Vec<&str>, Vec<&str>) = match rendered.starts_with("error: ") {
        true => {
            lines().filter(|line| !line.starts_with("For more")).partition(|line| !is_advice(line))
        }
        false => (vec!["a command is needed"], vec!["`palisade --help` lists them"]),
    };
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    let advice: Vec<&str> =
        advice.iter().map(|line| line.strip_prefix("tip: ").unwrap_or(line)).collect();
    let advice = match advice.is_empty() {
        true => "see `palisade --help`".to_owned(),
        false => advice.join("; "),
    };
    Failed::new("Usage", what, advice)
}

/// The program that runs, to start others of it.
fn own_program() -> Result<PathBuf, Failed> {
    std::env::current_exe().map_err(|error| {
        Failed::new("InputOutput", format!("own path: {error}"), "start it by its path")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    tokio::runtime::Runtime::new().map_err(|error| {
        let help = "raise the limits of processes and open files";
        Failed::new("InputOutput", format!("no threads to run on: {error}"), help)
    })
}
