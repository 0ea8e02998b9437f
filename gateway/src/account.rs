//! Who a session belongs to, and what that allows.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use metra_certs::client_names;
use metra_core::code::Code;
use metra_core::wire::Auth;

use crate::config::{Anonymous, Config, User};
use crate::open::Refused;

/// The name of whoever comes without credentials over loopback.
pub const ANONYMOUS: &str = "anonymous";

/// A user, as a session knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Unique.
    pub name: String,
    /// May list and fetch.
    pub read: bool,
    /// May send and remove.
    pub write: bool,
    /// What the user sees as `/`.
    pub home: PathBuf,
}

impl From<&User> for Account {
    fn from(user: &User) -> Self {
        Self { name: user.name.clone(), read: user.read, write: user.write, home: user.home.clone() }
    }
}

/// The account of a name that a ticket carries, if it still exists and may come from there.
pub(crate) fn by_name(config: &Config, name: &str, from: IpAddr) -> Option<Arc<Account>> {
    if name == ANONYMOUS && config.users.by_name(name).is_none() {
        return anonymous(config, from);
    }
    config.users.by_name(name).map(|user| Arc::new(Account::from(user)))
}

/// The account of somebody who shows `auth`, or one of these verified certificates.
///
/// # Errors
/// [`Code::Unauthenticated`]; which part was wrong is not said.
pub(crate) fn authenticate(
    config: &Config,
    auth: &Auth,
    certificates: Option<&[Vec<u8>]>,
    from: IpAddr,
) -> Result<Arc<Account>, Refused> {
    if let Auth::Bearer(token) = auth {
        return match config.users.by_token(token) {
            Some(user) => Ok(Arc::new(Account::from(user))),
            None => Err(Refused::new(Code::Unauthenticated, "the token is not known here")),
        };
    }
    if let Some(chain) = certificates {
        let chain: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
        if let Some(user) = config.users.by_certificate(&client_names(&chain)) {
            return Ok(Arc::new(Account::from(user)));
        }
    }
    anonymous(config, from).ok_or_else(|| {
        let reason = "credentials are needed: --token-file, METRA_TOKEN or a client certificate";
        Refused::new(Code::Unauthenticated, reason)
    })
}

fn anonymous(config: &Config, from: IpAddr) -> Option<Arc<Account>> {
    let allowed = config.anonymous == Anonymous::Loopback && from.to_canonical().is_loopback();
    allowed.then(|| {
        Arc::new(Account { name: ANONYMOUS.to_owned(), read: true, write: true, home: config.root.clone() })
    })
}
