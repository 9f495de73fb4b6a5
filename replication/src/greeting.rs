//! How a connection begins: who speaks to whom, and what the other side remembers of who speaks.
//!
//! ```text
//! greeting   magic 8, version 4, cluster 16, from 8, to 8, incarnation 16, listens at: address 16
//!            and port 2 (0: nowhere), crc32 4
//! answer     1 byte: 0 welcome, otherwise the reason (1 another cluster, 2 another node, 3 another
//!            version, 4 the greeting's checksum is wrong, 5 the certificate is of another node); after a
//!            welcome, own incarnation 16, and 1 byte: 1 if the greeter is known in this life and in no
//!            other; then the age of the greeter's directory as it told last, 8, and its draw 8, or zeros
//! ```
//! Little-endian.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::acquaintances::Met;
use crate::ages::Age;
use crate::identity::{ClusterId, Incarnation, NodeId};
use crate::peer_faults::PeerFault;

const MAGIC: &[u8; 8] = b"PLSDPEER";
const VERSION: u32 = 2;
pub(crate) const GREETING_BYTES: usize = 82;
const WELCOME: u8 = 0;
/// Why a greeting is refused, as it is answered.
const REASONS: [(u8, PeerFault); 5] = [
    (1, PeerFault::ForeignCluster),
    (2, PeerFault::WrongNode),
    (3, PeerFault::UnknownVersion),
    (4, PeerFault::Corrupt),
    (5, PeerFault::WrongIdentity),
];

/// Who speaks, as every connection is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Speaker {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Where it can be answered.
    pub(crate) listens_at: Option<SocketAddr>,
}

/// What a peer answered.
pub(crate) enum Answer {
    Welcome {
        /// The peer's own.
        incarnation: Incarnation,
        /// What it remembers.
        met: Met,
    },
    Refused(u8),
}

impl Answer {
    /// Why it refused, for people.
    pub(crate) fn reason(reason: u8) -> String {
        let why = REASONS.iter().find(|(known, _)| *known == reason);
        why.map_or_else(|| reason.to_string(), |(_, fault)| format!("{fault:?}"))
    }

    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        match stream.read_u8().await? {
            WELCOME => {
                let incarnation = Incarnation::new(stream.read_u128_le().await?);
                let same = stream.read_u8().await? == 1;
                let (count, draw) = (stream.read_u64_le().await?, stream.read_u64_le().await?);
                Ok(Self::Welcome { incarnation, met: Met { same, age: Age { count, draw } } })
            }
            reason => Ok(Self::Refused(reason)),
        }
    }
}

/// The answer to a greeting that is taken.
pub(crate) fn encode_welcome(own: Incarnation, met: Met) -> BytesMut {
    let mut answer = BytesMut::with_capacity(34);
    answer.put_u8(WELCOME);
    answer.put_u128_le(own.get());
    answer.put_u8(met.same.into());
    answer.put_u64_le(met.age.count);
    answer.put_u64_le(met.age.draw);
    answer
}

/// The answer to a greeting that is refused, if there is one for it.
pub(crate) fn encode_refusal(fault: PeerFault) -> Option<[u8; 1]> {
    REASONS.iter().find(|(_, known)| *known == fault).map(|(reason, _)| [*reason])
}

pub(crate) fn encode_greeting(speaker: Speaker, to: NodeId) -> [u8; GREETING_BYTES] {
    let mut raw = BytesMut::with_capacity(GREETING_BYTES);
    raw.put_slice(MAGIC);
    raw.put_u32_le(VERSION);
    raw.put_u128_le(speaker.cluster.get());
    raw.put_u64_le(speaker.node.get());
    raw.put_u64_le(to.get());
    raw.put_u128_le(speaker.incarnation.get());
    let (ip, port) = match speaker.listens_at.map(|address| (address.ip(), address.port())) {
        None => (Ipv6Addr::UNSPECIFIED, 0),
        Some((IpAddr::V4(ip), port)) => (ip.to_ipv6_mapped(), port),
        Some((IpAddr::V6(ip), port)) => (ip, port),
    };
    raw.put_slice(&ip.octets());
    raw.put_u16_le(port);
    let crc = crc32fast::hash(&raw);
    raw.put_u32_le(crc);
    raw[..].try_into().expect("a greeting has a fixed length")
}

/// Who greets, or the reason to refuse.
pub(crate) fn judge_greeting(
    speaker: Speaker,
    raw: &[u8; GREETING_BYTES],
) -> Result<Speaker, PeerFault> {
    let mut fields = &raw[8..];
    let version = fields.get_u32_le();
    if &raw[..8] != MAGIC || version != VERSION {
        return Err(PeerFault::UnknownVersion);
    }
    let crc = u32::from_le_bytes(raw[GREETING_BYTES - 4..].try_into().expect("four bytes"));
    if crc32fast::hash(&raw[..GREETING_BYTES - 4]) != crc {
        return Err(PeerFault::Corrupt);
    }
    if fields.get_u128_le() != speaker.cluster.get() {
        return Err(PeerFault::ForeignCluster);
    }
    let from = fields.get_u64_le();
    if fields.get_u64_le() != speaker.node.get() || from == speaker.node.get() {
        return Err(PeerFault::WrongNode);
    }
    let incarnation = Incarnation::new(fields.get_u128_le());
    let mut ip = [0; 16];
    fields.copy_to_slice(&mut ip);
    let (ip, port) = (Ipv6Addr::from(ip).to_canonical(), fields.get_u16_le());
    let listens_at = (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip, port));
    Ok(Speaker { cluster: speaker.cluster, node: NodeId::new(from), incarnation, listens_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaker(node: u64) -> Speaker {
        Speaker {
            cluster: ClusterId::new(77),
            node: NodeId::new(node),
            incarnation: Incarnation::new(5),
            listens_at: Some(SocketAddr::from(([127, 0, 0, 1], 4000))),
        }
    }

    #[test]
    fn a_greeting_is_judged_by_cluster_node_and_version() {
        let two = speaker(2);
        let good = encode_greeting(speaker(1), NodeId::new(2));
        assert_eq!(judge_greeting(two, &good), Ok(speaker(1)));
        let nowhere = Speaker { listens_at: None, ..speaker(1) };
        assert_eq!(judge_greeting(two, &encode_greeting(nowhere, NodeId::new(2))), Ok(nowhere));
        assert_eq!(
            judge_greeting(two, &encode_greeting(speaker(1), NodeId::new(3))),
            Err(PeerFault::WrongNode)
        );
        assert_eq!(
            judge_greeting(two, &encode_greeting(speaker(2), NodeId::new(2))),
            Err(PeerFault::WrongNode)
        );
        let foreign = Speaker { cluster: ClusterId::new(78), ..speaker(1) };
        assert_eq!(
            judge_greeting(two, &encode_greeting(foreign, NodeId::new(2))),
            Err(PeerFault::ForeignCluster)
        );
        for at in 0..GREETING_BYTES {
            let mut bad = good;
            bad[at] ^= 4;
            assert!(judge_greeting(two, &bad).is_err(), "at={at}");
        }
    }
    #[tokio::test]
    async fn an_answer_says_what_is_remembered() {
        let (own, age) = (Incarnation::new(7 << 70), Age { count: 3, draw: u64::MAX });
        for same in [false, true] {
            let said = Met { same, age };
            let read = Answer::read(&mut &encode_welcome(own, said)[..]).await.unwrap();
            let Answer::Welcome { incarnation, met } = read else { panic!("a welcome") };
            assert_eq!((incarnation, met), (own, said));
        }
        let refusal = encode_refusal(PeerFault::WrongNode).unwrap();
        let Answer::Refused(reason) = Answer::read(&mut &refusal[..]).await.unwrap() else {
            panic!("no welcome")
        };
        assert_eq!(Answer::reason(reason), "WrongNode");
        assert_eq!(encode_refusal(PeerFault::Stalled), None);
    }
}
