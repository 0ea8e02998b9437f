//! `metra hash`: the manifest of local files, and its root.

use std::io::{BufWriter, Write, stdout};

use metra_client::hash;
use metra_core::manifest::{Entry, EntryKind, Record};
use metra_store::source::SourceSpec;
use serde_json::{Value, json};

use super::source;
use crate::args::{HashArgs, Source};
use crate::exit::{Exit, Failure};
use crate::output::{self, EntryJson};

pub(super) fn run(args: HashArgs) -> Result<Exit, Failure> {
    let roots = source::root(&args.path, "-")?;
    let spec = SourceSpec {
        filters: args.shape.filters()?,
        symlinks: args.shape.symlinks(),
        keep: args.shape.keep(),
        ..SourceSpec::new(roots)
    };
    let mut out = BufWriter::new(stdout().lock());
    let mut written = Ok(());
    let hashed = hash(&spec, None, |record| {
        if args.manifest && written.is_ok() {
            let line = if args.json { output::json(&json_record(record)) } else { text_record(record) };
            written = writeln!(out, "{line}");
        }
    });
    written?;
    let hashed = hashed.map_err(|e| Failure {
        code: Some(e.code()),
        ..Failure::new(Exit::of_code(e.code()), e.to_string())
    })?;
    for problem in &hashed.problems {
        eprintln!("metra: {}: {}", output::name(&problem.path), problem.reason);
    }
    let exit = if hashed.problems.is_empty() { Exit::Ok } else { Exit::Partial };
    let root = hashed.root.to_string();
    if args.json {
        let summary = json!({
            "event": "summary", "root": root, "bytes": hashed.bytes, "files": hashed.entries,
            "chunks": hashed.chunks, "records": hashed.records, "failed": hashed.problems.len(),
            "exit_code": exit.number(),
        });
        writeln!(out, "{}", output::json(&summary))?;
    } else {
        writeln!(out, "{root}  {}", output::name(&name(&args.path)))?;
    }
    out.flush()?;
    Ok(exit)
}

fn name(source: &Source) -> String {
    match source {
        Source::Stdin => "-".to_owned(),
        Source::Zero { size } => format!("zero:{size}"),
        Source::Random { size, seed } => format!("random:{size}:{seed}"),
        Source::Path(path) => path.to_string_lossy().into_owned(),
    }
}

/// A record as a line for people.
fn text_record(record: &Record) -> String {
    match record {
        Record::Entry(entry) => {
            let size = match entry.kind {
                EntryKind::File { size } => size.to_string(),
                _ => "-".to_owned(),
            };
            let mode = entry.mode.map_or_else(|| "-".to_owned(), |mode| format!("{mode:04o}"));
            let time = entry.mtime.map_or_else(|| "-".to_owned(), |t| format!("{}.{:09}", t.secs, t.nanos));
            format!("{} {size} {mode} {time} {}", output::kind(entry), output::shown(&entry.path, entry))
        }
        Record::Chunk { len, hash } => format!("  chunk {len} {hash}"),
        Record::StreamEnd { size } => format!("  end {size}"),
        Record::Withdraw(entry) => format!("  withdrawn: entry {}", entry.0),
    }
}

fn json_record(record: &Record) -> Value {
    match record {
        Record::Entry(entry) => with_event("entry", json_entry(entry)),
        Record::Chunk { len, hash } => json!({ "event": "chunk", "len": len, "hash": hash.to_string() }),
        Record::StreamEnd { size } => json!({ "event": "stream_end", "size": size }),
        Record::Withdraw(entry) => json!({ "event": "withdraw", "entry": entry.0 }),
    }
}

fn json_entry(entry: &Entry) -> Value {
    serde_json::to_value(EntryJson::new(&entry.path, entry)).unwrap_or_default()
}

fn with_event(event: &str, mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("event".into(), event.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use metra_core::id::{Digest, EntryIndex};

    use super::*;

    #[test]
    fn records_are_one_line_each() {
        let kind = EntryKind::File { size: 5 };
        let entry = Entry { path: "a\nb".into(), kind, mode: Some(0o644), mtime: None };
        assert_eq!(text_record(&Record::Entry(entry.clone())), "file 5 0644 - a\\nb");
        let chunk = Record::Chunk { len: 5, hash: Digest([0; 32]) };
        assert_eq!(text_record(&chunk), format!("  chunk 5 {}", "0".repeat(64)));
        assert_eq!(text_record(&Record::StreamEnd { size: 5 }), "  end 5");
        assert_eq!(text_record(&Record::Withdraw(EntryIndex(3))), "  withdrawn: entry 3");
        let expected = json!({ "event": "entry", "path": "a\nb", "type": "file", "size": 5, "mode": "0644" });
        assert_eq!(json_record(&Record::Entry(entry)), expected);
    }
}
