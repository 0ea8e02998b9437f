#![allow(clippy::unwrap_used)]
use super::*;
use crate::outcome::{FlowOutcome, FlowSample, NotDone};
use crate::plan::Plan;

const MTU: u16 = 1452;
/// Bytes of UDP payload per millisecond that are all that 100 Mbit/s can carry.
const FULL: f64 = 12_500.0 * 1452.0 / 1480.0;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A run at 100 Mbit/s over 40 ms.
fn cell(more: &str) -> Cell {
    let text =
        format!("title = \"t\"\n[base]\nrate_mbit = 100\nrtt_ms = 40\n{more}\n[[scenario]]\nname = \"s\"");
    Plan::parse("plan.toml", &text).unwrap().cells()[0].clone()
}

/// Looks each 10 ms for so many seconds, of flows that are stopped at the end.
fn outcome(seconds: u64, flows: usize, sample: impl Fn(u64) -> Sample) -> Outcome {
    let flow = FlowOutcome {
        began: ms(0),
        elapsed: ms(seconds * 1000),
        arrived: 0,
        mtu: MTU,
        first_byte: Some(ms(80)),
        bursts: None,
        report: Err(NotDone::Stopped),
    };
    Outcome {
        flows: vec![flow; flows],
        up: metra_sim_model::Counts::default(),
        down: metra_sim_model::Counts::default(),
        elapsed: ms(seconds * 1000),
        cpu: Duration::ZERO,
        samples: (0..=seconds * 100).map(|i| sample(i * 10)).collect(),
    }
}

fn sample(at: u64, bytes: &[u64]) -> Sample {
    let flow =
        |bytes: &u64| FlowSample { arrived: *bytes, landed: *bytes, mtu: MTU, ..FlowSample::default() };
    Sample {
        at: ms(at),
        queue: (0, 0),
        passed: (0, 0),
        offered: (0, 0),
        queue_drops: (0, 0),
        flows: bytes.iter().map(flow).collect(),
    }
}

/// What has come after `at` ms at these parts of the full rate, each from a time (ms) on.
fn come(at: u64, rates: &[(u64, f64)]) -> u64 {
    let ends = rates.iter().skip(1).map(|(from, _)| *from).chain([u64::MAX]);
    let piece =
        |((from, part), end): (&(u64, f64), u64)| at.min(end).saturating_sub(*from) as f64 * part * FULL;
    rates.iter().zip(ends).map(piece).sum::<f64>().round() as u64
}

fn near(value: f64, expected: f64) {
    assert!((value - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{value}, expected {expected}");
}

#[test]
fn the_steady_state_is_what_arithmetic_says() {
    let look = |at: u64| Sample {
        // Before the warm-up everything is otherwise.
        offered: (if at < 2000 { 7 * at } else { 14_000 + 3000 * (at - 2000) }, 0),
        queue: (if at < 2000 { 1 << 20 } else { (at / 10 % 100) * 125 }, 1 << 30),
        queue_drops: (at / 10, 99),
        ..sample(at, &[come(at, &[(0, 0.0), (2000, 0.25)])])
    };
    let cell = cell("warm_up_s = 2\nstop_s = 12\nmegabytes = [1, 9000]\nseconds = 90");
    let measures = Measures::of(&cell, &outcome(12, 1, look));
    let [steady] = measures.steady[..] else { panic!("one flow") };
    near(steady.mbit, 25.0 * 1417.0 / 1480.0);
    near(steady.of_payload, 0.25);
    near(steady.wire_ratio.unwrap(), 3000.0 / (0.25 * FULL * 1417.0 / 1452.0));
    // 125 bytes are 10 us; of 0 to 990 us, ten times each, and 0 once more.
    near(steady.queue_delay_mean.as_secs_f64(), 495e-6 * 1000.0 / 1001.0);
    assert_eq!(steady.queue_delay_p95, Duration::from_micros(940));
    assert_eq!(steady.queue_drops, 1000);
    assert_eq!(measures.jain, None, "nobody to share with");
}

#[test]
fn a_pull_is_measured_in_its_direction() {
    let look = |at: u64| Sample {
        offered: (1 << 40, 2 * at),
        queue: (1 << 30, 12_500),
        queue_drops: (99, at / 1000),
        ..sample(at, &[at])
    };
    let cell = cell("warm_up_s = 2\nstop_s = 12\nway = \"pull\"\nseconds = 90");
    let [steady] = Measures::of(&cell, &outcome(12, 1, look)).steady[..] else { panic!("one flow") };
    near(steady.wire_ratio.unwrap(), 2.0 * 1452.0 / 1417.0);
    assert_eq!((steady.queue_delay_mean, steady.queue_drops), (ms(1), 10));
}

#[test]
fn of_nothing_there_is_no_ratio() {
    let look = |at: u64| Sample { offered: (at, 0), ..sample(at, &[5]) };
    let [steady] = Measures::of(&cell("warm_up_s = 2\nstop_s = 12"), &outcome(12, 1, look)).steady[..] else {
        panic!("one flow")
    };
    assert_eq!((steady.mbit, steady.wire_ratio), (0.0, None));
}

#[test]
fn a_queue_is_as_long_as_the_rate_of_then_makes_it() {
    let cell = cell("warm_up_s = 0\nstop_s = 12\nevents = [{ at_s = 5.995, rate_mbit = 10 }]\nseconds = 90");
    let look = |at: u64| Sample { queue: (12_500, 0), ..sample(at, &[at]) };
    let [steady] = Measures::of(&cell, &outcome(12, 1, look)).steady[..] else { panic!("one flow") };
    // 600 looks at 1 ms, 601 at 10 ms.
    near(steady.queue_delay_mean.as_secs_f64(), (0.6 + 6.01) / 1201.0);
}

#[test]
fn flows_are_compared_while_all_of_them_are_active() {
    // The second begins after the warm-up; the first is stopped by an error before the end.
    let look = |at| {
        sample(at, &[come(at, &[(0, 0.9), (4000, 0.6)]), come(at, &[(3900, 0.0), (4000, 0.2), (8000, 0.9)])])
    };
    let cell = cell("warm_up_s = 2\nstop_s = 12\nflows = 2\nstagger_s = 4\nseconds = 90");
    let mut outcome = outcome(12, 2, look);
    outcome.flows[0].elapsed = ms(8000);
    (outcome.flows[1].began, outcome.flows[1].elapsed) = (ms(4000), ms(8000));
    let measures = Measures::of(&cell, &outcome);
    near(measures.steady[0].of_payload, 0.6);
    near(measures.steady[1].of_payload, 0.2);
    near(measures.jain.unwrap(), 0.64 / (2.0 * 0.4));
}

#[test]
fn the_steady_state_ends_with_the_content() {
    // 100 MB at the full rate of 11.95 MB/s are there after 8.37 s; then nothing comes any more.
    let content = FULL * 1417.0 / 1452.0 * 1e3;
    let all = (1e11 / content) as u64;
    let look = |at| sample(at, &[come(at, &[(0, 1.0), (all, 0.0)])]);
    let cell = cell("warm_up_s = 2\nstop_s = 12\nmegabytes = [100, 100]");
    near(Measures::of(&cell, &outcome(12, 1, look)).steady[0].of_payload, 1.0);
}

#[test]
fn without_a_steady_state_there_are_no_figures_of_it() {
    let look = |at| sample(at, &[at]);
    for (more, why) in [
        ("stop_s = 12", "nobody has said when it begins"),
        ("warm_up_s = 11.99\nstop_s = 12", "shorter than a window"),
        ("warm_up_s = 50", "the run was over before"),
    ] {
        assert_eq!(Measures::of(&cell(more), &outcome(12, 1, look)).steady, [], "{why}");
    }
}

#[test]
fn the_start_ends_when_the_full_rate_is_reached() {
    let rates = |at| come(at, &[(0, 0.01), (100, 0.25), (500, 0.5), (1004, 1.0)]);
    let look = |at| Sample { queue_drops: (at / 10, 1 << 20), ..sample(at, &[rates(at)]) };
    let start = Measures::of(&cell("stop_s = 12"), &outcome(12, 1, look)).start;
    // The first byte leaves at 80 ms and is there at 100. 4 ms at half the rate and 46 at the full one are 96 %.
    assert_eq!(start, Start { time: Some(ms(900)), drops: 300 });

    let look = |at| Sample { queue_drops: (at / 10, 0), ..sample(at, &[come(at, &[(0, 0.5)])]) };
    let start = Measures::of(&cell("stop_s = 12"), &outcome(12, 1, look)).start;
    assert_eq!(start, Start { time: None, drops: 510 });
}

#[test]
fn flows_start_together() {
    let look = |at| sample(at, &[come(at, &[(0, 0.5)]), come(at, &[(0, 0.0), (2004, 0.5)])]);
    let start = Measures::of(&cell("stop_s = 12\nflows = 2"), &outcome(12, 2, look)).start;
    assert_eq!(start.time, Some(ms(1900)));
}

#[test]
fn recovery_is_from_the_end_of_the_event() {
    let recovery = |more: &str, rates: &[(u64, f64)]| {
        let look = |at| sample(at, &[come(at, rates)]);
        Measures::of(&cell(&format!("stop_s = 12\n{more}")), &outcome(12, 1, look)).recovery[0]
    };
    let outage = "events = [{ at_s = 5, outage_ms = 1000 }]";
    assert_eq!(recovery("", &[(0, 0.5)]), None, "nothing has happened");
    // At half of what was before at 6.2 s, at all of it from 7.004 s on: 96 % in the window that begins 4 ms before.
    assert_eq!(
        recovery(outage, &[(0, 0.8), (5000, 0.0), (6200, 0.4), (7004, 0.8)]),
        Some(ms(1000)),
        "both directions are out, which is one event"
    );
    assert_eq!(recovery(outage, &[(0, 0.8), (5000, 0.0), (6200, 0.4)]), None);
    assert_eq!(recovery("client_events = [{ at_s = 5 }]", &[(0, 0.8)]), Some(ms(0)));
    let moved = "client_events = [{ at_s = 5 }, { at_s = 8, change_address = true }]";
    let rates = [(0, 0.8), (5000, 0.0), (5500, 0.8), (8000, 0.0), (8300, 0.8)];
    assert_eq!(recovery(moved, &rates), Some(ms(500)), "the longest");
    assert_eq!(recovery(moved, &[(0, 0.8), (5000, 0.0), (9000, 0.8)]), None, "the next came before");
}

#[test]
fn jains_index_is_one_for_equals() {
    near(jain(&[3.0, 3.0, 3.0]).unwrap(), 1.0);
    near(jain(&[5.0, 0.0, 0.0, 0.0]).unwrap(), 0.25);
    near(jain(&[1.0, 3.0]).unwrap(), 0.8);
    assert_eq!((jain(&[1.0]), jain(&[0.0, 0.0]), jain(&[])), (None, None, None));
}
