//! Files on their way: filled one after the other, and a few put at a time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::GroupId;
use sha2::{Digest, Sha256};

use super::layout::{FILE_BYTES_TARGET, FileEntry, FileName, Hash};
use super::{Backup, BackupError, BackupId, place};
use crate::backend::BoxFuture;

/// Files that are put at the same time.
const PUTS_MAX: usize = 4;

pub(super) struct Writer<'a> {
    backup: &'a Backup<'a>,
    id: &'a BackupId,
    group: GroupId,
    puts: Vec<BoxFuture<'a, Result<(), BackupError>>>,
    /// What the next file holds so far.
    parts: Vec<Bytes>,
    hasher: Sha256,
    bytes: usize,
    closed: Vec<FileEntry>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(backup: &'a Backup<'a>, id: &'a BackupId, group: GroupId) -> Self {
        Self {
            backup,
            id,
            group,
            puts: Vec::new(),
            parts: Vec::new(),
            hasher: Sha256::new(),
            bytes: 0,
            closed: Vec::new(),
        }
    }

    /// Adds to the file that is being filled.
    pub(super) fn add(&mut self, part: Bytes) {
        if self.backup.epoch.is_none() {
            self.hasher.update(&part);
        }
        self.bytes += part.len();
        self.parts.push(part);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        FILE_BYTES_TARGET <= self.bytes
    }

    /// How many files are closed.
    pub(super) fn closed_count(&self) -> u64 {
        self.closed.len() as u64
    }

    /// Sends the file that is filled on its way, once there is room for it.
    pub(super) async fn close(&mut self, name: FileName) -> Result<(), BackupError> {
        while PUTS_MAX <= self.puts.len() {
            self.a_put().await?;
        }
        let file = place::file(self.id, self.group, name);
        let parts = self.backup.sealed(&file, std::mem::take(&mut self.parts))?;
        self.bytes = 0;
        if self.backup.epoch.is_some() {
            // What is sealed is known only now.
            parts.iter().for_each(|part| self.hasher.update(part));
        }
        let sha256 = Hash(std::mem::take(&mut self.hasher).finalize().into());
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.puts.push(Box::pin(self.backup.place.put(file, parts)));
        self.closed.push(FileEntry { name, bytes, sha256 });
        if let Some(bytes_per_second) = self.backup.bytes_per_second {
            let seconds = Duration::from_secs(bytes / bytes_per_second);
            let rest = bytes % bytes_per_second;
            let rest = u128::from(rest) * 1_000_000 / u128::from(bytes_per_second);
            let rest = Duration::from_micros(rest as u64);
            self.beside(self.backup.engine.backend().sleep(seconds + rest)).await?;
        }
        Ok(())
    }

    /// Awaits something else; files go on their way meanwhile.
    pub(super) async fn beside<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, BackupError> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(Err(error)) = self.poll_puts(context) {
                return Poll::Ready(Err(error));
            }
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// All files, once they are there.
    pub(super) async fn finish(mut self) -> Result<Vec<FileEntry>, BackupError> {
        assert!(self.is_empty(), "the last file was not closed");
        while !self.puts.is_empty() {
            self.a_put().await?;
        }
        Ok(self.closed)
    }

    /// Waits for one put at least.
    async fn a_put(&mut self) -> Result<(), BackupError> {
        poll_fn(|context| self.poll_puts(context)).await
    }

    /// Ready once a put has ended.
    fn poll_puts(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BackupError>> {
        let before = self.puts.len();
        let mut failed = None;
        self.puts.retain_mut(|put| match put.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(done) => {
                failed = failed.take().or(done.err());
                false
            }
        });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if self.puts.len() < before => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}
