//! The table of goals, read from `goals.toml`: what is compared, and what we want of it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::load::{Load, Run, Way, Work};
use crate::middle::median;

/// The table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goals {
    /// What each party is, and what it promises before it answers.
    pub(crate) peer: BTreeMap<Peer, About>,
    pub(crate) row: Vec<Row>,
    /// What is wanted and not measured yet.
    pub(crate) missing: Vec<Missing>,
    /// What is drawn.
    pub(crate) curve: Vec<Curve>,
}

/// Whom we are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    Echo,
    Etcd,
    Zookeeper,
    Jetstream,
    JetstreamAlways,
    Redis,
    Postgres,
    RaftEngine,
    Rocksdb,
    Redb,
    Fjall,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Etcd => "etcd",
            Self::Zookeeper => "zookeeper",
            Self::Jetstream => "jetstream",
            Self::JetstreamAlways => "jetstream-always",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::RaftEngine => "raft-engine",
            Self::Rocksdb => "rocksdb",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
        }
    }
}

/// What is said of a party beside its figures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct About {
    pub(crate) is: String,
    pub(crate) durable: String,
}

/// One comparison, and bounds for the ratios of ours to theirs. One without bounds is for reference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) bytes: usize,
    pub(crate) in_flight: u64,
    pub(crate) ours: Way,
    pub(crate) against: Peer,
    /// What the peer does, where it is something else.
    against_work: Option<Work>,
    /// What the peer has under way, where it is another number.
    against_in_flight: Option<u64>,
    rate_at_least: Option<f64>,
    p50_at_most: Option<f64>,
    p99_at_most: Option<f64>,
    cpu_at_most: Option<f64>,
    silence_at_most: Option<f64>,
}

/// A row that is wanted and not built yet.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Missing {
    pub(crate) work: String,
    pub(crate) against: String,
    pub(crate) goal: String,
    pub(crate) why: String,
}

/// Figures of some parties by how much is under way.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) work: Work,
    pub(crate) bytes: usize,
    pub(crate) in_flight: Vec<u64>,
    pub(crate) ours: Vec<Way>,
    pub(crate) against: Vec<Peer>,
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Rate,
    P50,
    P99,
    Cpu,
    Silence,
}

/// What a ratio of ours to theirs should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goals {
    /// The committed table.
    pub(crate) fn read() -> Result<Self, String> {
        Self::parse(include_str!("../goals.toml"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let goals: Self = toml::from_str(text).map_err(|error| format!("goals.toml: {error}"))?;
        for row in &goals.row {
            if !goals.peer.contains_key(&row.against) {
                return Err(format!("goals.toml: nothing is said of peer={}", row.against.name()));
            }
        }
        Ok(goals)
    }
}

impl Row {
    /// What is compared, for people.
    pub(crate) fn title(&self) -> String {
        let Self { work, bytes, in_flight, ours, .. } = self;
        let work = match work {
            Work::Put => "durable append/put",
            Work::Get => "linearizable get",
            Work::GetAtLeast => "get at least at an offset, at a follower",
            Work::Cas => "compare and set",
            Work::Submit => "idempotent submit",
            Work::Failover => "silence after SIGKILL of the leader",
            Work::Wal => "log alone, blocking writers",
            Work::WalInFlight => "log alone, from one thread",
        };
        let way = match ours {
            Way::InProcess => "in process",
            Way::Unary => "gRPC unary",
            Way::Stream => "gRPC stream",
            Way::Batched => "gRPC batched stream",
            Way::Wal => "wal",
        };
        format!("{work}, {bytes} B, {in_flight} in flight, {way}")
    }

    /// The load for us.
    pub(crate) fn load(&self, like: &Load) -> Load {
        let Self { work, bytes, in_flight, ours: way, .. } = *self;
        Load { work, bytes, in_flight, way, ..*like }
    }

    /// The load for the peer.
    pub(crate) fn load_against(&self, like: &Load) -> Load {
        let load = self.load(like);
        let in_flight = self.against_in_flight.unwrap_or(load.in_flight);
        Load { work: self.against_work.unwrap_or(load.work), in_flight, ..load }
    }

    /// What is wanted; the rate without a bound if nothing is.
    pub(crate) fn goals(&self) -> Vec<(Figure, Option<Bound>)> {
        let goals: Vec<_> = [
            (Figure::Rate, self.rate_at_least.map(Bound::AtLeast)),
            (Figure::P50, self.p50_at_most.map(Bound::AtMost)),
            (Figure::P99, self.p99_at_most.map(Bound::AtMost)),
            (Figure::Cpu, self.cpu_at_most.map(Bound::AtMost)),
            (Figure::Silence, self.silence_at_most.map(Bound::AtMost)),
        ]
        .into_iter()
        .filter(|(_, bound)| bound.is_some())
        .collect();
        if goals.is_empty() { vec![(Figure::Rate, None)] } else { goals }
    }
}

impl Figure {
    /// The one in the middle of some runs.
    pub(crate) fn of(self, runs: &[Run]) -> f64 {
        median(runs.iter().map(|run| match self {
            Self::Rate => run.per_second,
            Self::P50 => run.p50_us as f64,
            Self::P99 => run.p99_us as f64,
            Self::Cpu => run.cpu_seconds_of_1000,
            Self::Silence => run.silence_us.map_or(f64::NAN, |us| us as f64),
        }))
    }

    /// A figure of it, for people.
    pub(crate) fn shown(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{value:.0}/s"),
            Self::P50 => format!("p50 {:.2} ms", value / 1000.0),
            Self::P99 => format!("p99 {:.2} ms", value / 1000.0),
            Self::Cpu => format!("{value:.3} cpu s/1000"),
            Self::Silence => format!("{:.2} s", value / 1e6),
        }
    }
}

impl Bound {
    pub(crate) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    /// For people.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str =
        "[[row]]\nwork = 'put'\nbytes = 1\nin_flight = 2\nours = 'unary'\nagainst = 'etcd'\n";
    const REST: &str = "missing = []\ncurve = []\n[peer.etcd]\nis = 'a'\ndurable = 'b'\n";

    #[test]
    fn the_committed_table_is_whole() {
        let goals = Goals::read().unwrap();
        assert!(goals.row.len() > 20 && !goals.curve.is_empty());
        // A log without consensus is compared with logs, and nothing else with it.
        for row in &goals.row {
            let is_log = matches!(row.work, Work::Wal | Work::WalInFlight);
            assert_eq!(is_log, row.ours == Way::Wal, "{row:?}");
            assert_eq!(is_log, row.against.is_embedded(), "{row:?}");
        }
        assert!(goals.missing.iter().all(|row| !row.why.is_empty()));
    }

    #[test]
    fn bounds_are_read_with_their_figures() {
        let text = format!("{REST}{ROW}rate_at_least = 2.2\np99_at_most = 0.5\n");
        let goals = Goals::parse(&text).unwrap();
        let wanted = [(Figure::Rate, Bound::AtLeast(2.2)), (Figure::P99, Bound::AtMost(0.5))];
        assert_eq!(goals.row[0].goals(), wanted.map(|(figure, bound)| (figure, Some(bound))));
        let reference = Goals::parse(&format!("{REST}{ROW}")).unwrap();
        assert_eq!(reference.row[0].goals(), [(Figure::Rate, None)]);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let of_another = ROW.replace("etcd", "redis");
        assert!(Goals::parse(&format!("{REST}{of_another}")).unwrap_err().contains("peer=redis"));
        assert!(Goals::parse(&format!("{REST}{ROW}rate_at_most = 1\n")).is_err());
        assert!(Goals::parse(&format!("{REST}{}", ROW.replace("unary", "pigeon"))).is_err());
    }

    #[test]
    fn a_bound_is_met_up_to_itself() {
        assert!(Bound::AtLeast(2.0).is_met(2.0) && !Bound::AtLeast(2.0).is_met(1.99));
        assert!(Bound::AtMost(0.5).is_met(0.5) && !Bound::AtMost(0.5).is_met(0.51));
        assert!(!Bound::AtLeast(2.0).is_met(f64::NAN) && !Bound::AtMost(0.5).is_met(f64::NAN));
    }
}
