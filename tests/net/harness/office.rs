//! A gateway at the server, and its clients in the office.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metra_core::id::Digest;
use serde_json::Value;

use super::bed::{OUTSIDE_SERVER, SERVER};
use super::certs::Authority;
use super::{Bed, Done, Gateway, Run, data};

/// A bed with a gateway, whose certificate is of an authority that clients know.
pub(crate) struct Office<'a> {
    pub(crate) bed: &'a Bed,
    pub(crate) gateway: Gateway,
    pub(crate) authority: Authority,
    host: &'static str,
    port: u16,
}

impl<'a> Office<'a> {
    /// With a gateway on its usual port.
    pub(crate) fn new(bed: &'a Bed) -> Self {
        Self::on(bed, PORT)
    }

    /// With a gateway on a port.
    pub(crate) fn on(bed: &'a Bed, port: u16) -> Self {
        Self::at(bed, bed.server.address.into(), SERVER, port, "")
    }

    /// The same, with more in its configuration.
    pub(crate) fn configured(bed: &'a Bed, port: u16, rest: &str) -> Self {
        Self::at(bed, bed.server.address.into(), SERVER, port, rest)
    }

    /// With a gateway on another address of its host, which is called so.
    pub(crate) fn at(bed: &'a Bed, address: IpAddr, host: &'static str, port: u16, rest: &str) -> Self {
        let authority = Authority::new(bed, "public");
        let cert = authority.issue(bed, &[host, OUTSIDE_SERVER]);
        let token = Digest::of(TOKEN.as_bytes());
        let config = format!(
            "[tls]\ncert = {:?}\nkey = {:?}\n[users.alice]\ntoken_hash = \"blake3:{token}\"\n{rest}",
            cert.cert, cert.key
        );
        let listen = SocketAddr::new(address, port).to_string();
        let gateway = bed.server.enter(|| Gateway::start(bed, &listen, &config, None));
        Self { bed, gateway, authority, host, port }
    }

    /// The URL of a path on the gateway.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("mtp://{}:{}/{path}", self.host, self.port)
    }

    /// A client with a state folder of its own for this label, which trusts the gateway and says all in JSON.
    pub(crate) fn client(&self, label: &str, verb: &str) -> Run {
        self.stranger(label, verb, 6).arg("--ca").arg(&self.authority.cert)
    }

    /// As [`client`](Self::client), and it soon gives up.
    pub(crate) fn impatient(&self, verb: &str) -> Run {
        self.stranger("impatient", verb, 2).arg("--ca").arg(&self.authority.cert)
    }

    /// As [`client`](Self::client), but it does not know the gateway, and gives up after so many seconds.
    pub(crate) fn stranger(&self, label: &str, verb: &str, timeout: u32) -> Run {
        let state = self.bed.path(&format!("state-{label}"));
        Run::new(&state, [verb, "--json", "--timeout", &timeout.to_string()]).env("METRA_TOKEN", TOKEN)
    }

    /// Runs it at the client's host.
    pub(crate) fn run(&self, run: Run) -> Done {
        self.bed.client.enter(|| run.run())
    }

    /// Sends a file with these options, which goes well.
    pub(crate) fn send(&self, file: &File, state: &str, options: &[&str]) -> Sent {
        let run = self.client(state, "send").args(options).arg(&file.path).arg(self.url(&file.name));
        self.arrived(file, self.run(run))
    }

    /// That a file has arrived as it is, and how.
    pub(crate) fn arrived(&self, file: &File, done: Done) -> Sent {
        let done = done.expect(0);
        assert!(data::same_bytes(&file.path, &self.gateway.at(&file.name)), "not what was sent\n{done}");
        self.same_root(file, &done);
        Sent(done)
    }

    /// Fetches a file that was sent, which goes well.
    pub(crate) fn fetch(&self, file: &File, state: &str, options: &[&str]) -> Sent {
        let copy = self.bed.path(&format!("{}.fetched", file.name));
        let run = self.client(state, "get").args(options).arg(self.url(&file.name)).arg(&copy);
        let done = self.run(run).expect(0);
        assert!(data::same_bytes(&file.path, &copy), "not what was sent\n{done}");
        Sent(done)
    }

    /// That both sides mean the same: the root that the transfer has is that of the file here.
    fn same_root(&self, file: &File, done: &Done) {
        let hash = Run::new(&self.bed.path("hash-state"), ["hash", "--json"]).arg(&file.path).run().expect(0);
        assert!(hash.text().contains(&done.root()), "{hash}\n{done}");
    }
}

/// A file to send.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// What it is called on the gateway.
    pub(crate) name: String,
}

impl File {
    /// Noise.
    pub(crate) fn noise(bed: &Bed, name: &str, bytes: u64) -> Self {
        let seed = name.bytes().map(u64::from).sum();
        Self { path: data::noise_file(&bed.path(name), seed, bytes), name: name.to_owned() }
    }
}

/// A transfer that went well, and what it says of itself.
pub(crate) struct Sent(pub(crate) Done);

impl Sent {
    /// What has carried it.
    pub(crate) fn links(&self) -> Vec<&str> {
        let links = self.0.summary()["links"].as_array().unwrap_or_else(|| panic!("no links\n{}", self.0));
        links.iter().map(|link| link.as_str().unwrap()).collect()
    }

    /// That these are among it.
    #[track_caller]
    pub(crate) fn over(&self, links: &[&str]) -> &Self {
        assert!(links.iter().all(|link| self.links().contains(link)), "not over {links:?}\n{}", self.0);
        self
    }

    /// From the start to the first byte on a link: finding a way, and then the beginning of the job.
    pub(crate) fn first_byte(&self) -> Duration {
        let ms = |key: &str| self.0.summary()[key].as_f64().unwrap_or_else(|| panic!("no {key}\n{}", self.0));
        Duration::from_secs_f64((ms("connect_ms") + ms("ttfb_ms")) / 1000.0)
    }

    /// What became of a way to the gateway.
    pub(crate) fn rung(&self, name: &str) -> Rung<'_> {
        rung(&self.0, name)
    }

    /// That this was what it ran over, and nothing else.
    #[track_caller]
    pub(crate) fn only(&self, rung: &str, via_proxy: bool) -> &Self {
        // A kind of link with two rungs.
        let kind = if rung == "masque-tcp" { "masque" } else { rung };
        assert_eq!(self.links(), [kind], "{}", self.0);
        let used = self.rung(rung);
        assert_eq!((used.outcome, used.via_proxy), ("used", via_proxy), "{}", self.0);
        self
    }

    /// That a better way was tried, or not, with a reason that says so.
    #[track_caller]
    pub(crate) fn not(&self, rung: &str, outcomes: &[&str]) -> &Self {
        let other = self.rung(rung);
        assert!(outcomes.contains(&other.outcome) && !other.reason.is_empty(), "{}", self.0);
        self
    }

    /// Whether somebody looked into the connection.
    pub(crate) fn inspected(&self) -> bool {
        self.0.summary()["inspected"] == true
    }
}

/// A way to the gateway, as the summary has it.
pub(crate) struct Rung<'a> {
    pub(crate) outcome: &'a str,
    pub(crate) via_proxy: bool,
    pub(crate) reason: &'a str,
}

/// What became of a way to the gateway.
pub(crate) fn rung<'a>(done: &'a Done, name: &str) -> Rung<'a> {
    let ladder = done.summary()["ladder"].as_array().unwrap_or_else(|| panic!("no ladder\n{done}"));
    // The last, if it was tried more than once.
    let rung = ladder.iter().rfind(|rung| rung["rung"] == name);
    let rung = rung.unwrap_or_else(|| panic!("no {name} in the ladder\n{done}"));
    let text = |key: &str| rung[key].as_str().unwrap_or_default();
    Rung {
        outcome: text("outcome"),
        reason: text("reason"),
        via_proxy: rung["via_proxy"] == Value::Bool(true),
    }
}

/// Where gateways listen.
pub(crate) const PORT: u16 = 4443;

/// What alice shows.
const TOKEN: &str = "alices-token-0123456789";

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}
