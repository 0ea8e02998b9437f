//! Trees made at random, and whether two are the same.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Dice, noise};

/// Everything about what is in a directory that a landing carries.
pub(super) type Tree = BTreeMap<String, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory { mode: u32, mtime: (i64, i64) },
    File { mode: u32, mtime: (i64, i64), content: Vec<u8> },
    Link { target: String },
}

/// What is in `root`.
pub(super) fn look(root: &Path) -> Tree {
    let mut tree = Tree::new();
    descend(root, "", &mut tree);
    tree
}

fn descend(dir: &Path, prefix: &str, tree: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let meta = entry.metadata().unwrap();
        let (mode, mtime) = (meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            descend(&entry.path(), &format!("{name}/"), tree);
            tree.insert(name, Node::Directory { mode, mtime });
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned();
            tree.insert(name, Node::Link { target });
        } else {
            tree.insert(name, Node::File { mode, mtime, content: fs::read(entry.path()).unwrap() });
        }
    }
}

/// Two trees are the same; says what is not, without printing megabytes.
#[track_caller]
pub(super) fn assert_same(expected: &Tree, found: &Tree) {
    for name in expected.keys().chain(found.keys()) {
        let (a, b) = (expected.get(name), found.get(name));
        if a != b {
            let brief = |node: Option<&Node>| match node {
                Some(Node::File { mode, mtime, content }) => {
                    format!("{mode:o} {mtime:?} {} bytes {}", content.len(), blake3::hash(content))
                }
                other => format!("{other:?}"),
            };
            panic!("{name}: expected {}, found {}", brief(a), brief(b));
        }
    }
}

/// Puts a tree of files, directories and links into `root`.
pub(super) fn grow(root: &Path, dice: &mut Dice) {
    let mut folders = vec![String::new()];
    for number in 0..3 + dice.roll(18) {
        let parent = folders[dice.roll(folders.len() as u64) as usize].clone();
        let path = format!("{parent}n{number}");
        let at = root.join(&path);
        match dice.roll(12) {
            0..=2 => {
                fs::create_dir(&at).unwrap();
                folders.push(format!("{path}/"));
            }
            3 => std::os::unix::fs::symlink("n0", &at).unwrap(),
            4 => write(&at, dice, &[]),
            5..=8 => {
                let len = 1 + dice.roll(9000) as usize;
                let content = noise(dice.roll(4), len);
                write(&at, dice, &content);
            }
            9 | 10 => {
                let len = (256 << 10) + dice.roll(1 << 20) as usize;
                let content = noise(dice.roll(3), len);
                write(&at, dice, &content);
            }
            _ => sparse(&at, dice),
        }
    }
    // The deepest first: what is made in a directory changes its time.
    for folder in folders.iter().skip(1).rev() {
        let mode = [0o755, 0o700, 0o555, 0o750][dice.roll(4) as usize];
        dress(&root.join(folder.trim_end_matches('/')), dice, mode);
    }
}

/// Changes some of a tree.
pub(super) fn edit(root: &Path, dice: &mut Dice) {
    let tree = look(root);
    for (name, node) in &tree {
        let at = root.join(name);
        if dice.roll(5) > 0 || !at.exists() {
            continue;
        }
        match node {
            Node::File { content, .. } => match dice.roll(5) {
                0 => fs::remove_file(&at).unwrap(),
                1 => write(
                    &at,
                    dice,
                    &[&content[..content.len() / 2], b"inserted", &content[content.len() / 2..]].concat(),
                ),
                2 => write(&at, dice, &content[..content.len() / 3]),
                // The same size, and even the same time.
                3 if !content.is_empty() => {
                    let time = fs::metadata(&at).unwrap().modified().unwrap();
                    let file = File::options().write(true).open(&at).unwrap();
                    let place = dice.roll(content.len() as u64);
                    file.write_all_at(&[content[place as usize] ^ 1], place).unwrap();
                    file.set_modified(time).unwrap();
                }
                _ => dress(&at, dice, 0o640),
            },
            Node::Directory { .. } => write(&at.join("another"), dice, b"another file"),
            Node::Link { .. } => {
                fs::remove_file(&at).unwrap();
                std::os::unix::fs::symlink("elsewhere", &at).unwrap();
            }
        }
    }
}

fn write(path: &Path, dice: &mut Dice, content: &[u8]) {
    fs::write(path, content).unwrap();
    let mode = [0o644, 0o600, 0o755, 0o444, 0o400][dice.roll(5) as usize];
    dress(path, dice, mode);
}

fn sparse(path: &Path, dice: &mut Dice) {
    let file = File::create(path).unwrap();
    file.set_len((5 << 20) + dice.roll(4 << 20)).unwrap();
    if dice.roll(2) == 0 {
        file.write_all_at(b"an island", dice.roll(5 << 20)).unwrap();
    }
    dress(path, dice, 0o644);
}

fn dress(path: &Path, dice: &mut Dice, mode: u32) {
    let time = SystemTime::UNIX_EPOCH
        + Duration::new(1_600_000_000 + dice.roll(1000), dice.roll(1_000_000_000) as u32);
    File::open(path).unwrap().set_modified(time).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
