//! Logs of one process: our wal alone, and libraries that a user would take instead. Each is opened in a
//! process of its own, so that what it takes is told apart.
//!
//! One entry is appended at a time, by threads that block until it is synced; what shares a sync is the
//! engine's affair.

mod fjall;
mod ours;
mod raft_engine;
mod redb;
mod rocksdb;

use std::path::Path;

use palisade_benches::{Payloads, closed_loop_of_threads};

use crate::load::{Load, Told, Work};
use crate::party::{Party, not_offered};
use crate::server::{Talker, answer, text};

/// What our own wal is called where an engine is named.
pub(crate) const OURS: &str = "palisade-wal";

/// An engine that is open.
trait Engine: Sync {
    /// Appends the entry of this number, which comes once, and returns when it is synced.
    fn append(&self, number: u64, entry: &[u8]) -> Result<(), String>;

    /// Does another work than that.
    fn load(&self, load: &Load) -> Result<Told, String> {
        Err(not_offered(load))
    }

    /// How often it has synced, if it counts.
    fn syncs(&self) -> Option<u64> {
        None
    }
}

fn open(name: &str, dir: &Path) -> Result<Box<dyn Engine + Send>, String> {
    Ok(match name {
        OURS => Box::new(ours::PalisadeWal::open(dir)?),
        "raft-engine" => Box::new(raft_engine::RaftEngine::open(dir)?),
        "rocksdb" => Box::new(rocksdb::RocksdbWal::open(dir)?),
        "redb" => Box::new(redb::Redb::open(dir)?),
        "fjall" => Box::new(fjall::Fjall::open(dir)?),
        other => return Err(format!("no engine is named {other}")),
    })
}

/// A process with one engine.
pub(crate) struct Embedded {
    process: Talker,
}

/// What it is asked.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Question {
    Load(Load),
    Syncs,
}

impl Embedded {
    pub(crate) async fn start(name: &str, dir: &Path) -> Result<Self, String> {
        let dir = dir.join(name).display().to_string();
        let args = ["embedded", "--engine", name, "--dir", &dir].map(str::to_owned);
        let mut process = Talker::start(&args)?;
        process.hear::<()>().await?;
        Ok(Self { process })
    }
}

#[tonic::async_trait]
impl Party for Embedded {
    fn processes(&self) -> Vec<u32> {
        self.process.process().into_iter().collect()
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        self.process.ask(&Question::Load(*load)).await
    }

    async fn syncs(&mut self) -> Result<Option<u64>, String> {
        self.process.ask(&Question::Syncs).await
    }

    async fn stop(self: Box<Self>) {
        self.process.stop().await;
    }
}

/// The process itself: does what its standard input asks until that ends.
pub(crate) fn serve(name: &str, dir: &Path) -> Result<(), String> {
    let engine = open(name, dir)?;
    answer(Ok(()))?;
    let mut first = 0;
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line.map_err(text)?).map_err(text)? {
            Question::Load(load) => {
                answer(run(&*engine, &load, first))?;
                first += 1 << 40;
            }
            Question::Syncs => answer(Ok(engine.syncs()))?,
        }
    }
    Ok(())
}

/// One run. Numbers of entries begin at the first, which no run before has come to.
fn run(engine: &(dyn Engine + Send), load: &Load, first: u64) -> Result<Told, String> {
    if load.work != Work::Wal {
        return engine.load(load);
    }
    let payloads = Payloads::of(load.bytes);
    let append = |number| engine.append(first + number, &payloads.get(number));
    Ok(closed_loop_of_threads(load.in_flight as usize, load.length, append)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Length, Way};

    /// Each engine takes entries of several threads, and ours those of one that does not wait.
    #[test]
    fn every_engine_takes_entries() {
        for name in [OURS, "raft-engine", "rocksdb", "redb", "fjall"] {
            let dir = tempfile::tempdir().unwrap();
            let engine = open(name, dir.path()).unwrap();
            let keys = "uniform:1".parse().unwrap();
            let length = Length::Requests(20);
            let (work, way) = (Work::Wal, Way::Wal);
            let load = Load { work, way, in_flight: 4, bytes: 128, length, keys };
            for first in [0, 1 << 40] {
                run(&*engine, &load, first).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            let in_flight = run(&*engine, &Load { work: Work::WalInFlight, ..load }, 2 << 40);
            assert_eq!(in_flight.is_ok(), name == OURS, "{name}");
        }
    }
}
