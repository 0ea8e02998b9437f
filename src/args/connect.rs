//! How a client reaches a gateway and shows who it is: from options, the configuration ([`settings`](crate::settings)) and the
//! environment, in this order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use metra_certs::{Pin, TrustAnchors};
use metra_client::{
    Address, Congestion, ConnectOptions, Credentials, MasqueProxy, Policy, RatePolicy, Rules, Rung, Tuning,
};
use serde::Deserialize;

use super::rate;
use crate::exit::{Exit, Failure};
use crate::settings::{Chosen, Settings};
use crate::state;

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// File that holds the bearer token and nothing else. Without it, and without one in the configuration, METRA_TOKEN is used
    /// if it is set
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Client certificate chain (PEM), for gateways that ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM, unencrypted)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Trust the certificate authorities in this file (PEM), and no others; may be repeated
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Trust the gateway whose key has this pin (sha256/...); may be repeated
    #[arg(long, value_name = "PIN")]
    pin: Vec<Pin>,
    /// Folder for hashes of files, journal and receipts [default: the "client" folder in $METRA_STATE,
    /// $XDG_STATE_HOME/metra or ~/.local/state/metra]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Give up when the gateway cannot be reached for so many seconds [default: 60]
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    /// Connections to use at a time; more use more processors [default: 1; over TCP up to 4, if that is faster]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: Option<u8>,
    /// How to reach the gateway: the best way that works, or this one only [default: auto]
    #[arg(long, value_name = "WAY")]
    via: Option<Way>,
    /// Reach it through this proxy, http://, https://, socks5:// or socks5h://[USER:PASSWORD@]HOST[:PORT], where that goes
    /// over TCP; "none" for no proxy [default: that of the configuration, else HTTPS_PROXY, ALL_PROXY and NO_PROXY, as curl
    /// has them]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// What becomes of a TLS connection that a proxy of the network opens and reads: the transfer says so, or does not use it.
    /// It works only where the network's authority is trusted (--ca); with --pin it is refused in any case [default: allow]
    #[arg(long, value_name = "WHAT")]
    inspection: Option<Inspection>,
    /// File that holds a bearer token for the proxy and nothing else
    #[arg(long, value_name = "FILE")]
    proxy_token_file: Option<PathBuf>,
    /// For --via masque and auto: proxy for UDP (MASQUE), https://[USER:PASSWORD@]HOST[:PORT][/PATH], a URI template with
    /// {target_host} and {target_port} [default: the gateway itself]; given twice, the second is reached through the first
    #[arg(long, value_name = "TEMPLATE")]
    masque_proxy: Vec<String>,
    /// File that holds a bearer token for the MASQUE proxy and nothing else; given twice, the second is for the second proxy
    #[arg(long, value_name = "FILE")]
    masque_token_file: Vec<PathBuf>,
    /// Client certificate chain (PEM) for MASQUE proxies that ask for one
    #[arg(long, value_name = "FILE", requires = "masque_key")]
    masque_cert: Option<PathBuf>,
    /// Private key of the certificate for MASQUE proxies (PEM, unencrypted)
    #[arg(long, value_name = "FILE", requires = "masque_cert")]
    masque_key: Option<PathBuf>,
    /// Congestion controller [default: what the transport finds best]
    #[arg(long, value_name = "NAME")]
    congestion: Option<CongestionName>,
    /// Start as slowly as on an unknown path, and remember nothing of this one. Otherwise what a path to a gateway carries is
    /// kept in the state folder, and connections within an hour start from half of it
    #[arg(long)]
    no_path_memory: bool,
    /// How the path is shared with others, if the gateway grants it; else it is fair, and a warning says so
    #[arg(long, value_name = "POLICY", default_value = "fair")]
    rate_policy: PolicyName,
    /// The rate to hold with --rate-policy fixed, and to stay below with the others: 5mbit to 1000gbit, all connections
    /// together
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    rate: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// As much as others
    #[default]
    Fair,
    /// The rate that --rate says, whatever others do, up to a loss of 30 %: for paths that are provisioned for it
    Fixed,
    /// More than others, but still backing off
    High,
    /// What others leave
    Low,
}

/// What becomes of a TLS connection that somebody in between reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Inspection {
    #[default]
    Allow,
    Refuse,
}

/// Which ways to a gateway may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// The best that works, and back to it when it works again
    #[default]
    Auto,
    /// QUIC: over UDP
    Quic,
    /// QUIC in a tunnel of HTTP/3, or of HTTPS over TCP, through --masque-proxy if there is one
    Masque,
    /// The same over TCP only
    #[serde(rename = "masque-tcp")]
    MasqueTcp,
    /// TLS over TCP, through the proxy if there is one
    Tls,
    /// WebSocket over HTTPS, likewise: where nothing but web sites is let through
    Ws,
}

impl Way {
    /// The rungs, the best first. QUIC within TCP repairs losses twice: it is for proxies that are reached in no other way, and
    /// where TCP leads to the gateway itself, TLS is the better use of it.
    fn rungs(self, has_masque_proxy: bool) -> Vec<Rung> {
        match self {
            Way::Auto if has_masque_proxy => Rung::ALL.to_vec(),
            Way::Auto => Rung::ALL.into_iter().filter(|rung| *rung != Rung::MasqueTcp).collect(),
            Way::Quic => vec![Rung::Quic],
            Way::Masque => vec![Rung::Masque, Rung::MasqueTcp],
            Way::MasqueTcp => vec![Rung::MasqueTcp],
            Way::Tls => vec![Rung::Tls],
            Way::Ws => vec![Rung::WebSocket],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CongestionName {
    /// Backs off at every loss
    Cubic,
    /// BBRv2: follows the measured bandwidth and delay, and bears random loss
    Bbr2,
    /// The QUIC library's BBR: overfills queues
    Bbr,
}

/// Connections over TCP, where nothing else is said, and where they make it faster.
const LINKS_OVER_TCP: usize = 4;
/// MASQUE proxies, one behind the other.
pub(crate) const MASQUE_MAX: usize = 2;
/// How long to try to reach a gateway. Seconds.
const TIMEOUT: u64 = 60;

/// What the command line, the configuration and the environment say together.
pub(crate) struct Asked {
    /// What the client library needs to know.
    pub(crate) options: ConnectOptions,
    /// What the user should know of the configuration, if anything.
    pub(crate) warning: Option<String>,
}

impl ConnectArgs {
    /// How to reach this gateway: as the command line says, else the user's configuration, else the environment.
    ///
    /// # Errors
    /// One of these is wrong, or a file that it names. Fault: the user.
    pub(crate) fn asked(&self, address: &Address) -> Result<Asked, Failure> {
        let settings = Settings::load()?;
        let options = self.options(address.clone(), &settings.for_gateway(address))?;
        Ok(Asked { options, warning: settings.warning })
    }

    fn options(&self, address: Address, chosen: &Chosen) -> Result<ConnectOptions, Failure> {
        // Whoever says whom to trust says all of it.
        let (ca, pins) = if self.ca.is_empty() && self.pin.is_empty() {
            (&chosen.ca, &chosen.pins)
        } else {
            (&self.ca, &self.pin)
        };
        let trust = trust(ca, pins);
        let certificate = self.cert.clone().zip(self.key.clone());
        // Looked at here first: a file that is no certificate is wrong use, and no fault of the gateway.
        metra_certs::client_config(
            &trust,
            certificate.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path())),
        )
        .map_err(|e| Failure::usage(e.to_string()))?;
        let default = Tuning::default();
        let congestion = self.congestion.map_or(default.congestion, |name| match name {
            CongestionName::Cubic => Congestion::Cubic,
            CongestionName::Bbr2 => Congestion::Bbr2,
            CongestionName::Bbr => Congestion::Bbr,
        });
        let masque = self.masque(chosen)?;
        Ok(ConnectOptions {
            address,
            trust,
            certificate,
            token: self.token(chosen)?,
            state: match &self.state {
                Some(dir) => dir.clone(),
                None => state::client()?,
            },
            links: self.connections(),
            links_max: self.connections.map_or(LINKS_OVER_TCP, usize::from),
            retry_for: Duration::from_secs(self.timeout.or(chosen.timeout).unwrap_or(TIMEOUT)),
            remember_paths: !self.no_path_memory,
            via: self.via.or(chosen.via).unwrap_or_default().rungs(!masque.is_empty()),
            proxy: self.proxy(chosen, |name| std::env::var(name).ok())?,
            masque,
            refuse_inspection: self.inspection.or(chosen.inspection).unwrap_or_default()
                == Inspection::Refuse,
            rate: self.rate(congestion)?,
            tuning: Tuning { congestion, ..default },
            agent: concat!("metra/", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }

    fn connections(&self) -> usize {
        self.connections.map_or(1, usize::from)
    }

    /// How the path shall be shared, if that is not the default.
    fn rate(&self, congestion: Congestion) -> Result<Option<RatePolicy>, Failure> {
        let policy = match self.rate_policy {
            PolicyName::Fair => Policy::Fair,
            PolicyName::Fixed => Policy::Fixed,
            PolicyName::High => Policy::High,
            PolicyName::Low => Policy::Low,
        };
        let rate = RatePolicy::new(policy, self.rate)
            .ok_or_else(|| Failure::usage("--rate-policy fixed needs a rate: --rate 500mbit, for example"))?;
        if self.rate.is_some_and(|rate| rate / (self.connections() as u64) < rate::MIN) {
            return Err(Failure::usage("--rate is less than 5mbit for each of the --connections"));
        }
        let asked = (rate != RatePolicy::default()).then_some(rate);
        if asked.is_some() && congestion != Congestion::Bbr2 {
            return Err(Failure::usage("--rate-policy and --rate go with --congestion bbr2 only"));
        }
        Ok(asked)
    }

    /// Which proxy is for which host.
    fn proxy(&self, chosen: &Chosen, environment: impl Fn(&str) -> Option<String>) -> Result<Rules, Failure> {
        let wrong = |e: &dyn std::fmt::Display| Failure::usage(e.to_string());
        let environment = |name: &str| match (&chosen.no_proxy, name) {
            (Some(hosts), "no_proxy") => Some(hosts.clone()),
            (Some(_), "NO_PROXY") => None,
            _ => environment(name),
        };
        let explicit = self.proxy.as_deref().or(chosen.proxy.as_deref());
        let rules = Rules::new(explicit, environment).map_err(|e| wrong(&e))?;
        let (setting, file) = match (&self.proxy_token_file, &self.proxy) {
            (Some(file), _) => ("--proxy-token-file", Some(file)),
            (None, None) => ("proxy_token_file", chosen.proxy_token_file.as_ref()),
            // What the configuration has is not for a proxy of the command line.
            (None, Some(_)) => return Ok(rules),
        };
        let Some(file) = file else { return Ok(rules) };
        let Some(proxy) = rules.proxy().cloned() else {
            return match &self.proxy_token_file {
                Some(_) => Err(Failure::usage("--proxy-token-file is given, but there is no proxy")),
                None => Ok(rules),
            };
        };
        let token = read_token(setting, file)?;
        let proxy = proxy.with_credentials(Credentials::Bearer(token)).map_err(|e| wrong(&e))?;
        Ok(rules.with_proxy(proxy))
    }

    /// The MASQUE proxies, the nearest first. Tokens are for those of the same place, in the same order.
    fn masque(&self, chosen: &Chosen) -> Result<Vec<MasqueProxy>, Failure> {
        let option = ["--masque-proxy", "--masque-token-file"];
        let (names, urls, tokens) = if self.masque_proxy.is_empty() && self.masque_token_file.is_empty() {
            (["masque_proxy", "masque_token_file"], &chosen.masque, &chosen.masque_tokens)
        } else if self.masque_proxy.is_empty() {
            (option, &chosen.masque, &self.masque_token_file)
        } else {
            // What the configuration has is not for a proxy of the command line.
            (option, &self.masque_proxy, &self.masque_token_file)
        };
        let [proxy_name, token_name] = names;
        let wrong = |e: &dyn std::fmt::Display| Failure::usage(format!("{proxy_name}: {e}"));
        if urls.len() > MASQUE_MAX {
            return Err(wrong(&"there are two proxies at most"));
        }
        if tokens.len() > urls.len() {
            return Err(Failure::usage(format!(
                "{token_name} is given, but there is no MASQUE proxy for it"
            )));
        }
        let certificate = self.masque_cert.clone().zip(self.masque_key.clone());
        if certificate.is_some() && urls.is_empty() {
            return Err(Failure::usage("--masque-cert is given, but there is no MASQUE proxy"));
        }
        let mut proxies = Vec::new();
        for (at, url) in urls.iter().enumerate() {
            let mut proxy: MasqueProxy = url.parse().map_err(|e| wrong(&e))?;
            if let Some(file) = tokens.get(at) {
                if *proxy.credentials() != Credentials::None {
                    return Err(wrong(&format!(
                        "{proxy} has a user in it, and there is a token for it, too"
                    )));
                }
                proxy = proxy.with_token(read_token(token_name, file)?).map_err(|e| wrong(&e))?;
            }
            if let Some((cert, key)) = &certificate {
                proxy = proxy.with_certificate(cert.clone(), key.clone());
            }
            proxies.push(proxy);
        }
        Ok(proxies)
    }

    /// The bearer token, if there is one.
    fn token(&self, chosen: &Chosen) -> Result<Option<String>, Failure> {
        match (&self.token_file, &chosen.token_file) {
            (Some(file), _) => read_token("--token-file", file).map(Some),
            (None, Some(file)) => read_token("token_file", file).map(Some),
            (None, None) => Ok(std::env::var("METRA_TOKEN").ok().filter(|token| !token.is_empty())),
        }
    }
}

/// Whom to trust: the authorities of the system, the gateway of this machine, and these; or these authorities only.
pub(super) fn trust(ca: &[PathBuf], pins: &[Pin]) -> TrustAnchors {
    let mut trust = TrustAnchors::new().system();
    // Whoever has given a folder of their own may have no home.
    if let Ok(dir) = state::gateway() {
        trust = trust.local(dir);
    }
    trust = ca.iter().fold(trust, |trust, file| trust.ca_file(file));
    pins.iter().fold(trust, |trust, pin| trust.pin(*pin))
}

/// The one token in a file that an option or a key of the configuration names.
pub(super) fn read_token(setting: &str, file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::new(Exit::Usage, format!("{setting} {shown}: {e}")))?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
        let message = format!("{setting} {shown}: it should hold one token of visible ASCII characters");
        return Err(Failure::usage(message));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_client::Proxy;

    use super::*;

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    /// The proxy of the command line, of the configuration and of the environment; which is used, and what is shown to it.
    fn used(
        option: Option<&str>,
        chosen: &Chosen,
        variables: &[(&str, &str)],
    ) -> Option<(String, Credentials)> {
        let args = ConnectArgs { proxy: option.map(str::to_owned), ..ConnectArgs::default() };
        let environment =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let rules = args.proxy(chosen, environment).unwrap();
        let target = metra_fallback::Target { host: "gw.example".to_owned(), port: 4443 };
        rules.for_target(&target).map(|proxy: &Proxy| (proxy.to_string(), proxy.credentials().clone()))
    }

    #[test]
    fn option_then_configuration_then_environment() {
        let none = Chosen::default();
        let file = Chosen { proxy: text("http://file:1"), ..Chosen::default() };
        let off = Chosen { proxy: text("none"), ..Chosen::default() };
        let variables = [("HTTPS_PROXY", "http://env:1")];
        let name = |option, chosen, variables| used(option, chosen, variables).map(|(name, _)| name);
        assert_eq!(name(Some("http://option:1"), &file, &variables), text("http://option:1"));
        assert_eq!(name(Some("none"), &file, &variables), None);
        assert_eq!(name(None, &file, &variables), text("http://file:1"));
        assert_eq!(name(None, &off, &variables), None);
        assert_eq!(name(None, &none, &variables), text("http://env:1"));
        assert_eq!(name(None, &none, &[]), None);
    }

    #[test]
    fn exceptions_of_the_configuration_come_before_those_of_the_environment() {
        let except = |hosts: &str| Chosen { no_proxy: text(hosts), ..Chosen::default() };
        let proxy = ("HTTPS_PROXY", "http://env:1");
        let is_used = |chosen: &Chosen, list| used(None, chosen, &[proxy, ("NO_PROXY", list)]).is_some();
        assert!(is_used(&Chosen::default(), "other") && !is_used(&Chosen::default(), ".example"));
        assert!(is_used(&except("other"), ".example") && !is_used(&except(".example"), "other"));
        assert!(is_used(&except(""), ".example"), "an empty list is a list");
        assert!(used(Some("http://option:1"), &except(".example"), &[]).is_none(), "as with NO_PROXY");
    }

    #[test]
    fn a_token_of_the_configuration_is_not_shown_to_a_proxy_of_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        let shown = Credentials::Bearer("secret".to_owned());
        let alone = Chosen { proxy_token_file: Some(file), ..Chosen::default() };
        let both = Chosen { proxy: text("http://file:1"), ..alone.clone() };
        let variables = [("HTTPS_PROXY", "http://env:1")];
        assert_eq!(used(None, &both, &variables), Some(("http://file:1".to_owned(), shown.clone())));
        assert_eq!(used(None, &alone, &variables), Some(("http://env:1".to_owned(), shown)));
        let other = Some(("http://option:1".to_owned(), Credentials::None));
        assert_eq!(used(Some("http://option:1"), &both, &variables), other);
        assert_eq!(used(Some("none"), &both, &variables), None);
    }
}
