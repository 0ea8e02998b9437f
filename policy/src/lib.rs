//! What is allowed. Decisions only: no clock, no socket, no file.
//!
//! ```text
//! text of the request --Host::parse--> Host --TunnelRules::name--> Named --(resolver)--> addresses
//!                                                                    |                       |
//!                                                                    +--Named::address-------+--> Permit<SocketAddr>
//! ```
//!
//! Whoever opens a socket takes a [`Permit`] and nothing else, and only this crate makes one: so what was decided on is
//! what is dialled. The rules behind [`TunnelRules`] may become another engine; [`Host`], the two steps, [`Permit`] and
//! [`Denied`] stay.
//!
//! [`shape`] decides how fast and how much: tenants, rates, calendars, quotas.
//! [`content`] has the rules for what clients send.
//!
//! Non-goals: who may open tunnels at all and how many (the gateway), status codes (the tunnel's responses).

mod attempts;
pub mod audit;
mod cidr;
pub mod content;
pub mod engine;
mod host;
#[cfg(test)]
mod host_tests;
mod permit;
mod rule;
pub mod shape;
mod special;
#[cfg(test)]
mod special_tests;
mod tunnel;
#[cfg(test)]
mod tunnel_tests;

pub use attempts::Attempts;
pub use cidr::{Cidr, CidrError};
pub use host::{Host, HostError};
pub use permit::Permit;
pub use rule::{Ports, RuleError, TargetRule};
pub use special::{Special, classify, is_special_name};
pub use tunnel::{Denied, Named, Own, Refused, TunnelRules};
