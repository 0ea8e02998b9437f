//! Opening links, and opening them again; climbing back to a better rung when that works again.
//!
//! ```text
//! hold:   fewer links than wanted --race--> hello, welcome --> part of the session
//! climb:  a better rung than those in use, tried now and then --> the others are let go
//! ```
//!
//! A link that nothing is heard of is not given up here, but it does not count: the transport does that in its own time, and
//! meanwhile it may come back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metra_core::code::Code;
use metra_core::wire::{Auth, Frame, FrameDecoder, Hello, Welcome};
use metra_fallback::gain::Gain;
use metra_fallback::ladder::{Outcome, Place, Race, Rung, Step, Tried};
use metra_fallback::link::StreamLink;
use metra_session::{LinkHandle, Session, read_frame};
use metra_transport::quic::QuicClient;
use metra_transport::{ControlRecv, ControlSend, Link, LinkKind, Rt};
use tokio::sync::Notify;

use crate::connect::ConnectOptions;
use crate::error::ClientError;
use crate::networks::Memory;
use crate::reach::{Reach, Reached, Unreached};

/// How long a gateway may take to answer when a link is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a better rung may take.
const CLIMB_TIMEOUT: Duration = Duration::from_secs(4);
/// Pause between tries of a better rung: the first, and the longest.
const CLIMB_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How long links of two kinds are compared before the worse ones are let go.
const COMPARED: Duration = Duration::from_secs(2);
/// Pause between tries: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often it is looked whether more links make it faster.
const LOOK: Duration = Duration::from_millis(250);
/// What is moved between two looks, if something is moved. Bytes.
const BUSY: u64 = 256 * 1024;
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
}

#[derive(Default)]
struct State {
    endpoints: Vec<QuicClient>,
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
}

/// A link that is welcome, and not yet part of the session.
struct Greeted {
    reached: Reached,
    welcome: Welcome,
    send: Box<dyn ControlSend>,
    recv: Box<dyn ControlRecv>,
    decoder: FrameDecoder,
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
        })
    }

    /// Opens one more link, by the best rung that works.
    pub(crate) async fn open(&self) -> Result<(), ClientError> {
        // A rung whose link is silent is being tried by that link.
        let silent = self.silent_kinds();
        let rungs: Vec<Rung> =
            self.via.iter().copied().filter(|rung| !silent.contains(&rung.kind())).collect();
        let rungs = if rungs.is_empty() { self.via.clone() } else { rungs };
        self.race(&rungs, OPEN_TIMEOUT).await
    }

    async fn race(&self, rungs: &[Rung], limit: Duration) -> Result<(), ClientError> {
        let place = self.place().await;
        let order = match &place {
            Some(place) => self.memory.order(place, rungs, SystemTime::now()),
            None => rungs.iter().map(|rung| (*rung, None)).collect(),
        };
        let deadline = self.rt.now() + limit;
        let mut race = Race::new(self.rt.now(), order, self.session.traffic().rtt.or(self.reach.rtt()));
        let mut running = FuturesUnordered::new();
        let mut errors = BTreeMap::new();
        let result = loop {
            let until = match race.next(self.rt.now()) {
                Step::Begin(rung) => {
                    running.push(async move { (rung, self.attempt(rung).await) });
                    continue;
                }
                Step::Lost => break Err(self.unreached(errors)),
                Step::Wait(until) => until.map_or(deadline, |until| until.min(deadline)),
            };
            let ended = tokio::select! {
                biased;
                Some(ended) = running.next() => Some(ended),
                () = self.rt.sleep_until(until) => None,
            };
            match ended {
                None if self.rt.now() >= deadline => break Err(self.unreached(errors)),
                None => {}
                Some((rung, Ok(greeted))) => {
                    let attached = self.attach(greeted);
                    if attached.is_ok() {
                        race.won(self.rt.now(), rung);
                    }
                    break attached;
                }
                Some((_, Err(unreached))) if unreached.by_gateway => break Err(unreached.error),
                Some((rung, Err(unreached))) => {
                    race.failed(self.rt.now(), rung, unreached.outcome);
                    errors.insert(rung, unreached.error);
                }
            }
        };
        let report = race.report(self.rt.now());
        if let Some(place) = &place {
            self.memory.learn(place, &report, SystemTime::now());
        }
        let mut state = self.lock();
        for tried in report {
            let used_before =
                state.tried.get(&tried.rung).is_some_and(|before| before.outcome == Outcome::Used);
            if tried.outcome == Outcome::Used || !used_before {
                state.tried.insert(tried.rung, tried);
            }
        }
        result
    }

    /// Why there is no link, where no rung stands.
    fn unreached(&self, mut errors: BTreeMap<Rung, ClientError>) -> ClientError {
        // Who is not trusted by one way is not by another, and that is to be known.
        if let Some(found) = errors.values().find(|error| error.code == Code::Unauthenticated) {
            return found.clone();
        }
        if errors.is_empty() {
            let message = format!("{} does not answer", self.address);
            return ClientError { code: Code::Timeout, message, retryable: true };
        }
        if let (1, Some((_, error))) = (self.via.len(), errors.pop_first()) {
            return error;
        }
        let told: Vec<String> = self
            .via
            .iter()
            .map(|rung| match errors.get(rung) {
                Some(error) => format!("{rung}: {}", error.message),
                None => format!("{rung}: no answer"),
            })
            .collect();
        let retryable = errors.values().any(|error| error.retryable) || errors.len() < self.via.len();
        let message = format!("{} cannot be reached ({})", self.address, told.join("; "));
        ClientError { code: Code::Timeout, message, retryable }
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

    async fn attempt(&self, rung: Rung) -> Result<Greeted, Unreached> {
        let reached = self.reach.open(rung).await?;
        let link = reached.link.clone();
        self.greet(reached).await.inspect_err(|e| link.close(e.error.code, &e.error.message))
    }

    /// Says hello on a new link.
    async fn greet(&self, reached: Reached) -> Result<Greeted, Unreached> {
        let link = reached.link.clone();
        let lost = Unreached::link;
        let ticket = self.lock().ticket.clone();
        if ticket.is_none() {
            // A token is not sent as early data, which can be replayed.
            link.handshake_confirmed().await.map_err(lost)?;
        }
        let auth = match (ticket, &self.token) {
            (Some(ticket), _) => Auth::Ticket(ticket),
            (None, Some(token)) => Auth::Bearer(token.clone()),
            (None, None) => Auth::None,
        };
        let hello = Frame::Hello(Hello { version: 1, auth, agent: self.agent.clone() });
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        let (mut send, mut recv) = link.control().await.map_err(lost)?;
        send.send(bytes.into()).await.map_err(lost)?;
        let mut decoder = FrameDecoder::new();
        let frame = match read_frame(&mut recv, &mut decoder).await {
            Ok(frame) => frame,
            // The stream breaks with the link; why the link is closed says more.
            Err(_) => return Err(self.refused(&link).await),
        };
        match frame {
            Some(Frame::Welcome(welcome)) => Ok(Greeted { reached, welcome, send, recv, decoder }),
            Some(Frame::Close { code, reason }) => {
                Err(Unreached::by_gateway(ClientError::new(code, format!("the gateway says: {reason}"))))
            }
            None => Err(self.refused(&link).await),
            Some(_) => {
                let message = "the gateway did not answer with Welcome";
                Err(Unreached::by_gateway(ClientError::new(Code::Protocol, message)))
            }
        }
    }

    async fn refused(&self, link: &Arc<dyn Link>) -> Unreached {
        let mut unreached = Unreached::link(link.closed().await);
        if unreached.error.code == Code::Unauthenticated && unreached.by_gateway {
            // A ticket that is no longer good: the next try shows the token.
            unreached.error.retryable = self.lock().ticket.take().is_some();
        }
        unreached
    }

    /// Makes a link part of the session.
    fn attach(&self, greeted: Greeted) -> Result<(), ClientError> {
        let Greeted { reached, welcome, send, recv, decoder } = greeted;
        {
            let mut state = self.lock();
            state.ticket = Some(welcome.ticket);
            state.user = welcome.user;
            state.receipt_key = welcome.receipt_key;
        }
        let kind = reached.link.kind();
        tracing::debug!(%kind, link = %reached.link.id(), "a link joins");
        self.session.attach(reached.link, send, recv, decoder)?;
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

    fn silent_kinds(&self) -> Vec<LinkKind> {
        let live = self.session.live_links();
        let is_silent = |link: &LinkHandle| live.iter().all(|other| other.id() != link.id());
        self.session.links().iter().filter(|link| is_silent(link)).map(|link| link.link().kind()).collect()
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
            self.lock().endpoints.retain(|endpoint| endpoint.open_links() > 0);
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
                self.lock().given_up = Some(error.clone());
                self.session.cancel_jobs(error.code, &error.message);
                self.failed.notify_waiters();
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

    fn want(&self, links: usize) {
        self.wanted.store(links, Ordering::Relaxed);
        self.wanted_changed.notify_one();
    }

    /// Opens more links on byte streams, as long as that makes it faster, and closes what does not.
    async fn widen(&self) {
        let fewest = self.wanted();
        loop {
            let live = self.session.live_links();
            let kinds: Vec<LinkKind> = live.iter().map(|link| link.link().kind()).collect();
            let is_even = kinds.first().is_some_and(|first| kinds.iter().all(|kind| kind == first));
            if self.links_max <= fewest || !is_even || kinds[0] == LinkKind::Quic {
                self.rt.sleep(LOOK).await;
                continue;
            }
            let mut gain = Gain::new(self.rt.now(), fewest, self.links_max);
            let mut before = self.session.traffic();
            loop {
                self.rt.sleep(LOOK).await;
                let live = self.session.live_links();
                if live.iter().any(|link| link.link().kind() != kinds[0]) {
                    break;
                }
                let traffic = self.session.traffic();
                let moved = traffic.sent_bytes + traffic.received_bytes;
                let is_moving = moved > before.sent_bytes + before.received_bytes + BUSY;
                before = traffic;
                gain.look(self.rt.now(), moved, is_moving && live.len() == self.wanted());
                if gain.links() != self.wanted() {
                    self.want(gain.links());
                    for link in live.iter().skip(gain.links()) {
                        link.link().close(Code::Ok, "it made nothing faster");
                    }
                }
            }
            self.want(fewest);
        }
    }

    /// Looks for something better than what is in use, for as long as it is polled.
    async fn climb(&self) {
        let mut pause = CLIMB_PAUSE.0;
        loop {
            self.session.with_links().await;
            let live = self.session.live_links();
            let rungs = live.iter().filter_map(|link| Rung::of(link.link().kind()));
            let (best, worst) = (rungs.clone().min(), rungs.max());
            let silent = self.silent_kinds();
            let better: Vec<Rung> = self
                .via
                .iter()
                .copied()
                .filter(|rung| best.is_some_and(|best| *rung < best) && !silent.contains(&rung.kind()))
                .collect();
            if best != worst {
                self.compare(best).await;
                pause = CLIMB_PAUSE.0;
                continue;
            }
            self.rt.sleep(pause).await;
            if better.is_empty() {
                pause = CLIMB_PAUSE.0;
                continue;
            }
            match self.race(&better, CLIMB_TIMEOUT).await {
                Ok(()) => pause = CLIMB_PAUSE.0,
                Err(error) => {
                    tracing::debug!(%error, "nothing better");
                    pause = (pause * 2).min(CLIMB_PAUSE.1);
                }
            }
        }
    }

    /// Links of several rungs are open: after a while those by worse ones are let go, unless they are the faster ones.
    async fn compare(&self, best: Option<Rung>) {
        let carried = |link: &LinkHandle| {
            let stats = link.link().stats();
            stats.sent_bytes + stats.received_bytes
        };
        let before: BTreeMap<_, _> =
            self.session.live_links().iter().map(|link| (link.id(), carried(link))).collect();
        self.rt.sleep(COMPARED).await;
        let mut rates: BTreeMap<Rung, u64> = BTreeMap::new();
        let live = self.session.live_links();
        for link in &live {
            if let (Some(rung), Some(before)) = (Rung::of(link.link().kind()), before.get(&link.id())) {
                *rates.entry(rung).or_default() += carried(link).saturating_sub(*before);
            }
        }
        // It was lost, or went silent, meanwhile: there is nothing to choose.
        let Some(best) = best.filter(|best| rates.contains_key(best)) else { return };
        if let (Some(place), true) = (self.place().await, live.len() > 1) {
            self.memory.works(&place, best);
        }
        for link in live {
            let Some(rung) = Rung::of(link.link().kind()) else { continue };
            if rung > best && rates.get(&rung) <= rates.get(&best) {
                tracing::debug!(%rung, link = %link.id(), "let go for a better one");
                link.link().close(Code::Ok, "a better link is open");
            }
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
        Rung::ALL.into_iter().map(tried).collect()
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
            let _ = self.rt.timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
        }
        self.memory.save();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}
