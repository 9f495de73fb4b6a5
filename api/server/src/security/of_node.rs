//! What a node's files come to: its certificate on both of its ports, and the keys that it knows tokens by.

use std::sync::Arc;

use palisade::tls::{CertificateRole, PeerTls};
use palisade::{ClusterId, Error, NodeId};

use super::tls::{CallerTls, TlsFiles, TlsWatch};
use super::token::LiveKeys;
use super::watch::Watched;
use crate::node::Certificates;

/// Everything that a node shows, believes, and knows callers by.
pub(crate) struct NodeSecurity {
    pub(crate) peers: PeerTls,
    pub(crate) callers: Arc<CallerTls>,
    pub(crate) token_keys: Option<Arc<LiveKeys>>,
    /// Certificates, by the port that they are for.
    pub(crate) certificates: [(&'static str, Arc<TlsWatch>); 2],
    /// All of the above, to be read again when the files change.
    pub(crate) watched: Vec<Arc<dyn Watched>>,
}

impl NodeSecurity {
    /// Reads the files. A node whose files do not fit is not opened.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], naming the file.
    pub(crate) fn open(
        cluster: ClusterId,
        node: NodeId,
        certificates: &Certificates,
    ) -> Result<Self, Error> {
        let believing = |authorities: &std::path::Path| TlsFiles {
            certificates: certificates.node_cert_file.clone(),
            key: certificates.node_key_file.clone(),
            authorities: authorities.to_owned(),
        };
        let of_peers = believing(&certificates.peer_ca_file);
        let of_callers = believing(&certificates.client_ca_file);
        let peers = of_peers.peers(cluster, node).map_err(unfit)?;
        let callers = of_callers.callers(cluster, CertificateRole::Node).map_err(unfit)?;
        let callers = Arc::new(callers);
        let token_keys = certificates.token_keys_file.as_deref().map(LiveKeys::open);
        let token_keys = token_keys.transpose().map_err(unfit)?.map(Arc::new);
        let certificates = [
            ("peers", Arc::new(TlsWatch::new(of_peers, Arc::new(peers.clone())))),
            ("callers", Arc::new(TlsWatch::new(of_callers, Arc::clone(&callers) as _))),
        ];
        let mut watched: Vec<Arc<dyn Watched>> =
            certificates.iter().map(|(_, watch)| Arc::clone(watch) as _).collect();
        watched.extend(token_keys.iter().map(|keys| Arc::clone(keys) as _));
        Ok(Self { peers, callers, token_keys, certificates, watched })
    }
}

fn unfit(error: impl std::fmt::Display) -> Error {
    Error::InvalidArgument { what: error.to_string() }
}
