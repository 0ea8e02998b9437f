//! Receipts on this side: kept as files, and checked offline.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use metra_core::id::Digest;
use metra_core::receipt::{ReceiptError, SignedReceipt, Statement, signed_bytes};
use metra_core::wire::Keep;
use metra_store::source::{Root, SourceSpec};

use crate::manifest::{HashError, hash};

/// What a check found out.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What was signed.
    pub statement: Statement,
    /// The key that signed it.
    pub public_key: [u8; 32],
    /// Whether the path given has the root of the statement; `None` if none was given.
    pub path: Option<bool>,
}

/// Why a receipt cannot be checked, or is not genuine.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not a receipt.
    #[error("not a receipt: {0}")]
    Malformed(#[from] ReceiptError),
    /// The signature does not fit. Somebody has changed it.
    #[error("the signature is wrong: this receipt has been changed")]
    Signature,
    /// It is signed by another key than the one expected.
    #[error("the receipt is signed by another key than the gateway's")]
    OtherKey,
    /// The path cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The path is not there.
    #[error("{path}: {source}")]
    Path {
        /// It.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Checks a receipt, against `expected` if the gateway's key is known, and `path` against the receipt.
///
/// The root of a manifest depends on how the path was given (the directory, or its contents) and on which metadata
/// was kept; all of these are tried. Blocks; reads the files.
///
/// # Errors
/// It is not genuine, or the path cannot be read.
pub fn verify(
    receipt: &SignedReceipt,
    path: Option<&Path>,
    expected: Option<&[u8; 32]>,
) -> Result<Verified, VerifyError> {
    let statement = Statement::decode(&receipt.statement)?;
    metra_certs::verify(&receipt.public_key, &signed_bytes(&receipt.statement), &receipt.signature)
        .map_err(|_| VerifyError::Signature)?;
    if expected.is_some_and(|key| *key != receipt.public_key) {
        return Err(VerifyError::OtherKey);
    }
    let path = match path {
        Some(path) => Some(has_root(path, &statement)?),
        None => None,
    };
    Ok(Verified { statement, public_key: receipt.public_key, path })
}

fn has_root(path: &Path, statement: &Statement) -> Result<bool, VerifyError> {
    let meta =
        fs::symlink_metadata(path).map_err(|source| VerifyError::Path { path: path.to_owned(), source })?;
    // Content is read once: later passes find the hashes of large files here.
    let cache = metra_store::Catalogue::open_in_memory().ok().map(std::sync::Arc::new);
    for contents in [false, true] {
        if contents && !meta.is_dir() {
            continue;
        }
        for (mode, times) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut spec = SourceSpec::new(vec![Root::Path { path: path.to_owned(), contents }]);
            spec.keep = Keep { mode, times };
            let cache = cache.clone().map(|c| c as std::sync::Arc<dyn metra_store::source::ManifestCache>);
            if hash(&spec, cache, |_| {})?.root == statement.root {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Keeps a receipt in the state folder, as text. Returns the file.
///
/// # Errors
/// What the system says.
pub fn keep_receipt(state: &Path, root: &Digest, receipt: &SignedReceipt) -> io::Result<PathBuf> {
    let folder = state.join("receipts");
    fs::create_dir_all(&folder)?;
    let finished = Statement::decode(&receipt.statement).map_or(0, |s| s.finished);
    let name = format!("{}-{finished}.receipt", &root.to_string()[..16]);
    let path = folder.join(name);
    fs::write(&path, receipt.to_text())?;
    Ok(path)
}
