//! A projection behind one face: bytes in, bytes out.

use std::any::TypeId;

use bytes::Bytes;
use palisade_replication::LogTime;

use super::{
    Applied, At, Imported, NewRows, OUTCOME_BYTES_MAX, Projection, ProjectionFault, Rows, RowsRead,
    fault,
};
use crate::outcome::Completion;
use crate::stored::Stored;

/// How one operation went.
#[derive(Debug)]
pub(crate) enum Step {
    /// The outcome.
    Done(Bytes),
    /// The refusal of the projection.
    Refused(Bytes),
    /// Its outcome has so many bytes, which are too many.
    TooLong(usize),
}

/// What the machine needs of a projection.
pub(crate) trait AnyProjection: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> u32;

    /// Which [`Projection`] it is. Another of the same name writes what this one cannot read.
    fn of(&self) -> TypeId;

    /// Does the operation that these bytes say.
    fn apply(&self, at: At, op: Bytes, rows: &mut Rows<'_, '_>) -> Result<Step, ProjectionFault>;

    /// Whether what these bytes demand is so.
    fn holds(&self, guard: &Bytes, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault>;

    /// From which log time on there is something to tidy.
    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault>;

    /// Does up to so much of it.
    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault>;

    /// Rows of an older version as rows of this one.
    fn import(
        &self,
        _from: u32,
        _old: &RowsRead<'_>,
        _new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        Ok(Imported::Unable)
    }

    /// Whether it can read these bytes, as an operation or as a guard.
    fn reads(&self, _body: &Bytes, _is_guard: bool) -> bool {
        true
    }

    /// Whether the operation repeats a request that was answered before. Asked before anything is done.
    fn repeats(&self, _: &Bytes, _: &RowsRead<'_>) -> Result<Option<Repeated>, ProjectionFault> {
        Ok(None)
    }
}

/// What becomes of a record with a request that is known already.
#[derive(Debug)]
pub(crate) enum Repeated {
    /// It has no effect, and is answered as the first time.
    Completed(Completion),
    /// It has no effect: the id was used for another request. The refusal of the projection.
    Refused(Bytes),
}

/// Any [`Projection`].
pub(crate) struct Erased<P>(pub(crate) P);

impl<P: Projection> AnyProjection for Erased<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn of(&self) -> TypeId {
        TypeId::of::<P>()
    }

    fn apply(&self, at: At, op: Bytes, rows: &mut Rows<'_, '_>) -> Result<Step, ProjectionFault> {
        guarded(P::NAME, || {
            let op = P::Op::from_bytes(&op)?;
            Ok(match self.0.apply(at, op, rows)? {
                Applied::Done(outcome) => {
                    let outcome = outcome.to_bytes();
                    match outcome.len() {
                        0..=OUTCOME_BYTES_MAX => Step::Done(outcome),
                        length => Step::TooLong(length),
                    }
                }
                Applied::Refused(refusal) => {
                    let refusal = refusal.to_bytes();
                    match refusal.len() {
                        0..=OUTCOME_BYTES_MAX => Step::Refused(refusal),
                        length => Step::TooLong(length),
                    }
                }
            })
        })
    }

    fn holds(&self, guard: &Bytes, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        guarded(P::NAME, || self.0.holds(&P::Guard::from_bytes(guard)?, rows))
    }

    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        guarded(P::NAME, || self.0.due(rows))
    }

    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
        guarded(P::NAME, || self.0.tidy(at, rows, most))
    }

    fn import(
        &self,
        from: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        guarded(P::NAME, || self.0.import(from, old, new))
    }

    fn reads(&self, body: &Bytes, is_guard: bool) -> bool {
        match is_guard {
            true => P::Guard::from_bytes(body).is_ok(),
            false => P::Op::from_bytes(body).is_ok(),
        }
    }
}

/// A fault says whose it is, and a panic is a fault.
fn guarded<T>(
    name: &str,
    work: impl FnOnce() -> Result<T, ProjectionFault>,
) -> Result<T, ProjectionFault> {
    // What was half done is thrown away with the view, and the group serves nothing more.
    fault::guarded(work).map_err(|fault| fault.within(&format!("projection={name}")))
}
