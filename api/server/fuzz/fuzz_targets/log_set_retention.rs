#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    palisade_server::fuzz::run("log_set_retention", raw);
});
