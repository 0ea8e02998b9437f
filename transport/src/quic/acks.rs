//! How rarely the peer is asked to acknowledge, on a path that is known.
//!
//! It is the sender of data who asks, in an ACK_FREQUENCY frame (draft-ietf-quic-ack-frequency section 4): so in a push the
//! client's choice counts, in a pull the gateway's. quinn asks for the same all through a connection, so what is chosen
//! when it begins has to do; a path that is not known has the default.

use metra_core::bbr::Remembered;

/// So many packets at 10 Gbit/s, and in other cases as the square root of the rate: both the work of acknowledging and the
/// time between two acknowledgements go down as the rate goes up. 40 at 1 Gbit/s, 254 at 40 Gbit/s.
const AT_REFERENCE: f64 = 127.0;
/// 10 Gbit/s. Bytes per second.
const REFERENCE: f64 = 1.25e9;
/// A controller wants to hear something of a path so many times in a round trip.
const IN_A_ROUND: f64 = 8.0;
/// Holes between two acknowledgements: a frame reports at most 64 ranges (in quinn), and a lost acknowledgement, or two,
/// must not lose any.
const HOLES: f64 = 16.0;
/// No more than this, whatever the rate.
const MOST: f64 = 511.0;

/// Packets of `packet` bytes that may arrive unacknowledged on `path`; `least` is the threshold where only the rate matters,
/// and that is low.
pub(super) fn threshold(path: &Remembered, packet: u64, least: u32) -> u32 {
    let by_rate = (AT_REFERENCE * (path.bandwidth / REFERENCE).sqrt()).max(least.into());
    let in_a_round = path.bandwidth * path.min_rtt.as_secs_f64() / packet.max(1) as f64;
    let by_loss = HOLES / path.random_loss.max(1e-6);
    // What is no number counts as 1: `max` takes the other.
    by_rate.min(in_a_round / IN_A_ROUND).min(by_loss).clamp(1.0, MOST).max(1.0) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn of(mbit: f64, rtt_ms: u64, random_loss: f64) -> u32 {
        let path =
            Remembered { bandwidth: mbit * 125e3, min_rtt: Duration::from_millis(rtt_ms), random_loss };
        threshold(&path, 1452, 31)
    }

    #[test]
    fn fast_paths_are_acknowledged_rarely() {
        assert_eq!([of(1e3, 120, 0.0), of(1e4, 120, 0.0), of(4e4, 120, 0.0)], [40, 127, 254]);
        assert_eq!(of(1e6, 120, 0.0), 511);
        assert_eq!(of(100.0, 120, 0.0), 31, "as where nothing is known");
    }

    #[test]
    fn short_paths_are_acknowledged_eight_times_a_round_trip() {
        assert_eq!(of(1e3, 1, 0.0), 10);
        assert_eq!(of(100.0, 10, 0.0), 10);
        assert_eq!(of(1.0, 1, 0.0), 1);
    }

    #[test]
    fn lossy_paths_do_not_outgrow_a_frame() {
        assert_eq!(of(1e4, 120, 0.1), 127);
        assert_eq!(of(1e4, 120, 0.15), 106);
        assert_eq!(of(4e4, 120, 0.15), 106);
    }

    proptest! {
        #[test]
        fn whatever_is_known(bandwidth in any::<f64>(), nanos in any::<u64>(), random_loss in any::<f64>()) {
            let path = Remembered { bandwidth, min_rtt: Duration::from_nanos(nanos), random_loss };
            prop_assert!((1..=511).contains(&threshold(&path, 1452, 31)));
        }
    }
}
