//! Asking for a WebSocket.

use std::io;

use ::http::header::{
    HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, SERVER, VIA,
};
use ::http::{StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::WsError;
use super::frame::Role;
use super::stream::WsStream;
use super::{SUBPROTOCOL, accept_key};
use crate::http::{self, OpenError, single};
use crate::stream::BoxStream;

/// Opens a WebSocket over `stream`, at which TLS is done and leads to `authority` (host, and port if it is
/// not 443) and there to `path`.
///
/// `alpn_h2` is whether TLS agreed on HTTP/2: then the WebSocket is an extended CONNECT (RFC 8441), otherwise
/// the upgrade of HTTP/1.1 (RFC 6455 section 4.1). HTTP/2 has windows of 32 MiB, so that 1 Gbit/s is not cut
/// at up to 100 ms, and holds up to that much if nobody reads; a task drives it and ends with the
/// [`WsStream`].
///
/// There is no timeout here; dropping the future gives up and closes the connection.
///
/// # Errors
/// [`WsError::is_not_let_through`] if this way does not lead to a gateway; [`WsError::Request`] if
/// `authority` or `path` cannot be used (fault: the caller); otherwise what happened to the connection.
pub async fn connect(
    stream: BoxStream,
    alpn_h2: bool,
    authority: &str,
    path: &str,
) -> Result<WsStream, WsError> {
    let uri = Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|e| WsError::Request(format!("{authority:?} with {path:?}: {e}")))?;
    if authority.contains('@') || !path.starts_with('/') {
        return Err(WsError::Request(format!("{authority:?} with {path:?}")));
    }
    let mut fields = HeaderMap::new();
    fields.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    fields.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    // RFC 8441 section 5: there is no key over HTTP/2.
    let key = if alpn_h2 { None } else { Some(key()?) };
    if let Some(key) = &key {
        fields.insert(
            SEC_WEBSOCKET_KEY,
            HeaderValue::try_from(key).map_err(|e| WsError::Request(e.to_string()))?,
        );
    }
    let (answer, stream) = http::open(stream, alpn_h2, "websocket", uri, fields).await?;
    check_answer(answer.headers(), key.as_deref())?;
    Ok(WsStream::new(stream, Role::Client, None))
}

/// RFC 6455 section 4.1: what makes the answer one to this request.
fn key() -> Result<String, WsError> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| io::Error::other("no entropy"))?;
    Ok(STANDARD.encode(nonce))
}

/// RFC 6455 section 4.1, items 4 to 6 on the answer: it is to this request, and opens nothing that was not asked for.
fn check_answer(headers: &HeaderMap, key: Option<&str>) -> Result<(), WsError> {
    if let Some(key) = key
        && single(headers, &SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value.trim() != accept_key(key))
    {
        return Err(WsError::Handshake("its Sec-WebSocket-Accept is not for this request"));
    }
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err(WsError::Handshake("it has an extension"));
    }
    match single(headers, &SEC_WEBSOCKET_PROTOCOL) {
        Some(SUBPROTOCOL) => Ok(()),
        _ => Err(WsError::Handshake("its subprotocol is not mtp.1")),
    }
}

impl From<OpenError> for WsError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused { status, headers } => refused(status, &headers),
            OpenError::NotHttp(why) => WsError::NotHttp(why),
            OpenError::NoExtendedConnect => WsError::NoExtendedConnect,
            OpenError::Other(why) => WsError::Handshake(why),
            OpenError::Unanswered => WsError::Unanswered,
            OpenError::Request(why) => WsError::Request(why),
            OpenError::Io { kind, message } => WsError::Io { kind, message },
        }
    }
}

/// An answer that opens nothing.
fn refused(status: StatusCode, headers: &HeaderMap) -> WsError {
    let by = [VIA, SERVER].iter().find_map(|name| headers.get(name)?.to_str().ok());
    let by =
        by.map_or(String::new(), |by| format!(" by {:?}", by.chars().take(NAME_MAX).collect::<String>()));
    WsError::Refused { status: status.as_u16(), by }
}

/// Of the name of a server, in an error. Characters.
const NAME_MAX: usize = 64;
