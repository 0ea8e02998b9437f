//! What is not let through between the client and the rest, with nftables at the edge. It can change at any time.

use std::io::Write;
use std::process::Stdio;

use super::{Host, program};

/// The firewall at the edge.
pub(crate) struct Firewall<'a>(&'a Host);

/// An ICMP error.
#[derive(Clone, Copy)]
pub(crate) enum Icmp {
    PortUnreachable,
    AdminProhibited,
}

impl<'a> Firewall<'a> {
    pub(super) fn at(edge: &'a Host) -> Self {
        Self(edge)
    }

    /// All goes through.
    pub(crate) fn open(&self) {
        self.set("");
    }

    /// UDP vanishes.
    pub(crate) fn drop_udp(&self) {
        self.set("meta l4proto udp drop");
    }

    /// UDP is answered with an error.
    pub(crate) fn reject_udp(&self, with: Icmp) {
        let with = match with {
            Icmp::PortUnreachable => "port-unreachable",
            Icmp::AdminProhibited => "admin-prohibited",
        };
        self.set(&format!("meta l4proto udp reject with icmp {with}"));
    }

    /// Nothing goes through but TCP to these ports of servers.
    pub(crate) fn only_tcp(&self, ports: &str) {
        self.set(&format!("tcp dport {{ {ports} }} accept\ntcp sport {{ {ports} }} accept\ndrop"));
    }

    /// Nothing goes through but to the proxy, whose own way is free.
    pub(crate) fn only_proxy(&self, proxy: &Host) {
        let address = proxy.address;
        self.set(&format!("ip daddr {address} tcp dport != 22 accept\nip saddr {address} accept\ndrop"));
    }

    /// Nothing goes through but to the proxy: TCP, and UDP to it.
    pub(crate) fn only_proxy_with_udp(&self, proxy: &Host) {
        let address = proxy.address;
        self.set(&format!("ip daddr {address} accept\nip saddr {address} accept\ndrop"));
    }

    /// Nothing goes through but TCP to these ports of servers, and anything to the proxy.
    pub(crate) fn only_tcp_and_proxy(&self, ports: &str, proxy: &Host) {
        let address = proxy.address;
        let to_proxy = format!("ip daddr {address} accept\nip saddr {address} accept");
        self.set(&format!(
            "{to_proxy}\ntcp dport {{ {ports} }} accept\ntcp sport {{ {ports} }} accept\ndrop"
        ));
    }

    /// A path that loses all datagrams with more than so many bytes of payload, and says nothing.
    pub(crate) fn drop_large_udp(&self, payload: u32) {
        self.set(&format!("udp length > {} drop", payload + 8));
    }

    /// A firewall that takes its time: QUIC gets through its handshake, and then no further.
    pub(crate) fn stall_udp_after(&self, kbytes: u32) {
        self.set(&format!("meta l4proto udp quota over {kbytes} kbytes drop"));
    }

    /// Every connection to this port of a server gets so much and no more.
    pub(crate) fn a_part_each(&self, port: u16, kbytes_a_second: u32) {
        let limit = format!("limit rate over {kbytes_a_second} kbytes/second burst 256 kbytes");
        self.set_all(
            &format!("tcp dport {port} update @parts {{ tcp sport {limit} }} drop"),
            "set parts {\ntype inet_service\nflags dynamic\nsize 1024\n}",
        );
    }

    /// Connections over TCP get through their handshakes, and then no further.
    pub(crate) fn stall_tcp_after(&self, kbytes: u32) {
        self.set(&format!("meta l4proto tcp quota over {kbytes} kbytes drop"));
    }

    /// A path that loses all IP packets of TCP with more than so many bytes, and says nothing.
    pub(crate) fn drop_large_tcp(&self, bytes: u32) {
        self.set(&format!("meta l4proto tcp meta length > {bytes} drop"));
    }

    /// All goes through, and what is UDP is counted.
    pub(crate) fn count_udp(&self) {
        self.set("meta l4proto udp counter");
    }

    /// The bytes that were counted so far.
    pub(crate) fn counted(&self) -> u64 {
        let rules = self.0.run(program("nft").args(["list", "chain", "office", "client"]));
        let bytes = rules.split("bytes ").nth(1).and_then(|rest| rest.split_whitespace().next());
        bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("nothing is counted:\n{rules}"))
    }

    /// Whoever wants to the server is told that there is no way.
    pub(crate) fn reject_server(&self) {
        let chain = "chain server {\ntype filter hook forward priority 1\noifname link2 reject with icmp admin-prohibited\n}";
        self.set_all("", chain);
    }

    /// Nothing gets to the server, from anybody.
    pub(crate) fn cut_server(&self) {
        self.set_all("", "chain server {\ntype filter hook forward priority 1\noifname link2 drop\n}");
    }

    /// Takes the client's first line away, as a cable that is pulled.
    pub(crate) fn cut_first_line(&self) {
        self.set("iifname link0 drop\noifname link0 drop");
    }

    /// Sends TLS from the client to a port of the edge instead. UDP vanishes.
    pub(crate) fn divert(&self, from: u16, to: u16) {
        let chain = format!(
            "type nat hook prerouting priority dstnat\niifname link0 tcp dport {from} redirect to :{to}"
        );
        self.set_all("meta l4proto udp drop", &format!("chain divert {{\n{chain}\n}}"));
    }

    /// Rules for what comes from the client or goes to it. They replace all others at once.
    fn set(&self, rules: &str) {
        self.set_all(rules, "");
    }

    fn set_all(&self, rules: &str, chain: &str) {
        let table = format!(
            "flush ruleset\ntable ip office {{\n{chain}\n\
             chain client {{\n{rules}\n}}\n\
             chain forward {{\ntype filter hook forward priority 0\n\
             iifname {{ link0, link3 }} jump client\noifname {{ link0, link3 }} jump client\n}}\n}}\n"
        );
        self.0.enter(|| {
            let mut nft = program("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            nft.stdin.take().expect("piped").write_all(table.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success(), "nft refuses:\n{table}");
        });
    }
}
