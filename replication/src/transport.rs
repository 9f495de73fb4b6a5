//! Messages between replicas over TCP.
//!
//! Each node dials every other and only speaks on the connections it dialled, so a pair of nodes
//! has two of them, one for each direction. Messages may be lost, when a queue is full or a
//! connection breaks; they are never altered (each frame has a checksum) and never delivered to
//! anyone but the node they name (the first frame of a connection says who speaks to whom, in
//! which cluster, and the other side refuses what is not for it).
//!
//! A connection is a greeting and its answer (`greeting.rs`), and then frames (`frame.rs`), the first of which
//! says how old the directory of the dialling node is. All of it goes through TLS if there are credentials (`tls/`,
//! `link.rs`): then who speaks is who the certificate names.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::acquaintances::{Acquaintances, Met};
use crate::ages::{Age, Ages, History};
use crate::frame::{Frame, put_age, put_frame, take_frame};
use crate::greeting::{
    Answer, GREETING_BYTES, Speaker, encode_greeting, encode_refusal, encode_welcome,
    judge_greeting,
};
use crate::guests::Guests;
use crate::identity::{Incarnation, NodeId};
use crate::link::{Ended, Link, Stream};
use crate::load::Load;
use crate::lobby::{Lobby, Origin, STRANGERS_MAX};
use crate::membership::Member;
use crate::node_load::PeerLoads;
use crate::peer_faults::{Culprit, PeerFault, PeerFaults};
use crate::tls::PeerLinks;
use crate::unread::Unread;
use crate::wire::Envelope;

/// Nodes that are dialled, at most, and half of the connections that are taken.
const PEERS_MAX: usize = 256;
/// A peer that does not answer for so long, asked or not, is gone: its connection would otherwise
/// outlive it for minutes, and a new one wait behind it.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Frames are gathered up to this size before they are written.
const WRITE_BYTES_TARGET: usize = 256 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A copy of a directory that is put back is known by what it missed, so this is what it may have missed.
const AGE_EVERY: Duration = Duration::from_secs(60);
/// Between two attempts to dial a peer: doubled from the first to the last.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(10);
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Takes messages away to other nodes. Losing one is allowed, altering one is not.
pub trait Transport: Send + 'static {
    /// Never blocks. A message that finds no room is dropped.
    fn send(&self, envelope: Envelope);

    /// Where these members listen, as far as it is known.
    fn know(&mut self, members: &[(NodeId, Member)]);

    /// A node has said where it listens: who is yet unknown can be answered.
    fn introduce(&mut self, node: NodeId, address: SocketAddr);

    /// This life of a node sent what no replica may take from it: it is not listened to any further
    /// on the connections it has.
    fn refuse(&mut self, node: NodeId, life: Incarnation, fault: PeerFault);
}

/// What a connection tells beside messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// Whether the peer knows this node in this life and in no other.
    Recognized { by: NodeId, same: bool },
    /// Where the peer listens.
    ListensAt { node: NodeId, address: SocketAddr },
    /// The peer remembers this node's directory at an age that it has forgotten: it was put back from a copy.
    PutBack { by: NodeId, remembered: Age },
}

pub(crate) type OnTold = Arc<dyn Fn(Told) + Send + Sync>;

/// This node's side of every connection.
pub(crate) struct Local {
    pub(crate) speaker: Speaker,
    pub(crate) links: PeerLinks,
    pub(crate) acquaintances: Acquaintances,
    pub(crate) ages: Ages,
    pub(crate) faults: Arc<PeerFaults>,
    pub(crate) told: OnTold,
}

/// The transport between processes.
pub(crate) struct TcpTransport {
    speaker: Speaker,
    links: PeerLinks,
    acquaintances: Arc<Acquaintances>,
    ages: Arc<Ages>,
    told: OnTold,
    runtime: Handle,
    queued_bytes_max: usize,
    peers: BTreeMap<NodeId, PeerQueue>,
    loads: PeerLoads,
    unread: Arc<Unread>,
    faults: Arc<PeerFaults>,
    guests: Arc<Guests>,
    /// Disconnected once nobody listens any more.
    released: Option<Released>,
    /// Aborts them when dropped.
    _tasks: JoinSet<()>,
}

/// A listener, and who is told that there is none any more: fields are dropped in their order.
struct Listening {
    listener: TcpListener,
    _told: std::sync::mpsc::Sender<()>,
}

/// Nothing comes out of it: it is disconnected once nobody listens at a node's address any more.
pub(crate) type Released = std::sync::mpsc::Receiver<()>;

#[derive(Debug)]
struct PeerQueue {
    address: SocketAddr,
    /// Aborts its task when dropped.
    _dialling: JoinSet<()>,
    sender: mpsc::UnboundedSender<Envelope>,
    load: Arc<Load>,
}

impl Transport for TcpTransport {
    fn send(&self, envelope: Envelope) {
        let Some(peer) = self.peers.get(&envelope.to) else { return };
        let bytes = envelope.encoded_bytes();
        if peer.load.take(bytes) && peer.sender.send(envelope).is_err() {
            peer.load.give(bytes);
        }
    }

    fn know(&mut self, members: &[(NodeId, Member)]) {
        for (node, member) in members {
            let Some(address) = member.address.filter(|_| *node != self.speaker.node) else {
                continue;
            };
            if self.peers.get(node).is_none_or(|peer| peer.address != address) {
                self.dial(*node, address);
            }
        }
    }

    fn introduce(&mut self, node: NodeId, address: SocketAddr) {
        if !self.peers.contains_key(&node) && self.peers.len() < PEERS_MAX {
            self.dial(node, address);
        }
    }

    fn refuse(&mut self, node: NodeId, life: Incarnation, fault: PeerFault) {
        self.faults.note(fault, Culprit::Node(node), &"a message to a replica");
        self.guests.close(node, life);
    }
}

impl TcpTransport {
    /// Tells when nobody listens any more, which is some time after this was dropped. To be taken once.
    pub(crate) fn released(&mut self) -> Released {
        self.released.take().expect("it is taken once")
    }

    /// What waits to be sent to each peer.
    pub(crate) fn loads(&self) -> PeerLoads {
        self.loads.clone()
    }

    /// What was read of messages that are not whole yet.
    pub(crate) fn unread(&self) -> Arc<Unread> {
        Arc::clone(&self.unread)
    }

    /// Starts to listen and to dial on the current runtime. `deliver` takes what arrives.
    pub(crate) fn start(
        local: Local,
        listener: Option<TcpListener>,
        peers: BTreeMap<NodeId, SocketAddr>,
        queued_bytes_max: usize,
        deliver: impl Fn(Envelope, Incarnation) + Clone + Send + Sync + 'static,
    ) -> Self {
        let Local { speaker, links, acquaintances, ages, faults, told } = local;
        let (acquaintances, ages) = (Arc::new(acquaintances), Arc::new(ages));
        let guests = Arc::new(Guests::default());
        let unread = Arc::<Unread>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(grow(Arc::clone(&ages)));
        let (listens, released) = std::sync::mpsc::channel::<()>();
        if let Some(listener) = listener {
            let hears = Hears {
                speaker,
                links: links.clone(),
                acquaintances: Arc::clone(&acquaintances),
                told: Arc::clone(&told),
                faults: Arc::clone(&faults),
                guests: Arc::clone(&guests),
                lobby: Arc::default(),
                unread: Arc::clone(&unread),
            };
            tasks.spawn(listen(hears, Listening { listener, _told: listens }, deliver));
        }
        let mut transport = Self {
            speaker,
            links,
            acquaintances,
            ages,
            told,
            runtime: Handle::current(),
            queued_bytes_max,
            peers: BTreeMap::new(),
            loads: PeerLoads::default(),
            unread,
            faults,
            guests,
            released: Some(released),
            _tasks: tasks,
        };
        for (node, address) in peers {
            transport.dial(node, address);
        }
        transport
    }

    /// Begins to dial a peer, or the same one elsewhere.
    fn dial(&mut self, node: NodeId, address: SocketAddr) {
        if !self.links.allow(address) {
            self.faults.note(PeerFault::Unprotected, Culprit::Node(node), &address);
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let load = Arc::new(Load::new(self.queued_bytes_max));
        let peer = Peer {
            node,
            address,
            links: self.links.clone(),
            faults: Arc::clone(&self.faults),
            acquaintances: Arc::clone(&self.acquaintances),
            ages: Arc::clone(&self.ages),
            told: Arc::clone(&self.told),
        };
        let mut dialling = JoinSet::new();
        dialling.spawn_on(dial(self.speaker, peer, receiver, Arc::clone(&load)), &self.runtime);
        self.loads.set(node, Arc::clone(&load));
        self.peers.insert(node, PeerQueue { address, _dialling: dialling, sender, load });
    }
}

/// Whom to dial.
struct Peer {
    node: NodeId,
    address: SocketAddr,
    links: PeerLinks,
    faults: Arc<PeerFaults>,
    acquaintances: Arc<Acquaintances>,
    ages: Arc<Ages>,
    told: OnTold,
}

/// Lets this node's directory become older for as long as it runs.
async fn grow(ages: Arc<Ages>) {
    loop {
        tokio::time::sleep(AGE_EVERY).await;
        let ages = Arc::clone(&ages);
        if tokio::task::spawn_blocking(move || ages.grow()).await.is_err() {
            tracing::error!("the age of the data directory is not counted any more");
            return;
        }
    }
}

/// Keeps a connection to one peer and writes what is queued for it.
async fn dial(
    speaker: Speaker,
    peer: Peer,
    mut queue: mpsc::UnboundedReceiver<Envelope>,
    load: Arc<Load>,
) {
    let node = peer.node;
    let mut pause = DIAL_PAUSE_MIN;
    let mut refused = None;
    loop {
        match timeout(HANDSHAKE_TIMEOUT, greet(speaker, &peer)).await {
            Ok(Ok(Greeted::Welcome(link))) => {
                let since = Instant::now();
                let ages = peer.ages.follow();
                if let Err(error) = write_frames(link, &mut queue, &load, ages).await {
                    tracing::debug!(%node, %error, "lost the connection to a peer");
                } else {
                    return;
                }
                // A peer that takes the connection and closes it at once is not dialled in a circle.
                if since.elapsed() > DIAL_PAUSE_MAX {
                    pause = DIAL_PAUSE_MIN;
                }
                refused = None;
            }
            Ok(Ok(Greeted::Refused(reason))) => {
                say_once(&mut refused, &peer, Answer::reason(reason));
            }
            // It ends the node, and every later start of it.
            Ok(Ok(Greeted::PutBack(remembered))) => {
                let ages = Arc::clone(&peer.ages);
                let condemned = tokio::task::spawn_blocking(move || ages.condemn(node, remembered));
                // What it says is said in any case.
                let _ = condemned.await;
                (peer.told)(Told::PutBack { by: node, remembered })
            }
            Ok(Err(Ended::ByPeer(alert))) => {
                say_once(&mut refused, &peer, format!("of our certificate: {alert:?}"));
            }
            Ok(Err(Ended::Refused(fault, what))) => {
                peer.faults.note(fault, Culprit::Node(node), &what);
            }
            Ok(Err(Ended::Lost(error))) => tracing::debug!(%node, %error, "could not reach a peer"),
            Err(_) => tracing::debug!(%node, "a peer did not answer the greeting"),
        }
        // What was queued for the lost connection is stale; replicas repeat what matters.
        while let Ok(envelope) = queue.try_recv() {
            load.give(envelope.encoded_bytes());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(DIAL_PAUSE_MAX);
    }
}

/// Why a peer refused this node: once, and not at every attempt.
fn say_once(said: &mut Option<String>, peer: &Peer, why: String) {
    if said.as_ref() != Some(&why) {
        tracing::warn!(node = %peer.node, address = %peer.address, why, "a peer refused this node");
        *said = Some(why);
    }
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(SILENCE_MAX / 2).with_interval(SILENCE_MAX / 4);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))
}

/// How a peer took a greeting.
enum Greeted {
    Welcome(Link),
    Refused(u8),
    /// It remembers this directory at an age that it has forgotten.
    PutBack(Age),
}

async fn greet(speaker: Speaker, peer: &Peer) -> Result<Greeted, Ended> {
    let (to, address) = (peer.node, peer.address);
    let stream = TcpStream::connect(address).await?;
    set_up(&stream)?;
    let mut link = Link::connect(&peer.links, stream).await?;
    link.is(to)?;
    let stream = &mut link.stream;
    stream.write_all(&encode_greeting(speaker, to)).await?;
    stream.flush().await?;
    let (incarnation, met) = match Answer::read(stream).await? {
        Answer::Welcome { incarnation, met } => (incarnation, met),
        Answer::Refused(reason) => return Ok(Greeted::Refused(reason)),
    };
    if !peer.ages.holds(met.age) {
        return Ok(Greeted::PutBack(met.age));
    }
    meet(&peer.acquaintances, to, incarnation).await?;
    (peer.told)(Told::Recognized { by: to, same: met.same });
    Ok(Greeted::Welcome(link))
}

/// Writes until the connection fails or may not go on (an error), or the transport is dropped (`Ok`). How old
/// this node's directory is comes first, and whenever it is older.
async fn write_frames(
    link: Link,
    queue: &mut mpsc::UnboundedReceiver<Envelope>,
    load: &Load,
    mut ages: watch::Receiver<History>,
) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(WRITE_BYTES_TARGET);
    ages.mark_changed();
    let mut unexpected = [0; 1];
    let Link { mut stream, mut tenure, .. } = link;
    let over = tenure.over();
    tokio::pin!(over);
    loop {
        let first = tokio::select! {
            biased;
            // The sender is in what is held by the dialling task.
            Ok(()) = ages.changed() => Some(Frame::Age(ages.borrow_and_update().age())),
            first = queue.recv() => first.map(Frame::Message),
            why = &mut over => return Err(io::Error::other(why)),
            // The peer never speaks on this connection: whatever comes is its end.
            _ = stream.read(&mut unexpected) => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        };
        let mut next = match first {
            None => return Ok(()),
            Some(Frame::Age(age)) => {
                put_age(&mut out, age);
                None
            }
            Some(Frame::Message(envelope)) => Some(envelope),
        };
        while let Some(envelope) = next {
            load.give(envelope.encoded_bytes());
            put_frame(&mut out, &envelope);
            let is_full = out.len() >= WRITE_BYTES_TARGET;
            next = if is_full { None } else { queue.try_recv().ok() };
        }
        tokio::select! {
            written = write_out(&mut stream, &out) => written?,
            why = &mut over => return Err(io::Error::other(why)),
        }
        out.clear();
    }
}

async fn write_out(stream: &mut Box<dyn Stream>, out: &[u8]) -> io::Result<()> {
    stream.write_all(out).await?;
    stream.flush().await
}

/// What every connection that comes in needs.
#[derive(Clone)]
struct Hears {
    speaker: Speaker,
    links: PeerLinks,
    acquaintances: Arc<Acquaintances>,
    told: OnTold,
    faults: Arc<PeerFaults>,
    guests: Arc<Guests>,
    lobby: Arc<Lobby>,
    unread: Arc<Unread>,
}

async fn listen(
    hears: Hears,
    listening: Listening,
    deliver: impl Fn(Envelope, Incarnation) + Clone + Send + Sync + 'static,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listening.listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match stream {
            // Whoever dials again finds room once the dead ones are noticed.
            Ok(_) if connections.len() >= 2 * (PEERS_MAX + STRANGERS_MAX) => {}
            Ok((stream, address)) => {
                let (deliver, hears) = (deliver.clone(), hears.clone());
                connections.spawn(async move {
                    let mut by = Culprit::Address(address.ip());
                    match serve(&hears, stream, &mut by, deliver).await {
                        Ok(()) => {}
                        Err(Ended::Refused(fault, what)) => {
                            hears.faults.note(fault, by, &what);
                        }
                        Err(Ended::Lost(error)) => {
                            tracing::debug!(%address, %error, "a connection from a peer ended");
                        }
                        // It says so itself, and why.
                        Err(Ended::ByPeer(alert)) => {
                            tracing::debug!(%address, ?alert, "a peer refused our certificate");
                        }
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: existing connections go on.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(DIAL_PAUSE_MAX).await;
            }
        }
    }
}

/// Serves one connection. `by` becomes the node that greeted, as soon as it has.
async fn serve(
    hears: &Hears,
    stream: TcpStream,
    by: &mut Culprit,
    deliver: impl Fn(Envelope, Incarnation),
) -> Result<(), Ended> {
    let Hears { speaker, guests, unread, lobby, .. } = hears;
    set_up(&stream)?;
    let place = lobby.enter(Origin::of(stream.peer_addr()?.ip()));
    let stalled = |what: &str| Err(Ended::Refused(PeerFault::Stalled, what.to_owned()));
    let welcomed = tokio::select! {
        welcomed = timeout(HANDSHAKE_TIMEOUT, welcome(hears, stream, by)) => {
            welcomed.unwrap_or_else(|_| stalled("no greeting in time"))
        }
        () = place.taken() => stalled("no greeting yet, and others came"),
    };
    let (Link { mut stream, mut tenure, .. }, Speaker { node: from, incarnation, .. }) = welcomed?;
    let visit = guests.enter(from, incarnation);
    drop(place);
    let over = tenure.over();
    tokio::pin!(over);
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES_TARGET);
    let mut share = unread.share();
    loop {
        while let Some(frame) = take_frame(&mut buffer)? {
            let envelope = match frame {
                Frame::Message(envelope) => envelope,
                Frame::Age(age) => {
                    remember(&hears.acquaintances, from, incarnation, age).await;
                    continue;
                }
            };
            if envelope.from != from || envelope.to != speaker.node {
                let what = format!("a message from={} to={}", envelope.from, envelope.to);
                return Err(Ended::Refused(PeerFault::Impostor, what));
            }
            deliver(envelope, incarnation);
        }
        if buffer.is_empty() && buffer.capacity() > 2 * WRITE_BYTES_TARGET {
            // What a large message took is not needed for the next.
            buffer = BytesMut::new();
        }
        buffer.reserve(WRITE_BYTES_TARGET);
        if !share.take(buffer.capacity()) {
            let what = format!("an unfinished message of {} bytes so far", buffer.len());
            return Err(Ended::Refused(PeerFault::Crowding, what));
        }
        let read = tokio::select! {
            // Noted by whoever asked for it.
            () = visit.closing() => return Ok(()),
            why = &mut over => return Err(io::Error::other(why).into()),
            read = stream.read_buf(&mut buffer) => read?,
        };
        if read == 0 {
            return Ok(());
        }
    }
}

/// Until the peer is known, and has been told so. `by` becomes the node that greeted, as soon as it has.
async fn welcome(
    hears: &Hears,
    stream: TcpStream,
    by: &mut Culprit,
) -> Result<(Link, Speaker), Ended> {
    let Hears { speaker, links, acquaintances, told, .. } = hears;
    let mut link = Link::accept(links, stream).await?;
    let mut greeting = [0; GREETING_BYTES];
    link.stream.read_exact(&mut greeting).await?;
    let judged = judge_greeting(*speaker, &greeting);
    let judged = judged.map_err(|fault| Ended::Refused(fault, "a greeting".to_owned()));
    let peer = match judged.and_then(|peer| link.is(peer.node).map(|()| peer)) {
        Ok(peer) => peer,
        Err(ended) => {
            if let Ended::Refused(refused, _) = &ended
                && let Some(answer) = encode_refusal(*refused)
            {
                // Whether it hears the reason or not, it is refused.
                let _ = write_out(&mut link.stream, &answer).await;
            }
            return Err(ended);
        }
    };
    *by = Culprit::Node(peer.node);
    // Written down before it is said.
    let met = meet(acquaintances, peer.node, peer.incarnation).await?;
    if let Some(address) = peer.listens_at {
        told(Told::ListensAt { node: peer.node, address });
    }
    write_out(&mut link.stream, &encode_welcome(speaker.incarnation, met)).await?;
    Ok((link, peer))
}

/// Remembers which life of the peer was met first, in a file, and so not on a runtime thread. What
/// another life may say is for each group's membership to judge.
async fn meet(
    acquaintances: &Arc<Acquaintances>,
    node: NodeId,
    incarnation: Incarnation,
) -> io::Result<Met> {
    let acquaintances = Arc::clone(acquaintances);
    let meet = move || acquaintances.meet(node, incarnation);
    let met = tokio::task::spawn_blocking(meet).await.map_err(io::Error::other)??;
    if !met.same {
        tracing::debug!(%node, "the peer is not in the life it was met in: its data directory is new");
    }
    Ok(met)
}

/// Remembers how old a peer says to be, before anything else is heard from it. One that does not fit on a full
/// disk is no reason to hear nobody: what was remembered before stays.
async fn remember(acquaintances: &Arc<Acquaintances>, node: NodeId, life: Incarnation, age: Age) {
    let acquaintances = Arc::clone(acquaintances);
    let remember = move || acquaintances.grew(node, life, age);
    match tokio::task::spawn_blocking(remember).await.map_err(io::Error::other) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => {
            tracing::warn!(%node, %error, "how old a peer is was not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterId;
    use crate::wire::Body;
    use palisade_wal::{GroupId, LogIndex};

    fn speaker(node: u64) -> Speaker {
        Speaker {
            cluster: ClusterId::new(77),
            node: NodeId::new(node),
            incarnation: Incarnation::new(5),
            listens_at: Some(SocketAddr::from(([127, 0, 0, 1], 4000))),
        }
    }

    fn envelope(from: u64, to: u64, index: u64) -> Envelope {
        Envelope {
            group: GroupId::new(1),
            from: NodeId::new(from),
            to: NodeId::new(to),
            body: Body::Flushed { index: LogIndex::new(index) },
        }
    }

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let local = |node| Local {
            speaker: speaker(node),
            links: PeerLinks::Loopback,
            acquaintances: Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap(),
            ages: Ages::open(dir.path(), node).unwrap(),
            faults: Arc::default(),
            told: Arc::new(|_| ()),
        };
        let (sender, mut received) = mpsc::unbounded_channel();
        let deliver = move |envelope, _| sender.send(envelope).unwrap();
        let _two = TcpTransport::start(local(2), Some(listener), BTreeMap::new(), 1 << 20, deliver);
        let peers = BTreeMap::from([(NodeId::new(2), address)]);
        let one = TcpTransport::start(local(1), None, peers, 1 << 20, |_, _| {});
        for index in 0..100 {
            one.send(envelope(1, 2, index));
        }
        for index in 0..100 {
            assert_eq!(received.recv().await, Some(envelope(1, 2, index)));
        }
    }

    /// G12: connections with messages that never end are closed before they take more than there is.
    #[tokio::test]
    async fn unfinished_messages_take_no_more_room_than_there_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let room = 40 * WRITE_BYTES_TARGET;
        let hears = Hears {
            speaker: speaker(2),
            links: PeerLinks::Loopback,
            acquaintances: Arc::new(Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap()),
            told: Arc::new(|_| ()),
            faults: Arc::default(),
            guests: Arc::default(),
            lobby: Arc::default(),
            unread: Arc::new(Unread::with_room(room)),
        };
        let mut crowd = JoinSet::new();
        let mut served = JoinSet::new();
        for node in 10..14 {
            let mut dialed = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let hears = hears.clone();
            served.spawn(async move {
                let mut by = Culprit::Node(NodeId::new(node));
                serve(&hears, stream, &mut by, |_, _| panic!("no message is whole")).await
            });
            crowd.spawn(async move {
                dialed.write_all(&encode_greeting(speaker(node), NodeId::new(2))).await.unwrap();
                let length = (32 * WRITE_BYTES_TARGET) as u32;
                dialed.write_all(&length.to_le_bytes()).await.unwrap();
                dialed.write_all(&[0; 4]).await.unwrap();
                // All but the last byte, or until it is closed.
                let _ = dialed.write_all(&vec![0; length as usize - 1]).await;
                dialed
            });
        }
        // One of them fits, or two halves: the others end.
        for _ in 0..3 {
            let ended = timeout(Duration::from_secs(60), served.join_next()).await;
            let ended = ended.expect("G12: one of them is closed").unwrap().unwrap();
            let Err(Ended::Refused(fault, _)) = ended else { panic!("it ended by itself") };
            assert_eq!(fault, PeerFault::Crowding);
        }
    }

    /// G12: of those who never greet, the first makes room for the one that is too many.
    #[tokio::test]
    async fn the_oldest_stranger_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let hears = Hears {
            speaker: speaker(2),
            links: PeerLinks::Loopback,
            acquaintances: Arc::new(Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap()),
            told: Arc::new(|_| ()),
            faults: Arc::default(),
            guests: Arc::default(),
            lobby: Arc::default(),
            unread: Arc::default(),
        };
        let mut dialed = Vec::new();
        let mut served = JoinSet::new();
        for number in 0..=STRANGERS_MAX {
            dialed.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (stream, _) = listener.accept().await.unwrap();
            let hears = hears.clone();
            served.spawn(async move {
                let mut by = Culprit::Node(NodeId::new(1));
                (number, serve(&hears, stream, &mut by, |_, _| ()).await)
            });
        }
        let (number, ended) = served.join_next().await.unwrap().unwrap();
        let Err(Ended::Refused(fault, what)) = ended else { panic!("it ended by itself") };
        assert_eq!((number, fault), (0, PeerFault::Stalled));
        assert!(what.contains("others came"), "{what}");
    }
}
