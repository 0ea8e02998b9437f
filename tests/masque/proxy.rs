//! Clients of aioquic and hyper-h2 at our gateway: what RFC 9298, 9297, 9220 and 9114 want done with what they send.
//!
//! A row says what must come of a case of `clients/cases.py`, and by which section. Where a section leaves a choice, the
//! row says what we chose.

use crate::harness::{Bed, Gateway};
use crate::peers::{Client, Echo, Envoy, Over, Resolver, Seen, envoy, hex, unhex};

tests![
    payloads_in_datagrams,
    payloads_in_capsules,
    payloads_to_a_client_without_datagrams,
    payloads_of_any_size,
    malformed_over_http3,
    malformed_over_http2,
    targets_that_are_none,
    requests_that_are_none,
    pages_over_http3,
    many_tunnels,
    dns,
    quic_in_a_tunnel,
];

/// Lines of the gateway's configuration that let anybody open tunnels to loopback, and to a name that is not there.
pub(crate) const TUNNELS: &str = "[tunnel]\nallow = [\"127.0.0.1:*\", \"nowhere.invalid:*\"]\n\
                                  dangerous_ranges = [\"127.0.0.0/8\"]\n";

/// A gateway with tunnels, and what is behind them.
struct Place {
    gateway: Gateway,
    echo: Echo,
}

impl Place {
    fn new(bed: &Bed) -> Self {
        Self { gateway: bed.gateway_with(TUNNELS), echo: Echo::start() }
    }

    fn client(&self, over: Over) -> Client {
        // Its certificate is for addresses, too.
        client(&self.gateway, over, self.echo.address())
    }

    /// Does the cases, and holds each against its row.
    #[track_caller]
    fn expect(&self, over: Over, rows: &[(&str, Outcome)]) {
        let cases: Vec<&str> = rows.iter().map(|(case, _)| *case).collect();
        let seen = self.client(over).with("--timeout", 2).run(&cases);
        let wrong: Vec<String> = rows
            .iter()
            .zip(&seen)
            .filter(|((_, outcome), seen)| !outcome.is(over, seen))
            .map(|((_, outcome), seen)| format!("{outcome:?} was due: {seen:?}"))
            .collect();
        assert!(wrong.is_empty(), "over {over:?}\n{}", wrong.join("\n"));
    }
}

fn client(gateway: &Gateway, over: Over, target: std::net::SocketAddr) -> Client {
    Client::new(over, gateway.address(), &gateway.ca(), target).with("--name", "127.0.0.1")
}

/// What must come of a case. Unless it is the end of the connection, another tunnel on it must work afterwards.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// A tunnel, and this many payloads came back.
    Echoes(usize),
    /// An answer that is none of the 2xx, this one.
    Status(u64),
    /// The request is malformed (RFC 9114 section 4.1.2, RFC 9113 section 8.1.1): 400, or the stream is reset with
    /// H3_MESSAGE_ERROR or PROTOCOL_ERROR.
    Malformed,
    /// What came on the stream breaks a rule of capsules: H3_MESSAGE_ERROR (RFC 9297 section 3.3). Over HTTP/2 the stream ends,
    /// or is reset with any code: hyper has no way to say why.
    Broken,
    /// The fields are too long: 431, or of far too long ones H3_EXCESSIVE_LOAD or the end of the connection
    /// with ENHANCE_YOUR_CALM, before they are in memory.
    TooLong,
    /// A tunnel that goes on, with nothing in it.
    Silent,
    /// The connection is closed with this code.
    Closed(u64),
}

impl Outcome {
    fn is(self, over: Over, seen: &Seen) -> bool {
        let alive = seen.closed().is_none() && seen.alive();
        match self {
            Self::Echoes(count) => alive && seen.status() == Some(200) && seen.payloads()[0] == count,
            Self::Status(status) => alive && seen.status() == Some(status),
            Self::Malformed if over == Over::H3 => {
                alive && (seen.status() == Some(400) || seen.reset() == Some(H3_MESSAGE_ERROR))
            }
            // RFC 9113 section 5.4.2: an error of a stream may be taken for one of the connection. hyper just leaves at CONNECT
            // with a Content-Length.
            Self::Malformed => {
                alive && (seen.status() == Some(400) || seen.reset() == Some(PROTOCOL_ERROR))
                    || seen.closed() == Some(PROTOCOL_ERROR)
                    || seen.case() == "content_length" && seen.is_closed()
            }
            Self::Broken if over == Over::H3 => alive && seen.reset() == Some(H3_MESSAGE_ERROR),
            Self::Broken => alive && (seen.reset().is_some() || seen.ended()) && seen.payloads()[0] == 0,
            Self::TooLong if over == Over::H3 => {
                alive && (seen.status() == Some(431) || seen.stop() == Some(H3_EXCESSIVE_LOAD))
            }
            Self::TooLong => alive && seen.status() == Some(431) || seen.closed() == Some(ENHANCE_YOUR_CALM),
            Self::Silent => {
                alive
                    && seen.status() == Some(200)
                    && seen.payloads()[0] == 0
                    && seen.reset().is_none()
                    && !seen.ended()
            }
            Self::Closed(code) => seen.closed() == Some(code),
        }
    }
}

use Outcome::{Broken, Closed, Echoes, Malformed, Silent, Status, TooLong};

/// Over every version of HTTP.
const CAPSULES: [(&str, Outcome); 14] = [
    // 9298 section 5: before the answer they may be dropped; here they are kept.
    ("early", Echoes(2)),
    ("capsules_in_pieces", Echoes(3)),
    ("capsules_in_one", Echoes(3)),
    // 9297 section 3.2: unknown capsules are skipped, whatever their length.
    ("capsules_unknown", Echoes(3)),
    // 9000 section 16: integers need not be short.
    ("capsule_long_varints", Echoes(3)),
    // 9298 section 4 and 5: other contexts are dropped.
    ("contexts_unknown", Echoes(3)),
    // 9297 section 3.3: an end within a capsule, and one too short for its context id.
    ("capsule_truncated", Broken),
    ("capsule_head_truncated", Broken),
    ("capsule_without_context", Broken),
    // 9298 section 5: more than 65527 bytes abort the stream.
    ("capsule_too_long", Broken),
    ("capsule_endless", Broken),
    ("fin", Echoes(1)),
    ("reset", Echoes(1)),
    ("datagram_of_closed_stream", Echoes(0)),
];

fn payloads_in_datagrams(bed: &Bed) {
    let place = Place::new(bed);
    for case in ["echo", "echo_both", "one_after_the_other"] {
        let seen = place.client(Over::H3).payload(b"one").payload(b"").with("--size", 1200).one(case);
        assert!(seen.status() == Some(200) && seen.alive(), "{seen:?}");
        // 9297 section 3.4
        assert_eq!(seen.header("capsule-protocol"), Some("?1"), "{seen:?}");
        // 9220 section 3, 9297 section 2.1.1
        assert_eq!((&seen.0["settings"]["8"], &seen.0["settings"]["51"]), (&1.into(), &1.into()), "{seen:?}");
        if case == "echo" {
            let mut all = [hex(b"one"), String::new(), "1200 bytes, as sent".into()];
            all.sort_unstable();
            assert_eq!(seen.datagrams(), all, "{seen:?}");
        }
    }
}

fn payloads_in_capsules(bed: &Bed) {
    let place = Place::new(bed);
    for over in [Over::H3, Over::H2] {
        place.expect(over, &[("echo_capsules", Echoes(3))]);
        place.expect(over, &CAPSULES);
    }
}

fn payloads_to_a_client_without_datagrams(bed: &Bed) {
    // 9297 section 2.1.1: nothing in QUIC datagrams before both have said 1; section 3.5: so in capsules.
    let place = Place::new(bed);
    let cases = ["settings_datagram_0", "settings_no_datagram", "no_quic_datagrams", "no_datagrams_at_all"];
    for seen in place.client(Over::H3).run(&cases) {
        assert!(seen.datagrams().is_empty() && seen.capsules().len() == 3 && seen.alive(), "{seen:?}");
    }
}

fn payloads_of_any_size(bed: &Bed) {
    let place = Place::new(bed);
    // The longest that IPv4 carries.
    let sizes =
        |client: Client| [0, 1, 1200].into_iter().fold(client, |client, size| client.with("--size", size));
    let seen = sizes(place.client(Over::H2)).with("--size", 65_507).one("echo_capsules");
    assert_eq!(seen.payloads(), [4], "{seen:?}");
    // Who sends capsules gets capsules, and so whatever fits them.
    let seen = sizes(place.client(Over::H3)).with("--size", 65_507).one("echo_capsules");
    assert!(seen.capsules().len() == 4 && seen.alive(), "{seen:?}");
    // 9298 section 6.1: what does not fit a datagram is lost, and is not sent as a capsule.
    let seen =
        place.client(Over::H3).payload(Echo::ENLARGE).payload(b"last").with("--timeout", 1).one("echo");
    assert_eq!((seen.datagrams(), seen.capsules()), (vec![&*hex(b"last")], vec![]), "{seen:?}");
    let seen = sizes(place.client(Over::H3)).with("--size", 65_507).one("settings_no_datagram");
    assert_eq!(seen.payloads(), [4], "{seen:?}");
}

fn malformed_over_http3(bed: &Bed) {
    let place = Place::new(bed);
    place.expect(
        Over::H3,
        &[
            // 9297 section 2.1: a quarter stream id that is cut off, or that no stream can have.
            ("datagram_empty", Closed(H3_DATAGRAM_ERROR)),
            ("datagram_unparsable", Closed(H3_DATAGRAM_ERROR)),
            ("datagram_id_too_large", Closed(H3_DATAGRAM_ERROR)),
            // "SHOULD" of the same section.
            ("datagram_id_beyond_limit", Closed(H3_ID_ERROR)),
            ("datagram_of_no_stream", Echoes(1)),
            // No section names an error: dropped, as one of a context that is not known.
            ("datagram_without_context", Silent),
            // 9297 section 2.1.1, 9220 section 3
            ("settings_datagram_2", Closed(H3_SETTINGS_ERROR)),
            ("settings_connect_2", Closed(H3_SETTINGS_ERROR)),
            // 9114 section 7.2.4
            ("settings_twice", Closed(H3_FRAME_UNEXPECTED)),
            // 9114 section 4.4: only DATA on a stream of CONNECT; section 9: unknown frames are skipped.
            ("trailers", Closed(H3_FRAME_UNEXPECTED)),
            ("unknown_frame", Echoes(3)),
            ("stop", Echoes(1)),
        ],
    );
    // h3 0.0.8 sees nothing wrong in these; the last pseudo-header field counts, and :status is ignored.
    let unseen = ["method_twice", "path_twice", "pseudo_late", "pseudo_status"];
    place.expect(
        Over::H3,
        &HEADS.map(|(case, due)| (case, if unseen.contains(&case) { Silent } else { due })),
    );
}

fn malformed_over_http2(bed: &Bed) {
    let place = Place::new(bed);
    // hyper leaves the fields of a tunnel to us, and closes the connection for what h2 finds: a case at a time.
    for row in HEADS {
        place.expect(Over::H2, &[row]);
    }
}

/// Heads that are malformed (9114 section 4.3 and 4.2, 9113 section 8.3 and 8.2, 9297 section 3.2).
const HEADS: [(&str, Outcome); 20] = [
    ("protocol_on_get", Malformed),
    ("scheme_none", Malformed),
    ("path_none", Malformed),
    ("path_empty", Malformed),
    ("authority_none", Malformed),
    ("method_twice", Malformed),
    ("path_twice", Malformed),
    ("pseudo_late", Malformed),
    ("pseudo_unknown", Malformed),
    ("pseudo_status", Malformed),
    ("field_connection", Malformed),
    ("field_transfer_encoding", Malformed),
    ("field_upgrade", Malformed),
    ("field_upper_case", Malformed),
    ("field_newline", Malformed),
    ("host_also", Malformed),
    ("content_length", Malformed),
    ("content_type", Malformed),
    // 9114 section 4.2.2
    ("fields_long", TooLong),
    ("fields_many", TooLong),
];

fn targets_that_are_none(bed: &Bed) {
    let place = Place::new(bed);
    // 9298 section 2 and 3. Names that are not there: 9209 section 2.3.2.
    let none = [
        "port_0",
        "port_65536",
        "port_empty",
        "port_words",
        "port_signed",
        "host_empty",
        "host_zone",
        "host_brackets",
        "host_raw_ipv6",
        "host_nul",
        "host_slash",
        "host_twice",
        "percent_short",
        "percent_words",
        "percent_utf8",
    ];
    let rows: Vec<(&str, Outcome)> = none.into_iter().map(|case| (case, Status(400))).collect();
    for over in [Over::H3, Over::H2] {
        place.expect(over, &rows);
        let seen = place.client(over).one("host_unknown");
        assert_eq!(seen.status(), Some(502), "{seen:?}");
        assert!(seen.header("proxy-status").is_some_and(|text| text.contains("error=dns_error")), "{seen:?}");
    }
    // Nobody was asked anything, but by the tunnels afterwards.
    assert_eq!(place.echo.got(), 2 * (rows.len() as u64 + 1));
}

fn requests_that_are_none(bed: &Bed) {
    let place = Place::new(bed);
    for over in [Over::H3, Over::H2] {
        place.expect(
            over,
            &[
                // 9220 section 3.
                ("protocol_unknown", Status(501)),
                // RFC 9110 section 9.3.6: no proxy for TCP.
                ("protocol_none", Status(405)),
                ("path_other", Status(404)),
                // 8441 section 4: it is the proxy that is named; here nobody asks by which name.
                ("authority_other", Echoes(0)),
            ],
        );
    }
}

fn pages_over_http3(bed: &Bed) {
    let place = Place::new(bed);
    // HEAD is not asked for: aioquic 1.7 takes the Content-Length of its answer for an error (RFC 9110 section 8.6).
    for (case, status) in [
        ("get_root", 200),
        ("get_healthz", 200),
        ("get_nothing", 404),
        ("post_root", 405),
        // 9298 section 3.2 is for HTTP/1.1.
        ("get_template", 405),
    ] {
        let seen = place.client(Over::H3).one(case);
        assert!(seen.status() == Some(status) && seen.ended(), "{seen:?}");
    }
}

fn many_tunnels(bed: &Bed) {
    let place = Place::new(bed);
    for over in [Over::H3, Over::H2] {
        let seen = place.client(over).with("--count", 60).one("many");
        assert!(seen.payloads() == [1; 60] && seen.alive(), "{over:?} {seen:?}");
        let seen = place.client(over).with("--count", 60).one("one_after_the_other");
        assert!(seen.payloads() == [1; 60] && seen.alive(), "{over:?} {seen:?}");
    }
}

fn dns(bed: &Bed) {
    let (gateway, resolver) = (bed.gateway_with(TUNNELS), Resolver::start(bed));
    for over in [Over::H3, Over::H2] {
        let client = client(&gateway, over, resolver.address());
        let seen = client.payload(&Resolver::question(77)).one("echo");
        let answers = [seen.datagrams(), seen.capsules()].concat();
        assert!(answers.len() == 1 && Resolver::is_answer(&unhex(answers[0]), 77), "{seen:?}");
    }
}

fn quic_in_a_tunnel(bed: &Bed) {
    let (gateway, envoy) = (bed.gateway_with(TUNNELS), Envoy::start(bed));
    let seen = client(&gateway, Over::H3, envoy.address(Over::H3)).with("--path", "/page").one("quic");
    let fetched = &seen.0["fetched"];
    assert_eq!((&fetched["status"], &fetched["body"]), (&200.into(), &envoy::PAGE.into()), "{seen:?}");
    assert_eq!((&fetched["ended"], &fetched["largest"]), (&true.into(), &1200.into()), "{seen:?}");
}

/// RFC 9114 section 8.1, RFC 9297 section 5.2.
const H3_DATAGRAM_ERROR: u64 = 0x33;
const H3_FRAME_UNEXPECTED: u64 = 0x105;
const H3_EXCESSIVE_LOAD: u64 = 0x107;
const H3_ID_ERROR: u64 = 0x108;
const H3_SETTINGS_ERROR: u64 = 0x109;
const H3_MESSAGE_ERROR: u64 = 0x10e;
/// RFC 9113 section 7.
const PROTOCOL_ERROR: u64 = 0x1;
const ENHANCE_YOUR_CALM: u64 = 0xb;
