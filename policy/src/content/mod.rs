//! What may be kept of what clients send: rules on the name, the type and the size of files.
//!
//! ```text
//! manifest:  name, size --ContentRules::announced--> refused before a byte of it is asked for
//! whole:     name, size, first bytes --ContentRules::decide--> Action
//! Action::Scan: a service is asked, and its answer says keep, or what Scan::found says
//! ```
//!
//! Rules are tried in order, the first that matches decides, and what none matches is allowed: who may send at all is
//! decided elsewhere. The type is what the first bytes say, whatever the name says.
//!
//! Non-goals: looking into archives (the service does), reading files, asking services.

mod kind;
mod rule;
mod tunnels;

#[cfg(test)]
mod tests;

pub use kind::{HEAD, Kind, KindError, KindPattern, KindPatternError};
pub use rule::{Action, ContentRule, ContentRules, Decision, NamePattern, NamePatternError, Otherwise, Scan};
pub use tunnels::{TunnelAction, TunnelContent, TunnelContentRule};
