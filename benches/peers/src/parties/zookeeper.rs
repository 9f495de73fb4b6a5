//! Three ZooKeeper servers; sessions are spread over them, as its clients do.

use std::fs;
use std::path::Path;
use std::time::Duration;

use palisade_benches::{Payloads, Until, closed_loop, free_addresses};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::load::{Load, Told, Work};
use crate::party::{Party, not_offered};
use crate::server::{Program, Server, Unavailable, processes, stop_all, text, until_up};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const FILL_CALLERS: usize = 64;
/// Of Debian's package, with another name beside it that has its version.
const JAR: &str = "/usr/share/java/zookeeper.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// Which one it is, as Debian names its file.
pub(crate) fn version() -> String {
    let files = fs::read_dir(Path::new(JAR).with_file_name("")).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let of = |name: String| {
        let version = name.strip_prefix("zookeeper-")?.strip_suffix(".jar")?;
        version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
    };
    names.filter_map(of).next().unwrap_or_else(|| "not installed".to_owned())
}

pub(crate) struct Zookeeper {
    servers: Vec<Server>,
    clients: Vec<String>,
    filled: Option<(u64, usize)>,
}

impl Zookeeper {
    pub(crate) async fn start(dir: &Path) -> Result<Self, Unavailable> {
        if !Path::new(JAR).is_file() {
            return Err(Unavailable::NotInstalled("zookeeper".to_owned()));
        }
        let addresses = free_addresses(9)?;
        let ports: Vec<u16> = addresses.iter().map(std::net::SocketAddr::port).collect();
        let servers_of_all: Vec<String> = (0..3)
            .map(|at| format!("server.{}=127.0.0.1:{}:{}", at + 1, ports[at], ports[at + 3]))
            .collect();
        let mut servers = Vec::new();
        for at in 0..3 {
            let data = dir.join(format!("zookeeper-{at}"));
            fs::create_dir_all(&data).map_err(text)?;
            fs::write(data.join("myid"), format!("{}\n", at + 1)).map_err(text)?;
            let config = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n\
                 4lw.commands.whitelist=ruok\nclientPortAddress=127.0.0.1\n\
                 dataDir={}\nclientPort={}\n{}\n",
                data.display(),
                ports[at + 6],
                servers_of_all.join("\n")
            );
            let file = data.join("zoo.cfg");
            fs::write(&file, config).map_err(text)?;
            let args = ["-Xmx1g", "-cp", JAR, MAIN].map(str::to_owned);
            let args = args.into_iter().chain([file.display().to_string()]).collect();
            let program = Program { at: "java".to_owned(), args, user: None };
            servers.push(Server::start(&format!("zookeeper-{at}"), dir, &program)?);
        }
        let clients: Vec<String> = addresses[6..].iter().map(ToString::to_string).collect();
        let all = clients.clone();
        until_up(&mut servers, START_TIMEOUT, async || {
            for address in &all {
                Client::connect(address).await.map_err(text)?;
            }
            Ok(())
        })
        .await?;
        Ok(Self { servers, clients, filled: None })
    }

    /// Sessions with each server.
    async fn connect(&self) -> Result<Vec<Client>, String> {
        let mut clients = Vec::new();
        for address in self.clients.iter().chain(&self.clients) {
            clients.push(Client::connect(address).await.map_err(text)?);
        }
        Ok(clients)
    }

    async fn fill(&mut self, load: &Load) -> Result<(), String> {
        let wanted = (load.keys.count(), load.bytes);
        if self.filled != Some(wanted) {
            let (clients, payloads) = (self.connect().await?, Payloads::of(load.bytes));
            let create = move |number: u64| {
                let client = clients[number as usize % clients.len()].clone();
                let (path, value) = (path(number), payloads.get(number));
                async move {
                    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                    match client.create(&path, &value, &options).await {
                        Ok(_) | Err(Error::NodeExists) => Ok(()),
                        Err(error) => Err(error.to_string()),
                    }
                }
            };
            closed_loop(FILL_CALLERS, Until::Requests(wanted.0), create).await?;
            self.filled = Some(wanted);
        }
        Ok(())
    }
}

fn path(at: u64) -> String {
    format!("/key-{at}")
}

#[tonic::async_trait]
impl Party for Zookeeper {
    fn processes(&self) -> Vec<u32> {
        processes(&self.servers)
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        if load.work != Work::Put {
            return Err(not_offered(load));
        }
        self.fill(load).await?;
        let (clients, payloads, keys) =
            (self.connect().await?, Payloads::of(load.bytes), load.keys);
        let set = move |number: u64| {
            let client = clients[number as usize % clients.len()].clone();
            let (path, value) = (path(keys.key(number)), payloads.get(number));
            async move { client.set_data(&path, &value, None).await.map(|_| ()).map_err(text) }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, set).await?.into())
    }

    async fn stop(self: Box<Self>) {
        stop_all(self.servers).await;
    }
}
