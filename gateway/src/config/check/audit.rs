//! The `[audit]` table.

use std::time::Duration;

use super::{Bound, Check, MIB};
use crate::config::{
    Audit, AuditFile, AuditFormat, AuditSyslog, CertificateFiles, OnFailure, RawAudit, RawAuditFile,
    RawAuditSyslog,
};

impl Check {
    pub(super) fn audit(&mut self, raw: RawAudit) -> Audit {
        let file = raw.file.and_then(|file| self.audit_file(file));
        let syslog = raw.syslog.and_then(|syslog| self.audit_syslog(syslog));
        if raw.on_failure.is_some() && file.is_none() && syslog.is_none() && !self.is_broken("audit") {
            self.error("audit.on_failure", "says nothing without audit.file or audit.syslog");
        }
        Audit { on_failure: raw.on_failure.unwrap_or(OnFailure::Continue), file, syslog }
    }

    fn audit_file(&mut self, raw: RawAuditFile) -> Option<AuditFile> {
        let hours = self.number(&MAX_HOURS, raw.max_hours);
        let Some(path) = raw.path else {
            if !self.is_broken("audit.file.path") {
                self.error("audit.file.path", "is required: the file that records are written to");
            }
            return None;
        };
        if path.is_dir() {
            self.error("audit.file.path", format!("{} is a directory", path.display()));
        }
        self.outside_root("audit.file.path", &path, "clients could read and replace the audit trail");
        Some(AuditFile {
            path,
            format: raw.format.unwrap_or(AuditFormat::Json),
            max_size: self.number(&MAX_MIB, raw.max_mib) * MIB,
            max_age: (hours > 0).then(|| Duration::from_secs(hours * 3600)),
            keep: self.number(&KEEP, raw.keep) as usize,
            sync: Duration::from_secs(self.number(&SYNC_SECONDS, raw.sync_seconds)),
        })
    }

    fn audit_syslog(&mut self, raw: RawAuditSyslog) -> Option<AuditSyslog> {
        let files =
            [("audit.syslog.ca", &raw.ca), ("audit.syslog.cert", &raw.cert), ("audit.syslog.key", &raw.key)];
        for (key, path) in files {
            if let Some(path) = path {
                self.readable(key, path);
            }
        }
        if let Some(path) = &raw.key {
            self.outside_root("audit.syslog.key", path, "clients could read the private key");
        }
        let identity = match (raw.cert, raw.key) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (None, None) => None,
            (cert, _) => {
                let (missing, given) = if cert.is_some() { ("key", "cert") } else { ("cert", "key") };
                self.error(&format!("audit.syslog.{given}"), format!("goes with audit.syslog.{missing}"));
                None
            }
        };
        let Some(address) = raw.address else {
            if !self.is_broken("audit.syslog.address") {
                self.error("audit.syslog.address", "is required: the server, as HOST:PORT");
            }
            return None;
        };
        let Some((host, port)) = host_and_port(&address) else {
            let message =
                format!("{address:?} is not HOST:PORT or [IPv6]:PORT, as in \"logs.example.com:6514\"");
            self.error("audit.syslog.address", message);
            return None;
        };
        Some(AuditSyslog {
            host,
            port,
            format: raw.format.unwrap_or(AuditFormat::Json),
            ca: raw.ca,
            identity,
        })
    }
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => host,
    };
    let is_host = |c: u8| c.is_ascii_alphanumeric() || b".-:_".contains(&c);
    let is_bare_v6 = !text.starts_with('[') && host.contains(':');
    (!host.is_empty() && host.bytes().all(is_host) && !is_bare_v6).then(|| (host.to_owned(), port))
}

pub(super) const MAX_MIB: Bound = Bound::new("audit.file.max_mib", 1, 1_048_576, 256);
pub(super) const MAX_HOURS: Bound = Bound::new("audit.file.max_hours", 0, 87_600, 24);
pub(super) const KEEP: Bound = Bound::new("audit.file.keep", 0, 10_000, 90);
pub(super) const SYNC_SECONDS: Bound = Bound::new("audit.file.sync_seconds", 0, 3600, 1);
