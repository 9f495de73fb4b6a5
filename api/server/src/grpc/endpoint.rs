//! What all services share: the engine, its handles, and how a call begins and ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::OriginalUri;
use bytes::Bytes;
use palisade::{
    Batch, BatchDone, Engine, Error, Freshness, Group, Offset, ReadOptions, Registrant,
};
use palisade_proto::batch::v1 as batch;
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1 as directory;
use palisade_proto::idempotency::v1 as idempotency;
use palisade_proto::log::v1 as log;
use palisade_proto::map::v1 as map;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::access::{Access, Caller, Origin, facts_of, not_allowed};
use super::answers::Room;
use super::connections::Peer;
use super::convert;
use super::deadline;
use super::failure::{invalid, status};
use super::handles::Handles;
use super::own::is_kept;
use super::registrations::Registrations;
use crate::observe::{current_trace, note_place};
use crate::security::audit::{AuditEvent, AuditFacts};
use crate::security::grants::{Right, Rights};

/// What a caller has seen, one token for each group, and what an answer reflects.
pub(crate) const FRESHNESS: &str = "palisade-freshness-bin";
/// Most tokens of one call: one for each group there can be.
const TOKENS_MAX: usize = 65;

/// The services' common ground. Clones share it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) engine: Engine,
    pub(crate) handles: Arc<Handles>,
    access: Arc<Access>,
    registrations: Arc<Mutex<Registrations>>,
}

/// One call: who makes it, how long it may take, and what its caller has seen.
#[derive(Debug)]
pub(crate) struct Call {
    /// Nobody in particular, where nobody is asked.
    caller: Option<Caller>,
    origin: Origin,
    pub(crate) left: Option<Duration>,
    seen: Vec<Freshness>,
    room: Room,
}

/// What a call is about that is of no one resource: who takes part, and how the nodes are.
pub(crate) const CLUSTER: &str = "palisade.cluster";

impl Endpoint {
    pub(crate) fn new(engine: Engine, access: Arc<Access>) -> Self {
        let handles = Arc::new(Handles::new(engine.clone()));
        Self { engine, handles, access, registrations: Arc::default() }
    }

    /// A call, by whom it is, and what is asked with it.
    pub(crate) fn begin<T>(&self, request: Request<T>) -> Result<(Call, T), Status> {
        let peer = request.extensions().get::<Peer>();
        let method = request.extensions().get::<OriginalUri>().map(|method| method.0.clone());
        let origin = Origin { address: peer.map(|peer| peer.address.ip()), method };
        let identity = peer.and_then(|peer| peer.identity.as_ref());
        let room = request.extensions().get::<Room>().cloned().unwrap_or_default();
        let caller = match &*self.access {
            Access::Everyone => None,
            Access::Granted(grants) => {
                Some(grants.caller(&self.engine, identity, &origin, request.metadata())?)
            }
        };
        let call = Call::of(caller, origin, request.metadata()).map_err(refused)?;
        Ok((Call { room, ..call }, request.into_inner()))
    }

    /// Refuses a call of somebody who may do nothing at all here, now and with what he shows.
    pub(crate) fn known(&self, call: &Call) -> Result<(), Status> {
        self.allow_somewhere(call, Rights::ALL)
    }

    /// Refuses a call that is about no resource to whoever has none of these rights with any.
    pub(crate) fn allow_somewhere(&self, call: &Call, rights: Rights) -> Result<(), Status> {
        match (&*self.access, &call.caller) {
            (Access::Everyone, _) => Ok(()),
            (Access::Granted(grants), Some(caller)) => {
                let here = self.engine.domain();
                Ok(grants.allow_somewhere(here, caller, &call.origin, rights)?)
            }
            (Access::Granted(_), None) => Err(Status::unauthenticated("nobody is known to call")),
        }
    }

    /// Refuses a call that may not do this with a resource.
    pub(crate) fn allow(&self, call: &Call, right: Right, resource: &str) -> Result<(), Status> {
        if is_kept(resource) && right != Right::Read {
            let why = "it is written by palisade.access.v1 alone: grant and revoke there";
            if let (Access::Granted(grants), Some(caller)) = (&*self.access, &call.caller) {
                grants.refuse(caller, &call.origin, right, resource, why);
            }
            return Err(not_allowed(why, right, resource).into());
        }
        self.allow_own(call, right, resource)
    }

    /// The same for a resource as a message names it, on behalf of whoever is where it says.
    pub(crate) fn allow_use(
        &self,
        call: &Call,
        right: Right,
        resource: &common::Resource,
    ) -> Result<(), Status> {
        self.allow(call, right, &resource.name)?;
        self.allow_place(call, right, &resource.name, resource.caller.as_ref())
    }

    /// Refuses a call that says to be where it is not known to be.
    pub(crate) fn allow_place(
        &self,
        call: &Call,
        right: Right,
        resource: &str,
        said: Option<&common::Domain>,
    ) -> Result<(), Status> {
        let (Access::Granted(grants), Some(caller), Some(said)) =
            (&*self.access, &call.caller, said)
        else {
            return Ok(());
        };
        let (here, said) = (self.engine.domain(), convert::domain(said));
        Ok(grants.allow_place(here, caller, &call.origin, (right, resource), &said)?)
    }

    /// The same for a call that has the endpoint do something with one of its own resources.
    pub(crate) fn allow_own(
        &self,
        call: &Call,
        right: Right,
        resource: &str,
    ) -> Result<(), Status> {
        match (&*self.access, &call.caller) {
            (Access::Everyone, _) => Ok(()),
            (Access::Granted(grants), Some(caller)) => {
                Ok(grants.allow(&self.engine, caller, &call.origin, right, resource)?)
            }
            (Access::Granted(_), None) => Err(Status::unauthenticated("nobody is known to call")),
        }
    }

    /// Resolves once a call may not do this with a resource any more, for as long as it goes on.
    pub(crate) async fn refused(&self, call: &Call, right: Right, resource: &str) -> Status {
        match (&*self.access, &call.caller) {
            (Access::Everyone, _) => std::future::pending().await,
            (Access::Granted(grants), Some(caller)) => {
                grants.refused(&self.engine, caller, &call.origin, right, resource).await.into()
            }
            (Access::Granted(_), None) => Status::unauthenticated("nobody is known to call"),
        }
    }

    /// Whether a call might do this with a resource: what it might not is left out, and nothing refused.
    pub(crate) fn might(&self, call: &Call, right: Right, resource: &str) -> bool {
        match (&*self.access, &call.caller) {
            (Access::Everyone, _) => true,
            (Access::Granted(grants), Some(caller)) => {
                grants.judge(self.engine.domain(), caller, right, resource).is_ok()
            }
            (Access::Granted(_), None) => false,
        }
    }

    /// How many clients each caller has registered lately.
    pub(super) fn registrations(&self) -> MutexGuard<'_, Registrations> {
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the audit says of who makes a call.
    pub(crate) fn facts(&self, call: &Call, event: AuditEvent) -> AuditFacts {
        facts_of(call.caller.as_ref(), &call.origin, event)
    }

    /// Has something be in the audit, once the log of it takes it.
    pub(crate) fn note(&self, facts: AuditFacts) {
        if let Access::Granted(grants) = &*self.access {
            grants.note(facts);
        }
    }

    /// Waits until this node goes by the grants that were changed there, or a moment.
    pub(crate) async fn follow_grants_up_to(&self, offset: Offset) {
        if let Access::Granted(grants) = &*self.access {
            let _ = grants.follow_up_to(offset).await;
        }
    }
}

impl Call {
    /// Reads what a call says of itself.
    pub(crate) fn of(
        caller: Option<Caller>,
        origin: Origin,
        metadata: &MetadataMap,
    ) -> Result<Self, Error> {
        let mut seen = Vec::new();
        for value in metadata.get_all_bin(FRESHNESS) {
            if seen.len() == TOKENS_MAX {
                return Err(invalid(format!("at most {TOKENS_MAX} tokens in {FRESHNESS}")));
            }
            let token = value.to_bytes().map_err(|_| invalid(format!("{FRESHNESS} is base64")))?;
            seen.push(convert::freshness(&token)?);
        }
        let room = Room::default();
        Ok(Self { caller, origin, left: deadline::of(metadata), seen, room })
    }

    /// How a read of this call is done in a group.
    pub(crate) fn options(
        &self,
        options: Option<common::ReadOptions>,
        group: &Group,
    ) -> Result<ReadOptions, Error> {
        let newest = self.seen.iter().filter(|seen| seen.group == group.id());
        let newest = newest.max_by_key(|seen| seen.offset).copied();
        convert::options(options, newest, self.left)
    }

    /// How a read of this call is done that is of no one group.
    pub(crate) fn options_of_all(
        &self,
        options: Option<common::ReadOptions>,
    ) -> Result<ReadOptions, Error> {
        convert::options(options, None, self.left)
    }

    /// Reads within the time that is left.
    pub(crate) async fn read<T>(
        &self,
        read: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        deadline::within(self.left, false, read).await
    }

    /// Writes within the time that is left.
    pub(crate) async fn write<T>(
        &self,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        deadline::within(self.left, true, write).await
    }

    /// Room for what it is answered with.
    pub(crate) fn room(&self) -> Room {
        self.room.clone()
    }

    /// Who makes it, where that is asked.
    pub(crate) fn principal(&self) -> Option<&str> {
        self.caller.as_ref().and_then(|caller| caller.principal().ok())
    }

    /// Whose commands its numbers are, where it is asked who calls.
    pub(crate) fn registrant(&self) -> Option<Registrant> {
        self.principal().map(Registrant::of)
    }

    /// A batch on behalf of somebody, and as a command if it is one.
    pub(crate) fn batch(
        &self,
        engine: &Engine,
        domain: Option<&common::Domain>,
        command: Option<common::CommandNumber>,
    ) -> Result<Batch, Error> {
        let mut batch = engine.batch();
        if let Some(domain) = domain {
            batch = batch.caller(convert::domain(domain));
        }
        if let Some(number) = number(command)? {
            batch = batch.numbered(number);
        }
        if let Some(trace) = current_trace() {
            batch = batch.traced(trace);
        }
        if let Some(registrant) = self.registrant() {
            batch = batch.registrant(registrant);
        }
        Ok(batch)
    }

    /// Commits a batch.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<BatchDone, Error> {
        self.write(batch.commit()).await
    }
}

/// Which command a write is.
pub(crate) fn number(
    number: Option<common::CommandNumber>,
) -> Result<Option<palisade::CommandNumber>, Error> {
    let Some(number) = number else { return Ok(None) };
    let Freshness { cluster, group, offset } = convert::freshness(&number.client)
        .map_err(|_| invalid("the bytes of field client name no client"))?;
    let client = palisade::ClientId { cluster, group, offset };
    let (seq, acked_up_to) = (number.seq, number.acked_up_to);
    Ok(Some(palisade::CommandNumber { client, seq, acked_up_to }))
}

/// An answer that says what it reflects.
pub(crate) trait Reflects {
    /// The token for whoever wants to see no less.
    fn freshness(&self) -> Option<&Bytes>;
}

macro_rules! reflects {
    ($field:ident: $($message:ty),* $(,)?) => {
        $(impl Reflects for $message {
            fn freshness(&self) -> Option<&Bytes> {
                self.$field.as_ref().map(|it| &it.freshness)
            }
        })*
    };
}

reflects! { receipt:
    log::AppendResponse, log::SetRetentionResponse, log::TrimResponse, log::SetConsumerResponse,
    map::PutResponse, map::DeleteResponse, map::SetHistoryResponse,
    idempotency::ReserveResponse, idempotency::CompleteResponse, idempotency::SetWindowResponse,
    batch::CommitResponse, directory::AlterResponse,
}

reflects! { reflected:
    log::ScanResponse, log::GetBoundsResponse, log::GetConsumerResponse,
    map::GetResponse, map::RangeResponse, map::GetBoundsResponse,
    idempotency::GetStatusResponse, directory::DescribeResponse,
}

impl Endpoint {
    /// Does a call on resources, and answers it with what the answer reflects beside it, for callers that keep
    /// that by themselves.
    pub(crate) async fn serve<A: Reflects, F: Future<Output = Result<A, Error>>>(
        &self,
        call: &Call,
        right: Right,
        resources: &[common::Resource],
        is_numbered: bool,
        work: impl Fn() -> F,
    ) -> Result<Response<A>, Status> {
        for resource in resources {
            self.allow_use(call, right, resource)?;
        }
        let message = self.handles.afresh(resources, is_numbered, work).await.map_err(refused)?;
        note_place(|| convert::freshness(message.freshness()?).ok());
        let token = message.freshness().map(|token| MetadataValue::from_bytes(token));
        let mut response = Response::new(message);
        if let Some(token) = token {
            response.metadata_mut().insert_bin(FRESHNESS, token);
        }
        Ok(response)
    }
}

/// The status of a call that failed.
pub(crate) fn refused(error: Error) -> Status {
    match &error {
        Error::InternalError { what } => tracing::error!(%what, "a call was answered with"),
        error => tracing::debug!(%error, "a call was answered with"),
    }
    status(error)
}
