//! `metra` as a client of our gateway's proxy: with a certificate, to targets of IPv6, and what is left when it ends.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::run::{Run, Running};
use crate::harness::users::{Issued, issue};
use crate::harness::{Bed, Gateway, Metrics, skip, wait_until};
use crate::peers::Echo;
use crate::proxy::TUNNELS;

tests![tunnels_end_with_their_client, a_certificate_opens_tunnels, targets_of_ipv6];

/// How soon a gateway knows that a client has ended.
const SOON: Duration = Duration::from_secs(2);

/// The default template of the gateway.
fn template(gateway: &Gateway) -> String {
    format!("https://{}/.well-known/masque/udp/{{target_host}}/{{target_port}}/", gateway.address())
}

/// `metra tunnel`, and the port of this machine that leads to `target`.
fn tunnel(bed: &Bed, gateway: &Gateway, target: SocketAddr, over: &str) -> (Run, SocketAddr) {
    let listen = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let run = bed.metra(["tunnel", "--over", over, "--listen", &listen.to_string()]);
    let run = run.args(["--target", &target.to_string(), "--proxy", &template(gateway), "--ca"]);
    (run.arg(gateway.ca()), listen)
}

/// A program that has an answer through the tunnel.
fn program(through: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    wait_until("an answer through the tunnel", || {
        let mut room = [0; 64];
        // Until the port is there, nobody is.
        let _ = socket.send_to(b"are you there?", through);
        matches!(socket.recv(&mut room), Ok(length) if room[..length] == *b"are you there?")
    });
    socket
}

fn tunnels_end_with_their_client(bed: &Bed) {
    let metrics = Metrics::new();
    let (gateway, echo) = (bed.gateway_with(&(metrics.config() + TUNNELS)), Echo::start());
    let open = || metrics.sum("metra_tunnels", &[]);
    let none_soon = |what: &str| {
        let ended = Instant::now();
        wait_until("no tunnels", || open() == 0.0);
        assert!(ended.elapsed() < SOON, "{what}: {:?}", ended.elapsed());
    };
    for over in ["h3", "tcp"] {
        let (run, listen) = tunnel(bed, &gateway, echo.address(), over);
        let running: Running = run.start();
        let _programs = [program(listen), program(listen)];
        // The one by which it has looked whether it is let through ends at about this time.
        wait_until("a tunnel for each program", || open() == 2.0);
        running.signal(Signal::INT);
        running.finish().expect(0);
        none_soon(over);
    }
    // A session of MTP within a tunnel to the gateway itself.
    let file = bed.write("file", vec![7; 3 << 20]);
    for rung in ["masque", "masque-tcp"] {
        let before = metrics.sum("metra_tunnels_total", &[]);
        let proxy = ["--masque-proxy", &template(&gateway)];
        let run = bed.client(&gateway, ["send", "--via", rung]).args(proxy);
        run.arg(&file).arg(gateway.url(rung)).expect(0);
        none_soon(rung);
        assert!(metrics.sum("metra_tunnels_total", &[]) > before, "{rung}");
    }
}

fn a_certificate_opens_tunnels(bed: &Bed) {
    let Issued { authority, cert, key } = issue(bed, "carol", "carol.example.org");
    let stranger = issue(bed, "stranger", "carol.example.org");
    let (other_cert, other_key) = (stranger.cert, stranger.key);
    let config = format!(
        "[tls]\nclient_ca = {authority:?}\n[users.carol]\ncert_names = [\"carol.example.org\"]\n{TUNNELS}"
    );
    let (gateway, echo) = (bed.gateway_with(&config), Echo::start());
    for over in ["h3", "tcp"] {
        let tunnel = || tunnel(bed, &gateway, echo.address(), over);
        let (run, listen) = tunnel();
        let running = run.arg("--cert").arg(&cert).arg("--key").arg(&key).start();
        let _program = program(listen);
        running.signal(Signal::INT);
        running.finish().expect(0);
        // Without one: nobody else is a user.
        let got = echo.got();
        let done = tunnel().0.expect(10);
        assert!(done.stderr.contains("407"), "{done}");
        // Of another authority, for the same name.
        let done = tunnel().0.arg("--cert").arg(&other_cert).arg("--key").arg(&other_key).expect(10);
        assert!(done.stderr.contains("the proxy does not accept the client certificate"), "{done}");
        assert_eq!(echo.got(), got, "{over}");
    }
    // A transfer through the proxy says the same.
    let file = bed.write("file", "content");
    for rung in ["masque", "masque-tcp"] {
        let run = bed.client(&gateway, ["send", "--via", rung, "--timeout", "3"]);
        let run = run.args(["--masque-proxy", &template(&gateway)]).arg("--masque-cert").arg(&other_cert);
        let done = run.arg("--masque-key").arg(&other_key).arg(&file).arg(gateway.url("refused")).run();
        assert!(
            done.code() != 0 && done.text().contains("not accept the client certificate"),
            "{rung}: {done}"
        );
        assert!(!gateway.at("refused").exists());
    }
}

/// In a network of its own, which has nothing but these addresses.
fn within(addresses: &[&str], job: impl FnOnce() + Send) {
    // Holds the network, and is killed when the test is over.
    let holds = Command::new("unshare").args(["--net", "sleep", "600"]).spawn();
    let mut holds = Ended(holds.unwrap_or_else(|e| skip(format!("unshare: {e}"))));
    let mine = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let network = format!("/proc/{}/ns/net", holds.0.id());
    wait_until("a network", || std::fs::read_link(&network).is_ok_and(|its| its != mine) || holds.is_over());
    if holds.is_over() {
        skip("no network of its own can be made here");
    }
    std::thread::scope(|scope| {
        // The thread that is moved there ends there.
        let there = scope.spawn(|| {
            let network = std::fs::File::open(&network).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let ip =
                |words: &str| assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
            ip("link set lo up");
            for address in addresses {
                ip(&format!("-6 address add {address}/128 dev lo nodad"));
            }
            job();
        });
        there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A process that is killed when this is dropped.
struct Ended(Child);

impl Ended {
    fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn targets_of_ipv6(bed: &Bed) {
    let [unique_local, documentation, closed] = ["fd12:3456:789a:1::7", "2001:db8:1::7", "fd12:3456:789b::7"];
    within(&[unique_local, documentation, closed], || {
        let config = "[tunnel]\nallow = [\"[fd12:3456::/32]:*\", \"[2001:db8:1::/48]:*\"]\n\
                      dangerous_ranges = [\"fd12:3456:789a::/48\", \"2001:db8:1::/48\"]\n";
        let gateway = bed.gateway_with(config);
        for host in [unique_local, documentation] {
            let echo = Echo::at(host.parse().unwrap());
            for over in ["h3", "tcp"] {
                let (run, listen) = tunnel(bed, &gateway, echo.address(), over);
                let running = run.start();
                let _program = program(listen);
                running.signal(Signal::INT);
                running.finish().expect(0);
            }
            assert!(echo.got() >= 2);
        }
        // Allowed, and in a range that is not opened.
        for host in [closed, "::1"] {
            let echo = Echo::at(host.parse().unwrap());
            let done = tunnel(bed, &gateway, echo.address(), "h3").0.run();
            assert!(
                done.stderr.contains("the proxy answers 50") || done.stderr.contains("the proxy answers 403"),
                "{done}"
            );
            assert_eq!(echo.got(), 0, "{host}");
        }
    });
}
