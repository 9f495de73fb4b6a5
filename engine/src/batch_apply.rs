//! A batch, applied: all of it or nothing (G7).
//!
//! 1. May this writer, from there, touch every resource that the batch names, in either branch? So a
//!    fenced writer learns that it is fenced, whatever else is wrong.
//! 2. Does it repeat a request? Then it is answered as the first time (G6), and not with a guard that
//!    its own first effect has moved.
//! 3. Is what it demands so? The state is that before the batch. This chooses the branch.
//! 4. The operations of the branch in their order, each over what those before it wrote. The first that
//!    cannot be done takes all of them back.

use bytes::Bytes;

use crate::clients::{ClientBounds, ClientTable};
use crate::command::{BatchCommand, Chore, Op};
use crate::outcome::{Branch, Outcome};
use crate::projection::rebuild::Builds;
use crate::projection::{At, Kind, ProjectionFault, Registry, Repeated, Rows, RowsRead, Step};
use crate::refusal::Refusal;
use crate::resource_table::ResourceTable;
use crate::view::View;

/// Computes what a batch does. What it wrote stands only if the outcome says so.
pub(crate) fn apply(
    resources: &ResourceTable,
    registry: &Registry,
    builds: &mut Builds,
    view: &mut View<'_>,
    at: At,
    batch: BatchCommand,
) -> Result<Outcome, ProjectionFault> {
    if let Some(refusal) = batch.parts().find_map(|part| resources.admit(part, &batch.caller).err())
    {
        return Ok(Outcome::Refused(refusal));
    }
    let desk = Desk { resources, registry, at };
    if let Some(outcome) = desk.repeated(view, &batch)? {
        return Ok(outcome);
    }
    let (branch, ops) = match desk.failed_guard(view, &batch.guards)? {
        None => (Branch::Then, batch.then),
        Some(guard) if batch.otherwise.is_empty() => {
            return Ok(Outcome::Refused(Refusal::GuardFailed { guard }));
        }
        Some(_) => (Branch::Otherwise, batch.otherwise),
    };
    desk.done(view, builds, branch, ops)
}

/// Most things that are done for one resource, or rows of clients that are taken, by one record of housekeeping.
pub(crate) const TIDIED_MAX: usize = 256;

/// Does what time asks for there. Nobody is asked whether he may: it follows from the log.
pub(crate) fn tidy(
    resources: &mut ResourceTable,
    registry: &Registry,
    builds: &mut Builds,
    view: &mut View<'_>,
    at: At,
    clients: ClientBounds,
    due: &[Chore],
) -> Result<Outcome, ProjectionFault> {
    for (number, chore) in due.iter().enumerate() {
        let id = match chore {
            Chore::Clients => {
                ClientTable::load(view, at, clients)?.tidy(TIDIED_MAX)?;
                continue;
            }
            Chore::Resource(id) => *id,
        };
        let Some(found) = resources.get(id) else { continue };
        let Some(kind) = resources.kind(registry, found) else { continue };
        let (name, place) = (kind.projection.name(), At { index: number as u16, ..at });
        if found.deleted.is_some() {
            if resources.bury(view, kind.family, at, id) {
                builds.buried(view, name, place, id)?;
            }
        } else {
            let mut rows = Rows::new(view, kind.family, at.group, id);
            kind.projection.tidy(at, &mut rows, TIDIED_MAX)?;
            builds.tidied(view, name, place, id)?;
        }
    }
    Ok(Outcome::Applied { branch: Branch::Then, outcomes: Vec::new() })
}

/// What a batch is applied with.
struct Desk<'a> {
    resources: &'a ResourceTable,
    registry: &'a Registry,
    at: At,
}

impl<'a> Desk<'a> {
    /// The projection of a part that was admitted.
    fn kind(&self, part: &Op) -> Result<Kind<'a>, ProjectionFault> {
        let resource = self.resources.get(part.resource);
        let kind = resource.and_then(|resource| self.resources.kind(self.registry, resource));
        // The table holds no resource of another projection than those that are registered.
        kind.ok_or_else(|| {
            ProjectionFault::new(format!("resource={} has no projection", part.resource.0))
        })
    }

    fn rows<'r>(&self, view: &'r View<'_>, kind: Kind<'_>, part: &Op) -> RowsRead<'r> {
        let rows = RowsRead::new(view, kind.family, self.at.group, part.resource);
        rows.of_version(kind.projection.version())
    }

    /// What becomes of a batch with a request that is known, in whichever branch. The branch that was done
    /// the first time says so, also where the other one has the same id for another request.
    fn repeated(
        &self,
        view: &View<'_>,
        batch: &BatchCommand,
    ) -> Result<Option<Outcome>, ProjectionFault> {
        let then = self.repeated_in(view, &batch.then)?;
        if let Some(Outcome::Duplicate(_)) = then {
            return Ok(then);
        }
        let otherwise = self.repeated_in(view, &batch.otherwise)?;
        Ok(match otherwise {
            Some(Outcome::Duplicate(_)) => otherwise,
            _ => then.or(otherwise),
        })
    }

    fn repeated_in(
        &self,
        view: &View<'_>,
        branch: &[Op],
    ) -> Result<Option<Outcome>, ProjectionFault> {
        for (number, op) in branch.iter().enumerate() {
            let kind = self.kind(op)?;
            match kind.projection.repeats(&op.body, &self.rows(view, kind, op))? {
                None => {}
                Some(Repeated::Completed(first)) => {
                    return Ok(Some(Outcome::Duplicate(first.stamp())));
                }
                Some(Repeated::Refused(detail)) => {
                    return Ok(Some(Outcome::Refused(refused(kind, number, detail))));
                }
            }
        }
        Ok(None)
    }

    /// The first guard that does not hold.
    fn failed_guard(
        &self,
        view: &View<'_>,
        guards: &[Op],
    ) -> Result<Option<usize>, ProjectionFault> {
        for (number, guard) in guards.iter().enumerate() {
            let kind = self.kind(guard)?;
            if !kind.projection.holds(&guard.body, &self.rows(view, kind, guard))? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn done(
        &self,
        view: &mut View<'_>,
        builds: &mut Builds,
        branch: Branch,
        ops: Vec<Op>,
    ) -> Result<Outcome, ProjectionFault> {
        let mut outcomes = Vec::with_capacity(ops.len());
        for (number, op) in ops.into_iter().enumerate() {
            let kind = self.kind(&op)?;
            let at = At { index: number as u16, ..self.at };
            let mut rows = Rows::new(view, kind.family, at.group, op.resource);
            let step = kind.projection.apply(at, op.body.clone(), &mut rows)?;
            let beside = (op.body, matches!(step, Step::Done(_)));
            builds.op(view, kind.projection.name(), at, op.resource, beside)?;
            let refusal = match step {
                Step::Done(outcome) => {
                    outcomes.push(outcome);
                    continue;
                }
                Step::Refused(detail) => refused(kind, number, detail),
                Step::TooLong(bytes) => Refusal::OutcomeTooLong { op: number, bytes },
            };
            return Ok(Outcome::Refused(refusal));
        }
        Ok(Outcome::Applied { branch, outcomes })
    }
}

fn refused(kind: Kind<'_>, op: usize, detail: Bytes) -> Refusal {
    Refusal::ByProjection { projection: kind.projection.name(), op, detail }
}
