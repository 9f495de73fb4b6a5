//! What is refused of the settings of an engine: by a rule that says what to do, and before anything is
//! touched.

#[path = "support/data.rs"]
mod data;

use std::net::SocketAddr;

use data::Data;
use palisade::degradation::HealthLimits;
use palisade::{
    ClusterId, Engine, EngineBuilder, Error, FailureDomain, NodeId, Options, READER_THREADS_MAX,
    STATE_MEMORY_BYTES_MIN, WalOptions,
};

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn node(id: u64) -> NodeId {
    NodeId::new(id)
}

/// Opens with these settings; it must be refused, and the directory be as it was.
async fn refused(settings: impl FnOnce(EngineBuilder) -> EngineBuilder) -> String {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("data");
    let opened = settings(Engine::builder(&inside).cluster(ClusterId::new(7))).open().await;
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing was made");
    match opened.map(drop) {
        Err(Error::InvalidArgument { what }) => what,
        other => panic!("{other:?}"),
    }
}

macro_rules! refuses {
    ($($name:ident: $settings:expr => $rule:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let (what, rule): (String, &str) = (refused($settings).await, $rule);
            assert!(what.contains(rule), "{what}");
        }
    )*};
}

refuses! {
    a_request_needs_time: |b| b.request_timeout_ms(0) => "request_timeout_ms=0: give";
    somebody_must_read: |b| b.reader_threads(0) => "reader_threads=0: choose 1 to 64";
    not_too_many_read: |b| b.reader_threads(READER_THREADS_MAX + 1) => "reader_threads=65: choose";
    a_cache_has_a_least: |b| b.state_cache_bytes(STATE_MEMORY_BYTES_MIN - 1)
        => "state_cache_bytes=1048575: choose 1048576";
    a_write_buffer_has_a_least: |b| b.state_write_buffer_bytes(0)
        => "state_write_buffer_bytes=0: choose 1048576";
    node_0_is_nobody: |b| b.node(node(0)) => "choose one from 1 on";
    voter_0_is_nobody: |b| b.voter(node(1), address(1)).voter(node(0), address(2)).listen(address(1))
        => "choose one from 1 on";
    who_joins_names_no_voters: |b| b.joins().listen(address(1)).voter(node(1), address(1))
        => "names no first voters";
    who_joins_listens: |b| b.joins() => "say listen";
    who_is_among_several_listens: |b| b.voter(node(1), address(1)).voter(node(2), address(2))
        => "say listen";
    voters_are_named_once: |b| b.voter(node(1), address(1)).voter(node(1), address(2))
        => "voter=1 is named twice";
    rows_are_read_again: |b| b.scrub_bytes_per_second(0) => "scrub_bytes_per_second=0: rows";
    it_is_among_its_voters: |b| b.voter(node(2), address(2)) => "node=1 is not among";
    each_has_its_own_address: |b| b
        .listen(address(1))
        .voter(node(1), address(1))
        .voter(node(2), address(2))
        .voter(node(3), address(1))
        => "voter=1 and voter=3 have one address=127.0.0.1:1";
    a_group_has_at_most_so_many: |b| (1..100)
        .fold(b.listen(address(1)), |b, id| b.voter(node(id), address(id as u16)))
        => "99 first voters: name at most";
    a_domain_has_all_its_parts: |b| b.domain(FailureDomain::new("p", "", "z"))
        => "needs a provider, region and zone";
    a_domain_has_a_length: |b| {
        let long = "d".repeat(60);
        b.domain(FailureDomain::new(&long, &long, &long))
    } => "shorten it";
    a_voters_domain_has_a_length: |b| {
        let long = "d".repeat(60);
        b.voter_in(node(1), address(1), &FailureDomain::new(&long, &long, &long))
    } => "shorten it";
    options_must_work_together: |b| b.options(Options { tick_ms: 0, ..Options::default() })
        => "tick_ms must be at least 1";
    options_have_a_most: |b| b.options(Options { tick_ms: u64::MAX, ..Options::default() })
        => "tick_ms must be at most 10000";
    elections_outlast_heartbeats: |b| b.options(Options { heartbeat_ticks: u32::MAX, ..Options::default() })
        => "election_ticks must be at least three times";
    patience_outlasts_questions: |b| b.options(Options { resend_ticks: u32::MAX, ..Options::default() })
        => "snapshot_patience_ticks must be more than twice";
    limits_outlast_elections: |b| b.health_limits(HealthLimits { disconnected_after_ms: 1, ..HealthLimits::default() })
        => "disconnected_after_ms=1 must be more";
    a_segment_holds_a_batch: |b| b.wal(WalOptions { batch_bytes_max: usize::MAX, ..WalOptions::default() })
        => "segment_bytes must hold";
    the_wal_must_work: |b| b.wal(WalOptions { live_multiple_max: 2, ..WalOptions::default() })
        => "live_multiple_max must be at least 3";
    the_wal_must_hold_a_round: |b| b.wal(WalOptions { batch_bytes_max: 1 << 20, ..WalOptions::default() })
        => "batch_bytes_max of the wal must be at least";
}

#[tokio::test]
async fn a_directory_has_a_name() {
    let refused = Engine::builder("").open().await.map(drop);
    let Err(Error::InvalidArgument { what }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("name one"), "{what}");
}

#[tokio::test]
async fn settings_at_their_bounds_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Engine::builder(dir.path())
        .request_timeout_ms(u64::MAX)
        .reader_threads(READER_THREADS_MAX)
        .state_cache_bytes(STATE_MEMORY_BYTES_MIN)
        .state_write_buffer_bytes(STATE_MEMORY_BYTES_MIN)
        .scrub_bytes_per_second(1);
    let engine = builder.open().await.unwrap();
    engine.data().digest().await.unwrap();
    engine.close().await.unwrap();
}
