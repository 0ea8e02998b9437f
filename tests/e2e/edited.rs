//! Chunks that the sink has already are not sent.

use std::fs;

use crate::harness::Bed;
use crate::harness::data::{self, MIB};

tests![a_file_with_an_insertion, a_file_with_an_insertion_the_other_way, two_copies_in_one_job,];

const SIZE: u64 = 256 * MIB;
/// 2 % of 1 GiB, the aim, is about 20 chunks; an insertion touches the chunk that it is in and one or two after it,
/// however long the file is.
const CHUNKS: u64 = 5;
const WIRE: u64 = 12 * MIB;

fn a_file_with_an_insertion(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 0);
    let old = data::noise_file(&gateway.at("file"), 21, SIZE);
    let file = bed.path("file");
    data::insert(&old, &file, SIZE / 2, &data::noise(22, MIB));

    let done = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("file")).expect(0);
    assert!(data::same_bytes(&file, &gateway.at("file")));
    assert!(done.number("chunks") > 100, "{done}");
    assert!(done.number("chunks_sent") <= CHUNKS, "{done}");
    assert!(done.number("chunks_reused") >= done.number("chunks") - CHUNKS, "{done}");
    assert!(relay.up() < WIRE, "{} bytes went over the wire", relay.up());
}

fn a_file_with_an_insertion_the_other_way(bed: &Bed) {
    let gateway = bed.gateway();
    let relay = bed.relay(&gateway, 0);
    let size = SIZE / 4;
    let old = data::noise_file(&bed.path("file"), 23, size);
    data::insert(&old, &gateway.at("file"), size / 2, &data::noise(24, MIB));

    let done = bed.client(&gateway, ["get"]).arg(relay.url("file")).arg(bed.path("file")).expect(0);
    assert!(data::same_bytes(&gateway.at("file"), &bed.path("file")));
    assert!(done.number("chunks_sent") <= CHUNKS, "{done}");
    assert!(relay.down() < WIRE, "{} bytes went over the wire", relay.down());
}

fn two_copies_in_one_job(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    data::noise_file(&tree.join("a"), 25, 32 * MIB);
    fs::copy(tree.join("a"), tree.join("b")).unwrap();
    let done = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    assert!(data::same_bytes(&tree.join("a"), &gateway.at("t/b")));
    assert!(data::same_bytes(&tree.join("a"), &gateway.at("t/a")));
    let (sent, all) = (done.number("chunks_sent"), done.number("chunks"));
    assert!(sent <= all / 2 + 2, "{sent} of {all} chunks were sent\n{done}");
}
