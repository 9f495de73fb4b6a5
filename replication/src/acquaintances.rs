//! Which life of each peer this node has met: a peer whose data directory was emptied comes back as
//! another one, and has forgotten what it promised. It is refused until membership replaces it.
//!
//! ```text
//! magic 8 "PLSDPEER", version 4, count 4, then node 8 and incarnation 16 each, crc32 4
//! ```
//! Little-endian. Written before a new peer is let in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut};

use crate::directory::write_new;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId};

const MAGIC: &[u8; 8] = b"PLSDPEER";
const VERSION: u32 = 1;
const FILE: &str = "peers";
const PEERS_MAX: usize = 1024;

/// The lives of peers that this node knows.
pub(crate) struct Acquaintances {
    data_dir: PathBuf,
    known: Mutex<BTreeMap<NodeId, Incarnation>>,
    on_meet: OnMeet,
}

/// Told of every peer that is met, once, and at the start of those that were.
pub(crate) type OnMeet = Box<dyn Fn(NodeId, Incarnation) + Send + Sync>;

impl Acquaintances {
    /// Takes up what was written.
    pub(crate) fn open(data_dir: &Path, on_meet: OnMeet) -> Result<Self, NodeError> {
        let known: BTreeMap<_, _> = match fs::read(data_dir.join(FILE)) {
            Ok(raw) => decode(&raw).ok_or_else(|| NodeError::Damaged {
                what: format!("{}/{FILE} is damaged: restore it", data_dir.display()),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let what = format!("could not read {}/{FILE}", data_dir.display());
                return Err(NodeError::Io { what, source: Arc::new(error) });
            }
        };
        known.iter().for_each(|(node, life)| on_meet(*node, *life));
        Ok(Self { data_dir: data_dir.to_owned(), known: Mutex::new(known), on_meet })
    }

    /// Remembers this life of the peer if it is the first. True if it is the one remembered.
    pub(crate) fn meet(&self, node: NodeId, incarnation: Incarnation) -> io::Result<bool> {
        let mut known = self.known.lock().expect("no code panics while it holds the list");
        match known.get(&node) {
            Some(met) => Ok(*met == incarnation),
            None if known.len() >= PEERS_MAX => Ok(false),
            None => {
                let mut with = known.clone();
                with.insert(node, incarnation);
                write_new(&self.data_dir, FILE, &encode(&with))?;
                *known = with;
                (self.on_meet)(node, incarnation);
                Ok(true)
            }
        }
    }
}

pub(crate) fn encode(known: &BTreeMap<NodeId, Incarnation>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.put_u32_le(VERSION);
    out.put_u32_le(known.len() as u32);
    for (node, incarnation) in known {
        out.put_u64_le(node.get());
        out.put_u128_le(incarnation.get());
    }
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out
}

pub(crate) fn decode(raw: &[u8]) -> Option<BTreeMap<NodeId, Incarnation>> {
    let (body, crc) = raw.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut fields = body.strip_prefix(MAGIC)?;
    if fields.len() < 8 || fields.get_u32_le() != VERSION {
        return None;
    }
    let count = fields.get_u32_le() as usize;
    if count > PEERS_MAX || fields.len() != 24 * count {
        return None;
    }
    let one = |_| (NodeId::new(fields.get_u64_le()), Incarnation::new(fields.get_u128_le()));
    Some((0..count).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_life_of_a_known_peer_is_noticed_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let (peer, life) = (NodeId::new(2), Incarnation::new(7));
        let known = Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap();
        assert!(known.meet(peer, life).unwrap());
        assert!(known.meet(peer, life).unwrap());
        assert!(!known.meet(peer, Incarnation::new(8)).unwrap());
        let known = Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap();
        assert!(!known.meet(peer, Incarnation::new(8)).unwrap());
        assert!(known.meet(NodeId::new(3), Incarnation::new(8)).unwrap());

        let path = dir.path().join(FILE);
        let mut raw = fs::read(&path).unwrap();
        raw[20] ^= 1;
        fs::write(&path, raw).unwrap();
        assert!(matches!(
            Acquaintances::open(dir.path(), Box::new(|_, _| ())),
            Err(NodeError::Damaged { .. })
        ));
    }
}
