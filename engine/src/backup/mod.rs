//! Backups to an object store, and restores from one: `docs/backup.md` is the whole story.
//!
//! ```text
//!  Engine::backup --- full ---------> state files --+
//!               \---- incremental --> record files -+--> manifest, last
//!  verify  <--- manifests, then every file ---------+
//!  restore <--- the same, into the store of a new node; its log begins behind the state
//! ```
//! Whatever was written is either named by a manifest, with its length and hash, or garbage.
//!
//! ```
//! use std::sync::Arc;
//!
//! use palisade::backup::{BackupError, BackupId, BackupPlace, verify};
//! use palisade::*;
//!
//! # async fn example(dir: &std::path::Path) -> Result<(), BackupError> {
//! // An incremental needs the records since its parent: the log keeps at least so many entries of each group.
//! let options = Options { kept_entries: 1 << 20, ..Options::default() };
//! let engine = Engine::builder(dir).options(options).open().await?;
//! # let spec = ResourceSpec::new("greetings", "greeting.v1")?;
//! let map: ReplicatedMap<String, String> = ReplicatedMap::open(&engine, spec).await?;
//! map.put(&"hello".into(), &"world".into()).await?;
//!
//! // Any store will do: this one is in memory.
//! let store = Arc::new(object_store::memory::InMemory::new());
//! let place = BackupPlace::new(store, "backups/prod")?;
//! let monday = BackupId::new("2026-11-16")?;
//! let full = engine.backup(&place).full(&monday).await?;
//!
//! map.put(&"hello".into(), &"again".into()).await?;
//! let tuesday = BackupId::new("2026-11-17")?;
//! let incremental = engine.backup(&place).incremental(&tuesday, &monday).await?;
//! let group = map.group().id();
//! assert_eq!(incremental.groups[&group].to, full.groups[&group].to.next());
//! assert_eq!(verify(&place, &tuesday).await?, [full, incremental]);
//! engine.close().await?;
//! # Ok(()) }
//! # let dir = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
//! ```

mod error;
mod full;
mod incremental;
mod layout;
mod place;
#[cfg(any(feature = "rocksdb", test))]
mod rebuild;
#[cfg(feature = "rocksdb")]
mod rehearse;
#[cfg(feature = "rocksdb")]
mod restore;
mod sum;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{ClusterId, GroupId, KeyEpoch, KeyError, LogTime, Offset};

use self::layout::{Contents, GroupPart, Hash, Seal};
use crate::bounds::SYSTEM_GROUP;
use crate::chain::ChainHead;
use crate::engine::Engine;
use crate::error::Error;
use crate::group::Group;
use crate::machine::STATE_VERSION;
use crate::read::ReadConsistency;
use crate::resource_row::highest_claim;

pub use error::BackupError;
pub use place::{BackupPlace, ListedBackup};
#[cfg(feature = "rocksdb")]
pub use rebuild::{Restored, RestoredGroup};
#[cfg(feature = "rocksdb")]
pub use rehearse::rehearse;
#[cfg(feature = "rocksdb")]
pub use restore::{RestoreTo, restore};
pub use verify::verify;

/// What a backup is called, below the prefix it lies under.
///
/// ```
/// use palisade::backup::BackupId;
///
/// let id = BackupId::new("2026-11-17T04-00")?;
/// assert_eq!(id.as_str(), "2026-11-17T04-00");
/// assert!(BackupId::new("2026/11/17").is_err());
/// # Ok::<(), palisade::backup::BackupError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupId(Arc<str>);

impl BackupId {
    /// Longest id, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Takes letters, digits, `.`, `_` and `-`, beginning with a letter or digit. One that sorts by time
    /// is a good one: `2026-11-17T04-00`.
    ///
    /// # Errors
    /// [`BackupError::InvalidArgument`] for anything else.
    pub fn new(id: &str) -> Result<Self, BackupError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        // Files of the prefix itself have names, too.
        if !begins || id.len() > Self::BYTES_MAX || !id.bytes().all(allowed) || id == place::FORMAT
        {
            return Err(BackupError::InvalidArgument {
                what: format!(
                    "backup id={id:?} must be 1 to {} letters, digits, '.', '_' or '-', beginning with \
                     a letter or digit, and not {:?}",
                    Self::BYTES_MAX,
                    place::FORMAT
                ),
            });
        }
        Ok(Self(id.into()))
    }

    /// The id itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a backup holds.
///
/// ```
/// # use palisade::*;
/// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
/// # use palisade::backup::*;
/// # let place = BackupPlace::new(std::sync::Arc::new(object_store::memory::InMemory::new()), "b").unwrap();
/// # let engine = Engine::builder(dir).open().await?;
/// # let taken = async {
/// let sunday = BackupId::new("2026-11-15")?;
/// // At night there is nobody to be slowed down; by day, let it take an hour.
/// let backup: Backup = engine.backup(&place).bytes_per_second(4 << 20);
/// let BackupSummary { id, parent, groups, .. } = backup.full(&sunday).await?;
/// assert_eq!((id, parent), (sunday, None));
/// for (group, GroupSummary { to, files, bytes, .. }) in &groups {
///     println!("group={group} up to offset={to}: {files} files, {bytes} bytes");
/// }
/// # Ok::<(), BackupError>(()) };
/// # taken.await.unwrap();
/// # engine.close().await?;
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupSummary {
    /// What it is called.
    pub id: BackupId,
    /// The one before it, if it is incremental.
    pub parent: Option<BackupId>,
    /// Whose it is.
    pub cluster: ClusterId,
    /// What it has of each group, the system group among them.
    pub groups: BTreeMap<GroupId, GroupSummary>,
}

/// What a backup holds of one group. Between groups there is no order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSummary {
    /// It has the records after this one; a full one has the state, and this is zero.
    pub from: Offset,
    /// It ends with this record.
    pub to: Offset,
    /// The log time of that.
    pub log_time: LogTime,
    /// The head of the chain of records up to there: an [`Anchor`](crate::audit::Anchor).
    pub head: ChainHead,
    /// How many files it has.
    pub files: usize,
    /// How many bytes these have.
    pub bytes: u64,
}

impl Contents {
    fn summary(&self) -> BackupSummary {
        BackupSummary {
            id: self.id.clone(),
            parent: self.parent.as_ref().map(|(parent, _)| parent.clone()),
            cluster: self.cluster,
            groups: self.groups.iter().map(|(group, part)| (*group, part.summary())).collect(),
        }
    }
}

impl GroupPart {
    fn summary(&self) -> GroupSummary {
        GroupSummary {
            from: self.from.0,
            to: self.to.0,
            log_time: self.log_time,
            head: self.to.1,
            files: self.files.len(),
            bytes: self.files.iter().map(|file| file.bytes).sum(),
        }
    }
}

/// A backup that is about to be taken.
#[must_use = "nothing is taken until it is said what"]
pub struct Backup<'a> {
    engine: Engine,
    place: &'a BackupPlace,
    bytes_per_second: Option<u64>,
    /// What all of its files are sealed with, whatever rotation comes meanwhile.
    epoch: Option<KeyEpoch>,
}

/// What a backup takes of each group.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    State,
    /// The parent, and what it has.
    RecordsAfter(&'a BackupId, &'a Contents),
}

impl Engine {
    /// Begins a backup of this node to a place. It runs beside reads and writes; dropping its future ends it,
    /// and leaves files without a manifest. If the engine has keys with an active epoch, it is sealed with that.
    pub fn backup<'a>(&self, place: &'a BackupPlace) -> Backup<'a> {
        let epoch = self.keys().active();
        Backup { engine: self.clone(), place, bytes_per_second: None, epoch }
    }
}

impl Backup<'_> {
    /// Bounds how fast it writes; as fast as the place takes it if never said.
    pub fn bytes_per_second(mut self, bytes_per_second: u64) -> Self {
        self.bytes_per_second = Some(bytes_per_second.max(1));
        self
    }

    /// Takes the state of each group at one moment.
    ///
    /// # Errors
    /// [`BackupError::AlreadyExists`] for an id that is used, [`BackupError::Foreign`] for another cluster's
    /// place, [`BackupError::Store`] if that fails.
    pub async fn full(self, id: &BackupId) -> Result<BackupSummary, BackupError> {
        full::full(&self, id).await
    }

    /// Takes the records that came after another backup, up to what is applied here now.
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// # use palisade::backup::*;
    /// # let place = BackupPlace::new(std::sync::Arc::new(object_store::memory::InMemory::new()), "b").unwrap();
    /// # let options = Options { kept_entries: 1 << 20, ..Options::default() };
    /// # let engine = Engine::builder(dir).options(options).open().await?;
    /// # let taken = async {
    /// let [monday, tuesday] = [BackupId::new("2026-11-16")?, BackupId::new("2026-11-17")?];
    /// engine.backup(&place).full(&monday).await?;
    /// let summary = match engine.backup(&place).incremental(&tuesday, &monday).await {
    ///     // The log does not go back so far: everything, then.
    ///     Err(BackupError::Trimmed { .. }) => engine.backup(&place).full(&tuesday).await?,
    ///     taken => taken?,
    /// };
    /// assert_eq!(summary.parent, Some(monday));
    /// # Ok::<(), BackupError>(()) };
    /// # taken.await.unwrap();
    /// # engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Backup::full`]; and [`BackupError::Trimmed`] if the log no longer has them all,
    /// [`BackupError::Behind`] if this node is behind the parent, [`BackupError::BrokenChain`] if the parent is of
    /// another history, [`BackupError::Missing`] or [`BackupError::Damaged`] if its manifest is.
    pub async fn incremental(
        self,
        id: &BackupId,
        parent: &BackupId,
    ) -> Result<BackupSummary, BackupError> {
        incremental::incremental(&self, id, parent).await
    }

    /// Whose backup it will be. Makes sure that the place is that cluster's and the id not used.
    async fn begin(&self, id: &BackupId) -> Result<ClusterId, BackupError> {
        self.refuse_halted()?;
        let cluster = self.engine.cluster();
        self.place.claim(cluster).await?;
        self.place.refuse_used(id).await?;
        Ok(cluster)
    }

    /// What the manifest says of the key.
    fn seal(&self) -> Result<Option<Seal>, BackupError> {
        let Some(epoch) = self.epoch else { return Ok(None) };
        let keys = self.engine.keys();
        let file = "backup".to_owned();
        let check = keys.check(epoch).ok_or(KeyError::Retired { file, epoch })?;
        Ok(Some(Seal { epoch, check }))
    }

    /// A file as it is stored.
    fn sealed(&self, file: &str, parts: Vec<Bytes>) -> Result<Vec<Bytes>, BackupError> {
        let Some(epoch) = self.epoch else { return Ok(parts) };
        let context = place::context(self.engine.cluster(), file);
        let sealed = self.engine.keys().seal_file(epoch, &context, file, &parts.concat())?;
        Ok(vec![sealed.into()])
    }

    /// A halted replica may be damaged: nothing is taken of it (G10).
    fn refuse_halted(&self) -> Result<(), BackupError> {
        let stopped = self.engine.groups().iter().find_map(Group::stopped);
        stopped.map_or(Ok(()), |cause| Err(cause.into()))
    }

    /// Takes a part of each group: of the system group last, once it has the name of every resource that the
    /// parts before have. Whoever restored a resource without its name could make a second one of that name.
    async fn each_group(
        &self,
        id: &BackupId,
        wanted: Wanted<'_>,
    ) -> Result<BTreeMap<GroupId, GroupPart>, BackupError> {
        let mut parts = BTreeMap::new();
        let groups = self.engine.data_group_handles();
        for group in &groups {
            parts.insert(group.id(), self.part(id, group, wanted).await?);
        }
        let system = self.engine.system();
        let local = ReadConsistency::Local.into();
        let claims = self.engine.read_all(local, Offset::ZERO, |highest, read, group| {
            *highest = highest_claim(read, group)?.max(*highest);
            Ok(())
        });
        system.at_least(claims.await?.0, self.engine.request_timeout()).await?;
        parts.insert(SYSTEM_GROUP, self.part(id, &system, wanted).await?);
        Ok(parts)
    }

    /// Takes what is wanted of one group.
    async fn part(
        &self,
        id: &BackupId,
        group: &Group,
        wanted: Wanted<'_>,
    ) -> Result<GroupPart, BackupError> {
        match wanted {
            Wanted::State => full::state(self, id, group).await,
            Wanted::RecordsAfter(parent, before) => {
                let before = &before.groups[&group.id()];
                incremental::records(self, id, group, parent, before).await
            }
        }
    }

    /// Whether nothing was ever written to the group. Who is only behind is not taken for that.
    async fn is_empty(group: &Group) -> Result<bool, Error> {
        Ok(group.applied()? == Offset::ZERO && group.barrier().await? == Offset::ZERO)
    }

    /// Writes the manifest: from now on it is a backup.
    async fn end(
        &self,
        id: &BackupId,
        cluster: ClusterId,
        parent: Option<(BackupId, Hash)>,
        groups: BTreeMap<GroupId, GroupPart>,
    ) -> Result<BackupSummary, BackupError> {
        self.refuse_halted()?;
        let (id, state) = (id.clone(), STATE_VERSION);
        let seal = self.seal()?;
        let contents = Contents { id, cluster, state, seal, parent, groups };
        self.place.put(place::manifest(&contents.id), vec![contents.encode()]).await?;
        Ok(contents.summary())
    }
}
