//! Applies the policies: asks them, reads them again when they change, and says to what runs that it may no longer.
//!
//! ```text
//! session, job, path, tunnel --permit(question)--> may, or refused with the policy's name
//!                            --revoked(question)--> resolves when new policies, or the time, no longer permit it
//! ```
//!
//! Without files there are no policies, and nothing is refused here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metra_core::code::Code;
use metra_policy::content::Kind;
use metra_policy::engine::{Action, Context, Decision, Engine, Principal, Request, Resource};
use metra_store::Guard;
use metra_transport::{AbortOnDrop, Link, Rt};
use tokio::sync::{Notify, watch};

use crate::account::Account;
use crate::config::Policy;
use crate::measure;
use crate::open::Refused;
use crate::sessions::unix_now;
use crate::watched::{self, Stamp};

/// How often the files are looked at. What runs is to hear of a change within a second.
const LOOK: Duration = Duration::from_millis(300);
/// How often what runs is decided on again, for policies that look at the time.
const AGAIN: Duration = Duration::from_secs(10);
/// Bytes of the longest file.
const FILE_MAX: u64 = 16 << 20;

/// How a refusal by policies is put, and that of none.
const DENIED: &str = " is denied: ";
const NOBODY: &str = "no policy permits it";

/// Which policies a refusal names; `default` if it is that none permits.
pub(crate) fn policies_in(reason: &str) -> Option<&str> {
    let (_, by) = reason.rsplit_once(DENIED)?;
    if by == NOBODY { Some("default") } else { by.strip_prefix("policy ") }
}

/// The policies of a gateway.
pub(crate) struct Authority {
    rt: Rt,
    dry_run: bool,
    /// `None`: there are no policies.
    engine: watch::Sender<Option<Arc<Engine>>>,
    /// Somebody wants the files read now.
    reload: Notify,
}

impl Authority {
    /// Reads the files that the configuration names, and follows them for as long as what it returns lives.
    ///
    /// # Errors
    /// What is wrong with them, a line for each. Fault: whoever wrote them.
    pub(crate) fn start(rt: &Rt, config: &Policy) -> Result<(Arc<Self>, Option<AbortOnDrop<()>>), String> {
        let stamps = stamps(&config.files);
        let first = if config.files.is_empty() { None } else { Some(Arc::new(read(&config.files)?)) };
        let follows = first.is_some();
        let this = Arc::new(Self {
            rt: rt.clone(),
            dry_run: config.dry_run,
            engine: watch::Sender::new(first),
            reload: Notify::new(),
        });
        let follow =
            follows.then(|| rt.spawn(this.clone().follow(config.files.clone(), stamps)).abort_on_drop());
        Ok((this, follow))
    }

    /// Reads the files again now.
    pub(crate) fn reload(&self) {
        self.reload.notify_one();
    }

    /// Whether there are policies at all.
    pub(crate) fn is_on(&self) -> bool {
        self.engine.borrow().is_some()
    }

    /// Asks the policies, and logs what they deny. Which of them permit it, as the audit trail has it; `None`: there are none.
    ///
    /// # Errors
    /// [`Code::Denied`], with the policies that forbid it.
    pub(crate) fn permit(&self, request: &Request) -> Result<Option<String>, Refused> {
        let judged = self.judge(request);
        let (user, action, resource) = (&request.principal.user, request.action, &request.resource);
        if let Err(refused) = &judged {
            let by = policies_in(&refused.reason);
            tracing::info!(user, %action, %resource, by, "denied");
        }
        judged.map(|decision| decision.map(|decision| names(&decision)))
    }

    /// The same without the log: for each of the paths below one that was permitted, which may be millions.
    fn judge(&self, request: &Request) -> Result<Option<Decision>, Refused> {
        let engine = self.engine.borrow().clone();
        let Some(engine) = engine else { return Ok(None) };
        let decision = engine.decide(request);
        for (policy, error) in &decision.errors {
            tracing::warn!(%policy, error, action = %request.action, "a policy cannot be evaluated");
        }
        if decision.allowed {
            return Ok(Some(decision));
        }
        let by = names(&decision);
        let by = if by.is_empty() { NOBODY.to_owned() } else { format!("policy {by}") };
        let (user, action, resource) = (&request.principal.user, request.action, &request.resource);
        measure::denied(action.name(), self.dry_run);
        if self.dry_run {
            tracing::info!(user, %action, %resource, by, "would be denied");
            return Ok(None);
        }
        Err(Refused::new(Code::Denied, format!("{action} on {resource}{DENIED}{by}")))
    }

    /// The policy by which whoever comes in so has the rate policy low and no other; `None`: no policy says so.
    pub(crate) fn locked_to_low(&self, opening: &Request) -> Option<String> {
        let engine = self.engine.borrow().clone()?;
        engine.decide(opening).locked_to_low().filter(|_| !self.dry_run).map(ToOwned::to_owned)
    }

    /// Whether the policies may look at what is known of a file only when it is whole.
    pub(crate) fn looks_at_whole_files(&self) -> bool {
        self.engine.borrow().as_ref().is_some_and(|engine| engine.looks_at_whole_files())
    }

    /// Asks the policies whether what was sent may get its name, now that it is whole. The path is from the gateway's root on,
    /// the size in bytes.
    ///
    /// # Errors
    /// It may not: what the client is told.
    pub(crate) fn may_keep(&self, asker: &Asker, path: &str, size: u64, kind: Kind) -> Result<(), String> {
        if !self.is_on() {
            return Ok(());
        }
        let mut request = asker.asks(Action::Send, Resource::path(path));
        (request.context.size, request.context.file_type) = (Some(size), Some(kind));
        self.judge(&request).map(|_| ()).map_err(|refused| refused.reason)
    }

    /// Resolves when one of those that were permitted no longer is, with why.
    pub(crate) async fn revoked(&self, mut requests: Vec<Request>) -> Refused {
        let mut engine = self.engine.subscribe();
        if engine.borrow_and_update().is_none() {
            std::future::pending::<()>().await;
        }
        loop {
            let _ = self.rt.timeout(AGAIN, engine.changed()).await;
            engine.mark_unchanged();
            for request in &mut requests {
                request.context.time = unix_now();
                if let Err(refused) = self.permit(request) {
                    return refused;
                }
            }
        }
    }

    async fn follow(self: Arc<Self>, files: Vec<PathBuf>, mut before: Vec<Stamp>) {
        loop {
            let asked = self.rt.timeout(LOOK, self.reload.notified()).await.is_ok();
            let now = stamps(&files);
            if !asked && now == before {
                continue;
            }
            before = now;
            let paths = files.clone();
            match self.rt.blocking(move || read(&paths)).await {
                Ok(engine) => {
                    tracing::info!(policies = engine.len(), "policies read");
                    self.engine.send_replace(Some(Arc::new(engine)));
                }
                Err(errors) => {
                    measure::policies_refused();
                    for error in errors.lines() {
                        tracing::error!(error, "the policies are wrong; those before stay in force");
                    }
                }
            }
        }
    }
}

/// Who asks, and from where: what all questions of a link have in common.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    principal: Principal,
    source: IpAddr,
    way: &'static str,
    inspected: bool,
}

impl Asker {
    /// The user, who comes from there by this way, on which nobody is known to look into TLS.
    pub(crate) fn new(account: &Account, source: IpAddr, way: &'static str) -> Self {
        let principal = Principal {
            user: account.name.clone(),
            groups: account.groups.clone(),
            tenant: account.tenant.clone(),
        };
        Self { principal, source, way, inspected: false }
    }

    /// The user, by a link. What the link does not know is not held against it.
    pub(crate) fn over(account: &Account, link: &dyn Link) -> Self {
        let inspected = link.is_inspected() == Some(true);
        Self { inspected, ..Self::new(account, link.peer().ip(), link.kind().name()) }
    }

    /// A question, now.
    pub(crate) fn asks(&self, action: Action, resource: Resource) -> Request {
        let context =
            Context { inspected: self.inspected, ..Context::new(self.source, self.way, unix_now()) };
        Request { principal: self.principal.clone(), action, resource, context }
    }

    /// A question of each path below `root` (the gateway's, a real path), for whoever reads or writes there. `None`: there are no
    /// policies.
    pub(crate) fn guard(&self, authority: &Arc<Authority>, action: Action, root: &Path) -> Option<Guard> {
        if !authority.is_on() {
            return None;
        }
        let (authority, asker, root) = (authority.clone(), self.clone(), root.to_path_buf());
        Some(Guard::new(move |path, size| {
            // What is outside of the root is for nobody; names that are not UTF-8 are carried by nobody.
            let Some(within) = path.strip_prefix(&root).ok().and_then(|path| path.to_str()) else {
                return Err("it is outside of what is served".to_owned());
            };
            let mut request = asker.asks(action, Resource::path(within));
            request.context.size = size;
            authority.judge(&request).map(|_| ()).map_err(|refused| refused.reason)
        }))
    }
}

/// The policies that decided.
fn names(decision: &Decision) -> String {
    let names: Vec<&str> = decision.policies.iter().map(|policy| policy.id.as_str()).collect();
    names.join(", ")
}

fn read(files: &[PathBuf]) -> Result<Engine, String> {
    let mut texts = Vec::new();
    for file in files {
        texts.push((file.display().to_string(), watched::read(file, FILE_MAX)?));
    }
    let engine = Engine::parse(&texts).map_err(|errors| errors.to_string())?;
    for warning in engine.warnings() {
        tracing::warn!(%warning, "a policy is hardly meant so");
    }
    Ok(engine)
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|file| watched::stamp(file)).collect()
}
