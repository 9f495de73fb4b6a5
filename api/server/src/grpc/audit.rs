//! Writes what was refused to the log of the audit: at most one record of the log every few seconds, whatever
//! comes. What could not be written is tried again, so that after an answer that got lost a record may be there
//! twice.

use std::time::Duration;

use bytes::Bytes;
use palisade::{Engine, Error};
use tokio::time::{sleep, timeout};

use super::own::{AuditLog, audit_log};
use crate::security::audit::{AuditQueue, AuditRecord};

/// Between two writes.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Before what could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last write may take.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes them for as long as it runs.
pub(super) async fn write(engine: &Engine, queue: &AuditQueue) -> ! {
    let mut log = None;
    loop {
        queue.some().await;
        while let Err(error) = write_waiting(engine, queue, &mut log).await {
            tracing::warn!(%error, "the audit waits");
            sleep(PAUSE).await;
        }
        sleep(WRITE_EVERY).await;
    }
}

/// Writes what is left when the node is told to stop.
pub(super) async fn write_rest(engine: &Engine, queue: &AuditQueue) {
    let written = timeout(LAST_TIMEOUT, write_waiting(engine, queue, &mut None)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::warn!("the last refusals are not in the audit");
    }
}

async fn write_waiting(
    engine: &Engine,
    queue: &AuditQueue,
    log: &mut Option<AuditLog>,
) -> Result<(), Error> {
    let mut taken = Taken { queue, records: queue.take(engine.node().get()) };
    if taken.records.is_empty() {
        return Ok(());
    }
    let encoded = taken.records.iter().map(|record| record.encode().into());
    let written = append(engine, log, encoded).await;
    match written {
        Ok(()) => taken.records.clear(),
        // It may have been made anew.
        Err(_) => *log = None,
    }
    written
}

/// Records on their way, which wait again if they do not arrive: a node that stops gives up the write.
struct Taken<'a> {
    queue: &'a AuditQueue,
    records: Vec<AuditRecord>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.put_back(std::mem::take(&mut self.records));
    }
}

async fn append(
    engine: &Engine,
    log: &mut Option<AuditLog>,
    records: impl Iterator<Item = Bytes>,
) -> Result<(), Error> {
    let log = match log {
        Some(log) => log,
        None => log.insert(audit_log(engine).await?),
    };
    log.append_all(&records.collect::<Vec<_>>()).await.map(|_| ())
}
