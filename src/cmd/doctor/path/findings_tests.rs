//! A table with every way in which a network can stand in the way.

#![allow(clippy::unwrap_used)]

use super::*;

const PINS: [&str; 2] = [
    "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "sha256/AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
];

fn pin(n: usize) -> Pin {
    PINS[n].parse().unwrap()
}

fn address() -> Address {
    Address { host: "gw.example".into(), port: 4443 }
}

/// One that works.
fn well(rung: Rung) -> Probe {
    Probe {
        from: Some("192.0.2.5".parse().unwrap()),
        to: Some("203.0.113.9:4443".parse().unwrap()),
        pin: Some(pin(0)),
        mtu: (rung == Rung::Quic).then_some((1452, 0)),
        ..Probe::new(rung)
    }
}

fn bad(rung: Rung, trouble: Trouble) -> Probe {
    Probe { trouble: Some(trouble), pin: None, mtu: None, ..well(rung) }
}

fn found(probes: &[Probe], pins: &[Pin]) -> Vec<Finding> {
    Case { address: &address(), probes, pins }.findings()
}

fn names(probes: &[Probe], pins: &[Pin]) -> Vec<(Rung, &'static str)> {
    found(probes, pins).iter().map(|finding| (finding.rung, finding.name)).collect()
}

#[test]
fn a_network_that_lets_everything_through_is_left_alone() {
    let probes = Rung::ALL.map(well);
    assert_eq!(found(&probes, &[]), []);
    let case = Case { address: &address(), probes: &probes, pins: &[] };
    assert_eq!(probes.each_ref().map(|probe| case.inspected(probe)), [Some(false); 5]);
}

#[test]
fn every_mode_has_a_name_and_words_for_both() {
    use Trouble::*;
    let why = || "why".to_owned();
    // What happens; its name; what the administrator reads of it.
    let table = [
        (Rung::Quic, Silent(Stage::Connect), "silent", "gets no answer"),
        (Rung::Tls, Silent(Stage::Connect), "silent", "gets no answer"),
        (
            Rung::Tls,
            Silent(Stage::Secure),
            "silent",
            "connects, but the handshake of TLS 1.3 with ALPN mtp/1",
        ),
        (Rung::Quic, Refused(why()), "refused", "is refused: why"),
        (Rung::WebSocket, Refused(why()), "refused", "HTTPS with WebSocket"),
        (Rung::Quic, Stalled { arrived: 12_000, of: 262_144 }, "stalled", "11.7 KiB of 256.0 KiB arrived"),
        (Rung::Tls, Lost(why()), "lost", "is cut off"),
        (Rung::Tls, NoProtocol(why()), "no_protocol", "does not take TLS 1.3 with ALPN mtp/1: why"),
        (Rung::Tls, Untrusted { pin: Some(pin(1)), message: why() }, "untrusted", PINS[1]),
        (Rung::Tls, Tls(why()), "tls", "fails: why"),
        (Rung::Quic, Name(why()), "name", "The name gw.example cannot be resolved"),
    ];
    for (rung, trouble, name, words) in table {
        let [finding] = &found(&[bad(rung, trouble.clone())], &[])[..] else { panic!("{trouble:?}") };
        assert_eq!((finding.rung, finding.name), (rung, name));
        let administrator = finding.administrator.as_ref().unwrap();
        assert!(administrator.contains(words), "{trouble:?}: {administrator}");
        assert!(administrator.contains("gw.example") && administrator.ends_with('.'), "{administrator}");
        assert!(finding.user.ends_with('.') && !finding.user.contains(".."), "{}", finding.user);
    }
    assert_eq!(found(&[bad(Rung::Quic, Local(why()))], &[])[0].administrator, None);
}

#[test]
fn the_administrator_reads_what_to_allow_from_where_to_where() {
    let silent = found(&[bad(Rung::Quic, Trouble::Silent(Stage::Connect))], &[]);
    assert_eq!(
        silent[0].administrator.as_deref(),
        Some(
            "UDP from 192.0.2.5 to gw.example (203.0.113.9) port 4443 gets no answer: the packets, or the answers, are \
             dropped. Please allow UDP to 203.0.113.9 port 4443 (QUIC with ALPN mtp/1), and the answers to it, for as long \
             as packets come at least every 15 s."
        )
    );
    let proxy = Some("http://proxy.example:3128".to_owned());
    for (trouble, name) in [
        (Trouble::ProxyRefused("403 Forbidden".into()), "proxy_refused"),
        (Trouble::ProxyCredentials("it offers Basic".into()), "proxy_credentials"),
        (Trouble::Proxy("it is silent".into()), "proxy"),
    ] {
        let probe = Probe { proxy: proxy.clone(), ..bad(Rung::Tls, trouble) };
        let finding = found(&[probe], &[]).remove(0);
        let words = finding.administrator.unwrap();
        assert_eq!(finding.name, name);
        assert!(words.starts_with("The proxy http://proxy.example:3128 for gw.example:4443"), "{words}");
    }
}

#[test]
fn what_is_the_same_for_all_is_said_once() {
    let probes = Rung::ALL.map(|rung| bad(rung, Trouble::Name("why".into())));
    assert_eq!(names(&probes, &[]), [(Rung::Quic, "name")]);
    assert!(Case { address: &address(), probes: &probes, pins: &[] }.is_nobody_there());
    let mixed =
        [bad(Rung::Quic, Trouble::Silent(Stage::Connect)), bad(Rung::Tls, Trouble::Tls("why".into()))];
    assert!(!Case { address: &address(), probes: &mixed, pins: &[] }.is_nobody_there());
}

#[test]
fn long_packets_that_are_dropped_are_told_from_a_path_that_takes_none() {
    let quic = |mtu| Probe { mtu: Some(mtu), ..well(Rung::Quic) };
    assert_eq!(names(&[quic((1200, 3))], &[]), [(Rung::Quic, "small_packets")]);
    // Nothing longer was tried, one was lost by chance, or something longer passes.
    for mtu in [(1200, 0), (1200, 1), (1252, 9), (1452, 2)] {
        assert_eq!(names(&[quic(mtu)], &[]), []);
    }
}

#[test]
fn another_certificate_is_inspection_if_anything_says_so() {
    let [quic, tls, ws] = [Rung::Quic, Rung::Tls, Rung::WebSocket].map(well);
    let other = |probe: &Probe| Probe { pin: Some(pin(1)), ..probe.clone() };
    let untrusted = |probe: &Probe, n| {
        let trouble = Trouble::Untrusted { pin: Some(pin(n)), message: "no".into() };
        Probe { pin: Some(pin(n)), trouble: Some(trouble), ..probe.clone() }
    };
    let both = [(Rung::Tls, "inspected"), (Rung::WebSocket, "inspected")];
    // QUIC is not inspected: what is different over TCP is.
    assert_eq!(names(&[quic.clone(), other(&tls), other(&ws)], &[]), both);
    assert_eq!(names(&[quic.clone(), untrusted(&tls, 1), other(&ws)], &[]), both);
    // The user knows the key.
    assert_eq!(names(&[untrusted(&tls, 1), untrusted(&ws, 1)], &[pin(0)]), both);
    // The gateway says which key is its own.
    let told = |probe: &Probe| Probe { inspected: Some(true), ..probe.clone() };
    assert_eq!(names(&[told(&tls), ws.clone()], &[]), both[..1]);
    // The same key everywhere, and none that is trusted: it is the gateway's own, as far as can be told.
    let strangers = [untrusted(&quic, 1), untrusted(&tls, 1)];
    assert_eq!(names(&strangers, &[]), [(Rung::Quic, "untrusted"), (Rung::Tls, "untrusted")]);
    assert_eq!(names(&strangers, &[pin(0)]), [(Rung::Quic, "untrusted"), (Rung::Tls, "untrusted")]);
    // Over TCP alone it cannot be told.
    let alone = [tls, ws];
    assert_eq!(Case { address: &address(), probes: &alone, pins: &[] }.inspected(&alone[0]), None);
}

#[test]
fn what_a_gateway_says_to_credentials_is_not_of_the_network() {
    let error = metra_client::ClientError::new(metra_core::code::Code::Unauthenticated, "no");
    let probe = Probe { answer: Some(Err(error)), ..well(Rung::Quic) };
    assert_eq!(found(&[probe], &[]), []);
}

#[test]
fn what_a_masque_proxy_does_is_said_of_tunnels() {
    let proxied = |rung, trouble| Probe { proxy: Some("proxy.example:443".to_owned()), ..bad(rung, trouble) };
    let refused = proxied(Rung::Masque, Trouble::ProxyRefused("403".to_owned()));
    let asked = proxied(Rung::MasqueTcp, Trouble::ProxyCredentials("401".to_owned()));
    let found = found(&[refused, asked], &[]);
    let names: Vec<_> = found.iter().map(|finding| (finding.rung, finding.name)).collect();
    assert_eq!(names, [(Rung::Masque, "proxy_refused"), (Rung::MasqueTcp, "proxy_credentials")]);
    let please = "Please allow tunnels (CONNECT-UDP) to gw.example:4443 at the proxy proxy.example:443.";
    let administrator = found[0].administrator.as_deref().unwrap();
    assert!(administrator.contains(please), "{administrator}");
    assert!(found[1].user.contains("--masque-token-file"), "{}", found[1].user);
    // Of a tunnel within TCP nothing is said about long packets.
    let narrow = |rung| Probe { mtu: Some((1200, 3)), ..well(rung) };
    assert_eq!(self::names(&[narrow(Rung::MasqueTcp)], &[]), []);
    assert_eq!(self::names(&[narrow(Rung::Masque)], &[]), [(Rung::Masque, "small_packets")]);
}
