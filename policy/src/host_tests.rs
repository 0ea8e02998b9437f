#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::{Host, HostError};

#[test]
fn names_are_normalised() {
    let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    assert_eq!(longest.len(), 253);
    for (text, name) in [
        ("example.org", "example.org"),
        ("EXAMPLE.Org", "example.org"),
        ("example.org.", "example.org"),
        ("localhost", "localhost"),
        ("_quic._udp.example.org", "_quic._udp.example.org"),
        ("r3---sn-4g5e.example.org", "r3---sn-4g5e.example.org"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("ｅｘａｍｐｌｅ。ｏｒｇ", "example.org"),
        ("exa\u{ad}mple.org", "example.org"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("127.0.0.1.example.", "127.0.0.1.example"),
        ("0x7f.example", "0x7f.example"),
        ("4u", "4u"),
        ("1e3", "1e3"),
        ("0xg", "0xg"),
        (&longest, &longest),
    ] {
        assert_eq!(Host::parse(text), Ok(Host::Name(name.to_owned())), "{text:?}");
    }
}

#[test]
fn addresses_have_one_spelling_in_ipv4_and_those_of_the_rfc_in_ipv6() {
    for (text, address) in [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1.", "192.0.2.1"),
        ("１９２.０.２.１", "192.0.2.1"),
        ("192。0｡2．1", "192.0.2.1"),
        ("①⑨②.0.2.1", "192.0.2.1"),
        ("192.0.2.1\u{ad}", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("0:0:0:0:0:ffff:c000:0201", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ] {
        assert_eq!(Host::parse(text), Ok(Host::Ip(address.parse().unwrap())), "{text:?}");
        assert_eq!(Host::parse(text).unwrap().to_string(), address);
    }
}

/// RFC 9298 section 3: neither empty, nor with a zone identifier.
#[test]
fn what_is_no_host() {
    let label = format!("{}.example", "a".repeat(64));
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
    let unicode = "ü".repeat(600);
    for (text, error) in [
        ("", HostError::Empty),
        (".", HostError::Empty),
        ("\u{ad}", HostError::Empty),
        ("..", HostError::Label),
        (".example", HostError::Label),
        ("a..example", HostError::Label),
        ("example..", HostError::Label),
        ("127.0.0.1..", HostError::Label),
        (&label, HostError::Label),
        (&long, HostError::Long),
        (&unicode, HostError::Long),
        ("fe80::1%eth0", HostError::Percent),
        ("fe80::1%25eth0", HostError::Percent),
        ("127%2e0.0.1", HostError::Percent),
        ("%6c%6fcalhost", HostError::Percent),
        ("[::1]", HostError::Brackets),
        ("[127.0.0.1]", HostError::Brackets),
        ("::1]", HostError::Brackets),
        ("example.org:443", HostError::Ipv6),
        ("127.0.0.1:443", HostError::Ipv6),
        (":", HostError::Ipv6),
        (":::", HostError::Ipv6),
        ("1:2:3:4:5:6:7:8:9", HostError::Ipv6),
        ("::ffff:127.1", HostError::Ipv6),
        ("::00001", HostError::Ipv6),
        ("：：1", HostError::Character),
        ("％", HostError::Character),
        ("［::1］", HostError::Ipv6),
        ("a b", HostError::Character),
        (" 127.0.0.1", HostError::Character),
        ("127.0.0.1 ", HostError::Character),
        ("127.0.0.1\n", HostError::Character),
        ("127.0.0.1\0", HostError::Character),
        ("127.0.0.1/8", HostError::Character),
        ("127.0.0.1#", HostError::Character),
        ("user@example.org", HostError::Character),
        ("a,b", HostError::Character),
        ("*.example.org", HostError::Character),
        ("+127.0.0.1", HostError::Character),
        ("-example.org", HostError::Character),
        ("example-.org", HostError::Character),
        ("xn--", HostError::Idn),
        ("xn--a.example", HostError::Idn),
        ("\u{fffd}.example", HostError::Idn),
        ("a\u{200e}.example", HostError::Idn),
    ] {
        assert_eq!(Host::parse(text), Err(error), "{text:?}");
        assert!(error.to_string().starts_with("the host "), "{error}");
    }
}

/// What resolvers (`inet_aton`) take for IPv4, and what looks like it, is never a name.
#[test]
fn what_ends_in_a_number_is_four_decimal_numbers_or_nothing() {
    for text in [
        "0",
        "1",
        "127",
        "2130706433",
        "2130706433.",
        "4294967296",
        "99999999999999999999999999",
        "017700000001",
        "0x7f000001",
        "0X7F000001",
        "0x7f000001.",
        "0x",
        "127.1",
        "127.0.1",
        "127.1.",
        "127.65537",
        "0177.0.0.1",
        "0177.1",
        "127.0.0.01",
        "127.0.0.001",
        "127.0.0.08",
        "00.0.0.0",
        "0x7f.0.0.1",
        "0x7f.1",
        "0x7f.0x0.0x0.0x1",
        "127.0.0.0x1",
        "127.0x1",
        "0x7f.0.0177.1",
        "127.0.0.0x",
        "256.0.0.1",
        "127.0.0.256",
        "1.2.3.4.5",
        "127.0.0.1.1",
        "example.1",
        "example.0x1",
        "example.org.127",
        "localhost.0",
        "２１３０７０６４３３",
        "０ｘ７ｆ．１",
        "0ⅹ7f.1",
        "②①③⓪⑦⓪⑥④③③",
        "127。1",
        "𝟙𝟚𝟟.𝟙",
        "127\u{ad}.1",
    ] {
        assert_eq!(Host::parse(text), Err(HostError::Number), "{text:?}");
    }
}

proptest! {
    /// Whatever comes in: a name that comes out is one that is read as itself, and no resolver takes it for an address.
    #[test]
    fn a_name_is_normal_and_no_number(text in "\\PC{0,40}|[0-9xXa-fA-F.．。-]{0,24}|[a-z0-9.]{0,12}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()));
            if let Host::Name(name) = host {
                let last = name.rsplit('.').next().unwrap();
                prop_assert!(!last.starts_with(|c: char| c.is_ascii_digit()) || last.parse::<u128>().is_err());
                prop_assert!(name.parse::<std::net::IpAddr>().is_err());
                prop_assert!(name.is_ascii() && !name.contains(|c: char| c.is_ascii_uppercase()));
            }
        }
    }

    /// Every address has a spelling, and it is read as that address.
    #[test]
    fn addresses_are_read_back(bits: u128, v4: bool) {
        let address = if v4 {
            std::net::IpAddr::V4((bits as u32).into())
        } else {
            std::net::IpAddr::V6(bits.into())
        };
        prop_assert_eq!(Host::parse(&address.to_string()), Ok(Host::Ip(address.to_canonical())));
    }
}
