//! Disks that are full, or fail: nothing half-written under a final name, and the job goes on after the cure.

use std::fs;

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Mount, Tree};

tests![
    the_gateways_disk_is_full,
    the_gateways_disk_is_full_of_small_files,
    the_clients_disk_is_full,
    writing_fails_at_the_gateway,
    writing_fails_at_the_client,
];

const SIZE: u64 = 48 * MIB;

fn the_gateways_disk_is_full(bed: &Bed) {
    let mount = Mount::tmpfs(&bed.folder("root"), 24 * MIB);
    let gateway = bed.gateway();
    let file = data::noise_file(&bed.path("large"), 71, SIZE);
    // Slowly enough for a part to be durable when the end comes.
    let relay = bed.relay(&gateway, 12 * MIB);
    let send = || bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("in/large"));
    let done = send().expect(7);
    assert!(done.stderr.contains("large"), "the file is named\n{done}");
    assert!(done.stderr.to_lowercase().contains("space"), "{done}");
    assert!(!gateway.at("in/large").exists());
    // Others can still talk to it.
    bed.metra(["ls", "--ca"]).arg(gateway.ca()).arg(gateway.url("")).expect(0);

    mount.resize(128 * MIB);
    relay.set_rate(0);
    let done = send().expect(0);
    assert!(data::same_bytes(&file, &gateway.at("in/large")));
    let (sent, all) = (done.number("chunks_sent"), done.number("chunks"));
    assert!(sent < all * 8 / 10, "{sent} of {all} chunks were sent after space was made\n{done}");
}

fn the_gateways_disk_is_full_of_small_files(bed: &Bed) {
    let mount = Mount::tmpfs(&bed.folder("root"), 8 * MIB);
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    for i in 0..400 {
        fs::write(tree.join(format!("{i}")), data::noise(i + 1, 40_000)).unwrap();
    }
    data::age(&tree);
    let send = || bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t"));
    let done = send().expect(7);
    assert!(done.stderr.to_lowercase().contains("space"), "{done}");
    assert!(!gateway.at("t").exists(), "nothing has its final name");
    mount.resize(64 * MIB);
    send().expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("t")));
}

fn the_clients_disk_is_full(bed: &Bed) {
    let gateway = bed.gateway();
    let file = data::noise_file(&gateway.at("large"), 72, SIZE);
    let mount = Mount::tmpfs(&bed.folder("small"), 24 * MIB);
    let relay = bed.relay(&gateway, 12 * MIB);
    let get = || bed.client(&gateway, ["get"]).arg(relay.url("large")).arg(bed.path("small/large"));
    let done = get().expect(7);
    assert!(done.stderr.contains("large") && done.stderr.to_lowercase().contains("space"), "{done}");
    assert!(!bed.path("small/large").exists());
    mount.resize(128 * MIB);
    relay.set_rate(0);
    let done = get().expect(0);
    assert!(data::same_bytes(&file, &bed.path("small/large")));
    let (sent, all) = (done.number("chunks_sent"), done.number("chunks"));
    assert!(sent < all * 8 / 10, "{sent} of {all} chunks were sent after space was made\n{done}");
}

/// KiB that a process may write to one file in these tests: what comes after fails with `EFBIG`, as it would with `EIO`
/// on a disk that is broken there.
const LIMIT_KIB: u64 = 20 * 1024;

fn writing_fails_at_the_gateway(bed: &Bed) {
    let mut gateway = bed.gateway_limited(LIMIT_KIB);
    let tree = bed.folder("tree");
    data::noise_file(&tree.join("large"), 73, SIZE);
    fs::write(tree.join("small"), "small").unwrap();
    let send = |url: String| bed.client(&gateway, ["send"]).arg(&tree).arg(url);
    let done = send(gateway.url("t")).expect(7);
    assert!(done.stderr.contains("large"), "the file is named\n{done}");
    assert!(!gateway.at("t/large").exists());
    assert!(gateway.is_running());
    gateway.kill();
    gateway.restart();
    let done = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    assert!(data::same_bytes(&tree.join("large"), &gateway.at("t/large")));
    let (sent, all) = (done.number("chunks_sent"), done.number("chunks"));
    assert!(sent < all * 9 / 10, "{sent} of {all} chunks were sent after the disk was mended\n{done}");
}

fn writing_fails_at_the_client(bed: &Bed) {
    let gateway = bed.gateway();
    let file = data::noise_file(&gateway.at("large"), 74, SIZE);
    let get = || bed.client(&gateway, ["get"]).arg(gateway.url("large")).arg(bed.path("large"));
    let done = get().limited(LIMIT_KIB).expect(7);
    assert!(done.stderr.contains("large"), "the file is named\n{done}");
    assert!(!bed.path("large").exists());
    get().expect(0);
    assert!(data::same_bytes(&file, &bed.path("large")));
}
