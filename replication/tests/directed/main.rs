//! Scenarios that random faults seldom line up: each brings a cluster to one narrow place, by seeds
//! that vary who and when, and says which guarantee must hold there.
//!
//! Replay one seed with `PALISADE_SIM_SEED=<seed> cargo test -p palisade-replication --test directed
//! <name>`; run more of them with `PALISADE_SIM_SEEDS=<count>`.

#[path = "../journal/mod.rs"]
mod journal;
mod members;
mod probation;
mod quorum;
mod reads;
mod repair;
mod scene;
mod scrub;
mod snapshots;
mod votes;
mod wiped;
