//! Snapshots on disk: those exported here for others, and those being received.
//!
//! ```text
//! out-{group}-{index}.manifest             out-{group}-{index}.{chunk}
//! in-{group}-{index}-{id}.manifest         in-{group}-{index}-{id}.{chunk}
//! ```
//! An exported snapshot counts once its manifest is there, which is written last. A received one is
//! checked chunk by chunk against its manifest, when a chunk is stored and again when it is
//! installed, so what a crash leaves of it is used as far as it is whole. At most one of each kind
//! is kept for a group; exports of a former life are removed.
//!
//! With keys every file is sealed, for its name in this shelf alone (`wal/docs/encryption.md`): what is received
//! with the ring's, and what is exported with a key that the process makes for itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use palisade_wal::{
    Disk, GroupId, KeyEpoch, KeyHold, Keys, LogIndex, SEALED_FILE_BYTES, SEALED_FILE_PREFIX_BYTES,
    WalIdentity, sealed_epoch,
};

use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::snapshot::{CHUNK_BYTES_MAX, ChunkSum, Manifest, SnapshotId};
use crate::state_machine::{ApplyError, Export};

/// Largest manifest file that is read.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// The snapshots of one node. Shared by the threads that export, serve, receive and install.
pub(crate) struct Shelf {
    disk: Arc<dyn Disk>,
    exported: Mutex<BTreeMap<GroupId, Manifest>>,
    /// The node closes: nobody will want what is being exported.
    closing: AtomicBool,
    keys: Keys,
    /// Of what is exported.
    own_keys: Keys,
    owner: WalIdentity,
    /// Of sealed files that were received, by name: every epoch that power could leave there.
    held: Mutex<BTreeMap<String, Vec<KeyHold>>>,
}

impl Shelf {
    /// Removes what a former life exported; what it received stays. If these keys do not open that, nothing
    /// is removed.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        keys: Keys,
        owner: WalIdentity,
    ) -> Result<Self, NodeError> {
        let failed = |source: io::Error| {
            let what = "the directory of snapshots cannot be used".to_owned();
            NodeError::Io { what, source: Arc::new(source) }
        };
        let names = disk.list().map_err(failed)?;
        let mut held = BTreeMap::new();
        for name in names.iter().filter(|name| name.starts_with("in-")) {
            let length = disk.len(name).map_err(failed)?.min(SEALED_FILE_PREFIX_BYTES as u64);
            let mut raw = vec![0; length as usize];
            // One that cannot be read is received again.
            let is_read = disk.read_at(name, 0, &mut raw).is_ok();
            if let Some(epoch) = sealed_epoch(&raw).filter(|_| is_read) {
                let hold = keys.hold(epoch, &format!("snapshots/{name}"))?;
                held.insert(name.clone(), vec![hold]);
            }
        }
        for name in names.iter().filter(|name| name.starts_with("out-")) {
            disk.remove(name).map_err(failed)?;
        }
        let own_keys = keys.of_process()?;
        let (exported, held) = (Mutex::default(), Mutex::new(held));
        let closing = AtomicBool::new(false);
        Ok(Self { disk, exported, closing, keys, own_keys, owner, held })
    }

    /// What a file is sealed for.
    fn context(&self, name: &str) -> Vec<u8> {
        let WalIdentity { cluster, node, incarnation } = self.owner;
        let (cluster, node) = (cluster.to_le_bytes(), node.to_le_bytes());
        [&b"shelf"[..], &cluster, &node, &incarnation.to_le_bytes(), name.as_bytes()].concat()
    }

    /// Writes the state of a group as it stands now, in place of an earlier export.
    pub(crate) fn export(
        &self,
        group: GroupId,
        export: &mut dyn Export,
    ) -> Result<Manifest, ApplyError> {
        self.exported().remove(&group);
        // Not only the last one: an export that failed, on a full disk perhaps, left its parts.
        self.remove_all(&out_prefix(group)).map_err(failed)?;
        let exported = self.export_anew(group, export);
        if exported.is_err() {
            // Its parts must not keep the disk full for everyone else.
            let _ = self.remove_all(&out_prefix(group));
        }
        exported
    }

    fn export_anew(&self, group: GroupId, export: &mut dyn Export) -> Result<Manifest, ApplyError> {
        let mut manifest = Manifest { group, position: AppliedPosition::ZERO, chunks: Vec::new() };
        export.run(&mut |position, chunk: Bytes| {
            if self.closing.load(Ordering::Relaxed) {
                return Err(ApplyError::of_node("the node closes"));
            }
            manifest.position = position;
            let name = chunk_name(&out_stem(group, position.index), manifest.chunks.len());
            // Not synced, nor is the manifest: it goes with its process, and what a chunk must be is
            // checked whenever it is served. Syncs would only stand in the log's way.
            self.write_own(&name, &chunk).map_err(failed)?;
            manifest.chunks.push(ChunkSum::of(&chunk));
            Ok(())
        })?;
        if manifest.position == AppliedPosition::ZERO {
            return Err(ApplyError::of_node("there is no state to export"));
        }
        let name = manifest_name(&out_stem(group, manifest.position.index));
        self.write_own(&name, &manifest.encode()).map_err(failed)?;
        self.exported().insert(group, manifest.clone());
        Ok(manifest)
    }

    /// Lets exports end with their next chunk.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// A chunk of the group's export, if it is the one named and still whole.
    pub(crate) fn serve(&self, group: GroupId, id: SnapshotId, chunk: u32) -> Option<Bytes> {
        let (index, sum) = {
            let exported = self.exported();
            let manifest = exported.get(&group).filter(|manifest| manifest.id() == id)?;
            (manifest.position.index, *manifest.chunks.get(chunk as usize)?)
        };
        self.read_chunk(&self.own_keys, &out_stem(group, index), chunk as usize, &sum)
    }

    /// Makes room for a snapshot that is to be received, and says which chunks are missing.
    pub(crate) fn begin(&self, manifest: &Manifest) -> io::Result<Vec<u32>> {
        let stem = in_stem(manifest);
        for name in self.disk.list()? {
            if name.starts_with(&in_prefix(manifest.group)) && !name.starts_with(&stem) {
                self.disk.remove(&name)?;
            }
        }
        self.settle_removed(&in_prefix(manifest.group))?;
        let mut missing = Vec::new();
        for (at, sum) in manifest.chunks.iter().enumerate() {
            if self.read_chunk(&self.keys, &stem, at, sum).is_none() {
                missing.push(at as u32);
            } else {
                // A process that was killed while it kept this one had written it, not synced.
                self.disk.sync(&chunk_name(&stem, at))?;
            }
        }
        self.write_new(&manifest_name(&stem), &manifest.encode())?;
        self.disk.sync_dir()?;
        Ok(missing)
    }

    /// Keeps a chunk if it is what the manifest says. Returns whether it was.
    pub(crate) fn store(&self, manifest: &Manifest, chunk: u32, raw: &[u8]) -> io::Result<bool> {
        let Some(sum) = manifest.chunks.get(chunk as usize) else { return Ok(false) };
        if ChunkSum::of(raw) != *sum {
            return Ok(false);
        }
        self.write_new(&chunk_name(&in_stem(manifest), chunk as usize), raw)?;
        // The log begins anew on the strength of it.
        self.disk.sync_dir()?;
        Ok(true)
    }

    /// The received snapshot of a group at this index, if there is one that says what it is, whole or not.
    pub(crate) fn received(&self, group: GroupId, index: LogIndex) -> io::Result<Option<Manifest>> {
        for name in self.disk.list()? {
            if !name.starts_with(&in_prefix(group)) || !name.ends_with(".manifest") {
                continue;
            }
            let length = self.disk.len(&name)?.min(MANIFEST_BYTES_MAX);
            let mut raw = vec![0; length as usize];
            // One that cannot be read is as good as none.
            let is_read = self.disk.read_at(&name, 0, &mut raw).is_ok();
            let manifest = is_read.then(|| self.opened(&self.keys, &name, raw)).flatten();
            let manifest = manifest.and_then(|raw| Manifest::decode(&raw));
            let manifest = manifest.filter(|m| manifest_name(&in_stem(m)) == name);
            if let Some(manifest) = manifest.filter(|m| m.position.index == index) {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// One chunk of a received snapshot, checked.
    pub(crate) fn chunk(&self, manifest: &Manifest, at: usize) -> Result<Bytes, ApplyError> {
        let sum = &manifest.chunks[at];
        self.read_chunk(&self.keys, &in_stem(manifest), at, sum).ok_or_else(|| {
            let id = manifest.id();
            ApplyError::of_node(format!("chunk {at} of snapshot {id} is missing or damaged"))
        })
    }

    /// Removes what was received for a group.
    pub(crate) fn discard(&self, group: GroupId) -> io::Result<()> {
        self.remove_all(&in_prefix(group))?;
        self.settle_removed(&in_prefix(group))
    }

    fn exported(&self) -> MutexGuard<'_, BTreeMap<GroupId, Manifest>> {
        self.exported.lock().expect("no code panics while it holds the exports")
    }

    /// `None` for a chunk that is not there, not readable or not what it should be: all the same to
    /// whoever needs it.
    fn read_chunk(&self, keys: &Keys, stem: &str, at: usize, sum: &ChunkSum) -> Option<Bytes> {
        let name = chunk_name(stem, at);
        let length = self.disk.len(&name).ok()?;
        let clear = u64::from(sum.length);
        let is_sealed = length == clear + SEALED_FILE_BYTES as u64;
        if !is_sealed && length != clear || clear > CHUNK_BYTES_MAX as u64 {
            return None;
        }
        let mut raw = vec![0; length as usize];
        self.disk.read_at(&name, 0, &mut raw).ok()?;
        let raw = if is_sealed { self.opened(keys, &name, raw)? } else { raw };
        (ChunkSum::of(&raw) == *sum).then(|| raw.into())
    }

    /// What a file was before it was sealed, if it was. `None` for one that is not what was sealed.
    fn opened(&self, keys: &Keys, name: &str, raw: Vec<u8>) -> Option<Vec<u8>> {
        match keys.open_file(&self.context(name), name, &raw) {
            Ok(None) => Some(raw),
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(file = name, %error, "a file of a snapshot is not used");
                None
            }
        }
    }

    fn write_new(&self, name: &str, raw: &[u8]) -> io::Result<()> {
        let hold = self.keys.hold_active();
        let is_sealed = hold.is_some();
        let raw = self.sealed(&self.keys, hold.as_ref().map(KeyHold::epoch), name, raw)?;
        if let Some(hold) = hold {
            self.held().entry(name.to_owned()).or_default().push(hold);
        }
        self.write(name, &raw)?;
        self.disk.sync(name)?;
        if let Some(holds) = self.held().get_mut(name) {
            holds.drain(..holds.len() - usize::from(is_sealed));
        }
        Ok(())
    }

    /// Of an export.
    fn write_own(&self, name: &str, raw: &[u8]) -> io::Result<()> {
        let epoch = self.keys.active().and_then(|_| self.own_keys.active());
        self.write(name, &self.sealed(&self.own_keys, epoch, name, raw)?)
    }

    /// Not synced.
    fn write(&self, name: &str, raw: &[u8]) -> io::Result<()> {
        self.disk.create(name, 0)?;
        self.disk.write_at(name, 0, raw)
    }

    fn sealed<'a>(
        &self,
        keys: &Keys,
        epoch: Option<KeyEpoch>,
        name: &str,
        raw: &'a [u8],
    ) -> io::Result<Cow<'a, [u8]>> {
        let Some(epoch) = epoch else { return Ok(raw.into()) };
        let sealed = keys.seal_file(epoch, &self.context(name), name, raw);
        sealed.map(Cow::Owned).map_err(io::Error::other)
    }

    /// Lets go of the epochs of removed files, once power cannot bring these back.
    fn settle_removed(&self, prefix: &str) -> io::Result<()> {
        let is_there = self.disk.list()?;
        let is_gone = |name: &String| name.starts_with(prefix) && !is_there.contains(name);
        if self.held().keys().any(is_gone) {
            self.disk.sync_dir()?;
            self.held().retain(|name, _| !is_gone(name));
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Vec<KeyHold>>> {
        self.held.lock().expect("no code panics while it holds the keys")
    }

    fn remove_all(&self, prefix: &str) -> io::Result<()> {
        for name in self.disk.list()? {
            if name.starts_with(prefix) {
                self.disk.remove(&name)?;
            }
        }
        Ok(())
    }
}

fn failed(source: io::Error) -> ApplyError {
    ApplyError::of_node("could not write a snapshot").with_source(source)
}

fn out_prefix(group: GroupId) -> String {
    format!("out-{:016x}-", group.get())
}

fn out_stem(group: GroupId, index: LogIndex) -> String {
    format!("{}{:016x}.", out_prefix(group), index.get())
}

fn in_prefix(group: GroupId) -> String {
    format!("in-{:016x}-", group.get())
}

fn in_stem(manifest: &Manifest) -> String {
    let (prefix, index) = (in_prefix(manifest.group), manifest.position.index.get());
    format!("{prefix}{index:016x}-{}.", manifest.id())
}

fn chunk_name(stem: &str, at: usize) -> String {
    format!("{stem}{at:08x}")
}

fn manifest_name(stem: &str) -> String {
    format!("{stem}manifest")
}

#[cfg(test)]
mod tests {
    use palisade_wal::sim::SimDisk;
    use palisade_wal::{KeyRing, SeededRandomness};

    use super::*;
    use crate::identity::{LogTime, Offset, Term};
    use crate::state_machine::TakeChunk;

    const GROUP: GroupId = GroupId::new(1);

    const OWNER: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };

    fn open(disk: Arc<dyn Disk>) -> Result<Shelf, NodeError> {
        Shelf::open(disk, Keys::none(), OWNER)
    }

    struct Rows(u64, Vec<&'static [u8]>);

    impl Export for Rows {
        fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
            let position = AppliedPosition {
                index: LogIndex::new(self.0),
                term: Term::new(1),
                members_index: LogIndex::new(1),
                offset: Offset::new(self.0),
                log_time: LogTime::ZERO,
            };
            self.1.iter().try_for_each(|chunk| take(position, Bytes::from_static(chunk)))
        }
    }

    #[test]
    fn what_is_exported_here_is_received_there_over_a_crash() {
        let (out_disk, in_disk) = (SimDisk::from_seed(1), SimDisk::from_seed(2));
        let from = open(Arc::new(out_disk.clone())).unwrap();
        let to = open(Arc::new(in_disk.clone())).unwrap();
        let manifest = from.export(GROUP, &mut Rows(7, vec![b"one", b"two", b"three"])).unwrap();
        let id = manifest.id();
        assert_eq!(to.begin(&manifest).unwrap(), [0, 1, 2]);
        for at in [2, 0] {
            let chunk = from.serve(GROUP, id, at).unwrap();
            assert!(to.store(&manifest, at, &chunk).unwrap());
        }
        assert!(!to.store(&manifest, 1, b"other").unwrap());
        in_disk.crash();
        let to = open(Arc::new(in_disk.clone())).unwrap();
        assert_eq!(to.begin(&manifest).unwrap(), [1], "it goes on where it was");
        assert!(to.store(&manifest, 1, &from.serve(GROUP, id, 1).unwrap()).unwrap());
        assert_eq!(to.received(GROUP, LogIndex::new(7)).unwrap().as_ref(), Some(&manifest));
        assert_eq!(&to.chunk(&manifest, 2).unwrap()[..], b"three");

        // Damage is noticed wherever it lies.
        in_disk.flip_bit(&chunk_name(&in_stem(&manifest), 2), 1, 3);
        assert!(to.chunk(&manifest, 2).is_err());
        assert_eq!(to.begin(&manifest).unwrap(), [2]);
        out_disk.flip_bit(&chunk_name(&out_stem(GROUP, LogIndex::new(7)), 0), 0, 0);
        assert_eq!(from.serve(GROUP, id, 0), None);

        // A chunk that a killed process had written and not synced does not count as there.
        to.begin(&manifest).unwrap();
        let chunk = chunk_name(&in_stem(&manifest), 2);
        in_disk.create(&chunk, 0).unwrap();
        in_disk.write_at(&chunk, 0, b"three").unwrap();
        assert!(to.begin(&manifest).unwrap().is_empty());
        in_disk.crash();
        assert_eq!(&to.chunk(&manifest, 2).unwrap()[..], b"three");

        // An export that fails leaves nothing behind.
        struct Fails;
        impl Export for Fails {
            fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
                Rows(9, vec![b"one", b"two"]).run(take)?;
                Err(ApplyError::of_node("the disk is full"))
            }
        }
        from.export(GROUP, &mut Fails).unwrap_err();
        assert!(out_disk.list().unwrap().is_empty());

        // A newer one takes its place; exports do not outlive their process.
        let newer = from.export(GROUP, &mut Rows(8, vec![b"four"])).unwrap();
        assert_eq!(from.serve(GROUP, id, 1), None);
        to.begin(&newer).unwrap();
        assert_eq!(to.received(GROUP, LogIndex::new(7)).unwrap(), None);
        open(Arc::new(out_disk.clone())).unwrap();
        assert!(out_disk.list().unwrap().is_empty());
    }

    fn ring(epochs: u64) -> KeyRing {
        let mut ring = KeyRing::default();
        (0..epochs).for_each(|seed| {
            ring.rotate(&SeededRandomness::new(seed)).unwrap();
        });
        ring
    }

    fn epoch(number: u32) -> KeyEpoch {
        KeyEpoch::new(number).unwrap()
    }

    /// Received under one epoch, gone on with under the next, and refused with neither.
    #[test]
    fn what_is_received_is_sealed_and_its_epochs_are_held() {
        let (out_disk, in_disk) = (SimDisk::from_seed(1), SimDisk::from_seed(2));
        let keys = Keys::new(ring(1));
        let open =
            |disk: &SimDisk, keys: &Keys| Shelf::open(Arc::new(disk.clone()), keys.clone(), OWNER);
        let sender = Keys::new(ring(1));
        let (from, to) = (open(&out_disk, &sender).unwrap(), open(&in_disk, &keys).unwrap());
        let secrets: Vec<&'static [u8]> = vec![b"one secret", b"two secret"];
        let manifest = from.export(GROUP, &mut Rows(7, secrets)).unwrap();
        let id = manifest.id();
        assert_eq!(to.begin(&manifest).unwrap(), [0, 1]);
        assert!(to.store(&manifest, 0, &from.serve(GROUP, id, 0).unwrap()).unwrap());
        keys.replace(ring(2)).unwrap();
        assert!(to.store(&manifest, 1, &from.serve(GROUP, id, 1).unwrap()).unwrap());
        assert_eq!(&to.chunk(&manifest, 1).unwrap()[..], b"two secret");
        for disk in [&out_disk, &in_disk] {
            for name in disk.list().unwrap() {
                let raw = disk.contents(&name);
                assert!(sealed_epoch(&raw).is_some(), "{name}");
                assert!(!raw.windows(6).any(|window| window == b"secret"), "{name}");
            }
        }
        let mut retired = ring(2);
        retired.retire(epoch(1)).unwrap();
        assert!(keys.replace(retired.clone()).is_err(), "the first chunk needs it");
        drop(to);

        let before = in_disk.list().unwrap();
        let refusal = |keys: &Keys| open(&in_disk, keys).map(|_| ()).unwrap_err().to_string();
        for keys in [Keys::none(), Keys::new(retired.clone()), Keys::new(KeyRing::default())] {
            let text = refusal(&keys);
            assert!(text.contains("epoch=1") && text.contains("snapshots/in-"), "{text}");
        }
        assert_eq!(in_disk.list().unwrap(), before);

        // Exchanged files are as good as damaged ones: they are received again.
        let keys = Keys::new(ring(2));
        let to = open(&in_disk, &keys).unwrap();
        assert_eq!(to.received(GROUP, LogIndex::new(7)).unwrap().as_ref(), Some(&manifest));
        assert!(to.begin(&manifest).unwrap().is_empty());
        let names = [0, 1].map(|at| chunk_name(&in_stem(&manifest), at));
        let other = in_disk.contents(&names[0]);
        in_disk.create(&names[1], 0).unwrap();
        in_disk.write_at(&names[1], 0, &other).unwrap();
        assert_eq!(to.begin(&manifest).unwrap(), [1]);

        // What was exported is served under whatever ring there is, and stands in the way of none.
        let mut newer = ring(3);
        newer.retire(epoch(1)).unwrap();
        newer.retire(epoch(2)).unwrap();
        sender.replace(newer).unwrap();
        assert_eq!(from.serve(GROUP, id, 0).as_deref(), Some(&b"one secret"[..]));

        to.discard(GROUP).unwrap();
        assert!(keys.held().is_empty());
        keys.replace(retired).unwrap();
        drop(to);
        in_disk.crash();
        assert!(in_disk.list().unwrap().is_empty(), "or the next start would be refused");
    }
}
