#![allow(clippy::unwrap_used)]

//! One mechanism at a time.

use super::driver::*;
use super::*;

#[test]
fn without_limits_everything_is_granted_at_once() {
    let mut driver = Driver::new(Share::default());
    let tenant = driver.tenant(Share::default());
    let user = driver.user(tenant, Share::default());
    let job = driver.job(user, 4, Share::default());
    assert_eq!(driver.shaper.next_wake(), None);
    driver.ask(job, 10 * PIECE + 5);
    assert_eq!(driver.shaper.next_wake(), Some(driver.instant()));
    driver.drain();
    assert_eq!(driver.granted(&[job], Duration::ZERO), 10 * PIECE + 5);
    assert_eq!(driver.shaper.next_wake(), None);
    assert_eq!(driver.shaper.wanted(job), 0);
}

#[test]
fn a_chunk_is_granted_whole() {
    let mut driver = Driver::new(ceiling(10));
    let tenant = driver.tenant(Share::default());
    let jobs: Vec<_> = (0..8).map(|_| driver.hungry(tenant, 4)).collect();
    for job in &jobs {
        driver.shaper.retract(*job);
        driver.ask(*job, MAX_CHUNK - 1);
    }
    driver.run(60.0);
    assert_eq!(driver.log.len(), 8);
    assert!(driver.log.iter().all(|(_, grant)| grant.bytes == MAX_CHUNK - 1));
}

#[test]
fn a_small_burst_grants_in_parts_that_are_not_crumbs() {
    let mut driver = Driver::new(Share { burst: 0, ..ceiling(8) });
    let tenant = driver.tenant(Share::default());
    let job = driver.hungry(tenant, 4);
    driver.run(10.0);
    assert!(driver.log.iter().all(|(_, grant)| grant.bytes >= MIN_GRANT));
    let log = driver.log.iter().map(|(at, grant)| (*at, i128::from(grant.bytes)));
    assert_within(log, Rate::from_mbit(8), MIN_BURST);
    assert!(driver.granted(&[job], Duration::ZERO) >= 10_000_000);
}

#[test]
fn a_ceiling_of_nothing_stands_still() {
    let mut driver = Driver::new(ceiling(100));
    let tenant = driver.tenant(Share::default());
    let job = driver.hungry(tenant, 4);
    driver.run(1.0);
    let now = driver.instant();
    driver.shaper.set_tenant(tenant, ceiling(0), now);
    let since = driver.now + Duration::from_nanos(1);
    driver.run(1.0);
    assert_eq!(driver.granted(&[job], since), 0);
    assert_eq!(driver.shaper.next_wake(), None, "time alone does not help");
    let now = driver.instant();
    driver.shaper.set_tenant(tenant, ceiling(100), now);
    assert!(driver.shaper.next_wake().is_some());
    driver.run(1.0);
    assert!(driver.granted(&[job], since) > 12_000_000);
}

#[test]
fn weights_share_what_is_above_floors() {
    let mut driver = Driver::new(ceiling(600));
    let jobs = [1, 2, 3].map(|weight| {
        let tenant = driver.tenant(Share { weight, ..Share::default() });
        driver.hungry(tenant, 4)
    });
    driver.run(10.0);
    let [one, two, three] = jobs.map(|job| driver.granted(&[job], Duration::ZERO));
    assert!(
        two.abs_diff(2 * one) <= 4 * PIECE && three.abs_diff(3 * one) <= 5 * PIECE,
        "{one} {two} {three}"
    );
}

#[test]
fn floors_that_do_not_fit_are_scaled() {
    let mut driver = Driver::new(ceiling(100));
    let jobs = [100, 200, 100].map(|mbit| {
        let tenant = driver.tenant(floor(mbit));
        driver.hungry(tenant, 4)
    });
    driver.run(20.0);
    let [a, b, c] = jobs.map(|job| driver.granted(&[job], Duration::ZERO));
    assert!(a.abs_diff(c) <= 4 * PIECE && b.abs_diff(2 * a) <= 6 * PIECE, "{a} {b} {c}");
}

#[test]
fn a_long_time_of_too_little_is_not_made_up_for() {
    // For an hour the floors do not fit; then they do, and nobody is kept out for what was missed.
    let mut driver = Driver::new(ceiling(10));
    let tenant = driver.tenant(floor(100));
    driver.hungry(tenant, 4);
    let other = driver.tenant(Share::default());
    let other = driver.hungry(other, 4);
    driver.run(3600.0);
    let now = driver.instant();
    driver.shaper.set_gateway(ceiling(200), now);
    let since = driver.now;
    driver.run(4.0);
    // Half of what is above the floor, less what is remembered of the floor.
    assert!(driver.granted(&[other], since) > 4 * 6_250_000 - 3 * MAX_CHUNK);
}

#[test]
fn a_floor_below_a_node_without_one_is_honoured() {
    let mut driver = Driver::new(ceiling(100));
    let mine = driver.tenant(Share::default());
    let user = driver.user(mine, floor(40));
    let job = driver.job(user, 7, Share::default());
    driver.ask(job, 1 << 50);
    for _ in 0..9 {
        driver.hungry(mine, 0);
        let other = driver.tenant(Share::default());
        driver.hungry(other, 0);
    }
    driver.run(20.0);
    assert!(driver.granted(&[job], Duration::ZERO) as f64 > 0.97 * 20.0 * 5e6);
}

#[test]
fn lanes_change_at_once() {
    let mut driver = Driver::new(ceiling(100));
    let tenant = driver.tenant(Share::default());
    let (first, second) = (driver.hungry(tenant, 2), driver.hungry(tenant, 5));
    driver.run(5.0);
    let before = driver.granted(&[second], Duration::ZERO);
    assert!(before < driver.granted(&[first], Duration::ZERO) / 30);
    let now = driver.instant();
    assert!(driver.shaper.set_lane(second, Priority::URGENT, now));
    let since = driver.now + Duration::from_nanos(1);
    driver.run(5.0);
    assert!(driver.granted(&[first], since) < driver.granted(&[second], since) / 30);
}

#[test]
fn what_is_given_back_can_be_granted_again_but_only_once() {
    let mut driver = Driver::new(Share { burst: 2 * PIECE, ..ceiling(0) });
    let tenant = driver.tenant(Share::default());
    let job = driver.hungry(tenant, 4);
    driver.drain();
    assert_eq!(driver.granted(&[job], Duration::ZERO), PIECE, "what is not lent");
    driver.shaper.refund(job, 1000);
    driver.drain();
    assert_eq!(driver.granted(&[job], Duration::ZERO), 2 * PIECE, "1000 bytes, and a loan");
    driver.shaper.refund(job, u64::MAX);
    driver.shaper.refund(job, u64::MAX);
    driver.drain();
    assert_eq!(driver.granted(&[job], Duration::ZERO), 3 * PIECE, "no more comes back than was granted");
}

#[test]
fn what_is_gone_is_gone_and_its_place_is_another() {
    let mut driver = Driver::new(ceiling(100));
    let tenant = driver.tenant(Share::default());
    let user = driver.user(tenant, Share::default());
    let job = driver.job(user, 4, Share::default());
    driver.ask(job, PIECE);
    driver.shaper.remove_tenant(tenant);
    let now = driver.instant();
    assert_eq!(driver.shaper.poll(now), None);
    assert_eq!(driver.shaper.next_wake(), None);
    assert!(!driver.shaper.ask(job, 1, now));
    assert!(driver.shaper.add_user(tenant, Share::default(), now).is_none());
    let places = driver.shaper.nodes.len();
    for _ in 0..100 {
        let again = driver.tenant(Share::default());
        let new = driver.hungry(again, 4);
        assert!(!driver.shaper.ask(job, 1, now) && new != job);
        driver.shaper.remove_tenant(again);
    }
    assert_eq!(driver.shaper.nodes.len(), places, "memory is that of the nodes");
    assert!(driver.shaper.wakes.is_empty() && driver.shaper.floors.is_empty());
}

#[test]
fn a_new_weight_and_a_new_burst_act_at_the_next_poll() {
    let mut driver = Driver::new(ceiling(100));
    let mut tenants = Vec::new();
    for _ in 0..2 {
        let tenant = driver.tenant(Share::default());
        tenants.push((tenant, driver.hungry(tenant, 4)));
    }
    driver.run(5.0);
    let now = driver.instant();
    driver.shaper.set_tenant(tenants[0].0, Share { weight: 4, ..Share::default() }, now);
    let since = driver.now + Duration::from_nanos(1);
    driver.run(10.0);
    let [four, one] = [0, 1].map(|i| driver.granted(&[tenants[i].1], since));
    assert!(four.abs_diff(4 * one) < 8 * PIECE, "{four} {one}");

    // A pause earns a burst; what the smaller one does not hold is dropped.
    tenants.iter().for_each(|(_, job)| _ = driver.shaper.retract(*job));
    driver.run(60.0);
    let now = driver.instant();
    driver.shaper.set_gateway(Share { burst: 2 * MIN_BURST, ..ceiling(100) }, now);
    driver.ask(tenants[0].1, 1 << 40);
    let since = driver.now;
    driver.drain();
    assert!(driver.granted(&[tenants[0].1], since) <= 2 * MIN_BURST);
}

#[test]
fn who_was_idle_is_no_winner_and_who_worked_no_loser() {
    let mut driver = Driver::new(ceiling(100));
    let busy = driver.tenant(Share::default());
    let busy = driver.hungry(busy, 4);
    let idle = driver.tenant(Share::default());
    let user = driver.user(idle, Share::default());
    let early = driver.job(user, 4, Share::default());
    driver.ask(early, 1);
    driver.run(60.0);
    // It comes back after a minute, and another one comes anew.
    let new = driver.tenant(Share::default());
    let new = driver.hungry(new, 4);
    driver.ask(early, 1 << 50);
    let since = driver.now + Duration::from_nanos(1);
    driver.run(6.0);
    let [busy, early, new] = [busy, early, new].map(|job| driver.granted(&[job], since));
    assert!(early.abs_diff(new) <= 2 * PIECE && early.abs_diff(busy) <= 2 * PIECE, "{busy} {early} {new}");
}

#[test]
fn nothing_comes_back_twice() {
    let mut driver = Driver::new(Share { burst: 4 * MAX_CHUNK, ..ceiling(0) });
    let tenant = driver.tenant(Share::default());
    let user = driver.user(tenant, Share::default());
    let honest = driver.hungry(tenant, 4);
    driver.shaper.retract(honest);
    let sly = driver.job(user, 4, Share::default());
    driver.ask(sly, PIECE);
    driver.drain();
    driver.shaper.refund(sly, u64::MAX);
    driver.ask(honest, 1 << 40);
    driver.drain();
    let before = driver.granted(&[honest], Duration::ZERO);
    assert_eq!(before, 3 * MAX_CHUNK);
    driver.shaper.refund(sly, u64::MAX);
    driver.drain();
    assert_eq!(driver.granted(&[honest], Duration::ZERO), before);
}

#[test]
fn whoever_polls_late_loses_nothing() {
    let mut driver = Driver::new(ceiling(1000));
    let tenant = driver.tenant(floor(700));
    let mine = driver.hungry(tenant, 7);
    let other = driver.tenant(Share::default());
    let other = driver.hungry(other, 0);
    for _ in 0..500 {
        driver.now += Duration::from_millis(20);
        driver.drain();
    }
    let all = driver.granted(&[mine, other], Duration::ZERO) as f64;
    assert!(all > 0.99 * 1.25e9, "{all}");
    assert!(driver.granted(&[mine], Duration::ZERO) as f64 > 0.97 * 0.7 * 1.25e9);
}
