//! Heads of the chain, and proofs that a record is in it, computed from the records of this node's log.
//!
//! The state keeps the head at each offset that 1024 divides, at every replica and in every snapshot and
//! backup. Another head is computed from the records behind the one before it, while the log still has
//! them: `Options::kept_entries` says how much of it stays.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use crate::audit::InclusionProof;
use crate::chain::{ANCHORS_EVERY, ChainHead, ChainLink};
use crate::error::Error;
use crate::group::Group;
use crate::keys;
use crate::read::ReadConsistency;
use crate::records::RecordReader;
use crate::store::{Direction, FamilyId, Walk};

impl Group {
    /// The head of the chain of records up to an offset: with the offset an
    /// [`Anchor`](crate::audit::Anchor). Those at offsets that 1024 divides are there for ever; another
    /// one costs a read of up to 1023 records.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] if this node is not there yet, [`Error::NotFound`] if the log no longer
    /// has the records that it takes: it says where the log begins.
    pub async fn head(&self, offset: Offset) -> Result<ChainHead, Error> {
        let (applied, head) = self.chain_head().await?;
        if offset == applied {
            return Ok(head);
        }
        if applied < offset {
            return Err(Error::NotYetApplied { required: offset, applied });
        }
        let (from, mut head) = self.kept_head(offset).await?;
        self.each_record(from, offset, |at, log_time, payload| {
            head = head.next(ChainLink::of(at, log_time, &payload));
        })
        .await?;
        Ok(head)
    }

    /// Proof that a record is in the log, for [`audit::verify`](crate::audit::verify). It is made for the
    /// anchor at the next offset that 1024 divides, or at the last one applied if that comes first:
    /// [`InclusionProof::anchor_offset`] says which, and [`Group::head`] gives its head.
    ///
    /// What the log has trimmed cannot be proven any more: [`crate::Options::kept_entries`] says how much of it
    /// stays that nothing else needs.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// use palisade::audit::{self, Anchor, InclusionProof};
    ///
    /// let order = orders.append(&"an apple".to_owned()).await?.receipt;
    /// orders.append(&"a pear".to_owned()).await?;
    ///
    /// let proof: InclusionProof = orders.group().prove(order.offset).await?;
    /// let anchor = proof.anchor_offset().expect("it is one of this log");
    /// let head = orders.group().head(Offset::new(anchor)).await?;
    /// // Who keeps the anchor needs neither the log nor the engine to verify.
    /// let kept = Anchor { offset: anchor, head: head.to_bytes() };
    /// audit::verify(&kept, &proof).expect("the record is in the log");
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As for [`Group::head`], and [`Error::InvalidArgument`] for offset 0, which no record has.
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
        let (from, mut head_before) = self.kept_head(Offset::new(offset.get() - 1)).await?;
        let mut found = None;
        let mut links = Vec::new();
        self.each_record(from, anchor, |at, log_time, payload| {
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

    /// The last head that is kept up to an offset, and where it is.
    async fn kept_head(&self, up_to: Offset) -> Result<(Offset, ChainHead), Error> {
        let read = self.read(ReadConsistency::Local.into(), move |read, group| {
            let end = keys::head(group, Offset::new(up_to.get().saturating_add(1)));
            let from = keys::head(group, Offset::ZERO);
            let mut kept = (Offset::ZERO, ChainHead::ZERO);
            read.walk(FamilyId::HEADS, &from, &end, Direction::Backward, &mut |key, raw| {
                if let (Some(at), Ok(head)) = (key.last_chunk(), raw.try_into()) {
                    kept = (Offset::new(u64::from_be_bytes(*at)), ChainHead(head));
                }
                Walk::Stop
            })?;
            Ok(kept)
        });
        Ok(read.await?.value)
    }

    /// Shows all records behind one offset, up to another.
    async fn each_record(
        &self,
        after: Offset,
        up_to: Offset,
        mut each: impl FnMut(Offset, LogTime, Bytes),
    ) -> Result<(), Error> {
        let mut reader = RecordReader::new(self.engine.backend(), self.id(), after, up_to);
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
