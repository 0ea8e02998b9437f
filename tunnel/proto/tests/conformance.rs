//! `docs/conformance.md` names tests; here they are looked for, so that a renamed test does not leave a promise behind.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the files under test are read here, not by the crate")]

use std::path::Path;

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    for folder in ["tunnel", "policy", "gateway", "client", "tests"] {
        read(&root.join(folder), &mut sources);
    }
    let table = std::fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let named: Vec<_> =
        table.split('`').filter(|word| word.starts_with("rfc") && word.contains('_')).collect();
    assert!(named.len() > 30, "only {} tests are named", named.len());
    for name in named {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "docs/conformance.md names {name}, which is no test"
        );
    }
}

fn read(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
