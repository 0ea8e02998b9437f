//! [`Pacer`].

use proptest::prelude::*;

use super::*;

/// Longer than any of these tests, but for one.
const HOLD: Duration = Duration::from_secs(1_000_000);
/// How late a caller may be and still catch up, and a little for rounding.
const LATE: f64 = 0.002 + 1e-6;

#[test]
fn batches_leave_at_the_rate() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, HOLD);
    for n in 0..100 {
        // 1 ms each; the caller asks as soon as the last has left.
        let at = pacer.leave(start + ms(n), 15_000, 15_000_000.0);
        assert_eq!(at, start + ms(n));
    }
    // One that is ready before its time waits.
    assert_eq!(pacer.leave(start + ms(99), 15_000, 15_000_000.0), start + ms(100));
}

#[test]
fn what_cannot_be_held_is_no_debt() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, ms(50));
    let mut now = start;
    // 150 ms each at this rate.
    for _ in 0..20 {
        now = pacer.leave(now, 15_000, 100_000.0);
    }
    assert_eq!(now, start + ms(19 * 50));
    // And 10 ms at this: at once, but for the last of before.
    now = pacer.leave(now, 15_000, 1_500_000.0);
    assert_eq!(pacer.leave(now, 15_000, 1_500_000.0), now + ms(10));
}

#[test]
fn who_is_a_little_late_catches_up() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, HOLD);
    let (mut now, mut sent) = (start, 0);
    // Each timer fires 0.9 ms late, and is then used for what is due.
    while now < start + ms(1_000) {
        let leaves = pacer.leave(now, 15_000, 15_000_000.0);
        sent += 15_000;
        if leaves > now {
            now = leaves + Duration::from_micros(900);
        }
    }
    assert!(sent as f64 > 0.99 * 15_000_000.0, "{sent}");
}

#[test]
fn a_pause_earns_nothing() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start, HOLD);
    pacer.leave(start, 15_000, 15_000_000.0);
    let back = start + ms(60_000);
    let early = (0..100).take_while(|_| pacer.leave(back, 1_500, 15_000_000.0) <= back).count();
    // 2 ms of 0.1 ms each, and one more.
    assert!(early <= 21 + 1, "{early}");
}

#[test]
fn rates_that_make_no_sense_stop_nothing() {
    let start = Instant::now();
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX] {
        let mut pacer = Pacer::new(start, HOLD);
        let first = pacer.leave(start, u64::MAX, rate);
        let second = pacer.leave(start, u64::MAX, rate);
        assert!(first <= start && second <= start + Duration::from_secs(86_400), "{rate}");
    }
}

proptest! {
    #[test]
    fn no_more_leaves_than_the_rate_allows(
        rate in 1e4..2e9_f64,
        steps in prop::collection::vec((0u64..20_000, 1u64..70_000), 1..300),
    ) {
        let start = Instant::now();
        let mut pacer = Pacer::new(start, HOLD);
        let mut ready = start;
        let mut left = Vec::new();
        for (micros, bytes) in steps {
            ready += Duration::from_micros(micros);
            // As the socket does: it is held until then, and the next is made after it.
            ready = ready.max(pacer.leave(ready, bytes, rate));
            left.push((ready, bytes));
        }
        // From any of them on, not only from the first: nothing accumulates.
        for from in 0..left.len() {
            let largest = left[from..].iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
            let mut sum = 0;
            for (at, bytes) in &left[from..] {
                sum += bytes;
                let allowed = rate * ((*at - left[from].0).as_secs_f64() + LATE) + largest as f64 + 1.0;
                prop_assert!(sum as f64 <= allowed, "{sum} of {allowed}");
            }
        }
    }
}
