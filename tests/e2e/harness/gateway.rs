//! `metra serve` as a child process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::run::metra;
use super::{Bed, wait_until};

/// A gateway. It is killed when this is dropped.
pub(crate) struct Gateway {
    child: Child,
    address: SocketAddr,
    root: PathBuf,
    state: PathBuf,
    config: PathBuf,
    log: PathBuf,
    ready: PathBuf,
}

impl Gateway {
    /// Starts one in the bed. `limit` is in KiB a file.
    pub(crate) fn start(bed: &Bed, listen: &str, config: &str, limit: Option<u64>) -> Self {
        let root = bed.folder("root");
        let state = bed.path("gateway-home/gateway");
        let config = bed.write("gateway.toml", with_paths(&root, &state, config));
        let (log, ready) = (bed.path("gateway.log"), bed.path("gateway.ready"));
        let (child, address) = spawn(&config, &log, &ready, listen, limit);
        Self { child, address, root, state, config, log, ready }
    }

    /// Writes its configuration anew.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(&self.config, with_paths(&self.root, &self.state, config)).unwrap();
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory that it serves.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the root.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Where it keeps keys and journals.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Its development authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.state.join("dev-ca.pem")
    }

    /// The pin of its key, as it prints it.
    pub(crate) fn pin(&self) -> String {
        let log = self.log();
        let start = log.find("sha256/").unwrap_or_else(|| panic!("no pin in its log:\n{log}"));
        log[start..].split(|c: char| c.is_whitespace() || c == '"').next().expect("not empty").to_owned()
    }

    /// A URL on it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("mtp://{}/{path}", self.address)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut status = None;
        wait_until("the gateway to end after SIGTERM", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Starts it again at the same address after [`kill`](Self::kill) or [`terminate`](Self::terminate).
    pub(crate) fn restart(&mut self) {
        let listen = self.address.to_string();
        let (child, address) = spawn(&self.config, &self.log, &self.ready, &listen, None);
        assert_eq!(address, self.address);
        self.child = child;
    }

    /// Bytes of memory that it holds.
    pub(crate) fn memory(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The most bytes of memory that it has held.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_else(|e| panic!("the gateway is gone ({e}); its log:\n{}", self.log()));
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("in every status");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Whether it runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of the gateway at {}\n{}", self.address, self.log());
        }
    }
}

fn with_paths(root: &Path, state: &Path, config: &str) -> String {
    format!("root = {root:?}\nstate = {state:?}\n{config}")
}

fn spawn(config: &Path, log: &Path, ready: &Path, listen: &str, limit: Option<u64>) -> (Child, SocketAddr) {
    let _ = fs::remove_file(ready);
    let log_file = File::options().create(true).append(true).open(log).unwrap();
    let mut command = metra(limit);
    command.arg("serve").arg("--listen").arg(listen);
    command.arg("--config").arg(config).arg("--ready-file").arg(ready);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
    let mut child = command.spawn().unwrap();
    let mut address = None;
    wait_until("the gateway to listen", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the gateway ended with {status}:\n{}", fs::read_to_string(log).unwrap_or_default());
        }
        address = fs::read_to_string(ready).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
        address.is_some()
    });
    // The file may be seen before the first packet is.
    std::thread::sleep(Duration::from_millis(10));
    (child, address.expect("it listens"))
}
