//! Addresses and names that lead somewhere else than to a host of the Internet.
//!
//! The ranges are those of the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), of multicast,
//! and of the rest of IPv6 that is not assigned to anyone; and the addresses of cloud providers at which a machine learns
//! its own secrets. Of the registries' ranges those that are globally reachable are left out only where they are
//! services open to anyone (AS112, AMT).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Cidr;

/// What is special about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Special {
    /// `0.0.0.0`, `::`: to many systems, this machine.
    Unspecified,
    /// The rest of `0.0.0.0/8` (RFC 791).
    ThisNetwork,
    /// This machine.
    Loopback,
    /// Where a machine in a cloud gets its credentials.
    Metadata,
    /// RFC 1918.
    Private,
    /// `100.64.0.0/10`: behind a carrier's NAT (RFC 6598).
    Shared,
    /// RFC 3927, RFC 4291.
    LinkLocal,
    /// `fec0::/10` (RFC 3879).
    SiteLocal,
    /// `fc00::/7` (RFC 4193).
    UniqueLocal,
    /// IETF protocol assignments (RFC 6890, RFC 2928).
    Protocol,
    /// RFC 5737, RFC 3849, RFC 9637.
    Documentation,
    /// RFC 2544, RFC 5180.
    Benchmarking,
    /// RFC 5771, RFC 4291.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// Not assigned to anyone.
    Reserved,
    /// `100::/64`, `100:0:0:1::/64` (RFC 6666, RFC 9780).
    Discard,
    /// `::/96` (RFC 4291 section 2.5.5.1). An IPv4 address is in it.
    Compatible,
    /// `::ffff:0:0:0/96` (RFC 2765 section 2.1). An IPv4 address is in it.
    Translated,
    /// RFC 6052, RFC 8215. An IPv4 address is in it.
    Nat64,
    /// `2002::/16` (RFC 3056), `192.88.99.0/24` (RFC 7526). An IPv4 address is in the former.
    SixToFour,
    /// `2001::/32` (RFC 4380). Two IPv4 addresses are in it.
    Teredo,
    /// RFC 4843, RFC 7343.
    Orchid,
    /// `5f00::/16` (RFC 9602).
    SegmentRouting,
}

impl Special {
    /// In a word or two with a hyphen; also a label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Special::Unspecified => "unspecified",
            Special::ThisNetwork => "this-network",
            Special::Loopback => "loopback",
            Special::Metadata => "cloud-metadata",
            Special::Private => "private",
            Special::Shared => "carrier-nat",
            Special::LinkLocal => "link-local",
            Special::SiteLocal => "site-local",
            Special::UniqueLocal => "unique-local",
            Special::Protocol => "protocol",
            Special::Documentation => "documentation",
            Special::Benchmarking => "benchmarking",
            Special::Multicast => "multicast",
            Special::Broadcast => "broadcast",
            Special::Reserved => "reserved",
            Special::Discard => "discard",
            Special::Compatible => "ipv4-compatible",
            Special::Translated => "ipv4-translated",
            Special::Nat64 => "nat64",
            Special::SixToFour => "6to4",
            Special::Teredo => "teredo",
            Special::Orchid => "orchid",
            Special::SegmentRouting => "segment-routing",
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is special about an address, if anything. Of an IPv4 address within an IPv6 one, what is special about the former,
/// or else about the latter.
pub fn classify(address: IpAddr) -> Option<Special> {
    let faces = Faces::of(address);
    faces.inner().find_map(class).or(faces.outer_class)
}

/// Whether the address is special and nothing in `opened` opens it. What is within it has to be open, too. Metadata is
/// open only where the address itself is named: nobody means it who opens a whole range.
pub(crate) fn closed(address: IpAddr, opened: &[Cidr]) -> Option<Special> {
    let faces = Faces::of(address);
    faces
        .inner()
        .chain([faces.outer])
        .filter_map(|face| class(face).map(|special| (face, special)))
        .find(|(face, special)| {
            let opens = |r: &Cidr| r.contains(*face) && (r.is_single() || *special != Special::Metadata);
            !opened.iter().any(opens)
        })
        .map(|(_, special)| special)
}

/// An address, and the IPv4 addresses that are in it: packets to it may come to them.
pub(crate) struct Faces {
    outer: IpAddr,
    outer_class: Option<Special>,
    inner: [Option<Ipv4Addr>; 2],
}

impl Faces {
    pub(crate) fn of(address: IpAddr) -> Self {
        let outer = address.to_canonical();
        let outer_class = class(outer);
        let inner = match outer {
            IpAddr::V4(_) => [None, None],
            IpAddr::V6(v6) => embedded(v6, outer_class),
        };
        Self { outer, outer_class, inner }
    }

    fn inner(&self) -> impl Iterator<Item = IpAddr> {
        self.inner.into_iter().flatten().map(IpAddr::V4)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.inner().chain([self.outer])
    }
}

/// In `64:ff9b:1::/48`, where the network chooses how long its prefix is, the last 32 bits are taken as with the others
/// (RFC 6052 section 2.2): where the prefix is shorter they are mostly zero, and that is special, too.
fn embedded(address: Ipv6Addr, class: Option<Special>) -> [Option<Ipv4Addr>; 2] {
    let bits = address.to_bits();
    let at = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    match class {
        Some(Special::Compatible | Special::Translated | Special::Nat64) => [Some(at(0)), None],
        // RFC 3056 section 2.
        Some(Special::SixToFour) => [Some(at(80)), None],
        // RFC 4380 section 4: the server, and the client with all bits turned.
        Some(Special::Teredo) => [Some(at(64)), Some(Ipv4Addr::from_bits(!at(0).to_bits()))],
        _ => [None, None],
    }
}

/// Of the address alone. It has to be canonical.
fn class(address: IpAddr) -> Option<Special> {
    let listed = RANGES.iter().find(|(range, _)| range.contains(address)).map(|(_, special)| *special);
    let assigned = address.is_ipv4() || GLOBAL_UNICAST.contains(address);
    listed.or((!assigned).then_some(Special::Reserved))
}

/// Whether a name is one that the public DNS does not know, or must not be asked for: it leads to this machine, to the
/// network around it, or nowhere. The name is as in [`Host::Name`](crate::Host::Name).
pub fn is_special_name(name: &str) -> bool {
    let below =
        |suffix: &&str| name.strip_suffix(*suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    SPECIAL_SUFFIXES.iter().any(below) || SPECIAL_NAMES.contains(&name)
}

/// The first that fits counts, so ranges within others come first.
pub(crate) const RANGES: &[(Cidr, Special)] = &[
    // AWS, Azure, Google and others; AWS for containers; AWS for Kubernetes; Alibaba; Oracle; Azure.
    (Cidr::v4([169, 254, 169, 254], 32), Special::Metadata),
    (Cidr::v4([169, 254, 170, 2], 32), Special::Metadata),
    (Cidr::v4([169, 254, 170, 23], 32), Special::Metadata),
    (Cidr::v4([100, 100, 100, 200], 32), Special::Metadata),
    (Cidr::v4([192, 0, 0, 192], 32), Special::Metadata),
    // An address like any other, but answered by the host below every virtual machine.
    (Cidr::v4([168, 63, 129, 16], 32), Special::Metadata),
    // AWS, AWS for Kubernetes, Google.
    (Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Special::Metadata),
    (Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128), Special::Metadata),
    (Cidr::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), Special::Metadata),
    (Cidr::v4([0, 0, 0, 0], 32), Special::Unspecified),
    (Cidr::v4([0, 0, 0, 0], 8), Special::ThisNetwork),
    (Cidr::v4([10, 0, 0, 0], 8), Special::Private),
    (Cidr::v4([100, 64, 0, 0], 10), Special::Shared),
    (Cidr::v4([127, 0, 0, 0], 8), Special::Loopback),
    (Cidr::v4([169, 254, 0, 0], 16), Special::LinkLocal),
    (Cidr::v4([172, 16, 0, 0], 12), Special::Private),
    (Cidr::v4([192, 0, 0, 0], 24), Special::Protocol),
    (Cidr::v4([192, 0, 2, 0], 24), Special::Documentation),
    (Cidr::v4([192, 88, 99, 0], 24), Special::SixToFour),
    (Cidr::v4([192, 168, 0, 0], 16), Special::Private),
    (Cidr::v4([198, 18, 0, 0], 15), Special::Benchmarking),
    (Cidr::v4([198, 51, 100, 0], 24), Special::Documentation),
    (Cidr::v4([203, 0, 113, 0], 24), Special::Documentation),
    (Cidr::v4([224, 0, 0, 0], 4), Special::Multicast),
    (Cidr::v4([255, 255, 255, 255], 32), Special::Broadcast),
    (Cidr::v4([240, 0, 0, 0], 4), Special::Reserved),
    (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Special::Unspecified),
    (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Special::Loopback),
    (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Special::Compatible),
    (Cidr::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), Special::Translated),
    (Cidr::v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Special::Nat64),
    (Cidr::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Special::Nat64),
    (Cidr::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Special::Discard),
    (Cidr::v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), Special::Discard),
    (Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Special::Teredo),
    (Cidr::v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Special::Benchmarking),
    (Cidr::v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), Special::Orchid),
    (Cidr::v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), Special::Orchid),
    (Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Special::Protocol),
    (Cidr::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Special::Documentation),
    (Cidr::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Special::SixToFour),
    (Cidr::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Special::Documentation),
    (Cidr::v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), Special::SegmentRouting),
    (Cidr::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Special::UniqueLocal),
    (Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Special::LinkLocal),
    (Cidr::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Special::SiteLocal),
    (Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Special::Multicast),
];

/// All of IPv6 that is handed out (RFC 4291 section 2.4, IANA's IPv6 address space).
const GLOBAL_UNICAST: Cidr = Cidr::v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// These and all below them: RFC 6761, RFC 6762 (with appendix G), RFC 7686, RFC 8375, RFC 9462, RFC 9476, RFC 8880, and
/// `internal`, which ICANN keeps for private use and clouds put their metadata below.
const SPECIAL_SUFFIXES: &[&str] = &[
    "alt",
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "ipv4only.arpa",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "resolver.arpa",
    "test",
];

/// Single labels that clouds complete to their metadata, and systems have for this machine.
const SPECIAL_NAMES: &[&str] =
    &["instance-data", "ip6-localhost", "ip6-loopback", "localhost4", "localhost6", "metadata"];
