#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const PACKET: Packet = Packet { len: 1500, ecn: true, udp: true };

fn ms(value: f64) -> Duration {
    Duration::from_nanos((value * 1e6).round() as u64)
}

fn pipe(spec: Direction) -> Pipe {
    Pipe::new(&spec, 7).unwrap()
}

/// Offers a packet each `gap`, and gives the arrivals.
fn offer(pipe: &mut Pipe, packets: u32, gap: Duration) -> Vec<Option<Duration>> {
    let arrival = |i| match pipe.offer(gap * i, PACKET) {
        Passage::Passes(arrival, _) => Some(arrival.at),
        Passage::Dropped(_) => None,
    };
    (0..packets).map(arrival).collect()
}

/// Asserts that `hits` of `of` fit a chance of `p`: within five standard deviations, which happens by mistake once in
/// 1.7 million times; and the seeds are fixed.
fn fits(hits: u64, of: u64, p: f64) {
    let (mean, deviation) = (of as f64 * p, (of as f64 * p * (1.0 - p)).sqrt());
    assert!((hits as f64 - mean).abs() <= 5.0 * deviation, "{hits} of {of}, expected {mean} +- {deviation}");
}

#[test]
fn an_empty_pipe_is_a_wire() {
    let arrivals = offer(&mut pipe(Direction::default()), 3, ms(1.0));
    assert_eq!(arrivals, [Some(ms(0.0)), Some(ms(1.0)), Some(ms(2.0))]);
}

#[test]
fn rate_and_delay_are_exact() {
    // 1500 bytes at 12 Mbit/s are 1 ms.
    let spec = Direction { rate_mbit: Some(12.0), delay_ms: 60.0, ..Direction::default() };
    let mut pipe = pipe(spec);
    let arrivals = offer(&mut pipe, 3, Duration::ZERO);
    assert_eq!(arrivals, [Some(ms(61.0)), Some(ms(62.0)), Some(ms(63.0))]);
    assert_eq!(pipe.backlog(ms(1.5)), 2250);
    assert_eq!(pipe.backlog(ms(3.0)), 0);
    // Idle in between: nothing is saved up.
    assert!(matches!(pipe.offer(ms(10.0), PACKET), Passage::Passes(a, None) if a.at == ms(71.0)));
}

#[test]
fn the_queue_holds_what_it_holds_and_no_more() {
    let spec = Direction { rate_mbit: Some(12.0), queue_bytes: Some(4500), ..Direction::default() };
    let mut pipe = pipe(spec);
    let arrivals = offer(&mut pipe, 6, Duration::ZERO);
    assert_eq!(arrivals.iter().flatten().count(), 3);
    // A packet's time later there is room for one.
    assert!(matches!(pipe.offer(ms(1.0), PACKET), Passage::Passes(a, None) if a.at == ms(4.0)));
    assert_eq!(pipe.offer(ms(1.0), PACKET), Passage::Dropped(Drop::Queue));
    assert_eq!((pipe.counts().queue, pipe.counts().queue_max), (4, 4500));
    assert_eq!((pipe.counts().offered_bytes, pipe.counts().bytes), (8 * 1500, 4 * 1500));
}

#[test]
fn loss_is_what_was_asked_and_occupies_the_link() {
    let spec = Direction { rate_mbit: Some(12.0), loss_percent: 2.0, ..Direction::default() };
    let mut pipe = pipe(spec);
    let arrivals = offer(&mut pipe, 100_000, ms(1.0));
    fits(pipe.counts().lost, 100_000, 0.02);
    for (i, arrival) in arrivals.iter().enumerate().filter_map(|(i, a)| Some((i, (*a)?))) {
        assert_eq!(arrival, ms(i as f64 + 1.0));
    }
}

#[test]
fn loss_does_not_depend_on_the_queue() {
    let lost = |queue| {
        let spec =
            Direction { rate_mbit: Some(6.0), loss_percent: 5.0, queue_bytes: queue, ..Direction::default() };
        let mut pipe = pipe(spec);
        (0..5000u32)
            .map(|i| pipe.offer(ms(1.0) * i, PACKET))
            .map(|passage| passage == Passage::Dropped(Drop::Lost))
            .collect::<Vec<_>>()
    };
    let (endless, short) = (lost(None), lost(Some(15_000)));
    assert!(short.iter().zip(&endless).all(|(short, endless)| endless | !short));
    assert!(short.iter().filter(|lost| **lost).count() > 50);
}

#[test]
fn bursts_have_their_share_and_their_length() {
    let burst = Burst { enter_percent: 0.1, leave_percent: 10.0, loss_percent: 100.0 };
    let mut pipe = pipe(Direction { burst: Some(burst), ..Direction::default() });
    let arrivals = offer(&mut pipe, 2_000_000, Duration::from_micros(1));
    let lost = pipe.counts().lost as f64;
    // In the long run 0.1 / (0.1 + 10) of the time is bad. Losses within a burst belong together: the variance is about
    // twice the mean length of a burst times that of single losses.
    let share = lost / 2e6;
    assert!((share - 0.0099).abs() < 0.0009, "{share}");
    let bursts = arrivals.windows(2).filter(|w| w[0].is_some() && w[1].is_none()).count() as f64;
    let length = lost / bursts;
    assert!((length - 10.0).abs() < 0.9, "{length}");
}

#[test]
fn bursts_of_a_mean_loss_have_that_loss() {
    for (percent, length) in [(0.1, 8.0), (2.0, 8.0), (10.0, 3.0)] {
        let burst = Burst::of_mean(percent, length).unwrap();
        let mut pipe = pipe(Direction { burst: Some(burst), ..Direction::default() });
        let arrivals = offer(&mut pipe, 2_000_000, Duration::from_micros(1));
        // The variance of the number of losses is that of single losses times about twice the length of a burst: five
        // standard deviations.
        let (lost, mean) = (pipe.counts().lost as f64, 2e4 * percent);
        assert!((lost - mean).abs() <= 5.0 * (mean * 2.0 * length).sqrt(), "{lost}, expected {mean}");
        let bursts = arrivals.windows(2).filter(|w| w[0].is_some() && w[1].is_none()).count() as f64;
        // The length of a burst is geometrically distributed: its deviation is less than its mean.
        assert!((lost / bursts - length).abs() <= 5.0 * length / bursts.sqrt(), "{}", lost / bursts);
    }
    assert_eq!(Burst::of_mean(0.0, 8.0).unwrap().enter_percent, 0.0);
    for (percent, length) in [(100.0, 8.0), (1.0, 0.5), (60.0, 1.0), (f64::NAN, 2.0), (1.0, f64::NAN)] {
        assert_eq!(Burst::of_mean(percent, length), None, "{percent} % in bursts of {length}");
    }
}

#[test]
fn jitter_keeps_the_order_unless_it_may_not() {
    let jittered = |reorder| {
        let spec = Direction { delay_ms: 10.0, jitter_ms: 5.0, reorder, ..Direction::default() };
        let arrivals = offer(&mut pipe(spec), 20_000, ms(0.1));
        let arrivals: Vec<Duration> = arrivals.into_iter().flatten().collect();
        for (i, at) in arrivals.iter().enumerate() {
            let late = *at - ms(0.1) * i as u32;
            assert!((ms(10.0)..=ms(15.0)).contains(&late), "{late:?}");
        }
        let late = arrivals.iter().enumerate().map(|(i, at)| (*at - ms(0.1) * i as u32).as_secs_f64() * 1e3);
        (arrivals.is_sorted(), late.sum::<f64>() / arrivals.len() as f64)
    };
    assert!(jittered(false).0);
    let (sorted, mean) = jittered(true);
    assert!(!sorted);
    // Evenly between 10 and 15: the mean of 20,000 is within five deviations (1.443 / sqrt(20,000)) of 12.5.
    assert!((mean - 12.5).abs() < 0.051, "{mean}");
}

#[test]
fn marks_are_for_those_who_ask_and_only_above_the_threshold() {
    let spec = Direction { rate_mbit: Some(12.0), mark_above_bytes: Some(3000), ..Direction::default() };
    let mut pipe = pipe(spec);
    let marks: Vec<bool> = (0..5)
        .map(|_| match pipe.offer(Duration::ZERO, PACKET) {
            Passage::Passes(arrival, _) => arrival.marked,
            Passage::Dropped(_) => panic!("no limit"),
        })
        .collect();
    assert_eq!(marks, [false, false, false, true, true]);
    let deaf = Packet { ecn: false, ..PACKET };
    assert!(matches!(pipe.offer(Duration::ZERO, deaf), Passage::Passes(a, _) if !a.marked));
}

#[test]
fn duplicates_and_wrong_bits() {
    let spec = Direction { duplicate_percent: 3.0, corrupt_percent: 1.0, ..Direction::default() };
    let mut pipe = pipe(spec);
    let (mut twice, mut wrong) = (0, 0);
    for i in 0..100_000u32 {
        let Passage::Passes(first, second) = pipe.offer(ms(1.0) * i, PACKET) else {
            panic!("nothing is lost")
        };
        twice += u64::from(second.is_some());
        wrong += u64::from(first.wrong_bit.is_some());
        assert!(second.is_none_or(|second| second.wrong_bit.is_none()));
    }
    fits(twice, 100_000, 0.03);
    fits(wrong, 100_000, 0.01);
    assert_eq!((pipe.counts().duplicated, pipe.counts().corrupted), (twice, wrong));
}

#[test]
fn what_is_longer_than_the_mtu_vanishes() {
    let mut pipe = pipe(Direction { mtu: Some(1400), ..Direction::default() });
    assert_eq!(pipe.offer(Duration::ZERO, PACKET), Passage::Dropped(Drop::TooLong));
    let fitting = Packet { len: 1400, ..PACKET };
    assert!(matches!(pipe.offer(Duration::ZERO, fitting), Passage::Passes(..)));
}

#[test]
fn an_mtu_can_change() {
    let events = vec![Event { at_s: 1.0, mtu: Some(1400), ..Event::default() }];
    let mut pipe = pipe(Direction { events, ..Direction::default() });
    assert!(matches!(pipe.offer(ms(999.0), PACKET), Passage::Passes(..)));
    assert_eq!(pipe.mtu(), None);
    assert_eq!(pipe.offer(ms(1000.0), PACKET), Passage::Dropped(Drop::TooLong));
    assert_eq!((pipe.mtu(), pipe.counts().too_long), (Some(1400), 1));
}

#[test]
fn a_policer_lets_its_burst_and_its_rate_through() {
    // 12 Mbit/s is a packet each ms; four times that is offered.
    let police = Police { rate_mbit: 12.0, burst_bytes: 15_000 };
    let mut pipe = pipe(Direction { police: Some(police), ..Direction::default() });
    let arrivals = offer(&mut pipe, 4000, ms(0.25));
    let first: Vec<bool> = arrivals.iter().take(12).map(Option::is_some).collect();
    assert!(first.iter().all(|passed| *passed), "the bucket of ten, and what flows in meanwhile");
    let passed = arrivals.iter().flatten().count();
    assert!((1008..=1010).contains(&passed), "{passed}: ten at once, and one each of 1000 ms");
}

#[test]
fn events_change_what_they_name_when_they_say() {
    let events = vec![
        Event { at_s: 1.0, delay_ms: Some(20.0), ..Event::default() },
        Event { at_s: 2.0, outage_ms: Some(500.0), ..Event::default() },
        Event { at_s: 3.0, block_udp: Some(true), ..Event::default() },
        Event { at_s: 4.0, block_udp: Some(false), loss_percent: Some(100.0), ..Event::default() },
    ];
    let mut pipe = pipe(Direction { delay_ms: 10.0, events, ..Direction::default() });
    let mut at = |time: f64| match pipe.offer(ms(time * 1e3), PACKET) {
        Passage::Passes(arrival, _) => Ok(arrival.at - ms(time * 1e3)),
        Passage::Dropped(why) => Err(why),
    };
    assert_eq!(at(0.999), Ok(ms(10.0)));
    assert_eq!(at(1.0), Ok(ms(20.0)));
    assert_eq!(at(2.0), Err(Drop::Blocked));
    assert_eq!(at(2.499), Err(Drop::Blocked));
    assert_eq!(at(2.5), Ok(ms(20.0)));
    assert_eq!(at(3.5), Err(Drop::Blocked));
    assert_eq!(at(4.0), Err(Drop::Lost));
    let tcp = Packet { udp: false, ..PACKET };
    let mut pipe = Pipe::new(
        &Direction {
            events: vec![Event { at_s: 0.0, block_udp: Some(true), ..Event::default() }],
            ..Direction::default()
        },
        1,
    )
    .unwrap();
    assert!(matches!(pipe.offer(Duration::ZERO, tcp), Passage::Passes(..)));
    assert_eq!(pipe.offer(Duration::ZERO, PACKET), Passage::Dropped(Drop::Blocked));
}

#[test]
fn a_change_of_rate_acts_on_what_is_queued() {
    let events = vec![Event { at_s: 0.002, rate_mbit: Some(1.2), ..Event::default() }];
    let mut pipe = pipe(Direction { rate_mbit: Some(12.0), events, ..Direction::default() });
    let arrivals = offer(&mut pipe, 4, Duration::ZERO);
    // Two at 1 ms each, the others at 10 ms each.
    assert_eq!(arrivals, [Some(ms(1.0)), Some(ms(2.0)), Some(ms(12.0)), Some(ms(22.0))]);
    assert_eq!(pipe.backlog(ms(1.0)), 4500);
    assert_eq!(pipe.backlog(ms(12.0)), 1500);
}

#[test]
fn the_same_seed_does_the_same() {
    let spec = Direction {
        rate_mbit: Some(100.0),
        jitter_ms: 2.0,
        reorder: true,
        loss_percent: 1.0,
        corrupt_percent: 1.0,
        ..Direction::default()
    };
    let run = |seed| {
        let mut pipe = Pipe::new(&spec, seed).unwrap();
        (0..1000u32).map(|i| pipe.offer(ms(0.1) * i, PACKET)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn nonsense_is_named() {
    let nonsense = [
        (Direction { rate_mbit: Some(0.0), ..Direction::default() }, "rate_mbit"),
        (Direction { loss_percent: 101.0, ..Direction::default() }, "loss_percent"),
        (Direction { delay_ms: f64::NAN, ..Direction::default() }, "delay_ms"),
        (
            Direction {
                events: vec![
                    Event { at_s: 2.0, ..Event::default() },
                    Event { at_s: 1.0, ..Event::default() },
                ],
                ..Direction::default()
            },
            "events.at_s",
        ),
    ];
    for (spec, key) in nonsense {
        assert_eq!(Pipe::new(&spec, 0).unwrap_err().key, key);
    }
    assert!(toml::from_str::<Direction>("rate_mbits = 1").is_err(), "a typing error is no default");
}

proptest! {
    #[test]
    fn nothing_overtakes_and_nothing_is_faster_than_the_link(
        rate in 1u32..10_000,
        gaps in prop::collection::vec((0u64..2_000_000, 40u32..9000), 1..200),
        steps in prop::collection::vec((0u32..200, 1u32..10_000), 0..4),
        queue in prop::option::of(1500u64..100_000),
    ) {
        let mut steps = steps;
        steps.sort_unstable();
        let events: Vec<Event> = steps.iter().map(|(at, rate)| Event {
            at_s: f64::from(*at) / 1e3, rate_mbit: Some(f64::from(*rate)), ..Event::default()
        }).collect();
        let fastest = steps.iter().map(|(_, rate)| *rate).max().unwrap_or(0).max(rate);
        let spec = Direction { rate_mbit: Some(f64::from(rate)), queue_bytes: queue, delay_ms: 1.0, events, ..Direction::default() };
        let mut pipe = Pipe::new(&spec, 1).unwrap();
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        for (gap, len) in gaps {
            now += Duration::from_nanos(gap);
            let backlog = pipe.backlog(now);
            match pipe.offer(now, Packet { len, ..PACKET }) {
                Passage::Passes(arrival, None) => {
                    let took = Duration::from_nanos(u64::from(len) * 8000 / u64::from(fastest));
                    prop_assert!(arrival.at >= now + took + ms(1.0));
                    prop_assert!(arrival.at >= last + took);
                    last = arrival.at;
                    let after = pipe.backlog(now);
                    // Times are rounded to nanoseconds, which are up to 1.25 bytes here.
                    prop_assert!((backlog + u64::from(len)).abs_diff(after) <= 2, "{backlog} + {len}: {after}");
                    prop_assert!(queue.is_none_or(|queue| after <= queue + 2));
                }
                Passage::Dropped(why) => {
                    prop_assert_eq!(why, Drop::Queue);
                    prop_assert!(backlog + u64::from(len) > queue.unwrap());
                }
                Passage::Passes(..) => prop_assert!(false, "no duplicates were asked for"),
            }
        }
    }
}
