//! What a probe brings, and what follows from it.

use super::*;
use crate::bbr::growth::Growth;

/// Rounds of UP of a flow with `share` of a full path of 1 GB/s, and its pacing gains, until it stops; the others go on.
fn probe(share: f64) -> Vec<f64> {
    let params = Params::default();
    let rate = |sent: f64| sent / (sent + 1.0 - share);
    let mut growth = Growth::new(share * 1e9, params.up_pacing_gain);
    let mut gains = vec![growth.gain()];
    // What is acknowledged in the first round was sent before it.
    let (mut sent, mut seen) = (share, share);
    loop {
        growth.take(Some(rate(sent) * 1e9));
        growth.end_round(&params);
        seen = rate(sent).max(seen);
        sent = seen * gains[gains.len() - 1];
        if !growth.goes_on() {
            return gains;
        }
        gains.push(growth.gain());
    }
}

#[test]
fn a_flow_with_all_of_the_path_stops_as_soon_as_it_knows() {
    assert_eq!(probe(1.0), [1.25, 1.25]);
    assert_eq!(probe(0.6), [1.25, 1.25]);
}

#[test]
fn a_flow_with_little_asks_for_more_and_longer() {
    let little = probe(0.1);
    assert_eq!(little.len(), 3);
    assert!((1.5..=2.0).contains(&little[2]), "{little:?}");
    let some = probe(0.3);
    assert!(some.len() == 3 && some[2] < little[2], "{some:?}");
}

#[test]
fn no_gain_is_out_of_bounds() {
    let params = Params::default();
    for rates in [[0.0, 0.0, 0.0], [1.0, 1e12, 0.0], [1e9, 1.0, 1e-9], [f64::MAX, f64::MAX, 1.0]] {
        let mut growth = Growth::new(rates[0], params.up_pacing_gain);
        for _ in 0..10 {
            rates.iter().for_each(|rate| growth.take(Some(*rate)));
            growth.end_round(&params);
            assert!((params.up_pacing_gain..=params.up_pacing_gain_most).contains(&growth.gain()));
        }
        assert!(!growth.goes_on());
    }
}
