//! `metra stat`.

use std::io::{Write, stdout};

use metra_client::Client;
use metra_core::manifest::{Entry, EntryKind};

use super::{ls, session};
use crate::args::StatArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, EntryJson};

pub(super) fn run(args: StatArgs) -> Result<Exit, Failure> {
    let path = args.url.path.trim_end_matches('/');
    let listed = session::with_client(&args.connect, &args.url.address, async |client: &Client| {
        client.list(path, 0).await
    });
    let entries = listed.map_err(|failure| ls::missing(failure, &args.url.path))?;
    let Some(entry) = entries.first() else {
        return Err(Failure::new(Exit::Other, "the gateway's answer is empty"));
    };
    if args.json {
        writeln!(stdout(), "{}", output::json(&EntryJson::new(path, entry)))?;
    } else {
        stdout().write_all(lines(path, entry).as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn lines(path: &str, entry: &Entry) -> String {
    let mut text = format!("path      /{}\ntype      {}\n", output::name(path), output::kind(entry));
    if let EntryKind::File { size } = entry.kind {
        text.push_str(&format!("size      {size} ({})\n", output::bytes(size)));
    }
    if let EntryKind::Symlink { target } = &entry.kind {
        text.push_str(&format!("target    {}\n", output::name(target)));
    }
    if let Some(mode) = entry.mode {
        text.push_str(&format!("mode      {mode:04o} ({})\n", output::mode(entry)));
    }
    if let Some(mtime) = entry.mtime {
        text.push_str(&format!("modified  {}.{:09} UTC\n", output::timestamp(mtime), mtime.nanos));
    }
    text
}

#[cfg(test)]
mod tests {
    use metra_core::manifest::Timestamp;

    use super::*;

    #[test]
    fn a_file_shows_what_is_known() {
        let mtime = Some(Timestamp { secs: 1_709_210_096, nanos: 5 });
        let kind = EntryKind::File { size: 2048 };
        let entry = Entry { path: String::new(), kind, mode: Some(0o644), mtime };
        let expected = "path      /a\\nb\n\
                        type      file\n\
                        size      2048 (2.0 KiB)\n\
                        mode      0644 (-rw-r--r--)\n\
                        modified  2024-02-29 12:34:56.000000005 UTC\n";
        assert_eq!(lines("a\nb", &entry), expected);
    }
}
