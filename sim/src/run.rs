//! One run: a gateway, clients, the links between them, and what came of it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_certs::{TokenHash, TrustAnchors};
use metra_client::{
    Address, Client, ClientError, ConnectOptions, GetRequest, GetTo, JobReport, SendRequest, Watch,
};
use metra_core::wire::{Keep, Overwrite, Placement, Symlinks};
use metra_gateway::config::{self, OneOrMany, RawConfig, RawUser};
use metra_gateway::{Gateway, StartError};
use metra_session::Progress;
use metra_sim_model::{Counts, SpecError};
use metra_store::source::{Filters, Root, SourceSpec};
use metra_transport::Rt;
use metra_transport::quic::{Congestion, Tuning};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::{Clock, Stuck, lock};
use crate::host::Host;
use crate::identity;
use crate::net::{HostId, Net, PipeId};
use crate::scenario::{Controller, Flow, HostEvent, Scenario, Way};

/// Where the gateway listens.
const PORT: u16 = 4443;
/// The token of every client: nobody is anonymous but on loopback.
const TOKEN: &str = "a token of the simulator";
/// Bytes of receive window and send window at least. 2.5 BDP is used where that is more.
const WINDOW_MIN: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of each flow, in the order of the scenario.
    pub flows: Vec<FlowOutcome>,
    /// From clients to the gateway, at the bottleneck.
    pub up: Counts,
    /// From the gateway to clients, at the bottleneck.
    pub down: Counts,
    /// Virtual time from the start until the last client is gone.
    pub elapsed: Duration,
    /// Processor time that the run really took.
    pub cpu: Duration,
    /// The state of links and flows, each `sample_ms`.
    pub samples: Vec<Sample>,
}

/// What came of a flow.
#[derive(Clone, Debug)]
pub struct FlowOutcome {
    /// From the beginning of the flow to its end.
    pub elapsed: Duration,
    /// Of a flow that was stopped: what the other side is known to have got, with all that QUIC adds. Bytes.
    pub moved: u64,
    /// The client's report, or why there is none.
    pub report: Result<JobReport, String>,
}

impl FlowOutcome {
    /// Content per time, from the beginning of the flow to its end. Mbit/s.
    pub fn goodput_mbit(&self) -> f64 {
        let bytes = self.report.as_ref().map_or(self.moved, |report| report.bytes);
        bytes as f64 * 8e-6 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A look at a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Bytes that wait at the bottleneck, to the gateway and from it.
    pub queue: (u64, u64),
    /// Bytes that the bottleneck has let through, to the gateway and from it.
    pub passed: (u64, u64),
    /// Of each flow.
    pub flows: Vec<FlowSample>,
}

/// A look at a flow, from its client's side. What only a sender knows is 0 at a client that fetches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSample {
    /// Content handed to QUIC (or received from it) so far; looked at ten times a second. Bytes.
    pub moved: u64,
    /// What the other side is known to have (or what this side received), with all that QUIC adds. Bytes.
    pub arrived: u64,
    /// Smoothed round-trip time of the first link.
    pub rtt: Duration,
    /// Congestion windows of all links. Bytes.
    pub cwnd: u64,
    /// Sent, and neither acknowledged nor taken for lost. Bytes.
    pub in_flight: u64,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The scenario makes no sense. Fault: the plan.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The gateway did not start.
    #[error(transparent)]
    Gateway(#[from] StartError),
    /// The run did not end. Fault: the stack, or a limit that is too low.
    #[error("{0}")]
    Stuck(String),
    /// The disk, which the gateway's state is on.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

/// Runs a scenario. The same scenario gives the same outcome, but for `cpu`.
///
/// # Errors
/// [`RunError`]. A flow that fails is part of the outcome.
pub fn run(scenario: &Scenario) -> Result<Outcome, RunError> {
    let dir = tempfile::tempdir()?;
    let clock = Clock::new();
    let began = cpu();
    let result = World::new(scenario, &clock, dir.path()).and_then(|world| world.run());
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
        let limit = Duration::from_secs_f64(self.scenario.limit_s);
        let rt = Host::rt(&self.net, self.gateway, self.scenario.seed.wrapping_mul(1000));
        let config = self.config()?;
        let started = self.clock.run(limit, async move { Gateway::start(rt, config).await });
        let gateway = started.map_err(stuck)??;

        let slots: Vec<Arc<Slot>> = self.scenario.flows.iter().map(Slot::new).collect();
        let mut running = Vec::new();
        for (i, (flow, host)) in self.scenario.flows.iter().zip(&self.clients).enumerate() {
            let rt = Host::rt(&self.net, *host, self.scenario.seed.wrapping_mul(1000) + 100 * (1 + i as u64));
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
        let flows =
            self.scenario.flows.iter().zip(&slots).map(|(flow, slot)| slot.outcome(flow, elapsed)).collect();
        let (up, down) = (self.net.counts(self.up), self.net.counts(self.down));
        drop(gateway);
        let samples = std::mem::take(&mut *lock(&samples));
        Ok(Outcome { flows, up, down, elapsed, cpu: Duration::ZERO, samples })
    }

    /// Looks at everything again and again, for as long as the clock runs.
    fn sample(&self, samples: Arc<Mutex<Vec<Sample>>>, slots: Vec<Arc<Slot>>) {
        let Some(every) = self.scenario.sample_ms.map(|ms| Duration::from_secs_f64(ms / 1e3)) else { return };
        let (net, clock, up, down) = (self.net.clone(), self.clock.clone(), self.up, self.down);
        self.clock.spawn(Box::pin(async move {
            loop {
                clock.timer(clock.now() + every).await;
                let sample = Sample {
                    at: clock.elapsed(),
                    queue: (net.backlog(up), net.backlog(down)),
                    passed: (net.counts(up).bytes, net.counts(down).bytes),
                    flows: slots.iter().map(|slot| slot.sample()).collect(),
                };
                lock(&samples).push(sample);
            }
        }));
    }

    fn config(&self) -> Result<config::Config, RunError> {
        let state = self.dir.join("gateway");
        let root = self.dir.join("root");
        std::fs::create_dir_all(&root)?;
        for (i, flow) in self.scenario.flows.iter().enumerate().filter(|(_, flow)| flow.way == Way::Pull) {
            make(&root.join(data(i as u64)), flow.bytes, i as u64)?;
        }
        let window = self.window().div_ceil(MIB).min(4096);
        let mut raw = RawConfig::default();
        raw.listen = Some(OneOrMany::One(format!("{}:{PORT}", self.net.address(self.gateway))));
        raw.root = Some(root);
        let (cert, key) = identity::write(self.dir, self.net.address(self.gateway))?;
        (raw.tls.cert, raw.tls.key) = (Some(cert), Some(key));
        raw.quic.receive_window_mib = Some(window);
        raw.quic.send_window_mib = Some(window);
        // Of the first flow: a gateway has one controller for all.
        raw.quic.congestion = self.scenario.flows.first().map(|flow| match flow.controller {
            Controller::Cubic => config::Congestion::Cubic,
            Controller::Bbr2 => config::Congestion::Bbr2,
            Controller::Bbr => config::Congestion::Bbr,
        });
        raw.limits.receive_memory_mib = Some((3 * window).max(256));
        let user = RawUser { token_hash: Some(TokenHash::of(TOKEN).to_string()), ..RawUser::default() };
        raw.users.insert("sim".to_owned(), user);
        raw.validate(&state).map_err(|e| RunError::Stuck(e.to_string()))
    }

    fn options(&self, number: usize, flow: &Flow) -> Result<ConnectOptions, RunError> {
        let state = self.dir.join(format!("client{number}"));
        std::fs::create_dir_all(&state)?;
        Ok(ConnectOptions {
            address: Address { host: self.net.address(self.gateway).to_string(), port: PORT },
            trust: TrustAnchors::new().ca_file(self.dir.join("cert.pem")),
            certificate: None,
            token: Some(TOKEN.to_owned()),
            state,
            links: flow.links.max(1),
            retry_for: Duration::from_secs(60),
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
            agent: "metra-sim".to_owned(),
        })
    }

    /// 2.5 BDP of the path.
    fn window(&self) -> u64 {
        let Scenario { up, down, .. } = self.scenario;
        let rtt = up.delay_ms + up.jitter_ms + down.delay_ms + down.jitter_ms;
        let bdp = up.bdp_bytes(rtt).max(down.bdp_bytes(rtt)).unwrap_or(0);
        (bdp * 5).max(WINDOW_MIN)
    }
}

/// A client from its beginning to its end.
async fn drive(rt: Rt, flow: Flow, number: u64, options: ConnectOptions, slot: Arc<Slot>) {
    rt.sleep(Duration::from_secs_f64(flow.start_s)).await;
    let began = rt.now();
    let client = match Client::connect(rt.clone(), options).await {
        Ok(client) => Arc::new(client),
        Err(error) => {
            lock(&slot.seen).end = Some((rt.now() - began, Err(error.to_string())));
            return;
        }
    };
    lock(&slot.seen).client = Some(client.clone());
    let report = transfer(&client, &flow, number, &slot).await.map_err(|e| e.to_string());
    {
        let mut seen = lock(&slot.seen);
        seen.client = None;
        seen.end = Some((rt.now() - began, report));
    }
    if let Some(client) = Arc::into_inner(client) {
        client.close().await;
    }
}

/// What can be seen of a flow from outside.
struct Slot {
    way: Way,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    moved: u64,
    client: Option<Arc<Client>>,
    end: Option<(Duration, Result<JobReport, String>)>,
}

impl Slot {
    fn new(flow: &Flow) -> Arc<Self> {
        Arc::new(Self { way: flow.way, seen: Mutex::default() })
    }

    fn sample(&self) -> FlowSample {
        let (moved, client) = {
            let seen = lock(&self.seen);
            (seen.moved, seen.client.clone())
        };
        let links = client.map_or_else(Vec::new, |client| client.links());
        let in_flight =
            links.iter().map(|link| link.sent_bytes.saturating_sub(link.acked_bytes + link.lost_bytes)).sum();
        let arrived = links.iter().map(|link| match self.way {
            Way::Push => link.acked_bytes,
            Way::Pull => link.received_bytes,
        });
        FlowSample {
            moved,
            arrived: arrived.sum(),
            rtt: links.first().map_or(Duration::ZERO, |link| link.rtt),
            cwnd: links.iter().map(|link| link.cwnd).sum(),
            in_flight,
        }
    }

    fn outcome(&self, flow: &Flow, now: Duration) -> FlowOutcome {
        let moved = self.sample().arrived;
        let mut seen = lock(&self.seen);
        seen.client = None;
        let (elapsed, report) = seen.end.take().unwrap_or_else(|| {
            let elapsed = now.saturating_sub(Duration::from_secs_f64(flow.start_s));
            (elapsed, Err(format!("not done after {:.3} s", elapsed.as_secs_f64())))
        });
        FlowOutcome { elapsed, moved, report }
    }
}

async fn transfer(
    client: &Client,
    flow: &Flow,
    number: u64,
    slot: &Arc<Slot>,
) -> Result<JobReport, ClientError> {
    let seen = slot.clone();
    let progress = Box::new(move |progress: &Progress| lock(&seen.seen).moved = progress.moved);
    let watch = Watch { progress, ..Watch::default() };
    match flow.way {
        Way::Push => {
            let root = Root::Random { size: flow.bytes, seed: number, name: data(number) };
            let request = SendRequest {
                spec: SourceSpec {
                    roots: vec![root],
                    filters: Filters::default(),
                    symlinks: Symlinks::Keep,
                    keep: Keep { mode: true, times: true },
                    confine: None,
                },
                dest: "null:".to_owned(),
                placement: Placement::Auto,
                overwrite: Overwrite::Always,
                delete_source: false,
            };
            client.send(request, watch).await
        }
        Way::Pull => {
            let request = GetRequest {
                paths: vec![data(number)],
                filters: Vec::new(),
                symlinks: Symlinks::Keep,
                keep: Keep { mode: true, times: true },
                to: GetTo::Null,
                overwrite: Overwrite::Always,
            };
            client.get(request, watch).await
        }
    }
}

/// The name of what a flow transfers.
fn data(flow: u64) -> String {
    format!("data{flow}")
}

/// Makes a file that does not compress.
fn make(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = bytes;
    while left > 0 {
        let mut piece = vec![0; left.min(1 << 20) as usize];
        random.fill(&mut piece);
        file.write_all(&piece)?;
        left -= piece.len() as u64;
    }
    file.flush()
}

fn cpu() -> Duration {
    // Of this thread: other runs go on in others.
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
