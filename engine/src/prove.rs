//! Heads of the chain, and proofs that a record is in it, computed from the records of this node's log.
//!
//! Neither heads nor links are kept in the state yet. So a head is computed from the first record on, and
//! only while the log still has that one: `Options::kept_entries` says how much of it stays. A node that
//! began with a restored state, or with a snapshot, never had it. The heads that backups name stay.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use crate::audit::InclusionProof;
use crate::chain::{ChainHead, ChainLink};
use crate::engine::{Engine, GROUP};
use crate::error::Error;
use crate::records::RecordReader;

/// A proof leads up to the next offset that this divides, so it has less than so many links.
const ANCHORS_EVERY: u64 = 1024;

impl Engine {
    /// The head of the chain of records up to an offset: with the offset an
    /// [`Anchor`](crate::audit::Anchor). It costs a read of the whole log up to there, unless the offset
    /// is the last one applied.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] if this node is not there yet, [`Error::NotFound`] if the log no longer
    /// goes back to its first record: it says to where.
    pub async fn head(&self, offset: Offset) -> Result<ChainHead, Error> {
        let (applied, head) = self.chain_head().await?;
        if offset == applied {
            return Ok(head);
        }
        if applied < offset {
            return Err(Error::NotYetApplied { required: offset, applied });
        }
        let mut head = ChainHead::ZERO;
        self.each_record(offset, |at, log_time, payload| {
            head = head.next(ChainLink::of(at, log_time, &payload));
        })
        .await?;
        Ok(head)
    }

    /// Proof that a record is in the log, for [`audit::verify`](crate::audit::verify). It is made for the
    /// anchor at the next offset that 1024 divides, or at the last one applied if that comes first:
    /// [`InclusionProof::anchor_offset`] says which, and [`Engine::head`] gives its head.
    ///
    /// # Errors
    /// As for [`Engine::head`], and [`Error::InvalidArgument`] for offset 0, which no record has.
    pub async fn prove(&self, offset: Offset) -> Result<InclusionProof, Error> {
        if offset == Offset::ZERO {
            return Err(Error::InvalidArgument { what: "records begin at offset=1".to_owned() });
        }
        let applied = self.applied()?;
        if applied < offset {
            return Err(Error::NotYetApplied { required: offset, applied });
        }
        let anchor = offset.get().checked_next_multiple_of(ANCHORS_EVERY);
        let anchor = anchor.map_or(applied, |anchor| applied.min(Offset::new(anchor)));
        let mut head_before = ChainHead::ZERO;
        let mut found = None;
        let mut links = Vec::new();
        self.each_record(anchor, |at, log_time, payload| {
            let link = ChainLink::of(at, log_time, &payload);
            if at < offset {
                head_before = head_before.next(link);
            } else if at == offset {
                found = Some((log_time, payload));
            } else {
                links.push(link.0);
            }
        })
        .await?;
        let (log_time, payload) = found.ok_or_else(|| Error::InternalError {
            what: format!("the record at offset={offset} was not read"),
        })?;
        Ok(InclusionProof {
            offset: offset.get(),
            log_time: log_time.get(),
            payload: payload.to_vec(),
            head_before: head_before.0,
            links,
        })
    }
    /// Shows all records from the first up to an offset.
    async fn each_record(
        &self,
        up_to: Offset,
        mut each: impl FnMut(Offset, LogTime, Bytes),
    ) -> Result<(), Error> {
        let mut reader = RecordReader::new(self.backend(), GROUP, Offset::ZERO, up_to);
        loop {
            let runs = reader.next().await?.map_err(|first| Error::NotFound {
                what: format!("records before offset={first}: the log begins there"),
            })?;
            if runs.is_empty() {
                return Ok(());
            }
            for run in runs {
                let mut at = run.first_offset;
                for payload in run.payloads {
                    each(at, run.log_time, payload);
                    at = at.next();
                }
            }
        }
    }
}
