#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    palisade_replication::fuzz::run("offer", raw);
});
