//! What loss and marks are taken for, and what follows (section 5.5.10 and the deviations from it).

use super::script::{RATE, RTT, Script, TICKS};
use super::*;

/// The draft's rules: each loss is congestion.
fn strict() -> Params {
    Params { bears_random_loss: false, ..Params::default() }
}

/// As much loss in one flight.
fn lost(share: f64) -> Sample {
    let flight = 1_000 * MSS;
    Sample {
        rate: None,
        delivered: 0,
        prior_delivered: 0,
        tx_in_flight: flight,
        lost: (share * flight as f64) as u64,
        app_limited: false,
        rtt: None,
        newly_acked: 0,
    }
}

/// Whether a bound of the short term holds.
fn is_bound(bbr: &Bbr) -> bool {
    bbr.congestion.bw_shortterm.is_finite() || bbr.congestion.inflight_shortterm != u64::MAX
}

#[test]
fn random_loss_is_learnt_where_nothing_else_can_explain_it() {
    for loss in [0.005, 0.02, 0.05] {
        let mut script = Script::cruising(Params::default());
        script.loss = loss;
        script.rounds(100);
        let learnt = script.bbr.look().random_loss;
        assert!((0.8 * loss..=1.2 * loss).contains(&learnt), "{learnt} of {loss}");
    }
}

#[test]
fn random_loss_that_varies_is_learnt_as_its_mean() {
    let mut script = Script::cruising(Params::default());
    for round in 0..200 {
        script.loss = if round % 2 == 0 { 0.01 } else { 0.03 };
        script.rounds(1);
    }
    let learnt = script.bbr.look().random_loss;
    assert!((0.013..=0.027).contains(&learnt), "{learnt}");
}

#[test]
fn random_loss_that_ends_is_forgotten() {
    let mut script = Script::cruising(Params::default());
    script.loss = 0.05;
    script.rounds(100);
    script.loss = 0.0;
    script.rounds(100);
    let learnt = script.bbr.look().random_loss;
    assert!(learnt < 0.005, "{learnt}");
}

#[test]
fn rounds_that_met_a_queue_teach_no_random_loss() {
    let mut script = Script::cruising(Params::default());
    // Half the path's length more: not a path of this length, and soon enough not its new length.
    script.rtt = ms(150);
    script.rounds(5);
    script.loss = 0.03;
    script.rounds(40);
    assert!(script.bbr.look().random_loss < 0.003, "{:?}", script.bbr.look());
}

#[test]
fn losses_of_a_probe_teach_no_random_loss() {
    let mut script = Script::cruising(Params::default());
    let mut probes = 0;
    for _ in 0..100 * TICKS {
        // Only what leaves while probing is lost: too much was sent, into a queue too short to see.
        let probing = script.state() == State::ProbeUp;
        probes += u32::from(probing && script.loss == 0.0);
        script.loss = if probing { 0.08 } else { 0.0 };
        script.tick();
        assert!(script.bbr.look().random_loss < 0.004, "{:?}", script.bbr.look());
    }
    assert!(probes >= 2, "{probes}");
}

#[test]
fn random_loss_has_an_end() {
    let params = Params::default();
    let max = params.random_loss_max;
    let mut script = Script::cruising(params);
    for loss in [0.1, 0.14, 0.3, 0.5, 0.9] {
        script.loss = loss;
        for _ in 0..20 * TICKS {
            script.tick();
            assert!(script.bbr.look().random_loss <= max);
        }
    }
}

#[test]
fn what_a_path_loses_is_sent_on_top() {
    let mut script = Script::cruising(Params::default());
    script.loss = 0.05;
    script.rounds(70);
    script.run_until(State::ProbeCruise, 40);
    script.tick();
    let (rate, look) = (script.bbr.pacing_rate(), script.bbr.look());
    // What is delivered is 0.95 of what is sent, and what is sent is the rate of the script.
    assert!((look.bandwidth / (0.95 * RATE) - 1.0).abs() < 0.03, "{look:?}");
    assert!((rate / RATE - 1.0).abs() < 0.05, "{rate}");
}

#[test]
fn too_much_loss_is_more_than_the_threshold_above_what_the_path_loses() {
    let params = Params::default();
    let threshold = params.loss_threshold;
    let mut script = Script::cruising(params);
    let is_too_high = |script: &Script, share| script.bbr.is_inflight_too_high(&lost(share));
    assert!(!is_too_high(&script, 0.9 * threshold));
    assert!(is_too_high(&script, 1.2 * threshold));

    script.loss = 0.05;
    script.rounds(150);
    assert!(!is_too_high(&script, 0.05 + 0.8 * threshold));
    assert!(is_too_high(&script, 0.05 + 2.0 * threshold));

    let mut script = Script::cruising(strict());
    script.loss = 0.05;
    script.rounds(150);
    assert!(is_too_high(&script, 1.2 * threshold));
    assert_eq!(script.bbr.look().random_loss, 0.0);
}

#[test]
fn random_loss_lowers_nothing() {
    for loss in [0.005, 0.015] {
        let mut script = Script::cruising(Params::default());
        script.loss = loss;
        for _ in 0..100 * TICKS {
            script.tick();
            assert!(!is_bound(&script.bbr), "{loss}");
        }
        assert!(script.bbr.look().bandwidth > (1.0 - loss) * 0.97 * RATE);
    }
}

#[test]
fn each_loss_lowers_if_none_is_borne() {
    let mut script = Script::cruising(strict());
    script.loss = 0.005;
    script.rounds(3);
    assert!(is_bound(&script.bbr));
}

#[test]
fn loss_with_a_queue_lowers_until_the_next_probe() {
    let params = Params::default();
    let beta = params.beta;
    let mut script = Script::cruising(params);
    let cwnd = script.bbr.cwnd();
    // Less than the threshold, but the round trips are longer as well.
    script.rtt = ms(125);
    script.loss = 0.01;
    script.rounds(4);
    assert!(is_bound(&script.bbr));
    assert!(script.bbr.cwnd() < cwnd);
    // Never below what was delivered meanwhile (section 5.5.10.3), nor by more than beta in a round.
    assert!(script.bbr.look().bandwidth >= beta * RATE);
    script.loss = 0.0;
    script.run_until(State::ProbeRefill, 40);
    assert!(!is_bound(&script.bbr));
}

#[test]
fn a_round_that_lost_too_much_lowers_without_a_queue() {
    let mut script = Script::cruising(Params::default());
    // Until it is known that this path loses nothing.
    script.rounds(5);
    script.loss = 0.1;
    script.rounds(3);
    assert!(is_bound(&script.bbr));
}

#[test]
fn a_round_is_judged_by_what_was_known_before_it() {
    // A round that raises the bound it is judged by would always be explained.
    let mut script = Script::cruising(Params::default());
    script.rounds(100);
    script.run_until(State::ProbeRefill, 40);
    script.run_until(State::ProbeCruise, 20);
    script.rounds(5);
    assert!(!is_bound(&script.bbr));
    script.loss = 0.1;
    script.rounds(3);
    assert_eq!(script.state(), State::ProbeCruise);
    assert!(is_bound(&script.bbr));
}

#[test]
fn a_packet_or_two_of_a_short_flight_are_chance() {
    // 1 of 40 is more than the threshold, and happens many times a second on a short path that loses 1 %.
    let flight = |packets: u64| Sample { tx_in_flight: 40 * MSS, lost: packets * MSS, ..lost(0.0) };
    let script = Script::cruising(Params::default());
    assert!(!script.bbr.is_inflight_too_high(&flight(2)));
    assert!(script.bbr.is_inflight_too_high(&flight(8)));
    let script = Script::cruising(strict());
    assert!(script.bbr.is_inflight_too_high(&flight(1)));
}

#[test]
fn a_bound_follows_what_is_delivered_and_beta() {
    let params = Params::default();
    let beta = params.beta;
    let mut script = Script::cruising(params);
    // A quarter of the rate arrives from now on, with loss and a queue.
    script.rate = RATE / 4.0;
    script.rtt = ms(140);
    script.loss = 0.03;
    let mut last = RATE;
    for _ in 0..12 {
        script.rounds(1);
        let now = script.bbr.look().bandwidth;
        assert!(now >= 0.98 * beta * last, "{now} after {last}");
        last = now;
    }
    assert!(last < 0.45 * RATE, "{last}");
    assert!(last > 0.9 * RATE / 4.0, "{last}");
}

#[test]
fn loss_in_a_probe_bounds_the_long_term_and_nothing_else_does() {
    let mut script = Script::cruising(Params::default());
    script.loss = 0.1;
    script.rounds(2);
    assert_eq!(script.bbr.look().inflight_longterm, u64::MAX, "cruising, it says nothing of more than this");
    script.loss = 0.0;
    script.run_until(State::ProbeUp, 60);
    let flight = script.in_flight();
    script.loss = 0.12;
    script.rounds(2);
    let bound = script.bbr.look().inflight_longterm;
    assert!(bound as f64 > 0.6 * flight as f64 && bound as f64 <= 1.3 * flight as f64, "{bound} of {flight}");
    // And what may be in flight leaves some of it to others.
    (script.loss, script.rate) = (0.0, 0.8 * RATE);
    script.run_until(State::ProbeCruise, 10);
    script.rounds(2);
    assert!(script.bbr.cwnd() < bound);
}

#[test]
fn the_bound_of_the_long_term_rises_while_probing() {
    let mut script = Script::cruising(Params::default());
    let bound = script.in_flight();
    script.bbr.congestion.inflight_longterm = bound;
    script.run_until(State::ProbeUp, 40);
    // As much in flight as is allowed: it is the bound that limits.
    for _ in 0..6 * TICKS {
        let sent = script.in_flight() - script.standing;
        script.standing = script.bbr.cwnd().saturating_sub(sent);
        script.tick();
    }
    assert!(script.bbr.look().inflight_longterm > bound + 4 * MSS, "{:?}", script.bbr.look());
}

#[test]
fn the_bound_of_the_long_term_rises_where_acknowledgements_are_few() {
    let mut script = Script::cruising(Params::default());
    let bound = script.in_flight();
    script.bbr.congestion.inflight_longterm = bound;
    script.run_until(State::ProbeUp, 40);
    // Each is for four batches, and comes when as much is in flight as is allowed.
    const HELD: u32 = 4;
    let batch = (RATE * RTT.as_secs_f64() / f64::from(TICKS)) as u64;
    for _ in 0..6 * TICKS / HELD {
        let sent = script.in_flight() - script.standing + u64::from(HELD - 1) * batch;
        script.standing = script.bbr.cwnd().saturating_sub(sent);
        script.hold(HELD);
    }
    // It goes on: it is the bound that limits.
    let look = script.bbr.look();
    assert_eq!(look.state, State::ProbeUp);
    assert!(look.inflight_longterm > bound + 4 * MSS, "{look:?}");
}

#[test]
fn a_flight_without_loss_shows_that_the_bound_was_too_low() {
    let mut script = Script::cruising(Params::default());
    let flight = script.in_flight();
    script.bbr.congestion.inflight_longterm = flight / 2;
    script.rounds(3);
    assert!(script.bbr.look().inflight_longterm as f64 >= 0.9 * flight as f64);
}

#[test]
fn marks_lower_as_their_average_says() {
    let params = Params::default();
    let most = params.ecn_factor;
    let mut script = Script::cruising(params);
    script.is_marked = true;
    script.rounds(3);
    assert!(is_bound(&script.bbr));
    script.rate = RATE / 4.0;
    let mut last = script.bbr.look().bandwidth;
    for _ in 0..8 {
        script.rounds(1);
        let now = script.bbr.look().bandwidth;
        assert!(now >= 0.98 * (1.0 - most) * last, "{now} after {last}");
        last = now;
    }
    assert!(last < 0.7 * RATE, "{last}");
}

#[test]
fn a_probe_ends_when_most_of_it_is_marked() {
    let mut script = Script::cruising(Params::default());
    script.run_until(State::ProbeUp, 40);
    script.is_marked = true;
    let ticks = script.run_until(State::ProbeDown, 3);
    assert!(ticks > 0);
    assert_ne!(script.bbr.look().inflight_longterm, u64::MAX);
}

#[test]
fn startup_ends_when_most_of_a_round_is_marked() {
    let mut script = Script::new(Params::default());
    script.rate = RATE / 100.0;
    script.growth = 1.6;
    script.rounds(3);
    assert_eq!(script.state(), State::Startup);
    script.is_marked = true;
    script.run_out_of(State::Startup, 4);
}

#[test]
fn losses_of_a_silence_say_nothing() {
    let mut script = Script::cruising(Params::default());
    let before = script.bbr.look();
    script.is_silent = true;
    // Long enough, and over before a probe is due, which would lift what the losses lower.
    script.rounds(6);
    // All that was under way is lost.
    script.loss_of_all();
    script.is_silent = false;
    script.rounds(4);
    let after = script.bbr.look();
    assert!(!is_bound(&script.bbr), "{after:?}");
    assert_eq!(after.inflight_longterm, u64::MAX);
    assert!(after.random_loss < 0.003, "{after:?}");
    assert!(after.bandwidth > 0.95 * before.bandwidth, "{after:?}");
    assert_eq!(after.min_rtt, Some(RTT));
}

#[test]
fn losses_after_a_silence_count_again() {
    let mut script = Script::cruising(Params::default());
    script.is_silent = true;
    script.rounds(15);
    script.loss_of_all();
    script.is_silent = false;
    script.rounds(3);
    assert!(!is_bound(&script.bbr));
    script.loss = 0.1;
    // Probes lift the bounds; between them there is time enough.
    let bound = (0..10 * TICKS).any(|_| {
        script.tick();
        is_bound(&script.bbr)
    });
    assert!(bound);
}

#[test]
fn persistent_congestion_leaves_little_and_what_was_comes_back() {
    let mut script = Script::cruising(Params::default());
    let before = script.bbr.cwnd();
    script.is_silent = true;
    script.rounds(15);
    let (made, bytes) = script.forget_all();
    script.bbr.on_lost(script.now, made, bytes, true);
    assert!(script.bbr.cwnd() < before / 10, "{} of {before}", script.bbr.cwnd());
    assert!(script.bbr.cwnd() >= 4 * MSS, "what keeps a path going");
    script.is_silent = false;
    script.rounds(2);
    assert!(script.bbr.cwnd() >= before, "{} of {before}", script.bbr.cwnd());
}

#[test]
fn what_startup_bore_is_not_congestion_as_soon_as_it_is_over() {
    for loss in [0.03, 0.1] {
        let mut script = Script::new(Params::default());
        (script.rate, script.growth, script.loss) = (RATE / 100.0, 1.6, loss);
        script.rounds(8);
        (script.rate, script.growth) = (RATE / 2.0, 1.0);
        script.run_out_of(State::Startup, 6);
        // Less, so that there is nothing to drain. And not until a probe begins, which lifts all bounds.
        script.rate *= 0.9;
        for _ in 0..12 * TICKS {
            script.tick();
            assert!(!is_bound(&script.bbr), "{loss}: {:?}", script.bbr.look());
        }
        let learnt = script.bbr.look().random_loss;
        assert!((0.8 * loss..=1.2 * loss).contains(&learnt), "{learnt} of {loss}");
    }
}
