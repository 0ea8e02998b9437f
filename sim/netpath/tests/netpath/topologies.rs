//! The topologies that come with it, and what they promise.

use std::fs;

use super::harness::{Bed, needs};
use super::link::{received, times};
use super::probe::PROBE;

tests!(
    shared_bottleneck,
    two_paths,
    firewalls,
    hosts_see_nothing_but_their_links,
    commands_know_addresses_and_place,
    commands_can_go_to_other_hosts
);

fn example(name: &str) -> String {
    format!("{}/topologies/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn shared_bottleneck(bed: &Bed) {
    needs("iperf3");
    let client = "iperf3 -J -t 3 -c $NETPATH_SERVER";
    let other = format!("until {client} -p 5202 > two.json; do sleep 0.05; done; touch done");
    bed.netpath(&["--topology", &example("shared-bottleneck"), "--stats", "stats.json"])
        .with(["--at", "server", "iperf3 -s", "--at", "server", "iperf3 -s -p 5202", "--at", "two", &other])
        .with(["--wait-for", "server:5201"])
        .run(&format!("{client} > one.json && until [ -e done ]; do sleep 0.05; done"))
        .fine();
    let [one, two] =
        ["one.json", "two.json"].map(|name| received(&fs::read_to_string(bed.path(name)).unwrap()));
    // They begin at about the same time.
    assert!(one >= 3.0 && two >= 3.0 && one + two <= 190.0, "{one} and {two} Mbit/s");
    let stats = bed.stats();
    let lane = &stats["lanes"][4];
    assert_eq!((&lane["from"], &lane["to"]), (&"router".into(), &"server".into()));
    let rate = lane["delivered_bytes"].as_f64().unwrap() * 8e-6 / stats["seconds"].as_f64().unwrap();
    assert!((30.0..=100.5).contains(&rate), "{rate} Mbit/s: {stats}");
}

fn two_paths(bed: &Bed) {
    needs("ping");
    for (link, least, most) in [(0, 20.0, 40.0), (1, 80.0, 120.0)] {
        // Whichever of its addresses the server is called by.
        for server in ["NETPATH_SERVER_LINK0", "NETPATH_SERVER_LINK1"] {
            let out = bed
                .netpath(&["--topology", &example("two-paths")])
                .run(&format!("ping -c 8 -i 0.02 -I $NETPATH_CLIENT_LINK{link} ${server}"))
                .fine();
            let time = times(&out)[0];
            assert!((least..=most).contains(&time), "link{link}: {out}");
        }
    }
}

fn firewalls(bed: &Bed) {
    let this = std::env::current_exe().unwrap();
    let this = this.display();
    let open = [
        ("free", [true, true, true]),
        ("no-udp", [true, false, true]),
        ("proxied", [false, false, true]),
        ("proxy", [true, true, true]),
    ];
    for (client, expected) in open {
        let said = bed
            .netpath(&["--topology", &example("corporate"), "--in", client, "--stats", "stats.json"])
            .with(["--at", "server", &format!("{PROBE}='serve 80' {this}"), "--wait-for", "server:80"])
            .with(["--at", "proxy", &format!("{PROBE}='serve 3128' {this}"), "--wait-for", "proxy:3128"])
            .run(&format!(
                "{PROBE}=\"tcp $NETPATH_SERVER:80\" {this} && echo tcp
                 {PROBE}=\"udp $NETPATH_SERVER:80\" {this} && echo udp
                 {PROBE}=\"tcp $NETPATH_PROXY:3128\" {this} && echo proxy; true"
            ));
        let found = ["tcp", "udp", "proxy"].map(|word| said.out.lines().any(|line| line == word));
        assert_eq!(found, expected, "{client}: {said:?}");
    }
    // The last was stopped by nobody.
    let stats = bed.stats();
    assert!(stats["lanes"].as_array().unwrap().iter().all(|lane| lane["stopped"] == 0), "{stats}");
}

fn hosts_see_nothing_but_their_links(bed: &Bed) {
    let said = bed.netpath(&[]).run("cut -s -d: -f1 /proc/net/dev; ip route get 192.0.2.1");
    let interfaces: Vec<&str> = said.out.lines().map(str::trim).collect();
    assert_eq!(interfaces, ["lo", "link0"]);
    assert!(said.code != Some(0) && said.err.contains("unreachable"), "{said:?}");
}

fn commands_know_addresses_and_place(bed: &Bed) {
    let out = bed
        .netpath(&["--topology", &example("corporate"), "--in", "proxy"])
        .run("echo $NETPATH_HOST $NETPATH_PROXY $NETPATH_NO_UDP $NETPATH_EDGE_LINK4; ip -br addr show dev link3")
        .fine();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words[..4], ["proxy", "10.77.3.1", "10.77.0.1", "10.77.4.1"]);
    assert!(words.contains(&"10.77.3.1/24"), "{out}");
}

fn commands_can_go_to_other_hosts(bed: &Bed) {
    needs("nsenter");
    let there = bed.netpath(&["--rtt", "2"]).run("nsenter --net=$NETPATH_SERVER_NS ip -brief addr").fine();
    assert!(there.contains("10.77.0.2") && !there.contains("10.77.0.1/"), "{there}");
}
