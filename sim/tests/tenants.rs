//! How a gateway divides a line among tenants, with the whole stack in virtual time: what `benches/tenants` measures on an emulated
//! line, without the machine in between.
#![allow(clippy::unwrap_used, missing_docs)]

use metra_sim::{Controller, Flow, Outcome, Scenario, Way, payload, run};
use metra_sim_model::Direction;

/// Mbit/s, of a line of 1000. The last is the hostile one: it has 64 jobs.
const FLOORS: [f64; 5] = [300.0, 200.0, 100.0, 50.0, 0.0];
const HOSTILE: usize = 64;
const LINE: f64 = 1000.0;
const RTT: f64 = 20.0;
/// Of the line, for payload: packets of QUIC on a line of 1500 bytes carry 0.956 of it. What is left lets links find out that
/// there is room.
const CEILING: f64 = 0.92;
/// All begin at once, and make each other lose. s.
const WARM_UP: f64 = 12.0;

fn flow(tenant: usize, way: Way) -> Flow {
    // More than anybody gets; what is fetched is on the disk.
    let bytes: u64 = if way == Way::Pull { 2_000_000_000 } else { 100_000_000_000 };
    let text = format!("user = 'tenant{tenant}'\nbytes = {bytes}");
    Flow { controller: Controller::Bbr2, way, ..toml::from_str(&text).unwrap() }
}

fn scenario(flows: Vec<Flow>, gateway: String, measured: f64) -> Scenario {
    let direction = Direction {
        rate_mbit: Some(LINE),
        delay_ms: RTT / 2.0,
        queue_bytes: Some((LINE * 125.0 * RTT) as u64),
        ..Direction::default()
    };
    let mut scenario: Scenario = toml::from_str("flows = []").unwrap();
    (scenario.up, scenario.down) = (direction.clone(), direction);
    (scenario.flows, scenario.gateway) = (flows, Some(gateway));
    (scenario.sample_ms, scenario.stop_s) = (Some(250.0), Some(WARM_UP + measured));
    scenario
}

/// Mbit/s of payload that reached the sink of each flow.
fn rates(outcome: &Outcome) -> Vec<f64> {
    let begun = outcome.samples.iter().find(|sample| sample.at.as_secs_f64() >= WARM_UP).unwrap();
    let ended = outcome.samples.last().unwrap();
    let seconds = (ended.at - begun.at).as_secs_f64();
    let flows = begun.flows.iter().zip(&ended.flows);
    let landed = flows.map(|(a, b)| (b.landed - a.landed) as f64 * payload::share(b.mtu));
    landed.map(|bytes| bytes * 8e-6 / seconds).collect()
}

/// Each tenant has its floor in `measured` seconds beside one with 64 jobs.
fn floors_hold(way: Way, measured: f64) {
    let mut gateway = format!("[shaping]\nceiling_mbit = {}\n", (LINE * CEILING) as u64);
    for (tenant, floor) in FLOORS.iter().enumerate() {
        gateway += &format!(
            "[tenants.tenant{tenant}]\nfloor_mbit = {floor}\n[tenants.tenant{tenant}.users.tenant{tenant}]\n"
        );
    }
    let last = FLOORS.len() - 1;
    let flows = (0..last).chain(std::iter::repeat_n(last, HOSTILE)).map(|tenant| flow(tenant, way)).collect();
    let rates = rates(&run(&scenario(flows, gateway, measured)).unwrap());
    let mut tenants = rates[..last].to_vec();
    tenants.push(rates[last..].iter().sum());
    let all: f64 = tenants.iter().sum();
    println!("{way:?}: {tenants:.0?} Mbit/s, together {all:.0}");
    for (rate, floor) in tenants.iter().zip(FLOORS) {
        assert!(*rate >= 0.97 * floor, "{tenants:?}");
    }
    // Of what the line can carry of payload.
    assert!(all >= 0.95 * payload::rate(LINE, 1452), "{all} of {}", payload::rate(LINE, 1452));
}

#[test]
fn each_tenant_that_sends_has_its_floor_beside_one_with_64_jobs() {
    // Long enough for what is lost and sent again to come to stand somewhere.
    floors_hold(Way::Push, 20.0);
}

#[test]
fn each_tenant_that_fetches_has_its_floor_beside_one_with_64_jobs() {
    floors_hold(Way::Pull, 10.0);
}
