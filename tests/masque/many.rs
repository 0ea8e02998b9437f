//! Many tunnels at once through our gateway, from the client of `metra-tunnel`: what one costs, and that nobody gets in the way
//! of others.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metra_fallback::proxy::Credentials;
use metra_transport::quic::Tuning;
use metra_transport::{Rt, Task};
use metra_tunnel::Carrier;
use metra_tunnel::client::{Hop, Opened, over_http3};
use metra_tunnel::proto::{Target, Template};

use crate::harness::data::{KIB, MIB, noise_file};
use crate::harness::{Bed, Gateway};
use crate::peers::Echo;
use crate::proxy::TUNNELS;
use crate::upgrade::{ask, capsule, request};

tests![a_thousand_tunnels, slow_and_silent_ones_hurt_nobody];

/// Tunnels in `a_thousand_tunnels`, over so many connections.
const TUNNELS_OPEN: usize = 1000;
const CONNECTIONS: usize = 8;
/// What an idle tunnel may cost the gateway. Bytes.
const MEMORY: u64 = 64 * KIB;
/// How long a payload may take there and back while others misbehave.
const QUICK: Duration = Duration::from_millis(100);

/// The proxy, as a client knows it.
fn hop(gateway: &Gateway) -> Hop {
    let template =
        format!("https://{}/.well-known/masque/udp/{{target_host}}/{{target_port}}/", gateway.address());
    let anchors = metra_certs::TrustAnchors::new().ca_file(gateway.ca());
    let tls = metra_certs::client_config(&anchors, None).unwrap();
    Hop { template: Template::parse(&template).unwrap(), tls, credentials: Credentials::None }
}

/// So many tunnels over one connection.
async fn open(gateway: SocketAddr, hop: &Hop, target: SocketAddr, count: usize) -> Vec<Opened> {
    let (rt, target) = (Rt::tokio(), Target::new(target.ip().to_string(), target.port()).unwrap());
    let mut all = vec![over_http3(&rt, hop, gateway, &target, &Tuning::default()).await.unwrap()];
    while all.len() < count {
        all.push(all[0].another(&target).await.unwrap());
    }
    all
}

/// The time that a payload takes there and back. It may be lost, as on any path of UDP: then it goes again.
async fn echo(tunnel: &Carrier, payload: &[u8]) -> Duration {
    for _ in 0..5 {
        let began = Instant::now();
        let _ = tunnel.try_send(payload);
        let back = std::future::poll_fn(|cx| tunnel.poll_payload(cx));
        match Rt::tokio().timeout(Duration::from_secs(2), back).await {
            Ok(back) => {
                assert_eq!(back.unwrap(), payload);
                return began.elapsed();
            }
            Err(_) => println!("a payload was lost"),
        }
    }
    panic!("nothing comes back");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn a_thousand_tunnels(bed: &Bed) {
    let config = format!("{TUNNELS}tunnels_per_address = 2000\n[log]\nlevel = \"warn\"\n");
    let (gateway, target) = (bed.gateway_with(&config), Echo::start());
    let hop = hop(&gateway);
    block_on(async {
        // What the first of each costs is not that of a tunnel.
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = open(gateway.address(), &hop, target.address(), 1).await;
            echo(&connection[0].carrier, b"first").await;
            connections.push(connection);
        }
        let (before, began) = (gateway.memory(), Instant::now());
        let to = target.address();
        let to = Target::new(to.ip().to_string(), to.port()).unwrap();
        for n in CONNECTIONS..TUNNELS_OPEN {
            let connection = &mut connections[n % CONNECTIONS];
            connection.push(connection[0].another(&to).await.unwrap());
        }
        let opened = began.elapsed();
        let idle = gateway.memory().saturating_sub(before) / (TUNNELS_OPEN - CONNECTIONS) as u64;
        let all: Vec<_> = connections.iter().flatten().map(|opened| &opened.carrier).collect();
        assert_eq!(all.len(), TUNNELS_OPEN);
        let began = Instant::now();
        for (n, tunnel) in all.iter().enumerate() {
            echo(tunnel, format!("tunnel {n}").as_bytes()).await;
        }
        let used = gateway.memory().saturating_sub(before) / (TUNNELS_OPEN - CONNECTIONS) as u64;
        println!(
            "{TUNNELS_OPEN} tunnels: opened in {opened:?}, a payload through each in {:?}; {idle} bytes each when idle, \
             {used} after that",
            began.elapsed()
        );
        assert!(idle < MEMORY && used < MEMORY, "{idle} {used}");
    });
    assert!(target.got() >= (TUNNELS_OPEN + CONNECTIONS) as u64);
}

/// Sends as fast as it may, and reads nothing of what comes back.
fn flood(tunnel: Arc<Carrier>) -> Task<()> {
    Rt::tokio().spawn(async move {
        let payload = [7; 1200];
        loop {
            for _ in 0..64 {
                let _ = tunnel.try_send(&payload);
            }
            Rt::tokio().sleep(Duration::from_millis(1)).await;
        }
    })
}

fn slow_and_silent_ones_hurt_nobody(bed: &Bed) {
    let (gateway, target) = (bed.gateway_with(&format!("{TUNNELS}[log]\nlevel = \"warn\"\n")), Echo::start());
    // Floods have a target of their own: this is not about the echo.
    let flooded = Echo::start();
    let file = noise_file(&bed.path("file"), 3, 16 * MIB);
    let (hop, before) = (hop(&gateway), gateway.memory());
    // And one of HTTP/1.1 that never reads what comes back.
    let (head, mut unread) = ask(&gateway, &request(&flooded));
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let is_over = Arc::new(AtomicBool::new(false));
    let ending = is_over.clone();
    let flooding = std::thread::spawn(move || {
        let capsules = capsule(&[7; 60]).repeat(1000);
        while !ending.load(Ordering::Relaxed) && unread.write_all(&capsules).is_ok() {}
    });
    block_on(async {
        let open = |target, count| open(gateway.address(), &hop, target, count);
        // One whose tunnels all flood; one that shares its connection with a flood; a silent one.
        let floods = open(flooded.address(), 2).await;
        let _silent = open(target.address(), 2).await;
        let good = open(target.address(), 4).await;
        let _flooding: Vec<_> =
            floods.iter().map(|opened| flood(opened.carrier.clone()).abort_on_drop()).collect();
        let sending = bed.client(&gateway, ["send"]).args(["--via", "quic"]).arg(&file).arg(gateway.url(""));
        let mut sending = sending.start();
        let (mut slowest, mut count, began) = (Duration::ZERO, 0, Instant::now());
        while sending.is_running() || began.elapsed() < Duration::from_secs(2) {
            for opened in &good {
                slowest = slowest.max(echo(&opened.carrier, b"are you there?").await);
                count += 1;
            }
            Rt::tokio().sleep(Duration::from_millis(5)).await;
        }
        let done = sending.finish().expect(0);
        let grown = gateway.memory().saturating_sub(before) / MIB;
        println!(
            "{count} payloads, the slowest in {slowest:?}, while {} were sent into a flood; 16 MiB sent in {:?}; the gateway \
             has grown by {grown} MiB",
            flooded.got(),
            done.elapsed
        );
        assert!(slowest < QUICK, "{slowest:?}");
        assert!(flooded.got() > 1000 && grown < 64, "{} {grown}", flooded.got());
    });
    is_over.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    assert_eq!(std::fs::read(gateway.at("file")).unwrap(), std::fs::read(&file).unwrap());
}
