//! What a topology file says: hosts, links between them, and what the links do.

use std::collections::HashSet;
use std::path::Path;

use metra_sim_model::Direction;
use serde::{Deserialize, Serialize};

/// Hosts and links.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topology {
    /// Decides over all random numbers.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    /// The first is where the command runs, unless another is named.
    #[serde(rename = "host")]
    pub(crate) hosts: Vec<Host>,
    /// The first is `link0`.
    #[serde(rename = "link")]
    pub(crate) links: Vec<Link>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    /// Lower-case letters, digits and hyphens.
    pub(crate) name: String,
    /// Whether it forwards packets between its links.
    #[serde(default)]
    pub(crate) router: bool,
    /// Whether what it sends from the address of a link leaves by that link, wherever it goes.
    #[serde(default)]
    pub(crate) multihomed: bool,
}

/// A link between two hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// One end.
    pub(crate) a: String,
    /// The other end.
    pub(crate) b: String,
    /// Of the interfaces at both ends. Bytes.
    #[serde(default = "ethernet")]
    pub(crate) mtu: u32,
    /// From `a` to `b`.
    pub(crate) up: Option<Direction>,
    /// From `b` to `a`.
    pub(crate) down: Option<Direction>,
    /// For the direction that is not given.
    pub(crate) both: Option<Direction>,
    /// What does not get through.
    pub(crate) firewall: Option<Firewall>,
    /// The one place that `proxy-only` lets through: HOST:PORT.
    pub(crate) proxy: Option<String>,
}

/// What a link drops silently, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Firewall {
    /// All UDP.
    NoUdp,
    /// All but TCP to and from one port of one host.
    ProxyOnly,
}

impl Topology {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Parses and checks the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let topology: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        topology.check()?;
        Ok(topology)
    }

    /// `client` and `server`, and one link that does the same in both directions.
    pub(crate) fn two_hosts(direction: Direction, mtu: u32, seed: u64) -> Result<Self, String> {
        let host = |name: &str| Host { name: name.into(), router: false, multihomed: false };
        let link = Link {
            a: "client".into(),
            b: "server".into(),
            mtu,
            up: None,
            down: None,
            both: Some(direction),
            firewall: None,
            proxy: None,
        };
        let topology = Self { seed, hosts: vec![host("client"), host("server")], links: vec![link] };
        topology.check()?;
        Ok(topology)
    }

    /// The number of a host.
    pub(crate) fn host(&self, name: &str) -> Result<usize, String> {
        self.hosts.iter().position(|host| host.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            format!("no host is named {name:?}: there are {}", names.join(", "))
        })
    }

    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for Host { name, .. } in &self.hosts {
            let fine = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.len() <= 32
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            if !fine {
                return Err(format!("host {name:?}: a name is lower-case letters, digits and hyphens"));
            }
            if !names.insert(name) {
                return Err(format!("host {name:?} is there twice"));
            }
        }
        if self.hosts.is_empty() {
            return Err("there is no [[host]]".into());
        }
        if self.links.len() > MAX_LINKS {
            return Err(format!("{} links: at most {MAX_LINKS} are possible", self.links.len()));
        }
        self.links.iter().enumerate().try_for_each(|(i, link)| {
            self.check_link(link).map_err(|e| format!("link{i} ({} to {}): {e}", link.a, link.b))
        })
    }

    fn check_link(&self, link: &Link) -> Result<(), String> {
        if self.host(&link.a)? == self.host(&link.b)? {
            return Err("both ends are the same host".into());
        }
        if !(68..=65_535).contains(&link.mtu) {
            return Err(format!("mtu is {}: expected 68 to 65535", link.mtu));
        }
        link.up().check().map_err(|e| format!("up: {e}"))?;
        link.down().check().map_err(|e| format!("down: {e}"))?;
        match (link.firewall, &link.proxy) {
            (Some(Firewall::ProxyOnly), Some(proxy)) => self.place(proxy).map(drop),
            (Some(Firewall::ProxyOnly), None) => Err("proxy-only needs proxy = \"HOST:PORT\"".into()),
            (_, Some(_)) => Err("proxy is for firewall = \"proxy-only\"".into()),
            (_, None) => Ok(()),
        }
    }

    /// Host and port of `HOST:PORT`.
    pub(crate) fn place(&self, text: &str) -> Result<(usize, u16), String> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not HOST:PORT"))?;
        let port = port.parse().map_err(|_| format!("{text:?} is not HOST:PORT"))?;
        Ok((self.host(host)?, port))
    }
}

impl Link {
    /// From `a` to `b`.
    pub(crate) fn up(&self) -> Direction {
        self.up.clone().or_else(|| self.both.clone()).unwrap_or_default()
    }

    /// From `b` to `a`.
    pub(crate) fn down(&self) -> Direction {
        self.down.clone().or_else(|| self.both.clone()).unwrap_or_default()
    }
}

/// Each has a number in the third byte of its addresses.
const MAX_LINKS: usize = 256;

/// The MTU of Ethernet, and of most paths.
pub(crate) const MTU: u32 = 1500;

fn ethernet() -> u32 {
    MTU
}

fn one() -> u64 {
    1
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    const TWO: &str = "[[host]]\nname = 'client'\n[[host]]\nname = 'server'\n";

    #[test]
    fn both_is_for_the_direction_that_is_not_given() {
        let text = format!(
            "{TWO}[[link]]\na = 'client'\nb = 'server'\nboth = {{ delay_ms = 5 }}\nup = {{ rate_mbit = 10 }}"
        );
        let topology = Topology::parse(&text).unwrap();
        assert_eq!((topology.links[0].up().rate_mbit, topology.links[0].up().delay_ms), (Some(10.0), 0.0));
        assert_eq!(topology.links[0].down().delay_ms, 5.0);
        assert_eq!((topology.links[0].mtu, topology.seed), (1500, 1));
    }

    #[test]
    fn mistakes_are_named() {
        let link = |rest: &str| format!("{TWO}[[link]]\na = 'client'\nb = 'server'\n{rest}");
        let mistakes = [
            (link("up = { rate = 5 }"), "rate"),
            (link("up = { rate_mbit = -5 }"), "rate_mbit"),
            (link("mtu = 12"), "mtu"),
            (link("firewall = 'proxy-only'"), "needs proxy"),
            (link("firewall = 'proxy-only'\nproxy = 'nowhere:80'"), "nowhere"),
            (link("firewall = 'no-tcp'"), "no-tcp"),
            (link("proxy = 'server:80'"), "proxy-only"),
            (format!("{TWO}[[link]]\na = 'client'\nb = 'sever'"), "sever"),
            (format!("{TWO}[[link]]\na = 'client'\nb = 'client'"), "same host"),
            ("host = []\nlink = []".into(), "no [[host]]"),
            ("link = []\n[[host]]\nname = 'A'".into(), "lower-case"),
            ("link = []\n[[host]]\nname = 'a'\n[[host]]\nname = 'a'".into(), "twice"),
        ];
        for (text, word) in mistakes {
            let said = Topology::parse(&text).unwrap_err();
            assert!(said.contains(word), "{said:?} does not name {word:?}");
        }
    }

    #[test]
    fn the_examples_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 4);
        for file in files {
            Topology::read(&file).unwrap();
        }
    }
}
