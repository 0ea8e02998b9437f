//! Many at once.

use std::fs;

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Tree};

tests![
    eight_clients,
    readers_and_writers_of_the_same_name,
    the_newer_of_two_takes_over,
    several_connections_carry_one_job,
    several_connections_and_one_is_cut,
    more_sessions_than_allowed,
];

fn eight_clients(bed: &Bed) {
    let gateway = bed.gateway();
    let file = |i: u64| bed.path(&format!("file{i}"));
    let running: Vec<_> = (0..8)
        .map(|i| {
            data::noise_file(&file(i), 80 + i, 8 * MIB);
            let state = bed.path(&format!("state{i}"));
            let run = bed.client(&gateway, ["send"]).env("METRA_STATE", state);
            run.arg(file(i)).arg(gateway.url(&format!("folder/{i}"))).start()
        })
        .collect();
    for done in running {
        let done = done.finish().expect(0);
        assert_eq!(done.number("resumes"), 0, "{done}");
    }
    for i in 0..8 {
        assert!(data::same_bytes(&file(i), &gateway.at(&format!("folder/{i}"))));
    }
    assert!(gateway.peak_memory() < 300 * MIB, "{} MiB", gateway.peak_memory() / MIB);
    assert_eq!(data::bytes_below(&gateway.at(".metra")), 0);

    // And all of them fetch the same, with one state folder.
    let running: Vec<_> = (0..8)
        .map(|i| {
            bed.client(&gateway, ["get"])
                .arg(gateway.url("folder"))
                .arg(bed.path(&format!("back{i}")))
                .start()
        })
        .collect();
    for done in running {
        done.finish().expect(0);
    }
    for i in 0..8 {
        Tree::of(&gateway.at("folder")).must_equal(&Tree::of(&bed.path(&format!("back{i}"))));
    }
}

fn readers_and_writers_of_the_same_name(bed: &Bed) {
    let gateway = bed.gateway();
    let (a, b) = (bed.folder("a"), bed.folder("b"));
    data::noise_file(&a.join("x"), 88, 8 * MIB);
    data::noise_file(&b.join("x"), 89, 8 * MIB);
    bed.client(&gateway, ["send"]).arg(a.join("x")).arg(gateway.url("x")).expect(0);
    for round in 0..3 {
        let writer = bed.client(&gateway, ["send"]).arg(if round % 2 == 0 { &b } else { &a }.join("x"));
        let writer = writer.arg(gateway.url("x")).start();
        let back = bed.path(&format!("back{round}"));
        let reader = bed.client(&gateway, ["get"]).arg(gateway.url("x")).arg(&back).run();
        writer.finish().expect(0);
        // One or the other, or that it changed; never a mixture.
        match reader.code() {
            0 => assert!(data::same_bytes(&back, &a.join("x")) || data::same_bytes(&back, &b.join("x"))),
            9 => assert!(!back.exists()),
            _ => panic!("{reader}"),
        }
    }
}

fn the_newer_of_two_takes_over(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&bed.path("file"), 90, 48 * MIB);
    let first = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("x")).start();
    relay.wait_up(16 * MIB);
    // Slowly from here, and the second comes by another way: long before the first is done.
    relay.set_rate(4 * MIB);
    let second = bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("x")).expect(0);
    relay.set_rate(0);
    let first = first.finish();
    assert_eq!(first.code(), 5, "the older one is told, and does not come back\n{first}");
    assert!(data::same_bytes(&file, &gateway.at("x")));
    assert!(
        second.number("chunks_sent") < second.number("chunks"),
        "it goes on where the other was\n{second}"
    );
}

fn several_connections_carry_one_job(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    // Far more than leaves before the last of the connections is open.
    data::noise_file(&tree.join("large"), 91, 96 * MIB);
    for i in 0..50 {
        fs::write(tree.join(format!("{i}")), data::noise(i + 1, 5000)).unwrap();
    }
    data::age(&tree);
    let relay = bed.relay(&gateway, 48 * MIB);
    let send = bed.client(&gateway, ["send", "--connections", "3"]).arg(&tree).arg(relay.url("t"));
    let done = send.expect(0);
    assert_eq!(relay.busy(2 * MIB), 3, "each carries a part\n{done}");
    // These are the kinds.
    assert_eq!(done.summary()["links"], serde_json::json!(["quic"]), "{done}");
    assert_eq!(done.number("chunks_resent"), 0, "{done}");
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("t")));

    let relay = bed.relay(&gateway, 48 * MIB);
    let get = bed.client(&gateway, ["get", "--connections", "3"]).arg(relay.url("t")).arg(bed.path("back"));
    get.expect(0);
    // Not the question whether UDP is let through, which has a socket of its own.
    assert_eq!(relay.busy(10_000), 3);
    Tree::of(&tree).must_equal(&Tree::of(&bed.path("back")));
}

fn several_connections_and_one_is_cut(bed: &Bed) {
    let mut gateway = bed.gateway();
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&bed.path("file"), 92, 48 * MIB);
    let run = bed.client(&gateway, ["send", "--connections", "2"]).arg(&file).arg(relay.url("x")).start();
    relay.wait_up(16 * MIB);
    gateway.kill();
    gateway.restart();
    relay.set_rate(0);
    let done = run.finish().expect(0);
    assert!(data::same_bytes(&file, &gateway.at("x")));
    assert!(done.number("resumes") >= 1, "{done}");
}

fn more_sessions_than_allowed(bed: &Bed) {
    let gateway = bed.gateway_with("[limits]\nsessions = 1\n");
    let relay = bed.relay(&gateway, 24 * MIB);
    let file = data::noise_file(&bed.path("file"), 93, 24 * MIB);
    let first = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("x")).start();
    relay.wait_up(8 * MIB);
    // The second is told to come again; with little patience that is its end.
    let other = bed.client(&gateway, ["send", "--timeout", "1"]).env("METRA_STATE", bed.path("other-state"));
    let done = other.arg(&file).arg(gateway.url("y")).expect(5);
    assert!(done.elapsed.as_secs() < 20, "{done}");
    relay.set_rate(0);
    first.finish().expect(0);
}
