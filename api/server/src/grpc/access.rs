//! Who calls, and whether it is granted: asked before anything is done. What is not granted is refused.
//!
//! Grants are rows of the replicated map `palisade.access`, so they are in the order of the log and every node
//! comes to the same. A node keeps them in memory and follows the map; until it has read it once, and again when it
//! has not heard from a quorum for too long, only those are served whom its own configuration names as
//! administrators.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Uri;
use palisade::{
    Engine, Error, FailureDomain, MapChange, MapRange, Offset, ReadConsistency, WatchEvent,
    WatchOptions,
};
use palisade_proto::failure::{Code, Disposition, Failure, kind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;

use super::own::{AccessMap, access_map};
use crate::security::audit::{AuditEvent, AuditFacts, AuditQueue};
use crate::security::grants::{
    Ask, Grant, Refusal, Right, Rights, decide, decide_place, decide_somewhere, decode_row,
    granted_to,
};
use crate::security::identity::Identity;
use crate::security::now_ms;
use crate::security::token::{Bearer, Caveat, LiveKeys, Token};

/// Between two attempts to follow the grants.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two looks whether the grants are as they were, at most; four of them to the age that they may have.
const CONFIRM_EVERY_MAX: Duration = Duration::from_secs(5);
/// How long a stream goes on before it is judged again, if nothing is granted or revoked meanwhile.
const JUDGE_EVERY: Duration = Duration::from_secs(5);
/// Between two words of how far the grants are followed, at most.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Before it is tried again to confirm them.
const CONFIRM_RETRY: Duration = Duration::from_millis(500);
/// How long it is waited for this node to go by the grants as they were at a place.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

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
    keys: Option<Arc<LiveKeys>>,
    /// How old the grants may be that somebody is served by.
    age_max: Duration,
    known: Mutex<Known>,
    /// Up to where the map was followed.
    followed: watch::Sender<Offset>,
    audit: Arc<AuditQueue>,
}

/// What a node has read of the grants.
#[derive(Debug, Default)]
struct Known {
    /// None before they were read once.
    rows: Option<BTreeMap<String, Vec<Grant>>>,
    /// Everything that a quorum had committed by then is in them.
    as_of: Option<Instant>,
}

impl Known {
    fn of(&self, principal: &str) -> &[Grant] {
        let granted = self.rows.as_ref().and_then(|rows| rows.get(principal));
        granted.map_or(&[][..], Vec::as_slice)
    }
}

/// Where a call comes from, and what it calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) address: Option<IpAddr>,
    pub(crate) method: Option<Uri>,
}

impl Origin {
    fn facts(&self, event: AuditEvent) -> AuditFacts {
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        let method = self.method.as_ref().map(|uri| uri.path().to_owned()).unwrap_or_default();
        AuditFacts { address, method, ..AuditFacts::of(event) }
    }
}

/// Who makes a call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    identity: Identity,
    bearer: Option<Bearer>,
    /// The one that it is the bearer of, to be known again by the keys that there are then.
    token: Option<Token>,
}

impl Caller {
    /// Whose grants it has.
    pub(crate) fn principal(&self) -> Result<&str, Refusal> {
        match &self.bearer {
            Some(bearer) => Ok(bearer.principal()),
            None => granted_to(&self.identity),
        }
    }

    /// When what it has begun is judged again, if nothing is granted or revoked meanwhile.
    fn judged_again_in(&self, now_ms: u64) -> Duration {
        let left = self.bearer.as_ref().map(|bearer| bearer.left(now_ms));
        left.map_or(JUDGE_EVERY, |left| left.min(JUDGE_EVERY))
    }

    /// What it asks for now, of a node that is there.
    fn ask<'a>(&'a self, domain: &'a FailureDomain, right: Right, resource: &'a str) -> Ask<'a> {
        let certificate = self.identity.fingerprint();
        Ask { resource, right, domain, now_ms: now_ms(), certificate }
    }

    /// Whose grants it has, as the audit names them, and with which token.
    fn facts(&self, origin: &Origin, event: AuditEvent) -> AuditFacts {
        let who = self.principal().unwrap_or_default().to_owned();
        let token = self.bearer.as_ref().map(|bearer| u128::from_be_bytes(*bearer.identifier()));
        let token = token.map(|token| format!("{token:032x}")).unwrap_or_default();
        AuditFacts { who, token, ..origin.facts(event) }
    }
}

/// What the audit says of who does something, where it is asked who that is.
pub(crate) fn facts_of(caller: Option<&Caller>, origin: &Origin, event: AuditEvent) -> AuditFacts {
    caller.map_or_else(|| origin.facts(event), |caller| caller.facts(origin, event))
}

pub(crate) fn refused(why: &str, kind: &str) -> Failure {
    let help =
        "call with a certificate or token that may do this, or ask an administrator for a grant";
    Failure::new(Code::Revoked, kind, Disposition::Reject, why, help)
}

impl Grants {
    /// Nobody but the administrators, until the grants were read.
    pub(crate) fn new(
        admins: BTreeSet<String>,
        keys: Option<Arc<LiveKeys>>,
        age_max: Duration,
        audit: Arc<AuditQueue>,
    ) -> Self {
        let followed = watch::Sender::new(Offset::ZERO);
        Self { admins, keys, age_max, known: Mutex::default(), followed, audit }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who makes a call, from the certificate of its connection and the token that it has with it.
    pub(crate) fn caller(
        &self,
        engine: &Engine,
        identity: Option<&Identity>,
        origin: &Origin,
        metadata: &MetadataMap,
    ) -> Result<Caller, Failure> {
        let not_known = |event, why: &str| {
            let who = identity.and_then(Identity::client).unwrap_or_default().to_owned();
            let facts = AuditFacts { who, why: why.to_owned(), ..origin.facts(event) };
            self.audit.note(facts, now_ms());
            refused(why, kind::NOT_AUTHENTICATED)
        };
        let Some(identity) = identity else {
            let why = "the connection shows no certificate";
            return Err(not_known(AuditEvent::NotAuthenticated, why));
        };
        let Some(value) = metadata.get("authorization") else {
            return Ok(Caller { identity: identity.clone(), bearer: None, token: None });
        };
        let not_taken = |why: &str| not_known(AuditEvent::TokenRefused, why);
        // A token that is not understood is never passed over: it may be there to narrow.
        let text = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let text = text.ok_or_else(|| not_taken("authorization is `Bearer` and a token"))?;
        let keys = self.keys.as_ref();
        let keys = keys.ok_or_else(|| not_taken("this node has no keys to know tokens by"))?.keys();
        let token = Token::parse(text).map_err(|why| not_taken(&why.to_string()))?;
        let bearer = keys.verify(engine.cluster(), &token, now_ms());
        let bearer = bearer.map_err(|why| not_taken(&why.to_string()))?;
        Ok(Caller { identity: identity.clone(), bearer: Some(bearer), token: Some(token) })
    }

    /// Whether the token that a call was begun with would be taken now. That it would not is in the audit.
    fn still_taken(
        &self,
        engine: &Engine,
        caller: &Caller,
        origin: &Origin,
    ) -> Result<(), Failure> {
        let (Some(token), Some(keys)) = (&caller.token, &self.keys) else { return Ok(()) };
        let judged = keys.keys().verify(engine.cluster(), token, now_ms());
        judged.map(|_| ()).map_err(|why| {
            let why = why.to_string();
            let facts = caller.facts(origin, AuditEvent::TokenRefused);
            self.audit.note(AuditFacts { why: why.clone(), ..facts }, now_ms());
            refused(&why, kind::NOT_AUTHENTICATED)
        })
    }

    /// Resolves once a caller may not do this any more: when that was revoked, when the token is over or its key
    /// is gone, and when this node cannot know.
    pub(crate) async fn refused(
        &self,
        engine: &Engine,
        caller: &Caller,
        origin: &Origin,
        right: Right,
        resource: &str,
    ) -> Failure {
        let mut followed = self.followed.subscribe();
        loop {
            let judged = self.still_taken(engine, caller, origin);
            if let Err(failure) =
                judged.and_then(|()| self.allow(engine, caller, origin, right, resource))
            {
                return failure;
            }
            tokio::select! {
                () = sleep(caller.judged_again_in(now_ms())) => {}
                // The sender is in what is held here, so that it is never the end of it.
                _ = followed.changed() => {}
            }
        }
    }

    /// Nobody is refused for good by a node that has not read the grants yet, or served by what it read long ago.
    fn knows(&self, caller: &Caller, now: Instant) -> Result<(), Failure> {
        if caller.principal().is_ok_and(|principal| self.admins.contains(principal)) {
            return Ok(());
        }
        let why = match self.known().as_of {
            Some(as_of) if now.saturating_duration_since(as_of) <= self.age_max => return Ok(()),
            Some(_) => "this node has not heard for too long whether the grants are as they were",
            None => "this node has not read the grants since it was started",
        };
        let help = "nothing happened; call again in a moment, or another node";
        Err(Failure::new(Code::Disconnected, "DISCONNECTED", Disposition::Retry, why, help))
    }

    /// Whether a caller may use one of these rights with any resource at all. That it may not is in the audit.
    pub(crate) fn allow_somewhere(
        &self,
        domain: &FailureDomain,
        caller: &Caller,
        origin: &Origin,
        rights: Rights,
    ) -> Result<(), Failure> {
        self.knows(caller, Instant::now())?;
        let judged = self.with_grants(caller, |grants, caveats| {
            decide_somewhere(grants, caveats, rights, &caller.ask(domain, Right::Read, ""))
        });
        judged.map_err(|refusal| {
            let (why, right) = (refusal.to_string(), rights.to_string());
            let facts = caller.facts(origin, AuditEvent::NotAllowed);
            self.audit.note(AuditFacts { right, why: why.clone(), ..facts }, now_ms());
            refused(&why, kind::NOT_ALLOWED).fact("right", rights)
        })
    }

    /// Whether a caller may do this with a resource. That it may not is in the audit.
    pub(crate) fn allow(
        &self,
        engine: &Engine,
        caller: &Caller,
        origin: &Origin,
        right: Right,
        resource: &str,
    ) -> Result<(), Failure> {
        self.knows(caller, Instant::now())?;
        let judged = self.judge(engine.domain(), caller, right, resource);
        if let Err(refusal) = judged {
            self.refuse(caller, origin, right, resource, &refusal.to_string());
        }
        judged.map_err(|refusal| not_allowed(&refusal.to_string(), right, resource))
    }

    /// Whether a caller is where a message says that it is. That nothing says so is in the audit.
    pub(crate) fn allow_place(
        &self,
        domain: &FailureDomain,
        caller: &Caller,
        origin: &Origin,
        (right, resource): (Right, &str),
        said: &FailureDomain,
    ) -> Result<(), Failure> {
        self.knows(caller, Instant::now())?;
        let ask = caller.ask(domain, right, resource);
        let judged =
            self.with_grants(caller, |grants, caveats| decide_place(grants, caveats, &ask, said));
        judged.map_err(|refusal| {
            self.refuse(caller, origin, right, resource, &refusal.to_string());
            not_allowed(&refusal.to_string(), right, resource).fact("domain", said)
        })
    }

    /// Whether a caller might do this with a resource, where nothing is refused if not.
    pub(crate) fn judge(
        &self,
        domain: &FailureDomain,
        caller: &Caller,
        right: Right,
        resource: &str,
    ) -> Result<(), Refusal> {
        let ask = caller.ask(domain, right, resource);
        self.with_grants(caller, |grants, caveats| decide(grants, caveats, &ask))
    }

    /// Judges by what is granted to a caller, and by the caveats of its token.
    fn with_grants(
        &self,
        caller: &Caller,
        judge: impl FnOnce(&[Grant], &[Caveat]) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let caveats = caller.bearer.as_ref().map_or(&[][..], Bearer::caveats);
        let principal = caller.principal()?;
        if self.admins.contains(principal) {
            return judge(&Grant::everything(), caveats);
        }
        judge(self.known().of(principal), caveats)
    }

    /// Writes down what a caller does.
    pub(crate) fn note(&self, facts: AuditFacts) {
        self.audit.note(facts, now_ms());
    }

    /// Writes down what a caller may not do.
    pub(crate) fn refuse(
        &self,
        caller: &Caller,
        origin: &Origin,
        right: Right,
        resource: &str,
        why: &str,
    ) {
        let facts = AuditFacts {
            resource: resource.to_owned(),
            right: right.to_string(),
            why: why.to_owned(),
            ..caller.facts(origin, AuditEvent::NotAllowed)
        };
        self.audit.note(facts, now_ms());
    }

    /// Waits until this node goes by what was changed there, or a moment. Says whether it does.
    pub(crate) async fn follow_up_to(&self, offset: Offset) -> bool {
        let mut followed = self.followed.subscribe();
        let done = timeout(FOLLOW_TIMEOUT, followed.wait_for(|followed| offset <= *followed)).await;
        matches!(done, Ok(Ok(_)))
    }

    /// Follows the map of grants for as long as it runs.
    pub(crate) async fn follow(&self, engine: &Engine) -> Result<(), Error> {
        loop {
            if let Err(error) = self.follow_once(engine).await {
                tracing::warn!(%error, "the grants are read again");
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends with an error alone: the grants have no end.
    async fn follow_once(&self, engine: &Engine) -> Result<(), Error> {
        let map = access_map(engine).await?;
        let begun = Instant::now();
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
        *self.known() = Known { rows: Some(rows), as_of: Some(begun) };
        let from = at.unwrap_or(Offset::ZERO);
        // Well within the time that is waited for it.
        let progress = PROGRESS_EVERY.min(self.confirm_every() / 2);
        let options = WatchOptions { progress, ..Default::default() };
        let mut watch = map.watch(from, options);
        let changes = async {
            loop {
                self.followed.send_replace(watch.position());
                if let WatchEvent::Changes { changes, .. } = watch.next().await? {
                    self.change(changes);
                }
            }
        };
        tokio::select! {
            failed = changes => failed,
            never = self.confirm(&map) => match never {},
        }
    }

    fn confirm_every(&self) -> Duration {
        (self.age_max / 4).min(CONFIRM_EVERY_MAX)
    }

    /// Finds out again and again how far the map of grants is by a quorum. What was followed up to there was so
    /// when it was asked.
    async fn confirm(&self, map: &AccessMap) -> Infallible {
        let mut pause = self.confirm_every();
        loop {
            sleep(pause).await;
            pause = CONFIRM_RETRY.min(self.confirm_every());
            let begun = Instant::now();
            let asked = map.bounds(ReadConsistency::Linearizable);
            let told = timeout(self.age_max / 4, asked).await;
            match told.unwrap_or(Err(Error::Disconnected { outcome_unknown: false })) {
                Ok(read) if self.follow_up_to(read.freshness.offset).await => {
                    self.known().as_of = Some(begun);
                    pause = self.confirm_every();
                }
                Ok(_) => tracing::debug!("the grants are not followed as far as they are"),
                Err(error) => tracing::debug!(%error, "how far the grants are is not known"),
            }
        }
    }

    fn change(&self, changes: Vec<MapChange<String, Vec<u8>>>) {
        let mut known = self.known();
        let rows = known.rows.get_or_insert_default();
        for change in changes {
            match change.now {
                Some(now) => rows.insert(change.key, granted(&now.value)),
                None => rows.remove(&change.key),
            };
        }
    }
}

/// A call that may not be made.
pub(crate) fn not_allowed(why: &str, right: Right, resource: &str) -> Failure {
    let told = refused(why, kind::NOT_ALLOWED);
    told.fact("resource", resource).fact("right", right)
}

/// What a row grants: nothing, if it cannot be read.
fn granted(row: &[u8]) -> Vec<Grant> {
    decode_row(row).unwrap_or_else(|error| {
        tracing::error!(%error, "a row of grants cannot be read: it grants nothing");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use palisade::{ClusterId, Version, Versioned};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::security::ca::{Ca, LeafOrder};
    use crate::security::grants::encode_row;
    use crate::security::token::TokenKeys;

    fn caller(ca: &Ca, name: &str) -> Caller {
        let subject = ca.client(name).unwrap();
        let order = LeafOrder { subject, dns: Vec::new(), ips: Vec::new(), hours: 1 };
        let leaf = ca.issue(&order).unwrap().certificate_pem;
        let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
        let identity = Identity::of_chain(ca.cluster(), &[leaf]).unwrap();
        Caller { identity, bearer: None, token: None }
    }

    /// A stream is judged again when its token ends, and not only at the next look.
    #[test]
    fn the_end_of_a_token_is_when_a_stream_is_judged_again() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::init(&dir.path().join("ca"), ClusterId::new(1)).unwrap();
        let plain = caller(&ca, "reports");
        assert_eq!(plain.judged_again_in(1_000), JUDGE_EVERY);
        let path = dir.path().join("tokens.keys");
        TokenKeys::add_to(&path).unwrap();
        let keys = TokenKeys::read(&path).unwrap();
        let now = now_ms();
        let token = Token::mint(&keys, ca.cluster(), "reports", now, Duration::from_secs(60));
        let token = token.unwrap().narrowed(&Caveat::NotAfter { ms: now + 3_000 }).unwrap();
        let bearer = keys.verify(ca.cluster(), &token, now).unwrap();
        let bearing = Caller { bearer: Some(bearer), ..plain };
        assert_eq!(bearing.judged_again_in(now), Duration::from_millis(3_001));
        assert_eq!(bearing.judged_again_in(now + 2_999), Duration::from_millis(2));
        assert_eq!(bearing.judged_again_in(now + 9_000), Duration::from_millis(1));
    }

    /// Before a node has read the grants it serves those alone whom its own configuration names, and a row
    /// that it cannot read grants nothing.
    #[test]
    fn nothing_is_granted_before_the_grants_were_read() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::init(&dir.path().join("ca"), ClusterId::new(1)).unwrap();
        let (ops, reports) = (caller(&ca, "ops"), caller(&ca, "reports"));
        let audit = Arc::new(AuditQueue::default());
        let age_max = Duration::from_secs(30);
        let grants = Grants::new(["ops".to_owned()].into(), None, age_max, Arc::clone(&audit));
        let here = FailureDomain::new("local", "local", "local");
        let judge = |caller: &Caller| grants.judge(&here, caller, Right::Read, "orders");
        assert_eq!(judge(&ops), Ok(()));
        assert_eq!(judge(&reports), Err(Refusal::NotGranted));
        let origin = Origin::default();
        let known = |caller: &Caller| grants.allow_somewhere(&here, caller, &origin, Rights::ALL);
        known(&ops).unwrap();
        let later = known(&reports).unwrap_err();
        assert_eq!(later.disposition, Disposition::Retry, "it may have been granted something");
        assert_eq!(audit.take(1).len(), 0, "nobody was refused");

        let row = |value: Vec<u8>| MapChange {
            key: "reports".to_owned(),
            now: Some(Versioned { value, version: Version::ABSENT, ends_at: None }),
            before: None,
            ended: false,
        };
        grants.change(vec![row(encode_row(&Grant::everything()).unwrap())]);
        assert_eq!(judge(&reports), Ok(()));
        grants.change(vec![row(vec![9])]);
        assert_eq!(judge(&reports), Err(Refusal::NotGranted));
        grants.known().as_of = Some(Instant::now());
        let others = caller(&ca, "others");
        assert!(known(&others).is_err());
        assert_eq!(audit.take(1).len(), 1, "and it is written down");
        // What was so a while ago is nothing to refuse anybody by, or to serve.
        let as_of = grants.known().as_of.unwrap();
        assert!(grants.knows(&others, as_of + age_max).is_ok());
        let late = as_of + age_max + Duration::from_millis(1);
        assert_eq!(grants.knows(&others, late).unwrap_err().disposition, Disposition::Retry);
        assert!(grants.knows(&ops, late).is_ok(), "his right is in the node's own configuration");
    }
}
