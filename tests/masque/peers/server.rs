//! A server as a child process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::Bed;

/// It is killed when this is dropped.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts one that stays in front.
    pub(super) fn start(bed: &Bed, name: &'static str, command: &mut Command) -> Self {
        let log = bed.path(&format!("{name}.log"));
        let said = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { name, child, log }
    }

    /// Fails if it has ended.
    pub(crate) fn must_run(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} has ended: {ended:?}\n{}", self.name, self.log());
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The time on processors that it has used so far, of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name, which is in brackets, may have spaces in it (proc_pid_stat(5)): utime and stime are the 12th and
        // 13th after it, in hundredths of a second on every Linux.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of {}\n{}", self.name, self.log());
        }
    }
}
