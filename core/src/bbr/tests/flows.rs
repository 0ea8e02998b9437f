//! Whole flows over a link in virtual time. Bounds are what a user would notice, not what it reaches today.

use super::path::{Link, Path};
use super::*;

/// Megabits per second and milliseconds.
const PATHS: [(f64, u64); 6] =
    [(100.0, 10), (100.0, 50), (100.0, 200), (1_000.0, 10), (1_000.0, 50), (1_000.0, 200)];

/// A path with one flow.
fn one(link: Link, seed: u64) -> Path {
    let mut path = Path::new(link, seed);
    path.join(Params::default());
    path
}

/// When startup is over for certain: 20 round trips, and 4 s. Seconds.
fn steady(rtt_ms: u64) -> f64 {
    (20.0 * rtt_ms as f64 / 1e3).max(4.0)
}

#[test]
fn a_link_is_filled_without_a_queue() {
    for (mbit, rtt) in PATHS {
        let mut path = one(Link::new(mbit, rtt, 2.0, 0.0), 1);
        path.run_until(steady(rtt));
        let share = path.share(0, 8.0);
        assert!(share >= 0.93, "{mbit} Mbit/s, {rtt} ms: {share}");
        // 2 ms is what acknowledgements that come 31 packets apart make of a path this short.
        let bound = f64::max(0.1, 2.0 / rtt as f64);
        let queue = path.queue_mean();
        assert!(queue <= bound, "{mbit} Mbit/s, {rtt} ms: {queue} round trips");
    }
}

#[test]
fn a_link_that_loses_is_filled() {
    for (mbit, rtt) in PATHS {
        for (loss, seed) in [(0.005, 1), (0.02, 2), (0.05, 3)] {
            let mut path = one(Link::new(mbit, rtt, 2.0, loss), seed);
            path.run_until(steady(rtt));
            let share = path.share(0, 6.0);
            assert!(share >= 0.88 * (1.0 - loss), "{mbit} Mbit/s, {rtt} ms, {loss}: {share}");
            // The largest rate of a flow that loses at random is a little more than it has for long.
            let queue = path.queue_mean();
            assert!(queue <= 0.6, "{mbit} Mbit/s, {rtt} ms, {loss}: {queue} round trips");
        }
    }
}

#[test]
fn a_link_that_loses_in_bursts_is_filled() {
    for (rtt, loss, seed) in
        [(50, 0.02, 1), (200, 0.02, 2), (50, 0.1, 3), (200, 0.1, 1), (200, 0.1, 3), (200, 0.1, 5)]
    {
        let mut path = one(Link { burst: 8.0, ..Link::new(1_000.0, rtt, 1.0, loss) }, seed * 7919);
        path.run_until(steady(rtt));
        let share = path.share(0, 6.0);
        assert!(share >= 0.85 * (1.0 - loss), "{rtt} ms, {loss}: {share}");
    }
}

#[test]
fn a_link_with_a_short_queue_is_used_and_not_flooded() {
    // 250 packets or more; what is dropped is far less than the random loss that would be borne.
    for (mbit, rtt) in [(1_000.0, 50), (1_000.0, 200)] {
        let mut path = one(Link::new(mbit, rtt, 0.06, 0.0), 1);
        path.run_until(steady(rtt));
        let share = path.share(0, 8.0);
        let dropped = (path.dropped * MSS) as f64 / (8.0 * path.link.rate);
        assert!(share >= 0.7, "{mbit} Mbit/s, {rtt} ms: {share}");
        assert!(dropped <= 0.03, "{mbit} Mbit/s, {rtt} ms: {dropped}");
    }
}

#[test]
fn startup_overshoots_by_a_pipe_or_two() {
    for (mbit, rtt) in PATHS {
        let mut path = one(Link::new(mbit, rtt, 8.0, 0.0), 1);
        path.run_until(20.0 * rtt as f64 / 1e3);
        let queue = path.queue_max as f64 / 1e6;
        // It doubles in a round trip, and learns of it after one; 15 ms are for acknowledgements that are few.
        assert!(queue <= 1.8 * rtt as f64 + 15.0, "{mbit} Mbit/s, {rtt} ms: {queue} ms");
        // And it has found the rate.
        let found = path.flows[0].bbr.look().bandwidth / path.link.rate;
        assert!((0.85..=1.15).contains(&found), "{mbit} Mbit/s, {rtt} ms: {found}");
    }
}

#[test]
fn startup_is_paced_from_the_first_round_trip_on() {
    // A burst of the first window, not one in each round trip until the rate of the nominal round trip is reached.
    let mut path = one(Link::new(100.0, 100, 0.1, 0.0), 1);
    path.run_until(0.55);
    assert_eq!(path.dropped, 0);
    assert_eq!(path.flows[0].bbr.look().state, State::Startup);
}

/// Shares of two flows over the last `seconds` of what both have, and of the link.
fn both(path: &mut Path, seconds: f64) -> (f64, f64) {
    path.share(0, seconds);
    let bytes: u64 = path.flows.iter().map(|flow| flow.received).sum();
    (path.flows[0].received as f64 / bytes as f64, bytes as f64 / (path.link.rate * seconds))
}

#[test]
fn two_flows_share_a_link() {
    for (mbit, rtt) in [(100.0, 10), (100.0, 50), (100.0, 200), (1_000.0, 10)] {
        let mut path = one(Link::new(mbit, rtt, 2.0, 0.0), 1);
        path.join(Params::default());
        path.run_until(20.0);
        let (first, all) = both(&mut path, 20.0);
        assert!((0.35..=0.65).contains(&first), "{mbit} Mbit/s, {rtt} ms: {first}");
        assert!(all >= 0.9, "{mbit} Mbit/s, {rtt} ms: {all}");
    }
}

/// 1 where all flows have the same (Jain, Chiu and Hawe 1984), and the mean queue, over the next `seconds`.
fn fairness(path: &mut Path, seconds: f64) -> (f64, f64) {
    path.share(0, seconds);
    let bytes = || path.flows.iter().map(|flow| flow.received as f64);
    let sum: f64 = bytes().sum();
    (
        sum * sum / (path.flows.len() as f64 * bytes().map(|bytes| bytes * bytes).sum::<f64>()),
        path.queue_mean(),
    )
}

#[test]
fn many_flows_share_a_link_equally() {
    for (mbit, rtt, flows) in
        [(100.0, 50, 2), (100.0, 50, 4), (100.0, 50, 8), (1_000.0, 50, 2), (100.0, 10, 8)]
    {
        let mut path = one(Link::new(mbit, rtt, 1.0, 0.0), 5);
        for number in 1..flows {
            path.run_until(0.5 * f64::from(number));
            path.join(Params::default());
        }
        path.run_until(10.0);
        let (jain, queue) = fairness(&mut path, 30.0);
        assert!(jain >= 0.85, "{flows} flows, {mbit} Mbit/s, {rtt} ms: {jain}");
        assert!(queue <= 0.8, "{flows} flows, {mbit} Mbit/s, {rtt} ms: {queue} round trips");
    }
}

#[test]
fn a_flow_that_comes_later_gets_its_share_in_time() {
    for (mbit, rtt) in [(100.0, 10), (100.0, 50), (100.0, 200), (1_000.0, 50)] {
        let mut path = one(Link::new(mbit, rtt, 2.0, 0.0), 1);
        path.run_until(4.0);
        path.join(Params::default());
        path.run_until(24.0);
        let (first, all) = both(&mut path, 20.0);
        assert!((0.3..=0.7).contains(&first), "{mbit} Mbit/s, {rtt} ms: {first}");
        assert!(all >= 0.9, "{mbit} Mbit/s, {rtt} ms: {all}");
    }
}

#[test]
fn neither_cubic_nor_this_is_starved_by_the_other() {
    for (mbit, rtt, buffer) in [(100.0, 50, 0.5), (100.0, 50, 1.0), (100.0, 50, 4.0), (100.0, 10, 1.0)] {
        let mut path = Path::new(Link::new(mbit, rtt, buffer, 0.0), 31);
        path.join_cubic();
        path.run_until(0.5);
        path.join(Params::default());
        path.run_until(10.0);
        let (cubic, all) = both(&mut path, 30.0);
        // Where CUBIC keeps a long queue it takes minutes to get more.
        let least = if buffer > 1.0 { 0.05 } else { 0.15 };
        assert!((0.15..=1.0 - least).contains(&cubic), "{mbit} Mbit/s, {rtt} ms, {buffer}: {cubic}");
        assert!(all >= 0.9, "{mbit} Mbit/s, {rtt} ms, {buffer}: {all}");
    }
}

#[test]
fn another_rate_is_followed() {
    for (mbit, rtt) in PATHS {
        for loss in [0.0, 0.01] {
            let mut path = one(Link::new(mbit, rtt, 2.0, loss), 1);
            path.run_until(steady(rtt));
            path.link.rate /= 2.0;
            path.share(0, 3.0);
            let half = path.share(0, 4.0);
            // Half of the shortest is 42 packets a round trip, of which 31 come at once.
            let least = if path.link.rate * (rtt as f64) < 1e8 { 0.6 } else { 0.85 };
            assert!(half >= least * (1.0 - loss), "{mbit} Mbit/s, {rtt} ms, {loss}, half: {half}");
            // The rate of before is forgotten with the second probe after it, and the queue goes then.
            path.share(0, 4.0);
            path.share(0, 3.0);
            let queue = path.queue_mean();
            assert!(queue <= 1.0, "{mbit} Mbit/s, {rtt} ms, {loss}, half: {queue} round trips");

            path.link.rate *= 2.0;
            path.share(0, 10.0);
            let whole = path.share(0, 4.0);
            assert!(whole >= 0.85 * (1.0 - loss), "{mbit} Mbit/s, {rtt} ms, {loss}, whole: {whole}");
        }
    }
}

#[test]
fn after_an_outage_the_rate_is_back() {
    for (mbit, rtt) in PATHS {
        for loss in [0.0, 0.02] {
            let mut path = one(Link::new(mbit, rtt, 2.0, loss), 1);
            path.run_until(steady(rtt));
            path.link.is_out = true;
            path.share(0, 1.0);
            path.link.is_out = false;
            // The next probe may leave a second from now.
            path.share(0, 1.0 + 2.0 * rtt as f64 / 1e3);
            let share = path.share(0, 1.0);
            assert!(share >= 0.8 * (1.0 - loss), "{mbit} Mbit/s, {rtt} ms, {loss}: {share}");
        }
    }
}

#[test]
fn a_path_that_holds_less_than_a_batch_is_not_drained_for_ever() {
    for (mbit, rtt) in [(2.5, 20), (4.0, 20), (4.0, 10), (8.0, 4)] {
        let mut path = one(Link { buffer: 60e3, ..Link::new(mbit, rtt, 1.0, 0.0) }, 1);
        path.run_until(steady(rtt));
        let look = path.flows[0].bbr.look();
        assert_ne!(look.state, State::Drain, "{mbit} Mbit/s, {rtt} ms");
    }
}
