//! Drills that are not only judged: a simulated copy of the placement loses the nodes, and is asked.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use palisade_replication::{GroupId, MemberChange, MemberRole, NodeId};

use super::SimFabric;
use crate::degradation::{
    Answer, ClusterMap, DrillReport, FailureDrill, GroupMap, MemberMap, ResourceMap,
};
use crate::engine::Engine;
use crate::error::Error;
use crate::map::ReplicatedMap;
use crate::read::ReadConsistency;
use crate::resource::{Affinity, ResourceSpec};

/// Enough for an election and what follows from it, and for a failure to be one.
const A_WHILE: Duration = Duration::from_secs(5);
/// How often the leadership is handed to who is to have it.
const TRANSFERS_MAX: usize = 20;

type Map = ReplicatedMap<String, String>;

/// A map in place of a resource, open on each node that is left.
type Maps = Vec<(NodeId, Map)>;

impl FailureDrill {
    /// The same as [`FailureDrill::judge`], tried: the report says what the nodes of a simulated copy of the
    /// map have answered after the loss, with writes waiting. Each resource is a map there, whatever it is.
    ///
    /// ```
    /// use palisade::degradation::{ClusterMap, FailureDrill, GroupMap, MemberMap, ResourceMap};
    /// use palisade::*;
    ///
    /// let zone = |zone: &str| FailureDomain::new("aws", "us-east-1", zone);
    /// let voter = |(node, at): (u64, &str)| MemberMap {
    ///     node: NodeId::new(node),
    ///     domain: zone(at),
    ///     role: MemberRole::Voter,
    /// };
    /// let (group, leader) = (GroupId::new(1), Some(NodeId::new(1)));
    /// let members = [(1, "a"), (2, "a"), (3, "b")].map(voter).into();
    /// let profile = PlacementProfile::multi_az("aws", "us-east-1")?;
    /// let spec = ResourceSpec::new("reports", "report.v1")?.profile(&profile);
    /// let map = ClusterMap {
    ///     groups: vec![GroupMap { group, leader, domains_demanded: 1, members }],
    ///     resources: vec![ResourceMap::of(group, spec)],
    /// };
    /// let drill = FailureDrill::AvailabilityZoneLoss { zone: zone("a") };
    /// assert_eq!(drill.rehearse(&map, 1)?, drill.judge(&map)?);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`FailureDrill::judge`]; [`Error::InvalidArgument`] for what is only judged: resources in groups with
    /// different members, members that do not vote, a group of which nobody knows who leads it; and what opening a
    /// resource is refused with.
    pub fn rehearse(&self, map: &ClusterMap, seed: u64) -> Result<DrillReport, Error> {
        let mut report = self.judge(map)?;
        let only =
            |what: &str| Error::InvalidArgument { what: format!("a rehearsal is of {what}") };
        let used = |group: &&GroupMap| map.resources.iter().any(|found| found.group == group.group);
        let groups: Vec<&GroupMap> = map.groups.iter().filter(used).collect();
        let Some(members) = groups.first().map(|group| &group.members) else {
            return Ok(report);
        };
        if groups.iter().any(|group| group.members != *members) {
            return Err(only("groups with the same members"));
        }
        if members.iter().any(|member| member.role != MemberRole::Voter) {
            return Err(only("voters"));
        }
        if groups.iter().any(|group| group.leader.is_none()) {
            return Err(only("groups of which it is known who leads"));
        }
        let mut stage = Stage::build(members, groups.len() as u64, seed)?;
        let mut opened = Vec::new();
        for resource in &map.resources {
            opened.push(stage.open(resource)?);
        }
        for group in groups {
            let copy = map.resources.iter().position(|found| found.group == group.group);
            let (_, copy) = &opened[copy.expect("it has a resource")][0];
            stage.prepare(group, copy.group().id())?;
        }
        for node in &report.lost {
            let node = stage.node(*node);
            stage.fabric.crash(node);
        }
        stage.fabric.run_for(A_WHILE);
        for (mut maps, verdict) in opened.into_iter().zip(&mut report.resources) {
            maps.retain(|(node, _)| !report.lost.contains(node));
            let mut told = stage.ask(&maps).into_iter().peekable();
            for found in &mut verdict.nodes {
                // The map and its copy have their members in one order.
                if let Some((_, answers)) = told.next_if(|(node, _)| *node == found.node) {
                    [found.writes, found.linearizable_reads, found.local_reads] = answers;
                }
            }
        }
        Ok(report)
    }
}

/// The copy, and which of its nodes stands for which.
struct Stage {
    fabric: SimFabric,
    nodes: Vec<NodeId>,
    engines: Vec<Engine>,
}

impl Stage {
    fn build(members: &[MemberMap], groups: u64, seed: u64) -> Result<Self, Error> {
        let builder = SimFabric::builder(members.len() as u64).seed(seed);
        let mut builder = builder.data_groups(groups);
        for (member, number) in members.iter().zip(1..) {
            builder = builder.place(NodeId::new(number), member.domain.clone());
        }
        let mut fabric = builder.build()?;
        let nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
        let numbers = 1..=nodes.len() as u64;
        let engines = numbers.map(|number| fabric.engine(fabric.node(number))).collect();
        // A new leader changes nothing before it has committed something.
        fabric.run_for(A_WHILE);
        Ok(Self { fabric, nodes, engines })
    }

    /// The simulated node in the place of this one.
    fn node(&self, node: NodeId) -> NodeId {
        let at = self.nodes.iter().position(|known| *known == node);
        self.engines[at.expect("the map was judged: the node is in it")].node()
    }

    fn open(&mut self, resource: &ResourceMap) -> Result<Maps, Error> {
        let spec = ResourceSpec::new(resource.name.as_str(), "rehearsal")?
            .replicas(resource.replicas)
            .placement(resource.placement.clone())
            .affinity(Affinity::new(&format!("group-{}", resource.group))?);
        let spec = ResourceSpec { contract: resource.contract.clone(), ..spec };
        let mut maps = Vec::new();
        for (node, engine) in self.nodes.iter().zip(&self.engines) {
            maps.push((*node, self.fabric.block_on(Map::open(engine, spec.clone()))?));
        }
        Ok(maps)
    }

    /// Brings the copy of a group to where the group is.
    fn prepare(&mut self, group: &GroupMap, copy: GroupId) -> Result<(), Error> {
        if let (2.., Some(leader)) = (group.domains_demanded, self.fabric.leader_of(copy)) {
            let demand = self.fabric.engine(leader).group(copy)?;
            self.fabric.block_on(demand.change_members(&MemberChange::AcrossDomains))?;
        }
        group.leader.map_or(Ok(()), |leader| self.lead(copy, leader))
    }

    fn lead(&mut self, copy: GroupId, leader: NodeId) -> Result<(), Error> {
        let leader = self.node(leader);
        for _ in 0..TRANSFERS_MAX {
            if self.fabric.leader_of(copy) == Some(leader) {
                return Ok(());
            }
            for engine in &self.engines {
                // Who does not lead does nothing, and who does may do it a moment later.
                let _ = engine.group(copy)?.transfer_leadership(leader);
            }
            self.fabric.run_for(A_WHILE);
        }
        let what = format!("node={leader} of the copy does not come to lead it: try another seed");
        Err(Error::PreconditionFailed { what })
    }

    /// What each node answers: a write, then reads while the writes of all of them wait.
    fn ask(&mut self, maps: &Maps) -> Vec<(NodeId, [Answer; 3])> {
        let (key, value) = ("key".to_owned(), "value".to_owned());
        let mut puts: Vec<_> =
            maps.iter().map(|(_, map)| Box::pin(map.put(&key, &value))).collect();
        let mut told = vec![None; puts.len()];
        let mut writes = pin!(poll_fn(|context| {
            for (put, told) in puts.iter_mut().zip(&mut told).filter(|(_, told)| told.is_none()) {
                if let Poll::Ready(done) = put.as_mut().poll(context) {
                    *told = Some(answer(&done, false));
                }
            }
            let all: Option<Vec<Answer>> = told.iter().copied().collect();
            all.map_or(Poll::Pending, Poll::Ready)
        }));
        let early = self.fabric.block_on_for(A_WHILE, writes.as_mut());
        let mut reads = Vec::new();
        for (_, map) in maps {
            reads.push([ReadConsistency::Linearizable, ReadConsistency::Local].map(|how| {
                let read = self.fabric.block_on(map.get(&key, how));
                let stale = read.as_ref().is_ok_and(|read| read.stale);
                answer(&read, stale)
            }));
        }
        let writes = early.unwrap_or_else(|| self.fabric.block_on(writes));
        let nodes = maps.iter().map(|(node, _)| *node);
        nodes.zip(writes.into_iter().zip(reads)).map(|(n, (w, [l, o]))| (n, [w, l, o])).collect()
    }
}

fn answer<T>(told: &Result<T, Error>, stale: bool) -> Answer {
    match told {
        Ok(_) if stale => Answer::Stale,
        Ok(_) => Answer::Served,
        Err(error) => Answer::Refused(error.failure()),
    }
}
