//! Whatever it is told, it goes on, and allows neither nothing nor everything.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Call {
    Wait(u64),
    /// How long before now it was made, how long after it leaves.
    Sent(u64, u64),
    Acked(u64, u64),
    End(u64, bool),
    Lost(u64, u64, bool),
    Ecn,
    Mss(u64),
    /// Policy, and bits per second; 0: no ceiling.
    Rate(Policy, u64),
    Clone,
}

/// Bytes: of packets mostly, but whatever there is as well.
fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..70_000u64, 1 => 0..1u64 << 40, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

/// Microseconds: of a network mostly; up to a month.
fn micros() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..20_000u64, 2 => 0..3_000_000u64, 1 => 0..2_600_000_000_000u64]
}

/// Microseconds before now: few of them, so that packets are met again.
fn ago() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0u64), 2 => (0..20u64).prop_map(|n| n * 1_000), 1 => micros()]
}

/// Bits per second: of a network mostly.
fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0u64), 3 => 1_000_000..10_000_000_000u64, 1 => any::<u64>()]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => prop_oneof![3 => (0..20u64).prop_map(|n| n * 1_000), 1 => micros()].prop_map(Call::Wait),
        6 => (bytes(), micros()).prop_map(|(bytes, later)| Call::Sent(bytes, later)),
        6 => (ago(), bytes()).prop_map(|(ago, bytes)| Call::Acked(ago, bytes)),
        4 => (bytes(), any::<bool>()).prop_map(|(in_flight, limited)| Call::End(in_flight, limited)),
        2 => (ago(), bytes(), any::<bool>()).prop_map(|(ago, bytes, all)| Call::Lost(ago, bytes, all)),
        1 => Just(Call::Ecn),
        1 => prop_oneof![3 => 1_200..65_535u64, 1 => any::<u64>()].prop_map(Call::Mss),
        1 => (prop::sample::select(&Policy::ALL[..]), bits()).prop_map(|(policy, rate)| Call::Rate(policy, rate)),
        1 => Just(Call::Clone),
    ]
}

fn memory() -> impl Strategy<Value = Remembered> {
    (0.0..1e12f64, micros(), 0.0..1.0f64).prop_map(|(bandwidth, micros, random_loss)| Remembered {
        bandwidth,
        min_rtt: Duration::from_micros(micros),
        random_loss,
    })
}

/// Makes the calls, and looks at what is allowed after each of them.
fn play(params: Params, memory: Option<Remembered>, calls: Vec<Call>) -> Result<(), TestCaseError> {
    let start = Instant::now();
    // So that what was made before now was not before all time.
    let mut now = start + Duration::from_secs(90 * 86_400);
    let mut mss = MSS;
    let mut bbr = Bbr::new(params, now, mss, 10 * mss, 3);
    if let Some(memory) = memory {
        bbr = bbr.remembering(memory);
    }
    let before = |now: Instant, ago: u64| now.checked_sub(Duration::from_micros(ago)).unwrap_or(start);
    for call in calls {
        match call {
            Call::Wait(micros) => now += Duration::from_micros(micros),
            Call::Sent(bytes, later) => bbr.on_sent(now, now + Duration::from_micros(later), bytes),
            Call::Acked(ago, bytes) => bbr.on_packet_acked(now, before(now, ago), bytes),
            Call::End(in_flight, limited) => bbr.on_acked(now, in_flight, limited),
            Call::Lost(ago, bytes, all) => bbr.on_lost(now, before(now, ago), bytes, all),
            Call::Ecn => bbr.on_ecn(now),
            Call::Mss(size) => {
                mss = size;
                bbr.on_mss(size);
            }
            Call::Rate(policy, rate) => {
                if let Some(rate) = RatePolicy::new(policy, (rate > 0).then_some(rate)) {
                    bbr.set_rate(now, rate);
                }
            }
            Call::Clone => bbr = bbr.clone(),
        }
        let (rate, cwnd) = (bbr.pacing_rate(), bbr.cwnd());
        prop_assert!(rate.is_finite() && rate > 0.0, "{rate} after {call:?}");
        // What is larger is no packet.
        let mss = mss.clamp(1, MSS_MAX);
        prop_assert!((4 * mss..=CWND_MAX).contains(&cwnd), "{cwnd} after {call:?}");
        let _ = (bbr.look(), bbr.in_flight(), bbr.remember());
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_it_is_told(calls in prop::collection::vec(call(), 1..400)) {
        play(Params::default(), None, calls)?;
    }

    #[test]
    fn whatever_it_is_told_with_a_memory(memory in memory(), calls in prop::collection::vec(call(), 1..200)) {
        play(Params::default(), Some(memory), calls)?;
    }

    #[test]
    fn whatever_it_is_told_by_the_drafts_rules(calls in prop::collection::vec(call(), 1..200)) {
        play(Params { bears_random_loss: false, ..Params::default() }, None, calls)?;
    }

    #[test]
    fn whatever_it_begins_with(mss in any::<u64>(), window in any::<u64>()) {
        let bbr = Bbr::new(Params::default(), Instant::now(), mss, window, 1);
        prop_assert!(bbr.pacing_rate().is_finite() && bbr.pacing_rate() > 0.0);
        prop_assert!((4..=CWND_MAX).contains(&bbr.cwnd()));
    }
}
