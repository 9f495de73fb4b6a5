//! A shorter run that fails alike: what is left of it is what matters.
//!
//! Rounds behind the failure go first; then kinds of faults, one after the other; then rounds, in
//! halves, quarters and so on down to single ones (delta debugging, Zeller 1999). What a round draws
//! does not depend on the others, so what remains stays as it was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Failure, Shape, run};

/// Looks for a shorter run, for at most so long. Returns the shortest and how it fails.
pub fn shrink(shape: &Shape, failure: &Failure, time: Duration) -> (Shape, Failure) {
    let end = Instant::now() + time;
    let kind = failure.kind().to_owned();
    let mut best = (shape.clone(), failure.clone());
    let attempt = |best: &mut (Shape, Failure), shape: Shape| {
        if Instant::now() >= end {
            return false;
        }
        match run(&shape) {
            Err(failure) if failure.kind() == kind => {
                *best = (shape, failure);
                true
            }
            _ => false,
        }
    };
    let rounds = shape.rounds.min(failure.round + 1);
    attempt(&mut best, Shape { rounds, ..shape.clone() });
    for fault in shape.nemesis.faults() {
        let mut without = best.0.without.clone();
        without.insert(fault);
        let shorter = Shape { without, ..best.0.clone() };
        attempt(&mut best, shorter);
    }
    let mut length = best.0.rounds.div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < best.0.rounds && Instant::now() < end {
            let left_out: BTreeSet<u64> = (from..(from + length).min(best.0.rounds)).collect();
            if !left_out.is_subset(&best.0.quiet) {
                let quiet = &best.0.quiet | &left_out;
                let shorter = Shape { quiet, ..best.0.clone() };
                attempt(&mut best, shorter);
            }
            from += length;
        }
        if length == 1 || Instant::now() >= end {
            break;
        }
        length = length.div_ceil(2);
    }
    best
}
