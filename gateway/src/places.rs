//! Places for what is not a link yet: a bounded number of them in all and for one address, and nobody keeps others out.
//!
//! When all are taken, whoever has most gives its oldest up. So one that opens thousands of connections, or hundreds from each
//! of many addresses, takes places from itself; and those that wait for nothing give way to those that come.
//!
//! Non-goals: how long a place is held. Whoever takes one has a deadline.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

/// Counts who holds places.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    each: usize,
    held: Mutex<Held>,
}

/// A place; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    number: u64,
    displaced: watch::Receiver<bool>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The address has as many as one may have.
    Address,
    /// All are taken, by others that have no more than this one.
    Full,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    next: u64,
    by_address: HashMap<IpAddr, BTreeMap<u64, watch::Sender<bool>>>,
}

impl Places {
    /// So many in all, and so many for one address.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, held: Mutex::default() })
    }

    /// A place for somebody at `peer`.
    ///
    /// # Errors
    /// There is none, and why.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Place, NoPlace> {
        let address = network_of(peer);
        let mut held = self.lock();
        let here = held.by_address.get(&address).map_or(0, BTreeMap::len);
        if here >= self.each {
            return Err(NoPlace::Address);
        }
        if held.all >= self.all {
            held.displace(here)?;
        }
        let (sender, displaced) = watch::channel(false);
        let number = held.next;
        held.next += 1;
        held.all += 1;
        held.by_address.entry(address).or_default().insert(number, sender);
        Ok(Place { places: self.clone(), address, number, displaced })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panic while held")
    }
}

impl Held {
    /// Takes its oldest place from the one that has most, if that is more than `here`.
    fn displace(&mut self, here: usize) -> Result<(), NoPlace> {
        let oldest = |held: &BTreeMap<u64, _>| held.first_key_value().map_or(u64::MAX, |(number, _)| *number);
        let most = self.by_address.iter().max_by_key(|(_, held)| (held.len(), Reverse(oldest(held))));
        let Some((&address, held)) = most.filter(|(_, held)| held.len() > here) else {
            return Err(NoPlace::Full);
        };
        if let Some(displaced) = self.remove(address, oldest(held)) {
            // It may be gone this very moment.
            let _ = displaced.send(true);
        }
        Ok(())
    }

    fn remove(&mut self, address: IpAddr, number: u64) -> Option<watch::Sender<bool>> {
        let here = self.by_address.get_mut(&address)?;
        let removed = here.remove(&number)?;
        if here.is_empty() {
            self.by_address.remove(&address);
        }
        self.all -= 1;
        Some(removed)
    }
}

impl Place {
    /// Resolves when the place has been given to somebody else; never, once it is free.
    pub(crate) fn displaced(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut displaced = self.displaced.clone();
        async move {
            if displaced.wait_for(|displaced| *displaced).await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that was displaced is not there any more.
        let _ = self.places.lock().remove(self.address, self.number);
    }
}

/// What one owner has: an address of IPv4, 2^64 of IPv6 (RFC 6177 section 2).
pub(crate) fn network_of(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;

    use super::*;

    fn at(n: usize) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    fn is_displaced(place: &Place) -> bool {
        place.displaced().now_or_never().is_some()
    }

    #[test]
    fn one_address_takes_its_part_and_no_more() {
        let places = Places::new(8, 3);
        let mut held: Vec<_> = (0..3).map(|_| places.take(at(1)).unwrap()).collect();
        assert_eq!(places.take(at(1)).unwrap_err(), NoPlace::Address);
        assert!(places.take(at(2)).is_ok(), "others are let in");
        held.pop();
        assert!(places.take(at(1)).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_owner() {
        let places = Places::new(8, 3);
        let at = |n: usize| format!("2001:db8:0:1::{n:x}").parse::<IpAddr>().unwrap();
        let held: Vec<_> = (0..3).map(|n| places.take(at(n)).unwrap()).collect();
        assert_eq!(places.take(at(3)).unwrap_err(), NoPlace::Address);
        assert!(places.take("2001:db8:0:2::1".parse().unwrap()).is_ok());
        drop(held);
        assert!(places.lock().by_address.is_empty(), "nothing is remembered of who has gone");
        assert_eq!(places.lock().all, 0);
    }

    #[test]
    fn who_has_most_makes_way_and_its_oldest_goes_first() {
        let places = Places::new(6, 4);
        let greedy: Vec<_> = (0..4).map(|_| places.take(at(1)).unwrap()).collect();
        let modest: Vec<_> = (0..2).map(|_| places.take(at(2)).unwrap()).collect();
        let honest = places.take(at(3)).unwrap();
        assert_eq!(greedy.iter().map(is_displaced).collect::<Vec<_>>(), [true, false, false, false]);
        let _second = places.take(at(3)).unwrap();
        assert!(is_displaced(&greedy[1]) && !is_displaced(&greedy[2]));
        // All have two now.
        assert_eq!(places.take(at(3)).unwrap_err(), NoPlace::Full);
        assert!(places.take(at(4)).is_ok(), "one that has none has less than all others");
        assert!(is_displaced(&greedy[2]), "the oldest of all that have most");
        assert!(!is_displaced(&honest) && !modest.iter().any(is_displaced));
    }

    #[test]
    fn there_are_never_more_than_all_and_those_that_come_take_from_the_oldest() {
        let places = Places::new(16, 4);
        let held: Vec<_> = (0..64).map(|n| places.take(at(n)).unwrap()).collect();
        assert_eq!(places.lock().all, 16);
        let displaced = held.iter().map(is_displaced).filter(|displaced| *displaced).count();
        assert_eq!(displaced, 48);
        assert!(held[..48].iter().all(is_displaced));
        drop(held);
        let held = places.lock();
        assert_eq!((held.all, held.by_address.len()), (0, 0));
    }

    #[test]
    fn a_place_that_is_free_is_never_displaced() {
        let places = Places::new(2, 2);
        let place = places.take(at(1)).unwrap();
        let displaced = place.displaced();
        drop(place);
        let _others = [places.take(at(2)).unwrap(), places.take(at(3)).unwrap()];
        let _one_more = places.take(at(4)).unwrap();
        assert!(displaced.now_or_never().is_none());
    }
}
