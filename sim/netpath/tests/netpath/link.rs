//! One link: does it do what was asked?

use std::fs;

use super::harness::{Bed, needs};

tests!(
    delay,
    loss,
    rate,
    cpu,
    cpu_both_ways,
    marks,
    damage,
    damage_of_large_packets,
    duplicates,
    mtu,
    mtu_of_large_packets,
    outage,
    series
);

/// Round-trip times that ping printed. ms, sorted.
pub(crate) fn times(out: &str) -> Vec<f64> {
    let words = out.split_whitespace().filter_map(|word| word.strip_prefix("time="));
    let mut times: Vec<f64> = words.map(|time| time.parse().unwrap()).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Mbit/s that iperf3 says were received.
pub(crate) fn received(json: &str) -> f64 {
    let said: serde_json::Value = serde_json::from_str(json).unwrap();
    said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e6
}

fn delay(bed: &Bed) {
    needs("ping");
    for rtt in [0.0, 40.0] {
        let out = bed
            .netpath(&["--rtt", &rtt.to_string(), "--stats", "stats.json"])
            .run("ping -c 40 -i 0.05 $NETPATH_SERVER")
            .fine();
        let times = times(&out);
        assert_eq!(times.len(), 40, "nothing is lost");
        // The best says how exact it can be; the others say how busy the machine was.
        assert!((rtt..=rtt + 0.5).contains(&times[0]), "{times:?}");
        assert!(times[20] <= rtt + 10.0, "half of them: {times:?}");
    }
}

fn loss(bed: &Bed) {
    needs("ping");
    // Without -f, which waits for answers. No failure of ping: it fails when nothing comes back.
    let command = "ping -q -c 1000 -i 0.002 $NETPATH_SERVER";
    bed.netpath(&["--loss", "10", "--seed", "5", "--stats", "stats.json"]).run(command).fine();
    let stats = bed.stats();
    let there = &stats["lanes"][0]["model"];
    let back = &stats["lanes"][1]["model"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!(number(&there["offered"]), 1000, "{stats}");
    // Five standard deviations of a binomial distribution are 47 of 1000, and 45 of 900.
    assert!((53..=147).contains(&number(&there["lost"])), "{stats}");
    assert!((45..=135).contains(&number(&back["lost"])), "{stats}");
    assert_eq!(number(&back["offered"]), 1000 - number(&there["lost"]), "{stats}");
    // And the same packets each time.
    bed.netpath(&["--loss", "10", "--seed", "5", "--stats", "stats.json"]).run(command).fine();
    assert_eq!(bed.stats()["lanes"][0]["model"]["lost"], there["lost"]);
}

fn rate(bed: &Bed) {
    needs("iperf3");
    let out = bed
        .netpath(&[
            "--rate",
            "100",
            "--rtt",
            "10",
            "--at",
            "server",
            "iperf3 -s",
            "--wait-for",
            "server:5201",
        ])
        .run("iperf3 -J -t 4 -c $NETPATH_SERVER")
        .fine();
    // 1448 of 1500 bytes are payload: 96.5 Mbit/s.
    let rate = received(&out);
    assert!((50.0..=98.0).contains(&rate), "{rate} Mbit/s");
}

fn cpu(bed: &Bed) {
    needs("iperf3");
    let options =
        ["--stats", "stats.json", "--at", "server", "iperf3 -s", "--wait-for", "server:5201", "--rtt", "2"];
    bed.netpath(&options).run("iperf3 -J -n 300M -c $NETPATH_SERVER").fine();
    let stats = bed.stats();
    let bytes = stats["lanes"][0]["delivered_bytes"].as_f64().unwrap();
    let cpu = stats["cpu_seconds"].as_f64().unwrap();
    // What one core can carry if it does nothing else, acknowledgements and the kernel's work for the receiver included.
    let rate = bytes * 8.0 / cpu / 1e9;
    // A release build has carried 1.28 at 923 Mbit/s; this finds what makes it several times slower.
    assert!(rate >= 0.5, "{rate} Gbit/s for each core: {stats}");
}

fn cpu_both_ways(bed: &Bed) {
    needs("iperf3");
    let options =
        ["--stats", "stats.json", "--at", "server", "iperf3 -s", "--wait-for", "server:5201", "--rtt", "20"];
    bed.netpath(&options).with(["--rate", "1000"]).run("iperf3 -J -t 5 --bidir -c $NETPATH_SERVER").fine();
    let stats = bed.stats();
    let cores = stats["cpu_seconds"].as_f64().unwrap() / stats["seconds"].as_f64().unwrap();
    let bytes = [0, 1].map(|lane| stats["lanes"][lane]["delivered_bytes"].as_f64().unwrap());
    assert!(bytes.iter().all(|bytes| *bytes > 0.0) && cores < 1.0, "{cores} cores: {stats}");
}

fn topology(bed: &Bed, link: &str) {
    let text = "[[host]]\nname = 'client'\n[[host]]\nname = 'server'\n[[link]]\na = 'client'\nb = 'server'\n";
    bed.write("topology.toml", &format!("{text}{link}"));
}

fn marks(bed: &Bed) {
    needs("ping");
    topology(bed, "both = { rate_mbit = 1, mark_above_bytes = 100 }");
    // Five at once that may be marked: the first three find at most 84 bytes before them.
    let out = bed
        .netpath(&["--topology", "topology.toml", "--stats", "stats.json"])
        .run("ping -q -c 5 -l 5 -Q 2 -s 500 $NETPATH_SERVER")
        .fine();
    assert!(out.contains(" 5 received"), "a wrong checksum would be dropped: {out}");
    assert!(bed.stats()["lanes"][0]["model"]["marked"].as_u64() >= Some(1), "{}", bed.stats());
}

fn damage(bed: &Bed) {
    needs("ping");
    topology(bed, "up = { corrupt_percent = 100 }");
    let said = bed
        .netpath(&["--topology", "topology.toml", "--stats", "stats.json"])
        .run("ping -q -c 5 -i 0.01 -W 1 $NETPATH_SERVER");
    assert!(said.code == Some(1) && said.out.contains(" 0 received"), "{said:?}");
    let stats = bed.stats();
    assert_eq!(stats["lanes"][0]["model"]["corrupted"], 5, "{stats}");
    assert_eq!(stats["lanes"][0]["delivered"], 5, "they arrive: {stats}");
}

fn damage_of_large_packets(bed: &Bed) {
    needs("iperf3");
    topology(bed, "down = { corrupt_percent = 1, rate_mbit = 200, delay_ms = 1 }");
    let out = bed
        .netpath(&["--topology", "topology.toml", "--stats", "stats.json"])
        .with(["--at", "server", "iperf3 -s", "--wait-for", "server:5201"])
        .run("iperf3 -c $NETPATH_SERVER -R -n 10M >&2; grep ^Tcp: /proc/net/snmp")
        .fine();
    let mut lines = out.lines().map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let found: u64 = names
        .zip(values)
        .find(|(name, _)| *name == "InCsumErrors")
        .map(|(_, value)| value.parse().unwrap())
        .unwrap();
    // All are found by their checksums, but for those whose wrong bit makes nonsense of the header's length.
    let stats = bed.stats();
    let corrupted = stats["lanes"][1]["model"]["corrupted"].as_u64().unwrap();
    assert!(corrupted >= 30 && (corrupted * 9 / 10..=corrupted).contains(&found), "{found}: {stats}");
}

fn duplicates(bed: &Bed) {
    needs("ping");
    topology(bed, "down = { duplicate_percent = 100 }");
    let out = bed
        .netpath(&["--topology", "topology.toml"])
        .run("ping -c 5 -i 0.05 $NETPATH_SERVER; sleep 0.2")
        .fine();
    // ping stops at its fifth answer, whose duplicate it does not await.
    assert!(out.contains("+4 duplicates") || out.contains("+5 duplicates"), "{out}");
}

fn mtu(bed: &Bed) {
    needs("ping");
    topology(bed, "mtu = 9000\nboth = { mtu = 1400 }");
    let command = "ping -q -c 2 -i 0.1 -W 1 -M do -s";
    let run = |size| {
        bed.netpath(&["--topology", "topology.toml"]).run(&format!("{command} {size} $NETPATH_SERVER")).code
    };
    assert_eq!((run(1372), run(1373)), (Some(0), Some(1)), "the path takes less than its interfaces");
    topology(bed, "mtu = 9000");
    assert_eq!(run(8972), Some(0));
}

fn mtu_of_large_packets(bed: &Bed) {
    needs("iperf3");
    topology(bed, "both = { mtu = 1400 }");
    bed.netpath(&["--topology", "topology.toml", "--stats", "stats.json"])
        .with(["--at", "server", "iperf3 -s", "--wait-for", "server:5201"])
        .run("timeout 2 iperf3 -c $NETPATH_SERVER -n 1M; true")
        .fine();
    // The kernel sends its first ten packets (RFC 6928) at once.
    let lane = &bed.stats()["lanes"][0];
    assert!(lane["model"]["too_long"].as_u64() >= Some(10), "{lane}");
    assert!(lane["delivered_bytes"].as_u64() < Some(10_000), "{lane}");
}

fn outage(bed: &Bed) {
    needs("ping");
    topology(bed, "up = { events = [{ at_s = 0.0, outage_ms = 500 }] }");
    let out = bed
        .netpath(&["--topology", "topology.toml", "--stats", "stats.json"])
        .run("ping -c 20 -i 0.05 $NETPATH_SERVER")
        .fine();
    let blocked = bed.stats()["lanes"][0]["model"]["blocked"].as_u64().unwrap();
    assert!((1..=10).contains(&blocked), "{out}");
    assert_eq!(times(&out).len() as u64 + blocked, 20, "{out}");
}

fn series(bed: &Bed) {
    needs("ping");
    bed.netpath(&["--rate", "1", "--series", "series.csv", "--every", "20ms"])
        .run("ping -q -c 10 -l 10 -s 1000 $NETPATH_SERVER")
        .fine();
    let text = fs::read_to_string(bed.path("series.csv")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("t_s,link,from,to,backlog_bytes,delivered_bytes,dropped_packets"));
    let there: Vec<Vec<&str>> =
        lines.map(|line| line.split(',').collect::<Vec<_>>()).filter(|line| line[2] == "client").collect();
    let column =
        |at: usize| there.iter().map(move |line| line[at].parse::<f64>().unwrap()).collect::<Vec<_>>();
    assert!(column(0).is_sorted() && column(5).is_sorted(), "{text}");
    // Ten packets of 1028 bytes take 82 ms.
    let most = column(4).into_iter().fold(0.0, f64::max);
    assert!((1.0..=10_280.0).contains(&most), "{text}");
}
