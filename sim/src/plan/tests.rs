#![allow(clippy::unwrap_used)]
use super::*;
use crate::scenario::{Controller, Way};

const SMALL: &str = r#"
    title = "small"
    [grid]
    rate_mbit = [100, 1000]
    rtt_ms = [10, 100]
    loss_percent = [0, 1]
    seed = [1, 2]
    [base]
    seconds = 2
    queue_bdp = 0.5
"#;

const SCENARIOS: &str = r#"
    title = "two"
    [base]
    rate_mbit = 100
    rtt_ms = 20
    seconds = 2
    events = [{ at_s = 1, outage_ms = 300 }]

    [[scenario]]
    name = "plain"

    [[scenario]]
    name = "apart"
    rtt_ms = 40
    queue_bdp = 4
    controller = "bbr"
    events = []
    [[scenario.flow]]
    [[scenario.flow]]
    controller = "cubic"
    way = "pull"
    remembered = 10
    start_s = 3
    bytes = 5000
    links = 2
    access = { up = { delay_ms = 30 }, down = { delay_ms = 30 } }
    events = [{ at_s = 4, change_address = true }]
    [[scenario.flow]]
    seconds = 1
"#;

fn parse(text: &str) -> Plan {
    Plan::parse("plan.toml", text).unwrap()
}

#[test]
fn a_grid_is_every_combination() {
    let plan = parse(SMALL);
    let cells = plan.cells();
    assert_eq!(cells.len(), 16);
    let last = &cells[15];
    assert_eq!((last.rate_mbit, last.rtt_ms, last.loss_percent, last.scenario.seed), (1000.0, 100.0, 1.0, 2));
    assert_eq!(last.scenario.flows[0].bytes, 250_000_000);
    assert_eq!(last.scenario.up.queue_bytes, Some(6_250_000));
    assert_eq!(last.name(), "1000mbit-100ms-1pct-cubic-0.5bdp-seed2");
    assert_eq!(last.family.as_deref(), Some("1000mbit-cubic-0.5bdp"));
}

#[test]
fn names_leave_defaults_out_and_are_unique() {
    let lists = r#"
        queue_bdp = [1, 4]
        burst_packets = [1, 8]
        flows = [1, 2]
        controller = ["cubic", "bbr"]
        way = ["push", "pull"]
        remembered = [0, 1]
    "#;
    let plan = parse(&SMALL.replace("queue_bdp = 0.5", "").replace("[grid]", &format!("[grid]\n{lists}")));
    let names: BTreeSet<&str> = plan.cells().iter().map(Cell::name).collect();
    assert_eq!((plan.cells().len(), names.len()), (1024, 1024));
    assert_eq!(plan.cells()[0].name(), "100mbit-10ms-0pct-cubic");
    assert!(names.contains("1000mbit-100ms-1pct-bbr-pull-4bdp-burst8-remembered1-2flows-seed2"));
}

#[test]
fn a_burst_has_the_mean_loss() {
    let plan = parse(&SMALL.replace("[base]", "burst_packets = [1, 8]\n[base]"));
    let cell = |name: &str| plan.cells().iter().find(|cell| cell.name() == name).unwrap();
    let plain = cell("100mbit-10ms-1pct-cubic-0.5bdp");
    assert_eq!((plain.scenario.up.loss_percent, plain.scenario.up.burst), (1.0, None));
    let bursts = cell("100mbit-10ms-1pct-cubic-0.5bdp-burst8");
    assert_eq!((bursts.loss_percent, bursts.scenario.up.loss_percent), (1.0, 0.0));
    let burst = bursts.scenario.up.burst.unwrap();
    let mean = burst.enter_percent / (burst.enter_percent + burst.leave_percent);
    assert!((mean - 0.01).abs() < 1e-12 && burst.leave_percent == 12.5, "{burst:?}");
}

#[test]
fn a_scenario_is_the_base_with_what_it_says() {
    let plan = parse(SCENARIOS);
    let [plain, apart] = plan.cells() else { panic!("two") };
    assert_eq!((plain.name(), plain.family.as_deref()), ("plain", None));
    assert_eq!((plain.rtt_ms, plain.scenario.flows.len(), plain.scenario.up.events.len()), (20.0, 1, 1));
    assert_eq!(apart.name(), "apart");
    assert_eq!((apart.rtt_ms, apart.rate_mbit, apart.scenario.up.events.len()), (40.0, 100.0, 0));
    assert_eq!(apart.scenario.up.queue_bytes, Some(2_000_000));
    let [first, second, third] = &apart.scenario.flows[..] else { panic!("three") };
    assert_eq!((first.controller, first.way, first.bytes), (Controller::Bbr, Way::Push, 25_000_000));
    assert_eq!((second.controller, second.way, second.bytes), (Controller::Cubic, Way::Pull, 5000));
    assert_eq!((second.start_s, second.links, second.remembered), (3.0, 2, 10.0));
    assert_eq!(first.remembered, 0.0);
    assert!(second.events[0].change_address);
    assert_eq!(third.bytes, 12_500_000);
    assert_eq!((apart.rtt_of(0), apart.rtt_of(1)), (40.0, 100.0));
}

#[test]
fn a_grid_and_scenarios_go_together() {
    let both = SMALL.to_owned() + "[[scenario]]\nname = \"alone\"\nrate_mbit = 10\nrtt_ms = 10\nflows = 3\n";
    let plan = parse(&both);
    assert_eq!(plan.cells().len(), 17);
    let last = &plan.cells()[16];
    assert_eq!((last.name(), last.queue_bdp, last.scenario.flows.len()), ("alone", 0.5, 3));
}

#[test]
fn looks_are_near_enough_and_not_too_many() {
    let looks = |text: &str| parse(text).cells()[0].scenario.sample_ms.unwrap();
    let base = |more: &str| SCENARIOS.replace("[base]", &format!("[base]\n{more}"));
    // A fourth of 20 ms; 20,000 looks in 600 s; as often as the course is kept.
    assert_eq!(looks(&base("")), 5.0);
    assert_eq!(looks(&base("limit_s = 600")), 30.0);
    assert_eq!(looks(&base("sample_ms = 2")), 2.0);
    assert_eq!(looks(&base("sample_ms = 100")), 5.0);
}

#[test]
fn what_makes_no_sense_is_said_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.toml");
    let grid = |old: &str, new: &str| SMALL.replace(old, new);
    let two = |old: &str, new: &str| SCENARIOS.replacen(old, new, 1);
    for (text, said) in [
        (grid("rate_mbit = [100, 1000]", "rate_mbit = []"), "nothing to run"),
        (grid("rate_mbit = [100, 1000]", ""), "rate_mbit is missing"),
        (grid("[0, 1]", "[0, 101]"), "101pct-cubic-0.5bdp: loss_percent"),
        (grid("[0, 1]", "[1, 1]"), "two runs are named 100mbit-10ms-1pct-cubic-0.5bdp"),
        (grid("seconds", "second"), "unknown field"),
        (grid("[base]", "[base]\nflows = 0"), "flows and links"),
        (grid("[base]", "[base]\nremembered = -1"), "remembered"),
        (two("remembered = 10", "remembered = -1"), "flow 1: remembered"),
        (grid("[base]", "[base]\nsample_ms = 0"), "sample_ms"),
        (grid("[base]", "[base]\nclient_events = [{ at_s = -1 }]"), "client_events.at_s"),
        (grid("[base]", "[base]\nwarm_up_s = 5\nstop_s = 5"), "warm_up_s must be before stop_s"),
        (grid("[base]", "[base]\nburst_packets = 0.5"), "bursts of 0.5 packets"),
        (
            grid("[base]", "[base]\nflows = 3\nstagger_s = 5\nstop_s = 10"),
            "flow 2 begins when the run is over",
        ),
        ("title = \"nothing\"".to_owned(), "neither [grid] nor [[scenario]]"),
        (two("name = \"plain\"", "name = \"apart\""), "two runs are named apart"),
        (two("name = \"plain\"", ""), "has no name"),
        (two("name = \"plain\"", "name = \"a/b\""), "no name for files"),
        (two("queue_bdp", "queue_pdb"), "apart: unknown field `queue_pdb`"),
        (two("links = 2", "link = 2"), "apart: flow: unknown field `link`"),
        (two("links = 2", "links = 0"), "apart: flow 1: links"),
        (two("queue_bdp = 4", "flows = 2"), "apart: flows and [[scenario.flow]]"),
        (two("bytes = 5000", "bytes = 5000\nseconds = 1"), "bytes and seconds"),
        (two("up = { delay_ms = 30 }", "up = { delay_ms = -1 }"), "flow 1: access: delay_ms"),
        (two("\"bbr\"", "\"reno\""), "apart: unknown variant `reno`"),
        (two("\"bbr\"", "\"bbr2\"\npolicy = \"fixed\""), "apart: flow 0: target_mbit is missing"),
        (two("\"bbr\"", "\"bbr\"\npolicy = \"low\""), "apart: flow 0: rate policies go with bbr2"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains("plan.toml") && error.contains(said), "{error}, not: {said}");
    }
}

#[test]
fn the_plans_that_are_here_can_be_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let mut plans = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        Plan::load(&entry.unwrap().path()).unwrap();
        plans += 1;
    }
    assert!(plans >= 3, "{plans}");
}
