//! Listing and removing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::limits::FRAME_MAX;
use metra_core::manifest::{Entry, EntryKind, Timestamp};
use metra_core::path;
use metra_core::wire::Frame;
use metra_policy::audit;
use metra_policy::engine::Action;
use metra_session::LinkHandle;
use metra_store::{Beneath, Guard};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::authority::Asker;
use crate::sessions::{Live, Sessions};

/// The folder of the gateway itself beneath a root.
const OWN_FOLDER: &str = ".metra";
/// Encoded size of one frame of a listing.
const BATCH: usize = FRAME_MAX / 4;
/// Batches that wait for the link.
const QUEUE: usize = 4;

/// Answers a `List`.
pub(crate) async fn list(
    sessions: &Arc<Sessions>,
    live: &Arc<Live>,
    link: &LinkHandle,
    request: u64,
    path: String,
    depth: u32,
) {
    let mut count = 0;
    let (account, asked) = (live.account(), path.clone());
    let asker = Asker::over(account, link.link().as_ref());
    let mut by = None;
    let result = match allowed(sessions, account.read, "list", &path).and_then(|path| {
        by = sessions.permit_path(account, &asker, Action::List, &path)?.1;
        Ok(path)
    }) {
        Ok(path) => {
            let guard = asker.guard(sessions.authority(), Action::List, &sessions.config().root);
            let home = account.home.clone();
            let (tx, mut rx) = mpsc::channel(QUEUE);
            let walk = sessions.rt().blocking(move || walk(&home, &path, depth, guard.as_ref(), &tx));
            let send = async {
                while let Some(entries) = rx.recv().await {
                    let entries: Vec<Entry> = entries;
                    count += entries.len() as u64;
                    if !link.send(&Frame::Listing { request, entries }).await {
                        rx.close();
                    }
                }
            };
            futures_util::future::join(walk, send).await.0
        }
        Err(refused) => Err(refused),
    };
    sessions.audit().decided(live, link, audit::Action::List, &asked, by, result.as_ref().map(|()| count));
    answer(link, request, result, count).await;
}

/// Answers a `Remove`.
pub(crate) async fn remove(
    sessions: &Arc<Sessions>,
    live: &Arc<Live>,
    link: &LinkHandle,
    request: u64,
    path: String,
    recursive: bool,
) {
    let (account, asked) = (live.account(), path.clone());
    let asker = Asker::over(account, link.link().as_ref());
    let mut by = None;
    let result = match allowed(sessions, account.write, "remove", &path).and_then(|path| {
        by = sessions.permit_path(account, &asker, Action::Delete, &path)?.1;
        Ok(path)
    }) {
        Ok(path) if path.is_empty() => Err((Code::Denied, "the root is not removed".to_owned())),
        Ok(path) => {
            let guard = asker.guard(sessions.authority(), Action::Delete, &sessions.config().root);
            let home = account.home.clone();
            sessions.rt().blocking(move || take_away(&home, &path, recursive, guard.as_ref())).await
        }
        Err(refused) => Err(refused),
    };
    sessions.audit().decided(live, link, audit::Action::Remove, &asked, by, result.as_ref().copied());
    let count = *result.as_ref().unwrap_or(&0);
    answer(link, request, result.map(|_| ()), count).await;
}

/// Removes what is there, if all of it may be removed.
fn take_away(home: &Path, path: &str, recursive: bool, guard: Option<&Guard>) -> Result<u64, (Code, String)> {
    let beneath = Beneath::open(home).map_err(|e| refusal(path, &e))?;
    if let (true, Some(guard)) = (recursive, guard) {
        let mut open = vec![path.to_owned()];
        while let Some(full) = open.pop() {
            guard.may(&home.join(&full), None).map_err(|reason| (Code::Denied, reason))?;
            let is_directory = matches!(describe(&beneath, &full, ""), Ok(Some(entry)) if entry.kind == EntryKind::Directory);
            if is_directory {
                let names = beneath.names(&full).map_err(|e| refusal(&full, &e))?;
                open.extend(names.into_iter().map(|name| path::join(&full, &name)));
            }
        }
    }
    beneath.remove(path, recursive).map_err(|e| refusal(path, &e))
}

async fn answer(link: &LinkHandle, request: u64, result: Result<(), (Code, String)>, count: u64) {
    let (code, reason) = result.err().unwrap_or((Code::Ok, String::new()));
    link.send(&Frame::Result { request, code, reason, count }).await;
}

/// A path that may be looked at, without slashes at its ends.
fn allowed(sessions: &Sessions, permitted: bool, what: &str, raw: &str) -> Result<String, (Code, String)> {
    if !permitted {
        return Err((Code::Denied, format!("you may not {what} here")));
    }
    sessions.audit().gate()?;
    let trimmed = raw.trim_matches('/');
    if !trimmed.is_empty() {
        path::check(trimmed).map_err(|e| (Code::BadName, format!("{trimmed:?}: {e}")))?;
    }
    Ok(trimmed.to_owned())
}

/// Sends the entries at and below `path`, the path itself first, in batches.
/// What `guard` says no to is left out, but for the path itself.
fn walk(
    home: &Path,
    path: &str,
    depth: u32,
    guard: Option<&Guard>,
    out: &mpsc::Sender<Vec<Entry>>,
) -> Result<(), (Code, String)> {
    let beneath = Beneath::open(home).map_err(|e| refusal(path, &e))?;
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut open = vec![(String::new(), 0)];
    while let Some((name, level)) = open.pop() {
        let full = path::join(path, &name);
        if level > 0 && guard.is_some_and(|guard| guard.may(&home.join(&full), None).is_err()) {
            continue;
        }
        let entry = match describe(&beneath, &full, &name) {
            Ok(Some(entry)) => entry,
            Ok(None) if level == 0 => {
                return Err((Code::NotFound, format!("/{path}: no such file or directory")));
            }
            Err(e) if level == 0 => return Err(refusal(path, &e)),
            // Gone since its directory was read, or of a type that is not carried.
            _ => continue,
        };
        if entry.kind == EntryKind::Directory && level < depth {
            let names = beneath.names(&full).map_err(|e| refusal(&full, &e))?;
            let own = |n: &String| full.is_empty() && n.eq_ignore_ascii_case(OWN_FOLDER);
            let children = names.into_iter().filter(|n| !own(n)).rev();
            open.extend(children.map(|n| (path::join(&name, &n), level + 1)));
        }
        bytes += entry.encoded_len();
        batch.push(entry);
        if bytes >= BATCH {
            bytes = 0;
            if out.blocking_send(std::mem::take(&mut batch)).is_err() {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        let _ = out.blocking_send(batch);
    }
    Ok(())
}

fn describe(beneath: &Beneath, full: &str, name: &str) -> io::Result<Option<Entry>> {
    use rustix::fs::FileType;
    let Some(stat) = beneath.stat(full)? else { return Ok(None) };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File { size: stat.st_size as u64 },
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink { target: beneath.read_link(full)? },
        _ => return Ok(None),
    };
    Ok(Some(Entry {
        path: name.to_owned(),
        kind,
        mode: Some(stat.st_mode & 0o7777),
        mtime: Some(Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }),
    }))
}

fn refusal(path: &str, e: &io::Error) -> (Code, String) {
    let code = match e.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::NotADirectory | io::ErrorKind::DirectoryNotEmpty => Code::Conflict,
        io::ErrorKind::PermissionDenied => Code::Denied,
        _ if matches!(Errno::from_io_error(e), Some(Errno::XDEV | Errno::LOOP)) => Code::BadName,
        _ => Code::ReadFailed,
    };
    // The system's own words carry its numbers; the common cases are said plainly.
    let reason = match e.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        io::ErrorKind::DirectoryNotEmpty => {
            "the directory is not empty; -r removes it with all it holds".to_owned()
        }
        io::ErrorKind::PermissionDenied => "the gateway's system does not permit it".to_owned(),
        _ => e.to_string(),
    };
    (code, format!("/{path}: {reason}"))
}
