//! The header field `Proxy-Status` (RFC 9209): what a proxy says about a response, and above all why it refuses.
//!
//! A list, a member for each proxy on the way. The first is the one closest to the origin, the last the one closest to
//! the user (RFC 9209, section 2), so every proxy appends.

use std::fmt;

use crate::fields::{Reader, put_string};

/// Name of the field.
pub const NAME: &str = "proxy-status";
/// How this proxy names itself in it.
pub const PROXY: &str = "metra";
/// Longest details and names of next hops that are sent; the rest is cut off. Characters.
pub const DETAILS_MAX: usize = 256;
/// Longest value that is read; the rest is not looked at. Bytes.
pub const FIELD_MAX: usize = 8192;
/// Most members that are read.
pub const MEMBERS_MAX: usize = 32;

/// Why a response is not what was asked for (RFC 9209, section 2.3): those types that a proxy of UDP can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// The name was not resolved in time.
    DnsTimeout,
    /// The name could not be resolved.
    DnsError,
    /// There is no rule where this goes.
    DestinationNotFound,
    /// The target is known to be down.
    DestinationUnavailable,
    /// The target's address is one that must not be reached.
    DestinationIpProhibited,
    /// There is no route to the target's address.
    DestinationIpUnroutable,
    /// The target refused.
    ConnectionRefused,
    /// The connection to the target was closed early.
    ConnectionTerminated,
    /// Connecting took too long.
    ConnectionTimeout,
    /// There are as many connections or tunnels as there may be.
    ConnectionLimitReached,
    /// The request is wrong.
    HttpRequestError,
    /// Policy denies the request.
    HttpRequestDenied,
    /// Something failed in here.
    ProxyInternalError,
    /// The configuration is wrong.
    ProxyConfigurationError,
    /// The request came to where it came from.
    ProxyLoopDetected,
}

impl ErrorType {
    /// All types, in the order of RFC 9209.
    pub const ALL: [Self; 15] = [
        Self::DnsTimeout,
        Self::DnsError,
        Self::DestinationNotFound,
        Self::DestinationUnavailable,
        Self::DestinationIpProhibited,
        Self::DestinationIpUnroutable,
        Self::ConnectionRefused,
        Self::ConnectionTerminated,
        Self::ConnectionTimeout,
        Self::ConnectionLimitReached,
        Self::HttpRequestError,
        Self::HttpRequestDenied,
        Self::ProxyInternalError,
        Self::ProxyConfigurationError,
        Self::ProxyLoopDetected,
    ];

    /// The name in the field.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DnsTimeout => "dns_timeout",
            Self::DnsError => "dns_error",
            Self::DestinationNotFound => "destination_not_found",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::DestinationIpProhibited => "destination_ip_prohibited",
            Self::DestinationIpUnroutable => "destination_ip_unroutable",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionLimitReached => "connection_limit_reached",
            Self::HttpRequestError => "http_request_error",
            Self::HttpRequestDenied => "http_request_denied",
            Self::ProxyInternalError => "proxy_internal_error",
            Self::ProxyConfigurationError => "proxy_configuration_error",
            Self::ProxyLoopDetected => "proxy_loop_detected",
        }
    }

    /// The recommended status code of the response (RFC 9209, section 2.3). For [`ErrorType::HttpRequestError`] it is
    /// "the applicable 4xx", of which this is the most general.
    pub const fn status(self) -> u16 {
        match self {
            Self::HttpRequestError => 400,
            Self::HttpRequestDenied => 403,
            Self::DestinationNotFound | Self::ProxyInternalError | Self::ProxyConfigurationError => 500,
            Self::DnsError
            | Self::DestinationIpProhibited
            | Self::DestinationIpUnroutable
            | Self::ConnectionRefused
            | Self::ConnectionTerminated
            | Self::ProxyLoopDetected => 502,
            Self::DestinationUnavailable | Self::ConnectionLimitReached => 503,
            Self::DnsTimeout | Self::ConnectionTimeout => 504,
        }
    }

    /// The type of this name, if it is one of these.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.name() == name)
    }
}

/// This proxy's member of the list. Shown as it stands in the field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyStatus {
    error: Option<ErrorType>,
    rcode: Option<String>,
    next_hop: Option<String>,
    details: Option<String>,
}

impl ProxyStatus {
    /// A response that is refused for this reason; its status code is [`ErrorType::status`].
    pub fn error(error: ErrorType) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// A response to a tunnel that goes to `hop`: an address or a name, never one that must stay unknown to the client.
    pub fn next_hop(self, hop: impl Into<String>) -> Self {
        Self { next_hop: Some(hop.into()), ..self }
    }

    /// A few words more, in English, without anything secret. What is not printable ASCII is lost.
    pub fn details(self, details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..self }
    }

    /// What the DNS answered, such as `NXDOMAIN`; only sent with [`ErrorType::DnsError`] (RFC 9209, section 2.3.2).
    pub fn rcode(self, rcode: impl Into<String>) -> Self {
        Self { rcode: Some(rcode.into()), ..self }
    }

    /// The field's value for a response that came with `existing` (its lines joined by commas), whose members stay in
    /// front as they are (RFC 9209, section 2). A value that is no list counts as absent (RFC 9651, section 4.2):
    /// appended to, it would take this member along.
    pub fn append_to(&self, existing: &str) -> String {
        match read(existing.as_bytes()) {
            (_, true) => format!("{}, {self}", existing.trim_matches(' ')),
            (_, false) => self.to_string(),
        }
    }
}

impl fmt::Display for ProxyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = PROXY.to_owned();
        if let Some(error) = self.error {
            out.push_str("; error=");
            out.push_str(error.name());
        }
        let rcode = self.rcode.as_ref().filter(|_| self.error == Some(ErrorType::DnsError));
        for (name, value) in
            [("rcode", rcode), ("next-hop", self.next_hop.as_ref()), ("details", self.details.as_ref())]
        {
            if let Some(value) = value {
                out.push_str("; ");
                out.push_str(name);
                out.push('=');
                put_string(value, DETAILS_MAX, &mut out);
            }
        }
        f.write_str(&out)
    }
}

/// What one proxy says. All of it is the word of a peer: to be shown, not to be relied on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// How the proxy names itself.
    pub proxy: String,
    /// Name of the error type, which need not be one of [`ErrorType`].
    pub error: Option<String>,
    /// What else the proxy says about it.
    pub details: Option<String>,
    /// Where the proxy went with the request.
    pub next_hop: Option<String>,
}

impl Member {
    /// The error type, if it is a known one.
    pub fn error_type(&self) -> Option<ErrorType> {
        self.error.as_deref().and_then(ErrorType::from_name)
    }
}

/// `PROXY says ERROR (DETAILS)`, for a message to the user.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} says {}", self.proxy, self.error.as_deref().unwrap_or("nothing of an error"))?;
        self.details.iter().try_for_each(|details| write!(f, " ({details})"))
    }
}

/// The members of a value (its lines joined by commas), from the proxy closest to the origin to the one closest to the
/// user: at most [`MEMBERS_MAX`], of the first [`FIELD_MAX`] bytes, up to where it breaks the format.
pub fn members(field: &str) -> Vec<Member> {
    read(&field.as_bytes()[..field.len().min(FIELD_MAX)]).0
}

/// The member that is the cause: the first that names an error, since proxies closer to the user only pass it on.
pub fn cause(field: &str) -> Option<Member> {
    members(field).into_iter().find(|member| member.error.is_some())
}

/// At most [`MEMBERS_MAX`] members, and whether the value is a list of them with nothing left over.
fn read(field: &[u8]) -> (Vec<Member>, bool) {
    let mut reader = Reader::new(field);
    let mut members = Vec::new();
    while let Some(member) = read_member(&mut reader) {
        if members.len() < MEMBERS_MAX {
            members.push(member);
        }
        if reader.is_done() {
            return (members, true);
        }
        if reader.comma().is_none() {
            break;
        }
    }
    (members, false)
}

fn read_member(reader: &mut Reader<'_>) -> Option<Member> {
    let mut member = Member { proxy: reader.bare()?.text()?, ..Member::default() };
    // Lenient: a string for the error as well, which the drafts of RFC 9209 had. Of parameters that come twice the last
    // one counts (RFC 9651, section 4.2.3.2), and unknown ones are ignored (RFC 9209, section 2.1).
    reader.parameters(|key, value| match key {
        "error" => member.error = value.text(),
        "details" => member.details = value.text(),
        "next-hop" => member.next_hop = value.text(),
        _ => {}
    })?;
    Some(member)
}

#[cfg(test)]
#[path = "proxy_status_tests.rs"]
mod tests;
