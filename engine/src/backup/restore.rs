//! A node of a new cluster, made of a chain of backups.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use palisade_replication::{Founding, GroupId, Member, Offset};

use super::layout::Contents;
use super::rebuild::{Compares, Rebuild, Restored, on_thread, refuse_unregistered};
use super::{BackupError, BackupId, BackupPlace};
use crate::bounds::SYSTEM_GROUP;
use crate::builder::{EngineBuilder, keep_count, open_store};
use crate::error::Error;
use crate::node_backend::Carrier;

/// Up to where a backup is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreTo {
    /// All that the chain has.
    End,
    /// One group as it was at this offset, and all of the others: there is no order between them.
    Offset {
        /// A group that holds resources: [`crate::Handle::group`].
        group: GroupId,
        /// The last record that is restored of it.
        offset: Offset,
    },
}

/// What is wrong with a restore, before anything is written. Says where each group ends.
fn check(
    builder: &EngineBuilder,
    to: RestoreTo,
    chain: &[Contents],
) -> Result<BTreeMap<GroupId, Offset>, BackupError> {
    let invalid = |what: String| Err(BackupError::InvalidArgument { what });
    let (first, last) = (&chain[0], &chain[chain.len() - 1]);
    let mut ends: BTreeMap<_, _> =
        last.groups.iter().map(|(group, part)| (*group, part.to.0)).collect();
    let data_groups = ends.len() as u64 - 1;
    if builder.data_groups != data_groups {
        return Err(Error::Incompatible {
            expected: format!("data_groups={}", builder.data_groups),
            found: format!("data_groups={data_groups} in the backup"),
        }
        .into());
    }
    if let RestoreTo::Offset { group, offset } = to {
        // Names that are not restored could be claimed for other groups.
        let known = ends.get_mut(&group).filter(|_| group != SYSTEM_GROUP);
        let Some(end) = known else {
            return invalid(format!(
                "group={group} holds no resources: name one of 1 to {data_groups}"
            ));
        };
        let floor = first.groups[&group].to.0;
        if offset < floor {
            return Err(BackupError::Compacted { group, floor });
        }
        if *end < offset {
            return invalid(format!("the chain ends at offset={end}, which is before {offset}"));
        }
        *end = offset;
    }
    let cluster = builder.cluster;
    if cluster == last.cluster {
        return invalid(format!(
            "cluster={cluster} is the one the backup is of: a restored one needs another"
        ));
    }
    if builder.joins || builder.voters.keys().any(|voter| *voter != builder.node) {
        return invalid(
            "a restored node is the only voter: the others join it once it is open".to_owned(),
        );
    }
    Ok(ends)
}

/// Makes a node of a new cluster out of a backup and all before it, down to the full one: the node that the
/// builder opens afterwards, which is the only voter until others join. See `docs/backup.md` for what is checked, in which order things become durable, and what is refused.
///
/// ```
/// use palisade::backup::*;
/// use palisade::{ClusterId, Engine};
///
/// # async fn example(dir: &std::path::Path) -> Result<(), BackupError> {
/// # let store = std::sync::Arc::new(object_store::memory::InMemory::new());
/// # let place = BackupPlace::new(store, "backups/prod")?;
/// # let engine = Engine::builder(dir.join("first")).cluster(ClusterId::new(7)).open().await?;
/// # engine.backup(&place).full(&BackupId::new("2026-11-17")?).await?;
/// # engine.close().await?;
/// let builder = Engine::builder(dir.join("restored")).cluster(ClusterId::new(8));
/// let id = BackupId::new("2026-11-17")?;
/// let Restored { groups, .. } = restore(&place, &id, &builder, RestoreTo::End).await?;
/// for (group, RestoredGroup { digest, .. }) in &groups {
///     println!("group={group} is as it was at offset={}", digest.offset);
/// }
/// let engine = builder.open().await?;
/// engine.close().await?;
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
///
/// # Errors
/// [`BackupError::Missing`], [`BackupError::Damaged`] or [`BackupError::BrokenChain`] with the first file that is
/// not what it should be; [`BackupError::Compacted`] for an offset before the chain begins;
/// [`BackupError::InvalidArgument`] for one behind its end, for the same cluster, for a builder that names
/// other voters, and for a directory that is not empty; [`BackupError::Key`] for a sealed one that neither the
/// place's keys nor the builder's open, before anything is written. After an error that is none of the last the directory is refused by whoever opens it.
pub async fn restore(
    place: &BackupPlace,
    id: &BackupId,
    builder: &EngineBuilder,
    to: RestoreTo,
) -> Result<Restored, BackupError> {
    Carrier::here().await?;
    let place = &place.or_keys(&builder.keys);
    let chain = place.chain(id).await?;
    for contents in &chain {
        place.judge(contents)?;
    }
    let ends = check(builder, to, &chain)?;
    let registry = builder.check()?;
    refuse_unregistered(&chain, &registry)?;
    let (dir, memory) = (builder.dir.clone(), builder.memory);
    let families = registry.families().clone();
    let store = on_thread(move || {
        make_empty(&dir)?;
        let (store, _) = open_store(&dir, families, memory)?;
        Ok(store)
    })
    .await?;
    let shared = Arc::clone(&store);
    let restored = Rebuild::run(place, &chain, &ends, shared, registry, Compares::End).await?;
    let builder = builder.clone();
    on_thread(move || {
        let EngineBuilder {
            dir, cluster, node, domain, listen, wal, disk, keys, data_groups, ..
        } = builder;
        let domain = domain.to_string();
        let member = Member { address: listen, domain, ..Member::default() };
        let stands = restored
            .groups
            .iter()
            .map(|(group, found)| (*group, (found.digest.offset, found.log_time)));
        let groups = stands.collect();
        let founding = Founding { data_dir: dir, disk, wal, keys, cluster, node, member, groups };
        founding.found().map_err(Error::from)?;
        keep_count(&*store, data_groups)?;
        Rebuild::end(&*store, cluster, node)?;
        Ok(restored)
    })
    .await
}

/// Makes a directory, or takes one that is empty.
pub(super) fn make_empty(dir: &Path) -> Result<(), BackupError> {
    let failed = |error: std::io::Error| Error::InternalError {
        what: format!("could not make {}: {error}", dir.display()),
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    match std::fs::read_dir(dir).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::InvalidArgument {
            what: format!("{} is not empty: a restore needs a directory of its own", dir.display()),
        }),
    }
}
