//! Files to send, and a comparison of trees that knows nothing of Metra.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

/// Bytes that do not compress, the same for the same seed (xorshift64*).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Noise of a length.
pub(crate) fn noise(seed: u64, len: u64) -> Vec<u8> {
    Noise::new(seed).bytes(len as usize)
}

/// A file of noise.
pub(crate) fn noise_file(path: &Path, seed: u64, len: u64) -> PathBuf {
    let mut noise = Noise::new(seed);
    let mut file = File::create(path).unwrap();
    let mut left = len;
    while left > 0 {
        let part = left.min(MIB);
        file.write_all(&noise.bytes(part as usize)).unwrap();
        left -= part;
    }
    path.to_owned()
}

/// Writes `old` to `new` with `insert` in it at `at`.
pub(crate) fn insert(old: &Path, new: &Path, at: u64, insert: &[u8]) {
    let mut from = BufReader::new(File::open(old).unwrap());
    let mut to = BufWriter::new(File::create(new).unwrap());
    std::io::copy(&mut (&mut from).take(at), &mut to).unwrap();
    to.write_all(insert).unwrap();
    std::io::copy(&mut from, &mut to).unwrap();
    to.flush().unwrap();
}

/// Whether two files have the same bytes.
pub(crate) fn same_bytes(a: &Path, b: &Path) -> bool {
    let open = |path: &Path| File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut a, mut b) = (open(a), open(b));
    if a.metadata().unwrap().len() != b.metadata().unwrap().len() {
        return false;
    }
    let (mut left, mut right) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    loop {
        let len = a.read(&mut left).unwrap();
        if len == 0 {
            return true;
        }
        if b.read_exact(&mut right[..len]).is_err() || left[..len] != right[..len] {
            return false;
        }
    }
}

/// A tree as it is on disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    kind: Kind,
    mode: Option<u32>,
    mtime: Option<(i64, i64)>,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    File { size: u64, hash: u64 },
    Directory,
    Symlink(PathBuf),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::File { size, hash } => write!(f, "file of {size} bytes, hash {hash:x}"),
            Kind::Directory => f.write_str("directory"),
            Kind::Symlink(to) => write!(f, "link to {to:?}"),
        }
    }
}

impl Tree {
    /// Everything below `dir`. Not `dir` itself, and not the gateway's own folder at the top.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        let mut walk = vec![dir.to_owned()];
        while let Some(at) = walk.pop() {
            for entry in fs::read_dir(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display())) {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(dir).unwrap().to_str().expect("test names are UTF-8").to_owned();
                if name == ".metra" {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                let kind = if meta.is_dir() {
                    walk.push(path);
                    Kind::Directory
                } else if meta.is_symlink() {
                    Kind::Symlink(fs::read_link(&path).unwrap())
                } else {
                    Kind::File { size: meta.len(), hash: hash(&path) }
                };
                // Linux has no modes of links.
                let mode = (!meta.is_symlink()).then(|| meta.mode() & 0o7777);
                let mtime = Some((meta.mtime(), meta.mtime_nsec()));
                nodes.insert(name, Node { kind, mode, mtime });
            }
        }
        Self(nodes)
    }

    /// The paths, in order.
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Without modes and times.
    pub(crate) fn bare(mut self) -> Self {
        for node in self.0.values_mut() {
            (node.mode, node.mtime) = (None, None);
        }
        self
    }

    /// Fails, naming what differs, unless the trees are equal.
    pub(crate) fn must_equal(&self, other: &Self) {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differences: Vec<String> = keys
            .into_iter()
            .filter(|key| self.0.get(*key) != other.0.get(*key))
            .map(|key| format!("{key:?}: {:?} / {:?}", self.0.get(key), other.0.get(key)))
            .collect();
        let shown = &differences[..differences.len().min(20)];
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
    }
}

/// FNV-1a over words: enough to see a difference, and of no other use.
fn hash(path: &Path) -> u64 {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut buffer = vec![0; 256 * 1024];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut filled = 0;
    loop {
        let len = file.read(&mut buffer[filled..]).unwrap();
        filled += len;
        if len != 0 && filled < buffer.len() {
            continue;
        }
        for word in buffer[..filled].chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            hash = (hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if len == 0 {
            return hash;
        }
        filled = 0;
    }
}

/// Sets the time of modification: seconds and nanoseconds since the epoch.
pub(crate) fn set_mtime(path: &Path, secs: u64, nanos: u32) {
    let time = UNIX_EPOCH + Duration::new(secs, nanos);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Makes all times of a tree older than any that a test could make by accident.
pub(crate) fn age(dir: &Path) {
    let mut paths = vec![dir.to_owned()];
    let mut next = 0;
    while next < paths.len() {
        if fs::symlink_metadata(&paths[next]).unwrap().is_dir() {
            paths.extend(fs::read_dir(&paths[next]).unwrap().map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    // From the leaves up, so that no directory is touched after it was set.
    for (i, path) in paths.iter().enumerate().rev() {
        if !fs::symlink_metadata(path).unwrap().is_symlink() {
            set_mtime(path, 1_000_000_000 + i as u64, 123_456_789);
        }
    }
}

/// A tree with one of everything that a file system of Linux has names and bytes for.
pub(crate) fn sample(dir: &Path) {
    fs::create_dir_all(dir.join("nested/deeper/deepest")).unwrap();
    fs::create_dir_all(dir.join("empty directory/and another")).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(dir.join(name), content).unwrap();
    write("empty", b"");
    write("nested/deeper/deepest/one byte", b"x");
    for (name, len) in [("below", 256 * KIB - 1), ("exactly", 256 * KIB), ("above", 256 * KIB + 1)] {
        write(&format!("nested/{name} 256 KiB"), &noise(len, len));
    }
    write("nested/above 4 MiB", &noise(4, 4 * MIB + 4097));
    for name in [
        "with spaces  and tabs\t",
        "Ünïcödé ☃ 文件",
        "-dash",
        "new\nline",
        "quote'\"s",
        "100%41 #?&",
        "~tilde",
        "a:b",
    ] {
        write(name, name.as_bytes());
    }
    write(&"n".repeat(255), b"the longest name");
    fs::create_dir(dir.join("many")).unwrap();
    for i in 0..300u64 {
        write(&format!("many/{i:03}"), &noise(i, i * 37));
    }
    // A hole of 64 MiB between two blocks, and a file that is nothing but a hole.
    let sparse = File::create(dir.join("sparse")).unwrap();
    (&sparse).write_all(&noise(9, 4096)).unwrap();
    sparse.set_len(64 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(10, 4096), 64 * MIB).unwrap();
    File::create(dir.join("hole")).unwrap().set_len(20 * MIB).unwrap();
    symlink("nested/above 4 MiB", dir.join("link to a file")).unwrap();
    symlink("../many", dir.join("nested/link to a directory")).unwrap();
    symlink("not there", dir.join("dangling link")).unwrap();
    for (name, mode) in
        [("many/001", 0o600), ("many/002", 0o755), ("many/003", 0o444), ("nested/deeper", 0o750)]
    {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    age(dir);
}

/// Bytes of disk that a file takes.
pub(crate) fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes of all files below a directory, the staging folder of a gateway for instance; 0 if it is not there.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut sum = 0;
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => sum += bytes_below(&entry.path()),
            Ok(meta) => sum += meta.len(),
            Err(_) => {}
        }
    }
    sum
}

/// Now, in whole seconds, for times that must differ from [`age`].
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
