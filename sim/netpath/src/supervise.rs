//! Signals and ends of child processes, as things that can be waited for.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A child, or an orphan that became one, has ended.
    Ended(Pid, End),
    /// This process is asked to end.
    Asked {
        /// With this.
        signal: Signal,
        /// Whether the terminal asks everyone in the foreground, so that nobody must be told.
        everyone: bool,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(u8),
    Signal(Signal),
}

impl End {
    /// As a shell says it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal as u8,
        }
    }
}

/// The signals that ask to end, and those of children.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Takes them away from this thread, and from threads and processes that it starts; see [`command`].
    pub(crate) fn take() -> nix::Result<Self> {
        let mut set: SigSet = ASKING.into_iter().collect();
        set.add(Signal::SIGCHLD);
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// Waits until something happens, or the deadline has passed.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> nix::Result<Vec<Notice>> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, left.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let mut notices = Vec::new();
        while let Some(info) = self.0.read_signal()? {
            let signal = Signal::try_from(info.ssi_signo as i32)?;
            if signal == Signal::SIGCHLD {
                reap(&mut notices)?;
            } else {
                notices.push(Notice::Asked { signal, everyone: info.ssi_code == libc::SI_KERNEL });
            }
        }
        Ok(notices)
    }
}

fn reap(notices: &mut Vec<Notice>) -> nix::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => notices.push(Notice::Ended(pid, End::Code(code as u8))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => notices.push(Notice::Ended(pid, End::Signal(signal))),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A command that gets its signals: they are given back between fork and exec, in the child alone, by a process of this
/// program that becomes the command.
pub(crate) fn command(words: &[String]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("netpath").arg(BECOME).args(words);
    command
}

/// Turns this process into a command. An exit code if that cannot be.
pub(crate) fn become_command(words: &[String]) -> u8 {
    let [program, rest @ ..] = words else { return NOT_FOUND };
    if let Err(error) = SigSet::all().thread_unblock() {
        eprintln!("netpath: signals: {error}");
        return NOT_RUN;
    }
    let error = Command::new(program).args(rest).exec();
    eprintln!("netpath: {program}: {error}");
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }
}

/// The argument that makes [`become_command`] of this program. The others are the command.
pub(crate) const BECOME: &str = "--become";

/// Exit codes of shells, POSIX.1-2024 section 2.8.2.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

const ASKING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
