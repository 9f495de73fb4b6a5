//! Workers: find accepted requests in the log, do the work, record it once.
//!
//! A worker's owner epoch is the offset of the record by which it registered, so a worker that was
//! restarted outranks its former life and may take over what that had reserved. Each worker does
//! its own share at once; a request of another's share only after a grace period, when its owner
//! seems to be gone. If it was not gone after all, one of the two is fenced: never both record.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade::{
    Direction, Disposition, Error, FailureDomain, FenceEpoch, Fingerprint, Offset, ReadConsistency,
    RequestStatus,
};
use tokio::time::Instant;

use super::model::{ApiCommand, Effect, RequestRecord, RequestState};
use super::service::{ReportService, repeat};

/// Commands looked at in one tick.
const SCAN_MAX: usize = 256;
/// How long another worker's request is left to it.
const GRACE: Duration = Duration::from_secs(3);
/// Requests of other workers that are remembered until they are done.
const LEFT_MAX: usize = 65_536;

/// One worker on one node.
pub struct Worker {
    service: ReportService,
    domain: FailureDomain,
    name: String,
    /// Which of how many workers it is.
    share: (u64, u64),
    owner: Option<FenceEpoch>,
    position: Offset,
    /// Requests of others that were not done when last looked at, and when to look again.
    left: BTreeMap<Offset, (ApiCommand, Instant)>,
}

impl Worker {
    /// A worker of this name in this domain, one of `count`.
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] if the profile does not allow the domain. No other place is
    /// tried.
    pub fn new(
        service: ReportService,
        domain: FailureDomain,
        name: impl Into<String>,
        (number, count): (u64, u64),
    ) -> Result<Self, Error> {
        service.admit(&domain)?;
        Ok(Self {
            service,
            domain,
            name: name.into(),
            share: (number, count.max(1)),
            owner: None,
            position: Offset::ZERO,
            left: BTreeMap::new(),
        })
    }

    /// Looks for work and does it. Returns how many requests it completed.
    ///
    /// # Errors
    /// When the log cannot be read or written now; the next tick goes on where this one stopped.
    pub async fn tick(&mut self) -> Result<usize, Error> {
        let mut completed = 0;
        let now = Instant::now();
        let due: Vec<Offset> = self
            .left
            .iter()
            .filter(|(_, (_, when))| *when <= now)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in due {
            if let Some((command, _)) = self.left.remove(&offset) {
                completed += self.attend(offset, command, now).await?;
            }
        }
        if self.left.len() >= LEFT_MAX {
            return Ok(completed);
        }
        let from = self.position.next();
        let page = self
            .service
            .commands
            .scan(from, Direction::Forward, SCAN_MAX, ReadConsistency::Local)
            .await?;
        for entry in page.value.entries {
            let offset = entry.position.offset;
            let mine = offset.get() % self.share.1 == self.share.0 % self.share.1;
            if mine {
                completed += self.attend(offset, entry.value, now).await?;
            } else {
                self.left.insert(offset, (entry.value, now + GRACE));
            }
            self.position = offset;
        }
        Ok(completed)
    }

    /// Does one request, unless it is done or another worker is at it.
    async fn attend(
        &mut self,
        offset: Offset,
        command: ApiCommand,
        now: Instant,
    ) -> Result<usize, Error> {
        match self.complete(offset, &command).await {
            Ok(true) => Ok(1),
            Ok(false) => Ok(0),
            // Someone else is at it, or was faster: look again later whether it is done.
            Err(
                Error::PreconditionFailed { .. }
                | Error::InProgress { .. }
                | Error::VersionMismatch { .. }
                | Error::Fenced { .. },
            ) => {
                self.left.insert(offset, (command, now + GRACE));
                Ok(0)
            }
            Err(error) => {
                if error.disposition() != Disposition::Halt {
                    self.left.insert(offset, (command, now));
                }
                Err(error)
            }
        }
    }

    async fn complete(&mut self, offset: Offset, command: &ApiCommand) -> Result<bool, Error> {
        let id = &command.submission.request_id;
        let at_least = ReadConsistency::AtLeastOffset(offset);
        let Some(row) = self.service.requests.get(id, at_least).await?.value else {
            return Ok(false);
        };
        if let RequestState::Completed { .. } = row.value.state {
            return Ok(false);
        }
        let effect_key = format!("report-store/{id}");
        let owner = self.outrank(&effect_key).await?;
        let fingerprint = Fingerprint::of(id.as_bytes());
        let effects = &self.service.effects;
        let batch = || self.service.engine().batch().caller(self.domain.clone());
        let reserved =
            repeat(|| batch().reserve(effects, &effect_key, fingerprint, owner).commit()).await?;
        if reserved.duplicate {
            return Ok(false);
        }
        let report = self.service.compute(&command.submission, offset).await?;
        let result = serde_json::to_vec(&report).expect("plain data encodes").into();
        let record = RequestRecord {
            submission: command.submission.clone(),
            state: RequestState::Completed { worker: self.name.clone(), report },
        };
        let effect = Effect { request_id: id.clone(), worker: self.name.clone() };
        let recorded = repeat(|| {
            let result = bytes::Bytes::clone(&result);
            batch()
                .complete(effects, &effect_key, owner, result)
                .put_if(&self.service.requests, id, &record, row.version)
                .append(&self.service.effect_log, &effect)
                .commit()
        })
        .await?;
        Ok(!recorded.duplicate)
    }

    /// An epoch that may reserve this effect: the worker's own, or a newer one if its holder's is
    /// not lower.
    async fn outrank(&mut self, effect_key: &str) -> Result<FenceEpoch, Error> {
        let owner = match self.owner {
            Some(owner) => owner,
            None => self.register().await?,
        };
        match self.service.effects.status(effect_key, ReadConsistency::Local).await?.value {
            RequestStatus::InProgress { owner: holder, .. } if owner <= holder => {
                self.register().await
            }
            _ => Ok(owner),
        }
    }

    async fn register(&mut self) -> Result<FenceEpoch, Error> {
        let domain = self.domain.to_string();
        let workers = &self.service.workers;
        let receipt = repeat(|| {
            self.service
                .engine()
                .batch()
                .caller(self.domain.clone())
                .put(workers, &self.name, &domain)
                .commit()
        })
        .await?;
        let owner = FenceEpoch::new(receipt.offset.get());
        self.owner = Some(owner);
        Ok(owner)
    }
}
