//! The staging folder of a job: one file an entry, written in place, and what of it is not synced yet.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use metra_core::id::EntryIndex;
use metra_core::wire::Keep;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Meta;
use super::meta::{FILE, masked};
use crate::beneath::{Beneath, split};

/// The folder of staged files.
pub(super) const FILES: &str = "files";
/// The folder of files that an earlier attempt staged under other numbers.
pub(super) const OLD: &str = "old";
/// Staged files per folder.
pub(super) const SHARD: u32 = 4096;
/// Large files kept open for writing.
const OPEN_FILES: usize = 64;
/// With more dirty files than this, the file system is synced as a whole.
const SYNC_SINGLY: usize = 8;
/// What `punch` writes where holes cannot be made. Bytes.
const ZEROS: usize = 1 << 20;

pub(super) struct Staging {
    pub(super) dir: Beneath,
    keep: Keep,
    open: Mutex<OpenFiles>,
    dirty: Mutex<Dirty>,
    /// A sync has failed. What was written before may be lost without another error: fsync(2) tells it once.
    failed: AtomicBool,
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<u32, Arc<File>>,
    order: VecDeque<u32>,
}

/// Files written since the last sync.
#[derive(Default)]
struct Dirty {
    /// At most [`SYNC_SINGLY`]; more are `many`.
    files: Vec<u32>,
    many: bool,
    /// A file was made: its name is not synced.
    names: bool,
}

impl Staging {
    pub(super) fn new(dir: Beneath, keep: Keep) -> Self {
        Self { dir, keep, open: Mutex::default(), dirty: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// The handle of the folder that an entry's file is in, made if needed, and its name there.
    pub(super) fn home(&self, entry: EntryIndex) -> io::Result<(Arc<OwnedFd>, String)> {
        let dir = self.dir.make_dir(&format!("{FILES}/{:x}", entry.0 / SHARD))?;
        Ok((dir, entry.0.to_string()))
    }

    /// Writes a small file, whole, with its metadata.
    pub(super) fn write_whole(&self, entry: EntryIndex, data: &[u8], meta: Meta) -> io::Result<()> {
        let meta = meta.kept(self.keep);
        let (dir, name) = self.home(entry)?;
        let made = meta.mode.unwrap_or(FILE);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(made)) {
            Ok(fd) => {
                let file = File::from(fd);
                file.write_all_at(data, 0)?;
                meta.apply(&file, masked(made))?;
            }
            // From an earlier attempt. It is not cut first: its bytes may be right, and journaled.
            Err(Errno::EXIST) => {
                let file = File::from(reopen(&dir, &name, OFlags::WRONLY)?);
                file.write_all_at(data, 0)?;
                file.set_len(data.len() as u64)?;
                return self.dress(entry, meta);
            }
            Err(e) => return Err(e.into()),
        }
        self.mark(entry);
        Ok(())
    }

    /// Sets the metadata of a small file that an earlier attempt has written.
    pub(super) fn dress(&self, entry: EntryIndex, meta: Meta) -> io::Result<()> {
        let (dir, name) = self.home(entry)?;
        let meta = meta.kept(self.keep);
        let mode = meta.mode.or_else(|| masked(FILE));
        Meta { mode, ..meta }.apply(&File::from(reopen(&dir, &name, OFlags::WRONLY)?), None)?;
        self.mark(entry);
        Ok(())
    }

    /// Writes a part of a large file.
    pub(super) fn write_part(&self, entry: EntryIndex, offset: u64, data: &[u8]) -> io::Result<()> {
        self.large(entry)?.write_all_at(data, offset)?;
        self.mark(entry);
        Ok(())
    }

    /// Makes a part of a large file zeros that take no space, whatever was there.
    pub(super) fn punch(&self, entry: EntryIndex, offset: u64, len: u64) -> io::Result<()> {
        let file = self.large(entry)?;
        let end = file.metadata()?.len();
        if end > offset {
            let len = len.min(end - offset);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(&*file, flags, offset, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => zero(&file, offset, len)?,
                done => done?,
            }
        }
        self.mark(entry);
        Ok(())
    }

    /// The open file of a large entry.
    fn large(&self, entry: EntryIndex) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().expect("no panic while held");
        if let Some(file) = open.files.get(&entry.0) {
            return Ok(file.clone());
        }
        let (dir, name) = self.home(entry)?;
        // The mode is that of a file whose mode is not kept; one that is kept is set at the end.
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = Arc::new(File::from(reopen(&dir, &name, flags)?));
        if open.order.len() >= OPEN_FILES
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        open.order.push_back(entry.0);
        open.files.insert(entry.0, file.clone());
        Ok(file)
    }

    /// The staged file of a large entry, for its last touch. `None`: there is none.
    pub(super) fn existing(&self, entry: EntryIndex) -> io::Result<Option<File>> {
        let (dir, name) = self.home(entry)?;
        match reopen(&dir, &name, OFlags::RDWR) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Bytes of a staged file. `None`: there is none.
    pub(super) fn len(&self, folder: &str, entry: EntryIndex) -> Option<u64> {
        let stat = self.dir.stat(&path(folder, entry)).ok()??;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat.st_size as u64)
    }

    /// Reads a staged file that has exactly this length. Whether there is one.
    pub(super) fn read_whole(&self, folder: &str, entry: EntryIndex, out: &mut [u8]) -> bool {
        read_whole(&self.dir, &path(folder, entry), out)
    }

    /// Reads a part of a staged file. `None` if it is not there, or was never written and is no more than a hole.
    pub(super) fn read_part(
        &self,
        folder: &str,
        entry: EntryIndex,
        offset: u64,
        len: u32,
    ) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY;
        let file = File::from(self.dir.open_at(&path(folder, entry), flags, Mode::empty()).ok()?);
        let end = offset + u64::from(len);
        match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
            Ok(data) if data >= end => return None,
            Err(Errno::NXIO) => return None,
            // A system without the call has no holes to be passed over.
            _ => {}
        }
        let mut data = vec![0; len as usize];
        file.read_exact_at(&mut data, offset).ok()?;
        Some(data)
    }

    /// Notes that an entry's file is to be synced.
    pub(super) fn mark(&self, entry: EntryIndex) {
        let mut dirty = self.dirty.lock().expect("no panic while held");
        dirty.names = true;
        if !dirty.many && !dirty.files.contains(&entry.0) {
            dirty.many = dirty.files.len() == SYNC_SINGLY;
            dirty.files.push(entry.0);
        }
    }

    /// Makes everything that was marked survive a crash of the machine.
    ///
    /// # Errors
    /// Of this sync or of an earlier one: whatever was not synced by then cannot be relied on.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync failed"));
        }
        let dirty = std::mem::take(&mut *self.dirty.lock().expect("no panic while held"));
        let result = self.sync_dirty(&dirty);
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn sync_dirty(&self, dirty: &Dirty) -> io::Result<()> {
        if dirty.many {
            return Ok(rustix::fs::syncfs(self.dir.root())?);
        }
        let mut folders: Vec<String> = Vec::new();
        for entry in &dirty.files {
            let path = path(FILES, EntryIndex(*entry));
            match self.dir.open_at(&path, OFlags::RDONLY, Mode::empty()) {
                // Not only the data: the times and the mode of a small file are set already.
                Ok(file) => rustix::fs::fsync(file)?,
                // Its own mode does not let it be opened.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(rustix::fs::syncfs(self.dir.root())?);
                }
                Err(e) => return Err(e),
            }
            if !folders.iter().any(|f| f == split(&path).0) {
                folders.push(split(&path).0.to_owned());
            }
        }
        if dirty.names && !folders.is_empty() {
            folders.extend([FILES.to_owned(), String::new()]);
            for folder in folders {
                rustix::fs::fsync(self.dir.open_at(&folder, OFlags::DIRECTORY, Mode::empty())?)?;
            }
        }
        Ok(())
    }

    /// Moves the files of all entries from `first` on to the folder of old ones.
    pub(super) fn set_aside(&self, first: EntryIndex) -> io::Result<()> {
        self.close();
        if self.dir.stat(OLD)?.is_some() {
            self.dir.remove(OLD, true)?;
        }
        self.dir.make_dir(OLD)?;
        for shard in self.dir.names(FILES)? {
            let Ok(number) = u32::from_str_radix(&shard, 16) else { continue };
            if number < first.0 / SHARD {
                continue;
            }
            let (from, to) = (format!("{FILES}/{shard}"), format!("{OLD}/{shard}"));
            if number > first.0 / SHARD {
                rustix::fs::renameat(self.dir.root(), &from, self.dir.root(), &to)?;
                continue;
            }
            let (source, target) = (self.dir.dir(&from)?, self.dir.make_dir(&to)?);
            for name in self.dir.names(&from)? {
                if name.parse::<u32>().is_ok_and(|index| index >= first.0) {
                    rustix::fs::renameat(&source, &name, &target, &name)?;
                }
            }
        }
        self.dir.forget();
        Ok(())
    }

    /// Takes an old file for the file of an entry. Whether there was one.
    pub(super) fn adopt(&self, old: EntryIndex, entry: EntryIndex) -> io::Result<bool> {
        let (dir, name) = self.home(entry)?;
        match rustix::fs::renameat(self.dir.root(), path(OLD, old), dir, name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Forgets every open file and folder, before they are renamed or removed.
    pub(super) fn close(&self) {
        *self.open.lock().expect("no panic while held") = OpenFiles::default();
        self.dir.forget();
    }
}

/// Where a staged file is, in the staging folder.
pub(super) fn path(folder: &str, entry: EntryIndex) -> String {
    format!("{folder}/{:x}/{}", entry.0 / SHARD, entry.0)
}

/// Reads a file that has exactly this length. Whether there is one.
pub(super) fn read_whole(dir: &Beneath, path: &str, out: &mut [u8]) -> bool {
    // What stands there may have become a FIFO meanwhile: opening must not wait for it.
    let Ok(fd) = dir.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) else { return false };
    let file = File::from(fd);
    let right = file.metadata().is_ok_and(|m| m.is_file() && m.len() == out.len() as u64);
    right && file.read_exact_at(out, 0).is_ok()
}

/// Opens a staged file whose own mode may not allow it. The folder is ours alone, so its name means the same twice.
fn reopen(dir: &OwnedFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(FILE);
    match rustix::fs::openat(dir, name, flags, mode) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
            Ok(rustix::fs::openat(dir, name, flags, mode)?)
        }
        opened => Ok(opened?),
    }
}

fn zero(file: &File, mut offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let end = offset + len;
    while offset < end {
        let part = (end - offset).min(ZEROS as u64);
        file.write_all_at(&zeros[..part as usize], offset)?;
        offset += part;
    }
    Ok(())
}
