//! Where backups lie: files below a prefix of an object store. Nothing else speaks to one.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use palisade_replication::{ClusterId, GroupId, KeyEpoch, KeyError, Keys};

use super::layout::{self, Contents, FileEntry, FileName, Hash, Seal};
use super::{BackupError, BackupId};

/// The file that says whose prefix it is.
pub(super) const FORMAT: &str = "format";
/// No format file or manifest is longer: a manifest has about a hundred bytes for each 8 MiB.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// A prefix of an object store, which one cluster's backups lie under. Clones share it.
#[derive(Clone, Debug)]
pub struct BackupPlace {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    keys: Keys,
}

/// What lies below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedBackup {
    /// What it is called.
    pub id: BackupId,
    /// False if it has no manifest: it did not come to its end, or has not yet.
    pub complete: bool,
}

pub(super) fn manifest(id: &BackupId) -> String {
    format!("{id}/manifest")
}

pub(super) fn file(id: &BackupId, group: GroupId, name: FileName) -> String {
    format!("{id}/group-{group}/{name}")
}

impl BackupPlace {
    /// Names a place; nothing is read or written yet. The prefix may be empty, or a path with slashes.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use palisade::backup::BackupPlace;
    ///
    /// let store = Arc::new(object_store::memory::InMemory::new());
    /// assert!(BackupPlace::new(store.clone(), "backups/prod").is_ok());
    /// assert!(BackupPlace::new(store, "a//b").is_err());
    /// ```
    ///
    /// # Errors
    /// [`BackupError::InvalidArgument`] if the prefix is not a path.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, BackupError> {
        let prefix = Path::parse(prefix)
            .map_err(|error| BackupError::InvalidArgument { what: error.to_string() })?;
        Ok(Self { store, prefix, keys: Keys::none() })
    }

    /// The same place, and what opens the sealed backups there. A backup that is taken is sealed with the keys
    /// of the engine it is taken of, not with these.
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// The same place for a restore, with the new node's keys if it has none of its own.
    #[cfg(feature = "rocksdb")]
    pub(super) fn or_keys(&self, keys: &Keys) -> Self {
        let given = if self.keys.are_given() { &self.keys } else { keys };
        self.clone().with_keys(given.clone())
    }

    /// The key epochs that a backup needs, and those before it down to the full one; none for those that are
    /// clear. No key is needed to know.
    ///
    /// Before a key is destroyed, whoever keeps backups asks which of them need it:
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// # use palisade::backup::*;
    /// # use palisade::encryption::{KeyRing, Keys, SystemRandomness};
    /// # let mut ring = KeyRing::default();
    /// # ring.rotate(&SystemRandomness).unwrap();
    /// # let keys = Keys::new(ring);
    /// # let builder = Engine::builder(dir).keys(keys.clone()).state_disk_is_encrypted();
    /// # let engine = builder.open().await?;
    /// # let place = BackupPlace::new(std::sync::Arc::new(object_store::memory::InMemory::new()), "b").unwrap();
    /// # let asked = async {
    /// let monday = BackupId::new("2026-11-16")?;
    /// engine.backup(&place).full(&monday).await?;
    /// let needs = place.key_epochs(&monday).await?;
    /// assert_eq!(needs.len(), 1, "it is a full one");
    /// assert!(needs[0].1.is_some(), "it is sealed");
    ///
    /// // What is inside is verified with the keys, and only with them.
    /// assert!(verify(&place, &monday).await.is_err());
    /// verify(&place.with_keys(keys), &monday).await?;
    /// # Ok::<(), BackupError>(()) };
    /// # asked.await.unwrap();
    /// # engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`verify`](super::verify) of their manifests.
    pub async fn key_epochs(
        &self,
        id: &BackupId,
    ) -> Result<Vec<(BackupId, Option<KeyEpoch>)>, BackupError> {
        let chain = self.chain(id).await?;
        let epoch = |contents: &Contents| contents.seal.map(|seal| seal.epoch);
        Ok(chain.iter().map(|contents| (contents.id.clone(), epoch(contents))).collect())
    }

    /// Refuses a backup that these keys do not open.
    pub(super) fn judge(&self, contents: &Contents) -> Result<(), BackupError> {
        let Some(Seal { epoch, check }) = contents.seal else { return Ok(()) };
        let file = manifest(&contents.id);
        self.keys.hold(epoch, &file)?;
        if self.keys.check(epoch) != Some(check) {
            return Err(KeyError::Wrong { file, epoch }.into());
        }
        Ok(())
    }

    /// All ids below the prefix, in order.
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// # use palisade::backup::*;
    /// # let place = BackupPlace::new(std::sync::Arc::new(object_store::memory::InMemory::new()), "b").unwrap();
    /// # let engine = Engine::builder(dir).open().await?;
    /// # let listed = async {
    /// engine.backup(&place).full(&BackupId::new("2026-11-15")?).await?;
    /// for ListedBackup { id, complete, .. } in place.list().await? {
    ///     println!("{id}{}", if complete { "" } else { ": it did not come to its end" });
    /// }
    /// # Ok::<(), BackupError>(()) };
    /// # listed.await.unwrap();
    /// # engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`BackupError::Store`] if it fails.
    pub async fn list(&self) -> Result<Vec<ListedBackup>, BackupError> {
        let listed = self.store.list_with_delimiter(Some(&self.prefix)).await;
        let listed = listed.map_err(|error| failed("", error))?;
        let mut found = Vec::new();
        for folder in listed.common_prefixes {
            // What is not an id is none of ours.
            let Some(Ok(id)) = folder.filename().map(BackupId::new) else { continue };
            let complete = match self.store.head(&self.path(&manifest(&id))).await {
                Ok(_) => true,
                Err(object_store::Error::NotFound { .. }) => false,
                Err(error) => return Err(failed(&manifest(&id), error)),
            };
            found.push(ListedBackup { id, complete });
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    fn path(&self, file: &str) -> Path {
        file.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// Makes the prefix this cluster's, or refuses another's.
    pub(super) async fn claim(&self, cluster: ClusterId) -> Result<(), BackupError> {
        match self.check_format(cluster).await {
            Err(BackupError::Missing { .. }) => {}
            checked => return checked,
        }
        match self.put(FORMAT.to_owned(), vec![layout::encode_format(cluster)]).await {
            // Somebody was faster.
            Err(BackupError::AlreadyExists { .. }) => self.check_format(cluster).await,
            put => put,
        }
    }

    async fn check_format(&self, cluster: ClusterId) -> Result<(), BackupError> {
        let raw = self.get(FORMAT, None).await?;
        of_cluster(FORMAT, cluster, layout::decode_format(FORMAT, &raw)?)
    }

    pub(super) async fn refuse_used(&self, id: &BackupId) -> Result<(), BackupError> {
        let folder = self.path(id.as_str());
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|error| failed(id.as_str(), error))?;
        let files = listed.objects.into_iter().map(|object| object.location);
        match files.chain(listed.common_prefixes).next() {
            None => Ok(()),
            Some(found) => {
                let name = found.filename().unwrap_or_default();
                Err(BackupError::AlreadyExists { file: format!("{id}/{name}") })
            }
        }
    }

    /// Writes a file that is not there yet.
    pub(super) async fn put(&self, file: String, parts: Vec<Bytes>) -> Result<(), BackupError> {
        let payload = PutPayload::from_iter(parts);
        match self.store.put_opts(&self.path(&file), payload, PutMode::Create.into()).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                Err(BackupError::AlreadyExists { file })
            }
            Err(error) => Err(failed(&file, error)),
        }
    }

    /// Reads a file, which may be told to have a certain length.
    async fn get(&self, file: &str, bytes: Option<u64>) -> Result<Bytes, BackupError> {
        let found = match self.store.get(&self.path(file)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(BackupError::Missing { file: file.to_owned() });
            }
            Err(error) => return Err(failed(file, error)),
        };
        let size = found.meta.size;
        let fits = bytes.map_or(size <= TEXT_BYTES_MAX, |bytes| size == bytes);
        if !fits {
            let expected = bytes.unwrap_or(TEXT_BYTES_MAX);
            let what = format!("its length, expected={expected} found={size}");
            return Err(BackupError::damaged(file, what));
        }
        found.bytes().await.map_err(|error| failed(file, error))
    }

    /// Reads a file that a manifest names, as it was before it was sealed. Gives its name, too.
    pub(super) async fn read(
        &self,
        contents: &Contents,
        group: GroupId,
        entry: &FileEntry,
    ) -> Result<(String, Bytes), BackupError> {
        let (file, raw) = self.read_stored(contents, group, entry).await?;
        if contents.seal.is_none() {
            return Ok((file, raw));
        }
        let opened = self.keys.open_file(&context(contents.cluster, &file), &file, &raw)?;
        let opened = opened.ok_or_else(|| BackupError::damaged(&file, "it is not sealed"))?;
        Ok((file, opened.into()))
    }

    /// Reads a file as it lies there, and checks its hash: no key is needed.
    pub(super) async fn read_stored(
        &self,
        contents: &Contents,
        group: GroupId,
        entry: &FileEntry,
    ) -> Result<(String, Bytes), BackupError> {
        let file = file(&contents.id, group, entry.name);
        let raw = self.get(&file, Some(entry.bytes)).await?;
        let found = Hash::of(&raw);
        if found != entry.sha256 {
            let what = format!("its SHA-256, expected={} found={found}", entry.sha256);
            return Err(BackupError::damaged(file, what));
        }
        Ok((file, raw))
    }

    /// Reads a manifest, and its hash.
    pub(super) async fn manifest(&self, id: &BackupId) -> Result<(Contents, Hash), BackupError> {
        let file = manifest(id);
        let raw = self.get(&file, None).await?;
        Ok((Contents::decode(&file, id, &raw)?, Hash::of(&raw)))
    }

    /// Reads the manifests of a chain, the full one first, and checks that each follows from the one before.
    pub(super) async fn chain(&self, id: &BackupId) -> Result<Vec<Contents>, BackupError> {
        let (last, _) = self.manifest(id).await?;
        self.check_format(last.cluster).await?;
        let mut chain = vec![last];
        loop {
            let child = chain.last().expect("it begins with one");
            let Some((parent_id, named)) = child.parent.clone() else { break };
            let (parent, found) = self.manifest(&parent_id).await?;
            of_cluster(&manifest(&parent_id), child.cluster, parent.cluster)?;
            let ends: Vec<_> =
                parent.groups.iter().map(|(group, part)| (*group, part.to)).collect();
            let begins = child.groups.iter().map(|(group, part)| (*group, part.from));
            if found != named || !begins.eq(ends) {
                let file = manifest(&child.id);
                return Err(BackupError::BrokenChain { file, parent: parent_id });
            }
            chain.push(parent);
        }
        chain.reverse();
        Ok(chain)
    }
}

/// What a file of a backup is sealed for.
pub(super) fn context(cluster: ClusterId, file: &str) -> Vec<u8> {
    [&b"backup"[..], &cluster.get().to_le_bytes(), file.as_bytes()].concat()
}

pub(super) fn of_cluster(
    file: &str,
    expected: ClusterId,
    found: ClusterId,
) -> Result<(), BackupError> {
    if expected == found {
        return Ok(());
    }
    Err(BackupError::Foreign { file: file.to_owned(), expected, found })
}

fn failed(file: &str, error: object_store::Error) -> BackupError {
    BackupError::Store { file: file.to_owned(), source: Arc::new(error) }
}
