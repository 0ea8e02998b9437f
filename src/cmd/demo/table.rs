//! The table at the end of the demo.

use std::fmt;

use super::child::Run;
use crate::output;

/// Rows of cells; the first one is the heading.
pub(super) struct Table(Vec<[String; COLUMNS]>);

const COLUMNS: usize = 11;

impl Default for Table {
    fn default() -> Self {
        let heading = [
            "",
            "way in",
            "bytes",
            "files",
            "Gbit/s",
            "first byte",
            "verify",
            "chunks sent",
            "resent",
            "reused",
            "root",
        ];
        Self(vec![heading.map(str::to_owned)])
    }
}

impl Table {
    /// A row for what a client has said of its run. Gbit/s are of the bytes that were on the way in this run.
    pub(super) fn add(&mut self, what: &str, run: &Run) {
        let number = |key| run.number(key).map_or("-".to_owned(), |n| n.to_string());
        let millis = |key| run.float(key).map_or("-".to_owned(), |ms| format!("{ms:.0} ms"));
        let rate = match (run.moved(), run.float("seconds")) {
            (Some(moved), Some(seconds)) if seconds > 0.0 => format!("{:.2}", moved as f64 * 8e-9 / seconds),
            _ => "-".to_owned(),
        };
        let root = run.text("root").map_or("-".to_owned(), |root| root.chars().take(16).collect());
        self.0.push([
            what.to_owned(),
            run.links().unwrap_or_else(|| "-".to_owned()),
            run.number("bytes").map_or("-".to_owned(), output::bytes),
            number("files"),
            rate,
            millis("ttfb_ms"),
            millis("verify_ms"),
            number("chunks_sent"),
            number("chunks_resent"),
            number("chunks_reused"),
            root,
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; COLUMNS];
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.0 {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Words to the left, numbers to the right.
                match column {
                    0 | 1 | 10 => line.push_str(&format!("{cell:<width$}  ")),
                    _ => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_what_is_not_known_is_a_dash() {
        let mut table = Table::default();
        let summary = json!({
            "bytes": 1 << 30, "files": 1, "seconds": 2.0, "sent": 250_000_000, "ttfb_ms": 4.4, "verify_ms": 0.6,
            "chunks_sent": 812, "chunks_resent": 0, "chunks_reused": 3, "root": "ab".repeat(32), "links": ["quic"],
        });
        table.add("send", &Run::for_tests(Some(summary), None));
        let progress = json!({ "seconds": 0.5, "verified": 7, "sent": 62_500_000, "files": 1 });
        table.add("send, killed", &Run::for_tests(None, Some(progress)));
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1],
            "send          quic    1.0 GiB      1    1.00        4 ms    1 ms          812       0       3  abababababababab"
        );
        assert_eq!(
            lines[2],
            "send, killed  -           7 B      1    1.00           -       -            -       -       -  -"
        );
        assert_eq!(lines.len(), 3);
    }
}
