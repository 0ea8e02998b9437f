//! How tunnels share a connection. Sans-io.

/// How tunnels share what their connection sends while it is crowded: in rounds of so many bytes, in which each of them has
/// the same part. It is work-conserving: who has had its part waits only as long as others keep the connection crowded.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    number: u64,
    /// In this round. Bytes.
    sent: u64,
    /// Tunnels that have sent in this round, and in the one before.
    tunnels: (u64, u64),
}

/// What one tunnel has had of a round.
#[derive(Debug, Default)]
pub(super) struct Share {
    round: u64,
    sent: u64,
}

impl Rounds {
    /// Whether a tunnel may send so much now, of what it has had so far. Bytes.
    pub(super) fn admit(&mut self, share: &mut Share, length: u64) -> bool {
        // The first round is 0 for those that have sent nothing, too.
        if share.round != self.number || share.sent == 0 {
            *share = Share { round: self.number, sent: 0 };
            self.tunnels.0 += 1;
        }
        let tunnels = self.tunnels.0.max(self.tunnels.1);
        if share.sent > 0 && share.sent + length > ROUND / tunnels {
            // What is left when all have had their part is too little for anybody: nobody would end the round.
            if self.sent + length * tunnels > ROUND {
                self.next();
            }
            return false;
        }
        share.sent += length;
        self.sent += length;
        if self.sent + length > ROUND {
            self.next();
        }
        true
    }

    fn next(&mut self) {
        *self = Self { number: self.number + 1, sent: 0, tunnels: (0, self.tunnels.0) };
    }
}

/// What all tunnels of a crowded connection send before each may send again. Bytes.
const ROUND: u64 = 128 * 1024;

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
}
