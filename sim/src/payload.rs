//! How much of what is on the wire is content.
//!
//! Where a link is kept full nearly all packets are full ones of a chunk, so their share is that of everything. It is exact
//! to 0.3 %, which `tests/truth.rs` holds against whole transfers.

use crate::net::HEADERS;

/// Bytes of a full QUIC packet of a chunk that are no content. 1 is for flags, 8 for the connection id, 1 to 3 for the packet
/// number, 16 for the tag (RFC 9000 section 17.3.1, RFC 9001 section 5.3); of the STREAM frame 1 for the type, 1 to 4 for the
/// stream id, 4 for the offset (RFC 9000 section 19.8). Slow and short are 32, fast and long 37.
const QUIC: f64 = 35.0;

/// Content in UDP payload that comes in datagrams of `mtu` bytes: `(mtu - 35) / mtu`; at 1452 bytes 0.976.
pub fn share(mtu: u16) -> f64 {
    let mtu = f64::from(mtu.max(1));
    ((mtu - QUIC) / mtu).max(0.0)
}

/// The payload rate of a link: the content that it can carry at most, `rate * (mtu - 35) / (mtu + 28)`, as IPv4 and UDP take
/// 28 bytes more; at 1452 bytes 0.957 of the rate. `mtu` is the largest datagram that QUIC has discovered, in bytes of UDP
/// payload. In the unit of `rate`.
pub fn rate(rate: f64, mtu: u16) -> f64 {
    let mtu = f64::from(mtu.max(1));
    rate * share(mtu as u16) * mtu / (mtu + HEADERS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_content_is_what_the_formula_says() {
        assert!((share(1452) - 1417.0 / 1452.0).abs() < 1e-12);
        assert!((rate(100.0, 1452) - 100.0 * 1417.0 / 1480.0).abs() < 1e-9);
        assert_eq!((share(0), rate(1.0, 20)), (0.0, 0.0), "before anything is known");
    }
}
