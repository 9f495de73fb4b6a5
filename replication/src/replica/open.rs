//! Taking a replica up where its wal and its state left it.

use std::collections::{BTreeMap, VecDeque};

use palisade_wal::{LogIndex, RecoveredGroup, WalReader};
use raft::{Config, RawNode, ReadOnlyOption};

use super::domains::demand_of;
use super::probation::{Probation, stand};
use super::raft_codec;
use super::snapshots::Outgoing;
use super::vitals::Vitals;
use super::{Replica, ReplicaConfig, invariant};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::Term;
use crate::log_store::LogStore;
use crate::proposals::Pending;
use crate::reads::Reads;
use crate::register::Register;

impl Replica {
    /// Takes up the replica. `recovered` is `None` for a group that has never run here. If the state
    /// is behind the beginning of the log, a snapshot was being installed, and is asked for again
    /// with the first step.
    ///
    /// # Errors
    /// When the log is damaged or contradicts the state.
    pub(crate) fn open(
        config: ReplicaConfig,
        recovered: Option<&RecoveredGroup>,
        reader: WalReader,
        applied: AppliedPosition,
    ) -> Result<Self, NodeError> {
        config.options.validate()?;
        let (register, fresh) = open_register(&config, recovered)?;
        let group = config.group;
        let base = register.base;
        let installing =
            (applied.index < base.index && base != AppliedPosition::GENESIS).then_some(base.index);
        // What the log begins after counts as handed out; nobody has the entry before the first.
        let emitted = if applied.index < base.index { base } else { applied };
        let applied = if installing.is_some() { applied } else { emitted };
        // What was applied was committed, whatever the register still says.
        let commit = register.commit.max(emitted.index);
        let store = LogStore::open(
            group,
            reader,
            base,
            (register.term, register.vote, commit),
            super::members::conf_state(&register.members),
            config.options.entry_cache_bytes_max,
        )?;
        if store.last() < commit {
            return Err(NodeError::Damaged {
                what: format!(
                    "the log of group={group} lost its end, last={} committed={commit}: \
                     replace this replica",
                    store.last()
                ),
            });
        }
        let agrees = emitted.index != base.index || emitted.offset == base.offset;
        if !agrees || store.term_of(emitted.index) != Some(emitted.term) {
            return Err(NodeError::Damaged {
                what: format!(
                    "the log of group={group} does not hold what the state stands at, index={} \
                     term={}",
                    emitted.index, emitted.term
                ),
            });
        }
        let raw = RawNode::new(&raft_config(&config, emitted), store, &crate::raft_log::logger())
            .map_err(|error| NodeError::Damaged {
            what: format!("raft refused its log: {error}"),
        })?;
        let mut replica = Self {
            raw,
            tick: 0,
            members: register.members.clone(),
            members_index: register.members_index,
            register_dirty: fresh,
            outstanding: VecDeque::new(),
            unreported: 0,
            tickets_before: 0,
            last_ticket: 0,
            emitted,
            applied,
            installing,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            pending: Pending::default(),
            reads: Reads::new(config.session),
            stamps: 0,
            leading: None,
            known: (None, Term::ZERO),
            flushed: BTreeMap::new(),
            met: BTreeMap::new(),
            heard: BTreeMap::new(),
            resets: Vec::new(),
            trims: Vec::new(),
            changing: None,
            demanded: None,
            outgoing: Outgoing::default(),
            incoming: None,
            disk_waits_since: None,
            vitals: Vitals::since(register.term),
            disk_is_full: false,
            written: register.clone(),
            stand: stand(config.session, 0),
            probation: register.probation.then(Probation::default),
            recognized: BTreeMap::new(),
            reinstall: installing,
            config,
        };
        replica.replay_changes()?;
        replica.be_born_if_known()?;
        replica.campaign_alone()?;
        replica.assign_domains();
        replica.spread_election_timeout();
        Ok(replica)
    }

    /// A change of membership can be applied, and that survive, before the register that names it
    /// is durable: what the log holds of them is done again.
    fn replay_changes(&mut self) -> Result<(), NodeError> {
        let mut earlier = 0;
        for entry in self.raw.mut_store().take_found_changes() {
            let index = LogIndex::new(entry.index);
            if self.members_index < index && index <= self.emitted.index {
                let change = raft_codec::conf_change(&entry.data)
                    .map_err(|error| invariant(format!("entry index={index}: {error}")))?;
                self.apply_change(index, &change)?;
            } else if self.emitted.index < index {
                if let Some(demanded) = demand_of(&entry) {
                    self.demanded = Some(demanded);
                    // It was made when no change before it was under way: those were committed.
                    self.raw.raft.raft_log.commit_to(earlier);
                }
                earlier = entry.index;
            }
        }
        Ok(())
    }
}

fn open_register(
    config: &ReplicaConfig,
    recovered: Option<&RecoveredGroup>,
) -> Result<(Register, bool), NodeError> {
    if config.first.as_ref().is_some_and(|first| first.role(config.node).is_none()) {
        return Err(NodeError::InvalidArgument {
            what: "the first voters must name this node, or it must join".into(),
        });
    }
    let Some(recovered) = recovered else { return Ok((Register::joining(), true)) };
    if recovered.verdict.is_damaged() {
        return Err(NodeError::Damaged {
            what: format!(
                "the log of group={} is damaged and is not served: {:?}",
                config.group, recovered.verdict
            ),
        });
    }
    let Some(state) = &recovered.state else {
        return Err(NodeError::Damaged {
            what: format!("the log of group={} has entries but no register", config.group),
        });
    };
    let register = Register::decode(state)?;
    if recovered.first != register.base.index.next() {
        return Err(NodeError::Damaged {
            what: format!(
                "the log of group={} begins at index={}, its register says {}",
                config.group,
                recovered.first,
                register.base.index.next()
            ),
        });
    }
    Ok((register, false))
}

pub(super) fn raft_config(config: &ReplicaConfig, applied: AppliedPosition) -> Config {
    let options = &config.options;
    Config {
        id: config.node.get(),
        election_tick: options.election_ticks as usize,
        heartbeat_tick: options.heartbeat_ticks as usize,
        applied: applied.index.get(),
        max_size_per_msg: options.message_bytes_max as u64,
        max_inflight_msgs: options.messages_in_flight_max,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        // Merged appends know no bound: one message could hold all that a follower lacks.
        batch_append: false,
        max_uncommitted_size: options.uncommitted_bytes_max as u64,
        max_committed_size_per_ready: options.message_bytes_max as u64,
        ..Config::default()
    }
}
