//! What the links of a session have carried, over its whole life.

use std::time::Duration;

use metra_transport::LinkStats;

/// Totals over the links of a session: those that are open, and those that are gone.
///
/// Bytes and datagrams are as the transport counts them: UDP payload, with everything that QUIC adds and repeats; the
/// headers of UDP and IP (28 bytes a datagram with IPv4, 48 with IPv6) come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Links that joined.
    pub links: u64,
    /// Sent by this side. Bytes.
    pub sent_bytes: u64,
    /// Received by this side. Bytes.
    pub received_bytes: u64,
    /// Of what was sent, packets that the peer has acknowledged, but for those that only acknowledge. Bytes.
    pub acked_bytes: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
    /// Packets sent; a datagram may have several, at the beginning of a link.
    pub sent_packets: u64,
    /// Of these, packets taken for lost. What was on its way when a link was lost is not among them.
    pub lost_packets: u64,
    /// Bytes of these.
    pub lost_bytes: u64,
    /// How often a congestion controller was told of congestion.
    pub congestion_events: u64,
    /// Smallest round-trip time that any link has seen; `None` before the first link.
    pub min_rtt: Option<Duration>,
    /// Smoothed round-trip time: the mean over the links that are open; if there is none, of the last one that was.
    pub rtt: Option<Duration>,
}

impl Traffic {
    /// Adds a link that is gone, with what it said last.
    pub(crate) fn add_gone(&mut self, stats: &LinkStats) {
        self.count(stats);
        self.rtt = Some(stats.rtt);
    }

    /// Adds the links that are open.
    pub(crate) fn add_open(&mut self, links: impl Iterator<Item = LinkStats>) {
        let (mut sum, mut open) = (Duration::ZERO, 0);
        for stats in links {
            self.count(&stats);
            sum += stats.rtt;
            open += 1;
        }
        if open > 0 {
            self.rtt = Some(sum / open);
        }
    }

    fn count(&mut self, stats: &LinkStats) {
        self.links += 1;
        self.sent_bytes += stats.sent_bytes;
        self.received_bytes += stats.received_bytes;
        self.acked_bytes += stats.acked_bytes;
        self.sent_datagrams += stats.sent_datagrams;
        self.received_datagrams += stats.received_datagrams;
        self.sent_packets += stats.sent_packets;
        self.lost_packets += stats.lost_packets;
        self.lost_bytes += stats.lost_bytes;
        self.congestion_events += stats.congestion_events;
        self.min_rtt = Some(self.min_rtt.map_or(stats.min_rtt, |min| min.min(stats.min_rtt)));
    }

    /// What came after `before`: counters are the difference (`links` those that joined since), round-trip times those
    /// of now.
    #[must_use]
    pub fn since(&self, before: &Traffic) -> Traffic {
        Traffic {
            links: self.links.saturating_sub(before.links),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
            acked_bytes: self.acked_bytes.saturating_sub(before.acked_bytes),
            sent_datagrams: self.sent_datagrams.saturating_sub(before.sent_datagrams),
            received_datagrams: self.received_datagrams.saturating_sub(before.received_datagrams),
            sent_packets: self.sent_packets.saturating_sub(before.sent_packets),
            lost_packets: self.lost_packets.saturating_sub(before.lost_packets),
            lost_bytes: self.lost_bytes.saturating_sub(before.lost_bytes),
            congestion_events: self.congestion_events.saturating_sub(before.congestion_events),
            min_rtt: self.min_rtt,
            rtt: self.rtt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(n: u64) -> LinkStats {
        LinkStats {
            rtt: Duration::from_millis(10 * n),
            min_rtt: Duration::from_millis(n),
            sent_bytes: n,
            received_bytes: 10 * n,
            acked_bytes: n,
            sent_datagrams: n,
            received_datagrams: n,
            sent_packets: n,
            lost_packets: n,
            lost_bytes: 100 * n,
            congestion_events: n,
            ..LinkStats::default()
        }
    }

    #[test]
    fn links_that_are_gone_are_not_forgotten() {
        let mut gone = Traffic::default();
        gone.add_gone(&stats(2));
        gone.add_gone(&stats(4));
        assert_eq!((gone.links, gone.sent_bytes, gone.lost_bytes), (2, 6, 600));
        assert_eq!(
            (gone.min_rtt, gone.rtt),
            (Some(Duration::from_millis(2)), Some(Duration::from_millis(40)))
        );

        let mut now = gone;
        now.add_open([stats(5), stats(7)].into_iter());
        assert_eq!((now.links, now.sent_bytes, now.received_bytes), (4, 18, 180));
        assert_eq!((now.min_rtt, now.rtt), (Some(Duration::from_millis(2)), Some(Duration::from_millis(60))));

        let since = now.since(&gone);
        assert_eq!((since.links, since.sent_bytes, since.lost_packets), (2, 12, 12));
        assert_eq!(since.acked_bytes, 12);
        assert_eq!((since.min_rtt, since.rtt), (now.min_rtt, now.rtt));
    }

    #[test]
    fn without_a_link_nothing_is_known() {
        let mut none = Traffic::default();
        none.add_open(std::iter::empty());
        assert_eq!(none, Traffic::default());
    }
}
