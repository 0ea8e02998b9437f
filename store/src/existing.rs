//! What chunks a file under its final name consists of.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use metra_core::chunker::Cutter;
use metra_core::id::{ChunkHash, Digest};
use metra_core::limits::CHUNK_MAX;
use metra_core::manifest::Timestamp;

use crate::source::{FileIdentity, ManifestCache};

/// The state of an open file, as the cache knows it.
pub(crate) fn identity(file: &File, path: &Path) -> io::Result<FileIdentity> {
    let stat = rustix::fs::fstat(file)?;
    Ok(FileIdentity {
        path: path.to_path_buf(),
        size: stat.st_size as u64,
        mtime: Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        ctime: Timestamp { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 },
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}

/// Lengths and hashes of a file's chunks: from the cache if it knows the file in this state, else by reading it.
pub(crate) fn chunks(
    file: &File,
    path: &Path,
    cache: &dyn ManifestCache,
) -> io::Result<Vec<(u32, ChunkHash)>> {
    let id = identity(file, path)?;
    if let Some(known) = cache.file(&id)
        && known.complete
    {
        return Ok(known.chunks);
    }
    let cutter = Cutter::new();
    let mut chunks = Vec::new();
    let mut buffer = vec![0; 2 * CHUNK_MAX];
    let (mut start, mut end, mut offset) = (0, 0, 0u64);
    loop {
        let last = offset == id.size;
        while let Some(len) = cutter.cut(&buffer[start..end], last) {
            chunks.push((len as u32, Digest::of(&buffer[start..start + len])));
            start += len;
            if start == end {
                break;
            }
        }
        if last {
            return Ok(chunks);
        }
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        let want = ((id.size - offset) as usize).min(buffer.len() - end);
        let got = file.read_at(&mut buffer[end..end + want], offset)?;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        end += got;
        offset += got as u64;
    }
}
