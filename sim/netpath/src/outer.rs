//! The process that was started: it starts the inner one in a process namespace, and ends with it.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::args::Job;
use super::supervise::{End, Notice, Signals};
use super::sys;

/// The argument that makes an inner process. The next is the number of the file with the job.
pub(crate) const INNER: &str = "--inner-process";

/// Does the job. The exit code is that of its command.
pub(crate) fn run(job: &Job) -> Result<u8, String> {
    check()?;
    let signals = Signals::take().map_err(|e| format!("signals: {e}"))?;
    let (reader, mut writer) = std::io::pipe().map_err(|e| format!("a pipe: {e}"))?;
    // The inner process inherits it.
    fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| format!("a pipe: {e}"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| format!("no process namespace can be made here: {e}"))?;
    let inner = Command::new("/proc/self/exe")
        .arg0("netpath")
        .args([INNER, &reader.as_raw_fd().to_string()])
        .spawn()
        .map_err(|e| format!("/proc/self/exe: {e}"))?;
    drop(reader);
    // A failure means that the inner process has ended, and has said why. The pipe stays open: its end is ours.
    let text = serde_json::to_string(job).map_err(|e| e.to_string())?;
    let _ = writeln!(writer, "{text}");
    wait(&signals, Pid::from_raw(inner.id() as i32)).map_err(|e| format!("the inner process: {e}"))
}

fn wait(signals: &Signals, inner: Pid) -> Result<u8, nix::Error> {
    let mut deadline: Option<Instant> = None;
    loop {
        for notice in signals.wait(deadline)? {
            match notice {
                Notice::Ended(pid, End::Code(code)) if pid == inner => return Ok(code),
                Notice::Ended(pid, End::Signal(signal)) if pid == inner => {
                    eprintln!("netpath: the inner process was ended by {signal}");
                    return Ok(128 + signal as u8);
                }
                Notice::Ended(..) => {}
                Notice::Asked { signal, everyone } => {
                    if !everyone {
                        kill(inner, signal)?;
                    }
                    deadline.get_or_insert(Instant::now() + PATIENCE);
                }
            }
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            kill(inner, Signal::SIGKILL)?;
        }
    }
}

fn check() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("this needs root: it makes network namespaces and interfaces (try sudo)".into());
    }
    if !Path::new(sys::DEVICE).exists() {
        return Err(format!("{} is missing: this needs a kernel with TUN (try modprobe tun)", sys::DEVICE));
    }
    Ok(())
}

/// How long the inner process may take to end. Longer than it gives its commands.
const PATIENCE: Duration = Duration::from_secs(10);
