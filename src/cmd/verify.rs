//! `metra verify`: a receipt, offline.

use std::fs;
use std::io::{Read, Write, stdin, stdout};
use std::path::Path;

use metra_client::{Verified, VerifyError};
use metra_core::receipt::{Direction, RECEIPT_MAX, SignedReceipt};
use serde_json::{Value, json};

use super::source;
use crate::args::VerifyArgs;
use crate::exit::{Exit, Failure};
use crate::output;

/// Longest text that is looked through for a receipt. Bytes: a receipt in base64, and room around it.
const TEXT_MAX: u64 = 4 * RECEIPT_MAX as u64;

pub(super) fn run(args: VerifyArgs) -> Result<Exit, Failure> {
    let receipt = SignedReceipt::from_text(&read(&args.receipt)?)
        .map_err(|e| Failure::new(Exit::Integrity, format!("{}: {e}", args.receipt.display())))?;
    if let Some(path) = &args.path {
        source::readable(path)?;
    }
    let verified = metra_client::verify(&receipt, args.path.as_deref(), None);
    let verified = verified.map_err(|e| failure(&args, e))?;
    if args.json {
        writeln!(stdout(), "{}", output::json(&object(&verified)))?;
    } else {
        stdout().write_all(lines(&verified).as_bytes())?;
    }
    match (verified.path, &args.path) {
        (Some(false), Some(path)) => {
            let message =
                format!("{}: this is not what the receipt is for: the root differs", path.display());
            Err(Failure::new(Exit::Integrity, message))
        }
        _ => Ok(Exit::Ok),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if path == Path::new("-") {
        stdin().take(TEXT_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(TEXT_MAX).read_to_string(&mut text))
    };
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(Failure::new(Exit::Integrity, format!("{}: not a receipt: it is not text", path.display())))
        }
        Err(e) => Err(Failure::io(path.display(), &e)),
        Ok(_) => Ok(text),
    }
}

fn failure(args: &VerifyArgs, error: VerifyError) -> Failure {
    match error {
        VerifyError::Path { path, source } => Failure::io(path.display(), &source),
        VerifyError::Hash(e) => Failure::new(Exit::of_code(e.code()), e.to_string()),
        other => Failure::new(Exit::Integrity, format!("{}: {other}", args.receipt.display())),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Push => "sent to the gateway",
        Direction::Pull => "fetched from the gateway",
    }
}

fn lines(verified: &Verified) -> String {
    let s = &verified.statement;
    let lines = [
        ("signature", "genuine, if this is the gateway's key:".to_owned()),
        ("key", hex(&verified.public_key)),
        ("gateway", output::name(&s.gateway).into_owned()),
        ("user", output::name(&s.user).into_owned()),
        ("what", format!("{}: /{}", way(s.direction), output::name(&s.path))),
        ("root", s.root.to_string()),
        (
            "size",
            format!(
                "{} bytes, {}, {}",
                s.bytes,
                output::count(s.entries, "entry", "entries"),
                output::count(s.chunks, "chunk", "chunks")
            ),
        ),
        ("failed", format!("{} ({} withdrawn)", s.failed, s.withdrawn)),
        ("started", format!("{} UTC", output::millis(s.started))),
        ("finished", format!("{} UTC", output::millis(s.finished))),
        (
            "path",
            match verified.path {
                None => "not compared".to_owned(),
                Some(true) => "equal".to_owned(),
                Some(false) => "different".to_owned(),
            },
        ),
    ];
    lines.iter().map(|(key, value)| format!("{key:<10} {value}\n")).collect()
}

fn object(verified: &Verified) -> Value {
    let s = &verified.statement;
    json!({
        "genuine": true,
        "key": hex(&verified.public_key),
        "gateway": s.gateway,
        "user": s.user,
        "job": s.key.to_string(),
        "direction": match s.direction { Direction::Push => "push", Direction::Pull => "pull" },
        "path": s.path,
        "root": s.root.to_string(),
        "bytes": s.bytes,
        "files": s.entries,
        "chunks": s.chunks,
        "records": s.records,
        "failed": s.failed,
        "withdrawn": s.withdrawn,
        "started_ms": s.started,
        "finished_ms": s.finished,
        "path_equal": verified.path,
    })
}

#[cfg(test)]
mod tests {
    use metra_core::id::{Digest, JobKey};
    use metra_core::receipt::Statement;

    use super::*;

    fn verified(path: Option<bool>) -> Verified {
        let statement = Statement {
            gateway: "gw".into(),
            user: "a\nb".into(),
            key: JobKey(Digest([1; 32])),
            direction: Direction::Push,
            path: "in".into(),
            root: Digest([2; 32]),
            records: 5,
            entries: 2,
            chunks: 3,
            bytes: 100,
            failed: 1,
            withdrawn: 0,
            started: 0,
            finished: 1_000,
        };
        Verified { statement, public_key: [0xab; 32], path }
    }

    #[test]
    fn what_is_shown_cannot_be_forged_by_a_name() {
        let text = lines(&verified(Some(true)));
        assert!(text.contains("user       a\\nb\n"), "{text}");
        assert!(text.contains("path       equal\n") && text.contains(&"ab".repeat(32)), "{text}");
        assert_eq!(text.lines().count(), 11);
    }

    #[test]
    fn all_of_it_is_in_the_json() {
        let object = object(&verified(None));
        assert_eq!((&object["direction"], &object["path_equal"]), (&json!("push"), &Value::Null));
        assert_eq!((&object["files"], &object["finished_ms"]), (&json!(2), &json!(1000)));
    }
}
