//! The Metra client library.
//!
//! A [`Client`] is a session with one gateway. It keeps links to it, opens them again when they are lost, and carries
//! jobs ([`Client::send`], [`Client::get`]) through whatever happens to them. A job that was interrupted, by whatever,
//! goes on when the same call is made again.
//!
//! ```text
//! Client --links--> supervisor: connect, Hello, Welcome, join; again when lost
//!    |--- send: SourceJob, again with a new attempt when the gateway asks for that
//!    |--- get:  SinkJob on the local disk
//!    `--- list, remove
//! ```

mod connect;
mod error;
mod get;
mod identity;
mod links;
mod manifest;
mod masque;
mod networks;
mod paths;
mod probe;
mod reach;
mod receipts;
mod report;
mod send;
mod url;

pub use connect::{Client, ConnectOptions};
pub use error::ClientError;
pub use get::{GetRequest, GetTo};
pub use manifest::{HashError, Hashed, hash};
pub use masque::{MasqueProxy, MasqueProxyError};
pub use metra_core::priority::Priority;
pub use metra_core::rate::{Policy, RatePolicy};
pub use metra_fallback::ladder::{Outcome, Rung, Tried};
pub use metra_fallback::proxy::{Credentials, Proxy, ProxyUrlError, Rules, RulesError};
pub use metra_session::{Kpis, Rtts, Traffic};
pub use metra_transport::quic::{Congestion, Tuning};
pub use paths::save as keep_paths;
pub use probe::{Ecn, Probe, Stage, Trouble, probe};
pub use receipts::{Verified, VerifyError, keep_receipt, verify};
pub use report::{JobReport, Measured, Watch};
pub use send::SendRequest;
pub use url::{Address, DEFAULT_PORT, Url, UrlError};
