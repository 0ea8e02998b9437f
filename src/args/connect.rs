//! How a client reaches a gateway and shows who it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use metra_certs::{Pin, TrustAnchors};
use metra_client::{
    Address, Congestion, ConnectOptions, Credentials, Policy, RatePolicy, Rules, Rung, Tuning,
};

use super::rate;
use crate::exit::{Exit, Failure};
use crate::state;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// File that holds the bearer token and nothing else. Without it, METRA_TOKEN is used if it is set
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
    /// Give up when the gateway cannot be reached for so many seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    timeout: u64,
    /// Connections to use at a time; more use more processors [default: 1; over TCP up to 4, if that is faster]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: Option<u8>,
    /// How to reach the gateway: the best way that works, or this one only
    #[arg(long, value_name = "WAY", default_value = "auto")]
    via: Way,
    /// Reach it through this proxy, http://, https://, socks5:// or socks5h://[USER:PASSWORD@]HOST[:PORT], where that goes
    /// over TCP; "none" for no proxy [default: HTTPS_PROXY, ALL_PROXY and NO_PROXY, as curl has them]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// What becomes of a TLS connection that a proxy of the network opens and reads: the transfer says so, or does not use it.
    /// It works only where the network's authority is trusted (--ca); with --pin it is refused in any case
    #[arg(long, value_name = "WHAT", default_value = "allow")]
    inspection: Inspection,
    /// File that holds a bearer token for the proxy and nothing else
    #[arg(long, value_name = "FILE")]
    proxy_token_file: Option<PathBuf>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// As much as others
    Fair,
    /// The rate that --rate says, whatever others do, up to a loss of 30 %: for paths that are provisioned for it
    Fixed,
    /// More than others, but still backing off
    High,
    /// What others leave
    Low,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Inspection {
    Allow,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The best that works, and back to it when it works again
    Auto,
    /// QUIC: over UDP
    Quic,
    /// TLS over TCP, through the proxy if there is one
    Tls,
    /// WebSocket over HTTPS, likewise: where nothing but web sites is let through
    Ws,
}

impl Way {
    fn rungs(self) -> Vec<Rung> {
        match self {
            Way::Auto => Rung::ALL.to_vec(),
            Way::Quic => vec![Rung::Quic],
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

impl ConnectArgs {
    /// What the client library needs to know.
    pub(crate) fn options(&self, address: Address) -> Result<ConnectOptions, Failure> {
        let mut trust = TrustAnchors::new().system();
        // Whoever has given a folder of their own may have no home.
        if let Ok(dir) = state::gateway() {
            trust = trust.local(dir);
        }
        trust = self.ca.iter().fold(trust, |trust, file| trust.ca_file(file));
        trust = self.pin.iter().fold(trust, |trust, pin| trust.pin(*pin));
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
        Ok(ConnectOptions {
            address,
            trust,
            certificate,
            token: self.token()?,
            state: match &self.state {
                Some(dir) => dir.clone(),
                None => state::client()?,
            },
            links: self.connections(),
            links_max: self.connections.map_or(LINKS_OVER_TCP, usize::from),
            retry_for: Duration::from_secs(self.timeout),
            remember_paths: !self.no_path_memory,
            via: self.via.rungs(),
            proxy: self.proxy()?,
            refuse_inspection: self.inspection == Inspection::Refuse,
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
    fn proxy(&self) -> Result<Rules, Failure> {
        let wrong = |e: &dyn std::fmt::Display| Failure::usage(e.to_string());
        let environment = |name: &str| std::env::var(name).ok();
        let rules = Rules::new(self.proxy.as_deref(), environment).map_err(|e| wrong(&e))?;
        let Some(file) = &self.proxy_token_file else { return Ok(rules) };
        let Some(proxy) = rules.proxy().cloned() else {
            return Err(Failure::usage("--proxy-token-file is given, but there is no proxy"));
        };
        let token = read_token("--proxy-token-file", file)?;
        let proxy = proxy.with_credentials(Credentials::Bearer(token)).map_err(|e| wrong(&e))?;
        Ok(rules.with_proxy(proxy))
    }

    /// The bearer token, if there is one.
    fn token(&self) -> Result<Option<String>, Failure> {
        match &self.token_file {
            Some(file) => read_token("--token-file", file).map(Some),
            None => Ok(std::env::var("METRA_TOKEN").ok().filter(|token| !token.is_empty())),
        }
    }
}

/// The one token in a file that an option names.
fn read_token(option: &str, file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::new(Exit::Usage, format!("{option} {shown}: {e}")))?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
        let message = format!("{option} {shown}: it should hold one token of visible ASCII characters");
        return Err(Failure::usage(message));
    }
    Ok(token.to_owned())
}
