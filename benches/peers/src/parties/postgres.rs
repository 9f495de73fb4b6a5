//! One PostgreSQL without a replica, and the usual table of requests: one row for each, put there once.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palisade_benches::{Payloads, closed_loop, free_addresses};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement};

use super::pool::Pool;
use super::{fingerprint, run_id};
use crate::load::{Load, Told, Work};
use crate::party::{Party, not_offered};
use crate::server::{
    Program, Server, Unavailable, found, give, processes, run, stop_all, text, until_up,
};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Where Debian keeps its programs, off the path: below a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// It refuses to be root.
const USER: &str = "postgres";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS requests (id text PRIMARY KEY, fingerprint bytea NOT NULL, \
                     payload bytea NOT NULL, status text NOT NULL, result bytea)";
const SUBMIT: &str = "INSERT INTO requests (id, fingerprint, payload, status, result) \
                      VALUES ($1, $2, $3, 'done', $4) ON CONFLICT (id) DO NOTHING";

pub(crate) struct Postgres {
    servers: Vec<Server>,
    config: String,
}

/// A connection with its statement.
type Prepared = (Client, Statement);

/// A program of its: on the path, or else Debian's newest.
pub(crate) fn program(name: &str) -> String {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin").join(name)).max();
    match newest.filter(|_| found(name).is_none()) {
        Some(newest) => newest.display().to_string(),
        None => name.to_owned(),
    }
}

impl Postgres {
    pub(crate) async fn start(dir: &Path) -> Result<Self, Unavailable> {
        let data = dir.join("postgres");
        fs::create_dir_all(&data).map_err(text)?;
        give(&data, USER).await?;
        let folder = data.display().to_string();
        let args = ["-D", &folder, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"];
        let args = args.map(str::to_owned).to_vec();
        run(&Program { at: program("initdb"), args, user: Some(USER) }).await?;
        let port = free_addresses(1)?[0].port().to_string();
        let mut args = vec!["-D".to_owned(), folder, "-p".to_owned(), port.clone()];
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=1100",
            "fsync=on",
            "synchronous_commit=on",
            "shared_buffers=1GB",
            "max_wal_size=8GB",
        ] {
            args.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let program = Program { at: program("postgres"), args, user: Some(USER) };
        let mut servers = vec![Server::start("postgres", dir, &program)?];
        let config = format!("host=127.0.0.1 port={port} user={USER} dbname=postgres");
        until_up(&mut servers, START_TIMEOUT, async || {
            let mut tasks = JoinSet::new();
            let client = connect(&config, &mut tasks).await?;
            client.batch_execute(TABLE).await.map_err(text)
        })
        .await?;
        Ok(Self { servers, config })
    }
}

async fn connect(config: &str, tasks: &mut JoinSet<()>) -> Result<Client, String> {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await.map_err(text)?;
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("a connection to PostgreSQL ended: {error}");
        }
    });
    Ok(client)
}

#[tonic::async_trait]
impl Party for Postgres {
    fn processes(&self) -> Vec<u32> {
        processes(&self.servers)
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        if load.work != Work::Submit {
            return Err(not_offered(load));
        }
        let mut tasks = JoinSet::new();
        let mut clients: Vec<Prepared> = Vec::new();
        for _ in 0..load.in_flight {
            let client = connect(&self.config, &mut tasks).await?;
            let statement = client.prepare(SUBMIT).await.map_err(text)?;
            clients.push((client, statement));
        }
        let (clients, payloads) = (Pool::of(clients), Payloads::of(load.bytes));
        let run: Arc<str> = run_id()?.into();
        let submit = move |number: u64| {
            let (clients, value) = (clients.clone(), payloads.get(number));
            let id = format!("{run}-{number}");
            async move {
                let prepared = clients.take()?;
                let (client, statement) = &prepared;
                let fingerprint = fingerprint(&value);
                let done = client
                    .execute(statement, &[&id, &fingerprint, &&value[..], &&b"done"[..]])
                    .await
                    .map_err(text)?;
                clients.put(prepared);
                if done == 1 { Ok(()) } else { Err("a request was there before".to_owned()) }
            }
        };
        let sample = closed_loop(load.in_flight as usize, load.length, submit).await?;
        tasks.shutdown().await;
        Ok(sample.into())
    }

    async fn stop(self: Box<Self>) {
        stop_all(self.servers).await;
    }
}
