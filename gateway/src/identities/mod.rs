//! Who somebody is: by a token of the configuration, a token that an identity provider has signed, or a client certificate.
//!
//! The keys of identity providers change. They are kept here: a file is read again when it has changed, a URL from time to time
//! and when a token is signed with a key that is not known. What cannot be read leaves the keys before in force, and is said.

mod fetch;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use metra_certs::{JwtError, KeySet, client_names};
use metra_core::code::Code;
use metra_core::wire::Auth;
use metra_policy::Attempts;
use metra_transport::{AbortOnDrop, Rt};
use tokio::sync::{Notify, watch};

use crate::account::{self, Account};
use crate::config::{Config, Jwt, JwtKeys, is_user_name};
use crate::measure;
use crate::open::Refused;
use crate::service::StartError;
use crate::sessions::unix_now;
use crate::watched::{self, Stamp};

/// How often a file of keys is looked at, and how often a URL is read.
const LOOK: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(600);
/// A URL is not read more often than this, whatever tokens come.
const BREAK: Duration = Duration::from_secs(10);
/// How long a token with a key that is not known waits for newer keys.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the longest set of keys that is read.
const KEYS_MAX: usize = 256 * 1024;

/// The identity providers of a gateway, and the keys of each.
pub(crate) struct Identities {
    rt: Rt,
    providers: Vec<Arc<Provider>>,
    attempts: Mutex<Attempts>,
    _kept: Vec<AbortOnDrop<()>>,
}

struct Provider {
    about: Jwt,
    keys: watch::Sender<Option<Arc<KeySet>>>,
    /// A token came whose key is not known.
    wanted: Notify,
}

impl Identities {
    /// Those of a configuration. Keys at a URL may not be there yet.
    ///
    /// # Errors
    /// A file of keys is none, or the authorities for a URL. Fault: the configuration.
    pub(crate) fn start(rt: &Rt, config: &Config) -> Result<Self, StartError> {
        let (mut providers, mut kept) = (Vec::new(), Vec::new());
        for about in &config.jwt {
            let failed = |reason: String| StartError::Identities { name: about.name.clone(), reason };
            let (mut before, mut first, mut fetcher) = (None, None, None);
            match &about.keys {
                JwtKeys::File(file) => {
                    before = watched::stamp(file);
                    first = Some(read(file).map_err(failed)?);
                }
                JwtKeys::Url { url, ca } => {
                    fetcher = Some(fetch::Fetcher::new(url.clone(), ca.as_deref()).map_err(failed)?);
                }
            }
            let keys = watch::Sender::new(first.map(Arc::new));
            let provider = Arc::new(Provider { about: about.clone(), keys, wanted: Notify::new() });
            let keeps = provider.clone();
            let task = match (&about.keys, fetcher) {
                (JwtKeys::File(file), _) => rt.spawn(keeps.follow(rt.clone(), file.clone(), before)),
                (JwtKeys::Url { .. }, Some(fetcher)) => rt.spawn(keeps.refresh(rt.clone(), fetcher)),
                (JwtKeys::Url { .. }, None) => continue,
            };
            kept.push(task.abort_on_drop());
            providers.push(provider);
        }
        Ok(Self { rt: rt.clone(), providers, attempts: Mutex::default(), _kept: kept })
    }

    /// The account of somebody who shows `auth`, or one of these verified certificates.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`]; which part was wrong is not said. [`Code::Busy`]: too many have failed at that address.
    pub(crate) async fn authenticate(
        &self,
        config: &Config,
        auth: &Auth,
        certificates: Option<&[Vec<u8>]>,
        from: IpAddr,
    ) -> Result<Arc<Account>, Refused> {
        if let Err(wait) = self.attempts().may_try(from, self.rt.now()) {
            measure::attempt_put_off();
            let seconds = wait.as_secs() + 1;
            let reason = format!("too many failed attempts from this address; try again in {seconds} s");
            return Err(Refused::new(Code::Busy, reason));
        }
        let known = self.known(config, auth, certificates, from).await;
        if known.as_ref().is_err_and(|refused| refused.code == Code::Unauthenticated) {
            self.attempts().failed(from, self.rt.now());
        }
        known
    }

    /// Somebody there has shown a forged ticket: it counts as a wrong token does, which is once a wait.
    pub(crate) fn forged(&self, from: IpAddr) {
        let (now, mut attempts) = (self.rt.now(), self.attempts());
        if attempts.may_try(from, now).is_ok() {
            attempts.failed(from, now);
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().expect("no panic while held")
    }

    async fn known(
        &self,
        config: &Config,
        auth: &Auth,
        certificates: Option<&[Vec<u8>]>,
        from: IpAddr,
    ) -> Result<Arc<Account>, Refused> {
        if let Auth::Bearer(token) = auth {
            return match config.users.by_token(token) {
                Some(user) => Ok(Arc::new(Account::from(user))),
                None => self.signed(config, token).await,
            };
        }
        if let Some(chain) = certificates {
            let chain: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
            if let Some(user) = config.users.by_certificate(&client_names(&chain)) {
                return Ok(Arc::new(Account::from(user)));
            }
        }
        account::anonymous(config, from).ok_or_else(|| {
            let reason = "credentials are needed: --token-file, METRA_TOKEN or a client certificate";
            Refused::new(Code::Unauthenticated, reason)
        })
    }

    /// The account of a token that a provider has signed.
    async fn signed(&self, config: &Config, token: &str) -> Result<Arc<Account>, Refused> {
        let unknown = || Refused::new(Code::Unauthenticated, "the token is not known here");
        for provider in &self.providers {
            let identity = match provider.verify(&self.rt, token).await {
                Ok(identity) => identity,
                // Perhaps it is another provider's.
                Err(JwtError::Format) => return Err(unknown()),
                Err(error) => {
                    tracing::debug!(provider = provider.about.name, %error, "token refused");
                    if matches!(error, JwtError::Expired | JwtError::Early) {
                        let reason = format!("the token is {error}: get a new one, or set the clock");
                        return Err(Refused::new(Code::Unauthenticated, reason));
                    }
                    continue;
                }
            };
            if !is_user_name(&identity.user) || identity.user == account::ANONYMOUS {
                let reason = "the token names a user whose name cannot be one here";
                return Err(Refused::new(Code::Unauthenticated, reason));
            }
            if config.users.by_name(&identity.user).is_some() {
                let reason = "the token names a user whom this gateway knows by other credentials";
                return Err(Refused::new(Code::Unauthenticated, reason));
            }
            return Ok(Arc::new(Account {
                name: identity.user,
                read: true,
                write: true,
                tunnel: true,
                home: provider.about.home.clone(),
                groups: identity.groups,
                tenant: identity.tenant,
            }));
        }
        Err(unknown())
    }
}

impl Provider {
    async fn verify(&self, rt: &Rt, token: &str) -> Result<metra_certs::Identity, JwtError> {
        let mut keys = self.keys.subscribe();
        let known = keys.borrow_and_update().clone();
        let check = |keys: &Option<Arc<KeySet>>| match keys {
            Some(keys) => keys.verify(token, &self.about.issuer, unix_now()),
            None => Err(JwtError::UnknownKey),
        };
        let first = check(&known);
        if first != Err(JwtError::UnknownKey) || matches!(self.about.keys, JwtKeys::File(_)) {
            return first;
        }
        self.wanted.notify_one();
        match rt.timeout(PATIENCE, keys.changed()).await {
            Ok(Ok(())) => {
                let known = keys.borrow().clone();
                check(&known)
            }
            _ => first,
        }
    }

    /// Reads a file again whenever it has changed.
    async fn follow(self: Arc<Self>, rt: Rt, file: PathBuf, mut before: Stamp) {
        loop {
            rt.sleep(LOOK).await;
            let now = watched::stamp(&file);
            if now == before {
                continue;
            }
            before = now;
            let path = file.clone();
            match rt.blocking(move || read(&path)).await {
                Ok(keys) => self.take(keys),
                Err(error) => self.keep(&error),
            }
        }
    }

    /// Reads a URL from time to time, and when somebody wants newer keys.
    async fn refresh(self: Arc<Self>, rt: Rt, fetcher: fetch::Fetcher) {
        loop {
            match fetcher
                .fetch(&rt, KEYS_MAX)
                .await
                .and_then(|text| KeySet::parse(&text).map_err(|e| e.to_string()))
            {
                Ok(keys) => self.take(keys),
                Err(error) => self.keep(&error),
            }
            rt.sleep(BREAK).await;
            let _ = rt.timeout(REFRESH, self.wanted.notified()).await;
        }
    }

    fn take(&self, keys: KeySet) {
        tracing::info!(provider = self.about.name, "keys read");
        self.keys.send_replace(Some(Arc::new(keys)));
    }

    fn keep(&self, error: &str) {
        tracing::warn!(
            provider = self.about.name,
            error,
            "the keys cannot be read; those before stay in force"
        );
    }
}

fn read(file: &Path) -> Result<KeySet, String> {
    let text = watched::read(file, KEYS_MAX as u64)?;
    KeySet::parse(&text).map_err(|e| format!("{}: {e}", file.display()))
}
