#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    palisade_wal::fuzz::run("sealed_history", raw);
});
