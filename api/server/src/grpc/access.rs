//! Who calls, and whether it is granted: asked before anything is done. What is not granted is refused.
//!
//! Grants are rows of the replicated map `palisade.access`, so they are in the order of the log and every node
//! comes to the same. A node keeps them in memory and follows the map; until it has read it once, only those
//! are served whom its own configuration names as administrators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use palisade::{
    Engine, Error, MapChange, MapRange, ReadConsistency, ReplicatedMap, WatchEvent, WatchOptions,
};
use palisade_proto::failure::{Code, Disposition, Failure, kind};
use tokio::time::sleep;
use tonic::metadata::MetadataMap;

use super::own::own_spec;
use crate::security::grants::{
    ACCESS_MAP, Ask, Grant, Refusal, Right, decide, decode_row, granted_to,
};
use crate::security::identity::Identity;
use crate::security::now_ms;
use crate::security::token::{Bearer, Token, TokenKeys};

/// Between two attempts to follow the grants.
const PAUSE: Duration = Duration::from_millis(500);

const SCHEMA: &str = "palisade.grants.v1";

/// Whom a node serves.
#[derive(Debug)]
pub(crate) enum Access {
    /// Everything: the node serves this machine alone, and was told not to ask.
    Everyone,
    /// What was granted.
    Granted(Grants),
}

/// The grants of a cluster, as this node has them.
#[derive(Debug)]
pub(crate) struct Grants {
    admins: BTreeSet<String>,
    keys: Option<TokenKeys>,
    /// None before they were read once.
    rows: Mutex<Option<BTreeMap<String, Vec<Grant>>>>,
}

/// Who makes a call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    identity: Identity,
    bearer: Option<Bearer>,
}

impl Caller {
    /// Whose grants it has.
    fn principal(&self) -> Result<&str, Refusal> {
        match &self.bearer {
            Some(bearer) => Ok(bearer.principal()),
            None => granted_to(&self.identity),
        }
    }
}

type Map = ReplicatedMap<String, Vec<u8>>;

fn refused(why: &str, kind: &str) -> Failure {
    let help =
        "call with a certificate or token that may do this, or ask an administrator for a grant";
    Failure::new(Code::Revoked, kind, Disposition::Reject, why, help)
}

impl Grants {
    /// Nobody but the administrators, until the grants were read.
    pub(crate) fn new(admins: BTreeSet<String>, keys: Option<TokenKeys>) -> Self {
        Self { admins, keys, rows: Mutex::default() }
    }

    /// Who makes a call, from the certificate of its connection and the token that it has with it.
    pub(crate) fn caller(
        &self,
        engine: &Engine,
        identity: Option<&Identity>,
        metadata: &MetadataMap,
    ) -> Result<Caller, Failure> {
        let not_known = |why: &str| refused(why, kind::NOT_AUTHENTICATED);
        let identity = identity.ok_or_else(|| not_known("the connection shows no certificate"))?;
        let Some(value) = metadata.get("authorization") else {
            return Ok(Caller { identity: identity.clone(), bearer: None });
        };
        // A token that is not understood is never passed over: it may be there to narrow.
        let text = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let text = text.ok_or_else(|| not_known("authorization is `Bearer` and a token"))?;
        let keys = self.keys.as_ref();
        let keys = keys.ok_or_else(|| not_known("this node has no keys to know tokens by"))?;
        let token = Token::parse(text).and_then(|token| keys.verify(engine.cluster(), &token));
        let bearer = token.map_err(|why| not_known(&why.to_string()))?;
        Ok(Caller { identity: identity.clone(), bearer: Some(bearer) })
    }

    /// Whether anything at all is granted to a caller.
    pub(crate) fn known(&self, caller: &Caller) -> Result<(), Failure> {
        let known = caller.principal().is_ok_and(|principal| {
            let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            self.admins.contains(principal)
                || rows.as_ref().is_some_and(|rows| rows.contains_key(principal))
        });
        let not_granted = || refused("nothing is granted to who calls", kind::NOT_ALLOWED);
        if known { Ok(()) } else { Err(not_granted()) }
    }

    /// Whether a caller may do this with a resource.
    pub(crate) fn allow(
        &self,
        engine: &Engine,
        caller: &Caller,
        right: Right,
        resource: &str,
    ) -> Result<(), Failure> {
        let ask = Ask {
            resource,
            right,
            domain: engine.domain(),
            now_ms: now_ms(),
            certificate: caller.identity.fingerprint(),
        };
        let caveats = caller.bearer.as_ref().map_or(&[][..], Bearer::caveats);
        let judged = caller.principal().and_then(|principal| {
            if self.admins.contains(principal) {
                return decide(&Grant::everything(), caveats, &ask);
            }
            let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            let granted = rows.as_ref().and_then(|rows| rows.get(principal));
            decide(granted.map_or(&[][..], Vec::as_slice), caveats, &ask)
        });
        judged.map_err(|refusal| {
            let told = refused(&refusal.to_string(), kind::NOT_ALLOWED);
            told.fact("resource", resource).fact("right", format!("{right:?}"))
        })
    }

    /// Follows the map of grants for as long as it runs.
    pub(crate) async fn follow(&self, engine: &Engine) -> Result<(), Error> {
        loop {
            if let Err(error) = self.follow_once(engine).await {
                tracing::debug!(%error, "the grants are read again");
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends with an error alone: the grants have no end.
    async fn follow_once(&self, engine: &Engine) -> Result<(), Error> {
        let map = Map::open(engine, own_spec(engine, ACCESS_MAP, SCHEMA).await?).await?;
        let (mut rows, mut range) = (BTreeMap::new(), Some(MapRange::all()));
        let mut at = None;
        while let Some(next) = range {
            let read = match at {
                None => map.range(next, ReadConsistency::Linearizable).await?,
                Some(offset) => map.at(offset).range(next, ReadConsistency::Local).await?,
            };
            at.get_or_insert(read.freshness.offset);
            for (principal, row) in read.value.rows {
                rows.insert(principal, granted(&row.value));
            }
            range = read.value.next;
        }
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
        let from = at.unwrap_or(palisade::Offset::ZERO);
        let mut watch = map.watch(from, WatchOptions::default());
        loop {
            if let WatchEvent::Changes { changes, .. } = watch.next().await? {
                self.change(changes);
            }
        }
    }

    fn change(&self, changes: Vec<MapChange<String, Vec<u8>>>) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = rows.get_or_insert_default();
        for change in changes {
            match change.now {
                Some(now) => rows.insert(change.key, granted(&now.value)),
                None => rows.remove(&change.key),
            };
        }
    }
}

/// What a row grants: nothing, if it cannot be read.
fn granted(row: &[u8]) -> Vec<Grant> {
    decode_row(row).unwrap_or_else(|error| {
        tracing::error!(%error, "a row of grants cannot be read: it grants nothing");
        Vec::new()
    })
}
