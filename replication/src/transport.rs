//! Messages between replicas over TCP.
//!
//! Each node dials every other and only speaks on the connections it dialled, so a pair of nodes
//! has two of them, one for each direction. Messages may be lost, when a queue is full or a
//! connection breaks; they are never altered (each frame has a checksum) and never delivered to
//! anyone but the node they name (the first frame of a connection says who speaks to whom, in
//! which cluster, and the other side refuses what is not for it).
//!
//! ```text
//! greeting   magic 8, version 4, cluster 16, from 8, to 8, incarnation 16, crc32 4
//! answer     1 byte: 0 welcome, otherwise the reason; after a welcome, own incarnation 16
//! frame      length 4, crc32 of the body 4, body: one envelope (see `wire`)
//! ```
//! Little-endian.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::acquaintances::Acquaintances;
use crate::identity::{ClusterId, Incarnation, NodeId};
use crate::load::Load;
use crate::options::RECORD_BYTES_LIMIT;
use crate::wire::Envelope;

const MAGIC: &[u8; 8] = b"PLSDPEER";
const VERSION: u32 = 1;
pub(crate) const GREETING_BYTES: usize = 64;
const WELCOME: u8 = 0;
const REFUSED_CLUSTER: u8 = 1;
const REFUSED_NODE: u8 = 2;
const REFUSED_VERSION: u8 = 3;
const REFUSED_INCARNATION: u8 = 4;
const FRAME_HEADER_BYTES: usize = 8;
/// Largest body that is read: a message of entries, each within its own bound, and their headers.
const FRAME_BYTES_MAX: usize = 4 * RECORD_BYTES_LIMIT;
/// Frames are gathered up to this size before they are written.
const WRITE_BYTES_TARGET: usize = 256 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to dial a peer: doubled from the first to the last.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(10);
const DIAL_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Takes messages away to other nodes. Losing one is allowed, altering one is not.
pub trait Transport: Send + 'static {
    /// Never blocks. A message that finds no room is dropped.
    fn send(&self, envelope: Envelope);
}

/// Who speaks, as every connection is opened with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
}

/// The transport between processes.
#[derive(Debug)]
pub(crate) struct TcpTransport {
    peers: BTreeMap<NodeId, PeerQueue>,
    /// Aborts its tasks when dropped.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct PeerQueue {
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
}

impl TcpTransport {
    /// Starts to listen and to dial on the current runtime. `deliver` takes what arrives.
    pub(crate) fn start(
        speaker: Speaker,
        acquaintances: Acquaintances,
        listener: Option<TcpListener>,
        peers: BTreeMap<NodeId, SocketAddr>,
        queued_bytes_max: usize,
        deliver: impl Fn(Envelope) + Clone + Send + Sync + 'static,
    ) -> Self {
        let acquaintances = Arc::new(acquaintances);
        let mut tasks = JoinSet::new();
        if let Some(listener) = listener {
            tasks.spawn(listen(speaker, Arc::clone(&acquaintances), listener, deliver));
        }
        let peers = peers
            .into_iter()
            .map(|(node, address)| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let load = Arc::new(Load::new(queued_bytes_max));
                let peer = Peer { node, address, acquaintances: Arc::clone(&acquaintances) };
                tasks.spawn(dial(speaker, peer, receiver, Arc::clone(&load)));
                (node, PeerQueue { sender, load })
            })
            .collect();
        Self { peers, _tasks: tasks }
    }
}

/// Whom to dial.
struct Peer {
    node: NodeId,
    address: SocketAddr,
    acquaintances: Arc<Acquaintances>,
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
    loop {
        match timeout(HANDSHAKE_TIMEOUT, greet(speaker, &peer)).await {
            Ok(Ok(stream)) => {
                pause = DIAL_PAUSE_MIN;
                if let Err(error) = write_frames(stream, &mut queue, &load).await {
                    tracing::debug!(%node, %error, "lost the connection to a peer");
                } else {
                    return;
                }
            }
            Ok(Err(error)) => tracing::debug!(%node, %error, "could not reach a peer"),
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

async fn greet(speaker: Speaker, peer: &Peer) -> io::Result<TcpStream> {
    let (to, address) = (peer.node, peer.address);
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&encode_greeting(speaker, to)).await?;
    match stream.read_u8().await? {
        WELCOME => {
            let incarnation = Incarnation::new(stream.read_u128_le().await?);
            if met(&peer.acquaintances, to, incarnation).await? {
                return Ok(stream);
            }
            tracing::warn!(%to, %address, "the peer has lost the data directory it had");
            Err(io::Error::other("it is another life of the peer"))
        }
        reason => {
            let why = match reason {
                REFUSED_CLUSTER => "it belongs to another cluster",
                REFUSED_NODE => "it is another node",
                REFUSED_VERSION => "it speaks another version",
                REFUSED_INCARNATION => {
                    "it knows another life of this node: this data directory is not the one it had"
                }
                _ => "it gave an unknown reason",
            };
            tracing::warn!(%to, %address, "the peer refused this node: {why}");
            Err(io::Error::other(why))
        }
    }
}

/// Writes until the connection fails (an error) or the transport is dropped (`Ok`).
async fn write_frames(
    mut stream: TcpStream,
    queue: &mut mpsc::UnboundedReceiver<Envelope>,
    load: &Load,
) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(WRITE_BYTES_TARGET);
    let mut unexpected = [0; 1];
    loop {
        let first = tokio::select! {
            first = queue.recv() => first,
            // The peer never speaks on this connection: whatever comes is its end.
            _ = stream.read(&mut unexpected) => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        };
        let Some(mut envelope) = first else { return Ok(()) };
        loop {
            load.give(envelope.encoded_bytes());
            put_frame(&mut out, &envelope);
            if out.len() >= WRITE_BYTES_TARGET {
                break;
            }
            match queue.try_recv() {
                Ok(next) => envelope = next,
                Err(_) => break,
            }
        }
        stream.write_all(&out).await?;
        out.clear();
    }
}

pub(crate) fn put_frame(out: &mut BytesMut, envelope: &Envelope) {
    let start = out.len();
    out.put_bytes(0, FRAME_HEADER_BYTES);
    envelope.encode(out);
    let body = start + FRAME_HEADER_BYTES;
    let length = (out.len() - body) as u32;
    let crc = crc32fast::hash(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

async fn listen(
    speaker: Speaker,
    acquaintances: Arc<Acquaintances>,
    listener: TcpListener,
    deliver: impl Fn(Envelope) + Clone + Send + Sync + 'static,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match stream {
            Ok((stream, address)) => {
                let (deliver, acquaintances) = (deliver.clone(), Arc::clone(&acquaintances));
                connections.spawn(async move {
                    if let Err(error) = serve(speaker, acquaintances, stream, deliver).await {
                        tracing::debug!(%address, %error, "a connection from a peer ended");
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

async fn serve(
    speaker: Speaker,
    acquaintances: Arc<Acquaintances>,
    mut stream: TcpStream,
    deliver: impl Fn(Envelope),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut greeting = [0; GREETING_BYTES];
    timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut greeting)).await??;
    let judged = match judge_greeting(speaker, &greeting) {
        Ok((from, incarnation)) => {
            let known = met(&acquaintances, from, incarnation).await?;
            if known { Ok(from) } else { Err(REFUSED_INCARNATION) }
        }
        Err(reason) => Err(reason),
    };
    let from = match judged {
        Ok(from) => from,
        Err(reason) => {
            stream.write_u8(reason).await?;
            return Err(io::Error::other(format!("refused, reason={reason}")));
        }
    };
    stream.write_u8(WELCOME).await?;
    stream.write_u128_le(speaker.incarnation.get()).await?;
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES_TARGET);
    loop {
        while let Some(envelope) = take_frame(&mut buffer)? {
            if envelope.from != from || envelope.to != speaker.node {
                return Err(invalid("the peer spoke for someone else"));
            }
            deliver(envelope);
        }
        buffer.reserve(WRITE_BYTES_TARGET);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// True if this life of the peer is the one that was met before, or the first. That one is written
/// to a file, so not on a runtime thread.
async fn met(
    acquaintances: &Arc<Acquaintances>,
    node: NodeId,
    incarnation: Incarnation,
) -> io::Result<bool> {
    let acquaintances = Arc::clone(acquaintances);
    let meet = move || acquaintances.meet(node, incarnation);
    tokio::task::spawn_blocking(meet).await.map_err(io::Error::other)?
}

/// Takes one whole frame off the front of the buffer.
pub(crate) fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Envelope>> {
    if buffer.len() < FRAME_HEADER_BYTES {
        return Ok(None);
    }
    let word = |at: usize| u32::from_le_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
    let (length, crc) = (word(0) as usize, word(4));
    if length > FRAME_BYTES_MAX {
        return Err(invalid("a frame is longer than any message may be"));
    }
    if buffer.len() < FRAME_HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(FRAME_HEADER_BYTES);
    let body = buffer.split_to(length).freeze();
    if crc32fast::hash(&body) != crc {
        return Err(invalid("a frame has a wrong checksum"));
    }
    Envelope::decode(body)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(crate) fn encode_greeting(speaker: Speaker, to: NodeId) -> [u8; GREETING_BYTES] {
    let mut raw = BytesMut::with_capacity(GREETING_BYTES);
    raw.put_slice(MAGIC);
    raw.put_u32_le(VERSION);
    raw.put_u128_le(speaker.cluster.get());
    raw.put_u64_le(speaker.node.get());
    raw.put_u64_le(to.get());
    raw.put_u128_le(speaker.incarnation.get());
    let crc = crc32fast::hash(&raw);
    raw.put_u32_le(crc);
    raw[..].try_into().expect("a greeting has a fixed length")
}

/// Who greets, and which life of it, or the reason to refuse.
pub(crate) fn judge_greeting(
    speaker: Speaker,
    raw: &[u8; GREETING_BYTES],
) -> Result<(NodeId, Incarnation), u8> {
    let mut fields = &raw[8..];
    let version = fields.get_u32_le();
    if &raw[..8] != MAGIC || version != VERSION {
        return Err(REFUSED_VERSION);
    }
    let crc = u32::from_le_bytes(raw[GREETING_BYTES - 4..].try_into().expect("four bytes"));
    if crc32fast::hash(&raw[..GREETING_BYTES - 4]) != crc {
        return Err(REFUSED_VERSION);
    }
    if fields.get_u128_le() != speaker.cluster.get() {
        return Err(REFUSED_CLUSTER);
    }
    let from = fields.get_u64_le();
    if fields.get_u64_le() != speaker.node.get() || from == speaker.node.get() {
        return Err(REFUSED_NODE);
    }
    Ok((NodeId::new(from), Incarnation::new(fields.get_u128_le())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Body;
    use palisade_wal::{GroupId, LogIndex};

    fn speaker(node: u64) -> Speaker {
        Speaker {
            cluster: ClusterId::new(77),
            node: NodeId::new(node),
            incarnation: Incarnation::new(5),
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
        let known = || Acquaintances::open(dir.path()).unwrap();
        let (sender, mut received) = mpsc::unbounded_channel();
        let deliver = move |envelope| sender.send(envelope).unwrap();
        let _two = TcpTransport::start(
            speaker(2),
            known(),
            Some(listener),
            BTreeMap::new(),
            1 << 20,
            deliver,
        );
        let one = TcpTransport::start(
            speaker(1),
            known(),
            None,
            BTreeMap::from([(NodeId::new(2), address)]),
            1 << 20,
            |_| {},
        );
        for index in 0..100 {
            one.send(envelope(1, 2, index));
        }
        for index in 0..100 {
            assert_eq!(received.recv().await, Some(envelope(1, 2, index)));
        }
    }

    #[test]
    fn a_greeting_is_judged_by_cluster_node_and_version() {
        let two = speaker(2);
        let good = encode_greeting(speaker(1), NodeId::new(2));
        assert_eq!(judge_greeting(two, &good), Ok((NodeId::new(1), Incarnation::new(5))));
        assert_eq!(
            judge_greeting(two, &encode_greeting(speaker(1), NodeId::new(3))),
            Err(REFUSED_NODE)
        );
        assert_eq!(
            judge_greeting(two, &encode_greeting(speaker(2), NodeId::new(2))),
            Err(REFUSED_NODE)
        );
        let foreign = Speaker { cluster: ClusterId::new(78), ..speaker(1) };
        assert_eq!(
            judge_greeting(two, &encode_greeting(foreign, NodeId::new(2))),
            Err(REFUSED_CLUSTER)
        );
        for at in 0..GREETING_BYTES {
            let mut bad = good;
            bad[at] ^= 4;
            assert!(judge_greeting(two, &bad).is_err(), "at={at}");
        }
    }

    #[test]
    fn a_damaged_or_endless_frame_ends_the_connection() {
        let mut out = BytesMut::new();
        put_frame(&mut out, &envelope(1, 2, 3));
        let good = out.clone();
        assert_eq!(take_frame(&mut out).unwrap(), Some(envelope(1, 2, 3)));
        for cut in 0..good.len() {
            assert_eq!(take_frame(&mut BytesMut::from(&good[..cut])).unwrap(), None);
        }
        for at in 4..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(take_frame(&mut bad).is_err(), "at={at}");
        }
        let mut endless = BytesMut::from(&[0xff; 16][..]);
        assert!(take_frame(&mut endless).is_err());
    }
}
