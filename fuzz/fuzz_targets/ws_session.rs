#![no_main]
#![allow(dead_code, reason = "tests use the rest of it")]

#[path = "../../tests/webtorrent/model.rs"]
mod model;
#[path = "../../tests/webtorrent/says.rs"]
mod says;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| model::check(bytes));
