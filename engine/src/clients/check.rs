//! The rows of a group's clients, read from front to back, and what must be so of them (S1 to S3).

use std::collections::BTreeMap;

use palisade_replication::{GroupId, LogTime, Offset};

use super::CLIENT_COMMANDS_MAX;
use super::reply::Reply;
use super::rows::{Client, FAMILY, Header, last_two};
use super::table::{ANSWER_BYTES, CLIENT_BYTES};
use crate::keys;
use crate::outcome::{Outcome, Stamp};
use crate::projection::Registry;
use crate::store::{Direction, StateRead, Walk};

/// A client and its answers.
pub(crate) type Kept = (Client, BTreeMap<u64, (Stamp, Outcome)>);

/// All clients, which are as they must be.
pub(crate) fn clients(
    read: &dyn StateRead,
    registry: &Registry,
    group: GroupId,
) -> BTreeMap<Offset, Kept> {
    let (from, end) = keys::of_group(FAMILY, group).unwrap();
    let (mut clients, mut queues) = (BTreeMap::<Offset, Kept>::new(), [Vec::new(), Vec::new()]);
    let mut bytes = 0;
    let mut each = |key: &[u8], value: &[u8]| {
        let (tag, rest) = (key[8], &key[9..]);
        match tag {
            b'c' => {
                let id = Offset::new(u64::from_be_bytes(rest.try_into().unwrap()));
                let client = Client::load(read, group, id).unwrap().unwrap();
                bytes += CLIENT_BYTES;
                clients.insert(id, (client, BTreeMap::new()));
            }
            b'r' => {
                let (id, seq) = last_two(key).unwrap();
                let raw = value.to_vec().into();
                let reply = Reply::decode(raw, registry).unwrap();
                assert_eq!(reply.encode().unwrap(), value, "E8");
                bytes += ANSWER_BYTES + value.len() as u64;
                let (client, replies) = clients.get_mut(&Offset::new(id)).expect("S1: its client");
                let window =
                    client.acked_up_to + 1..=client.acked_up_to + CLIENT_COMMANDS_MAX as u64;
                assert!(window.contains(&seq), "S1: {seq} is in {window:?}");
                replies.insert(seq, (reply.stamp, reply.outcome));
            }
            b'e' => queues[0].push(last_two(key).unwrap()),
            b'u' => queues[1].push(last_two(key).unwrap()),
            _ => assert_eq!((tag, rest), (b'h', &b""[..])),
        }
        Walk::Next
    };
    read.walk(FAMILY, &from, &end, Direction::Forward, &mut each).unwrap();
    let header = Header::load(read, group).unwrap();
    assert_eq!((header.clients, header.bytes), (clients.len() as u64, bytes), "S2");
    let lowest = [header.ends_from, header.used_from].map(LogTime::get);
    let times: [fn(&Client) -> LogTime; 2] = [|client| client.ends, |client| client.used];
    for ((queue, time), lowest) in queues.iter().zip(times).zip(lowest) {
        let wanted = clients.iter().map(|(id, (client, _))| (time(client).get(), id.get()));
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort_unstable();
        assert_eq!(*queue, wanted, "S3");
        assert!(queue.first().is_none_or(|(first, _)| lowest <= *first), "queues begin there");
    }
    clients
}
