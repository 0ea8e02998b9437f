//! What the tests stand on: a directory each, and runs of `netpath` that cannot last for ever.

use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use libtest_mimic::{Completion, Failed, Trial};
use tempfile::TempDir;

/// The place of one test.
pub(crate) struct Bed(TempDir);

impl Bed {
    /// A path in it; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file in it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The statistics that were written to `stats.json`.
    pub(crate) fn stats(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("stats.json")).unwrap()).unwrap()
    }

    /// `netpath` with some of its options; it is to run a command in a shell.
    pub(crate) fn netpath(&self, options: &[&str]) -> Netpath {
        ready();
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpath"));
        command.current_dir(self.0.path()).args(options);
        Netpath(command)
    }
}

/// A run that is to come.
pub(crate) struct Netpath(Command);

impl Netpath {
    /// One more option and its values.
    pub(crate) fn with<A: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = A>) -> Self {
        self.0.args(words);
        self
    }

    /// An environment variable for the commands.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Starts it with a command for the shell.
    pub(crate) fn start(mut self, command: &str) -> Child {
        self.0.args(["--", "sh", "-c", command]).stdin(Stdio::null());
        self.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs it with a command for the shell.
    pub(crate) fn run(self, command: &str) -> Said {
        Said::of(&self.start(command).wait_with_output().unwrap())
    }
}

/// What a run has to say.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What it wrote, after it succeeded.
    pub(crate) fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }
}

/// Ends the test as skipped if a program is missing.
pub(crate) fn needs(program: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        skip(format!("{program} is not installed"));
    }
}

/// Ends the test as skipped if no network can be made here: without root, without TUN, or in a container that may not.
fn ready() {
    static NO: LazyLock<Option<String>> = LazyLock::new(|| {
        if !Path::new("/dev/net/tun").exists() {
            return Some("/dev/net/tun is missing".into());
        }
        let said =
            Said::of(&Command::new(env!("CARGO_BIN_EXE_netpath")).args(["--", "true"]).output().unwrap());
        let reasons = ["needs root", "no process namespace", "ip (iproute2) is missing"];
        let known = reasons.iter().any(|reason| said.err.contains(reason));
        (said.code == Some(2) && known).then(|| said.err.trim().replace('\n', "; "))
    });
    if let Some(reason) = &*NO {
        skip(reason.clone());
    }
}

/// Ends the test as skipped, with the reason.
fn skip(reason: String) -> ! {
    resume_unwind(Box::new(Skip(reason)))
}

struct Skip(String);

/// One test by name: it fails by panic.
pub(crate) fn test_as(name: String, test: fn(&Bed)) -> Trial {
    Trial::ignorable_test(name, move || {
        let bed = Bed(tempfile::tempdir()?);
        match catch_unwind(AssertUnwindSafe(|| test(&bed))) {
            Ok(()) => Ok(Completion::Completed),
            Err(payload) => match payload.downcast::<Skip>() {
                Ok(skip) => Ok(Completion::ignored_with(skip.0)),
                Err(payload) => Err(Failed::from(text_of(payload.as_ref()))),
            },
        }
    })
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "panicked".to_owned(),
    }
}
