//! Asking for a WebSocket.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, SERVER, UPGRADE, VIA,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use super::error::WsError;
use super::frame::Role;
use super::stream::WsStream;
use super::{SUBPROTOCOL, accept_key, h2, has_token, single};
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
    if alpn_h2 { h2::connect(stream, uri).await } else { upgrade(stream, &uri).await }
}

/// The fields that HTTP/1.1 and HTTP/2 have in common.
pub(super) fn request(method: Method, uri: impl Into<Uri>) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(uri.into())
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
}

/// RFC 6455 section 4.1, items 5 and 6 on the answer: nothing that was not asked for, and the subprotocol.
pub(super) fn check_answer(headers: &HeaderMap) -> Result<(), WsError> {
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err(WsError::Handshake("it has an extension"));
    }
    match single(headers, SEC_WEBSOCKET_PROTOCOL) {
        Some(SUBPROTOCOL) => Ok(()),
        _ => Err(WsError::Handshake("its subprotocol is not mtp.1")),
    }
}

/// An answer that opens nothing.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap) -> WsError {
    let by = [VIA, SERVER].iter().find_map(|name| headers.get(name)?.to_str().ok());
    let by =
        by.map_or(String::new(), |by| format!(" by {:?}", by.chars().take(NAME_MAX).collect::<String>()));
    WsError::Refused { status: status.as_u16(), by }
}

async fn upgrade(stream: BoxStream, uri: &Uri) -> Result<WsStream, WsError> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| io::Error::other("no entropy"))?;
    let key = STANDARD.encode(nonce);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = request(Method::GET, path.parse::<Uri>().map_err(|e| WsError::Request(e.to_string()))?)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_KEY, &key)
        .body(Empty::<Bytes>::new())
        .map_err(|e| WsError::Request(e.to_string()))?;

    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(of_hyper)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(of_hyper)?;
        check_upgrade(&response, &key)?;
        hyper::upgrade::on(response).await.map_err(of_hyper)
    };
    let connection = connection.with_upgrades();
    tokio::pin!(answer, connection);
    let mut driving = true;
    loop {
        tokio::select! {
            biased;
            upgraded = &mut answer => {
                return Ok(WsStream::new(Box::new(TokioIo::new(upgraded?)), Role::Client, None));
            }
            // How it ended, the answer tells.
            _ = &mut connection, if driving => driving = false,
        }
    }
}

/// RFC 6455 section 4.1, items 1 to 6 on the answer.
fn check_upgrade<B>(response: &http::Response<B>, key: &str) -> Result<(), WsError> {
    let headers = response.headers();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(response.status(), headers));
    }
    if single(headers, UPGRADE).is_none_or(|value| !value.trim().eq_ignore_ascii_case("websocket")) {
        return Err(WsError::Handshake("its Upgrade is not websocket"));
    }
    if !has_token(headers, CONNECTION, "upgrade") {
        return Err(WsError::Handshake("its Connection is not Upgrade"));
    }
    if single(headers, SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value.trim() != accept_key(key)) {
        return Err(WsError::Handshake("its Sec-WebSocket-Accept is not for this request"));
    }
    check_answer(headers)
}

fn of_hyper(error: hyper::Error) -> WsError {
    let source = std::error::Error::source(&error);
    if let Some(io) = source.and_then(|e| e.downcast_ref::<io::Error>()) {
        return lost(io);
    }
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        WsError::NotHttp(error.to_string())
    } else {
        WsError::Unanswered
    }
}

/// The connection failed before there was a WebSocket. A filter cuts it, or resets it.
pub(super) fn lost(error: &io::Error) -> WsError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        // What h2 says of an end within a frame.
        | io::ErrorKind::Other => WsError::Unanswered,
        kind => WsError::Io { kind, message: error.to_string() },
    }
}

/// Longest head of an answer. Bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Of the name of a server, in an error. Characters.
const NAME_MAX: usize = 64;
