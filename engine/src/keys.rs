//! Every stored key. Group first, big-endian, so that scans go in the order users see.
//!
//! ```text
//! family             key                                    value
//! meta               'o'                                    whose state this is, and its format
//!                    'g'                                    how many data groups there are
//!                    'p' group                              applied position and chain head
//!                    'l' group tag                          what is this node's own: `docs/comparing.md`
//! resources          group, then as `resource_row.rs` says  which resources there are
//!                    system group, then as `names.rs` says  which group a name belongs to
//! sessions           group row                              clients: `docs/sessions.md`
//! heads              group offset                           head of the chain at each 1024th offset
//! rebuild            group, then as `local.rs` of `projection/rebuild/` says
//! reports            group, then as `comparing/table.rs`    what replicas said of their states
//! spans              group, then as `comparing/spans.rs`    sums of the rows of all others but `meta`
//! of a projection    group resource row                     what the projection keeps there
//! ```
//! The rows of each projection are told in its own file. Where a user's key is in the middle of one, it
//! is escaped: every zero byte as `00 ff` and `00 01` at its end, so that keys keep their order and none
//! is the beginning of another.

use palisade_replication::{GroupId, NodeId, Offset};

use crate::bounds::SYSTEM_GROUP;
use crate::resource::{Affinity, ResourceId};
use crate::store::FamilyId;

pub(crate) const OWNER: &[u8] = b"o";
pub(crate) const GROUPS: &[u8] = b"g";

/// Length of what all keys of a resource begin with.
pub(crate) const RESOURCE_PREFIX_BYTES: usize = 8 + 4;

/// What all keys of a resource begin with, in the family of its projection.
pub(crate) fn of_resource(group: GroupId, resource: ResourceId) -> [u8; RESOURCE_PREFIX_BYTES] {
    let mut prefix = [0; RESOURCE_PREFIX_BYTES];
    prefix[..8].copy_from_slice(&group.get().to_be_bytes());
    prefix[8..].copy_from_slice(&resource.0.to_be_bytes());
    prefix
}

pub(crate) fn position(group: GroupId) -> Vec<u8> {
    let mut key = vec![b'p'];
    key.extend_from_slice(&group.get().to_be_bytes());
    key
}

fn tagged(group: GroupId, tag: u8, rest: &[u8]) -> Vec<u8> {
    [&group.get().to_be_bytes()[..], &[tag], rest].concat()
}

pub(crate) fn resource(group: GroupId, resource: ResourceId) -> Vec<u8> {
    tagged(group, b'i', &resource.0.to_be_bytes())
}

/// All resources of a group: from, end.
pub(crate) fn resources(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (tagged(group, b'i', &[]), tagged(group, b'i' + 1, &[]))
}

/// How many names and affinities there are, in the system group.
pub(crate) fn name_counts() -> Vec<u8> {
    tagged(SYSTEM_GROUP, b'g', &[])
}

/// Which group an affinity has.
pub(crate) fn affinity(affinity: &Affinity) -> Vec<u8> {
    tagged(SYSTEM_GROUP, b'l', affinity.as_str().as_bytes())
}

/// Which group a name has.
pub(crate) fn claimed_name(name: &str) -> Vec<u8> {
    tagged(SYSTEM_GROUP, b'k', name.as_bytes())
}

/// The highest claim that a resource of the group was opened with.
pub(crate) fn highest_claim(group: GroupId) -> Vec<u8> {
    tagged(group, b'h', &[])
}

/// The number of the resource that was made last.
pub(crate) fn last_resource(group: GroupId) -> Vec<u8> {
    tagged(group, b'c', &[])
}

/// Where a name says its number.
pub(crate) fn name(group: GroupId, name: &str) -> Vec<u8> {
    tagged(group, b'n', name.as_bytes())
}

/// All names of a group that begin with this: from, end.
pub(crate) fn names(group: GroupId, prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let from = name(group, prefix);
    let end = after(&from);
    (from, end)
}

pub(crate) fn alteration(group: GroupId, resource: ResourceId, revision: u64) -> Vec<u8> {
    let resource = resource.0.to_be_bytes();
    tagged(group, b'a', &[&resource[..], &revision.to_be_bytes()].concat())
}

/// How far a kind is that is or was to be rebuilt.
pub(crate) fn kind(group: GroupId, kind: &str) -> Vec<u8> {
    tagged(group, b'v', kind.as_bytes())
}

/// All of them: from, end.
pub(crate) fn kinds(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (tagged(group, b'v', &[]), tagged(group, b'v' + 1, &[]))
}

/// What a member can be rebuilt to.
pub(crate) fn member(group: GroupId, node: NodeId) -> Vec<u8> {
    tagged(group, b'm', &node.get().to_be_bytes())
}

/// What all members can be: from, end.
pub(crate) fn announced(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (tagged(group, b'm', &[]), tagged(group, b'm' + 1, &[]))
}

/// All alterations of a resource: from, end.
pub(crate) fn alterations(group: GroupId, resource: ResourceId) -> (Vec<u8>, Vec<u8>) {
    let from = tagged(group, b'a', &resource.0.to_be_bytes());
    let end = after(&from);
    (from, end)
}

/// The head of the chain at an offset.
pub(crate) fn head(group: GroupId, offset: Offset) -> Vec<u8> {
    [group.get().to_be_bytes(), offset.get().to_be_bytes()].concat()
}

/// A row of the node's own about a group: no other node is to have it.
fn local(group: GroupId, tag: u8) -> Vec<u8> {
    [&[b'l'][..], &group.get().to_be_bytes(), &[tag]].concat()
}

/// Which sums a group has.
pub(crate) fn sums_version(group: GroupId) -> Vec<u8> {
    local(group, b's')
}

/// What this replica's state came to at the last mark.
pub(crate) fn own_sums(group: GroupId) -> Vec<u8> {
    local(group, b'm')
}

/// Why this replica must not serve.
pub(crate) fn latch(group: GroupId) -> Vec<u8> {
    local(group, b'w')
}

/// The sums of a group's rows: from, end.
pub(crate) fn spans(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    let from = group.get().to_be_bytes().to_vec();
    let end = after(&from);
    (from, end)
}

/// The last mark of a group.
pub(crate) fn mark(group: GroupId) -> Vec<u8> {
    tagged(group, b'm', &[])
}

/// What a node reported of the last mark.
pub(crate) fn report(group: GroupId, node: NodeId) -> Vec<u8> {
    tagged(group, b'r', &node.get().to_be_bytes())
}

/// All reports of the last mark: from, end.
pub(crate) fn reports(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (tagged(group, b'r', &[]), tagged(group, b'r' + 1, &[]))
}

/// What was found at a record.
pub(crate) fn divergence(group: GroupId, found: Offset) -> Vec<u8> {
    tagged(group, b'd', &found.get().to_be_bytes())
}

/// Everything that was found: from, end.
pub(crate) fn divergences(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (tagged(group, b'd', &[]), tagged(group, b'd' + 1, &[]))
}

/// Everything that a family holds of a group's state, from and end; nothing of the families that say where
/// the replica stands, or what follows from the others.
pub(crate) fn of_group(family: FamilyId, group: GroupId) -> Option<(Vec<u8>, Vec<u8>)> {
    match family {
        FamilyId::META | FamilyId::SPANS => None,
        _ => {
            let from = group.get().to_be_bytes().to_vec();
            let end = after(&from);
            Some((from, end))
        }
    }
}

/// The least key that is above everything that starts with `prefix`.
pub(crate) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Nothing but 0xff: no key of ours is above it.
    vec![0xff; prefix.len() + 1]
}

/// The key as far as it goes, for a bound: what is escaped from it on is not below.
pub(crate) fn escape_bytes(out: &mut Vec<u8>, key: &[u8]) {
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
}

/// The key, and that it ends here.
pub(crate) fn escape(out: &mut Vec<u8>, key: &[u8]) {
    escape_bytes(out, key);
    out.extend_from_slice(&[0, 1]);
}

/// The key that was escaped, if these are the bytes of a whole one.
pub(crate) fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    loop {
        match rest.next()? {
            0 => match rest.next()? {
                0xff => key.push(0),
                1 if rest.as_slice().is_empty() => return Some(key),
                _ => return None,
            },
            byte => key.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    fn escaped(key: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        escape(&mut out, key);
        out
    }

    proptest! {
        /// Whatever follows them, escaped keys keep their order.
        #[test]
        fn escaped_keys_keep_their_order(a in key(), b in key(), x: u64, y: u64) {
            let row = |key: &[u8], more: u64| [escaped(key), more.to_be_bytes().to_vec()].concat();
            prop_assert_eq!(row(&a, x).cmp(&row(&b, y)), a.cmp(&b).then(x.cmp(&y)));
            prop_assert_eq!(unescape(&escaped(&a)), Some(a.clone()));
            // A bound lies between what is below it and what is not.
            let mut bound = Vec::new();
            escape_bytes(&mut bound, &b);
            prop_assert_eq!(row(&a, x) >= bound, a >= b);
        }

        #[test]
        fn a_resource_lies_between_its_neighbours(a: u32, b: u32, row in key()) {
            let group = GroupId::new(1);
            let key = [&of_resource(group, ResourceId(a))[..], &row].concat();
            let prefix = of_resource(group, ResourceId(b));
            prop_assert_eq!(key[..] >= prefix[..] && key < after(&prefix), a == b);
            let (from, end) = of_group(FamilyId::MAP, group).unwrap();
            prop_assert!(from <= key && key < end);
        }

        #[test]
        fn unescaping_never_panics(raw in vec(any::<u8>(), 0..40)) {
            let _ = unescape(&raw);
        }
    }
}
