//! What goes wrong in a simulated cluster, and how often: drawn anew for each seed (a swarm), so
//! that runs differ not only in when a fault strikes but in which there are.

use std::collections::BTreeSet;

use palisade_wal::GroupId;

use super::{OpId, SimCluster, SimMachine, SimRandom};
use crate::identity::NodeId;
use crate::membership::{MemberChange, MemberRole, Membership};

/// One kind of mischief, or of mending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimFault {
    /// A node loses power.
    PowerOff,
    /// A node loses power between two of the next things it does.
    PowerOffSoon,
    /// The process of a leader is killed.
    KillLeader,
    /// All nodes lose power at once.
    PowerOffAll,
    /// One way between two nodes is cut.
    CutWay,
    /// A leader is cut off from all others.
    IsolateLeader,
    /// Nodes fall into two halves that do not hear each other.
    Split,
    /// A process is stopped for a while.
    Pause,
    /// A wall clock jumps.
    ClockJump,
    /// A disk does not come back from a sync for a while.
    DiskHang,
    /// A disk takes many times as long as before.
    SlowDisk,
    /// Leadership is handed over.
    Transfer,
    /// Members come and go.
    Members,
    /// A place of a log rots, or a write goes wrong.
    Damage,
    /// An operation of a disk fails, or a place of what it keeps of snapshots rots.
    DiskError,
    /// A disk is full for a while.
    FullDisk,
    /// A node comes back with an empty data directory.
    Wipe,
    /// Ways, disks and processes are mended.
    Heal,
    /// All nodes are started.
    StartAll,
}

impl SimFault {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::PowerOff,
        Self::PowerOffSoon,
        Self::KillLeader,
        Self::PowerOffAll,
        Self::CutWay,
        Self::IsolateLeader,
        Self::Split,
        Self::Pause,
        Self::ClockJump,
        Self::DiskHang,
        Self::SlowDisk,
        Self::Transfer,
        Self::Members,
        Self::Damage,
        Self::DiskError,
        Self::FullDisk,
        Self::Wipe,
        Self::Heal,
        Self::StartAll,
    ];
}

/// Chooses and carries out faults, one at a time.
#[derive(Clone, Debug)]
pub struct Nemesis {
    random: SimRandom,
    /// How likely each is, beside the others.
    weights: Vec<(SimFault, u64)>,
    /// Nodes that lost their directory and are not replaced yet.
    wiped: BTreeSet<NodeId>,
    /// A node with a damaged log.
    damaged: Option<NodeId>,
    /// Every first voter has begun: before that, a group of three needs all of them.
    begun: bool,
    /// Changes it has asked for.
    asked: BTreeSet<OpId>,
    /// What does not happen although it is drawn.
    left_out: BTreeSet<SimFault>,
}

impl Nemesis {
    /// Draws which faults there are, and how likely.
    #[must_use]
    pub fn swarm(random: &mut SimRandom) -> Self {
        let mut weights: Vec<(SimFault, u64)> = SimFault::ALL
            .into_iter()
            .map(|fault| match fault {
                // Without mending, nothing happens after a while.
                SimFault::Heal | SimFault::StartAll => (fault, 10 + random.below(30)),
                SimFault::PowerOffAll | SimFault::Wipe => (fault, random.below(3)),
                _ => (fault, if random.below(2) == 0 { 0 } else { 1 + random.below(12) }),
            })
            .collect();
        weights.retain(|(_, weight)| *weight > 0);
        Self {
            random: SimRandom::from_seed(random.draw()),
            weights,
            wiped: BTreeSet::new(),
            damaged: None,
            begun: false,
            asked: BTreeSet::new(),
            left_out: BTreeSet::new(),
        }
    }

    /// Only these, equally likely, and mending.
    #[must_use]
    pub fn only(faults: &[SimFault]) -> Self {
        let faults = faults.iter().chain(&[SimFault::Heal, SimFault::StartAll]);
        let weights = faults.map(|fault| (*fault, 10)).collect();
        Self {
            random: SimRandom::from_seed(0),
            weights,
            wiped: BTreeSet::new(),
            damaged: None,
            begun: false,
            asked: BTreeSet::new(),
            left_out: BTreeSet::new(),
        }
    }

    /// What it does next is drawn from this seed, whatever it has done before.
    pub fn reseed(&mut self, seed: u64) {
        self.random = SimRandom::from_seed(seed);
    }

    /// The faults there are.
    pub fn faults(&self) -> impl Iterator<Item = SimFault> {
        self.weights.iter().map(|(fault, _)| *fault)
    }

    /// From now on these are drawn and do not happen.
    pub fn leave_out(&mut self, faults: impl IntoIterator<Item = SimFault>) {
        self.left_out.extend(faults);
    }

    /// True if the operation is one of its own changes.
    pub fn asked(&mut self, op: OpId) -> bool {
        self.asked.remove(&op)
    }

    /// Lets one thing happen.
    pub fn act<M: SimMachine>(&mut self, cluster: &mut SimCluster<M>) {
        self.begun = self.begun || cluster.has_begun();
        let total: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(total);
        let chosen = self.weights.iter().find(|(_, weight)| match at.checked_sub(*weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        let (fault, _) = *chosen.expect("the weights sum up");
        if !self.left_out.contains(&fault) {
            self.carry_out(fault, cluster);
        }
    }

    /// Lets this happen, to whatever is drawn.
    pub fn carry_out<M: SimMachine>(&mut self, fault: SimFault, cluster: &mut SimCluster<M>) {
        let nodes = cluster.node_ids();
        let groups: Vec<GroupId> = cluster.groups().collect();
        let node = *self.random.pick(&nodes);
        let group = *self.random.pick(&groups);
        cluster.tell(|| format!("nemesis: {fault:?}, node {node}, group {group}"));
        match fault {
            SimFault::PowerOff => cluster.power_off(node),
            SimFault::PowerOffSoon => {
                let count = self.random.below(200);
                match self.random.below(8) {
                    0..4 => cluster.power_off_within(node, count),
                    kind => cluster.power_off_within_disk(node, count, kind == 7),
                }
            }
            SimFault::KillLeader => {
                if let Some(leader) = cluster.leader(group) {
                    cluster.kill(leader);
                }
            }
            SimFault::PowerOffAll => nodes.iter().for_each(|node| cluster.power_off(*node)),
            SimFault::CutWay => {
                let other = *self.random.pick(&nodes);
                cluster.set_blocked(node, other, true);
            }
            SimFault::IsolateLeader => {
                let leader = cluster.leader(group).unwrap_or(node);
                cut(cluster, &[leader], &nodes);
            }
            SimFault::Split => {
                let side: Vec<NodeId> =
                    nodes.iter().copied().filter(|_| self.random.below(2) == 0).collect();
                cut(cluster, &side, &nodes);
            }
            SimFault::Pause => {
                let us = 1_000 + self.random.below(4_000_000);
                cluster.pause(node, us);
            }
            SimFault::ClockJump => {
                let ms = self.random.below(7_200_000) as i64 - 3_600_000;
                cluster.jump_clock(node, ms);
            }
            SimFault::DiskHang => cluster.hold_syncs(node),
            SimFault::SlowDisk => {
                let times = 10 + self.random.below(1_000);
                cluster.slow_disk(node, times);
            }
            SimFault::Transfer => {
                if let Some(leader) = cluster.leader(group) {
                    cluster.transfer(leader, group, node);
                }
            }
            SimFault::Members => self.change_members(cluster, group),
            SimFault::Damage => self.damage(cluster, node),
            SimFault::DiskError if self.random.below(4) == 0 => cluster.rot_exported(node),
            SimFault::DiskError => cluster.fail_operation(node),
            SimFault::FullDisk if self.random.below(2) == 0 => cluster.fill_disk(node),
            SimFault::FullDisk => cluster.crowd_disks(node),
            SimFault::Wipe => self.wipe(cluster, node),
            SimFault::Heal => cluster.heal(),
            SimFault::StartAll => nodes.iter().for_each(|node| cluster.mend_node(*node)),
        }
    }

    /// A copy is only thrown away while every other is where it should be.
    fn wipe<M: SimMachine>(&mut self, cluster: &mut SimCluster<M>, node: NodeId) {
        self.forget_replaced(cluster);
        let groups: Vec<GroupId> = cluster.groups().collect();
        let safe = groups.iter().all(|group| {
            let status = |id| cluster.status(id, *group);
            cluster.leader(*group).and_then(status).is_some_and(|leader| {
                let members = &leader.members;
                // One that does not know of the last change would still need who was replaced by it.
                let knows = |voter| status(voter).is_some_and(|own| own.members == *members);
                members.voters.len() >= 3
                    && !members.is_joint()
                    && can_do_without(members, &[node])
                    && members.voters.iter().all(|voter| knows(*voter))
            })
        });
        let damaged = self.is_damaged(cluster).filter(|damaged| *damaged != node);
        if self.wiped.is_empty() && safe && damaged.is_none() {
            self.wiped.insert(node);
            self.damaged = None;
            cluster.wipe(node);
            self.lose_received(cluster, node);
        }
    }

    /// Of what a node without anything is sent, something may be lost that it takes to be there.
    fn lose_received<M: SimMachine>(&mut self, cluster: &mut SimCluster<M>, node: NodeId) {
        let others_are_well =
            self.damaged.is_none() && self.wiped.iter().all(|wiped| *wiped == node);
        if self.random.below(4) == 0 && self.begun && others_are_well {
            let soon = self.random.below(6);
            cluster.lose_received(node, soon);
            self.damaged = Some(node);
        }
    }

    /// One log at a time, and the node is killed: it finds out when it starts again.
    fn damage<M: SimMachine>(&mut self, cluster: &mut SimCluster<M>, node: NodeId) {
        self.forget_replaced(cluster);
        if let Some(damaged) = self.is_damaged(cluster) {
            if cluster.is_beyond_repair(damaged) {
                self.wipe(cluster, damaged);
            }
        } else if self.begun
            && self.wiped.is_empty()
            && cluster.is_whole(node)
            && groups_can_do_without(cluster, node)
            && cluster.damage_log(node)
        {
            self.damaged = Some(node);
            if self.random.below(2) == 0 {
                cluster.kill(node);
            }
        }
    }

    /// The node whose log is damaged, as far as it is not repaired.
    fn is_damaged<M: SimMachine>(&mut self, cluster: &mut SimCluster<M>) -> Option<NodeId> {
        let damaged = self.damaged?;
        // It may not have looked yet: only a start tells.
        if cluster.is_whole(damaged) {
            cluster.mend_disk(damaged);
            cluster.kill(damaged);
            cluster.start(damaged);
            // What was damaged may be part of a snapshot that is installed later.
            if cluster.is_whole(damaged) && cluster.receives_nothing(damaged) {
                self.damaged = None;
            }
        }
        self.damaged
    }

    fn forget_replaced<M: SimMachine>(&mut self, cluster: &SimCluster<M>) {
        let groups: Vec<GroupId> = cluster.groups().collect();
        self.wiped.retain(|node| {
            let life = cluster.incarnation(*node);
            groups.iter().any(|group| {
                let Some(leader) = cluster.leader(*group) else { return true };
                let status = cluster.status(leader, *group).expect("a leader is up");
                let member = status.members.member(*node);
                member.is_some_and(|member| member.incarnation != Some(life))
            })
        });
    }

    fn change_members<M: SimMachine>(&mut self, cluster: &mut SimCluster<M>, group: GroupId) {
        let Some(leader) = cluster.leader(group) else { return };
        let status = cluster.status(leader, group).expect("a leader is up");
        let members = &status.members;
        let with = |wanted| {
            let has = move |(node, role): (NodeId, MemberRole)| (role == wanted).then_some(node);
            members.roles().filter_map(has).collect::<Vec<_>>()
        };
        let (voters, learners) = (with(MemberRole::Voter), with(MemberRole::Learner));
        let wiped = voters.iter().chain(&learners).copied().find(|node| self.wiped.contains(node));
        let demands = self.random.below(16) == 0;
        let change = match (wiped, self.random.below(6)) {
            (None, _) if demands => MemberChange::AcrossDomains,
            // Whoever lost its directory is to be replaced before anything else.
            (Some(old), _) => match learners.iter().copied().find(|new| *new != old) {
                Some(new) if voters.contains(&old) => MemberChange::Replace { old, new },
                _ if learners.contains(&old) || voters.len() > 3 => {
                    MemberChange::Remove { node: old }
                }
                _ => self.newcomer(cluster, group),
            },
            (None, 0 | 1) if members.members.len() < 7 => self.newcomer(cluster, group),
            (None, 2 | 3) if !learners.is_empty() && voters.len() < 5 => {
                MemberChange::Promote { node: *self.random.pick(&learners) }
            }
            (None, 4) if voters.len() > 3 => {
                MemberChange::Demote { node: *self.random.pick(&voters) }
            }
            (None, _) if voters.len() > 3 || !learners.is_empty() => {
                let some = if voters.len() > 3 { &voters } else { &learners };
                MemberChange::Remove { node: *self.random.pick(some) }
            }
            (None, _) => self.newcomer(cluster, group),
        };
        if let Some(damaged) = self.damaged {
            // It may be beyond repair.
            let gone = match change {
                MemberChange::Remove { node } | MemberChange::Demote { node } => Some(node),
                MemberChange::Replace { old, .. } => Some(old),
                _ => None,
            };
            let demanded = matches!(change, MemberChange::AcrossDomains);
            let left = [Some(damaged), gone].into_iter().flatten().collect::<Vec<_>>();
            if !can_do_without(&status.members, &left) || demanded {
                return;
            }
        }
        cluster.tell(|| format!("nemesis: {change:?}"));
        self.asked.insert(cluster.change(leader, group, change));
        cluster.count("membership change asked");
    }

    /// A node that is up and not in the group, or a new one.
    fn newcomer<M: SimMachine>(
        &mut self,
        cluster: &mut SimCluster<M>,
        group: GroupId,
    ) -> MemberChange {
        let inside = cluster.members(group);
        let outside: Vec<NodeId> =
            cluster.up().into_iter().filter(|node| !inside.contains(node)).collect();
        let (node, member) = if outside.is_empty() && cluster.node_ids().len() < 9 {
            let (node, member) = cluster.add_node();
            self.lose_received(cluster, node);
            (node, member)
        } else if outside.is_empty() {
            let nodes = cluster.node_ids();
            let node = *self.random.pick(&nodes);
            cluster.describe(node)
        } else {
            let node = *self.random.pick(&outside);
            cluster.describe(node)
        };
        MemberChange::AddLearner { node, member }
    }
}

/// Without these, the voters who are left may be in one domain, which commits nothing if two are demanded.
fn can_do_without(members: &Membership, gone: &[NodeId]) -> bool {
    let left = members.voters.iter().filter(|voter| !gone.contains(voter));
    !members.commits_across_domains() || members.domains(left).len() > 1
}

/// As everybody sees it who is up.
fn groups_can_do_without<M: SimMachine>(cluster: &SimCluster<M>, node: NodeId) -> bool {
    let up = cluster.up();
    cluster.groups().all(|group| {
        let mut seen = up.iter().filter_map(|id| cluster.status(*id, group));
        seen.all(|status| can_do_without(&status.members, &[node]))
    })
}

fn cut<M: SimMachine>(cluster: &mut SimCluster<M>, side: &[NodeId], all: &[NodeId]) {
    for from in side {
        for to in all.iter().filter(|to| !side.contains(to)) {
            cluster.set_blocked(*from, *to, true);
            cluster.set_blocked(*to, *from, true);
        }
    }
}
