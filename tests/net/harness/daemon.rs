//! A server that runs in a host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Bed, Host, skip, wait_until};

/// It is killed when this is dropped.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    logs: Vec<PathBuf>,
}

impl Daemon {
    /// Starts one that stays in front, and waits until it listens on this port of TCP.
    pub(crate) fn start(bed: &Bed, host: &Host, command: &mut Command, port: u16) -> Self {
        let name = format!("{command:?}");
        let log = bed.path(&format!("port-{port}.log"));
        let said = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let child = host.enter(|| command.spawn()).unwrap();
        let mut daemon = Self { name, child, logs: vec![log] };
        wait_until("a server to listen", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "{} has ended:\n{}", daemon.name, daemon.log());
            host.enter(|| listens(port))
        });
        daemon
    }

    /// It writes to these files, too.
    pub(crate) fn logs_to(mut self, files: impl IntoIterator<Item = PathBuf>) -> Self {
        self.logs.extend(files);
        self
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        self.logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of {}\n{}", self.name, self.log());
        }
    }
}

/// A program, or a skip if it is missing. Servers are often where only root looks.
pub(crate) fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| Path::is_file(path));
    Command::new(found.unwrap_or_else(|| skip(format!("{name} is not installed"))))
}

/// Whether something listens on a port of TCP in the namespace of this thread.
fn listens(port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The state of a socket that listens (include/net/tcp_states.h).
            words[1].ends_with(&format!(":{port:04X}")) && words[3] == "0A"
        })
    })
}
