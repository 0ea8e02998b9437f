//! From the file to [`Settings`]: everything that is wrong is reported together.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use metra_certs::Pin;
use metra_client::{Address, Credentials, MasqueProxy, Proxy};
use metra_gateway::config::document::{self, Origin, join};
use metra_gateway::config::{ConfigErrors, OneOrMany};

use super::raw::Raw;
use super::{Settings, Table, is_same};
use crate::args::MASQUE_MAX;

/// What is in a file, if all of it is right.
pub(super) fn read(file: &Path) -> Result<Settings, ConfigErrors> {
    let (raw, origin, base): (Raw, _, _) = document::read(file)?;
    let mut check = Check { origin, base, has_password: false };
    let settings = check.settings(raw);
    if !check.origin.errors.is_empty() {
        return Err(check.origin.into_errors());
    }
    let warning = (check.has_password && is_open(file)).then(|| {
        let shown = file.display();
        format!("warning: {shown} has the password of a proxy, and others can read it: chmod 600 {shown}")
    });
    Ok(Settings { warning, ..settings })
}

/// Whether anybody but the file's owner may read it.
fn is_open(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0)
}

/// A check that fails reports it and goes on with any value, which nobody will see.
struct Check {
    origin: Origin,
    base: PathBuf,
    /// Whether there is a proxy with credentials in its URL.
    has_password: bool,
}

impl Check {
    fn settings(&mut self, mut raw: Raw) -> Settings {
        let gateways = std::mem::take(&mut raw.gateway);
        for (key, is_there) in [("pin", raw.pin.is_some()), ("token_file", raw.token_file.is_some())] {
            if is_there {
                let message = "is for one gateway: put it into a table [gateway.\"HOST:PORT\"]";
                self.origin.error(key, message);
            }
        }
        let everywhere = self.table(&[], raw);
        let mut known: Vec<(Address, Table)> = Vec::new();
        for (name, raw) in gateways {
            let path = ["gateway".to_owned(), name];
            let (key, [_, name]) = (join(&path), &path);
            if !raw.gateway.is_empty() {
                self.origin.error(&key, "has a table \"gateway\" in it, which stands by itself only");
            }
            let table = self.table(&path, raw);
            match name.parse::<Address>() {
                Ok(address) if known.iter().any(|(other, _)| is_same(other, &address)) => {
                    self.origin.error(&key, format!("there is another table for {address}"));
                }
                Ok(address) => known.push((address, table)),
                Err(error) => self.origin.error(&key, format!("is no HOST:PORT: {error}")),
            }
        }
        Settings { everywhere, gateways: known, warning: None }
    }

    /// A table; `path` leads to it.
    fn table(&mut self, path: &[String], raw: Raw) -> Table {
        let key = |name: &str| join(&[path, &[name.to_owned()]].concat());
        let has_token = raw.proxy_token_file.is_some();
        if let Some(proxy) = raw.proxy.as_deref().filter(|text| !matches!(*text, "" | "none" | "direct")) {
            match proxy.trim().parse::<Proxy>() {
                Ok(proxy) => {
                    self.has_password |= *proxy.credentials() != Credentials::None;
                    let token = Credentials::Bearer("token".to_owned());
                    if let Some(error) = proxy.with_credentials(token).err().filter(|_| has_token) {
                        self.origin.error(&key("proxy_token_file"), error.to_string());
                    }
                }
                Err(error) => self.origin.error(&key("proxy"), error.to_string()),
            }
        }
        let masque = raw.masque_proxy.map(|list| self.masque(&key("masque_proxy"), list));
        let tokens = raw.masque_token_file.map(Vec::from).unwrap_or_default();
        if tokens.len() > masque.as_ref().map_or(0, Vec::len) {
            let message = "is for a masque_proxy of the same table, and there is none for it";
            self.origin.error(&key("masque_token_file"), message);
        }
        let mut pins = Vec::new();
        for text in raw.pin.map(Vec::from).unwrap_or_default() {
            match text.parse::<Pin>() {
                Ok(pin) => pins.push(pin),
                Err(error) => self.origin.error(&key("pin"), error.to_string()),
            }
        }
        let absolute = |path: PathBuf| self.base.join(path);
        Table {
            proxy: raw.proxy,
            no_proxy: raw.no_proxy.map(|hosts| Vec::from(hosts).join(",")),
            proxy_token_file: raw.proxy_token_file.map(absolute),
            masque,
            masque_tokens: tokens.into_iter().map(PathBuf::from).map(absolute).collect(),
            via: raw.via,
            inspection: raw.inspection,
            ca: raw
                .ca
                .map(Vec::from)
                .unwrap_or_default()
                .into_iter()
                .map(PathBuf::from)
                .map(absolute)
                .collect(),
            pins,
            timeout: raw.timeout_seconds,
            token_file: raw.token_file.map(absolute),
        }
    }

    /// MASQUE proxies, as they are written.
    fn masque(&mut self, key: &str, list: OneOrMany) -> Vec<String> {
        let list: Vec<String> = Vec::from(list);
        if let [only] = &list[..]
            && matches!(only.as_str(), "" | "none")
        {
            return Vec::new();
        }
        if list.len() > MASQUE_MAX {
            self.origin.error(key, "there are two proxies at most");
        }
        for text in &list {
            match text.parse::<MasqueProxy>() {
                Ok(proxy) => self.has_password |= *proxy.credentials() != Credentials::None,
                Err(error) => self.origin.error(key, error.to_string()),
            }
        }
        list
    }
}
