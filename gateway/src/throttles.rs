//! What the tunnels of one peer may carry together, and how many one user may have.
//!
//! A peer is a user; whoever comes without being one, the address that they come from. Nothing is kept of a peer that has no
//! tunnels and whose throttle is whole again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metra_tunnel::server::{Rates, Throttle};

use crate::account::{ANONYMOUS, Account};
use crate::places::network_of;

/// Throttles of those that have tunnels.
#[derive(Debug)]
pub(crate) struct Throttles {
    rates: Rates,
    per_user: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    peers: HashMap<Peer, Arc<Throttle>>,
    /// With so many it is looked for those that can be forgotten.
    full: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Peer {
    User(String),
    Address(IpAddr),
}

impl Throttles {
    /// Of `rates` for each peer, and so many tunnels for each user.
    pub(crate) fn new(rates: Rates, per_user: usize) -> Self {
        Self { rates, per_user, known: Mutex::default() }
    }

    /// That of who has `account` and comes from there, for one tunnel, as long as it is held. `None`: the user has as many
    /// as one may have.
    pub(crate) fn join(&self, account: &Account, from: IpAddr, now: Instant) -> Option<Arc<Throttle>> {
        let (peer, most) = match account.name.as_str() {
            // Of an address there are as many as there are places for it.
            ANONYMOUS => (Peer::Address(network_of(from.to_canonical())), usize::MAX),
            name => (Peer::User(name.to_owned()), self.per_user),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.peers.len() >= known.full {
            known.peers.retain(|_, throttle| Arc::strong_count(throttle) > 1 || !throttle.is_whole(now));
            known.full = (2 * known.peers.len()).max(FULL);
        }
        let throttle = known.peers.entry(peer).or_insert_with(|| Arc::new(Throttle::new(self.rates, now)));
        // One is the table's.
        (Arc::strong_count(throttle) <= most).then(|| throttle.clone())
    }
}

/// Peers that are kept without looking whether they are still there.
const FULL: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn account(name: &str) -> Account {
        Account {
            name: name.to_owned(),
            read: true,
            write: true,
            tunnel: true,
            home: PathBuf::new(),
            groups: Vec::new(),
            tenant: None,
        }
    }

    fn at(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    #[test]
    fn a_user_has_one_wherever_they_come_from_and_a_stranger_one_of_an_address() {
        let (now, all) = (Instant::now(), Throttles::new(Rates::default(), 9));
        let join = |name, n| all.join(&account(name), at(n), now).unwrap();
        assert!(Arc::ptr_eq(&join("alice", 1), &join("alice", 2)));
        assert!(!Arc::ptr_eq(&join("alice", 1), &join("bob", 1)));
        assert!(Arc::ptr_eq(&join(ANONYMOUS, 1), &join(ANONYMOUS, 1)));
        assert!(!Arc::ptr_eq(&join(ANONYMOUS, 1), &join(ANONYMOUS, 2)));
        let v6 = |text: &str| all.join(&account(ANONYMOUS), text.parse().unwrap(), now).unwrap();
        assert!(Arc::ptr_eq(&v6("2001:db8::1"), &v6("2001:db8::ffff:1")), "a network of IPv6 is one owner");
        assert!(Arc::ptr_eq(&v6("::ffff:10.0.0.1"), &join(ANONYMOUS, 1)), "one address in two spellings");
    }

    #[test]
    fn a_user_has_so_many_tunnels_and_a_stranger_as_many_as_the_address_may() {
        let (now, all) = (Instant::now(), Throttles::new(Rates::default(), 2));
        let join = |name| all.join(&account(name), at(1), now);
        let mut held = vec![join("alice").unwrap(), join("alice").unwrap()];
        assert!(join("alice").is_none() && join("bob").is_some());
        held.pop();
        assert!(join("alice").is_some(), "one has ended");
        let strangers: Vec<_> = (0..10).map_while(|_| join(ANONYMOUS)).collect();
        assert_eq!(strangers.len(), 10);
    }

    #[test]
    fn what_was_used_up_is_remembered_and_nothing_else() {
        let began = Instant::now();
        let all = Throttles::new(Rates { bytes: 0, datagrams: 100 }, 2);
        let known = || all.known.lock().unwrap().peers.len();
        for n in 0..10_000 {
            drop(all.join(&account(ANONYMOUS), at(n), began).unwrap());
            assert!(known() <= FULL);
        }
        // Somebody who opens a tunnel for each datagram has no more than with one.
        let (first, mut used) = (all.join(&account("alice"), at(0), began).unwrap(), 0);
        while first.up(began, 1) {
            used += 1;
        }
        assert_eq!(used, 10);
        drop(first);
        for n in 0..1000 {
            drop(all.join(&account(ANONYMOUS), at(n), began).unwrap());
        }
        assert!(!all.join(&account("alice"), at(0), began).unwrap().is_whole(began));
        let later = began + Duration::from_secs(1);
        for n in 0..1000 {
            drop(all.join(&account(ANONYMOUS), at(n), later).unwrap());
        }
        assert!(!all.known.lock().unwrap().peers.contains_key(&Peer::User("alice".to_owned())));
    }
}
