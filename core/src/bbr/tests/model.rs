//! Rounds, the largest rate, the smallest round-trip time, the excess of acknowledgements (section 5.5).

use super::script::{RATE, RTT, Script, TICKS};
use super::*;

/// A sample that says nothing yet.
fn blank() -> Sample {
    Sample {
        rate: None,
        delivered: 0,
        prior_delivered: 0,
        tx_in_flight: 0,
        lost: 0,
        app_limited: false,
        rtt: None,
        newly_acked: MSS,
    }
}

#[test]
fn a_round_is_over_when_what_left_in_it_arrives() {
    let mut model = Model::new(Instant::now());
    let mut begins = |prior_delivered, delivered| {
        model.update_round(&Sample { prior_delivered, ..blank() }, delivered);
        (model.round_start, model.round)
    };
    assert_eq!(begins(0, 10 * MSS), (true, 1));
    // Those left when nothing had been delivered.
    assert_eq!(begins(0, 20 * MSS), (false, 1));
    assert_eq!(begins(9 * MSS, 25 * MSS), (false, 1));
    assert_eq!(begins(10 * MSS, 30 * MSS), (true, 2));
    assert_eq!(begins(29 * MSS, 40 * MSS), (false, 2));
    // Nothing arrived: no round.
    model.update_round(&Sample { prior_delivered: 90 * MSS, newly_acked: 0, ..blank() }, 40 * MSS);
    assert!(!model.round_start);
}

#[test]
fn rounds_follow_the_path() {
    let mut script = Script::cruising(Params::default());
    let before = script.bbr.model.round;
    script.rounds(15);
    let rounds = script.bbr.model.round - before;
    // The beginning of a state begins a round, so it may be one or two less.
    assert!((12..=16).contains(&rounds), "{rounds}");
}

#[test]
fn the_largest_rate_is_forgotten_after_two_cycles() {
    let mut model = Model::new(Instant::now());
    let mut see = |rate: f64| model.update_max_bw(&Sample { rate: Some(rate), ..blank() });
    see(100.0);
    see(50.0);
    assert_eq!(model.max_bw(), 100.0);
    model.advance_max_bw();
    model.update_max_bw(&Sample { rate: Some(80.0), ..blank() });
    assert_eq!(model.max_bw(), 100.0, "of the cycle before");
    model.advance_max_bw();
    assert_eq!(model.max_bw(), 80.0);
    model.advance_max_bw();
    assert_eq!(model.max_bw(), 80.0, "a cycle that saw nothing pushes nothing out");
}

#[test]
fn too_little_to_send_shows_only_rates_that_are_larger() {
    let mut model = Model::new(Instant::now());
    model.update_max_bw(&Sample { rate: Some(100.0), ..blank() });
    model.advance_max_bw();
    model.update_max_bw(&Sample { rate: Some(60.0), app_limited: true, ..blank() });
    model.advance_max_bw();
    assert_eq!(model.max_bw(), 100.0);
    model.update_max_bw(&Sample { rate: Some(120.0), app_limited: true, ..blank() });
    assert_eq!(model.max_bw(), 120.0);
}

#[test]
fn the_smallest_round_trip_time_is_taken_at_once_and_kept() {
    let mut script = Script::cruising(Params::default());
    assert_eq!(script.bbr.look().min_rtt, Some(RTT));
    script.rtt = ms(130);
    script.rounds(10);
    assert_eq!(script.bbr.look().min_rtt, Some(RTT));
    script.rtt = ms(80);
    script.rounds(3);
    assert_eq!(script.bbr.look().min_rtt, Some(ms(80)));
}

#[test]
fn a_longer_path_is_believed_after_the_window_and_not_before() {
    let params = Params::default();
    let window = params.min_rtt_window;
    let mut script = Script::cruising(params);
    script.rtt = ms(150);
    script.rounds((window.as_millis() / RTT.as_millis()) as u32 - 15);
    assert_eq!(script.bbr.look().min_rtt, Some(RTT));
    script.rounds(80);
    assert_eq!(script.bbr.look().min_rtt, Some(ms(150)));
}

#[test]
fn close_to_the_smallest_confirms_it() {
    // 2 % above is the same path; without that it would be another after the window.
    let mut script = Script::cruising(Params::default());
    script.rtt = ms(102);
    for _ in 0..40 {
        script.rounds(10);
        assert_ne!(script.state(), State::ProbeRtt);
    }
}

#[test]
fn bursts_of_acknowledgements_are_allowed_for_and_forgotten() {
    let mut script = Script::cruising(Params::default());
    let steady = script.bbr.model.extra_acked();
    assert!(steady as f64 <= RATE * 0.02, "one batch at a time: {steady}");

    // 50 ms of acknowledgements at once, again and again.
    let mut burst = 0;
    for _ in 0..30 {
        script.hold(TICKS / 2);
        burst = burst.max(script.bbr.model.extra_acked());
    }
    let expected = RATE * 0.05;
    assert!(burst as f64 > 0.6 * expected && (burst as f64) < 1.5 * expected, "{burst} of {expected}");

    // What the estimate exceeds ends the excess (section 5.5.9): a flow that is as fast as it cannot tell.
    script.rate = 0.9 * RATE;
    script.rounds(40);
    let after = script.bbr.model.extra_acked();
    assert!(after <= 2 * steady.max(MSS), "{after}, before {steady}");
}
