//! Three nodes on this machine, each a process of its own, kept up from one directory.
//!
//! ```text
//! DIR/node-1.toml   its configuration: loopback only, ports that were free when it was made
//! DIR/node-1.pid    which process it is, and when that began: a later one with its number is another
//! DIR/node-1.log    what it says
//! DIR/node-1/       its data
//! ```
//! The configurations are written once, before anything is started, and never changed: they can be edited.
//! A pid file is written after its process was started. If `up` dies between the two, that node is up and
//! nobody knows of it; the next `up` then finds its directory open, and says so.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::config::{ConfigError, Layers};
use crate::reports::{cross_provider_profile, three_domains};

const NODES: u64 = 3;
/// Ports of one node: peers, the report service, and the admin port.
const PORTS: usize = 3;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Looks until a cluster must be ready, or a node gone: a minute.
const LOOKS_MAX: u32 = 1200;

/// The directory of a local cluster.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    dir: PathBuf,
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
    /// Where its report service is.
    pub reports: String,
    /// Where its console is.
    pub admin: String,
    /// Its configuration.
    pub config: PathBuf,
    /// What it says.
    pub log: PathBuf,
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
    /// The cluster of a directory; a new one if there is none.
    ///
    /// # Errors
    /// When the directory cannot be written to, or no ports are free.
    pub fn found(dir: &Path) -> Result<Self, LocalError> {
        if let Ok(cluster) = Self::open(dir) {
            return Ok(cluster);
        }
        fs::create_dir_all(dir).map_err(io_error(format!("make {}", dir.display())))?;
        let cluster = Self { dir: dir.to_owned() };
        let ports = free_ports().map_err(io_error("find free ports"))?;
        let id = random_cluster().map_err(io_error("draw a cluster's number"))?;
        // The last one last: with it the cluster is there.
        for node in 1..=NODES {
            let path = cluster.config(node);
            fs::write(&path, configuration(node, &id, &ports))
                .map_err(io_error(format!("write {}", path.display())))?;
        }
        Ok(cluster)
    }

    /// The cluster of a directory.
    ///
    /// # Errors
    /// [`LocalError::NotThere`] if there is none.
    pub fn open(dir: &Path) -> Result<Self, LocalError> {
        let cluster = Self { dir: dir.to_owned() };
        match cluster.config(NODES).exists() {
            true => Ok(cluster),
            false => Err(LocalError::NotThere { dir: dir.to_owned() }),
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
                started.push((id, self.spawn(id, program)?));
            }
        }
        for node in self.nodes()? {
            self.wait_for(&node, &mut started).await?;
        }
        Ok(())
    }

    fn spawn(&self, id: u64, program: &Path) -> Result<Child, LocalError> {
        let path = self.log(id);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(io_error(format!("open {}", path.display())))?;
        let mut command = Command::new(program);
        command.arg("node").arg("--config").arg(self.config(id));
        forget_environment(&mut command);
        // Ctrl-C is for whoever is in front of the terminal.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn().map_err(io_error(format!("start node {id}")))?;
        let pid = child.id();
        let began = began(pid).unwrap_or_default();
        let path = self.pid_file(id);
        fs::write(&path, format!("{pid} {began}\n"))
            .map_err(io_error(format!("write {}", path.display())))?;
        Ok(child)
    }

    async fn wait_for(
        &self,
        node: &LocalNode,
        started: &mut [(u64, Child)],
    ) -> Result<(), LocalError> {
        let url = format!("http://{}/healthz", node.reports);
        for _ in 0..LOOKS_MAX {
            for (id, child) in started.iter_mut() {
                // One that cannot be asked is looked for by its service.
                if let Ok(Some(_)) = child.try_wait() {
                    return Err(LocalError::Ended { id: *id, log: self.log(*id) });
                }
            }
            let answer = reqwest::get(&url).await;
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
    /// When one does not end within a minute.
    pub async fn stop(&self) -> Result<Vec<(u64, u32)>, LocalError> {
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

/// A node of ours is configured by what we say, whatever is configured for others here.
pub(crate) fn forget_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PALISADE_")) {
            command.env_remove(name);
        }
    }
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

fn configuration(id: u64, cluster: &str, ports: &[SocketAddr]) -> String {
    let domains = three_domains(&cross_provider_profile());
    let of = |node: u64| &ports[(node as usize - 1) * PORTS..];
    let mut text = format!(
        "# Written by `palisade up` when this cluster was made, and not again: it can be edited.\n\
         [node]\nid = {id}\ncluster = \"{cluster}\"\nmode = \"raft\"\ndata_dir = \"node-{id}\"\n\
         domain = \"{}\"\n\n[listen]\npeers = \"{}\"\nadmin = \"{}\"\n\n[reports]\nlisten = \"{}\"\n\n\
         [security]\n# Everyone on this machine may come in, and nobody else can.\n\
         mode = \"insecure-loopback\"\n",
        domains[id as usize - 1],
        of(id)[0],
        of(id)[2],
        of(id)[1],
    );
    for node in 1..=NODES {
        let domain = &domains[node as usize - 1];
        let _ = write!(
            text,
            "\n[[voters]]\nid = {node}\naddress = \"{}\"\ndomain = \"{domain}\"\n",
            of(node)[0]
        );
    }
    text
}

fn free_ports() -> io::Result<Vec<SocketAddr>> {
    let listeners: io::Result<Vec<TcpListener>> =
        (0..NODES as usize * PORTS).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}

fn random_cluster() -> io::Result<String> {
    let mut raw = [0; 16];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut raw)?;
    // Zero is no cluster.
    raw[15] |= 1;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let cluster = LocalCluster::found(dir.path()).unwrap();
        for id in 1..=NODES {
            let layers = Layers { file: Some(cluster.config(id)), ..Layers::default() };
            let config = layers.resolve().unwrap().config().unwrap();
            assert_eq!(config.node.id.get(), id);
            assert_eq!(config.node.voters.len(), NODES as usize);
            assert_eq!(config.node.data_dir, dir.path().join(format!("node-{id}")));
        }
        let before = fs::read(cluster.config(1)).unwrap();
        LocalCluster::found(dir.path()).unwrap();
        assert_eq!(fs::read(cluster.config(1)).unwrap(), before, "written once");
    }
}
