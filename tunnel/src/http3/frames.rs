//! Looks at the frames of a stream before h3 does.
//!
//! h3 takes frames of any length into memory before it looks at them, takes a FIN within a DATA frame for the end of the
//! body, and any value of a setting for 1. This follows the bytes that go past, holds none but those of a number or of
//! SETTINGS, and says when they break a bound or a rule.

use metra_core::wire::varint;

use super::error::{EXCESSIVE_LOAD, FRAME_ERROR, FRAME_UNEXPECTED, SETTINGS_ERROR};

/// Follows one stream.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    /// Of the number that is being read.
    number: Vec<u8>,
    /// Longest frame but DATA. Bytes.
    longest: u64,
    /// Whether it is the control stream.
    is_control: bool,
    /// Whether nothing but DATA may come, of the frames of requests.
    is_tunnel: bool,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum At {
    /// The type of a unidirectional stream.
    StreamType,
    Type,
    Length {
        kind: u64,
    },
    Payload {
        left: u64,
    },
    Settings {
        left: u64,
        payload: Vec<u8>,
    },
    /// A stream that has no frames.
    Unframed,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a frame is longer than what is taken into memory")]
    TooLong,
    #[error("the stream ended within a frame")]
    Truncated,
    #[error("a setting has a value that it cannot have")]
    Setting,
    #[error("fields in a tunnel")]
    InTunnel,
}

impl Violation {
    /// The error code of RFC 9114 section 8.1.
    pub(super) fn code(self) -> u64 {
        match self {
            Violation::TooLong => EXCESSIVE_LOAD,
            Violation::Truncated => FRAME_ERROR,
            Violation::Setting => SETTINGS_ERROR,
            Violation::InTunnel => FRAME_UNEXPECTED,
        }
    }

    /// Whether it ends the connection, also where it is found in a request. RFC 9114 section 7.1: "MUST be treated as a connection
    /// error of type H3_FRAME_ERROR"; section 4.4: "of type H3_FRAME_UNEXPECTED".
    pub(super) fn is_of_connection(self) -> bool {
        matches!(self, Violation::Truncated | Violation::InTunnel)
    }
}

impl Frames {
    /// Of a request stream.
    pub(super) fn of_request(longest: u64) -> Self {
        Self { at: At::Type, number: Vec::new(), longest, is_control: false, is_tunnel: false }
    }

    /// Of a unidirectional stream.
    pub(super) fn of_unidirectional() -> Self {
        Self {
            at: At::StreamType,
            number: Vec::new(),
            longest: CONTROL_FRAME,
            is_control: false,
            is_tunnel: false,
        }
    }

    /// The request is a tunnel from here on.
    pub(super) fn tunnel(&mut self) {
        self.is_tunnel = true;
    }

    /// Takes note of `bytes`, which come next.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Unframed => return Ok(()),
                At::Payload { left } => {
                    let now = (*left).min(bytes.len() as u64);
                    *left -= now;
                    bytes = &bytes[now as usize..];
                    if *left == 0 {
                        self.at = At::Type;
                    }
                }
                At::Settings { left, payload } => {
                    let now = (*left).min(bytes.len() as u64);
                    *left -= now;
                    payload.extend_from_slice(&bytes[..now as usize]);
                    bytes = &bytes[now as usize..];
                    if *left == 0 {
                        settings(payload)?;
                        self.at = At::Type;
                    }
                }
                At::StreamType | At::Type | At::Length { .. } => {
                    self.number.push(bytes[0]);
                    bytes = &bytes[1..];
                    if let Some(value) = varint::take(&mut self.number.as_slice()) {
                        self.number.clear();
                        self.read(value)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here (RFC 9114 section 7.1).
    pub(super) fn end(&self) -> Result<(), Violation> {
        match self.at {
            At::StreamType | At::Unframed => Ok(()),
            At::Type if self.number.is_empty() => Ok(()),
            _ => Err(Violation::Truncated),
        }
    }

    fn read(&mut self, value: u64) -> Result<(), Violation> {
        self.at = match self.at {
            At::StreamType if value == CONTROL_STREAM => {
                self.is_control = true;
                At::Type
            }
            At::StreamType => At::Unframed,
            At::Type => At::Length { kind: value },
            At::Length { kind } => {
                if kind == HEADERS && self.is_tunnel {
                    return Err(Violation::InTunnel);
                }
                if kind != DATA && value > self.longest {
                    return Err(Violation::TooLong);
                }
                match value {
                    0 => At::Type,
                    left if kind == SETTINGS && self.is_control => At::Settings { left, payload: Vec::new() },
                    left => At::Payload { left },
                }
            }
            // Their bytes are no numbers.
            At::Payload { .. } | At::Settings { .. } | At::Unframed => return Ok(()),
        };
        Ok(())
    }
}

/// RFC 9297 section 2.1.1, RFC 8441 section 3 (RFC 9220 section 3): 0 or 1.
fn settings(mut payload: &[u8]) -> Result<(), Violation> {
    while let (Some(id), Some(value)) = (varint::take(&mut payload), varint::take(&mut payload)) {
        if matches!(id, ENABLE_CONNECT_PROTOCOL | H3_DATAGRAM) && value > 1 {
            return Err(Violation::Setting);
        }
    }
    Ok(())
}

/// Longest frame on the control stream: settings, and numbers. Bytes.
const CONTROL_FRAME: u64 = 16 << 10;

const CONTROL_STREAM: u64 = 0x00;
pub(super) const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const SETTINGS: u64 = 0x04;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
const H3_DATAGRAM: u64 = 0x33;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(kind, &mut out);
        varint::put(payload.len() as u64, &mut out);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_frame_may_be_this_long_and_no_longer_but_for_data() {
        for (kind, length, ok) in [(1, 100, true), (1, 101, false), (0x21, 101, false), (DATA, 1000, true)] {
            let mut frames = Frames::of_request(100);
            assert_eq!(frames.pass(&frame(kind, &vec![0; length])).is_ok(), ok, "{kind} {length}");
        }
    }

    #[test]
    fn rfc9114_7_1_a_stream_ends_between_frames_only() {
        let bytes = [frame(1, b"head"), frame(DATA, b"body"), frame(DATA, b"")].concat();
        let ends = [0, 6, 12, 14];
        for end in 0..=bytes.len() {
            let mut frames = Frames::of_request(100);
            assert_eq!(frames.pass(&bytes[..end]), Ok(()));
            assert_eq!(frames.end().is_ok(), ends.contains(&end), "{end}");
        }
    }

    #[test]
    fn rfc9297_2_1_1_a_setting_is_0_or_1() {
        for (id, value, ok) in [
            (H3_DATAGRAM, 1, true),
            (H3_DATAGRAM, 2, false),
            (ENABLE_CONNECT_PROTOCOL, 2, false),
            (6, 9, true),
        ] {
            let mut payload = Vec::new();
            for number in [1, 0, id, value] {
                varint::put(number, &mut payload);
            }
            let control = [vec![0], frame(SETTINGS, &payload)].concat();
            let mut frames = Frames::of_unidirectional();
            assert_eq!(frames.pass(&control), if ok { Ok(()) } else { Err(Violation::Setting) }, "{id:#x}");
        }
        let mut frames = Frames::of_unidirectional();
        assert_eq!(frames.pass(&[2, 0xff, 0xff]), Ok(()), "QPACK is not made of frames");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes: Vec<u8>, cut in 0usize..64) {
            let (mut whole, mut pieces) = (Frames::of_request(50), Frames::of_request(50));
            let cut = cut.min(bytes.len());
            let in_two = pieces.pass(&bytes[..cut]).and_then(|()| pieces.pass(&bytes[cut..]));
            prop_assert_eq!(whole.pass(&bytes), in_two);
            if in_two.is_ok() {
                prop_assert_eq!(whole.end(), pieces.end());
            }
        }
    }
}
