#![no_main]

#[path = "../../tests/udp_session/session.rs"]
mod session;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| session::check(bytes));
