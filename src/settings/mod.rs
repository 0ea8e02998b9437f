//! The configuration file of the clients: how gateways are reached, as far as the command line does not say it.
//!
//! ```text
//! $METRA_CONFIG, else $XDG_CONFIG_HOME/metra/client.toml, else ~/.config/metra/client.toml
//!   --read--> Raw --check--> Settings | every fault, with its line
//!                               |  for_gateway: the gateway's own table before what is for all
//!                               v
//!                             Chosen --(options come first, the environment last)--> args::ConnectArgs
//! ```
//!
//! `docs/client.example.toml` shows every key. Files that it names are only opened by those who use them: one for another gateway
//! need not be there.

mod check;
mod place;
mod raw;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use metra_certs::Pin;
use metra_client::Address;

use self::place::Place;
use crate::args::{Inspection, Way};
use crate::exit::Failure;

/// What the file says, checked; empty if there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    everywhere: Table,
    gateways: Vec<(Address, Table)>,
    /// What its user should know of the file, in words.
    pub(crate) warning: Option<String>,
}

/// One table. What it does not say is `None`, or empty; paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    proxy: Option<String>,
    no_proxy: Option<String>,
    proxy_token_file: Option<PathBuf>,
    /// `None`: it says nothing of it.
    masque: Option<Vec<String>>,
    masque_tokens: Vec<PathBuf>,
    via: Option<Way>,
    inspection: Option<Inspection>,
    ca: Vec<PathBuf>,
    pins: Vec<Pin>,
    timeout: Option<u64>,
    token_file: Option<PathBuf>,
}

/// What the file says of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// As `--proxy`: the URL of a proxy, which can be parsed, or that there is none.
    pub(crate) proxy: Option<String>,
    /// In place of `NO_PROXY`.
    pub(crate) no_proxy: Option<String>,
    /// As `--proxy-token-file`, for [`proxy`](Self::proxy) or, if that is `None`, for the proxy of the environment. Never for
    /// one of the command line: what is secret is not shown to a proxy that the file does not know.
    pub(crate) proxy_token_file: Option<PathBuf>,
    /// As `--masque-proxy`: templates, which can be parsed.
    pub(crate) masque: Vec<String>,
    /// As `--masque-token-file`, for [`masque`](Self::masque) and never for one of the command line.
    pub(crate) masque_tokens: Vec<PathBuf>,
    /// As `--via`.
    pub(crate) via: Option<Way>,
    /// As `--inspection`.
    pub(crate) inspection: Option<Inspection>,
    /// As `--ca`.
    pub(crate) ca: Vec<PathBuf>,
    /// As `--pin`.
    pub(crate) pins: Vec<Pin>,
    /// As `--timeout`. Seconds.
    pub(crate) timeout: Option<u64>,
    /// As `--token-file`.
    pub(crate) token_file: Option<PathBuf>,
}

impl Settings {
    /// What is in the file of this user; nothing if there is none in one of the usual places.
    ///
    /// # Errors
    /// All that is wrong with it, or the file that `METRA_CONFIG` names is not there. Fault: whoever wrote it.
    pub(crate) fn load() -> Result<Self, Failure> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        match place::choose(set("METRA_CONFIG"), set("XDG_CONFIG_HOME"), set("HOME")) {
            Some(Place { file, is_named: false }) if is_absent(&file) => Ok(Self::default()),
            Some(Place { file, .. }) => Self::read(&file),
            None => Ok(Self::default()),
        }
    }

    /// What is in a file.
    ///
    /// # Errors
    /// All that is wrong with it. Fault: whoever wrote or named it.
    fn read(file: &Path) -> Result<Self, Failure> {
        check::read(file).map_err(|errors| Failure::usage(errors.to_string()))
    }

    /// What counts for one gateway: what its own table says, then what is said for all. `ca` and `pin` together say whom to
    /// trust: a table that has one of them says all of it. So do `proxy` and `no_proxy`, so that a proxy for one gateway
    /// is not taken from it by a list that was made for others.
    pub(crate) fn for_gateway(&self, address: &Address) -> Chosen {
        let all = &self.everywhere;
        let none = Table::default();
        let own = self.gateways.iter().find(|(of, _)| is_same(of, address)).map_or(&none, |(_, own)| own);
        let trust = if own.ca.is_empty() && own.pins.is_empty() { all } else { own };
        let of_proxies = if own.proxy.is_some() { own } else { all };
        let of_masque = if own.masque.is_some() { own } else { all };
        // What is shown to proxies belongs to those of its own table, and to those that are said in more general places.
        let token = own.proxy_token_file.as_ref();
        let token = token.or(all.proxy_token_file.as_ref().filter(|_| own.proxy.is_none()));
        Chosen {
            proxy: of_proxies.proxy.clone(),
            no_proxy: own.no_proxy.clone().or_else(|| of_proxies.no_proxy.clone()),
            proxy_token_file: token.cloned(),
            masque: of_masque.masque.clone().unwrap_or_default(),
            masque_tokens: of_masque.masque_tokens.clone(),
            via: own.via.or(all.via),
            inspection: own.inspection.or(all.inspection),
            ca: trust.ca.clone(),
            pins: trust.pins.clone(),
            timeout: own.timeout.or(all.timeout),
            token_file: own.token_file.clone(),
        }
    }
}

/// Whether nothing is there. A file that is there and cannot be read is an error.
fn is_absent(file: &Path) -> bool {
    // A component that is no directory is as good as none that is there.
    use std::io::ErrorKind::{NotADirectory, NotFound};
    std::fs::metadata(file).is_err_and(|e| matches!(e.kind(), NotFound | NotADirectory))
}

/// Whether both name the same gateway: names in small or capital letters, addresses in any form.
fn is_same(one: &Address, other: &Address) -> bool {
    let ip = |address: &Address| address.host.parse::<IpAddr>().ok();
    let same_host = match (ip(one), ip(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.host.eq_ignore_ascii_case(&other.host),
    };
    same_host && one.port == other.port
}
