//! A full backup: the state of each group at one moment, chunk by chunk, with what it comes to.

use palisade_replication::Offset;

use super::layout::{FileName, GroupPart, chunk_header};
use super::sum::StateSum;
use super::writer::Writer;
use super::{Backup, BackupError, BackupId, BackupSummary, Wanted};
use crate::chain::ChainHead;
use crate::error::Error;
use crate::group::Group;

pub(super) async fn full(backup: &Backup<'_>, id: &BackupId) -> Result<BackupSummary, BackupError> {
    let cluster = backup.begin(id).await?;
    let groups = backup.each_group(id, Wanted::State).await?;
    backup.end(id, cluster, None, groups).await
}

pub(super) async fn state(
    backup: &Backup<'_>,
    id: &BackupId,
    group: &Group,
) -> Result<GroupPart, BackupError> {
    if Backup::is_empty(group).await? {
        return Ok(GroupPart::empty());
    }
    let mut writer = Writer::new(backup, id, group.id());
    let mut sum = StateSum::new(group.id());
    let mut chunks = backup.engine.backend().export(group.id())?;
    while let Some(chunk) = writer.beside(chunks.recv()).await? {
        let chunk = chunk?;
        sum.add(chunk.clone()).map_err(|error| Error::InternalError { what: error.to_string() })?;
        writer.add(chunk_header(&chunk));
        writer.add(chunk);
        if writer.is_full() {
            writer.close(FileName::State(writer.closed_count())).await?;
        }
    }
    if !writer.is_empty() {
        writer.close(FileName::State(writer.closed_count())).await?;
    }
    let files = writer.finish().await?;
    let (digest, position) = sum.finish();
    // Without a position a snapshot is about to replace the state.
    let (offset, log_time, head) =
        position.ok_or(Error::NotYetApplied { required: Offset::new(1), applied: Offset::ZERO })?;
    let from = (Offset::ZERO, ChainHead::ZERO);
    Ok(GroupPart { from, to: (offset, head), log_time, digest, files })
}
