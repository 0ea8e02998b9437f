//! [`Cell`]: one run of a plan.

use toml::{Table, Value};

use super::{Base, FlowSpec};
use crate::scenario::{Controller, Flow, Policy, Scenario, Way};

/// One run of a plan.
#[derive(Clone, Debug)]
pub struct Cell {
    name: String,
    /// What it has in common with those that differ from it in round-trip time, loss and seed only. `None`: it is no part
    /// of a grid.
    pub family: Option<String>,
    /// Of the bottleneck. Mbit/s.
    pub rate_mbit: f64,
    /// Without queues and access links. ms.
    pub rtt_ms: f64,
    /// %.
    pub loss_percent: f64,
    /// Mean length of bursts of loss. Packets.
    pub burst_packets: f64,
    /// Queue before the bottleneck. Bandwidth-delay products.
    pub queue_bdp: f64,
    /// The steady state begins. s.
    pub warm_up_s: Option<f64>,
    /// Its course is kept, with a look so often. ms.
    pub course_ms: Option<f64>,
    /// All of it.
    pub scenario: Scenario,
}

/// Looks at a run at most: what is measured of it takes some megabytes.
const LOOKS: f64 = 20_000.0;

impl Cell {
    /// A name for files and messages: no two runs of a plan have the same. That of a scenario is in the plan; in a grid it
    /// says what is not a default.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of a flow, by number: without queues, with its access link. ms.
    pub fn rtt_of(&self, flow: usize) -> f64 {
        let access = self.scenario.flows.get(flow).and_then(|flow| flow.access.as_ref());
        self.rtt_ms + access.map_or(0.0, |access| access.up.delay_ms + access.down.delay_ms)
    }

    pub(super) fn of_grid(base: &Base) -> Result<Self, String> {
        let family = family(base);
        let number = |value: Option<f64>| value.map_or("?".to_owned(), |value| value.to_string());
        let (rate, rtt) = (number(base.rate_mbit), number(base.rtt_ms));
        let mut name = format!("{rate}mbit-{rtt}ms-{}pct-{family}", base.loss_percent);
        if base.seed != 1 {
            name += &format!("-seed{}", base.seed);
        }
        Self::new(name, Some(format!("{rate}mbit-{family}")), base, &[])
    }

    /// From what `[base]` and a `[[scenario]]` say.
    pub(super) fn of_scenario(mut base: Table, mut scenario: Table) -> Result<Self, String> {
        let Some(Value::String(name)) = scenario.remove("name") else {
            return Err("a [[scenario]] has no name".to_owned());
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(format!("{name:?} is no name for files: use letters, digits, '-', '_' and '.'"));
        }
        let named = |e: String| format!("{name}: {}", e.trim_end());
        let flows: Vec<FlowSpec> = match scenario.remove("flow") {
            Some(flows) => flows.try_into().map_err(|e: toml::de::Error| named(format!("flow: {e}")))?,
            None => Vec::new(),
        };
        if !flows.is_empty() && scenario.contains_key("flows") {
            return Err(named("flows and [[scenario.flow]] exclude each other".to_owned()));
        }
        base.extend(scenario);
        let base: Base = Value::Table(base).try_into().map_err(|e: toml::de::Error| named(e.to_string()))?;
        Self::new(name.clone(), None, &base, &flows)
    }

    fn new(name: String, family: Option<String>, base: &Base, flows: &[FlowSpec]) -> Result<Self, String> {
        let named = |e: String| format!("{name}: {e}");
        base.check().map_err(named)?;
        let direction = base.direction().map_err(named)?;
        for (number, flow) in flows.iter().enumerate() {
            flow.check().map_err(|e| named(format!("flow {number}: {e}")))?;
        }
        let plain = vec![FlowSpec::default(); base.flows];
        let flows = if flows.is_empty() { &plain } else { flows };
        let flows: Vec<Flow> =
            flows.iter().enumerate().map(|(number, spec)| flow(base, number, spec)).collect();
        for (number, flow) in flows.iter().enumerate() {
            let rate = flow.rate().map_err(|e| named(format!("flow {number}: {e}")))?;
            if rate.is_some() && flow.controller != Controller::Bbr2 {
                return Err(named(format!("flow {number}: rate policies go with bbr2 only")));
            }
        }
        let end = base.stop_s.unwrap_or(base.limit_s);
        if let Some(late) = flows.iter().position(|flow| flow.start_s >= end) {
            return Err(named(format!("flow {late} begins when the run is over")));
        }
        let rtt_ms = base.rtt_ms.unwrap_or(0.0);
        let looks = (rtt_ms / 4.0).min(10.0).max(end * 1e3 / LOOKS).max(1.0);
        Ok(Self {
            name,
            family,
            rate_mbit: base.rate_mbit.unwrap_or(0.0),
            rtt_ms,
            loss_percent: base.loss_percent,
            burst_packets: base.burst_packets,
            queue_bdp: base.queue_bdp,
            warm_up_s: base.warm_up_s,
            course_ms: base.sample_ms,
            scenario: Scenario {
                seed: base.seed,
                up: direction.clone(),
                down: direction,
                flows,
                gateway: None,
                wake_delay_us: base.wake_delay_us,
                pacing_timer_us: base.pacing_timer_us,
                bursts_from_s: base.warm_up_s,
                sample_ms: Some(base.sample_ms.map_or(looks, |course| course.min(looks))),
                limit_s: base.limit_s,
                stop_s: base.stop_s,
            },
        })
    }
}

fn flow(base: &Base, number: usize, spec: &FlowSpec) -> Flow {
    Flow {
        way: spec.way.unwrap_or(base.way),
        user: crate::scenario::user(),
        priority: crate::scenario::priority(),
        bytes: spec.bytes.unwrap_or_else(|| base.content(spec.seconds.unwrap_or(base.seconds))),
        start_s: spec.start_s.unwrap_or(base.stagger_s * number as f64),
        links: spec.links.unwrap_or(base.links),
        tunnelled: base.tunnelled,
        controller: spec.controller.unwrap_or(base.controller),
        remembered: spec.remembered.unwrap_or(base.remembered),
        policy: spec.policy.unwrap_or(base.policy),
        target_mbit: spec.target_mbit.or(base.target_mbit),
        access: spec.access.clone(),
        events: spec.events.clone().unwrap_or_else(|| base.client_events.clone()),
    }
}

/// The controller, and what is not a default of what grids have lists of.
fn family(base: &Base) -> String {
    let mut family = base.controller.name().to_owned();
    if base.policy != Policy::Fair {
        family += &format!("-{}", base.policy.name());
    }
    if base.way != Way::Push {
        family += &format!("-{}", base.way.name());
    }
    if base.queue_bdp != 1.0 {
        family += &format!("-{}bdp", base.queue_bdp);
    }
    if base.burst_packets != 1.0 {
        family += &format!("-burst{}", base.burst_packets);
    }
    if base.remembered != 0.0 {
        family += &format!("-remembered{}", base.remembered);
    }
    if base.tunnelled {
        family += "-tunnelled";
    }
    if base.flows != 1 {
        family += &format!("-{}flows", base.flows);
    }
    family
}
