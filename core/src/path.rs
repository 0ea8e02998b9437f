//! Rules for names: which path of an entry a sink may use.
//!
//! Paths travel as text with `/` between components. A sink calls [`check`] before it makes anything, so that one
//! bad name costs one entry and never the job. The rules are the same on every system: what is refused on one
//! is refused on all, or a tree could be pushed to one gateway and not be pulled by the next.
//!
//! Everything here is lexical. Symbolic links that are already at the sink are not this module's concern: whoever
//! opens files must not follow them out of the root.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::limits::{NAME_MAX, PATH_MAX};

/// First component of the gateway's own folder; no entry may be in it.
pub const RESERVED: &str = ".metra";

/// Why a path may not be used. Fault: the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The path is "".
    #[error("the name is empty")]
    Empty,
    /// It starts with `/`.
    #[error("the name is absolute; only names relative to the destination are accepted")]
    Absolute,
    /// A component is `..`, `.` or empty (`a//b`, `a/`).
    #[error("a component of the name is \"..\", \".\" or empty")]
    DotDot,
    /// It contains U+0000.
    #[error("the name contains a NUL character")]
    Nul,
    /// It contains a backslash, the separator of another system.
    #[error("the name contains a backslash, which is a separator on other systems")]
    Backslash,
    /// The first component starts like a drive (`C:`).
    #[error("the name starts with a drive letter and a colon")]
    DriveLetter,
    /// It is longer than [`PATH_MAX`] bytes.
    #[error("the name is longer than 4096 bytes")]
    TooLong,
    /// A component is longer than [`NAME_MAX`] bytes.
    #[error("a component of the name is longer than 255 bytes")]
    ComponentTooLong,
    /// The first component is [`RESERVED`], in any case of letters.
    #[error("\".metra\" at the root belongs to the gateway itself")]
    Reserved,
}

/// Whether a sink may use `path` as the name of an entry, relative to its root.
pub fn check(path: &str) -> Result<(), NameError> {
    if path.is_empty() {
        return Err(NameError::Empty);
    }
    if path.starts_with('/') {
        return Err(NameError::Absolute);
    }
    if path.len() > PATH_MAX {
        return Err(NameError::TooLong);
    }
    for (position, component) in path.split('/').enumerate() {
        if matches!(component, "" | "." | "..") {
            return Err(NameError::DotDot);
        }
        if component.contains('\0') {
            return Err(NameError::Nul);
        }
        if component.contains('\\') {
            return Err(NameError::Backslash);
        }
        if component.len() > NAME_MAX {
            return Err(NameError::ComponentTooLong);
        }
        if position == 0 {
            if matches!(component.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic()) {
                return Err(NameError::DriveLetter);
            }
            // File systems that ignore case would open the same folder.
            if component.eq_ignore_ascii_case(RESERVED) {
                return Err(NameError::Reserved);
            }
        }
    }
    Ok(())
}

/// The path in Unicode normal form C. Two paths with equal normal forms are one name on some file systems, so a
/// sink treats the second as a collision. What is written is the path as it came.
pub fn normal_form(path: &str) -> Cow<'_, str> {
    match is_nfc_quick(path.chars()) {
        IsNormalized::Yes => Cow::Borrowed(path),
        _ => Cow::Owned(path.nfc().collect()),
    }
}

/// Whether a symbolic link at `path` with this `target` leads out of the root that `path` is relative to: the target
/// is absolute (or looks so on another system), or climbs above the root when read as text.
pub fn link_escapes(path: &str, target: &str) -> bool {
    let drive = matches!(target.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if target.starts_with('/') || target.contains('\\') || drive {
        return true;
    }
    // A target is read from the folder that holds the link, hence one less than the link's own components.
    let mut depth = path.split('/').filter(|c| !c.is_empty()).count().saturating_sub(1);
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

/// `b` below `a`. Either may be empty, which is the root; slashes at the end of `a` do not count.
pub fn join(a: &str, b: &str) -> String {
    let a = a.trim_end_matches('/');
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_owned(),
        (_, true) => a.to_owned(),
        _ => format!("{a}/{b}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_names_pass() {
        for path in [
            "a",
            "a/b",
            "a b",
            "ünï/日本",
            "...",
            ".hidden",
            "a/.metra",
            ".metrax",
            "aa:b",
            "12:30",
            "line\nfeed",
        ] {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn each_rule_refuses() {
        use NameError::*;
        let cases: &[(&str, NameError)] = &[
            ("", Empty),
            ("/", Absolute),
            ("/etc/passwd", Absolute),
            ("..", DotDot),
            ("../x", DotDot),
            ("a/../b", DotDot),
            ("a/.", DotDot),
            ("./a", DotDot),
            ("a//b", DotDot),
            ("a/", DotDot),
            ("a\0b", Nul),
            ("a\\b", Backslash),
            ("C:", DriveLetter),
            ("c:file", DriveLetter),
            ("a:b", DriveLetter),
            (".metra", Reserved),
            (".METRA/x", Reserved),
            (".metra/journal", Reserved),
        ];
        for (path, error) in cases {
            assert_eq!(check(path), Err(*error), "{path:?}");
        }
    }

    #[test]
    fn both_sides_of_the_lengths() {
        let component = "x".repeat(NAME_MAX);
        assert_eq!(check(&component), Ok(()));
        assert_eq!(check(&format!("{component}x")), Err(NameError::ComponentTooLong));
        let longest = vec![component.as_str(); 16].join("/");
        assert_eq!(longest.len(), PATH_MAX - 1);
        assert_eq!(check(&longest), Ok(()));
        assert_eq!(check(&format!("{longest}/")), Err(NameError::DotDot));
        assert_eq!(check(&format!("{longest}/y")), Err(NameError::TooLong));
    }

    #[test]
    fn messages_name_the_limits() {
        assert!(NameError::TooLong.to_string().contains(&PATH_MAX.to_string()));
        assert!(NameError::ComponentTooLong.to_string().contains(&NAME_MAX.to_string()));
        assert!(NameError::Reserved.to_string().contains(RESERVED));
    }

    #[test]
    fn composed_and_decomposed_are_one_name() {
        assert_ne!("é", "e\u{301}");
        assert_eq!(normal_form("é"), normal_form("e\u{301}"));
        assert!(matches!(normal_form("plain/ascii"), Cow::Borrowed(_)));
        assert_ne!(normal_form("a"), normal_form("A"));
    }

    #[test]
    fn links_that_escape() {
        for (path, target) in [
            ("l", "/etc"),
            ("l", ".."),
            ("a/l", "../.."),
            ("a/l", "../b/../../c"),
            ("a/b/l", "../../../x"),
            ("l", "C:x"),
            ("l", "..\\x"),
            ("l", "x/../.."),
        ] {
            assert!(link_escapes(path, target), "{path} -> {target}");
        }
        for (path, target) in [
            ("l", "x"),
            ("l", "."),
            ("a/l", ".."),
            ("a/b/l", "../../x"),
            ("l", "x/.."),
            ("a/l", "../b/../c"),
            ("l", "x//y"),
        ] {
            assert!(!link_escapes(path, target), "{path} -> {target}");
        }
    }

    #[test]
    fn joining() {
        assert_eq!(join("", "a/b"), "a/b");
        assert_eq!(join("d", "a"), "d/a");
        assert_eq!(join("d/", "a"), "d/a");
        assert_eq!(join("d/e", ""), "d/e");
        assert_eq!(join("", ""), "");
    }

    proptest! {
        #[test]
        fn what_passes_stays_below_the_root(path in "[a.:/\\\\\0é]{0,12}") {
            if check(&path).is_ok() {
                let joined = std::path::Path::new("/root").join(&path);
                prop_assert!(joined.components().skip(2).all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert!(joined.starts_with("/root") && joined.components().count() > 2);
            }
        }

        #[test]
        fn normal_form_is_stable(path in any::<String>()) {
            let once = normal_form(&path).into_owned();
            prop_assert_eq!(normal_form(&once), once.as_str());
        }
    }
}
