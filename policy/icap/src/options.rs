//! What a service says of itself (RFC 3507 section 4.10).

use std::time::Duration;

use crate::head::{Head, printable};
use crate::{IcapError, ServiceUrl, request};

/// The most that is shown as a preview. Bytes.
const PREVIEW_MAX: u64 = 64 * 1024;
/// How long options are good for, if the service does not say, and at most and at least.
const TTL: Duration = Duration::from_secs(3600);
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
const TTL_MIN: Duration = Duration::from_secs(1);

/// The options of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How much of a file it wants to see first, at most 64 KiB; `None`: everything at once.
    pub preview: Option<usize>,
    /// How long this is good for: 1 second to a day; an hour if the service does not say.
    pub ttl: Duration,
    /// How many connections it takes from one client; at least 1.
    pub max_connections: Option<usize>,
    /// The tag of its state, such as the version of its signatures; empty if it gives none.
    pub istag: String,
    /// Whether it says that it answers 204 to whole files, too. One that does not may call everything modified.
    pub allows_204: bool,
}

/// One request for options: bytes out, bytes in.
#[derive(Debug)]
pub struct OptionsExchange {
    buffer: Vec<u8>,
    reusable: bool,
}

impl OptionsExchange {
    /// An exchange, and the request that begins it.
    pub fn new(service: &ServiceUrl) -> (Self, Vec<u8>) {
        (Self { buffer: Vec::new(), reusable: false }, request::options(service))
    }

    /// Takes bytes in. `None`: more are needed.
    ///
    /// # Errors
    /// They are no answer, or one that does not help. Fault: the service, or whoever configured it.
    pub fn received(&mut self, data: &[u8]) -> Result<Option<Options>, IcapError> {
        self.buffer.extend_from_slice(data);
        let Some(end) = Head::end(&self.buffer)? else { return Ok(None) };
        let head = Head::parse(&self.buffer[..end], "ICAP/1.")?;
        if head.status != 200 {
            return Err(IcapError::Status { status: head.status, reason: head.reason });
        }
        if !head.lists("methods", "REQMOD") {
            return Err(IcapError::NoReqmod);
        }
        // A body says nothing that is needed, and is not waited for.
        let no_body = head.header("encapsulated").is_none_or(|e| e.starts_with("null-body"));
        self.reusable = no_body && end == self.buffer.len() && !head.lists("connection", "close");
        let number = |name| head.header(name).and_then(|text| text.parse::<u64>().ok());
        let ttl = number("options-ttl").map_or(TTL, Duration::from_secs);
        Ok(Some(Options {
            preview: number("preview").map(|n| n.min(PREVIEW_MAX) as usize),
            ttl: ttl.clamp(TTL_MIN, TTL_MAX),
            max_connections: number("max-connections")
                .map(|n| usize::try_from(n.max(1)).unwrap_or(usize::MAX)),
            istag: head.header("istag").map(printable).unwrap_or_default(),
            allows_204: head.lists("allow", "204"),
        }))
    }

    /// Whether the connection is good for another request.
    pub fn is_reusable(&self) -> bool {
        self.reusable
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(headers: &str) -> Result<(Options, bool), IcapError> {
        let (mut exchange, request) = OptionsExchange::new(&"icap://h:1/s".parse().unwrap());
        assert!(request.starts_with(b"OPTIONS icap://h:1/s ICAP/1.0\r\nHost: h:1\r\n"));
        let text = format!("ICAP/1.0 {headers}\r\n\r\n");
        let (last, first) = text.as_bytes().split_last().unwrap();
        assert_eq!(exchange.received(first)?, None);
        let options = exchange.received(&[*last])?.unwrap();
        Ok((options, exchange.is_reusable()))
    }

    #[test]
    fn rfc3507_4_10_2_options() {
        let (found, reusable) = options(
            "200 OK\r\nMethods: RESPMOD, REQMOD\r\nISTag: \"CI1\"\r\nOptions-TTL: 60\r\nPreview: 1024\r\nAllow: 204\r\n\
             Max-Connections: 20\r\nEncapsulated: null-body=0",
        )
        .unwrap();
        let expected = Options {
            preview: Some(1024),
            ttl: Duration::from_secs(60),
            max_connections: Some(20),
            istag: "\"CI1\"".into(),
            allows_204: true,
        };
        assert_eq!((found, reusable), (expected, true));
        let (found, reusable) = options(
            "200 OK\r\nMethods: REQMOD\r\nOptions-TTL: 0\r\nPreview: 999999999\r\nMax-Connections: 0\r\nConnection: close",
        )
        .unwrap();
        assert_eq!((found.preview, found.max_connections), (Some(65536), Some(1)));
        assert_eq!((found.ttl, found.allows_204, reusable), (TTL_MIN, false, false));
        let (found, _) = options("200 OK\r\nMethods: REQMOD\r\nPreview: -1\r\nOptions-TTL: x").unwrap();
        assert_eq!((found.preview, found.ttl, found.istag.as_str()), (None, TTL, ""));
    }

    #[test]
    fn services_that_cannot_be_used() {
        assert!(matches!(options("200 OK\r\nMethods: RESPMOD"), Err(IcapError::NoReqmod)));
        let missing = options("404 Service not found\r\nConnection: close");
        assert!(
            matches!(missing, Err(IcapError::Status { status: 404, reason }) if reason == "Service not found")
        );
        assert!(matches!(options("200 OK\r\nMethods"), Err(IcapError::Protocol(_))));
    }
}
