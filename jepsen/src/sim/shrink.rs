//! A shorter run that fails alike: what is left of it is what matters.
//!
//! Rounds behind the failure go first; then kinds of faults, one after the other; then rounds, in
//! halves, quarters and so on down to single ones (delta debugging, Zeller 1999). What a round draws
//! does not depend on the others, so what remains stays as it was.

#![expect(
    clippy::disallowed_methods,
    reason = "how long people wait; runs have clocks of their own"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Failure, Shape, run};

/// Looks for a shorter run, for at most so long. Returns the shortest and how it fails.
#[must_use]
pub fn shrink(shape: &Shape, failure: &Failure, time: Duration) -> (Shape, Failure) {
    shrink_by(shape, failure, time, |shape| run(shape).err())
}

fn shrink_by(
    shape: &Shape,
    failure: &Failure,
    time: Duration,
    run: impl Fn(&Shape) -> Option<Failure>,
) -> (Shape, Failure) {
    let end = Instant::now() + time;
    let kind = failure.kind().to_owned();
    let mut best = (shape.clone(), failure.clone());
    let attempt = |best: &mut (Shape, Failure), shape: Shape| {
        if Instant::now() >= end {
            return false;
        }
        match run(&shape) {
            Some(failure) if failure.kind() == kind => {
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

#[cfg(test)]
mod tests {
    use palisade::sim::SimFault;

    use super::*;

    fn failure(message: &str, round: u64) -> Failure {
        Failure { message: message.to_owned(), place: String::new(), round }
    }

    /// It takes one kind of fault and three rounds, of which one comes late.
    #[test]
    fn what_does_not_matter_is_left_out() {
        let shape = Shape::of_seed(1);
        let needed = [10, 11, 200];
        let fault = shape.nemesis.faults().next().expect("something goes wrong");
        let fails = |shape: &Shape| {
            let happens = !shape.without.contains(&fault);
            let there = needed.iter().all(|round| !shape.quiet.contains(round));
            (happens && there && shape.rounds > 200).then(|| failure("G1: lost", 200))
        };
        let (shorter, found) =
            shrink_by(&shape, &failure("G1: lost", 200), Duration::from_secs(60), fails);
        assert_eq!(shorter.rounds, 201);
        let left: Vec<u64> = (0..201).filter(|round| !shorter.quiet.contains(round)).collect();
        assert_eq!(left, needed);
        let kinds: Vec<SimFault> =
            shape.nemesis.faults().filter(|fault| !shorter.without.contains(fault)).collect();
        assert_eq!(kinds, [fault]);
        assert_eq!(found.kind(), "G1");
    }

    /// A run that fails otherwise is another bug.
    #[test]
    fn a_run_that_fails_otherwise_is_no_shorter_one() {
        let shape = Shape::of_seed(1);
        let found = failure("G1: lost", 100);
        let fails = |shape: &Shape| {
            Some(failure(if shape.rounds == 101 { "G1: lost" } else { "G2: two" }, 100))
        };
        let (shorter, _) = shrink_by(&shape, &found, Duration::from_secs(60), fails);
        assert_eq!(shorter.rounds, 101);
        let other = |_: &Shape| Some(failure("G2: two", 100));
        let (same, _) = shrink_by(&shape, &found, Duration::from_secs(60), other);
        assert_eq!(same.to_string(), shape.to_string());
    }
}
