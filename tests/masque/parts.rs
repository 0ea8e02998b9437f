//! The peers do what the other tests rely on: with each other, without `metra`.

use crate::harness::Bed;
use crate::peers::{Client, Echo, Envoy, Over, Resolver, Seen, envoy, hex, unhex};

tests![
    payloads_over_http3,
    payloads_over_http2,
    capsules_in_any_shape,
    many_tunnels,
    dns,
    quic_in_a_tunnel,
    payloads_that_do_not_fit,
    rules_that_are_broken,
    requests_that_are_refused,
];

const BOTH: [Over; 2] = [Over::H3, Over::H2];

fn client(envoy: &Envoy, over: Over, echo: &Echo) -> Client {
    Client::new(over, envoy.address(over), envoy.ca(), echo.address())
}

/// Payloads in an order: on the way they may overtake each other.
fn sorted<const N: usize>(mut payloads: [&str; N]) -> [&str; N] {
    payloads.sort_unstable();
    payloads
}

/// A case without surprises: another tunnel works after it.
fn fine(seen: &Seen) {
    assert_eq!(
        (seen.status(), seen.reset(), seen.closed(), seen.alive()),
        (Some(200), None, None, true),
        "{seen:?}"
    );
}

fn payloads_over_http3(bed: &Bed) {
    let (envoy, echo) = (Envoy::start(bed), Echo::start());
    for case in ["echo", "echo_capsules", "echo_both"] {
        let seen =
            client(&envoy, Over::H3, &echo).payload(b"one").payload(b"").with("--size", 1200).one(case);
        fine(&seen);
        // Whatever the client chose: it can do QUIC datagrams, and gets them.
        assert_eq!(seen.datagrams(), sorted([&hex(b"one"), "", "1200 bytes, as sent"]), "{seen:?}");
        assert_eq!(seen.header("capsule-protocol"), Some("?1"), "{seen:?}");
        // SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 9220 section 3) and SETTINGS_H3_DATAGRAM (RFC 9297 section 2.1.1).
        assert_eq!((&seen.0["settings"]["8"], &seen.0["settings"]["51"]), (&1.into(), &1.into()), "{seen:?}");
    }
    assert_eq!(envoy.tunnels(), 6);
    assert_eq!(echo.got(), 12);
}

fn payloads_over_http2(bed: &Bed) {
    let (envoy, echo) = (Envoy::start(bed), Echo::start());
    let client = client(&envoy, Over::H2, &echo).payload(b"one").payload(b"").with("--size", 1200);
    let seen = client.with("--size", 65_507).one("echo_capsules");
    fine(&seen);
    assert_eq!(
        seen.capsules(),
        sorted([&hex(b"one"), "", "1200 bytes, as sent", "65507 bytes, as sent"]),
        "{seen:?}"
    );
    assert_eq!(seen.header("capsule-protocol"), Some("?1"), "{seen:?}");
}

fn capsules_in_any_shape(bed: &Bed) {
    let (envoy, echo) = (Envoy::start(bed), Echo::start());
    let cases = [
        "early",
        "capsules_in_pieces",
        "capsules_in_one",
        "capsules_unknown",
        "capsule_long_varints",
        "contexts_unknown",
        "fin",
        "reset",
    ];
    for over in BOTH {
        for seen in client(&envoy, over, &echo).with("--timeout", 1).run(&cases) {
            assert!(seen.alive(), "{seen:?}");
            let count = match seen.case() {
                "fin" | "reset" => 1,
                "early" => 2,
                _ => 3,
            };
            assert_eq!(seen.payloads(), [count], "{over:?} {seen:?}");
        }
    }
}

fn many_tunnels(bed: &Bed) {
    let (envoy, echo) = (Envoy::start(bed), Echo::start());
    for over in BOTH {
        for seen in client(&envoy, over, &echo).with("--count", 40).run(&["many"]) {
            assert_eq!(seen.payloads(), [1; 40], "{over:?} {seen:?}");
            assert!(seen.alive(), "{seen:?}");
        }
    }
}

fn dns(bed: &Bed) {
    let (envoy, resolver) = (Envoy::start(bed), Resolver::start(bed));
    for over in BOTH {
        let client = Client::new(over, envoy.address(over), envoy.ca(), resolver.address());
        let seen = client.payload(&Resolver::question(77)).with("--timeout", 2).one("echo");
        let answers = [seen.datagrams(), seen.capsules()].concat();
        assert_eq!(answers.len(), 1, "{seen:?}");
        assert!(Resolver::is_answer(&unhex(answers[0]), 77), "{seen:?}");
    }
}

fn quic_in_a_tunnel(bed: &Bed) {
    let envoy = Envoy::start(bed);
    let itself = envoy.address(Over::H3);
    let client = Client::new(Over::H3, itself, envoy.ca(), itself).with("--path", "/page");
    let seen = client.one("quic");
    let fetched = &seen.0["fetched"];
    assert_eq!((&fetched["status"], &fetched["body"]), (&200.into(), &envoy::PAGE.into()), "{seen:?}");
    assert_eq!((&fetched["ended"], &fetched["largest"]), (&true.into(), &1200.into()), "{seen:?}");
}

fn payloads_that_do_not_fit(bed: &Bed) {
    let (envoy, echo) = (Envoy::start(bed), Echo::start());
    // What goes up as a capsule comes back as a datagram, or not at all: not as a capsule (RFC 9298 section 6.1).
    let client = client(&envoy, Over::H3, &echo).with("--timeout", 1);
    let client = client.with("--size", 1400).with("--size", 1500).with("--size", 9000).payload(b"last");
    let seen = client.one("echo_capsules");
    fine(&seen);
    assert_eq!(seen.datagrams(), sorted(["1400 bytes, as sent", &hex(b"last")]), "{seen:?}");
    assert_eq!((echo.got(), seen.capsules().len()), (5, 0), "{seen:?}");
}

/// That the clients break the rules they say they break. Not that Envoy is right: it is lenient with some.
fn rules_that_are_broken(bed: &Bed) {
    let (mut envoy, echo) = (Envoy::start(bed), Echo::start());
    // The case, the error code of the stream, and that of the connection.
    let cases = [
        ("capsule_truncated", Some(H3_GENERAL_PROTOCOL_ERROR), None),
        ("capsule_endless", Some(H3_GENERAL_PROTOCOL_ERROR), None),
        ("capsule_without_context", Some(H3_REQUEST_REJECTED), None),
        ("datagram_id_too_large", None, Some(H3_FRAME_ERROR)),
        ("settings_datagram_2", None, Some(H3_SETTINGS_ERROR)),
        ("settings_twice", None, Some(H3_FRAME_UNEXPECTED)),
        ("path_twice", Some(H3_GENERAL_PROTOCOL_ERROR), None),
        ("pseudo_late", Some(H3_GENERAL_PROTOCOL_ERROR), None),
        ("field_connection", None, Some(H3_FRAME_ERROR)),
        ("fields_long", Some(H3_EXCESSIVE_LOAD), None),
    ];
    let names: Vec<&str> = cases.iter().map(|(case, ..)| *case).collect();
    let seen = client(&envoy, Over::H3, &echo).with("--timeout", 2).run(&names);
    for ((_, reset, closed), seen) in cases.into_iter().zip(&seen) {
        assert_eq!((seen.reset(), seen.closed()), (reset, closed), "{seen:?}");
        assert_eq!(seen.alive(), closed.is_none(), "{seen:?}");
    }
    for seen in client(&envoy, Over::H2, &echo).run(&["capsule_truncated", "capsule_endless", "fields_long"])
    {
        // INTERNAL_ERROR (RFC 9113 section 7)
        assert_eq!((seen.reset(), seen.closed(), seen.alive()), (Some(2), None, true), "{seen:?}");
    }
    envoy.must_run();
}

fn requests_that_are_refused(bed: &Bed) {
    let (envoy, echo) = (Envoy::start(bed), Echo::start());
    for over in BOTH {
        for (case, status) in [
            ("path_other", 404),
            ("host_empty", 404),
            ("port_65536", 503),
            ("host_unknown", 503),
            ("get_root", 404),
        ] {
            let seen = client(&envoy, over, &echo).one(case);
            assert_eq!(seen.status(), Some(status), "{over:?} {seen:?}");
        }
    }
    assert_eq!(echo.got(), 8);
}

/// RFC 9114 section 8.1.
const H3_GENERAL_PROTOCOL_ERROR: u64 = 0x101;
const H3_FRAME_UNEXPECTED: u64 = 0x105;
const H3_FRAME_ERROR: u64 = 0x106;
const H3_EXCESSIVE_LOAD: u64 = 0x107;
const H3_SETTINGS_ERROR: u64 = 0x109;
const H3_REQUEST_REJECTED: u64 = 0x10b;
