//! What waits in a node, against its bounds (G12), and how long its log takes: for people, nothing is decided
//! by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_wal::{SyncTimes, WalReader};

use crate::identity::NodeId;
use crate::load::Load;
use crate::unread::Unread;

/// What a queue holds, and what it may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLoad {
    /// What it is a queue of. Its unit is the last word, and entries if there is none.
    pub queue: &'static str,
    /// What waits in it.
    pub held: u64,
    /// Its bound.
    pub held_max: u64,
}

/// What waits in a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Queues that its groups share. Each group has others: [`GroupStatus::queues`](crate::GroupStatus::queues).
    pub queues: Vec<QueueLoad>,
    /// Bytes of messages that wait to be sent, by whom they are for.
    pub peers: BTreeMap<NodeId, QueueLoad>,
    /// Batches that wait to be written to the log. Their bytes are bounded, their number follows from that.
    pub log_batches: u64,
    /// Segments of the log in which something rotten was found since the node was opened. They are given up once
    /// what they hold is elsewhere; a disk that makes more of them is to be replaced.
    pub log_segments_condemned: u64,
    /// How long syncs of the log took since the node was opened.
    pub syncs: SyncTimes,
}

/// What peers are sent by; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerLoads {
    loads: Arc<Mutex<BTreeMap<NodeId, Arc<Load>>>>,
}

impl PeerLoads {
    fn loads(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Load>>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, node: NodeId, load: Arc<Load>) {
        self.loads().insert(node, load);
    }
}

/// Where a node's queues are looked at.
pub(crate) struct Queues {
    pub(crate) inbox: Arc<Load>,
    pub(crate) shelf: Arc<Load>,
    pub(crate) unread: Arc<Unread>,
    pub(crate) peers: PeerLoads,
    /// As long as the node runs.
    pub(crate) log: Arc<Mutex<Option<WalReader>>>,
}

impl Queues {
    pub(crate) fn look(&self) -> NodeLoad {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (wal, syncs) = log.map(|log| (log.stats(), log.sync_times())).unwrap_or_default();
        let peers = self.peers.loads();
        NodeLoad {
            queues: vec![
                self.inbox.told("inbox_bytes"),
                self.shelf.told("snapshot_bytes"),
                self.unread.told("unread_bytes"),
                QueueLoad {
                    queue: "log_bytes",
                    held: wal.queued_bytes,
                    held_max: wal.queued_bytes_max,
                },
            ],
            peers: peers.iter().map(|(node, load)| (*node, load.told("peer_bytes"))).collect(),
            log_batches: wal.queued_batches,
            log_segments_condemned: wal.segments_condemned,
            syncs,
        }
    }
}
