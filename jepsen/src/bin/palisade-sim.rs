//! `palisade-sim`: runs simulated clusters, seed by seed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use palisade::sim::SimFault;
use palisade_jepsen::sim::campaign::Campaign;
use palisade_jepsen::sim::shrink::shrink;
use palisade_jepsen::sim::{Failure, Report, Shape, parse_spans, run};

/// Whole clusters in one thread, from one seed: everything that can go wrong at once, and every
/// answer checked. Without `--seed`, a campaign over many.
#[derive(Parser)]
struct Args {
    /// First seed of the campaign.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Seeds of the campaign.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Time of the campaign, in place of a number of seeds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Seeds at a time; by default one for each processor.
    #[arg(long)]
    threads: Option<usize>,
    /// Runs this seed, once.
    #[arg(long)]
    seed: Option<u64>,
    /// Only so many rounds of it.
    #[arg(long, requires = "seed")]
    rounds: Option<u64>,
    /// Faults that are left out, as in `Wipe,Pause`.
    #[arg(long, requires = "seed", value_delimiter = ',', value_parser = fault)]
    without: Vec<SimFault>,
    /// Rounds in which nothing happens, as in `0-7,12`.
    #[arg(long, requires = "seed", default_value = "")]
    quiet: String,
    /// Does not tell the run of the seed.
    #[arg(long, requires = "seed")]
    silent: bool,
    /// Looks for a shorter run that fails alike, for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    shrink: u64,
}

fn fault(text: &str) -> Result<SimFault, String> {
    let known = SimFault::ALL.into_iter().find(|fault| format!("{fault:?}") == text);
    known.ok_or_else(|| format!("there are {:?}", SimFault::ALL))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let failed = match args.seed {
        Some(seed) => one(seed, &args),
        None => many(&args),
    };
    match failed {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("palisade-sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs one seed, telling what happens. Says whether it failed.
fn one(seed: u64, args: &Args) -> Result<bool, String> {
    let mut shape = Shape::of_seed(seed);
    shape.rounds = args.rounds.unwrap_or(shape.rounds);
    shape.without = args.without.iter().copied().collect::<BTreeSet<_>>();
    shape.quiet = parse_spans(&args.quiet)?;
    let mut told = shape.clone();
    told.options.tells = !args.silent;
    eprintln!("{shape:#?}");
    match run(&told) {
        Ok(run) => {
            let mut report = Report::default();
            report.add(&run, 0);
            println!("{report}\nseed {seed} passed, trace {:016x}", run.trace);
            Ok(false)
        }
        Err(failure) => {
            fail(&shape, &failure, args.shrink);
            Ok(true)
        }
    }
}

/// Runs a campaign. Says whether a seed failed.
fn many(args: &Args) -> Result<bool, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let campaign = Campaign {
        from: args.from,
        seeds: args.seconds.is_none().then_some(args.seeds),
        time: args.seconds.map(Duration::from_secs),
        threads: args.threads.unwrap_or(cores),
        failures_max: 3,
    };
    let (report, failures) = campaign.run(|seed, result| {
        if let Err(failure) = result {
            eprintln!("seed {seed} failed: {failure}");
        }
    });
    println!("{report}");
    for (shape, failure) in &failures {
        fail(shape, failure, args.shrink);
    }
    let missing = report.missing();
    if failures.is_empty() && report.seeds >= 200 && !missing.is_empty() {
        return Err(format!("in {} seeds, not once: {}", report.seeds, missing.join(", ")));
    }
    println!("simulator: {} failed, from seed {}", failures.len(), args.from);
    Ok(!failures.is_empty())
}

fn fail(shape: &Shape, failure: &Failure, seconds: u64) {
    println!("seed {} failed: {failure}\n  again: {}", shape.seed, shape.command());
    if seconds > 0 {
        let (shorter, failure) = shrink(shape, failure, Duration::from_secs(seconds));
        println!("  shorter: {}\n  {failure}", shorter.command());
    }
}
