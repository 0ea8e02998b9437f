//! What the destination path was taken to mean.
//!
//! It is decided once and written down, so that a second attempt means the same: the first may have made the directory
//! by then. Symbolic links in the destination are resolved at that time. Links below it are not followed.

use std::io::{self, Write};

use metra_core::path::{RESERVED, join};
use metra_core::wire::Placement;
use rustix::fs::{FileType, Mode, OFlags};

use super::TreeTarget;
use crate::beneath::Beneath;

/// Where entries go, beneath the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Beneath this directory.
    Into(String),
    /// The first component of every entry becomes this.
    As(String),
}

/// Name of the note in the staging folder.
const NOTE: &str = "place";

impl Place {
    /// What was decided before, if that was for the same destination; else decides.
    pub(super) fn of(root: &Beneath, staging: &Beneath, target: &TreeTarget) -> io::Result<Self> {
        let asked = format!("{:?}\0{}", target.placement, target.dest);
        let note = staging.join(NOTE);
        if let Ok(text) = std::fs::read_to_string(&note)
            && let Some(place) = Self::parse(&text, &asked)
        {
            return Ok(place);
        }
        let place = Self::decide(root, target)?;
        let new = staging.join("place.new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(place.text(&asked).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(new, note)?;
        rustix::fs::fsync(staging.open_at("", OFlags::DIRECTORY, Mode::empty())?)?;
        Ok(place)
    }

    fn decide(root: &Beneath, target: &TreeTarget) -> io::Result<Self> {
        if target.dest.split('/').any(|name| name == "..") || target.dest.contains('\0') {
            let reason = "the destination contains \"..\" or a NUL character";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let dest = root.canonical(&target.dest)?;
        let first = dest.split('/').next().unwrap_or_default();
        if first.eq_ignore_ascii_case(RESERVED) {
            let reason = format!("{RESERVED} belongs to Metra itself");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        let stat = root.stat(&dest)?;
        let is_dir = stat.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        let place = match target.placement {
            Placement::Into => Place::Into(dest),
            _ if dest.is_empty() => Place::Into(dest),
            Placement::Auto if is_dir => Place::Into(dest),
            Placement::As | Placement::Auto => Place::As(dest),
        };
        place.check_file_system(root)?;
        Ok(place)
    }

    /// Names can be given by `rename` only on the file system of the staging folder. Better said now than when
    /// everything has been received.
    fn check_file_system(&self, root: &Beneath) -> io::Result<()> {
        let (Place::Into(dir) | Place::As(dir)) = self;
        let mut dir = dir.as_str();
        let stat = loop {
            match root.dir(dir) {
                Ok(fd) => break rustix::fs::fstat(fd)?,
                Err(_) if !dir.is_empty() => dir = crate::beneath::split(dir).0,
                Err(e) => return Err(e),
            }
        };
        if stat.st_dev == rustix::fs::fstat(root.root())?.st_dev {
            return Ok(());
        }
        let reason = format!("{dir:?} is on another file system than the root {}", root.path().display());
        Err(io::Error::new(io::ErrorKind::CrossesDevices, reason))
    }

    /// The final path of an entry, beneath the root.
    pub(super) fn path(&self, entry: &str) -> String {
        match (self, entry.split_once('/')) {
            (Place::Into(dir), _) => join(dir, entry),
            (Place::As(name), Some((_, rest))) => join(name, rest),
            (Place::As(name), None) => name.clone(),
        }
    }

    fn text(&self, asked: &str) -> String {
        match self {
            Place::Into(dir) => format!("{asked}\0into\0{dir}\0"),
            Place::As(name) => format!("{asked}\0as\0{name}\0"),
        }
    }

    fn parse(text: &str, asked: &str) -> Option<Self> {
        let (kind, name) =
            text.strip_prefix(asked)?.strip_prefix('\0')?.strip_suffix('\0')?.split_once('\0')?;
        match kind {
            "into" => Some(Place::Into(name.to_owned())),
            "as" => Some(Place::As(name.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_note_is_read_back() {
        for place in [Place::Into(String::new()), Place::Into("a\nb".into()), Place::As("into".into())] {
            let text = place.text("Auto\0x");
            assert_eq!(Place::parse(&text, "Auto\0x"), Some(place));
            assert_eq!(Place::parse(&text, "As\0x"), None);
            assert_eq!(Place::parse(&text, "Auto\0"), None);
            assert!((0..text.len()).all(|cut| Place::parse(&text[..cut], "Auto\0x").is_none()), "{text:?}");
        }
    }

    #[test]
    fn names_below_the_destination() {
        let (into, named) = (Place::Into("d/e".into()), Place::As("d/e".into()));
        assert_eq!((into.path("a").as_str(), into.path("a/b").as_str()), ("d/e/a", "d/e/a/b"));
        assert_eq!((named.path("a").as_str(), named.path("a/b/c").as_str()), ("d/e", "d/e/b/c"));
        assert_eq!(Place::Into(String::new()).path("a/b"), "a/b");
    }
}
