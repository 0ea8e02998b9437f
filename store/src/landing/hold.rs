//! Who works in a staging folder: one attempt at a time.
//!
//! Between processes flock(2) decides, and the first one stays. Within a process the newest attempt takes over, because
//! what is left of an older one (a chunk on a link that is not known to be dead) may take long to go: the older one is
//! shut out first, so that it writes nothing from then on.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::{Beneath, split};

/// The right to work in a staging folder. Given back when dropped, if not before.
#[derive(Debug)]
pub(super) struct Hold {
    /// The handle that the lock is on. `None`: the right is given back.
    lock: RwLock<Option<OwnedFd>>,
}

/// How long to wait for another process.
const WAIT: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(20);

/// The holds of this process, by folder.
static HOLDS: Mutex<Option<HashMap<PathBuf, Weak<Hold>>>> = Mutex::new(None);

impl Hold {
    /// Makes the staging folder if it is not there, and takes it over. Whether it was there.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`]: another process does not let go of it.
    pub(super) fn take(root: &Beneath, folder: &str) -> io::Result<(Arc<Self>, bool)> {
        let path = root.join(folder);
        let older = HOLDS.lock().expect("no panic while held").as_ref().and_then(|h| h.get(&path)?.upgrade());
        if let Some(older) = older {
            older.give_back();
        }
        let (lock, found) = enter(root, folder)?;
        let hold = Arc::new(Self { lock: RwLock::new(Some(lock)) });
        let mut holds = HOLDS.lock().expect("no panic while held");
        let holds = holds.get_or_insert_with(HashMap::new);
        holds.retain(|_, hold| hold.strong_count() > 0);
        holds.insert(path, Arc::downgrade(&hold));
        Ok((hold, found))
    }

    /// Keeps the right for as long as the guard lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`]: it is given back.
    pub(super) fn work(&self) -> io::Result<RwLockReadGuard<'_, Option<OwnedFd>>> {
        let guard = self.lock.read().expect("no panic while held");
        if guard.is_none() {
            let reason = "this attempt is over, or another one has taken the job over";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
        }
        Ok(guard)
    }

    /// Gives the right back, when all work that has begun is done.
    pub(super) fn give_back(&self) {
        *self.lock.write().expect("no panic while held") = None;
    }
}

fn enter(root: &Beneath, folder: &str) -> io::Result<(OwnedFd, bool)> {
    let start = Instant::now();
    loop {
        let in_time = start.elapsed() < WAIT;
        match root.make_new(folder, Mode::RWXU) {
            Ok(made) => {
                if let Some(lock) = try_lock(root, folder)? {
                    return Ok((lock, !made));
                }
            }
            // The folder above went with the job that was the last in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && in_time => {}
            Err(e) => return Err(e),
        }
        if !in_time {
            let reason = "another process is at work on this job";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
        }
        root.forget();
        std::thread::sleep(PAUSE);
    }
}

/// Locks a staging folder. `None`: somebody else has it, or it is gone.
pub(super) fn try_lock(root: &Beneath, folder: &str) -> io::Result<Option<OwnedFd>> {
    let dir = match root.open_at(folder, OFlags::DIRECTORY, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir?,
    };
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        // File systems without locks.
        Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    // Whoever had it may have removed it; another one may stand there by now.
    root.forget();
    let Some(there) = root.stat(folder)? else { return Ok(None) };
    let ours = rustix::fs::fstat(&dir)?;
    Ok(((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)).then_some(dir))
}

/// Removes a staging folder. Those above are shared with other jobs: they go only when they are empty.
pub(super) fn remove(root: &Beneath, folder: &str) -> io::Result<()> {
    root.forget();
    root.remove(folder, true)?;
    let mut above = folder;
    loop {
        above = split(above).0;
        if above.is_empty() || root.remove(above, false).is_err() {
            root.forget();
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_attempt_of_a_process_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = Beneath::open(dir.path()).unwrap();
        let (first, found) = Hold::take(&root, "a/b").unwrap();
        assert!(!found && first.work().is_ok());
        let (second, found) = Hold::take(&root, "a/b").unwrap();
        assert!(found && second.work().is_ok());
        assert_eq!(first.work().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        let (other, _) = Hold::take(&root, "a/c").unwrap();
        assert!(second.work().is_ok() && other.work().is_ok());
    }

    #[test]
    fn taking_over_waits_for_work_that_has_begun() {
        let dir = tempfile::tempdir().unwrap();
        let root = Beneath::open(dir.path()).unwrap();
        let (first, _) = Hold::take(&root, "job").unwrap();
        let guard = first.work().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Hold::take(&root, "job").unwrap().1);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!second.is_finished());
            drop(guard);
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn what_another_process_holds_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = Beneath::open(dir.path()).unwrap();
        root.make_dir("job").unwrap();
        // flock(2) is between open files: another handle is as good as another process.
        let other = try_lock(&root, "job").unwrap();
        assert!(other.is_some());
        assert!(try_lock(&root, "job").unwrap().is_none());
        drop(other);
        assert!(try_lock(&root, "job").unwrap().is_some());
        assert!(try_lock(&root, "gone").unwrap().is_none());
    }

    #[test]
    fn the_folders_above_go_when_they_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let root = Beneath::open(dir.path()).unwrap();
        root.make_dir("m/jobs/a/x").unwrap();
        root.make_dir("m/jobs/b").unwrap();
        remove(&root, "m/jobs/a").unwrap();
        assert!(root.stat("m/jobs/b").unwrap().is_some());
        remove(&root, "m/jobs/b").unwrap();
        assert!(root.names("").unwrap().is_empty());
    }
}
