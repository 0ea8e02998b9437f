//! Runs every file of the fuzzers' corpus through the function of its target. The fuzzers need nightly Rust; this
//! does not, so that what they once found stays found everywhere. A part of `tests/corpus.rs` of every crate that has
//! fuzz targets.

use std::path::{Path, PathBuf};

/// A fuzz target: its name, which is also the name of its corpus, and its function.
type Target = (&'static str, fn(&[u8]));

/// Runs what belongs to the targets of the crate `name` (as it is written in Rust), which are `targets`.
pub(crate) fn replay(name: &str, targets: &[Target]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fuzz = here.ancestors().map(|folder| folder.join("fuzz")).find(|folder| folder.is_dir()).unwrap();
    let corpus = fuzz.join("corpus");
    for (target, run) in targets {
        let files = list(&corpus.join(target));
        assert!(files.len() >= 3, "{target}: only {} files", files.len());
        for path in files {
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
        }
    }

    // Every target runs here or in the test of another crate, and every folder of the corpus has a target.
    let mut folders = list(&corpus);
    for path in list(&fuzz.join("fuzz_targets")) {
        let target = path.file_stem().and_then(|stem| stem.to_str()).unwrap().to_owned();
        let ours =
            std::fs::read_to_string(&path).unwrap().contains(&format!("{name}::fuzzing::{target}(data)"));
        assert_eq!(
            ours,
            targets.iter().any(|(known, _)| *known == target),
            "{target}: is it a target of {name}?"
        );
        folders.retain(|folder| !folder.ends_with(&target));
    }
    assert_eq!(folders, [] as [PathBuf; 0], "folders of the corpus without a target");
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    files.map(|file| file.unwrap().path()).collect()
}
