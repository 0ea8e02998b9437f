//! Opening links, and opening them again; climbing back to a better rung when that works again.
//!
//! ```text
//! hold:   fewer links than wanted --race--> hello, welcome --> part of the session
//! climb:  a better rung than those in use, tried now and then --> the others are let go
//! ```
//!
//! A link that nothing is heard of is not given up here, but it does not count: the transport does that in its own time, and
//! meanwhile it may come back.

mod climb;
mod race;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime};

use metra_core::code::Code;
use metra_core::wire::{FrameDecoder, Welcome};
use metra_fallback::ladder::{Outcome, Place, Rung, Tried};
use metra_fallback::link::StreamLink;
use metra_session::{Begun, LinkHandle, Session};
use metra_transport::{ControlRecv, ControlSend, Link, LinkId, Rt};
use tokio::sync::Notify;

use crate::connect::ConnectOptions;
use crate::error::ClientError;
use crate::networks::Memory;
use crate::reach::{Endpoint, Reach, Reached, limit};

/// Pause between tries: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A link that lives for so long is worth another try at once when it is lost.
const LASTING: Duration = Duration::from_secs(2);

/// The links of a client.
pub(crate) struct Links {
    rt: Rt,
    address: crate::Address,
    agent: String,
    token: Option<String>,
    retry_for: Duration,
    /// The rungs that may be used, the best first.
    via: Vec<Rung>,
    reach: Reach,
    memory: Memory,
    session: Session,
    state: Mutex<State>,
    failed: Notify,
    /// How many links there shall be; and that it has changed.
    wanted: AtomicUsize,
    wanted_changed: Notify,
    links_max: usize,
    /// No link has said hello yet, or the one that has came to nothing.
    is_first: AtomicBool,
    /// The first link stands.
    connected: Notify,
}

#[derive(Default)]
struct State {
    endpoints: Vec<Endpoint>,
    /// By which rung each link has come.
    rungs: BTreeMap<LinkId, Rung>,
    streams: Vec<Weak<StreamLink>>,
    inspected: bool,
    ticket: Option<Vec<u8>>,
    user: String,
    receipt_key: [u8; 32],
    kinds: Vec<String>,
    given_up: Option<ClientError>,
    /// What came of each rung, the last time it was of interest.
    tried: BTreeMap<Rung, Tried>,
    place: Option<Option<Place>>,
    /// When the first link stood, and how long that took.
    connected: Option<(Instant, Duration)>,
    /// Jobs were opened over a link that another one was faster than.
    was_outrun: bool,
}

/// A link that is welcome, and not yet part of the session.
struct Greeted {
    rung: Rung,
    reached: Reached,
    welcome: Welcome,
    half: Half,
    recv: Box<dyn ControlRecv>,
    decoder: FrameDecoder,
}

/// Who has the sending half of a link's control stream.
enum Half {
    Ours(Box<dyn ControlSend>),
    /// Jobs are being opened over it.
    Begun(Begun),
}

impl Links {
    pub(crate) fn new(rt: Rt, options: &ConnectOptions, session: Session) -> Result<Self, ClientError> {
        Ok(Self {
            reach: Reach::new(rt.clone(), options)?,
            rt,
            address: options.address.clone(),
            agent: options.agent.clone(),
            token: options.token.clone(),
            retry_for: options.retry_for,
            via: options.via.clone(),
            memory: Memory::new(options.remember_paths.then(|| options.state.clone())),
            session,
            state: Mutex::default(),
            failed: Notify::new(),
            wanted: AtomicUsize::new(options.links.max(1)),
            wanted_changed: Notify::new(),
            // A rate is shared by a number of links that is known.
            links_max: if options.rate.is_some() { 0 } else { options.links_max },
            is_first: AtomicBool::new(true),
            connected: Notify::new(),
        })
    }

    /// Opens one more link, by the best rung that works.
    pub(crate) async fn open(&self) -> Result<(), ClientError> {
        // A rung whose link is silent is being tried by that link.
        let silent = self.silent_rungs();
        let rungs: Vec<Rung> = self.via.iter().copied().filter(|rung| !silent.contains(rung)).collect();
        let rungs = if rungs.is_empty() { self.via.clone() } else { rungs };
        self.race(&rungs, limit(self.retry_for)).await
    }

    async fn place(&self) -> Option<Place> {
        if self.via.len() < 2 {
            return None;
        }
        let known = self.lock().place.clone();
        if let Some(place) = known {
            return place;
        }
        let place = self.reach.place().await;
        self.lock().place = Some(place.clone());
        place
    }

    /// Makes a link part of the session.
    fn attach(&self, greeted: Greeted) -> Result<(), ClientError> {
        let Greeted { rung, reached, welcome, half, recv, decoder } = greeted;
        {
            let mut state = self.lock();
            state.ticket = Some(welcome.ticket);
            state.user = welcome.user;
            state.receipt_key = welcome.receipt_key;
            let open = self.session.links();
            state.rungs.retain(|id, _| open.iter().any(|link| link.id() == *id));
            state.rungs.insert(reached.link.id(), rung);
        }
        let silent = self.silent_links();
        let kind = reached.link.kind();
        tracing::debug!(%rung, link = %reached.link.id(), "a link joins");
        match half {
            Half::Ours(send) => self.session.attach(reached.link, send, recv, decoder)?,
            Half::Begun(begun) => begun.agreed(recv, decoder),
        };
        // What works while they do not shows that it is not the whole network. What they were given to send would only be in the
        // way when they are heard again.
        for link in silent.iter().filter(|_| self.via.len() > 1) {
            self.gave_way(link);
        }
        let mut state = self.lock();
        state.kinds.push(kind.name().to_owned());
        state.endpoints.extend(reached.endpoint);
        state.streams.retain(|stream| stream.strong_count() > 0);
        state.streams.extend(reached.stream);
        Ok(())
    }

    /// Keeps links open for as long as it is polled, by the best way that works. Gives up when for `retry_for` there was no
    /// link that lasted.
    pub(crate) async fn keep(self: Arc<Self>) {
        tokio::select! {
            () = self.hold() => {}
            () = self.climb() => {}
            () = self.widen() => {}
        }
    }

    fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Links that count. Where there is only one way, a silent link is as good as another one by that way.
    fn counted(&self) -> usize {
        if self.via.len() < 2 { self.session.links().len() } else { self.session.live_links().len() }
    }

    async fn counted_fewer_than(&self, wanted: usize) {
        if self.via.len() < 2 {
            self.session.links_fewer_than(wanted).await;
        } else {
            self.session.live_links_fewer_than(wanted).await;
        }
    }

    fn silent_links(&self) -> Vec<LinkHandle> {
        let live = self.session.live_links();
        let is_silent = |link: &LinkHandle| live.iter().all(|other| other.id() != link.id());
        self.session.links().into_iter().filter(is_silent).collect()
    }

    fn silent_rungs(&self) -> Vec<Rung> {
        self.silent_links().iter().filter_map(|link| self.rung(link)).collect()
    }

    /// The rung by which a link has come.
    fn rung(&self, link: &LinkHandle) -> Option<Rung> {
        self.lock().rungs.get(&link.id()).copied()
    }

    /// A silent link has been replaced by one of another kind, or by a new one.
    fn gave_way(&self, link: &LinkHandle) {
        let rung = self.rung(link);
        tracing::debug!(?rung, link = %link.id(), "given up: it is silent, and another link is not");
        link.link().close(Code::Ok, "nothing was heard");
        let place = self.lock().place.clone().flatten();
        if let (Some(place), Some(rung)) = (place, rung) {
            self.memory.failed(&place, rung, "it fell silent while it was in use", SystemTime::now());
        }
    }

    /// Opens the first link, without a second try, and keeps links open from then on.
    pub(crate) async fn open_and_keep(self: Arc<Self>) {
        let began = self.rt.now();
        if let Err(error) = self.open().await {
            self.give_up(error);
            return;
        }
        let now = self.rt.now();
        self.lock().connected = Some((now, now.saturating_duration_since(began)));
        self.connected.notify_waiters();
        self.keep().await;
    }

    /// Waits for the first link.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn connected(&self) -> Result<(), ClientError> {
        loop {
            let connected = self.connected.notified();
            if self.connection().is_some() {
                return Ok(());
            }
            tokio::select! {
                () = connected => {}
                error = self.given_up() => return Err(error),
            }
        }
    }

    /// When the first link stood, and how long that took.
    pub(crate) fn connection(&self) -> Option<(Instant, Duration)> {
        self.lock().connected
    }

    /// Whether a job may have been opened over a link that then came to nothing, since the last call: what the gateway makes
    /// of that may come late, and seem to be somebody else's.
    pub(crate) fn was_outrun(&self) -> bool {
        std::mem::take(&mut self.lock().was_outrun)
    }

    fn give_up(&self, error: ClientError) {
        self.lock().given_up = Some(error);
        self.failed.notify_waiters();
    }

    async fn hold(&self) {
        let mut pause = PAUSE.0;
        let mut opened_at = self.rt.now();
        let mut failing_since: Option<Instant> = None;
        loop {
            let (open, wanted) = (self.counted(), self.wanted());
            if open >= wanted {
                tokio::select! {
                    () = self.counted_fewer_than(wanted) => {}
                    () = self.wanted_changed.notified() => continue,
                }
                if self.rt.now().saturating_duration_since(opened_at) >= LASTING {
                    failing_since = None;
                    pause = PAUSE.0;
                } else {
                    failing_since.get_or_insert(opened_at);
                }
                continue;
            }
            self.lock().endpoints.retain(|endpoint| endpoint.quic.open_links() > 0);
            // One that nothing is heard of may come back, and is not given up for want of another.
            let none = self.session.links().is_empty();
            let error = if none && self.is_over(failing_since) {
                ClientError::new(Code::Protocol, "the gateway ends every link as soon as it is open")
            } else {
                if open == 0 && failing_since.is_some() {
                    self.rt.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                let opened = tokio::select! {
                    opened = self.open() => opened,
                    () = self.heard_again(wanted), if !none => continue,
                };
                match opened {
                    Ok(()) => {
                        opened_at = self.rt.now();
                        continue;
                    }
                    Err(error) => error,
                }
            };
            tracing::debug!(%error, "no link");
            if error.code == Code::Limit && open > 0 {
                // The gateway allows no more: those that are open do.
                self.want(open);
                continue;
            }
            failing_since.get_or_insert(self.rt.now());
            if self.session.links().is_empty() && (self.is_over(failing_since) || !error.retryable) {
                // Its jobs hear of it from whoever runs them, who knows more than a code.
                self.give_up(error);
                return;
            }
            if open > 0 {
                self.rt.sleep(PAUSE.1).await;
            }
        }
    }

    /// Resolves when enough links are live again.
    async fn heard_again(&self, wanted: usize) {
        while self.counted() < wanted {
            self.rt.sleep(Duration::from_millis(50)).await;
        }
    }

    fn is_over(&self, failing_since: Option<Instant>) -> bool {
        failing_since.is_some_and(|since| self.rt.now().saturating_duration_since(since) >= self.retry_for)
    }

    /// Resolves when the gateway cannot be reached any more, with why.
    pub(crate) async fn given_up(&self) -> ClientError {
        loop {
            let failed = self.failed.notified();
            if let Some(error) = self.lock().given_up.clone() {
                return error;
            }
            failed.await;
        }
    }

    /// The key that the gateway signs receipts with, as it said on the authenticated link.
    pub(crate) fn receipt_key(&self) -> [u8; 32] {
        self.lock().receipt_key
    }

    pub(crate) fn user(&self) -> String {
        self.lock().user.clone()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.lock().kinds.clone()
    }

    /// What came of each rung, the best first, and whether it goes through a proxy.
    pub(crate) fn ladder(&self) -> Vec<(Tried, bool)> {
        let state = self.lock();
        let tried = |rung: Rung| {
            let excluded = Outcome::Excluded;
            let tried = state.tried.get(&rung).cloned();
            let none = Tried { rung, outcome: excluded, took: Duration::ZERO };
            (tried.unwrap_or(none), self.reach.is_proxied(rung))
        };
        // Where nobody has asked for it, it is not even an alternative: to the gateway itself TLS is the better way over TCP.
        let is_of_interest = |rung: &Rung| *rung != Rung::MasqueTcp || self.via.contains(rung);
        Rung::ALL.into_iter().filter(is_of_interest).map(tried).collect()
    }

    /// Whether any link has been found to be inspected.
    pub(crate) fn is_inspected(&self) -> bool {
        let mut state = self.lock();
        let found = state.streams.iter().filter_map(Weak::upgrade).any(|s| s.is_inspected() == Some(true));
        state.inspected |= found;
        state.inspected
    }

    /// Lets the gateway know that the links are closed.
    pub(crate) async fn close(&self) {
        let endpoints = std::mem::take(&mut self.lock().endpoints);
        for endpoint in endpoints {
            endpoint.close(&self.rt, Duration::from_millis(500)).await;
        }
        self.memory.save();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}
