//! HTTP that leads nowhere, over the gateway's port: as `refused.rs`.
//!
//! Every shape of a request that could be taken in two ways is tested in `fallback/`; here are those that hyper, the guard
//! around the site and the site refuse, over the real port.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use metra_core::wire::stream;

use crate::harness::data;
use crate::harness::tcp::{self, TlsStream};
use crate::harness::{Bed, Gateway};
use crate::refused::{CONFIG, LIMIT, beside, in_time};

tests![
    a_site_and_nothing_else,
    requests_that_can_be_taken_in_two_ways,
    requests_that_do_not_come_to_an_end,
    those_who_stay_for_ever,
    websockets_that_lead_nowhere,
    chunks_over_http2_of_nobody,
    a_gateway_without_http,
];

const FAILED: &str = "metra_http_failed_total";
const REQUESTS: &str = "metra_http_requests_total";

fn http1(gateway: &Gateway) -> TlsStream {
    tcp::tls(gateway, "http/1.1")
}

/// Sends `bytes` and reads to the end; the statuses of the answers.
fn ask(gateway: &Gateway, bytes: &[u8]) -> (Vec<u16>, String, Duration) {
    let mut stream = http1(gateway);
    stream.write_all(bytes).unwrap();
    let (got, took) = tcp::ending(&mut stream);
    let text = String::from_utf8_lossy(&got).into_owned();
    let statuses = text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].parse().unwrap());
    (statuses.collect(), text, took)
}

fn a_site_and_nothing_else(bed: &Bed) {
    let gateway = bed.gateway_with(CONFIG);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for (request, status, content) in [
        (get("/"), 200, "Metra gateway"),
        (get("/healthz"), 200, "ok"),
        (get("/x"), 404, "nothing"),
        (get("/mtp"), 426, "WebSocket"),
        (get("/").replace("GET", "HEAD"), 200, "content-length"),
        (get("/").replace("GET", "DELETE"), 405, "allow: GET, HEAD"),
    ] {
        let (statuses, text, _) = ask(&gateway, request.as_bytes());
        assert_eq!(statuses, [status], "{request}");
        assert!(text.contains(content), "{text}");
    }
    // What has no protocol name is HTTP/1.1: so are many that look whether we are here.
    let mut stream = tcp::tls(&gateway, "");
    stream.write_all(get("/healthz").as_bytes()).unwrap();
    assert!(tcp::ending(&mut stream).0.starts_with(b"HTTP/1.1 200 OK"));
}

fn requests_that_can_be_taken_in_two_ways(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let refused = [
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 4", 400),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity", 400),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked", 501),
            ("POST / HTTP/1.1\nHost: a\nContent-Length : 3", 400),
            ("GET / HTTP/1.1\nHost: a\nHost: b", 400),
            ("GET https://b/ HTTP/1.1\nHost: a", 400),
            ("GET / HTTP/1.1\nHost: a\nX: a\n b", 400),
            ("CONNECT 127.0.0.1:22 HTTP/1.1\nHost: 127.0.0.1:22", 501),
        ];
        for (lines, status) in refused {
            let lines = lines.replace('\n', "\r\n");
            let bytes = format!("{lines}\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
            let (statuses, _, took) = ask(gateway, bytes.as_bytes());
            assert_eq!(statuses, [status], "{lines}");
            in_time(&lines, took, LIMIT);
        }
        metrics.wait_for(refused.len() as f64, FAILED, &["reason=\"protocol\""]);
        // Both lengths: answered as chunked, and nothing after it (RFC 9112 section 6.1).
        let both =
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let (statuses, ..) =
            ask(gateway, format!("{both}GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(statuses, [405]);
        // Heads that are too long, and too many fields.
        for head in [format!("X: {}", "x".repeat(70_000)), "X: a\r\n".repeat(100)] {
            let (statuses, ..) =
                ask(gateway, format!("GET / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n").as_bytes());
            assert!(statuses.is_empty() || statuses == [431], "{statuses:?}");
        }
        assert_eq!(metrics.sum(REQUESTS, &["status=\"4xx\""]), 1.0);
    });
}

fn requests_that_do_not_come_to_an_end(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let began = Instant::now();
        let nothing = http1(gateway);
        let mut once = http1(gateway);
        once.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut no_body = http1(gateway);
        no_body.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx").unwrap();
        let mut no_chunk = http1(gateway);
        no_chunk
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n")
            .unwrap();
        let silent_h2 = tcp::tls(gateway, "h2");
        let mut idle_h2 = tcp::tls(gateway, "h2");
        idle_h2.write_all(PREFACE).unwrap();
        let mut slow = http1(gateway);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(200));
        tcp::drip(&mut slow, head.as_bytes(), Duration::from_millis(10));
        let answered: Vec<bool> = [nothing, slow, silent_h2, idle_h2, once, no_body, no_chunk]
            .into_iter()
            .map(|mut stream| tcp::ending(&mut stream).0.starts_with(b"HTTP/1.1 "))
            .collect();
        assert_eq!(answered, [false, false, false, false, true, true, true]);
        // HTTP/2 is told first, and cut then.
        in_time("HTTP", began.elapsed(), 3 * LIMIT);
        metrics.wait_for(4.0, FAILED, &["reason=\"timeout\""]);
        metrics.wait_for(2.0, REQUESTS, &["status=\"4xx\""]);
    });
}

fn those_who_stay_for_ever(bed: &Bed) {
    beside(bed, |gateway, _| {
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let began = Instant::now();
        let mut greedy = http1(gateway);
        let sending = thread::spawn(move || {
            greedy.get_ref().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            // It never reads: at some time nothing more is taken, and then the connection is ended.
            let piece = REQUEST.repeat(1000);
            let mut sent = 0;
            loop {
                match greedy.write(&piece) {
                    Ok(n) => sent += n,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return sent,
                }
                assert!(began.elapsed() < Duration::from_secs(20), "it is still taken");
            }
        });
        // And one that comes again and again.
        let mut steady = http1(gateway);
        let mut requests = 0;
        while steady.write_all(REQUEST).and_then(|()| steady.flush()).is_ok() {
            requests += 1;
            thread::sleep(Duration::from_millis(100));
            assert!(began.elapsed() < Duration::from_secs(20), "it is still answered");
        }
        assert!(requests > 10, "{requests}");
        in_time("a connection of many requests", began.elapsed(), 4 * LIMIT);
        assert!(sending.join().unwrap() > 0);
        in_time("a connection that does not read", began.elapsed(), 4 * LIMIT);
    });
}

fn upgrade(gateway: &Gateway) -> TlsStream {
    let mut stream = http1(gateway);
    let request = "GET /mtp HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: mtp.1\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// A frame of a WebSocket with a masking key of zeros, or without one.
fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, payload.len() as u8 | if masked { 0x80 } else { 0 }];
    frame.extend(if masked { &[0; 4][..] } else { &[] });
    frame.extend_from_slice(payload);
    frame
}

fn websockets_that_lead_nowhere(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let mut body = Vec::new();
        stream::put_head(stream::BODY, 50, &mut body);
        let said: [(&str, Vec<u8>, Duration); 8] = [
            ("nothing", vec![], LIMIT),
            ("half a frame", frame(2, true, &[0x30, 40, 1, 2])[..4].to_vec(), LIMIT),
            ("pings", frame(9, true, b"ping").repeat(500), LIMIT),
            ("a text", frame(1, true, b"hello"), Duration::ZERO),
            ("no mask", frame(2, false, b"hello"), Duration::ZERO),
            ("a close", frame(8, true, &[3, 0xe8]), Duration::ZERO),
            ("a chunk of nobody", frame(2, true, &body), Duration::ZERO),
            ("noise", data::noise(7, 2000), LIMIT),
        ];
        // All at the same time.
        let open: Vec<_> = said
            .into_iter()
            .map(|(what, bytes, limit)| {
                let mut stream = upgrade(gateway);
                stream.write_all(&bytes).unwrap();
                (what, stream, limit)
            })
            .collect();
        for (what, mut stream, limit) in open {
            let (got, took) = tcp::ending(&mut stream);
            assert!(got.starts_with(b"HTTP/1.1 101 "), "{what}");
            in_time(what, took, limit);
        }
        metrics.wait_for(8.0, "metra_openings_total", &["kind=\"ws\""]);
        assert_eq!(metrics.sum("metra_openings_total", &["kind=\"ws\"", "outcome=\"ok\""]), 0.0);
    });
}

/// The preface of HTTP/2 and settings that say nothing (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2 on stream 1.
fn http2(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend_from_slice(payload);
    frame
}

fn chunks_over_http2_of_nobody(bed: &Bed) {
    beside(bed, |gateway, metrics| {
        let before = gateway.memory();
        // RFC 8441 section 5, each field as a literal (RFC 7541 section 6.2.2).
        let mut head = Vec::new();
        for (name, value) in [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", "/mtp"),
            (":authority", "a"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "mtp.1"),
        ] {
            head.push(0);
            for text in [name, value] {
                head.push(text.len() as u8);
                head.extend_from_slice(text.as_bytes());
            }
        }
        // A chunk that never ends, as messages of 64 KiB: as far as the windows reach.
        let mut message = vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        stream::put_head(stream::BODY, 65_536 - 8, &mut message);
        message.resize(14 + 65_536, 0);
        let mut links: Vec<TlsStream> = (0..8)
            .map(|_| {
                let mut link = tcp::tls(gateway, "h2");
                link.write_all(&[PREFACE, &http2(1, 4, &head)].concat()).unwrap();
                link.flush().unwrap();
                // Its windows are open once its settings are acknowledged.
                thread::sleep(Duration::from_millis(40));
                link.write_all(b"\0\0\0\x04\x01\0\0\0\0").unwrap();
                link.get_ref().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                for piece in message.repeat(32).chunks(16_384) {
                    // It is refused at some time.
                    if link.write_all(&http2(0, 0, piece)).is_err() {
                        break;
                    }
                }
                link
            })
            .collect();
        metrics.wait_for(8.0, "metra_openings_total", &["kind=\"ws\"", "outcome=\"protocol\""]);
        let more = gateway.memory().saturating_sub(before);
        assert!(more < 64 * data::MIB, "{} connections cost {} MiB", links.len(), more / data::MIB);
        let began = Instant::now();
        for link in &mut links {
            tcp::ending(link);
        }
        in_time("HTTP/2", began.elapsed(), 3 * LIMIT);
    });
}

fn a_gateway_without_http(bed: &Bed) {
    let gateway = bed.gateway_with("[tcp]\nhttp = false\n");
    for protocol in ["", "http/1.1", "h2"] {
        let Ok(mut stream) = tcp::Tls::new(&gateway, protocol).over(tcp::tcp(&gateway)) else { continue };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(tcp::ending(&mut stream).0, b"", "{protocol:?}");
    }
}
