#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use crate::special::RANGES;
use crate::{Cidr, Denied, Host, Own, Permit, Refused, Special, TargetRule, TunnelRules};

fn rules(allow: &[&str], dangerous: &[&str]) -> TunnelRules {
    let allow = allow.iter().map(|r| r.parse::<TargetRule>().unwrap()).collect();
    let dangerous = dangerous.iter().map(|r| r.parse::<Cidr>().unwrap()).collect();
    TunnelRules::new(allow, dangerous, Own::default())
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both steps, as the gateway takes them. A name resolves to `resolved`.
fn both(rules: &TunnelRules, target: &str, port: u16, resolved: &str) -> Result<Permit<SocketAddr>, Denied> {
    let named = rules.name(&host(target), port)?;
    let address = named.literal().unwrap_or_else(|| SocketAddr::new(resolved.parse().unwrap(), port));
    named.address(address)
}

fn allowed(rules: &TunnelRules, target: &str, port: u16) -> bool {
    rules.name(&host(target), port).is_ok()
}

/// Everything is allowed, and yet these do not get anywhere, nor to a resolver. Gateways are asked for the same in `tests/e2e`.
#[test]
fn spellings_of_forbidden_targets() {
    let everything = rules(&["*:*"], &[]);
    let table: toml::Table = include_str!("../../tests/vectors/forbidden.toml").parse().unwrap();
    let all = table["targets"].as_array().unwrap().iter().flat_map(|group| group["rows"].as_array().unwrap());
    let mut count = 0;
    for row in all.filter(|row| row.get("resolves").is_none()) {
        // What is encoded, and addresses of the gateway, are others' to see.
        let (Some(text), is) = (row.get("host"), row["is"].as_str().unwrap()) else { continue };
        let text = text.as_str().unwrap();
        if ["no target", "own"].contains(&is) {
            continue;
        }
        count += 1;
        let denied = Host::parse(text).map(|host| {
            let named = everything.name(&host, 443)?;
            named.address(named.literal().unwrap_or_else(|| panic!("{text:?} would be resolved")))
        });
        match (is, denied) {
            ("no host", Err(_)) | ("name", Ok(Err(Denied::Name))) => {}
            (is, Ok(Err(Denied::Special(special)))) => {
                assert_eq!(
                    (special.name(), Denied::Special(special).refused()),
                    (is, Refused::Address),
                    "{text:?}"
                );
            }
            (is, came) => panic!("{text:?} is {is}: {came:?}"),
        }
    }
    assert!(count >= 180, "{count}");
}

#[test]
fn names_that_resolve_to_what_is_forbidden() {
    let everything = rules(&["*:*"], &[]);
    for (name, address, special) in [
        ("127.0.0.1.nip.example", "127.0.0.1", Special::Loopback),
        ("rebind.example.org", "::ffff:10.0.0.1", Special::Private),
        ("a.example.org", "169.254.169.254", Special::Metadata),
        ("a.example.org", "168.63.129.16", Special::Metadata),
        ("a.example.org", "::", Special::Unspecified),
        ("a.example.org", "64:ff9b::7f00:1", Special::Loopback),
        ("a.example.org", "fd00:ec2::254", Special::Metadata),
    ] {
        assert_eq!(both(&everything, name, 443, address), Err(Denied::Special(special)), "{name} {address}");
    }
    assert!(both(&everything, "a.example.org", 443, "8.8.8.8").is_ok());
}

#[test]
fn nothing_is_allowed_by_default() {
    let none = TunnelRules::default();
    assert!(none.is_empty());
    for target in ["example.org", "8.8.8.8", "127.0.0.1", "2606:4700::1111"] {
        assert_eq!(none.name(&host(target), 443).unwrap_err(), Denied::Rule);
    }
}

#[test]
fn names_match_rules_for_names_and_addresses_those_for_ranges() {
    let some =
        rules(&["example.org:443", "*.below.example:53,8000-8999", "8.8.8.0/24:*", "[2606::/16]:1"], &[]);
    for (target, port, is) in [
        ("example.org", 443, true),
        ("EXAMPLE.ORG.", 443, true),
        ("example.org", 442, false),
        ("example.org", 444, false),
        ("a.example.org", 443, false),
        ("notexample.org", 443, false),
        ("example.org.evil.example", 443, false),
        ("a.below.example", 53, true),
        ("a.b.below.example", 8000, true),
        ("a.b.below.example", 8999, true),
        ("a.b.below.example", 7999, false),
        ("a.b.below.example", 9000, false),
        ("below.example", 53, false),
        ("notbelow.example", 53, false),
        ("8.8.8.0", 1, true),
        ("8.8.8.255", 65535, true),
        ("::ffff:8.8.8.8", 7, true),
        ("8.8.8.8", 0, false),
        ("8.8.7.255", 1, false),
        ("8.8.9.0", 1, false),
        ("2606:4700::1111", 1, true),
        ("2606:4700::1111", 2, false),
        ("2607::", 1, false),
    ] {
        assert_eq!(allowed(&some, target, port), is, "{target} {port}");
    }
    // A name is not allowed for what it resolves to, and an allowed name may resolve to any public address.
    assert!(!allowed(&some, "dns.example", 443));
    let permit = both(&some, "example.org", 443, "9.9.9.9").unwrap();
    assert_eq!(permit.permitted(), &socket("9.9.9.9:443"));
    // `*` is every name and every address, but no port 0.
    let all = rules(&["*:*"], &[]);
    assert!(allowed(&all, "a.example", 1) && allowed(&all, "8.8.8.8", 65535));
    assert!(!allowed(&all, "a.example", 0) && !allowed(&all, "8.8.8.8", 0));
}

#[test]
fn the_second_step_is_for_what_the_first_was_asked() {
    let all = rules(&["*:*"], &[]);
    let (a, b) = (host("8.8.8.8"), host("a.example"));
    let (address, name) = (all.name(&a, 443).unwrap(), all.name(&b, 443).unwrap());
    assert_eq!((address.literal(), name.literal()), (Some(socket("8.8.8.8:443")), None));
    assert_eq!(address.address(socket("8.8.8.8:444")), Err(Denied::Rule));
    assert_eq!(address.address(socket("8.8.4.4:443")), Err(Denied::Rule));
    assert_eq!(name.address(socket("8.8.8.8:444")), Err(Denied::Rule));
    assert_eq!(name.address(socket("8.8.8.8:0")), Err(Denied::Rule));
    // IPv4 in IPv6 becomes IPv4, and neither scope nor flow label is left.
    let permit = address.address(socket("[::ffff:8.8.8.8]:443")).unwrap();
    assert_eq!(permit.into_permitted(), socket("8.8.8.8:443"));
    let scoped = std::net::SocketAddrV6::new("2606::1".parse().unwrap(), 443, 5, 7);
    assert_eq!(name.address(scoped.into()).unwrap().permitted(), &socket("[2606::1]:443"));
}

#[test]
fn a_forbidden_address_does_not_spoil_the_others() {
    let all = rules(&["*:*"], &[]);
    let named = all.name(&host("a.example"), 443).unwrap();
    let permits =
        named.addresses(["10.0.0.1:443", "8.8.8.8:443", "[::1]:443", "[2606::1]:443"].map(socket)).unwrap();
    let permitted: Vec<SocketAddr> = permits.into_iter().map(Permit::into_permitted).collect();
    assert_eq!(permitted, ["8.8.8.8:443", "[2606::1]:443"].map(socket));
    let none = named.addresses(["10.0.0.1:443", "127.0.0.1:443"].map(socket));
    assert_eq!(none, Err(Denied::Special(Special::Private)));
    assert_eq!(named.addresses([]), Ok(vec![]));
}

#[test]
fn special_addresses_and_names_are_opened_on_purpose() {
    let some = rules(&["*:*"], &["127.0.0.0/8", "10.0.0.0/8"]);
    assert!(both(&some, "127.0.0.1", 443, "").is_ok());
    assert!(both(&some, "::ffff:127.0.0.1", 443, "").is_ok());
    assert!(both(&some, "localhost", 443, "127.0.0.1").is_ok());
    assert!(both(&some, "a.internal", 443, "10.0.0.1").is_ok());
    assert_eq!(both(&some, "localhost", 443, "::1"), Err(Denied::Special(Special::Loopback)));
    assert_eq!(both(&some, "a.internal", 443, "192.168.0.1"), Err(Denied::Special(Special::Private)));
    // What is opened is not yet allowed.
    let other = rules(&["10.0.0.0/24:443"], &["10.0.0.0/8"]);
    assert!(both(&other, "10.0.0.1", 443, "").is_ok());
    assert_eq!(both(&other, "10.0.1.1", 443, ""), Err(Denied::Rule));
    // What is allowed is not yet opened.
    let closed = rules(&["10.0.0.1:443", "localhost:443"], &[]);
    assert_eq!(both(&closed, "10.0.0.1", 443, ""), Err(Denied::Special(Special::Private)));
    assert_eq!(both(&closed, "localhost", 443, "127.0.0.1"), Err(Denied::Name));
}

/// RFC 9298 section 7.
#[test]
fn the_gateway_itself() {
    let own = |sockets: &[&str], addresses: &[&str]| Own {
        sockets: sockets.iter().map(|s| socket(s)).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    };
    let public = rules(&["*:*"], &[]).with_own(own(&["[::]:4443"], &["8.8.8.8", "2606::8"]));
    for target in ["8.8.8.8", "::ffff:8.8.8.8", "2606::8"] {
        for port in [4443, 22] {
            assert_eq!(both(&public, target, port, ""), Err(Denied::Own), "{target} {port}");
        }
    }
    assert_eq!(both(&public, "gateway.example", 4443, "8.8.8.8"), Err(Denied::Own));
    assert!(both(&public, "8.8.4.4", 4443, "").is_ok());
    // Ranges open the machine, but never the gateway's sockets.
    let open = &["127.0.0.0/8", "10.0.0.0/8", "::1", "0.0.0.0", "64:ff9b::/96"];
    let any = rules(&["*:*"], open).with_own(own(&["0.0.0.0:4443"], &["10.0.0.1"]));
    let one = rules(&["*:*"], open)
        .with_own(own(&["10.0.0.1:4443", "127.0.0.1:4443", "[::1]:4443"], &["10.0.0.1"]));
    for rules in [any, one] {
        for target in ["127.0.0.1", "10.0.0.1", "::1", "0.0.0.0", "64:ff9b::10.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(both(&rules, target, 4443, ""), Err(Denied::Own), "{target}");
            assert!(both(&rules, target, 4444, "").is_ok(), "{target}");
        }
        assert!(both(&rules, "10.0.0.2", 4443, "").is_ok());
    }
}

#[test]
fn refusals_say_why() {
    for (denied, text, label, refused) in [
        (Denied::Rule, "no rule allows this target", "rule", Refused::Request),
        (Denied::Name, "the name is for private use", "name", Refused::Request),
        (Denied::Special(Special::LinkLocal), "the address is link-local", "link-local", Refused::Address),
        (Denied::Own, "the address is the gateway's own", "own", Refused::Address),
    ] {
        assert_eq!((denied.to_string().as_str(), denied.label(), denied.refused()), (text, label, refused));
    }
}

proptest! {
    /// No special address is ever permitted while nothing is opened, asked for or resolved to.
    #[test]
    fn nothing_special_is_permitted(index in 0..RANGES.len(), bits: u128, port in 1u16..) {
        let range = RANGES[index].0;
        let address: IpAddr = match (range.first(), range.last()) {
            (IpAddr::V4(a), IpAddr::V4(z)) => IpAddr::V4((a.to_bits() | bits as u32 & (a.to_bits() ^ z.to_bits())).into()),
            (IpAddr::V6(a), IpAddr::V6(z)) => IpAddr::V6((a.to_bits() | bits & (a.to_bits() ^ z.to_bits())).into()),
            _ => unreachable!(),
        };
        let all = rules(&["*:*"], &[]);
        for host in [Host::Ip(address), host("a.example")] {
            let permit = all.name(&host, port).and_then(|named| named.address(SocketAddr::new(address, port)));
            prop_assert!(permit.is_err(), "{address}");
        }
    }

    /// What is permitted is what was asked for, and nothing of it is special.
    #[test]
    fn permits_are_for_ordinary_addresses(bits: u128, v4: bool, port: u16) {
        let address = if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
        let all = rules(&["*:*"], &[]);
        let permit = all.name(&Host::Ip(address), port).and_then(|n| n.address(SocketAddr::new(address, port)));
        if let Ok(permit) = permit {
            prop_assert_eq!(permit.permitted(), &SocketAddr::new(address.to_canonical(), port));
            prop_assert!(port > 0 && crate::classify(address).is_none());
        }
    }
}
