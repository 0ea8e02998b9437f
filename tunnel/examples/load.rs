//! Load for a CONNECT-UDP proxy: how many datagrams of 1200 bytes go through it, and what that costs it.
//!
//! ```text
//! load URI-TEMPLATE --ca FILE [--tunnels N] [--seconds S] [--down] [--pid PID] [--payload BYTES] [--token TOKEN]
//! ```
//!
//! Opens `N` tunnels over one connection of HTTP/3 to a UDP socket of its own, and sends through all of them in turn: to the
//! socket, or with `--down` from it. So many datagrams are under way at most that the buffers of sockets hold them; those that
//! do not arrive for a while count as lost. With the process id of the proxy, its processor time is read. One line of JSON is
//! the result.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, poll_fn};
use metra_fallback::proxy::Credentials;
use metra_transport::Rt;
use metra_transport::quic::Tuning;
use metra_tunnel::Carrier;
use metra_tunnel::client::{Hop, over_http3};
use metra_tunnel::proto::{Target, Template};
use metra_tunnel::udp::{Batch, Udp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Datagrams under way, at most: what the smallest buffer of a socket holds.
const WINDOW: u64 = 128;
/// After so long without one that arrives, those under way are lost.
const PATIENCE: Duration = Duration::from_millis(20);
/// Not counted, while everything gets to speed.
const WARM_UP: Duration = Duration::from_secs(1);
/// Datagrams of one tunnel that follow one another.
const BURST: u64 = 16;

struct Options {
    template: String,
    ca: PathBuf,
    tunnels: usize,
    seconds: u64,
    is_down: bool,
    pid: Option<u32>,
    payload: usize,
    token: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = options()?;
    let far = Udp::bound(([127, 0, 0, 1], 0).into())?;
    let tunnels = open(&options, far.local_addr()?).await?;
    let peers = greet(&tunnels, &far).await?;
    let payload = vec![7; options.payload];
    let mut load = Load { tunnels: &tunnels, far: &far, peers: &peers, payload, next: 0 };
    load.run(Instant::now() + WARM_UP, options.is_down).await;
    let (before, began) = (cpu(options.pid)?, Instant::now());
    let (sent, arrived) = load.run(began + Duration::from_secs(options.seconds), options.is_down).await;
    let elapsed = began.elapsed().as_secs_f64();
    let used = cpu(options.pid)? - before;
    let bytes = arrived as f64 * options.payload as f64;
    println!(
        "{{\"tunnels\":{},\"down\":{},\"packets_s\":{:.0},\"gbit_s\":{:.3},\"lost\":{:.4},\"cpu_s\":{used:.2},\"cpu_s_gb\":{:.3}}}",
        options.tunnels,
        options.is_down,
        arrived as f64 / elapsed,
        bytes * 8.0 / elapsed / 1e9,
        1.0 - arrived as f64 / sent.max(1) as f64,
        used / (bytes / 1e9),
    );
    Ok(())
}

fn options() -> Result<Options> {
    let mut words = std::env::args().skip(1);
    let mut options = Options {
        template: String::new(),
        ca: PathBuf::new(),
        tunnels: 1,
        seconds: 5,
        is_down: false,
        pid: None,
        payload: 1200,
        token: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--ca" => options.ca = value()?.into(),
            "--tunnels" => options.tunnels = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--pid" => options.pid = Some(value()?.parse()?),
            "--payload" => options.payload = value()?.parse()?,
            "--token" => options.token = Some(value()?),
            "--down" => options.is_down = true,
            _ => options.template = word,
        }
    }
    Ok(options)
}

/// All tunnels, over one connection.
async fn open(options: &Options, target: SocketAddr) -> Result<Vec<Arc<Carrier>>> {
    let template = Template::parse(&options.template)?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&options.ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let credentials = options.token.clone().map_or(Credentials::None, Credentials::Bearer);
    let hop = Hop { template, tls: Arc::new(tls), credentials };
    let address = tokio::net::lookup_host((hop.template.host(), hop.template.port())).await?;
    let address = address.into_iter().find(SocketAddr::is_ipv4).ok_or("no such proxy")?;
    let (rt, target) = (Rt::tokio(), Target::new(target.ip().to_string(), target.port())?);
    let first = over_http3(&rt, &hop, address, &target, &Tuning::default()).await?;
    let more = join_all((1..options.tunnels).map(|_| first.another(&target))).await;
    let mut tunnels = vec![first.carrier.clone()];
    for opened in more {
        tunnels.push(opened?.carrier);
    }
    // Its connection is to live as long as the process.
    std::mem::forget(first);
    Ok(tunnels)
}

/// One datagram through each tunnel: where it comes from at the far end, in the order of the tunnels.
async fn greet(tunnels: &[Arc<Carrier>], far: &Udp) -> Result<Vec<SocketAddr>> {
    let mut peers = Vec::new();
    for tunnel in tunnels {
        let peer = loop {
            tunnel.try_send(b"hello")?;
            let mut seen = None;
            let received = poll_fn(|cx| far.poll_recv(cx, |peer, _| seen = Some(peer)));
            if let Ok(received) = tokio::time::timeout(Duration::from_secs(1), received).await {
                received?;
                break seen.ok_or("nothing was received")?;
            }
        };
        peers.push(peer);
    }
    Ok(peers)
}

struct Load<'a> {
    tunnels: &'a [Arc<Carrier>],
    far: &'a Udp,
    peers: &'a [SocketAddr],
    payload: Vec<u8>,
    /// Whose turn it is.
    next: usize,
}

impl Load<'_> {
    /// Sends until then. Gives how many were sent, and how many arrived.
    async fn run(&mut self, until: Instant, is_down: bool) -> (u64, u64) {
        let (mut sent, mut arrived, mut lost) = (0u64, 0u64, 0u64);
        while Instant::now() < until {
            let room = WINDOW.saturating_sub(sent.saturating_sub(arrived + lost));
            sent += if is_down { self.send_down(room).await } else { self.send_up(room) };
            let received = poll_fn(|cx| {
                let count = if is_down { self.receive_near(cx) } else { self.receive_far(cx) };
                if count > 0 { Poll::Ready(count) } else { Poll::Pending }
            });
            match tokio::time::timeout(PATIENCE, received).await {
                Ok(count) => arrived += count,
                Err(_) => lost = sent.saturating_sub(arrived),
            }
        }
        (sent, arrived)
    }

    /// In bursts, as a transport would, one tunnel after the other.
    fn send_up(&mut self, room: u64) -> u64 {
        let mut sent = 0;
        while sent < room {
            let tunnel = &self.tunnels[self.next % self.tunnels.len()];
            self.next += 1;
            for _ in 0..BURST.min(room - sent) {
                if tunnel.try_send(&self.payload).is_err() {
                    return sent;
                }
                sent += 1;
            }
        }
        sent
    }

    async fn send_down(&mut self, room: u64) -> u64 {
        let mut sent = 0;
        let mut batch = Batch::default();
        while sent < room {
            let peer = self.peers[self.next % self.peers.len()];
            self.next += 1;
            batch.clear();
            // One by one, as from a network: not every proxy takes apart what the kernel joins.
            sent += u64::from(batch.add(&self.payload, 1));
            if poll_fn(|cx| self.far.poll_send(cx, &batch, peer)).await.is_err() {
                return sent;
            }
        }
        sent
    }

    fn receive_far(&self, cx: &mut Context<'_>) -> u64 {
        let mut count = 0;
        while let Poll::Ready(Ok(more)) = self.far.poll_recv(cx, |_, _| ()) {
            count += more as u64;
        }
        count
    }

    fn receive_near(&self, cx: &mut Context<'_>) -> u64 {
        let mut count = 0;
        for tunnel in self.tunnels {
            loop {
                match tunnel.poll_payload(cx) {
                    Poll::Ready(Ok(_)) => count += 1,
                    Poll::Pending => break,
                    Poll::Ready(Err(ended)) => {
                        eprintln!("a tunnel: {ended}");
                        std::process::exit(1);
                    }
                }
            }
        }
        count
    }
}

/// Processor time of a process so far. Seconds.
fn cpu(pid: Option<u32>) -> Result<f64> {
    let Some(pid) = pid else { return Ok(0.0) };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no such process")?.1.split_whitespace().collect();
    // utime and stime, in ticks of 10 ms (proc(5)).
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
