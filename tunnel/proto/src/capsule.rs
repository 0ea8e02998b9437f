//! Capsules on the stream of a request (RFC 9297, section 3), as far as UDP proxying needs them.
//!
//! Only DATAGRAM capsules of context 0 carry anything; whatever else comes is passed over as it arrives, however long
//! it says it is. So a stream holds back at most one UDP payload and what was pushed last.
//!
//! ```text
//!  Head --(DATAGRAM, context 0)--> Payload --(all of it)--> Head
//!    \--(anything else)----------> Skip ----(all of it)--> Head
//! ```

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use metra_core::wire::varint;

use crate::datagram::CONTEXT_UDP;
use crate::{Prefix, UDP_PAYLOAD_MAX};

/// The type of a capsule that carries an HTTP datagram (RFC 9297, section 3.5).
pub const DATAGRAM: u64 = 0x00;

/// What a stream of capsules fails with: always the peer's fault. The stream is aborted as a malformed message
/// ([`h3_code`](CapsuleError::h3_code), [`h2_code`](CapsuleError::h2_code)), and the tunnel is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// The stream ended inside a capsule (RFC 9297, section 3.3).
    #[error("the stream ended inside a capsule")]
    Cut,
    /// A DATAGRAM capsule too short for its context id (RFC 9297, section 3.3; RFC 9298, section 5).
    #[error("a DATAGRAM capsule without a context id")]
    NoContext,
    /// More than UDP can carry (RFC 9298, section 5).
    #[error("a DATAGRAM capsule with a UDP payload of {0} bytes; UDP carries {UDP_PAYLOAD_MAX}")]
    TooLong(u64),
}

impl CapsuleError {
    /// The code to abort the stream with, over HTTP/3.
    pub const fn h3_code(self) -> u64 {
        crate::H3_MESSAGE_ERROR
    }

    /// The code to abort the stream with, over HTTP/2.
    pub const fn h2_code(self) -> u32 {
        crate::H2_PROTOCOL_ERROR
    }
}

/// What came on a stream and was passed over. Numbers of capsules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Capsules of types that are not known here, grease among them (RFC 9297, sections 3.2 and 5.4).
    pub capsules: u64,
    /// DATAGRAM capsules of contexts that are not known here (RFC 9298, section 5).
    pub contexts: u64,
    /// DATAGRAM capsules with UDP payloads longer than [`CapsuleDecoder::with_longest`] says.
    pub long: u64,
}

/// Takes the UDP payloads out of a stream of capsules. Holds at most one incomplete payload, if
/// [`next`](CapsuleDecoder::next) is called until it gives `None` after each [`push`](CapsuleDecoder::push).
#[derive(Debug)]
pub struct CapsuleDecoder {
    /// What was pushed and is not done with; no piece is empty.
    input: VecDeque<Bytes>,
    state: State,
    longest: u64,
    skipped: Skipped,
    failed: Option<CapsuleError>,
}

#[derive(Debug)]
enum State {
    /// The beginning of a capsule as far as it came, if it did not come in one piece.
    Head { bytes: [u8; HEAD_MAX], len: usize },
    /// A UDP payload of which `left` bytes (one at least) are missing.
    Payload { gathered: BytesMut, left: usize },
    /// `left` bytes of a capsule to pass over.
    Skip { left: u64 },
}

/// The longest beginning of a capsule that must be seen whole: type, length and context id, 8 bytes each.
const HEAD_MAX: usize = 24;
/// Room that a payload in several pieces gets at first; it grows with what arrives, not with what is announced. Bytes.
const GATHER: usize = 2048;

impl CapsuleDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::with_longest(UDP_PAYLOAD_MAX)
    }

    /// The same, for a receiver that knows that it cannot send UDP payloads longer than `longest` bytes: they are passed
    /// over and not gathered first (RFC 9298, section 5). Those longer than [`UDP_PAYLOAD_MAX`] are an error still.
    pub fn with_longest(longest: usize) -> Self {
        Self {
            input: VecDeque::new(),
            state: State::default(),
            longest: longest as u64,
            skipped: Skipped::default(),
            failed: None,
        }
    }

    /// Takes in the next piece of the stream. Does nothing once the stream has failed.
    pub fn push(&mut self, piece: Bytes) {
        if self.failed.is_none() && !piece.is_empty() {
            self.input.push_back(piece);
        }
    }

    /// The next UDP payload that is complete, which may be empty; `None` if more bytes are needed. It shares the
    /// memory of the piece that it came in, or is copied once if it came in several.
    ///
    /// # Errors
    /// The peer broke the format. There is no way on: the same error comes again.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator that ends could not go on after the next push"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, CapsuleError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.advance().inspect_err(|error| self.fail(*error)),
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`CapsuleError::Cut`] if a capsule is incomplete, or the error that the stream failed with before.
    pub fn finish(&mut self) -> Result<(), CapsuleError> {
        if self.failed.is_none()
            && !(self.input.is_empty() && matches!(self.state, State::Head { len: 0, .. }))
        {
            self.fail(CapsuleError::Cut);
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// What was passed over so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    fn fail(&mut self, error: CapsuleError) {
        self.failed = Some(error);
        self.input = VecDeque::new();
        self.state = State::default();
    }

    fn advance(&mut self) -> Result<Option<Bytes>, CapsuleError> {
        while let Some(mut piece) = self.input.pop_front() {
            let payload = self.step(&mut piece)?;
            if !piece.is_empty() {
                self.input.push_front(piece);
            }
            if payload.is_some() {
                return Ok(payload);
            }
        }
        Ok(None)
    }

    /// Takes off `piece`, which is not empty, what the state asks for, or all of it.
    fn step(&mut self, piece: &mut Bytes) -> Result<Option<Bytes>, CapsuleError> {
        match &mut self.state {
            State::Head { bytes, len } => {
                let Some(head) = Head::read(bytes, len, piece)? else { return Ok(None) };
                let skipped = match head.kind {
                    Kind::Udp if head.rest > self.longest => Some(&mut self.skipped.long),
                    Kind::Udp => None,
                    Kind::OtherContext => Some(&mut self.skipped.contexts),
                    Kind::OtherCapsule => Some(&mut self.skipped.capsules),
                };
                let empty = skipped.is_none() && head.rest == 0;
                self.state = match (&skipped, head.rest) {
                    (_, 0) => State::default(),
                    (None, rest) => State::Payload { gathered: BytesMut::new(), left: rest as usize },
                    (Some(_), rest) => State::Skip { left: rest },
                };
                skipped.into_iter().for_each(|count| *count += 1);
                Ok(empty.then(Bytes::new))
            }
            State::Payload { gathered, left } if gathered.is_empty() && piece.len() >= *left => {
                let payload = piece.split_to(*left);
                self.state = State::default();
                Ok(Some(payload))
            }
            State::Payload { gathered, left } => {
                if gathered.is_empty() {
                    gathered.reserve((*left).min(GATHER));
                }
                let part = piece.len().min(*left);
                gathered.extend_from_slice(&piece[..part]);
                piece.advance(part);
                *left -= part;
                if *left > 0 {
                    return Ok(None);
                }
                let payload = std::mem::take(gathered).freeze();
                self.state = State::default();
                Ok(Some(payload))
            }
            State::Skip { left } => {
                let part = (piece.len() as u64).min(*left);
                piece.advance(part as usize);
                *left -= part;
                if *left == 0 {
                    self.state = State::default();
                }
                Ok(None)
            }
        }
    }
}

impl Default for CapsuleDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Head { bytes: [0; HEAD_MAX], len: 0 }
    }
}

/// The beginning of a capsule, up to where it is clear what to do with the rest.
struct Head {
    kind: Kind,
    /// Bytes of the capsule that follow.
    rest: u64,
}

enum Kind {
    Udp,
    OtherContext,
    OtherCapsule,
}

impl Head {
    /// Takes a head off `piece`, the beginning of which may have come before: `len` of `bytes`. `None` if it is not
    /// complete; then all of `piece` was added to `bytes`.
    fn read(
        bytes: &mut [u8; HEAD_MAX],
        len: &mut usize,
        piece: &mut Bytes,
    ) -> Result<Option<Self>, CapsuleError> {
        if *len == 0
            && let Some((head, used)) = Self::parse(piece)?
        {
            piece.advance(used);
            return Ok(Some(head));
        }
        // At most HEAD_MAX bytes go through here, so a byte at a time does not cost much.
        while piece.has_remaining() {
            bytes[*len] = piece.get_u8();
            *len += 1;
            if let Some((head, _)) = Self::parse(&bytes[..*len])? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// The head at the front of `input`, and its length; `None` if it is cut off.
    fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, CapsuleError> {
        let mut rest = input;
        let (Some(kind), Some(len)) = (varint::take(&mut rest), varint::take(&mut rest)) else {
            return Ok(None);
        };
        if kind != DATAGRAM {
            return Ok(Some((Self { kind: Kind::OtherCapsule, rest: len }, input.len() - rest.len())));
        }
        // The first byte of the context id says how long it is, so a capsule that is too short for it shows at once.
        let needed = rest.first().map_or(1, |first| 1u64 << (first >> 6));
        if len < needed {
            return Err(CapsuleError::NoContext);
        }
        let value = rest.len();
        let Some(context) = varint::take(&mut rest) else { return Ok(None) };
        let left = len - (value - rest.len()) as u64;
        let kind = if context == CONTEXT_UDP { Kind::Udp } else { Kind::OtherContext };
        if context == CONTEXT_UDP && left > UDP_PAYLOAD_MAX as u64 {
            return Err(CapsuleError::TooLong(left));
        }
        Ok(Some((Self { kind, rest: left }, input.len() - rest.len())))
    }
}

/// What goes before a UDP payload of `len` bytes on a stream: type, length and context id of its capsule. `None` if that
/// is more than UDP can carry ([`UDP_PAYLOAD_MAX`]); such a payload must not be sent (RFC 9298, section 5).
pub fn prefix(len: usize) -> Option<Prefix> {
    (len <= UDP_PAYLOAD_MAX).then(|| Prefix::new().and(DATAGRAM).and(len as u64 + 1).and(CONTEXT_UDP))
}

/// Appends the whole capsule of a UDP payload, and says whether it did: not if it is longer than UDP can carry.
pub fn put(payload: &[u8], out: &mut impl BufMut) -> bool {
    let prefix = prefix(payload.len());
    if let Some(prefix) = &prefix {
        out.put_slice(prefix);
        out.put_slice(payload);
    }
    prefix.is_some()
}

#[cfg(test)]
#[path = "capsule_tests.rs"]
mod tests;
