#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| throng::tracker::access::hashes::check(bytes));
