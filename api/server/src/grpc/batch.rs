//! `palisade.batch.v1.Batch`.

use palisade::{BATCH_OPS_MAX, Batch, Branch, Error, Guard, LogTime, OpOutcome};
use palisade_proto::batch::v1 as proto;
use palisade_proto::batch::v1::batch_server::Batch as Service;
use palisade_proto::common::v1::Resource;
use tonic::{Request, Response, Status};

use super::convert::{self, Raw, epoch, fingerprint, needed, of_position, position, version};
use super::endpoint::{Call, Endpoint};
use super::failure::invalid;
use super::handles::{Log, Map, Store, Use};
use super::log::append_to;
use super::map::{put_in, putting};
use crate::security::grants::Right;

/// What an operation names.
fn of_operation(operation: &proto::Operation) -> Option<&Resource> {
    use proto::operation::Operation;
    match operation.operation.as_ref()? {
        Operation::Append(append) => append.log.as_ref(),
        Operation::Put(put) => put.map.as_ref(),
        Operation::Delete(delete) => delete.map.as_ref(),
        Operation::Reserve(reserve) => reserve.store.as_ref(),
        Operation::Complete(complete) => complete.store.as_ref(),
    }
}

/// What a guard names.
fn of_guard(guard: &proto::Guard) -> Option<&Resource> {
    use proto::guard::Guard;
    match guard.guard.as_ref()? {
        Guard::VersionIs(guard) => guard.map.as_ref(),
        Guard::TailIs(guard) => guard.log.as_ref(),
        Guard::IsCompleted(guard) => guard.store.as_ref(),
    }
}

fn named(asked: &proto::CommitRequest) -> Vec<Resource> {
    let operations = asked.then.iter().chain(&asked.otherwise).filter_map(of_operation);
    asked.guards.iter().filter_map(of_guard).chain(operations).cloned().collect()
}

/// What is wrong with a batch before anything that it names is looked at.
pub(crate) fn bounded(asked: &proto::CommitRequest) -> Result<(), Error> {
    let most = asked.guards.len().max(asked.then.len()).max(asked.otherwise.len());
    if most > BATCH_OPS_MAX {
        let what = format!("a batch has at most {BATCH_OPS_MAX} operations, and as many guards");
        return Err(invalid(what));
    }
    if named(asked).iter().any(|resource| resource.caller.is_some()) {
        return Err(invalid("a batch has one caller: name it beside the operations"));
    }
    Ok(())
}

impl Endpoint {
    async fn guard(&self, guard: &proto::Guard) -> Result<Guard, Error> {
        use proto::guard::Guard;
        Ok(match needed(guard.guard.as_ref(), "guard")? {
            Guard::VersionIs(guard) => {
                let map: Map = self.handles.open(guard.map.as_ref(), "map", Use::Write).await?;
                map.version_is(&guard.key, version(guard.version))
            }
            Guard::TailIs(guard) => {
                let log: Log = self.handles.open(guard.log.as_ref(), "log", Use::Write).await?;
                log.tail_is(position(needed(guard.tail.as_ref(), "tail")?)?)
            }
            Guard::IsCompleted(guard) => {
                let store: Store =
                    self.handles.open(guard.store.as_ref(), "store", Use::Write).await?;
                store.completed(&guard.key)
            }
        })
    }

    async fn operation(&self, batch: Batch, asked: &proto::Operation) -> Result<Batch, Error> {
        use proto::operation::Operation;
        Ok(match needed(asked.operation.as_ref(), "operation")? {
            Operation::Append(append) => {
                let log: Log = self.handles.open(append.log.as_ref(), "log", Use::Write).await?;
                append_to(batch, &log, &append.values, append.expected_tail.as_ref())?
            }
            Operation::Put(put) => {
                let map: Map = self.handles.open(put.map.as_ref(), "map", Use::Write).await?;
                let rule = putting(put.expected_version, put.ttl_ms)?;
                put_in(batch, &map, &put.key, &Raw::new(put.value.clone()), rule)
            }
            Operation::Delete(delete) => {
                let map: Map = self.handles.open(delete.map.as_ref(), "map", Use::Write).await?;
                match delete.expected_version {
                    None => batch.delete(&map, &delete.key),
                    Some(expected) => batch.delete_if(&map, &delete.key, version(expected)),
                }
            }
            Operation::Reserve(reserve) => {
                let store: Store =
                    self.handles.open(reserve.store.as_ref(), "store", Use::Write).await?;
                let fingerprint = fingerprint(&reserve.fingerprint)?;
                let (key, owner) = (&reserve.key, epoch(reserve.owner_epoch));
                match reserve.issued_ms {
                    None => batch.reserve(&store, key, fingerprint, owner),
                    Some(issued) => {
                        let issued = LogTime::new(issued);
                        batch.reserve_issued(&store, key, fingerprint, owner, issued)
                    }
                }
            }
            Operation::Complete(complete) => {
                let store: Store =
                    self.handles.open(complete.store.as_ref(), "store", Use::Write).await?;
                let owner = epoch(complete.owner_epoch);
                batch.complete(&store, &complete.key, owner, complete.result.clone())
            }
        })
    }

    async fn commit(
        &self,
        call: &Call,
        asked: &proto::CommitRequest,
    ) -> Result<proto::CommitResponse, Error> {
        bounded(asked)?;
        let mut batch = call.batch(&self.engine, asked.caller.as_ref(), asked.number.clone())?;
        for guard in &asked.guards {
            batch = batch.require(self.guard(guard).await?);
        }
        for operation in &asked.then {
            batch = self.operation(batch, operation).await?;
        }
        if !asked.otherwise.is_empty() {
            batch = batch.otherwise();
            for operation in &asked.otherwise {
                batch = self.operation(batch, operation).await?;
            }
        }
        let done = call.commit(batch).await?;
        let branch = match done.branch {
            None => proto::Branch::Unspecified,
            Some(Branch::Then) => proto::Branch::Then,
            Some(Branch::Otherwise) => proto::Branch::Otherwise,
        };
        Ok(proto::CommitResponse {
            receipt: Some(convert::receipt(done.receipt)),
            branch: branch.into(),
            outcomes: done.outcomes.iter().map(outcome).collect(),
        })
    }
}

fn outcome(outcome: &OpOutcome) -> proto::Outcome {
    use proto::outcome::Outcome;
    let told = match (outcome.appended(), outcome.replaced()) {
        (Some(first), _) => Outcome::Appended(of_position(first)),
        (_, Some(replaced)) => Outcome::Replaced(replaced.offset().get()),
        _ => Outcome::Done(proto::Done {}),
    };
    proto::Outcome { outcome: Some(told) }
}

#[tonic::async_trait]
impl Service for Endpoint {
    async fn commit(
        &self,
        request: Request<proto::CommitRequest>,
    ) -> Result<Response<proto::CommitResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        let named = named(&asked);
        for resource in &named {
            self.allow_place(&call, Right::Append, &resource.name, asked.caller.as_ref())?;
        }
        self.serve(&call, Right::Append, &named, asked.number.is_some(), || {
            self.commit(&call, &asked)
        })
        .await
    }
}
