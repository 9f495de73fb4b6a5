//! The process of one node: it does what its standard input asks until that ends.

use std::net::SocketAddr;
use std::path::Path;

use palisade::{OpenDisk, Role};
use palisade_benches::{builder, voting};
use palisade_server::grpc::{Callers, serve as serve_grpc};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::in_process::Resources;
use super::{Question, Status};
use crate::disk::Syncs;
use crate::server::{answer, text};

/// Serves one of these addresses.
pub(crate) async fn serve(dir: &Path, at: usize, addresses: &[SocketAddr]) -> Result<(), String> {
    let syncs = Syncs::default();
    let counts = syncs.clone();
    let disk = OpenDisk::over(move |_, disk| counts.counted(disk));
    let builder = voting(builder(dir, addresses, at), addresses).disk(disk);
    let engine = builder.open().await.map_err(text)?;
    let resources = Resources::open(&engine).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
    let grpc = listener.local_addr().map_err(text)?;
    let mut server = JoinSet::new();
    let served = engine.clone();
    server.spawn(async move {
        let never = std::future::pending();
        if let Err(error) = serve_grpc(&served, listener, Callers::Everyone, None, never).await {
            eprintln!("the gRPC server ended: {error}");
        }
    });
    answer(Ok(()))?;
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line.map_err(text)?).map_err(text)? {
            Question::Status => answer(status(&resources, grpc).await)?,
            Question::Fill { keys, bytes } => answer(resources.fill(keys, bytes).await)?,
            Question::Load { load, at_least } => answer(resources.run(&load, at_least).await)?,
            Question::Syncs => answer(Ok(syncs.count()))?,
        }
    }
    server.shutdown().await;
    engine.close().await.map_err(text)
}

async fn status(resources: &Resources, grpc: SocketAddr) -> Result<Status, String> {
    let status = resources.log.group().status().await.map_err(text)?;
    let (applied, _) = resources.log.group().chain_head().await.map_err(text)?;
    Ok(Status { leads: status.role == Role::Leader, grpc, applied: applied.get() })
}
