//! Who gets a tunnel from our gateway, to where, and how many; and what becomes of tunnels when the gateway ends. Where none leads
//! is a table, `tests/vectors/forbidden.toml`, which `tests/e2e` asks for.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::harness::tcp::{self, TlsStream};
use crate::harness::{Bed, Gateway, wait_until};
use crate::peers::{Client, Echo, Over};
use crate::proxy::TUNNELS;
use crate::upgrade::{ask, capsule};

tests![
    a_name_that_resolves_to_what_is_closed,
    ports_that_no_rule_allows,
    two_tunnels_of_an_address,
    what_a_user_may_have_in_all,
    users,
    users_over_http3_and_http2,
    where_http3_is,
    a_shutdown_says_goaway_and_lets_tunnels_end,
    a_shutdown_cuts_tunnels_that_do_not_end,
];

/// Everything that is public.
const PUBLIC: &str = "[tunnel]\nallow = [\"*:*\"]\n";

fn request(target: &str, fields: &str) -> String {
    format!(
        "GET /.well-known/masque/udp/{target}/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
         Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n{fields}\r\n"
    )
}

/// Asks over HTTP/1.1 for a tunnel to `target` (`HOST/PORT`, encoded): the status, what Proxy-Status says of an error, the stream.
fn tunnel(gateway: &Gateway, target: &str, fields: &str) -> (u16, Option<String>, TlsStream) {
    let (head, stream) = ask(gateway, &request(target, fields));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let field = head.lines().find_map(|line| line.strip_prefix("proxy-status: "));
    let error = field.and_then(|field| field.split("error=").nth(1)).and_then(|rest| rest.split(';').next());
    (status.unwrap_or_else(|| panic!("{head}")), error.map(|error| error.trim().to_owned()), stream)
}

/// Whether the tunnel carries a payload there and back.
fn echoes(stream: &mut TlsStream) -> bool {
    let sent = capsule(b"there and back");
    let mut got = vec![0; sent.len()];
    stream.write_all(&sent).and_then(|()| stream.flush()).and_then(|()| stream.read_exact(&mut got)).is_ok()
        && got == sent
}

fn a_name_that_resolves_to_what_is_closed(bed: &Bed) {
    // With any range names for private use are resolved; what they resolve to is looked at.
    let open = format!("{PUBLIC}dangerous_ranges = [\"10.20.0.0/16\"]\n");
    let (gateway, echo) = (bed.gateway_with(&open), Echo::start());
    let (status, error, _) = tunnel(&gateway, &format!("localhost/{}", echo.address().port()), "");
    assert_eq!((status, error.as_deref()), (502, Some("destination_ip_prohibited")));
    assert_eq!(echo.got(), 0);
}

fn ports_that_no_rule_allows(bed: &Bed) {
    let (echo, other) = (Echo::start(), Echo::start());
    let port = echo.address().port();
    let config = format!("[tunnel]\nallow = [\"127.0.0.1:{port}\"]\ndangerous_ranges = [\"127.0.0.1/32\"]\n");
    let gateway = bed.gateway_with(&config);
    let (status, _, mut stream) = tunnel(&gateway, &format!("127.0.0.1/{port}"), "");
    assert!(status == 101 && echoes(&mut stream));
    for target in [format!("127.0.0.1/{}", other.address().port()), format!("127.0.0.2/{port}")] {
        let (status, error, _) = tunnel(&gateway, &target, "");
        assert_eq!((status, error.as_deref()), (403, Some("http_request_denied")), "{target}");
    }
    assert_eq!((echo.got(), other.got()), (1, 0));
}

fn two_tunnels_of_an_address(bed: &Bed) {
    let (gateway, echo) = (bed.gateway_with(&format!("{TUNNELS}tunnels_per_address = 2\n")), Echo::start());
    let target = format!("127.0.0.1/{}", echo.address().port());
    let mut held = [tunnel(&gateway, &target, "").2, tunnel(&gateway, &target, "").2];
    assert!(held.iter_mut().all(echoes));
    let (status, error, _) = tunnel(&gateway, &target, "");
    assert_eq!((status, error.as_deref()), (503, Some("connection_limit_reached")));
    // Whichever way it comes.
    let client = Client::new(Over::H3, gateway.address(), &gateway.ca(), echo.address());
    let seen = client.with("--name", "127.0.0.1").with("--timeout", 1).one("echo");
    assert_eq!(seen.status(), Some(503), "{seen:?}");
    let [first, _second] = held;
    drop(first);
    wait_until("a place", || tunnel(&gateway, &target, "").0 == 101);
}

/// All tunnels of a user together, whatever connections they are in.
fn what_a_user_may_have_in_all(bed: &Bed) {
    let (gateway, echo) = (with_users_and(bed, "tunnels_per_user = 3\npeer_datagrams = 10\n"), Echo::start());
    let target = format!("127.0.0.1/{}", echo.address().port());
    let alice = "Proxy-Authorization: Bearer alices-long-token\r\n";
    let mut held = [(); 3].map(|()| tunnel(&gateway, &target, alice).2);
    let (status, error, _) = tunnel(&gateway, &target, alice);
    assert_eq!((status, error.as_deref()), (503, Some("connection_limit_reached")));
    let began = Instant::now();
    for stream in &mut held {
        stream.write_all(&capsule(b"one of many").repeat(100)).and_then(|()| stream.flush()).unwrap();
    }
    wait_until("something of it", || echo.got() > 0);
    std::thread::sleep(Duration::from_millis(300));
    // One at once, and ten a second.
    let most = 2 + 10 * began.elapsed().as_secs() + 10;
    assert!(echo.got() <= most, "{} of 300 have come, {most} at most are due", echo.got());
    drop(held);
    wait_until("a place again", || tunnel(&gateway, &target, alice).0 == 101);
}

/// Alice may open tunnels, Bob may not.
fn with_users(bed: &Bed) -> Gateway {
    with_users_and(bed, "")
}

/// The same, with more in the table of tunnels.
fn with_users_and(bed: &Bed, more: &str) -> Gateway {
    bed.write("alice", "alices-long-token");
    bed.write("bob", "bobs-longer-token");
    bed.gateway_with(&format!(
        "{TUNNELS}{more}[users.alice]\ntoken_file = \"alice\"\n[users.bob]\ntoken_file = \"bob\"\ntunnel = false\n"
    ))
}

fn users(bed: &Bed) {
    let (gateway, echo) = (with_users(bed), Echo::start());
    let target = format!("127.0.0.1/{}", echo.address().port());
    for (fields, due) in [
        ("", 407),
        ("Proxy-Authorization: Bearer wrong-but-long-token\r\n", 407),
        ("Proxy-Authorization: Digest x\r\n", 407),
        ("Proxy-Authorization: Bearer alices-long-token\r\n", 101),
        ("proxy-authorization: bearer alices-long-token\r\n", 101),
        // RFC 7617: "alice:alices-long-token".
        ("Proxy-Authorization: Basic YWxpY2U6YWxpY2VzLWxvbmctdG9rZW4=\r\n", 101),
        ("Authorization: Bearer alices-long-token\r\n", 101),
        ("Proxy-Authorization: Bearer bobs-longer-token\r\n", 403),
    ] {
        let before = echo.got();
        let (head, mut stream) = ask(&gateway, &request(&target, fields));
        assert!(head.starts_with(&format!("http/1.1 {due} ")), "{fields} {head}");
        // RFC 9110 section 11.7.1.
        assert_eq!(head.contains("proxy-authenticate: bearer, basic realm="), due == 407, "{head}");
        assert_eq!(head.contains("error=http_request_denied"), due != 101, "{head}");
        assert_eq!(due == 101 && echoes(&mut stream), due == 101);
        assert_eq!(echo.got() - before, u64::from(due == 101), "{fields}");
        assert!(!gateway.log().contains("long-token"));
    }
}

fn users_over_http3_and_http2(bed: &Bed) {
    let (gateway, echo) = (with_users(bed), Echo::start());
    for over in [Over::H3, Over::H2] {
        for (token, due) in [
            ("", 407),
            ("Bearer alices-long-token", 200),
            ("Bearer bobs-longer-token", 403),
            ("Basic eA==", 407),
        ] {
            let client = Client::new(over, gateway.address(), &gateway.ca(), echo.address());
            let mut client = client.with("--name", "127.0.0.1").with("--timeout", 2);
            if !token.is_empty() {
                client = client.with("--header", format!("proxy-authorization={token}"));
            }
            let seen = client.one("echo");
            assert_eq!(
                (seen.status(), seen.payloads()[0]),
                (Some(due), if due == 200 { 3 } else { 0 }),
                "{seen:?}"
            );
        }
    }
}

fn where_http3_is(bed: &Bed) {
    let gateway = bed.gateway();
    // RFC 7838 section 3.
    let due = format!("alt-svc: h3=\":{}\"; ma=86400\r\n", gateway.address().port());
    let (head, _) = ask(&gateway, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("http/1.1 200 ") && head.contains(&due), "{head}");
    for (over, said) in [(Over::H2, true), (Over::H3, false)] {
        let client = Client::new(over, gateway.address(), &gateway.ca(), gateway.address());
        let seen = client.with("--name", "127.0.0.1").one("get_root");
        assert_eq!((seen.status(), seen.header("alt-svc").is_some()), (Some(200), said), "{seen:?}");
    }
}

fn a_shutdown_says_goaway_and_lets_tunnels_end(bed: &Bed) {
    let (mut gateway, echo) = (bed.gateway_with(TUNNELS), Echo::start());
    let clients = [Over::H3, Over::H2].map(|over| {
        let client = Client::new(over, gateway.address(), &gateway.ca(), echo.address());
        let client = client.with("--name", "127.0.0.1").with("--timeout", 8);
        (over, std::thread::spawn(move || client.one("shut_down")))
    });
    wait_until("tunnels", || echo.got() == 2);
    let began = Instant::now();
    let status = gateway.terminate();
    let took = began.elapsed();
    for (over, client) in clients {
        let seen = client.join().unwrap();
        assert_eq!(seen.0["goaway"], true, "{seen:?}");
        if over == Over::H3 {
            // What was sent after the GOAWAY has come back; then the client has ended its tunnel.
            assert_eq!((seen.payloads(), seen.ended()), (vec![2], true), "{seen:?}");
            assert_eq!(seen.closed(), Some(H3_NO_ERROR), "{seen:?}");
        }
    }
    assert!(status.success() && took < Duration::from_secs(5), "{status} {took:?}");
}

fn a_shutdown_cuts_tunnels_that_do_not_end(bed: &Bed) {
    let config = format!("[limits]\nhandshake_seconds = 2\n{TUNNELS}");
    let (mut gateway, echo) = (bed.gateway_with(&config), Echo::start());
    let (_, _, mut stream) = tunnel(&gateway, &format!("127.0.0.1/{}", echo.address().port()), "");
    assert!(echoes(&mut stream));
    let began = Instant::now();
    assert!(gateway.terminate().success());
    let took = began.elapsed();
    assert!((2..6).contains(&took.as_secs()), "{took:?}");
    assert_eq!(tcp::ending(&mut stream).0, b"");
}

/// RFC 9114 section 8.1.
const H3_NO_ERROR: u64 = 0x100;
