//! Requests for tunnels: RFC 9298 sections 3.2 to 3.5, RFC 9297 section 3.2, RFC 9209.

use http::{HeaderMap, Method, Request, StatusCode, Version};
use hyper::ext::Protocol;
use metra_fallback::http::{OpenError, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::grant::asked;
use super::super::{CONNECT_UDP, Refusal};
use crate::client::TunnelError;
use crate::proto::{ErrorType, Target};
use crate::testing::{Proxy, Way, soon, target};

const PATH: &str = "/.well-known/masque/udp/target.example/443/";

/// What was asked for, or the status of the answer.
fn outcome(request: Request<()>) -> Option<Result<Target, u16>> {
    asked(&request).map(|asked| asked.map_err(|refusal| refusal.status().as_u16()))
}

/// A request of HTTP/1.1 with these header fields.
fn http1(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().version(Version::HTTP_11).method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// A request of HTTP/2 or HTTP/3 with this `:protocol`.
fn later(version: Version, method: Method, uri: &str, protocol: Option<&'static str>) -> Request<()> {
    let mut request = Request::builder().version(version).method(method).uri(uri);
    if let Some(protocol) = protocol {
        request = request.extension(Protocol::from_static(protocol));
    }
    request.body(()).unwrap()
}

const HOST: (&str, &str) = ("host", "proxy.example");
const UPGRADES: (&str, &str) = ("connection", "Upgrade");
const TO_UDP: (&str, &str) = ("upgrade", CONNECT_UDP);

#[test]
fn rfc9298_3_2_a_request_of_http1_is_a_get_with_one_host_and_an_upgrade() {
    let granted = Some(Ok(target("target.example", 443)));
    for fields in [
        &[HOST, UPGRADES, TO_UDP][..],
        &[HOST, ("connection", "keep-alive, upgrade"), TO_UDP],
        &[HOST, ("connection", "keep-alive"), UPGRADES, TO_UDP],
        &[HOST, UPGRADES, ("upgrade", "Connect-UDP")],
        &[HOST, UPGRADES, TO_UDP, ("capsule-protocol", "?1")],
    ] {
        assert_eq!(outcome(http1(Method::GET, PATH, fields)), granted, "{fields:?}");
    }
    let absolute = format!("https://proxy.example{PATH}");
    assert_eq!(outcome(http1(Method::GET, &absolute, &[HOST, UPGRADES, TO_UDP])), granted);
    let query = format!("{PATH}?more");
    assert_eq!(outcome(http1(Method::GET, &query, &[HOST, UPGRADES, TO_UDP])), granted);
}

#[test]
fn rfc9298_3_2_malformed_requests_of_http1_are_answered_with_400() {
    for (what, method, fields) in [
        ("no Host", Method::GET, &[UPGRADES, TO_UDP][..]),
        ("two Hosts", Method::GET, &[HOST, HOST, UPGRADES, TO_UDP]),
        ("no Connection", Method::GET, &[HOST, TO_UDP]),
        ("another Connection", Method::GET, &[HOST, ("connection", "close"), TO_UDP]),
        ("two Upgrades", Method::GET, &[HOST, UPGRADES, TO_UDP, ("upgrade", "websocket")]),
        ("POST", Method::POST, &[HOST, UPGRADES, TO_UDP]),
        ("HEAD", Method::HEAD, &[HOST, UPGRADES, TO_UDP]),
        // RFC 9297 section 3.2.
        ("content", Method::GET, &[HOST, UPGRADES, TO_UDP, ("content-length", "3")]),
        ("no content, by length", Method::GET, &[HOST, UPGRADES, TO_UDP, ("content-length", "0")]),
        ("chunks", Method::GET, &[HOST, UPGRADES, TO_UDP, ("transfer-encoding", "chunked")]),
        ("a type", Method::GET, &[HOST, UPGRADES, TO_UDP, ("content-type", "text/plain")]),
    ] {
        assert_eq!(outcome(http1(method, PATH, fields)), Some(Err(400)), "{what}");
    }
    let mut old = http1(Method::GET, PATH, &[HOST, UPGRADES, TO_UDP]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(outcome(old), Some(Err(400)));
    // What is no request for a tunnel at the place of tunnels is told what is there.
    assert_eq!(outcome(http1(Method::GET, PATH, &[HOST])), Some(Err(426)));
    assert_eq!(
        outcome(http1(Method::GET, PATH, &[HOST, UPGRADES, ("upgrade", "websocket")])),
        Some(Err(426))
    );
    assert_eq!(outcome(http1(Method::GET, "/else", &[HOST])), None);
    assert_eq!(outcome(http1(Method::GET, "/else", &[HOST, UPGRADES, TO_UDP])), Some(Err(404)));
}

#[test]
fn rfc9298_3_4_a_request_of_http2_and_3_is_an_extended_connect() {
    let uri = format!("https://proxy.example{PATH}");
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let ask = |method, uri: &str, protocol| outcome(later(version, method, uri, protocol));
        let granted = Some(Ok(target("target.example", 443)));
        assert_eq!(ask(Method::CONNECT, &uri, Some(CONNECT_UDP)), granted);
        for (what, method, uri, protocol, status) in [
            ("GET", Method::GET, &*uri, Some(CONNECT_UDP), 400),
            ("http", Method::CONNECT, &uri.replace("https", "http"), Some(CONNECT_UDP), 400),
            ("no scheme and authority", Method::CONNECT, PATH, Some(CONNECT_UDP), 400),
            ("no proxy there", Method::CONNECT, "https://proxy.example/else", Some(CONNECT_UDP), 404),
            ("no proxy there", Method::CONNECT, "https://proxy.example/", Some(CONNECT_UDP), 404),
            // RFC 9220 section 3.
            ("another protocol", Method::CONNECT, &uri, Some("websocket"), 501),
            ("no protocol", Method::GET, &uri, None, 405),
        ] {
            assert_eq!(ask(method, uri, protocol), Some(Err(status)), "{what}, {version:?}");
        }
        let mut content = later(version, Method::CONNECT, &uri, Some(CONNECT_UDP));
        content.headers_mut().insert("content-length", "3".parse().unwrap());
        assert_eq!(outcome(content), Some(Err(400)));
        assert_eq!(ask(Method::GET, "https://proxy.example/", None), None);
        assert_eq!(ask(Method::CONNECT, "https://proxy.example/chat", Some("websocket")), None);
    }
}

/// RFC 9298 section 3: what stands in the path must be a target.
#[test]
fn bad_targets_are_answered_with_400() {
    for (path, good) in [
        ("target.example/443/", true),
        ("192.0.2.6/443/", true),
        ("2001%3Adb8%3A%3A42/443/", true),
        ("target.example/0/", false),
        ("target.example/65536/", false),
        ("target.example/https/", false),
        ("target.example/", false),
        ("target.example", false),
        ("", false),
        ("/443/", false),
        ("target.example//", false),
        ("fe80%3A%3A1%25eth0/443/", false),
        ("[2001%3Adb8%3A%3A42]/443/", false),
        ("a%2Fb/443/", false),
        ("a%zz/443/", false),
        ("target.example/443/more", false),
    ] {
        let path = format!("/.well-known/masque/udp/{path}");
        let uri = format!("https://proxy.example{path}");
        let Ok(http1_uri) = path.parse::<http::Uri>() else { continue };
        let over1 = outcome(http1(Method::GET, &http1_uri.to_string(), &[HOST, UPGRADES, TO_UDP]));
        let over3 = outcome(later(Version::HTTP_3, Method::CONNECT, &uri, Some(CONNECT_UDP)));
        assert_eq!(over1, over3);
        match good {
            true => assert!(matches!(over3, Some(Ok(_))), "{path}"),
            false => assert_eq!(over3, Some(Err(400)), "{path}"),
        }
    }
}

#[test]
fn rfc9297_3_4_refusals_have_proxy_status_and_no_capsule_protocol() {
    for (refusal, status, error) in [
        (Refusal::of(ErrorType::DnsError, "no such name"), 502, "dns_error"),
        (Refusal::of(ErrorType::DnsTimeout, "no answer"), 504, "dns_timeout"),
        (Refusal::of(ErrorType::DestinationIpProhibited, "not there"), 502, "destination_ip_prohibited"),
        (Refusal::of(ErrorType::HttpRequestDenied, "not you"), 403, "http_request_denied"),
        (Refusal::of(ErrorType::ConnectionLimitReached, "too many"), 503, "connection_limit_reached"),
        (Refusal::unauthenticated("who are you?"), 407, "http_request_denied"),
    ] {
        assert!(refusal.error().is_some());
        let response = refusal.into_response();
        assert_eq!(response.status().as_u16(), status);
        let field = response.headers()["proxy-status"].to_str().unwrap();
        assert!(field.starts_with(&format!("metra; error={error}; details=\"")), "{field}");
        assert_eq!(response.headers().contains_key("proxy-authenticate"), status == 407);
        assert!(!response.headers().contains_key("capsule-protocol"), "RFC 9297 section 3.4");
    }
    // Whatever the reason has in it.
    let response = Refusal::of(ErrorType::DnsError, "a \"b\" \r\n \u{e4}").into_response();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(response.headers().contains_key("proxy-status"));
}

/// What `request` is answered with over HTTP/1.1: the head.
async fn answered(proxy: &mut Proxy, request: &str) -> String {
    let mut pipe = proxy.pipe(false);
    pipe.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(pipe.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn rfc9298_3_3_a_tunnel_over_http1_begins_with_101() {
    let mut proxy = Proxy::start().await;
    let request = |method: &str, fields: &str| format!("{method} {PATH} HTTP/1.1\r\n{fields}\r\n");
    let good = "host: localhost\r\nconnection: upgrade\r\nupgrade: connect-udp\r\n";
    let head = answered(&mut proxy, &request("GET", good)).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for field in ["connection: upgrade", "upgrade: connect-udp", "capsule-protocol: ?1"] {
        assert_eq!(head.matches(&format!("\r\n{field}\r\n")).count(), 1, "{head}");
    }
    // RFC 9297 section 3.2.
    for field in ["content-length", "content-type", "transfer-encoding"] {
        assert!(!head.contains(field), "{head}");
    }
    for (method, fields) in [
        ("GET", format!("host: localhost\r\n{good}")),
        ("GET", good.replace("connection: upgrade\r\n", "")),
        ("GET", format!("{good}content-length: 0\r\n")),
        ("POST", format!("{good}content-length: 0\r\n")),
    ] {
        let head = answered(&mut proxy, &request(method, &fields)).await;
        assert!(head.starts_with("http/1.1 400 "), "{method} {fields}: {head}");
        assert!(!head.contains("capsule-protocol"), "RFC 9297 section 3.4: {head}");
    }
    let head = answered(&mut proxy, &request("GET", "host: localhost\r\n")).await;
    assert!(head.starts_with("http/1.1 426 ") && head.contains("\r\nupgrade: connect-udp\r\n"), "{head}");
}

#[tokio::test]
async fn rfc9298_3_5_success_over_http2_is_200_with_capsules() {
    let mut proxy = Proxy::start().await;
    let uri: http::Uri = proxy.hop().template.expand(&target("target.example", 443)).parse().unwrap();
    let pipe = proxy.pipe(true);
    let (answer, _stream) = soon(open(pipe, true, CONNECT_UDP, uri.clone(), HeaderMap::new())).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["capsule-protocol"], "?1");
    for field in ["content-length", "content-type", "transfer-encoding"] {
        assert!(!answer.headers().contains_key(field), "RFC 9297 section 3.2");
    }
    // RFC 9220 section 3, by way of RFC 8441.
    let pipe = proxy.pipe(true);
    match soon(open(pipe, true, "websocket", uri, HeaderMap::new())).await {
        Err(OpenError::Refused { status, .. }) => assert_eq!(status, 501),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// RFC 9298 section 3.1: any other answer than success, and the client has no tunnel.
#[tokio::test]
async fn rfc9298_3_1_a_refusal_reaches_the_client_with_its_reason() {
    let mut proxy = Proxy::start().await;
    for way in Way::ALL {
        for (host, status, error, again) in [
            ("refused.example", 502, "destination_ip_prohibited", true),
            ("unknown.example", 502, "dns_error", true),
            ("login.example", 407, "http_request_denied", false),
        ] {
            let refused = proxy.ask(way, &target(host, 443)).await.unwrap_err();
            assert_eq!(refused.is_retryable(), again, "{way:?} {host}");
            let TunnelError::Refused { status: seen, cause } = refused else { panic!("{refused}") };
            assert_eq!(seen.as_u16(), status, "{way:?} {host}");
            assert!(cause.contains(error), "{way:?} {host}: {cause}");
        }
    }
}
