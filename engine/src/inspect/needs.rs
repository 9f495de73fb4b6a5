//! Which key epochs the files of a node need, without a key.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use palisade_replication::{KeyEpoch, Keys, wal_dir_of};
use palisade_wal::{
    SEALED_FILE_PREFIX_BYTES, SEGMENT_HEADER_BYTES, sealed_epoch, sealed_segment_epoch,
};

use super::{InspectError, WalFiles};

/// How many files need which epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyNeeds {
    /// Segments of the log.
    pub segments: BTreeMap<KeyEpoch, u64>,
    /// Segments of the log that are clear.
    pub clear_segments: u64,
    /// Segments of which it cannot be told: their headers do not hold.
    pub unknown_segments: u64,
    /// Files of snapshots that were received.
    pub snapshots: BTreeMap<KeyEpoch, u64>,
    /// A process had the node open: segments were judged by their headers alone, and may have changed since.
    pub is_running: bool,
}

/// Looks at a data directory. Of a node that runs, what is seen is of the moment; the node itself never takes
/// a ring that does not open what it has.
///
/// ```
/// # use palisade::*;
/// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
/// use palisade::inspect::{KeyNeeds, key_needs};
///
/// let engine = Engine::builder(dir).open().await?;
/// // Of a node that runs, too.
/// let KeyNeeds { segments, clear_segments, is_running, .. } =
///     key_needs(dir).expect("it can be read");
/// assert!(is_running);
/// assert_eq!(segments.len(), 0, "no epoch is needed");
/// println!("{clear_segments} segments are clear");
/// engine.close().await?;
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
///
/// # Errors
/// As [`InspectError`] says.
pub fn key_needs(data_dir: &Path) -> Result<KeyNeeds, InspectError> {
    let mut needs = KeyNeeds::default();
    match WalFiles::open(data_dir, Keys::none()) {
        Ok(files) => {
            for (_, epoch) in files.needs() {
                *needs.segments.entry(epoch).or_default() += 1;
            }
            let clear = files.segments().filter(|segment| segment.key_epoch.is_none());
            needs.clear_segments = clear.count() as u64;
        }
        Err(InspectError::InUse { .. }) => {
            needs.is_running = true;
            let length = SEGMENT_HEADER_BYTES as usize;
            for raw in beginnings(&wal_dir_of(data_dir), length, |name| name.ends_with(".seg"))? {
                match sealed_segment_epoch(&raw) {
                    Some(Some(epoch)) => *needs.segments.entry(epoch).or_default() += 1,
                    Some(None) => needs.clear_segments += 1,
                    None => needs.unknown_segments += 1,
                }
            }
        }
        Err(error) => return Err(error),
    }
    let snapshots = data_dir.join("snapshots");
    let is_received = |name: &str| name.starts_with("in-");
    for raw in beginnings(&snapshots, SEALED_FILE_PREFIX_BYTES, is_received)? {
        if let Some(epoch) = sealed_epoch(&raw) {
            *needs.snapshots.entry(epoch).or_default() += 1;
        }
    }
    Ok(needs)
}

/// The first bytes of the files of a directory that are called so. One that goes meanwhile is left out.
fn beginnings(
    dir: &Path,
    length: usize,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Vec<u8>>, InspectError> {
    let unreadable =
        |error: io::Error| InspectError::Unreadable { what: format!("{}: {error}", dir.display()) };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().to_str().is_some_and(&is_wanted) {
            continue;
        }
        let mut raw = Vec::new();
        match File::open(entry.path())
            .and_then(|file| file.take(length as u64).read_to_end(&mut raw))
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => {
                read.map_err(unreadable)?;
                found.push(raw);
            }
        }
    }
    Ok(found)
}
