//! What the cache knows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use metra_core::id::{ChunkHash, Digest};
use metra_core::limits::CHUNK_MAX;
use tempfile::TempDir;

use super::super::*;
use super::*;

#[test]
fn what_is_known_is_not_read() {
    let dir = TempDir::new().unwrap();
    put(&dir, "large", &noise(1, 30_000_000));
    for i in 0..50 {
        put(&dir, &format!("small/{i}"), &noise(i, 20_000));
    }
    settle();
    let spec = contents_of(dir.path());
    let cache = Arc::new(MemoryCache::default());
    let first = read_all(Reader::new(&spec, Some(cache.clone())), 1 << 20);
    assert!(first.data.iter().all(Option::is_some));
    let appends = cache.appends.lock().unwrap().len();
    let second = read_all(Reader::new(&spec, Some(cache.clone())), 1 << 20);
    assert!(second.data.iter().all(Option::is_none));
    assert_eq!(second.records, first.records);
    assert_eq!(second.contents(&spec).len(), 51);
    assert_eq!(cache.appends.lock().unwrap().len(), appends, "nothing new to remember");
    // A change is noticed, of content and of the name in a pack.
    put(&dir, "small/7", &noise(99, 20_000));
    put(&dir, "large", &noise(2, 30_000_000));
    let third = read_all(Reader::new(&spec, Some(cache)), 1 << 20);
    assert!(third.records != first.records);
    assert_eq!(third.contents(&spec)["small/7"], noise(99, 20_000));
}

#[test]
fn a_file_that_is_too_fresh_is_not_remembered() {
    let dir = TempDir::new().unwrap();
    put(&dir, "large", &noise(1, 300_000));
    put(&dir, "small", b"x");
    let cache = Arc::new(MemoryCache::default());
    read_all(Reader::new(&contents_of(dir.path()), Some(cache.clone())), 1 << 20);
    assert!(cache.files.lock().unwrap().is_empty());
    assert!(cache.packs.lock().unwrap().is_empty());
}

#[test]
fn reading_continues_after_a_known_beginning() {
    let dir = TempDir::new().unwrap();
    let content = noise(1, 40_000_000);
    put(&dir, "f", &content);
    settle();
    let spec = contents_of(dir.path());
    let cache = Arc::new(MemoryCache::default());
    let whole = read_all(Reader::new(&spec, Some(cache.clone())), 1 << 20);
    let (id, complete) = cache.files.lock().unwrap().drain().next().unwrap();
    assert!(complete.complete);
    for known in [0, 1, 7, complete.chunks.len() - 1, complete.chunks.len()] {
        let cache = Arc::new(MemoryCache::default());
        let prefix = CachedFile { chunks: complete.chunks[..known].to_vec(), complete: false };
        cache.files.lock().unwrap().insert(id.clone(), prefix);
        let resumed = read_all(Reader::new(&spec, Some(cache.clone())), 1 << 20);
        assert_eq!(resumed.records, whole.records);
        assert_eq!(resumed.root(), whole.root());
        assert_eq!(resumed.data.iter().filter(|d| d.is_none()).count(), known);
        assert_eq!(cache.files.lock().unwrap()[&id], complete);
    }
    // What does not fit the file is not believed.
    let mut short = complete.clone();
    short.chunks[3].0 = 17;
    let mut long = complete.clone();
    long.chunks.push((1, Digest::default()));
    let empty = CachedFile { chunks: vec![], complete: true };
    let huge = CachedFile { chunks: vec![(CHUNK_MAX as u32 + 1, Digest::default())], complete: false };
    for lie in [short, long, empty, huge] {
        let read = read_all(Reader::new(&spec, Some(Arc::new(Liar(lie)))), 1 << 20);
        assert_eq!(read.records, whole.records);
    }
}

struct Liar(CachedFile);

impl ManifestCache for Liar {
    fn file(&self, _: &FileIdentity) -> Option<CachedFile> {
        Some(self.0.clone())
    }
    fn append(&self, _: &FileIdentity, _: u32, _: &[(u32, ChunkHash)], _: bool) {}
    fn pack(&self, _: &Digest) -> Option<ChunkHash> {
        None
    }
    fn put_pack(&self, _: &Digest, _: &ChunkHash) {}
}

#[test]
fn a_killed_reader_leaves_a_beginning_in_the_cache() {
    let spec_dir = TempDir::new().unwrap();
    let path = spec_dir.path().join("sparse");
    // Cheap chunks: 100 of zeros, and data at the end.
    let size = 100 * CHUNK_MAX as u64 + 3_000_000;
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&noise(1, 3_000_000), size - 3_000_000).unwrap();
    settle();
    let spec = SourceSpec::new(vec![Root::path(&path)]);
    let whole = read(&spec);
    let cache = Arc::new(MemoryCache::default());
    let mut reader = Reader::new(&spec, Some(cache.clone()));
    let mut seen = 0;
    while seen < 80 {
        seen += reader.step(1).items.len();
    }
    drop(reader);
    let known = cache.files.lock().unwrap().values().next().unwrap().clone();
    assert!(!known.complete && known.chunks.len() >= 64);
    let resumed = read_all(Reader::new(&spec, Some(cache)), 1 << 20);
    assert_eq!(resumed.records, whole.records);
}
