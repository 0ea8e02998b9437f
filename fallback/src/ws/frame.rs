//! Frames of RFC 6455 section 5, without input and output.
//!
//! Payload is not collected: what has arrived of a frame is handed on. So no length that a peer claims
//! reserves memory.

use super::error::WsError;

/// Which end this is: a client masks what it sends, a server does not (RFC 6455 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Asked for the WebSocket.
    Client,
    /// Granted it.
    Server,
}

/// Takes frames apart. After an error it is not to be used again.
#[derive(Debug)]
pub(super) struct Decoder {
    role: Role,
    /// Longest message, over all its fragments. Bytes.
    limit: u64,
    /// The binary message that has begun and not ended: payload announced so far. Bytes.
    message: Option<u64>,
    /// Of the present data frame.
    frame: Option<Data>,
}

#[derive(Debug)]
struct Data {
    /// Bytes of payload still to come.
    left: u64,
    /// Rotated, so that its first byte is for the next byte of payload.
    key: [u8; 4],
    /// Whether the message ends with this frame.
    last: bool,
}

/// What [`Decoder::step`] found at the start of what it was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Too little to tell; more than [`CONTROL_FRAME_MAX`] bytes are always enough.
    More,
    /// So many bytes are dealt with; call again with those after them.
    Skip(usize),
    /// So many bytes are payload now, unmasked in place; at least one. Call again with those after them.
    Payload(usize),
    /// A ping of so many bytes altogether, and what the pong must repeat.
    Ping(usize, Vec<u8>),
    /// A close frame: its code, if it has one, and reason. Nothing after it counts (RFC 6455 section 1.4).
    Close(Option<u16>, String),
}

/// Longest control frame with its header (RFC 6455 section 5.5). Bytes.
pub(super) const CONTROL_FRAME_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_MAX;

impl Decoder {
    pub(super) fn new(role: Role, limit: u64) -> Self {
        Self { role, limit, message: None, frame: None }
    }

    /// Looks at `bytes`, which arrived after what was dealt with before.
    pub(super) fn step(&mut self, bytes: &mut [u8]) -> Result<Step, WsError> {
        if let Some(data) = &mut self.frame {
            if data.left == 0 {
                if data.last {
                    self.message = None;
                }
                self.frame = None;
                return Ok(Step::Skip(0));
            }
            let n = usize::try_from(data.left).unwrap_or(usize::MAX).min(bytes.len());
            if n == 0 {
                return Ok(Step::More);
            }
            mask(&mut bytes[..n], data.key);
            data.key.rotate_left(n % 4);
            data.left -= n as u64;
            return Ok(Step::Payload(n));
        }
        let Some(header) = Header::parse(bytes)? else { return Ok(Step::More) };
        // RFC 6455 section 5.1: a client masks, a server does not, and either ends the connection otherwise.
        let key = match (self.role, header.key) {
            (Role::Server, Some(key)) => key,
            (Role::Client, None) => [0; 4],
            (Role::Server, None) => return Err(WsError::Protocol("a client's frame is not masked")),
            (Role::Client, Some(_)) => return Err(WsError::Protocol("a server's frame is masked")),
        };
        if header.opcode & 0x8 == 0 { self.data(&header, key) } else { control(&header, key, bytes) }
    }

    /// RFC 6455 section 5.4.
    fn data(&mut self, header: &Header, key: [u8; 4]) -> Result<Step, WsError> {
        let before = match (header.opcode, self.message) {
            (CONTINUATION, Some(before)) => before,
            (CONTINUATION, None) => return Err(WsError::Protocol("a continuation of no message")),
            (BINARY | TEXT, Some(_)) => return Err(WsError::Protocol("a message within another")),
            (BINARY, None) => 0,
            (TEXT, None) => return Err(WsError::Text),
            _ => return Err(WsError::Protocol("an unknown opcode")),
        };
        let total = before.saturating_add(header.len);
        if total > self.limit {
            return Err(WsError::TooLong { limit: self.limit });
        }
        self.message = Some(total);
        self.frame = Some(Data { left: header.len, key, last: header.last });
        Ok(Step::Skip(header.size))
    }
}

/// RFC 6455 section 5.5.
fn control(header: &Header, key: [u8; 4], bytes: &[u8]) -> Result<Step, WsError> {
    if !header.last {
        return Err(WsError::Protocol("a control frame in fragments"));
    }
    let size = match usize::try_from(header.len) {
        Ok(len) if len <= CONTROL_PAYLOAD_MAX => header.size + len,
        _ => return Err(WsError::Protocol("a control frame of more than 125 bytes")),
    };
    if !matches!(header.opcode, CLOSE | PING | PONG) {
        return Err(WsError::Protocol("an unknown opcode"));
    }
    if bytes.len() < size {
        return Ok(Step::More);
    }
    let mut payload = bytes[header.size..size].to_vec();
    mask(&mut payload, key);
    match header.opcode {
        CLOSE => close(&payload),
        PING => Ok(Step::Ping(size, payload)),
        _ => Ok(Step::Skip(size)),
    }
}

/// RFC 6455 sections 5.5.1 and 7.4.
fn close(payload: &[u8]) -> Result<Step, WsError> {
    let (code, reason) = match payload {
        [] => return Ok(Step::Close(None, String::new())),
        [_] => return Err(WsError::Protocol("a close frame of one byte")),
        [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::Protocol("a close code that must not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok(Step::Close(Some(code), reason.to_owned())),
        Err(_) => Err(WsError::Protocol("a close reason that is not UTF-8")),
    }
}

/// Appends one whole frame, masked if there is a key. Its payload is the first `len` bytes of `parts`, which
/// must be there.
pub(super) fn put<'a>(
    out: &mut Vec<u8>,
    opcode: u8,
    key: Option<[u8; 4]>,
    len: usize,
    parts: impl Iterator<Item = &'a [u8]>,
) {
    out.reserve(HEADER_MAX + len);
    out.push(0x80 | opcode);
    let masked = if key.is_some() { 0x80 } else { 0 };
    match (u16::try_from(len), len) {
        (_, 0..=125) => out.push(masked | len as u8),
        (Ok(len), _) => {
            out.push(masked | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        (Err(_), _) => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(key.as_ref().map_or(&[], |key| &key[..]));
    let start = out.len();
    let mut left = len;
    for part in parts {
        let n = part.len().min(left);
        out.extend_from_slice(&part[..n]);
        left -= n;
    }
    debug_assert_eq!(left, 0, "the parts hold the payload");
    if let Some(key) = key {
        mask(&mut out[start..], key);
    }
}

/// The payload of a close frame; `reason` is ours and short.
pub(super) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.bytes().filter(u8::is_ascii).take(CONTROL_PAYLOAD_MAX - 2));
    payload
}

/// RFC 6455 section 5.3. Doing it twice undoes it.
fn mask(data: &mut [u8], key: [u8; 4]) {
    if key == [0; 4] {
        return;
    }
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, tail) = data.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

struct Header {
    last: bool,
    opcode: u8,
    len: u64,
    key: Option<[u8; 4]>,
    /// Of the header itself. Bytes.
    size: usize,
}

impl Header {
    /// RFC 6455 section 5.2. `None` if `bytes` does not hold all of it.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, WsError> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WsError::Protocol("reserved bits without an extension"));
        }
        let (len, extended) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(len) => (u64::from(u16::from_be_bytes(*len)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(len) => (u64::from_be_bytes(*len), 8),
                None => return Ok(None),
            },
            len => (u64::from(len), 0),
        };
        if (extended == 2 && len < 126) || (extended == 8 && len <= 0xffff) {
            return Err(WsError::Protocol("a length in more bytes than it needs"));
        }
        if len >> 63 != 0 {
            return Err(WsError::Protocol("a length of more than 63 bits"));
        }
        let key = if second & 0x80 == 0 {
            None
        } else {
            match rest.get(extended..).and_then(|rest| rest.first_chunk()) {
                Some(key) => Some(*key),
                None => return Ok(None),
            }
        };
        let size = 2 + extended + if key.is_some() { 4 } else { 0 };
        Ok(Some(Self { last: first & 0x80 != 0, opcode: first & 0x0f, len, key, size }))
    }
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

/// RFC 6455 section 5.5. Bytes.
const CONTROL_PAYLOAD_MAX: usize = 125;

/// Of a masked frame with an 8-byte length.
const HEADER_MAX: usize = 14;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 1000;

    /// All that `bytes` hold, given in pieces of the lengths in `pieces`.
    fn decode(role: Role, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<Step>), WsError> {
        let mut decoder = Decoder::new(role, LIMIT);
        let (mut held, mut payload, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            held.extend_from_slice(piece);
            loop {
                let step = decoder.step(&mut held)?;
                match step {
                    Step::More => break,
                    Step::Skip(n) => drop(held.drain(..n)),
                    Step::Payload(n) => payload.extend(held.drain(..n)),
                    Step::Ping(n, _) => {
                        held.drain(..n);
                        others.push(step);
                    }
                    Step::Close(..) => {
                        others.push(step);
                        return Ok((payload, others));
                    }
                }
            }
        }
        Ok((payload, others))
    }

    fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, BINARY, key, payload.len(), std::iter::once(payload));
        out[0] = first;
        out
    }

    #[test]
    fn the_examples_of_rfc_6455_section_5_7() {
        // Masked, of the client; as binary instead of text.
        let masked = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(0x82, Some([0x37, 0xfa, 0x21, 0x3d]), b"Hello"), masked);
        assert_eq!(decode(Role::Server, &masked, 1).unwrap(), (b"Hello".to_vec(), vec![]));
        // In fragments, of the server, with a ping between.
        let fragments = b"\x02\x03Hel\x89\x05Hello\x80\x02lo";
        let (payload, others) = decode(Role::Client, fragments, 3).unwrap();
        assert_eq!(payload, b"Hello");
        assert_eq!(others, [Step::Ping(7, b"Hello".to_vec())]);
    }

    #[test]
    fn what_rfc_6455_forbids_is_an_error() {
        let key = Some([1, 2, 3, 4]);
        let mut wrong: Vec<(Role, Vec<u8>)> = vec![
            (Role::Server, frame(0x82, None, b"x")),
            (Role::Client, frame(0x82, key, b"x")),
            (Role::Client, frame(0x80, None, b"x")),
            (Role::Client, [frame(0x02, None, b"x"), frame(0x82, None, b"y")].concat()),
            (Role::Client, [frame(0x02, None, b"x"), frame(0x81, None, b"y")].concat()),
            (Role::Client, frame(0x81, None, b"text")),
            (Role::Client, frame(0x09, None, b"ping")),
            (Role::Client, frame(0x89, None, &[0; 126])),
            (Role::Client, frame(0x88, None, b"x")),
            (Role::Client, frame(0x88, None, &1005u16.to_be_bytes())),
            (Role::Client, frame(0x88, None, &999u16.to_be_bytes())),
            (Role::Client, frame(0x88, None, &5000u16.to_be_bytes())),
            (Role::Client, frame(0x88, None, b"\x03\xe8\xff")),
            (Role::Client, b"\x82\x7e\x00\x05Hello".to_vec()),
            (Role::Client, b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05Hello".to_vec()),
            (Role::Client, b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ];
        wrong
            .extend([0x83, 0x87, 0x8b, 0x8f, 0xc2, 0xa2, 0x92].map(|b| (Role::Client, frame(b, None, b"x"))));
        for (role, bytes) in wrong {
            assert!(decode(role, &bytes, 1).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_message_at_the_limit_and_one_above_also_in_fragments() {
        let whole = |len| decode(Role::Client, &frame(0x82, None, &vec![7; len]), 400);
        assert_eq!(whole(1000).unwrap().0.len(), 1000);
        assert_eq!(whole(1001), Err(WsError::TooLong { limit: 1000 }));
        let two = |len| [frame(0x02, None, &[7; 600]), frame(0x80, None, &vec![7; len])].concat();
        assert_eq!(decode(Role::Client, &two(400), 400).unwrap().0.len(), 1000);
        assert_eq!(decode(Role::Client, &two(401), 400), Err(WsError::TooLong { limit: 1000 }));
    }

    #[test]
    fn close_frames_with_and_without_code() {
        assert_eq!(decode(Role::Client, b"\x88\x00rest", 1).unwrap().1, [Step::Close(None, String::new())]);
        let close = frame(0x88, None, &close_payload(1001, "bye"));
        assert_eq!(decode(Role::Client, &close, 1).unwrap().1, [Step::Close(Some(1001), "bye".to_owned())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50, server: bool,
        ) {
            let role = if server { Role::Server } else { Role::Client };
            let once = decode(role, &bytes, bytes.len().max(1));
            let pieces = decode(role, &bytes, piece);
            // However they arrive, it is the same; an error may be seen earlier than the payload before it.
            prop_assert_eq!(once, pieces);
        }

        #[test]
        fn what_is_put_comes_out(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..5),
            key: [u8; 4], server: bool, piece in 1usize..2000,
        ) {
            let (role, key) = if server { (Role::Server, Some(key)) } else { (Role::Client, None) };
            let wire: Vec<u8> = messages.iter().flat_map(|m| frame(0x82, key, m)).collect();
            let (payload, others) = decode(role, &wire, piece).unwrap();
            prop_assert_eq!(payload, messages.concat());
            prop_assert!(others.is_empty());
        }
    }
}
