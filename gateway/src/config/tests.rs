#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metra_certs::TokenHash;
use proptest::prelude::*;
use tempfile::TempDir;

use super::check::BOUNDS;
use super::*;

const TOKEN: &str = "0123456789abcdef";

/// A directory with `root/`, `root/in/`, and files that can be named in a configuration.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("root/in")).unwrap();
        for file in ["cert.pem", "key.pem", "ca.pem", "id-ca.pem", "jwks.json", "office.cedar"] {
            fs::write(place.path(file), "").unwrap();
        }
        for file in ["token", "root/file"] {
            fs::write(place.path(file), format!("{TOKEN}\n")).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, text: &str) -> Result<Config, ConfigErrors> {
        let file = self.path("gateway.toml");
        fs::write(&file, text).unwrap();
        let env = |name: &str| (name == "TOKEN").then(|| TOKEN.to_owned());
        RawConfig::load(&file)?.validate_with(&self.path("state"), &env)
    }

    /// The errors as `LINE KEY: MESSAGE`.
    fn errors(&self, text: &str) -> Vec<String> {
        let errors = self.load(text).unwrap_err();
        assert!(errors.to_string().contains("gateway.toml"));
        let line = |e: &ConfigError| e.line.map_or("-".to_owned(), |l| l.to_string());
        errors.errors.iter().map(|e| format!("{} {}: {}", line(e), e.key, e.message)).collect()
    }
}

fn user(rest: &str) -> String {
    format!("root = 'root'\n[users.alice]\n{rest}")
}

#[test]
fn only_the_root_is_required() {
    let place = Place::new();
    let config = place.load("root = 'root'").unwrap();
    assert_eq!(config.listen, ["127.0.0.1:4443".parse().unwrap()]);
    assert_eq!(config.root, fs::canonicalize(place.path("root")).unwrap());
    assert_eq!(config.state, place.path("state"));
    assert_eq!(config.tls, Tls { files: None, client_ca: None });
    assert_eq!(config.anonymous, Anonymous::Loopback);
    assert!(config.users.is_empty() && config.metrics_listen.is_none());
    assert_eq!(config.limits.jobs_per_session, metra_core::limits::JOBS_MAX);
    assert_eq!((config.limits.sessions_per_user, config.limits.sessions_per_address), (64, 256));
    assert_eq!((config.limits.jobs_per_user, config.limits.jobs_per_address), (256, 256));
    let windows = (config.quic.receive_window, config.quic.send_window);
    assert_eq!((windows, config.quic.congestion), ((512 << 20, 512 << 20), None));
    assert!(config.quic.remember_paths);
    assert_eq!(config.rates, Rates { low: true, high: false, fixed: 0 });
    assert_eq!(config.quic.mtu, 8952);
    assert!(!config.tunnel.is_enabled() && config.tunnel.dangerous.is_empty());
    let numbers = (config.tunnel.tunnels, config.tunnel.tunnels_per_address, config.tunnel.rate);
    assert_eq!((numbers, config.tunnel.idle.as_secs()), ((4096, 256, 0), 120));
    assert_eq!(config.tunnel.lifetime.as_secs(), 86_400);
    let peer = (config.tunnel.tunnels_per_user, config.tunnel.peer_rate, config.tunnel.peer_datagrams);
    assert_eq!(peer, (1024, 0, 0));
    assert!(!config.audit.is_enabled());
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });
    assert_eq!(place.errors(""), ["- root: is required: the directory that clients see as /"]);
}

#[test]
fn everything_can_be_set() {
    let place = Place::new();
    let text = "
        listen = ['0.0.0.0:1', '[::]:1']
        root = 'root'
        state = 'elsewhere'
        anonymous = 'loopback'
        metrics_listen = '127.0.0.1:9100'
        tls = { cert = 'cert.pem', key = 'key.pem', client_ca = 'ca.pem' }
        [users.alice]
        token_file = 'token'
        cert_names = ['alice.example']
        write = false
        tunnel = false
        home = 'in'
        [users.'bob@example']
        token_hash = 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
        [limits]
        sessions_per_address = 8
        jobs_per_user = 5
        jobs_per_address = 6
        idle_seconds = 7
        receive_memory_mib = 20
        [quic]
        congestion = 'bbr'
        remember_paths = false
        [rates]
        low = false
        high = true
        fixed_mbit = 900
        [tunnel]
        allow = ['*.Example.org:443,8000-8999', '[2620:fe::/48]:53', '10.1.0.0/16:*']
        dangerous_ranges = ['10.0.0.0/8']
        tunnels = 10
        lifetime_seconds = 60
        rate_mbit = 20
        tunnels_per_user = 9
        peer_rate_mbit = 50
        peer_datagrams = 7000
        [audit]
        on_failure = 'refuse'
        file = { path = 'audit.log', format = 'cef', max_mib = 2, max_hours = 0, keep = 3, sync_seconds = 0 }
        [audit.syslog]
        address = '[2001:db8::1]:6514'
        ca = 'ca.pem'
        cert = 'cert.pem'
        key = 'key.pem'
        [log]
        format = 'json'
        level = 'debug'
        ";
    let config = place.load(text).unwrap();
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.state, place.path("elsewhere"));
    assert_eq!(
        config.tls.files,
        Some(CertificateFiles { cert: place.path("cert.pem"), key: place.path("key.pem") })
    );
    let alice = config.users.by_token(TOKEN).unwrap();
    assert_eq!((alice.name.as_str(), alice.read, alice.write), ("alice", true, false));
    assert!(!alice.tunnel);
    assert_eq!(alice.home, fs::canonicalize(place.path("root/in")).unwrap());
    let bob = config.users.by_token("abc").unwrap();
    assert_eq!((bob.name.as_str(), &bob.home), ("bob@example", &config.root));
    assert!(bob.tunnel);
    assert!(config.users.by_token("").is_none() && config.users.by_name("carol").is_none());
    assert_eq!((config.limits.idle.as_secs(), config.limits.receive_memory), (7, 20 << 20));
    let limits = config.limits;
    assert_eq!((limits.sessions_per_address, limits.jobs_per_user, limits.jobs_per_address), (8, 5, 6));
    assert_eq!((config.quic.congestion, config.quic.remember_paths), (Some(Congestion::Bbr), false));
    assert_eq!(config.rates, Rates { low: false, high: true, fixed: 900_000_000 });
    let allow: Vec<String> = config.tunnel.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["*.example.org:443,8000-8999", "[2620:fe::/48]:53", "10.1.0.0/16:*"]);
    assert_eq!((config.tunnel.tunnels, config.tunnel.tunnels_per_address), (10, 10));
    assert_eq!((config.tunnel.lifetime.as_secs(), config.tunnel.rate), (60, 20_000_000));
    let peer = (config.tunnel.tunnels_per_user, config.tunnel.peer_rate, config.tunnel.peer_datagrams);
    assert_eq!(peer, (9, 50_000_000, 7000));
    let audit = AuditFile {
        path: place.path("audit.log"),
        format: AuditFormat::Cef,
        max_size: 2 << 20,
        max_age: None,
        keep: 3,
        sync: Duration::ZERO,
    };
    assert_eq!((config.audit.on_failure, config.audit.file), (OnFailure::Refuse, Some(audit)));
    let syslog = config.audit.syslog.unwrap();
    assert_eq!((syslog.host.as_str(), syslog.port, syslog.format), ("2001:db8::1", 6514, AuditFormat::Json));
    assert_eq!(
        (syslog.ca, syslog.identity.map(|i| i.key)),
        (Some(place.path("ca.pem")), Some(place.path("key.pem")))
    );
    let rules = config.tunnel.rules(Own::default());
    let target = "10.1.2.3:443".parse().unwrap();
    let host = metra_policy::Host::parse("10.1.2.3").unwrap();
    assert!(rules.name(&host, 443).unwrap().address(target).is_ok());
    assert_eq!((config.log.format, config.log.level.name()), (LogFormat::Json, "debug"));
}

#[test]
fn all_errors_come_together_in_the_order_of_the_file() {
    let text = "listen = 'localhost'
frob = 1
root = 'root'
[users.alice]
token_hash = 'secret'
read = 'yes'
[limits]
sessions = 0
entries = -1
[nonsense]
x = 1
[log]
level = 'loud'";
    let errors = Place::new().errors(text);
    let starts = [
        "1 listen: \"localhost\" is not IP:PORT",
        "2 frob: unknown field `frob`",
        "5 users.alice.token_hash: not the hash of a token",
        "6 users.alice.read: invalid type: string \"yes\", expected a boolean",
        "8 limits.sessions: is 0, and must be 1 to 100000",
        "9 limits.entries: invalid value: integer `-1`",
        "11 nonsense.x: unknown field `nonsense`",
        "13 log.level: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, `trace`",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error:?} should start with {start:?}");
    }
}

#[test]
fn each_error_names_its_key() {
    let place = Place::new();
    std::os::unix::fs::symlink("/", place.path("root/out")).unwrap();
    fs::write(place.path("short"), "short").unwrap();
    fs::write(place.path("lines"), format!("{TOKEN}\n{TOKEN}\n")).unwrap();
    let hash = TokenHash::of(TOKEN);
    let long = "x".repeat(65);
    let cases = [
        ("root = 'absent'".to_owned(), "1 root: "),
        ("root = 'token'".to_owned(), "1 root: "),
        ("root = { a = 1 }".to_owned(), "1 root.a: "),
        ("root = 3".to_owned(), "1 root: "),
        ("root = 'root'\nlisten = []".to_owned(), "2 listen: is an empty list"),
        ("root = 'root'\nlisten = 3".to_owned(), "2 listen: expected a text or a list of texts"),
        (
            "root = 'root'\nlisten = ['1.2.3.4:1', '1.2.3.4:1']".to_owned(),
            "2 listen: 1.2.3.4:1 is listed twice",
        ),
        ("root = 'root'\nlisten = ':4443'".to_owned(), "2 listen: \":4443\" is not"),
        ("root = 'root'\nmetrics_listen = 'x'".to_owned(), "2 metrics_listen: "),
        ("root = 'root'\nmetrics_listen = '127.0.0.1:4443'".to_owned(), "2 metrics_listen: "),
        ("root = 'root'\nstate = 'token'".to_owned(), "2 state: "),
        ("root = 'root'\nstate = 'root'".to_owned(), "2 state: "),
        ("root = 'root'\nstate = 'root/not/yet'".to_owned(), "2 state: "),
        ("root = 'root'\nstate = 'state/../root/x'".to_owned(), "2 state: "),
        ("root = 'root'\ntls.cert = 'cert.pem'".to_owned(), "2 tls.key: is missing"),
        ("root = 'root'\ntls.key = 'key.pem'".to_owned(), "2 tls.cert: is missing"),
        ("root = 'root'\ntls = { cert = 'absent', key = 'key.pem' }".to_owned(), "2 tls.cert: "),
        ("root = 'root'\ntls = { cert = 'cert.pem', key = 'absent' }".to_owned(), "2 tls.key: "),
        ("root = 'root'\ntls = { cert = 'cert.pem', key = 'root/file' }".to_owned(), "2 tls.key: "),
        ("root = 'root'\ntls.client_ca = 'root'".to_owned(), "2 tls.client_ca: "),
        ("root = 'root'\ntls = { cert = 'cert.pem', key = 3 }".to_owned(), "2 tls.key: "),
        (user("cert_names = ['a']\n[tls]\nclient_ca = 3"), "5 tls.client_ca: "),
        (user("token_hash = 3\nread = true"), "3 users.alice.token_hash: "),
        ("root = 'root'\nanonymous = 'never'\nusers.alice.frob = 1".to_owned(), "3 users.alice.frob: "),
        ("root = 'root'\nanonymous = 'always'".to_owned(), "2 anonymous: unknown variant `always`"),
        ("root = 'root'\nanonymous = 'never'".to_owned(), "2 anonymous: "),
        ("root = 'root'\nusers = 3".to_owned(), "2 users: "),
        (user(""), "2 users.alice: needs token_hash"),
        (user("read = true"), "2 users.alice: needs token_hash"),
        (user("token = 'x'"), "3 users.alice.token: unknown field `token`"),
        (user("token_hash = 'blake3:00'"), "3 users.alice.token_hash: "),
        (user("token_file = 'absent'"), "3 users.alice.token_file: "),
        (user("token_file = 'short'"), "3 users.alice.token_file: a token is 16 to 4096"),
        (user("token_file = 'lines'"), "3 users.alice.token_file: a token is 16 to 4096"),
        (user("token_file = 'root/file'"), "3 users.alice.token_file: "),
        (
            user("token_env = 'ABSENT'"),
            "3 users.alice.token_env: the environment variable \"ABSENT\" is not set",
        ),
        (user("token_env = 'TOKEN'\ntoken_file = 'token'"), "2 users.alice: token_hash, token_file"),
        (user("cert_names = ['a']"), "3 users.alice.cert_names: needs tls.client_ca"),
        (user("cert_names = ['']\n[tls]\nclient_ca = 'ca.pem'"), "3 users.alice.cert_names: has an empty"),
        (user("token_env = 'TOKEN'\nread = false\nwrite = false"), "2 users.alice: may neither"),
        (user("token_env = 'TOKEN'\nhome = '/in'"), "4 users.alice.home: "),
        (user("token_env = 'TOKEN'\nhome = '../in'"), "4 users.alice.home: "),
        (user("token_env = 'TOKEN'\nhome = ''"), "4 users.alice.home: "),
        (user("token_env = 'TOKEN'\nhome = 'absent'"), "4 users.alice.home: "),
        (user("token_env = 'TOKEN'\nhome = 'file'"), "4 users.alice.home: "),
        (user("token_env = 'TOKEN'\nhome = 'out/tmp'"), "4 users.alice.home: leads out of root"),
        (
            user(&format!("token_hash = '{hash}'\n[users.bob]\ntoken_file = 'token'")),
            "4 users.bob: has the same token",
        ),
        (
            user("cert_names = ['a']\n[users.bob]\ncert_names = ['b', 'a']\n[tls]\nclient_ca = 'ca.pem'"),
            "5 users.bob.cert_names: \"a\" is also a name of users.alice",
        ),
        ("root = 'root'\n[users.'a b']\ntoken_env = 'TOKEN'".to_owned(), "2 users.\"a b\": a user's name is"),
        (format!("root = 'root'\n[users.{long}]\ntoken_env = 'TOKEN'"), "2 users.xxx"),
        ("root = 'root'\nquic.congestion = 'reno'".to_owned(), "2 quic.congestion: unknown variant `reno`"),
        ("root = 'root'\ntunnel.allow = 'example.org:443'".to_owned(), "2 tunnel.allow: invalid type"),
        (
            "root = 'root'\ntunnel.allow = ['*:*', 'a.example']".to_owned(),
            "2 tunnel.allow: \"a.example\" is not",
        ),
        ("root = 'root'\ntunnel.allow = ['a.example:0']".to_owned(), "2 tunnel.allow: \"0\" is not"),
        (
            "root = 'root'\ntunnel.allow = ['127.1:1']".to_owned(),
            "2 tunnel.allow: \"127.1:1\": the host ends in",
        ),
        (
            "root = 'root'\ntunnel.allow = ['10.1.0.0/16:1']".to_owned(),
            "2 tunnel.allow: 10.1.0.0/16 is private, and so refused unless tunnel.dangerous_ranges opens it",
        ),
        (
            "root = 'root'\n[tunnel]\nallow = ['10.1.0.0/16:1']\ndangerous_ranges = ['10.0.0.1/8']"
                .to_owned(),
            "4 tunnel.dangerous_ranges: \"10.0.0.1/8\" has bits after its prefix",
        ),
        ("root = 'root'\ntunnel.ports = [1]".to_owned(), "2 tunnel.ports: unknown field `ports`"),
        ("root = 'root'\n[log]\nformat = 'xml'".to_owned(), "3 log.format: unknown variant `xml`"),
        ("root = 'root'\nlog = 3".to_owned(), "2 log: "),
    ];
    for (text, start) in &cases {
        let errors = place.errors(text);
        assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
        assert!(errors[0].starts_with(start), "{text}\n{:?} should start with {start:?}", errors[0]);
        assert!(!errors[0].contains(TOKEN), "{:?} shows a token", errors[0]);
    }
}

#[test]
fn a_name_of_64_characters_is_allowed() {
    let name = "x".repeat(64);
    let config = Place::new().load(&format!("root = 'root'\n[users.{name}]\ntoken_env = 'TOKEN'")).unwrap();
    assert!(config.users.by_name(&name).is_some());
    assert_eq!(config.anonymous, Anonymous::Never);
}

#[test]
fn both_sides_of_each_numeric_limit() {
    let place = Place::new();
    for bound in &BOUNDS {
        // A file for the audit trail needs a path as well.
        let with = |n: u64| {
            let rest =
                if bound.key.starts_with("audit.file.") { "audit.file.path = 'audit.log'" } else { "" };
            place.load(&format!("root = 'root'\n{} = {n}\n{rest}", bound.key))
        };
        for good in [bound.min, bound.default, bound.max] {
            with(good).unwrap();
        }
        for bad in [bound.min.checked_sub(1), Some(bound.max + 1)].into_iter().flatten() {
            let errors = with(bad).unwrap_err().errors;
            assert_eq!((errors.len(), errors[0].key.as_str(), errors[0].line), (1, bound.key, Some(2)));
            assert_eq!(errors[0].message, format!("is {bad}, and must be {} to {}", bound.min, bound.max));
        }
    }
}

#[test]
fn sessions_of_a_user_or_an_address_are_at_most_all_sessions() {
    let place = Place::new();
    let load =
        |n: u64, per_user: &str| place.load(&format!("root = 'root'\nlimits.sessions = {n}\n{per_user}"));
    assert_eq!(load(5, "").unwrap().limits.sessions_per_user, 5);
    assert_eq!(load(5000, "limits.sessions_per_user = 5000").unwrap().limits.sessions_per_user, 5000);
    let errors = load(5, "limits.sessions_per_user = 6").unwrap_err().to_string();
    assert!(errors.ends_with("3: limits.sessions_per_user: is 6, and must be 1 to 5"), "{errors}");
    assert_eq!(load(5, "").unwrap().limits.sessions_per_address, 5);
    assert_eq!(load(5000, "limits.sessions_per_address = 5000").unwrap().limits.sessions_per_address, 5000);
    let errors = load(5, "limits.sessions_per_address = 6").unwrap_err().to_string();
    assert!(errors.ends_with("3: limits.sessions_per_address: is 6, and must be 1 to 5"), "{errors}");
}

#[test]
fn tunnels_of_an_address_or_a_user_are_at_most_all_tunnels() {
    let place = Place::new();
    let load = |text: &str| place.load(&format!("root = 'root'\n[tunnel]\ntunnels = 5\n{text}"));
    assert_eq!(load("").unwrap().tunnel.tunnels_per_address, 5);
    assert_eq!(load("").unwrap().tunnel.tunnels_per_user, 5);
    let errors = load("tunnels_per_user = 6").unwrap_err().to_string();
    assert!(errors.ends_with("4: tunnel.tunnels_per_user: is 6, and must be 1 to 5"), "{errors}");
    assert_eq!(load("tunnels_per_address = 4").unwrap().tunnel.tunnels_per_address, 4);
    let errors = load("tunnels_per_address = 6").unwrap_err().to_string();
    assert!(errors.ends_with("4: tunnel.tunnels_per_address: is 6, and must be 1 to 5"), "{errors}");
}

#[test]
fn a_user_may_be_there_for_tunnels_alone() {
    let text = user("token_env = 'TOKEN'\nread = false\nwrite = false\ntunnel = true");
    let config = Place::new().load(&text).unwrap();
    let alice = config.users.by_name("alice").unwrap();
    assert_eq!((alice.read, alice.write, alice.tunnel), (false, false, true));
}

#[test]
fn what_is_not_toml_or_not_there_is_one_error() {
    let place = Place::new();
    let errors = place.load("root = 'root'\nroot = 'twice'").unwrap_err();
    assert_eq!((errors.errors.len(), errors.errors[0].line), (1, Some(2)), "{errors}");
    let errors = RawConfig::load(Path::new("/absent/gateway.toml")).unwrap_err().to_string();
    assert!(errors.starts_with("/absent/gateway.toml: cannot be read: "), "{errors}");
}

#[test]
fn the_command_line_may_set_fields_without_a_file() {
    let place = Place::new();
    let raw = RawConfig { root: Some(place.path("root")), ..RawConfig::default() };
    raw.validate(&place.path("state")).unwrap();
    let raw = RawConfig { listen: Some(OneOrMany::One("x".to_owned())), ..RawConfig::default() };
    let errors = raw.validate(&place.path("state")).unwrap_err().to_string();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.starts_with("root: is required"), "{errors}");
}

#[test]
fn an_audit_trail_has_a_place_and_clients_do_not_reach_it() {
    let place = Place::new();
    let errors = |table: &str| place.errors(&format!("root = 'root'\n{table}"));
    assert_eq!(
        errors("[audit]\non_failure = 'refuse'"),
        ["3 audit.on_failure: says nothing without audit.file or audit.syslog"]
    );
    assert_eq!(errors("[audit]\non_failure = 'stop'").len(), 1);
    assert_eq!(
        errors("[audit.file]\nkeep = 1"),
        ["2 audit.file.path: is required: the file that records are written to"]
    );
    let inside = errors("[audit.file]\npath = 'root/in/../audit.log'");
    assert!(inside[0].contains("clients could read and replace the audit trail"), "{inside:?}");
    let directory = errors("[audit.file]\npath = '.'");
    assert!(directory[0].starts_with("3 audit.file.path:"), "{directory:?}");
    assert_eq!(
        errors("[audit.syslog]\nformat = 'json'"),
        ["2 audit.syslog.address: is required: the server, as HOST:PORT"]
    );
    assert_eq!(
        errors("[audit.syslog]\naddress = 'a:1'\ncert = 'cert.pem'"),
        ["4 audit.syslog.cert: goes with audit.syslog.key"]
    );
    assert_eq!(
        errors("[audit.syslog]\naddress = 'a:1'\nca = 'absent'\nkey = 'root/file'\ncert = 'cert.pem'").len(),
        2
    );
    for address in ["", "a", ":1", "a:0", "a:65536", "::1:6514", "[a]:1", "[::1]", "a b:1", "a/b:1"] {
        let errors = errors(&format!("[audit.syslog]\naddress = '{address}'"));
        assert_eq!(errors.len(), 1, "{address}");
    }
    for address in ["a:1", "logs.example.com:6514", "192.0.2.1:6514", "[::1]:65535"] {
        place.load(&format!("root = 'root'\n[audit.syslog]\naddress = '{address}'")).unwrap();
    }
}

#[test]
fn the_table_in_the_document_of_the_audit_trail_is_right() {
    let document = include_str!("../../../docs/audit.md");
    let (_, rest) = document.split_once("```toml\n").unwrap();
    let (table, _) = rest.split_once("```").unwrap();
    let place = Place::new();
    let table = table.replace("/var/log/metra/", "").replace("/etc/metra/logs-ca.pem", "ca.pem");
    let config = place.load(&format!("root = 'root'\n{table}")).unwrap();
    assert_eq!(config.audit.on_failure, OnFailure::Continue);
    assert!(config.audit.file.is_some() && config.audit.syslog.is_some());
    for key in ["max_mib", "max_hours", "keep", "sync_seconds", "on_failure", "ca", "cert", "key"] {
        assert!(document.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn the_example_shows_every_key_and_its_default() {
    let example = include_str!("../../../docs/gateway.example.toml");
    let place = Place::new();
    // As it is: only what has to be set is set.
    let text = example.replace("\"/srv/metra\"", "\"root\"");
    assert_ne!(text, example);
    place.load(&text).unwrap();
    // With every key that is commented out: all known, and what is said to be the default is.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(rest) if rest.starts_with('[') || rest.contains(" = ") && !rest.starts_with(' ') => rest,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let all = all
        .replace("/etc/metra/", "")
        .replace("/var/lib/metra", "state")
        .replace("/var/log/metra/", "")
        .replace("logs-ca.pem", "ca.pem")
        .replace("logs.pem", "cert.pem")
        .replace("logs.key", "key.pem")
        .replace("METRA_BOB_TOKEN", "TOKEN")
        .replace("home = \"alice\"", "home = \"in\"")
        .replace("home = \"company\"", "home = \"in\"");
    let config = place.load(&all).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.users.iter().count(), config.jwt.len()), (3, 2));
    let default = place.load("root = 'root'").unwrap();
    assert_eq!((config.limits, config.rates), (default.limits, default.rates));
    assert_eq!(
        config.policy,
        Policy { files: vec![place.path("office.cedar")], dry_run: default.policy.dry_run }
    );
    assert!(config.tunnel.is_enabled() && !config.tunnel.dangerous.is_empty());
    assert!(!config.content.rules.is_empty() && config.content.services.len() == 1);
    for bound in &BOUNDS {
        let (_, key) = bound.key.rsplit_once('.').unwrap();
        assert!(all.contains(&format!("\n{key} = {}\n", bound.default)), "{} = {}", bound.key, bound.default);
    }
}

#[test]
fn identity_providers() {
    let place = Place::new();
    let provider = |rest: &str| format!("root = 'root'\n[jwt.id]\n{rest}");
    let of = "issuer = 'https://id.example'\naudience = 'metra'\n";
    let config = place.load(&provider(&format!("{of}jwks_file = 'jwks.json'\nhome = 'in'"))).unwrap();
    let [jwt] = &config.jwt[..] else { panic!("{:?}", config.jwt) };
    assert_eq!((jwt.name.as_str(), jwt.issuer.user.as_str()), ("id", "sub"));
    assert_eq!((&jwt.issuer.audiences[..], jwt.issuer.tenant.as_ref()), (&["metra".to_owned()][..], None));
    assert_eq!(jwt.keys, JwtKeys::File(place.path("jwks.json")));
    assert_eq!(jwt.home, fs::canonicalize(place.path("root/in")).unwrap());
    // Whoever has a provider has users.
    assert_eq!(config.anonymous, Anonymous::Never);
    let cases = [
        ("", vec!["jwt.id.issuer: is required", "jwt.id.audience: is required"]),
        (of, vec!["jwt.id: needs jwks_file or jwks_url, and not both"]),
        (
            &format!("{of}jwks_file = 'jwks.json'\njwks_url = 'https://x.example/'"),
            vec!["jwt.id: needs jwks_file or jwks_url, and not both"],
        ),
        (
            &format!("{of}jwks_url = 'http://x.example/'"),
            vec!["jwt.id.jwks_url: \"http://x.example/\" is not"],
        ),
        (&format!("{of}jwks_file = 'root/file'"), vec!["jwt.id.jwks_file: "]),
        (&format!("{of}jwks_file = 'absent'"), vec!["jwt.id.jwks_file: "]),
        (&format!("{of}jwks_file = 'jwks.json'\nhome = '..'"), vec!["jwt.id.home: "]),
        (
            &format!("{of}jwks_file = 'jwks.json'\n[jwt.other]\n{of}jwks_file = 'jwks.json'"),
            vec!["jwt.other.issuer: is also that of jwt.id"],
        ),
    ];
    for (rest, expected) in cases {
        let errors = place.errors(&provider(rest));
        assert_eq!(errors.len(), expected.len(), "{rest}: {errors:?}");
        for (error, part) in errors.iter().zip(expected) {
            assert!(error.contains(part), "{rest}: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// No text makes the reader panic, and what is refused is refused with a reason.
    #[test]
    fn any_text_is_a_configuration_or_an_error(
        lines in prop::collection::vec("(root|listen|users|limits|\\[users\\.[a-z]{0,2}\\]|\\[tls\\]|[a-z.]{0,6}) ?=? ?(1|'x'|\\[\\]|\\{\\}|true|)", 0..6),
    ) {
        if let Err(errors) = Place::new().load(&lines.join("\n")) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert!(errors.errors.iter().all(|e| !e.message.is_empty()));
        }
    }
}

#[test]
fn a_user_has_one_tenant() {
    let place = Place::new();
    let user = |tenant: &str| format!("[users.ann]\ntoken_hash = 'blake3:{}'\n{tenant}\n", "0".repeat(64));
    let with = |tenant: &str, rest: &str| place.load(&format!("root = 'root'\n{}{rest}", user(tenant)));
    let tenant = |config: Config| config.users.by_name("ann").unwrap().tenant.clone();
    assert_eq!(tenant(with("", "").unwrap()), None);
    assert_eq!(tenant(with("tenant = 'acme'", "").unwrap()).as_deref(), Some("acme"));
    let named = "[tenants.studio.users.ann]";
    assert_eq!(tenant(with("", named).unwrap()).as_deref(), Some("studio"));
    assert_eq!(tenant(with("tenant = 'studio'", named).unwrap()).as_deref(), Some("studio"));
    let error = with("tenant = 'acme'", named).unwrap_err().to_string();
    assert!(error.contains("users.ann.tenant: is another one than tenants.studio"), "{error}");
    let error = with("", "[tenants.studio.users.bob]").unwrap_err().to_string();
    assert!(error.contains("tenants.studio.users.bob: is no user of the gateway"), "{error}");
}
