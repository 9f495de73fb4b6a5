//! The parties: Palisade's nodes, and servers that a user would run instead, each as processes on loopback
//! with their data below one folder.

mod echo;
mod etcd;
mod jetstream;
mod ours;
mod pool;
mod postgres;
mod redis;
mod zookeeper;

pub(crate) use echo::{Echo, serve as serve_echo};
pub(crate) use etcd::Etcd;
pub(crate) use jetstream::{Jetstream, PROGRAM as NATS_SERVER};
pub(crate) use ours::{Ours, serve as serve_node};
pub(crate) use postgres::{Postgres, program as postgres_program};
pub(crate) use redis::Redis;
pub(crate) use zookeeper::{Zookeeper, version as zookeeper_version};

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::server::text;

/// What the ids of requests of one run begin with.
fn run_id() -> Result<String, String> {
    #[expect(clippy::disallowed_methods, reason = "ids differ from run to run")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(text)?;
    Ok(format!("{:x}", now.as_nanos()))
}

/// What tells a request from another with the same id.
fn fingerprint(request: &[u8]) -> Vec<u8> {
    Sha256::digest(request).to_vec()
}
