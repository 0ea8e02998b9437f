//! Delivery-rate samples (section 4.5).

use super::*;

/// A sampler, and the time at which it began.
fn sampler() -> (Sampler, Instant) {
    let start = Instant::now();
    (Sampler::new(start), start)
}

/// The end of an acknowledgement at `now` of one packet that was made at `made`.
fn ack(sampler: &mut Sampler, now: Instant, made: Instant, bytes: u64) -> Sample {
    sampler.on_packet_acked(now, made, bytes);
    let in_flight = sampler.in_flight();
    sampler.finish(now, in_flight, None)
}

#[test]
fn a_rate_is_what_was_delivered_over_the_time_it_took() {
    let (mut s, t) = sampler();
    // Ten packets, one each 10 ms, over a path of 100 ms: one packet per 10 ms, from the first sample on that spans a
    // flight.
    let made: Vec<_> = (0..10).map(|n| t + ms(10 * n)).collect();
    made.iter().for_each(|made| s.on_sent(*made, *made, MSS));
    let mut last = None;
    for made in &made {
        last = Some(ack(&mut s, *made + ms(100), *made, MSS));
    }
    let last = last.unwrap();
    // The tenth left 90 ms after the first; ten packets were delivered in 190 ms since the flight began.
    assert_eq!((last.delivered, last.prior_delivered), (10 * MSS, 0));
    assert!((last.rate.unwrap() - 10.0 * MSS as f64 / 0.19).abs() < 1.0);
    assert_eq!((last.rtt, last.newly_acked, last.tx_in_flight), (Some(ms(100)), MSS, 10 * MSS));

    // One more that leaves as the tenth arrives: all that counts is since then.
    let made = t + ms(190);
    s.on_sent(made, made, 2 * MSS);
    let one = ack(&mut s, made + ms(50), made, 2 * MSS);
    assert_eq!((one.delivered, one.prior_delivered), (2 * MSS, 10 * MSS));
    assert!((one.rate.unwrap() - 2.0 * MSS as f64 / 0.05).abs() < 1.0);
}

#[test]
fn acknowledgements_that_come_at_once_are_no_faster_than_what_was_sent() {
    // Section 4.5.1: the longer of the two intervals counts, so a burst of acknowledgements shows no rate that was never
    // sent.
    let (mut s, t) = sampler();
    s.on_sent(t, t, MSS);
    ack(&mut s, t + ms(100), t, MSS);
    let made: Vec<_> = (0..10).map(|n| t + ms(100 + 10 * n)).collect();
    made.iter().for_each(|made| s.on_sent(*made, *made, MSS));
    made.iter().for_each(|made| s.on_packet_acked(t + ms(191), *made, MSS));
    let sample = s.finish(t + ms(191), 0, None);
    assert!(sample.rate.unwrap() <= 10.0 * MSS as f64 / 0.090 + 1.0, "{sample:?}");
}

#[test]
fn a_held_batch_is_timed_from_when_it_leaves() {
    let (mut s, t) = sampler();
    s.on_sent(t, t + ms(30), MSS);
    let sample = ack(&mut s, t + ms(80), t, MSS);
    assert_eq!(sample.rtt, Some(ms(50)));
    assert!((sample.rate.unwrap() - MSS as f64 / 0.05).abs() < 1.0);
}

#[test]
fn packets_of_one_instant_share_a_record() {
    let (mut s, t) = sampler();
    (0..10).for_each(|_| s.on_sent(t, t, MSS));
    assert_eq!(s.records(), 1);
    s.on_packet_acked(t + ms(10), t, 4 * MSS);
    assert_eq!(s.finish(t + ms(10), 6 * MSS, None).tx_in_flight, 10 * MSS);
    assert_eq!(s.records(), 1, "a part of it is under way");
    s.on_packet_acked(t + ms(11), t, 6 * MSS);
    assert_eq!(s.finish(t + ms(11), 0, None).delivered, 10 * MSS);
    assert_eq!(s.records(), 0);
}

#[test]
fn what_is_not_known_counts_as_delivered_and_tells_no_rate() {
    let (mut s, t) = sampler();
    s.on_sent(t, t, MSS);
    let sample = ack(&mut s, t + ms(10), t + ms(5), MSS);
    assert_eq!((sample.rate, sample.rtt, sample.newly_acked), (None, None, MSS));
    assert_eq!(s.delivered(), MSS);
    let lost = s.on_lost(t + ms(5), MSS);
    assert_eq!((lost.lost, lost.rate), (0, None));
    // What is known still tells.
    assert!(ack(&mut s, t + ms(20), t, MSS).rate.is_some());
}

#[test]
fn a_sample_shorter_than_the_path_is_noise() {
    let (mut s, t) = sampler();
    s.on_sent(t, t, MSS);
    s.on_packet_acked(t + ms(5), t, MSS);
    assert_eq!(s.finish(t + ms(5), 0, Some(ms(10))).rate, None);
    // And no time at all gives no rate, rather than an infinite one.
    s.on_sent(t + ms(6), t + ms(6), MSS);
    assert_eq!(ack(&mut s, t + ms(6), t + ms(6), MSS).rate, None);
}

#[test]
fn losses_are_counted_since_the_packet_left() {
    let (mut s, t) = sampler();
    s.on_sent(t, t, 10 * MSS);
    s.on_lost(t, 3 * MSS);
    s.on_sent(t + ms(1), t + ms(1), 5 * MSS);
    let lost = s.on_lost(t + ms(1), 2 * MSS);
    assert_eq!((lost.lost, lost.tx_in_flight), (2 * MSS, 12 * MSS));
    assert_eq!(s.in_flight(), 10 * MSS);
    assert_eq!(ack(&mut s, t + ms(9), t, MSS).lost, 5 * MSS);
}

#[test]
fn the_mark_of_too_little_to_send_ends_with_what_it_was_set_for() {
    let (mut s, t) = sampler();
    s.on_sent(t, t, 4 * MSS);
    s.mark_app_limited();
    s.on_sent(t + ms(1), t + ms(1), 4 * MSS);
    assert!(!ack(&mut s, t + ms(10), t, 4 * MSS).app_limited, "it left before");
    assert!(s.is_app_limited());
    assert!(ack(&mut s, t + ms(11), t + ms(1), 4 * MSS).app_limited);
    assert!(!s.is_app_limited(), "more is delivered than was in flight then");
    s.on_sent(t + ms(12), t + ms(12), MSS);
    assert!(!ack(&mut s, t + ms(20), t + ms(12), MSS).app_limited);
}

#[test]
fn memory_is_bounded() {
    let (mut s, t) = sampler();
    let made = |n: u64| t + Duration::from_micros(n);
    (0..200_000).for_each(|n| s.on_sent(made(n), made(n), MSS));
    assert!(s.records() <= 65_536);
    assert_eq!(s.in_flight(), 200_000 * MSS);
    // The oldest are not known any more, but count; the newest are known.
    let now = t + ms(300);
    assert_eq!(ack(&mut s, now, made(0), MSS).rate, None);
    assert!(ack(&mut s, now, made(199_999), MSS).rate.is_some());
}

#[test]
fn records_that_stay_open_are_forgotten_in_time() {
    let (mut s, t) = sampler();
    // A packet that is never heard of keeps nothing behind it, for longer than some round trips.
    (0..1_000).for_each(|n| s.on_sent(t + ms(10 * n), t + ms(10 * n), MSS));
    (1..1_000).for_each(|n| s.on_packet_acked(t + ms(10 * n + 20), t + ms(10 * n), MSS));
    s.finish(t + ms(10_010), MSS, None);
    assert_eq!(s.records(), 0);
}

#[test]
fn a_copy_goes_on_without_the_records() {
    let (mut s, t) = sampler();
    s.on_sent(t, t, 4 * MSS);
    ack(&mut s, t + ms(10), t, MSS);
    let mut copy = s.copy();
    assert_eq!((copy.delivered(), copy.in_flight(), copy.records()), (MSS, 3 * MSS, 0));
    assert_eq!(ack(&mut copy, t + ms(20), t, MSS).rate, None);
    assert_eq!(copy.delivered(), 2 * MSS);
    assert_eq!(s.delivered(), MSS);
}
