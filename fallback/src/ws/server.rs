//! Granting a WebSocket.

use std::future::Future;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;

use super::error::WsError;
use super::frame::Role;
use super::stream::WsStream;
use super::{SUBPROTOCOL, accept_key};
use crate::http::{Busy, has_token, single};

/// What [`accept`] gives: the answer to send, and what becomes a WebSocket once it is sent.
pub type Accepted<F> = (Response<Empty<Bytes>>, F);

/// Grants the WebSocket that `request` asks for, by the upgrade of HTTP/1.1 (RFC 6455 section 4.2) or the
/// extended CONNECT of HTTP/2 (RFC 8441 section 5). Its path has been looked at before.
///
/// Return the response to hyper, and await the future in another task: it resolves after the response is
/// sent, with [`WsError::Unanswered`] if that never happens.
///
/// # Errors
/// The answer to give instead, if the request asks for something else or not as it has to. Fault: the client,
/// or something in between that takes header fields away.
pub fn accept<B>(
    mut request: Request<B>,
) -> Result<Accepted<impl Future<Output = Result<WsStream, WsError>> + Send + use<B>>, Rejection> {
    let response = answer(&request)?;
    let busy = request.extensions().get::<Busy>().cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    let opened = async move {
        match upgrade.await {
            Ok(upgraded) => Ok(WsStream::new(Box::new(TokioIo::new(upgraded)), Role::Server, busy)),
            Err(_) => Err(WsError::Unanswered),
        }
    };
    Ok((response, opened))
}

/// A request that is not granted, and how to answer it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Rejection {
    status: StatusCode,
    header: Option<(HeaderName, &'static str)>,
    reason: &'static str,
}

impl Rejection {
    /// 400, 405, 426 or 501.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// For people.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The answer, with the reason as its text and the header fields that its status calls for.
    pub fn into_response<B: From<&'static str>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.reason));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if let Some((name, value)) = self.header {
            if name == UPGRADE {
                // RFC 9110 section 7.8: whoever sends Upgrade names it in Connection.
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            }
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// The answer that grants `request`.
fn answer<B>(request: &Request<B>) -> Result<Response<Empty<Bytes>>, Rejection> {
    let mut response = Response::new(Empty::new());
    if request.version() == Version::HTTP_2 {
        extended_connect(request)?;
    } else {
        let accept = upgrade(request)?;
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// RFC 6455 section 4.2.1. Gives the `Sec-WebSocket-Accept`.
fn upgrade<B>(request: &Request<B>) -> Result<HeaderValue, Rejection> {
    let headers = request.headers();
    // Item 1.
    if request.method() != Method::GET {
        return Err(Rejection {
            header: Some((ALLOW, "GET")),
            ..wrong(405, "a WebSocket is asked for by GET")
        });
    }
    if request.version() != Version::HTTP_11 {
        return Err(wrong(400, "a WebSocket needs HTTP/1.1"));
    }
    // Item 2.
    if single(headers, &HOST).is_none() {
        return Err(wrong(400, "not exactly one Host"));
    }
    // Item 3.
    if !has_token(headers, &UPGRADE, "websocket") {
        let header = Some((UPGRADE, "websocket"));
        return Err(Rejection { header, ..wrong(426, "here is nothing but a WebSocket") });
    }
    // Item 4.
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(wrong(400, "Upgrade is not named in Connection"));
    }
    // A body would be taken for frames.
    if headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
    {
        return Err(wrong(400, "a request for a WebSocket has no body"));
    }
    version_and_subprotocol(headers)?;
    // Item 5.
    let key = single(headers, &SEC_WEBSOCKET_KEY).map(str::trim);
    let Some(key) = key.filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)) else {
        return Err(wrong(400, "not exactly one Sec-WebSocket-Key of 16 bytes"));
    };
    HeaderValue::try_from(accept_key(key)).map_err(|_| wrong(400, "the key has no answer"))
}

/// RFC 8441 sections 4 and 5. What RFC 9113 section 8 says of pseudo-header fields, hyper has checked.
fn extended_connect<B>(request: &Request<B>) -> Result<(), Rejection> {
    if request.method() != Method::CONNECT {
        let header = Some((ALLOW, "CONNECT"));
        return Err(Rejection { header, ..wrong(405, "a WebSocket is asked for by CONNECT") });
    }
    match request.extensions().get::<Protocol>().map(Protocol::as_str) {
        Some("websocket") => {}
        // RFC 9220 section 3, which says it for HTTP/2 too.
        Some(_) => return Err(wrong(501, "this protocol is not known here")),
        None => return Err(wrong(400, "CONNECT without a protocol")),
    }
    let uri = request.uri();
    if !matches!(uri.scheme_str(), Some("https" | "http")) || uri.path().is_empty() {
        return Err(wrong(400, "no scheme or path"));
    }
    version_and_subprotocol(request.headers())
}

/// RFC 6455 section 4.2.1, items 6 and 8, and section 4.4.
fn version_and_subprotocol(headers: &HeaderMap) -> Result<(), Rejection> {
    match single(headers, &SEC_WEBSOCKET_VERSION).map(str::trim) {
        Some("13") => {}
        Some(_) => {
            let header = Some((SEC_WEBSOCKET_VERSION, "13"));
            return Err(Rejection { header, ..wrong(426, "only version 13 is known here") });
        }
        None => return Err(wrong(400, "not exactly one Sec-WebSocket-Version")),
    }
    let named = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim() == SUBPROTOCOL);
    if named { Ok(()) } else { Err(wrong(400, "the subprotocol mtp.1 is not asked for")) }
}

fn wrong(status: u16, reason: &'static str) -> Rejection {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    Rejection { status, header: None, reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIELDS: &[(&str, &str)] = &[
        ("host", "gateway.example"),
        ("upgrade", "h2c, WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, mtp.1"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ];

    /// A good request over HTTP/1.1 in which `name` is there with each of `values` instead.
    fn with(name: &str, values: &[&str]) -> Request<()> {
        let mut request = Request::builder().uri("/mtp");
        for (name, value) in FIELDS.iter().filter(|field| field.0 != name) {
            request = request.header(*name, *value);
        }
        for value in values {
            request = request.header(name, *value);
        }
        request.body(()).unwrap()
    }

    fn connect(protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::builder()
            .method("CONNECT")
            .uri("https://gateway.example/mtp")
            .version(Version::HTTP_2)
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "mtp.1")
            .body(())
            .unwrap();
        request.extensions_mut().extend(
            protocol
                .map(|protocol| {
                    let mut one = http::Extensions::new();
                    one.insert(Protocol::from_static(protocol));
                    one
                })
                .unwrap_or_default(),
        );
        request
    }

    #[test]
    fn a_good_request_is_granted() {
        // RFC 6455 section 4.2.2.
        let response = answer(&with("x", &[])).unwrap();
        assert_eq!(response.status(), 101);
        let headers = response.headers();
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["connection"], "Upgrade");
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers["sec-websocket-protocol"], "mtp.1");
        assert!(!headers.contains_key("sec-websocket-extensions"));

        // RFC 8441 section 5.
        let response = answer(&connect(Some("websocket"))).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "mtp.1");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
    }

    #[test]
    fn what_rfc_6455_section_4_2_1_demands_is_checked() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        for (name, values, status) in [
            ("host", &[][..], 400),
            ("host", &["a", "b"], 400),
            ("upgrade", &[], 426),
            ("upgrade", &["h2c"], 426),
            ("connection", &[], 400),
            ("connection", &["close"], 400),
            ("sec-websocket-key", &[], 400),
            ("sec-websocket-key", &[key, key], 400),
            ("sec-websocket-key", &["not base64"], 400),
            ("sec-websocket-key", &["c2hvcnQ="], 400),
            ("sec-websocket-version", &[], 400),
            ("sec-websocket-version", &["13", "13"], 400),
            ("sec-websocket-version", &["8"], 426),
            ("sec-websocket-protocol", &[], 400),
            ("sec-websocket-protocol", &["mtp.2", "MTP.1"], 400),
            ("content-length", &["5"], 400),
            ("transfer-encoding", &["chunked"], 400),
        ] {
            let rejection = answer(&with(name, values)).unwrap_err();
            assert_eq!(rejection.status(), status, "{name} {values:?}");
        }
        answer(&with("content-length", &["0"])).unwrap();

        let mut request = with("x", &[]);
        *request.method_mut() = Method::POST;
        assert_eq!(answer(&request).unwrap_err().status(), 405);
        let mut request = with("x", &[]);
        *request.version_mut() = Version::HTTP_10;
        assert_eq!(answer(&request).unwrap_err().status(), 400);
    }

    #[test]
    fn what_rfc_8441_demands_is_checked() {
        assert_eq!(answer(&connect(None)).unwrap_err().status(), 400);
        assert_eq!(answer(&connect(Some("connect-udp"))).unwrap_err().status(), 501);
        let good = || connect(Some("websocket"));
        let mut request = good();
        *request.method_mut() = Method::GET;
        assert_eq!(answer(&request).unwrap_err().status(), 405);
        let mut request = good();
        *request.uri_mut() = "gateway.example:443".parse().unwrap();
        assert_eq!(answer(&request).unwrap_err().status(), 400);
        for (name, status) in [("sec-websocket-version", 400), ("sec-websocket-protocol", 400)] {
            let mut request = good();
            request.headers_mut().remove(name);
            assert_eq!(answer(&request).unwrap_err().status(), status, "{name}");
        }
        let mut request = good();
        request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("12"));
        assert_eq!(answer(&request).unwrap_err().status(), 426);
    }

    #[test]
    fn a_rejection_has_the_fields_that_its_status_calls_for() {
        let response = |request| answer(&request).unwrap_err().into_response::<String>();
        // RFC 6455 section 4.4.
        let version = response(with("sec-websocket-version", &["8"]));
        assert_eq!(version.headers()["sec-websocket-version"], "13");
        // RFC 9110 sections 15.5.22 and 15.5.6.
        let upgrade = response(with("upgrade", &[]));
        assert_eq!(
            (&upgrade.headers()["upgrade"], &upgrade.headers()["connection"]),
            (&HeaderValue::from_static("websocket"), &HeaderValue::from_static("upgrade"))
        );
        let mut request = with("x", &[]);
        *request.method_mut() = Method::PUT;
        let method = response(request);
        assert_eq!(method.headers()["allow"], "GET");
        assert!(method.body().contains("GET"));
    }
}
