//! A restore that is thrown away: what `verify` cannot say, because it applies no records.

use super::rebuild::{Compares, Rebuild, Restored, on_thread, refuse_unregistered};
use super::restore::make_empty;
use super::{BackupError, BackupId, BackupPlace};
use crate::builder::{EngineBuilder, open_store};
use crate::error::Error;
use crate::node_backend::Carrier;

/// Restores a backup and all before it, down to the full one, and throws the state away: every file is read and
/// checked, every record is applied, and at the end of each backup of the chain the state has to come to the
/// digests that its manifest gives. [`super::verify`] reads as much and applies nothing, so it takes the digests
/// of incrementals on trust.
///
/// The state lies in the builder's directory meanwhile, which has to be empty and is emptied again; no node can
/// be opened from it. The builder needs the projections that the backup has rows of. Its cluster does not matter.
///
/// ```
/// use palisade::Engine;
/// use palisade::backup::{BackupError, BackupId, BackupPlace, rehearse};
///
/// # async fn example(dir: &std::path::Path) -> Result<(), BackupError> {
/// # let store = std::sync::Arc::new(object_store::memory::InMemory::new());
/// # let place = BackupPlace::new(store, "backups/prod")?;
/// # let engine = Engine::builder(dir.join("first")).open().await?;
/// # engine.backup(&place).full(&BackupId::new("2026-11-17")?).await?;
/// # engine.close().await?;
/// let builder = Engine::builder(dir.join("scratch"));
/// let restored = rehearse(&place, &BackupId::new("2026-11-17")?, &builder).await?;
/// println!("{} groups can be restored", restored.groups.len());
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
///
/// # Errors
/// [`BackupError::Missing`], [`BackupError::Damaged`] or [`BackupError::BrokenChain`] with the first file that is
/// not what it should be; [`BackupError::InvalidArgument`] for a directory that is not empty.
pub async fn rehearse(
    place: &BackupPlace,
    id: &BackupId,
    builder: &EngineBuilder,
) -> Result<Restored, BackupError> {
    Carrier::here().await?;
    let chain = place.chain(id).await?;
    let registry = builder.check()?;
    refuse_unregistered(&chain, &registry)?;
    let last = chain.last().expect("a chain has a backup");
    let ends = last.groups.iter().map(|(group, part)| (*group, part.to.0)).collect();
    let (dir, memory) = (builder.dir.clone(), builder.memory);
    let families = registry.families().clone();
    let store = on_thread(move || {
        make_empty(&dir)?;
        let (store, _) = open_store(&dir, families, memory)?;
        Ok(store)
    })
    .await?;
    let restored = Rebuild::run(place, &chain, &ends, store, registry, Compares::Each).await;
    let dir = builder.dir.clone();
    on_thread(move || {
        // It was empty: all that is in it was made here.
        std::fs::remove_dir_all(&dir).and_then(|()| std::fs::create_dir(&dir)).map_err(|error| {
            let what = format!("could not empty {}: {error}", dir.display());
            Error::InternalError { what }.into()
        })
    })
    .await?;
    restored
}
