//! Requests for tunnels: what they ask for, and how they are granted or refused.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use metra_fallback::http::{Busy, has_token};
use metra_transport::Rt;

use super::Tunnel;
use crate::carrier::{Carrier, Side};
use crate::http3;
use crate::proto::{ErrorType, ProxyStatus, Target, capsule_protocol, proxy_status};

/// The protocol of requests for tunnels (RFC 9298 section 7.1).
pub const CONNECT_UDP: &str = "connect-udp";

/// A request that is not granted, and how to answer it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    status: StatusCode,
    /// What Proxy-Status says (RFC 9209); `None` where the request is not one for a proxy.
    error: Option<ErrorType>,
    header: Option<(HeaderName, &'static str)>,
    reason: String,
}

impl Refusal {
    /// For an error that RFC 9209 names, with the status that it recommends. `reason` is shown to the client.
    pub fn of(error: ErrorType, reason: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, error: Some(error), header: None, reason: reason.into() }
    }

    /// For a client that has to say who it is: 407.
    pub fn unauthenticated(reason: &str) -> Self {
        let header = Some((http::header::PROXY_AUTHENTICATE, "Bearer, Basic realm=\"metra\""));
        Self {
            header,
            ..Self {
                status: StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                ..Self::of(ErrorType::HttpRequestDenied, reason)
            }
        }
    }

    /// For a request that is malformed: 400.
    pub fn malformed(reason: &str) -> Self {
        wrong(reason)
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the answer says in Proxy-Status, in one word; for metrics.
    pub fn error(&self) -> Option<ErrorType> {
        self.error
    }

    /// The answer.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}\n", self.reason)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(error) = self.error
            && let Ok(value) =
                HeaderValue::try_from(ProxyStatus::error(error).details(self.reason.as_str()).to_string())
        {
            headers.insert(PROXY_STATUS, value);
        }
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

/// The target that `request` asks a tunnel to; `None` if it is not a request for a tunnel.
///
/// # Errors
/// The request is malformed (RFC 9298 sections 3.2 and 3.4). Fault: the client.
pub fn asked<B>(request: &Request<B>) -> Option<Result<Target, Refusal>> {
    let is_connect_udp = request.extensions().get::<Protocol>().is_some_and(|p| p.as_str() == CONNECT_UDP)
        || has_token(request.headers(), &UPGRADE, CONNECT_UDP);
    let target = Target::match_default(request.uri().path());
    match (is_connect_udp, target) {
        (false, None) => None,
        // The path of a tunnel, asked for in another way.
        (false, Some(_)) => Some(Err(not_a_tunnel(request))),
        (true, None) => {
            Some(Err(Refusal { status: StatusCode::NOT_FOUND, ..wrong("there is no proxy at this path") }))
        }
        (true, Some(target)) => Some(shape(request).and_then(|()| target.map_err(|e| wrong(&e.to_string())))),
    }
}

/// Grants the tunnel that `request` asks for: [`asked`] has been asked, and its target may be reached.
///
/// Return the response to what serves HTTP, and await the future in another task: it resolves after the response is sent, or
/// with `None` if that never happens. `peer` is the other end of the connection.
pub fn grant<B: Send + 'static>(
    rt: &Rt,
    mut request: Request<B>,
    peer: SocketAddr,
) -> (Response<Full<Bytes>>, impl Future<Output = Option<Tunnel>> + Send + 'static) {
    let mut response = Response::new(Full::default());
    // RFC 9297 section 3.4.
    response.headers_mut().insert(
        HeaderName::from_static(capsule_protocol::NAME),
        HeaderValue::from_static(capsule_protocol::ON),
    );
    let is_http1 = request.version() == Version::HTTP_11;
    if is_http1 {
        // RFC 9298 section 3.3.
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(CONNECT_UDP));
    }
    let busy = request.extensions().get::<Busy>().cloned();
    let rt = rt.clone();
    let over_http3 = http3::upgrade(&mut request);
    let upgrade = hyper::upgrade::on(&mut request);
    let opened = async move {
        let carrier = match over_http3 {
            Some(tunnelled) => Carrier::http3(&rt, tunnelled.await.ok()?, peer, Side::Proxy),
            None => Carrier::stream(&rt, Box::new(TokioIo::new(upgrade.await.ok()?)), peer),
        };
        Some(Tunnel { carrier, busy })
    };
    (response, opened)
}

/// RFC 9298 section 3.2 for HTTP/1.1, 3.4 for the others; what the protocols say of pseudo-header fields has been checked.
fn shape<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    // RFC 9297 section 3.2: capsules have none of these.
    if headers.contains_key(CONTENT_LENGTH)
        || headers.contains_key(CONTENT_TYPE)
        || headers.contains_key(TRANSFER_ENCODING)
    {
        return Err(wrong("a request for a tunnel has no content"));
    }
    if request.version() == Version::HTTP_11 {
        if request.method() != Method::GET {
            return Err(wrong("a tunnel is asked for by GET over HTTP/1.1"));
        }
        if headers.get_all(HOST).iter().count() != 1 {
            return Err(wrong("not exactly one Host"));
        }
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(wrong("Upgrade is not named in Connection"));
        }
        if headers.get_all(UPGRADE).iter().count() != 1 {
            return Err(wrong("not exactly one Upgrade"));
        }
        return Ok(());
    }
    if request.version() < Version::HTTP_11 {
        return Err(wrong("HTTP/1.0 has no tunnels"));
    }
    if request.method() != Method::CONNECT {
        return Err(wrong("a tunnel is asked for by CONNECT"));
    }
    if request.uri().scheme_str() != Some("https") || request.uri().authority().is_none() {
        return Err(wrong(":scheme is https, and :authority names this proxy"));
    }
    Ok(())
}

/// The answer where the path is right and the rest is not.
fn not_a_tunnel<B>(request: &Request<B>) -> Refusal {
    if request.extensions().get::<Protocol>().is_some() {
        // RFC 9220 section 3.
        return Refusal { status: StatusCode::NOT_IMPLEMENTED, ..wrong("this protocol is not known here") };
    }
    if request.version() == Version::HTTP_11 {
        let header = Some((UPGRADE, CONNECT_UDP));
        return Refusal {
            status: StatusCode::UPGRADE_REQUIRED,
            header,
            ..wrong("here is nothing but tunnels")
        };
    }
    let header = Some((ALLOW, "CONNECT"));
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, header, ..wrong("here is nothing but tunnels") }
}

fn wrong(reason: &str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, error: None, header: None, reason: reason.to_owned() }
}

const PROXY_STATUS: HeaderName = HeaderName::from_static(proxy_status::NAME);
