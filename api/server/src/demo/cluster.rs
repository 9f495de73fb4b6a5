//! Three node processes, each with its own data directory; killed and started again by pid.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use palisade::FailureDomain;

use super::DemoSettings;
use crate::local::forget_environment;
use crate::reports::three_domains;

/// The demo's own.
const CLUSTER: &str = "00000000000000000000000000000001";

/// The processes of the demo. None of them outlives it.
pub(super) struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    remove: bool,
    profile: String,
    nodes: [NodeProcess; 3],
}

struct NodeProcess {
    id: u64,
    domain: FailureDomain,
    peer: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

impl Cluster {
    pub(super) async fn start(settings: &DemoSettings) -> Result<Self, String> {
        let (dir, remove) = match &settings.dir {
            Some(dir) => (dir.clone(), false),
            None => {
                let name = format!("palisade-demo-{}", std::process::id());
                (std::env::temp_dir().join(name), true)
            }
        };
        let ports = free_addresses()?;
        let mut domains = three_domains(&settings.profile).into_iter();
        let nodes = [0, 1, 2].map(|at| NodeProcess {
            id: at as u64 + 1,
            domain: domains.next().expect("three domains"),
            peer: ports[3 * at],
            http: ports[3 * at + 1],
            admin: ports[3 * at + 2],
            child: None,
        });
        let program = settings.program.clone();
        let profile = settings.profile.name.clone();
        let mut cluster = Self { program, dir, remove, profile, nodes };
        for at in 0..3 {
            cluster.start_node(at)?;
        }
        let client = super::Client::new(cluster.addresses())?;
        client.wait_ready().await?;
        Ok(cluster)
    }

    pub(super) fn addresses(&self) -> [SocketAddr; 3] {
        self.nodes.each_ref().map(|node| node.http)
    }

    /// Where their consoles are.
    pub(super) fn consoles(&self) -> [String; 3] {
        self.nodes.each_ref().map(|node| format!("http://{}/", node.admin))
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref().map(Child::id)).collect()
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Starts a node on whatever its directory holds.
    pub(super) fn start_node(&mut self, at: usize) -> Result<(), String> {
        let data = self.dir.join(format!("node-{}", at + 1));
        std::fs::create_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        let log_path = data.join("node.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(|error| format!("{}: {error}", log_path.display()))?;
        let mut command = Command::new(&self.program);
        let node = &self.nodes[at];
        forget_environment(&mut command);
        let voters: Vec<String> =
            self.nodes.iter().map(|voter| format!("{}={}", voter.id, voter.peer)).collect();
        command
            .args(["node", "--insecure-loopback", "--node-mode", "raft"])
            .args(["--node-cluster", CLUSTER, "--node-id", &node.id.to_string()])
            .args(["--node-domain", &node.domain.to_string()])
            .args(["--listen-peers", &node.peer.to_string()])
            .args(["--listen-admin", &node.admin.to_string()])
            .args(["--reports-listen", &node.http.to_string()])
            .args(["--reports-profile", &self.profile, "--voters", &voters.join(",")])
            .arg("--node-data-dir")
            .arg(&data);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("could not start node {}: {error}", node.id))?;
        self.nodes[at].child = Some(child);
        Ok(())
    }

    /// SIGKILL: the process gets no chance to write or say anything more.
    pub(super) fn kill(&mut self, at: usize) -> Result<(), String> {
        let Some(mut child) = self.nodes[at].child.take() else { return Ok(()) };
        child
            .kill()
            .and_then(|()| child.wait())
            .map(|_| ())
            .map_err(|error| format!("could not kill node {}: {error}", at + 1))
    }

    /// SIGKILL to every process before any has ended.
    pub(super) fn kill_all(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                child
                    .kill()
                    .map_err(|error| format!("could not kill node {}: {error}", node.id))?;
            }
        }
        (0..3).try_for_each(|at| self.kill(at))
    }

    /// Ends all processes and removes what they wrote, if it was made for the demo.
    pub(super) fn stop(&mut self) {
        for at in 0..3 {
            if let Err(error) = self.kill(at) {
                eprintln!("{error}");
            }
        }
        if self.remove
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("could not remove {}: {error}", self.dir.display());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Nine loopback addresses that nobody listens on now.
fn free_addresses() -> Result<Vec<SocketAddr>, String> {
    let listeners: Result<Vec<TcpListener>, _> =
        (0..9).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    listeners
        .and_then(|listeners| listeners.iter().map(TcpListener::local_addr).collect())
        .map_err(|error| format!("no free port: {error}"))
}
