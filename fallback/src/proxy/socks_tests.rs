//! SOCKS5 against scripted proxies.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tokio::io::duplex;

use super::*;

fn target(host: &str) -> Target {
    Target { host: host.to_owned(), port: 0x115b }
}

/// Plays a proxy that expects and answers, in turns, and then closes; answers come in pieces of `size` bytes. Gives
/// the outcome and what is left to read after it.
async fn play(
    url: &str,
    host: &str,
    turns: &[(&[u8], &[u8])],
    size: usize,
) -> (Result<(), DialError>, Vec<u8>) {
    let (mut near, mut far) = duplex(4096);
    let proxy_side = async {
        for (expected, answer) in turns {
            let mut asked = vec![0; expected.len()];
            far.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, expected);
            for piece in answer.chunks(size) {
                // The client may have heard enough.
                let _ = far.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        }
        far.shutdown().await.unwrap();
        let mut more = Vec::new();
        far.read_to_end(&mut more).await.unwrap();
        assert_eq!(more, b"", "nothing is sent that was not expected");
    };
    let client_side = async {
        let outcome = open(&mut near, &url.parse().unwrap(), &target(host)).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        drop(near);
        (outcome, rest)
    };
    tokio::join!(proxy_side, client_side).1
}

const HELLO: (&[u8], &[u8]) = (&[5, 1, 0], &[5, 0]);
const ASK: &[u8] = b"\x05\x01\x00\x03\x0agw.example\x11\x5b";

#[tokio::test]
async fn without_credentials() {
    let bound_v4 = b"\x05\x00\x00\x01\x0a\x00\x00\x01\x04\x38first";
    let bound_v6 = b"\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x04\x38first";
    let bound_name = b"\x05\x00\x00\x03\x03abc\x04\x38first";
    let bound_nothing = b"\x05\x00\x00\x03\x00\x00\x00first";
    for answer in [&bound_v4[..], bound_v6, bound_name, bound_nothing] {
        for size in [1, 3, 100] {
            let (outcome, rest) = play("socks5h://p", "gw.example", &[HELLO, (ASK, answer)], size).await;
            outcome.unwrap();
            assert_eq!(rest, b"first", "the target's bytes are left alone");
        }
    }
}

#[tokio::test]
async fn kinds_of_addresses() {
    for (host, ask) in [
        ("10.0.0.1", &b"\x05\x01\x00\x01\x0a\x00\x00\x01\x11\x5b"[..]),
        ("2001:db8::1", b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x11\x5b"),
        ("gw.example", ASK),
    ] {
        let turns = [HELLO, (ask, &b"\x05\x00\x00\x01\0\0\0\0\0\0"[..])];
        play("socks5h://p", host, &turns, 100).await.0.unwrap();
    }
}

#[tokio::test]
async fn user_and_password() {
    let url = "socks5h://me:p%20w@p";
    let done = (ASK, &b"\x05\x00\x00\x01\0\0\0\0\0\0"[..]);
    // RFC 1929 section 2.
    let login = &b"\x01\x02me\x03p w"[..];
    for status in [&[1, 0][..], &[5, 0]] {
        let turns = [(&[5, 2, 0, 2][..], &[5, 2][..]), (login, status), done];
        play(url, "gw.example", &turns, 1).await.0.unwrap();
    }
    // A proxy that does not want them is not shown them.
    play(url, "gw.example", &[(&[5, 2, 0, 2], &[5, 0]), done], 1).await.0.unwrap();

    let turns = [(&[5, 2, 0, 2][..], &[5, 2][..]), (login, &[1, 1])];
    let error = play(url, "gw.example", &turns, 1).await.0.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the proxy socks5h://p:1080 wants credentials: it refuses this user and password"
    );
    assert!(error.is_final() && !error.is_silence());
}

#[tokio::test]
async fn no_way_to_show_credentials() {
    let error = play("socks5h://p", "h", &[(&[5, 1, 0], &[5, 0xff])], 1).await.0.unwrap_err();
    assert!(matches!(error, DialError::ProxyAuth { .. }), "{error}");
    assert!(error.to_string().contains("socks5h://USER:PASSWORD@HOST:PORT"), "{error}");
    let error = play("socks5h://a:b@p", "h", &[(&[5, 2, 0, 2], &[5, 0xff])], 1).await.0.unwrap_err();
    assert!(error.to_string().contains("takes neither"), "{error}");
}

#[tokio::test]
async fn every_refusal_is_a_sentence() {
    for (code, says, lasting) in [
        (1, "does not say why", false),
        (2, "its rules do not allow it", true),
        (3, "network is unreachable", false),
        (4, "host is unreachable", false),
        (5, "the host refused", false),
        (6, "TTL expired", false),
        (7, "command not supported", true),
        (8, "kind of address", true),
        (9, "code 9", false),
        (255, "code 255", false),
    ] {
        // Also from those that close after the four bytes, or write no sensible address.
        for tail in [&[][..], &[0], &[1, 0, 0, 0, 0, 0, 0]] {
            let answer = [&[5, code, 0][..], if tail.is_empty() { &[1] } else { tail }].concat();
            let (outcome, _) = play("socks5h://p", "gw.example", &[HELLO, (ASK, &answer)], 2).await;
            let error = outcome.unwrap_err();
            assert!(matches!(error, DialError::ProxyRefused { .. }), "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!((error.is_final(), error.is_silence()), (lasting, false), "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer() {
    let greeting = &[5, 1, 0][..];
    for (turns, says) in [
        (vec![(greeting, &b"HTTP/1.1 400 Bad Request\r\n"[..])], "write http://"),
        (vec![(greeting, &b"\x15\x03\x03\x00\x02\x02\x32"[..])], "speaks TLS"),
        (vec![(greeting, &b"\x00\x5b"[..])], "SOCKS4"),
        (vec![(greeting, &b"SSH-2.0"[..])], "begins with 0x53"),
        (vec![(greeting, &[5, 1][..])], "not offered"),
        (vec![(greeting, &[5, 2][..])], "not offered"),
        (vec![HELLO, (ASK, &[4, 0, 0, 1][..])], "SOCKS4"),
        (vec![HELLO, (ASK, &[5, 0, 0, 2][..])], "unknown kind 2"),
    ] {
        let error = play("socks5h://p", "gw.example", &turns, 1).await.0.unwrap_err();
        assert!(matches!(error, DialError::ProxyProtocol { .. }), "{error}");
        assert!(error.to_string().contains(says) && error.is_final(), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_that_closes() {
    for turns in [
        &[(&[5, 1, 0][..], &[][..])][..],
        &[(&[5, 1, 0], &[5])],
        &[HELLO, (ASK, &[])],
        &[HELLO, (ASK, &[5, 0, 0, 1, 10, 0])],
        &[HELLO, (ASK, &[5, 0, 0, 3, 200, 0])],
    ] {
        let error = play("socks5h://p", "gw.example", turns, 1).await.0.unwrap_err();
        let DialError::ProxyLost { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
        assert!(!error.is_final() && !error.is_silence());
    }
}

/// Whether a parser asks for what it needs, and never for more.
fn exact<T: std::fmt::Debug + PartialEq>(
    data: &[u8],
    parser: fn(&[u8]) -> Result<Parsed<T>, String>,
) -> Option<(usize, Result<T, String>)> {
    let mut at = 0;
    loop {
        match parser(data.get(..at)?) {
            Ok(Parsed::More(missing)) => {
                assert!(missing > 0);
                at += missing;
            }
            Ok(Parsed::Done(value)) => return Some((at, Ok(value))),
            Err(error) => return Some((at, Err(error))),
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(mut data: Vec<u8>, version in 0..6u8, code in 0..2u8, kind in 0..5u8) {
        for _ in 0..2 {
            let _ = (exact(&data, method), exact(&data, accepted));
            if let Some((used, Ok(outcome))) = exact(&data, reply) {
                prop_assert!(used <= 4 + 1 + 255 + 2);
                prop_assert_eq!(reply(&data), Ok(Parsed::Done(outcome)));
                prop_assert!(matches!(reply(&data[..used - 1]), Ok(Parsed::More(1))));
            }
            data.splice(0..0, [version, code, 0, kind]);
        }
    }
}
