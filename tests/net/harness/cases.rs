//! A test from both sides: what cargo sees, and the process in the network that does it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use super::Bed;

/// A test by name. It fails by panic.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) test: fn(&Bed),
}

/// The argument that makes this program do one test, in the network that it finds itself in.
pub(crate) const INSIDE: &str = "--inside";

/// A test as cargo sees it.
pub(crate) fn trial(case: Case) -> Trial {
    Trial::ignorable_test(case.name.clone(), move || {
        if let Some(reason) = &*NO {
            return Ok(Completion::ignored_with(reason.clone()));
        }
        run(&case.name)
    })
}

/// Runs a test in a network of its own, and reads how it was.
fn run(name: &str) -> Result<Completion, Failed> {
    let mut builder = tempfile::Builder::new();
    let keep = std::env::var_os("METRA_E2E_KEEP").is_some();
    let prefix = format!("{}.", name.replace("::", "-"));
    let dir = builder.prefix(&prefix).disable_cleanup(keep).tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let log = dir.path().join("log");
    let said = File::create(&log)?;
    let program = std::env::current_exe()?;
    let mut netpath = Command::new(&program);
    netpath.arg0("netpath").args(["--topology", OFFICE, "--in", "client", "--"]);
    netpath.args(["unshare", "--mount", "--propagation", "private", "--"]);
    netpath.arg(&program).args([INSIDE, name]).arg(dir.path());
    for name in ["https_proxy", "http_proxy", "all_proxy", "no_proxy"] {
        netpath.env_remove(name).env_remove(name.to_uppercase());
    }
    // The test ends when its standard input does: with this process, however that ends.
    netpath.stdin(Stdio::piped()).stdout(said.try_clone()?).stderr(said);
    let status = end_of(netpath.spawn()?)?;
    let outcome = fs::read_to_string(dir.path().join("outcome")).unwrap_or_default();
    match outcome.split_once(' ') {
        Some(("done", _)) => Ok(Completion::Completed),
        Some(("skip", reason)) => Ok(Completion::ignored_with(reason)),
        _ => Err(format!("{status}\n{}", fs::read_to_string(log)?).into()),
    }
}

/// Waits until it ends, but not for ever.
fn end_of(mut child: Child) -> std::io::Result<String> {
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(status.to_string()),
            None if start.elapsed() > LIMIT => {
                child.kill()?;
                child.wait()?;
                return Ok(format!("not at its end after {} s", LIMIT.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The process that does one test: writes down how it was.
pub(crate) fn inside(cases: Vec<Case>, name: &str, dir: &Path) -> ExitCode {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let case = cases.into_iter().find(|case| case.name == name).expect("a test of this name");
    let done = catch_unwind(AssertUnwindSafe(|| (case.test)(&Bed::new(dir))));
    let outcome = match done.map_err(|payload| payload.downcast::<Skip>()) {
        Ok(()) => "done ".to_owned(),
        Err(Ok(skip)) => format!("skip {}", skip.0),
        // What it was has been written by the panic.
        Err(Err(_)) => "fail ".to_owned(),
    };
    fs::write(dir.join("outcome"), &outcome).unwrap();
    ExitCode::from(u8::from(outcome == "fail "))
}

/// Ends the test as skipped, with the reason.
pub(crate) fn skip(reason: impl Into<String>) -> ! {
    resume_unwind(Box::new(Skip(reason.into())))
}

struct Skip(String);

/// Why there can be no networks here, if there can be none.
static NO: LazyLock<Option<String>> = LazyLock::new(|| {
    let mut netpath = Command::new(std::env::current_exe().ok()?);
    netpath.arg0("netpath").args(["--", "unshare", "--mount", "true"]);
    match netpath.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) => Some(error.to_string()),
    }
});

const OFFICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/net/office.toml");

/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(100);
