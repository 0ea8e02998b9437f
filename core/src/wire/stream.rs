//! The frames of a link on a byte stream (`docs/protocol.md`, section "Byte streams").
//!
//! ```text
//! type (number) | length (number) | payload
//! ```
//!
//! A byte stream has no streams within it. These frames make a control stream and chunks of it: pieces of the control
//! stream, and chunks one after the other, of each direction.

use super::varint;
use crate::code::Code;

/// Bytes of the control stream.
pub const CONTROL: u64 = 0x30;
/// Bytes of the chunk that is under way; the first of them begins a chunk.
pub const BODY: u64 = 0x31;
const END: u64 = 0x32;
const RESET: u64 = 0x33;
const STOP: u64 = 0x34;
const PING: u64 = 0x35;
const PONG: u64 = 0x36;
const FINISH: u64 = 0x37;
const CLOSE: u64 = 0x38;
const IDENTITY: u64 = 0x39;

/// Longest payload. Bytes.
pub const PAYLOAD_MAX: usize = crate::limits::FRAME_MAX;
/// Longest payload of what is neither control nor body. Bytes.
pub const SMALL_MAX: usize = 2048;
/// Longest reason of a close. Bytes.
pub const REASON_MAX: usize = 1024;
/// Longest type and length. Bytes.
pub const HEAD_MAX: usize = 16;

/// A frame that is neither bytes of the control stream nor of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFrame {
    /// The chunk that is under way is complete.
    End,
    /// The chunk that is under way is given up, and why.
    Reset(Code),
    /// The receiver does not want the chunk with this number, and why: the first of a direction is 0.
    Stop(u64, Code),
    /// To be answered, with this number.
    Ping(u64),
    /// The answer to a ping, and how many bytes of the link have been read up to it.
    Pong(u64, u64),
    /// The control stream has ended.
    Finish,
    /// The link ends: why, and for people.
    Close(Code, String),
    /// By which key the gateway is known: the SHA-256 of the public key in the certificate that it shows.
    Identity([u8; 32]),
}

/// What is wrong with the bytes of a peer. Fault: the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The length of a frame of this type is more than may be.
    #[error("a frame of type {0:#x} is too long")]
    TooLong(u64),
    /// A payload of this type ends within a field, or goes on after the last one.
    #[error("a frame of type {0:#x} does not have its layout")]
    Layout(u64),
}

/// The type and length at the front of `input`, which moves on; `None` if more bytes are needed.
///
/// # Errors
/// The length is more than a frame of that type may have.
pub fn head(input: &mut &[u8]) -> Result<Option<(u64, usize)>, StreamError> {
    let mut rest = *input;
    let (Some(kind), Some(len)) = (varint::take(&mut rest), varint::take(&mut rest)) else { return Ok(None) };
    let max = if (END..=IDENTITY).contains(&kind) { SMALL_MAX } else { PAYLOAD_MAX };
    if len > max as u64 {
        return Err(StreamError::TooLong(kind));
    }
    *input = rest;
    Ok(Some((kind, len as usize)))
}

/// Whether a frame of this type has a meaning here, and is to be read whole.
pub fn is_small(kind: u64) -> bool {
    (END..=IDENTITY).contains(&kind)
}

/// Appends the head of a frame.
pub fn put_head(kind: u64, len: usize, out: &mut Vec<u8>) {
    varint::put(kind, out);
    varint::put(len as u64, out);
}

impl StreamFrame {
    /// Reads a payload of a type that [`is_small`].
    ///
    /// # Errors
    /// It does not have the type's layout.
    pub fn decode(kind: u64, mut payload: &[u8]) -> Result<Self, StreamError> {
        let wrong = StreamError::Layout(kind);
        let input = &mut payload;
        let mut number = || varint::take(input).ok_or(wrong);
        let frame = match kind {
            END => StreamFrame::End,
            RESET => StreamFrame::Reset(Code::from_number(number()?)),
            STOP => StreamFrame::Stop(number()?, Code::from_number(number()?)),
            PING => StreamFrame::Ping(number()?),
            PONG => StreamFrame::Pong(number()?, number()?),
            FINISH => StreamFrame::Finish,
            CLOSE => {
                let code = Code::from_number(number()?);
                let len = number()?;
                let (reason, rest) = usize::try_from(len)
                    .ok()
                    .filter(|len| *len <= REASON_MAX)
                    .and_then(|len| payload.split_at_checked(len))
                    .ok_or(wrong)?;
                payload = rest;
                StreamFrame::Close(code, std::str::from_utf8(reason).map_err(|_| wrong)?.to_owned())
            }
            IDENTITY => {
                let (key, rest) = payload.split_first_chunk().ok_or(wrong)?;
                payload = rest;
                StreamFrame::Identity(*key)
            }
            _ => return Err(wrong),
        };
        if payload.is_empty() { Ok(frame) } else { Err(wrong) }
    }

    /// Appends the whole frame. A reason is cut at [`REASON_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let kind = match self {
            StreamFrame::End => END,
            StreamFrame::Reset(code) => {
                varint::put(code.number(), &mut payload);
                RESET
            }
            StreamFrame::Stop(chunk, code) => {
                varint::put(*chunk, &mut payload);
                varint::put(code.number(), &mut payload);
                STOP
            }
            StreamFrame::Ping(number) => {
                varint::put(*number, &mut payload);
                PING
            }
            StreamFrame::Pong(number, read) => {
                varint::put(*number, &mut payload);
                varint::put(*read, &mut payload);
                PONG
            }
            StreamFrame::Finish => FINISH,
            StreamFrame::Close(code, reason) => {
                let reason = cut(reason);
                varint::put(code.number(), &mut payload);
                varint::put(reason.len() as u64, &mut payload);
                payload.extend_from_slice(reason.as_bytes());
                CLOSE
            }
            StreamFrame::Identity(key) => {
                payload.extend_from_slice(key);
                IDENTITY
            }
        };
        put_head(kind, payload.len(), out);
        out.extend_from_slice(&payload);
    }
}

/// The front of a reason that goes out.
fn cut(reason: &str) -> &str {
    let end = (0..=REASON_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<StreamFrame> {
        vec![
            StreamFrame::End,
            StreamFrame::Reset(Code::Cancelled),
            StreamFrame::Stop(70_000, Code::Protocol),
            StreamFrame::Ping(0),
            StreamFrame::Pong(5, varint::MAX),
            StreamFrame::Finish,
            StreamFrame::Close(Code::Draining, "gone \u{e4}".to_owned()),
            StreamFrame::Identity([0xa5; 32]),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for frame in all() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            for cut in 0..2 {
                assert_eq!(head(&mut &bytes[..cut]), Ok(None));
            }
            let mut input = bytes.as_slice();
            let (kind, len) = head(&mut input).unwrap().unwrap();
            assert!(is_small(kind) && len == input.len());
            assert_eq!(StreamFrame::decode(kind, input), Ok(frame));
        }
    }

    #[test]
    fn a_payload_is_neither_short_nor_long() {
        for frame in all() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let mut input = bytes.as_slice();
            let (kind, _) = head(&mut input).unwrap().unwrap();
            for cut in 0..input.len() {
                assert_eq!(
                    StreamFrame::decode(kind, &input[..cut]),
                    Err(StreamError::Layout(kind)),
                    "{frame:?}"
                );
            }
            let longer = [input, &[0]].concat();
            assert_eq!(StreamFrame::decode(kind, &longer), Err(StreamError::Layout(kind)), "{frame:?}");
        }
    }

    #[test]
    fn both_sides_of_the_limits() {
        for (kind, max) in
            [(CONTROL, PAYLOAD_MAX), (BODY, PAYLOAD_MAX), (0x21, PAYLOAD_MAX), (CLOSE, SMALL_MAX)]
        {
            let at = |len| {
                let mut out = Vec::new();
                put_head(kind, len, &mut out);
                head(&mut out.as_slice())
            };
            assert_eq!(at(max), Ok(Some((kind, max))));
            assert_eq!(at(max + 1), Err(StreamError::TooLong(kind)));
        }
        let mut bytes = Vec::new();
        StreamFrame::Close(Code::Ok, "\u{e4}".repeat(REASON_MAX)).encode(&mut bytes);
        assert!(bytes.len() <= SMALL_MAX);
        let mut input = bytes.as_slice();
        let (kind, _) = head(&mut input).unwrap().unwrap();
        assert_eq!(
            StreamFrame::decode(kind, input),
            Ok(StreamFrame::Close(Code::Ok, "\u{e4}".repeat(REASON_MAX / 2)))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0x2fu64..0x3b) {
            let _ = head(&mut bytes.as_slice());
            let _ = StreamFrame::decode(kind, &bytes);
        }
    }
}
