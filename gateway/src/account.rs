//! Who a session belongs to, and what that allows.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Anonymous, Config, User};

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
    /// May open tunnels.
    pub tunnel: bool,
    /// What the user sees as `/`.
    pub home: PathBuf,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// The tenant that the user belongs to.
    pub tenant: Option<String>,
}

impl From<&User> for Account {
    fn from(user: &User) -> Self {
        Self {
            name: user.name.clone(),
            read: user.read,
            write: user.write,
            tunnel: user.tunnel,
            home: user.home.clone(),
            groups: user.groups.clone(),
            tenant: user.tenant.clone(),
        }
    }
}

#[cfg(test)]
impl Account {
    /// One of a test, who may do everything and is in no group and of no tenant.
    pub(crate) fn of_test(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            read: true,
            write: true,
            tunnel: true,
            home: "/".into(),
            groups: Vec::new(),
            tenant: None,
        }
    }
}

/// The account of a name that a ticket carries, if it still exists and may come from there.
pub(crate) fn by_name(config: &Config, name: &str, from: IpAddr) -> Option<Arc<Account>> {
    if name == ANONYMOUS && config.users.by_name(name).is_none() {
        return anonymous(config, from);
    }
    config.users.by_name(name).map(|user| Arc::new(Account::from(user)))
}

/// Whoever comes without credentials, where that is allowed.
pub(crate) fn anonymous(config: &Config, from: IpAddr) -> Option<Arc<Account>> {
    let allowed = config.anonymous == Anonymous::Loopback && from.to_canonical().is_loopback();
    allowed.then(|| {
        Arc::new(Account {
            name: ANONYMOUS.to_owned(),
            read: true,
            write: true,
            tunnel: true,
            home: config.root.clone(),
            groups: Vec::new(),
            tenant: None,
        })
    })
}
