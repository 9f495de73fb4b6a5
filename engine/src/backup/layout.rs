//! The files of a backup, byte by byte: `docs/backup.md` has the whole of it.
//!
//! Text has one form for each content. It is read leniently, written again, and refused if that differs.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::str::{FromStr, Split};

use bytes::{Buf, BufMut, Bytes};
use palisade_replication::{ClusterId, GroupId, KeyEpoch, LogTime, Offset, RecordRun};
use sha2::{Digest, Sha256};

use super::sum::Digests;
use super::{BackupError, BackupId};
use crate::bounds::DATA_GROUPS_MAX;
use crate::chain::ChainHead;
use crate::machine::STATE_VERSION;

/// What the format file begins with.
const FORMAT: &str = "palisade backup 1";
/// What a manifest begins with; that of a sealed backup is another version.
const MANIFEST: &str = "palisade backup manifest 1";
const MANIFEST_SEALED: &str = "palisade backup manifest 2";
/// A file is closed once it has so many bytes.
pub(super) const FILE_BYTES_TARGET: usize = 8 << 20;
/// First byte of a file of records.
const RECORDS_VERSION: u8 = 1;
const RUN_HEADER_BYTES: usize = 8 + 8 + 4;

/// A SHA-256, written as hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) [u8; 32]);

impl Hash {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ChainHead(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Hash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.as_bytes();
        let mut raw = [0; 32];
        if digits.len() != 2 * raw.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(());
        }
        for (byte, pair) in raw.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(raw))
    }
}

/// Whose prefix it is.
pub(super) fn encode_format(cluster: ClusterId) -> Bytes {
    format!("{FORMAT}\ncluster {cluster}\n").into()
}

/// Whose prefix it is, if that can be read.
pub(super) fn decode_format(file: &str, raw: &[u8]) -> Result<ClusterId, BackupError> {
    let text = text(file, raw)?;
    known(file, text, FORMAT)?;
    let found = text.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix("\ncluster "));
    let cluster = found.and_then(|rest| rest.trim_end().parse().ok()).map(ClusterId::new);
    cluster
        .filter(|cluster| encode_format(*cluster) == raw)
        .ok_or_else(|| BackupError::damaged(file, "it is not what a format file says"))
}

/// What a file of rows or records is called within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    /// Rows: which file of them, from 0.
    State(u64),
    /// Records: the offset of the first.
    Records(Offset),
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(number) => write!(f, "state-{number}"),
            Self::Records(first) => write!(f, "records-{first}"),
        }
    }
}

impl FromStr for FileName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, number) = text.split_once('-').ok_or(())?;
        let number = number.parse().map_err(|_| ())?;
        match kind {
            "state" => Ok(Self::State(number)),
            "records" => Ok(Self::Records(Offset::new(number))),
            _ => Err(()),
        }
    }
}

/// A file as its manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    pub(super) name: FileName,
    pub(super) bytes: u64,
    pub(super) sha256: Hash,
}

/// What a backup holds of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupPart {
    /// The last record of the parent, or none, and the head there.
    pub(super) from: (Offset, ChainHead),
    /// The last record, and the head there.
    pub(super) to: (Offset, ChainHead),
    pub(super) log_time: LogTime,
    /// Of the state at `to`, by family.
    pub(super) digest: Digests,
    pub(super) files: Vec<FileEntry>,
}

impl GroupPart {
    /// Of a group that nothing was written to.
    pub(super) fn empty() -> Self {
        let nowhere = (Offset::ZERO, ChainHead::ZERO);
        let (digest, files) = (Digests::new(), Vec::new());
        Self { from: nowhere, to: nowhere, log_time: LogTime::ZERO, digest, files }
    }
}

/// What the files of a backup are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) epoch: KeyEpoch,
    /// The first bytes of the key's check.
    pub(super) check: [u8; 3],
}

/// What a backup holds, and what it follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) id: BackupId,
    pub(super) cluster: ClusterId,
    /// Format of rows and records.
    pub(super) state: u8,
    /// What its files are sealed with; none if they are clear.
    pub(super) seal: Option<Seal>,
    /// The backup before it, and the hash of that one's manifest.
    pub(super) parent: Option<(BackupId, Hash)>,
    pub(super) groups: BTreeMap<GroupId, GroupPart>,
}

impl Contents {
    /// The bytes of the manifest.
    pub(super) fn encode(&self) -> Bytes {
        let first = if self.seal.is_some() { MANIFEST_SEALED } else { MANIFEST };
        let mut text = format!("{first}\nid {}\ncluster {}\n", self.id, self.cluster);
        let mut line = |line: fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("a string takes what is written to it");
        };
        line(format_args!("state {}", self.state));
        if let Some(Seal { epoch, check: [a, b, c] }) = self.seal {
            line(format_args!("sealed {epoch} {a:02x}{b:02x}{c:02x}"));
        }
        match &self.parent {
            None => line(format_args!("parent none")),
            Some((id, sha256)) => line(format_args!("parent {id} {sha256}")),
        }
        for (group, part) in &self.groups {
            line(format_args!("group {group}"));
            line(format_args!("from {} {}", part.from.0, part.from.1));
            line(format_args!("to {} {} {}", part.to.0, part.log_time, part.to.1));
            for (family, sha256) in &part.digest {
                line(format_args!("digest {family} {sha256}"));
            }
            for FileEntry { name, bytes, sha256 } in &part.files {
                line(format_args!("file {sha256} {bytes} {name}"));
            }
        }
        let end = Hash::of(text.as_bytes());
        text.push_str(&format!("end {end}\n"));
        text.into()
    }

    /// Reads a manifest that is called `file` and should be of the backup `id`.
    pub(super) fn decode(file: &str, id: &BackupId, raw: &[u8]) -> Result<Self, BackupError> {
        let text = text(file, raw)?;
        let is_sealed = text.split('\n').next() == Some(MANIFEST_SEALED);
        known(file, text, if is_sealed { MANIFEST_SEALED } else { MANIFEST })?;
        let contents = Self::read(text.split('\n'));
        let contents = contents.filter(|contents| contents.encode() == raw);
        let contents =
            contents.ok_or_else(|| BackupError::damaged(file, "it is not what was written"))?;
        if contents.state != STATE_VERSION {
            let found = format!("state version={}, known={STATE_VERSION}", contents.state);
            return Err(BackupError::UnknownFormat { file: file.to_owned(), found });
        }
        let data_groups = contents.groups.len().saturating_sub(1) as u64;
        let numbered = contents.groups.keys().map(|group| group.get()).eq(0..=data_groups);
        if !numbered || !(1..=DATA_GROUPS_MAX).contains(&data_groups) {
            let found = format!("groups={:?}", contents.groups.keys());
            return Err(BackupError::UnknownFormat { file: file.to_owned(), found });
        }
        if contents.id != *id {
            return Err(BackupError::damaged(file, format!("it is of id={}", contents.id)));
        }
        Ok(contents)
    }

    /// What the lines say, if they say anything. Whether they are those that would say it is not looked at.
    fn read(mut lines: Split<'_, char>) -> Option<Self> {
        lines.next()?;
        let id = BackupId::new(lines.next()?.strip_prefix("id ")?).ok()?;
        let cluster = ClusterId::new(lines.next()?.strip_prefix("cluster ")?.parse().ok()?);
        let state = lines.next()?.strip_prefix("state ")?.parse().ok()?;
        let mut line = lines.next()?;
        let mut seal = None;
        if let Some(sealed) = line.strip_prefix("sealed ") {
            let (epoch, check) = sealed.split_once(' ')?;
            let byte = |at: usize| u8::from_str_radix(check.get(at..at + 2)?, 16).ok();
            let check = [byte(0)?, byte(2)?, byte(4)?];
            seal = Some(Seal { epoch: KeyEpoch::new(epoch.parse().ok()?)?, check });
            line = lines.next()?;
        }
        let parent = match line.strip_prefix("parent ")? {
            "none" => None,
            parent => {
                let (id, sha256) = parent.split_once(' ')?;
                Some((BackupId::new(id).ok()?, sha256.parse().ok()?))
            }
        };
        let mut groups = BTreeMap::new();
        line = lines.next()?;
        while let Some(group) = line.strip_prefix("group ") {
            let offset = |text: &str| text.parse().ok().map(Offset::new);
            let head = |text: &str| text.parse().ok().map(|Hash(raw)| ChainHead(raw));
            let from = lines.next()?.strip_prefix("from ")?.split_once(' ')?;
            let (to, rest) = lines.next()?.strip_prefix("to ")?.split_once(' ')?;
            let (log_time, to_head) = rest.split_once(' ')?;
            let mut part = GroupPart {
                from: (offset(from.0)?, head(from.1)?),
                to: (offset(to)?, head(to_head)?),
                log_time: LogTime::new(log_time.parse().ok()?),
                digest: Digests::new(),
                files: Vec::new(),
            };
            line = lines.next()?;
            while let Some(digest) = line.strip_prefix("digest ") {
                let (family, sha256) = digest.split_once(' ')?;
                part.digest.insert(family.to_owned(), sha256.parse().ok()?);
                line = lines.next()?;
            }
            while let Some(file) = line.strip_prefix("file ") {
                let (sha256, rest) = file.split_once(' ')?;
                let (bytes, name) = rest.split_once(' ')?;
                part.files.push(FileEntry {
                    name: name.parse().ok()?,
                    bytes: bytes.parse().ok()?,
                    sha256: sha256.parse().ok()?,
                });
                line = lines.next()?;
            }
            groups.insert(GroupId::new(group.parse().ok()?), part);
        }
        Some(Self { id, cluster, state, seal, parent, groups })
    }
}

fn text<'a>(file: &str, raw: &'a [u8]) -> Result<&'a str, BackupError> {
    std::str::from_utf8(raw).map_err(|_| BackupError::damaged(file, "it is not text"))
}

/// Tells another version of a format from damage.
fn known(file: &str, text: &str, format: &str) -> Result<(), BackupError> {
    let first = text.split('\n').next().expect("split yields at least one part");
    if first == format {
        return Ok(());
    }
    let (name, _) = format.rsplit_once(' ').expect("a format has a name and a version");
    let version = first.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
    if version.is_some_and(|version| version.parse::<u32>().is_ok()) {
        let found = first.to_owned();
        return Err(BackupError::UnknownFormat { file: file.to_owned(), found });
    }
    Err(BackupError::damaged(file, "it does not say what it is"))
}

/// The length that stands before a chunk in a file of rows.
pub(super) fn chunk_header(chunk: &Bytes) -> Bytes {
    Bytes::copy_from_slice(&(chunk.len() as u32).to_le_bytes())
}

/// The chunks in a file of rows.
pub(super) fn decode_state(file: &str, mut raw: Bytes) -> Result<Vec<Bytes>, BackupError> {
    let short = || BackupError::damaged(file, "it ends early");
    let mut chunks = Vec::new();
    while raw.has_remaining() {
        let length = raw.try_get_u32_le().map_err(|_| short())? as usize;
        if raw.len() < length {
            return Err(short());
        }
        chunks.push(raw.split_to(length));
    }
    Ok(chunks)
}

/// What a file of records begins with.
pub(super) fn records_header() -> Bytes {
    Bytes::from_static(&[RECORDS_VERSION])
}

/// A run as it is in a file.
pub(super) fn encode_run(run: &RecordRun) -> Bytes {
    let payloads: usize = run.payloads.iter().map(|payload| 4 + payload.len()).sum();
    let mut raw = Vec::with_capacity(RUN_HEADER_BYTES + payloads);
    raw.put_u64_le(run.first_offset.get());
    raw.put_u64_le(run.log_time.get());
    raw.put_u32_le(run.payloads.len() as u32);
    for payload in &run.payloads {
        raw.put_u32_le(payload.len() as u32);
        raw.put_slice(payload);
    }
    raw.into()
}

/// The runs in a file of records.
pub(super) fn decode_records(file: &str, mut raw: Bytes) -> Result<Vec<RecordRun>, BackupError> {
    let short = || BackupError::damaged(file, "it ends early");
    let version = raw.try_get_u8().map_err(|_| short())?;
    if version != RECORDS_VERSION {
        let found = format!("records version={version}, known={RECORDS_VERSION}");
        return Err(BackupError::UnknownFormat { file: file.to_owned(), found });
    }
    let mut runs = Vec::new();
    while raw.has_remaining() {
        if raw.len() < RUN_HEADER_BYTES {
            return Err(short());
        }
        let first_offset = Offset::new(raw.get_u64_le());
        let log_time = LogTime::new(raw.get_u64_le());
        let mut payloads = Vec::new();
        for _ in 0..raw.get_u32_le() {
            let length = raw.try_get_u32_le().map_err(|_| short())? as usize;
            if raw.len() < length {
                return Err(short());
            }
            payloads.push(raw.split_to(length));
        }
        runs.push(RecordRun { first_offset, log_time, payloads });
    }
    Ok(runs)
}
