//! What stands for a source or a destination on the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::size;

/// A `SRC` of `metra send`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `-`: standard input.
    Stdin,
    /// `zero:SIZE`: that many zero bytes.
    Zero { size: u64 },
    /// `random:SIZE[:SEED]`: bytes that do not compress.
    Random { size: u64, seed: u64 },
    /// Everything else: a path. `./zero:1` is one, too.
    Path(PathBuf),
}

impl Source {
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let Some(utf8) = text.to_str() else { return Ok(Source::Path(text.into())) };
        if utf8 == "-" {
            return Ok(Source::Stdin);
        }
        if utf8.starts_with("mtp://") {
            return Err("a source of `metra send` is on this machine; to fetch, use `metra get`".to_owned());
        }
        if let Some(size) = utf8.strip_prefix("zero:") {
            return Ok(Source::Zero { size: size::parse(size)? });
        }
        if let Some(rest) = utf8.strip_prefix("random:") {
            let (size, seed) = rest.split_once(':').unwrap_or((rest, "0"));
            let size = size::parse(size)?;
            let seed =
                seed.parse().map_err(|_| format!("{seed:?} is not a seed: use a number below 2^64"))?;
            return Ok(Source::Random { size, seed });
        }
        if utf8.is_empty() {
            return Err("it is empty; for the current directory, use .".to_owned());
        }
        Ok(Source::Path(utf8.into()))
    }
}

/// The `DEST` of `metra get`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `-`: standard output.
    Stdout,
    /// `null:`: nowhere.
    Null,
    /// A path, and whether it ends in `/`.
    Path { path: PathBuf, slash: bool },
}

impl Target {
    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_encoded_bytes();
        match bytes {
            b"-" => Ok(Target::Stdout),
            b"null:" => Ok(Target::Null),
            b"" => Err("it is empty; for the current directory, use .".to_owned()),
            _ if bytes.starts_with(b"mtp://") => {
                Err("the destination of `metra get` is on this machine; to send, use `metra send`".to_owned())
            }
            _ => Ok(Target::Path { slash: bytes.ends_with(b"/"), path: text.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let parse = |text: &str| Source::parse(OsStr::new(text));
        assert_eq!(parse("-"), Ok(Source::Stdin));
        assert_eq!(parse("zero:1K"), Ok(Source::Zero { size: 1024 }));
        assert_eq!(parse("random:2"), Ok(Source::Random { size: 2, seed: 0 }));
        assert_eq!(parse("random:2M:7"), Ok(Source::Random { size: 2 << 20, seed: 7 }));
        assert_eq!(parse("./zero:1"), Ok(Source::Path("./zero:1".into())));
        assert_eq!(parse("null:"), Ok(Source::Path("null:".into())));
        assert_eq!(parse("a b/"), Ok(Source::Path("a b/".into())));
        for bad in ["zero:", "zero:x", "random:1:", "random:1:x", "random:1:2:3", "mtp://h/x", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets_are_told_apart() {
        let parse = |text: &str| Target::parse(text.into());
        assert_eq!(parse("-"), Ok(Target::Stdout));
        assert_eq!(parse("null:"), Ok(Target::Null));
        assert_eq!(parse("d/"), Ok(Target::Path { path: "d/".into(), slash: true }));
        assert_eq!(parse("d"), Ok(Target::Path { path: "d".into(), slash: false }));
        assert!(parse("").is_err() && parse("mtp://h/").is_err());
    }
}
