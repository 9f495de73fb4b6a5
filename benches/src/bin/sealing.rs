//! What keys cost the log: the same batches appended, written and synced with and without, in turn, and read
//! back. One thread, no quorum: it is the largest share that sealing can have of anything.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use palisade_wal::{
    FileDisk, GroupId, KeyRing, Keys, LogIndex, SystemRandomness, Wal, WalIdentity, WalOptions,
    Write,
};

/// The throughput of a log with keys, as a share of one without.
#[derive(Parser)]
struct Args {
    /// Bytes of an entry; all of 64, 1024 and 65536 if not given.
    #[arg(long)]
    entry_bytes: Option<usize>,
    /// Bytes of entries in a batch, which is synced by itself.
    #[arg(long, default_value_t = 256 << 10)]
    batch_bytes: usize,
    /// Bytes of entries in a run.
    #[arg(long, default_value_t = 64 << 20)]
    run_bytes: usize,
    /// Runs of each; the one in the middle counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where the data goes; a temporary directory if not given. On a file system in memory, what is measured is
    /// the processor's part.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

const GROUP: GroupId = GroupId::new(1);

/// Time to append and sync, and to read back.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn run(dir: &Path, keys: Keys, args: &Args, entry_bytes: usize) -> (Duration, Duration) {
    let _ = std::fs::remove_dir_all(dir);
    let disk = Arc::new(FileDisk::open(dir).expect("a directory"));
    let identity = WalIdentity { cluster: 1, node: 1, incarnation: 1 };
    let options = WalOptions::default();
    let (mut wal, _) = Wal::open_with_keys(disk, identity, options, keys).expect("an empty log");
    let payload = Bytes::from(vec![0x5a; entry_bytes]);
    let per_batch = (args.batch_bytes / entry_bytes).max(1);
    let batches = (args.run_bytes / (per_batch * entry_bytes)).max(1);
    let mut index = 0;
    let began = Instant::now();
    for _ in 0..batches {
        let batch: Vec<Write> = (0..per_batch)
            .map(|_| {
                index += 1;
                let payload = payload.clone();
                Write::Append { group: GROUP, index: LogIndex::new(index), payload }
            })
            .collect();
        while wal.submit(&batch).is_err() {
            wal.maintain().expect("a disk that works");
        }
        wal.write_queued().expect("a disk that works");
        wal.sync().expect("a disk that works");
        wal.maintain().expect("a disk that works");
    }
    let appended = began.elapsed();
    let began = Instant::now();
    let mut next = LogIndex::new(1);
    let end = LogIndex::new(index + 1);
    while next < end {
        let read = wal.reader().read(GROUP, next, end, 1 << 20).expect("what was written");
        next = read.last().expect("it is there").0.next();
    }
    (appended, began.elapsed())
}

fn middle(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> ExitCode {
    let args = Args::parse();
    let made = tempfile::tempdir().expect("a temporary directory");
    let dir = args.dir.clone().unwrap_or_else(|| made.path().to_owned()).join("sealing");
    let mut ring = KeyRing::default();
    ring.rotate(&SystemRandomness).expect("randomness");
    println!("entry_bytes  append clear MB/s  append sealed MB/s  ratio  read ratio");
    for entry_bytes in args.entry_bytes.map_or_else(|| vec![64, 1024, 65536], |one| vec![one]) {
        let (mut clear, mut sealed) = (Vec::new(), Vec::new());
        for _ in 0..args.runs {
            clear.push(run(&dir, Keys::none(), &args, entry_bytes));
            sealed.push(run(&dir, Keys::new(ring.clone()), &args, entry_bytes));
        }
        let of = |runs: &[(Duration, Duration)]| {
            let append = middle(runs.iter().map(|run| run.0.as_secs_f64()).collect());
            let read = middle(runs.iter().map(|run| run.1.as_secs_f64()).collect());
            (append, read)
        };
        let (clear, sealed) = (of(&clear), of(&sealed));
        let rate = |seconds: f64| args.run_bytes as f64 / 1e6 / seconds;
        println!(
            "{entry_bytes:>11}  {:>17.0}  {:>18.0}  {:>5.2}  {:>10.2}",
            rate(clear.0),
            rate(sealed.0),
            clear.0 / sealed.0,
            clear.1 / sealed.1
        );
    }
    let _ = std::fs::remove_dir_all(&dir);
    ExitCode::SUCCESS
}
