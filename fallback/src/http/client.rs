//! A byte stream out of one request: the upgrade of HTTP/1.1 (RFC 9110 section 7.8), or extended CONNECT of HTTP/2 (RFC 8441).

use std::io;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use super::h2;
use crate::stream::BoxStream;

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Answered with a status that opens nothing. Fault: what the status says.
    #[error("answered with status {status}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The header fields of the answer.
        headers: Box<HeaderMap>,
    },
    /// The answer is not HTTP, or not the version that TLS agreed on. Fault: something in between, or the host serves
    /// something else.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(String),
    /// The server speaks HTTP/2 without extended CONNECT (RFC 8441 section 3). Fault: nobody; over HTTP/1.1 it may go.
    #[error("the server has no extended CONNECT over HTTP/2")]
    NoExtendedConnect,
    /// A stream was opened, but of another protocol than asked for. Fault: the server, or something in between.
    #[error("the answer opens another protocol than asked for: {0}")]
    Other(&'static str),
    /// The connection ended before there was an answer. Fault: something in between that drops what it does not know, or
    /// the path.
    #[error("the connection ended before the answer")]
    Unanswered,
    /// What is asked for cannot stand in a request. Fault: the caller.
    #[error("not usable in a request: {0}")]
    Request(String),
    /// The connection below failed. Fault: the path, or this system.
    #[error("{message}")]
    Io {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// For people.
        message: String,
    },
}

impl OpenError {
    pub(super) fn refused(status: StatusCode, headers: HeaderMap) -> Self {
        Self::Refused { status, headers: Box::new(headers) }
    }
}

/// Asks for a stream of `protocol` at `uri` (https, with authority and path) over `stream`, at which TLS is done. `fields` are
/// the header fields of the request besides those that make it one.
///
/// `is_h2` is whether TLS agreed on HTTP/2. HTTP/2 has windows of 32 MiB, so that 1 Gbit/s is not cut at up to 100 ms, and
/// holds up to that much if nobody reads; a task drives it and ends with the stream.
///
/// There is no timeout here; dropping the future gives up and closes the connection.
///
/// # Errors
/// Why there is no stream.
pub async fn open(
    stream: BoxStream,
    is_h2: bool,
    protocol: &'static str,
    uri: Uri,
    fields: HeaderMap,
) -> Result<(Response<()>, BoxStream), OpenError> {
    if is_h2 {
        h2::open(stream, protocol, uri, fields).await
    } else {
        upgrade(stream, protocol, &uri, fields).await
    }
}

async fn upgrade(
    stream: BoxStream,
    protocol: &'static str,
    uri: &Uri,
    fields: HeaderMap,
) -> Result<(Response<()>, BoxStream), OpenError> {
    let wrong = |e: &dyn std::fmt::Display| OpenError::Request(e.to_string());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(path.parse::<Uri>().map_err(|e| wrong(&e))?)
        .body(Empty::<Bytes>::new())
        .map_err(|e| wrong(&e))?;
    *request.headers_mut() = fields;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|e| wrong(&e))?);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));

    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(of_hyper)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(of_hyper)?;
        check_upgrade(&response, protocol)?;
        let (head, _) = response.into_parts();
        let mut response = Response::from_parts(head, ());
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(of_hyper)?;
        Ok((response, Box::new(TokioIo::new(upgraded)) as BoxStream))
    };
    let connection = connection.with_upgrades();
    tokio::pin!(answer, connection);
    let mut driving = true;
    loop {
        tokio::select! {
            biased;
            opened = &mut answer => return opened,
            // How it ended, the answer tells.
            _ = &mut connection, if driving => driving = false,
        }
    }
}

/// RFC 9110 section 15.2.2, and that it is this protocol.
fn check_upgrade<B>(response: &Response<B>, protocol: &str) -> Result<(), OpenError> {
    let headers = response.headers();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(OpenError::refused(response.status(), headers.clone()));
    }
    if single(headers, &UPGRADE).is_none_or(|value| !value.trim().eq_ignore_ascii_case(protocol)) {
        return Err(OpenError::Other("its Upgrade is another one"));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(OpenError::Other("its Connection is not Upgrade"));
    }
    Ok(())
}

fn of_hyper(error: hyper::Error) -> OpenError {
    let source = std::error::Error::source(&error);
    if let Some(io) = source.and_then(|e| e.downcast_ref::<io::Error>()) {
        return lost(io);
    }
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        OpenError::NotHttp(error.to_string())
    } else {
        OpenError::Unanswered
    }
}

/// The connection failed before there was a stream. A filter cuts it, or resets it.
pub(super) fn lost(error: &io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        // What h2 says of an end within a frame.
        | io::ErrorKind::Other => OpenError::Unanswered,
        kind => OpenError::Io { kind, message: error.to_string() },
    }
}

/// Whether one of the comma-separated tokens of `name` is `token`, in any case; over all lines of that name.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The value of `name` if there is exactly one line of it.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Longest head of an answer. Bytes.
const ANSWER_MAX: usize = 64 << 10;
