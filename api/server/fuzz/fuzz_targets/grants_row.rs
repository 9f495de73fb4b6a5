#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    palisade_server::fuzz::run("grants_row", raw);
});
