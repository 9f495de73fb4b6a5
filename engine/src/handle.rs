//! A handle to a resource of any kind: what it proposes, and how it reads.

use std::any::{TypeId, type_name};
use std::marker::PhantomData;

use crate::batch::{Guard, Unproposable};
use crate::command::Op;
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Read;
use crate::projection::{Projection, ProjectionFault, RowsRead};
use crate::read::ReadOptions;
use crate::receipt::Receipt;
use crate::resource::{
    FenceEpoch, LogicalResourceName, ResourceId, ResourceKind, ResourceSpec, SchemaId,
};
use crate::store::FamilyId;
use crate::stored::Stored;

/// A handle to a resource of the kind `P`, opened by one writer generation or for reading alone. The engine must have been
/// opened with [`crate::EngineBuilder::projection`].
pub struct Handle<P> {
    pub(crate) engine: Engine,
    family: FamilyId,
    resource: ResourceId,
    /// Nothing: it was opened for reading.
    epoch: Option<FenceEpoch>,
    kind: PhantomData<fn() -> P>,
}

impl<P> Clone for Handle<P> {
    fn clone(&self) -> Self {
        let Self { engine, family, resource, epoch, kind } = self;
        let (family, resource, epoch, kind) = (*family, *resource, *epoch, *kind);
        Self { engine: engine.clone(), family, resource, epoch, kind }
    }
}

/// What an operation has done, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<O> {
    /// Where it took effect.
    pub receipt: Receipt,
    /// What its projection says.
    pub outcome: O,
}

impl<P: Projection> Handle<P> {
    /// Opens the resource for writing, making it if it is not there. A higher epoch than the current
    /// fences every older writer.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an epoch below the current, [`Error::Incompatible`] if it is something
    /// else than asked for or the engine was opened without its projection,
    /// [`Error::DomainUnavailable`] outside its placement.
    pub async fn open(engine: &Engine, spec: ResourceSpec) -> Result<Self, Error> {
        let family = Self::family(engine)?;
        let epoch = Some(spec.epoch);
        let kind = ResourceKind::of(P::NAME);
        let resource = engine.open_resource(kind, P::VERSION, spec).await?;
        Ok(Self { engine: engine.clone(), family, resource, epoch, kind: PhantomData })
    }

    /// Opens a resource that is there for reading: nothing is written to the log, and no writer is
    /// fenced. What it is asked to write it refuses.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such resource, [`Error::Incompatible`] if it is something else
    /// than asked for, [`Error::DomainUnavailable`] on a node outside its placement.
    pub async fn open_reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> Result<Self, Error> {
        let family = Self::family(engine)?;
        let resource = engine.find_resource(&ResourceKind::of(P::NAME), name, schema).await?;
        Ok(Self { engine: engine.clone(), family, resource, epoch: None, kind: PhantomData })
    }

    fn family(engine: &Engine) -> Result<FamilyId, Error> {
        // One of the same name is not enough: what another type writes, or another version of it, would
        // halt every replica.
        let kind = engine.registry().find(P::NAME);
        let kind = kind.filter(|kind| kind.projection.of() == TypeId::of::<P>());
        kind.map(|kind| kind.family).ok_or_else(|| Error::Incompatible {
            expected: format!(
                "an engine that was opened with projection={} version={}, of type {}",
                P::NAME,
                P::VERSION,
                type_name::<P>()
            ),
            found: format!("{:?}", engine.registry()),
        })
    }

    /// Does one operation.
    ///
    /// # Errors
    /// [`Error::Refused`] if the projection refuses it: [`Handle::refusal`] reads why. Others as
    /// [`crate::Batch::commit`].
    pub async fn submit(&self, op: &P::Op) -> Result<Done<P::Outcome>, Error> {
        let mut done = self.engine.batch().with(self, op).commit().await?;
        let outcome = done.outcomes.pop().map(|outcome| outcome.of::<P>());
        let outcome = outcome.ok_or_else(|| Error::InternalError {
            what: "an operation was done without an outcome".to_owned(),
        })??;
        Ok(Done { receipt: done.receipt, outcome })
    }

    /// Why the projection has refused an operation.
    #[must_use]
    pub fn refusal(&self, error: &Error) -> Option<P::Refusal> {
        match error {
            Error::Refused { projection, detail, .. } if *projection == P::NAME => {
                P::Refusal::from_bytes(detail).ok()
            }
            _ => None,
        }
    }

    /// What a batch may demand of this resource: see [`crate::Batch::require`].
    pub fn guard(&self, guard: &P::Guard) -> Guard {
        Guard { cluster: self.engine.cluster(), part: self.part(guard) }
    }

    /// Reads the rows of one moment, as fresh as asked. `read` runs on a thread for reads: it may look at
    /// as much as it likes, and nobody's writes wait for it.
    ///
    /// # Errors
    /// [`Error::NotYetApplied`] and others, as the options say; [`Error::InternalError`] for a fault.
    pub async fn read<T: Send + 'static>(
        &self,
        options: impl Into<ReadOptions>,
        read: impl FnOnce(&RowsRead<'_>) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        let (family, resource) = (self.family, self.resource);
        self.engine
            .read(options.into(), move |state, group| {
                read(&RowsRead::new(state, family, group, resource))
            })
            .await
    }

    /// An operation on this resource, or a guard.
    pub(crate) fn part<T: Stored>(&self, what: &T) -> Result<Op, Unproposable> {
        let Some(epoch) = self.epoch else {
            let what = format!("a handle of kind={} was opened for reading alone", P::NAME);
            return Err(Unproposable { what });
        };
        let body = what.to_bytes();
        match T::from_bytes(&body) {
            Ok(_) => Ok(Op { resource: self.resource, epoch, body }),
            Err(error) => Err(Unproposable {
                what: format!("projection={}: what it writes it cannot read, {error}", P::NAME),
            }),
        }
    }
}
