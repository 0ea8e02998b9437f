//! Whether two trees are equal: names, types, bytes, permission bits, times of modification, targets of links.
//!
//! On purpose without any code of the transfer.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Stop;
use crate::exit::{Exit, Failure};

/// Returns how many entries were compared.
///
/// # Errors
/// The first difference that is found.
pub(super) fn trees(a: &Path, b: &Path, stop: &Stop) -> Result<u64, Failure> {
    stop.check()?;
    let (left, right) = (metadata(a)?, metadata(b)?);
    let differ = |what: &str| {
        Err(Failure::new(Exit::Integrity, format!("{} and {} differ: {what}", a.display(), b.display())))
    };
    if left.file_type() != right.file_type() {
        return differ("their types");
    }
    if left.file_type().is_symlink() {
        return match (fs::read_link(a), fs::read_link(b)) {
            (Ok(left), Ok(right)) if left == right => Ok(1),
            (Ok(_), Ok(_)) => differ("their targets"),
            (Err(e), _) => Err(Failure::io(a.display(), &e)),
            (_, Err(e)) => Err(Failure::io(b.display(), &e)),
        };
    }
    if left.mode() & 0o7777 != right.mode() & 0o7777 {
        return differ("their permission bits");
    }
    if (left.mtime(), left.mtime_nsec()) != (right.mtime(), right.mtime_nsec()) {
        return differ("their times of modification");
    }
    if left.is_file() {
        if left.len() != right.len() {
            return differ("their sizes");
        }
        return if same_bytes(a, b, stop)? { Ok(1) } else { differ("their bytes") };
    }
    if !left.is_dir() {
        return differ("they are neither files, directories nor links, and cannot be compared");
    }
    let (names, others) = (names(a)?, names(b)?);
    if names != others {
        return differ("the names in them");
    }
    let mut count = 1;
    for name in names {
        count += trees(&a.join(&name), &b.join(&name), stop)?;
    }
    Ok(count)
}

fn metadata(path: &Path) -> Result<Metadata, Failure> {
    fs::symlink_metadata(path).map_err(|e| Failure::new(Exit::Integrity, format!("{}: {e}", path.display())))
}

fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>, Failure> {
    let failed = |e| Failure::io(dir.display(), &e);
    let entries = fs::read_dir(dir).map_err(failed)?;
    let mut names =
        entries.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    names.sort();
    Ok(names)
}

fn same_bytes(a: &Path, b: &Path, stop: &Stop) -> Result<bool, Failure> {
    const BLOCK: u64 = 1 << 20;
    let open = |path: &Path| File::open(path).map_err(|e| Failure::io(path.display(), &e));
    let (mut left, mut right) = (open(a)?, open(b)?);
    let (mut block, mut other) = (Vec::new(), Vec::new());
    loop {
        stop.check()?;
        for (file, block, path) in [(&mut left, &mut block, a), (&mut right, &mut other, b)] {
            block.clear();
            file.take(BLOCK).read_to_end(block).map_err(|e| Failure::io(path.display(), &e))?;
        }
        if block != other {
            return Ok(false);
        }
        if block.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), vec![7; 3 << 20]).unwrap();
        symlink("f", dir.path().join("d/l")).unwrap();
        set_times(dir.path());
        dir
    }

    fn set_times(dir: &Path) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000, 5);
        for path in [dir.join("d/f"), dir.join("d"), dir.to_owned()] {
            File::open(path).unwrap().set_modified(time).unwrap();
        }
    }

    #[test]
    fn every_difference_is_found() {
        let a = tree();
        let differs = |change: &dyn Fn(&Path), what: &str| {
            let b = tree();
            change(&b.path().join("d"));
            if what != "their times" {
                set_times(b.path());
            }
            let failure = trees(a.path(), b.path(), &Stop::default()).unwrap_err();
            assert!(failure.message.contains(what), "{} should have {what}", failure.message);
            assert_eq!(failure.exit, Exit::Integrity);
        };
        assert_eq!(trees(a.path(), tree().path(), &Stop::default()).unwrap(), 4);
        let last_byte = |d: &Path| {
            let mut bytes = vec![7; 3 << 20];
            bytes[(3 << 20) - 1] = 8;
            fs::write(d.join("f"), bytes).unwrap();
        };
        differs(&last_byte, "their bytes");
        differs(&|d| fs::write(d.join("f"), "short").unwrap(), "their sizes");
        differs(&|d| fs::write(d.join("more"), "").unwrap(), "the names");
        differs(
            &|d| fs::set_permissions(d.join("f"), fs::Permissions::from_mode(0o600)).unwrap(),
            "permission bits",
        );
        differs(
            &|d| File::open(d.join("f")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(),
            "their times",
        );
        let other_link = |d: &Path| {
            fs::remove_file(d.join("l")).unwrap();
            symlink("x", d.join("l")).unwrap();
        };
        differs(&other_link, "their targets");
        let no_link = |d: &Path| {
            fs::remove_file(d.join("l")).unwrap();
            fs::write(d.join("l"), "f").unwrap();
        };
        differs(&no_link, "their types");
    }

    #[test]
    fn what_is_not_there_is_a_difference() {
        let a = tree();
        let failure = trees(a.path(), Path::new("/absent"), &Stop::default()).unwrap_err();
        assert_eq!(failure.exit, Exit::Integrity);
    }
}
