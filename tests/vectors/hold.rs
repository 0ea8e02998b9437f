//! Holds what a test builds to the vectors in this folder. A part of `tests/vectors.rs` of every crate that has some.

use std::fmt::Write as _;
use std::path::Path;

/// One vector: its fields in the order of the file, all as text.
pub(crate) type Vector = Vec<(&'static str, String)>;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0);
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Compares a group with its file and gives what the file says, so that decoders read the file and not the test.
pub(crate) fn hold(group: &str, about: &str, cases: &[Vector]) -> Vec<toml::Table> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.ancestors().map(|f| f.join("tests/vectors")).find(|f| f.is_dir()).unwrap();
    let path = folder.join(format!("{group}.toml"));
    let mut text = about.lines().fold(String::new(), |text, line| text + "# " + line + "\n");
    for case in cases {
        text.push_str("\n[[vector]]\n");
        for (key, value) in case {
            assert!(!value.contains('\''), "a literal string of TOML cannot hold {value}");
            writeln!(text, "{key} = '{value}'").unwrap();
        }
    }
    if std::env::var_os("METRA_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let table: toml::Table = found.parse().unwrap();
    let vectors = table["vector"].as_array().unwrap();
    for (case, vector) in cases.iter().zip(vectors) {
        for (key, value) in case {
            assert_eq!(vector.get(*key).and_then(|v| v.as_str()), Some(value.as_str()), "{group}: {case:?}");
        }
    }
    assert_eq!(vectors.len(), cases.len(), "{group}: as many vectors as cases");
    assert_eq!(found, text, "{group}: comments or order");
    vectors.iter().map(|v| v.as_table().unwrap().clone()).collect()
}

pub(crate) fn bytes_of(vector: &toml::Table) -> Vec<u8> {
    unhex(vector["hex"].as_str().unwrap())
}
