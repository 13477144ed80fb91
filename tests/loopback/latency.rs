//! A lone request does not wait for company: neither for a batch to fill nor for the timer.

use std::thread;
use std::time::{Duration, Instant};

use throng::rng::Rng;

use super::client::{Http, Udp, leecher, random_hash};
use super::process::{PATIENCE, eventually, start};

/// Requests of each kind, with an idle gap before each.
const REQUESTS: u16 = 50;
/// Far more than an answer takes on any machine, far less than half of the worker's timer, which is
/// what requests that waited for it would wait on average.
const MEDIAN_MAX: Duration = Duration::from_millis(20);

/// The median time of requests made one at a time of idle workers.
fn median(mut request: impl FnMut(u16)) -> Duration {
    let mut rng = Rng::new(8);
    let mut times: Vec<Duration> = (0..REQUESTS)
        .map(|number| {
            // Workers sleep after a few idle turns. Uneven gaps meet the timer at any phase.
            thread::sleep(Duration::from_micros(u64::from(2_000 + rng.below(8_000))));
            let began = Instant::now();
            request(number);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_lone_request_is_answered_at_once() {
    let Some(throng) = start(&["workers=1"]) else { return };
    let hash = random_hash(&mut Rng::new(9));
    for target in &throng.udp {
        let peer = Udp::connect(*target);
        let time = median(|number| {
            peer.announce(&leecher(hash, 7_000 + number));
        });
        println!("UDP at {target}: {time:?}");
        assert!(time < MEDIAN_MAX, "UDP at {target}: {time:?}");
    }
    let mut connection = Http::connect(throng.http[0]);
    let time = median(|number| {
        connection.announce(&leecher(hash, 8_000 + number));
    });
    println!("HTTP: {time:?}");
    assert!(time < MEDIAN_MAX, "HTTP: {time:?}");
    let all = 3 * u64::from(REQUESTS);
    eventually("the counters are published", PATIENCE, || throng.answered("announce") == all);
    // It slept in between: what woke it were the requests.
    assert!(throng.metric("sleeps") >= 100, "{}", throng.metric("sleeps"));
}

#[test]
fn a_lone_request_is_answered_at_once_by_the_core_that_owns_its_swarm() {
    let Some(throng) = start(&["workers=2", "udp.steering=false"]) else { return };
    let mut rng = Rng::new(10);
    let peer = Udp::connect(throng.udp[0]);
    let time = median(|number| {
        peer.announce(&leecher(random_hash(&mut rng), 7_000 + number));
    });
    println!("without steering: {time:?}");
    assert!(time < MEDIAN_MAX, "without steering: {time:?}");
    assert!(throng.metric("messages_sent") > 0);
}
