//! A service's own test against a simulated cluster: a writer that is cut off, replaced and fenced.
//!
//! `cargo run -p palisade --no-default-features --features sim --example sim_fabric`

use std::time::Duration;

use palisade::sim::{SimFabric, SimOutcome, SimRefusal};

fn main() -> Result<(), SimRefusal> {
    for seed in 0..20 {
        a_replaced_writer_is_fenced(seed)?;
    }
    println!("20 seeds: the old writer was fenced, and nothing acknowledged was lost");
    Ok(())
}

fn a_replaced_writer_is_fenced(seed: u64) -> Result<(), SimRefusal> {
    let mut fabric = SimFabric::from_seed(seed, 3);
    let old = fabric.leader().expect("a cluster that behaves has a leader");
    let log = fabric.open_log(old, "orders", 1)?;
    let first = fabric.append(old, log, "order 1")?;

    // The writer's node is cut off, with an order on its way; its clock is wrong, too.
    fabric.partition(&[old]);
    fabric.jump_clock(old, 3_600_000);
    assert_eq!(fabric.append(old, log, "order 2"), Err(SimRefusal::Unknown));

    // Another node takes over with the next epoch.
    let new = (1..=3).map(|n| fabric.node(n)).find(|node| *node != old).expect("three nodes");
    let taken = fabric.open_log(new, "orders", 2)?;
    let second = fabric.append(new, taken, "order 3")?;

    // Everyone loses power. The old writer comes back and is told that it is not current.
    fabric.heal();
    for node in (1..=3).map(|n| fabric.node(n)).collect::<Vec<_>>() {
        fabric.crash(node);
        fabric.restart(node);
    }
    fabric.run_for(Duration::from_secs(5));
    match fabric.append(old, log, "order 4") {
        Err(SimRefusal::Refused(SimOutcome::Fenced(current))) => assert_eq!(current.get(), 2),
        other => panic!("seed {seed}: {other:?}"),
    }
    fabric.run_for(Duration::from_secs(1));
    fabric.assert_converged();
    let orders = fabric.scan(old, log);
    assert_eq!(orders.first(), Some(&(first, "order 1".to_owned())));
    assert!(orders.contains(&(second, "order 3".to_owned())));
    Ok(())
}
