//! Where tunnels lead, on a host to which every address there is belongs: whatever is sent, to whomever, somebody hears it. And names
//! that resolve to something else the second time.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use metra_core::id::Digest;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::harness::forbidden::{Listeners, ask_for, listener, rows};
use crate::harness::names::{Names, Record};
use crate::harness::tunnels::{Answer, Over, Tunnels};
use crate::harness::{Bed, Gateway, wait_until};

tests![
    forbidden_targets_where_every_address_listens,
    names_that_are_others_the_second_time,
    names_with_several_addresses,
    aliases,
];

/// The host, a gateway on it that allows everything, and who listens there.
struct Place {
    names: Names,
    listeners: Listeners,
    runtime: Arc<Runtime>,
    gateway: Gateway,
    tunnels: Tunnels,
    trail: PathBuf,
}

impl Place {
    /// On the host that this thread is on.
    fn new(bed: &Bed) -> Self {
        // The hosts of netpath have no IPv6 unless they want it. Of which host these files are depends on who opens them.
        for interface in ["all", "lo"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0").unwrap();
        }
        // All is local (ip-route(8)), and two public addresses are the host's own, as far as it knows.
        for words in [
            "addr add 9.9.9.9/32 dev lo",
            "-6 addr add 2620:fe::fe/128 dev lo",
            "route add local 0.0.0.0/0 dev lo",
            "-6 route add local ::/0 dev lo",
        ] {
            bed.server.run(Command::new("ip").args(words.split(' ')));
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = Arc::new(runtime.worker_threads(1).enable_all().build().unwrap());
        let (gateway, trail) = start(bed, "first", "");
        let tunnels = Tunnels::new(&runtime, &gateway);
        Self { names: Names::start(), listeners: Listeners::new(0), runtime, gateway, tunnels, trail }
    }

    fn ask(&self, over: Over, target: &str) -> Answer {
        self.tunnels.ask(over, TOKEN, Ipv4Addr::LOCALHOST, &format!("{target}/{}", self.listeners.port()))
    }

    /// What listens at this address, and at no other.
    fn at(&self, address: &str) -> UdpSocket {
        listener(SocketAddr::new(address.parse().unwrap(), self.listeners.port()))
    }

    /// That the answer is a tunnel, and what goes into it comes to this one.
    #[track_caller]
    fn leads_to(&self, answer: &Answer, only: &UdpSocket) {
        let tunnel = answer.tunnel.as_ref().unwrap_or_else(|| panic!("{}", answer.error));
        self.tunnels.send(tunnel);
        wait_until("a datagram", || only.recv(&mut [0; 64]).is_ok());
        assert_eq!(self.listeners.heard(), 0);
    }

    /// That there is no tunnel, for this reason, and that nobody has heard anything.
    #[track_caller]
    fn refused(&self, answer: &Answer, why: &str) {
        assert!(answer.tunnel.is_none(), "a tunnel, not: {why}");
        assert_eq!(answer.status, 502, "{}", answer.error);
        assert!(answer.error.contains(why), "{}, not: {why}", answer.error);
        assert_eq!(self.listeners.heard(), 0);
    }

    /// All addresses that were ever dialled, by the audit trail.
    fn dialled(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(&self.trail).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter_map(|record| Some(record["dst_endpoint"]["ip"].as_str()?.to_owned())).collect()
    }
}

/// A gateway that allows everything, by its configuration and by policies, and its audit trail.
fn start(bed: &Bed, name: &str, rest: &str) -> (Gateway, PathBuf) {
    let policies = bed.write("all.cedar", "permit(principal, action, resource);");
    let trail = bed.path(&format!("{name}.log"));
    let config = format!(
        "[users.alice]\ntoken_hash = \"blake3:{}\"\n[policy]\nfiles = [{policies:?}]\n\
         [audit.file]\npath = {trail:?}\nsync_seconds = 0\n[tunnel]\nallow = [\"*:*\"]\n{rest}",
        Digest::of(TOKEN.as_bytes()),
    );
    (Gateway::start(bed, "127.0.0.1:0", &config, None), trail)
}

fn forbidden_targets_where_every_address_listens(bed: &Bed) {
    bed.server.enter(|| {
        let place = Place::new(bed);
        let port = place.listeners.port();
        // Ports that rows name.
        let others = [80, 5353, 1900].map(Listeners::new);
        let rows = rows();
        for (name, addresses) in rows.iter().filter_map(|row| row.resolves()) {
            place.names.set(&name, &[addresses.iter().copied().map(Record::Address).collect()]);
        }
        let ports = [port, place.gateway.address().port()];
        let asked = ask_for(&rows, &place.tunnels, TOKEN, &place.trail, ports);
        println!("{asked} requests for {} targets", rows.len());
        assert_eq!(place.listeners.heard() + others.iter().map(Listeners::heard).sum::<usize>(), 0);
        assert!(place.dialled().is_empty());

        // They would have heard: of whatever goes there, and of tunnels that are opened on purpose.
        for (count, address) in ["169.254.169.254", "10.0.0.1", "64:ff9b::7f00:1", "fe80::1"].iter().enumerate() {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            let sent = UdpSocket::bind(any).unwrap().send_to(b"x", to);
            if sent.is_ok() {
                wait_until("a datagram", || place.listeners.heard() == 1);
            } else {
                // Link-local addresses need a scope, and so a link.
                assert_eq!(count, 3, "{address}: {sent:?}");
            }
        }
        let Place { listeners, runtime, gateway, .. } = place;
        drop(gateway);
        let ranges = "dangerous_ranges = [\"169.254.169.254/32\", \"10.0.0.0/8\", \"127.0.0.0/8\", \"64:ff9b::/96\"]\n";
        let (opened, _) = start(bed, "second", ranges);
        let tunnels = Tunnels::new(&runtime, &opened);
        for over in Over::ALL {
            for host in ["169.254.169.254", "10.1.2.3", "127.8.7.6", "64%3Aff9b%3A%3A7f00%3A1"] {
                let answer = tunnels.ask(over, TOKEN, Ipv4Addr::LOCALHOST, &format!("{host}/{port}"));
                let tunnel = answer.tunnel.unwrap_or_else(|| panic!("{over:?} {host}: {}", answer.error));
                tunnels.send(&tunnel);
                wait_until("a datagram", || listeners.heard() == 1);
            }
        }
    });
}

fn names_that_are_others_the_second_time(bed: &Bed) {
    bed.server.enter(|| {
        let place = Place::new(bed);
        let public = place.at(PUBLIC);
        let to = |address: &str| vec![Record::Address(address.parse::<IpAddr>().unwrap())];
        let mut count = 0;
        for (inside, why) in [
            ("127.0.0.1", "the address is loopback"),
            ("169.254.169.254", "the address is cloud-metadata"),
            ("::1", "the address is loopback"),
            ("::ffff:127.0.0.1", "the address is loopback"),
            ("::ffff:10.0.0.1", "the address is private"),
            ("9.9.9.9", "the address is the gateway's own"),
        ] {
            for over in Over::ALL {
                for is_first in [true, false] {
                    count += 1;
                    let name = format!("r{count}.example.org");
                    let rounds = if is_first { [PUBLIC, inside] } else { [inside, PUBLIC] };
                    place.names.set(&name, &rounds.map(to));
                    let answers = [place.ask(over, &name), place.ask(over, &name)];
                    let [good, bad] = if is_first { [0, 1] } else { [1, 0] };
                    place.refused(&answers[bad], why);
                    place.leads_to(&answers[good], &public);
                    // It was asked once for each: what was decided on is what is dialled.
                    assert_eq!(place.names.asked(&name), [2, 2], "{over:?} {inside}");
                    // And the tunnel goes on to lead there, whatever the name is by now.
                    place.names.set(&name, &[to(inside)]);
                    place.leads_to(&answers[good], &public);
                }
            }
        }
        assert_eq!(place.dialled(), BTreeSet::from([PUBLIC.to_owned()]));
    });
}

fn names_with_several_addresses(bed: &Bed) {
    bed.server.enter(|| {
        let place = Place::new(bed);
        let (v4, v6) = (place.at(PUBLIC), place.at(PUBLIC_V6));
        let mut count = 0;
        for (addresses, only) in [
            (&[PUBLIC, "127.0.0.1"][..], &v4),
            (&["127.0.0.1", PUBLIC], &v4),
            (&["169.254.169.254", "10.0.0.1", PUBLIC, "0.0.0.0"], &v4),
            (&["::1", "::ffff:127.0.0.1", PUBLIC], &v4),
            (&["::ffff:8.8.8.8", "::ffff:127.0.0.1", "64:ff9b::7f00:1"], &v4),
            (&["127.0.0.1", PUBLIC_V6], &v6),
            (&["::1", PUBLIC_V6, "::ffff:169.254.169.254"], &v6),
        ] {
            for over in Over::ALL {
                count += 1;
                let name = format!("s{count}.example.org");
                let all = addresses.iter().map(|address| Record::Address(address.parse().unwrap()));
                place.names.set(&name, &[all.collect()]);
                place.leads_to(&place.ask(over, &name), only);
                assert_eq!(place.names.asked(&name), [1, 1]);
            }
        }
        assert_eq!(place.dialled(), BTreeSet::from([PUBLIC.to_owned(), PUBLIC_V6.to_owned()]));
    });
}

fn aliases(bed: &Bed) {
    bed.server.enter(|| {
        let place = Place::new(bed);
        let public = place.at(PUBLIC);
        let address = |address: &str| Record::Address(address.parse().unwrap());
        for (name, records, why) in [
            ("t1.example.org", vec![Record::Alias("localhost"), address("127.0.0.1")], "loopback"),
            ("t2.example.org", vec![Record::Alias("localhost"), address("::1")], "loopback"),
            ("t3.example.org", vec![Record::Alias("localhost")], "dns_error"),
            (
                "t4.example.org",
                vec![Record::Alias("metadata.google.internal"), address("169.254.169.254")],
                "cloud-metadata",
            ),
            (
                "t5.example.org",
                vec![Record::Alias("t6.example.org"), Record::Alias("localhost"), address("127.0.0.1")],
                "loopback",
            ),
        ] {
            place.names.set(name, &[records]);
            for over in Over::ALL {
                place.refused(&place.ask(over, name), why);
            }
        }
        place.names.set("good.example.org", &[vec![Record::Alias("t7.example.org"), address(PUBLIC)]]);
        for over in Over::ALL {
            place.leads_to(&place.ask(over, "good.example.org"), &public);
        }
        // Names are asked for as they were decided on.
        let answer = place.ask(Over::H2, "%EF%BC%A7OOD.example.org.");
        place.leads_to(&answer, &public);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(place.dialled(), BTreeSet::from([PUBLIC.to_owned()]));
    });
}

const TOKEN: &str = "alices-token-0123456789";
/// Addresses that nothing forbids.
const PUBLIC: &str = "8.8.8.8";
const PUBLIC_V6: &str = "2606:4700::1111";
