//! A service's own test against a simulated cluster: a writer that is cut off, replaced and fenced. The
//! handles are those that the service uses in production.
//!
//! `cargo run -p palisade --no-default-features --features sim --example sim_fabric`

use std::time::Duration;

use palisade::sim::SimFabric;
use palisade::{
    Direction, Engine, Error, FenceEpoch, Offset, ReadConsistency, ReplicaPolicy, ReplicatedLog,
    ResourceSpec,
};

fn main() -> Result<(), Error> {
    for seed in 0..20 {
        a_replaced_writer_is_fenced(seed)?;
    }
    println!("20 seeds: the old writer was fenced, and nothing acknowledged was lost");
    Ok(())
}

/// What the service does when it starts as a writer.
async fn open_orders(engine: &Engine, epoch: u64) -> Result<ReplicatedLog<String>, Error> {
    let spec = ResourceSpec::new("orders", "order.v1")?
        .epoch(FenceEpoch::new(epoch))
        .replicas(ReplicaPolicy::majority(3));
    ReplicatedLog::open(engine, spec).await
}

fn a_replaced_writer_is_fenced(seed: u64) -> Result<(), Error> {
    let mut fabric = SimFabric::from_seed(seed, 3);
    let nodes = [1, 2, 3].map(|number| fabric.node(number));
    let old = fabric.leader().expect("a cluster that behaves has a leader");
    let old_engine = fabric.engine(old);
    let old_orders = fabric.block_on(open_orders(&old_engine, 1))?;
    let first = fabric.block_on(old_orders.append(&"order 1".to_owned()))?;

    // The writer's node is cut off, with an order on its way; its clock is wrong, too.
    fabric.partition(&[old]);
    fabric.jump_clock(old, 3_600_000);
    let lost = fabric.block_on(old_orders.append(&"order 2".to_owned()));
    assert!(matches!(lost, Err(Error::Disconnected { outcome_unknown: true })), "{lost:?}");

    // Another node takes over with the next epoch.
    let new = nodes.into_iter().find(|node| *node != old).expect("three nodes");
    let new_engine = fabric.engine(new);
    let new_orders = fabric.block_on(open_orders(&new_engine, 2))?;
    let second = fabric.block_on(new_orders.append(&"order 3".to_owned()))?;

    // The way is mended, and the old writer is told that it is not current.
    fabric.heal();
    fabric.run_for(Duration::from_secs(1));
    let late = fabric.block_on(old_orders.append(&"order 4".to_owned()));
    let fenced = matches!(late, Err(Error::Fenced { current }) if current.get() == 2);
    assert!(fenced, "seed {seed}: {late:?}");

    // Everyone loses power. The handles are gone with it, and what was acknowledged is not.
    for node in nodes {
        fabric.crash(node);
        fabric.restart(node);
    }
    fabric.run_for(Duration::from_secs(5));
    let stopped = fabric.block_on(old_orders.append(&"order 5".to_owned()));
    assert!(matches!(stopped, Err(Error::InternalError { .. })), "{stopped:?}");
    let engine = fabric.engine(old);
    let orders = fabric.block_on(open_orders(&engine, 2))?;
    let found = fabric.block_on(orders.scan(
        Offset::ZERO,
        Direction::Forward,
        100,
        ReadConsistency::Linearizable,
    ))?;
    let found: Vec<_> =
        found.value.entries.into_iter().map(|entry| (entry.position.offset, entry.value)).collect();
    assert_eq!(found.first(), Some(&(first.receipt.offset, "order 1".to_owned())));
    assert!(found.contains(&(second.receipt.offset, "order 3".to_owned())));
    assert!(!found.iter().any(|(_, order)| order == "order 4" || order == "order 5"));
    fabric.run_for(Duration::from_secs(1));
    fabric.assert_converged();
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs_to_its_end() {
        super::main().unwrap();
    }
}
