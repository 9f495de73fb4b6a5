//! Calls of others, counted as they end. What a call is counted under comes from the table of methods and
//! from closed sets of codes, never from the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use palisade_proto::failure::{Code as FailureCode, Failure};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::Span;

use super::history::History;
use super::trace;

/// What a call does, for whoever looks at latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// It is answered once a quorum has it.
    Writes,
    /// It is answered from what is there.
    Reads,
    /// It lasts as long as its caller likes, so nobody asks how long it took.
    Streams,
}

use Does::{Reads, Streams, Writes};

/// All methods of all services, and last whatever is none of them.
pub(super) const METHODS: &[(&str, &str, Does)] = &[
    ("palisade.access.v1.Access", "Grant", Writes),
    ("palisade.access.v1.Access", "List", Reads),
    ("palisade.access.v1.Access", "ListAudit", Reads),
    ("palisade.access.v1.Access", "Revoke", Writes),
    ("palisade.admin.v1.Backups", "Create", Streams),
    ("palisade.batch.v1.Batch", "Commit", Writes),
    ("palisade.cluster.v1.Cluster", "ChangeMembers", Writes),
    ("palisade.cluster.v1.Cluster", "GetStatus", Reads),
    ("palisade.cluster.v1.Cluster", "ListDivergences", Reads),
    ("palisade.cluster.v1.Cluster", "RebuildReplica", Streams),
    ("palisade.cluster.v1.Cluster", "TransferLeadership", Reads),
    ("palisade.directory.v1.Directory", "Alter", Writes),
    ("palisade.directory.v1.Directory", "Create", Writes),
    ("palisade.directory.v1.Directory", "Describe", Reads),
    ("palisade.directory.v1.Directory", "List", Reads),
    ("palisade.directory.v1.Directory", "ListAlterations", Reads),
    ("palisade.directory.v1.Directory", "Open", Writes),
    ("palisade.idempotency.v1.Idempotency", "Complete", Writes),
    ("palisade.idempotency.v1.Idempotency", "GetStatus", Reads),
    ("palisade.idempotency.v1.Idempotency", "Reserve", Writes),
    ("palisade.idempotency.v1.Idempotency", "SetWindow", Writes),
    ("palisade.log.v1.Log", "Append", Writes),
    ("palisade.log.v1.Log", "AppendStream", Streams),
    ("palisade.log.v1.Log", "GetBounds", Reads),
    ("palisade.log.v1.Log", "GetConsumer", Reads),
    ("palisade.log.v1.Log", "Scan", Reads),
    ("palisade.log.v1.Log", "SetConsumer", Writes),
    ("palisade.log.v1.Log", "SetRetention", Writes),
    ("palisade.log.v1.Log", "Tail", Streams),
    ("palisade.log.v1.Log", "Trim", Writes),
    ("palisade.map.v1.Map", "Delete", Writes),
    ("palisade.map.v1.Map", "Get", Reads),
    ("palisade.map.v1.Map", "GetBounds", Reads),
    ("palisade.map.v1.Map", "Put", Writes),
    ("palisade.map.v1.Map", "Range", Reads),
    ("palisade.map.v1.Map", "SetHistory", Writes),
    ("palisade.map.v1.Map", "Watch", Streams),
    ("palisade.session.v1.Session", "Register", Writes),
    ("grpc.health.v1.Health", "Check", Streams),
    ("other", "other", Streams),
];

/// Upper edges of latencies, in seconds.
const EDGES: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every status that gRPC has.
pub(super) const CODES: usize = 17;

/// Requests of the report service: what they do, and the class of their status.
pub(super) const REPORTS: [(&str, &str); 6] = [
    ("write", "2xx"),
    ("write", "4xx"),
    ("write", "5xx"),
    ("read", "2xx"),
    ("read", "4xx"),
    ("read", "5xx"),
];

#[derive(Debug)]
pub(super) struct Method {
    pub(super) seconds: Histogram,
    pub(super) ended: [AtomicU64; CODES],
}

/// The calls of one node.
#[derive(Debug)]
pub(crate) struct Calls {
    methods: Vec<Method>,
    refusals: [AtomicU64; FailureCode::ALL.len()],
    under_way: AtomicU64,
    reports: [Histogram; REPORTS.len()],
    history: History,
}

fn histogram() -> Histogram {
    Histogram::new(EDGES)
}

impl Calls {
    pub(super) fn new() -> Self {
        let zero = |_| AtomicU64::new(0);
        let method = |_| Method { seconds: histogram(), ended: std::array::from_fn(zero) };
        Self {
            methods: METHODS.iter().map(method).collect(),
            refusals: std::array::from_fn(zero),
            under_way: AtomicU64::new(0),
            reports: std::array::from_fn(|_| histogram()),
            history: History::new(),
        }
    }

    pub(super) fn methods(
        &self,
    ) -> impl Iterator<Item = (&'static (&'static str, &'static str, Does), &Method)> {
        METHODS.iter().zip(&self.methods)
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (FailureCode, u64)> {
        let counts = self.refusals.iter().map(|count| count.load(Ordering::Relaxed));
        FailureCode::ALL.into_iter().zip(counts)
    }

    pub(super) fn reports(
        &self,
    ) -> impl Iterator<Item = ((&'static str, &'static str), &Histogram)> {
        REPORTS.into_iter().zip(&self.reports)
    }

    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// A call to this path begins, in this span.
    pub(super) fn begin(self: &Arc<Self>, path: &str, span: Span) -> Going {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let (calls, method) = (Arc::clone(self), find(path));
        Going { calls, method, begun: Instant::now(), span, ended: false }
    }

    /// A request of the report service has ended.
    pub(super) fn note_report(&self, does: Does, status: u16, begun: Instant) {
        let took = begun.elapsed();
        let (word, class) = (if does == Writes { "write" } else { "read" }, status / 100);
        let class = ["2xx", "4xx", "5xx"][usize::from(class.clamp(3, 5)) - 3];
        let at = REPORTS.iter().position(|is| *is == (word, class));
        self.reports[at.expect("both are of their sets")].observe(took.as_secs_f64());
        self.history.note(does, took, class != "2xx");
    }
}

fn find(path: &str) -> usize {
    let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let found = parts.and_then(|parts| {
        METHODS.iter().position(|(service, method, _)| (*service, *method) == parts)
    });
    found.unwrap_or(METHODS.len() - 1)
}

/// A call that is under way. One that is dropped was taken back.
#[derive(Debug)]
pub(super) struct Going {
    calls: Arc<Calls>,
    method: usize,
    begun: Instant,
    span: Span,
    ended: bool,
}

impl Going {
    /// What it runs in.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// It has ended so. What comes after that is of no account.
    pub(super) fn end(&mut self, status: &Status) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        trace::note_end(&self.span, status);
        let calls = &self.calls;
        calls.under_way.fetch_sub(1, Ordering::Relaxed);
        let method = &calls.methods[self.method];
        method.ended[status.code() as usize].fetch_add(1, Ordering::Relaxed);
        if status.code() != Code::Ok
            && let Some(failure) = Failure::of(status)
        {
            calls.refusals[failure.code as usize].fetch_add(1, Ordering::Relaxed);
        }
        let (does, took) = (METHODS[self.method].2, self.begun.elapsed());
        if does != Streams {
            method.seconds.observe(took.as_secs_f64());
            calls.history.note(does, took, status.code() != Code::Ok);
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.end(&Status::cancelled("its caller took it back"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Whoever adds a method says what it does.
    #[test]
    fn the_table_has_every_method() {
        let files = FileDescriptorSet::decode(palisade_proto::DESCRIPTORS).unwrap().file;
        let mut found = BTreeSet::new();
        for file in files.iter().filter(|file| file.package().starts_with("palisade.")) {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}", file.package(), service.name());
                    let streams = method.client_streaming() || method.server_streaming();
                    found.insert((name.clone(), method.name().to_owned()));
                    let at = find(&format!("/{name}/{}", method.name()));
                    assert!(!streams || METHODS[at].2 == Streams, "{name}/{}", method.name());
                }
            }
        }
        let table: BTreeSet<_> = METHODS
            .iter()
            .filter(|(service, ..)| service.starts_with("palisade."))
            .map(|(service, method, _)| ((*service).to_owned(), (*method).to_owned()))
            .collect();
        assert_eq!(table, found);
    }

    #[test]
    fn a_path_of_a_caller_makes_no_new_label() {
        let other = METHODS.len() - 1;
        for path in ["", "/", "/a/b", "/palisade.map.v1.Map/Drop", "palisade.map.v1.Map/Get"] {
            assert_eq!(find(path), other, "{path}");
        }
        assert_eq!(METHODS[find("/palisade.map.v1.Map/Get")].1, "Get");
    }

    #[test]
    fn a_call_is_counted_once() {
        let calls = Arc::new(Calls::new());
        let mut going = calls.begin("/palisade.map.v1.Map/Get", Span::none());
        assert_eq!(calls.under_way(), 1);
        going.end(&Status::ok(""));
        drop(going);
        drop(calls.begin("/palisade.map.v1.Map/Get", Span::none()));
        assert_eq!(calls.under_way(), 0);
        let ended = |code: Code| {
            let at = find("/palisade.map.v1.Map/Get");
            calls.methods[at].ended[code as usize].load(Ordering::Relaxed)
        };
        assert_eq!((ended(Code::Ok), ended(Code::Cancelled)), (1, 1));
    }
}
