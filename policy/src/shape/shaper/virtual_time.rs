#![allow(clippy::unwrap_used)]

//! What users would see, in virtual time.

use std::time::SystemTime;

use super::super::Zone;
use super::super::calendar::Calendar;
use super::driver::*;
use super::*;

const MBIT: f64 = 125_000.0;

#[test]
fn five_tenants_have_their_floors_and_the_hostile_one_what_its_weight_allows() {
    let mut driver = Driver::new(ceiling(1000));
    let mut tenants = Vec::new();
    for mbit in [300, 200, 100, 50, 0] {
        let tenant = driver.tenant(floor(mbit));
        let jobs: Vec<_> = (0..if mbit == 0 { 64 } else { 1 }).map(|_| driver.hungry(tenant, 4)).collect();
        tenants.push((mbit as f64, jobs));
    }
    driver.run(10.0);
    let mut sum = 0.0;
    for (mbit, jobs) in tenants {
        let rate = driver.granted(&jobs, Duration::ZERO) as f64 / 10.0 / MBIT;
        println!("floor {mbit:3} Mbit/s: {rate:.1} Mbit/s with {} jobs", jobs.len());
        assert!(rate >= mbit * 0.97);
        // What is above the floors is shared by weight: 350 Mbit/s by five.
        assert!((rate - mbit - 70.0).abs() < 7.0, "{rate}");
        sum += rate;
    }
    println!("sum {sum:.1} Mbit/s");
    assert!((950.0..1000.0 + 8.0 * 8.4).contains(&sum));
}

#[test]
fn floors_hold_in_every_window_of_a_second() {
    let mut driver = Driver::new(ceiling(1000));
    let tenant = driver.tenant(floor(300));
    let mine = driver.hungry(tenant, 7);
    let hostile = driver.tenant(Share::default());
    for _ in 0..64 {
        driver.hungry(hostile, 0);
    }
    for _ in 0..20 {
        let since = driver.now + Duration::from_nanos(1);
        driver.run(1.0);
        let rate = driver.granted(&[mine], since) as f64 / MBIT;
        assert!(rate > 300.0 - 3.0 * 8.4, "{rate}");
    }
}

#[test]
fn many_jobs_gain_nothing_over_one() {
    let mut driver = Driver::new(ceiling(800));
    let one = driver.tenant(Share::default());
    let many = driver.tenant(Share::default());
    let single = driver.hungry(one, 3);
    let user = driver.user(many, Share::default());
    let crowd: Vec<_> = (0..64)
        .map(|_| {
            let job = driver.job(user, 3, Share::default());
            driver.ask(job, 1 << 50);
            job
        })
        .collect();
    driver.run(10.0);
    let (single, crowd) = (driver.granted(&[single], Duration::ZERO), driver.granted(&crowd, Duration::ZERO));
    assert!(single.abs_diff(crowd) <= 2 * PIECE, "{single} and {crowd}");
}

#[test]
fn jobs_in_all_lanes_gain_nothing_over_one() {
    let mut driver = Driver::new(ceiling(1000));
    let honest: Vec<_> = (0..19)
        .map(|_| {
            let tenant = driver.tenant(Share::default());
            driver.hungry(tenant, 0)
        })
        .collect();
    let many = driver.tenant(Share::default());
    let crowd: Vec<_> = (0..64).map(|i| driver.hungry(many, i % 8)).collect();
    driver.run(60.0);
    let theirs = driver.granted(&crowd, Duration::ZERO);
    for job in honest {
        assert!(driver.granted(&[job], Duration::ZERO).abs_diff(theirs) <= 2 * PIECE);
    }
    // Nor does the tenant starve its own urgent jobs by those in the background.
    let urgent: Vec<_> = crowd.iter().copied().step_by(8).collect();
    assert!(driver.granted(&urgent, Duration::ZERO) as f64 > 0.87 * theirs as f64);
}

#[test]
fn jobs_that_come_anew_all_the_time_gain_nothing() {
    let mut driver = Driver::new(ceiling(800));
    let one = driver.tenant(Share::default());
    let single = driver.hungry(one, 3);
    let restless = driver.tenant(Share::default());
    let mut theirs = 0;
    while driver.now < Duration::from_secs(10) {
        // A new user and a new job for every chunk.
        let user = driver.user(restless, Share::default());
        let job = driver.job(user, 3, Share::default());
        driver.ask(job, MAX_CHUNK);
        let before = theirs;
        while theirs == before {
            let seen = driver.log.len();
            driver.run(0.001);
            theirs +=
                driver.log[seen..].iter().filter(|(_, g)| g.job == job).map(|(_, g)| g.bytes).sum::<u64>();
        }
        driver.shaper.remove_user(user);
    }
    let single = driver.granted(&[single], Duration::ZERO);
    assert!(theirs <= single + 2 * MAX_CHUNK, "{single} and {theirs}");
}

#[test]
fn days_do_not_drift() {
    let mut driver = Driver::new(ceiling(7));
    let tenant = driver.tenant(floor(3));
    let one = driver.hungry(tenant, 4);
    let tenant = driver.tenant(Share { weight: 3, ..Share::default() });
    let three = driver.hungry(tenant, 4);
    let days = 3.0 * 86_400.0;
    driver.run(days);
    let [one, three] = [one, three].map(|job| driver.granted(&[job], Duration::ZERO) as f64);
    assert!((one + three - days * 7.0 * MBIT).abs() < 2.0 * MAX_CHUNK as f64);
    assert!((one - days * 4.0 * MBIT).abs() < 4.0 * MAX_CHUNK as f64, "{one} {three}");
}

#[test]
fn a_cap_acts_at_once_in_mid_transfer() {
    let mut driver = Driver::new(ceiling(1000));
    let share = Share::default();
    let tenant = driver.tenant(share);
    let job = driver.hungry(tenant, 4);
    driver.run(5.0);
    let rate = driver.granted(&[job], Duration::from_secs(4)) as f64 / MBIT;
    assert!(rate > 950.0, "{rate}");

    let now = driver.instant();
    assert!(driver.shaper.set_tenant(tenant, share.capped(Some(Rate::from_mbit(100))), now));
    let since = driver.now;
    driver.run(1.0);
    let rate = driver.granted(&[job], since) as f64 / MBIT;
    println!("in the first second after the cap of 100 Mbit/s: {rate:.1} Mbit/s");
    assert!((90.0..100.0 + 8.4 * 4.0).contains(&rate), "{rate}");
    let since = driver.now + Duration::from_nanos(1);
    driver.run(10.0);
    let rate = driver.granted(&[job], since) as f64 / 10.0 / MBIT;
    assert!((99.0..101.0).contains(&rate), "{rate}");

    // And it is gone as fast.
    let now = driver.instant();
    assert!(driver.shaper.set_tenant(tenant, share, now));
    let since = driver.now;
    driver.run(1.0);
    assert!(driver.granted(&[job], since) as f64 / MBIT > 950.0);
}

#[test]
fn business_hours_begin_in_mid_transfer() {
    let zone = Zone::parse("Europe/Berlin").unwrap();
    let calendar = Calendar::parse("Mon-Fri 09:00-19:00: 50M", &zone).unwrap();
    // Monday after the clock was put forward: 09:00 is 07:00 UTC.
    let nine = SystemTime::UNIX_EPOCH + Duration::from_secs(1_774_854_000);
    let begin = nine - Duration::from_secs(5);
    let mut driver = Driver::new(ceiling(1000));
    let share = Share::default();
    let tenant = driver.tenant(share.capped(calendar.cap_at(begin)));
    let job = driver.hungry(tenant, 4);
    // As a gateway does it: until the next change, and then what holds from there on.
    let change = calendar.next_change_after(begin).unwrap();
    assert_eq!(change, nine);
    driver.run_until(change.duration_since(begin).unwrap());
    assert!(driver.granted(&[job], Duration::ZERO) as f64 / 5.0 / MBIT > 950.0);
    let now = driver.instant();
    assert!(driver.shaper.set_tenant(tenant, share.capped(calendar.cap_at(change)), now));
    let since = driver.now;
    driver.run(1.0);
    let first = driver.granted(&[job], since) as f64 / MBIT;
    let since = driver.now + Duration::from_nanos(1);
    driver.run(1.0);
    let second = driver.granted(&[job], since) as f64 / MBIT;
    println!("cap of 50 Mbit/s at 09:00: {first:.1} Mbit/s in the first second, {second:.1} in the next");
    assert!(first <= 50.0 + 8.4 * 4.0 && second <= 50.0 + 8.4, "{first} {second}");
}

#[test]
fn an_urgent_job_is_nearly_alone_among_those_in_the_background() {
    let alone = urgent_job(0);
    let among = urgent_job(64);
    println!("100 MB alone {alone:?}, among 64 in the background {among:?}");
    assert!(among < alone.mul_f64(1.3));
}

/// The time that 100 MB in lane 0 take beside so many jobs in lane 7, that have been there for five seconds.
fn urgent_job(others: usize) -> Duration {
    let mut driver = Driver::new(ceiling(1000));
    for _ in 0..others {
        let tenant = driver.tenant(Share::default());
        driver.hungry(tenant, 7);
    }
    driver.run(5.0);
    let tenant = driver.tenant(Share::default());
    let user = driver.user(tenant, Share::default());
    let job = driver.job(user, 0, Share::default());
    driver.ask(job, 100_000_000);
    let start = driver.now;
    driver.run(10.0);
    assert_eq!(driver.granted(&[job], start), 100_000_000);
    driver.log.iter().rfind(|(_, grant)| grant.job == job).unwrap().0 - start
}

#[test]
fn the_last_lane_goes_on_behind_all_others() {
    let mut driver = Driver::new(ceiling(1000));
    let jobs: Vec<_> = (0..8)
        .map(|lane| {
            let tenant = driver.tenant(Share::default());
            driver.hungry(tenant, lane)
        })
        .collect();
    driver.run(60.0);
    let all = driver.granted(&jobs, Duration::ZERO) as f64;
    for (lane, job) in jobs.iter().enumerate() {
        let part = driver.granted(&[*job], Duration::ZERO) as f64 / all;
        println!("lane {lane}: {:.2} %", part * 100.0);
        let expected = if lane == 0 { 57.0 / 64.0 } else { 1.0 / 64.0 };
        assert!((part - expected).abs() < 0.003, "lane {lane}: {part}");
    }
}

#[test]
fn the_last_lane_of_a_tenant_goes_on_though_others_have_the_same_lane_for_themselves() {
    // The first tenant is at its ceiling with lane 0; lane 7 is served all the time, but by the other.
    let mut driver = Driver::new(ceiling(1000));
    let limited = driver.tenant(ceiling(600));
    let (urgent, last) = (driver.hungry(limited, 0), driver.hungry(limited, 7));
    let other = driver.tenant(Share::default());
    driver.hungry(other, 7);
    driver.run(60.0);
    let part =
        driver.granted(&[last], Duration::ZERO) as f64 / driver.granted(&[urgent], Duration::ZERO) as f64;
    println!("lane 7 has {:.2} % of lane 0", part * 100.0);
    assert!(part > 0.01);
}

#[test]
fn floors_of_tenants_are_before_lanes_of_others() {
    let mut driver = Driver::new(ceiling(1000));
    let quiet = driver.tenant(floor(400));
    let background = driver.hungry(quiet, 7);
    let loud = driver.tenant(floor(100));
    let urgent = driver.hungry(loud, 0);
    driver.run(10.0);
    let mbit = |job| driver.granted(&[job], Duration::ZERO) as f64 / 10.0 / MBIT;
    assert!((400.0..420.0).contains(&mbit(background)), "{}", mbit(background));
    assert!(mbit(urgent) > 580.0);
}

#[test]
fn a_slow_gateway_honours_floors_that_are_less_than_a_chunk_a_second() {
    let mut driver = Driver::new(ceiling(10));
    let tenant = driver.tenant(floor(8));
    let user = driver.user(tenant, Share::default());
    let mine = driver.job(user, 7, Share::default());
    let hostile = driver.tenant(Share::default());
    let user = driver.user(hostile, Share::default());
    let theirs: Vec<_> = (0..64).map(|_| driver.job(user, 0, Share::default())).collect();
    // Everybody asks for the largest chunk, again and again.
    let mut seen = 0;
    for job in theirs.iter().chain([&mine]) {
        driver.ask(*job, MAX_CHUNK);
    }
    while driver.now < Duration::from_secs(300) {
        driver.run(0.05);
        for (_, grant) in driver.log.clone().into_iter().skip(seen) {
            driver.ask(grant.job, grant.bytes);
        }
        seen = driver.log.len();
    }
    let rate = driver.granted(&[mine], Duration::ZERO) as f64 / 300.0 / MBIT;
    assert!(rate >= 8.0 * 0.97, "{rate}");
}

/// The example of `docs/policy-shaping.md`, at night and at noon.
#[test]
fn the_documented_example() {
    for (archive_ceiling, expected) in [(500, [357, 157, 429, 57]), (100, [367, 100, 467, 67])] {
        let mut driver = Driver::new(ceiling(1000));
        let shares = [
            floor(300),
            Share { ceiling: Some(Rate::from_mbit(archive_ceiling)), ..floor(100) },
            Share { weight: 4, ..floor(200) },
            ceiling(100),
        ];
        let jobs = shares.map(|share| {
            let tenant = driver.tenant(share);
            driver.hungry(tenant, 4)
        });
        driver.run(60.0);
        for (job, expected) in jobs.into_iter().zip(expected) {
            let rate = driver.granted(&[job], Duration::ZERO) as f64 / 60.0 / MBIT;
            assert!((rate - f64::from(expected)).abs() < 3.0, "{rate} and not {expected}");
        }
    }
}

#[test]
#[ignore = "a measurement: cargo test -p metra-policy cost_of_a_grant -- --ignored --nocapture"]
fn cost_of_a_grant() {
    let mut driver = Driver::new(ceiling(100_000));
    for t in 0..10 {
        let tenant = driver.tenant(Share { weight: t + 1, ..floor(5_000) });
        for u in 0..10_u32 {
            let share = if u % 3 == 0 { ceiling(3_000) } else { Share::default() };
            let user = driver.user(tenant, Share { weight: u + 1, ..share });
            for j in 0..64 {
                let job = driver.job(user, j % 8, Share::default());
                driver.ask(job, 1 << 60);
            }
        }
    }
    driver.run(1.0);
    driver.log.clear();
    driver.log.reserve(1_000_000);
    #[allow(clippy::disallowed_methods)]
    let clock = std::time::Instant::now();
    driver.run(20.0);
    let passed = clock.elapsed();
    let grants = driver.log.len() as u32;
    println!(
        "{grants} grants among 6400 jobs, {:?} each; {} bytes a job",
        passed / grants,
        size_of::<Node>()
    );
}
