#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| {
    palisade_server::fuzz::run("log_append_stream", raw);
});
