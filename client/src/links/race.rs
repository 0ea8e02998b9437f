//! One more link: the rungs race, and the first that is welcome joins the session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metra_core::code::Code;
use metra_core::wire::{Auth, Frame, FrameDecoder, Hello, Welcome, greeting};
use metra_fallback::ladder::{Outcome, Race, Rung, Step, Tried};
use metra_session::read_frame;
use metra_transport::{ControlRecv, Link};

use super::{Greeted, Half, Links};
use crate::error::ClientError;
use crate::reach::{Reached, Unreached};

/// How long the last rung is waited for when all others have failed.
const LAST: Duration = Duration::from_secs(3);

impl Links {
    pub(super) async fn race(&self, rungs: &[Rung], limit: Duration) -> Result<(), ClientError> {
        let place = self.place().await;
        let order = match &place {
            Some(place) => self.memory.order(place, rungs, SystemTime::now()),
            None => rungs.iter().map(|rung| (*rung, None)).collect(),
        };
        let mut deadline = self.rt.now() + limit;
        let mut race = Race::new(self.rt.now(), order, self.session.traffic().rtt.or(self.reach.rtt()));
        let is_own_proxy = self.reach.is_own_proxy();
        if is_own_proxy {
            // To the port where native QUIC was not answered: TLS need not wait for that once more.
            race = race.abreast(Rung::Masque);
        }
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
                    let is_begun = matches!(greeted.half, Half::Begun(_));
                    if self.connection().is_none() && !is_begun && !self.is_first.load(Ordering::Relaxed) {
                        self.lock().was_outrun = true;
                    }
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
                    // Silence is not patience's reward where everybody else has been told no.
                    let silent: Vec<Rung> =
                        rungs.iter().copied().filter(|rung| !errors.contains_key(rung)).collect();
                    let is_one = silent.len() == 1 || (is_own_proxy && silent == [Rung::Quic, Rung::Masque]);
                    if running.len() == silent.len() && is_one {
                        deadline = deadline.min(self.rt.now() + LAST);
                    }
                }
            }
        };
        let report = race.report(self.rt.now());
        if let Some(place) = &place {
            self.memory.learn(place, &report, SystemTime::now());
        }
        self.note(report);
        result.map_err(|error| ClientError { ladder: self.ladder(), ..error })
    }

    pub(super) fn note(&self, report: Vec<Tried>) {
        let mut state = self.lock();
        for tried in report {
            let used_before =
                state.tried.get(&tried.rung).is_some_and(|before| before.outcome == Outcome::Used);
            if tried.outcome == Outcome::Used || !used_before {
                state.tried.insert(tried.rung, tried);
            }
        }
    }

    /// Why there is no link, where no rung stands.
    pub(super) fn unreached(&self, errors: BTreeMap<Rung, ClientError>) -> ClientError {
        // Who is not trusted by one way is not by another, and that is to be known; so is what somebody forbids.
        for code in [Code::Unauthenticated, Code::Denied] {
            if let Some(found) = errors.values().find(|error| error.code == code) {
                return found.clone();
            }
        }
        match (self.via.len(), errors.first_key_value()) {
            (_, None) => {
                return ClientError::new(Code::Timeout, format!("{} does not answer", self.address));
            }
            (1, Some((_, error))) => return error.clone(),
            _ => {}
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
        ClientError { retryable, ..ClientError::new(Code::Timeout, message) }
    }

    pub(super) async fn attempt(&self, rung: Rung) -> Result<Greeted, Unreached> {
        let reached = self.reach.open(rung).await?;
        let link = reached.link.clone();
        self.greet(rung, reached).await.inspect_err(|e| link.close(e.error.code, &e.error.message))
    }

    /// Says hello on a new link.
    pub(super) async fn greet(&self, rung: Rung, reached: Reached) -> Result<Greeted, Unreached> {
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
        let (mut send, mut recv) = link.control().await.map_err(lost)?;
        send.send(greeting(&hello, link.kind().is_stream()).into()).await.map_err(lost)?;
        // A gateway acts on what follows only if it agrees: no round trip is spent on waiting for that. Over one link only, or
        // the same job would be opened in several sessions.
        let is_first = self.is_first.swap(false, Ordering::Relaxed);
        let half = if is_first {
            Half::Begun(
                self.session.begin(link.clone(), send).map_err(|e| Unreached::refused(e.code, e.reason))?,
            )
        } else {
            Half::Ours(send)
        };
        let welcomed = self.welcomed(&link, &mut recv).await;
        if is_first && welcomed.is_err() {
            self.is_first.store(true, Ordering::Relaxed);
        }
        let (welcome, decoder) = welcomed?;
        Ok(Greeted { rung, reached, welcome, half, recv, decoder })
    }

    /// What the gateway says to that.
    async fn welcomed(
        &self,
        link: &Arc<dyn Link>,
        recv: &mut Box<dyn ControlRecv>,
    ) -> Result<(Welcome, FrameDecoder), Unreached> {
        let mut decoder = FrameDecoder::new();
        let frame = match read_frame(recv, &mut decoder).await {
            Ok(frame) => frame,
            // The stream breaks with the link; why the link is closed says more.
            Err(_) => return Err(self.refused(link).await),
        };
        match frame {
            Some(Frame::Welcome(welcome)) => Ok((welcome, decoder)),
            Some(Frame::Close { code, reason }) => {
                Err(Unreached::by_gateway(ClientError::new(code, format!("the gateway says: {reason}"))))
            }
            None => Err(self.refused(link).await),
            Some(_) => {
                let message = "the gateway did not answer with Welcome";
                Err(Unreached::by_gateway(ClientError::new(Code::Protocol, message)))
            }
        }
    }

    pub(super) async fn refused(&self, link: &Arc<dyn Link>) -> Unreached {
        let mut unreached = Unreached::link(link.closed().await);
        if unreached.error.code == Code::Unauthenticated && unreached.by_gateway {
            // A ticket that is no longer good: the next try shows the token.
            unreached.error.retryable = self.lock().ticket.take().is_some();
        }
        unreached
    }
}
