//! Three node processes, as `palisade up` starts them; killed and started again by pid.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;

use super::DemoSettings;
use crate::local::{Ends, LocalCluster};

/// The processes of the demo. None of them outlives it.
pub(super) struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    remove: bool,
    local: LocalCluster,
    nodes: [NodeProcess; 3],
}

struct NodeProcess {
    id: u64,
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
        let local = LocalCluster::found(&dir, &settings.profile);
        let local = local.map_err(|error| error.to_string())?;
        let nodes = local.nodes().map_err(|error| error.to_string())?;
        let process = |at: usize| {
            let http = nodes[at].reports.parse();
            let http = http.map_err(|_| format!("{} is no address", nodes[at].reports))?;
            let admin = nodes[at].admin.parse();
            let admin = admin.map_err(|_| format!("{} is no address", nodes[at].admin))?;
            Ok::<_, String>(NodeProcess { id: nodes[at].id, http, admin, child: None })
        };
        let nodes = [process(0)?, process(1)?, process(2)?];
        let mut cluster = Self { program: settings.program.clone(), dir, remove, local, nodes };
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
        let node = &mut self.nodes[at];
        let child = self.local.spawn(node.id, &self.program, Ends::WithTheTerminal);
        node.child = Some(child.map_err(|error| error.to_string())?);
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
