//! Receipts: kept by both sides, checked offline.

use std::fs;
use std::path::PathBuf;

use metra_core::receipt::{Direction, SignedReceipt, Statement};

use crate::harness::Bed;
use crate::harness::data;

tests![a_receipt_for_each_way, tampered_with, what_was_sent_has_changed];

/// The receipts that the client has kept, as files.
fn kept(bed: &Bed) -> Vec<PathBuf> {
    let folder = bed.path("client-state/client/receipts");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn a_receipt_for_each_way(bed: &Bed) {
    let mut gateway = bed.gateway();
    let tree = bed.path("tree");
    data::sample(&tree);
    let sent = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    let files = kept(bed);
    assert_eq!(files.len(), 1);
    let receipt = SignedReceipt::from_text(&fs::read_to_string(&files[0]).unwrap()).unwrap();
    let statement = Statement::decode(&receipt.statement).unwrap();
    assert_eq!(statement.root.to_string(), sent.root());
    assert_eq!((statement.user.as_str(), statement.path.as_str()), ("anonymous", "t"));
    assert_eq!((statement.direction, statement.failed, statement.withdrawn), (Direction::Push, 0, 0));
    assert_eq!((statement.bytes, statement.chunks), (sent.number("bytes"), sent.number("chunks")));
    assert!(statement.started <= statement.finished && statement.finished / 1000 <= data::now());

    let got = bed.client(&gateway, ["get"]).arg(gateway.url("t")).arg(bed.path("back")).expect(0);
    assert_eq!(kept(bed).len(), 2);

    // The gateway keeps the very same bytes.
    assert!(gateway.terminate().success());
    let mut catalogue = Vec::new();
    for entry in fs::read_dir(gateway.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap().to_string_lossy().starts_with("catalogue") {
            catalogue.extend(fs::read(path).unwrap());
        }
    }
    for file in kept(bed) {
        let receipt = SignedReceipt::from_text(&fs::read_to_string(file).unwrap()).unwrap();
        let found = catalogue.windows(64).any(|window| window == receipt.signature);
        assert!(found, "the gateway does not have the receipt");
    }

    // Offline: the gateway has ended.
    let verified: Vec<String> =
        kept(bed).iter().map(|file| bed.metra(["verify"]).arg(file).expect(0).text()).collect();
    for root in [sent.root(), got.root()] {
        assert!(verified.iter().any(|text| text.contains(&root)), "{root} in {verified:?}");
    }
    bed.metra(["verify"]).arg(&files[0]).arg(&tree).expect(0);
}

fn tampered_with(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "content");
    bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("x")).expect(0);
    let path = kept(bed).remove(0);
    let good = SignedReceipt::from_text(&fs::read_to_string(&path).unwrap()).unwrap();
    bed.metra(["verify"]).arg(&path).expect(0);

    let mut statement = Statement::decode(&good.statement).unwrap();
    statement.bytes += 1;
    let another_count = SignedReceipt { statement: statement.encode(), ..good.clone() };
    let mut signature = good.signature;
    signature[10] ^= 1;
    let another_signature = SignedReceipt { signature, ..good.clone() };
    let mut public_key = good.public_key;
    public_key[0] ^= 1;
    let another_key = SignedReceipt { public_key, ..good.clone() };
    for receipt in [another_count, another_signature, another_key] {
        let path = bed.write("changed.receipt", receipt.to_text());
        bed.metra(["verify"]).arg(&path).expect(11);
    }
    let text = bed.write("no.receipt", "this is no receipt");
    let done = bed.metra(["verify"]).arg(&text).run();
    assert_ne!(done.code(), 0, "{done}");
    let done = bed.metra(["verify"]).arg(bed.path("missing")).run();
    assert_eq!(done.code(), 4, "{done}");
}

fn what_was_sent_has_changed(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::write(tree.join("a"), "content of a").unwrap();
    fs::write(tree.join("b"), "content of b").unwrap();
    data::age(&tree);
    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    let receipt = kept(bed).remove(0);
    let verify = || bed.metra(["verify"]).arg(&receipt).arg(&tree).run().code();
    assert_eq!(verify(), 0);
    // One byte, with the size and the time kept.
    fs::write(tree.join("a"), "content of A").unwrap();
    data::age(&tree);
    assert_eq!(verify(), 11);
    fs::write(tree.join("a"), "content of a").unwrap();
    data::age(&tree);
    assert_eq!(verify(), 0);
    fs::write(tree.join("c"), "").unwrap();
    data::age(&tree);
    assert_eq!(verify(), 11);
}
