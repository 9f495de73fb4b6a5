//! What may be asked of the inventory of the example.

use proptest::prelude::*;

use crate::inventory::Op;

pub(crate) fn any_op() -> impl Strategy<Value = Op> {
    let name =
        |names: [&'static str; 3]| proptest::sample::select(names.to_vec()).prop_map(str::to_owned);
    let item = move || name(["apple", "pear", "plum"]);
    let order = move || name(["a", "b", "c"]);
    prop_oneof![
        (item(), 0_u64..5).prop_map(|(item, count)| Op::Receive { item, count }),
        (order(), item(), 0_u64..5).prop_map(|(order, item, count)| Op::Reserve {
            order,
            item,
            count
        }),
        order().prop_map(|order| Op::Release { order }),
    ]
}
