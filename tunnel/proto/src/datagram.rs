//! HTTP datagrams in QUIC DATAGRAM frames (RFC 9297, section 2.1), and what is in them (RFC 9298, section 5).
//!
//! ```text
//!  quarter stream id (varint) | context id (varint), 0 for UDP | payload
//! ```

use bytes::{Buf, Bytes};
use metra_core::wire::varint;

use crate::{Prefix, UDP_PAYLOAD_MAX};

/// The connection error for a frame that is no HTTP datagram (RFC 9297, section 2.1).
pub const H3_DATAGRAM_ERROR: u64 = 0x33;
/// The largest quarter stream id (RFC 9297, section 2.1).
pub const QUARTER_MAX: u64 = (1 << 60) - 1;
/// The context whose datagrams carry UDP payloads (RFC 9298, section 4).
pub const CONTEXT_UDP: u64 = 0;

/// A DATAGRAM frame that is no HTTP datagram. The peer's fault; the connection is closed with [`H3_DATAGRAM_ERROR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The quarter stream id is cut off.
    #[error("a QUIC DATAGRAM frame without a quarter stream id")]
    NoStream,
    /// The quarter stream id is above [`QUARTER_MAX`]: there can be no such stream.
    #[error("a QUIC DATAGRAM frame with a quarter stream id above 2^60 - 1: {0}")]
    StreamTooLarge(u64),
}

impl FrameError {
    /// The code to close the connection with.
    pub const fn h3_code(self) -> u64 {
        H3_DATAGRAM_ERROR
    }
}

/// An HTTP datagram that breaks the rules of UDP proxying. The peer's fault; the stream is aborted, the connection
/// goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The context id is cut off, or there is none.
    #[error("an HTTP datagram without a context id")]
    NoContext,
    /// More than UDP can carry (RFC 9298, section 5).
    #[error("a UDP payload of {0} bytes; UDP carries {UDP_PAYLOAD_MAX}")]
    TooLong(u64),
}

impl PayloadError {
    /// The code to abort the stream with.
    pub const fn h3_code(self) -> u64 {
        crate::H3_MESSAGE_ERROR
    }
}

/// Splits the content of a DATAGRAM frame into the id of the stream that it belongs to, and the HTTP datagram's
/// payload. Whether there is such a stream is for the caller to know: a datagram of one that is closed, or not opened
/// yet, is dropped or kept for a round trip (RFC 9297, section 2.1).
///
/// # Errors
/// No HTTP datagram; the connection is to be closed.
pub fn split(mut frame: Bytes) -> Result<(u64, Bytes), FrameError> {
    let mut input = &frame[..];
    let quarter = varint::take(&mut input).ok_or(FrameError::NoStream)?;
    if quarter > QUARTER_MAX {
        return Err(FrameError::StreamTooLarge(quarter));
    }
    frame.advance(frame.len() - input.len());
    Ok((quarter * 4, frame))
}

/// The UDP payload of an HTTP datagram, which may be empty; `None` if its context is another one. No other context is
/// ever registered here, so its datagrams are dropped (RFC 9298, section 5).
///
/// # Errors
/// The datagram breaks the rules; the stream is to be aborted.
pub fn udp_payload(mut datagram: Bytes) -> Result<Option<Bytes>, PayloadError> {
    let mut input = &datagram[..];
    let context = varint::take(&mut input).ok_or(PayloadError::NoContext)?;
    if context != CONTEXT_UDP {
        return Ok(None);
    }
    if input.len() > UDP_PAYLOAD_MAX {
        return Err(PayloadError::TooLong(input.len() as u64));
    }
    datagram.advance(datagram.len() - input.len());
    Ok(Some(datagram))
}

/// What goes before a UDP payload in a DATAGRAM frame of the request on `stream`: it stays the same as long as the
/// stream lives. Its length is what a payload must be shorter than the longest frame content. `None` if `stream` is not
/// the id of a stream that a client opened in both directions, which are the only ones that carry requests.
pub fn prefix(stream: u64) -> Option<Prefix> {
    (stream.is_multiple_of(4) && stream <= varint::MAX)
        .then(|| Prefix::new().and(stream / 4).and(CONTEXT_UDP))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn put(numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        numbers.iter().for_each(|n| varint::put(*n, &mut out));
        out
    }

    #[test]
    fn rfc9297_2_1_both_sides_of_the_largest_quarter_stream_id() {
        let largest = put(&[QUARTER_MAX]);
        assert_eq!(split(largest.into()), Ok((varint::MAX - 3, Bytes::new())));
        let error = split(put(&[QUARTER_MAX + 1]).into()).unwrap_err();
        assert_eq!(error, FrameError::StreamTooLarge(QUARTER_MAX + 1));
        assert_eq!(error.h3_code(), 0x33);
    }

    #[test]
    fn rfc9297_2_1_a_frame_too_short_for_its_quarter_stream_id_is_a_connection_error() {
        for cut in [&[][..], &[0x40], &[0x80, 0, 0], &[0xc0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(split(Bytes::copy_from_slice(cut)), Err(FrameError::NoStream));
        }
    }

    #[test]
    fn rfc9298_4_other_contexts_are_dropped() {
        assert_eq!(udp_payload(put(&[2]).into()), Ok(None));
        assert_eq!(udp_payload(put(&[varint::MAX]).into()), Ok(None));
        // Their payload has no limit that is known here.
        let long = [put(&[1]), vec![0; UDP_PAYLOAD_MAX + 1]].concat();
        assert_eq!(udp_payload(long.into()), Ok(None));
    }

    #[test]
    fn rfc9298_5_an_empty_udp_payload_is_valid() {
        assert_eq!(udp_payload(Bytes::from_static(&[0])), Ok(Some(Bytes::new())));
        // RFC 9000, section 16: zero in two bytes is zero as well.
        assert_eq!(udp_payload(Bytes::from_static(&[0x40, 0])), Ok(Some(Bytes::new())));
    }

    #[test]
    fn rfc9298_5_both_sides_of_the_longest_udp_payload() {
        let of = |len: usize| Bytes::from(vec![0; 1 + len]);
        assert_eq!(udp_payload(of(UDP_PAYLOAD_MAX)).unwrap().unwrap().len(), UDP_PAYLOAD_MAX);
        assert_eq!(udp_payload(of(UDP_PAYLOAD_MAX + 1)), Err(PayloadError::TooLong(65_528)));
    }

    #[test]
    fn rfc9298_5_a_datagram_without_a_context_id_is_malformed() {
        assert_eq!(udp_payload(Bytes::new()), Err(PayloadError::NoContext));
        assert_eq!(udp_payload(Bytes::from_static(&[0x40])), Err(PayloadError::NoContext));
    }

    #[test]
    fn only_streams_that_a_client_opened_in_both_directions_have_datagrams() {
        assert_eq!(prefix(0).as_deref(), Some(&[0, 0][..]));
        assert_eq!(prefix(4 * 63).as_deref(), Some(&[63, 0][..]));
        assert_eq!(prefix(4 * 64).as_deref(), Some(&[0x40, 64, 0][..]));
        assert_eq!(prefix(varint::MAX - 3).unwrap().len(), Prefix::MAX);
        for stream in [1, 2, 3, varint::MAX, varint::MAX + 1, u64::MAX - 3] {
            assert_eq!(prefix(stream), None);
        }
    }

    proptest! {
        #[test]
        fn round_trip(quarter in 0..=QUARTER_MAX, payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let frame = [&prefix(quarter * 4).unwrap()[..], &payload].concat();
            let (stream, datagram) = split(frame.into()).unwrap();
            prop_assert_eq!(stream, quarter * 4);
            prop_assert_eq!(udp_payload(datagram).unwrap().unwrap(), payload);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((stream, datagram)) = split(bytes.into()) {
                prop_assert!(prefix(stream).is_some());
                let _ = udp_payload(datagram);
            }
        }
    }
}
