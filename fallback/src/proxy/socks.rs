//! SOCKS5: asking a proxy for a connection (RFC 1928, user and password by RFC 1929).
//!
//! Written here and not taken from a crate: it is three short messages, and what matters in them (a sentence for every
//! answer, who resolves the name, parsers that a fuzzer can reach) is what the crates leave to their callers.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::url::{Credentials, Proxy};
use crate::dial::Target;
use crate::error::DialError;

/// Asks for a connection to `target` on a connection to `proxy`; the stream leads there after that. A host that is
/// a name is resolved by the proxy. Takes as long as the proxy lets it: set a deadline.
///
/// # Errors
/// What the proxy answered, or that it did not.
pub(crate) async fn open(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    target: &Target,
) -> Result<(), DialError> {
    let garbage = |message: String| DialError::ProxyProtocol { proxy: proxy.to_string(), message };
    let wants = |message: &str| DialError::ProxyAuth {
        proxy: proxy.to_string(),
        schemes: Vec::new(),
        message: message.to_owned(),
    };
    let login = match proxy.credentials() {
        Credentials::Basic { user, password } => Some((user.as_str(), password.as_str())),
        Credentials::None | Credentials::Bearer(_) => None,
    };

    let method = exchange(stream, proxy, &greeting(login.is_some()), method).await?.map_err(garbage)?;
    match (method, login) {
        (Method::None, _) => {}
        (Method::Login, Some((user, password))) => {
            let accepted = exchange(stream, proxy, &credentials(user, password), accepted).await?;
            if !accepted.map_err(garbage)? {
                return Err(wants("it refuses this user and password"));
            }
        }
        (Method::Login, None) => return Err(garbage("it chose what was not offered to it".to_owned())),
        (Method::Unacceptable, Some(_)) => {
            return Err(wants("it takes neither none nor a user and password"));
        }
        (Method::Unacceptable, None) => {
            return Err(wants(
                "write socks5h://USER:PASSWORD@HOST:PORT, with % escapes for special characters",
            ));
        }
    }

    match exchange(stream, proxy, &request(target), reply).await?.map_err(garbage)? {
        Reply::Connected => Ok(()),
        Reply::Refused(code) => {
            let (message, lasting) = sentence(code);
            let (proxy, target) = (proxy.to_string(), target.clone());
            Err(DialError::ProxyRefused { proxy, target, lasting, message })
        }
    }
}

/// What a parser makes of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    /// At least so many more bytes belong to it. Never more than that, so that nothing is read that is not its.
    More(usize),
    /// All of it.
    Done(T),
}

/// The proxy's choice of a way to show credentials (RFC 1928 section 3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Method {
    None,
    Login,
    Unacceptable,
}

/// The answer to a request (RFC 1928 section 6).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Connected,
    Refused(u8),
}

/// Reads the answer to a greeting.
///
/// # Errors
/// A sentence, if it is none.
pub(crate) fn method(data: &[u8]) -> Result<Parsed<Method>, String> {
    match *data {
        [] => Ok(Parsed::More(2)),
        [VERSION] => Ok(Parsed::More(1)),
        [VERSION, METHOD_NONE, ..] => Ok(Parsed::Done(Method::None)),
        [VERSION, METHOD_LOGIN, ..] => Ok(Parsed::Done(Method::Login)),
        [VERSION, METHOD_UNACCEPTABLE, ..] => Ok(Parsed::Done(Method::Unacceptable)),
        [VERSION, ..] => Err("it chose what was not offered to it".to_owned()),
        [first, ..] => Err(not_socks(first)),
    }
}

/// Reads whether user and password are accepted (RFC 1929 section 2).
///
/// # Errors
/// A sentence, if it is no such answer.
pub(crate) fn accepted(data: &[u8]) -> Result<Parsed<bool>, String> {
    match *data {
        [] => Ok(Parsed::More(2)),
        // The version of this exchange is 1; there are proxies that write 5 nevertheless.
        [1 | VERSION] => Ok(Parsed::More(1)),
        [1 | VERSION, status, ..] => Ok(Parsed::Done(status == 0)),
        [first, ..] => Err(not_socks(first)),
    }
}

/// Reads the answer to a request.
///
/// # Errors
/// A sentence, if it is none.
pub(crate) fn reply(data: &[u8]) -> Result<Parsed<Reply>, String> {
    let (code, kind) = match *data {
        // The shortest is refused without an address: some proxies close right after four bytes.
        [] => return Ok(Parsed::More(4)),
        [VERSION] | [VERSION, _] | [VERSION, _, _] => return Ok(Parsed::More(4 - data.len())),
        [VERSION, code, _, kind, ..] => (code, kind),
        [first, ..] => return Err(not_socks(first)),
    };
    if code != 0 {
        return Ok(Parsed::Done(Reply::Refused(code)));
    }
    // The address from which the proxy connects is of no use here, but it is in front of the target's bytes.
    let len = match (kind, data.get(4)) {
        (KIND_V4, _) => 4 + 4 + 2,
        (KIND_V6, _) => 4 + 16 + 2,
        (KIND_NAME, None) => return Ok(Parsed::More(1)),
        (KIND_NAME, Some(len)) => 5 + usize::from(*len) + 2,
        _ => return Err(format!("its answer has an address of the unknown kind {kind}")),
    };
    match len.checked_sub(data.len()) {
        None | Some(0) => Ok(Parsed::Done(Reply::Connected)),
        Some(missing) => Ok(Parsed::More(missing)),
    }
}

const VERSION: u8 = 5;
const METHOD_NONE: u8 = 0;
const METHOD_LOGIN: u8 = 2;
const METHOD_UNACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const KIND_V4: u8 = 1;
const KIND_NAME: u8 = 3;
const KIND_V6: u8 = 4;

fn greeting(login: bool) -> Vec<u8> {
    if login { vec![VERSION, 2, METHOD_NONE, METHOD_LOGIN] } else { vec![VERSION, 1, METHOD_NONE] }
}

fn credentials(user: &str, password: &str) -> Vec<u8> {
    let mut message = vec![1];
    for text in [user, password] {
        message.push(text.len() as u8); // 1 to 255: checked when the proxy was made
        message.extend_from_slice(text.as_bytes());
    }
    message
}

fn request(target: &Target) -> Vec<u8> {
    let mut message = vec![VERSION, CONNECT, 0];
    match target.host.parse() {
        Ok(IpAddr::V4(address)) => {
            message.push(KIND_V4);
            message.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            message.push(KIND_V6);
            message.extend_from_slice(&address.octets());
        }
        Err(_) => {
            message.push(KIND_NAME);
            message.push(target.host.len() as u8); // at most 255: checked before anything is dialled
            message.extend_from_slice(target.host.as_bytes());
        }
    }
    message.extend_from_slice(&target.port.to_be_bytes());
    message
}

/// Sends a message and reads its answer with `parser`, and no byte behind it.
async fn exchange<T>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    message: &[u8],
    parser: fn(&[u8]) -> Result<Parsed<T>, String>,
) -> Result<Result<T, String>, DialError> {
    let lost = |source: io::Error| DialError::ProxyLost {
        proxy: proxy.to_string(),
        source: match source.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(source.kind(), "it was closed by the proxy"),
            _ => source,
        },
    };
    stream.write_all(message).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut data = Vec::new();
    loop {
        match parser(&data) {
            Ok(Parsed::More(missing)) => {
                let from = data.len();
                data.resize(from + missing, 0);
                let read = stream.read(&mut data[from..]).await.map_err(lost)?;
                data.truncate(from + read);
                if read == 0 {
                    return Err(lost(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Ok(Parsed::Done(answer)) => return Ok(Ok(answer)),
            Err(message) => return Ok(Err(message)),
        }
    }
}

fn not_socks(first: u8) -> String {
    match first {
        b'H' => "it speaks HTTP: write http:// in its URL".to_owned(),
        // RFC 8446 section 5.1.
        0x15 | 0x16 => "it speaks TLS: it may be a proxy for https:// URLs".to_owned(),
        0 | 4 => "it speaks SOCKS4, which is not spoken here".to_owned(),
        other => format!("its answer begins with {other:#04x}, which is not SOCKS5"),
    }
}

/// What a code of RFC 1928 section 6 means, and whether it stays so until somebody changes something.
fn sentence(code: u8) -> (String, bool) {
    let (text, lasting) = match code {
        1 => ("it failed and does not say why", false),
        2 => ("its rules do not allow it", true),
        3 => ("the network is unreachable from there", false),
        4 => ("the host is unreachable from there, or its name is not known there", false),
        5 => ("the host refused the connection", false),
        6 => ("the host did not answer (TTL expired)", false),
        7 => ("it does not open connections for others (command not supported)", true),
        8 => (
            "it does not take this kind of address: try socks5h:// if this is socks5://, or the reverse",
            true,
        ),
        other => return (format!("it failed with code {other}, which has no meaning in RFC 1928"), false),
    };
    (text.to_owned(), lasting)
}

#[cfg(test)]
#[path = "socks_tests.rs"]
mod tests;
