//! The clients, `clients/client.py`: each case is a connection, and a line of JSON on what came of it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::installed;

/// The version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// aioquic
    H3,
    /// hyper-h2
    H2,
}

/// A client that is to come.
pub(crate) struct Client {
    command: Command,
    proxy: SocketAddr,
    target: SocketAddr,
}

impl Client {
    /// Of a proxy whose certificate is of an authority, for a target.
    pub(crate) fn new(over: Over, proxy: SocketAddr, ca: &Path, target: SocketAddr) -> Self {
        let mut command = Command::new(installed("bin/python"));
        command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/masque/clients/client.py"));
        let over = if over == Over::H3 { "h3" } else { "h2" };
        command.args(["--over", over, "--ca"]).arg(ca);
        Self { command, proxy, target }
    }

    /// With an option (`client.py --help`).
    pub(crate) fn with(mut self, option: &str, value: impl ToString) -> Self {
        self.command.arg(option).arg(value.to_string());
        self
    }

    /// Sends a payload in the cases that echo.
    pub(crate) fn payload(self, bytes: &[u8]) -> Self {
        self.with("--payload", hex(bytes))
    }

    /// Does these cases, one after the other; what came of each.
    pub(crate) fn run(mut self, cases: &[&str]) -> Vec<Seen> {
        self.command.arg(self.proxy.to_string()).arg(self.target.ip().to_string());
        let output = self.command.arg(self.target.port().to_string()).args(cases).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {}\n{said}", self.command, output.status);
        let lines = String::from_utf8(output.stdout).unwrap();
        let seen: Vec<Seen> = lines.lines().map(|line| Seen(serde_json::from_str(line).unwrap())).collect();
        assert_eq!(seen.iter().map(Seen::case).collect::<Vec<_>>(), cases, "{said}");
        seen
    }

    /// Does one case.
    pub(crate) fn one(self, case: &str) -> Seen {
        self.run(&[case]).remove(0)
    }
}

/// What came of a case.
#[derive(Debug)]
pub(crate) struct Seen(pub(crate) Value);

impl Seen {
    pub(crate) fn case(&self) -> &str {
        self.0["case"].as_str().expect("a name")
    }

    fn stream(&self) -> &Value {
        &self.0["streams"][0]
    }

    /// The status of the first stream.
    pub(crate) fn status(&self) -> Option<u64> {
        self.stream()["status"].as_u64()
    }

    /// A field of the first stream's answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.stream()["headers"][name].as_str()
    }

    /// The error code with which the first stream was reset.
    pub(crate) fn reset(&self) -> Option<u64> {
        self.stream()["reset"].as_u64()
    }

    /// Whether the other side has ended the first stream in peace.
    pub(crate) fn ended(&self) -> bool {
        self.stream()["ended"] == true
    }

    /// The error code with which the other side has closed the connection.
    pub(crate) fn closed(&self) -> Option<u64> {
        (self.0["closed"]["by"] == "peer").then(|| self.0["closed"]["code"].as_u64()).flatten()
    }

    /// The error code with which the other side wants no more on the first stream.
    pub(crate) fn stop(&self) -> Option<u64> {
        self.stream()["stop"].as_u64()
    }

    /// Whether the other side has closed the connection, in whatever way.
    pub(crate) fn is_closed(&self) -> bool {
        self.0["closed"]["by"] == "peer"
    }

    /// Whether another tunnel on the connection works after the case.
    pub(crate) fn alive(&self) -> bool {
        self.0["alive"] == true
    }

    /// UDP payloads that came in QUIC datagrams on the first stream, as `shown` in Python shows them, sorted.
    pub(crate) fn datagrams(&self) -> Vec<&str> {
        texts(&self.stream()["datagrams"])
    }

    /// UDP payloads that came in capsules, sorted.
    pub(crate) fn capsules(&self) -> Vec<&str> {
        texts(&self.stream()["capsules"])
    }

    /// How many payloads came on each stream.
    pub(crate) fn payloads(&self) -> Vec<usize> {
        let count = |stream: &Value| texts(&stream["datagrams"]).len() + texts(&stream["capsules"]).len();
        self.0["streams"].as_array().expect("streams").iter().map(count).collect()
    }
}

fn texts(array: &Value) -> Vec<&str> {
    let mut texts: Vec<&str> = array.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    texts.sort_unstable();
    texts
}

/// In hexadecimal, as Python shows short payloads.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// And back.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
