//! How tunnels and streams share a connection. Sans-io.
//!
//! QUIC sends the datagrams that wait before anything of streams, so without this a flood of them would leave streams nothing
//! but what is left of packets. Streams are not asked: what they have to send is in QUIC's hands, which does not tell. What is
//! known is what was written to them, and what the connection sends while no datagram waits.

use std::time::{Duration, Instant};

/// How tunnels share what their connection sends while it is crowded: in rounds of so many bytes, in which each of them has
/// the same part. It is work-conserving: who has had its part waits only as long as others keep the connection crowded.
///
/// While streams have something to send, half of a round is theirs, and it ends when they have had it.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    number: u64,
    /// In this round. Bytes.
    sent: u64,
    /// Tunnels that have sent in this round, and in the one before.
    tunnels: (u64, u64),
    /// What each may have besides an equal part, beside streams: others do not use theirs. Bytes.
    spare: u64,
    /// What streams had of the round before beyond half of it, as nobody looked: tunnels have as much more. Bytes.
    behind: u64,
    streams: Streams,
}

/// What one tunnel has had of a round.
#[derive(Debug, Default)]
pub(super) struct Share {
    round: u64,
    sent: u64,
}

/// What streams have of a connection.
#[derive(Debug, Default)]
struct Streams {
    /// Written to them, and not known to be sent. Bytes.
    owed: u64,
    /// Sent of it in this round. Bytes.
    had: u64,
    /// What the connection had sent when no datagram waited, if that was so the last time, and what tunnels were given since.
    /// Bytes.
    quiet: Option<(u64, u64)>,
    /// When the connection was last seen to send something of theirs, or to have datagrams in the way.
    moved: Option<Instant>,
    /// They had something to send and sent nothing, for want of their peers' credit: until then nobody waits for them.
    ignored: Option<Instant>,
}

/// What is known of a connection at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) now: Instant,
    /// Datagrams that wait in QUIC. Bytes.
    pub(super) waits: usize,
    /// Sent so far, in all. Bytes.
    pub(super) sent: u64,
    pub(super) rtt: Duration,
}

impl Rounds {
    /// So much was written to streams. Bytes.
    pub(super) fn wrote(&mut self, length: u64) {
        self.streams.owed = self.streams.owed.saturating_add(length);
    }

    /// Whether streams are known to have something to send. If so, [`Rounds::see`] is to be called before [`Rounds::admit`].
    pub(super) fn has_streams(&self) -> bool {
        self.streams.owed > 0
    }

    /// Notes what the connection has done.
    pub(super) fn see(&mut self, seen: &Seen) {
        let streams = &mut self.streams;
        if streams.ignored.is_some_and(|until| seen.now < until) {
            streams.owed = 0;
        }
        if streams.owed == 0 {
            *streams = Streams { ignored: streams.ignored, ..Streams::default() };
            return;
        }
        let sent = streams.quiet.map_or(0, |(sent, given)| seen.sent.saturating_sub(sent + given));
        streams.quiet = (seen.waits == 0).then_some((seen.sent, 0));
        if sent > 0 || seen.waits > 0 {
            streams.moved = Some(seen.now);
        }
        streams.had += sent;
        streams.owed = streams.owed.saturating_sub(sent);
        let patience = STALLED + 2 * seen.rtt;
        if seen.now.saturating_duration_since(*streams.moved.get_or_insert(seen.now)) > patience {
            streams.owed = 0;
            streams.ignored = Some(seen.now + 4 * patience);
        }
        if streams.owed == 0 || streams.had >= ROUND / 2 {
            self.next();
        }
    }

    /// Whether a tunnel may send so much now, of what it has had so far. Bytes.
    pub(super) fn admit(&mut self, share: &mut Share, length: u64) -> bool {
        self.join(share);
        if share.sent > 0 && share.sent + length > self.part() {
            // What is left when all have had their part is too little for anybody: nobody would end the round.
            if !self.has_streams() && self.sent + length * self.tunnels() > ROUND {
                self.next();
            }
            return false;
        }
        self.count(share, length);
        true
    }

    /// Whether a tunnel has something left of its part.
    pub(super) fn has_part(&self, share: &Share) -> bool {
        share.round != self.number || share.sent < self.part()
    }

    /// A tunnel sends so much.
    pub(super) fn charge(&mut self, share: &mut Share, length: u64) {
        self.join(share);
        self.count(share, length);
    }

    fn join(&mut self, share: &mut Share) {
        // The first round is 0 for those that have sent nothing, too.
        if share.round != self.number || share.sent == 0 {
            *share = Share { round: self.number, sent: 0 };
            self.tunnels.0 += 1;
        }
    }

    fn count(&mut self, share: &mut Share, length: u64) {
        share.sent += length;
        self.sent += length;
        if let Some((_, given)) = &mut self.streams.quiet {
            *given += length;
        }
        if !self.has_streams() && self.sent + length > ROUND {
            self.next();
        }
    }

    fn tunnels(&self) -> u64 {
        self.tunnels.0.max(self.tunnels.1).max(1)
    }

    /// What each tunnel may send in a round. Bytes.
    fn part(&self) -> u64 {
        if self.has_streams() { self.half() / self.tunnels() + self.spare } else { ROUND / self.tunnels() }
    }

    /// What tunnels may send in a round, beside streams. Bytes.
    fn half(&self) -> u64 {
        ROUND / 2 + self.behind
    }

    fn next(&mut self) {
        let left = self.half().saturating_sub(self.sent);
        self.spare = match left {
            _ if !self.has_streams() => 0,
            0 => self.spare / 2,
            left => (self.spare + left / self.tunnels()).min(ROUND / 2),
        };
        self.behind = self.streams.had.saturating_sub(ROUND / 2).min(BEHIND);
        self.number += 1;
        self.sent = 0;
        self.tunnels = (0, self.tunnels.0);
        self.streams.had = 0;
    }
}

/// What all tunnels of a crowded connection, and its streams, send before each may send again. Bytes.
const ROUND: u64 = 128 * 1024;
/// What tunnels make up for, at most. Bytes: some of what waits in QUIC.
const BEHIND: u64 = 512 * 1024;
/// Streams that send nothing for so long, and two round trips, though nothing is in their way, are not waited for.
const STALLED: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of `wanting` gets of `total` bytes, when all want `length` bytes again and again, some of them rarely.
    fn shared(wanting: &[u64], length: u64, rounds: usize) -> Vec<u64> {
        let (mut of_all, mut shares) = (Rounds::default(), Vec::new());
        shares.resize_with(wanting.len(), Share::default);
        let mut got = vec![0; wanting.len()];
        for turn in 0..rounds {
            for (n, every) in wanting.iter().enumerate() {
                if (turn as u64).is_multiple_of(*every) && of_all.admit(&mut shares[n], length) {
                    got[n] += length;
                }
            }
        }
        got
    }

    #[test]
    fn one_tunnel_has_all() {
        assert_eq!(shared(&[1], 1200, 10_000), [12_000_000]);
    }

    #[test]
    fn who_sends_more_than_others_gets_no_more() {
        // The first tries ten times as often as the others: they get all that they want, and it gets as much as the most.
        let mut wanting = vec![10; 8];
        wanting[0] = 1;
        let got = shared(&wanting, 1200, 20_000);
        assert!(got[1..].iter().all(|bytes| *bytes >= 2000 * 1200 * 95 / 100), "{got:?}");
        let most = got[1..].iter().max().copied().unwrap_or_default();
        assert!(got[0] <= most * 13 / 10, "{got:?}");
    }

    #[test]
    fn a_datagram_that_is_larger_than_a_part_goes_once_a_round() {
        let got = shared(&[1; 64], 65_000, 1000);
        assert!(got.iter().all(|bytes| *bytes > 0), "{got:?}");
    }

    /// What streams and a tunnel that wants all get of a path that carries 10 packets of 1200 bytes a millisecond, datagrams
    /// first, as QUIC does. Streams have `can_send` of what they want.
    fn beside_streams(milliseconds: u64, can_send: bool) -> (u64, u64) {
        let (began, mut rounds, mut share) = (Instant::now(), Rounds::default(), Share::default());
        let (mut waits, mut sent, mut got) = (0, 0, (0, 0));
        for ms in 0..milliseconds {
            let now = began + Duration::from_millis(ms);
            rounds.wrote(1200);
            for _ in 0..100 {
                rounds.see(&Seen { now, waits, sent, rtt: Duration::from_millis(10) });
                if rounds.admit(&mut share, 1200) {
                    waits += 1200;
                }
            }
            for _ in 0..10 {
                if waits > 0 {
                    waits -= 1200;
                    got.1 += 1200;
                } else if can_send {
                    rounds.wrote(1200);
                    got.0 += 1200;
                } else {
                    break;
                }
                sent += 1200;
            }
        }
        got
    }

    #[test]
    fn streams_and_tunnels_have_half_each() {
        let (streams, tunnel) = beside_streams(10_000, true);
        assert!(streams + tunnel == 120_000_000, "work-conserving");
        assert!((45..=55).contains(&(tunnel / 1_200_000)), "{streams} {tunnel}");
    }

    #[test]
    fn streams_whose_peer_reads_nothing_are_not_waited_for() {
        let (_, tunnel) = beside_streams(10_000, false);
        assert!(tunnel > 120_000_000 * 70 / 100, "{tunnel}");
    }

    #[test]
    fn tunnels_use_what_others_leave_of_their_half() {
        let (began, mut rounds) = (Instant::now(), Rounds::default());
        let (mut greedy, mut modest, mut got) = (Share::default(), Share::default(), [0, 0]);
        for ms in 0..2000 {
            rounds.wrote(64 * 1024);
            // What streams send between two looks at a connection in which no datagram waits.
            let sent = ms * 16 * 1024 + got[0] + got[1];
            let now = began + Duration::from_millis(ms);
            rounds.see(&Seen { now, waits: 0, sent, rtt: Duration::ZERO });
            while rounds.admit(&mut greedy, 1200) {
                got[0] += 1200;
            }
            if ms % 4 == 0 && rounds.admit(&mut modest, 1200) {
                got[1] += 1200;
            }
        }
        assert_eq!(got[1], 500 * 1200, "all that it wants");
        let half = 2000 * 16 * 1024;
        assert!((90..=110).contains(&((got[0] + got[1]) * 100 / half)), "{got:?} of {half}");
    }
}
