#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cepa_fuzz_targets::run("socks_udp", data);
});
