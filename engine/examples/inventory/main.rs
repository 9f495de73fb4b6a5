//! A kind of resource of one's own, tried in a simulated cluster: a partition and a crash, and at the end
//! every replica says the same.
//!
//! `cargo run -p palisade --no-default-features --features sim --example inventory`

mod projection;

use palisade::sim::SimFabric;
use palisade::{Error, Handle, ReadConsistency, ReplicaPolicy, ReplicatedLog, ResourceSpec};
use projection::{Inventory, Op, Refusal, stock};

fn spec(name: &str) -> Result<ResourceSpec, Error> {
    Ok(ResourceSpec::new(name, "shop.v1")?.replicas(ReplicaPolicy::majority(3)))
}

fn reserve(order: &str, count: u64) -> Op {
    Op::Reserve { order: order.to_owned(), item: "apple".to_owned(), count }
}

fn main() -> Result<(), Error> {
    let mut fabric = SimFabric::builder(3).projection(Inventory).build()?;
    let [one, two, three] = [1, 2, 3].map(|number| fabric.engine(fabric.node(number)));
    let shop = fabric.block_on(Handle::<Inventory>::open(&one, spec("shop")?))?;
    let other = fabric.block_on(Handle::<Inventory>::open(&two, spec("shop")?))?;
    let orders: ReplicatedLog<String> =
        fabric.block_on(ReplicatedLog::open(&one, spec("orders")?))?;

    let received = Op::Receive { item: "apple".to_owned(), count: 10 };
    let done = fabric.block_on(shop.submit(&received))?;
    println!("received at offset {}: {:?}", done.receipt.offset, done.outcome);

    // Both at one offset, or neither: the order is in the log if and only if the apples are set aside.
    let batch = one.batch().with(&shop, &reserve("a", 7)).append(&orders, &"order a".to_owned());
    let done = fabric.block_on(batch.commit())?;
    println!("order a: {:?}", done.outcomes[0].of::<Inventory>()?);

    // The other node sells what is left, and no more.
    fabric.partition(&[one.node()]);
    let refused = fabric.block_on(other.submit(&reserve("b", 4))).unwrap_err();
    assert_eq!(other.refusal(&refused), Some(Refusal::NotEnough { free: 3 }));
    println!("order b is refused: {:?}", other.refusal(&refused));
    fabric.block_on(other.submit(&reserve("c", 3)))?;

    fabric.crash(three.node());
    fabric.restart(three.node());
    fabric.heal();
    let three = fabric.engine(three.node());
    for engine in [&one, &two, &three] {
        let shop = fabric.block_on(Handle::<Inventory>::open(engine, spec("shop")?))?;
        let read = shop.read(ReadConsistency::Linearizable, |rows| stock(rows, "apple"));
        println!("node {} says {:?}", engine.node(), fabric.block_on(read)?.value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_runs_to_its_end() {
        super::main().unwrap();
    }
}
