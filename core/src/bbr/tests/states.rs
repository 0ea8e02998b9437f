//! One test a transition (section 5.3).

use super::script::{RATE, RTT, Script, TICKS};
use super::*;

/// A flow that doubles as in Startup; more than that it never sees in a round.
fn growing(params: Params) -> Script {
    let mut script = Script::new(params);
    script.rate = RATE / 500.0;
    script.growth = 2.0;
    script.rounds(4);
    assert_eq!(script.state(), State::Startup);
    script
}

#[test]
fn startup_goes_on_while_rounds_bring_more() {
    let mut script = growing(Params::default());
    for _ in 0..8 {
        script.rounds(1);
        assert_eq!(script.state(), State::Startup);
    }
    let params = Params::default();
    let gain = script.bbr.pacing_rate() / script.bbr.look().bandwidth;
    assert!((gain / params.startup_pacing_gain - 1.0).abs() < 0.03, "{gain}");
}

#[test]
fn startup_ends_after_three_rounds_that_bring_no_more() {
    let mut script = growing(Params::default());
    script.growth = 1.0;
    // One round until the growth has arrived, and three that see none; a round more because rounds are counted by
    // what arrives.
    let ticks = script.run_out_of(State::Startup, 6);
    assert!(ticks > 3 * TICKS && ticks <= 6 * TICKS, "{ticks}");
}

#[test]
fn startup_does_not_end_for_lack_of_something_to_send() {
    let mut script = growing(Params::default());
    script.growth = 1.0;
    script.app_limited = true;
    script.rounds(10);
    assert_eq!(script.state(), State::Startup);
}

#[test]
fn startup_ends_with_a_queue() {
    let mut script = growing(Params::default());
    script.rtt = ms(170);
    // The first of them arrive after 1.7 round trips.
    let ticks = script.run_out_of(State::Startup, 5);
    assert!(ticks <= 3 * TICKS, "{ticks}");
}

#[test]
fn startup_ends_with_the_first_round_that_brings_no_more_and_meets_a_queue() {
    let mut script = growing(Params::default());
    script.rtt = ms(126);
    script.rounds(4);
    assert_eq!(script.state(), State::Startup, "rounds bring more");
    script.growth = 1.0;
    // Rounds take 126 ms: the one in which the last of the growth arrives, and one more. Without a queue it would be four.
    let ticks = script.run_out_of(State::Startup, 6);
    assert!(ticks <= 4 * TICKS, "{ticks}");
}

#[test]
fn startup_ends_for_loss_with_a_queue() {
    let mut script = growing(Params::default());
    // A queue too short to end it by itself, while each round brings more.
    script.rtt = ms(125);
    script.rounds(4);
    assert_eq!(script.state(), State::Startup);
    script.loss = 0.05;
    script.run_out_of(State::Startup, 5);
    assert_ne!(script.bbr.look().inflight_longterm, u64::MAX, "what was too much is known");
}

#[test]
fn startup_does_not_end_for_loss_alone() {
    for loss in [0.005, 0.05, 0.1] {
        let mut script = growing(Params::default());
        script.loss = loss;
        script.rounds(8);
        assert_eq!(script.state(), State::Startup, "{loss}");
        assert_eq!(script.bbr.look().inflight_longterm, u64::MAX, "{loss}");
    }
}

#[test]
fn startup_ends_for_more_loss_than_any_path_has_of_its_own() {
    let mut script = growing(Params::default());
    script.loss = 0.4;
    script.run_out_of(State::Startup, 5);
}

#[test]
fn startup_ends_for_each_loss_if_none_is_borne() {
    let mut script = growing(Params { bears_random_loss: false, ..Params::default() });
    script.loss = 0.05;
    script.run_out_of(State::Startup, 5);
}

#[test]
fn drain_lasts_while_more_is_in_flight_than_the_path_holds() {
    let mut script = Script::new(Params::default());
    script.standing = (RATE * RTT.as_secs_f64()) as u64;
    script.run_until(State::Drain, 20);
    script.rounds(3);
    assert_eq!(script.state(), State::Drain);
    assert!(script.bbr.pacing_rate() < 0.6 * RATE);
    script.standing = 0;
    script.tick();
    assert!(matches!(script.state(), State::ProbeDown | State::ProbeCruise));
}

#[test]
fn down_ends_when_no_more_is_in_flight_than_the_path_holds() {
    let mut script = Script::cruising(Params::default());
    script.run_until(State::ProbeUp, 40);
    script.standing = (RATE * RTT.as_secs_f64()) as u64 / 2;
    script.run_until(State::ProbeDown, 5);
    script.rounds(3);
    assert_eq!(script.state(), State::ProbeDown);
    assert!(script.bbr.pacing_rate() < 0.95 * RATE);
    script.standing = 0;
    let ticks = script.run_until(State::ProbeCruise, 1);
    assert!(ticks <= 2, "{ticks}");
}

#[test]
fn a_probe_is_due_in_time() {
    let params = Params::default();
    let (least, most) = (params.probe_wait, params.probe_wait + Duration::from_secs(1));
    let mut script = Script::cruising(params);
    for _ in 0..5 {
        script.run_until(State::ProbeDown, 60);
        let since = script.now;
        script.run_until(State::ProbeRefill, 60);
        let waited = script.now - since;
        assert!(waited >= least && waited <= most + RTT, "{waited:?}");
        script.run_until(State::ProbeUp, 5);
    }
}

#[test]
fn a_probe_is_due_after_some_rounds() {
    // As Reno would probe on a path this long (section 5.3.3.8): here 10 rounds, long before the time is over.
    let mut script = Script::cruising(Params { probe_rounds: 10, ..Params::default() });
    script.run_until(State::ProbeDown, 60);
    let ticks = script.run_until(State::ProbeRefill, 14);
    assert!(ticks >= 8 * TICKS, "{ticks}");
}

#[test]
fn refill_lasts_a_round_without_bounds() {
    let mut script = Script::cruising(Params::default());
    script.bbr.congestion.bw_shortterm = 0.9 * RATE;
    script.bbr.congestion.inflight_shortterm = (RATE * RTT.as_secs_f64()) as u64;
    script.run_until(State::ProbeRefill, 40);
    assert!(script.bbr.congestion.bw_shortterm.is_infinite());
    assert_eq!(script.bbr.congestion.inflight_shortterm, u64::MAX);
    let ticks = script.run_until(State::ProbeUp, 3);
    assert!((TICKS - 1..=TICKS + 2).contains(&ticks), "{ticks}");
    let rate = script.bbr.pacing_rate();
    assert!(rate > 1.15 * RATE, "{rate}");
}

#[test]
fn up_ends_when_the_pipe_holds_more_and_a_queue_shows() {
    let mut script = Script::cruising(Params::default());
    script.run_until(State::ProbeUp, 40);
    // 30 % more leaves, which the path does not carry: it waits in a queue.
    script.rate = 1.3 * RATE;
    script.rtt = ms(125);
    script.standing = (0.3 * RATE * RTT.as_secs_f64()) as u64;
    let ticks = script.run_until(State::ProbeDown, 5);
    assert!(ticks > TICKS / 2 && ticks <= 3 * TICKS, "{ticks}");
}

#[test]
fn up_goes_on_while_rounds_bring_more() {
    let mut script = Script::cruising(Params::default());
    script.run_until(State::ProbeUp, 40);
    script.growth = 1.3;
    for _ in 0..6 {
        script.rounds(1);
        assert_eq!(script.state(), State::ProbeUp);
    }
    let found = script.bbr.look().bandwidth;
    assert!(found > 2.0 * RATE, "{found}");
}

#[test]
fn up_ends_for_too_much_loss() {
    let mut script = Script::cruising(Params::default());
    script.run_until(State::ProbeUp, 40);
    script.loss = 0.15;
    let ticks = script.run_until(State::ProbeDown, 2);
    // What leaves now is known to be lost a round trip from now.
    assert!((TICKS..=TICKS + TICKS / 2).contains(&ticks), "{ticks}");
    assert_ne!(script.bbr.look().inflight_longterm, u64::MAX);
}

/// A flow in ProbeRTT: for long enough it has seen no round trip as short as the shortest.
fn probing_rtt() -> (Script, u64) {
    let params = Params::default();
    let rounds = (params.probe_rtt_interval.as_millis() / RTT.as_millis()) as u32;
    let mut script = Script::cruising(params);
    script.rtt = ms(107);
    script.rounds(rounds - 10);
    let before = script.bbr.cwnd();
    assert_ne!(script.state(), State::ProbeRtt);
    script.run_until(State::ProbeRtt, 20);
    (script, before)
}

#[test]
fn the_smallest_round_trip_time_is_looked_for_with_half_a_pipe() {
    let (mut script, before) = probing_rtt();
    script.rounds(2);
    let bdp = RATE * RTT.as_secs_f64();
    let cwnd = script.bbr.cwnd() as f64;
    assert!(cwnd > 0.4 * bdp && cwnd < 0.6 * bdp, "{cwnd} of {bdp}");

    // It lasts until so little is in flight, for its time, and a round.
    script.rounds(5);
    assert_eq!(script.state(), State::ProbeRtt);
    script.rate = 0.4 * RATE;
    script.rtt = RTT;
    script.run_until(State::ProbeCruise, 6);
    assert!(script.bbr.cwnd() as f64 >= 0.95 * before as f64, "{} of {before}", script.bbr.cwnd());
    // What arrived meanwhile says nothing of the path.
    script.rate = RATE;
    script.rounds(5);
    let found = script.bbr.look().bandwidth;
    assert!(found > 0.95 * RATE, "{found}");
    assert_eq!(script.bbr.look().min_rtt, Some(RTT));
}

#[test]
fn the_smallest_round_trip_time_is_not_looked_for_again_at_once() {
    let (mut script, _) = probing_rtt();
    // It takes its time, and the path is longer than it was: only its end says when it was.
    script.rtt = ms(120);
    script.rounds(8);
    script.rate = 0.3 * RATE;
    script.run_until(State::ProbeCruise, 10);
    let interval = Params::default().probe_rtt_interval;
    let since = script.now;
    while script.now - since < interval - ms(200) {
        script.tick();
        assert_ne!(script.state(), State::ProbeRtt);
    }
}

#[test]
fn the_smallest_round_trip_time_is_not_looked_for_while_it_is_seen() {
    let mut script = Script::cruising(Params::default());
    for _ in 0..200 * TICKS {
        script.tick();
        assert_ne!(script.state(), State::ProbeRtt);
    }
}

#[test]
fn a_flow_that_pauses_starts_again_as_fast_as_it_was() {
    let mut script = Script::cruising(Params::default());
    let before = script.bbr.look().bandwidth;
    script.app_limited = true;
    script.rate = 0.0;
    script.rounds(2);
    assert_eq!(script.bbr.in_flight(), 0);
    script.rounds(30);
    script.rate = RATE;
    script.app_limited = false;
    script.tick();
    let rate = script.bbr.pacing_rate();
    // As fast as the path: no probe with the first packets (section 5.4.1).
    assert!((rate / before - 1.0).abs() < 0.05, "{rate}, before {before}");
    script.rounds(3);
    assert!(script.bbr.look().bandwidth > 0.95 * before);
    assert_ne!(script.state(), State::Startup);
}
