// Two versions of a projection, for the examples of the documentation, which include this file.

use std::convert::Infallible;

use palisade::{
    Applied, At, Imported, NewRows, Projection, ProjectionFault, Rows, RowsRead, Stored,
};

/// Counts up, in the row `count`.
pub(crate) struct First;

/// Counts up, in the row `sum`.
pub(crate) struct Second;

fn add(
    row: &[u8],
    add: u64,
    rows: &mut Rows<'_, '_>,
) -> Result<Applied<u64, Infallible>, ProjectionFault> {
    let held = rows.get(row)?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
    let sum = held.saturating_add(add);
    rows.put(row, sum.to_bytes())?;
    Ok(Applied::Done(sum))
}

impl Projection for First {
    const NAME: &'static str = "counter";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = u64;
    type Refusal = Infallible;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, Infallible>, ProjectionFault> {
        add(b"count", op, rows)
    }
}

impl Projection for Second {
    const NAME: &'static str = First::NAME;
    const VERSION: u32 = First::VERSION + 1;
    type Op = u64;
    type Outcome = u64;
    type Refusal = Infallible;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, Infallible>, ProjectionFault> {
        add(b"sum", op, rows)
    }

    fn import(
        &self,
        _: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        if let Some(count) = old.get(b"count")? {
            new.put(b"sum", count)?;
        }
        Ok(Imported::All)
    }
}
