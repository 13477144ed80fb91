//! Rings against a queue of vectors, then against real threads; doorbells against a real wait.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::rng::Rng;

fn random_bytes(rng: &mut Rng, count: usize) -> Vec<u8> {
    (0..count).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect()
}

#[test]
fn every_length_survives_every_position_in_order() {
    let mut rng = Rng::new(1);
    let (mut sender, mut receiver) = channel(512);
    let mut into = Vec::new();
    // 64 words, and 1 to 39 words a message: over the rounds each begins almost everywhere.
    for round in 0..64 {
        for length in 0..300 {
            let message = random_bytes(&mut rng, length);
            assert_eq!(sender.send(&message), Ok(()), "round {round}, {length} bytes");
            assert!(!receiver.is_empty());
            assert!(receiver.receive(&mut into));
            assert_eq!(into, message, "round {round}");
            assert!(receiver.is_empty());
            assert!(!receiver.receive(&mut into));
            assert_eq!(into, message, "an empty ring leaves the buffer alone");
        }
    }
}

#[test]
fn a_ring_agrees_with_a_queue() {
    let mut rng = Rng::new(2);
    for capacity in [16, 64, 256, 4_096] {
        let (mut sender, mut receiver) = channel(capacity);
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        let words = |message: &Vec<u8>| 1 + message.len().div_ceil(8);
        let (mut into, mut refusals) = (Vec::new(), 0);
        for _ in 0..20_000 {
            if rng.below(2) == 0 {
                let length = rng.below(u32::try_from(capacity).expect("small"));
                let message = random_bytes(&mut rng, usize::try_from(length).expect("small"));
                let used: usize = model.iter().map(words).sum();
                let expected = if message.len() > message_bytes_max(capacity) {
                    Err(Full::TooLong)
                } else if used + words(&message) > capacity / 8 {
                    Err(Full::NoRoom)
                } else {
                    Ok(())
                };
                assert_eq!(sender.send(&message), expected);
                match expected {
                    Ok(()) => model.push_back(message),
                    Err(_) => refusals += 1,
                }
            } else {
                assert_eq!(receiver.receive(&mut into), !model.is_empty());
                if let Some(message) = model.pop_front() {
                    assert_eq!(into, message);
                }
            }
            assert_eq!(receiver.is_empty(), model.is_empty());
        }
        assert!(refusals > 1_000, "{refusals}");
    }
}

#[test]
fn the_longest_message_fits_an_empty_ring_and_no_longer_one_any() {
    let (mut sender, mut receiver) = channel(1_024);
    let mut into = Vec::new();
    let longest = vec![7; message_bytes_max(1_024)];
    for _ in 0..3 {
        assert_eq!(sender.send(&[7; 1_024]), Err(Full::TooLong));
        assert_eq!(sender.send(&longest), Ok(()));
        assert_eq!(sender.send(&[]), Err(Full::NoRoom));
        assert!(receiver.receive(&mut into));
        assert_eq!(into, longest);
        // Shift the next one by a word or two.
        assert_eq!(sender.send(&[1]), Ok(()));
        assert!(receiver.receive(&mut into));
    }
}

#[test]
fn full_loses_nothing_that_is_in() {
    let (mut sender, mut receiver) = channel(256);
    let mut sent = 0_u64;
    while sender.send(&sent.to_be_bytes()) == Ok(()) {
        sent += 1;
    }
    assert_eq!(sent, 16, "two words each, 32 words");
    let mut into = Vec::new();
    for expected in 0..sent {
        assert!(receiver.receive(&mut into));
        assert_eq!(into, expected.to_be_bytes());
    }
    assert!(!receiver.receive(&mut into));
}

/// A sum over a message that depends on the order of its bytes and of the messages.
fn checksum(sum: u64, message: &[u8]) -> u64 {
    message.iter().fold(sum.rotate_left(5) ^ length_word(message.len()), |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[test]
fn a_million_messages_between_two_threads_arrive_whole_and_in_order() {
    const MESSAGES: u32 = 1_000_000;
    let (mut sender, mut receiver) = channel(16 * 1_024);
    let writer = thread::spawn(move || {
        let mut rng = Rng::new(3);
        let pool = random_bytes(&mut rng, 512);
        let mut sum = 0;
        for number in 0..MESSAGES {
            let length = usize::try_from(rng.below(100)).expect("small");
            let from = usize::try_from(rng.below(400)).expect("small");
            let mut message = number.to_be_bytes().to_vec();
            message.extend_from_slice(&pool[from..from + length]);
            sum = checksum(sum, &message);
            while sender.send(&message).is_err() {
                thread::yield_now();
            }
        }
        sum
    });
    let (mut sum, mut into) = (0, Vec::new());
    for number in 0..MESSAGES {
        while !receiver.receive(&mut into) {
            thread::yield_now();
        }
        assert_eq!(into[..4], number.to_be_bytes());
        sum = checksum(sum, &into);
    }
    assert_eq!(writer.join().expect("no panic"), sum);
    assert!(receiver.is_empty());
}

/// Waits for the doorbell of `post` as a worker does, and fails the test after five seconds.
fn sleep(post: &Post) {
    if post.prepare_sleep() {
        let mut fds = [PollFd::new(post.doorbell().as_ref(), PollFlags::IN)];
        let five = Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&five)), Ok(1), "a wake-up was lost");
    }
    post.doorbell().woke();
    post.doorbell().drain();
}

#[test]
fn no_wake_up_is_lost_in_a_hundred_thousand_rounds() {
    const ROUNDS: u32 = 100_000;
    let posts = mesh(2, 4_096).expect("two descriptors");
    // Each answers the other. Both spin a random while before they sleep, so that messages come
    // before, while and after the other goes to sleep.
    let player = |mut post: Post, begins: bool| {
        let other = CoreId(1 - post.core().0);
        let mut rng = Rng::new(u64::from(post.core().0));
        let (mut into, mut slept) = (Vec::new(), 0_u32);
        if begins {
            post.send(other, &0_u32.to_be_bytes()).expect("empty");
            post.flush();
        }
        let mut round = u32::from(!begins) ^ 1;
        while round < ROUNDS {
            (0..rng.below(200)).for_each(|_| std::hint::spin_loop());
            if post.receive(&mut into).is_none() {
                sleep(&post);
                slept += 1;
                continue;
            }
            let number = u32::from_be_bytes([into[0], into[1], into[2], into[3]]);
            assert_eq!(number + u32::from(begins), round);
            let next = if begins { number + 1 } else { number };
            post.send(other, &next.to_be_bytes()).expect("one at a time");
            post.flush();
            round += 1;
        }
        slept
    };
    let mut posts = posts.into_iter();
    let (first, second) = (posts.next().expect("two"), posts.next().expect("two"));
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| player(first, true));
        let second = scope.spawn(|| player(second, false));
        (first.join().expect("no panic"), second.join().expect("no panic"))
    });
    assert!(first + second > 1_000, "they hardly slept: {first} and {second}");
}

#[test]
fn a_doorbell_is_silent_for_those_awake() {
    let doorbell = Doorbell::new().expect("a descriptor");
    doorbell.ring();
    assert!(!doorbell.is_rung());
    doorbell.prepare_sleep();
    assert!(!doorbell.is_rung());
    doorbell.ring();
    doorbell.ring();
    assert!(doorbell.is_rung());
    doorbell.woke();
    assert!(doorbell.is_rung(), "until it is drained");
    doorbell.drain();
    assert!(!doorbell.is_rung());
    doorbell.drain();
    doorbell.ring_always();
    assert!(doorbell.is_rung());
}

#[test]
fn a_doorbell_can_be_rung_for_ever() {
    let doorbell = Doorbell::new().expect("a descriptor");
    // The top of the counter (2^64 - 2) where the first byte is the lowest, far up elsewhere.
    let top = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(rustix::io::write(&doorbell, &top), Ok(8));
    (0..10).for_each(|_| doorbell.ring_always());
    assert!(doorbell.is_rung());
    doorbell.drain();
    assert!(!doorbell.is_rung());
}

#[test]
fn a_mesh_delivers_between_every_two_and_names_the_sender() {
    let mut posts = mesh(5, 4_096).expect("five descriptors");
    let mut into = Vec::new();
    for source in 0..5_u16 {
        for target in (0..5).filter(|&target| target != source) {
            let [source, target] = [source, target].map(CoreId);
            posts[target.index()].doorbell().prepare_sleep();
            let message = [source.0.to_be_bytes(), target.0.to_be_bytes()].concat();
            posts[source.index()].send(target, &message).expect("empty");
            assert!(!posts[target.index()].doorbell().is_rung(), "not before the flush");
            posts[source.index()].flush();
            for post in &mut posts {
                let expected = (post.core() == target).then_some(source);
                assert_eq!(post.doorbell().is_rung(), expected.is_some());
                assert_eq!(post.is_empty(), expected.is_none());
                assert_eq!(post.prepare_sleep(), expected.is_none());
                post.doorbell().woke();
                post.doorbell().drain();
                assert_eq!(post.receive(&mut into), expected);
                assert!(post.is_empty());
            }
            assert_eq!(into, message);
        }
    }
}

#[test]
fn a_chatty_sender_does_not_starve_the_others() {
    let mut posts = mesh(4, 64 * 1_024).expect("four descriptors");
    for _ in 0..1_000 {
        posts[0].send(CoreId(3), b"chatter").expect("room");
    }
    let mut into = Vec::new();
    // Whoever's turn it is.
    for _ in 0..5 {
        assert_eq!(posts[3].receive(&mut into), Some(CoreId(0)));
    }
    posts[1].send(CoreId(3), b"a").expect("room");
    posts[2].send(CoreId(3), b"b").expect("room");
    let seen: Vec<_> = (0..BURST_MAX + 2).filter_map(|_| posts[3].receive(&mut into)).collect();
    assert!(seen.contains(&CoreId(1)), "{seen:?}");
    assert!(seen.contains(&CoreId(2)), "{seen:?}");
    let mut rest = 0;
    while posts[3].receive(&mut into).is_some() {
        rest += 1;
    }
    assert_eq!(rest + seen.len() + 5, 1_002);
}

#[test]
fn all_to_all_between_threads_loses_nothing_however_small_the_rings() {
    const MESSAGES: u32 = 20_000;
    let workers = 4_u16;
    let start = Barrier::new(usize::from(workers));
    let worker = |mut post: Post| {
        let mut next_out = vec![0_u32; usize::from(workers)];
        let mut next_in = vec![0_u32; usize::from(workers)];
        let me = post.core().index();
        (next_out[me], next_in[me]) = (MESSAGES, MESSAGES);
        let mut into = Vec::new();
        start.wait();
        while next_in.iter().chain(&next_out).any(|&next| next < MESSAGES) {
            let mut busy = false;
            for to in (0..workers).map(CoreId) {
                let next = &mut next_out[to.index()];
                if *next < MESSAGES && post.send(to, &next.to_be_bytes()).is_ok() {
                    *next += 1;
                    busy = true;
                }
            }
            post.flush();
            while let Some(from) = post.receive(&mut into) {
                assert_eq!(into, next_in[from.index()].to_be_bytes());
                next_in[from.index()] += 1;
                busy = true;
            }
            if busy {
                continue;
            }
            if next_out.iter().all(|&next| next == MESSAGES) {
                sleep(&post);
            } else {
                thread::yield_now();
            }
        }
    };
    let posts = mesh(usize::from(workers), 256).expect("four descriptors");
    thread::scope(|scope| {
        for post in posts {
            scope.spawn(|| worker(post));
        }
    });
}

#[test]
fn one_worker_alone_has_nobody_to_hear_from() {
    let mut posts = mesh(1, 4_096).expect("a descriptor");
    assert_eq!(posts[0].receive(&mut Vec::new()), None);
    assert!(posts[0].prepare_sleep());
    posts[0].flush();
}

#[test]
fn advised_capacities_are_bounded_powers_of_two() {
    for workers in 0..=WORKERS_MAX {
        let bytes = capacity_bytes(workers);
        assert!(bytes.is_power_of_two());
        assert!((CAPACITY_BYTES_MIN..=CAPACITY_BYTES_MAX).contains(&bytes));
        assert!(workers > 64 || bytes * workers <= 2 * WORKER_BYTES, "{workers}: {bytes}");
    }
}
