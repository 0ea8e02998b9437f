//! What is kept of what clients send: policies and rules, asked by the store, with services that scan.
//!
//! ```text
//! store landing::gate --announced--> rules: by name and size, before a byte is asked for
//!                     --examine----> policies, rules: by name, size and first bytes --scan--> metra_icap::Client
//!                                       `--> keep | refuse | quarantine (a note beside the file)
//! ```
//!
//! The store asks on threads that may block, several files of a job at a time; the connections to a service are shared by
//! all jobs. What was kept once is not looked at again, whatever the rules are later.

mod gate;
mod quarantine;
mod reader;

use std::io;
use std::sync::Arc;

use metra_core::wire::Push;
use metra_icap::Client;
use metra_policy::audit;
use metra_policy::content::ContentRules;
use metra_session::LinkHandle;
use metra_store::landing::Gate;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::gate::JobGate;
use self::quarantine::Quarantine;
use crate::authority::Asker;
use crate::config::Config;
use crate::sessions::{Live, Sessions};

/// The rules and services of a gateway.
pub(crate) struct Content {
    rules: ContentRules,
    services: Vec<(String, Client)>,
    /// Where services are asked.
    runtime: Handle,
    quarantine: Quarantine,
    at_once: usize,
}

impl Content {
    /// Of a gateway that has rules. Makes the folder for what is put aside.
    ///
    /// # Errors
    /// The folder cannot be made, or this is called outside of tokio.
    pub(crate) fn open(config: &Config) -> io::Result<Option<Arc<Self>>> {
        let content = &config.content;
        if content.rules.is_empty() {
            return Ok(None);
        }
        let services = content.services.iter();
        Ok(Some(Arc::new(Self {
            rules: content.rules.clone(),
            services: services
                .map(|(name, settings)| (name.clone(), Client::new(settings.clone())))
                .collect(),
            runtime: Handle::try_current().map_err(io::Error::other)?,
            quarantine: Quarantine::open(&content.quarantine)?,
            at_once: content.at_once,
        })))
    }
}

/// The gate for a job that a client sends; `None`, if nothing is decided on whole files.
pub(crate) fn gate(
    sessions: &Sessions,
    live: &Live,
    link: &LinkHandle,
    asker: &Asker,
    push: &Push,
) -> Option<Arc<dyn Gate>> {
    let (content, authority) = (sessions.content().cloned(), sessions.authority().clone());
    if content.is_none() && !authority.is_on() {
        return None;
    }
    let account = live.account();
    let below = account.home.strip_prefix(&sessions.config().root).unwrap_or(&account.home);
    let prefix = below.to_string_lossy();
    Some(Arc::new(JobGate {
        content,
        authority,
        asker: asker.clone(),
        trail: sessions.audit().files(live, link, audit::Action::Push, push.job.0),
        user: account.name.clone(),
        key: push.key,
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        cancelled: watch::Sender::new(false),
    }))
}
