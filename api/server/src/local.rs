//! Three nodes on this machine, each a process of its own, kept up from one directory.
//!
//! ```text
//! DIR/node-1.toml   its configuration: loopback only, ports that were free when it was made
//! DIR/node-1.pid    which process it is, and when that began: a later one with its number is another
//! DIR/node-1.log    what it says
//! DIR/node-1/       its data
//! DIR/backups/      backups, of whichever node
//! DIR/lock          held by whoever starts or stops nodes
//! ```
//! The configurations are written once, before anything is started, and never changed: they can be edited.
//! A pid file is written after its process was started. If `up` dies between the two, that node is up and
//! nobody knows of it; the next `up` then finds its directory open, and says so.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use palisade::PlacementProfile;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::config::{ConfigError, Layers, NodeFile, VoterText, random_cluster};
use crate::reports::three_domains;
use crate::security::files::make_dir;

const NODES: u64 = 3;
/// Ports of one node: peers, callers, the report service, and the admin port.
const PORTS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a node may take to say that it serves.
const ANSWER: Duration = Duration::from_secs(2);
/// Looks until a cluster must be ready, or a node gone: a minute.
const LOOKS_MAX: u32 = 1200;

/// The directory of a local cluster.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    dir: PathBuf,
    /// Held by who founded it, for as long as it is in use.
    lock: Option<Arc<File>>,
}

/// One of its nodes.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// Which one.
    pub id: u64,
    /// Its process, if it is up.
    pub pid: Option<u32>,
    /// Where the others reach it.
    pub peers: String,
    /// Where callers reach it, if it serves any.
    pub grpc: Option<String>,
    /// Where its report service is.
    pub reports: String,
    /// Where its console is.
    pub admin: String,
    /// Its configuration.
    pub config: PathBuf,
    /// What it says.
    pub log: PathBuf,
}

/// When a node's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// When it is told to.
    WhenTold,
    /// With whoever started it, too, if that is told from a terminal.
    WithTheTerminal,
}

/// Why a local cluster is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// There is none.
    #[error("{dir} holds no local cluster", dir = .dir.display())]
    NotThere {
        /// Where.
        dir: PathBuf,
    },
    /// The file system or the system refuses.
    #[error("could not {what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// What it says.
        source: io::Error,
    },
    /// Another `palisade up` or `down` is at it.
    #[error("another palisade up or down is under way in {dir}", dir = .dir.display())]
    Busy {
        /// Where.
        dir: PathBuf,
    },
    /// A configuration was changed into one that is wrong.
    #[error("a configuration is wrong")]
    Config(Vec<ConfigError>),
    /// A node ended while it was starting.
    #[error("node {id} ended while it was starting, see {log}", log = .log.display())]
    Ended {
        /// Which one.
        id: u64,
        /// What it said.
        log: PathBuf,
    },
    /// They are up, and do not serve in time.
    #[error("node {id} does not serve after a minute")]
    NotReady {
        /// Which one.
        id: u64,
    },
    /// A node does not end.
    #[error("node {id} is still up a minute after it was told to end, process {pid}")]
    StillUp {
        /// Which one.
        id: u64,
        /// Its process.
        pid: u32,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LocalError {
    let what = what.into();
    move |source| LocalError::Io { what, source }
}

impl LocalCluster {
    /// The cluster of a directory; a new one, whose report service has this profile, if there is none.
    ///
    /// # Errors
    /// When the directory cannot be written to, no ports are free, or somebody else starts or stops nodes here.
    pub fn found(dir: &Path, profile: &PlacementProfile) -> Result<Self, LocalError> {
        make_dir(dir).map_err(io_error(format!("make {}", dir.display())))?;
        let mut cluster = Self { dir: dir.to_owned(), lock: None };
        cluster.lock = Some(Arc::new(cluster.locked()?));
        if cluster.config(NODES).exists() {
            return Ok(cluster);
        }
        let ports = free_ports().map_err(io_error("find free ports"))?;
        let id = random_cluster().map_err(io_error("draw a cluster's number"))?;
        // The last one last: with it the cluster is there.
        for node in 1..=NODES {
            let path = cluster.config(node);
            fs::write(&path, configuration(node, &id, &ports, profile).to_string())
                .map_err(io_error(format!("write {}", path.display())))?;
        }
        Ok(cluster)
    }

    /// The cluster of a directory.
    ///
    /// # Errors
    /// [`LocalError::NotThere`] if there is none.
    pub fn open(dir: &Path) -> Result<Self, LocalError> {
        let cluster = Self { dir: dir.to_owned(), lock: None };
        match cluster.config(NODES).exists() {
            true => Ok(cluster),
            false => Err(LocalError::NotThere { dir: dir.to_owned() }),
        }
    }

    /// Keeps others from starting and stopping nodes here, until the file is closed.
    fn locked(&self) -> Result<File, LocalError> {
        let path = self.dir.join("lock");
        let what = || format!("lock {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io_error(what()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK) => Err(LocalError::Busy { dir: self.dir.clone() }),
            Err(error) => Err(io_error(what())(error.into())),
        }
    }

    fn config(&self, node: u64) -> PathBuf {
        self.dir.join(format!("node-{node}.toml"))
    }

    fn log(&self, node: u64) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    fn pid_file(&self, node: u64) -> PathBuf {
        self.dir.join(format!("node-{node}.pid"))
    }

    /// Its nodes, as they are now.
    ///
    /// # Errors
    /// When a configuration was made wrong.
    pub fn nodes(&self) -> Result<Vec<LocalNode>, LocalError> {
        let of = |id| {
            let layers = Layers { file: Some(self.config(id)), ..Layers::default() };
            let resolved = layers.resolve().map_err(LocalError::Config)?;
            let text = |key: &str| {
                resolved.get(key).map_or("-".to_owned(), |(value, _)| value.to_string())
            };
            Ok(LocalNode {
                id,
                pid: self.process(id).map(|process| process.pid),
                peers: text("listen.peers"),
                grpc: resolved.get("listen.grpc").map(|(value, _)| value.to_string()),
                reports: text("reports.listen"),
                admin: text("listen.admin"),
                config: self.config(id),
                log: self.log(id),
            })
        };
        (1..=NODES).map(of).collect()
    }

    /// The process of a node, if that very one is up.
    fn process(&self, node: u64) -> Option<Process> {
        let text = fs::read_to_string(self.pid_file(node)).ok()?;
        let (pid, began) = text.trim().split_once(' ')?;
        let process = Process { pid: pid.parse().ok()?, began: began.parse().ok()? };
        process.is_up().then_some(process)
    }

    /// Starts the nodes that are not up, and waits until all of them serve.
    ///
    /// # Errors
    /// When one ends, or they do not serve within a minute. What was started stays up.
    pub async fn start(&self, program: &Path) -> Result<(), LocalError> {
        let mut started = Vec::new();
        for id in 1..=NODES {
            if self.process(id).is_none() {
                let child = self.spawn(id, program, Ends::WhenTold)?;
                self.remember(id, &child)?;
                started.push((id, child));
            }
        }
        for node in self.nodes()? {
            self.wait_for(&node, &mut started).await?;
        }
        Ok(())
    }

    /// Starts a node on whatever its directory holds.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn spawn(&self, id: u64, program: &Path, ends: Ends) -> Result<Child, LocalError> {
        let path = self.log(id);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(io_error(format!("open {}", path.display())))?;
        let mut command = Command::new(program);
        command.arg("node").arg("--config").arg(self.config(id));
        // It is configured by what we say, whatever is configured for others here.
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(b"PALISADE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        if ends == Ends::WhenTold {
            // Ctrl-C is for whoever is in front of the terminal.
            command.process_group(0);
        }
        command.spawn().map_err(io_error(format!("start node {id}")))
    }

    /// Remembers which process a node is.
    fn remember(&self, id: u64, child: &Child) -> Result<(), LocalError> {
        let pid = child.id();
        let path = self.pid_file(id);
        fs::write(&path, format!("{pid} {}\n", began(pid).unwrap_or_default()))
            .map_err(io_error(format!("write {}", path.display())))
    }

    async fn wait_for(
        &self,
        node: &LocalNode,
        started: &mut [(u64, Child)],
    ) -> Result<(), LocalError> {
        let http = http_client(ANSWER).map_err(|error| LocalError::Io {
            what: "make an HTTP client".to_owned(),
            source: io::Error::other(error),
        })?;
        let url = format!("http://{}/healthz", node.reports);
        for _ in 0..LOOKS_MAX {
            for (id, child) in started.iter_mut() {
                // One that cannot be asked is looked for by its service.
                if let Ok(Some(_)) = child.try_wait() {
                    return Err(LocalError::Ended { id: *id, log: self.log(*id) });
                }
            }
            let answer = http.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        Err(LocalError::NotReady { id: node.id })
    }

    /// Tells the nodes that are up to end, and waits until they have. Says which ones, and which processes
    /// they were.
    ///
    /// # Errors
    /// When one does not end within a minute, or somebody else starts or stops nodes here.
    pub async fn stop(&self) -> Result<Vec<(u64, u32)>, LocalError> {
        let _lock = match &self.lock {
            Some(lock) => Arc::clone(lock),
            None => Arc::new(self.locked()?),
        };
        let mut told = Vec::new();
        for id in 1..=NODES {
            if let Some(process) = self.process(id) {
                process.end().map_err(io_error(format!("end process {}", process.pid)))?;
                told.push((id, process));
            }
        }
        for (id, process) in &told {
            let mut looks = 0;
            while process.is_up() {
                looks += 1;
                if looks > LOOKS_MAX {
                    return Err(LocalError::StillUp { id: *id, pid: process.pid });
                }
                sleep(LOOK_EVERY).await;
            }
        }
        for id in 1..=NODES {
            match fs::remove_file(self.pid_file(id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(format!("remove the pid file of node {id}"))(error));
                }
                _ => {}
            }
        }
        Ok(told.into_iter().map(|(id, process)| (id, process.pid)).collect())
    }
}

/// A client of nodes on this machine: no proxy is asked, and nobody is waited for without an end.
///
/// # Errors
/// When the system gives it no randomness or no certificates.
pub(crate) fn http_client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder().no_proxy().timeout(timeout).build()
}

/// A process, told from others that had its number before or will have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// In ticks since the machine was started.
    began: u64,
}

impl Process {
    fn is_up(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    /// SIGTERM, if it is still the same one.
    fn end(&self) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match pid.filter(|_| self.is_up()) {
            Some(pid) => Ok(kill_process(pid, Signal::TERM)?),
            None => Ok(()),
        }
    }
}

/// When a process began; none if there is none that still runs.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before can hold anything, brackets too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    // The 22nd of all: the state is the third.
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

fn configuration(
    id: u64,
    cluster: &str,
    ports: &[SocketAddr],
    profile: &PlacementProfile,
) -> NodeFile {
    let domains = three_domains(profile);
    let of = |node: u64| &ports[(node as usize - 1) * PORTS..];
    let voter = |node: u64| VoterText {
        id: node,
        address: of(node)[0],
        domain: Some(domains[node as usize - 1].clone()),
    };
    NodeFile {
        written_by: "palisade up",
        node: voter(id),
        cluster: cluster.to_owned(),
        data_groups: 1,
        voters: (1..=NODES).map(voter).collect(),
        grpc: of(id)[1],
        reports: Some((of(id)[2], profile.name.clone())),
        admin: Some(of(id)[3]),
        // One for all of them: any node can take the next backup.
        backup_dir: Some("backups"),
        admins: Vec::new(),
        is_loopback: true,
    }
}

fn free_ports() -> io::Result<Vec<SocketAddr>> {
    let listeners: io::Result<Vec<TcpListener>> =
        (0..NODES as usize * PORTS).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::cross_provider_profile;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let own = Process { pid: std::process::id(), began: began(std::process::id()).unwrap() };
        assert!(own.is_up());
        // Another one that had or will have the number is never ended.
        let other = Process { began: own.began + 1, ..own };
        assert!(!other.is_up());
        other.end().unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process { pid: child.id(), began: began(child.id()).unwrap() };
        assert!(process.is_up());
        process.end().unwrap();
        child.wait().unwrap();
        assert!(!process.is_up());
    }

    #[test]
    fn what_is_written_is_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(LocalCluster::open(dir.path()), Err(LocalError::NotThere { .. })));
        let cluster = LocalCluster::found(dir.path(), &cross_provider_profile()).unwrap();
        for id in 1..=NODES {
            let layers = Layers { file: Some(cluster.config(id)), ..Layers::default() };
            let config = layers.resolve().unwrap().config().unwrap();
            assert_eq!(config.node.id.get(), id);
            assert_eq!(config.node.voters.len(), NODES as usize);
            assert_eq!(config.node.data_dir, dir.path().join(format!("node-{id}")));
        }
        let before = fs::read(cluster.config(1)).unwrap();
        // One at a time; who only looks is not held up.
        assert!(matches!(
            LocalCluster::found(dir.path(), &cross_provider_profile()),
            Err(LocalError::Busy { .. })
        ));
        let stopped = LocalCluster::open(dir.path()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        assert!(matches!(runtime.block_on(stopped.stop()), Err(LocalError::Busy { .. })));
        drop(cluster);
        let cluster = LocalCluster::found(dir.path(), &cross_provider_profile()).unwrap();
        assert_eq!(fs::read(cluster.config(1)).unwrap(), before, "written once");
    }
}
