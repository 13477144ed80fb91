#![no_main]

// Fails, as it must: it shows that a bug behind several comparisons would be found.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let [b'c', b'h', b'i', b'r', b'p', number @ ..] = bytes
        && number.first().is_some_and(|&number| number > 200)
    {
        panic!("the canary sings");
    }
});
