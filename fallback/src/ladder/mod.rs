//! The ladder: which way to a gateway is tried when, and what is remembered of a network. Sans-io.
//!
//! ```text
//!   quic        native QUIC                        the fastest where the path is long or loses packets
//!   masque      QUIC in a tunnel over HTTP/3       where of UDP only HTTP/3 is let through, or a proxy has to be asked
//!   masque-tcp  QUIC in a tunnel over HTTPS        where such a proxy is reached over TCP only
//!   tls         TLS over TCP, through a proxy if there is one
//!   ws          WebSocket over HTTPS, likewise     where only web sites are let through
//! ```
//!
//! A [`Race`] begins with the best rung and begins the next one when that takes too long or has failed; the first that
//! stands wins. [`Networks`] remembers what did not work where, so that the next race begins with what did.

mod memory;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use metra_transport::LinkKind;

pub use memory::{Networks, NetworksError, Place};

/// How long a rung is alone in its race: so much, or two round trips.
pub const STAGGER: Duration = Duration::from_millis(250);

/// A way to a gateway. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// Native QUIC.
    Quic,
    /// QUIC in a tunnel of CONNECT-UDP over HTTP/3 (RFC 9298 section 3.4).
    Masque,
    /// QUIC in a tunnel of CONNECT-UDP over HTTP/2 or HTTP/1.1 (RFC 9298 sections 3.2 to 3.5).
    MasqueTcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over HTTPS.
    WebSocket,
}

impl Rung {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [Self::Quic, Self::Masque, Self::MasqueTcp, Self::Tls, Self::WebSocket];

    /// The kind of link that it gives. Both rungs of MASQUE give the same.
    pub fn kind(self) -> LinkKind {
        match self {
            Self::Quic => LinkKind::Quic,
            Self::Masque | Self::MasqueTcp => LinkKind::Masque,
            Self::Tls => LinkKind::Tls,
            Self::WebSocket => LinkKind::WebSocket,
        }
    }

    /// Whether its packets are UDP on the way from here.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Quic | Self::Masque)
    }

    /// The name in options, JSON and logs: that of the kind of link, where there is no other rung with it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MasqueTcp => "masque-tcp",
            rung => rung.kind().name(),
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What came of a rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It won.
    Used,
    /// It was tried, and something in between, or the other end, said no.
    Refused(String),
    /// It was tried, and nothing was heard until a worse one stood.
    Silent,
    /// It was left for the end, because it did not work here the last time.
    Remembered(String),
    /// A better one stood first, or the race is over for another reason.
    NotTried,
    /// It was not allowed.
    Excluded,
}

impl Outcome {
    /// The word in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Used => "used",
            Outcome::Refused(_) | Outcome::Silent => "failed",
            Outcome::Remembered(_) | Outcome::Excluded => "skipped",
            Outcome::NotTried => "not_tried",
        }
    }

    /// Why it was not used, for people; empty if it was, or if there was no need to try it.
    pub fn reason(&self) -> String {
        match self {
            Outcome::Used | Outcome::NotTried => String::new(),
            Outcome::Refused(why) => why.clone(),
            Outcome::Excluded => "not allowed by --via".to_owned(),
            Outcome::Silent => "no answer in time".to_owned(),
            Outcome::Remembered(why) => format!("did not work here the last time: {why}"),
        }
    }
}

/// A rung, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Which.
    pub rung: Rung,
    /// What came of it.
    pub outcome: Outcome,
    /// From its begin to its outcome; to now, if there is none; 0 if it was not begun.
    pub took: Duration,
}

/// What is to be done in a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin with this rung, beside those that are under way, and ask again.
    Begin(Rung),
    /// Ask again when a rung has failed, at the latest then; `None`: there is nothing more to begin.
    Wait(Option<Instant>),
    /// All rungs have failed.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended,
}

#[derive(Clone, Debug)]
struct Runner {
    rung: Rung,
    state: State,
    /// Why it is not among the first.
    held_back: Option<String>,
    began: Option<Instant>,
    tried: Tried,
}

/// One race of rungs.
///
/// ```text
/// waiting --Begin--> running --won()--> the race is over
///                       `-----failed()--> ended; the next begins at once
/// ```
#[derive(Clone, Debug)]
pub struct Race {
    runners: Vec<Runner>,
    stagger: Duration,
    /// What does not hold up the next one, unless it is the first.
    abreast: Option<Rung>,
    /// When the next may begin.
    next_at: Instant,
}

impl Race {
    /// A race of `order`, the first at once. A rung with a reason is one that did not work here the last time. `rtt` is the
    /// round-trip time to the gateway, if it is known.
    pub fn new(now: Instant, order: Vec<(Rung, Option<String>)>, rtt: Option<Duration>) -> Self {
        let runner = |(rung, held_back): (Rung, Option<String>)| {
            let tried = Tried { rung, outcome: Outcome::NotTried, took: Duration::ZERO };
            Runner { rung, state: State::Waiting, held_back, began: None, tried }
        };
        let stagger = STAGGER.max(rtt.unwrap_or_default() * 2);
        Self { runners: order.into_iter().map(runner).collect(), stagger, abreast: None, next_at: now }
    }

    /// The same race, in which `rung` is not alone for a while: the next one begins together with it. For a rung that is
    /// likely to fail where those before it did. Where it is the first, it has its time as any other.
    pub fn abreast(self, rung: Rung) -> Self {
        Self { abreast: Some(rung), ..self }
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Instant) -> Step {
        let running = self.runners.iter().any(|runner| runner.state == State::Running);
        let is_first = self.runners.iter().all(|runner| runner.state == State::Waiting);
        let Some(next) = self.runners.iter_mut().find(|runner| runner.state == State::Waiting) else {
            return if running { Step::Wait(None) } else { Step::Lost };
        };
        if running && now < self.next_at {
            return Step::Wait(Some(self.next_at));
        }
        next.state = State::Running;
        next.began = Some(now);
        let is_abreast = self.abreast == Some(next.rung) && !is_first;
        self.next_at = if is_abreast { now } else { now + self.stagger };
        Step::Begin(next.rung)
    }

    /// A rung has failed: the next one need not wait.
    pub fn failed(&mut self, now: Instant, rung: Rung, outcome: Outcome) {
        self.end(now, rung, outcome);
        self.next_at = now;
    }

    /// A rung stands. Those that are still under way are too late.
    pub fn won(&mut self, now: Instant, rung: Rung) {
        self.end(now, rung, Outcome::Used);
    }

    fn end(&mut self, now: Instant, rung: Rung, outcome: Outcome) {
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.rung == rung) {
            runner.state = State::Ended;
            runner.tried.outcome = outcome;
            runner.tried.took =
                runner.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        }
    }

    /// What came of each rung so far, the best first.
    pub fn report(&self, now: Instant) -> Vec<Tried> {
        let mut report: Vec<Tried> = self
            .runners
            .iter()
            .map(|runner| match (runner.state, &runner.held_back) {
                (State::Running, _) => {
                    let took =
                        runner.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
                    Tried { rung: runner.rung, outcome: Outcome::Silent, took }
                }
                (State::Waiting, Some(why)) => {
                    Tried { outcome: Outcome::Remembered(why.clone()), ..runner.tried.clone() }
                }
                _ => runner.tried.clone(),
            })
            .collect();
        report.sort_by_key(|tried| tried.rung);
        report
    }
}
