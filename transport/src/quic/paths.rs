//! [`Paths`]: what connections have measured of their paths, for those that come after them (RFC 9959).
//!
//! A path is the peer's address without the port (IPv6: its /64, within which hosts change their addresses) and the
//! address of this host that leads there. What is known of it is what this side has measured by sending; a peer's word is
//! never taken for it. It is believed for an hour. While a connection sends over a path, no other one starts from what is known
//! of it: two jumps at once, or one into a path that is busy, would be too much.
//!
//! Non-goals: files. [`Paths::to_text`] and [`Paths::from_text`] are for who has a place for them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metra_core::bbr::Remembered;
use quinn::Connection;

use super::acked::{Acked, Look};
use crate::rt::Rt;

/// How long a path is remembered; RFC 9959 leaves it to the sender.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Paths at most; the oldest make room.
const PATHS_MAX: usize = 1024;
/// How often a connection that sends notes what it has measured, at most.
const PERIOD: Duration = Duration::from_secs(1);
/// One that has begun to send nothing for so long does not count: its peer may be gone and have come again.
const QUIET: Duration = Duration::from_secs(5);
const MILLION: u32 = 1_000_000;
/// The first line of the text.
const HEADER: &str = "metra paths 1";

/// A bounded memory of paths, shared by all clones.
#[derive(Clone, Default)]
pub struct Paths(Arc<Mutex<Slots>>);

type Slots = HashMap<Key, Slot>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    peer: IpAddr,
    local: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slot {
    known: Option<Known>,
    /// Connections over the path, and when one of them last began, or began to send something.
    users: usize,
    active: Option<Instant>,
}

/// What is known, and since when. Whole seconds, as in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    path: Remembered,
    saved: u64,
}

/// The text is not one of [`Paths::to_text`]. Fault: whoever changed the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a memory of paths")]
pub struct PathsError;

impl Paths {
    /// Notes what was measured of the path to `peer`.
    pub fn note(&self, peer: IpAddr, local: Option<IpAddr>, path: Remembered, now: SystemTime) {
        self.put(Key::new(peer, local), Known { path, saved: seconds(now) });
    }

    /// The smallest round-trip time that is known to `peer`.
    pub fn min_rtt(&self, peer: IpAddr, now: SystemTime) -> Option<Duration> {
        let slots = self.lock();
        let known = slots.iter().filter(|(key, _)| key.peer == peer).filter_map(|(_, slot)| slot.known);
        known.filter(|known| known.is_fresh(now)).map(|known| known.path.min_rtt).min()
    }

    /// All that is known, a line for each path: addresses, bytes per second, microseconds, lost packets in a million, time.
    pub fn to_text(&self) -> String {
        let slots = self.lock();
        let mut lines: Vec<_> =
            slots.iter().filter_map(|(key, slot)| Some((*key, slot.known?))).map(line).collect();
        lines.sort_unstable();
        lines.insert(0, HEADER.to_owned());
        lines.join("\n") + "\n"
    }

    /// The memory of a text; what is too old by `now` is left out.
    ///
    /// # Errors
    /// [`PathsError`], if anything in it is not as it should be.
    pub fn from_text(text: &str, now: SystemTime) -> Result<Self, PathsError> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(PathsError);
        }
        let paths = Self::default();
        for line in lines {
            let (key, known) = parse(line).ok_or(PathsError)?;
            if known.is_fresh(now) {
                paths.put(key, known);
            }
        }
        Ok(paths)
    }

    /// Takes over what `other` has learnt since that time, and this has not.
    pub fn merge(&self, other: &Paths, since: SystemTime) {
        let others: Vec<_> =
            other.lock().iter().filter_map(|(key, slot)| Some((*key, slot.known?))).collect();
        for (key, known) in others.into_iter().filter(|(_, known)| known.saved >= seconds(since)) {
            let older = |mine: Known| mine.saved < known.saved;
            if self.lock().get(&key).and_then(|slot| slot.known).is_none_or(older) {
                self.put(key, known);
            }
        }
    }

    fn put(&self, key: Key, known: Known) {
        let mut slots = self.lock();
        slots.entry(key).or_default().known = Some(known);
        let all = slots.iter().filter_map(|(key, slot)| Some((slot.known?.saved, *key)));
        if all.clone().count() > PATHS_MAX
            && let Some((_, oldest)) = all.min()
        {
            forget(&mut slots, &oldest);
        }
    }

    /// A connection begins to use a path: what it may start from.
    fn enter(&self, key: Key, now: SystemTime, at: Instant) -> Option<Remembered> {
        let mut slots = self.lock();
        let slot = slots.entry(key).or_default();
        let quiet = slot.active.is_none_or(|active| at.saturating_duration_since(active) > QUIET);
        let is_free = slot.users == 0 || quiet;
        slot.users += 1;
        slot.active = Some(at);
        slot.known.filter(|known| is_free && known.is_fresh(now)).map(|known| known.path)
    }

    /// A connection begins to send something.
    fn touch(&self, key: &Key, at: Instant) {
        if let Some(slot) = self.lock().get_mut(key) {
            slot.active = Some(at);
        }
    }

    fn leave(&self, key: &Key) {
        let mut slots = self.lock();
        if let Some(slot) = slots.get_mut(key) {
            slot.users = slot.users.saturating_sub(1);
            if slot.users == 0 && slot.known.is_none() {
                slots.remove(key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Every change under the lock is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Paths {
    /// The same memory, not the same content.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Paths {}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paths({})", self.lock().len())
    }
}

/// A connection's use of a path, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Use {
    /// `None`: nothing is remembered.
    paths: Option<(Paths, Key)>,
    known: Option<Remembered>,
    is_over: AtomicBool,
    noted: Mutex<Option<Instant>>,
}

impl Use {
    /// Begins with what `paths` knows of the path to `peer`.
    pub(super) fn begin(paths: Option<&Paths>, rt: &Rt, peer: IpAddr) -> Self {
        let paths = paths.map(|paths| (paths.clone(), Key::new(peer, rt.source(peer))));
        let known = paths.as_ref().and_then(|(paths, key)| paths.enter(*key, SystemTime::now(), rt.now()));
        Self { paths, known, is_over: AtomicBool::new(false), noted: Mutex::default() }
    }

    /// What the connection may start from.
    pub(super) fn known(&self) -> Option<Remembered> {
        self.known
    }

    /// Notes now and then what `connection` has measured. Called whenever a chunk begins.
    pub(super) fn follow(&self, rt: &Rt, connection: &Connection, acked: &Acked) {
        let Some((paths, key)) = &self.paths else { return };
        let now = rt.now();
        // Somebody else notes already.
        let Ok(mut noted) = self.noted.try_lock() else { return };
        if noted.is_none_or(|at| now.saturating_duration_since(at) >= PERIOD) {
            *noted = Some(now);
            paths.touch(key, now);
            self.note(rt, connection, &acked.look(connection), SystemTime::now());
        }
    }

    /// The connection has ended. Calls after the first do nothing.
    pub(super) fn end(&self, rt: &Rt, connection: &Connection, acked: &Acked) {
        let Some((paths, key)) = &self.paths else { return };
        if !self.is_over.swap(true, Ordering::Relaxed) {
            // Of when it last sent something: it may have been idle since. Who has sent nothing has measured nothing.
            let noted = *self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = noted {
                let measured = SystemTime::now().checked_sub(rt.now().saturating_duration_since(at));
                self.note(rt, connection, &acked.look(connection), measured.unwrap_or(UNIX_EPOCH));
            }
            paths.leave(key);
        }
    }

    fn note(&self, rt: &Rt, connection: &Connection, look: &Look, measured: SystemTime) {
        let Some((paths, key)) = &self.paths else { return };
        let peer = connection.remote_address().ip();
        // Either side may have moved: then it is another path that was measured.
        if Key::new(peer, rt.source(peer)) == *key {
            paths.learn(key, look.path, look.retreated, measured);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        // A connection that never came to be.
        if let Some((paths, key)) = &self.paths
            && !self.is_over.swap(true, Ordering::Relaxed)
        {
            paths.leave(key);
        }
    }
}

impl Paths {
    /// What a connection says of its path; if it has only found out that what was known is too much, that is forgotten.
    fn learn(&self, key: &Key, path: Option<Remembered>, retreated: bool, now: SystemTime) {
        match path {
            Some(path) => self.put(*key, Known { path, saved: seconds(now) }),
            None if retreated => forget(&mut self.lock(), key),
            None => {}
        }
    }
}

impl Key {
    fn new(peer: IpAddr, local: Option<IpAddr>) -> Self {
        Self { peer: prefix(peer), local: local.map(prefix) }
    }
}

impl Known {
    /// Not from a time to come, either: a clock was wrong.
    fn is_fresh(&self, now: SystemTime) -> bool {
        seconds(now).checked_sub(self.saved).is_some_and(|age| age <= LIFETIME.as_secs())
    }
}

/// IPv4: the address; IPv6: its first 64 bits.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

fn forget(slots: &mut Slots, key: &Key) {
    if let Some(slot) = slots.get_mut(key) {
        slot.known = None;
        if slot.users == 0 {
            slots.remove(key);
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn line((key, known): (Key, Known)) -> String {
    let local = key.local.map_or("-".to_owned(), |local| local.to_string());
    let Known { path, saved } = known;
    // What is out of range, or no number, becomes the nearest that is a number.
    let (rate, lost) = (path.bandwidth as u64, ((path.random_loss * 1e6).round() as u32).min(MILLION - 1));
    format!("{} {local} {rate} {} {lost} {saved}", key.peer, path.min_rtt.as_micros())
}

fn parse(line: &str) -> Option<(Key, Known)> {
    fn number<T: FromStr>(text: Option<&str>) -> Option<T> {
        text?.parse().ok()
    }
    let mut parts = line.split(' ');
    let peer = number(parts.next())?;
    let local = match parts.next()? {
        "-" => None,
        local => Some(local.parse().ok()?),
    };
    let bandwidth = number::<u64>(parts.next())? as f64;
    let min_rtt = Duration::from_micros(number(parts.next())?);
    let lost = number::<u32>(parts.next()).filter(|lost| *lost < MILLION)?;
    let saved = number(parts.next())?;
    let path = Remembered { bandwidth, min_rtt, random_loss: f64::from(lost) / f64::from(MILLION) };
    parts.next().is_none().then_some((Key::new(peer, local), Known { path, saved }))
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
