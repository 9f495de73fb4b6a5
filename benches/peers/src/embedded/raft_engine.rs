//! TiKV's raft-engine, with files that are made beforehand and recycled: the fastest it offers.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use raft::eraftpb::Entry;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};

use super::Engine;
use crate::server::text;

/// Entries of a group that are kept, and between two times that older ones are let go of; 64 groups keep as
/// many as our one.
const KEPT: u64 = 64;
const TRIM_EVERY: u64 = 64;

struct OfRaft;

impl MessageExt for OfRaft {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

pub(super) struct RaftEngine {
    engine: raft_engine::Engine,
    groups: Mutex<Groups>,
}

/// Each writer has a group to itself: entries of one group come in order, and writers that waited for each
/// other would measure a lock.
#[derive(Default)]
struct Groups {
    count: u64,
    /// Those that no writer has, and their last indexes.
    idle: Vec<(u64, u64)>,
}

impl RaftEngine {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let config = Config {
            dir: dir.display().to_string(),
            // Values do not compress.
            batch_compression_threshold: ReadableSize(0),
            enable_log_recycle: true,
            prefill_for_recycle: true,
            purge_threshold: ReadableSize::gb(1),
            ..Config::default()
        };
        let engine = raft_engine::Engine::open(config).map_err(text)?;
        Ok(Self { engine, groups: Mutex::default() })
    }

    fn taken(&self) -> (u64, u64) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.idle.pop().unwrap_or_else(|| {
            groups.count += 1;
            (groups.count, 0)
        })
    }
}

impl Engine for RaftEngine {
    fn append(&self, _: u64, entry: &[u8]) -> Result<(), String> {
        let (group, last) = self.taken();
        let index = last + 1;
        let data = bytes::Bytes::copy_from_slice(entry);
        let of_raft = Entry { index, data, ..Entry::default() };
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<OfRaft>(group, &[of_raft]).map_err(text)?;
        self.engine.write(&mut batch, true).map_err(text)?;
        if index > KEPT && index.is_multiple_of(TRIM_EVERY) {
            self.engine.compact_to(group, index - KEPT);
            self.engine.purge_expired_files().map_err(text)?;
        }
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).idle.push((group, index));
        Ok(())
    }
}
