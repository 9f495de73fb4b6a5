#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    palisade_server::fuzz::run("map_set_history", raw);
});
