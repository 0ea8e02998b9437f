//! The audit trail: what was decided and what was carried, a record a line.
//!
//! ```text
//! who, where, what, outcome --> Record --json--> OCSF 1.4.0, one object a line
//!                                     `--cef---> CEF:0, one line
//! ```
//!
//! What peers choose (names, paths, hosts) is bounded and escaped here and nowhere else: whatever they send, a record is one
//! line of at most [`LINE_MAX`] bytes, and nothing in it can pass for another record or field. `docs/audit.md` has each field.
//!
//! Non-goals: where lines go and what happens if they cannot (the gateway). There is never payload, token or key in a record:
//! nothing here has a place for them.

mod cef;
mod json;
mod record;
#[cfg(test)]
mod tests;
mod text;

pub use record::{Action, Event, Record, Resource, Traffic, Verdict, Way};

/// The longest line, without its end. Bytes. What RFC 5425 section 4.3.1 wants every receiver of syslog to take.
pub const LINE_MAX: usize = 8192;

/// The version of the OCSF schema that [`Record::json`] follows (<https://schema.ocsf.io/1.4.0/>).
pub const OCSF_VERSION: &str = "1.4.0";
