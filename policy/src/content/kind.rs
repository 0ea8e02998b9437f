//! The type of a file by its first bytes.
//!
//! A short table of what rules are about: what runs, what holds other files, what is opened by programs with a history
//! of trouble. It knows no text and no format without a signature; these are `unknown`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How many bytes of a file tell its type; fewer if it is shorter.
pub const HEAD: usize = 512;

/// A type of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(&'static str);

/// One type, or a group of them, as a rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindPattern(&'static str);

/// No type and no group has this name. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no type that is known; there are {known}", known = names().join(", "))]
pub struct KindPatternError(String);

/// No type has this name. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no type of a file that is known, such as zip, pe or unknown")]
pub struct KindError(String);

impl Kind {
    /// The type of a file that begins with these bytes: all of it, or at least [`HEAD`] of them.
    pub fn of(head: &[u8]) -> Self {
        let matches = |s: &&Signature| {
            let at =
                |(offset, magic): &(usize, &[u8])| head.get(*offset..).is_some_and(|h| h.starts_with(magic));
            s.at.iter().all(at)
        };
        match SIGNATURES.iter().find(matches) {
            _ if head.is_empty() => Self(EMPTY),
            Some(signature) => Self(signature.name),
            None => Self(UNKNOWN),
        }
    }

    /// The type with this name.
    ///
    /// # Errors
    /// There is none, or it is a group. Fault: whoever wrote it.
    pub fn named(name: &str) -> Result<Self, KindError> {
        let types = SIGNATURES.iter().map(|s| s.name).chain([EMPTY, UNKNOWN]);
        let found = types.into_iter().find(|known| *known == name);
        found.map(Self).ok_or_else(|| KindError(name.chars().take(100).collect()))
    }

    /// Its name, as in rules and policies.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl KindPattern {
    /// Whether the type is this one, or in this group.
    pub fn matches(self, kind: Kind) -> bool {
        self.0 == kind.0 || SIGNATURES.iter().any(|s| s.name == kind.0 && s.group == self.0)
    }
}

impl FromStr for KindPattern {
    type Err = KindPatternError;

    fn from_str(text: &str) -> Result<Self, KindPatternError> {
        let known = names().into_iter().find(|name| *name == text);
        known.map(Self).ok_or_else(|| KindPatternError(text.chars().take(100).collect()))
    }
}

impl fmt::Display for KindPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Groups, then types, each once.
fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    let groups = SIGNATURES.iter().map(|s| s.group);
    for name in groups.chain(SIGNATURES.iter().map(|s| s.name)).chain([EMPTY, UNKNOWN]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

const EMPTY: &str = "empty";
const UNKNOWN: &str = "unknown";

struct Signature {
    name: &'static str,
    group: &'static str,
    /// All of these bytes at these places.
    at: &'static [(usize, &'static [u8])],
}

const fn signature(
    group: &'static str,
    name: &'static str,
    at: &'static [(usize, &'static [u8])],
) -> Signature {
    Signature { name, group, at }
}

/// The first that matches is the type: longer signatures stand before shorter ones that they contain.
const SIGNATURES: &[Signature] = &[
    signature("executable", "elf", &[(0, b"\x7fELF")]),
    signature("executable", "pe", &[(0, b"MZ")]),
    // Java's classes begin as fat Mach-O files do; these have few architectures, and classes a version above 44.
    signature("executable", "macho", &[(0, b"\xca\xfe\xba\xbe\x00\x00\x00\x01")]),
    signature("executable", "macho", &[(0, b"\xca\xfe\xba\xbe\x00\x00\x00\x02")]),
    signature("executable", "macho", &[(0, b"\xca\xfe\xba\xbe\x00\x00\x00\x03")]),
    signature("executable", "macho", &[(0, b"\xfe\xed\xfa\xce")]),
    signature("executable", "macho", &[(0, b"\xfe\xed\xfa\xcf")]),
    signature("executable", "macho", &[(0, b"\xce\xfa\xed\xfe")]),
    signature("executable", "macho", &[(0, b"\xcf\xfa\xed\xfe")]),
    signature("executable", "class", &[(0, b"\xca\xfe\xba\xbe")]),
    signature("executable", "wasm", &[(0, b"\0asm")]),
    signature("executable", "dex", &[(0, b"dex\n")]),
    signature("executable", "script", &[(0, b"#!")]),
    // OpenDocument, and Office's since 2007, are zip as well.
    signature("archive", "zip", &[(0, b"PK\x03\x04")]),
    signature("archive", "zip", &[(0, b"PK\x05\x06")]),
    signature("archive", "gzip", &[(0, b"\x1f\x8b")]),
    signature("archive", "bzip2", &[(0, b"BZh")]),
    signature("archive", "xz", &[(0, b"\xfd7zXZ\0")]),
    signature("archive", "zstd", &[(0, b"\x28\xb5\x2f\xfd")]),
    signature("archive", "lz4", &[(0, b"\x04\x22\x4d\x18")]),
    signature("archive", "7z", &[(0, b"7z\xbc\xaf\x27\x1c")]),
    signature("archive", "rar", &[(0, b"Rar!\x1a\x07")]),
    signature("archive", "cab", &[(0, b"MSCF")]),
    signature("archive", "ar", &[(0, b"!<arch>\n")]),
    signature("archive", "rpm", &[(0, b"\xed\xab\xee\xdb")]),
    signature("archive", "tar", &[(257, b"ustar")]),
    signature("document", "pdf", &[(0, b"%PDF-")]),
    signature("document", "rtf", &[(0, b"{\\rtf")]),
    // Office's up to 2003, and installers (msi).
    signature("document", "ole", &[(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")]),
    signature("image", "png", &[(0, b"\x89PNG\r\n\x1a\n")]),
    signature("image", "jpeg", &[(0, b"\xff\xd8\xff")]),
    signature("image", "gif", &[(0, b"GIF8")]),
    signature("image", "tiff", &[(0, b"II*\0")]),
    signature("image", "tiff", &[(0, b"MM\0*")]),
    signature("image", "webp", &[(0, b"RIFF"), (8, b"WEBP")]),
    signature("media", "wav", &[(0, b"RIFF"), (8, b"WAVE")]),
    signature("media", "avi", &[(0, b"RIFF"), (8, b"AVI ")]),
    signature("media", "mp4", &[(4, b"ftyp")]),
    signature("media", "matroska", &[(0, b"\x1a\x45\xdf\xa3")]),
    signature("media", "ogg", &[(0, b"OggS")]),
    signature("media", "flac", &[(0, b"fLaC")]),
    signature("media", "mp3", &[(0, b"ID3")]),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types_by_their_first_bytes() {
        let mut tar = vec![b'a'; 257];
        tar.extend_from_slice(b"ustar\0");
        let cases: [(&[u8], &str); 12] = [
            (b"", "empty"),
            (b"M", "unknown"),
            (b"MZ", "pe"),
            (b"\x7fELF\x02", "elf"),
            (b"\xca\xfe\xba\xbe\x00\x00\x00\x02", "macho"),
            (b"\xca\xfe\xba\xbe\x00\x00\x00\x41", "class"),
            (b"#!/bin/sh", "script"),
            (b"RIFF....WEBP", "webp"),
            (b"RIFF....WAVE", "wav"),
            (b"RIFF....", "unknown"),
            (b"hello", "unknown"),
            (&tar, "tar"),
        ];
        for (head, name) in cases {
            assert_eq!(Kind::of(head).name(), name, "{head:?}");
        }
        let longest = SIGNATURES.iter().flat_map(|s| s.at).map(|(offset, magic)| offset + magic.len()).max();
        assert!(longest.unwrap() <= HEAD);
    }

    #[test]
    fn a_pattern_is_a_type_or_a_group() {
        let matches = |text: &str, head: &[u8]| text.parse::<KindPattern>().unwrap().matches(Kind::of(head));
        assert!(matches("pe", b"MZ") && matches("executable", b"MZ") && !matches("elf", b"MZ"));
        assert!(matches("unknown", b"hello") && matches("empty", b"") && !matches("executable", b"hello"));
        let error = "exe".parse::<KindPattern>().unwrap_err().to_string();
        assert!(error.contains(r#""exe" is no type"#) && error.contains("executable, archive"), "{error}");
        for name in names() {
            assert_eq!(name.parse::<KindPattern>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn every_signature_can_match() {
        for signature in SIGNATURES {
            let mut head = vec![0xaa; HEAD];
            for (offset, magic) in signature.at {
                head[*offset..][..magic.len()].copy_from_slice(magic);
            }
            assert_eq!(Kind::of(&head).name(), signature.name);
        }
    }
}
