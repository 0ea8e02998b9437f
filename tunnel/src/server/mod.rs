//! The proxy: grants requests for tunnels, and relays.
//!
//! ```text
//!  asked   what a request asks for        (then: who asks, policy on the name, resolve, policy on the address, dial)
//!  grant   the answer, and the tunnel
//!  relay   to the UDP socket of the target, within a throttle
//! ```
//!
//! Non-goals: who may do what, names, and how many there may be: that is for who calls this.

mod grant;
mod relay;
#[cfg(test)]
mod tests;
mod throttle;

use metra_fallback::http::Busy;

use crate::carrier::Carrier;

pub use grant::{CONNECT_UDP, Refusal, asked, grant};
pub use relay::{Bounds, Dialled, RelayEnd, Traffic, dial};
pub use throttle::{Rates, Throttle};

/// A tunnel that was granted.
#[derive(Debug)]
pub struct Tunnel {
    /// What comes through it.
    pub carrier: Carrier,
    /// Keeps the connection that it is in.
    pub busy: Option<Busy>,
}
