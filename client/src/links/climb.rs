//! What is better than what is in use: another rung, or more links.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metra_core::code::Code;
use metra_fallback::gain::Gain;
use metra_fallback::ladder::Rung;
use metra_session::LinkHandle;

use super::Links;

/// How long a better rung may take.
const CLIMB_TIMEOUT: Duration = Duration::from_secs(4);
/// Pause between tries of a better rung: the first, and the longest.
const CLIMB_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How long links of two kinds are compared before the worse ones are let go.
const COMPARED: Duration = Duration::from_secs(2);
/// A path on which TLS over TCP may be faster: so short, and used so much, in bytes per second.
const SHORT: Duration = Duration::from_millis(3);
const FAST: f64 = 125e6;
/// How often it is looked whether more links make it faster.
const LOOK: Duration = Duration::from_millis(250);
/// How long a gateway that allows no more links is not asked again.
const LIMITED: Duration = Duration::from_secs(60);
/// What is moved between two looks, if something is moved: more than what shows that a link lives. Bytes; the slowest paths need
/// it most.
const BUSY: u64 = 16 * 1024;
/// A connection that loses a packet may stand still for so long and is at work all the same.
const STUTTER: Duration = Duration::from_secs(1);

impl Links {
    pub(super) fn want(&self, links: usize) {
        self.wanted.store(links, Ordering::Relaxed);
        self.wanted_changed.notify_one();
    }

    /// Opens more links on byte streams, as long as that makes it faster, and closes what does not.
    pub(super) async fn widen(&self) {
        let fewest = self.wanted();
        loop {
            let live = self.session.live_links();
            let first = live.first().and_then(|link| self.rung(link));
            // Each is a TCP connection of its own.
            let rung =
                first.filter(|rung| !rung.is_udp() && live.iter().all(|link| self.rung(link) == first));
            if self.links_max <= fewest || rung.is_none() {
                self.rt.sleep(LOOK).await;
                continue;
            }
            let (mut gain, mut asked) = (Gain::new(self.rt.now(), fewest, self.links_max), self.wanted());
            let (mut before, mut at_work) = (self.moved(), None);
            loop {
                self.rt.sleep(LOOK).await;
                let live = self.session.live_links();
                if live.iter().any(|link| self.rung(link) != rung) {
                    break;
                }
                if self.wanted() != asked {
                    // The gateway allows no more.
                    self.rt.sleep(LIMITED).await;
                    break;
                }
                let (now, moved) = (self.rt.now(), self.moved());
                if moved > before + BUSY {
                    at_work = Some(now);
                }
                before = moved;
                let is_moving = at_work.is_some_and(|at| now.saturating_duration_since(at) < STUTTER);
                gain.look(now, moved, is_moving && live.len() == asked);
                if gain.links() != asked {
                    asked = gain.links();
                    self.want(asked);
                    for link in live.iter().skip(gain.links()) {
                        link.link().close(Code::Ok, "it made nothing faster");
                    }
                }
            }
            self.want(fewest);
        }
    }

    /// Looks for something better than what is in use, for as long as it is polled.
    pub(super) async fn climb(&self) {
        let mut pause = CLIMB_PAUSE.0;
        // What was found to be faster than a better rung, and that a worse one was tried.
        let (mut faster, mut explored) = (None, false);
        loop {
            self.session.with_links().await;
            let before = self.moved();
            let live = self.session.live_links();
            let rungs = live.iter().filter_map(|link| self.rung(link));
            let rungs: Vec<Rung> = rungs.collect();
            let (best, worst) = (rungs.iter().copied().min(), rungs.iter().copied().max());
            let silent = self.silent_rungs();
            let better: Vec<Rung> = self
                .via
                .iter()
                .copied()
                .filter(|rung| best.is_some_and(|best| *rung < best) && !silent.contains(rung))
                .collect();
            if best != worst {
                faster = self.compare(best).await;
                pause = CLIMB_PAUSE.0;
                continue;
            }
            self.rt.sleep(pause).await;
            if better.is_empty() || faster == best {
                let bytes = self.moved().saturating_sub(before) as f64;
                let is_fast = bytes >= FAST * pause.as_secs_f64();
                pause = CLIMB_PAUSE.0;
                if is_fast && !explored && best == Some(Rung::Quic) && self.may_be_faster() {
                    explored = true;
                    let _ = self.race(&[Rung::Tls], CLIMB_TIMEOUT).await;
                }
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

    /// What all links have moved. Bytes.
    pub(super) fn moved(&self) -> u64 {
        let traffic = self.session.traffic();
        traffic.sent_bytes + traffic.received_bytes
    }

    /// On a short path nothing is lost by TCP's ways, and TLS over TCP takes a part of the work that QUIC does.
    pub(super) fn may_be_faster(&self) -> bool {
        self.via.contains(&Rung::Tls) && !self.reach.is_proxied(Rung::Tls) && self.is_short()
    }

    pub(super) fn is_short(&self) -> bool {
        self.session.traffic().min_rtt.is_some_and(|rtt| rtt <= SHORT)
    }

    /// Links of several rungs are open: after a while those by worse ones are let go, unless they are the faster ones. On a
    /// short path the better ones are, if they are much slower; gives the rung that is left then.
    pub(super) async fn compare(&self, best: Option<Rung>) -> Option<Rung> {
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
            if let (Some(rung), Some(before)) = (self.rung(link), before.get(&link.id())) {
                *rates.entry(rung).or_default() += carried(link).saturating_sub(*before);
            }
        }
        // It was lost, or went silent, meanwhile: there is nothing to choose.
        let best = best.filter(|best| rates.contains_key(best))?;
        if let (Some(place), true) = (self.place().await, live.len() > 1) {
            self.memory.works(&place, best);
        }
        let rate = |rung: Rung| rates.get(&rung).map_or(0.0, |bytes| *bytes as f64 / COMPARED.as_secs_f64());
        let worse = rates
            .keys()
            .copied()
            .filter(|rung| *rung != best)
            .max_by(|a, b| rate(*a).total_cmp(&rate(*b)))?;
        let wins = self.is_short() && rate(worse) >= FAST / 2.0 && rate(worse) > rate(best) * 1.25;
        for link in live {
            let Some(rung) = self.rung(&link) else { continue };
            let goes = if wins { rung != worse } else { rung > best && rate(rung) <= rate(best) };
            if goes {
                tracing::debug!(%rung, link = %link.id(), "let go for a better one");
                link.link().close(Code::Ok, "a better link is open");
            }
        }
        wins.then_some(worse)
    }
}
