//! What many runs came to, as a page for people.

use std::collections::BTreeMap;
use std::fmt;

use super::Run;

/// The sum of many runs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that ran to their end.
    pub seeds: u64,
    /// Simulated time of all of them.
    pub simulated_us: u64,
    /// Processor time they took.
    pub cpu_us: u64,
    /// What clients asked for.
    pub ops: u64,
    /// See [`Run::leader_changes`].
    pub leader_changes: u64,
    happened: BTreeMap<&'static str, Count>,
    told: BTreeMap<&'static str, Count>,
}

/// How often, and in how many seeds.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    times: u64,
    seeds: u64,
}

impl Report {
    /// One more run, which took so long.
    pub fn add(&mut self, run: &Run, cpu_us: u64) {
        self.seeds += 1;
        self.simulated_us += run.simulated_us;
        self.cpu_us += cpu_us;
        self.ops += run.ops;
        self.leader_changes += run.leader_changes;
        add(&mut self.happened, &run.happened);
        add(&mut self.told, &run.told);
    }

    /// Simulated seconds in a second of one processor.
    #[must_use]
    pub fn speed(&self) -> u64 {
        self.simulated_us / self.cpu_us.max(1)
    }

    /// Seeds in an hour of one processor.
    #[must_use]
    pub fn seeds_per_hour(&self) -> u64 {
        self.seeds * 3_600_000_000 / self.cpu_us.max(1)
    }

    /// What should have happened somewhere in so many seeds, and has not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let rare = if self.seeds < SEEDS_FOR_RARE { &[] } else { RARE };
        let all = EXPECTED.iter().chain(ANSWERS).chain(rare);
        let is_there = |what: &&&str| {
            let counts = [&self.happened, &self.told];
            !counts.into_iter().any(|counts| counts.contains_key(**what))
        };
        all.filter(is_there).copied().collect()
    }
}

/// Every kind of fault, and the rare steps of the protocol that a campaign must see.
const EXPECTED: &[&str] = &[
    "altered read",
    "blocked way",
    "chunk altered",
    "chunk served",
    "clock jump",
    "crowded disk",
    "damage found by a scrub",
    "disk hangs",
    "disk slow",
    "failing create",
    "failing read",
    "failing rename",
    "failing sync",
    "failing sync of a directory",
    "failing write",
    "flipped bit",
    "full disk",
    "keys rotated",
    "kill",
    "leadership transfer asked",
    "lost write",
    "membership change asked",
    "message altered",
    "message cut off",
    "message doubled",
    "message lost",
    "misdirected write",
    "no space",
    "node halted",
    "pause",
    "power off",
    "power off in a disk operation",
    "power off in the middle",
    "received snapshot lost",
    "rotten snapshot",
    "short write",
    "snapshot begun",
    "snapshot exported",
    "snapshot installed",
    "unreadable sector",
    "wipe",
    "zeroed sector",
];

/// Those that so few runs come to that only a long campaign must have seen them.
const RARE: &[&str] = &["failing remove"];
const SEEDS_FOR_RARE: u64 = 3_000;

/// Every answer that clients must have been given.
const ANSWERS: &[&str] = &[
    "checked for linearizability",
    "fenced",
    "not yet applied",
    "opened",
    "read",
    "read at a receipt",
    "refused: down",
    "refused: rate limited",
    "register changed",
    "submission applied",
    "submission in conflict",
    "submission repeated",
    "swap refused",
    "unknown",
];

fn add(counts: &mut BTreeMap<&'static str, Count>, run: &BTreeMap<&'static str, u64>) {
    for (what, times) in run.iter().filter(|(_, times)| **times > 0) {
        let count = counts.entry(what).or_default();
        count.times += times;
        count.seeds += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, counts) in
            [("what happened", &self.happened), ("what clients were told", &self.told)]
        {
            writeln!(f, "{title:34} {:>12} {:>9}", "times", "seeds")?;
            for (what, Count { times, seeds }) in counts {
                writeln!(f, "  {what:32} {times:>12} {seeds:>9}")?;
            }
        }
        let (seeds, simulated_s) = (self.seeds.max(1), self.simulated_us / 1_000_000);
        write!(
            f,
            "simulator: {} seeds, each {} simulated s, {} operations, {} changes of leader on average",
            self.seeds,
            simulated_s / seeds,
            self.ops / seeds,
            self.leader_changes / seeds,
        )?;
        if self.cpu_us == 0 {
            return Ok(());
        }
        let (speed, per_hour) = (self.speed(), self.seeds_per_hour());
        write!(
            f,
            "; {speed} simulated s in a second of one processor, {per_hour} seeds in an hour of it"
        )
    }
}
