//! Commits across failure domains: a demand of the whole group, once made never taken back.
//!
//! It is an entry of the log, as changes of membership are, and part of what they make: it is in the
//! register and in every snapshot, and so whoever leads enforces it (raft's group commit). A leader
//! enforces it from the moment the entry is in its log and not only once it is committed: a new leader
//! may hold the entry, and records behind it, without knowing that they were committed, and would
//! commit those by a majority in one domain.

use palisade_wal::LogIndex;
use raft::eraftpb::{Entry, EntryType};

use super::Replica;
use super::members::Described;
use super::raft_codec;
use crate::effects::Effects;
use crate::identity::NodeId;
use crate::membership::{ChangeRefusal, Member, MemberChange};
use crate::wire::Body;

/// A demand in the log that is not applied yet.
#[derive(Debug)]
pub(super) struct Demanded {
    index: LogIndex,
    /// Where its leader took everyone to be.
    known: Vec<(NodeId, Member)>,
}

impl Replica {
    /// What there is to say at once to who asks for commits across domains; nothing to a leader that is
    /// to make it so. Any other passes it on.
    pub(super) fn answer_demand(
        &mut self,
        effects: &mut Effects,
    ) -> Option<Result<(), ChangeRefusal>> {
        if self.members.two_domains {
            return Some(Ok(()));
        }
        if self.leads() {
            return None;
        }
        let to = self.leader()?;
        effects.send.push(self.envelope(to, Body::Demand));
        Some(Err(ChangeRefusal::InProgress))
    }

    /// Another node passes a demand on.
    pub(super) fn on_demand(&mut self) {
        if self.leads()
            && !self.members.two_domains
            && let Err(refusal) = self.propose_change(&MemberChange::AcrossDomains)
        {
            // Whoever wants it asks again.
            tracing::debug!(group = %self.config.group, %refusal, "commits across domains not demanded");
        }
    }

    /// Entries take the place of what the log held from the first of them on.
    pub(super) fn note_demands(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let before = self.demanded.is_some();
        self.demanded.take_if(|demanded| first.index <= demanded.index.get());
        let demands = entries.iter().filter_map(demand_of);
        self.demanded = demands.last().or(self.demanded.take());
        if before || self.demanded.is_some() {
            self.assign_domains();
        }
    }

    /// A demand up to here is part of the membership, or gone with the log that held it.
    pub(super) fn forget_demand(&mut self, up_to: LogIndex) {
        self.demanded.take_if(|demanded| demanded.index <= up_to);
    }

    /// Tells raft which members fail together, if a commit must reach two failure domains.
    pub(super) fn assign_domains(&mut self) {
        let demanded = self.members.two_domains || self.demanded.is_some();
        if self.raw.raft.group_commit() != demanded {
            self.raw.raft.enable_group_commit(demanded);
        }
        if !demanded {
            return;
        }
        let mut members = self.members.clone();
        for (node, known) in self.demanded.iter().flat_map(|demanded| &demanded.known) {
            if let Some(member) = members.members.get_mut(node) {
                member.domain.clone_from(&known.domain);
            }
        }
        // Voters of one domain alone would count as if nobody had demanded anything.
        assert!(
            !self.leads() || members.voter_domains().len() >= 2,
            "a commit must reach two domains, and the voters are in {:?}",
            members.voter_domains()
        );
        let mut names: Vec<&String> = members.members.values().map(|m| &m.domain).collect();
        names.sort_unstable();
        names.dedup();
        let numbered: Vec<(u64, u64)> = members
            .members
            .iter()
            // Who is nowhere known counts for no domain.
            .filter(|(_, member)| !member.domain.is_empty())
            .map(|(node, member)| {
                let at = names.binary_search(&&member.domain).expect("every domain is listed");
                (node.get(), at as u64 + 1)
            })
            .collect();
        self.raw.raft.clear_commit_group();
        self.raw.raft.assign_commit_groups(&numbered);
    }
}

/// The demand that an entry makes.
pub(super) fn demand_of(entry: &Entry) -> Option<Demanded> {
    if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
        return None;
    }
    // One that cannot be read ends the replica when it is committed.
    let change = raft_codec::conf_change(&entry.data).ok()?;
    let described = Described::decode(&change.context).filter(|described| described.two_domains)?;
    Some(Demanded { index: LogIndex::new(entry.index), known: described.known })
}

#[cfg(test)]
mod tests {
    use palisade_wal::{Wal, WalIdentity, WalOptions};

    use super::super::scenarios::{Replicas, life, options};
    use super::super::{Replica, ReplicaConfig};
    use super::*;
    use crate::effects::{Effects, Input, WallTime};

    const NOW: WallTime = WallTime::from_ms(1);

    fn step(replica: &mut Replica, input: Input) -> Effects {
        let (effects, ended) = replica.step(NOW, [input]);
        ended.unwrap();
        effects
    }

    /// A follower that holds the demand and does not know that it is committed would commit what lies
    /// behind it by a majority in one domain, should it lead next.
    #[test]
    fn a_demand_is_enforced_from_the_log_on() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        let follower = *three.nodes.keys().find(|id| **id != leader).unwrap();
        let other = *three.nodes.keys().find(|id| ![leader, follower].contains(id)).unwrap();
        let change = MemberChange::AcrossDomains;
        let leads = &mut three.nodes.get_mut(&leader).unwrap().replica;
        let asked = step(leads, Input::Change { token: 1, change });
        assert!(leads.raw.raft.group_commit(), "by the leader before it is sent");
        let last = leads.raw.raft.raft_log.last_index();
        let append = asked.send.into_iter().find(|envelope| envelope.to == follower).unwrap();

        let node = three.nodes.get_mut(&follower).unwrap();
        let taken = step(&mut node.replica, Input::Peer { envelope: append, life: life(leader) });
        assert_eq!(node.replica.raw.raft.raft_log.last_index(), last);
        assert!(node.replica.raw.raft.raft_log.committed < last);
        assert!(!node.replica.members.two_domains, "not committed, as far as it knows");
        assert!(node.replica.raw.raft.group_commit());

        // So it is after a restart.
        for write in &taken.writes {
            node.wal.submit(&write.writes).unwrap();
            node.wal.write_queued().unwrap();
            node.wal.sync().unwrap();
        }
        let config = node.replica.config.clone();
        let disk = node.disk.clone();
        let identity = WalIdentity { cluster: 1, node: follower.get(), incarnation: 1 };
        three.nodes.remove(&follower);
        let (wal, found) =
            Wal::open(std::sync::Arc::new(disk), identity, WalOptions::default()).unwrap();
        let group = config.group;
        let found = &found.groups[&group];
        let open = |config: ReplicaConfig| {
            let state = crate::register::Register::decode(found.state.as_ref().unwrap()).unwrap();
            Replica::open(config, Some(found), wal.reader(), state.base).unwrap()
        };
        let mut replica = open(config);
        assert!(!replica.members.two_domains);
        assert!(replica.raw.raft.group_commit());

        // Another leader, without the entry, takes it out of the log, and with it the demand.
        let mut message = raft::eraftpb::Message { from: other.get(), ..Default::default() };
        message.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
        (message.to, message.term) = (follower.get(), replica.raw.raft.term + 1);
        (message.index, message.log_term) = (last - 1, replica.raw.raft.term);
        let entry = Entry { index: last, term: message.term, ..Entry::default() };
        message.set_entries(vec![entry].into());
        let body = protobuf::Message::write_to_bytes(&message).unwrap();
        let body = Body::Raft(body.into());
        let envelope = crate::wire::Envelope { group, from: other, to: follower, body };
        let replaced = step(&mut replica, Input::Peer { envelope, life: life(other) });
        assert!(!replaced.writes.is_empty());
        assert!(!replica.raw.raft.group_commit());
    }

    /// A demand is made when no change before it is under way, so who holds it holds changes that were
    /// committed, also if its register does not say so yet. Without them its voters may be in one domain.
    #[test]
    fn what_was_changed_before_a_demand_is_committed() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        let follower = *three.nodes.keys().find(|id| **id != leader).unwrap();
        let node = three.nodes.get_mut(&follower).unwrap();
        for member in node.replica.members.members.values_mut() {
            "a".clone_into(&mut member.domain);
        }
        node.replica.register_dirty = true;

        let described = |two_domains, id: u64, domain: &str| {
            let member = Member { domain: domain.to_owned(), ..Member::default() };
            let known = vec![(NodeId::new(id), member)];
            Described { known, two_domains }.encode()
        };
        let change = |id: u64, context| {
            let mut single = raft::eraftpb::ConfChangeSingle::default();
            single.set_change_type(raft::eraftpb::ConfChangeType::AddNode);
            single.node_id = id;
            let mut change = raft::eraftpb::ConfChangeV2::default();
            change.set_changes(vec![single].into());
            change.context = context;
            bytes::Bytes::from(protobuf::Message::write_to_bytes(&change).unwrap())
        };
        let raft = &node.replica.raw.raft;
        let (last, term) = (raft.raft_log.last_index(), raft.term);
        let entries = [
            change(4, described(false, 4, "b")),
            change(leader.get(), described(true, leader.get(), "a")),
        ];
        let entries = (1..).zip(entries).map(|(at, data)| {
            let mut entry = Entry { index: last + at, term, data, ..Entry::default() };
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry
        });
        let mut message = raft::eraftpb::Message { from: leader.get(), term, ..Default::default() };
        message.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
        (message.to, message.index, message.log_term) = (follower.get(), last, term);
        message.set_entries(entries.collect::<Vec<_>>().into());
        let body = Body::Raft(protobuf::Message::write_to_bytes(&message).unwrap().into());
        let group = node.replica.config.group;
        let envelope = crate::wire::Envelope { group, from: leader, to: follower, body };
        let taken = step(&mut node.replica, Input::Peer { envelope, life: life(leader) });
        for write in &taken.writes {
            node.wal.submit(&write.writes).unwrap();
            node.wal.write_queued().unwrap();
            node.wal.sync().unwrap();
        }
        let (config, disk) = (node.replica.config.clone(), node.disk.clone());
        three.nodes.remove(&follower);

        let identity = WalIdentity { cluster: 1, node: follower.get(), incarnation: 1 };
        let (wal, found) =
            Wal::open(std::sync::Arc::new(disk), identity, WalOptions::default()).unwrap();
        let found = &found.groups[&group];
        let state = crate::register::Register::decode(found.state.as_ref().unwrap()).unwrap();
        let mut replica = Replica::open(config, Some(found), wal.reader(), state.base).unwrap();
        assert_eq!(replica.members.voter_domains().len(), 1, "the register says no more");
        let (effects, ended) = replica.step(NOW, []);
        ended.unwrap();
        assert!(!effects.apply.is_empty());
        replica.raw.raft.become_candidate();
        replica.raw.raft.become_leader();
        replica.step(NOW, []).1.unwrap();
        assert!(replica.raw.raft.group_commit());
        assert_eq!(replica.members.voter_domains().len(), 2);
    }
}
