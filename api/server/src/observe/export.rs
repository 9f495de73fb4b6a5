//! What is measured, as Prometheus reads it. Groups are shown as of the last look, so that one that went has no
//! series any more. `docs/observability.md` has the list.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use palisade::{GroupId, GroupStatus, MemberRole, NodeId, PeerFault, Role};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tonic::Code;

use super::calls::{CODES, Calls, Does};
use super::load::OfLoad;
use super::lock;
use super::process::Process;
use super::readiness::{Readiness, State};
use super::sample::{GroupSample, Sample};
use crate::grpc::CONNECTIONS_MAX;
use crate::security::accept::{AcceptCounts, Gate};
use crate::security::now_ms;
use crate::security::tls::TlsWatch;

/// What was seen of the groups at the last look.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) sample: Sample,
    pub(super) divergences: BTreeMap<GroupId, usize>,
    pub(super) readiness: Option<Readiness>,
}

/// The registry of one node.
pub(super) fn registry(
    calls: Arc<Calls>,
    connections: Arc<Semaphore>,
    shown: Arc<Mutex<Shown>>,
    secured: Arc<Mutex<Secured>>,
) -> Registry {
    let mut registry = Registry::with_prefix("palisade");
    registry.register_collector(Box::new(OfProcess));
    registry.register_collector(Box::new(OfCalls { calls, connections }));
    registry.register_collector(Box::new(OfGroups { shown: Arc::clone(&shown) }));
    registry.register_collector(Box::new(OfLoad { shown }));
    registry.register_collector(Box::new(OfSecurity { secured }));
    registry
}

/// One metric, value by value.
pub(super) struct Series<'a>(MetricEncoder<'a>);

impl<'a> Series<'a> {
    pub(super) fn gauge(
        to: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Self, Error> {
        Ok(Self(to.encode_descriptor(name, help, None, MetricType::Gauge)?))
    }

    /// `_total` is put behind its name.
    fn counter(
        to: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Self, Error> {
        Ok(Self(to.encode_descriptor(name, help, None, MetricType::Counter)?))
    }

    pub(super) fn histogram(
        to: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Self, Error> {
        Ok(Self(to.encode_descriptor(name, help, None, MetricType::Histogram)?))
    }

    pub(super) fn of(
        &mut self,
        labels: &impl EncodeLabelSet,
        value: &impl EncodeMetric,
    ) -> Result<(), Error> {
        value.encode(self.0.encode_family(labels)?)
    }

    pub(super) fn only(self, value: &impl EncodeMetric) -> Result<(), Error> {
        value.encode(self.0)
    }
}

#[derive(Debug)]
struct OfProcess;

impl Collector for OfProcess {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), Error> {
        let Process { resident_bytes, cpu_seconds, threads, open_files } = Process::this();
        let help = "Which release this is";
        Series::gauge(&mut to, "build_info", help)?
            .of(&[("version", env!("CARGO_PKG_VERSION"))], &ConstGauge::new(1u64))?;
        let help = "Memory of the process that is in RAM";
        Series::gauge(&mut to, "process_resident_memory_bytes", help)?
            .only(&ConstGauge::new(resident_bytes))?;
        let help = "Time that processors spent on it";
        Series::counter(&mut to, "process_cpu_seconds", help)?
            .only(&ConstCounter::new(cpu_seconds))?;
        let help = "Threads of the process";
        Series::gauge(&mut to, "process_threads", help)?.only(&ConstGauge::new(threads))?;
        let help = "Files and sockets that it has open";
        Series::gauge(&mut to, "process_open_files", help)?.only(&ConstGauge::new(open_files))
    }
}

#[derive(Debug)]
struct OfCalls {
    calls: Arc<Calls>,
    connections: Arc<Semaphore>,
}

impl Collector for OfCalls {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), Error> {
        let calls = &self.calls;
        let mut series = Series::counter(&mut to, "grpc_calls", "Calls that have ended, and how")?;
        for ((service, method, _), of) in calls.methods() {
            for code in (0..CODES).map(|code| Code::from_i32(code as i32)) {
                let count = of.ended[code as usize].load(Ordering::Relaxed);
                // Most pairs never come. What every method can end with is there from the beginning.
                if count > 0 || code == Code::Ok {
                    let code = format!("{code:?}");
                    let labels =
                        [("service", *service), ("method", *method), ("code", code.as_str())];
                    series.of(&labels, &ConstCounter::new(count))?;
                }
            }
        }
        let help = "How long calls took that are answered once";
        let mut series = Series::histogram(&mut to, "grpc_call_seconds", help)?;
        for ((service, method, does), of) in calls.methods() {
            if *does != Does::Streams {
                series.of(&[("service", *service), ("method", *method)], &of.seconds)?;
            }
        }
        let help = "Calls that are under way";
        Series::gauge(&mut to, "grpc_calls_under_way", help)?
            .only(&ConstGauge::new(calls.under_way()))?;
        let open = CONNECTIONS_MAX - self.connections.available_permits().min(CONNECTIONS_MAX);
        let help = "Connections of callers";
        Series::gauge(&mut to, "grpc_connections", help)?.only(&ConstGauge::new(open as u64))?;
        let help = "Connections of callers beyond which new ones are closed";
        Series::gauge(&mut to, "grpc_connections_max", help)?
            .only(&ConstGauge::new(CONNECTIONS_MAX as u64))?;
        let help = "Calls that were refused, by the code of the failure";
        let mut series = Series::counter(&mut to, "grpc_refusals", help)?;
        for (code, count) in calls.refusals() {
            series.of(&[("code", code.as_str())], &ConstCounter::new(count))?;
        }
        let help = "How long requests of the report service took";
        let mut series = Series::histogram(&mut to, "report_request_seconds", help)?;
        for ((does, status), seconds) in calls.reports() {
            series.of(&[("does", does), ("status", status)], seconds)?;
        }
        Ok(())
    }
}

/// A role, in a word.
pub(crate) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Outsider => "outsider",
        Role::Repairing => "repairing",
        Role::Halted => "halted",
    }
}

const ROLES: [Role; 7] = [
    Role::Leader,
    Role::Follower,
    Role::Candidate,
    Role::Learner,
    Role::Outsider,
    Role::Repairing,
    Role::Halted,
];

/// What a member does, in a word.
pub(crate) fn member_role_word(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Leaving => "leaving",
    }
}

/// A cause, in a word.
pub(crate) fn fault_word(fault: PeerFault) -> &'static str {
    match fault {
        PeerFault::ForeignCluster => "foreign_cluster",
        PeerFault::WrongNode => "wrong_node",
        PeerFault::WrongIncarnation => "wrong_incarnation",
        PeerFault::UnknownVersion => "unknown_version",
        PeerFault::Oversized => "oversized",
        PeerFault::Corrupt => "corrupt",
        PeerFault::Malformed => "malformed",
        PeerFault::Impostor => "impostor",
        PeerFault::Crowding => "crowding",
        PeerFault::Untrusted => "untrusted",
        PeerFault::WrongIdentity => "wrong_identity",
        PeerFault::Stalled => "stalled",
        PeerFault::Unprotected => "unprotected",
        _ => "other",
    }
}

/// What keeps strangers out, where certificates are asked for.
#[derive(Debug, Default)]
pub(super) struct Secured {
    /// Files, by the port that they are for.
    pub(super) certificates: Vec<(&'static str, Arc<TlsWatch>)>,
    pub(super) gate: Option<Arc<Gate>>,
}

#[derive(Debug)]
struct OfSecurity {
    secured: Arc<Mutex<Secured>>,
}

/// Less than nothing once it is over.
fn seconds_left(not_after: SystemTime) -> f64 {
    let ends = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ends.as_secs_f64() - now_ms() as f64 / 1000.0
}

impl Collector for OfSecurity {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), Error> {
        let secured = lock(&self.secured);
        let certificates =
            || secured.certificates.iter().map(|(port, watch)| ([("port", *port)], watch.status()));
        let help = "How long the certificate of this node is still good, less than 0 if it is over";
        let mut series = Series::gauge(&mut to, "certificate_seconds_left", help)?;
        for (port, status) in certificates() {
            series.of(&port, &ConstGauge::new(seconds_left(status.not_after)))?;
        }
        let help = "How often other certificates were taken";
        let mut series = Series::counter(&mut to, "certificate_reloads", help)?;
        for (port, status) in certificates() {
            series.of(&port, &ConstCounter::new(status.reloads))?;
        }
        let help = "Looks at which the files were not taken, since they were last";
        let mut series = Series::gauge(&mut to, "certificate_failures", help)?;
        for (port, status) in certificates() {
            series.of(&port, &ConstGauge::new(status.failures))?;
        }
        let help = "Connections of callers, by how their certificate was judged";
        let mut series = Series::counter(&mut to, "grpc_handshakes", help)?;
        if let Some(gate) = &secured.gate {
            let AcceptCounts { taken, untrusted, unidentified, stalled } = gate.counts();
            for (result, count) in [
                ("taken", taken),
                ("untrusted", untrusted),
                ("unidentified", unidentified),
                ("stalled", stalled),
            ] {
                series.of(&[("result", result)], &ConstCounter::new(count))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OfGroups {
    shown: Arc<Mutex<Shown>>,
}

/// A gauge that each group has one of: its name, what it is, and how it is found.
type GroupGauge = (&'static str, &'static str, fn(&GroupStatus) -> f64);

const GROUP_GAUGES: &[GroupGauge] = &[
    ("group_term", "The term of the group; each election begins one", |s| s.term.get() as f64),
    ("group_leader", "The node that leads the group, 0 if none is known", |s| {
        s.leader.map_or(0, NodeId::get) as f64
    }),
    ("group_last_index", "Last entry of the log here", |s| s.last_index.get() as f64),
    ("group_committed_index", "Last entry that is known to be committed", |s| {
        s.committed_index.get() as f64
    }),
    ("group_durable_index", "Last entry that is synced here", |s| s.durable_index.get() as f64),
    ("group_applied_index", "Last entry that is in the state here", |s| {
        s.applied_index.get() as f64
    }),
    ("group_first_index", "First entry that the log here still holds", |s| {
        s.first_index.get() as f64
    }),
    ("group_committed_offset", "Last committed record that was handed to apply", |s| {
        s.offset.get() as f64
    }),
    ("group_proposals", "Records proposed here that wait for their outcome", |s| {
        s.proposals_count as f64
    }),
    ("group_leaderless_seconds", "For how long no leader was heard of", |s| {
        s.leaderless_ms as f64 / 1000.0
    }),
    ("group_uncommitted_seconds", "How long the oldest record proposed here waits", |s| {
        s.uncommitted_ms as f64 / 1000.0
    }),
    ("group_sync_seconds", "How long the write to the log that is under way takes", |s| {
        s.sync_ms as f64 / 1000.0
    }),
    ("group_disk_full", "1 if the disk of the log has no room for records", |s| {
        f64::from(u8::from(s.disk_full))
    }),
];

/// A counter that each group has one of.
type GroupCounter = (&'static str, &'static str, fn(&GroupSample, &GroupStatus) -> u64);

const GROUP_COUNTERS: &[GroupCounter] = &[
    ("group_elections", "Terms in which this node asked for votes", |_, s| s.elections),
    ("group_leader_changes", "Terms whose leader this node came to know", |_, s| s.leaders),
    ("group_digests_compared", "Digests of replicas that were compared", |g, _| g.compared.digests),
    ("group_digests_differing", "Digests that were not those of the others", |g, _| {
        g.compared.differing
    }),
];

impl Collector for OfGroups {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), Error> {
        let shown = lock(&self.shown);
        readiness(&mut to, shown.readiness.as_ref())?;
        let groups = &shown.sample.groups;
        for (name, help, value) in GROUP_GAUGES {
            let mut series = Series::gauge(&mut to, name, help)?;
            for (group, status) in told(groups) {
                series.of(&[("group", group.id.get())], &ConstGauge::new(value(status)))?;
            }
        }
        let help = "Last record that is in the state here";
        let mut series = Series::gauge(&mut to, "group_applied_offset", help)?;
        for group in groups {
            if let Ok(applied) = &group.applied {
                series.of(&[("group", group.id.get())], &ConstGauge::new(applied.get()))?;
            }
        }
        members(&mut to, groups)?;
        for (name, help, value) in GROUP_COUNTERS {
            let mut series = Series::counter(&mut to, name, help)?;
            for (group, status) in told(groups) {
                let value = ConstCounter::new(value(group, status));
                series.of(&[("group", group.id.get())], &value)?;
            }
        }
        let help = "Divergences that the group keeps, at most 64";
        let mut series = Series::gauge(&mut to, "group_divergences", help)?;
        for (group, count) in &shown.divergences {
            series.of(&[("group", group.get())], &ConstGauge::new(*count as u64))?;
        }
        let help = "What peers sent that was refused, by its cause";
        let mut series = Series::counter(&mut to, "peer_faults", help)?;
        for cause in PeerFault::ALL {
            let count = shown.sample.peer_faults.get(&cause).copied().unwrap_or(0);
            series.of(&[("cause", fault_word(cause))], &ConstCounter::new(count))?;
        }
        Ok(())
    }
}

/// Groups that could say how they are.
pub(super) fn told(groups: &[GroupSample]) -> impl Iterator<Item = (&GroupSample, &GroupStatus)> {
    groups.iter().filter_map(|group| Some((group, group.status.as_ref().ok()?)))
}

pub(super) fn one_if(is: bool) -> ConstGauge<u64> {
    ConstGauge::new(u64::from(is))
}

fn readiness(to: &mut DescriptorEncoder<'_>, of: Option<&Readiness>) -> Result<(), Error> {
    let state = of.map_or(State::Starting, |of| of.state);
    let mut series = Series::gauge(to, "readiness", "1 for the state that the node is in")?;
    for each in State::ALL {
        series.of(&[("state", each.as_str())], &one_if(each == state))?;
    }
    let help = "1 if the last write that tried the group went through";
    let mut series = Series::gauge(to, "group_ready", help)?;
    for group in of.map_or(&[][..], |of| &of.groups) {
        let ready = one_if(group.state == State::Ready);
        series.of(&[("group", group.group.get())], &ready)?;
    }
    Ok(())
}

fn members(to: &mut DescriptorEncoder<'_>, groups: &[GroupSample]) -> Result<(), Error> {
    let help = "1 for the role that this node has in the group";
    let mut series = Series::gauge(to, "group_role", help)?;
    for (group, status) in told(groups) {
        for each in ROLES {
            let group = group.id.to_string();
            let labels = [("group", group.as_str()), ("role", role_word(each))];
            series.of(&labels, &one_if(status.role == each))?;
        }
    }
    let help = "Members of the group, by what they do";
    let mut series = Series::gauge(to, "group_members", help)?;
    for (group, status) in told(groups) {
        for each in [MemberRole::Voter, MemberRole::Learner, MemberRole::Leaving] {
            let count = status.members.roles().filter(|(_, role)| *role == each).count();
            let group = group.id.to_string();
            let labels = [("group", group.as_str()), ("role", member_role_word(each))];
            series.of(&labels, &ConstGauge::new(count as u64))?;
        }
    }
    let help = "At the leader: 1 for a voter that answers";
    let mut series = Series::gauge(to, "group_voter_answers", help)?;
    for (group, status) in told(groups) {
        for voter in &status.voters {
            let labels = [("group", group.id.get()), ("node", voter.node.get())];
            series.of(&labels, &one_if(voter.answers))?;
        }
    }
    let help = "At the leader: entries that a voter is not known to have";
    let mut series = Series::gauge(to, "group_voter_entries_behind", help)?;
    for (group, status) in told(groups) {
        for voter in &status.voters {
            let labels = [("group", group.id.get()), ("node", voter.node.get())];
            series.of(&labels, &ConstGauge::new(voter.entries_behind))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use palisade::ClusterId;
    use palisade::tls::CertificateRole;

    use super::*;
    use crate::security::ca::{Authority, Ca, LeafOrder};
    use crate::security::files::write_secret;
    use crate::security::tls::TlsFiles;

    const PAGE: &str = include_str!("../../docs/observability.md");

    /// Who watches a node hears of a certificate that runs out before it has, and of files that are not taken.
    #[test]
    fn a_certificate_that_runs_out_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::init(&dir.path().join("ca"), ClusterId::new(1)).unwrap();
        let subject = ca.node(NodeId::new(1));
        let order = LeafOrder { subject, dns: Vec::new(), ips: Vec::new(), hours: 1 };
        let leaf = ca.issue(&order).unwrap();
        let files = TlsFiles {
            certificates: dir.path().join("leaf.pem"),
            key: dir.path().join("leaf.key"),
            authorities: dir.path().join("believed.pem"),
        };
        std::fs::write(&files.certificates, leaf.certificate_pem).unwrap();
        write_secret(&files.key, leaf.key_pem.unwrap().as_bytes()).unwrap();
        std::fs::write(&files.authorities, ca.bundle(Authority::Client).unwrap()).unwrap();
        let tls = Arc::new(files.callers(ca.cluster(), CertificateRole::Node).unwrap());
        let gate = Arc::new(Gate::new(ca.cluster(), Arc::clone(&tls)));
        let watch = Arc::new(TlsWatch::new(files.clone(), tls));
        watch.look();
        std::fs::write(&files.certificates, "half a certif").unwrap();
        watch.look();
        let secured = Secured { certificates: vec![("callers", watch)], gate: Some(gate) };
        let mut registry = Registry::with_prefix("palisade");
        registry
            .register_collector(Box::new(OfSecurity { secured: Arc::new(Mutex::new(secured)) }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}: {text}")).trim().parse::<f64>().unwrap()
        };
        let left = value("palisade_certificate_seconds_left{port=\"callers\"}");
        assert!(0.0 < left && left <= 3600.0, "{left}");
        assert_eq!(value("palisade_certificate_failures{port=\"callers\"}"), 1.0);
        assert_eq!(value("palisade_certificate_reloads_total{port=\"callers\"}"), 0.0);
        assert_eq!(value("palisade_grpc_handshakes_total{result=\"untrusted\"}"), 0.0);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.strip_prefix("palisade_").unwrap().split('{').next().unwrap();
            assert!(PAGE.contains(&format!("`{name}`")), "the page says nothing of {name}");
        }
        assert!(seconds_left(SystemTime::UNIX_EPOCH) < 0.0, "it is over");
    }

    #[test]
    fn every_cause_has_a_word_of_its_own() {
        let words: BTreeSet<&str> = PeerFault::ALL.map(fault_word).into();
        assert_eq!(words.len(), PeerFault::ALL.len());
        assert!(!words.contains("other"));
    }
}
