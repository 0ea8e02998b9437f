//! The table of targets that no tunnel leads to, `tests/vectors/forbidden.toml`, and whoever would hear of one that did.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::tunnels::{Over, Tunnels};

/// A target.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    host: Option<String>,
    path: Option<String>,
    port: Option<Port>,
    #[serde(default)]
    resolves: Vec<IpAddr>,
    is: String,
    only: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    targets: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(rename = "about")]
    _about: String,
    rows: Vec<Row>,
}

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    let table: Table = toml::from_str(include_str!("../../vectors/forbidden.toml")).unwrap();
    table.targets.into_iter().flat_map(|group| group.rows).collect()
}

/// What is due: the status, and what the audit trail has; nothing of what is no request.
struct Due {
    status: u16,
    said: String,
    rule: Option<&'static str>,
}

impl Row {
    /// Whether it needs a network of its own: names, and addresses of the gateway.
    pub(crate) fn needs_a_network(&self) -> bool {
        self.resolves().is_some() || self.only.as_deref() == Some("net")
    }

    /// The name that a name server is asked for, and what it answers.
    pub(crate) fn resolves(&self) -> Option<(String, &[IpAddr])> {
        let host = self.host.as_deref().filter(|_| !self.resolves.is_empty())?;
        Some((host.trim_end_matches('.').to_ascii_lowercase(), &self.resolves))
    }

    fn due(&self) -> Due {
        let due = |status, said: &str, rule| Due { status, said: said.to_owned(), rule };
        match &*self.is {
            "no target" => due(400, "", None),
            "no host" => due(400, "", Some("tunnel.target")),
            "name" => due(403, "http_request_denied", Some("tunnel.dangerous_ranges")),
            "own" => due(502, "the address is the gateway's own", Some("tunnel.own")),
            special => due(502, &format!("the address is {special}\""), Some("tunnel.dangerous_ranges")),
        }
    }

    /// As it stands in the path; and as the audit trail has it, with `SEP` between host and port.
    fn target(&self, listens: u16, gateway: u16) -> (String, String) {
        let host = match (&self.host, &self.path) {
            (Some(host), None) => encoded(host),
            (None, Some(path)) => path.clone(),
            _ => panic!("host or path: {self:?}"),
        };
        let port = match &self.port {
            None => listens.to_string(),
            Some(Port::Number(port)) => port.to_string(),
            Some(Port::Word(word)) if word == "gateway" => gateway.to_string(),
            Some(Port::Word(word)) => word.clone(),
        };
        (format!("{host}/{port}"), format!("{}{SEP}{port}", decoded(&host)))
    }
}

/// Asks for all of them, over every version of HTTP: each must be refused for what it is, and be in the audit trail at `trail`
/// with the rule that says so, and nothing may have been dialled. How many were asked for.
pub(crate) fn ask_for(
    rows: &[Row],
    tunnels: &Tunnels,
    token: &str,
    trail: &Path,
    [listens, gateway]: [u16; 2],
) -> usize {
    let (mut expected, mut asked) = (Vec::new(), 0);
    for row in rows {
        let (target, written) = row.target(listens, gateway);
        let due = row.due();
        for over in Over::ALL {
            let answer = tunnels.ask(over, token, Ipv4Addr::LOCALHOST, &target);
            if let Some(tunnel) = &answer.tunnel {
                tunnels.send(tunnel);
            }
            assert!(
                answer.tunnel.is_none() && answer.status == due.status && answer.error.contains(&due.said),
                "{over:?} {row:?}: {} {:?}, not {} {:?}",
                answer.status,
                answer.error,
                due.status,
                due.said
            );
            asked += 1;
            expected.extend(due.rule.map(|rule| format!("{written} {rule}")));
        }
    }
    expected.sort();
    let began = Instant::now();
    let mut recorded = refusals(trail);
    while recorded.len() < expected.len() && began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
        recorded = refusals(trail);
    }
    for (due, recorded) in expected.iter().zip(&recorded) {
        assert_eq!(due, recorded);
    }
    assert_eq!(expected.len(), recorded.len());
    asked
}

/// The refusals in the trail, which has nothing else, sorted.
fn refusals(trail: &Path) -> Vec<String> {
    let text = fs::read_to_string(trail).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut refusals: Vec<String> = records
        .map(|record| {
            let target = &record["dst_endpoint"];
            assert_eq!(
                (&record["unmapped"]["event"], &record["action_id"]),
                (&"decision".into(), &2.into()),
                "{record}"
            );
            // An address is there once it is dialled.
            let host = match (target["hostname"].as_str(), target["ip"].as_str()) {
                (Some(host), None) => host,
                _ => panic!("dialled: {record}"),
            };
            format!("{host}{SEP}{} {}", target["port"], record["policy"]["name"].as_str().unwrap_or_default())
        })
        .collect();
    refusals.sort();
    refusals
}

/// Sockets at a port of every address of this machine.
pub(crate) struct Listeners {
    sockets: Vec<UdpSocket>,
    port: u16,
}

impl Listeners {
    /// At this port, or at a free one if it is 0.
    pub(crate) fn new(port: u16) -> Self {
        let v4 = listener((Ipv4Addr::UNSPECIFIED, port).into());
        let port = v4.local_addr().unwrap().port();
        Self { sockets: vec![v4, listener((Ipv6Addr::UNSPECIFIED, port).into())], port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many datagrams have come since this was asked last.
    pub(crate) fn heard(&self) -> usize {
        let mut room = [0; 2048];
        let mut count = 0;
        for socket in &self.sockets {
            loop {
                match socket.recv(&mut room) {
                    Ok(_) => count += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        count
    }
}

/// A socket that does not wait; of IPv6 it takes nothing else. One at an address goes before one at all of them.
pub(crate) fn listener(at: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    if at.is_ipv6() {
        socket.set_only_v6(true).unwrap();
        // A route is enough to have an address of IPv4.
        socket.set_freebind_v6(true).unwrap();
    }
    socket.bind(&at.into()).unwrap_or_else(|error| panic!("{at}: {error}"));
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// RFC 6570 section 3.2.2: all but what is unreserved.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Between host and port.
const SEP: &str = " port ";
