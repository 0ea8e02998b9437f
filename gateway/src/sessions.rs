//! The sessions of a gateway: who is here, and what they share.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metra_certs::{ReceiptKey, TicketError, TicketKey};
use metra_core::code::Code;
use metra_core::id::{JobId, SessionId};
use metra_core::wire::PeerLimits;
use metra_policy::engine::{Action, Request, Resource};
use metra_session::{Session, SessionConfig};
use metra_store::Catalogue;
use metra_transport::{AbortOnDrop, Link, Rt};
use tokio::sync::mpsc;

use crate::account::Account;
use crate::audit::Audit;
use crate::authority::{Asker, Authority};
use crate::config::{self, Config, Limits};
use crate::content::Content;
use crate::identities::Identities;
use crate::jobs::{Claims, Memory, OpenJobs, Seats, serve_requests};
use crate::measure;
use crate::open::Refused;
use crate::paces::Paces;
use crate::places::network_of;
use crate::rates::Rates;
use crate::shaping::{Shaping, is_limited};

/// How long a ticket is good for: a client that was away for a night can take its session up without its token.
const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a session with jobs is kept without a link: they go on without being opened anew if the client comes back.
const LINGER: Duration = Duration::from_secs(60);
/// How long a finished job is remembered, for a client whose link broke before it heard of it.
const REMEMBER: Duration = Duration::from_secs(30);
/// Finished jobs that one session remembers; the oldest gives way.
const REMEMBERED: usize = 16;
/// Frames that wait to be acted on in one session.
const REQUEST_QUEUE: usize = 32;

/// What the gateway signs and seals with, and is known by.
pub(crate) struct Keys {
    /// Signs receipts.
    pub(crate) receipts: ReceiptKey,
    /// Seals tickets.
    pub(crate) tickets: TicketKey,
    /// The pin of its certificate: its name in receipts.
    pub(crate) pin: String,
}

/// All sessions, and what they share.
pub(crate) struct Sessions {
    rt: Rt,
    config: Config,
    catalogue: Arc<Catalogue>,
    keys: Keys,
    claims: Claims,
    open_jobs: Arc<OpenJobs>,
    memory: Memory,
    rates: Rates,
    audit: Audit,
    identities: Identities,
    authority: Arc<Authority>,
    shaping: Arc<Shaping>,
    content: Option<Arc<Content>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: HashMap<SessionId, Arc<Live>>,
    draining: bool,
}

impl State {
    /// Whether there is room for one more session of `account`, opened from there.
    ///
    /// # Errors
    /// [`Code::Busy`]: as many as may be in all, of the user or from the network. Fault: neither.
    fn room(&self, limits: &Limits, account: &Account, from: IpAddr) -> Result<(), Refused> {
        let network = network_of(from.to_canonical());
        let of_user = self.live.values().filter(|live| live.account.name == account.name).count();
        if self.live.len() >= limits.sessions || of_user >= limits.sessions_per_user {
            return Err(Refused::new(Code::Busy, "too many sessions; try again later"));
        }
        let from_network = self.live.values().filter(|live| live.network == network).count();
        if from_network >= limits.sessions_per_address {
            return Err(Refused::new(Code::Busy, "too many sessions from this address; try again later"));
        }
        Ok(())
    }
}

/// One session.
pub(crate) struct Live {
    id: SessionId,
    account: Arc<Account>,
    /// The network of the link that opened it. Later ones may come from elsewhere, and do not change whose share it is.
    network: IpAddr,
    session: Session,
    finished: Mutex<VecDeque<JobId>>,
    seats: Seats,
    paces: Paces,
}

impl Live {
    /// One that is opened from there, and has no jobs yet.
    fn new(id: SessionId, account: &Arc<Account>, from: IpAddr, session: Session) -> Self {
        Self {
            id,
            account: account.clone(),
            network: network_of(from.to_canonical()),
            session,
            finished: Mutex::default(),
            seats: Seats::default(),
            paces: Paces::default(),
        }
    }

    /// Its jobs that wait for their turn.
    pub(crate) fn seats(&self) -> &Seats {
        &self.seats
    }

    /// How fast its links may send for the moment.
    pub(crate) fn paces(&self) -> &Paces {
        &self.paces
    }

    /// Keeps a finished job for a while, so that it can be told of again. It takes no place among the jobs.
    pub(crate) fn remember(self: &Arc<Self>, rt: &Rt, job: JobId) {
        let oldest = {
            let mut finished = self.finished.lock().expect("no panic while held");
            finished.push_back(job);
            if finished.len() > REMEMBERED { finished.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            self.session.remove(oldest);
        }
        let (live, rt) = (self.clone(), rt.clone());
        rt.clone().spawn(async move {
            tokio::select! {
                () = rt.sleep(REMEMBER) => {}
                () = live.session.closed() => {}
            }
            let due = {
                let mut finished = live.finished.lock().expect("no panic while held");
                let at = finished.iter().position(|id| *id == job);
                at.and_then(|at| finished.remove(at))
            };
            // If it gave way to others, its number may be in use again.
            if due.is_some() {
                live.session.remove(job);
            }
        });
    }

    /// A link has been closed as policies no longer permit it. Without another the session ends: its client may not come back
    /// that way, and what it has begun must not go on.
    pub(crate) fn link_revoked(&self, link: &Arc<dyn Link>, why: &Refused) {
        if self.session.links().iter().all(|other| other.id() == link.id()) {
            self.session.cancel_jobs(why.code, &why.reason);
            self.session.close(why.code, &why.reason);
        }
    }

    /// Its name.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Its links and jobs.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Whose it is.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

/// What decides, for all sessions.
pub(crate) struct Deciders {
    /// Who somebody is.
    pub(crate) identities: Identities,
    /// What they may do.
    pub(crate) authority: Arc<Authority>,
    /// What is kept of what they send, if there are rules for it.
    pub(crate) content: Option<Arc<Content>>,
    /// How jobs share what may be moved.
    pub(crate) shaping: Arc<Shaping>,
}

impl Sessions {
    /// No sessions yet.
    pub(crate) fn new(
        rt: Rt,
        config: Config,
        catalogue: Arc<Catalogue>,
        keys: Keys,
        deciders: Deciders,
        audit: Audit,
    ) -> Arc<Self> {
        let Deciders { identities, authority, content, shaping } = deciders;
        let memory = Memory::new(config.limits.manifest_memory, config.limits.receive_memory);
        memory.set_limited(is_limited(&config.shaping));
        let open_jobs = OpenJobs::new(config.limits.jobs_per_user, config.limits.jobs_per_address);
        Arc::new(Self {
            rt,
            rates: Rates::new(config.rates),
            config,
            catalogue,
            keys,
            claims: Claims::default(),
            open_jobs,
            memory,
            audit,
            identities,
            authority,
            shaping,
            content,
            state: Mutex::default(),
        })
    }

    /// The rules for what clients send, if there are any.
    pub(crate) fn content(&self) -> Option<&Arc<Content>> {
        self.content.as_ref()
    }

    /// Time and tasks.
    pub(crate) fn rt(&self) -> &Rt {
        &self.rt
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    pub(crate) fn receipts(&self) -> &ReceiptKey {
        &self.keys.receipts
    }

    pub(crate) fn pin(&self) -> &str {
        &self.keys.pin
    }

    /// Who is who.
    pub(crate) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Asks the policies of a path beneath a user's home. What was asked, to be asked again, and which permit it.
    ///
    /// # Errors
    /// They deny it.
    pub(crate) fn permit_path(
        &self,
        account: &Account,
        asker: &Asker,
        action: Action,
        path: &str,
    ) -> Result<(Request, Option<String>), Refused> {
        let home = account.home.strip_prefix(&self.config.root).unwrap_or(&account.home);
        let asked = asker.asks(action, Resource::path(&format!("{}/{path}", home.display())));
        let by = self.authority.permit(&asked)?;
        Ok((asked, by))
    }

    /// Does something once one of those that were permitted no longer is; never, when what it returns is dropped. `None`: there are no policies.
    pub(crate) fn until_revoked(
        &self,
        requests: Vec<Request>,
        then: impl FnOnce(Refused) + Send + 'static,
    ) -> Option<AbortOnDrop<()>> {
        if !self.authority.is_on() {
            return None;
        }
        let authority = self.authority.clone();
        Some(self.until(async move { authority.revoked(requests).await }, then))
    }

    /// Does something with what comes, unless what it returns is dropped before.
    pub(crate) fn until<T: Send + 'static>(
        &self,
        what: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(T) + Send + 'static,
    ) -> AbortOnDrop<()> {
        self.rt.spawn(async move { then(what.await) }).abort_on_drop()
    }

    /// Other rules for what jobs may move are in force from now on.
    pub(crate) fn shape(&self, rules: config::Shaping) {
        self.memory.set_limited(is_limited(&rules));
        self.shaping.replace(rules);
    }

    /// How jobs share what the gateway may move.
    pub(crate) fn shaping(&self) -> &Arc<Shaping> {
        &self.shaping
    }

    /// The policies.
    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The account of a session that lives, if it is that of this user.
    pub(crate) fn account(&self, id: SessionId, name: &str) -> Option<Arc<Account>> {
        let state = self.lock();
        let live = state.live.get(&id).filter(|live| live.account.name == name)?;
        Some(live.account.clone())
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The jobs of all sessions, as they are limited.
    pub(crate) fn open_jobs(&self) -> &Arc<OpenJobs> {
        &self.open_jobs
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The audit trail.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    pub(crate) fn rates(&self) -> &Rates {
        &self.rates
    }

    pub(crate) fn peer_limits(&self) -> PeerLimits {
        let limits = &self.config.limits;
        PeerLimits {
            jobs: limits.jobs_per_session as u64,
            entries: u64::from(limits.entries),
            chunks: u64::from(limits.chunks),
        }
    }

    /// What a ticket says.
    ///
    /// # Errors
    /// This gateway did not seal it, or it has expired.
    pub(crate) fn open_ticket(&self, ticket: &[u8]) -> Result<(SessionId, String), TicketError> {
        let content = self.keys.tickets.open(ticket, unix_now())?;
        // What was sealed here is whole, unless a version of this program that writes it otherwise has done it.
        let (id, name) = content.split_first_chunk::<16>().ok_or(TicketError::Unknown)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| TicketError::Unknown)?;
        Ok((SessionId(*id), name))
    }

    /// A ticket for a session, and for how many seconds it is good.
    pub(crate) fn ticket(&self, id: &SessionId, account: &Account) -> (Vec<u8>, u64) {
        let mut content = id.0.to_vec();
        content.extend_from_slice(account.name.as_bytes());
        let lifetime = TICKET_LIFETIME.as_secs();
        (self.keys.tickets.seal(&content, unix_now(), lifetime), lifetime)
    }

    /// Whether the account may have (this, or another) session now, over a link from there; the id to welcome it with. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`Code::Draining`], or [`Code::Busy`] when there are too many.
    pub(crate) fn admit(
        &self,
        account: &Account,
        from: IpAddr,
        wanted: Option<SessionId>,
    ) -> Result<SessionId, Refused> {
        let state = self.lock();
        if state.draining {
            return Err(Refused::new(Code::Draining, "the gateway is shutting down"));
        }
        let crowded = |live: &Arc<Live>| live.session.links().len() >= self.config.limits.links_per_session;
        if wanted.and_then(|id| state.live.get(&id)).is_some_and(crowded) {
            return Err(Refused::new(Code::Limit, "too many links in this session"));
        }
        match wanted {
            Some(id) if state.live.get(&id).is_none_or(|live| live.account.name == account.name) => Ok(id),
            _ => {
                state.room(&self.config.limits, account, from)?;
                Ok(SessionId(random()?))
            }
        }
    }

    /// The session with this id, made for a link from there if it does not exist. The flag: whether it did.
    ///
    /// # Errors
    /// As [`admit`](Self::admit): what it saw may have changed.
    pub(crate) fn enter(
        self: &Arc<Self>,
        id: SessionId,
        account: &Arc<Account>,
        from: IpAddr,
    ) -> Result<(Arc<Live>, bool), Refused> {
        let mut state = self.lock();
        if state.draining {
            return Err(Refused::new(Code::Draining, "the gateway is shutting down"));
        }
        if let Some(live) = state.live.get(&id) {
            if live.account.name != account.name {
                return Err(Refused::new(Code::Denied, "the session belongs to somebody else"));
            }
            return Ok((live.clone(), true));
        }
        state.room(&self.config.limits, account, from)?;
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let limits = &self.config.limits;
        let session_config = SessionConfig {
            jobs: limits.jobs_per_session,
            links: limits.links_per_session,
            ..SessionConfig::default()
        };
        let session = Session::new(self.rt.clone(), session_config, requests);
        let live = Arc::new(Live::new(id, account, from, session));
        state.live.insert(id, live.clone());
        metrics::gauge!("metra_sessions").set(state.live.len() as f64);
        drop(state);
        self.rt.spawn(serve_requests(self.clone(), live.clone(), queue));
        self.rt.spawn(measure::links(self.rt.clone(), live.clone()));
        self.rt.spawn(self.clone().watch(live.clone()));
        Ok((live, false))
    }

    /// Lets no session and no link in from here on, and ends all jobs; what they hold is journaled. Resolves when
    /// that is done, or after `grace`.
    pub(crate) async fn drain(&self, grace: Duration) {
        let live: Vec<Arc<Live>> = {
            let mut state = self.lock();
            state.draining = true;
            state.live.values().cloned().collect()
        };
        for live in &live {
            live.session.cancel_jobs(Code::Draining, "the gateway is shutting down; try again");
        }
        let _ = self.rt.timeout(grace, self.claims.idle()).await;
        for live in &live {
            live.session.close(Code::Draining, "the gateway is shutting down");
        }
    }

    /// Ends a session that has been without a link for too long.
    async fn watch(self: Arc<Self>, live: Arc<Live>) {
        tokio::select! {
            () = self.abandoned(&live) => {}
            () = live.session.closed() => {}
        }
        match live.session.peer_has_ended() {
            true => live.session.cancel_jobs(Code::Cancelled, "the client has ended the session"),
            false => live.session.cancel_jobs(Code::Timeout, "the client was away for too long"),
        }
        live.session.close(Code::Timeout, "the session has ended");
        let mut state = self.lock();
        state.live.remove(&live.id);
        metrics::gauge!("metra_sessions").set(state.live.len() as f64);
        tracing::info!(session = %live.id, user = live.account.name, "session ended");
    }

    /// Resolves when a session has been without a link for too long, or its client has ended it.
    async fn abandoned(&self, live: &Live) {
        // The first link joins right after the session was made.
        while self.rt.timeout(LINGER, live.session.with_links()).await.is_ok() {
            live.session.links_fewer_than(1).await;
            if live.session.jobs() == 0 || live.session.peer_has_ended() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// Seconds since the epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Milliseconds since the epoch.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Refused::new(Code::Internal, format!("no randomness: {e}")))?;
    Ok(bytes)
}
