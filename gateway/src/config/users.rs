//! The users of a gateway and how they are recognised.

use std::collections::BTreeSet;
use std::path::PathBuf;

use http::Uri;
use metra_certs::{ClientName, Issuer, TokenHash};

/// Somebody who may use the gateway.
#[derive(Clone, Debug)]
pub struct User {
    /// Unique.
    pub name: String,
    /// The hash of the bearer token, if there is one.
    pub token: Option<TokenHash>,
    /// Names in client certificates that stand for this user.
    pub cert_names: BTreeSet<String>,
    /// Whether the user may list and fetch.
    pub read: bool,
    /// Whether the user may send and remove.
    pub write: bool,
    /// Whether the user may open tunnels to what the rules for targets allow.
    pub tunnel: bool,
    /// What the user sees as `/`: an existing directory, absolute, without symbolic links: the root or below it.
    pub home: PathBuf,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// The tenant that the user belongs to.
    pub tenant: Option<String>,
}

/// An identity provider.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// What it is called in the configuration.
    pub name: String,
    /// What its tokens must say.
    pub issuer: Issuer,
    /// Where its public keys are.
    pub keys: JwtKeys,
    /// What its users see as `/`; as [`User::home`].
    pub home: PathBuf,
}

/// Where the public keys of an identity provider are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeys {
    /// In a file.
    File(PathBuf),
    /// At a server.
    Url {
        /// An `https` URL with a host.
        url: Uri,
        /// The authorities that it is known by; `None`: those of the system.
        ca: Option<PathBuf>,
    },
}

/// Whether a text may be a user's name: 1 to 64 letters, digits and `. _ @ -`.
pub(crate) fn is_user_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    !text.is_empty() && text.len() <= USER_NAME_MAX && text.chars().all(allowed)
}

/// Letters of the longest name of a user.
pub(super) const USER_NAME_MAX: usize = 64;

/// All users. No two have the same token or share a name in certificates.
#[derive(Clone, Debug, Default)]
pub struct Users(Vec<User>);

impl Users {
    pub(super) fn new(users: Vec<User>) -> Self {
        Self(users)
    }

    /// The user with this bearer token. The time that it takes tells nothing of the token.
    pub fn by_token(&self, token: &str) -> Option<&User> {
        // Every hash is compared, so that the time does not tell whose came close.
        let matches = |u: &User| u.token.as_ref().is_some_and(|t| t.matches(token));
        self.0.iter().fold(None, |found, user| if matches(user) { Some(user) } else { found })
    }

    /// The user for the first of these names (of a client certificate that the handshake has verified) that stands for
    /// one.
    pub fn by_certificate(&self, names: &[ClientName]) -> Option<&User> {
        names.iter().find_map(|name| self.0.iter().find(|u| u.cert_names.contains(name.as_str())))
    }

    /// The user of this name.
    pub fn by_name(&self, name: &str) -> Option<&User> {
        self.0.iter().find(|u| u.name == name)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
