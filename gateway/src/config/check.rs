//! From [`RawConfig`] to [`Config`]: every rule, and all that is broken at once.

mod audit;
mod content;
mod jwt;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use metra_certs::TokenHash;
use metra_core::limits;

use super::document::{Origin, quoted};
use super::users::{USER_NAME_MAX, is_user_name};
use super::{
    Anonymous, CertificateFiles, Config, ConfigErrors, Limits, Log, LogFormat, LogLevel, OneOrMany, Policy,
    Quic, Rates, RawConfig, RawLimits, RawPolicy, RawQuic, RawRates, RawShaping, RawTenant, RawTls, RawUser,
    Shaping, Tcp, Tls, User, Users,
};

impl RawConfig {
    /// Checks everything. `default_state` is used where no state directory is named.
    ///
    /// # Errors
    /// All that is wrong. Fault: whoever wrote the configuration.
    pub fn validate(self, default_state: &Path) -> Result<Config, ConfigErrors> {
        self.validate_with(default_state, &|name| std::env::var(name).ok())
    }

    pub(super) fn validate_with(
        mut self,
        default_state: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigErrors> {
        let mut check = Check { origin: std::mem::take(&mut self.origin), root: None };

        check.root = check.root_dir(self.root);
        let listen = check.listen(self.listen);
        let metrics_listen = self.metrics_listen.and_then(|text| check.address("metrics_listen", &text));
        if let Some(address) = metrics_listen
            && address.port() != 0
            && listen.contains(&address)
        {
            check.error("metrics_listen", format!("{address} is also in listen; use another port"));
        }
        let state = check.state(self.state.unwrap_or_else(|| default_state.to_owned()));
        let tls = check.tls(self.tls);
        let asks_clients = tls.client_ca.is_some() || check.is_broken("tls.client_ca");
        let mut users = check.users(self.users, asks_clients, env);
        let jwt = check.jwt(self.jwt);
        let shaping = check.shaping(&self.shaping, &self.tenants, &mut users, !jwt.is_empty());
        let anonymous = check.anonymous(self.anonymous, users.is_empty() && jwt.is_empty());
        let limits = check.limits(&self.limits);
        let quic = check.quic(&self.quic);
        let tcp = Tcp { listen: self.tcp.listen.unwrap_or(true), http: self.tcp.http.unwrap_or(true) };
        let rates = check.rates(&self.rates);
        let tunnel = check.tunnel(&self.tunnel);
        let policy = check.policy(self.policy);
        let audit = check.audit(self.audit);
        let content = check.content(self.content, self.icap, &state);
        let log = Log {
            format: self.log.format.unwrap_or(LogFormat::Text),
            level: self.log.level.unwrap_or(LogLevel::Info),
        };

        match check.root.take() {
            Some(root) if check.origin.errors.is_empty() => {
                let users = Users::new(users);
                Ok(Config {
                    listen,
                    root,
                    state,
                    tls,
                    users,
                    jwt,
                    anonymous,
                    limits,
                    quic,
                    tcp,
                    rates,
                    shaping,
                    tunnel,
                    policy,
                    audit,
                    content,
                    log,
                    metrics_listen,
                })
            }
            _ => Err(check.origin.into_errors()),
        }
    }
}

/// Collects what is wrong. A check that fails reports it and goes on with any value, which nobody will see.
struct Check {
    origin: Origin,
    /// The root, if it is good: some paths must not be in it.
    root: Option<PathBuf>,
}

impl Check {
    fn error(&mut self, key: &str, message: impl Into<String>) {
        self.origin.error(key, message);
    }

    /// Whether something is wrong already with the key or below it; that it is missing then would only confuse.
    fn is_broken(&self, key: &str) -> bool {
        let below =
            |k: &str| k.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.origin.errors.iter().any(|e| below(&e.key))
    }

    fn root_dir(&mut self, root: Option<PathBuf>) -> Option<PathBuf> {
        let Some(root) = root else {
            if !self.is_broken("root") {
                self.error("root", "is required: the directory that clients see as /");
            }
            return None;
        };
        // Canonical, so that "is it inside of root" has one answer.
        match fs::canonicalize(&root) {
            Ok(path) if path.is_dir() => Some(path),
            Ok(_) => {
                self.error("root", format!("{} is not a directory", root.display()));
                None
            }
            Err(e) => {
                self.error("root", format!("{}: {e}", root.display()));
                None
            }
        }
    }

    fn listen(&mut self, listen: Option<OneOrMany>) -> Vec<SocketAddr> {
        let texts = match listen {
            None => vec![DEFAULT_LISTEN.to_owned()],
            Some(texts) => texts.into(),
        };
        if texts.is_empty() {
            self.error("listen", "is an empty list; leave it out for the default, or name an address");
        }
        let mut addresses = Vec::new();
        for text in texts {
            match self.address("listen", &text) {
                // Port 0 is another port each time.
                Some(address) if address.port() != 0 && addresses.contains(&address) => {
                    self.error("listen", format!("{address} is listed twice"));
                }
                Some(address) => addresses.push(address),
                None => {}
            }
        }
        addresses
    }

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!(
                "{text:?} is not IP:PORT or [IPv6]:PORT, as in \"0.0.0.0:4443\" (names are not resolved)"
            );
            self.error(key, message);
        }
        address
    }

    fn state(&mut self, state: PathBuf) -> PathBuf {
        if state.exists() && !state.is_dir() {
            self.error("state", format!("{} is not a directory", state.display()));
        } else {
            self.outside_root("state", &state, "clients could read the keys of the gateway");
        }
        state
    }

    fn tls(&mut self, tls: RawTls) -> Tls {
        for (key, path) in [("tls.cert", &tls.cert), ("tls.key", &tls.key), ("tls.client_ca", &tls.client_ca)]
        {
            if let Some(path) = path {
                self.readable(key, path);
            }
        }
        if let Some(path) = &tls.key {
            self.outside_root("tls.key", path, "clients could read the private key");
        }
        let files = match (tls.cert, tls.key) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (Some(_), None) if !self.is_broken("tls.key") => {
                self.error("tls.key", "is missing: it goes with tls.cert");
                None
            }
            (None, Some(_)) if !self.is_broken("tls.cert") => {
                self.error("tls.cert", "is missing: it goes with tls.key");
                None
            }
            _ => None,
        };
        Tls { files, client_ca: tls.client_ca }
    }

    fn users(
        &mut self,
        raw: BTreeMap<String, RawUser>,
        asks_clients: bool,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<User> {
        let mut users: Vec<User> = Vec::new();
        for (name, raw) in raw {
            let key = format!("users.{}", quoted(&name));
            let user = self.user(&key, name, raw, asks_clients, env);
            for other in &users {
                if user.token.is_some() && user.token == other.token {
                    self.error(&key, format!("has the same token as users.{}", quoted(&other.name)));
                }
                if let Some(shared) = user.cert_names.intersection(&other.cert_names).next() {
                    let message = format!("{shared:?} is also a name of users.{}", quoted(&other.name));
                    self.error(&format!("{key}.cert_names"), message);
                }
            }
            users.push(user);
        }
        users
    }

    fn user(
        &mut self,
        key: &str,
        name: String,
        raw: RawUser,
        asks_clients: bool,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> User {
        if name == crate::ANONYMOUS {
            self.error(key, "is the name of whoever comes without credentials; choose another");
        }
        if !is_user_name(&name) {
            self.error(key, format!("a user's name is 1 to {USER_NAME_MAX} letters, digits and . _ @ -"));
        }
        let ways = [raw.token_hash.is_some(), raw.token_file.is_some(), raw.token_env.is_some()];
        match ways.into_iter().filter(|w| *w).count() {
            0 if raw.cert_names.is_empty() && !self.is_broken(key) => {
                self.error(key, "needs token_hash, token_file, token_env or cert_names to be recognised by");
            }
            0 | 1 => {}
            _ => self.error(key, "token_hash, token_file and token_env exclude each other"),
        }
        let token = if let Some(text) = raw.token_hash {
            let hash = text.parse::<TokenHash>();
            hash.map_err(|e| self.error(&format!("{key}.token_hash"), e.to_string())).ok()
        } else if let Some(path) = raw.token_file {
            self.token_in_file(&format!("{key}.token_file"), &path)
        } else if let Some(variable) = raw.token_env {
            self.token_in_env(&format!("{key}.token_env"), &variable, env)
        } else {
            None
        };
        let names_key = format!("{key}.cert_names");
        if !raw.cert_names.is_empty() && !asks_clients {
            self.error(&names_key, "needs tls.client_ca: without it, clients are not asked for certificates");
        }
        if raw.cert_names.iter().any(String::is_empty) {
            self.error(&names_key, "has an empty name in it");
        }
        let (read, write) = (raw.read.unwrap_or(true), raw.write.unwrap_or(true));
        // By default everyone may open tunnels: only who says so means a user for nothing else.
        if !read && !write && raw.tunnel != Some(true) {
            self.error(key, "may neither read nor write; leave the user out, or set tunnel = true");
        }
        let home = self.home(&format!("{key}.home"), raw.home);
        let tunnel = raw.tunnel.unwrap_or(true);
        let cert_names = BTreeSet::from_iter(raw.cert_names);
        let groups = self.named(&format!("{key}.groups"), raw.groups);
        let tenant = self.named(&format!("{key}.tenant"), raw.tenant.into_iter().collect()).pop();
        User { name, token, cert_names, read, write, tunnel, home, groups, tenant }
    }

    fn token_in_file(&mut self, key: &str, path: &Path) -> Option<TokenHash> {
        if !self.readable(key, path) {
            return None;
        }
        self.outside_root(key, path, "clients could read the token");
        match fs::read_to_string(path) {
            Ok(text) => self.token(key, text.trim_end_matches(['\n', '\r'])),
            Err(e) => {
                self.error(key, format!("{}: {e}", path.display()));
                None
            }
        }
    }

    fn token_in_env(
        &mut self,
        key: &str,
        variable: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Option<TokenHash> {
        match env(variable) {
            Some(token) => self.token(key, &token),
            None => {
                self.error(key, format!("the environment variable {variable:?} is not set"));
                None
            }
        }
    }

    /// The token itself is in no message.
    fn token(&mut self, key: &str, token: &str) -> Option<TokenHash> {
        let good = (TOKEN_MIN..=limits::SECRET_MAX).contains(&token.len());
        if !good || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let most = limits::SECRET_MAX;
            let message = format!(
                "a token is {TOKEN_MIN} to {most} visible ASCII characters; draw one with: openssl rand -hex 32"
            );
            self.error(key, message);
            return None;
        }
        Some(TokenHash::of(token))
    }

    fn home(&mut self, key: &str, home: Option<PathBuf>) -> PathBuf {
        let root = self.root.clone().unwrap_or_default();
        let Some(home) = home else { return root };
        if !home.components().all(|c| matches!(c, Component::Normal(_))) || home.as_os_str().is_empty() {
            self.error(key, "is a path below root, without a leading / and without . and ..");
        } else if self.root.is_some() {
            match fs::canonicalize(root.join(&home)) {
                Ok(path) if !path.starts_with(&root) => {
                    self.error(key, "leads out of root by a symbolic link")
                }
                Ok(path) if path.is_dir() => return path,
                Ok(path) => self.error(key, format!("{} is not a directory", path.display())),
                Err(e) => self.error(key, format!("{}: {e}", root.join(&home).display())),
            }
        }
        root
    }

    fn anonymous(&mut self, anonymous: Option<Anonymous>, no_users: bool) -> Anonymous {
        let default = if no_users { Anonymous::Loopback } else { Anonymous::Never };
        let chosen = anonymous.unwrap_or(default);
        if chosen == Anonymous::Never && no_users && !self.is_broken("users") {
            self.error("anonymous", "is \"never\" and there are no users, so nobody could use the gateway");
        }
        chosen
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let sessions = self.number(&SESSIONS, raw.sessions);
        // At most `sessions`, which must not make the default wrong.
        let at_most_all =
            |bound: Bound| Bound { max: sessions, default: bound.default.min(sessions), ..bound };
        let (per_user, per_address) = (at_most_all(SESSIONS_PER_USER), at_most_all(SESSIONS_PER_ADDRESS));
        Limits {
            sessions: sessions as usize,
            sessions_per_user: self.number(&per_user, raw.sessions_per_user) as usize,
            sessions_per_address: self.number(&per_address, raw.sessions_per_address) as usize,
            jobs_per_session: self.number(&JOBS_PER_SESSION, raw.jobs_per_session) as usize,
            jobs_per_user: self.number(&JOBS_PER_USER, raw.jobs_per_user) as usize,
            jobs_per_address: self.number(&JOBS_PER_ADDRESS, raw.jobs_per_address) as usize,
            handshake: Duration::from_secs(self.number(&HANDSHAKE_SECONDS, raw.handshake_seconds)),
            idle: Duration::from_secs(self.number(&IDLE_SECONDS, raw.idle_seconds)),
            links_per_session: self.number(&LINKS_PER_SESSION, raw.links_per_session) as usize,
            manifest_memory: self.number(&MANIFEST_MEMORY_MIB, raw.manifest_memory_mib) * MIB,
            receive_memory: self.number(&RECEIVE_MEMORY_MIB, raw.receive_memory_mib) * MIB,
            entries: self.number(&ENTRIES, raw.entries) as u32,
            chunks: self.number(&CHUNKS, raw.chunks) as u32,
        }
    }

    fn quic(&mut self, raw: &RawQuic) -> Quic {
        Quic {
            receive_window: self.number(&RECEIVE_WINDOW_MIB, raw.receive_window_mib) * MIB,
            send_window: self.number(&SEND_WINDOW_MIB, raw.send_window_mib) * MIB,
            mtu: self.number(&MTU, raw.mtu) as u16,
            congestion: raw.congestion,
            remember_paths: raw.remember_paths.unwrap_or(true),
            http3: raw.http3.unwrap_or(true),
        }
    }

    fn rates(&mut self, raw: &RawRates) -> Rates {
        Rates {
            low: raw.low.unwrap_or(true),
            high: raw.high.unwrap_or(false),
            fixed: self.number(&FIXED_MBIT, raw.fixed_mbit) * MBIT,
        }
    }

    fn shaping(
        &mut self,
        raw: &RawShaping,
        tenants: &BTreeMap<String, RawTenant>,
        users: &mut [User],
        others: bool,
    ) -> Shaping {
        let is_user = |name: &str| others || users.iter().any(|user| user.name == name);
        let mut wrong = Vec::new();
        let shaping =
            Shaping::check(raw, tenants, &is_user, &mut |key, what| wrong.push((key.to_owned(), what)));
        for (key, what) in wrong {
            self.error(&key, what);
        }
        for user in users {
            let named = shaping.tenants.iter().find(|(_, tenant)| tenant.users.contains_key(&user.name));
            let Some((name, _)) = named else { continue };
            if user.tenant.as_ref().is_some_and(|tenant| tenant != name) {
                let key = format!("users.{}.tenant", quoted(&user.name));
                self.error(
                    &key,
                    format!("is another one than tenants.{}, which names the user", quoted(name)),
                );
            }
            user.tenant = Some(name.clone());
        }
        shaping
    }

    fn policy(&mut self, raw: RawPolicy) -> Policy {
        for file in &raw.files {
            self.readable("policy.files", file);
            self.outside_root("policy.files", file, "clients could change the policies");
        }
        Policy { files: raw.files, dry_run: raw.dry_run.unwrap_or(false) }
    }

    /// A value within the bound: the given one, or the default.
    fn number(&mut self, bound: &Bound, given: Option<u64>) -> u64 {
        match given {
            Some(n) if (bound.min..=bound.max).contains(&n) => n,
            Some(n) => {
                self.error(bound.key, format!("is {n}, and must be {} to {}", bound.min, bound.max));
                bound.default
            }
            None => bound.default,
        }
    }

    fn readable(&mut self, key: &str, path: &Path) -> bool {
        let result = File::open(path).and_then(|f| f.metadata());
        match result {
            Ok(meta) if meta.is_dir() => self.error(key, format!("{} is a directory", path.display())),
            Ok(_) => return true,
            Err(e) => self.error(key, format!("{} cannot be read: {e}", path.display())),
        }
        false
    }

    fn outside_root(&mut self, key: &str, path: &Path, consequence: &str) {
        if let Some(root) = &self.root
            && canonical(path).starts_with(root)
        {
            let message = format!("{} is inside of root ({}): {consequence}", path.display(), root.display());
            self.error(key, message);
        }
    }
}

/// The path without `..`, and without symbolic links as far as it exists.
fn canonical(path: &Path) -> PathBuf {
    let mut real = PathBuf::new();
    for component in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        if component == Component::ParentDir {
            real.pop();
            continue;
        }
        real.push(component);
        // A part that is not there yet is no link either.
        if let Ok(followed) = fs::canonicalize(&real) {
            real = followed;
        }
    }
    real
}

/// What a number may be.
pub(super) struct Bound {
    pub(super) key: &'static str,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) default: u64,
}

impl Bound {
    const fn new(key: &'static str, min: u64, max: u64, default: u64) -> Self {
        Self { key, min, max, default }
    }
}

const SESSIONS: Bound = Bound::new("limits.sessions", 1, 100_000, 1024);
const SESSIONS_PER_USER: Bound = Bound::new("limits.sessions_per_user", 1, SESSIONS.default, 64);
const SESSIONS_PER_ADDRESS: Bound = Bound::new("limits.sessions_per_address", 1, SESSIONS.default, 256);
const JOBS_PER_SESSION: Bound =
    Bound::new("limits.jobs_per_session", 1, limits::JOBS_MAX as u64, limits::JOBS_MAX as u64);
const JOBS_PER_USER: Bound = Bound::new("limits.jobs_per_user", 1, 1_000_000, 256);
const JOBS_PER_ADDRESS: Bound = Bound::new("limits.jobs_per_address", 1, 1_000_000, 256);
const HANDSHAKE_SECONDS: Bound = Bound::new("limits.handshake_seconds", 1, 300, 10);
const IDLE_SECONDS: Bound = Bound::new("limits.idle_seconds", 5, 3600, 30);
const LINKS_PER_SESSION: Bound = Bound::new("limits.links_per_session", 1, 64, 16);
const MANIFEST_MEMORY_MIB: Bound = Bound::new("limits.manifest_memory_mib", 16, 1_048_576, 512);
const RECEIVE_MEMORY_MIB: Bound = Bound::new("limits.receive_memory_mib", 16, 1_048_576, 1024);
const ENTRIES: Bound =
    Bound::new("limits.entries", 1, limits::ENTRIES_MAX as u64, limits::ENTRIES_MAX as u64);
const CHUNKS: Bound = Bound::new("limits.chunks", 1, limits::CHUNKS_MAX as u64, limits::CHUNKS_MAX as u64);
const RECEIVE_WINDOW_MIB: Bound = Bound::new("quic.receive_window_mib", 1, 4096, 512);
const SEND_WINDOW_MIB: Bound = Bound::new("quic.send_window_mib", 1, 4096, 512);
const FIXED_MBIT: Bound = Bound::new("rates.fixed_mbit", 0, 1_000_000, 0);
const MTU: Bound = Bound::new("quic.mtu", 1200, 16_000, 8952);

/// All of them, for the tests.
#[cfg(test)]
pub(super) const BOUNDS: [Bound; 30] = [
    SESSIONS,
    SESSIONS_PER_USER,
    SESSIONS_PER_ADDRESS,
    JOBS_PER_SESSION,
    JOBS_PER_USER,
    JOBS_PER_ADDRESS,
    HANDSHAKE_SECONDS,
    IDLE_SECONDS,
    LINKS_PER_SESSION,
    MANIFEST_MEMORY_MIB,
    RECEIVE_MEMORY_MIB,
    ENTRIES,
    CHUNKS,
    RECEIVE_WINDOW_MIB,
    SEND_WINDOW_MIB,
    FIXED_MBIT,
    MTU,
    tunnel::TUNNELS,
    tunnel::TUNNELS_PER_ADDRESS,
    tunnel::TUNNELS_PER_USER,
    tunnel::IDLE_SECONDS,
    tunnel::LIFETIME_SECONDS,
    tunnel::RATE_MBIT,
    tunnel::PEER_RATE_MBIT,
    tunnel::PEER_DATAGRAMS,
    audit::MAX_MIB,
    audit::MAX_HOURS,
    audit::KEEP,
    audit::SYNC_SECONDS,
    content::SCANS_AT_ONCE,
];

const DEFAULT_LISTEN: &str = "127.0.0.1:4443";
/// Shorter ones can be guessed.
const TOKEN_MIN: usize = 16;
const MIB: u64 = 1024 * 1024;
/// Bits.
const MBIT: u64 = 1_000_000;
