//! CONNECT-UDP over HTTP/1.1 at our gateway (RFC 9298 section 3.2 and 3.3), as bytes.

use std::io::{Read, Write};

use crate::harness::tcp::{self, TlsStream};
use crate::harness::{Bed, Gateway};
use crate::peers::Echo;
use crate::proxy::TUNNELS;

tests![payloads, heads_that_are_malformed, an_end_within_a_capsule];

/// A request for a tunnel.
pub(crate) fn request(echo: &Echo) -> String {
    let (host, port) = (echo.address().ip(), echo.address().port());
    format!(
        "GET /.well-known/masque/udp/{host}/{port}/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
         Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n"
    )
}

/// Sends a request, and reads the head of the answer.
pub(crate) fn ask(gateway: &Gateway, request: &str) -> (String, TlsStream) {
    let mut stream = tcp::tls(gateway, "http/1.1");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap().to_ascii_lowercase(), stream)
}

/// A DATAGRAM capsule of a payload that is shorter than 63 bytes (RFC 9297 section 3.5).
pub(crate) fn capsule(payload: &[u8]) -> Vec<u8> {
    [&[0, payload.len() as u8 + 1, 0], payload].concat()
}

fn payloads(bed: &Bed) {
    let (gateway, echo) = (bed.gateway_with(TUNNELS), Echo::start());
    let (head, mut stream) = ask(&gateway, &request(&echo));
    // Section 3.3.
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: connect-udp\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n") && !head.contains("content-length"), "{head}");
    // With a capsule of an unknown type before, and one payload without anything in it.
    let all = [&[0x17, 2, 1, 2], &capsule(b"one")[..], &capsule(b"")].concat();
    for byte in &all {
        stream.write_all(&[*byte]).unwrap();
        stream.flush().unwrap();
    }
    let mut got = vec![0; all.len() - 4];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, all[4..]);
}

fn heads_that_are_malformed(bed: &Bed) {
    let (gateway, echo) = (bed.gateway_with(TUNNELS), Echo::start());
    let good = request(&echo);
    for (from, to, status) in [
        // Section 3.2: all of this is needed.
        ("GET ", "POST ", "400"),
        ("Host: a\r\n", "", "400"),
        ("Host: a\r\n", "Host: a\r\nHost: a\r\n", "400"),
        // And these are then no requests for a tunnel.
        ("Connection: Upgrade\r\n", "", "400"),
        ("HTTP/1.1", "HTTP/1.0", "400"),
        // RFC 9297 section 3.2: no content.
        ("Host: a\r\n", "Host: a\r\nContent-Length: 5\r\n", "400"),
        ("Host: a\r\n", "Host: a\r\nTransfer-Encoding: chunked\r\n", "400"),
        // RFC 9110 section 15.5.22.
        ("Upgrade: connect-udp", "Upgrade: connect-nothing", "426"),
    ] {
        let (head, _) = ask(&gateway, &good.replacen(from, to, 1));
        assert_eq!(head.split(' ').nth(1), Some(status), "{to:?}: {head}");
    }
    assert_eq!(echo.got(), 0);
}

fn an_end_within_a_capsule(bed: &Bed) {
    let (gateway, echo) = (bed.gateway_with(TUNNELS), Echo::start());
    let (head, mut stream) = ask(&gateway, &request(&echo));
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    stream.write_all(&capsule(b"one")[..4]).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert_eq!(tcp::ending(&mut stream).0, b"");
    assert_eq!(echo.got(), 0);
}
