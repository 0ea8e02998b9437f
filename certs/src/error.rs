//! What goes wrong with key and certificate files. Nothing here comes from a peer.

use std::io;
use std::path::{Path, PathBuf};

/// A key or certificate cannot be loaded, made or used. Fault: this machine's configuration; a retry without a
/// change gives the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted, as in "cannot read FILE".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it was refused.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {detail}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and, where there is one, the way out.
        detail: String,
    },
    /// A name cannot stand in a certificate.
    #[error("\"{0}\" is neither a host name nor an IP address, so no certificate can be issued for it")]
    Name(String),
    /// The cryptographic library refused.
    #[error("{action}: {detail}")]
    Crypto {
        /// What was attempted.
        action: &'static str,
        /// What the library says.
        detail: String,
    },
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    }

    pub(crate) fn content(path: &Path, detail: impl Into<String>) -> Self {
        Error::Content { path: path.to_owned(), detail: detail.into() }
    }

    pub(crate) fn crypto<E: ToString>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Error::Crypto { action, detail: e.to_string() }
    }
}
