//! The client: its connections, and how a call is made over them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade::tls::Credentials;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::cluster::v1::GetStatusRequest;
use palisade_proto::cluster::v1::cluster_client::ClusterClient;
use palisade_proto::failure::{Code, Disposition};
use palisade_proto::session::v1::RegisterRequest;
use palisade_proto::session::v1::session_client::SessionClient;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::codegen::http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::access::Access;
use crate::batch::Batch;
use crate::cluster::Cluster;
use crate::directory::Directory;
use crate::error::Error;
use crate::idempotency::Requests;
use crate::log::Log;
use crate::map::Map;
use crate::numbers::Numbers;
use crate::resource::{Consistency, Named, Numbered};
use crate::retry::{self, Kind};
use crate::route::{Routes, Target};
use crate::seen::Seen;
use crate::stored::{Key, Stored};
use crate::tls::{Connector, NodeTls};

/// How long a call is tried if nothing is said.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may take before another node is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which nothing moves is asked whether anybody is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long a group remembers a client that writes nothing.
const CLIENT_TTL: Duration = Duration::from_secs(3600);
/// Requests that are under way, in KiB, if nothing is said.
const IN_FLIGHT_KIB: u32 = 16 << 10;
/// Endpoints that are spoken to with certificates begin so.
const SECURE: &str = "https://";
/// Resources whose groups are kept in mind.
const GROUPS_MAX: usize = 4096;

/// What a client is told before it connects.
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    call_timeout: Duration,
    in_flight_kib: u32,
    token: Option<String>,
    authority: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Never the token or the key.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("endpoints", &self.endpoints)
            .field("has_token", &self.token.is_some())
            .field("has_identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

/// Whether the endpoint is on this machine.
fn is_local(endpoint: &Endpoint) -> bool {
    let host = endpoint.uri().host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl ClientBuilder {
    /// A node, as `https://host:port`, or `http://` for one that was told to do without certificates. Name
    /// several: if one does not serve, the next is asked.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// How long a call is tried, with all its repetitions. 10 seconds if never said.
    pub fn call_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// Bytes of requests that are under way at once, in KiB; more of them wait. 16 MiB if never said.
    pub fn in_flight_kib(mut self, in_flight_kib: u32) -> Self {
        self.in_flight_kib = in_flight_kib.max(MESSAGE_BYTES_MAX as u32 >> 10);
        self
    }

    /// A capability token, as `palisade token` makes them.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The certificates, in PEM, of who vouches for the nodes: the cluster's `peer` authority.
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Who the client is: its certificate and its key, in PEM. A node must be of the cluster that it names.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The way to nodes, for endpoints that need one.
    fn tls(&self) -> Result<Option<Arc<NodeTls>>, Error> {
        if !self.endpoints.iter().any(|endpoint| endpoint.starts_with(SECURE)) {
            return Ok(None);
        }
        let (Some(authority), Some((certificate, key))) = (&self.authority, &self.identity) else {
            let what =
                "https:// needs the client's certificate and key, and the authority of nodes";
            return Err(Error::invalid(what));
        };
        let credentials = Credentials {
            certificates_pem: certificate.clone(),
            key_pem: key.clone(),
            authorities_pem: authority.clone(),
        };
        NodeTls::new(&credentials).map(|tls| Some(Arc::new(tls)))
    }

    fn channel(&self, endpoint: &str, tls: Option<&Arc<NodeTls>>) -> Result<Channel, Error> {
        let wrong =
            |error: &dyn fmt::Display| Error::invalid(format!("endpoint={endpoint:?}: {error}"));
        let said: Uri = endpoint.parse().map_err(|error| wrong(&error))?;
        // The transport knows nothing of TLS: what it is given to connect with does.
        let plain = endpoint.strip_prefix(SECURE).map(|rest| format!("http://{rest}"));
        let made = Endpoint::from_shared(plain.unwrap_or_else(|| endpoint.to_owned()))
            .map_err(|error| wrong(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_while_idle(true);
        let has_secrets = self.token.is_some() || self.identity.is_some();
        if let Some(tls) = tls.filter(|_| endpoint.starts_with(SECURE)) {
            let connector = Connector { tls: Arc::clone(tls) };
            return Ok(made.origin(said).connect_with_connector_lazy(connector));
        }
        if has_secrets && !is_local(&made) {
            return Err(wrong(&"a token or certificate is for https:// or for this machine"));
        }
        Ok(made.connect_lazy())
    }

    /// Makes the client. It connects with the first call, and again whenever it has to.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` without an endpoint, and for one that is no address, or a token or certificate that
    /// is none.
    pub fn connect(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::invalid("a client needs an endpoint"));
        }
        let tls = self.tls()?;
        let channels = self.endpoints.iter().map(|endpoint| self.channel(endpoint, tls.as_ref()));
        let channels = channels.collect::<Result<Vec<_>, _>>()?;
        let bearer = |token: &String| format!("Bearer {token}").parse();
        let token = self.token.as_ref().map(bearer).transpose();
        let mut token = token.map_err(|_| Error::invalid("a token has no such letters"))?;
        if let Some(token) = &mut token {
            let token: &mut MetadataValue<Ascii> = token;
            token.set_sensitive(true);
        }
        let shared = Shared {
            endpoints: self.endpoints,
            routes: Routes::new(channels.len()),
            channels,
            tls,
            call_timeout: self.call_timeout,
            token,
            room: Semaphore::new(self.in_flight_kib as usize),
            seen: Seen::default(),
            numbers: Mutex::default(),
            groups: Mutex::default(),
            calls: AtomicU64::new(0),
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

struct Shared {
    endpoints: Vec<String>,
    channels: Vec<Channel>,
    tls: Option<Arc<NodeTls>>,
    routes: Routes,
    call_timeout: Duration,
    token: Option<MetadataValue<Ascii>>,
    room: Semaphore,
    seen: Seen,
    numbers: Mutex<BTreeMap<u64, Numbers>>,
    groups: Mutex<BTreeMap<String, u64>>,
    calls: AtomicU64,
}

/// A client of a cluster. Clones share its connections, and what it has seen.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What a call is, beside its message.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    /// Of its message.
    pub(crate) bytes: usize,
    /// How long one attempt may take, within the time of the call.
    pub(crate) attempt: Duration,
}

impl Call {
    pub(crate) fn read() -> Self {
        Self { kind: Kind::Read, target: Target::Any, bytes: 0, attempt: ATTEMPT_TIMEOUT }
    }

    pub(crate) fn write(group: u64, kind: Kind, bytes: usize) -> Self {
        Self { kind, target: Target::Leader(group), bytes, ..Self::read() }
    }

    /// Of one that may take as long as the caller waits.
    pub(crate) fn slow(kind: Kind) -> Self {
        Self { kind, attempt: Duration::MAX, ..Self::read() }
    }
}

impl Client {
    /// Begins to make a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            endpoints: Vec::new(),
            call_timeout: CALL_TIMEOUT,
            in_flight_kib: IN_FLIGHT_KIB,
            token: None,
            authority: None,
            identity: None,
        }
    }

    /// A log of this name, whose values have this schema.
    #[must_use]
    pub fn log<T: Stored>(&self, name: &str, schema: &str) -> Log<T> {
        Log::new(Named::new(self.clone(), name, schema))
    }

    /// A map of this name, whose values have this schema.
    #[must_use]
    pub fn map<K: Key, V: Stored>(&self, name: &str, schema: &str) -> Map<K, V> {
        Map::new(Named::new(self.clone(), name, schema))
    }

    /// An idempotency store of this name.
    #[must_use]
    pub fn requests(&self, name: &str, schema: &str) -> Requests {
        Requests::new(Named::new(self.clone(), name, schema))
    }

    /// Who may do what, and what was refused.
    #[must_use]
    pub fn access(&self) -> Access {
        Access::new(self.clone())
    }

    /// Takes another certificate of the same cluster, or other authorities, in the place of those it has, for
    /// connections from now on. Nodes end those that were made before when their certificate expires.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if they do not fit, and then the former stay in use, or if no endpoint needs any.
    pub fn renew(
        &self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
        authority: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        let tls = self.shared.tls.as_ref();
        let tls =
            tls.ok_or_else(|| Error::invalid("no endpoint is spoken to with certificates"))?;
        tls.take(&Credentials {
            certificates_pem: certificate.into(),
            key_pem: key.into(),
            authorities_pem: authority.into(),
        })
    }

    /// Begins a batch: operations on resources of one group that take effect together, or not at all.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Which resources there are.
    #[must_use]
    pub fn directory(&self) -> Directory {
        Directory::new(self.clone())
    }

    /// How the nodes are, and who takes part.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.shared.endpoints
    }

    pub(crate) fn channel(&self, endpoint: usize) -> Channel {
        self.shared.channels[endpoint].clone()
    }

    /// The connection to the leader of a group, as far as it is known.
    pub(crate) async fn leader_of(&self, group: u64) -> Channel {
        let target = Target::Leader(group);
        if self.shared.routes.lacks(target) {
            self.find_leaders(Instant::now() + self.shared.call_timeout).await;
        }
        self.channel(self.shared.routes.pick(target))
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// A request with what goes with each of this client's.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.shared.seen.tell(request.metadata_mut());
        if let Some(token) = &self.shared.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// Makes a call until it is answered, its time is over, or it must not be made again. `send` makes it once.
    pub(crate) async fn call<Q: Clone, A, F>(
        &self,
        call: Call,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let shared = &*self.shared;
        if MESSAGE_BYTES_MAX < call.bytes {
            let what = format!("a request of {} bytes: at most {MESSAGE_BYTES_MAX}", call.bytes);
            return Err(Error::invalid(what));
        }
        let until = Instant::now() + shared.call_timeout;
        let kib = (call.bytes >> 10) as u32 + 1;
        // Nothing was sent before there is room.
        let _room = timeout_at(until, shared.room.acquire_many(kib))
            .await
            .map_err(|_| Error::timed_out(false))?
            .expect("it is never closed");
        let spread = shared.calls.fetch_add(1, Ordering::Relaxed);
        let mut repetition = 0;
        // An attempt that nobody knows the outcome of may have taken effect, whatever the later ones say.
        let mut unknown = None;
        loop {
            if shared.routes.lacks(call.target) {
                self.find_leaders(until).await;
            }
            let endpoint = shared.routes.pick(call.target);
            let left = until.saturating_duration_since(Instant::now()).min(call.attempt);
            let mut request = self.request(message.clone());
            request.set_timeout(left);
            let error = match timeout(left, send(shared.channels[endpoint].clone(), request)).await
            {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => Error::of(&status, call.kind.writes()),
                Err(_) => Error::timed_out(call.kind.writes()),
            };
            let pause = retry::pause(repetition, &error, spread);
            if !retry::again(call.kind, &error) || until <= Instant::now() + pause {
                return Err(retry::told(error, unknown));
            }
            match error.code() {
                Code::Disconnected | Code::Degraded | Code::InternalError => {
                    shared.routes.failed(endpoint);
                }
                // Another may have come that far.
                Code::NotYetApplied => shared.routes.elsewhere(endpoint),
                _ => {}
            }
            tracing::debug!(%error, endpoint, repetition, "a call is made again");
            if call.kind.writes() && error.disposition() != Disposition::Retry {
                unknown = Some(error);
            }
            sleep(pause).await;
            repetition += 1;
        }
    }

    /// Whether a stream that ended with this goes on at another node, which is asked next.
    pub(crate) fn goes_on_after(&self, error: &Error) -> bool {
        let again = retry::again(Kind::Read, error);
        if again {
            self.shared.routes.failed(self.shared.routes.pick(Target::Any));
        }
        again
    }

    /// Asks every node who it is and who leads. Who does not answer is left out.
    async fn find_leaders(&self, until: Instant) {
        let shared = &*self.shared;
        for (endpoint, channel) in shared.channels.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now()).min(CONNECT_TIMEOUT);
            let mut asked = ClusterClient::new(channel.clone());
            let request = self.request(GetStatusRequest {});
            if let Ok(Ok(found)) = timeout(left, asked.get_status(request)).await {
                shared.routes.learn(endpoint, found.get_ref());
            }
        }
    }

    /// The group that a resource lies in. A name stays with its group.
    pub(crate) async fn group_of(&self, name: &str) -> Result<u64, Error> {
        let known = self.groups().get(name).copied();
        if let Some(group) = known {
            return Ok(group);
        }
        let found = self.directory().describe(name, Consistency::Linearizable).await?;
        let group = found.group;
        let mut groups = self.groups();
        if GROUPS_MAX <= groups.len() {
            groups.clear();
        }
        groups.insert(name.to_owned(), group);
        Ok(group)
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.shared.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a write to a resource, in whose group the client registers if it has not.
    pub(crate) async fn numbered(&self, name: &str) -> Result<Numbered, Error> {
        let group = self.group_of(name).await?;
        let known = self.numbers().get(&group).cloned();
        let numbers = match known {
            Some(numbers) => numbers,
            None => self.register(group).await?,
        };
        let number = numbers.next().await;
        Ok(Numbered { client: self.clone(), group, numbers, number })
    }

    fn numbers(&self) -> MutexGuard<'_, BTreeMap<u64, Numbers>> {
        self.shared.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn register(&self, group: u64) -> Result<Numbers, Error> {
        let asked = RegisterRequest { group, ttl_ms: CLIENT_TTL.as_millis() as u64 };
        // One that was registered and not heard of writes nothing, and is forgotten.
        let call = Call::write(group, Kind::Once, 0);
        let registered = self.call(call, asked, |channel, request| async {
            SessionClient::new(channel).register(request).await
        });
        let numbers = Numbers::new(registered.await?.client);
        Ok(self.numbers().entry(group).or_insert(numbers).clone())
    }

    /// The group does not know the client any more: the next command is that of a new one.
    pub(crate) fn evicted(&self, group: u64, numbers: &Numbers) {
        let mut known = self.numbers();
        if known.get(&group).is_some_and(|known| known.is(numbers)) {
            known.remove(&group);
        }
    }
}
