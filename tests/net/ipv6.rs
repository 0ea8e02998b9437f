//! The ladder over IPv6: a line of its own between client and server, as netpath's have none.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use crate::harness::data::MIB;
use crate::harness::office::{File, Office, PORT};
use crate::harness::{Bed, program, skip};

tests![every_rung, udp_is_dropped, by_its_number];

/// What the server is called there.
const HOST: &str = "six.example";
const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const SERVER: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// An office whose gateway is reached over IPv6 and in no other way.
fn office(bed: &Bed) -> Office<'_> {
    let cable = ["link", "add", "six", "type", "veth", "peer", "name", "six", "netns", &bed.server.path];
    let made = bed.client.enter(|| Command::new("ip").args(cable).output()).unwrap();
    if !made.status.success() {
        skip("there is no veth");
    }
    for (host, address) in [(&bed.client, CLIENT), (&bed.server, SERVER)] {
        // netpath's hosts have IPv4 only, unless they are told otherwise.
        if host.enter(|| fs::write("/proc/sys/net/ipv6/conf/six/disable_ipv6", "0")).is_err() {
            skip("there is no IPv6");
        }
        let address = format!("{address}/64");
        let words = ["-6", "addr", "add", &address, "dev", "six", "nodad"];
        host.run(Command::new("ip").args(words));
        host.run(Command::new("ip").args(["link", "set", "six", "up"]));
    }
    let mut hosts = OpenOptions::new().append(true).open("/etc/hosts").unwrap();
    writeln!(hosts, "{SERVER} {HOST}").unwrap();
    Office::at(bed, IpAddr::V6(SERVER), HOST, PORT, "")
}

fn every_rung(bed: &Bed) {
    let office = office(bed);
    for kind in ["quic", "masque", "masque-tcp", "tls", "ws"] {
        let file = File::noise(bed, kind, 2 * MIB);
        office.send(&file, kind, &["--via", kind]).only(kind, false);
        office.fetch(&file, kind, &["--via", kind]).only(kind, false);
    }
}

fn udp_is_dropped(bed: &Bed) {
    let office = office(bed);
    let rules =
        "table ip6 six { chain input { type filter hook input priority 0; meta l4proto udp drop; }; }";
    bed.server.run(program("nft").arg(rules));
    for label in ["first", "again"] {
        let sent = office.send(&File::noise(bed, label, MIB), "state", &[]);
        let outcome = if label == "first" { "failed" } else { "skipped" };
        sent.only("tls", false).not("quic", &[outcome]);
    }
}

fn by_its_number(bed: &Bed) {
    let office = office(bed);
    let file = File::noise(bed, "file", MIB);
    let pin = office.gateway.pin();
    for kind in ["quic", "tls"] {
        let run = office.stranger(kind, "send", 6).args(["--pin", &pin, "--via", kind]).arg(&file.path);
        let done = office.run(run.arg(format!("mtp://[{SERVER}]:{PORT}/file")));
        office.arrived(&file, done).only(kind, false);
    }
}
