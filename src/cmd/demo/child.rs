//! The processes of the demo: a gateway, and clients one after the other.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Stop};
use crate::exit::{Exit, Failure};

/// A process that does not outlive its handle.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guarded {
    /// Waits for its end, but not for ever.
    fn wait(&mut self, stop: &Stop) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            stop.check()?;
            let ended = self.0.try_wait().map_err(|e| Failure::io("a process of the demo", &e))?;
            if let Some(status) = ended {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::new(Exit::Other, "a process of the demo does not end"))
    }
}

/// This program with other arguments, its state in a folder of the demo, and no way to take part of the terminal: ^C is
/// for the demo, which ends its children.
fn metra(state: &Path, log: File) -> Result<Command, Failure> {
    let exe = std::env::current_exe().map_err(|e| Failure::io("this program", &e))?;
    let mut command = Command::new(exe);
    command
        .env("METRA_STATE", state)
        // What the user has configured is for other gateways.
        .env("METRA_CONFIG", "/dev/null")
        .env_remove("METRA_TOKEN")
        .stdin(Stdio::null())
        .stderr(log)
        .process_group(0);
    Ok(command)
}

fn spawn(command: &mut Command) -> Result<Guarded, Failure> {
    command.spawn().map(Guarded).map_err(|e| Failure::io("start a process of the demo", &e))
}

fn log(folder: &Path, name: &str) -> Result<File, Failure> {
    let path = folder.join(name);
    File::options().create(true).append(true).open(&path).map_err(|e| Failure::io(path.display(), &e))
}

/// The last lines of a log, for a failure.
fn tail(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// `metra serve`.
pub(super) struct Gateway {
    child: Guarded,
    address: String,
    folder: PathBuf,
    root: PathBuf,
    state: PathBuf,
}

impl Gateway {
    /// Starts it on a free port of loopback, and waits until it accepts connections.
    pub(super) fn start(folder: &Path, root: &Path, state: &Path, stop: &Stop) -> Result<Self, Failure> {
        let (child, address) = launch(folder, root, state, "127.0.0.1:0", stop)?;
        let [folder, root, state] = [folder, root, state].map(Path::to_owned);
        Ok(Self { child, address, folder, root, state })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Ends it without a word, and starts another one in its place.
    pub(super) fn kill_and_restart(&mut self, stop: &Stop) -> Result<(), Failure> {
        let failed = |e| Failure::io("kill the gateway", &e);
        self.child.0.kill().and_then(|()| self.child.0.wait()).map_err(failed)?;
        let (child, _) = launch(&self.folder, &self.root, &self.state, &self.address, stop)?;
        self.child = child;
        Ok(())
    }

    /// Asks it to end, as a service manager does.
    pub(super) fn end(mut self, stop: &Stop) -> Result<(), Failure> {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|e| Failure::io("end the gateway", &e.into()))?;
        let status = self.child.wait(stop)?;
        if status.success() {
            return Ok(());
        }
        let log = tail(&self.folder, GATEWAY_LOG);
        Err(Failure::new(Exit::Other, format!("the gateway has ended with {status}:\n{log}")))
    }
}

const GATEWAY_LOG: &str = "gateway.log";
const CLIENT_LOG: &str = "client.log";

fn launch(
    folder: &Path,
    root: &Path,
    state: &Path,
    listen: &str,
    stop: &Stop,
) -> Result<(Guarded, String), Failure> {
    let ready = folder.join("ready");
    // That of a gateway before this one says nothing.
    let _ = fs::remove_file(&ready);
    let mut command = metra(state, log(folder, GATEWAY_LOG)?)?;
    command.args(["serve", "--listen", listen, "--root"]).arg(root).arg("--ready-file").arg(&ready);
    let mut child = spawn(command.stdout(Stdio::null()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        stop.check()?;
        if let Ok(text) = fs::read_to_string(&ready)
            && let Some(address) = text.lines().next()
        {
            return Ok((child, address.to_owned()));
        }
        let ended = child.0.try_wait().ok().flatten().is_some();
        if ended || Instant::now() > deadline {
            let log = tail(folder, GATEWAY_LOG);
            return Err(Failure::new(Exit::Other, format!("the gateway does not start:\n{log}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What it takes to run clients.
pub(super) struct Clients<'a> {
    pub(super) folder: &'a Path,
    pub(super) state: &'a Path,
    pub(super) stop: &'a Stop,
    /// Which way they may use.
    pub(super) via: &'static str,
}

/// What is to become of a client whose progress was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    Go,
    /// SIGKILL.
    Kill,
}

/// What a client has said.
pub(super) struct Run {
    summary: Option<Value>,
    progress: Option<Progress>,
    killed: bool,
    failure: Option<Failure>,
}

/// One JSON object of progress.
pub(super) struct Progress(Value);

impl Progress {
    fn of(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or(0)
    }

    /// Whether a transfer of `size` bytes is half done.
    pub(super) fn is_half(&self, size: u64) -> bool {
        self.of("verified") >= size / 2
    }

    /// How much of `size` bytes has arrived and is verified.
    pub(super) fn percent(&self, size: u64) -> u64 {
        self.of("verified") * 100 / size.max(1)
    }
}

impl Clients<'_> {
    /// Runs one, and lets `watch` look at its progress.
    pub(super) fn run(
        &self,
        command: &str,
        words: &[&Path],
        mut watch: impl FnMut(&Progress) -> Result<Watched, Failure>,
    ) -> Result<Run, Failure> {
        let mut process = metra(self.state, log(self.folder, CLIENT_LOG)?)?;
        process
            .args([command, "--json", "--json-interval", "0", "--via", self.via, "--"])
            .args(words.iter().map(|w| w.as_os_str()));
        let mut child = spawn(process.stdout(Stdio::piped()))?;
        let lines = lines(&mut child.0);
        let mut run = Run { summary: None, progress: None, killed: false, failure: None };
        loop {
            self.stop.check()?;
            let line = match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            match event["event"].as_str() {
                Some("summary") => run.summary = Some(event),
                Some("progress") if !run.killed => {
                    let progress = Progress(event);
                    if watch(&progress)? == Watched::Kill {
                        child.0.kill().map_err(|e| Failure::io("kill the client", &e))?;
                        run.killed = true;
                    }
                    run.progress = Some(progress);
                }
                _ => {}
            }
        }
        let status = child.wait(self.stop)?;
        if status.success() {
            // It was over before the signal came.
            run.killed = false;
        } else if !run.killed {
            let log = tail(self.folder, CLIENT_LOG);
            run.failure =
                Some(Failure::new(Exit::Other, format!("metra {command} has ended with {status}:\n{log}")));
        }
        Ok(run)
    }
}

/// The lines that a child writes, read by a thread of its own. At most some are held.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = sync_channel(64);
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

impl Run {
    pub(super) fn is_killed(&self) -> bool {
        self.killed
    }

    /// The run, if it was successful to its end.
    pub(super) fn finished(self) -> Result<Self, Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None if self.killed || self.summary.is_none() => {
                Err(Failure::new(Exit::Other, "a client said nothing"))
            }
            None => Ok(self),
        }
    }

    /// How much of `size` bytes was verified when it was last heard of.
    pub(super) fn percent(&self, size: u64) -> u64 {
        self.progress.as_ref().map_or(0, |progress| progress.percent(size))
    }

    /// What is known last.
    fn value(&self, key: &str) -> &Value {
        let last = self.summary.as_ref().or(self.progress.as_ref().map(|progress| &progress.0));
        last.map_or(&Value::Null, |last| &last[key])
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        // A run that was killed has no sum; what is verified is the nearest to it.
        let key = if self.summary.is_none() && key == "bytes" { "verified" } else { key };
        self.value(key).as_u64()
    }

    pub(super) fn float(&self, key: &str) -> Option<f64> {
        self.value(key).as_f64()
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.value(key).as_str()
    }

    /// Bytes on the way in this run.
    pub(super) fn moved(&self) -> Option<u64> {
        self.value("sent").as_u64().or(self.value("received").as_u64())
    }

    /// The kinds of links that were used; of MASQUE, which has two ways, the way.
    pub(super) fn links(&self) -> Option<String> {
        let links = self.value("links").as_array()?.iter().filter_map(Value::as_str);
        let ladder = self.value("ladder").as_array().into_iter().flatten();
        let used =
            ladder.filter(|tried| tried["outcome"] == "used").filter_map(|tried| tried["rung"].as_str());
        let tunnel = used.rev().find(|rung| rung.starts_with("masque")).unwrap_or("masque");
        let names: Vec<&str> = links.map(|link| if link == "masque" { tunnel } else { link }).collect();
        Some(names.join(" "))
    }

    #[cfg(test)]
    pub(super) fn for_tests(summary: Option<Value>, progress: Option<Value>) -> Self {
        Self { summary, progress: progress.map(Progress), killed: false, failure: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn half_is_what_has_arrived() {
        let half = |verified: u64| Progress(json!({ "verified": verified, "sent": 99 })).is_half(100);
        assert!(!half(49) && half(50));
        assert_eq!(Progress(json!({ "verified": 41 })).percent(100), 41);
        assert_eq!(Progress(json!({})).percent(0), 0);
    }

    #[test]
    fn a_tunnel_is_called_by_its_way() {
        let links = |links: Value, rung: &str| {
            let ladder =
                json!([{ "rung": "quic", "outcome": "skipped" }, { "rung": rung, "outcome": "used" }]);
            Run::for_tests(Some(json!({ "links": links, "ladder": ladder })), None).links().unwrap()
        };
        assert_eq!(links(json!(["masque"]), "masque-tcp"), "masque-tcp");
        assert_eq!(links(json!(["masque", "quic"]), "masque"), "masque quic");
        assert_eq!(links(json!(["tls"]), "tls"), "tls");
    }

    #[test]
    fn a_run_without_a_summary_is_not_finished() {
        assert!(Run::for_tests(None, Some(json!({}))).finished().is_err());
        assert!(Run::for_tests(Some(json!({})), None).finished().is_ok());
    }
}
