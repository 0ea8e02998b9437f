//! The client against servers, proxies and filters that answer something else.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::serve;
use crate::http::{Limits, serve_http};
use crate::ws::{WsError, WsStream, accept_key, connect};

/// What the client makes of `answer`, in which KEY stands for the right accept key, and then the end.
async fn answered(answer: &str) -> Result<WsStream, WsError> {
    let (a, mut b) = duplex(10_000);
    let answer = answer.to_owned();
    tokio::spawn(async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(b.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("GET /mtp?x=1 HTTP/1.1\r\n"), "{request}");
        let field = |name: &str| {
            let mut values = request.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            (values.next().unwrap().to_owned(), assert!(values.next().is_none())).0
        };
        assert_eq!(field("host"), "gateway.example:8443");
        assert_eq!(field("sec-websocket-version"), "13");
        assert_eq!(field("sec-websocket-protocol"), "mtp.1");
        let answer = answer.replace("KEY", &accept_key(&field("sec-websocket-key")));
        b.write_all(answer.as_bytes()).await.unwrap();
        // Not before the client has had time to read.
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    connect(Box::new(a), false, "gateway.example:8443", "/mtp?x=1").await
}

const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: KEY\r\nSec-WebSocket-Protocol: mtp.1\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_good_answer_with_frames_right_behind_it() {
    let mut ws = answered(&format!("{GOOD}\u{2}\u{2}ab")).await.unwrap();
    let mut got = [0; 2];
    ws.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ab");
    let spelled = GOOD.replace("websocket\r\nConnection: U", "WebSocket\r\nconnection: keep-alive, u");
    answered(&spelled).await.unwrap();
    answered(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{GOOD}")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_accept_key_of_the_example_in_rfc_6455_section_1_3() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[tokio::test(start_paused = true)]
async fn answers_that_open_another_websocket() {
    for (good, wrong) in [
        ("KEY", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Sec-WebSocket-Accept: KEY\r\n", ""),
        ("Sec-WebSocket-Accept: KEY\r\n", "Sec-WebSocket-Accept: KEY\r\nSec-WebSocket-Accept: KEY\r\n"),
        ("Upgrade: websocket\r\n", "Upgrade: h2c\r\n"),
        ("Connection: Upgrade\r\n", "Connection: keep-alive\r\n"),
        ("Sec-WebSocket-Protocol: mtp.1\r\n", ""),
        ("mtp.1", "chat"),
        ("mtp.1", "mtp.1, chat"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
    ] {
        let error = answered(&GOOD.replace(good, wrong)).await.unwrap_err();
        assert!(matches!(error, WsError::Handshake(_)) && error.is_not_let_through(), "{wrong}: {error}");
    }
    // hyper takes this for an answer to no upgrade.
    let error = answered(&GOOD.replace("Upgrade: websocket\r\n", "")).await.unwrap_err();
    assert!(error.is_not_let_through(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_open_nothing() {
    let html = "Content-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    for (status, retry) in [(200, false), (302, false), (403, false), (407, false), (426, false), (503, true)]
    {
        let answer = format!("HTTP/1.1 {status} Whatever\r\nServer: squid/5\r\n{html}");
        let error = answered(&answer).await.unwrap_err();
        assert_eq!(error, WsError::Refused { status, by: " by \"squid/5\"".into() });
        assert!(error.is_not_let_through() && error.is_retryable() == retry, "{error}");
    }
    for garbage in
        ["SSH-2.0-OpenSSH\r\n", "\u{15}\u{3}\u{3}\0\u{2}\u{2}F and so on", "HTTP/1.1 999999\r\n\r\n"]
    {
        let error = answered(garbage).await.unwrap_err();
        assert!(matches!(error, WsError::NotHttp(_)) && error.is_not_let_through(), "{garbage:?}: {error:?}");
    }
    let endless = format!("HTTP/1.1 101 Switching Protocols\r\nX: {}", "x".repeat(100_000));
    let error = answered(&endless).await.unwrap_err();
    assert!(matches!(error, WsError::NotHttp(_)), "{error:?}");
    for cut in ["", "HTTP/1.1 101 Swi"] {
        let error = answered(cut).await.unwrap_err();
        assert!(error == WsError::Unanswered && error.is_not_let_through(), "{cut:?}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn this_server_where_no_gateway_is() {
    for h2 in [false, true] {
        let (a, b) = duplex(10_000);
        let (_servers, _served) = serve(b, h2, Limits::default(), pending());
        let error = connect(Box::new(a), h2, "gateway.example", "/elsewhere").await.unwrap_err();
        assert_eq!(error, WsError::Refused { status: 404, by: String::new() });
    }
}

#[tokio::test(start_paused = true)]
async fn this_server_to_a_request_without_upgrade_which_may_ask_again() {
    let (mut a, b) = duplex(10_000);
    let (_servers, _served) = serve(b, false, Limits::default(), pending());
    let mut answer = vec![0; 1000];
    for _ in 0..2 {
        a.write_all(b"GET /mtp?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let n = a.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
        assert!(answer.contains("upgrade: websocket\r\n") && answer.contains("connection: upgrade\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn host_and_path_that_cannot_be_asked_for() {
    for (authority, path) in
        [("", "/"), ("a b", "/"), ("a\r\nb", "/"), ("u@a", "/"), ("a", ""), ("a", "x"), ("a", "/\r\n")]
    {
        for h2 in [false, true] {
            let error = connect(Box::new(duplex(9).0), h2, authority, path).await.unwrap_err();
            assert!(matches!(error, WsError::Request(_)), "{authority:?} {path:?}: {error:?}");
            assert!(!error.is_not_let_through() && !error.is_retryable());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn http2_without_extended_connect() {
    let (a, b) = duplex(10_000);
    let service =
        service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())));
    tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(b), service),
    );
    let error = connect(Box::new(a), true, "gateway.example", "/").await.unwrap_err();
    assert_eq!(error, WsError::NoExtendedConnect);
    assert!(error.is_not_let_through());
}

#[tokio::test(start_paused = true)]
async fn http2_that_answers_something_else() {
    for (status, protocol) in [(403, "mtp.1"), (200, "chat"), (200, "")] {
        let (a, b) = duplex(10_000);
        let service = service_fn(move |_: Request<Incoming>| async move {
            let response = Response::builder().status(status).header("sec-websocket-protocol", protocol);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        });
        tokio::spawn(
            async move { serve_http(Box::new(b), true, service, &Limits::default(), pending()).await },
        );
        let error = connect(Box::new(a), true, "gateway.example", "/").await.unwrap_err();
        match status {
            200 => assert!(matches!(error, WsError::Handshake(_)), "{error}"),
            _ => assert_eq!(error, WsError::Refused { status, by: String::new() }),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2() {
    for (answer, not_http) in
        [("", false), ("HTTP/1.1 400 Bad Request\r\n\r\n", true), ("\0\0\0\u{4}", false)]
    {
        let (a, mut b) = duplex(10_000);
        tokio::spawn(async move {
            b.write_all(answer.as_bytes()).await.unwrap();
            let mut preface = [0; 24];
            b.read_exact(&mut preface).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        let error = connect(Box::new(a), true, "gateway.example", "/").await.unwrap_err();
        assert!(error.is_not_let_through(), "{answer:?}: {error:?}");
        assert_eq!(matches!(error, WsError::NotHttp(_)), not_http, "{answer:?}: {error:?}");
    }
}
