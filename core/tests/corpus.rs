//! Runs every file of the fuzzers' corpus through the function of its target. The fuzzers need nightly Rust; this
//! does not, so that what they once found stays found everywhere.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the files under test are read here, not by the core")]

use std::path::PathBuf;

use metra_core::fuzzing::TARGETS;

#[test]
fn every_file_of_the_corpus() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, run) in TARGETS {
        let folder = corpus.join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            run(&data);
            // What a fuzzer does first: cut it off, and flip bits.
            (0..data.len().min(200)).for_each(|cut| run(&data[..cut]));
            for bit in 0..data.len().min(200) * 8 {
                let mut changed = data.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                run(&changed);
            }
            count += 1;
        }
        assert!(count >= 3, "{name}: only {count} files");
    }
    let folders = std::fs::read_dir(&corpus).unwrap().count();
    assert_eq!(folders, TARGETS.len(), "every folder of the corpus has a target");
}
