//! A cluster with certificates, grants and tokens.

use std::sync::Arc;
use std::time::Duration;

use palisade::backup::{BackupId, BackupPlace};
use palisade::{ClusterId, FailureDomain, NodeId};
use palisade_client::{Client, ClientBuilder};
use palisade_server::security::now_ms;
use palisade_server::security::token::{LiveKeys, Token, TokenKeys};
use tempfile::TempDir;

use crate::certified::Certified;
use crate::nodes::{CLUSTER, Nodes};

/// Nodes that ask who calls, and go by what `ops` has granted.
pub(crate) struct Cluster {
    pub(crate) nodes: Nodes,
    pub(crate) certified: Certified,
    #[allow(dead_code, reason = "not every test file mints tokens")]
    keys: TokenKeys,
    live: Arc<LiveKeys>,
    _dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start(count: usize) -> Self {
        let (certified, keys, live, _dir) = Self::founded(CLUSTER);
        let of = |node| certified.callers(node, &["ops"], Some(Arc::clone(&live)));
        let nodes = Nodes::start_for(count, of).await;
        Self { nodes, certified, keys, live, _dir }
    }

    /// Authorities and keys of a cluster.
    fn founded(cluster: ClusterId) -> (Certified, TokenKeys, Arc<LiveKeys>, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let certified = Certified::new(dir.path(), cluster);
        let path = dir.path().join("tokens.keys");
        TokenKeys::add_to(&path).unwrap();
        let live = Arc::new(LiveKeys::open(&path).unwrap());
        (certified, TokenKeys::read(&path).unwrap(), live, dir)
    }

    /// Another cluster of one node, there, made of a backup.
    #[allow(dead_code, reason = "not every test file restores")]
    pub(crate) async fn restored(
        backup: (&BackupPlace, &BackupId),
        cluster: ClusterId,
        domain: FailureDomain,
    ) -> Self {
        let (certified, keys, live, _dir) = Self::founded(cluster);
        let of = |node| certified.callers(node, &["ops"], Some(Arc::clone(&live)));
        let nodes = Nodes::restored(backup, cluster, domain, of).await;
        Self { nodes, certified, keys, live, _dir }
    }

    pub(crate) fn reaching(&self, caller: ClientBuilder) -> Client {
        let named = self.nodes.addresses.iter().map(|address| format!("https://{address}"));
        named.fold(caller, ClientBuilder::endpoint).connect().unwrap()
    }

    pub(crate) fn client(&self, name: &str) -> Client {
        self.reaching(self.certified.caller(name))
    }

    #[allow(dead_code, reason = "not every test file mints tokens")]
    pub(crate) fn bearer(&self, name: &str, token: &Token) -> Client {
        self.reaching(self.certified.caller(name).token(token.to_text()))
    }

    #[allow(dead_code, reason = "not every test file mints tokens")]
    pub(crate) fn token(&self, principal: &str) -> Token {
        let lives = Duration::from_secs(60);
        Token::mint(&self.keys, CLUSTER, principal, now_ms(), lives).unwrap()
    }

    /// Another node, which joins from there, behind an endpoint like the others.
    #[allow(dead_code, reason = "not every test file needs more")]
    pub(crate) async fn add(&mut self, domain: FailureDomain) {
        let node = NodeId::new(self.nodes.engines.len() as u64 + 1);
        let callers = self.certified.callers(node, &["ops"], Some(Arc::clone(&self.live)));
        self.nodes.add(domain, callers).await;
    }
}
