//! An ICAP client (RFC 3507): asks a content scanner about a file.
//!
//! ```text
//!              sans-io                                         sockets and time
//! Options <--OptionsExchange--+                       +-- Client: a few connections, kept open
//!                             +-- Head, chunks, text --+
//! Outcome <--Exchange---------+                       +-- scan: one file, one answer
//! ```
//!
//! A file is shown to the service as the body of a `PUT` (method REQMOD), first its beginning (Preview), then the rest
//! if the service asks for it. The service may answer before it has everything. Only "not modified" (204) means
//! [`Outcome::Clean`]; whatever is not understood is [`Outcome::Failed`], and what a failure means is the caller's
//! decision.
//!
//! Non-goals: RESPMOD, taking a modified file in place of the sent one, TLS (`icaps`), partial content (206), servers.

mod chunked;
mod client;
mod exchange;
#[cfg(test)]
mod exchange_tests;
pub mod fuzzing;
mod head;
mod options;
mod outcome;
mod pool;
mod request;
mod url;

pub use client::{Client, Settings};
pub use exchange::Exchange;
pub use options::{Options, OptionsExchange};
pub use outcome::{IcapError, Outcome};
pub use request::Subject;
pub use url::{ServiceUrl, UrlError};
