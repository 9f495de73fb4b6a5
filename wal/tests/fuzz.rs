//! Every fuzz target of this crate, over its corpus and some mutations of it.

#[path = "fuzz/campaign.rs"]
mod campaign;

use std::path::Path;

#[test]
fn every_target_holds() {
    let fuzz_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    campaign::run(palisade_wal::fuzz::TARGETS, "every_target_holds", &fuzz_dir);
}
