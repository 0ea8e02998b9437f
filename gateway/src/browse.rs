//! Listing and removing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::limits::FRAME_MAX;
use metra_core::manifest::{Entry, EntryKind, Timestamp};
use metra_core::path;
use metra_core::wire::Frame;
use metra_policy::audit::Action;
use metra_session::LinkHandle;
use metra_store::Beneath;
use rustix::io::Errno;
use tokio::sync::mpsc;

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
    let asked = path.clone();
    let result = match allowed(sessions, live.account().read, "list", &path) {
        Ok(path) => {
            let home = live.account().home.clone();
            let (tx, mut rx) = mpsc::channel(QUEUE);
            let walk = sessions.rt().blocking(move || walk(&home, &path, depth, &tx));
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
    sessions.audit().decided(live, link, Action::List, &asked, result.as_ref().map(|()| count));
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
    let asked = path.clone();
    let result = match allowed(sessions, live.account().write, "remove", &path) {
        Ok(path) if path.is_empty() => Err((Code::Denied, "the root is not removed".to_owned())),
        Ok(path) => {
            let home = live.account().home.clone();
            let named = path.clone();
            let removed =
                sessions.rt().blocking(move || Beneath::open(&home)?.remove(&path, recursive)).await;
            removed.map_err(|e| refusal(&named, &e))
        }
        Err(refused) => Err(refused),
    };
    sessions.audit().decided(live, link, Action::Remove, &asked, result.as_ref().copied());
    let count = *result.as_ref().unwrap_or(&0);
    answer(link, request, result.map(|_| ()), count).await;
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
    sessions.audit().gate().map_err(|e| (e.code, e.reason))?;
    let trimmed = raw.trim_matches('/');
    if !trimmed.is_empty() {
        path::check(trimmed).map_err(|e| (Code::BadName, format!("{trimmed:?}: {e}")))?;
    }
    Ok(trimmed.to_owned())
}

/// Sends the entries at and below `path`, the path itself first, in batches.
fn walk(home: &Path, path: &str, depth: u32, out: &mpsc::Sender<Vec<Entry>>) -> Result<(), (Code, String)> {
    let beneath = Beneath::open(home).map_err(|e| refusal(path, &e))?;
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut open = vec![(String::new(), 0)];
    while let Some((name, level)) = open.pop() {
        let full = path::join(path, &name);
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
