//! One run: a gateway, clients, the links between them, and what came of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use metra_certs::{TokenHash, TrustAnchors};
use metra_client::{Address, ConnectOptions, Rules, Rung, keep_paths};
use metra_core::bbr::Remembered;
use metra_gateway::Gateway;
use metra_gateway::config::{self, OneOrMany, RawConfig, RawUser};
use metra_sim_model::Direction;
use metra_transport::quic::{Congestion, Paths, Tuning};
use rustix::time::{ClockId, clock_gettime};

use crate::client::{Slot, data, drive, make};
use crate::clock::{Clock, Stuck, lock};
use crate::host::Host;
use crate::identity;
use crate::net::{ETHERNET, HEADERS, HostId, Net, PipeId};
use crate::outcome::{FlowOutcome, FlowSample, Outcome, RunError, Sample};
use crate::scenario::{Controller, Flow, HostEvent, Scenario, Way};

/// Where the gateway listens.
const PORT: u16 = 4443;
/// Bytes of receive window and send window at least; more where the path and its queue hold more.
const WINDOW_MIN: u64 = 64 << 20;
const MIB: u64 = 1 << 20;
/// Headers of IPv6 and UDP, for which datagrams leave room. Bytes.
const HEADERS_MAX: f64 = 48.0;

/// Runs a scenario. The same scenario gives the same outcome, but for `cpu`.
///
/// # Errors
/// [`RunError`]. A flow that fails is part of the outcome.
pub fn run(scenario: &Scenario) -> Result<Outcome, RunError> {
    run_in(scenario, tempfile::tempdir()?.path())
}

/// The same, with the state of gateway and clients in `dir`.
fn run_in(scenario: &Scenario, dir: &Path) -> Result<Outcome, RunError> {
    let clock = Clock::new();
    let began = cpu();
    let result = World::new(scenario, &clock, dir).and_then(|world| world.run());
    clock.clear();
    Ok(Outcome { cpu: cpu().saturating_sub(began), ..result? })
}

struct World<'a> {
    scenario: &'a Scenario,
    clock: Clock,
    net: Net,
    dir: &'a Path,
    gateway: HostId,
    clients: Vec<HostId>,
    up: PipeId,
    down: PipeId,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, clock: &Clock, dir: &'a Path) -> Result<Self, RunError> {
        let seed = scenario.seed;
        let net = Net::new(clock.clone(), seed ^ 3, Duration::from_secs_f64(scenario.wake_delay_us / 1e6));
        let gateway = net.add_host();
        // As in the emulator: the same seed loses the same packets in both.
        let links = seed.wrapping_mul(1_000_003);
        let up = net.add_pipe(&scenario.up, links)?;
        let down = net.add_pipe(&scenario.down, links.wrapping_add(1))?;
        let mut clients = Vec::new();
        let bursts_from = scenario.bursts_from_s.map(Duration::from_secs_f64);
        for (i, flow) in scenario.flows.iter().enumerate() {
            let host = net.add_host();
            let (mut to, mut from) = (vec![up], vec![down]);
            if let Some(access) = &flow.access {
                let seed = seed.wrapping_add(100 + 2 * i as u64);
                to.insert(0, net.add_pipe(&access.up, seed)?);
                from.push(net.add_pipe(&access.down, seed + 1)?);
            }
            net.route(host, gateway, &to);
            net.route(gateway, host, &from);
            clients.push(host);
            if let Some(since) = bursts_from {
                let (from, to) = forward(flow, host, gateway);
                net.watch(from, to, since);
            }
            for HostEvent { at_s, change_address } in flow.events.iter().copied() {
                let net = net.clone();
                clock.call_at(Duration::from_secs_f64(at_s), move || match change_address {
                    true => net.change_address(host),
                    false => net.rebind_nat(host),
                });
            }
        }
        Ok(Self { scenario, clock: clock.clone(), net, dir, gateway, clients, up, down })
    }

    fn run(self) -> Result<Outcome, RunError> {
        let stuck = |e: Stuck| RunError::Stuck(format!("{e} (seed {})", self.scenario.seed));
        let Scenario { stop_s, limit_s, .. } = *self.scenario;
        let limit = Duration::from_secs_f64(stop_s.unwrap_or(limit_s));
        let pacing = Duration::from_secs_f64(self.scenario.pacing_timer_us / 1e6);
        let rt = |host, seed| Host::rt(&self.net, host, seed, pacing);
        let seed = self.scenario.seed.wrapping_mul(1000);
        let gateway_rt = rt(self.gateway, seed);
        let config = self.config()?;
        let started = self.clock.run(limit, async move { Gateway::start(gateway_rt, config).await });
        let gateway = started.map_err(stuck)??;
        let pulls = self.scenario.flows.iter().zip(&self.clients).filter(|(flow, _)| flow.way == Way::Pull);
        for (flow, client) in pulls {
            if let (Some(paths), Some(path)) = (gateway.paths(), self.remembered(flow)) {
                paths.note(self.net.address(*client), None, path, SystemTime::now());
            }
        }

        let slots: Vec<Arc<Slot>> =
            self.scenario.flows.iter().map(|flow| Slot::new(flow, &self.clock)).collect();
        let mut running = Vec::new();
        for (i, (flow, host)) in self.scenario.flows.iter().zip(&self.clients).enumerate() {
            let rt = rt(*host, seed + 100 * (1 + i as u64));
            let drive = drive(rt.clone(), flow.clone(), i as u64, self.options(i, flow)?, slots[i].clone());
            running.push(rt.spawn(drive));
        }
        let samples = Arc::new(Mutex::new(Vec::new()));
        self.sample(samples.clone(), slots.clone());
        let ended = self.clock.run(limit, async move {
            for flow in running {
                // A panic is not caught: it ends the run.
                let _ = flow.await;
            }
        });
        match ended {
            Ok(()) | Err(Stuck::Limit(_)) => {}
            Err(forever) => return Err(stuck(forever)),
        }
        let elapsed = self.clock.elapsed();
        let ended = |(slot, (from, to)): (&Arc<Slot>, (HostId, HostId))| FlowOutcome {
            bursts: self.net.bursts(from, to),
            ..slot.outcome(stop_s.is_some())
        };
        let flows = slots.iter().zip(self.forward()).map(ended).collect();
        let (up, down) = (self.net.counts(self.up), self.net.counts(self.down));
        drop(gateway);
        let samples = std::mem::take(&mut *lock(&samples));
        Ok(Outcome { flows, up, down, elapsed, cpu: Duration::ZERO, samples })
    }

    /// Looks at everything again and again, for as long as the clock runs.
    fn sample(&self, samples: Arc<Mutex<Vec<Sample>>>, slots: Vec<Arc<Slot>>) {
        let Some(every) = self.scenario.sample_ms.map(|ms| Duration::from_secs_f64(ms / 1e3)) else { return };
        let (net, clock, up, down) = (self.net.clone(), self.clock.clone(), self.up, self.down);
        let forward: Vec<_> = self.forward().collect();
        self.clock.spawn(Box::pin(async move {
            loop {
                clock.timer(clock.now() + every).await;
                let counts = (net.counts(up), net.counts(down));
                let flow = |(slot, (from, to)): (&Arc<Slot>, &(HostId, HostId))| FlowSample {
                    landed: net.reached(*from, *to),
                    ..slot.sample()
                };
                let sample = Sample {
                    at: clock.elapsed(),
                    queue: (net.backlog(up), net.backlog(down)),
                    passed: (counts.0.bytes, counts.1.bytes),
                    offered: (counts.0.offered_bytes, counts.1.offered_bytes),
                    queue_drops: (counts.0.queue, counts.1.queue),
                    flows: slots.iter().zip(&forward).map(flow).collect(),
                };
                lock(&samples).push(sample);
            }
        }));
    }

    /// From the source to the sink of each flow.
    fn forward(&self) -> impl Iterator<Item = (HostId, HostId)> {
        let flows = self.scenario.flows.iter().zip(&self.clients);
        flows.map(|(flow, client)| forward(flow, *client, self.gateway))
    }

    fn config(&self) -> Result<config::Config, RunError> {
        let state = self.dir.join("gateway");
        let root = self.dir.join("root");
        std::fs::create_dir_all(&root)?;
        let mut made = HashMap::new();
        for (i, flow) in self.scenario.flows.iter().enumerate().filter(|(_, flow)| flow.way == Way::Pull) {
            let path = root.join(data(i as u64));
            match made.entry(flow.bytes) {
                Entry::Occupied(same) => std::fs::hard_link(same.get(), path)?,
                Entry::Vacant(first) => make(first.insert(path), flow.bytes, i as u64)?,
            }
        }
        let window = self.window().div_ceil(MIB).min(4096);
        let mut raw = match &self.scenario.gateway {
            Some(text) => toml::from_str(text).map_err(|e| RunError::Stuck(e.to_string()))?,
            None => RawConfig::default(),
        };
        raw.listen = Some(OneOrMany::One(format!("{}:{PORT}", self.net.address(self.gateway))));
        raw.root = Some(root);
        let (cert, key) = identity::write(self.dir, self.net.address(self.gateway))?;
        (raw.tls.cert, raw.tls.key) = (Some(cert), Some(key));
        // There is no TCP in virtual time.
        raw.tcp.listen = Some(false);
        raw.quic.receive_window_mib = Some(window);
        raw.quic.send_window_mib = Some(window);
        // Of the first flow: a gateway has one controller for all.
        raw.quic.congestion = self.scenario.flows.first().map(|flow| match flow.controller {
            Controller::Cubic => config::Congestion::Cubic,
            Controller::Bbr2 => config::Congestion::Bbr2,
            Controller::Bbr => config::Congestion::Bbr,
        });
        // Everything is granted; who asks for what is in the plan.
        (raw.rates.high, raw.rates.fixed_mbit) = (Some(true), Some(1_000_000));
        raw.limits.receive_memory_mib = Some((3 * window).max(1024));
        for Flow { user, .. } in &self.scenario.flows {
            let token_hash = Some(TokenHash::of(&token(user)).to_string());
            raw.users.insert(user.clone(), RawUser { token_hash, ..RawUser::default() });
        }
        raw.validate(&state).map_err(|e| RunError::Stuck(e.to_string()))
    }

    fn options(&self, number: usize, flow: &Flow) -> Result<ConnectOptions, RunError> {
        let state = self.dir.join(format!("client{number}"));
        std::fs::create_dir_all(&state)?;
        if let (Way::Push, Some(path)) = (flow.way, self.remembered(flow)) {
            let paths = Paths::default();
            paths.note(self.net.address(self.gateway), None, path, SystemTime::now());
            keep_paths(&state, &paths, SystemTime::now())?;
        }
        Ok(ConnectOptions {
            address: Address { host: self.net.address(self.gateway).to_string(), port: PORT },
            trust: TrustAnchors::new().ca_file(self.dir.join("cert.pem")),
            certificate: None,
            token: Some(token(&flow.user)),
            state,
            links: flow.links.max(1),
            links_max: flow.links.max(1),
            retry_for: Duration::from_secs(60),
            remember_paths: true,
            // There is no TCP in virtual time.
            via: vec![if flow.tunnelled { Rung::Masque } else { Rung::Quic }],
            proxy: Rules::direct(),
            masque: Vec::new(),
            refuse_inspection: false,
            tuning: Tuning {
                congestion: match flow.controller {
                    Controller::Cubic => Congestion::Cubic,
                    Controller::Bbr2 => Congestion::Bbr2,
                    Controller::Bbr => Congestion::Bbr,
                },
                receive_window: self.window(),
                send_window: self.window(),
                ..Tuning::default()
            },
            rate: flow.rate().map_err(RunError::Stuck)?,
            agent: "metra-sim".to_owned(),
        })
    }

    /// What the sender of a flow remembers of its path, as its controller would have measured it: UDP payload.
    fn remembered(&self, flow: &Flow) -> Option<Remembered> {
        let access = flow.access.as_ref().map_or(0.0, |access| access.up.delay_ms + access.down.delay_ms);
        let link = flow.way.of((&self.scenario.up, &self.scenario.down));
        let bursts = link.burst.map_or(0.0, |burst| {
            let bad = burst.enter_percent / (burst.enter_percent + burst.leave_percent);
            bad * burst.loss_percent
        });
        let mtu = f64::from(link.mtu.unwrap_or(ETHERNET)) - HEADERS_MAX;
        let rate = link.rate_mbit? * 125e3 * mtu / (mtu + HEADERS as f64);
        let rtt_ms = self.scenario.up.delay_ms + self.scenario.down.delay_ms + access;
        (flow.remembered > 0.0).then(|| Remembered {
            bandwidth: flow.remembered * rate,
            min_rtt: Duration::from_secs_f64(rtt_ms / 1e3),
            random_loss: (link.loss_percent + bursts) / 100.0,
        })
    }

    /// 5 BDP of the longest path, and 1.25 times what fills it and its queue.
    fn window(&self) -> u64 {
        let Scenario { up, down, flows, .. } = self.scenario;
        let round =
            |up: &Direction, down: &Direction| up.delay_ms + up.jitter_ms + down.delay_ms + down.jitter_ms;
        let access = flows.iter().flat_map(|flow| &flow.access).map(|access| round(&access.up, &access.down));
        let rtt = round(up, down) + access.fold(0.0, f64::max);
        let bdp = up.bdp_bytes(rtt).max(down.bdp_bytes(rtt)).unwrap_or(0);
        let queue = up.queue_bytes.max(down.queue_bytes).unwrap_or(0);
        (bdp * 5).max((bdp + queue) * 5 / 4).max(WINDOW_MIN)
    }
}

/// Nobody is anonymous but on loopback.
fn token(user: &str) -> String {
    format!("a token of the simulator for {user}")
}

/// From the source of a flow to its sink.
fn forward(flow: &Flow, client: HostId, gateway: HostId) -> (HostId, HostId) {
    match flow.way {
        Way::Push => (client, gateway),
        Way::Pull => (gateway, client),
    }
}

fn cpu() -> Duration {
    // Of this thread: other runs go on in others.
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::Plan;

    /// One flow of 3 s at 100 Mbit/s over 200 ms.
    fn scenario(loss_percent: f64) -> Scenario {
        let plan = format!(
            "title = 't'\n[base]\nrate_mbit = 100\nrtt_ms = 200\nseconds = 3\ncontroller = 'bbr2'\n\
             loss_percent = {loss_percent}\n[[scenario]]\nname = 's'"
        );
        Plan::parse("plan.toml", &plan).unwrap().cells()[0].scenario.clone()
    }

    #[test]
    fn the_second_of_two_transfers_starts_from_what_the_first_has_measured() {
        for loss_percent in [0.0, 0.5] {
            let (scenario, dir) = (scenario(loss_percent), tempfile::tempdir().unwrap());
            let took = || {
                let outcome = run_in(&scenario, dir.path()).unwrap();
                outcome.flows[0].report.as_ref().unwrap();
                outcome.flows[0].elapsed.as_secs_f64()
            };
            let (first, second) = (took(), took());
            // It takes some ten round trips from ten packets, and four or five from half of the rate.
            assert!(second <= first - 4.0 * 0.2, "{loss_percent} %: {first} s, then {second} s");

            let text = std::fs::read_to_string(dir.path().join("client0/paths")).unwrap();
            let bandwidth: f64 = text.lines().nth(1).unwrap().split(' ').nth(2).unwrap().parse().unwrap();
            let of_link = bandwidth / 12.5e6;
            assert!((0.85..1.15).contains(&of_link), "{loss_percent} %: {text}");
        }
    }
}
