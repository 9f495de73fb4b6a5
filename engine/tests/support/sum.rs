//! A kind of resource that only its host knows: it adds up.

use std::convert::Infallible;

use palisade::{Applied, At, Projection, ProjectionFault, Rows, Stored};

pub(crate) struct Sum;

impl Projection for Sum {
    const NAME: &'static str = "sum";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = u64;
    type Refusal = ();
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        add: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, ()>, ProjectionFault> {
        let held = rows.get(b"sum")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
        rows.put(b"sum", (held + add).to_bytes())?;
        Ok(Applied::Done(held + add))
    }
}
