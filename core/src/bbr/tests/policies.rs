//! What a rate policy promises, over a link in virtual time.

use super::path::{Link, Path};
use super::*;

/// Megabits per second and milliseconds.
const PATHS: [(f64, u64); 4] = [(100.0, 10), (100.0, 50), (100.0, 200), (1_000.0, 20)];

/// Shares of the link of all flows, over `seconds` from now.
fn shares(path: &mut Path, seconds: f64) -> Vec<f64> {
    path.share(0, seconds);
    path.flows.iter().map(|flow| flow.received as f64 / (path.link.rate * seconds)).collect()
}

#[test]
fn fixed_holds_its_target_while_the_path_loses() {
    for (mbit, rtt) in PATHS {
        for (loss, seed) in [(0.0, 1), (0.02, 2), (0.1, 3), (0.2, 4)] {
            let mut path = Path::new(Link::new(mbit, rtt, 1.0, loss), seed);
            path.join_as(Policy::Fixed, Some(0.7));
            path.run_until(4.0);
            let share = path.share(0, 8.0) / 0.7;
            // Above, because a mean of rounds is not that of packets.
            assert!((0.95..=1.03).contains(&share), "{mbit} Mbit/s, {rtt} ms, {loss}: {share}");
            assert!(path.queue_mean() <= 0.1, "{mbit} Mbit/s, {rtt} ms, {loss}: {}", path.queue_mean());
        }
    }
}

#[test]
fn fixed_is_at_its_target_at_once() {
    for (mbit, rtt) in PATHS {
        let mut path = Path::new(Link::new(mbit, rtt, 1.0, 0.0), 1);
        path.join_as(Policy::Fixed, Some(0.9));
        path.run_until(3.0 * rtt as f64 / 1e3);
        let share = path.share(0, 1.0);
        assert!(share >= 0.87, "{mbit} Mbit/s, {rtt} ms: {share}");
    }
}

#[test]
fn fixed_does_not_mind_a_queue() {
    // A target of a fifth more than the link: what does not fit is lost, and no more is sent for that.
    let mut path = Path::new(Link::new(100.0, 50, 1.0, 0.0), 1);
    path.join_as(Policy::Fixed, Some(1.2));
    path.run_until(4.0);
    assert!(path.share(0, 20.0) >= 0.97);
    let sent = 1.0 + (path.dropped * MSS) as f64 / (path.link.rate * 20.0);
    assert!((1.17..=1.25).contains(&sent), "{sent}");
}

#[test]
fn fixed_falls_to_what_the_path_delivers_and_comes_back() {
    for (mbit, rtt) in PATHS {
        let mut path = Path::new(Link::new(mbit, rtt, 1.0, 0.0), 1);
        path.join_as(Policy::Fixed, Some(0.9));
        path.run_until(4.0);
        path.link.rate /= 3.0;
        path.share(0, 4.0);
        // It carries a third: of what is sent, most arrives.
        let share = path.share(0, 12.0);
        let dropped = (path.dropped * MSS) as f64 / (path.link.rate * 12.0);
        assert!(share >= 0.9, "{mbit} Mbit/s, {rtt} ms: {share}");
        assert!(dropped <= 1.0, "{mbit} Mbit/s, {rtt} ms: {dropped}");
        path.link.rate *= 3.0;
        path.share(0, 3.0);
        let share = path.share(0, 4.0);
        assert!(share >= 0.87, "{mbit} Mbit/s, {rtt} ms, back: {share}");
    }
}

#[test]
fn fixed_goes_on_after_an_outage() {
    let mut path = Path::new(Link::new(100.0, 50, 1.0, 0.02), 1);
    path.join_as(Policy::Fixed, Some(0.8));
    path.run_until(4.0);
    path.link.is_out = true;
    path.share(0, 1.0);
    path.link.is_out = false;
    path.share(0, 1.1);
    let share = path.share(0, 1.0);
    assert!(share >= 0.75, "{share}");
}

#[test]
fn low_takes_all_when_it_is_alone() {
    for (mbit, rtt) in PATHS {
        let mut path = Path::new(Link::new(mbit, rtt, 1.0, 0.0), 1);
        path.join_as(Policy::Low, None);
        path.run_until(6.0);
        let share = path.share(0, 20.0);
        assert!(share >= 0.9, "{mbit} Mbit/s, {rtt} ms: {share}");
        assert!(path.queue_mean() <= 0.1, "{mbit} Mbit/s, {rtt} ms: {}", path.queue_mean());
    }
}

#[test]
fn low_leaves_nearly_all_to_a_fair_flow() {
    for (mbit, rtt) in PATHS {
        // Whoever comes first.
        for (first, second, fair) in [(Policy::Fair, Policy::Low, 0), (Policy::Low, Policy::Fair, 1)] {
            let mut path = Path::new(Link::new(mbit, rtt, 1.0, 0.0), 1);
            path.join_as(first, None);
            path.run_until(5.0);
            path.join_as(second, None);
            path.run_until(25.0);
            let shares = shares(&mut path, 40.0);
            assert!(shares[fair] >= 0.85, "{mbit} Mbit/s, {rtt} ms, {first:?} first: {shares:?}");
        }
    }
}

#[test]
fn low_takes_what_is_free_again() {
    for (mbit, rtt) in PATHS {
        let mut path = Path::new(Link::new(mbit, rtt, 1.0, 0.0), 1);
        path.join_as(Policy::Fixed, Some(0.7));
        path.join_as(Policy::Low, None);
        path.run_until(10.0);
        let beside = shares(&mut path, 20.0);
        assert!(beside[0] >= 0.65 && beside[1] >= 0.1, "{mbit} Mbit/s, {rtt} ms: {beside:?}");
        let now = path.instant(path.now);
        let least = RatePolicy::new(Policy::Fixed, Some(1_000_000));
        path.flows[0].bbr.set_rate(now, least.unwrap());
        // On a long path the bound that losses of the time before have left is raised by and by.
        path.share(1, 30.0);
        let after = path.share(1, 10.0);
        // On the shortest, acknowledgements that come 5 ms late look like a queue, unless the flow is fast.
        let least = if rtt == 10 { 0.3 } else { 0.75 };
        assert!(after >= least, "{mbit} Mbit/s, {rtt} ms: {after}");
    }
}

/// What the second of two flows has of what both have, when it comes five seconds after the first.
fn part_of_second(link: Link, first: Policy, second: Policy) -> f64 {
    let mut path = Path::new(link, 1);
    path.join_as(first, None);
    path.run_until(5.0);
    path.join_as(second, None);
    path.run_until(60.0);
    let shares = shares(&mut path, 60.0);
    shares[1] / (shares[0] + shares[1])
}

#[test]
fn high_takes_more_than_a_fair_flow_and_leaves_it_something() {
    for (mbit, rtt) in PATHS {
        let link = Link::new(mbit, rtt, 1.0, 0.0);
        let first = 1.0 - part_of_second(link.clone(), Policy::High, Policy::Fair);
        assert!((0.55..=0.8).contains(&first), "{mbit} Mbit/s, {rtt} ms, first: {first}");
        let second = part_of_second(link, Policy::Fair, Policy::High);
        assert!((0.55..=0.8).contains(&second), "{mbit} Mbit/s, {rtt} ms, second: {second}");
    }
}

#[test]
fn high_backs_off() {
    for (mbit, rtt) in PATHS {
        let mut path = Path::new(Link::new(mbit, rtt, 2.0, 0.0), 1);
        path.join_as(Policy::High, None);
        path.run_until(5.0);
        let share = path.share(0, 10.0);
        assert!(share >= 0.93, "{mbit} Mbit/s, {rtt} ms: {share}");
        let bound = f64::max(0.25, 2.0 / rtt as f64);
        assert!(path.queue_mean() <= bound, "{mbit} Mbit/s, {rtt} ms: {}", path.queue_mean());
    }
}

#[test]
fn no_ceiling_is_passed() {
    for policy in [Policy::Fair, Policy::High, Policy::Low] {
        for (mbit, rtt) in PATHS {
            let mut path = Path::new(Link::new(mbit, rtt, 1.0, 0.02), 1);
            path.join_as(policy, Some(0.3));
            path.run_until(5.0);
            let share = path.share(0, 10.0) / 0.3;
            // At this rate acknowledgements come 5 ms late, which looks like a queue on the shortest path.
            let least = if policy == Policy::Low && rtt == 10 { 0.6 } else { 0.85 };
            assert!((least..=1.0).contains(&share), "{policy:?}, {mbit} Mbit/s, {rtt} ms: {share}");
        }
    }
}

#[test]
fn a_policy_is_changed_on_the_way() {
    let mut path = Path::new(Link::new(100.0, 50, 1.0, 0.0), 1);
    path.join_as(Policy::Fair, Some(0.2));
    path.run_until(5.0);
    let set = |path: &mut Path, policy, part: Option<f64>| {
        let rate = part.map(|part| (part * path.link.rate * 8.0) as u64);
        let now = path.instant(path.now);
        path.flows[0].bbr.set_rate(now, RatePolicy::new(policy, rate).unwrap());
        path.share(0, 8.0);
        path.share(0, 4.0)
    };
    assert!(set(&mut path, Policy::Fair, None) >= 0.93);
    let half = set(&mut path, Policy::Fixed, Some(0.5));
    assert!((0.47..=0.51).contains(&half), "{half}");
    assert!(set(&mut path, Policy::Fair, None) >= 0.93, "found again");
    assert!(set(&mut path, Policy::Low, None) >= 0.85);
    let tenth = set(&mut path, Policy::High, Some(0.1));
    assert!((0.085..=0.1).contains(&tenth), "{tenth}");
    // The same numbers again, not what the others have left.
    assert!(set(&mut path, Policy::Fair, None) >= 0.93);
    assert_eq!(path.flows[0].bbr.params, Params::default());
}

#[test]
fn fixed_is_a_state_that_only_a_policy_ends() {
    let fixed = RatePolicy::new(Policy::Fixed, Some(120_000_000)).unwrap();
    let mut script = script::Script::cruising(Params::default());
    script.bbr.set_rate(script.now, fixed);
    assert_eq!(script.state(), State::Fixed);
    assert_eq!(script.bbr.pacing_rate(), 15_000_000.0);
    // A queue, marks and loss for longer than anything would wait.
    (script.rtt, script.is_marked, script.loss) = (2 * script::RTT, true, 0.05);
    script.rounds(200);
    assert_eq!(script.state(), State::Fixed);
    assert_eq!(script.bbr.look().min_rtt, Some(script::RTT), "what a queue adds is not the path's");
    assert_eq!(script.bbr.pacing_rate(), 15_000_000.0, "and what it drops is not, either");
    script.bbr.set_rate(script.now, RatePolicy::default());
    assert_eq!(script.state(), State::ProbeDown);
}

#[test]
fn what_the_path_loses_is_sent_on_top_of_a_target() {
    let fixed = RatePolicy::new(Policy::Fixed, Some(120_000_000)).unwrap();
    let mut script = script::Script::cruising(Params::default());
    script.bbr.set_rate(script.now, fixed);
    script.loss = 0.2;
    script.rounds(60);
    let rate = script.bbr.pacing_rate();
    assert!((rate / (15_000_000.0 / 0.8) - 1.0).abs() < 0.02, "{rate}");
    // More than a third: what is delivered, and in two seconds the target again.
    script.loss = 0.5;
    script.rounds(6);
    let rate = script.bbr.pacing_rate();
    assert!((rate / 7_500_000.0 - 1.0).abs() < 0.1, "{rate}");
    script.loss = 0.0;
    script.rounds(21);
    let rate = script.bbr.pacing_rate();
    assert!(rate >= 15_000_000.0, "{rate}");
}
