//! A content scanner as Debian has it: c-icap with its module for clamd, and clamd with a signature of the tests' own.
//!
//! c-icap's module for libclamav reads the database of the system, and no other. clamd reads what it is told to, so that
//! nothing is downloaded, and what is "infected" here is harmless everywhere.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{skip, wait_until};

/// What the signature is for.
pub(crate) const PATTERN: &[u8] = b"METRA-TEST-INFECTION-7f3a";
/// How the scanner calls it.
pub(crate) const NAME: &str = "Metra.Test.Pattern.UNOFFICIAL";

/// Both servers; ended when this is dropped.
pub(crate) struct Scanner {
    /// Where clamd's socket is, whose path must be short.
    dir: TempDir,
    address: SocketAddr,
    clamd: Option<Server>,
    c_icap: Option<Server>,
}

impl Scanner {
    /// Starts both, or skips where they are not installed.
    pub(crate) fn start() -> Self {
        let modules = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        if !modules
            .map(|folder| folder.path().join("c_icap"))
            .any(|at| ["virus_scan.so", "clamd_mod.so"].iter().all(|module| at.join(module).exists()))
        {
            skip("c-icap's modules for clamd are not installed");
        }
        let dir = tempfile::Builder::new().prefix("metra-scan.").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("db")).unwrap();
        let hex: String = PATTERN.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(at("db/test.ndb"), format!("Metra.Test.Pattern:0:*:{hex}\n")).unwrap();
        let path = dir.path().display();
        let clamd = format!(
            "LocalSocket {path}/clamd.sock\nDatabaseDirectory {path}/db\nTemporaryDirectory {path}\nForeground yes\n\
             MaxThreads 4\nMaxScanSize 400M\nMaxFileSize 400M\nStreamMaxLength 400M\n"
        );
        fs::write(at("clamd.conf"), clamd).unwrap();
        let clamd = Server::start(program("clamd").arg("-c").arg(at("clamd.conf")), &at("clamd.log"), || {
            at("clamd.sock").exists()
        });
        // A port that is free now.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let c_icap = format!(
            "PidFile {path}/c-icap.pid\nCommandsSocket {path}/c-icap.ctl\nStartServers 1\nMaxServers 1\n\
             MinSpareThreads 2\nMaxSpareThreads 8\nThreadsPerChild 8\nKeepAliveTimeout 60\nPort {address}\n\
             TmpDir {path}\nServerLog {path}/c-icap.log\nAccessLog {path}/access.log\nDebugLevel 1\n\
             LoadMagicFile /etc/c-icap/c-icap.magic\nTemplateDir /usr/share/c_icap/templates/\n\
             Service antivirus_module virus_scan.so\nServiceAlias scan virus_scan?allow204=on&sizelimit=off&mode=simple\n\
             virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE GIF JPEG MSOFFICE\nvirus_scan.DefaultEngine clamd\n\
             virus_scan.MaxObjectSize 400M\nvirus_scan.PassOnError off\n\
             Module common clamd_mod.so\nclamd_mod.ClamdSocket {path}/clamd.sock\n"
        );
        fs::write(at("c-icap.conf"), c_icap).unwrap();
        let mut scanner = Self { dir, address, clamd: Some(clamd), c_icap: None };
        scanner.restart();
        scanner
    }

    /// Ends c-icap.
    pub(crate) fn stop(&mut self) {
        self.c_icap = None;
    }

    /// Ends clamd, and leaves c-icap without an engine.
    pub(crate) fn stop_engine(&mut self) {
        self.clamd = None;
    }

    /// Starts it again, where it was.
    pub(crate) fn restart(&mut self) {
        let (address, dir) = (self.address, self.dir.path());
        let mut command = program("c-icap");
        command.args(["-N", "-D", "-f"]).arg(dir.join("c-icap.conf"));
        let listens = || TcpStream::connect(address).is_ok();
        let server =
            Server::start(&mut command, &dir.join("c-icap.out"), listens).logs_to(dir.join("c-icap.log"));
        self.c_icap = Some(server);
    }

    /// Where the service is.
    pub(crate) fn url(&self) -> String {
        format!("icap://{}/scan", self.address)
    }
}

/// A process that stays in front, and those it starts.
struct Server {
    child: Child,
    logs: Vec<PathBuf>,
}

impl Server {
    fn start(command: &mut Command, log: &Path, ready: impl Fn() -> bool) -> Self {
        let said = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        // A group of its own: c-icap's children do not end with it.
        let mut server =
            Self { child: command.process_group(0).spawn().unwrap(), logs: vec![log.to_owned()] };
        wait_until("a part of the scanner to be ready", || {
            assert!(server.is_running(), "{command:?} has ended:\n{}", server.log());
            ready()
        });
        server
    }

    fn logs_to(mut self, log: PathBuf) -> Self {
        self.logs.push(log);
        self
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn log(&self) -> String {
        self.logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of a part of the scanner\n{}", self.log());
        }
    }
}

/// A program, or a skip if it is missing. Servers are often where only root looks.
fn program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    Command::new(found.unwrap_or_else(|| skip(format!("{name} is not installed"))))
}
