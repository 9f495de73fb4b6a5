//! The write-ahead log of a node that is not running.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use palisade_replication::{
    ClusterId, GroupId, Incarnation, KeyEpoch, KeyError, Keys, LogIndex, LogTime, NodeId, Offset,
    Term, directory_owner, stored_entry, stored_register, wal_dir_of,
};
use palisade_wal::{
    InspectedItem, InspectedPlace, Inspection, ReadOnlyDisk, Verdict, WalIdentity, inspect,
    walk_segment,
};

use super::InspectError;
use super::record::{self, RecordView, RegisterView};

/// The files of a write-ahead log, held so that no node opens them meanwhile.
///
/// ```
/// # use palisade::*;
/// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
/// # let engine = Engine::builder(dir).node(NodeId::new(4)).open().await?;
/// # engine.close().await?;
/// # inspect(dir).unwrap();
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// use palisade::encryption::Keys;
/// use palisade::inspect::*;
///
/// # fn inspect(dir: &std::path::Path) -> Result<(), InspectError> {
/// // Of a node that was stopped.
/// let files = WalFiles::open(dir, Keys::none())?;
/// let (_, node, _) = files.owner();
/// assert_eq!(node, NodeId::new(4));
/// match files.verdict() {
///     WalVerdict::Clean => println!("everything is there"),
///     WalVerdict::TornTail { segment, byte_pos } => println!("cut off in {segment} at {byte_pos}"),
///     WalVerdict::Damaged { segment, byte_pos } => println!("damaged in {segment} at {byte_pos}"),
/// }
/// assert!(!files.is_unlisted_damaged());
///
/// for SegmentFile { segment, bytes, key_epoch, .. } in files.segments() {
///     println!("segment={segment} bytes={bytes} sealed={}", key_epoch.is_some());
/// }
/// let (spares, spare_bytes) = files.spares();
/// println!("{spares} files wait to be used, {spare_bytes} bytes");
/// // Nothing is sealed, so a start needs no keys.
/// assert_eq!((files.needs().count(), files.refused().is_some()), (0, false));
///
/// for GroupLog { group, first, last, holes, register, .. } in files.groups() {
///     println!("group={group} entries={first}..={last} holes={}", holes.len());
///     let fields = register.map(|RegisterView { fields, .. }| fields).unwrap_or_default();
///     fields.iter().for_each(|(field, value)| println!("  {field}={value}"));
/// }
/// # Ok(()) }
/// ```
pub struct WalFiles {
    disk: ReadOnlyDisk,
    inspection: Inspection,
    keys: Keys,
}

/// What a start would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalVerdict {
    /// Everything is there.
    Clean,
    /// The last write was interrupted; nobody was told that it was done.
    TornTail {
        /// The segment.
        segment: u64,
        /// Where in it the log ends.
        byte_pos: u64,
    },
    /// Something that had been synced cannot be read.
    Damaged {
        /// The segment.
        segment: u64,
        /// The first place in it.
        byte_pos: u64,
    },
}

/// One file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentFile {
    /// Its number.
    pub segment: u64,
    /// Its length.
    pub bytes: u64,
    /// The number of its first batch; none if its header does not hold.
    pub first_seq: Option<u64>,
    /// It was begun behind damage that was known.
    pub after_damage: bool,
    /// The key epoch that its entries and registers are sealed with; none if they are clear.
    pub key_epoch: Option<KeyEpoch>,
}

/// What there is of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLog {
    /// Which group.
    pub group: GroupId,
    /// The first entry, or the next to be written if there is none.
    pub first: LogIndex,
    /// The last entry, or the one before the first if there is none.
    pub last: LogIndex,
    /// Whether all of it can be relied on.
    pub verdict: WalVerdict,
    /// Entries that are missing: the first and the last of each run.
    pub holes: Vec<(LogIndex, LogIndex)>,
    /// What its register says, if it has one that can be read.
    pub register: Option<RegisterView>,
}

/// What lies at a place of a segment.
#[derive(Clone, Debug)]
pub enum WalPlace<'a> {
    /// A frame that holds: one batch.
    Frame(WalFrame),
    /// Bytes that are no frame, up to the next one or the last that is not zero.
    NoFrame {
        /// The segment.
        segment: u64,
        /// Where they begin.
        byte_pos: u64,
        /// They themselves.
        raw: &'a [u8],
    },
}

/// One batch of changes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalFrame {
    /// The segment.
    pub segment: u64,
    /// Where it begins.
    pub byte_pos: u64,
    /// Its length.
    pub bytes: u64,
    /// Its number.
    pub seq: u64,
    /// The highest batch that was known to be synced when it was made.
    pub durable: u64,
    /// Its changes.
    pub items: Vec<WalItem>,
}

/// One change of one group's log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalItem {
    /// What it does, as the page on the format calls it.
    pub kind: &'static str,
    /// Whose log; none for a mark, which changes nothing.
    pub group: Option<GroupId>,
    /// The entry, or up to which; zero where there is none.
    pub index: LogIndex,
    /// Length of what it carries.
    pub bytes: u64,
    /// The group was damaged when it was written.
    pub damaged: bool,
    /// What it carries.
    pub body: ItemBody,
}

/// What a change carries.
#[derive(Clone, Debug)]
pub enum ItemBody {
    /// Nothing, or nothing that tells more.
    Nothing,
    /// An entry of the group's log.
    Entry {
        /// The term that proposed it.
        term: Term,
        /// The leader's stamp, if it has records.
        log_time: Option<LogTime>,
        /// It changes who takes part.
        changes_members: bool,
        /// Its records.
        records: Vec<RecordView>,
    },
    /// The group's register.
    Register(RegisterView),
    /// It holds, and is still not what this release writes.
    Undecodable(String),
    /// It is sealed, and the keys that were given do not open it.
    Sealed {
        /// With which key epoch.
        epoch: KeyEpoch,
        /// Why it was not opened.
        why: KeyError,
    },
}

impl WalFiles {
    /// Looks at the log of a data directory, or at a log's own directory. What is sealed is shown as far as
    /// these keys open it; the verdict needs none.
    ///
    /// # Errors
    /// As [`InspectError`] says. Damage is none: the verdict says so.
    pub fn open(dir: &Path, keys: Keys) -> Result<Self, InspectError> {
        let owner = directory_owner(dir)?;
        let below = wal_dir_of(dir);
        let is_data_dir = owner.is_some() || below.is_dir();
        let disk = ReadOnlyDisk::open(if is_data_dir { &below } else { dir })?;
        let identity = owner.map(|owner| WalIdentity {
            cluster: owner.cluster.get(),
            node: owner.node.get(),
            incarnation: owner.incarnation.get(),
        });
        let is_log = |name: &String| name.ends_with(".seg") || name.ends_with(".spare");
        let names = palisade_wal::Disk::list(&disk).unwrap_or_default();
        if identity.is_none() && !names.iter().any(is_log) {
            let what = format!(
                "{} is neither a node's data directory nor the directory of a log",
                dir.display()
            );
            return Err(InspectError::NotThere { what });
        }
        if !names.iter().any(|name| name.ends_with(".seg")) {
            // A node has a segment from its first moment on.
            let what = format!("{} has no segment of a log any more", dir.display());
            return Err(InspectError::Damaged { what });
        }
        let inspection = inspect(&disk, identity, &keys)?;
        Ok(Self { disk, inspection, keys })
    }

    /// Whose log it is.
    #[must_use]
    pub fn owner(&self) -> (ClusterId, NodeId, Incarnation) {
        let WalIdentity { cluster, node, incarnation } = self.inspection.identity;
        (ClusterId::new(cluster), NodeId::new(node), Incarnation::new(incarnation))
    }

    /// Its files, in order.
    pub fn segments(&self) -> impl Iterator<Item = SegmentFile> {
        self.inspection.segments.iter().map(|segment| SegmentFile {
            segment: segment.id.get(),
            bytes: segment.bytes,
            first_seq: segment.first_seq.map(palisade_wal::BatchSeq::get),
            after_damage: segment.after_damage,
            key_epoch: segment.epoch,
        })
    }

    /// Each segment with each key epoch that it needs.
    pub fn needs(&self) -> impl Iterator<Item = (u64, KeyEpoch)> {
        self.inspection.needs.iter().map(|(segment, epoch)| (segment.get(), *epoch))
    }

    /// Why a start with these keys would be refused.
    #[must_use]
    pub fn refused(&self) -> Option<&KeyError> {
        self.inspection.refused.as_ref()
    }

    /// Files that wait to be used: how many, and their bytes.
    #[must_use]
    pub fn spares(&self) -> (u64, u64) {
        self.inspection.spares
    }

    /// What a start would find: damaged if any group is, or the files are.
    #[must_use]
    pub fn verdict(&self) -> WalVerdict {
        told(self.inspection.recovered.verdict)
    }

    /// Batches are missing that nobody can tell the groups of.
    #[must_use]
    pub fn is_unlisted_damaged(&self) -> bool {
        self.inspection.recovered.unlisted_damaged
    }

    /// Every group that ever wrote.
    pub fn groups(&self) -> impl Iterator<Item = GroupLog> {
        self.inspection.recovered.groups.iter().map(|(group, found)| {
            let register = found.state.as_ref().and_then(|raw| stored_register(raw).ok());
            GroupLog {
                group: *group,
                first: found.first,
                last: found.last,
                verdict: told(found.verdict),
                holes: found.damage.as_ref().map(|damage| damage.holes.clone()).unwrap_or_default(),
                register: register.map(|register| record::register(&register)),
            }
        })
    }

    /// Shows what lies in the segments, in order, from a batch on, until `each` breaks off. Places that are
    /// no frame are shown wherever they are.
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// # let engine = Engine::builder(dir).open().await?;
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// # orders.append(&"an apple".to_owned()).await?;
    /// # engine.close().await?;
    /// # inspect(dir).unwrap();
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// # use palisade::encryption::Keys;
    /// use std::ops::ControlFlow;
    ///
    /// use palisade::inspect::*;
    ///
    /// # fn inspect(dir: &std::path::Path) -> Result<(), InspectError> {
    /// # let files = WalFiles::open(dir, Keys::none())?;
    /// // The records of the first data group, as far as its frames hold.
    /// let mut offsets = Vec::new();
    /// files.walk(0, &mut |place| {
    ///     let items: Vec<WalItem> = match place {
    ///         WalPlace::Frame(WalFrame { items, .. }) => items,
    ///         WalPlace::NoFrame { segment, byte_pos, raw } => {
    ///             println!("segment={segment} byte_pos={byte_pos}: {} bytes of no frame", raw.len());
    ///             Vec::new()
    ///         }
    ///     };
    ///     for item in items.into_iter().filter(|item| item.group == Some(GroupId::new(1))) {
    ///         if let ItemBody::Entry { records, .. } = item.body {
    ///             offsets.extend(records.iter().map(|RecordView { offset, .. }| *offset));
    ///         }
    ///     }
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(offsets, [1, 2].map(Offset::new));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn walk(
        &self,
        from_seq: u64,
        each: &mut dyn FnMut(WalPlace<'_>) -> ControlFlow<()>,
    ) -> Result<(), InspectError> {
        for segment in &self.inspection.segments {
            let id = segment.id;
            let flow = walk_segment(
                &self.disk,
                &self.inspection.identity,
                &self.keys,
                id,
                &mut |place| match place {
                    InspectedPlace::Frame { seq, .. } if seq.get() < from_seq => {
                        ControlFlow::Continue(())
                    }
                    InspectedPlace::Frame { byte_pos, bytes, seq, durable, items } => {
                        each(WalPlace::Frame(WalFrame {
                            segment: id.get(),
                            byte_pos: byte_pos.get(),
                            bytes,
                            seq: seq.get(),
                            durable: durable.get(),
                            items: items.iter().map(view).collect(),
                        }))
                    }
                    InspectedPlace::NoFrame { byte_pos, raw } => {
                        each(WalPlace::NoFrame { segment: id.get(), byte_pos: byte_pos.get(), raw })
                    }
                },
            )?;
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn told(verdict: Verdict) -> WalVerdict {
    match verdict {
        Verdict::Clean => WalVerdict::Clean,
        Verdict::TornTail { segment, byte_pos } => {
            WalVerdict::TornTail { segment: segment.get(), byte_pos: byte_pos.get() }
        }
        Verdict::Damaged { segment, byte_pos } => {
            WalVerdict::Damaged { segment: segment.get(), byte_pos: byte_pos.get() }
        }
    }
}

fn view(item: &InspectedItem<'_>) -> WalItem {
    WalItem {
        kind: item.kind,
        group: (item.kind != "mark").then_some(item.group),
        index: item.index,
        bytes: item.payload.len() as u64,
        damaged: item.damaged,
        body: body(item),
    }
}

fn body(item: &InspectedItem<'_>) -> ItemBody {
    if let (Some(epoch), Some(why)) = (item.epoch, &item.unopened) {
        return ItemBody::Sealed { epoch, why: why.clone() };
    }
    if item.is_register() {
        return match stored_register(&item.payload) {
            Ok(register) => ItemBody::Register(record::register(&register)),
            Err(error) => ItemBody::Undecodable(error.to_string()),
        };
    }
    if !item.is_entry() {
        return ItemBody::Nothing;
    }
    match stored_entry(item.index, Bytes::copy_from_slice(&item.payload)) {
        Ok(entry) => {
            let (mut log_time, mut records) = (None, Vec::new());
            if let Some((first, at, all)) = entry.records {
                log_time = Some(at);
                let offsets = (first.get()..).map(Offset::new);
                records = offsets.zip(&all).map(|(offset, it)| record::view(offset, it)).collect();
            }
            let changes_members = entry.changes_members;
            ItemBody::Entry { term: entry.term, log_time, changes_members, records }
        }
        Err(error) => ItemBody::Undecodable(error.to_string()),
    }
}
