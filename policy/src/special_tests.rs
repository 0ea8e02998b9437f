#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::special::{RANGES, closed};
use crate::{Cidr, Special, classify, is_special_name};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn beside(address: IpAddr, up: bool) -> Option<IpAddr> {
    Some(match (address, up) {
        (IpAddr::V4(a), true) => Ipv4Addr::from_bits(a.to_bits().checked_add(1)?).into(),
        (IpAddr::V4(a), false) => Ipv4Addr::from_bits(a.to_bits().checked_sub(1)?).into(),
        (IpAddr::V6(a), true) => Ipv6Addr::from_bits(a.to_bits().checked_add(1)?).into(),
        (IpAddr::V6(a), false) => Ipv6Addr::from_bits(a.to_bits().checked_sub(1)?).into(),
    })
}

/// Written out once more, with what is beside them, and not taken from the table that is tested.
#[test]
fn first_and_last_of_each_range_and_what_is_beside_them() {
    use Special::*;
    let none = None::<Special>;
    for (range, inside, before, after) in [
        ("0.0.0.0/32", Unspecified, none, Some(ThisNetwork)),
        ("0.0.0.1-0.255.255.255", ThisNetwork, Some(Unspecified), none),
        ("10.0.0.0/8", Private, none, none),
        ("100.64.0.0-100.100.100.199", Shared, none, Some(Metadata)),
        ("100.100.100.200/32", Metadata, Some(Shared), Some(Shared)),
        ("100.100.100.201-100.127.255.255", Shared, Some(Metadata), none),
        ("127.0.0.0/8", Loopback, none, none),
        ("168.63.129.16/32", Metadata, none, none),
        ("169.254.0.0-169.254.169.253", LinkLocal, none, Some(Metadata)),
        ("169.254.169.254/32", Metadata, Some(LinkLocal), Some(LinkLocal)),
        ("169.254.170.2/32", Metadata, Some(LinkLocal), Some(LinkLocal)),
        ("169.254.170.23/32", Metadata, Some(LinkLocal), Some(LinkLocal)),
        ("169.254.170.24-169.254.255.255", LinkLocal, Some(Metadata), none),
        ("172.16.0.0/12", Private, none, none),
        ("192.0.0.0-192.0.0.191", Protocol, none, Some(Metadata)),
        ("192.0.0.192/32", Metadata, Some(Protocol), Some(Protocol)),
        ("192.0.0.193-192.0.0.255", Protocol, Some(Metadata), none),
        ("192.0.2.0/24", Documentation, none, none),
        ("192.88.99.0/24", SixToFour, none, none),
        ("192.168.0.0/16", Private, none, none),
        ("198.18.0.0/15", Benchmarking, none, none),
        ("198.51.100.0/24", Documentation, none, none),
        ("203.0.113.0/24", Documentation, none, none),
        ("224.0.0.0/4", Multicast, none, Some(Reserved)),
        ("240.0.0.0-255.255.255.254", Reserved, Some(Multicast), Some(Broadcast)),
        ("255.255.255.255/32", Broadcast, Some(Reserved), none),
        ("::/128", Unspecified, none, Some(Loopback)),
        ("::1/128", Loopback, Some(Unspecified), Some(ThisNetwork)),
        ("::808:0-::808:ffff", Compatible, Some(Compatible), Some(Compatible)),
        ("::ffff:0:808:0-::ffff:0:808:ffff", Translated, Some(Translated), Some(Translated)),
        ("::1:0:0-::fffe:ffff:ffff", Reserved, Some(Broadcast), Some(Unspecified)),
        ("64:ff9b::808:0-64:ff9b::808:ffff", Nat64, Some(Nat64), Some(Nat64)),
        ("64:ff9b::/128", Unspecified, Some(Reserved), Some(ThisNetwork)),
        ("64:ff9b::ffff:ffff/128", Broadcast, Some(Reserved), Some(Reserved)),
        ("64:ff9b:1::/128", Unspecified, Some(Reserved), Some(ThisNetwork)),
        ("64:ff9b:1:ffff:ffff:ffff:808:808/128", Nat64, Some(Nat64), Some(Nat64)),
        ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff/128", Broadcast, Some(Reserved), Some(Reserved)),
        ("100::/64", Discard, Some(Reserved), Some(Discard)),
        ("100:0:0:1::/64", Discard, Some(Discard), Some(Reserved)),
        ("2001:0:808:808:ffff:ffff:f7f7:f7f7/128", Teredo, Some(Teredo), Some(Teredo)),
        ("2001:1::/32", Protocol, Some(Broadcast), Some(Benchmarking)),
        ("2001:2::/48", Benchmarking, Some(Protocol), Some(Protocol)),
        ("2001:10::/28", Orchid, Some(Protocol), Some(Orchid)),
        ("2001:20::/28", Orchid, Some(Orchid), Some(Protocol)),
        ("2001:30::-2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Protocol, Some(Orchid), none),
        ("2001:db8::/32", Documentation, none, none),
        ("2002:808:808::/48", SixToFour, Some(SixToFour), Some(SixToFour)),
        ("2002::/48", Unspecified, none, Some(ThisNetwork)),
        ("2002:ffff:ffff::/48", Broadcast, Some(Reserved), none),
        ("3fff::/20", Documentation, none, none),
        ("5f00::/16", SegmentRouting, Some(Reserved), Some(Reserved)),
        ("4000::-5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved, none, Some(SegmentRouting)),
        ("fc00::-fd00:ec2::22", UniqueLocal, Some(Reserved), Some(Metadata)),
        ("fd00:ec2::23/128", Metadata, Some(UniqueLocal), Some(UniqueLocal)),
        ("fd00:ec2::254/128", Metadata, Some(UniqueLocal), Some(UniqueLocal)),
        ("fd20:ce::254/128", Metadata, Some(UniqueLocal), Some(UniqueLocal)),
        ("fd20:ce::255-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", UniqueLocal, Some(Metadata), Some(Reserved)),
        ("fe80::/10", LinkLocal, Some(Reserved), Some(SiteLocal)),
        ("fec0::/10", SiteLocal, Some(LinkLocal), Some(Multicast)),
        ("ff00::/8", Multicast, Some(SiteLocal), none),
    ] {
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (ip(first), ip(last)),
            None => {
                let range: Cidr = range.parse().unwrap();
                (range.first(), range.last())
            }
        };
        assert_eq!(classify(first), Some(inside), "{range}: {first}");
        assert_eq!(classify(last), Some(inside), "{range}: {last}");
        let (below, above) = (beside(first, false), beside(last, true));
        assert_eq!(below.and_then(classify), before, "{range}: {below:?}");
        assert_eq!(above.and_then(classify), after, "{range}: {above:?}");
    }
}

#[test]
fn what_is_in_an_address_is_told_first() {
    for (address, special) in [
        ("::ffff:127.0.0.1", Special::Loopback),
        ("::ffff:169.254.169.254", Special::Metadata),
        ("::127.0.0.1", Special::Loopback),
        ("::8.8.8.8", Special::Compatible),
        ("::ffff:0:10.0.0.1", Special::Private),
        ("64:ff9b::10.0.0.1", Special::Private),
        ("64:ff9b::a9fe:a9fe", Special::Metadata),
        ("64:ff9b:1::127.0.0.1", Special::Loopback),
        ("64:ff9b:1:a00:0:100::", Special::Unspecified),
        ("2002:7f00:1::1", Special::Loopback),
        ("2002:c0a8:101::", Special::Private),
        // Teredo: the server, then the client (192.168.1.1 with all bits turned).
        ("2001:0:7f00:1:0:0:f7f7:f7f7", Special::Loopback),
        ("2001:0:808:808:0:0:3f57:fefe", Special::Private),
    ] {
        assert_eq!(classify(ip(address)), Some(special), "{address}");
    }
}

#[test]
fn ordinary_addresses() {
    for address in [
        "8.8.8.8",
        "1.1.1.1",
        "::ffff:8.8.8.8",
        "192.31.196.1",
        "2606:4700::1111",
        "2620:4f:8000::1",
        "2a00::",
    ] {
        assert_eq!(classify(ip(address)), None, "{address}");
    }
}

#[test]
fn every_part_has_to_be_open() {
    let closed = |address: &str, opened: &[&str]| {
        let opened: Vec<Cidr> = opened.iter().map(|r| r.parse().unwrap()).collect();
        closed(ip(address), &opened)
    };
    assert_eq!(closed("10.1.2.3", &[]), Some(Special::Private));
    assert_eq!(closed("10.1.2.3", &["10.1.0.0/16"]), None);
    assert_eq!(closed("::ffff:10.1.2.3", &["10.1.0.0/16"]), None);
    assert_eq!(closed("10.2.0.0", &["10.1.0.0/16"]), Some(Special::Private));
    assert_eq!(closed("64:ff9b::10.1.2.3", &["10.0.0.0/8"]), Some(Special::Nat64));
    assert_eq!(closed("64:ff9b::10.1.2.3", &["64:ff9b::/96"]), Some(Special::Private));
    assert_eq!(closed("64:ff9b::10.1.2.3", &["64:ff9b::/96", "10.0.0.0/8"]), None);
    assert_eq!(closed("64:ff9b::8.8.8.8", &["64:ff9b::/96"]), None);
    assert_eq!(closed("2001:0:808:808::f5ff:fffe", &["::/0"]), Some(Special::Private));
}

#[test]
fn metadata_is_opened_only_by_its_own_address() {
    let metadata: Vec<IpAddr> =
        RANGES.iter().filter(|(_, s)| *s == Special::Metadata).map(|(r, _)| r.first()).collect();
    assert_eq!(metadata.len(), 9);
    for address in metadata {
        let all: [Cidr; 2] = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        assert_eq!(closed(address, &all), Some(Special::Metadata), "{address}");
        assert_eq!(closed(address, &[address.into()]), None, "{address}");
    }
}

#[test]
fn names_for_private_use() {
    for name in [
        "localhost",
        "a.localhost",
        "a.b.localhost",
        "printer.local",
        "metadata.google.internal",
        "internal",
        "metadata",
        "instance-data",
        "instance-data.ec2.internal",
        "localhost.localdomain",
        "ip6-localhost",
        "router.home.arpa",
        "ipv4only.arpa",
        "nas.lan",
        "hidden.onion",
    ] {
        assert!(is_special_name(name), "{name}");
    }
    for name in [
        "example.org",
        "mylocalhost",
        "localhost.example.org",
        "metadata.example.org",
        "arpa",
        "internal.com",
    ] {
        assert!(!is_special_name(name), "{name}");
    }
}

#[test]
fn names_are_unique() {
    let specials: std::collections::BTreeSet<Special> = RANGES.iter().map(|(_, s)| *s).collect();
    let names: std::collections::BTreeSet<&str> = specials.iter().map(|s| s.name()).collect();
    assert_eq!((specials.len(), names.len()), (23, 23));
}

proptest! {
    /// IPv4 within IPv6 is never less special than alone.
    #[test]
    fn an_embedded_address_stays_special(index in 0..RANGES.len(), bits: u32) {
        let range = RANGES[index].0;
        if let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) {
            let v4 = u128::from(first.to_bits() | bits & (first.to_bits() ^ last.to_bits()));
            let all = classify(IpAddr::V4((v4 as u32).into()));
            prop_assert!(all.is_some());
            for within in [
                v4,
                0xffff << 32 | v4,
                0xffff << 48 | v4,
                0x64_ff9b << 96 | v4,
                0x64_ff9b_0001 << 80 | v4,
                0x2002 << 112 | v4 << 80 | 1,
                0x2001_0000 << 96 | v4 << 64 | 0xf7f7_f7f7,
                0x2001_0000 << 96 | 0x0808_0808 << 64 | v4 ^ 0xffff_ffff,
            ] {
                let within = IpAddr::V6(within.into());
                // `::` and `::1` are themselves.
                prop_assert!(classify(within) == all || v4 < 2, "{within}");
            }
        }
    }
}
