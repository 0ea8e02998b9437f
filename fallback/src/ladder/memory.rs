//! What is remembered of networks: which rungs did not work, and until when that is believed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Outcome, Rung, Tried};

/// How long it is believed for the first time that a rung does not work; twice as long each time that turns out to be so.
const FIRST: Duration = Duration::from_secs(5 * 60);
/// The longest that it is believed.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What is not confirmed is forgotten after so long.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);
/// Entries that are kept; the oldest go.
const ENTRIES: usize = 512;
const HEADER: &str = "metra networks 1";

/// Where a gateway was reached from, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    network: String,
    proxy: String,
    gateway: String,
}

impl Place {
    /// The network by a name of the caller's choosing, the proxy if there is one (without credentials), and the gateway.
    pub fn new(network: &str, proxy: Option<&str>, gateway: &str) -> Self {
        let word = |text: &str| {
            let clean: String =
                text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).take(300).collect();
            if clean.is_empty() { "-".to_owned() } else { clean }
        };
        Self { network: word(network), proxy: word(proxy.unwrap_or("-")), gateway: word(gateway) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Blocked {
    since: SystemTime,
    times: u32,
    why: String,
}

impl Blocked {
    fn until(&self) -> SystemTime {
        let doublings = self.times.saturating_sub(1).min(16);
        self.since + LONGEST.min(FIRST * 2u32.pow(doublings))
    }
}

/// What is remembered. The times are the system's, as it outlives processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(BTreeMap<(Place, Rung), Blocked>);

/// A text that does not say what is remembered. Fault: whoever wrote the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0} of the memory of networks makes no sense")]
pub struct NetworksError(usize);

impl Networks {
    /// The order in which the `allowed` rungs are best tried at `place`: those that did not work lately come last, with
    /// the reason.
    pub fn order(&self, place: &Place, allowed: &[Rung], now: SystemTime) -> Vec<(Rung, Option<String>)> {
        let blocked = |rung: Rung| {
            let blocked = self.0.get(&(place.clone(), rung))?;
            (blocked.until() > now).then(|| blocked.why.clone())
        };
        let mut order: Vec<_> = allowed.iter().map(|rung| (*rung, blocked(*rung))).collect();
        order.sort_by_key(|(rung, blocked)| (blocked.is_some(), *rung));
        order
    }

    /// Learns from a race that was won: what was better and failed does not work here, and what was used does. A race that
    /// was lost teaches nothing: then it was not the way that did not work.
    pub fn learn(&mut self, place: &Place, report: &[Tried], now: SystemTime) {
        let Some(used) = report.iter().find(|tried| tried.outcome == Outcome::Used) else { return };
        self.works(place, used.rung);
        for tried in report.iter().filter(|tried| tried.rung < used.rung) {
            if matches!(tried.outcome, Outcome::Refused(_) | Outcome::Silent) {
                self.failed(place, tried.rung, tried.outcome.reason(), now);
            }
        }
        while self.0.len() > ENTRIES {
            let oldest = self.0.iter().min_by_key(|(_, blocked)| blocked.since).map(|(key, _)| key.clone());
            oldest.map(|key| self.0.remove(&key));
        }
    }

    /// A rung that was in use has stopped working while another did not.
    pub fn failed(&mut self, place: &Place, rung: Rung, why: String, now: SystemTime) {
        let blocked = self.0.entry((place.clone(), rung)).or_insert(Blocked {
            since: now,
            times: 0,
            why: String::new(),
        });
        // What failed twice within one belief is no news.
        if blocked.times == 0 || blocked.until() <= now {
            blocked.times += 1;
        }
        blocked.since = now;
        blocked.why = why;
    }

    /// A rung works.
    pub fn works(&mut self, place: &Place, rung: Rung) {
        self.0.remove(&(place.clone(), rung));
    }

    /// The memory as a text, a line each.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for ((place, rung), Blocked { since, times, why }) in &self.0 {
            let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
            let Place { network, proxy, gateway } = place;
            // Writing to a text does not fail.
            let _ = writeln!(text, "{network} {proxy} {gateway} {rung} {since} {times} {why}");
        }
        text
    }

    /// Reads what [`Networks::to_text`] has written, but for what is too old to be of use.
    ///
    /// # Errors
    /// The first line that makes no sense.
    pub fn from_text(text: &str, now: SystemTime) -> Result<Self, NetworksError> {
        let mut networks = Self::default();
        for (at, line) in text.lines().enumerate() {
            let wrong = NetworksError(at + 1);
            if at == 0 {
                if line != HEADER {
                    return Err(wrong);
                }
                continue;
            }
            let mut words = line.splitn(7, ' ');
            let mut word = || words.next().filter(|word| !word.is_empty()).ok_or(wrong.clone());
            let (network, proxy, gateway) = (word()?, word()?, word()?);
            let name = word()?;
            let rung = Rung::ALL.into_iter().find(|rung| rung.name() == name).ok_or(wrong.clone())?;
            let seconds: u64 = word()?.parse().map_err(|_| wrong.clone())?;
            let times: u32 = word()?.parse().map_err(|_| wrong.clone())?;
            let since = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(wrong)?;
            let why = words.next().unwrap_or_default().to_owned();
            // A clock that was set back must not make a belief last for years.
            let is_old = now.duration_since(since).map_or(true, |age| age > FORGOTTEN);
            if !is_old && networks.0.len() < ENTRIES {
                let place = Place::new(network, Some(proxy), gateway);
                networks.0.insert((place, rung), Blocked { since, times, why });
            }
        }
        if text.is_empty() { Err(NetworksError(1)) } else { Ok(networks) }
    }
}
