//! The one place where bytes become messages of the consensus library.
//!
//! Some messages that its codec takes make the library panic, which would halt the node: their shape is
//! checked here. The codec itself (protobuf 2.28) descends as deep as raft's messages are nested, four
//! levels, and refuses a group within a group; the tests hold it to that, see `.deny.toml` for the
//! advisory that says otherwise of other releases.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Message, MessageType};

/// Why bytes are not what they are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(&'static str);

/// Reads a message between replicas.
pub(crate) fn message(raw: &[u8]) -> Result<Message, Unreadable> {
    let message = Message::parse_from_bytes(raw).map_err(|_| Unreadable("is no raft message"))?;
    check_entries(&message)?;
    Ok(message)
}

/// Reads a change of membership out of an entry.
pub(crate) fn conf_change(raw: &[u8]) -> Result<ConfChangeV2, Unreadable> {
    ConfChangeV2::parse_from_bytes(raw).map_err(|_| Unreadable("is no change of membership"))
}

/// What raft takes for granted of entries.
fn check_entries(message: &Message) -> Result<(), Unreadable> {
    let entries = message.get_entries();
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            let follow = entries.iter().zip(1..).all(|(entry, at)| {
                message.index.checked_add(at) == Some(entry.index) && entry.term <= message.term
            });
            if !follow || !entries.is_sorted_by_key(|entry| entry.term) {
                return Err(Unreadable("has entries that do not follow each other"));
            }
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if entries.len() != 1 => {
            return Err(Unreadable("asks for a read without saying which"));
        }
        MessageType::MsgReadIndex if message.term != 0 => {
            return Err(Unreadable("asks for a read of a term, which none has"));
        }
        _ => {}
    }
    if entries.iter().any(|entry| !entry.context.is_empty()) {
        return Err(Unreadable("has an entry with a context, which is not used"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{ConfChangeSingle, Entry, Snapshot};

    use super::*;

    /// The tag that begins a group of a field nobody knows.
    const BEGIN_GROUP: u8 = 20 << 3 | 3;
    /// Far more levels than a stack of 8 MiB has room for.
    const LEVELS: usize = 4 << 20;

    fn field(number: u8, inside: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inside.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inside);
        out
    }

    /// RUSTSEC-2024-0437: a codec that counts no levels ends the stack here, and with it this process.
    #[test]
    fn groups_in_groups_are_refused_wherever_they_lie() {
        // Two bytes of a tag: the field's number is above 15.
        let tag = [BEGIN_GROUP | 0x80, 1];
        let deep = tag.repeat(LEVELS);
        let in_entry = field(7, &deep);
        let in_snapshot = field(9, &deep);
        let in_metadata = field(9, &field(2, &deep));
        let in_members = field(9, &field(2, &field(1, &deep)));
        for raw in [deep.clone(), in_entry, in_snapshot, in_metadata, in_members] {
            assert!(message(&raw).is_err());
        }
        assert!(conf_change(&deep).is_err());
        assert!(conf_change(&field(2, &deep)).is_err());
    }

    #[test]
    fn messages_and_changes_come_back_as_they_were_sent() {
        let payload = [BEGIN_GROUP | 0x80, 1].repeat(100);
        let entry = Entry { index: 9, term: 4, data: payload.clone().into(), ..Entry::default() };
        let mut sent = Message { from: 1, to: 2, term: 4, index: 8, ..Message::default() };
        sent.set_msg_type(MessageType::MsgAppend);
        sent.set_entries(vec![entry].into());
        sent.context = payload.clone().into();
        assert_eq!(message(&sent.write_to_bytes().unwrap()), Ok(sent));

        let mut sent = Message { from: 1, to: 2, term: 4, ..Message::default() };
        sent.set_msg_type(MessageType::MsgSnapshot);
        let mut snapshot = Snapshot { data: payload.clone().into(), ..Snapshot::default() };
        snapshot.mut_metadata().index = 7;
        snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2, 300];
        sent.set_snapshot(snapshot);
        assert_eq!(message(&sent.write_to_bytes().unwrap()), Ok(sent));

        let mut change = ConfChangeV2 { context: payload.into(), ..ConfChangeV2::default() };
        change.set_changes(vec![ConfChangeSingle { node_id: 3, ..Default::default() }].into());
        assert_eq!(conf_change(&change.write_to_bytes().unwrap()), Ok(change));
    }

    #[test]
    fn entries_that_would_make_raft_panic_are_refused() {
        let append = |entries: &[(u64, u64)]| {
            let entry = |(index, term): &(u64, u64)| Entry {
                index: *index,
                term: *term,
                ..Entry::default()
            };
            let mut sent = Message { from: 1, to: 2, term: 4, index: 8, ..Message::default() };
            sent.set_msg_type(MessageType::MsgAppend);
            sent.set_entries(entries.iter().map(entry).collect::<Vec<_>>().into());
            sent
        };
        let read = |sent: &Message| message(&sent.write_to_bytes().unwrap());
        assert!(read(&append(&[(9, 3), (10, 4)])).is_ok());
        for broken in [&[(9, 3), (11, 4)][..], &[(8, 3)], &[(9, 4), (10, 3)], &[(9, 5)]] {
            assert!(read(&append(broken)).is_err(), "{broken:?}");
        }
        let mut with_context = append(&[(9, 3)]);
        with_context.mut_entries()[0].context = vec![1].into();
        assert!(read(&with_context).is_err());
        let mut end = append(&[(9, 3)]);
        end.index = u64::MAX;
        assert!(read(&end).is_err());
        let mut nothing = Message { from: 1, to: 2, term: 4, ..Message::default() };
        nothing.set_msg_type(MessageType::MsgReadIndex);
        assert!(read(&nothing).is_err());
        // raft panics when it hands on a question of a term.
        let mut question = Message { from: 1, to: 2, ..Message::default() };
        question.set_msg_type(MessageType::MsgReadIndex);
        question.set_entries(vec![Entry::default()].into());
        assert!(read(&question).is_ok());
        question.term = 4;
        assert!(read(&question).is_err());
    }
}
