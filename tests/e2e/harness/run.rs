//! The client command as a child process, and what it says.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;

/// The command under test. With a limit in KiB, writing a file past it fails (`EFBIG`) as it would on a broken disk.
pub(super) fn metra(limit: Option<u64>) -> Command {
    let program = env!("CARGO_BIN_EXE_metra");
    let Some(kib) = limit else { return Command::new(program) };
    let mut command = Command::new("sh");
    // In blocks of 512 bytes. The signal that goes with it would end the program.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
    command.arg("-c").arg(script).arg(program);
    command
}

/// A command that is about to run.
pub(crate) struct Run {
    command: Command,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Run {
    pub(super) fn new<A: AsRef<OsStr>>(state: &Path, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = metra(None);
        command.args(args).env("METRA_STATE", state).env_remove("METRA_TOKEN").env("RUST_BACKTRACE", "0");
        command.env("METRA_CONFIG", "/dev/null");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, input: None, limit: Duration::from_secs(90) }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What comes from standard input.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self.command.stdin(Stdio::piped());
        self
    }

    /// Runs where no file can grow beyond so many KiB.
    pub(crate) fn limited(mut self, kib: u64) -> Self {
        let mut limited = metra(Some(kib));
        limited.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        self.command = limited;
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self
    }

    /// Runs as another user.
    pub(crate) fn user(mut self, id: u32) -> Self {
        self.command.uid(id).gid(id);
        self
    }

    /// Runs to the end.
    pub(crate) fn run(self) -> Done {
        self.start().finish()
    }

    /// Runs to the end, which must be this exit code.
    pub(crate) fn expect(self, code: i32) -> Done {
        self.run().expect(code)
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        if let (Some(input), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // It may end without reading all of it.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let (lines, events) = mpsc::channel();
        let out = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut reader = BufReader::new(stdout);
            loop {
                let start = all.len();
                match reader.read_until(b'\n', &mut all) {
                    Ok(0) | Err(_) => return all,
                    Ok(_) => drop(serde_json::from_slice(&all[start..]).map(|event| lines.send(event))),
                }
            }
        });
        let err = std::thread::spawn(move || read_all(stderr));
        let args = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        Running {
            args,
            child,
            out: Some(out),
            err: Some(err),
            events,
            seen: Vec::new(),
            start: Instant::now(),
            limit: self.limit,
        }
    }
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all);
    all
}

/// A command that runs. It is killed when this is dropped.
pub(crate) struct Running {
    args: String,
    child: Child,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
    events: Receiver<Value>,
    seen: Vec<Value>,
    start: Instant,
    limit: Duration,
}

impl Running {
    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it says something like that, after what it was waited for before.
    pub(crate) fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    let found = is_it(&event);
                    self.seen.push(event);
                    if found {
                        return;
                    }
                }
                Err(_) => panic!("metra {} did not say {what}: {:?}", self.args, self.seen.last()),
            }
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(mut self) -> Done {
        let _ = self.child.kill();
        self.finish()
    }

    /// Whether it runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Done {
        let status = self.wait();
        let stdout = self.out.take().map(|t| t.join().unwrap()).unwrap_or_default();
        let stderr = self.err.take().map(|t| t.join().unwrap()).unwrap_or_default();
        let mut events = std::mem::take(&mut self.seen);
        events.extend(self.events.try_iter());
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Done { args: self.args.clone(), status, stdout, stderr, events, elapsed: self.start.elapsed() }
    }

    fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if self.start.elapsed() > self.limit {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let err = self.err.take().map(|t| t.join().unwrap()).unwrap_or_default();
                let out = self.out.take().map(|t| t.join().unwrap()).unwrap_or_default();
                panic!(
                    "metra {} did not end within {:?}\n{}\n{}",
                    self.args,
                    self.limit,
                    String::from_utf8_lossy(&out),
                    String::from_utf8_lossy(&err)
                );
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that has run.
pub(crate) struct Done {
    args: String,
    status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) events: Vec<Value>,
    pub(crate) elapsed: Duration,
}

impl Done {
    /// The exit code; that of a signal is 128 and its number, as in a shell.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails unless it ended with this code.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self}");
        self
    }

    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The summary of a transfer.
    pub(crate) fn summary(&self) -> &Value {
        let is_summary = |event: &&Value| event["event"] == "summary";
        self.events.iter().rfind(is_summary).unwrap_or_else(|| panic!("no summary\n{self}"))
    }

    /// A number of the summary.
    pub(crate) fn number(&self, key: &str) -> u64 {
        let value = &self.summary()[key];
        value.as_u64().unwrap_or_else(|| panic!("{key} in the summary is {value}\n{self}"))
    }

    /// The root of the manifest, in hexadecimal.
    pub(crate) fn root(&self) -> String {
        let value = &self.summary()["root"];
        value.as_str().unwrap_or_else(|| panic!("root in the summary is {value}\n{self}")).to_owned()
    }

    /// What was said of entries: path and code.
    pub(crate) fn entries(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |event: &&Value| event["event"] == "entry";
        self.events.iter().filter(of).map(|e| (text(&e["path"]), text(&e["code"]))).collect()
    }

    /// Fails unless this was said of the entry.
    pub(crate) fn entry(&self, path: &str, code: &str) -> &Self {
        let wanted = (path.to_owned(), code.to_owned());
        assert!(self.entries().contains(&wanted), "no {wanted:?} among {:?}\n{self}", self.entries());
        self
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "metra {} ended with {} after {:?}", self.args, self.status, self.elapsed)?;
        let out = self.text();
        let tail = out.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        write!(f, "---- stdout\n{}\n---- stderr\n{}", &out[tail..], self.stderr)
    }
}
