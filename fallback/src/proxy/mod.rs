//! Proxies: which one is for which host, and how one is asked for a connection.
//!
//! Non-goals: PAC files and the discovery of proxies; Negotiate, NTLM and Digest, for which local helpers exist.

mod challenge;
pub(crate) mod connect;
mod rules;
pub(crate) mod socks;
mod url;

pub use rules::{Rules, RulesError};
pub use url::{Credentials, Proxy, ProxyUrlError, Scheme};
