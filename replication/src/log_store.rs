//! raft's view of its log: recent entries in memory, older ones read back from the wal.
//!
//! Entries enter when raft hands them out to be written, before they are durable: raft must be able
//! to read them at once. What is not yet durable or not yet applied always stays in memory; older
//! entries leave it when the cache is over its bound. Terms are known for every index without
//! reading: a log holds few of them, so the first index of each is kept.
//!
//! ```text
//!   base          evicted from memory      cached            last
//!    |<-- read back from the wal -->|<-- recent entries -->|
//! ```
//!
//! Reading the node's own log in the middle of a step is sound for a deterministic core: what a
//! durable index holds is a function of earlier effects. A failed read is latched and halts the
//! replica at the end of the step; raft itself only sees that the entries are not there now.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use palisade_wal::{GroupId, LogIndex, WalError, WalReader};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::entry::{AppliedPosition, EntryBody};
use crate::error::NodeError;
use crate::identity::{LogTime, Offset, Term};
use crate::register::Register;
use crate::replica::conf_state;
use crate::snapshot::Manifest;

/// Layout of an entry in the wal: term, kind, data. The index is the wal's own.
const STORED_HEADER_BYTES: usize = 8 + 1;
const KIND_NORMAL: u8 = 0;
const KIND_CONF_CHANGE: u8 = 1;
const KIND_CONF_CHANGE_V2: u8 = 2;
/// How much of the log is read back at a time.
const READ_BYTES: usize = 1 << 20;

pub(crate) struct LogStore {
    group: GroupId,
    reader: WalReader,
    base: AppliedPosition,
    last: LogIndex,
    /// First index of each term above the base, ascending.
    terms: Vec<(LogIndex, Term)>,
    /// The newest entries, contiguous and ending at `last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// What raft starts from.
    initial: RaftState,
    /// Changes of membership that were in the log when it was opened.
    found_changes: Vec<Entry>,
    /// What a follower that needs older entries gets instead.
    offer: Option<Offer>,
    /// Such a follower asked and there was no offer for it.
    wanted: Cell<bool>,
    /// The first read that failed, until the replica takes it.
    failure: RefCell<Option<WalError>>,
}

/// A snapshot that can be sent.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) manifest: Manifest,
    pub(crate) term: Term,
    pub(crate) members: ConfState,
    /// What the message says beside that: see `replica::snapshots`.
    pub(crate) data: Bytes,
}

impl LogStore {
    /// Reads the log of `group` once, to learn its terms and to fill the cache.
    pub(crate) fn open(
        group: GroupId,
        reader: WalReader,
        base: AppliedPosition,
        hard_state: (Term, u64, LogIndex),
        members: ConfState,
        cache_bytes_max: usize,
    ) -> Result<Self, NodeError> {
        let (term, vote, commit) = hard_state;
        let hard_state =
            HardState { term: term.get(), vote, commit: commit.get(), ..HardState::default() };
        let mut store = Self {
            group,
            reader,
            base,
            last: base.index,
            terms: Vec::new(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            initial: RaftState::new(hard_state, members),
            found_changes: Vec::new(),
            offer: None,
            wanted: Cell::new(false),
            failure: RefCell::new(None),
        };
        let Some((_, stored_last)) = store.reader.range(group) else { return Ok(store) };
        while store.last < stored_last {
            let read =
                store.reader.read(group, store.last.next(), stored_last.next(), READ_BYTES)?;
            if read.is_empty() {
                return Err(NodeError::Damaged {
                    what: format!("the log of group={group} ends before index={stored_last}"),
                });
            }
            for (index, payload) in read {
                let entry = decode_entry(index, payload)?;
                if entry.get_entry_type() != EntryType::EntryNormal {
                    store.found_changes.push(entry.clone());
                }
                store.push(entry);
            }
            store.evict(cache_bytes_max, store.last);
        }
        Ok(store)
    }

    pub(crate) fn reader(&self) -> WalReader {
        self.reader.clone()
    }

    pub(crate) fn base(&self) -> AppliedPosition {
        self.base
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    /// Changes of membership that were in the log when it was opened, once.
    pub(crate) fn take_found_changes(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.found_changes)
    }

    /// True if a follower needs a snapshot that is not offered; asked once.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub(crate) fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    pub(crate) fn set_offer(&mut self, offer: Option<Offer>) {
        self.offer = offer;
    }

    /// The store of a group that begins, made from that of one that has nothing.
    pub(crate) fn reborn(&self, register: &Register) -> Self {
        let hard_state = HardState {
            term: register.term.get(),
            vote: register.vote,
            commit: register.commit.get(),
            ..HardState::default()
        };
        Self {
            group: self.group,
            reader: self.reader.clone(),
            base: register.base,
            last: register.base.index,
            terms: Vec::new(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            initial: RaftState::new(hard_state, conf_state(&register.members)),
            found_changes: Vec::new(),
            offer: None,
            wanted: Cell::new(false),
            failure: RefCell::new(None),
        }
    }

    /// Everything goes; the log begins anew after a snapshot.
    pub(crate) fn reset(&mut self, base: AppliedPosition) {
        self.base = base;
        self.last = base.index;
        self.terms.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.offer = None;
    }

    /// Adds entries that raft wants written, replacing any suffix they conflict with.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index <= self.last.get() + 1, "raft left a gap in its log");
        assert!(first.index > self.base.index.get(), "raft rewrote a trimmed entry");
        self.truncate(LogIndex::new(first.index - 1));
        for entry in entries {
            self.push(entry.clone());
        }
    }

    fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.get() + 1, "entries must be contiguous");
        self.last = LogIndex::new(entry.index);
        let term = Term::new(entry.term);
        if self.terms.last().is_none_or(|(_, last_term)| *last_term != term) {
            assert!(self.terms.last().is_none_or(|(_, last_term)| *last_term < term));
            self.terms.push((self.last, term));
        }
        self.cache_bytes += cached_bytes(&entry);
        self.cache.push_back(entry);
    }

    fn truncate(&mut self, up_to: LogIndex) {
        while let Some(entry) = self.cache.back() {
            if entry.index <= up_to.get() {
                break;
            }
            self.cache_bytes -= cached_bytes(entry);
            self.cache.pop_back();
        }
        self.terms.retain(|(first, _)| *first <= up_to);
        self.last = self.last.min(up_to);
    }

    /// An entry could not be read.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// What the cache holds.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Drops the oldest cached entries up to `up_to` while the cache is over its bound.
    pub(crate) fn evict(&mut self, cache_bytes_max: usize, up_to: LogIndex) {
        while self.cache_bytes > cache_bytes_max {
            let Some(entry) = self.cache.front() else { break };
            if entry.index > up_to.get() {
                break;
            }
            self.cache_bytes -= cached_bytes(entry);
            self.cache.pop_front();
        }
    }

    /// Forgets everything up to and including the new base.
    pub(crate) fn trim(&mut self, base: AppliedPosition) {
        assert!(self.base.index < base.index);
        assert!(base.index <= self.last);
        self.evict(0, base.index);
        // The term that the base lies in goes on above it, unless the next one starts there.
        let term_after = self.term_of(base.index.next());
        self.terms.retain(|(first, _)| *first > base.index);
        if let Some(term) = term_after
            && self.terms.first().is_none_or(|(first, _)| *first > base.index.next())
        {
            self.terms.insert(0, (base.index.next(), term));
        }
        self.base = base;
    }

    /// Term of an index from the base to the last, or `None`.
    pub(crate) fn term_of(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || self.last < index {
            return None;
        }
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(after.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Offset and log time at the end of the log up to `up_to`: those of the last entry that has
    /// records.
    pub(crate) fn tail(&self, up_to: LogIndex) -> Result<(Offset, LogTime), NodeError> {
        let mut index = up_to;
        while index > self.base.index {
            let entry = self
                .fetch(index.get(), index.get() + 1, usize::MAX)?
                .pop()
                .ok_or_else(|| missing(self.group, index))?;
            if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                return EntryBody::decode_tail(&entry.data).map_err(|error| NodeError::Damaged {
                    what: format!("group={} index={index}: {error}", self.group),
                });
            }
            index = LogIndex::new(index.get() - 1);
        }
        Ok((self.base.offset, self.base.log_time))
    }

    /// The first read that failed since the last call.
    pub(crate) fn take_failure(&self) -> Option<WalError> {
        self.failure.borrow_mut().take()
    }

    /// Entries `low..high`, at least one if there is any, from memory or from the wal.
    fn fetch(&self, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>, WalError> {
        let cached_from = self.cache.front().map_or(self.last.get() + 1, |entry| entry.index);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut index = low;
        while index < high.min(cached_from) {
            let end = LogIndex::new(high.min(cached_from));
            let budget = bytes_max.saturating_sub(bytes).min(READ_BYTES);
            let read = self.reader.read(self.group, LogIndex::new(index), end, budget)?;
            if read.is_empty() {
                return Err(WalError::Missing { group: self.group, index: LogIndex::new(index) });
            }
            for (at, payload) in read {
                let Ok(entry) = decode_entry(at, payload) else {
                    return Err(WalError::Missing { group: self.group, index: at });
                };
                bytes += cached_bytes(&entry);
                if !entries.is_empty() && bytes > bytes_max {
                    return Ok(entries);
                }
                entries.push(entry);
                index += 1;
            }
        }
        for entry in self.cache.iter().skip(index.saturating_sub(cached_from) as usize) {
            if entry.index >= high {
                break;
            }
            bytes += cached_bytes(entry);
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index.get() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let bytes_max = max_size.into();
        let bounded = bytes_max.is_some();
        let bytes_max = bytes_max.map_or(usize::MAX, |max| max.try_into().unwrap_or(usize::MAX));
        self.fetch(low, high, bytes_max).or_else(|error| {
            // It ends the step. Until then raft is told what it does not panic over.
            self.failure.borrow_mut().get_or_insert(error);
            if context.can_async() {
                Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))
            } else if bounded {
                // What is committed is not handed out now.
                Ok(Vec::new())
            } else {
                // Before a campaign it looks for a change of membership that is not applied yet:
                // there may be one.
                let mut change = Entry { index: low, ..Entry::default() };
                change.set_entry_type(EntryType::EntryConfChangeV2);
                Ok(vec![change])
            }
        })
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let index = LogIndex::new(index);
        match self.term_of(index) {
            Some(term) => Ok(term.get()),
            None if index < self.base.index => Err(raft::Error::Store(StorageError::Compacted)),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index.get() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.get())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let fits = |offer: &&Offer| {
            let index = offer.manifest.position.index;
            let members = &offer.members;
            let named = [&members.voters, &members.learners, &members.voters_outgoing];
            index >= self.base.index
                && index.get() >= request_index
                && named.into_iter().any(|set| set.contains(&to))
        };
        let Some(offer) = self.offer.as_ref().filter(fits) else {
            self.wanted.set(true);
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = offer.manifest.position.index.get();
        metadata.term = offer.term.get();
        metadata.set_conf_state(offer.members.clone());
        snapshot.data = offer.data.clone();
        Ok(snapshot)
    }
}

fn missing(group: GroupId, index: LogIndex) -> NodeError {
    NodeError::from(WalError::Missing { group, index })
}

fn cached_bytes(entry: &Entry) -> usize {
    entry.data.len() + size_of::<Entry>()
}

/// The wal's payload of an entry.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    assert!(entry.context.is_empty(), "entry contexts are not used");
    let mut out = BytesMut::with_capacity(STORED_HEADER_BYTES + entry.data.len());
    out.put_u64_le(entry.term);
    out.put_u8(match entry.get_entry_type() {
        EntryType::EntryNormal => KIND_NORMAL,
        EntryType::EntryConfChange => KIND_CONF_CHANGE,
        EntryType::EntryConfChangeV2 => KIND_CONF_CHANGE_V2,
    });
    out.put_slice(&entry.data);
    out.freeze()
}

/// The term of a stored entry, if it is one.
pub(crate) fn term_of_stored(payload: &[u8]) -> Option<Term> {
    let entry = decode_entry(LogIndex::ZERO, Bytes::copy_from_slice(payload)).ok()?;
    Some(Term::new(entry.term))
}

/// Whether a stored entry changes who takes part.
pub(crate) fn has_change(payload: &[u8]) -> bool {
    matches!(payload.get(8), Some(&(KIND_CONF_CHANGE | KIND_CONF_CHANGE_V2)))
}

/// The records of a stored entry, if it has any.
pub(crate) fn records_of_stored(
    index: LogIndex,
    stored: Bytes,
) -> Result<Option<EntryBody>, NodeError> {
    let entry = decode_entry(index, stored)?;
    if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
        return Ok(None);
    }
    let body = EntryBody::decode(entry.data).map_err(|error| NodeError::Damaged {
        what: format!("log entry index={index}: {error}"),
    })?;
    Ok(Some(body))
}

fn decode_entry(index: LogIndex, payload: Bytes) -> Result<Entry, NodeError> {
    let damaged = |what| NodeError::Damaged { what: format!("log entry index={index} {what}") };
    if payload.len() < STORED_HEADER_BYTES {
        return Err(damaged("is too short"));
    }
    let (term, rest) = payload.split_at(8);
    let term = u64::from_le_bytes(term.try_into().expect("split at eight bytes"));
    let mut entry = Entry { index: index.get(), term, ..Entry::default() };
    entry.set_entry_type(match rest[0] {
        KIND_NORMAL => EntryType::EntryNormal,
        KIND_CONF_CHANGE => EntryType::EntryConfChange,
        KIND_CONF_CHANGE_V2 => EntryType::EntryConfChangeV2,
        _ => return Err(damaged("has an unknown kind")),
    });
    entry.data = payload.slice(STORED_HEADER_BYTES..);
    Ok(entry)
}

/// What fuzzing needs of raft's types, which stay behind this file and the replica.
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz {
    use protobuf::Message as _;
    use raft::eraftpb::{Message, MessageType};

    use super::*;
    use crate::replica::raft_codec;

    /// Whether the bytes are a stored entry, which then must encode to them again.
    pub(crate) fn stored_entry(index: LogIndex, raw: Bytes) -> bool {
        let Ok(entry) = decode_entry(index, raw.clone()) else { return false };
        assert_eq!(encode_entry(&entry), raw);
        true
    }

    /// Whether the bytes are a message of raft, whose encoding must then be read again. Compared by
    /// length alone: the codec keeps unknown fields, in no order and even when there are none left.
    pub(crate) fn raft_message(raw: &[u8]) -> bool {
        let Ok(message) = raft_codec::message(raw) else { return false };
        let write = |message: &Message| message.write_to_bytes().expect("a message encodes");
        let again = write(&message);
        let read = raft_codec::message(&again).expect("it was written");
        assert_eq!(write(&read).len(), again.len());
        true
    }

    /// Some entries, sent by a leader.
    pub(crate) fn append_message() -> Vec<u8> {
        let entry = |index| Entry { index, term: 4, data: vec![7; 20].into(), ..Entry::default() };
        let mut message = Message { from: 1, to: 2, term: 4, index: 8, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.set_entries([entry(9), entry(10)].to_vec().into());
        message.write_to_bytes().expect("a message encodes")
    }
}
