//! The process that has the network: makes it, carries its packets, and runs the commands.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metra_sim_model::Pipe;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, close};

use super::addresses::{self, End as LinkEnd};
use super::args::Job;
use super::lane::{Filter, Lane};
use super::namespace::{Site, interface};
use super::report::{LaneStats, Named, Series, Stats};
use super::supervise::{self, End, Notice, Signals};
use super::topology::{Firewall, Topology};

/// Does the job that comes out of the file with this number.
pub(crate) fn run(pipe: &str) -> Result<u8, String> {
    let signals = Signals::take().map_err(|e| format!("signals: {e}"))?;
    let job = job(pipe).map_err(|e| format!("{e}: netpath starts this process itself"))?;
    own_mounts();
    let ends = addresses::ends(&job.topology);
    let network = Network::new(&job, ends).map_err(|e| format!("the network cannot be made: {e}"))?;
    if job.verbose {
        network.describe();
    }
    let stats =
        job.stats.as_ref().map(|path| File::create(path).map_err(|e| format!("{}: {e}", path.display())));
    let stats = stats.transpose()?;
    network.carry(job.series.as_ref().map(|path| Series { path: path.clone(), every: job.every }))?;

    let mut commands = Commands { network: &network, signals, background: Vec::new(), patience: None };
    let end = commands.run();
    let found = network.stats().map_err(|e| format!("statistics: {e}"))?;
    for complaint in found.complaints() {
        eprintln!("netpath: {complaint}");
    }
    let written = stats.map_or(Ok(()), |file| found.write(&file).map_err(|e| format!("statistics: {e}")));
    commands.end_background().map_err(|e| e.to_string())?;
    let code = end?;
    written.map(|()| code)
}

/// Reads the job, and sees to it that this process does not outlive the one that it is from.
fn job(pipe: &str) -> io::Result<Job> {
    let number: i32 = pipe.parse().map_err(io::Error::other)?;
    let mut file = BufReader::new(File::open(format!("/proc/self/fd/{number}"))?);
    close(number)?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut text = String::new();
    file.read_line(&mut text)?;
    let job = serde_json::from_str(&text)?;
    // It may have died before it was asked for that signal.
    let mut fds = [PollFd::new(file.get_ref().as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].any() == Some(true) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(job) }
}

/// A /proc that shows the processes of this namespace. Commands do without, if it must be.
fn own_mounts() {
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE))
        .and_then(|()| {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("proc"), "/proc", Some("proc"), flags, NONE)
        });
    if let Err(error) = mounted {
        eprintln!("netpath: /proc shows other processes than those in here: {error}");
    }
}

const NONE: Option<&str> = None;

/// Hosts, and what goes on between them.
struct Network<'a> {
    job: &'a Job,
    ends: Vec<LinkEnd>,
    sites: Arc<Vec<Site>>,
    lanes: Vec<Named>,
    start: Instant,
}

impl<'a> Network<'a> {
    fn new(job: &'a Job, ends: Vec<LinkEnd>) -> io::Result<Self> {
        let Job { topology, .. } = job;
        let sites = (0..topology.hosts.len()).map(|host| Site::new(topology, &ends, host));
        let sites = Arc::new(sites.collect::<io::Result<_>>()?);
        let lanes = ends.iter().enumerate().map(|(i, end)| {
            let link = &topology.links[end.link];
            let direction = if i % 2 == 0 { link.up() } else { link.down() };
            let seed = topology.seed.wrapping_mul(1_000_003).wrapping_add(i as u64);
            let pipe = Pipe::new(&direction, seed).map_err(io::Error::other)?;
            let lane = Arc::new(Lane::new(pipe, filter(topology, &ends, end.link), link.mtu));
            let name = |host: usize| topology.hosts[host].name.clone();
            Ok(Named { link: end.link, from: name(end.host), to: name(end.peer), lane })
        });
        let lanes = lanes.collect::<io::Result<_>>()?;
        Ok(Self { job, ends, sites, lanes, start: Instant::now() })
    }

    /// Starts a thread for each lane.
    fn carry(&self, series: Option<Series>) -> Result<(), String> {
        if let Some(series) = series {
            let started = series.start(self.lanes.clone(), self.start);
            started.map_err(|e| format!("{}: {e}", series.path.display()))?;
        }
        for (end, Named { from, to, lane, .. }) in self.ends.iter().zip(&self.lanes) {
            let (end, start, lane, sites) = (*end, self.start, Arc::clone(lane), Arc::clone(&self.sites));
            let name = format!("{from} to {to}");
            let carry = move || {
                let error = lane.run(tun(&sites, end.host, end.link), tun(&sites, end.peer, end.link), start);
                // Half a network is none.
                eprintln!("netpath: {} fails: {error:?}", interface(end.link));
                std::process::exit(super::CANNOT.into());
            };
            let thread = std::thread::Builder::new().name(name).spawn(carry);
            thread.map_err(|e| format!("a thread: {e}"))?;
        }
        Ok(())
    }

    fn describe(&self) {
        for (end, Named { from, to, .. }) in self.ends.iter().zip(&self.lanes).step_by(2) {
            eprintln!("netpath: {}: {from} {} - {to} {}", interface(end.link), end.address, end.via);
        }
    }

    fn stats(&self) -> io::Result<Stats> {
        let used = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu = (used.user_time() + used.system_time()).num_microseconds() as f64 / 1e6;
        let seconds = self.start.elapsed().as_secs_f64();
        let lanes = self.ends.iter().zip(&self.lanes).map(|(end, Named { from, to, lane, .. })| {
            Ok(LaneStats {
                link: end.link,
                from: from.clone(),
                to: to.clone(),
                overruns: self.sites[end.host].overruns(end.link)?,
                deeds: lane.deeds(),
                model: lane.counts(),
            })
        });
        Ok(Stats { seconds, cpu_seconds: cpu, lanes: lanes.collect::<io::Result<_>>()? })
    }

    fn spawn(&self, host: usize, command: &mut Command) -> io::Result<Pid> {
        let hosts = &self.job.topology.hosts;
        command.envs(addresses::variables(&self.job.topology, &self.ends));
        let places = hosts.iter().zip(self.sites.iter());
        command.envs(
            places.map(|(host, site)| (addresses::variable(&host.name) + "_NS", site.namespace.path())),
        );
        command.env("NETPATH_HOST", &hosts[host].name);
        let child = self.sites[host].namespace.run(|| command.spawn())?;
        Ok(Pid::from_raw(child.id() as i32))
    }
}

fn tun(sites: &[Site], host: usize, link: usize) -> &super::sys::Tun {
    let tun = sites[host].tuns.iter().find(|(end, _)| end.link == link);
    &tun.expect("each end has its interface").1
}

fn filter(topology: &Topology, ends: &[LinkEnd], link: usize) -> Filter {
    let link = &topology.links[link];
    match (link.firewall, &link.proxy) {
        (None, _) => Filter::Open,
        (Some(Firewall::NoUdp), _) => Filter::NoUdp,
        (Some(Firewall::ProxyOnly), proxy) => {
            let place = proxy.as_ref().and_then(|proxy| topology.place(proxy).ok());
            let (host, port) = place.expect("checked when it was read");
            Filter::Only(addresses::of(ends, host).map(|end| (end.address, port).into()).collect())
        }
    }
}

/// The processes that were asked for.
struct Commands<'a> {
    network: &'a Network<'a>,
    signals: Signals,
    /// Those that have not ended.
    background: Vec<(Pid, String)>,
    /// When the command has had time enough to end.
    patience: Option<Instant>,
}

impl Commands<'_> {
    /// Runs the command, after what is to run besides. Its exit code.
    fn run(&mut self) -> Result<u8, String> {
        let job = self.network.job;
        for (host, text) in &job.background {
            let said = io::stderr().as_fd().try_clone_to_owned().map_err(|e| e.to_string())?;
            let mut command = supervise::command(&["sh".into(), "-c".into(), text.clone()]);
            // A group of its own: it can be ended as a whole, and a terminal's ^C is for the command alone.
            command.stdin(Stdio::null()).stdout(said).process_group(0);
            let pid = self.network.spawn(*host, &mut command).map_err(|e| format!("sh: {e}"))?;
            let host = &job.topology.hosts[*host].name;
            self.background.push((pid, format!("{text:?} at {host}")));
        }
        for (host, port) in &job.wait_for {
            if let Some(signal) = self.await_listener(*host, *port)? {
                return Ok(End::Signal(signal).code());
            }
        }
        let command = self.network.spawn(job.place, &mut supervise::command(&job.command));
        let command = command.map_err(|e| format!("{}: {e}", job.command[0]))?;
        self.await_command(command).map_err(|e| e.to_string())
    }

    fn await_command(&mut self, command: Pid) -> nix::Result<u8> {
        loop {
            for notice in self.signals.wait(self.patience)? {
                match notice {
                    Notice::Ended(pid, end) if pid == command => return Ok(end.code()),
                    Notice::Ended(pid, end) => self.note_end(pid, Some(end)),
                    Notice::Asked { signal, everyone } => {
                        // Who asks twice does not want to wait.
                        let again = self.patience.is_some();
                        if again || !everyone {
                            kill(command, if again { Signal::SIGKILL } else { signal })?;
                        }
                        self.patience = Some(Instant::now() + GRACE);
                    }
                }
            }
            if self.patience.is_some_and(|deadline| deadline <= Instant::now()) {
                kill(command, Signal::SIGKILL)?;
            }
        }
    }

    /// Waits until something listens. A signal, if one asks to end.
    fn await_listener(&mut self, host: usize, port: u16) -> Result<Option<Signal>, String> {
        let deadline = Instant::now() + LISTENER;
        let name = &self.network.job.topology.hosts[host].name;
        let there = || self.network.sites[host].namespace.run(|| Ok(listens(port)));
        while !there().map_err(|e| e.to_string())? {
            for notice in self.signals.wait(Some(Instant::now() + LOOK)).map_err(|e| e.to_string())? {
                match notice {
                    Notice::Ended(pid, end) => self.note_end(pid, Some(end)),
                    Notice::Asked { signal, .. } => return Ok(Some(signal)),
                }
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "nothing listens on port {port} of {name} after {} s",
                    LISTENER.as_secs()
                ));
            }
        }
        Ok(None)
    }

    /// A background process has ended. That is worth a word if nobody asked for it.
    fn note_end(&mut self, pid: Pid, end: Option<End>) {
        if let Some(place) = self.background.iter().position(|(other, _)| *other == pid) {
            let (_, name) = self.background.remove(place);
            match end {
                Some(End::Code(0)) | None => {}
                Some(End::Code(code)) => eprintln!("netpath: {name} ended with exit code {code}"),
                Some(End::Signal(signal)) => eprintln!("netpath: {name} was ended by {signal}"),
            }
        }
    }

    /// Asks what still runs to end. What does not is killed with this process.
    fn end_background(&mut self) -> nix::Result<()> {
        for (pid, _) in &self.background {
            // It may have ended a moment ago.
            let _ = killpg(*pid, Signal::SIGTERM);
        }
        let deadline = Instant::now() + BACKGROUND_GRACE;
        while !self.background.is_empty() && Instant::now() < deadline {
            for notice in self.signals.wait(Some(deadline))? {
                match notice {
                    Notice::Ended(pid, _) => self.note_end(pid, None),
                    Notice::Asked { .. } => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Whether something listens in the namespace of this thread.
fn listens(port: u16) -> bool {
    // The state of a TCP socket that listens, and of a UDP socket that is not connected (include/net/tcp_states.h).
    let tables = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];
    tables.iter().any(|(table, state)| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().and_then(|local| local.rsplit_once(':'));
            local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
                && words.nth(1) == Some(state)
        })
    })
}

/// How long the command may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How long background commands may.
const BACKGROUND_GRACE: Duration = Duration::from_secs(2);

/// How long to wait for something that listens.
const LISTENER: Duration = Duration::from_secs(30);

/// How long to wait before looking again.
const LOOK: Duration = Duration::from_millis(10);
