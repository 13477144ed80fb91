#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| throng::wire::webtorrent::model::check(bytes));
