//! What every party is given to do, and what is told of it.

use std::time::Duration;

use palisade_benches::{Sample, Until};
use serde::{Deserialize, Serialize};

use crate::keys::Keys;

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Stores a value: a record of a log where there is one, a key of a map otherwise.
    Put,
    /// Reads a key, not older than what was acknowledged to anybody before.
    Get,
    /// Reads a key at one follower, not older than an offset that the caller knows; whatever the follower
    /// has at a peer that knows no such thing.
    GetAtLeast,
    /// Replaces a value if it is the one that the caller has seen.
    Cas,
    /// Takes a request that has effect once, whatever is sent again.
    Submit,
    /// Stores values while the leader is killed; what is told is how long nobody was answered.
    Failover,
    /// Appends an entry to the log of one process, and waits until it is synced.
    Wal,
    /// The same from one thread, which is told of each and does not wait for it before the next.
    WalInFlight,
}

/// The way to Palisade that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// A call in the process of the node.
    InProcess,
    /// A gRPC call.
    Unary,
    /// A message of one record on a gRPC stream.
    Stream,
    /// A message of [`BATCH`] records on a gRPC stream.
    Batched,
    /// A call of the log alone, without consensus.
    Wal,
}

/// Records of a message of a batched stream.
pub(crate) const BATCH: u64 = 16;
/// Connections of a client that needs no more.
pub(crate) const CONNECTIONS: usize = 4;

/// A closed loop.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) work: Work,
    pub(crate) way: Way,
    /// Requests, or records of a batched stream, that are not answered.
    pub(crate) in_flight: u64,
    pub(crate) bytes: usize,
    pub(crate) length: Length,
    pub(crate) keys: Keys,
}

/// When it ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Length {
    /// After so many milliseconds, and a tenth before that is not counted.
    Milliseconds(u64),
    /// After so many requests.
    Requests(u64),
}

impl Length {
    /// After how long it has certainly failed.
    pub(crate) fn patience(self) -> Duration {
        let slack = Duration::from_secs(60);
        match self {
            Self::Milliseconds(ms) => 2 * Duration::from_millis(ms) + slack,
            // A hundred a second is slower than anything here.
            Self::Requests(requests) => Duration::from_millis(10 * requests) + slack,
        }
    }
}

impl From<Length> for Until {
    fn from(length: Length) -> Self {
        match length {
            Length::Milliseconds(ms) => Self::Time(Duration::from_millis(ms)),
            Length::Requests(requests) => Self::Requests(requests),
        }
    }
}

/// A sample as one process tells it to another.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    answered: u64,
}

impl From<Sample> for Told {
    fn from(sample: Sample) -> Self {
        let us = |time: Duration| time.as_micros() as u64;
        Self {
            per_second: sample.per_second,
            p50_us: us(sample.p50),
            p99_us: us(sample.p99),
            p999_us: us(sample.p999),
            answered: sample.answered,
        }
    }
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) syncs: Option<u64>,
}

/// What one run has come to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) answered: u64,
    /// Seconds of processor time of all server processes for a thousand operations.
    pub(crate) cpu_seconds_of_1000: f64,
    /// Bytes that the disk was given, by whomever, for each operation. None if the kernel does not say.
    pub(crate) disk_bytes_each: Option<f64>,
    /// Syncs of all nodes for each operation, where they are counted.
    pub(crate) syncs_each: Option<f64>,
    /// How long nobody was answered, where the leader was killed; nothing else is told then.
    pub(crate) silence_us: Option<u64>,
}

impl Run {
    /// Of what was answered, and what it took.
    pub(crate) fn of(told: Told, cost: Cost) -> Self {
        let answered = told.answered.max(1) as f64;
        Self {
            per_second: told.per_second,
            p50_us: told.p50_us,
            p99_us: told.p99_us,
            p999_us: told.p999_us,
            answered: told.answered,
            cpu_seconds_of_1000: 1000.0 * cost.cpu_seconds / answered,
            disk_bytes_each: cost.disk_bytes.map(|bytes| bytes as f64 / answered),
            syncs_each: cost.syncs.map(|syncs| syncs as f64 / answered),
            silence_us: None,
        }
    }

    /// Of a leader that was killed.
    pub(crate) fn of_silence(silence: Duration) -> Self {
        Self { silence_us: Some(silence.as_micros() as u64), ..Self::default() }
    }
}
