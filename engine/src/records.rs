//! Committed records in order, read back from the node's log.

use palisade_replication::{GroupId, Offset, RecordRun};

use crate::backend::Backend;
use crate::error::Error;

/// Records that are read at once, about.
const READ_BYTES: usize = 1 << 20;

/// Reads the records between two offsets.
pub(crate) struct RecordReader<'a> {
    backend: &'a dyn Backend,
    group: GroupId,
    next: Offset,
    up_to: Offset,
}

impl<'a> RecordReader<'a> {
    /// Those after one offset, up to another that is applied here.
    pub(crate) fn new(
        backend: &'a dyn Backend,
        group: GroupId,
        after: Offset,
        up_to: Offset,
    ) -> Self {
        Self { backend, group, next: after.next(), up_to }
    }

    /// The next runs; none after the last. Or where the log begins that does not go back so far.
    pub(crate) async fn next(&mut self) -> Result<Result<Vec<RecordRun>, Offset>, Error> {
        if self.up_to < self.next {
            return Ok(Ok(Vec::new()));
        }
        let mut runs = match self.backend.records(self.group, self.next, READ_BYTES).await? {
            Ok(runs) => runs,
            trimmed => return Ok(trimmed),
        };
        if runs.is_empty() {
            let applied = self.backend.applied(self.group)?;
            return Err(Error::NotYetApplied { required: self.next, applied });
        }
        for run in &mut runs {
            let (found, expected) = (run.first_offset, self.next);
            if found != expected {
                let what = format!("records are out of order, found={found} expected={expected}");
                return Err(Error::InternalError { what });
            }
            let left = (self.up_to.get() + 1 - self.next.get()) as usize;
            run.payloads.truncate(left);
            self.next = Offset::new(self.next.get() + run.payloads.len() as u64);
            if self.up_to < self.next {
                break;
            }
        }
        runs.retain(|run| run.first_offset <= self.up_to);
        Ok(Ok(runs))
    }
}
