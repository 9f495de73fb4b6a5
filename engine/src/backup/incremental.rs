//! An incremental backup: the records of each group after another, and what its state comes to behind them.

use super::layout::{FileName, GroupPart, encode_run, records_header};
use super::place::{self, of_cluster};
use super::writer::Writer;
use super::{Backup, BackupError, BackupId, BackupSummary, Wanted, sum};
use crate::chain::ChainLink;
use crate::group::Group;
use crate::records::RecordReader;

pub(super) async fn incremental(
    backup: &Backup<'_>,
    id: &BackupId,
    parent: &BackupId,
) -> Result<BackupSummary, BackupError> {
    let cluster = backup.begin(id).await?;
    let (before, before_sha256) = backup.place.manifest(parent).await?;
    of_cluster(&place::manifest(parent), cluster, before.cluster)?;
    let of_parent = before.groups.len() as u64 - 1;
    if of_parent != backup.engine.data_groups() {
        let what =
            format!("parent={parent} has data_groups={of_parent}, which are not this node's");
        return Err(BackupError::InvalidArgument { what });
    }
    let groups = backup.each_group(id, Wanted::RecordsAfter(parent, &before)).await?;
    backup.end(id, cluster, Some((parent.clone(), before_sha256)), groups).await
}

/// The records of a group.
pub(super) async fn records(
    backup: &Backup<'_>,
    id: &BackupId,
    group: &Group,
    parent: &BackupId,
    before: &GroupPart,
) -> Result<GroupPart, BackupError> {
    // One moment's offset, head and digest: the records up to there must come to that head.
    let digest = group.digest().await?;
    let (from, to) = (before.to, (digest.offset, digest.head));
    if to.0 < from.0 {
        let (parent, group) = (parent.clone(), group.id());
        return Err(BackupError::Behind { parent, group, applied: to.0 });
    }
    let (mut head, mut log_time) = (from.1, before.log_time);
    let mut reader = RecordReader::new(backup.engine.backend(), group.id(), from.0, to.0);
    let mut writer = Writer::new(backup, id, group.id());
    let mut first = None;
    loop {
        let runs = writer.beside(reader.next()).await??;
        let trimmed = |first| BackupError::Trimmed { group: group.id(), first };
        let runs = runs.map_err(trimmed)?;
        let is_end = runs.is_empty();
        for run in &runs {
            let mut at = run.first_offset;
            for payload in &run.payloads {
                head = head.next(ChainLink::of(at, run.log_time, payload));
                at = at.next();
            }
            log_time = run.log_time;
            if writer.is_empty() {
                first = Some(run.first_offset);
                writer.add(records_header());
            }
            writer.add(encode_run(run));
        }
        if let Some(first) = first.take_if(|_| is_end || writer.is_full()) {
            writer.close(FileName::Records(first)).await?;
        }
        if is_end {
            break;
        }
    }
    let files = writer.finish().await?;
    if head != to.1 {
        let file = place::manifest(id);
        return Err(BackupError::BrokenChain { file, parent: parent.clone() });
    }
    Ok(GroupPart { from, to, log_time, digest: sum::of_state(&digest), files })
}
