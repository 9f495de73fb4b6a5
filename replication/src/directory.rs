//! Whose data directory this is: a small file that says so before anything else is opened.
//!
//! ```text
//! offset  size  field
//!      0     8  magic        "PLSDNODE"
//!      8     4  version      1
//!     12    16  cluster
//!     28     8  node
//!     36    16  incarnation  drawn when the directory is made
//!     52     4  crc32        over bytes 0..52
//! ```
//! Little-endian. A directory with a log but without this file is refused: it was tampered with.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut};

use crate::error::NodeError;
use crate::identity::{ClusterId, Incarnation, NodeId};
use crate::small_file::{self, Unfit, write_new};

const MAGIC: &[u8; 8] = b"PLSDNODE";
const VERSION: u32 = 1;
pub(crate) const FILE: &str = "node";
const FIELDS_BYTES: usize = 40;
/// What to do if it is damaged.
pub(crate) const REMEDY: &str = "restore it, or replace this node";
const WAL_DIR: &str = "wal";

/// Where a node keeps its log, under its data directory.
pub(crate) fn wal_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join(WAL_DIR)
}

/// Checks that the directory is this node's, or makes it so. Returns its incarnation.
pub(crate) fn claim(
    data_dir: &Path,
    cluster: ClusterId,
    node: NodeId,
) -> Result<Incarnation, NodeError> {
    let io = |what: &str| {
        let what = format!("{what} {}", data_dir.display());
        move |source| NodeError::Io { what, source: Arc::new(source) }
    };
    fs::create_dir_all(data_dir).map_err(io("could not create"))?;
    match small_file::read(data_dir, FILE)? {
        Some(raw) => {
            let (found_cluster, found_node, incarnation) =
                decode(&raw).map_err(|unfit| unfit.of(data_dir, FILE, REMEDY))?;
            if (found_cluster, found_node) != (cluster, node) {
                return Err(NodeError::Foreign { cluster: found_cluster, node: found_node });
            }
            if !wal_dir(data_dir).exists() {
                // A node that forgot what it promised must not vote again.
                return Err(NodeError::Damaged {
                    what: format!(
                        "{} has its {FILE} file but no log: restore it, or replace this node",
                        data_dir.display()
                    ),
                });
            }
            Ok(incarnation)
        }
        None => {
            if wal_dir(data_dir).exists() {
                return Err(NodeError::Damaged {
                    what: format!(
                        "{} holds a log but not its {FILE} file: restore the file, or replace \
                         this node",
                        data_dir.display()
                    ),
                });
            }
            let incarnation = Incarnation::new(random_u128().map_err(io("no randomness for"))?);
            write_new(data_dir, FILE, &encode(cluster, node, incarnation))
                .map_err(io("could not write"))?;
            if let Err(error) = fs::create_dir(wal_dir(data_dir)) {
                // No room, say: without a log it would count as one that lost it.
                let _ = fs::remove_file(data_dir.join(FILE));
                return Err(io("could not create the log in")(error));
            }
            Ok(incarnation)
        }
    }
}

/// True if the directory is some node's, or was.
pub(crate) fn is_claimed(data_dir: &Path) -> bool {
    data_dir.join(FILE).exists() || wal_dir(data_dir).exists()
}

/// A fresh random number from the operating system.
pub(crate) fn random_u128() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

pub(crate) fn encode(cluster: ClusterId, node: NodeId, incarnation: Incarnation) -> Vec<u8> {
    let mut raw = small_file::begin(MAGIC, VERSION);
    raw.put_u128_le(cluster.get());
    raw.put_u64_le(node.get());
    raw.put_u128_le(incarnation.get());
    small_file::end(raw)
}

pub(crate) fn decode(raw: &[u8]) -> Result<(ClusterId, NodeId, Incarnation), Unfit> {
    let (_, mut fields) = small_file::fields(raw, MAGIC, VERSION)?;
    if fields.len() != FIELDS_BYTES {
        return Err(Unfit::Damaged);
    }
    let (cluster, node) = (fields.get_u128_le(), fields.get_u64_le());
    Ok((ClusterId::new(cluster), NodeId::new(node), Incarnation::new(fields.get_u128_le())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_who_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, node) = (ClusterId::new(1), NodeId::new(2));
        let incarnation = claim(dir.path(), cluster, node).unwrap();
        assert_eq!(claim(dir.path(), cluster, node).unwrap(), incarnation);
        assert!(matches!(
            claim(dir.path(), ClusterId::new(9), node),
            Err(NodeError::Foreign { .. })
        ));
        assert!(matches!(
            claim(dir.path(), cluster, NodeId::new(3)),
            Err(NodeError::Foreign { .. })
        ));
    }

    #[test]
    fn a_node_that_lost_its_log_does_not_start_again() {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, node) = (ClusterId::new(1), NodeId::new(2));
        claim(dir.path(), cluster, node).unwrap();
        fs::remove_dir_all(wal_dir(dir.path())).unwrap();
        assert!(matches!(claim(dir.path(), cluster, node), Err(NodeError::Damaged { .. })));
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_a_log_without_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, node) = (ClusterId::new(1), NodeId::new(2));
        claim(dir.path(), cluster, node).unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(claim(dir.path(), cluster, node), Err(NodeError::Damaged { .. })),
                "at={at}"
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(claim(dir.path(), cluster, node), Err(NodeError::Damaged { .. })));
    }
}
