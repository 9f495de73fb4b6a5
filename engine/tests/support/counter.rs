// A projection for the examples of the documentation, which include this file: nobody needs to see it there.

use palisade::{Applied, At, Projection, ProjectionFault, Rows, RowsRead, Stored};

/// Counts up, but not beyond a hundred.
pub(crate) struct Counter;

fn count(rows: &RowsRead<'_>) -> Result<u64, ProjectionFault> {
    Ok(rows.get(b"count")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?)
}

impl Projection for Counter {
    const NAME: &'static str = "counter";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = u64;
    /// The count that it stands at.
    type Refusal = u64;
    /// A count that must have been reached.
    type Guard = u64;

    fn apply(
        &self,
        _: At,
        add: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, u64>, ProjectionFault> {
        let held = count(&rows.read())?;
        let sum = held.saturating_add(add);
        if sum > 100 {
            return Ok(Applied::Refused(held));
        }
        rows.put(b"count", sum.to_bytes())?;
        Ok(Applied::Done(sum))
    }

    fn holds(&self, least: &u64, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        Ok(*least <= count(rows)?)
    }
}
