//! `metra serve`: configuration, log, signals.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metra_gateway::config::{Anonymous, Audit, Config, LogFormat, OneOrMany, RawConfig};
use metra_gateway::{Gateway, StartError};
use metra_transport::Rt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::session;
use crate::args::ServeArgs;
use crate::exit::{Exit, Failure};
use crate::{log, state};

/// What a gateway that ends may take to journal what is in flight.
const GRACE: Duration = Duration::from_secs(30);

pub(super) fn run(args: ServeArgs) -> Result<Exit, Failure> {
    let ready_file = args.ready_file.clone();
    let config = configure(args.clone())?;
    start_log(&config)?;
    raise_files();
    session::block_on(serve(args, config, ready_file))
}

/// The file, what the command line says instead, and the checks.
fn configure(args: ServeArgs) -> Result<Config, Failure> {
    let wrong = |e: metra_gateway::config::ConfigErrors| Failure::usage(e.to_string());
    let mut raw = match &args.config {
        Some(file) => RawConfig::load(file).map_err(wrong)?,
        None => RawConfig::default(),
    };
    if !args.listen.is_empty() {
        raw.listen = Some(OneOrMany::Many(args.listen));
    }
    raw.state = args.state.or(raw.state);
    raw.root = args.root.or(raw.root);
    // A file that says nothing of the root is more likely a mistake than a wish for the current directory.
    if raw.root.is_none() && args.config.is_none() {
        raw.root = Some(".".into());
    }
    let default_state = match &raw.state {
        Some(state) => state.clone(),
        None => state::gateway()?,
    };
    raw.validate(&default_state).map_err(wrong)
}

fn start_log(config: &Config) -> Result<(), Failure> {
    // The gateway's own crates at the level asked for, the libraries below it only when something is wrong.
    let default = format!("warn,metra={}", config.log.level.name());
    let filter = log::asked_for()?.unwrap_or_else(|| EnvFilter::new(default));
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only if there is a log already.
    let _ = match config.log.format {
        LogFormat::Text => logger.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logger.json().try_init(),
    };
    Ok(())
}

/// As many files as the system lets us have: what is given to programs by itself (1024, mostly) is for those that use select(2).
fn raise_files() {
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        let all = Rlimit { current: files.maximum, ..files };
        if let Err(error) = setrlimit(Resource::Nofile, all) {
            tracing::debug!(%error, "no more files are to be had");
        }
    }
}

async fn serve(args: ServeArgs, config: Config, ready_file: Option<PathBuf>) -> Result<Exit, Failure> {
    let words = Words::of(&config);
    let json = config.log.format == LogFormat::Json;
    // From here on a signal is heard, however early it comes.
    let first = session::signalled();
    tokio::pin!(first);
    let gateway = tokio::select! {
        started = Gateway::start(Rt::tokio(), config) => started.map_err(not_started)?,
        exit = &mut first => return Err(Failure::new(exit, "ended before it was ready")),
    };
    let (addresses, pin) = (gateway.local_addrs(), gateway.pin().to_string());
    if json {
        let listen: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        tracing::info!(listen = listen.join(" "), root = words.root, state = words.state, pin, "ready");
    } else {
        eprint!("{}", words.banner(&addresses, &pin));
    }
    if let Some(file) = ready_file {
        write_ready(&file, &addresses).map_err(|e| Failure::io(file.display(), &e))?;
    }
    let hangups = hangups(&gateway, &args);
    tokio::select! {
        _ = first => {}
        () = hangups => {}
    }
    if !json {
        eprintln!("metra: shutting down; what is in flight is journaled (again: at once)");
    }
    tokio::select! {
        () = gateway.shutdown(GRACE) => Ok(Exit::Ok),
        exit = session::signalled() => Err(Failure::new(exit, "ended at once")),
    }
}

/// Reads the policies again at each SIGHUP, and of the configuration what may change while the gateway runs; never ends.
async fn hangups(gateway: &Gateway, args: &ServeArgs) {
    // Without a handler the signal does what it always does.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return std::future::pending().await };
    while hangup.recv().await.is_some() {
        gateway.reload();
        match configure(args.clone()) {
            Ok(config) => {
                gateway.shape(config.shaping);
                tracing::info!(
                    "tenants and rates read again; all else in the configuration needs a new start"
                );
            }
            Err(failure) => {
                for error in failure.message.lines() {
                    tracing::error!(
                        error,
                        "the configuration is wrong; what was there before stays in force"
                    );
                }
            }
        }
    }
    std::future::pending().await
}

fn not_started(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Certificates(_)
        | StartError::Root { .. }
        | StartError::Identities { .. }
        | StartError::Policies(_)
        | StartError::Audit(_) => Exit::Usage,
        StartError::Catalogue(_) => Exit::Fatal,
        StartError::Listen { .. } | StartError::Metrics(_) => Exit::Other,
    };
    Failure::new(exit, error.to_string())
}

/// Whole or not at all: somebody waits for it.
fn write_ready(file: &Path, addresses: &[SocketAddr]) -> std::io::Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    for address in addresses {
        writeln!(temporary, "{address}")?;
    }
    temporary.persist(file)?;
    Ok(())
}

/// What is said of the configuration.
struct Words {
    root: String,
    state: String,
    development_ca: Option<PathBuf>,
    who: String,
    metrics: Option<SocketAddr>,
    /// Where the audit trail goes; empty: nowhere.
    audit: String,
    transports: &'static str,
}

impl Words {
    fn of(config: &Config) -> Self {
        let users = config.users.iter().count();
        let users = match users {
            0 => String::new(),
            n => crate::output::count(n as u64, "user", "users"),
        };
        let anyone = match config.anonymous {
            Anonymous::Loopback => "anyone on this machine (not over the network)",
            Anonymous::Never => "",
        };
        let who =
            [anyone, &users].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(", ");
        Self {
            root: config.root.display().to_string(),
            state: config.state.display().to_string(),
            development_ca: config
                .tls
                .files
                .is_none()
                .then(|| config.state.join(metra_certs::DevCa::CERT_FILE)),
            who,
            metrics: config.metrics_listen,
            audit: audit(&config.audit),
            transports: if config.tcp.listen { "UDP and TCP" } else { "UDP" },
        }
    }

    fn banner(&self, addresses: &[SocketAddr], pin: &str) -> String {
        let mut text = String::from("metra gateway\n");
        for address in addresses {
            text.push_str(&format!("  listens on  {address} ({})\n", self.transports));
        }
        text.push_str(&format!("  serves      {}\n  to          {}\n", self.root, self.who));
        text.push_str(&format!("  state       {}\n  key         {pin}\n", self.state));
        if let Some(address) = self.metrics {
            text.push_str(&format!("  metrics     http://{address}/metrics\n"));
        }
        if !self.audit.is_empty() {
            text.push_str(&format!("  audit       {}\n", self.audit));
        }
        let port = addresses.first().map_or(0, SocketAddr::port);
        let is_open = addresses.iter().any(|a| !a.ip().is_loopback());
        // A client finds the development authority by itself only in the usual place.
        let is_usual = state::gateway().is_ok_and(|usual| usual == Path::new(&self.state));
        let here = match &self.development_ca {
            Some(ca) if !is_usual => format!(" --ca {}", ca.display()),
            _ => String::new(),
        };
        text.push_str(&format!("try\n  metra ls mtp://127.0.0.1:{port}/{here}\n"));
        text.push_str(&format!("  metra send FILE mtp://127.0.0.1:{port}/{here}\n"));
        if is_open && self.development_ca.is_some() {
            text.push_str(&format!("from another machine\n  metra ls mtp://HOST:{port}/ --pin {pin}\n"));
        }
        text
    }
}

/// Where the audit trail goes.
fn audit(config: &Audit) -> String {
    let file = config.file.as_ref().map(|file| file.path.display().to_string());
    let syslog = config.syslog.as_ref().map(|syslog| format!("{} port {}", syslog.host, syslog.port));
    file.into_iter().chain(syslog).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(dir: &Path) -> ServeArgs {
        let state = Some(dir.join("state"));
        ServeArgs { listen: Vec::new(), root: Some(dir.join("root")), state, config: None, ready_file: None }
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "root = 'absent'\nlisten = '127.0.0.1:1'\n[limits]\nsessions = 5").unwrap();
        let listen = vec!["127.0.0.1:2".to_owned(), "[::1]:3".to_owned()];
        let config = configure(ServeArgs { listen, config: Some(file), ..args(dir.path()) }).unwrap();
        assert_eq!(config.listen.iter().map(SocketAddr::port).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((config.root.ends_with("root"), config.limits.sessions), (true, 5));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let listen = vec!["localhost".to_owned()];
        let failure = configure(ServeArgs { listen, ..args(dir.path()) }).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.message.lines().count(), 2, "{}", failure.message);
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "").unwrap();
        let failure =
            configure(ServeArgs { root: None, config: Some(file), ..args(dir.path()) }).unwrap_err();
        assert!(failure.message.contains("root: is required"), "{}", failure.message);
    }

    #[test]
    fn without_anything_it_is_the_current_directory() {
        let dir = tempfile::tempdir().unwrap();
        let config = configure(ServeArgs { root: None, ..args(dir.path()) }).unwrap();
        assert_eq!(config.root, std::env::current_dir().unwrap().canonicalize().unwrap());
        let text = Words::of(&config).banner(&["127.0.0.1:7".parse().unwrap()], "sha256/x");
        assert!(text.contains("mtp://127.0.0.1:7/ --ca ") && !text.contains("another machine"), "{text}");
        assert!(!text.contains("  audit "), "{text}");
        let text = Words::of(&config).banner(&["0.0.0.0:7".parse().unwrap()], "sha256/x");
        assert!(text.contains("mtp://HOST:7/ --pin sha256/x"), "{text}");
    }

    #[test]
    fn it_says_where_the_audit_trail_goes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let file = dir.path().join("c.toml");
        let table = "[audit]\nfile.path = '/trail/audit.log'\nsyslog.address = '[::1]:6514'";
        std::fs::write(&file, table).unwrap();
        let config = configure(ServeArgs { config: Some(file), ..args(dir.path()) }).unwrap();
        let text = Words::of(&config).banner(&["127.0.0.1:7".parse().unwrap()], "sha256/x");
        assert!(text.contains("\n  audit       /trail/audit.log, ::1 port 6514\n"), "{text}");
    }

    #[test]
    fn addresses_are_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ready");
        write_ready(&file, &["127.0.0.1:7".parse().unwrap(), "[::1]:8".parse().unwrap()]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "127.0.0.1:7\n[::1]:8\n");
    }
}
