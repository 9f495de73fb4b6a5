//! What a seed draws before the run begins: how large the cluster is, how tight its bounds are, how
//! unkind its world, and how the workload is paced. And what a shorter run leaves out of it.

use std::collections::BTreeSet;
use std::fmt;

use palisade::sim::{Nemesis, SimFault, SimOptions, SimRandom};

/// A seed covers at least this much simulated time.
pub(super) const RUN_US_MIN: u64 = 600_000_000;

/// A run, as its seed has drawn it, less what is left out.
#[derive(Clone, Debug)]
pub struct Shape {
    /// All else is drawn from it.
    pub seed: u64,
    /// The cluster.
    pub options: SimOptions,
    /// What goes wrong.
    pub nemesis: Nemesis,
    /// Longest round. In each, one thing may go wrong, and some operations are asked for.
    pub round_us_max: u64,
    /// Of a thousand rounds, in how many something goes wrong.
    pub act_per_mille: u64,
    /// Most operations a round.
    pub round_ops_max: u64,
    /// How many keys clients submit, in each group.
    pub keys: u64,
    /// Rounds there are.
    pub rounds: u64,
    /// What never goes wrong although it was drawn.
    pub without: BTreeSet<SimFault>,
    /// Rounds in which nothing is asked for and nothing goes wrong.
    pub quiet: BTreeSet<u64>,
}

impl Shape {
    /// What this seed draws.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut random = SimRandom::from_seed(seed ^ 0x05ee_d5ee_d5ee_d000);
        let nodes = *random.pick(&[3, 3, 3, 4, 5, 5, 6, 7]);
        let groups = *random.pick(&[1, 1, 1, 1, 2, 2, 3, 4, 8, 16]);
        let mut options = SimOptions {
            nodes,
            groups,
            loss_per_mille: *random.pick(&[0, 5, 20, 200]),
            duplicate_per_mille: *random.pick(&[0, 20, 100]),
            corrupt_per_mille: *random.pick(&[0, 2, 20]),
            delay_us_max: *random.pick(&[1_000, 5_000, 5_000, 60_000]),
            gather_per_mille: *random.pick(&[0, 300, 800]),
            sync_us_max: *random.pick(&[300, 3_000, 30_000]),
            flush_per_mille: *random.pick(&[10, 100, 500]),
            drift_per_mille: *random.pick(&[0, 50, 200]),
            ..SimOptions::default()
        };
        let replica = &mut options.replica;
        replica.tick_ms = *random.pick(&[20, 20, 50]);
        replica.lag_entries_max = *random.pick(&[40, 200, 1_000]);
        if random.below(3) == 0 {
            // Bounds that are met: queues fill, messages are split, entries leave memory.
            replica.proposals_max = 1 + random.below(16) as usize;
            replica.proposals_bytes_max = 8 << 10;
            replica.reads_max = 1 + random.below(4) as usize;
            replica.message_bytes_max = *random.pick(&[1, 512, 4 << 10]);
            replica.entry_bytes_target = *random.pick(&[1, 512, 4 << 10]);
            replica.entry_cache_bytes_max = *random.pick(&[0, 1 << 10, 16 << 10]);
            replica.messages_in_flight_max = 1 + random.below(4) as usize;
            replica.appends_in_flight_max = 1 + random.below(2) as usize;
        }
        let round_us_max = *random.pick(&[500_000, 2_000_000, 4_000_000, 4_000_000]);
        // On average a round lasts half its longest.
        let rounds = 2 * RUN_US_MIN / round_us_max * 21 / 20;
        let mut shape = Self {
            seed,
            options,
            nemesis: Nemesis::swarm(&mut random),
            round_us_max,
            act_per_mille: *random.pick(&[200, 500, 900]),
            // At least 500 operations come of it, and more with more groups.
            round_ops_max: (1_600 / rounds).max(2) + groups / 2,
            keys: *random.pick(&[20, 80, 300]),
            rounds,
            without: BTreeSet::new(),
            quiet: BTreeSet::new(),
        };
        // Drawn last: what was drawn before there were keys is drawn still.
        shape.options.seals = random.below(4) == 0;
        shape
    }

    /// What a round draws from: the same, whatever other rounds are left out.
    pub(super) fn round_seed(&self, round: u64) -> u64 {
        SimRandom::from_seed(self.seed ^ round.rotate_left(32)).draw()
    }

    /// The command that runs it again.
    #[must_use]
    pub fn command(&self) -> String {
        format!("palisade-sim {self}")
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seed {}", self.seed)?;
        if self.rounds != Self::of_seed(self.seed).rounds {
            write!(f, " --rounds {}", self.rounds)?;
        }
        if !self.without.is_empty() {
            let names: Vec<String> =
                self.without.iter().map(|fault| format!("{fault:?}")).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        if !self.quiet.is_empty() {
            write!(f, " --quiet {}", spans(&self.quiet))?;
        }
        Ok(())
    }
}

/// `1-3,7`
fn spans(rounds: &BTreeSet<u64>) -> String {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for round in rounds {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == *round => *last = *round,
            _ => spans.push((*round, *round)),
        }
    }
    let text = |(first, last): (u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    spans.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// The rounds that `1-3,7` names.
///
/// # Errors
/// What is wrong with it.
pub fn parse_spans(text: &str) -> Result<BTreeSet<u64>, String> {
    let number = |raw: &str| raw.parse::<u64>().map_err(|_| format!("{raw:?} is no round"));
    let mut rounds = BTreeSet::new();
    for span in text.split(',').filter(|span| !span.is_empty()) {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last - first > 1_000_000 {
            return Err(format!("{span:?} is no span of rounds: write it as 3-7"));
        }
        rounds.extend(first..=last);
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_written() {
        let rounds: BTreeSet<u64> = [1, 2, 3, 7, 9, 10].into_iter().collect();
        assert_eq!(spans(&rounds), "1-3,7,9-10");
        assert_eq!(parse_spans("1-3,7,9-10"), Ok(rounds));
        for wrong in ["x", "3-", "7-3", "1-99999999999"] {
            assert!(parse_spans(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seeds_differ_and_every_one_is_allowed() {
        let shapes: Vec<Shape> = (0..500).map(Shape::of_seed).collect();
        for shape in &shapes {
            shape.options.replica.validate().unwrap_or_else(|error| panic!("{shape}: {error}"));
        }
        for nodes in 3..=7 {
            assert!(shapes.iter().any(|shape| shape.options.nodes == nodes), "nodes={nodes}");
        }
        assert!(shapes.iter().any(|shape| shape.options.groups == 16));
        for fault in SimFault::ALL {
            let having = shapes.iter().filter(|s| s.nemesis.faults().any(|f| f == fault)).count();
            assert!(having > 100, "{fault:?} is in {having} of 500 seeds");
        }
    }
}
