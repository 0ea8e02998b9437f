//! What the simulator must show of itself: the same seed does the same, and the real stack over a path has the results
//! that arithmetic says it must have. All bounds are stated; nothing depends on the speed of the machine.
#![allow(clippy::unwrap_used, missing_docs)]

use metra_sim::{
    Access, Controller, Flow, FlowOutcome, HostEvent, Outcome, Plan, Policy, Scenario, Way, payload, record,
    run,
};
use metra_sim_model::{Direction, Event};

const MB: u64 = 1_000_000;

fn path(rate: f64, rtt: f64, loss: f64) -> Direction {
    let bdp = (rate * 1e6 / 8.0 * rtt / 1e3) as u64;
    Direction {
        rate_mbit: Some(rate),
        delay_ms: rtt / 2.0,
        loss_percent: loss,
        queue_bytes: Some(bdp.max(64_000)),
        ..Direction::default()
    }
}

fn flow(bytes: u64, controller: Controller) -> Flow {
    Flow {
        way: Way::Push,
        user: "sim".to_owned(),
        priority: 4,
        bytes,
        start_s: 0.0,
        links: 1,
        tunnelled: false,
        controller,
        remembered: 0.0,
        policy: Policy::Fair,
        target_mbit: None,
        access: None,
        events: vec![],
    }
}

fn scenario(rate: f64, rtt: f64, loss: f64, flows: Vec<Flow>) -> Scenario {
    Scenario {
        seed: 1,
        up: path(rate, rtt, loss),
        down: path(rate, rtt, loss),
        flows,
        gateway: None,
        wake_delay_us: 100.0,
        pacing_timer_us: 1000.0,
        bursts_from_s: None,
        sample_ms: None,
        limit_s: 600.0,
        stop_s: None,
    }
}

/// All that must be the same.
fn facts(outcome: &Outcome) -> String {
    let flows: Vec<_> = outcome
        .flows
        .iter()
        .map(|flow| {
            let report = flow.report.as_ref().unwrap();
            (flow.elapsed, report.first_byte, report.verify, report.chunks_sent, report.resumes)
        })
        .collect();
    format!("{flows:?} {:?} {:?} {:?}", outcome.up, outcome.down, outcome.samples)
}

#[test]
fn the_same_seed_does_the_same() {
    let mut scenario =
        scenario(50.0, 40.0, 0.3, vec![flow(8 * MB, Controller::Bbr), flow(8 * MB, Controller::Cubic)]);
    scenario.up.jitter_ms = 2.0;
    scenario.up.reorder = true;
    scenario.sample_ms = Some(100.0);
    let first = facts(&run(&scenario).unwrap());
    for _ in 0..2 {
        assert!(facts(&run(&scenario).unwrap()) == first, "a run with seed 1 was not the same again");
    }
    scenario.seed = 2;
    assert!(facts(&run(&scenario).unwrap()) != first, "the seed makes no difference");
}

#[test]
fn looking_changes_nothing() {
    let mut scenario = scenario(50.0, 40.0, 0.3, vec![flow(4 * MB, Controller::Bbr)]);
    let mut facts = |sample_ms| {
        scenario.sample_ms = sample_ms;
        let outcome = run(&scenario).unwrap();
        (outcome.flows[0].elapsed, outcome.up, outcome.down)
    };
    assert_eq!(facts(None), facts(Some(3.0)));
}

#[test]
fn a_clean_link_is_filled_and_no_more() {
    let outcome = run(&scenario(100.0, 20.0, 0.0, vec![flow(40 * MB, Controller::Cubic)])).unwrap();
    // IP, UDP and QUIC take 1 - 1400/1480 = 5 % at most of packets of 1480 bytes; the rest is slow start.
    let goodput = outcome.flows[0].goodput_mbit();
    assert!((80.0..97.0).contains(&goodput), "{goodput} Mbit/s of 100");
    assert_eq!(outcome.up.lost, 0);
}

#[test]
fn a_steady_state_is_what_arithmetic_says() {
    let plan = r#"
        title = "clean"
        [base]
        rate_mbit = 100
        rtt_ms = 20
        warm_up_s = 1
        stop_s = 4
        [[scenario]]
        name = "stopped"
        seconds = 10
        [[scenario]]
        name = "done"
        seconds = 2
    "#;
    let plan = Plan::parse("clean", plan).unwrap();
    let [stopped, done] = plan.cells() else { panic!("two") };

    let row = &record::rows(stopped, &run(&stopped.scenario).unwrap())[0];
    assert_eq!((row.end, row.error.as_str()), ("stopped", ""));
    // The link is full, and nothing is sent twice but what a full queue drops: once in a second or two, at most 20 packets
    // of the 8446 that it carries in one.
    let steady = row.steady_of_payload.unwrap();
    assert!((0.99..1.003).contains(&steady), "{steady} of the payload rate");
    let (mbit, wire) = (row.steady_mbit.unwrap(), row.steady_wire_ratio.unwrap());
    assert!((mbit - steady * 100.0 * 1417.0 / 1480.0).abs() < 1e-6, "{mbit} Mbit/s");
    assert!((wire * 1417.0 / 1480.0 - 1.0).abs() < 0.006, "{wire} bytes for each");
    // The queue holds 20 ms, and CUBIC keeps 70 % of its window of up to 40.
    let (mean, most) = (row.queue_delay_mean_ms.unwrap(), row.queue_delay_p95_ms.unwrap());
    assert!(5.0 < mean && mean < most && most <= 20.5, "{mean} ms, at most {most} ms");
    // From ten packets of 1200 bytes to 250,000 bytes in doublings: four or five, and less than one more at the rate.
    let rounds = row.start_rounds.unwrap();
    assert!((4.0..7.0).contains(&rounds), "{rounds} round-trip times");

    // What is taken for content is the content.
    let outcome = run(&done.scenario).unwrap();
    let report = outcome.flows[0].report.as_ref().unwrap();
    let ratio = report.kpis.traffic.acked_bytes as f64 * payload::share(1452) / report.bytes as f64;
    assert!((ratio - 1.0).abs() < 0.003, "{ratio}");
}

#[test]
fn the_first_byte_takes_the_round_trips_that_it_needs() {
    let outcome = run(&scenario(1000.0, 100.0, 0.0, vec![flow(MB, Controller::Cubic)])).unwrap();
    // TLS handshake 1, hello 1, push until the first want 1; then it leaves. Timers and wake-ups may add a little.
    let first = outcome.flows[0].report.as_ref().unwrap().first_byte.unwrap().as_secs_f64() * 1e3;
    assert!((99.0..330.0).contains(&first), "{first} ms");
}

#[test]
fn random_loss_is_repaired() {
    let outcome = run(&scenario(100.0, 20.0, 2.0, vec![flow(8 * MB, Controller::Bbr)])).unwrap();
    let report = outcome.flows[0].report.as_ref().unwrap();
    assert_eq!((report.bytes, report.failed), (8 * MB, 0));
    assert!(outcome.up.lost > 50, "{:?}", outcome.up);
}

#[test]
fn corruption_duplication_and_reordering_do_no_harm() {
    let mut scenario = scenario(100.0, 10.0, 0.0, vec![flow(8 * MB, Controller::Cubic)]);
    for direction in [&mut scenario.up, &mut scenario.down] {
        direction.corrupt_percent = 0.1;
        direction.duplicate_percent = 1.0;
        direction.jitter_ms = 3.0;
        direction.reorder = true;
    }
    let outcome = run(&scenario).unwrap();
    assert_eq!(outcome.flows[0].report.as_ref().unwrap().bytes, 8 * MB);
    assert!(outcome.up.corrupted > 0 && outcome.up.duplicated > 0);
}

#[test]
fn a_pull_is_as_good_as_a_push() {
    let pull = Flow { way: Way::Pull, ..flow(8 * MB, Controller::Cubic) };
    let outcome = run(&scenario(100.0, 20.0, 0.0, vec![pull])).unwrap();
    assert_eq!(outcome.flows[0].report.as_ref().unwrap().bytes, 8 * MB);
    assert!(outcome.down.bytes > 8 * MB && outcome.up.bytes < MB);
}

#[test]
fn two_flows_share_a_bottleneck() {
    let flows = vec![flow(20 * MB, Controller::Cubic), flow(20 * MB, Controller::Cubic)];
    let outcome = run(&scenario(100.0, 20.0, 0.0, flows)).unwrap();
    let rates: Vec<f64> = outcome.flows.iter().map(FlowOutcome::goodput_mbit).collect();
    assert!(rates.iter().all(|rate| (30.0..75.0).contains(rate)), "{rates:?}");
}

#[test]
fn an_outage_a_new_port_and_a_new_address_are_survived() {
    let mut moving = flow(40 * MB, Controller::Cubic);
    moving.events =
        vec![HostEvent { at_s: 1.0, change_address: false }, HostEvent { at_s: 2.0, change_address: true }];
    let mut scenario = scenario(100.0, 20.0, 0.0, vec![moving]);
    let outage = Event { at_s: 3.0, outage_ms: Some(500.0), ..Event::default() };
    scenario.up.events.push(outage);
    scenario.down.events.push(outage);
    let outcome = run(&scenario).unwrap();
    let report = outcome.flows[0].report.as_ref().unwrap();
    assert_eq!((report.bytes, report.resumes), (40 * MB, 0), "one connection carried all of it");
    assert!(outcome.up.blocked + outcome.down.blocked > 0);
    assert!(outcome.elapsed.as_secs_f64() < 10.0, "{:?}", outcome.elapsed);
}

#[test]
fn a_link_that_blocks_udp_gives_an_error_and_no_hang() {
    let mut scenario = scenario(100.0, 20.0, 0.0, vec![flow(MB, Controller::Cubic)]);
    scenario.up.events.push(Event { at_s: 0.0, block_udp: Some(true), ..Event::default() });
    let outcome = run(&scenario).unwrap();
    let error = outcome.flows[0].report.as_ref().unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

/// What the path is known to carry after three seconds, in bytes of UDP payload, and what was measured of the flow.
fn mtu_found(interface: u32, bottleneck: u32, controller: Controller, way: Way) -> (u16, Outcome) {
    let mut path = scenario(100.0, 40.0, 0.0, vec![Flow { way, ..flow(1000 * MB, controller) }]);
    path.stop_s = Some(3.0);
    let own = Direction { mtu: Some(interface), ..Direction::default() };
    path.flows[0].access = Some(Access { up: own.clone(), down: own });
    for direction in [&mut path.up, &mut path.down] {
        direction.mtu = Some(bottleneck);
    }
    let outcome = run(&path).unwrap();
    (outcome.flows[0].mtu, outcome)
}

#[test]
fn the_mtu_is_that_of_the_path() {
    for controller in [Controller::Bbr2, Controller::Cubic] {
        // As Ethernet is everywhere: not one probe is too long.
        let (mtu, outcome) = mtu_found(1500, 1500, controller, Way::Push);
        assert_eq!((mtu, outcome.up.too_long), (1452, 0), "{controller:?}");
        // Jumbo frames all the way.
        let (mtu, outcome) = mtu_found(9000, 9000, controller, Way::Push);
        assert_eq!((mtu, outcome.up.too_long), (8952, 0), "{controller:?}");
        // They end on the way, and nobody says so.
        let (mtu, outcome) = mtu_found(9000, 1500, controller, Way::Push);
        // Three probes of each of seven sizes, and nothing else was too long; 1472 fit, and a search ends when it is near.
        assert_eq!((mtu, outcome.up.too_long), (1470, 21), "{controller:?}");
        let arrived = outcome.flows[0].goodput_mbit();
        assert!(arrived > 80.0, "{arrived} Mbit/s with {controller:?}");
    }
}

#[test]
fn a_path_that_takes_less_than_before_is_noticed() {
    let mut path = scenario(100.0, 40.0, 0.0, vec![flow(1000 * MB, Controller::Bbr2)]);
    path.stop_s = Some(12.0);
    path.sample_ms = Some(50.0);
    for direction in [&mut path.up, &mut path.down] {
        direction.mtu = Some(9000);
        direction.events.push(Event { at_s: 4.0, mtu: Some(1500), ..Event::default() });
    }
    let outcome = run(&path).unwrap();
    let at = |s: f64| outcome.samples.iter().find(|sample| sample.at.as_secs_f64() >= s).unwrap().flows[0];
    assert_eq!(at(3.9).mtu, 8952);
    // A black hole: quinn falls back to what every path takes, and searches again after a minute.
    assert_eq!(at(8.0).mtu, 1200);
    let after = (at(11.9).landed - at(8.0).landed) as f64 * 8e-6 / 3.9;
    assert!(after > 75.0, "{after} Mbit/s");
}
