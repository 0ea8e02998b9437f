//! Careful resume (RFC 9959): one test a transition, and what it is good for.

use proptest::prelude::*;

use super::path::{Link, Path};
use super::script::{RATE, RTT, Script, TICKS};
use super::*;

/// Of the script's path: it carries twice what the script sends after the jump.
const PATH: Remembered = Remembered { bandwidth: 2.0 * RATE, min_rtt: RTT, random_loss: 0.0 };
/// Half of what [`PATH`] had in flight. Bytes.
const JUMP: f64 = RATE * 0.1;

fn phase(script: &Script) -> Resume {
    script.bbr.look().resume
}

/// A flow that remembers `path` and has sent too little to jump.
fn looking(params: Params, path: Remembered) -> Script {
    let mut script = Script::new(params);
    script.bbr = script.bbr.clone().remembering(path);
    script.rate = RATE / 200.0;
    script.rounds(1);
    assert_eq!(phase(&script), Resume::Reconnaissance);
    script
}

/// Goes on until the phase is another than `from`, for `rounds` at most; how many ticks it took.
fn leave(script: &mut Script, from: Resume, rounds: u32) -> u32 {
    for ticks in 0..rounds * TICKS {
        if phase(script) != from {
            return ticks;
        }
        script.tick();
    }
    panic!("still {from:?} after {rounds} rounds");
}

/// A flow that has just jumped, and sends what it may.
fn jumping(params: Params, path: Remembered) -> Script {
    let mut script = looking(params, path);
    leave(&mut script, Resume::Reconnaissance, 4);
    assert_eq!(phase(&script), Resume::Unvalidated);
    script.rate = RATE;
    script
}

fn validating(params: Params) -> Script {
    let mut script = jumping(params, PATH);
    leave(&mut script, Resume::Unvalidated, 2);
    assert_eq!(phase(&script), Resume::Validating);
    script
}

#[test]
fn half_of_what_is_remembered_leaves_over_a_round_trip() {
    let script = jumping(Params::default(), PATH);
    let (cwnd, rate) = (script.bbr.cwnd() as f64, script.bbr.pacing_rate());
    assert!((cwnd / JUMP - 1.0).abs() < 0.01, "{cwnd}");
    assert!((rate / RATE - 1.0).abs() < 0.01, "{rate}");
}

#[test]
fn a_longer_path_is_sent_to_more_slowly() {
    // It remembers 30 ms; half of that product leaves over the 100 ms that there are.
    let path = Remembered { min_rtt: ms(30), bandwidth: 10.0 * RATE, ..PATH };
    let script = jumping(Params::default(), path);
    let rate = script.bbr.pacing_rate();
    assert!((rate / (1.5 * RATE) - 1.0).abs() < 0.01, "{rate}");
}

#[test]
fn a_path_of_another_length_is_another() {
    for min_rtt in [ms(200), ms(9)] {
        let mut script = looking(Params::default(), Remembered { min_rtt, ..PATH });
        leave(&mut script, Resume::Reconnaissance, 4);
        assert_eq!(phase(&script), Resume::Normal, "{min_rtt:?}");
        assert!(!script.bbr.look().retreated);
    }
}

#[test]
fn memories_that_make_no_sense_are_none() {
    for path in [
        Remembered { bandwidth: 0.0, ..PATH },
        Remembered { bandwidth: f64::NAN, ..PATH },
        Remembered { bandwidth: f64::INFINITY, ..PATH },
        Remembered { min_rtt: Duration::ZERO, ..PATH },
        Remembered { random_loss: 1.0, ..PATH },
        Remembered { random_loss: f64::NAN, ..PATH },
    ] {
        let script = Script::new(Params::default());
        assert_eq!(script.bbr.remembering(path).look().resume, Resume::Normal, "{path:?}");
    }
}

#[test]
fn who_has_too_little_to_send_does_not_jump() {
    let mut script = looking(Params::default(), PATH);
    script.app_limited = true;
    script.rounds(5);
    assert_eq!(phase(&script), Resume::Reconnaissance);
    script.app_limited = false;
    leave(&mut script, Resume::Reconnaissance, 1);
    assert_eq!(phase(&script), Resume::Unvalidated);
}

#[test]
fn loss_or_marks_before_the_jump_are_reason_not_to() {
    for marked in [false, true] {
        let mut script = looking(Params::default(), PATH);
        script.rate = RATE / 1_000.0;
        script.rounds(1);
        (script.is_marked, script.loss) = (marked, if marked { 0.0 } else { 0.2 });
        script.rounds(1);
        script.tick();
        assert_eq!(phase(&script), Resume::Normal);
        assert!(
            script.bbr.look().bandwidth < 0.1 * RATE && !script.bbr.look().retreated,
            "nothing was tried"
        );
    }
}

#[test]
fn what_is_lost_before_anything_is_heard_tells_nothing() {
    let mut script = Script::new(Params::default());
    script.bbr = script.bbr.clone().remembering(PATH);
    (script.rate, script.loss) = (RATE / 100.0, 0.5);
    (0..5).for_each(|_| script.tick());
    script.loss = 0.0;
    leave(&mut script, Resume::Reconnaissance, 4);
    assert_eq!(phase(&script), Resume::Unvalidated);
}

#[test]
fn the_jump_is_validated_a_round_trip_later_and_takes_a_round_trip() {
    let mut script = jumping(Params::default(), PATH);
    let ticks = leave(&mut script, Resume::Unvalidated, 2);
    assert!((TICKS..=TICKS + 2).contains(&ticks), "{ticks}");
    assert_eq!(phase(&script), Resume::Validating);
    let allowed = script.bbr.cwnd();
    assert!(allowed <= script.in_flight() + 2 * (RATE / 500.0) as u64, "{allowed}");
    let ticks = leave(&mut script, Resume::Validating, 2);
    assert!((TICKS - 1..=TICKS + 2).contains(&ticks), "{ticks}");
    // Startup goes on from what has arrived.
    assert_eq!((phase(&script), script.state()), (Resume::Normal, State::Startup));
    let bandwidth = script.bbr.look().bandwidth;
    assert!((bandwidth / RATE - 1.0).abs() < 0.1, "{bandwidth}");
    assert!(script.bbr.pacing_rate() > 2.0 * RATE);
}

#[test]
fn what_was_not_used_needs_no_validation() {
    let mut script = jumping(Params::default(), PATH);
    script.rate = RATE / 100.0;
    script.app_limited = true;
    leave(&mut script, Resume::Unvalidated, 2);
    assert_eq!(phase(&script), Resume::Normal);
    assert!((script.bbr.cwnd() as f64) < JUMP / 4.0);
}

/// Checks the retreat that has just begun, and its end, with which Startup is over if the pipe was full.
fn retreats(script: &mut Script, was_full: bool) {
    assert_eq!(phase(script), Resume::SafeRetreat);
    let look = script.bbr.look();
    assert!(look.retreated && script.state() == State::Startup);
    // Half of what the path held, and that is less than all that was sent.
    assert!((script.bbr.cwnd() as f64) < 0.8 * JUMP, "{}", script.bbr.cwnd());
    script.loss = 0.0;
    script.is_marked = false;
    script.rate = RATE / 4.0;
    let ticks = leave(script, Resume::SafeRetreat, 3);
    assert!(ticks >= TICKS / 2, "{ticks}");
    assert_eq!(script.state() != State::Startup, was_full);
    assert_eq!(script.bbr.look().inflight_longterm != u64::MAX, was_full);
}

#[test]
fn much_loss_is_retreated_from() {
    let mut script = jumping(Params::default(), PATH);
    script.loss = 0.3;
    // What is lost now is known to be a round trip later.
    script.rounds(1);
    for _ in 0..TICKS {
        if phase(&script) == Resume::SafeRetreat {
            break;
        }
        script.tick();
    }
    retreats(&mut script, false);
}

#[test]
fn the_loss_that_is_remembered_is_no_reason_to_retreat() {
    for (random_loss, goes_on) in [(0.0, false), (0.05, true)] {
        let mut script = jumping(Params::default(), Remembered { random_loss, ..PATH });
        script.loss = 0.06;
        for _ in 0..2 * TICKS + 5 {
            script.tick();
        }
        assert_eq!(!script.bbr.look().retreated, goes_on, "{random_loss}");
    }
}

#[test]
fn one_loss_is_retreated_from_where_none_is_borne() {
    let params = Params { bears_random_loss: false, ..Params::default() };
    let mut script = jumping(params, PATH);
    script.rounds(1);
    script.bbr.on_lost(script.now, script.now, MSS, false);
    assert!(script.bbr.look().retreated);
}

#[test]
fn a_mark_is_retreated_from() {
    for mut script in [jumping(Params::default(), PATH), validating(Params::default())] {
        script.is_marked = true;
        for _ in 0..5 {
            script.tick();
        }
        retreats(&mut script, true);
    }
}

#[test]
fn a_queue_is_retreated_from() {
    let mut script = jumping(Params::default(), PATH);
    script.rtt = ms(170);
    for _ in 0..3 * TICKS {
        if phase(&script) == Resume::SafeRetreat {
            break;
        }
        script.tick();
    }
    retreats(&mut script, true);
}

#[test]
fn a_path_that_is_gone_is_retreated_from() {
    let mut script = jumping(Params::default(), PATH);
    script.rounds(1);
    let (made, bytes) = script.forget_all();
    script.bbr.on_lost(script.now, made, bytes, true);
    assert_eq!(phase(&script), Resume::SafeRetreat);
    assert!(script.bbr.cwnd() as f64 <= JUMP / 2.0);
}

#[test]
fn what_is_worth_remembering_is_what_was_measured() {
    let mut script = Script::new(Params::default());
    script.rounds(2);
    assert_eq!(script.bbr.remember(), None, "startup has not found what the path carries");
    let script = Script::cruising(Params::default());
    let path = script.bbr.remember().expect("it cruises");
    assert!((path.bandwidth / RATE - 1.0).abs() < 0.1, "{path:?}");
    assert_eq!((path.min_rtt, path.random_loss), (RTT, 0.0));
}

/// How a flow over a link starts.
struct Start {
    /// What each round trip brings, from the one on in which the first packets arrive; shares of what the link carries.
    rounds: Vec<f64>,
    /// Bandwidth-delay products that found the queue full.
    dropped: f64,
}

impl Start {
    /// Over `link`, of which so many times the bandwidth are remembered.
    fn new(link: Link, remembered: Option<f64>) -> Self {
        let (rtt, loss) = (link.rtt as f64 / 1e9, link.loss);
        let product = link.rate * rtt;
        let mut path = Path::new(link, 1);
        path.join(Params::default());
        if let Some(times) = remembered {
            let (bandwidth, min_rtt) = (times * path.link.rate, Duration::from_secs_f64(rtt));
            let memory = Remembered { bandwidth, min_rtt, random_loss: loss };
            path.flows[0].bbr = path.flows[0].bbr.clone().remembering(memory);
        }
        path.run_until(rtt / 2.0);
        let round = |round: u32| {
            let before = path.flows[0].received;
            path.run_until(rtt * (f64::from(round) + 1.5));
            (path.flows[0].received - before) as f64 / product
        };
        let rounds = (0..20).map(round).collect();
        Self { rounds, dropped: (path.dropped * MSS) as f64 / product }
    }

    /// Round trips before the first that brings 90 % of what is not lost anyway.
    fn until_full(&self, loss: f64) -> usize {
        self.rounds.iter().position(|share| *share >= 0.9 * (1.0 - loss)).unwrap()
    }
}

#[test]
fn a_remembered_path_is_full_in_a_few_round_trips() {
    for rtt in [50, 120, 200] {
        for loss in [0.0, 0.005, 0.02] {
            let start = |remembered| Start::new(Link::new(1_000.0, rtt, 1.0, loss), remembered);
            let (unknown, known) = (start(None), start(Some(1.0)));
            let (slow, fast) = (unknown.until_full(loss), known.until_full(loss));
            assert!(fast <= 5 && slow >= fast + 5, "{rtt} ms, {loss}: {fast} round trips, {slow} without");
            let (more, less) = (known.dropped, unknown.dropped);
            assert!(more <= less + 0.15, "{rtt} ms, {loss}: {more} dropped, {less} without");
        }
    }
}

#[test]
fn a_path_that_has_become_slower_is_found_out_in_time() {
    for times in [2.0, 4.0, 10.0] {
        let start = Start::new(Link::new(1_000.0, 120, 1.0, 0.0), Some(times));
        let (rounds, dropped) = (&start.rounds, start.dropped);
        // Half of it has left before anything can be known; two products of that the path and its queue take.
        assert!(dropped <= (times / 2.0 - 2.0).max(0.0) + 0.1, "{times}: {dropped}");
        let total: f64 = rounds.iter().sum();
        assert!(total >= 16.0, "{times}: {rounds:?}");
        assert!(rounds[8..].iter().all(|share| *share >= 0.9), "it is not stuck below, {times}: {rounds:?}");
    }
}

#[test]
fn a_path_that_loses_more_than_it_did_is_not_given_up() {
    // It is taken for congestion at first.
    let link = Link::new(1_000.0, 120, 1.0, 0.04);
    let mut path = Path::new(link, 1);
    path.join(Params::default());
    let memory = Remembered { bandwidth: 125e6, min_rtt: ms(120), random_loss: 0.0 };
    path.flows[0].bbr = path.flows[0].bbr.clone().remembering(memory);
    path.run_until(4.0);
    assert!(path.flows[0].bbr.look().retreated);
    let share = path.share(0, 4.0);
    assert!(share >= 0.85 * 0.96, "{share}");
}

proptest! {
    #[test]
    fn whatever_is_remembered(bandwidth in any::<f64>(), nanos in any::<u64>(), loss in any::<f64>(), rtt in 1..300u64) {
        let min_rtt = Duration::from_nanos(nanos);
        let mut script = Script::new(Params::default());
        script.bbr = script.bbr.clone().remembering(Remembered { bandwidth, min_rtt, random_loss: loss });
        script.rtt = ms(rtt);
        for _ in 0..6 * TICKS {
            script.tick();
            prop_assert!(script.bbr.pacing_rate().is_finite() && script.bbr.pacing_rate() > 0.0);
            prop_assert!((4 * MSS..=CWND_MAX).contains(&script.bbr.cwnd()));
        }
    }

    #[test]
    fn no_jump_is_larger_than_half(times in 0.01..100.0f64, rtt in 1..2_000u64) {
        let path = Remembered { bandwidth: times * RATE, min_rtt: ms(rtt), random_loss: 0.0 };
        let half = (0.5 * path.bandwidth * path.min_rtt.as_secs_f64()) as u64;
        let mut script = Script::new(Params::default());
        script.bbr = script.bbr.clone().remembering(path);
        for _ in 0..4 * TICKS {
            script.tick();
            if phase(&script) != Resume::Unvalidated {
                continue;
            }
            let cwnd = script.bbr.cwnd();
            prop_assert!(cwnd <= half.max(4 * MSS), "{cwnd} of {half}");
            prop_assert!(script.bbr.pacing_rate() <= 1.01 * cwnd as f64 / RTT.as_secs_f64());
        }
    }
}
