//! Network namespaces without a name: each is gone with the last process in it and the last file that holds it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use super::addresses::{self, End, Route};
use super::sys::Tun;
use super::topology::Topology;

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, with nothing in it but a loopback interface that is down.
    fn new() -> io::Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net").map(Self)
        })
    }

    /// The file of it, as long as this process lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something in it: on another thread, so that this one stays where it is.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            job()
        })
    }
}

/// The namespace of a host, and its ends of links in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) namespace: Namespace,
    pub(crate) tuns: Vec<(End, Tun)>,
}

impl Site {
    /// Makes a host: interfaces, addresses, routes, settings.
    pub(crate) fn new(topology: &Topology, ends: &[End], host: usize) -> io::Result<Self> {
        let namespace = Namespace::new()?;
        let tuns = namespace.run(|| {
            let tuns = addresses::of(ends, host)
                .map(|end| Tun::new(&interface(end.link)).map(|tun| (end, tun)))
                .collect::<io::Result<Vec<_>>>()?;
            for (name, value) in settings(topology.hosts[host].router) {
                set(name, value)?;
            }
            ip(&script(topology, ends, host))?;
            Ok(tuns)
        })?;
        Ok(Self { namespace, tuns })
    }

    /// Packets that the kernel wanted to send over a link and that found its interface full: the emulator was too slow.
    pub(crate) fn overruns(&self, link: usize) -> io::Result<u64> {
        let table = self.namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let name = interface(link);
        // Behind the colon: eight columns of what was received, then bytes, packets, errors and drops of what was sent.
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&name)?.strip_prefix(':'));
        let dropped = line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
        dropped.ok_or_else(|| io::Error::other(format!("no statistics of {name}")))
    }
}

/// The name of a link's interfaces.
pub(crate) fn interface(link: usize) -> String {
    format!("link{link}")
}

/// What `ip -batch` is to do in a host.
fn script(topology: &Topology, ends: &[End], host: usize) -> String {
    let mut script = String::from("link set lo up\n");
    for End { link, address, via, .. } in addresses::of(ends, host) {
        let name = interface(link);
        let mtu = topology.links[link].mtu;
        script += &format!("addr add {address}/24 dev {name}\n");
        script += &format!("link set {name} mtu {mtu} txqueuelen {QUEUE} up\n");
        if topology.hosts[host].multihomed {
            let table = FIRST_TABLE + link;
            script += &format!("route add default via {via} dev {name} table {table}\n");
            script += &format!("rule add from {address} lookup {table}\n");
        }
    }
    for Route { to, via, link } in addresses::routes(topology, ends, host) {
        script += &format!("route add {to} via {via} dev {}\n", interface(link));
    }
    script
}

/// What is set below /proc/sys/net of each namespace. What is not per namespace (`net.core.rmem_max`, say) is left alone.
fn settings(router: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = [
        // No neighbour discovery and the like: only what commands send uses a link, and the same run loses the same packets.
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        // Buffers for long paths: 1 Gbit/s over 500 ms is 62.5 MB.
        ("ipv4/tcp_rmem", "4096 131072 134217728"),
        ("ipv4/tcp_wmem", "4096 65536 134217728"),
        // A connection begins without what one before it learned.
        ("ipv4/tcp_no_metrics_save", "1"),
        // Packets may arrive at an address over another host's link to it.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    let forward = [("ipv4/ip_forward", "1"), ("ipv4/conf/all/send_redirects", "0")];
    all.into_iter().chain(forward.into_iter().filter(move |_| router))
}

fn set(name: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{name}"), value) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| io::Error::other(format!("net/{name}: {error}"))),
    }
}

fn ip(script: &str) -> io::Result<()> {
    let mut ip =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    ip.stdin.take().expect("asked for").write_all(script.as_bytes())?;
    let said = ip.wait_with_output()?;
    let error = String::from_utf8_lossy(&said.stderr);
    if said.status.success() { Ok(()) } else { Err(io::Error::other(format!("ip: {}", error.trim()))) }
}

/// A thread stays in the namespace that it went to, so that it is better gone then.
fn on_a_thread<T: Send>(job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(job).join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Packets that an interface holds until the emulator takes them.
const QUEUE: u32 = 10_000;

/// The routing table of a multihomed host's `link0`.
const FIRST_TABLE: usize = 1000;
