//! What one connection answers, also to what could be taken in two ways, and when it ends.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;

use super::{HttpError, Limits, serve_http};
use crate::ws::tests::{Pair, pair, serve};

/// What became of some bytes.
#[derive(Debug)]
struct Outcome {
    /// Statuses of the answers, in order.
    statuses: Vec<u16>,
    /// Whether the server ended the connection, though the client has not.
    closed: bool,
    /// Method, target and body of what reached the service.
    served: Vec<String>,
}

/// Sends `bytes` over HTTP/1.1 to a service that answers 200, or 400 if the body is broken.
async fn ask(bytes: &[u8]) -> Outcome {
    let (mut a, b) = duplex(1 << 20);
    let served = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let served = served.clone();
        move |request: Request<Incoming>| {
            let served = served.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes());
                let status = if body.is_ok() { 200 } else { 400 };
                let body = body.map_or("broken".into(), |body| String::from_utf8_lossy(&body).into_owned());
                served.lock().unwrap().push(format!("{} {} {body}", head.method, head.uri));
                Ok::<_, Infallible>(
                    Response::builder().status(status).body(Full::new(Bytes::from("ok"))).unwrap(),
                )
            }
        }
    });
    tokio::spawn(async move { serve_http(Box::new(b), false, service, &Limits::default(), pending()).await });
    a.write_all(bytes).await.unwrap();
    let mut answers = Vec::new();
    let all = a.read_to_end(&mut answers);
    let closed = tokio::time::timeout(Duration::from_secs(5), all).await.is_ok();
    let answers = String::from_utf8_lossy(&answers);
    let statuses = answers.match_indices("HTTP/1.1 ").map(|(i, _)| answers[i + 9..i + 12].parse().unwrap());
    Outcome { statuses: statuses.collect(), closed, served: served.lock().unwrap().clone() }
}

/// A request with these lines, and then one that must never be served if the first is refused.
fn then_another(lines: &str, body: &str) -> Vec<u8> {
    let lines = lines.replace('\n', "\r\n");
    format!("{lines}\r\n\r\n{body}GET /second HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

#[tokio::test(start_paused = true)]
async fn ordinary_requests_share_a_connection() {
    for (lines, body, served) in [
        ("GET / HTTP/1.1\nHost: a", "", "GET / "),
        ("GET / HTTP/1.1\nhost:a:443", "", "GET / "),
        ("GET https://a/x HTTP/1.1\nHost: A:443", "", "GET https://a/x "),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 3", "abc", "POST / abc"),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked", "3\r\nabc\r\n0\r\n\r\n", "POST / abc"),
        // RFC 9110 section 8.6: the same length twice may be taken as one.
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 3", "abc", "POST / abc"),
    ] {
        let outcome = ask(&then_another(lines, body)).await;
        assert_eq!(outcome.statuses, [200, 200], "{lines}");
        assert_eq!(outcome.served, [served, "GET /second "], "{lines}");
        assert!(!outcome.closed, "{lines}");
    }
}

#[tokio::test(start_paused = true)]
async fn both_lengths_are_read_as_chunked_and_the_connection_ends() {
    // RFC 9112 section 6.1: "Regardless, the server MUST close the connection after responding".
    for lines in [
        "POST / HTTP/1.1\nHost: a\nContent-Length: 60\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 60",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 0\nContent-Length: 9",
    ] {
        let outcome = ask(&then_another(lines, "3\r\nabc\r\n0\r\n\r\n")).await;
        assert_eq!(outcome.statuses, [200], "{lines}");
        assert_eq!(outcome.served, ["POST / abc"], "{lines}");
        assert!(outcome.closed, "{lines}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_taken_in_two_ways_is_refused_and_the_connection_ends() {
    for (lines, status) in [
        // RFC 9112 section 6.3.
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 4", 400),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 3, 3", 400),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: +3", 400),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 0x3", 400),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: -1", 400),
        ("POST / HTTP/1.1\nHost: a\nContent-Length:", 400),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999", 400),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: identity", 400),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity", 400),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked", 400),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked", 501),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked", 501),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked", 501),
        ("POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked", 400),
        // Section 5.1: no space before the colon; 5.2: no line folding.
        ("POST / HTTP/1.1\nHost: a\nContent-Length : 3", 400),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding : chunked", 400),
        ("GET / HTTP/1.1\nHost: a\nX: a\n b", 400),
        ("GET / HTTP/1.1\n X: a\nHost: a", 400),
        ("GET / HTTP/1.1\nHost: a\nX", 400),
        ("GET / HTTP/1.1\nHost: a\n: b", 400),
        // Section 2.2: no CR alone. RFC 9110 section 5.5: no NUL.
        ("GET / HTTP/1.1\nHost: a\nX: a\rTransfer-Encoding: chunked", 400),
        ("GET / HTTP/1.1\nHost: a\nX: a\0b", 400),
        // Section 3: the request line.
        ("GET  / HTTP/1.1\nHost: a", 400),
        ("GET /a b HTTP/1.1\nHost: a", 400),
        ("GET / HTTP/1.1 \nHost: a", 400),
        ("GET /", 400),
        ("GET / HTTP/2.0\nHost: a", 400),
        ("PRI * HTTP/2.0\nHost: a", 400),
        // Section 3.2: exactly one Host, and a good one.
        ("GET / HTTP/1.1\nX: a", 400),
        ("GET / HTTP/1.1\nHost: a\nHost: a", 400),
        ("GET / HTTP/1.1\nHost: a, b", 400),
        ("GET / HTTP/1.1\nHost: u@a", 400),
        ("GET / HTTP/1.1\nHost: a/b", 400),
        ("GET https://b/ HTTP/1.1\nHost: a", 400),
        ("GET https://a:444/ HTTP/1.1\nHost: a", 400),
        ("CONNECT a:443 HTTP/1.1\nHost: a:443", 501),
    ] {
        let outcome = ask(&then_another(lines, "")).await;
        assert_eq!(outcome.statuses, [status], "{lines:?}");
        assert_eq!(outcome.served, [""; 0], "{lines:?}");
        assert!(outcome.closed, "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lf_alone_ends_a_line_of_the_head_but_no_chunk() {
    // RFC 9112 section 2.2 allows it, and the service sees the fields that the parser sees.
    let outcome = ask(b"POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc").await;
    assert_eq!(outcome.served, ["POST / abc"]);
}

#[tokio::test(start_paused = true)]
async fn broken_chunks_break_the_body_and_end_the_connection() {
    for chunks in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "3\r\nabc\n0\r\n\r\n",
    ] {
        let lines = "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked";
        let outcome = ask(&then_another(lines, chunks)).await;
        assert_eq!(outcome.served, ["POST / broken"], "{chunks:?}");
        assert!(
            outcome.closed && outcome.statuses.iter().all(|status| *status == 400),
            "{chunks:?} {outcome:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn heads_over_the_limits_are_answered_with_431_or_414() {
    let fields = |n| format!("GET / HTTP/1.1\nHost: a{}", "\nX: a".repeat(n));
    let long = |n| format!("GET / HTTP/1.1\nHost: a\nX: {}", "x".repeat(n));
    assert_eq!(ask(&then_another(&fields(63), "")).await.statuses, [200, 200]);
    assert_eq!(ask(&then_another(&long(16_000), "")).await.statuses, [200, 200]);
    let path = format!("GET /{} HTTP/1.1\nHost: a", "x".repeat(70_000));
    for (lines, status) in [(fields(64), 431), (long(16_400), 431), (long(400_000), 431), (path, 431)] {
        let outcome = ask(&then_another(&lines, "")).await;
        assert_eq!((&outcome.statuses[..], outcome.closed), (&[status][..], true), "{:.30}", lines);
        assert_eq!(outcome.served, [""; 0]);
    }
}

/// How long a connection lives on which the client sends `bytes`, one a second, and then waits; and how it
/// ends.
async fn lives(h2: bool, bytes: &[u8], limits: Limits) -> (u64, Result<(), HttpError>) {
    let (mut a, b) = duplex(1 << 20);
    let begun = Instant::now();
    let (_, served) = serve(b, h2, limits, pending());
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        for byte in bytes {
            let _ = a.write_all(&[byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        pending::<()>().await;
    });
    let ended = served.await.unwrap();
    (begun.elapsed().as_secs(), ended)
}

#[tokio::test(start_paused = true)]
async fn heads_that_do_not_come_in_time_end_the_connection() {
    let slow = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1000));
    for bytes in ["", "G", &slow] {
        assert_eq!(lives(false, bytes.as_bytes(), Limits::default()).await, (30, Err(HttpError::TimedOut)));
    }
    // HTTP/2: 60 s without a request, and 10 s for the end, in which nothing may begin either.
    for bytes in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (seconds, ended) = lives(true, bytes, Limits::default()).await;
        assert!((60..=90).contains(&seconds) && ended.is_err(), "{seconds} {ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_http1_that_waits_for_a_next_request_ends() {
    let (mut a, b) = duplex(10_000);
    let service = service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok"))))
    });
    let limits = Limits::default();
    let served =
        tokio::spawn(async move { serve_http(Box::new(b), false, service, &limits, pending()).await });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        a.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    }
    let answered = Instant::now();
    let mut answers = Vec::new();
    a.read_to_end(&mut answers).await.unwrap();
    assert_eq!(answered.elapsed().as_secs(), 30);
    assert_eq!(answers.windows(6).filter(|six| six == b"200 OK").count(), 3);
    assert_eq!(served.await.unwrap(), Err(HttpError::TimedOut));
}

/// A client of HTTP/2 that lives and asks nothing.
async fn idle_client(stream: tokio::io::DuplexStream) -> h2::client::SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_http2_without_requests_ends_in_order() {
    let (a, b) = duplex(10_000);
    let (_, served) = serve(b, true, Limits::default(), pending());
    let begun = Instant::now();
    let _client = idle_client(a).await;
    assert_eq!(served.await.unwrap(), Ok(()));
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_keeps_its_connection_and_its_end_does_not() {
    let Pair { mut client, mut server, mut served } = pair(true, 10_000, Limits::default()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut [0; 10]).await.unwrap();
    drop(server);
    let begun = Instant::now();
    assert_eq!(Pin::new(&mut served).await.unwrap(), Ok(()));
    assert!(begun.elapsed().as_secs() <= 70);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_nothing_new_and_cuts_what_runs_after_the_grace() {
    let begun = Instant::now();
    let (a, b) = duplex(10_000);
    let (mut servers, served) = serve(b, true, Limits::default(), tokio::time::sleep(Duration::from_secs(5)));
    let _client = crate::ws::connect(Box::new(a), true, "gateway.example", "/mtp?x=1").await.unwrap();
    let _server = servers.recv().await.unwrap();
    assert_eq!(served.await.unwrap(), Err(HttpError::TimedOut));
    assert_eq!(begun.elapsed().as_secs(), 15);
    for h2 in [false, true] {
        let (a, b) = duplex(10_000);
        let (_, served) = serve(b, h2, Limits::default(), std::future::ready(()));
        let _idle = h2.then_some(idle_client(a));
        assert!(served.await.unwrap().is_ok() || h2);
    }
}

#[tokio::test(start_paused = true)]
async fn http2_with_two_hosts_is_refused() {
    let (a, b) = duplex(10_000);
    let (_, _served) = serve(b, true, Limits::default(), pending());
    let mut client = idle_client(a).await.ready().await.unwrap();
    let request = Request::get("https://a/").header("host", "b").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 400);
}
