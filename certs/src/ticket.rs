//! Tickets: bytes that a gateway gives away and knows again, sealed with a key that only it has.
//!
//! ```text
//! key id (1) | nonce (12) | AES-256-GCM( expiry, seconds since 1970 (8, big endian) | content ) | tag (16)
//! ```
//!
//! Non-goal: that a ticket works once only. It may be shown any number of times until it expires.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Error;
use crate::files::{LockedDir, PRIVATE};

/// Why a ticket is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// No key here has its number: it was sealed by another gateway or too long ago, or is none. Fault: nobody, as far as can be
    /// told.
    #[error("the ticket is not of this gateway")]
    Unknown,
    /// It was sealed here, and its time is over. Fault: nobody.
    #[error("the ticket has expired")]
    Expired,
    /// It has the number of a key that did not seal it: made up, or changed. Fault: whoever made it.
    #[error("the ticket is forged")]
    Forged,
}

/// The keys that seal and open tickets: the current one, and the one before it, which still opens.
pub struct TicketKey {
    current: Key,
    previous: Option<Key>,
}

impl TicketKey {
    /// The keys in `state_dir` (`ticket.keys`), made when there are none. A current key that is older than a week becomes
    /// the previous one, and a new one is made: a ticket therefore survives at least one restart.
    ///
    /// # Errors
    /// The directory cannot be written, or the file is damaged.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self::load_or_create_at(state_dir, now)
    }

    /// A ticket with `content`, good from `now_unix` on for `lifetime` (both in seconds).
    pub fn seal(&self, content: &[u8], now_unix: u64, lifetime: u64) -> Vec<u8> {
        let mut body = now_unix.saturating_add(lifetime).to_be_bytes().to_vec();
        body.extend_from_slice(content);
        let nonce = self
            .current
            .aead
            .seal_in_place_append_tag(aad(self.current.id), &mut body)
            .expect("AES-GCM seals anything below 64 GiB");
        let mut ticket = vec![self.current.id];
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut body);
        ticket
    }

    /// The content of a ticket, `now_unix` seconds after 1970.
    ///
    /// # Errors
    /// It is not one of ours, was changed, or has expired.
    pub fn open(&self, ticket: &[u8], now_unix: u64) -> Result<Vec<u8>, TicketError> {
        let (id, rest) = ticket.split_first().ok_or(TicketError::Unknown)?;
        let mut keys = [Some(&self.current), self.previous.as_ref()].into_iter().flatten();
        let key = keys.find(|k| k.id == *id).ok_or(TicketError::Unknown)?;
        let body = key.open(rest).ok_or(TicketError::Forged)?;
        let (expiry, content) = body.split_first_chunk::<8>().ok_or(TicketError::Forged)?;
        if now_unix >= u64::from_be_bytes(*expiry) {
            return Err(TicketError::Expired);
        }
        Ok(content.to_vec())
    }

    fn load_or_create_at(state_dir: &Path, now: u64) -> Result<Self, Error> {
        let dir = LockedDir::open(state_dir)?;
        let stored = match dir.read_secret(FILE)? {
            None => Vec::new(),
            Some(bytes) => parse(&bytes).map_err(|line| {
                let path = dir.path(FILE);
                let detail = format!("line {line} is not a ticket key; remove the file to make new keys");
                Error::content(&path, detail)
            })?,
        };
        let keep = match stored.first() {
            Some(newest) if now < newest.created.saturating_add(ROTATE_AFTER) => stored,
            _ => {
                let (mut secret, mut first) = ([0; 32], [0]);
                let random = |bytes: &mut [u8]| {
                    aws_lc_rs::rand::fill(bytes).map_err(Error::crypto("make a ticket key"))
                };
                random(&mut secret)?;
                // The first number is drawn, so that a ticket of other keys (of another gateway, or from before these were lost)
                // hardly ever looks like a forged one of these.
                random(&mut first)?;
                let id = stored.first().map_or(first[0], |k| k.id.wrapping_add(1));
                let keys: Vec<Stored> =
                    std::iter::once(Stored { id, created: now, secret }).chain(stored).take(2).collect();
                dir.write(FILE, format(&keys).as_bytes(), PRIVATE)?;
                keys
            }
        };
        let mut keys = keep.iter().map(Key::new);
        let current = keys.next().expect("there is one, or it was made above");
        Ok(Self { current, previous: keys.next() })
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

struct Key {
    id: u8,
    aead: RandomizedNonceKey,
}

impl Key {
    fn new(stored: &Stored) -> Self {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &stored.secret).expect("AES-256 keys have 32 bytes");
        Self { id: stored.id, aead }
    }

    /// What was sealed with this key; `None`: it was not.
    fn open(&self, nonce_and_sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = nonce_and_sealed.split_at_checked(NONCE_LEN)?;
        let mut body = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let len = self.aead.open_in_place(nonce, aad(self.id), &mut body).ok()?.len();
        body.truncate(len);
        Some(body)
    }
}

/// A line of the file: `ID CREATED BASE64`, the newest key first.
struct Stored {
    id: u8,
    created: u64,
    secret: [u8; 32],
}

fn format(keys: &[Stored]) -> String {
    keys.iter().fold(String::new(), |mut text, k| {
        let _ = writeln!(text, "{} {} {}", k.id, k.created, STANDARD.encode(k.secret));
        text
    })
}

/// One or two keys of different ids; or the number of the line that is wrong.
fn parse(bytes: &[u8]) -> Result<Vec<Stored>, usize> {
    let text = std::str::from_utf8(bytes).map_err(|_| 1_usize)?;
    let mut keys: Vec<Stored> = Vec::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let key = parse_line(line).filter(|k| keys.iter().all(|other| other.id != k.id)).ok_or(number)?;
        keys.push(key);
    }
    match keys.len() {
        0 => Err(1),
        1 | 2 => Ok(keys),
        _ => Err(3),
    }
}

fn parse_line(line: &str) -> Option<Stored> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let created = fields.next()?.parse().ok()?;
    let secret = STANDARD.decode(fields.next()?).ok()?.try_into().ok()?;
    fields.next().is_none().then_some(Stored { id, created, secret })
}

fn aad(id: u8) -> Aad<[u8; 16]> {
    let mut bytes = *b"Metra ticket 1 \0";
    bytes[15] = id;
    Aad::from(bytes)
}

const FILE: &str = "ticket.keys";
const NONCE_LEN: usize = 12;
/// One week, in seconds.
const ROTATE_AFTER: u64 = 7 * 86_400;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_ticket_opens_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let key = TicketKey::load_or_create(dir.path()).unwrap();
        let ticket = key.seal(b"session", NOW, 60);
        assert_eq!(key.open(&ticket, NOW).unwrap(), b"session");
        assert_eq!(key.open(&ticket, NOW + 59).unwrap(), b"session");
        assert_eq!(key.open(&ticket, NOW + 60), Err(TicketError::Expired));
        assert_eq!(key.open(&key.seal(b"", NOW, u64::MAX), u64::MAX - 1).unwrap(), b"");
        assert_ne!(ticket, key.seal(b"session", NOW, 60), "the nonce is random");
        assert!(!ticket.windows(7).any(|w| w == b"session"));
    }

    #[test]
    fn a_ticket_survives_a_restart_and_one_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let at = |now| TicketKey::load_or_create_at(dir.path(), now).unwrap();
        let first = at(NOW);
        let ticket = first.seal(b"a", NOW, u64::MAX);
        let week = 7 * 86_400;
        let same = at(NOW + week - 1);
        assert_eq!(same.current.id, first.current.id);
        assert!(same.open(&ticket, NOW).is_ok());
        let second = at(NOW + week);
        assert_ne!(second.current.id, first.current.id);
        assert!(second.open(&ticket, NOW).is_ok());
        // The key before the previous one is gone, also when a later one comes to have the same id.
        let third = at(NOW + 2 * week);
        assert_eq!(third.open(&ticket, NOW), Err(TicketError::Unknown));
        assert!(third.open(&second.seal(b"b", NOW, u64::MAX), NOW).is_ok());
        for n in 3..260 {
            assert!(at(NOW + n * week).open(&ticket, NOW).is_err());
        }
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let first = TicketKey::load_or_create_at(dir.path(), NOW).unwrap();
        let ticket = first.seal(b"a", NOW, 60);
        let second = TicketKey::load_or_create_at(dir.path(), NOW - 1_000_000).unwrap();
        assert_eq!(first.current.id, second.current.id);
        assert!(second.open(&ticket, NOW).is_ok());
    }

    #[test]
    fn another_gateways_ticket_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let a = TicketKey::load_or_create(&dir.path().join("a")).unwrap();
        let b = TicketKey::load_or_create(&dir.path().join("b")).unwrap();
        assert!(b.open(&a.seal(b"a", NOW, 60), NOW).is_err());
    }

    #[test]
    fn what_was_made_up_is_told_from_what_is_old_or_of_others() {
        let key = fixed();
        let ticket = key.seal(b"content", NOW, 60);
        let mut forged = ticket.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(key.open(&forged, NOW), Err(TicketError::Forged));
        assert_eq!(key.open(&forged, NOW + 60), Err(TicketError::Forged));
        assert_eq!(key.open(&ticket[..5], NOW), Err(TicketError::Forged));
        // A nonce, a tag, and nothing in between that could be when it expires.
        assert_eq!(key.open(&[3; 1 + NONCE_LEN + 16], NOW), Err(TicketError::Forged));
        let others =
            TicketKey { current: Key::new(&Stored { id: 4, created: NOW, secret: [5; 32] }), previous: None };
        assert_eq!(key.open(&others.seal(b"content", NOW, 60), NOW), Err(TicketError::Unknown));
        assert_eq!(key.open(b"", NOW), Err(TicketError::Unknown));
    }

    #[test]
    fn keys_that_are_made_anew_have_another_number() {
        let numbers: std::collections::HashSet<u8> = (0..20)
            .map(|_| TicketKey::load_or_create(tempfile::tempdir().unwrap().path()).unwrap().current.id)
            .collect();
        assert!(numbers.len() > 10, "{numbers:?}");
    }

    #[test]
    fn damage_is_an_error_that_names_the_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        TicketKey::load_or_create(dir.path()).unwrap();
        let good = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let (_, key) = good.split_once(' ').unwrap();
        let three: String = (0..3).map(|i| format!("{i} {key}")).collect();
        for (damage, line) in [
            (String::new(), 1),
            ("\u{0}".to_owned(), 1),
            (good[..good.len() / 2].to_owned(), 1),
            (format!("{good}{good}"), 2),
            (format!("{good}1 2"), 2),
            (three, 3),
        ] {
            fs::write(dir.path().join(FILE), &damage).unwrap();
            let error = TicketKey::load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("ticket.keys: line {line} is not")), "{damage:?}: {error}");
        }
    }

    #[test]
    fn starts_at_the_same_moment_agree() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<TicketKey> = std::thread::scope(|s| {
            let all: Vec<_> =
                (0..8).map(|_| s.spawn(|| TicketKey::load_or_create(dir.path()).unwrap())).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let ticket = keys[0].seal(b"a", NOW, 60);
        assert!(keys.iter().all(|k| k.open(&ticket, NOW).is_ok()));
    }

    fn fixed() -> TicketKey {
        TicketKey { current: Key::new(&Stored { id: 3, created: NOW, secret: [5; 32] }), previous: None }
    }

    proptest! {
        #[test]
        fn sealed_and_opened(content in prop::collection::vec(any::<u8>(), 0..300)) {
            let key = fixed();
            let ticket = key.seal(&content, NOW, 60);
            prop_assert_eq!(key.open(&ticket, NOW), Ok(content));
        }

        #[test]
        fn any_change_is_noticed(at: prop::sample::Index, bit in 0..8_u32, cut: prop::sample::Index) {
            let key = fixed();
            let ticket = key.seal(b"content", NOW, 60);
            let mut changed = ticket.clone();
            changed[at.index(ticket.len())] ^= 1_u8 << bit;
            prop_assert!(key.open(&changed, NOW).is_err());
            prop_assert!(key.open(&ticket[..cut.index(ticket.len())], NOW).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(fixed().open(&bytes, NOW).is_err());
        }
    }
}
