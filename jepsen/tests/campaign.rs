//! Seeds that must be run every time; `make test` runs 300 others with them.

use palisade_jepsen::sim::{Failure, Shape, run};

fn passes(seed: u64) {
    if let Err(failure) = run(&Shape::of_seed(seed)) {
        panic!("seed {seed} failed, make sim SEED={seed} runs it again: {failure}");
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    let seeds = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    for line in seeds {
        let (seed, _) = line.split_once(' ').expect("a seed and what it found");
        passes(seed.parse().expect("a seed is a number"));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1_000_000..1_000_003 {
        let shape = Shape::of_seed(seed);
        let runs = [run(&shape), run(&shape)].map(|run| run.map_err(|failure| failure.to_string()));
        assert_eq!(runs[0], runs[1], "seed={seed}");
    }
}

/// A run is found to fail, with its round and what was found, and others go on beside it.
#[test]
fn a_failure_names_its_round() {
    let mut shape = Shape::of_seed(7);
    shape.rounds = 3;
    // Nothing can be written to such a log: no resource is ever opened.
    shape.options.wal.segment_bytes = 40 << 10;
    shape.options.sync_us_max = 1 << 40;
    let failure: Failure = run(&shape).expect_err("nothing is ever synced");
    assert_eq!((failure.round, failure.kind()), (0, "liveness"), "{failure}");
}
