//! What a drill found: of each group, of each resource, at each node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use palisade_replication::{GroupId, NodeId};

use super::drill::FailureDrill;
use crate::failure::Failure;
use crate::resource::{FailureDomain, LogicalResourceName};

/// What a call at a node would be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// As if nothing had happened.
    Served,
    /// With what the node has, flagged stale.
    Stale,
    /// With this failure.
    Refused(Failure),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served => f.write_str("served"),
            Self::Stale => f.write_str("stale"),
            Self::Refused(failure) => write!(f, "refused ({failure})"),
        }
    }
}

/// What the callers at one node would be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAnswers {
    /// Which node.
    pub node: NodeId,
    /// Where it is.
    pub domain: FailureDomain,
    /// Any write.
    pub writes: Answer,
    /// A linearizable read; also a read at an offset that is not applied at the node.
    pub linearizable_reads: Answer,
    /// A local read. A read at an offset that is applied at the node is answered where this is not
    /// refused, and is not stale.
    pub local_reads: Answer,
}

/// What is left of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceVerdict {
    /// Which one.
    pub name: LogicalResourceName,
    /// The group it is in.
    pub group: GroupId,
    /// How many replicas there are too few of, for what its policy asks for, however well it is served.
    pub replicas_missing: u32,
    /// What each member of the group would answer, those that are lost among them.
    pub nodes: Vec<NodeAnswers>,
}

impl ResourceVerdict {
    /// The domains in which a node answers calls of one kind, stale answers among them.
    #[must_use]
    pub fn served_from(&self, kind: impl Fn(&NodeAnswers) -> Answer) -> BTreeSet<&FailureDomain> {
        let serve = |node: &&NodeAnswers| !matches!(kind(node), Answer::Refused(_));
        self.nodes.iter().filter(serve).map(|node| &node.domain).collect()
    }

    /// The other domains of the group, and why no node there answers.
    #[must_use]
    pub fn refused_from(
        &self,
        kind: impl Fn(&NodeAnswers) -> Answer,
    ) -> BTreeMap<&FailureDomain, BTreeSet<Failure>> {
        let served = self.served_from(&kind);
        let mut refused: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for node in &self.nodes {
            if let Answer::Refused(failure) = kind(node)
                && !served.contains(&node.domain)
            {
                refused.entry(&node.domain).or_default().insert(failure);
            }
        }
        refused
    }
}

/// What is left of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupVerdict {
    /// Which one.
    pub group: GroupId,
    /// How many voters it had.
    pub voters: usize,
    /// How many are left.
    pub voters_left: usize,
    /// True if the leader was known, and stays.
    pub leader_left: bool,
    /// How many more voters would have to be left for a majority.
    pub voters_missing: usize,
    /// In how many more failure domains voters would have to be left, for what is demanded.
    pub domains_missing: usize,
    /// Records can be committed.
    pub commits: bool,
    /// Linearizable reads can be confirmed.
    pub confirms_reads: bool,
}

/// What would be left after a drill. Prints as a table.
///
/// ```
/// # use palisade::{degradation::*, sim::SimFabric, *};
/// # let zone = |node| FailureDomain::new("local", "local", ["a", "b", "c"][node as usize - 1]);
/// # let builder = (1..=3).fold(SimFabric::builder(3), |b, n| b.place(NodeId::new(n), zone(n)));
/// # let mut fabric = builder.build().unwrap();
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?.replicas(ReplicaPolicy::majority(3));
/// # ReplicatedMap::<String, u64>::open(&engine, spec.clone()).await?;
/// let drill = FailureDrill::AvailabilityZoneLoss { zone: engine.domain().clone() };
/// let DrillReport { lost, groups, resources, .. } = engine.drill(&drill).await?;
/// assert!(lost.contains(&engine.node()));
/// for GroupVerdict { group, voters_left, commits, .. } in &groups {
///     println!("group={group}: {voters_left} voters are left");
///     assert!(commits, "two of three are a majority");
/// }
///
/// let ResourceVerdict { nodes, .. } = &resources[0];
/// let there = nodes.iter().filter(|answers: &&NodeAnswers| answers.writes == Answer::Served);
/// assert_eq!(there.count(), 2);
/// // By place: where it is served from, and why not from elsewhere.
/// let stock = &resources[0];
/// assert_eq!(stock.served_from(|node| node.writes).len(), 2);
/// let refused = stock.refused_from(|node| node.writes);
/// assert!(refused[engine.domain()].contains(&Failure::Disconnected));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillReport {
    /// What was taken away.
    pub drill: FailureDrill,
    /// The nodes that were.
    pub lost: BTreeSet<NodeId>,
    /// What is left of each group, in the order of the map.
    pub groups: Vec<GroupVerdict>,
    /// What is left of each resource, in the order of the map.
    pub resources: Vec<ResourceVerdict>,
}

impl DrillReport {
    /// What is left of the resource of this name, of the first if several groups have one.
    ///
    /// ```
    /// # use palisade::{degradation::*, *};
    /// # fn example(map: &ClusterMap, drill: &FailureDrill) -> Result<(), Error> {
    /// let report: DrillReport = drill.judge(map)?;
    /// if let Some(stock) = report.resource(&LogicalResourceName::new("stock")?) {
    ///     println!("{} replicas too few", stock.replicas_missing);
    /// }
    /// # Ok(()) }
    /// # example(&ClusterMap::default(), &FailureDrill::NodeLoss { node: NodeId::new(1) }).ok();
    /// ```
    #[must_use]
    pub fn resource(&self, name: &LogicalResourceName) -> Option<&ResourceVerdict> {
        self.resources.iter().find(|resource| resource.name == *name)
    }
}

impl fmt::Display for DrillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost: Vec<String> = self.lost.iter().map(ToString::to_string).collect();
        writeln!(f, "{}: lost nodes {}", self.drill, lost.join(", "))?;
        for group in &self.groups {
            write!(
                f,
                "group {}: {} of {} voters left, commits: {}, confirms reads: {}",
                group.group,
                group.voters_left,
                group.voters,
                yes(group.commits),
                yes(group.confirms_reads)
            )?;
            if group.voters_missing > 0 {
                write!(f, "; voters missing: {}", group.voters_missing)?;
            }
            if group.domains_missing > 0 {
                write!(f, "; domains missing: {}", group.domains_missing)?;
            }
            writeln!(f)?;
        }
        for resource in &self.resources {
            let ResourceVerdict { name, group, replicas_missing, .. } = resource;
            writeln!(f, "{name} in group {group}, replicas missing: {replicas_missing}")?;
            for node in &resource.nodes {
                writeln!(
                    f,
                    "  node {} in {}: writes {}, linearizable reads {}, local reads {}",
                    node.node, node.domain, node.writes, node.linearizable_reads, node.local_reads
                )?;
            }
        }
        Ok(())
    }
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
