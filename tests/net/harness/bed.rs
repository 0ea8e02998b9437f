//! The place of one test: a directory, the hosts of its network, and what can be started in them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Firewall, Host};

/// The place of one test.
pub(crate) struct Bed {
    dir: PathBuf,
    pub(crate) client: Host,
    pub(crate) proxy: Host,
    pub(crate) edge: Host,
    pub(crate) server: Host,
}

impl Bed {
    pub(super) fn new(dir: &Path) -> Self {
        private_places();
        let [client, proxy, edge, server] = ["client", "proxy", "edge", "server"].map(Host::named);
        let hosts =
            [("localhost", "127.0.0.1".parse().unwrap()), (SERVER, server.address), (PROXY, proxy.address)];
        let lines = hosts.map(|(name, address): (_, Ipv4Addr)| format!("{address} {name}\n"));
        replace(Path::new("/etc/hosts"), &lines.concat());
        Self { dir: dir.to_owned(), client, proxy, edge, server }
    }

    /// A path in the bed; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A directory in the bed, made.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A file in the bed.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// What the edge lets through from and to the client. All, until it is told.
    pub(crate) fn firewall(&self) -> Firewall<'_> {
        Firewall::at(&self.edge)
    }
}

/// Shows another text in place of a file, to this test alone.
pub(super) fn replace(file: &Path, text: &str) {
    let other = Path::new("/run").join(file.file_name().expect("a file"));
    fs::write(&other, text).unwrap();
    let status = Command::new("mount").arg("--bind").args([&other, file]).status();
    assert!(status.is_ok_and(|status| status.success()), "{} cannot be replaced", file.display());
}

/// What the server is called, by all.
pub(crate) const SERVER: &str = "server.example";

/// What only proxies know it by, as where the outer world has no names inside.
pub(crate) const OUTSIDE_SERVER: &str = "outside.example";

/// What the host of the proxies is called.
pub(crate) const PROXY: &str = "proxy.office.example";

/// Places that servers write to, as far as they can be no others: empty, and seen by this test alone.
fn private_places() {
    for place in ["/run", "/dev/shm"] {
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", "mode=1777", "metra-net", place]).status();
        assert!(done.is_ok_and(|status| status.success()), "{place} cannot be mounted");
    }
}
