//! A state made anew from the files of a chain, in a store that has none.
//!
//! From its first write to its last the store says that a restore is under way, so that nobody takes for a
//! state what is a part of one.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{
    AppliedPosition, ApplyError, ClusterId, CommittedEntry, Founding, GroupId, LogTime, NodeId,
    Offset, ProposalId, Record, RecordRun, StateMachine,
};

use super::layout::{Contents, FileName, GroupPart, decode_records, decode_state};
use super::verify::Follows;
use super::{BackupError, BackupPlace, place, sum};
use crate::chain::ChainHead;
use crate::comparing::spans;
use crate::digest::{StateDigest, digest};
use crate::error::Error;
use crate::keys;
use crate::machine::{
    EngineMachine, UNFINISHED, decode_position, encode_position, owner_row, stopped,
};
use crate::projection::Registry;
use crate::projection::rebuild::forget;
use crate::resource_table::ResourceTable;
use crate::snapshot::put_chunk;
use crate::store::{FamilyId, StateStore, StoreError, WriteSet};

pub(super) struct Rebuild {
    store: Arc<dyn StateStore>,
    registry: Registry,
    group: GroupId,
    /// Where the rows say that they stand.
    position: Option<Bytes>,
    /// Applies records, once the rows are there.
    machine: Option<EngineMachine>,
}

impl Rebuild {
    /// Marks the store, before it has anything else.
    fn mark(store: &dyn StateStore) -> Result<(), Error> {
        let mark = Some(Bytes::from_static(UNFINISHED));
        let mark = vec![(FamilyId::META, keys::OWNER.to_vec(), mark)];
        store.commit(WriteSet::rows(mark)).map_err(broken)?;
        store.flush().map_err(broken)
    }

    /// Begins with a group that has nothing.
    fn begin(store: Arc<dyn StateStore>, registry: Registry, group: GroupId) -> Self {
        let nowhere = encode_position(AppliedPosition::ZERO, ChainHead::ZERO);
        Self { store, registry, group, position: Some(nowhere), machine: None }
    }

    /// Puts the rows of a file.
    pub(super) fn rows(&mut self, file: &str, raw: Bytes) -> Result<(), BackupError> {
        for chunk in decode_state(file, raw)? {
            let put = put_chunk(&*self.store, self.group, chunk);
            let position = put.map_err(|error| damaged_or_broken(file, &error))?;
            self.position = position.position.or(self.position.take());
        }
        Ok(())
    }

    /// Reads a chain into a store, each group up to an offset, raises epochs and forgets clients. The end is
    /// left: whose it is.
    pub(super) async fn run(
        place: &BackupPlace,
        chain: &[Contents],
        ends: &BTreeMap<GroupId, Offset>,
        store: Arc<dyn StateStore>,
        registry: Registry,
        compares: Compares,
    ) -> Result<Restored, BackupError> {
        let marked = Arc::clone(&store);
        on_thread(move || Ok(Self::mark(&*marked)?)).await?;
        let mut groups = BTreeMap::new();
        for (group, at) in ends {
            let rebuild = Self::begin(Arc::clone(&store), registry.clone(), *group);
            groups.insert(*group, rebuild.group(place, chain, *at, compares).await?);
        }
        Ok(Restored { groups })
    }

    /// Reads a group.
    async fn group(
        self,
        place: &BackupPlace,
        chain: &[Contents],
        at: Offset,
        compares: Compares,
    ) -> Result<RestoredGroup, BackupError> {
        let group = self.group;
        let mut rebuild = self;
        let (full, incrementals) = chain.split_first().expect("a chain has a backup");
        let (manifest, part) = (place::manifest(&full.id), full.groups[&group].clone());
        for (number, entry) in (0..).zip(&part.files) {
            if entry.name != FileName::State(number) {
                return Err(BackupError::damaged(manifest, format!("it lacks state-{number}")));
            }
            let (file, raw) = place.read(full, group, entry).await?;
            rebuild = on_thread(move || rebuild.rows(&file, raw).map(|()| rebuild)).await?;
        }
        let mut log_time = part.log_time;
        rebuild = on_thread(move || {
            rebuild.stand(&manifest, &part)?;
            if compares == Compares::Each {
                compare(&rebuild.digest()?, part.log_time, &manifest, &part)?;
            }
            Ok(rebuild)
        })
        .await?;
        let mut last = full;
        for contents in incrementals.iter().take_while(|backup| backup.groups[&group].from.0 < at) {
            let part = &contents.groups[&group];
            let mut follows = Follows::new(part);
            for entry in &part.files {
                if at <= follows.offset() {
                    break;
                }
                let (file, raw) = place.read(contents, group, entry).await?;
                let runs = decode_records(&file, raw)?;
                follows.file(&file, entry.name, &runs)?;
                let upto = runs.iter().rfind(|run| run.first_offset <= at);
                log_time = upto.map_or(log_time, |run| run.log_time);
                let apply = move || rebuild.records(&file, runs, at).map(|()| rebuild);
                rebuild = on_thread(apply).await?;
            }
            if compares == Compares::Each && part.to.0 <= at {
                let (part, manifest) = (part.clone(), place::manifest(&contents.id));
                rebuild = on_thread(move || {
                    compare(&rebuild.digest()?, log_time, &manifest, &part)?;
                    Ok(rebuild)
                })
                .await?;
            }
            last = contents;
        }
        let part = last.groups[&group].clone();
        let manifest = place::manifest(&last.id);
        on_thread(move || {
            let digest = rebuild.digest()?;
            if digest.offset != at {
                return Err(BackupError::damaged(manifest, "it lacks records"));
            }
            if part.to.0 == at {
                compare(&digest, log_time, &manifest, &part)?;
            }
            rebuild.fence()?;
            Ok(RestoredGroup { digest, log_time })
        })
        .await
    }

    /// All rows are there: the state stands where the manifest says, as one that no log has led to.
    pub(super) fn stand(&mut self, manifest: &str, part: &GroupPart) -> Result<(), BackupError> {
        let found = self.position.take().and_then(|raw| decode_position(raw).ok());
        let found = found.map(|(at, head)| (at.offset, head, at.log_time));
        if found != Some((part.to.0, part.to.1, part.log_time)) {
            return Err(BackupError::damaged(manifest, "the state stands somewhere else"));
        }
        let position = encode_position(Founding::position(part.to.0, part.log_time), part.to.1);
        let row = vec![(FamilyId::META, keys::position(self.group), Some(position))];
        self.store.commit(WriteSet::rows(row)).map_err(broken)?;
        let (store, registry) = (Arc::clone(&self.store), self.registry.clone());
        self.machine = Some(EngineMachine::unclaimed(store, registry, true, &[self.group])?);
        Ok(())
    }

    /// Applies the records of a file, up to an offset.
    pub(super) fn records(
        &mut self,
        file: &str,
        runs: Vec<RecordRun>,
        up_to: Offset,
    ) -> Result<(), BackupError> {
        let machine = self.machine.as_mut().expect("the rows stand before records come");
        for run in runs {
            let left = (up_to.get() + 1).saturating_sub(run.first_offset.get()) as usize;
            let records = run.payloads.into_iter().take(left);
            // Who proposed them is not kept, and nothing asks.
            let id = ProposalId { session: 0, seq: 0 };
            let records: Vec<_> = records.map(|payload| Record { id, payload }).collect();
            if records.is_empty() {
                continue;
            }
            let place = Founding::position(run.first_offset, run.log_time);
            let entry = CommittedEntry {
                index: place.index,
                term: place.term,
                members_index: place.members_index,
                log_time: run.log_time,
                first_offset: run.first_offset,
                records,
            };
            machine.apply(self.group, &[entry]).map_err(|error| not_applied(file, &error))?;
        }
        Ok(())
    }

    /// What the state comes to.
    pub(super) fn digest(&self) -> Result<StateDigest, Error> {
        digest(&*self.store.snapshot(), self.group).map_err(broken)
    }

    /// Raises every epoch, forgets all clients and whatever was being rebuilt, and makes it all durable.
    pub(super) fn fence(&self) -> Result<(), Error> {
        let table = ResourceTable::load(&*self.store, &self.registry, self.group);
        let table = table.map_err(Error::from)?;
        let mut writes = WriteSet::rows(table.raised(self.group));
        // What they are told has no place here: their commands may be in the future that is lost.
        let clients = keys::of_group(FamilyId::SESSIONS, self.group);
        writes.cleared.extend(clients.map(|(from, end)| (FamilyId::SESSIONS, from, end)));
        // Nor has what members of the other cluster said about rebuilds.
        forget(&mut writes, &self.registry, self.group, &table.kinds);
        spans::commit(&*self.store, self.group, writes).map_err(broken)?;
        self.store.flush().map_err(broken)
    }

    /// The restore is over: the state is this node's.
    pub(super) fn end(
        store: &dyn StateStore,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<(), Error> {
        let owner = vec![(FamilyId::META, keys::OWNER.to_vec(), Some(owner_row(cluster, node)))];
        store.commit(WriteSet::rows(owner)).map_err(broken)?;
        store.flush().map_err(broken)
    }
}

/// What is compared with what a manifest says of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compares {
    /// The state at the end, if that is the end of a backup.
    End,
    /// The state at the end of each backup: all rows are read each time.
    #[cfg_attr(not(feature = "rocksdb"), allow(dead_code, reason = "a rehearsal is over files"))]
    Each,
}

/// Refuses a chain that needs projections which are not registered, as far as its digests tell.
pub(super) fn refuse_unregistered(chain: &[Contents], registry: &Registry) -> Result<(), Error> {
    let parts = chain.iter().flat_map(|backup| backup.groups.values());
    let families = parts.flat_map(|part| part.digest.keys());
    let mut unknown = families.filter(|name| registry.families().find(name.as_bytes()).is_none());
    unknown.next().map_or(Ok(()), |name| {
        Err(Error::Incompatible {
            expected: format!("projection={name}, which the backup has rows of"),
            found: "not registered".to_owned(),
        })
    })
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(not(feature = "rocksdb"), allow(unreachable_pub, reason = "exported with it"))]
pub struct Restored {
    /// Each group, the system group among them.
    pub groups: BTreeMap<GroupId, RestoredGroup>,
}

/// What was restored of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(not(feature = "rocksdb"), allow(unreachable_pub, reason = "exported with it"))]
pub struct RestoredGroup {
    /// The state before its epochs were raised: the last record it has, the head there, and what the rows of
    /// each projection come to.
    pub digest: StateDigest,
    /// The log time of the last record.
    pub log_time: LogTime,
}

/// Does something with a store, which no thread of the runtime waits for.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Error::InternalError { what: format!("a restore: {panic}") })?
}

/// Compares a state with what a manifest says of it.
fn compare(
    found: &StateDigest,
    log_time: LogTime,
    manifest: &str,
    part: &GroupPart,
) -> Result<(), BackupError> {
    if (found.offset, found.head) != part.to {
        return Err(BackupError::damaged(manifest, "its records come to another head"));
    }
    if log_time != part.log_time {
        return Err(BackupError::damaged(manifest, "its records end at another log time"));
    }
    if sum::of_state(found) != part.digest {
        return Err(BackupError::damaged(manifest, "the state has another digest"));
    }
    Ok(())
}

fn broken(error: StoreError) -> Error {
    stopped(&error)
}

/// Rows that cannot be taken are the file's fault, a store that cannot be written is not.
fn damaged_or_broken(file: &str, error: &ApplyError) -> BackupError {
    match error.source() {
        None => BackupError::damaged(file, error.to_string()),
        Some(_) => not_applied(file, error),
    }
}

/// The file is what it was, and was applied once. Its records are not what stops it.
fn not_applied(file: &str, error: &ApplyError) -> BackupError {
    Error::InternalError { what: format!("file={file} could not be applied: {error}") }.into()
}
