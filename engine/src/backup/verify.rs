//! Whether a chain of backups is whole: every file is read, and everything that a manifest says of it is
//! computed again.

use palisade_replication::{GroupId, LogTime, Offset, RecordRun};

use super::layout::{Contents, FileName, GroupPart, decode_records, decode_state};
use super::sum::StateSum;
use super::{BackupError, BackupId, BackupPlace, BackupSummary, place};
use crate::audit::{Anchor, AuditRecord, verify_run};
use crate::chain::ChainHead;

/// Reads a backup and all before it, down to the full one, and computes every hash, digest and head again.
/// Gives what there is, the full one first.
///
/// # Errors
/// [`BackupError::Missing`] or [`BackupError::Damaged`] with the first file that is not what it should be,
/// [`BackupError::BrokenChain`] if one does not follow from the other; [`BackupError::Key`] if a sealed one is
/// not opened by the place's keys, and all its files are nevertheless what was stored.
pub async fn verify(place: &BackupPlace, id: &BackupId) -> Result<Vec<BackupSummary>, BackupError> {
    let chain = place.chain(id).await?;
    for contents in &chain {
        if let Err(refused) = place.judge(contents) {
            // What can be known without the key is: every file is what was stored.
            for (group, part) in &contents.groups {
                for entry in &part.files {
                    place.read_stored(contents, *group, entry).await?;
                }
            }
            return Err(refused);
        }
        for (group, part) in &contents.groups {
            match contents.parent {
                None => verify_state(place, contents, *group, part).await?,
                Some(_) => verify_records(place, contents, *group, part).await?,
            }
        }
    }
    Ok(chain.iter().map(Contents::summary).collect())
}

async fn verify_state(
    place: &BackupPlace,
    contents: &Contents,
    group: GroupId,
    part: &GroupPart,
) -> Result<(), BackupError> {
    let manifest = place::manifest(&contents.id);
    let mut sum = StateSum::new(group);
    for (number, entry) in (0..).zip(&part.files) {
        if entry.name != FileName::State(number) {
            return Err(BackupError::damaged(manifest, format!("it lacks state-{number}")));
        }
        let (file, raw) = place.read(contents, group, entry).await?;
        for chunk in decode_state(&file, raw)? {
            sum.add(chunk).map_err(|error| BackupError::damaged(&file, error.to_string()))?;
        }
    }
    let (digest, position) = sum.finish();
    // A group that nothing was written to has no rows.
    let position = position.unwrap_or((Offset::ZERO, LogTime::ZERO, ChainHead::ZERO));
    if position != (part.to.0, part.log_time, part.to.1) {
        return Err(BackupError::damaged(manifest, "the state stands somewhere else"));
    }
    if digest != part.digest {
        return Err(BackupError::damaged(manifest, "the state has another digest"));
    }
    Ok(())
}

async fn verify_records(
    place: &BackupPlace,
    contents: &Contents,
    group: GroupId,
    part: &GroupPart,
) -> Result<(), BackupError> {
    let mut follows = Follows::new(part);
    for entry in &part.files {
        let (file, raw) = place.read(contents, group, entry).await?;
        follows.file(&file, entry.name, &decode_records(&file, raw)?)?;
    }
    follows.ends(&place::manifest(&contents.id), part)
}

/// Checks that record files follow one from the other.
pub(super) struct Follows {
    anchor: Anchor,
    log_time: Option<LogTime>,
}

impl Follows {
    pub(super) fn new(part: &GroupPart) -> Self {
        let anchor = Anchor { offset: part.from.0.get(), head: part.from.1.0 };
        Self { anchor, log_time: None }
    }

    /// The runs of the next file.
    pub(super) fn file(
        &mut self,
        file: &str,
        name: FileName,
        runs: &[RecordRun],
    ) -> Result<(), BackupError> {
        // Whatever a manifest says: there is nothing behind the last offset.
        let next = self.anchor.offset.saturating_add(1);
        if name != FileName::Records(Offset::new(next)) {
            return Err(BackupError::damaged(file, format!("records-{next} should come here")));
        }
        for run in runs {
            if self.log_time.is_some_and(|before| run.log_time < before) {
                return Err(BackupError::damaged(file, "its log time falls"));
            }
            self.log_time = Some(run.log_time);
            let (first, log_time) = (run.first_offset.get(), run.log_time.get());
            let records = (first..).zip(&run.payloads);
            let records =
                records.map(|(offset, payload)| AuditRecord { offset, log_time, payload });
            self.anchor = verify_run(self.anchor, records)
                .map_err(|error| BackupError::damaged(file, error.to_string()))?;
        }
        Ok(())
    }

    /// Where the records have led so far.
    #[cfg(any(feature = "rocksdb", test))]
    pub(super) fn offset(&self) -> Offset {
        Offset::new(self.anchor.offset)
    }

    /// No file comes any more.
    pub(super) fn ends(&self, manifest: &str, part: &GroupPart) -> Result<(), BackupError> {
        let found = (Offset::new(self.anchor.offset), ChainHead(self.anchor.head));
        if found != part.to {
            return Err(BackupError::damaged(manifest, "its records come to another head"));
        }
        if self.log_time.is_some_and(|log_time| log_time != part.log_time) {
            return Err(BackupError::damaged(manifest, "its records end at another log time"));
        }
        Ok(())
    }
}
