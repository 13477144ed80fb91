//! Every order in which two workers may meet, and every old value that one may still see:
//! `cargo test --features loom --lib interleavings`.
//!
//! loom runs each body once for each interleaving, with the memory model of C11. The number of
//! times that a thread is interrupted is bounded, else this would take for ever; known mistakes of
//! such queues show with one or two.

use loom::model::Builder;
use loom::thread;

use super::*;

/// The smallest ring: one word beside the length.
const NARROW_BYTES: usize = 16;

fn every_order(interruptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(body);
}

#[test]
fn messages_arrive_whole_once_and_in_order_through_a_ring_for_one() {
    every_order(3, || {
        let (mut sender, mut receiver) = channel(NARROW_BYTES);
        let writer = thread::spawn(move || {
            for number in 1..=3_u64 {
                while sender.send(&number.to_be_bytes()) == Err(Full::NoRoom) {
                    thread::yield_now();
                }
            }
        });
        let mut message = Vec::new();
        for number in 1..=3_u64 {
            while !receiver.receive(&mut message) {
                thread::yield_now();
            }
            assert_eq!(message, number.to_be_bytes());
        }
        assert!(!receiver.receive(&mut message));
        writer.join().expect("no panic");
    });
}

#[test]
fn messages_of_several_words_are_not_torn() {
    every_order(3, || {
        let (mut sender, mut receiver) = channel(4 * WORD_BYTES);
        let writer = thread::spawn(move || {
            let mut sent = 0;
            for byte in 1..=3 {
                sent += u32::from(sender.send(&[byte; 2 * WORD_BYTES]).is_ok());
            }
            sent
        });
        let (mut message, mut taken) = (Vec::new(), 0);
        for _ in 0..2 {
            if receiver.receive(&mut message) {
                taken += 1;
                assert_eq!(message, [message[0]; 2 * WORD_BYTES]);
            }
        }
        let sent = writer.join().expect("no panic");
        while receiver.receive(&mut message) {
            taken += 1;
            assert_eq!(message, [message[0]; 2 * WORD_BYTES]);
        }
        assert_eq!(taken, sent);
    });
}

#[test]
fn nobody_sleeps_over_a_message() {
    every_order(4, || {
        let [mut owner, mut other] = two(NARROW_BYTES);
        let sender = thread::spawn(move || {
            other.send(CoreId(0), b"wake up").expect("an empty ring");
            other.flush();
        });
        let may_sleep = owner.prepare_sleep();
        sender.join().expect("no panic");
        // Whoever waits now waits for ever, unless the doorbell has been rung.
        assert!(!may_sleep || owner.doorbell().is_rung());
        assert_eq!(owner.receive(&mut Vec::new()), Some(CoreId(1)));
    });
}

#[test]
fn of_two_that_write_to_each_other_and_go_to_sleep_neither_is_left_behind() {
    every_order(2, || {
        let workers = two(NARROW_BYTES).map(|mut post| {
            thread::spawn(move || {
                let other = CoreId(1 - post.core().0);
                post.send(other, b"hello").expect("an empty ring");
                post.flush();
                let may_sleep = post.prepare_sleep();
                (post, may_sleep)
            })
        });
        for (mut post, may_sleep) in workers.map(|worker| worker.join().expect("no panic")) {
            assert!(!may_sleep || post.doorbell().is_rung());
            assert!(post.receive(&mut Vec::new()).is_some());
        }
    });
}

fn two(capacity_bytes: usize) -> [Post; 2] {
    mesh(2, capacity_bytes).expect("a descriptor").try_into().expect("two")
}
