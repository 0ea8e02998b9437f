//! The folder of files that were put aside: each with a note of who sent it, what it is, when it came, and why it is there.
//!
//! Names are the time and the hash of the content, and say nothing that a client has chosen. The note is written first: a
//! file without one would be a riddle, a note without a file is what a crash leaves.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use metra_core::id::JobKey;
use time::OffsetDateTime;

/// Files with the same content that are put aside in the same second.
const SAME_MAX: u32 = 10_000;

pub(super) struct Quarantine(PathBuf);

/// What is said of a file.
pub(super) struct Note<'a> {
    pub(super) user: &'a str,
    pub(super) key: JobKey,
    /// Beneath the gateway's root.
    pub(super) path: &'a str,
    /// Bytes.
    pub(super) size: u64,
    pub(super) reason: &'a str,
}

impl Quarantine {
    /// Makes the folder if it is not there, for this user only.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// A path for a file that comes here now, at which nothing is; its note is beside it. Reads the whole content.
    pub(super) fn place<C>(&self, note: &Note<'_>, content: &mut C, now: SystemTime) -> io::Result<PathBuf>
    where
        C: Read + Seek,
    {
        content.seek(SeekFrom::Start(0))?;
        let hash = blake3::Hasher::new().update_reader(content)?.finalize().to_hex();
        let now = OffsetDateTime::from(now);
        let (date, time) = (now.date(), now.time());
        let day = (date.year(), u8::from(date.month()), date.day());
        let hms = (time.hour(), time.minute(), time.second());
        let stamp = format!("{:04}{:02}{:02}T{:02}{:02}{:02}Z", day.0, day.1, day.2, hms.0, hms.1, hms.2);
        let text = format!(
            "time: {:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z\nuser: {}\njob: {}\npath: {:?}\nsize: {}\nblake3: {hash}\nreason: {:?}\n",
            day.0, day.1, day.2, hms.0, hms.1, hms.2, note.user, note.key, note.path, note.size, note.reason
        );
        for same in 0..SAME_MAX {
            let suffix = if same == 0 { String::new() } else { format!("-{same}") };
            let path = self.0.join(format!("{stamp}-{}{suffix}", &hash[..32]));
            // Whoever makes the note has the name.
            let note =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.with_extension("txt"));
            match note {
                Ok(mut note) => {
                    note.write_all(text.as_bytes())?;
                    note.sync_all()?;
                    return Ok(path);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("the same file was put aside too often in one second"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Cursor;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    use metra_core::id::Digest;

    use super::*;

    #[test]
    fn files_are_named_by_time_and_hash_and_have_a_note() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let quarantine = Quarantine::open(&folder).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        let note =
            Note { user: "u", key: JobKey(Digest::of(b"k")), path: "x/\ny", size: 3, reason: "because\n" };
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut content = Cursor::new(b"abc");
        content.set_position(2);
        let first = quarantine.place(&note, &mut content, now).unwrap();
        let hash = blake3::hash(b"abc").to_hex();
        assert_eq!(first, folder.join(format!("20231114T221320Z-{}", &hash[..32])));
        assert!(!first.exists());
        let text = std::fs::read_to_string(first.with_extension("txt")).unwrap();
        let key = note.key;
        let expected = format!(
            "time: 2023-11-14T22:13:20Z\nuser: u\njob: {key}\npath: \"x/\\ny\"\nsize: 3\nblake3: {hash}\nreason: \"because\\n\"\n"
        );
        assert_eq!((text, mode(&first.with_extension("txt"))), (expected, 0o600));
        let second = quarantine.place(&note, &mut content, now).unwrap();
        assert_eq!(second, folder.join(format!("20231114T221320Z-{}-1", &hash[..32])));
    }
}
