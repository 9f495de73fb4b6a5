//! A kind of resource whose version rises while it is in use: `docs/projections.md`.

#[path = "../examples/inventory/projection.rs"]
#[allow(dead_code, reason = "the example has more than is needed here")]
mod inventory;
#[cfg(feature = "rocksdb")]
#[path = "rebuild/nodes.rs"]
mod nodes;
#[path = "support/ops.rs"]
mod ops;
#[path = "rebuild/second.rs"]
mod second;

use std::time::Duration;

use inventory::{AtLeast, Inventory, Op, Refusal, Stock};
use ops::any_op;
use palisade::sim::{SimFabric, SimRandom, SimRelease, check_import, check_projection};
use palisade::{
    Applied, At, Direction, Engine, Error, Group, GroupId, Handle, Imported, NewRows, NodeId,
    Projection, ProjectionFault, ReadConsistency, RebuildFailure, RebuildHere, RebuildStage,
    RebuildStatus, ReplicaPolicy, ResourceKind, ResourceSpec, Rows, RowsRead, Walk,
};
use proptest::collection::vec;
use proptest::prelude::*;
use second::{Second, stock_of_any};

fn spec() -> ResourceSpec {
    ResourceSpec::new("shop", "shop.v1").unwrap().replicas(ReplicaPolicy::majority(3))
}

/// The group that has the shop.
fn group(engine: &Engine) -> Group {
    engine.group(GroupId::new(1)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_second_version_keeps_the_laws(ops in vec(any_op(), 0..40)) {
        check_projection(|| Second, &ops).unwrap();
        check_import(|| Inventory, || Second, &ops).unwrap();
    }
}

/// A second version with something wrong, of the same rows as the first.
struct Wrong<const WHAT: u8>;

/// Forgets one kind of row.
const FORGETS: u8 = 0;
/// Refuses what the first does.
const REFUSES: u8 = 1;
/// Cannot take over.
const UNABLE: u8 = 2;
/// Panics while it takes over.
const PANICS: u8 = 3;

impl<const WHAT: u8> Projection for Wrong<WHAT> {
    const NAME: &'static str = Inventory::NAME;
    const VERSION: u32 = 2;
    type Op = Op;
    type Outcome = Stock;
    type Refusal = Refusal;
    type Guard = AtLeast;

    fn apply(
        &self,
        at: At,
        op: Op,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<Stock, Refusal>, ProjectionFault> {
        match op {
            Op::Receive { count: 3.., .. } if WHAT == REFUSES => {
                Ok(Applied::Refused(Refusal::OrderExists))
            }
            op => Inventory.apply(at, op, rows),
        }
    }

    fn import(
        &self,
        _: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        assert_ne!(WHAT, PANICS, "as it was told");
        let mut done = Ok(());
        old.walk(b"", None, Direction::Forward, &mut |key, value| {
            if WHAT != FORGETS || !key.starts_with(b"order") {
                done = new.put(key, value.to_vec());
            }
            if done.is_ok() { Walk::Next } else { Walk::Stop }
        })?;
        done.map(|()| if WHAT == UNABLE { Imported::Unable } else { Imported::All })
    }
}

fn receive(count: u64) -> Op {
    Op::Receive { item: "apple".to_owned(), count }
}

fn reserve(order: &str, count: u64) -> Op {
    Op::Reserve { order: order.to_owned(), item: "apple".to_owned(), count }
}

#[test]
fn an_import_that_breaks_the_law_is_caught() {
    let release = || Op::Release { order: "a".to_owned() };
    let ops = [receive(2), reserve("a", 1), release(), reserve("a", 1), release(), receive(1)];
    let found = |found: Result<(), palisade::sim::Misconduct>| found.unwrap_err().to_string();
    let said = found(check_import(|| Inventory, || Wrong::<FORGETS>, &ops));
    assert!(said.contains("refuses it") || said.contains("rows"), "{said}");
    let mut more = ops.to_vec();
    more.push(receive(3));
    let said = found(check_import(|| Inventory, || Wrong::<REFUSES>, &more));
    assert!(said.contains("the older version does") && said.contains("refuses it"), "{said}");
    let said = found(check_import(|| Inventory, || Wrong::<UNABLE>, &ops));
    assert!(said.contains("imports nothing"), "{said}");
    let said = found(check_import(|| Inventory, || Wrong::<PANICS>, &ops));
    assert!(said.contains("as it was told"), "{said}");
    let said = found(check_import(|| Inventory, || Inventory, &ops));
    assert!(said.contains("newer version only"), "{said}");
}

fn first() -> SimRelease {
    SimRelease::default().projection(Inventory)
}

fn both() -> SimRelease {
    SimRelease::default().projection(Second).superseding(Inventory)
}

/// A cluster whose nodes are opened with other releases, one after the other.
struct Shop {
    fabric: SimFabric,
    /// Which nodes know the second version.
    upgraded: Vec<NodeId>,
    received: u64,
    /// Receipts of what may have taken effect or not.
    unknown: u64,
    random: SimRandom,
}

impl Shop {
    fn open(seed: u64, items: u64) -> Self {
        let fabric = SimFabric::builder(3).seed(seed).release(first()).build().unwrap();
        let random = SimRandom::from_seed(seed);
        let mut shop = Self { fabric, upgraded: Vec::new(), received: 0, unknown: 0, random };
        for item in 0..items {
            let item = format!("item-{item}");
            shop.submit(1, &Op::Receive { item, count: 1 }).unwrap();
        }
        shop
    }

    fn node(&self, number: u64) -> NodeId {
        self.fabric.node(number)
    }

    fn submit(&mut self, number: u64, op: &Op) -> Result<Stock, Error> {
        let node = self.node(number);
        let engine = self.fabric.engine(node);
        if self.upgraded.contains(&node) {
            self.fabric.block_on(async {
                let shop = Handle::<Second>::open(&engine, spec()).await?;
                Ok(shop.submit(op).await?.outcome)
            })
        } else {
            self.fabric.block_on(async {
                let shop = Handle::<Inventory>::open(&engine, spec()).await?;
                Ok(shop.submit(op).await?.outcome)
            })
        }
    }

    fn read(&mut self, number: u64, how: ReadConsistency) -> Result<Stock, Error> {
        let node = self.node(number);
        let engine = self.fabric.engine(node);
        let (name, schema) = (spec().name, spec().schema);
        if self.upgraded.contains(&node) {
            self.fabric.block_on(async {
                let shop = Handle::<Second>::open_reader(&engine, &name, &schema).await?;
                Ok(shop.read(how, |rows| stock_of_any(rows, "apple")).await?.value)
            })
        } else {
            self.fabric.block_on(async {
                let shop = Handle::<Inventory>::open_reader(&engine, &name, &schema).await?;
                Ok(shop.read(how, |rows| stock_of_any(rows, "apple")).await?.value)
            })
        }
    }

    /// One write and one read, which nothing that is under way may keep from being done.
    fn trade(&mut self, number: u64) {
        match self.submit(number, &receive(1)) {
            Ok(stock) => {
                self.received += 1;
                let sum = stock.free + stock.reserved;
                assert!((self.received..=self.received + self.unknown).contains(&sum), "{sum}");
            }
            Err(Error::Disconnected { outcome_unknown: true }) => self.unknown += 1,
            Err(error) => panic!("{error}"),
        }
        let stock = self.read(number, ReadConsistency::Linearizable).unwrap();
        let sum = stock.free + stock.reserved;
        assert!((self.received..=self.received + self.unknown).contains(&sum), "G5: {sum}");
    }

    fn crash_into(&mut self, number: u64, release: &SimRelease, knows: bool) {
        let node = self.node(number);
        self.fabric.crash(node);
        self.fabric.restart_from(node, release).unwrap();
        self.upgraded.retain(|other| *other != node);
        if knows {
            self.upgraded.push(node);
        }
    }

    fn status(&mut self, number: u64) -> RebuildStatus {
        let group = group(&self.fabric.engine(self.fabric.node(number)));
        let mut all = self.fabric.block_on(group.rebuilds()).unwrap().value;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Lets time pass until it is so on every node.
    fn until(&mut self, what: impl Fn(&RebuildStatus) -> bool) {
        for _ in 0..600 {
            self.fabric.run_for(Duration::from_millis(100));
            if (1..=3).all(|number| what(&self.status(number))) {
                return;
            }
        }
        let all = [1, 2, 3].map(|number| self.status(number));
        panic!("it has not come about: {all:?}");
    }
}

/// The whole of it, under load, with a crash of any node at any time: reads and writes go on, nothing is
/// lost or done twice, and in the end every replica has the same rows of the second version.
#[test]
fn a_rolling_upgrade_under_load_and_crashes_stops_nothing() {
    let mut crashed_at = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let mut shop = Shop::open(seed, 120);
        for number in 1..=3 {
            shop.trade(number);
            shop.crash_into(number, &both(), true);
            shop.trade(1 + number % 3);
        }
        let mut crashes = 3;
        while shop.status(1).active == 1 {
            let number = 1 + shop.random.below(3);
            shop.trade(number);
            if crashes > 0 && shop.random.below(100) < 4 {
                let number = 1 + shop.random.below(3);
                let stage = match shop.status(number).stage {
                    RebuildStage::Building { here, ready, .. } => {
                        format!("{here:?} {}", ready.len())
                    }
                    other => format!("{other:?}").split(' ').next().unwrap().to_owned(),
                };
                crashed_at.insert(stage);
                shop.crash_into(number, &both(), true);
                crashes -= 1;
            }
        }
        shop.until(|status| status.active == 2 && status.stage == RebuildStage::Idle);
        (1..=3).for_each(|number| shop.trade(number));
        // The older one has no part in it any more.
        let second = SimRelease::default().projection(Second);
        for number in 1..=3 {
            let node = shop.node(number);
            shop.fabric.shut_down(node);
            shop.fabric.restart_from(node, &second).unwrap();
            shop.trade(number);
        }
        shop.fabric.run_for(Duration::from_secs(5));
        shop.fabric.assert_converged();
    }
    for stage in ["Importing", "Ready"] {
        assert!(crashed_at.iter().any(|at| at.starts_with(stage)), "{stage}: {crashed_at:?}");
    }
}

/// Nothing begins before everybody can do it, and who cannot is refused by name.
#[test]
fn a_rebuild_waits_for_every_member_and_the_older_version_is_not_left_out_before() {
    let mut shop = Shop::open(7, 3);
    let alone = SimRelease::default().projection(Second);
    let (one, three) = (shop.node(1), shop.node(3));
    shop.fabric.shut_down(one);
    let refused = shop.fabric.restart_from(one, &alone).unwrap_err();
    let Error::Incompatible { expected, found } = refused else { panic!("{refused}") };
    assert_eq!(expected, "projection=inventory version=1");
    assert!(found.contains("superseding of version=1"), "{found}");
    shop.fabric.restart(one);
    shop.crash_into(1, &both(), true);
    shop.crash_into(2, &both(), true);
    shop.fabric.run_for(Duration::from_secs(20));
    let RebuildStatus { active: 1, stage: RebuildStage::Waiting { version: 2, missing }, .. } =
        shop.status(1)
    else {
        panic!("{:?}", shop.status(1))
    };
    assert_eq!(missing, [three]);
    (1..=3).for_each(|number| shop.trade(number));
    // One goes back to the release before: it is waited for again.
    shop.crash_into(2, &first(), false);
    shop.crash_into(3, &both(), true);
    shop.fabric.run_for(Duration::from_secs(20));
    let status = shop.status(1);
    assert!(matches!(status.stage, RebuildStage::Waiting { .. }), "{status:?}");
    shop.crash_into(2, &both(), true);
    shop.until(|status| status.active == 2);
    (1..=3).for_each(|number| shop.trade(number));
    shop.fabric.run_for(Duration::from_secs(5));
    shop.fabric.assert_converged();
}

fn failed(shop: &mut Shop) -> RebuildFailure {
    shop.until(|status| matches!(status.stage, RebuildStage::Failed { .. }));
    let status = shop.status(1);
    let RebuildStage::Failed { version: 2, failure, .. } = status.stage else {
        panic!("{status:?}")
    };
    assert_eq!(status.active, 1, "the older one stays");
    failure
}

/// A second version that does not agree with the first, or cannot take over, takes nothing over.
#[test]
fn a_version_that_disagrees_or_cannot_import_fails_and_the_older_one_stays() {
    for what in [REFUSES, UNABLE, PANICS] {
        let mut shop = Shop::open(11 + u64::from(what), 40);
        let release = match what {
            REFUSES => SimRelease::default().projection(Wrong::<REFUSES>),
            UNABLE => SimRelease::default().projection(Wrong::<UNABLE>),
            _ => SimRelease::default().projection(Wrong::<PANICS>),
        };
        let release = release.superseding(Inventory);
        for number in 1..=3 {
            shop.crash_into(number, &release, false);
        }
        let node = shop.node(2);
        let submit = |shop: &mut Shop, op: &Op| {
            let engine = shop.fabric.engine(node);
            shop.fabric.block_on(async {
                let done = match what {
                    REFUSES => {
                        Handle::<Wrong<REFUSES>>::open(&engine, spec()).await?.submit(op).await
                    }
                    UNABLE => {
                        Handle::<Wrong<UNABLE>>::open(&engine, spec()).await?.submit(op).await
                    }
                    _ => Handle::<Wrong<PANICS>>::open(&engine, spec()).await?.submit(op).await,
                };
                Ok::<_, Error>(done?.outcome)
            })
        };
        if what == REFUSES {
            // While it is queued, and then while both do it.
            while !matches!(shop.status(1).stage, RebuildStage::Failed { .. }) {
                submit(&mut shop, &receive(3)).unwrap();
            }
        }
        let failure = failed(&mut shop);
        match what {
            REFUSES => assert!(matches!(failure, RebuildFailure::Disagrees { .. }), "{failure}"),
            UNABLE => assert_eq!(failure, RebuildFailure::NotImportable),
            _ => assert!(failure.to_string().contains("it panicked: "), "{failure}"),
        }
        submit(&mut shop, &receive(1)).unwrap();
        shop.fabric.run_for(Duration::from_secs(60));
        let offset = group(&shop.fabric.engine(node)).applied().unwrap();
        shop.fabric.run_for(Duration::from_secs(20));
        assert_eq!(
            group(&shop.fabric.engine(node)).applied().unwrap(),
            offset,
            "it is left in peace"
        );
        shop.fabric.assert_converged();
    }
}

/// What shows only when both versions do every record: the rows were taken over, and nothing waits.
#[test]
fn a_version_that_disagrees_once_both_do_every_record_does_not_take_over() {
    let mut shop = Shop::open(5, 40);
    let release = SimRelease::default().projection(Wrong::<REFUSES>).superseding(Inventory);
    for number in 1..=3 {
        shop.crash_into(number, &release, false);
    }
    while !matches!(shop.status(1).stage, RebuildStage::Building { .. }) {
        shop.fabric.run_for(Duration::from_millis(10));
    }
    // While one has no rows of it yet, the newer version decides nowhere.
    let (one, three) = (shop.node(1), shop.node(3));
    shop.fabric.crash(three);
    loop {
        let RebuildStage::Building { here, ready, .. } = shop.status(1).stage else {
            panic!("{:?}", shop.status(1))
        };
        assert!(!ready.contains(&three), "{ready:?}");
        if here == RebuildHere::Ready {
            break;
        }
        shop.fabric.run_for(Duration::from_millis(10));
    }
    let engine = shop.fabric.engine(one);
    let receipt = shop.fabric.block_on(async {
        let shop = Handle::<Wrong<REFUSES>>::open(&engine, spec()).await?;
        let agreed = shop.submit(&receive(1)).await?;
        let apart = shop.submit(&receive(3)).await?;
        assert_eq!(apart.outcome.free, agreed.outcome.free + 3, "the older one decides");
        Ok::<_, Error>(apart.receipt)
    });
    let offset = receipt.unwrap().offset;
    // Before the third is back, which does the record from its queue and would notice, too.
    shop.fabric.run_for(Duration::from_secs(10));
    let stage = shop.status(1).stage;
    assert!(matches!(stage, RebuildStage::Failed { .. }), "{stage:?}");
    shop.fabric.restart_from(three, &release).unwrap();
    assert_eq!(failed(&mut shop), RebuildFailure::Disagrees { offset });
    shop.fabric.run_for(Duration::from_secs(5));
    shop.fabric.assert_converged();
}

/// A mended release of the same version is tried again when somebody asks for it.
#[test]
fn what_has_failed_is_tried_again_on_request() {
    let mut shop = Shop::open(3, 400);
    let tight = both().rebuild_queue_bytes_max(300);
    for number in 1..=3 {
        shop.crash_into(number, &tight, true);
    }
    while !matches!(shop.status(1).stage, RebuildStage::Failed { .. }) {
        shop.trade(1);
    }
    let failure = failed(&mut shop);
    assert_eq!(failure, RebuildFailure::QueueFull { bytes_max: 300 });
    for number in 1..=3 {
        shop.crash_into(number, &both(), true);
    }
    shop.fabric.run_for(Duration::from_secs(20));
    assert_eq!(shop.status(2).active, 1);
    let (two, kind) = (group(&shop.fabric.engine(shop.node(2))), shop.status(2).kind);
    shop.fabric.block_on(two.rebuild_again(&kind)).unwrap();
    shop.until(|status| status.active == 2);
    let again = shop.fabric.block_on(two.rebuild_again(&kind)).unwrap_err();
    assert!(matches!(again, Error::PreconditionFailed { .. }), "{again}");
    shop.trade(1);
    let unknown: ResourceKind = palisade::ResourceKind::MAP;
    let refused = shop.fabric.block_on(two.rebuild_again(&unknown)).unwrap_err();
    assert!(matches!(refused, Error::PreconditionFailed { .. }), "{refused}");
    shop.fabric.run_for(Duration::from_secs(5));
    shop.fabric.assert_converged();
}

/// The second version with an operation that the first does not know.
struct Wider;

#[derive(Clone, Debug)]
enum WiderOp {
    Known(Op),
    Nothing,
}

impl palisade::Stored for WiderOp {
    fn to_bytes(&self) -> bytes::Bytes {
        match self {
            Self::Known(op) => op.to_bytes(),
            Self::Nothing => "nothing".into(),
        }
    }

    fn from_bytes(bytes: &bytes::Bytes) -> Result<Self, palisade::DecodeError> {
        if bytes[..] == *b"nothing" {
            Ok(Self::Nothing)
        } else {
            Op::from_bytes(bytes).map(Self::Known)
        }
    }
}

impl Projection for Wider {
    const NAME: &'static str = Inventory::NAME;
    const VERSION: u32 = 2;
    type Op = WiderOp;
    type Outcome = Stock;
    type Refusal = Refusal;
    type Guard = AtLeast;

    fn apply(
        &self,
        at: At,
        op: WiderOp,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<Stock, Refusal>, ProjectionFault> {
        match op {
            WiderOp::Known(op) => Second.apply(at, op, rows),
            WiderOp::Nothing => Ok(Applied::Done(Stock::default())),
        }
    }

    fn import(
        &self,
        from: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        Second.import(from, old, new)
    }
}

/// An operation that the older version could not read would halt every replica while it decides.
#[test]
fn what_only_the_newer_version_can_read_waits_until_the_older_is_left_out() {
    let wider = SimRelease::default().projection(Wider);
    let mut fabric =
        SimFabric::builder(1).release(wider.clone().superseding(Inventory)).build().unwrap();
    let node = fabric.node(1);
    let one = ResourceSpec::new("shop", "shop.v1").unwrap();
    let submit = |fabric: &mut SimFabric, op: WiderOp| {
        let engine = fabric.engine(node);
        let done = async {
            let shop = Handle::<Wider>::open(&engine, one.clone()).await?;
            Ok::<_, Error>(shop.submit(&op).await?.outcome)
        };
        fabric.block_on(done)
    };
    submit(&mut fabric, WiderOp::Known(receive(2))).unwrap();
    fabric.run_for(Duration::from_secs(30));
    let one_group = group(&fabric.engine(node));
    assert_eq!(fabric.block_on(one_group.rebuilds()).unwrap().value[0].active, 2);
    let refused = submit(&mut fabric, WiderOp::Nothing).unwrap_err();
    let Error::InvalidArgument { what } = refused else { panic!("{refused}") };
    assert!(what.contains("version=1 cannot read it"), "{what}");
    fabric.shut_down(node);
    fabric.restart_from(node, &wider).unwrap();
    submit(&mut fabric, WiderOp::Nothing).unwrap();
}

#[test]
fn an_older_version_is_of_something_newer_and_there_once() {
    let refused = |release: SimRelease| match SimFabric::builder(1).release(release).build().err() {
        Some(Error::InvalidArgument { what }) => what,
        other => panic!("{other:?}"),
    };
    let nothing = SimRelease::default().superseding(Inventory);
    assert!(refused(nothing).contains("superseded by nothing"));
    assert!(refused(first().superseding(Second)).contains("which is no newer"));
    assert!(refused(both().superseding(Inventory)).contains("twice"));
}
