//! Key and certificate files: private, written whole or not at all, made by one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// Mode of a file that only its owner may read.
pub(crate) const PRIVATE: u32 = 0o600;
/// Mode of a file that everybody may read.
pub(crate) const PUBLIC: u32 = 0o644;

/// The state directory while this process alone may change the keys in it. Dropped: the next one may.
pub(crate) struct LockedDir {
    dir: PathBuf,
    _lock: File,
}

impl LockedDir {
    /// Makes `dir` (mode 0700) if it is not there and waits until no other process or thread holds it.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::file("create", dir))?;
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        lock.lock().map_err(Error::file("lock", &path))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// The path of a file in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The content of a file in the directory, `None` if it is not there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(name);
        match read(&path) {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// As [`read`](Self::read), for a secret: says so in the log if others can read it too.
    pub(crate) fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(name);
        if let Ok(meta) = fs::metadata(&path)
            && meta.permissions().mode() & 0o077 != 0
        {
            tracing::warn!(file = %path.display(), "other users may read this key; run chmod 600 on it");
        }
        self.read(name)
    }

    /// Puts a file in place under its name, whole and durable, replacing what is there.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), Error> {
        let path = self.path(name);
        let part = self.path(&format!("{name}.part"));
        // What a crash has left; nobody else can be writing it, since the directory is locked.
        match fs::remove_file(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", &part)(e)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&part)
            .map_err(Error::file("create", &part))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::file("write", &part))?;
        fs::rename(&part, &path).map_err(Error::file("create", &path))?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(Error::file("sync", &self.dir))
    }
}

/// The content of a file of at most 1 MiB, far above any key or bundle of certificates.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(Error::file("read", path))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::content(path, "larger than 1 MiB, so it is no key or certificate file"));
    }
    Ok(bytes)
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    certificates_in(path, &read(path)?)
}

/// The certificates in `pem`, at least one; `path` names the file in errors.
pub(crate) fn certificates_in(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certs = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::content(path, format!("not a PEM file of certificates ({e})")))?;
    if certs.is_empty() {
        return Err(Error::content(
            path,
            "holds no certificate (a PEM block of -----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(certs)
}

/// The private key in `pem`; `path` names the file in errors, which never show any of the key.
pub(crate) fn private_key_in(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        Error::content(path, "holds no unencrypted private key (a PEM block of -----BEGIN PRIVATE KEY-----)")
    })
}

/// One PEM block (RFC 7468 section 2).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let body = STANDARD.encode(der);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

const LOCK_FILE: &str = "certs.lock";
const FILE_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_private_file_is_private_from_its_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let locked = LockedDir::open(&state).unwrap();
        locked.write("key", b"secret", PRIVATE).unwrap();
        locked.write("cert", b"public", PUBLIC).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("key")), 0o600);
        assert_eq!(mode(&state.join("cert")) & 0o600, 0o600);
        assert_eq!(locked.read_secret("key").unwrap().unwrap(), b"secret");
        assert!(locked.read("absent").unwrap().is_none());
    }

    #[test]
    fn what_a_crash_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let locked = LockedDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("key.part"), "half").unwrap();
        fs::set_permissions(dir.path().join("key.part"), fs::Permissions::from_mode(0o644)).unwrap();
        locked.write("key", b"whole", PRIVATE).unwrap();
        assert_eq!(locked.read("key").unwrap().unwrap(), b"whole");
        assert_eq!(fs::metadata(dir.path().join("key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("key.part").exists());
    }

    #[test]
    fn both_sides_of_the_size_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, vec![b'a'; FILE_MAX as usize]).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, FILE_MAX);
        fs::write(&path, vec![b'a'; FILE_MAX as usize + 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger than 1 MiB"));
    }

    #[test]
    fn pem_blocks_are_read_back() {
        for n in [0_u8, 1, 47, 48, 49, 200] {
            let der: Vec<u8> = (0..n).collect();
            let text = pem("CERTIFICATE", &der);
            assert!(text.lines().all(|l| l.len() <= 64));
            assert_eq!(&*CertificateDer::from_pem_slice(text.as_bytes()).unwrap(), der.as_slice());
        }
    }
}
