//! Reads what a node has stored, for people and tools: nothing is made, repaired or changed.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use palisade_wal::LogIndex;

use crate::directory;
use crate::entry::{AppliedPosition, Record};
use crate::error::NodeError;
use crate::identity::{ClusterId, Incarnation, LogTime, NodeId, Offset, Term};
use crate::log_store::{has_change, records_of_stored, term_of_stored};
use crate::membership::Membership;
use crate::register::Register;
use crate::small_file;

/// Whose data directory it is, and where its log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryOwner {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// Where a node keeps its log, under its data directory.
#[must_use]
pub fn wal_dir_of(data_dir: &Path) -> PathBuf {
    directory::wal_dir(data_dir)
}

/// Whose data directory it is; none if it does not say.
///
/// # Errors
/// [`NodeError::Damaged`] if what says so is damaged, [`NodeError::Newer`] if a newer release wrote it.
pub fn directory_owner(data_dir: &Path) -> Result<Option<DirectoryOwner>, NodeError> {
    let Some(raw) = small_file::read(data_dir, directory::FILE)? else { return Ok(None) };
    let (cluster, node, incarnation) = directory::decode(&raw)
        .map_err(|unfit| unfit.of(data_dir, directory::FILE, directory::REMEDY))?;
    Ok(Some(DirectoryOwner { cluster, node, incarnation }))
}

/// What an entry of a group's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The term that proposed it.
    pub term: Term,
    /// It changes who takes part.
    pub changes_members: bool,
    /// Its records, if it has any: the offset of the first, the leader's stamp, and all of them.
    pub records: Option<(Offset, LogTime, Vec<Record>)>,
}

/// Reads the bytes of an entry as the write-ahead log has them.
///
/// # Errors
/// [`NodeError::Damaged`] when they are none.
pub fn stored_entry(index: LogIndex, stored: Bytes) -> Result<StoredEntry, NodeError> {
    let body = records_of_stored(index, stored.clone())?;
    Ok(StoredEntry {
        term: term_of_stored(&stored).expect("it was just read"),
        changes_members: has_change(&stored),
        records: body.map(|body| (body.first_offset, body.log_time, body.records)),
    })
}

/// What the register of a group says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRegister {
    /// The highest term seen.
    pub term: Term,
    /// Whom the node voted for in it, if anybody.
    pub vote: Option<NodeId>,
    /// A lower bound of what was committed.
    pub commit: LogIndex,
    /// The last entry that is gone; the log begins after it.
    pub base: AppliedPosition,
    /// It neither votes nor campaigns.
    pub probation: bool,
    /// Who takes part.
    pub members: Membership,
}

/// Reads the bytes of a register as the write-ahead log has them.
///
/// # Errors
/// [`NodeError::Damaged`] when they are none, [`NodeError::Newer`] when a newer release wrote them.
pub fn stored_register(stored: &[u8]) -> Result<StoredRegister, NodeError> {
    let Register { term, vote, commit, base, probation, members, .. } = Register::decode(stored)?;
    let vote = (vote != 0).then(|| NodeId::new(vote));
    Ok(StoredRegister { term, vote, commit, base, probation, members })
}
