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
///
/// # Errors
/// The file cannot be read, or changes meanwhile.
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
    let chunks = read(file, id.size)?;
    if identity(file, path)? != id {
        return Err(io::Error::other("the file changes while it is read"));
    }
    Ok(chunks)
}

fn read(file: &File, size: u64) -> io::Result<Vec<(u32, ChunkHash)>> {
    let cutter = Cutter::new();
    let mut chunks = Vec::new();
    let mut buffer = vec![0; 2 * CHUNK_MAX];
    let (mut start, mut end, mut offset) = (0, 0, 0u64);
    loop {
        let last = offset == size;
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
        let want = ((size - offset) as usize).min(buffer.len() - end);
        let got = file.read_at(&mut buffer[end..end + want], offset)?;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        end += got;
        offset += got as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Catalogue;
    use crate::source::{Item, Reader, Root, SourceSpec};

    #[test]
    fn cuts_as_the_reader_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut content: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        content.extend(vec![0; 9 << 20]);
        content.push(1);
        std::fs::write(&path, &content).unwrap();
        let mut reader = Reader::new(&SourceSpec::new(vec![Root::path(&path)]), None);
        let mut items = Vec::new();
        loop {
            let step = reader.step(usize::MAX);
            items.extend(step.items);
            if step.done {
                break;
            }
        }
        let expected: Vec<_> = items
            .iter()
            .filter_map(|item| match item {
                Item::Chunk { len, hash, .. } => Some((*len, *hash)),
                _ => None,
            })
            .collect();
        let catalogue = Catalogue::open_in_memory().unwrap();
        let found = chunks(&File::open(&path).unwrap(), &path, &catalogue).unwrap();
        assert!(expected.len() >= 3, "{}", expected.len());
        assert_eq!(found, expected);
    }
}
