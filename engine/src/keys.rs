//! Every stored key. Group first, big-endian, so that scans go in the order users see.
//!
//! ```text
//! family       key                                          value
//! meta         'o'                                          whose state this is, and its format
//!              'p' group                                    applied position and chain head
//! resources    'i' group resource                           the resource's record
//! log          group resource offset                        payload
//! map          group resource key* !offset                  value
//! idempotency  'k' group resource key*                      the request's record
//!              't' group resource log_time key*             nothing: requests by age
//!              'c' group resource                           which requests are kept
//! another      group resource ...                           what its projection keeps
//! ```
//! `key*` is the user's key with every zero byte as `00 ff` and `00 01` at its end, so that keys
//! keep their order and none is the beginning of another. `!offset` is the offset's complement: the
//! newest version of a key comes first.

use palisade_replication::{GroupId, LogTime, Offset};

use crate::resource::ResourceId;
use crate::store::FamilyId;

pub(crate) const OWNER: &[u8] = b"o";

fn prefix(tag: Option<u8>, group: GroupId, resource: ResourceId) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.extend(tag);
    key.extend_from_slice(&group.get().to_be_bytes());
    key.extend_from_slice(&resource.0.to_be_bytes());
    key
}

pub(crate) fn position(group: GroupId) -> Vec<u8> {
    let mut key = vec![b'p'];
    key.extend_from_slice(&group.get().to_be_bytes());
    key
}

pub(crate) fn resource(group: GroupId, resource: ResourceId) -> Vec<u8> {
    prefix(Some(b'i'), group, resource)
}

/// All resources of a group: from, end.
pub(crate) fn resources(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    let mut from = vec![b'i'];
    from.extend_from_slice(&group.get().to_be_bytes());
    let end = after(&from);
    (from, end)
}

/// Everything that a family holds of a group: from, end. Families of state only.
pub(crate) fn of_group(family: FamilyId, group: GroupId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let tags: &[Option<u8>] = match family {
        FamilyId::META => &[],
        FamilyId::RESOURCES => &[Some(b'i')],
        FamilyId::IDEMPOTENCY => &[Some(b'c'), Some(b'k'), Some(b't')],
        _ => &[None],
    };
    let range = |tag: &Option<u8>| {
        let mut from: Vec<u8> = tag.iter().copied().collect();
        from.extend_from_slice(&group.get().to_be_bytes());
        let end = after(&from);
        (from, end)
    };
    tags.iter().map(range).collect()
}

pub(crate) fn log(group: GroupId, resource: ResourceId, offset: Offset) -> Vec<u8> {
    let mut key = prefix(None, group, resource);
    key.extend_from_slice(&offset.get().to_be_bytes());
    key
}

/// The offset at the end of a log's key.
pub(crate) fn log_offset(key: &[u8]) -> Option<Offset> {
    Some(Offset::new(u64::from_be_bytes(*key.last_chunk()?)))
}

/// All versions of a map's key start with this.
pub(crate) fn map_key(group: GroupId, resource: ResourceId, key: &[u8]) -> Vec<u8> {
    let mut out = prefix(None, group, resource);
    escape(&mut out, key);
    out
}

/// Where the keys of a map that are not below `from` start.
pub(crate) fn map_from(group: GroupId, resource: ResourceId, from: &[u8]) -> Vec<u8> {
    let mut out = prefix(None, group, resource);
    escape_bytes(&mut out, from);
    out
}

pub(crate) fn map_version(mut map_key: Vec<u8>, offset: Offset) -> Vec<u8> {
    map_key.extend_from_slice(&(!offset.get()).to_be_bytes());
    map_key
}

/// The user's key and the version in a map's key.
pub(crate) fn split_map_version(key: &[u8]) -> Option<(Vec<u8>, Offset)> {
    let (escaped, version) = key.get(12..)?.split_last_chunk::<8>()?;
    Some((unescape(escaped)?, Offset::new(!u64::from_be_bytes(*version))))
}

/// Behind everything that starts with the group and the resource.
pub(crate) fn resource_end(group: GroupId, resource: ResourceId) -> Vec<u8> {
    after(&prefix(None, group, resource))
}

pub(crate) fn request(group: GroupId, resource: ResourceId, key: &[u8]) -> Vec<u8> {
    let mut out = prefix(Some(b'k'), group, resource);
    escape(&mut out, key);
    out
}

pub(crate) fn request_age(
    group: GroupId,
    resource: ResourceId,
    log_time: LogTime,
    key: &[u8],
) -> Vec<u8> {
    let mut out = prefix(Some(b't'), group, resource);
    out.extend_from_slice(&log_time.get().to_be_bytes());
    escape(&mut out, key);
    out
}

/// The requests of a store that are not older than this, by age: from, end.
pub(crate) fn request_ages(
    group: GroupId,
    resource: ResourceId,
    since: LogTime,
) -> (Vec<u8>, Vec<u8>) {
    let mut from = prefix(Some(b't'), group, resource);
    let end = after(&from);
    from.extend_from_slice(&since.get().to_be_bytes());
    (from, end)
}

/// The log time and the user's key in an age key.
pub(crate) fn split_request_age(key: &[u8]) -> Option<(LogTime, Vec<u8>)> {
    let (log_time, escaped) = key.get(13..)?.split_first_chunk::<8>()?;
    Some((LogTime::new(u64::from_be_bytes(*log_time)), unescape(escaped)?))
}

pub(crate) fn request_window(group: GroupId, resource: ResourceId) -> Vec<u8> {
    prefix(Some(b'c'), group, resource)
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

fn escape_bytes(out: &mut Vec<u8>, key: &[u8]) {
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
}

fn escape(out: &mut Vec<u8>, key: &[u8]) {
    escape_bytes(out, key);
    out.extend_from_slice(&[0, 1]);
}

/// The key that was escaped, if these are the bytes of a whole one.
fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
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

    const GROUP: GroupId = GroupId::new(1);
    const RESOURCE: ResourceId = ResourceId(2);

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn map_keys_keep_order_newest_first(a in key(), b in key(), x: u64, y: u64) {
            let version = |key: &[u8], at| map_version(map_key(GROUP, RESOURCE, key), Offset::new(at));
            let expected = a.cmp(&b).then(y.cmp(&x));
            prop_assert_eq!(version(&a, x).cmp(&version(&b, y)), expected);
            prop_assert_eq!(split_map_version(&version(&a, x)), Some((a.clone(), Offset::new(x))));
            prop_assert!(version(&a, x) < resource_end(GROUP, RESOURCE));
            // A bound lies between what is below it and what is not.
            prop_assert_eq!(version(&a, x) >= map_from(GROUP, RESOURCE, &b), a >= b);
        }

        #[test]
        fn ages_come_oldest_first(a in key(), b in key(), x: u64, y: u64) {
            let age = |key: &[u8], at| request_age(GROUP, RESOURCE, LogTime::new(at), key);
            prop_assert_eq!(age(&a, x).cmp(&age(&b, y)), x.cmp(&y).then(a.cmp(&b)));
            prop_assert_eq!(split_request_age(&age(&a, x)), Some((LogTime::new(x), a)));
        }

        #[test]
        fn splitting_never_panics(raw in vec(any::<u8>(), 0..40)) {
            let _ = (split_map_version(&raw), split_request_age(&raw), log_offset(&raw));
        }
    }
}
