//! Which UDP targets tunnels may lead to (RFC 9298).
//!
//! ```text
//! host, port --TunnelRules::name--> Named --Named::address, for each address it has--> Permit<SocketAddr>
//!              a rule has to match            not the gateway's own, not special
//! ```
//!
//! The first step is before resolving: names that no rule allows are not even asked for. The second is on what came of
//! it, so that a name does not lead where an address would not (RFC 9298 section 7). Names are matched by rules for
//! names, addresses that were asked for by rules for ranges. What an allowed name resolves to is allowed unless it is
//! special or the gateway's own: whoever allows a name trusts those who run it with the choice of public addresses.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::content::{TunnelAction, TunnelContent};
use crate::special::{Faces, closed};
use crate::{Cidr, Host, Permit, Special, TargetRule, is_special_name};

/// The rules for targets. By default nothing is allowed.
#[derive(Clone, Debug, Default)]
pub struct TunnelRules {
    allow: Vec<TargetRule>,
    dangerous: Vec<Cidr>,
    own: Own,
    content: TunnelContent,
}

/// Where the gateway itself is. Tunnels never lead there: they would get around what it lets in, and could lead into
/// themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The sockets that the gateway listens on. Nothing opens them. With an unspecified address (`[::]:4443`): the port,
    /// at `addresses` and at loopback addresses.
    pub sockets: Vec<SocketAddr>,
    /// The addresses of this machine. Only `dangerous` opens them, for other ports than those of `sockets`.
    pub addresses: Vec<IpAddr>,
}

impl TunnelRules {
    /// What matches a rule in `allow` is allowed, except where an address is special ([`classify`](crate::classify)) and
    /// not in `dangerous`. A range in `dangerous` opens the metadata of clouds only if it is that one address.
    pub fn new(allow: Vec<TargetRule>, dangerous: Vec<Cidr>, own: Own) -> Self {
        Self { allow, dangerous, own, content: TunnelContent::default() }
    }

    /// The same rules with other addresses of the gateway.
    pub fn with_own(self, own: Own) -> Self {
        Self { own, ..self }
    }

    /// The same rules, and where no tunnel leads because content has to be scanned.
    pub fn with_content(self, content: TunnelContent) -> Self {
        Self { content, ..self }
    }

    /// Whether anything may be allowed at all.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty()
    }

    /// The first step: whether there may be tunnels to this host and port. A host that is an address needs the second
    /// step, too.
    ///
    /// # Errors
    /// No rule allows it, content for it has to be scanned, or it is a name that leads nowhere but to special addresses while none is opened.
    pub fn name(&self, host: &Host, port: u16) -> Result<Named<'_>, Denied> {
        // RFC 9298 section 3: 1 to 65535. No rule has 0.
        if !self.allow.iter().any(|rule| rule.matches(host, port)) {
            return Err(Denied::Rule);
        }
        if self.content.action(host, port) == TunnelAction::Terminate {
            return Err(Denied::Content);
        }
        match host {
            Host::Name(name) if self.dangerous.is_empty() && is_special_name(name) => Err(Denied::Name),
            Host::Name(_) => Ok(Named { rules: self, address: None, port }),
            Host::Ip(address) => Ok(Named { rules: self, address: Some(address.to_canonical()), port }),
        }
    }

    /// Whether it is the gateway's own, by itself or by an address within it.
    fn is_own(&self, address: IpAddr, port: u16) -> bool {
        let mine = |face: IpAddr| self.own.addresses.iter().any(|own| own.to_canonical() == face);
        // Sockets with an unspecified address are at all of them; a target with one is this machine, to most systems.
        let here = |face: IpAddr| face.is_loopback() || face.is_unspecified() || mine(face);
        let socket = |face: IpAddr| {
            self.own.sockets.iter().filter(|own| own.port() == port).any(|own| {
                let own = own.ip().to_canonical();
                own == face || face.is_unspecified() || own.is_unspecified() && here(face)
            })
        };
        let opened = |face: IpAddr| self.dangerous.iter().any(|range| range.contains(face));
        Faces::of(address).all().any(|face| socket(face) || mine(face) && !opened(face))
    }
}

/// A host and port that passed the first step.
#[derive(Clone, Debug)]
pub struct Named<'r> {
    rules: &'r TunnelRules,
    /// The host, if it is an address: no other will do.
    address: Option<IpAddr>,
    port: u16,
}

impl Named<'_> {
    /// The address, if there is nothing to resolve.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.address.map(|address| SocketAddr::new(address, self.port))
    }

    /// The second step: whether this address, which the host resolved to, may be sent to. IPv4 in IPv6 is permitted as
    /// IPv4; an IPv6 address without flow label and scope.
    ///
    /// # Errors
    /// The address is special or the gateway's own; or it is not what was asked for in the first step (another port, or
    /// another address than the host is). Fault in the latter case: the caller.
    pub fn address(&self, resolved: SocketAddr) -> Result<Permit<SocketAddr>, Denied> {
        let address = resolved.ip().to_canonical();
        if resolved.port() != self.port || self.address.is_some_and(|own| own != address) {
            return Err(Denied::Rule);
        }
        if let Some(special) = closed(address, &self.rules.dangerous) {
            return Err(Denied::Special(special));
        }
        if self.rules.is_own(address, self.port) {
            return Err(Denied::Own);
        }
        Ok(Permit::new(SocketAddr::new(address, self.port)))
    }

    /// The second step for all that the host resolved to: those that may be sent to, in the same order. A forbidden
    /// address among them does not spoil the others, since only a permitted one is ever dialled. Empty only if nothing
    /// was given.
    ///
    /// # Errors
    /// None of them is permitted: why the first was not.
    pub fn addresses(
        &self,
        resolved: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<Permit<SocketAddr>>, Denied> {
        let mut permits = Vec::new();
        let mut first = None;
        for address in resolved {
            match self.address(address) {
                Ok(permit) => permits.push(permit),
                Err(denied) => first = first.or(Some(denied)),
            }
        }
        match first {
            Some(denied) if permits.is_empty() => Err(denied),
            _ => Ok(permits),
        }
    }
}

/// Why there is no permit. Fault: whoever asked, or the operator who did not mean it. Asking again does not help, except
/// that a name may resolve to something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Denied {
    /// No rule allows the host and port.
    #[error("no rule allows this target")]
    Rule,
    /// Content has to be scanned, which nobody can within a tunnel.
    #[error("content for this target has to be scanned, and so cannot go through a tunnel")]
    Content,
    /// A name that leads nowhere but to special addresses.
    #[error("the name is for private use")]
    Name,
    /// A special address that is not opened.
    #[error("the address is {0}")]
    Special(Special),
    /// An address or socket of the gateway itself.
    #[error("the address is the gateway's own")]
    Own,
}

impl Denied {
    /// A word for metrics, out of a closed list.
    pub fn label(&self) -> &'static str {
        match self {
            Denied::Rule => "rule",
            Denied::Content => "content",
            Denied::Name => "name",
            Denied::Special(special) => special.name(),
            Denied::Own => "own",
        }
    }

    /// What was refused.
    pub fn refused(&self) -> Refused {
        match self {
            Denied::Rule | Denied::Content | Denied::Name => Refused::Request,
            Denied::Special(_) | Denied::Own => Refused::Address,
        }
    }
}

/// What was refused, as the proxy error types tell it apart (RFC 9209 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The request: `http_request_denied`.
    Request,
    /// The address it leads to: `destination_ip_prohibited`.
    Address,
}
