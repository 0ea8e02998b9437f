//! What `--dry-run` prints.

use std::io::{self, StdoutLock, Write, stdout};

use metra_core::manifest::Entry;
use serde::Serialize;
use serde_json::json;

use crate::args::OutputArgs;
use crate::exit::Exit;
use crate::output::{self, EntryJson};

/// A list of what would be transferred, and its sum.
pub(super) struct Listing {
    out: StdoutLock<'static>,
    json: bool,
    quiet: bool,
    files: u64,
    bytes: u64,
    failed: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    entry: EntryJson<'a>,
}

impl Listing {
    pub(super) fn new(args: &OutputArgs) -> Self {
        Self { out: stdout().lock(), json: args.json, quiet: args.quiet, files: 0, bytes: 0, failed: 0 }
    }

    /// An entry that would be transferred.
    pub(super) fn entry(&mut self, path: &str, entry: &Entry) -> io::Result<()> {
        self.files += 1;
        self.bytes += entry.size();
        if self.json {
            let line = Line { event: "entry", entry: EntryJson::new(path, entry) };
            writeln!(self.out, "{}", output::json(&line))
        } else if !self.quiet {
            writeln!(self.out, "{}", output::listed(path, entry))
        } else {
            Ok(())
        }
    }

    /// Something that would not.
    pub(super) fn problem(&mut self, path: &str, reason: &str) {
        self.failed += 1;
        eprintln!("metra: {}: {}", output::name(path), output::text(reason));
    }

    /// The sum, for programs.
    pub(super) fn finish(mut self) -> io::Result<Exit> {
        let exit = if self.failed > 0 { Exit::Partial } else { Exit::Ok };
        if self.json {
            let summary = json!({
                "event": "summary", "dry_run": true, "exit_code": exit.number(),
                "files": self.files, "bytes": self.bytes, "failed": self.failed,
            });
            writeln!(self.out, "{}", output::json(&summary))?;
        }
        Ok(exit)
    }
}
