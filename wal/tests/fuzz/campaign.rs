//! Runs fuzz targets on stable Rust: the committed corpus, then mutations of it that a number decides,
//! so that every run tries the same ones. libFuzzer finds more, since it sees which branches an input
//! takes; this finds what a change breaks, in every `cargo test`.
//!
//! | variable | what |
//! | --- | --- |
//! | `PALISADE_FUZZ_COUNT` | mutations for each target |
//! | `PALISADE_FUZZ_SECONDS` | instead: as many as fit |
//! | `PALISADE_FUZZ_TARGET` | that target alone |
//! | `PALISADE_CORPUS=write` | writes the targets' seeds into the corpus, and runs nothing |

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use palisade_wal::fuzz::Target;

const COUNT: u64 = 20_000;
const INPUT_BYTES_MAX: usize = 64 << 10;
/// What the process under test may map. A length that is believed unchecked passes it.
const MAPPED_KIB_MAX: u64 = 768 << 10;
/// Where the process under test leaves the input it is about to run, when asked to.
const TRACE: &str = "PALISADE_FUZZ_TRACE";
const LAST_INPUT: &str = concat!(env!("CARGO_PKG_NAME"), "-last-input");
const IS_CHILD: &str = "PALISADE_FUZZ_CHILD";
const EXTREMES: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffe0,
    0xffff_ffff,
    u64::MAX / 2,
    u64::MAX - 1,
    u64::MAX,
];

/// Runs all targets in a process of their own with bounded memory. `test` is the caller's name,
/// `fuzz_dir` the folder of the corpus.
pub(crate) fn run(targets: &[Target], test: &str, fuzz_dir: &Path) {
    if std::env::var("PALISADE_CORPUS").is_ok_and(|value| value == "write") {
        return targets.iter().for_each(|target| write_seeds(target, fuzz_dir));
    }
    if std::env::var_os(IS_CHILD).is_some() {
        return campaign(targets, fuzz_dir);
    }
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join(LAST_INPUT);
    if spawn(test, None) {
        return;
    }
    // A process that was aborted cannot say what it was doing. The same inputs fail again.
    let failed_again = !spawn(test, Some(&trace));
    panic!(
        "a target failed; {}. Copy the input to fuzz/corpus/<target>/ and fix the code.",
        if failed_again {
            format!("its input is the one named above, or, if it was aborted, {}", trace.display())
        } else {
            "it did not fail a second time".to_owned()
        }
    );
}

/// Runs this test again, in a process of its own. Returns whether it succeeded.
fn spawn(test: &str, trace: Option<&Path>) -> bool {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -v {MAPPED_KIB_MAX}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().expect("a test knows its own file"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(IS_CHILD, "1")
        .env("MALLOC_ARENA_MAX", "2");
    if let Some(trace) = trace {
        command.env(TRACE, trace);
    }
    command.status().expect("a shell is there").success()
}

fn write_seeds(target: &Target, fuzz_dir: &Path) {
    let dir = corpus_dir(target, fuzz_dir);
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in (target.seeds)() {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

fn corpus_dir(target: &Target, fuzz_dir: &Path) -> PathBuf {
    fuzz_dir.join("corpus").join(target.name)
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[expect(clippy::disallowed_methods, reason = "a long run ends after a time, not a count")]
fn campaign(targets: &[Target], fuzz_dir: &Path) {
    let chosen = std::env::var("PALISADE_FUZZ_TARGET").ok();
    let seconds = number("PALISADE_FUZZ_SECONDS").map(Duration::from_secs);
    let count = number("PALISADE_FUZZ_COUNT").unwrap_or(COUNT);
    for target in targets {
        if chosen.as_ref().is_some_and(|chosen| chosen != target.name) {
            continue;
        }
        let begun = Instant::now();
        let corpus = corpus(target, fuzz_dir);
        // A format that is written and read in another way would otherwise pass for what it was.
        for (name, bytes) in (target.seeds)() {
            let kept = corpus.iter().find(|(kept, _)| *kept == name);
            assert!(
                kept.is_some_and(|(_, kept)| *kept == bytes),
                "{}/{name} is written in another way than it was. If that is meant, the format has a new \
                 version: keep a good-* of the former one under another name, it must still be read; then \
                 PALISADE_CORPUS=write writes the seeds again",
                target.name
            );
        }
        for (name, bytes) in &corpus {
            let is_good = try_one(target, bytes, name);
            assert_eq!(
                is_good,
                name.starts_with("good-"),
                "{}/{name}: good-* are well-formed and nothing else is. If the format changed, write \
                 the seeds again with PALISADE_CORPUS=write",
                target.name
            );
        }
        let mut tried = 0;
        while seconds.map_or(tried < count, |limit| begun.elapsed() < limit) {
            let bytes = mutation(target, &corpus, tried);
            try_one(target, &bytes, &format!("mutation-{tried}"));
            tried += 1;
        }
        println!("{}: {tried} mutations in {:.1?}", target.name, begun.elapsed());
    }
}

fn corpus(target: &Target, fuzz_dir: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = corpus_dir(target, fuzz_dir);
    let mut corpus: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    corpus.sort();
    assert!(!corpus.is_empty(), "{} is empty", dir.display());
    corpus
}

fn try_one(target: &Target, bytes: &[u8], name: &str) -> bool {
    if let Some(trace) = std::env::var_os(TRACE) {
        fs::write(trace, bytes).unwrap();
    }
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).unwrap_or_else(|_| {
        let file = format!("{}-{}-{name}", env!("CARGO_PKG_NAME"), target.name);
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        fs::File::create(&file).and_then(|mut file| file.write_all(bytes)).unwrap();
        panic!("{} failed on {name}: {}", target.name, file.display());
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One of the corpus, changed in a few places.
fn mutation(target: &Target, corpus: &[(String, Vec<u8>)], number: u64) -> Vec<u8> {
    let name = u64::from(crc32fast::hash(target.name.as_bytes()));
    let mut random = Random(name << 32 | number);
    let mut bytes = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let length = random.below(64);
        match random.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..bytes.len().min(at + length))),
            4 => {
                let with: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, with);
            }
            5 => {
                let again = bytes[at..bytes.len().min(at + length * 8)].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len() + 1);
                let end = other.len().min(from + length * 8);
                bytes.splice(at..bytes.len().min(at + length), other[from..end].iter().copied());
            }
            _ => {
                let value = EXTREMES[random.below(EXTREMES.len())].to_le_bytes();
                let width = 1 << random.below(4);
                let end = bytes.len().min(at + width);
                let width = end - at;
                bytes[at..end].copy_from_slice(&value[..width]);
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}
