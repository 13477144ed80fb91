//! Conversations over UDP: of any bytes, and those that a fuzzer has found worth keeping.

mod support;

#[path = "udp_session/session.rs"]
mod session;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_conversation_agrees_with_the_model(bytes in vec(any::<u8>(), 0..400)) {
        session::check(&bytes);
    }

    #[test]
    fn a_conversation_of_few_agrees_with_the_model(
        first in 0..8_u8,
        steps in vec(
            (1..8_u8, 0..6_u8, 0..3_u8, 0..2_u8, 0..4_u8, any::<u8>(), any::<u8>()), 0..60,
        ),
    ) {
        let connects = (0..6).flat_map(|source| [1, source]);
        let steps = steps.iter().flat_map(|&(kind, source, swarm, id, port, flags, count)| {
            [kind, source, swarm, id, port, flags, count]
        });
        session::check(&[first].into_iter().chain(connects).chain(steps).collect::<Vec<u8>>());
    }
}

#[test]
fn the_corpus_agrees_with_the_model() {
    support::replay("udp_session", session::check);
}
