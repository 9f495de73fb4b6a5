//! What peers did that was refused: counted by cause for users to read, and logged once for each
//! cause and peer, so that whoever repeats it fills no disk.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::identity::NodeId;

/// Why a peer was refused. Its connection is closed, and nothing of what was refused has any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeerFault {
    /// It belongs to another cluster.
    ForeignCluster,
    /// It looks for another node, or calls itself by this node's name.
    WrongNode,
    /// It promises, or asks for, what only another life of its data directory may: its own was
    /// emptied or replaced, and the group does not name it yet.
    WrongIncarnation,
    /// It greets in a way, or sends a kind of message, that this release does not know.
    UnknownVersion,
    /// A message is longer than any may be. Nothing of it was read.
    Oversized,
    /// What arrived is not what was sent: a checksum is wrong.
    Corrupt,
    /// The checksum is right, and still it is no message.
    Malformed,
    /// It spoke in the name of another node.
    Impostor,
    /// What all peers have sent of messages that are not whole took more room than there is.
    Crowding,
    /// It has no certificate that is believed: none, one of another authority or out of its time, an older
    /// TLS, or no TLS at all.
    Untrusted,
    /// Its certificate is not of the node that it speaks for, or that was looked for.
    WrongIdentity,
    /// It did not finish its greeting in time, or others needed the place.
    Stalled,
    /// It is elsewhere than on this machine, and could be spoken to only without TLS.
    Unprotected,
}

impl PeerFault {
    /// Every cause.
    pub const ALL: [Self; 13] = [
        Self::ForeignCluster,
        Self::WrongNode,
        Self::WrongIncarnation,
        Self::UnknownVersion,
        Self::Oversized,
        Self::Corrupt,
        Self::Malformed,
        Self::Impostor,
        Self::Crowding,
        Self::Untrusted,
        Self::WrongIdentity,
        Self::Stalled,
        Self::Unprotected,
    ];
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignCluster => "it belongs to another cluster",
            Self::WrongNode => "it looks for another node, or has this one's name",
            Self::WrongIncarnation => "its data directory is not the one that the group knows",
            Self::UnknownVersion => "it speaks a version that this release does not know",
            Self::Oversized => "its message is longer than any may be",
            Self::Corrupt => "a checksum is wrong",
            Self::Malformed => "its message cannot be read",
            Self::Impostor => "it speaks in the name of another node",
            Self::Crowding => "there is no room for more of its unfinished message",
            Self::Untrusted => "it has no certificate that is believed",
            Self::WrongIdentity => "its certificate is of somebody else",
            Self::Stalled => "it did not finish its greeting",
            Self::Unprotected => "it is on another machine, and there are no certificates for TLS",
        })
    }
}

/// Who did it: the node that a connection was opened by, or where it came from if it never said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Culprit {
    Node(NodeId),
    Address(IpAddr),
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node={node}"),
            Self::Address(address) => write!(f, "address={address}"),
        }
    }
}

/// Causes and peers that are remembered as logged. Beyond that it is only counted.
const LOGGED_MAX: usize = 1024;

/// The counters of one node.
#[derive(Debug, Default)]
pub(crate) struct PeerFaults {
    counts: [AtomicU64; PeerFault::ALL.len()],
    logged: Mutex<BTreeSet<(PeerFault, Culprit)>>,
}

impl PeerFaults {
    /// Counts what was refused, and logs it if it is the first of its kind. Returns whether it did.
    pub(crate) fn note(&self, fault: PeerFault, by: Culprit, what: &dyn fmt::Display) -> bool {
        self.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock().expect("no code panics while it holds the list");
        let first = logged.len() < LOGGED_MAX && logged.insert((fault, by));
        drop(logged);
        if first {
            tracing::warn!(
                ?fault,
                %by,
                %what,
                "refused a peer: {fault}; it will be counted, and not logged again"
            );
        }
        first
    }

    /// How often each has been refused since the node was opened.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (PeerFault, u64)> {
        let count = |fault: PeerFault| self.counts[fault as usize].load(Ordering::Relaxed);
        PeerFault::ALL.into_iter().map(move |fault| (fault, count(fault)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_is_counted_and_the_first_of_a_cause_and_peer_is_logged() {
        let faults = PeerFaults::default();
        let [one, two] = [1, 2].map(|id| Culprit::Node(NodeId::new(id)));
        assert!(faults.note(PeerFault::Corrupt, one, &"a frame"));
        assert!(!faults.note(PeerFault::Corrupt, one, &"a frame"));
        assert!(faults.note(PeerFault::Corrupt, two, &"a frame"));
        assert!(faults.note(PeerFault::Oversized, one, &"a frame"));
        for (fault, count) in faults.counts() {
            let expected = match fault {
                PeerFault::Corrupt => 3,
                PeerFault::Oversized => 1,
                _ => 0,
            };
            assert_eq!(count, expected, "{fault:?}");
        }
    }

    /// A list that grows with every address that ever knocked would be without a bound.
    #[test]
    fn what_is_remembered_as_logged_is_bounded() {
        let faults = PeerFaults::default();
        let from = |at: u32| Culprit::Address(std::net::Ipv4Addr::from(at).into());
        let logged = (0..2 * LOGGED_MAX as u32)
            .filter(|at| faults.note(PeerFault::ForeignCluster, from(*at), &"a greeting"))
            .count();
        assert_eq!(logged, LOGGED_MAX);
        assert_eq!(faults.logged.lock().unwrap().len(), LOGGED_MAX);
        let (_, count) = faults.counts().next().unwrap();
        assert_eq!(count, 2 * LOGGED_MAX as u64);
    }
}
