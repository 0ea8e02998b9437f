//! `metra tunnel`: a port of this machine that leads through the gateway's proxy.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use metra_core::id::Digest;
use rustix::process::Signal;

use crate::harness::{Bed, Gateway, run, wait_until};

tests![there_and_back, refused];

pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const TOKEN: &str = "alices-token-0123456789";

/// A gateway whose tunnels may lead to this port of loopback.
fn proxy(bed: &Bed, port: u16) -> Gateway {
    proxy_with(bed, port, "")
}

/// The same, with more in its configuration.
pub(crate) fn proxy_with(bed: &Bed, port: u16, rest: &str) -> Gateway {
    let hash = Digest::of(TOKEN.as_bytes());
    bed.gateway_with(&format!(
        "[users.alice]\ntoken_hash = \"blake3:{hash}\"\ntunnel = true\n\
         [tunnel]\nallow = [\"127.0.0.1:{port}\"]\ndangerous_ranges = [\"127.0.0.1/32\"]\n{rest}"
    ))
}

pub(crate) fn command(
    bed: &Bed,
    gateway: &Gateway,
    listen: SocketAddr,
    target: SocketAddr,
    over: &str,
) -> run::Run {
    let (listen, target) = (listen.to_string(), target.to_string());
    bed.metra(["tunnel", "--listen", &listen, "--target", &target, "--over", over])
        .arg("--proxy")
        .arg(format!("https://{}/.well-known/masque/udp/{{target_host}}/{{target_port}}/", gateway.address()))
        .arg("--ca")
        .arg(gateway.ca())
}

fn there_and_back(bed: &Bed) {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = echo.recv_from(&mut room) {
            let _ = echo.send_to(&room[..length], from);
        }
    });
    let gateway = proxy(bed, target.port());
    let token = bed.write("token", TOKEN);
    for over in ["h3", "tcp", "auto"] {
        // A port that is free now.
        let listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut running =
            command(bed, &gateway, listen, target, over).arg("--proxy-token-file").arg(&token).start();
        let programs = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
        for (n, program) in programs.iter().enumerate() {
            program.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let payload = vec![n as u8; 1100];
            wait_until("an answer through the tunnel", || {
                let mut room = [0; 2048];
                // Until the port is there, nobody is.
                let _ = program.send_to(&payload, listen);
                matches!(program.recv(&mut room), Ok(length) if room[..length] == payload)
            });
        }
        assert!(running.is_running());
        running.signal(Signal::INT);
        let done = running.finish().expect(0);
        assert!(done.stderr.contains(&format!("leads to {target}")), "{done}");
    }
}

fn refused(bed: &Bed) {
    let allowed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = proxy(bed, allowed.port());
    let token = bed.write("token", TOKEN);
    for over in ["h3", "tcp"] {
        // Without credentials, and to where it may not lead.
        command(bed, &gateway, ANY, allowed, over).expect(10);
        let done = command(bed, &gateway, ANY, other, over).arg("--proxy-token-file").arg(&token).expect(12);
        assert!(done.stderr.contains("the proxy answers 403"), "{done}");
    }
    command(bed, &gateway, ANY, allowed, "tcp").arg("--proxy-token-file").arg(bed.path("none")).expect(2);
}
