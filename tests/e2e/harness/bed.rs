//! A place for one test: a temporary directory and what stands in it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Completion, Failed, Trial};
use tempfile::TempDir;

use super::{Gateway, Relay, run};

/// The place of one test. Everything in it goes away with it, unless `METRA_E2E_KEEP` is set.
pub(crate) struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new(name: &str) -> Self {
        let prefix = format!("{}.", name.replace("::", "-"));
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).disable_cleanup(std::env::var_os("METRA_E2E_KEEP").is_some());
        let dir = builder.tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        Self { dir }
    }

    /// A path in the bed; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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

    /// A gateway that serves `root` in the bed without configuration.
    pub(crate) fn gateway(&self) -> Gateway {
        self.gateway_with("")
    }

    /// A gateway with lines of configuration. `root` and `state` are given already; paths are relative to the bed.
    pub(crate) fn gateway_with(&self, config: &str) -> Gateway {
        self.gateway_on("127.0.0.1:0", config)
    }

    /// As [`gateway_with`](Self::gateway_with), on another address.
    pub(crate) fn gateway_on(&self, listen: &str, config: &str) -> Gateway {
        Gateway::start(self, listen, config, None)
    }

    /// A gateway that can write so many KiB to a file, and no more, until it is started again.
    pub(crate) fn gateway_limited(&self, kib: u64) -> Gateway {
        Gateway::start(self, "127.0.0.1:0", "", Some(kib))
    }

    /// A path to the gateway of so many bytes per second.
    pub(crate) fn relay(&self, gateway: &Gateway, rate: u64) -> Relay {
        Relay::start(gateway.address(), rate)
    }

    /// The `metra` command with the bed's client state.
    pub(crate) fn metra<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> run::Run {
        run::Run::new(&self.path("client-state"), args)
    }

    /// As [`metra`](Self::metra), trusting the development authority of the gateway and saying all in JSON.
    pub(crate) fn client<A: AsRef<std::ffi::OsStr>>(
        &self,
        gateway: &Gateway,
        args: impl IntoIterator<Item = A>,
    ) -> run::Run {
        let mut args = args.into_iter();
        let verb = args.next();
        self.metra(verb).arg("--json").arg("--ca").arg(gateway.ca()).args(args)
    }
}

/// A file system mounted in a bed, gone with this.
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// A tmpfs of so many bytes, or a skip where that is not allowed.
    pub(crate) fn tmpfs(at: &Path, bytes: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={bytes},mode=755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "metra-e2e"]).arg(at);
        match mount.output() {
            Ok(output) if output.status.success() => Self { at: at.to_owned() },
            Ok(output) => skip(format!(
                "a tmpfs cannot be mounted here (needs root): {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(e) => skip(format!("mount: {e}")),
        }
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.at).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Ends the test as skipped, with the reason.
pub(crate) fn skip(reason: impl Into<String>) -> ! {
    resume_unwind(Box::new(Skip(reason.into())))
}

struct Skip(String);

/// One test by name: it runs in a bed of its own and fails by panic.
pub(crate) fn test_as(name: String, test: fn(&Bed)) -> Trial {
    Trial::ignorable_test(name.clone(), move || {
        let bed = Bed::new(&name);
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
