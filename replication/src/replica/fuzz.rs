//! What fuzzing calls of what lies within a message of raft, or an entry: who exactly a change of
//! membership is about, and the offer of a snapshot.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Snapshot};

use super::members::{Described, conf_state};
use super::raft_codec;
use super::snapshots::{decode_offer, encode_offer};
use crate::identity::{Incarnation, NodeId};
use crate::membership::{Member, Membership};
use crate::snapshot::Manifest;

/// Whether the bytes are what describes a change, or a change of raft's that carries such.
pub(crate) fn change(raw: &[u8]) -> bool {
    let is_described = |raw: &[u8]| {
        let Some(described) = Described::decode(raw) else { return false };
        // What is demanded may stand anywhere, and more than once.
        assert_eq!(Described::decode(&described.encode()), Some(described));
        true
    };
    let carried = raft_codec::conf_change(raw);
    is_described(raw) || carried.is_ok_and(|change| is_described(&change.context))
}

/// One of each: named for the file that it comes to.
pub(crate) fn changes() -> Vec<(&'static str, Vec<u8>)> {
    let member = Member {
        incarnation: Some(Incarnation::new(5)),
        address: Some(([127, 0, 0, 1], 4000).into()),
        domain: "aws/us-east-1/a".to_owned(),
    };
    let known = vec![(NodeId::new(1), member), (NodeId::new(2), Member::default())];
    let described = Described { known, two_domains: true }.encode();
    let change = ConfChangeV2 { context: described.clone(), ..ConfChangeV2::default() };
    let carried = change.write_to_bytes().expect("a change encodes");
    vec![("described", described.to_vec()), ("carried", carried)]
}

/// Whether the bytes are a snapshot of raft's that offers one of ours.
pub(crate) fn offer(raw: &[u8]) -> bool {
    let Ok(mut snapshot) = Snapshot::parse_from_bytes(raw) else { return false };
    let Some(offered) = decode_offer(&snapshot) else { return false };
    // Members may be read in any order, and are written in one.
    snapshot.data = encode_offer(&offered.0, &offered.1);
    assert_eq!(decode_offer(&snapshot), Some(offered));
    true
}

/// A good one.
pub(crate) fn offer_of(members: &Membership, manifest: &Manifest) -> Vec<u8> {
    let mut snapshot = Snapshot { data: encode_offer(members, manifest), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = manifest.position.index.get();
    metadata.set_conf_state(conf_state(members));
    snapshot.write_to_bytes().expect("a snapshot encodes")
}
