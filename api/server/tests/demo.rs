//! The demo in small: three real processes, two SIGKILLed leaders, every promise checked.

use std::path::PathBuf;

use palisade::PlacementProfile;
use palisade_server::demo::{DemoSettings, run_demo};
use palisade_server::reports::{cross_provider_profile, single_az_profile};

async fn run(profile: PlacementProfile) {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_palisade"));
    let dir = tempfile::tempdir().unwrap();
    let summary = run_demo(DemoSettings {
        program,
        keep: false,
        dir: Some(dir.path().to_owned()),
        limit: Some(1500),
        profile,
    })
    .await
    .unwrap();
    assert_eq!(summary.loading.acknowledged, 1500);
    assert_eq!(summary.verified.len(), 4);
    assert!(summary.loading.repeated >= 30);
    assert!(!summary.loading.gap.is_zero(), "a leader was killed");
    assert!(summary.reporting.acknowledged > 100);
}

/// SIGKILL of a leader while it takes writes, twice, loses nothing and needs no manual step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_are_killed() {
    run(cross_provider_profile()).await;
}

/// The same service code in the narrowest envelope.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_profile_changes_who_takes_part_and_nothing_else() {
    run(single_az_profile()).await;
}
