//! Who has failed to show who they are, and how long they wait until they may try again. Sans-io.
//!
//! Tokens are too long to be guessed; what is bounded here is the work and the noise of those who try. A network (IPv4: an address,
//! IPv6: a /64) has some failures free, since people mistype and several may share it; then each failure doubles its wait. Who comes
//! with a ticket of a session has shown who they are before, and does not ask here; who forges one has failed.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures that cost nothing.
const FREE: u32 = 10;
/// The wait after the first that does, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// After so long without a failure all is forgotten.
const FORGET: Duration = Duration::from_secs(900);
/// Networks that are remembered. Beyond, the one that has been quiet for longest is forgotten.
const NETWORKS_MAX: usize = 65_536;

/// Failed attempts by network. Memory is bounded: about 100 bytes for each of 65,536 networks.
#[derive(Debug, Default)]
pub struct Attempts {
    by_network: HashMap<IpAddr, Failures>,
    /// The same, in the order of their last failure.
    by_time: BTreeSet<(Instant, IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Attempts {
    /// Whether somebody at `peer` may try now.
    ///
    /// # Errors
    /// Not yet: how long they wait. Fault: whoever tried there before.
    pub fn may_try(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(failures) = self.by_network.get(&network(peer)) else { return Ok(()) };
        let waited = now.saturating_duration_since(failures.last);
        match failures.wait().checked_sub(waited) {
            Some(left) if !left.is_zero() => Err(left),
            _ => Ok(()),
        }
    }

    /// Somebody at `peer` tried, and failed.
    pub fn failed(&mut self, peer: IpAddr, now: Instant) {
        let network = network(peer);
        self.forget(now);
        let before = self.by_network.remove(&network);
        if let Some(before) = before {
            self.by_time.remove(&(before.last, network));
        } else if self.by_network.len() >= NETWORKS_MAX
            && let Some((_, quiet)) = self.by_time.pop_first()
        {
            self.by_network.remove(&quiet);
        }
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        // Clocks of several threads need not agree to the last.
        let last = before.map_or(now, |before| before.last.max(now));
        self.by_network.insert(network, Failures { count, last });
        self.by_time.insert((last, network));
    }

    /// Networks that are remembered.
    pub fn len(&self) -> usize {
        self.by_network.len()
    }

    /// Whether nobody has failed lately.
    pub fn is_empty(&self) -> bool {
        self.by_network.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((last, network)) = self.by_time.first().copied()
            && now.saturating_duration_since(last) >= FORGET
        {
            self.by_time.pop_first();
            self.by_network.remove(&network);
        }
    }
}

impl Failures {
    fn wait(&self) -> Duration {
        match self.count.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            // 2^9 seconds are more than the longest wait.
            Some(doublings) => (WAIT.0 * 2u32.pow(doublings.min(9))).min(WAIT.1),
        }
    }
}

/// Whom one operator of a network gives as many addresses as they like counts once.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use proptest::prelude::*;

    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn some_are_free_and_then_the_wait_doubles() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let peer = "192.0.2.1".parse().unwrap();
        for _ in 0..10 {
            attempts.failed(peer, start);
            assert_eq!(attempts.may_try(peer, start), Ok(()));
        }
        let mut now = start;
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            attempts.failed(peer, now);
            assert_eq!(attempts.may_try(peer, now), Err(Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
            assert!(attempts.may_try(peer, now - Duration::from_millis(1)).is_err());
            assert_eq!(attempts.may_try(peer, now), Ok(()));
        }
        assert_eq!(attempts.may_try("192.0.2.2".parse().unwrap(), now), Ok(()), "others do not wait");
    }

    #[test]
    fn who_is_quiet_is_forgotten() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let [first, second] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        (0..12).for_each(|_| attempts.failed(first, start));
        attempts.failed(second, at(start, 899));
        assert_eq!(attempts.len(), 2);
        attempts.failed(second, at(start, 900));
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts.may_try(first, at(start, 900)), Ok(()));
    }

    #[test]
    fn a_network_counts_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for host in 0..12_u128 {
            attempts.failed(Ipv6Addr::from_bits(0x2001_0db8 << 96 | host).into(), now);
        }
        attempts.failed("::ffff:192.0.2.1".parse().unwrap(), now);
        attempts.failed("192.0.2.1".parse().unwrap(), now);
        assert_eq!(attempts.len(), 2);
        assert!(attempts.may_try("2001:db8::ffff".parse().unwrap(), now).is_err());
        assert!(attempts.may_try("2001:db8:0:1::1".parse().unwrap(), now).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        for n in 0..NETWORKS_MAX as u32 + 100 {
            attempts.failed(std::net::Ipv4Addr::from_bits(n).into(), start + Duration::from_micros(n.into()));
        }
        assert_eq!((attempts.len(), attempts.by_time.len()), (NETWORKS_MAX, NETWORKS_MAX));
    }

    proptest! {
        #[test]
        fn both_orders_agree(events in prop::collection::vec((0u8..5, 0u64..400), 0..200)) {
            let (mut attempts, mut now) = (Attempts::default(), Instant::now());
            for (host, later) in events {
                now += Duration::from_secs(later);
                attempts.failed(IpAddr::from([192, 0, 2, host]), now);
                prop_assert!(attempts.may_try(IpAddr::from([192, 0, 2, host]), now).err() <= Some(WAIT.1));
                prop_assert_eq!(attempts.by_network.len(), attempts.by_time.len());
                prop_assert!(attempts.by_time.iter().all(|(last, network)| attempts.by_network[network].last == *last));
            }
        }
    }
}
