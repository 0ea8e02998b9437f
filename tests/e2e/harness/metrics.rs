//! What a gateway serves of its metrics.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::wait_until;

/// Where a gateway serves metrics.
#[derive(Clone, Copy)]
pub(crate) struct Metrics(SocketAddr);

impl Metrics {
    /// At a port that is free.
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
    }

    /// The line for the gateway's configuration; goes before all tables.
    pub(crate) fn config(self) -> String {
        format!("metrics_listen = \"{}\"\n", self.0)
    }

    /// All of them, by name and labels.
    pub(crate) fn all(self) -> HashMap<String, f64> {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: metra\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let values = text.lines().filter(|line| line.starts_with("metra_"));
        values
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
            .collect()
    }

    /// The sum of those of this name that have all these labels (`key="value"`).
    pub(crate) fn sum(self, name: &str, labels: &[&str]) -> f64 {
        let all = self.all();
        let named = all.iter().filter(|(key, _)| key.split('{').next() == Some(name));
        named.filter(|(key, _)| labels.iter().all(|label| key.contains(label))).map(|(_, n)| n).sum()
    }

    /// Waits until that sum is at least `least`.
    pub(crate) fn wait_for(self, least: f64, name: &str, labels: &[&str]) {
        wait_until(&format!("{least} of {name} {labels:?}"), || self.sum(name, labels) >= least);
    }
}
