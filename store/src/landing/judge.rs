//! Whether an entry may be written, and what stands under its final name.

use std::collections::HashSet;
use std::io;

use metra_core::code::Code;
use metra_core::id::{Digest, EntryIndex};
use metra_core::manifest::{Entry, EntryKind, Timestamp};
use metra_core::path::{check, link_escapes, normal_form};
use metra_core::wire::Overwrite;
use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::meta::PERMISSIONS;
use super::place::Place;
use super::reuse::prefix;
use super::tree::TreeLanding;
use crate::beneath::split;

/// The names that entries have taken.
#[derive(Default)]
pub(super) struct Names {
    taken: HashSet<u64>,
    /// By entry; 0 if it has taken none.
    of: Vec<u64>,
    /// What the destination stands for, if it replaces the first component.
    first: Option<String>,
    /// A directory that was not there a moment ago: of a thousand files in it, one is looked for.
    missing: Option<String>,
}

/// What was found out about an entry.
pub(super) struct Verdict {
    /// Why it may not be written.
    pub(super) refused: Result<(), (Code, String)>,
    /// The file or link that stands under its final name.
    pub(super) found: Option<Found>,
}

/// A file or link that stands under a final name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Bytes.
    pub(super) size: u64,
    /// Whether it may stay if it has the same bytes.
    pub(super) may_be_same: bool,
    /// Whether its mode is the wanted one.
    pub(super) same_mode: bool,
}

impl Names {
    /// What was not there a moment ago may be there by now.
    pub(super) fn look_again(&mut self) {
        self.missing = None;
    }

    /// Judges the next entry; it takes its name if it is not refused for it.
    pub(super) fn judge(&mut self, to: &TreeLanding, entry: &Entry) -> Verdict {
        self.of.push(0);
        let mut found = None;
        let name = self.name(to, entry);
        let missing = &mut self.missing;
        let refused = name.and_then(|path| stand(to, entry, &path, missing, &mut found));
        Verdict { refused, found }
    }

    /// The name of an entry may be used by another one.
    pub(super) fn give_back(&mut self, entry: EntryIndex) {
        if let Some(name) = self.of.get_mut(entry.0 as usize) {
            self.taken.remove(&std::mem::take(name));
        }
    }

    /// Rules that need no look at the disk. The final path.
    fn name(&mut self, to: &TreeLanding, entry: &Entry) -> Result<String, (Code, String)> {
        check(&entry.path).map_err(|e| (Code::BadName, e.to_string()))?;
        if let Place::As(name) = &to.place {
            let first = entry.path.split('/').next().unwrap_or_default();
            if self.first.get_or_insert_with(|| first.to_owned()) != first {
                let reason = format!("{name} cannot be the name of several things; it is not a directory");
                return Err((Code::Conflict, reason));
            }
        }
        let name = prefix(&Digest::of(normal_form(&entry.path).as_bytes()));
        if !self.taken.insert(name) {
            return Err((Code::BadName, "another entry has the same name after normalisation".to_owned()));
        }
        if let Some(of) = self.of.last_mut() {
            *of = name;
        }
        // Under another name, the first component is the root: what is beside it was not sent with it.
        let within = match &to.place {
            Place::Into(_) => entry.path.as_str(),
            Place::As(_) => entry.path.split_once('/').map_or("", |(_, rest)| rest),
        };
        if let EntryKind::Symlink { target } = &entry.kind
            && link_escapes(within, target)
        {
            return Err((Code::LinkEscapes, format!("the link points out of the tree, to {target}")));
        }
        let path = to.place.path(&entry.path);
        if let Some(guard) = &to.target.guard {
            let size = match entry.kind {
                EntryKind::File { size } => Some(size),
                _ => None,
            };
            guard.may(&to.target.root.join(&path), size).map_err(|reason| (Code::Denied, reason))?;
        }
        Ok(path)
    }
}

/// What stands there, and whether that may be replaced.
fn stand(
    to: &TreeLanding,
    entry: &Entry,
    path: &str,
    missing: &mut Option<String>,
    found: &mut Option<Found>,
) -> Result<(), (Code, String)> {
    let (parent, name) = split(path);
    if missing.as_deref() == Some(parent) {
        return Ok(());
    }
    let dir = match to.root.dir(parent) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            *missing = Some(parent.to_owned());
            return Ok(());
        }
        // Something on the way is no directory.
        Err(e) => return Err(refusal(&e)),
    };
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(refusal(&e.into())),
    };
    let conflict = |reason: &str| Err((Code::Conflict, reason.to_owned()));
    match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
        (EntryKind::Directory, FileType::Directory) => return Ok(()),
        (EntryKind::Directory, FileType::Symlink) => {
            return conflict("a symbolic link stands where a directory must be; links are not followed");
        }
        (EntryKind::Directory, _) => return conflict("a file stands where a directory must be"),
        (_, FileType::Directory) => return conflict("a directory stands where a file must be"),
        (_, FileType::RegularFile | FileType::Symlink) => {}
        _ => return conflict("a device, socket or FIFO stands there"),
    }
    let same = may_be_same(to, entry, path, &stat);
    let is_file = matches!(entry.kind, EntryKind::File { .. } | EntryKind::Stream);
    if same || (is_file && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile) {
        let mode = entry.mode.filter(|_| is_file && to.target.keep.mode);
        let same_mode = mode.is_none_or(|mode| mode & PERMISSIONS == stat.st_mode & PERMISSIONS);
        *found = Some(Found { size: stat.st_size as u64, may_be_same: same, same_mode });
    }
    // An interrupted attempt may have given this name itself: then the bytes decide.
    if to.target.overwrite == Overwrite::Never && !same {
        return Err((Code::Exists, "it exists, and is not to be overwritten".to_owned()));
    }
    Ok(())
}

/// Whether what stands there may stay if its bytes are the same.
fn may_be_same(to: &TreeLanding, entry: &Entry, path: &str, stat: &Stat) -> bool {
    let may_stay = match to.target.overwrite {
        Overwrite::Different => true,
        Overwrite::Never => to.was_finishing,
        Overwrite::Always => false,
    };
    let mtime = Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
    if !may_stay || entry.mtime.is_some_and(|wanted| to.target.keep.times && wanted != mtime) {
        return false;
    }
    match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
        (EntryKind::File { size }, FileType::RegularFile) => *size == stat.st_size as u64,
        (EntryKind::Symlink { target }, FileType::Symlink) => {
            to.root.read_link(path).is_ok_and(|text| text == *target)
        }
        _ => false,
    }
}

/// What a failure to look at a name, or to give it, means for its entry.
pub(super) fn refusal(e: &io::Error) -> (Code, String) {
    let code = match e.kind() {
        io::ErrorKind::AlreadyExists => Code::Exists,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
            Code::Conflict
        }
        io::ErrorKind::InvalidFilename => Code::BadName,
        _ => match Errno::from_io_error(e) {
            Some(Errno::LOOP) => {
                let reason = "a symbolic link stands on the way; links are not followed";
                return (Code::Conflict, reason.to_owned());
            }
            _ => Code::WriteFailed,
        },
    };
    (code, e.to_string())
}
