//! HTTP CONNECT: asking a proxy for a tunnel (RFC 9110 section 9.3.6, over HTTP/1.1).

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::challenge::Challenge;
use super::url::{Credentials, Proxy};
use crate::dial::Target;
use crate::error::DialError;

/// Longest head of an answer, interim ones included. Bytes.
pub(crate) const HEAD_MAX: usize = 16 * 1024;

/// Asks for a tunnel to `target` on a connection to `proxy`, and gives what came behind the answer's head: the first
/// bytes of the target. The stream is a tunnel after that. Takes as long as the proxy lets it: set a deadline.
///
/// # Errors
/// What the proxy answered, or that it did not.
pub(crate) async fn open(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    target: &Target,
) -> Result<Bytes, DialError> {
    let lost = |source| DialError::ProxyLost { proxy: proxy.to_string(), source };
    let garbage = |message| DialError::ProxyProtocol { proxy: proxy.to_string(), message };
    stream.write_all(&request(proxy, target)).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;

    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let room = piece.len().min(HEAD_MAX - head.len());
        let read = stream.read(&mut piece[..room]).await.map_err(lost)?;
        if read == 0 {
            return Err(lost(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed by the proxy")));
        }
        head.extend_from_slice(&piece[..read]);
        // Looking again at all of a head that comes byte by byte is only worth it where a line may have ended; at
        // the front, for what is no HTTP at all.
        if head.len() > 16 && !piece[..read].contains(&b'\n') && head.len() < HEAD_MAX {
            continue;
        }
        if let Some((answer, used)) = parse(&head).map_err(garbage)? {
            answer.verdict(proxy, target)?;
            return Ok(Bytes::from(head.split_off(used)));
        }
        if head.len() == HEAD_MAX {
            return Err(garbage(format!("the head of its answer is longer than {HEAD_MAX} bytes")));
        }
    }
}

/// The head of an answer, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    status: u16,
    /// Cleaned; may be empty.
    reason: String,
    /// RFC 9209, cleaned.
    proxy_status: Option<String>,
    challenges: Vec<Challenge>,
}

/// Reads the head of the final answer from the front of `data`: the answer, and the bytes up to its end. Interim
/// answers before it (RFC 9110 section 15.2) are skipped. `None` if it has not ended yet.
///
/// # Errors
/// A sentence, if this is no answer to CONNECT.
pub(crate) fn parse(data: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let mut at = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let used = match response.parse(&data[at..]) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(not_http(&data[at..], error)),
        };
        at += used;
        let status = response.code.unwrap_or(0);
        match status {
            // An upgrade that nobody asked for (RFC 9110 section 15.2.2).
            101 | 0..=99 | 600.. => return Err(format!("its answer has status {status}")),
            100..=199 => continue,
            // Headers that describe a body are ignored in a 2xx (RFC 9110 section 9.3.6); none is looked at anyway.
            200..=599 => {}
        }
        let values = |name: &'static str| {
            response.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
        };
        let answer = Answer {
            status,
            reason: cleaned(response.reason.unwrap_or("").as_bytes()),
            proxy_status: values("proxy-status").next().map(cleaned).filter(|text| !text.is_empty()),
            challenges: values("proxy-authenticate").flat_map(Challenge::parse).collect(),
        };
        return Ok(Some((answer, at)));
    }
}

const HEADERS_MAX: usize = 128;
/// Longest text of a proxy that is shown to people. Characters.
const SHOWN_MAX: usize = 200;

fn request(proxy: &Proxy, target: &Target) -> Vec<u8> {
    // The host has been checked: it cannot end a line.
    let mut head = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: metra/{}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    if let Some(shown) = proxy.credentials().header() {
        head.push_str(&format!("Proxy-Authorization: {shown}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Removes what could make a terminal or a log show something else than what is there, and cuts it.
fn cleaned(text: &[u8]) -> String {
    // Overrides of the direction of writing are no control characters to Rust.
    let overrides =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text = String::from_utf8_lossy(text);
    let kept = text.chars().filter(|c| !c.is_control() && !overrides(*c)).take(SHOWN_MAX);
    kept.collect::<String>().trim().to_owned()
}

fn not_http(data: &[u8], error: httparse::Error) -> String {
    match (data.first(), error) {
        // RFC 8446 section 5.1: an alert, or a handshake.
        (Some(0x15 | 0x16), _) => "it speaks TLS: write https:// in its URL".to_owned(),
        (Some(4 | 5), _) => "it speaks SOCKS: write socks5h:// in its URL".to_owned(),
        (_, httparse::Error::TooManyHeaders) => format!("its answer has more than {HEADERS_MAX} headers"),
        (_, httparse::Error::Version) => "what it says is not HTTP/1.1".to_owned(),
        (_, error) => format!("its answer is not HTTP/1.1: {error}"),
    }
}

impl Answer {
    fn verdict(self, proxy: &Proxy, target: &Target) -> Result<(), DialError> {
        match self.status {
            200..=299 => Ok(()),
            407 => Err(self.wants_credentials(proxy)),
            // What tinyproxy says to wrong ones, though 401 is for the target to say (RFC 9110 section 15.5.2).
            401 if *proxy.credentials() != Credentials::None => Err(DialError::ProxyAuth {
                proxy: proxy.to_string(),
                schemes: Vec::new(),
                message: "it refuses these (401)".to_owned(),
            }),
            _ => Err(self.refusal(proxy, target)),
        }
    }

    fn wants_credentials(self, proxy: &Proxy) -> DialError {
        let offered = |scheme: &str| self.challenges.iter().find(|c| c.scheme.eq_ignore_ascii_case(scheme));
        let all: Vec<String> = self.challenges.iter().map(|c| cleaned(c.scheme.as_bytes())).collect();
        let realm = |c: &Challenge| match c.realm.as_deref().map(|realm| cleaned(realm.as_bytes())) {
            Some(realm) if !realm.is_empty() => format!(" for {realm:?}"),
            _ => String::new(),
        };
        let message = match (proxy.credentials(), offered("Basic"), offered("Bearer")) {
            (_, None, None) if all.is_empty() => {
                "it does not say of which kind (407 without Proxy-Authenticate)".to_owned()
            }
            (_, None, None) => format!(
                "it takes only {}, which is not built in: run a local helper such as px or cntlm, and name that as \
                 the proxy",
                all.join(", ")
            ),
            (Credentials::Basic { .. }, Some(basic), _) => {
                format!("it refuses this user and password{}", realm(basic))
            }
            (Credentials::Bearer(_), _, Some(bearer)) => format!("it refuses this token{}", realm(bearer)),
            (_, Some(basic), _) => format!(
                "a user and a password{}: write http://USER:PASSWORD@HOST:PORT, with % escapes for special characters",
                realm(basic)
            ),
            (_, None, Some(bearer)) => format!("a token (Bearer){}", realm(bearer)),
        };
        DialError::ProxyAuth { proxy: proxy.to_string(), schemes: all, message }
    }

    fn refusal(self, proxy: &Proxy, target: &Target) -> DialError {
        let mut message = self.status.to_string();
        if !self.reason.is_empty() {
            message = format!("{message} {}", self.reason);
        }
        if let Some(status) = &self.proxy_status {
            message = format!("{message} ({status})");
        }
        message.push_str(match self.status {
            300..=399 => "; a page to sign in may be in between: open one in a browser",
            403 => "; its rules may allow other hosts or ports only, often just 443",
            400 | 404 | 405 | 501 => "; it may be a server that is no proxy",
            _ => "",
        });
        // 5xx but for 501 and 505, and of 4xx those that speak of time, say how it is now (RFC 9110 section 15).
        let passing = matches!(self.status, 408 | 421 | 425 | 429 | 500 | 502..=504 | 506..=599);
        DialError::ProxyRefused {
            proxy: proxy.to_string(),
            target: target.clone(),
            lasting: !passing,
            message,
        }
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
