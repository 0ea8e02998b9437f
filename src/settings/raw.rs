//! The file as it is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use metra_gateway::config::OneOrMany;
use serde::Deserialize;

use crate::args::{Inspection, Way};

/// The keys of the file, and of a gateway's table in it. Which may stand where is checked later, for a better word than
/// "unknown". Paths are relative to the folder of the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    /// The proxy that TCP goes through, as for `--proxy`; `none`: no proxy, whatever the environment says. Default: that of the
    /// environment.
    pub(super) proxy: Option<String>,
    /// Hosts that are reached without the proxy, as in `NO_PROXY`, or a list of them. Default: `NO_PROXY`.
    pub(super) no_proxy: Option<OneOrMany>,
    /// File with a bearer token for the proxy of the same table, or of a more general place.
    pub(super) proxy_token_file: Option<PathBuf>,
    /// The proxy for UDP, as for `--masque-proxy`, or a list of two of which the first is the nearer one; `none` or an empty list:
    /// no proxy. Default: the gateway itself.
    pub(super) masque_proxy: Option<OneOrMany>,
    /// File with a bearer token for the MASQUE proxy of the same table, or a list in the order of the proxies.
    pub(super) masque_token_file: Option<OneOrMany>,
    /// How to reach gateways. Default `auto`.
    pub(super) via: Option<Way>,
    /// What becomes of TLS that is inspected. Default `allow`.
    pub(super) inspection: Option<Inspection>,
    /// PEM files of the authorities to trust, and no others.
    pub(super) ca: Option<OneOrMany>,
    /// How long to try to reach a gateway. Seconds; default 60.
    pub(super) timeout_seconds: Option<u64>,
    /// Of a gateway only: the pins of its key.
    pub(super) pin: Option<OneOrMany>,
    /// Of a gateway only: file with the bearer token that is shown to it.
    pub(super) token_file: Option<PathBuf>,
    /// Not of a gateway: by `HOST:PORT`, what is different for one.
    pub(super) gateway: BTreeMap<String, Raw>,
}
