//! What would be read, without reading it.

use metra_core::code::Code;
use metra_core::manifest::{Entry, EntryKind};

use super::reader::Problem;
use super::stat::Kind;
use super::walk::{Walk, Walked};
use super::{Root, SourceSpec};

/// The entries that a [`Reader`](super::Reader) over `spec` would give, in the order in which they are found (which may
/// differ from that of the manifest); no content is read, so what cannot be read is not noticed. A root that is
/// standard input is a stream.
pub fn list(spec: &SourceSpec) -> impl Iterator<Item = Result<Entry, Problem>> + use<> {
    let mut walk = Walk::new(spec);
    let keep = spec.keep;
    std::iter::from_fn(move || {
        loop {
            return Some(match walk.next()? {
                Walked::Nothing => continue,
                Walked::Problem(problem) => Err(problem),
                Walked::Made(root) => Ok(made(&walk.roots()[usize::from(root)])),
                Walked::Node(node) => match node.stat.kind {
                    Kind::Other(what) => Err(Problem {
                        path: node.path,
                        code: Code::Unsupported,
                        reason: format!("it is {what}"),
                    }),
                    Kind::File | Kind::Directory | Kind::Symlink => node.entry(keep),
                },
            });
        }
    })
}

/// The entry of a root that is not of the file system.
fn made(root: &Root) -> Entry {
    let (path, kind) = match root {
        Root::Zero { name, size } | Root::Random { name, size, .. } => {
            (name, EntryKind::File { size: *size })
        }
        Root::Stdin { name } => (name, EntryKind::Stream),
        Root::Path { .. } | Root::Listed { .. } => unreachable!("these are of the file system"),
    };
    Entry { path: path.clone(), kind, mode: None, mtime: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::source::Filters;

    #[test]
    fn names_and_sizes_without_content() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("r");
        std::fs::create_dir_all(root.join("d/skipped")).unwrap();
        std::fs::write(root.join("d/a"), "12345").unwrap();
        std::os::unix::fs::symlink("a", root.join("d/l")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();
        let roots = vec![
            Root::path(&root),
            Root::Zero { size: 7, name: "z".into() },
            Root::Stdin { name: "i".into() },
        ];
        let filters = Filters::new([(false, "skipped")]).unwrap();
        let found: Vec<_> = list(&SourceSpec { filters, ..SourceSpec::new(roots) }).collect();
        let shown: Vec<_> = found
            .iter()
            .map(|item| match item {
                Ok(entry) => format!("{} {}", entry.path, entry.size()),
                Err(problem) => format!("{} {}", problem.path, problem.code),
            })
            .collect();
        assert_eq!(shown, ["r 0", "r/d 0", "r/d/a 5", "r/d/l 0", "r/s unsupported", "z 7", "i 0"]);
        let target = found[3].as_ref().unwrap().kind.clone();
        assert_eq!(target, EntryKind::Symlink { target: "a".into() });
    }
}
